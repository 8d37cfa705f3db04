"""Tempo of a rendered piece as a number: R² of log2(bpm), so that an octave weighs the same at any tempo."""

from math import log2

from ..task import Question


def octaves(tempo: float) -> list[float]:
    """Tempo in bpm as [log2(bpm)]."""
    return [log2(tempo)]


TASK = Question(
    "synth_tempo", 1, "synth", "numbers", ("tempo",), "How fast is the piece?",
    part="music", convert=octaves, targets=("log2 bpm",),
)  # fmt: skip
