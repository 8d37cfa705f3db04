"""Arousal and valence of a rendered piece, the mean of two R², on the embedded corpus."""

from ..task import Question

TASK = Question(
    "synth_emotion",
    1,
    "synth",
    "numbers",
    ("arousal", "valence"),
    "How aroused and how pleasant is the piece?",
    part="music",
)
