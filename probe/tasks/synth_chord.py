"""Chords of a piece: a linear head on frames, smoothed, scored by mir_eval (majmin), on the embedded corpus."""

from ..task import Question

TASK = Question(
    "synth_chord", 1, "synth", "chords", ("chords",), "Which chord sounds when?", part="music", unit="frame",
    notes=("Major and minor triads; other chords (suspended, diminished) take no part, as in MIREX.",),
)  # fmt: skip
