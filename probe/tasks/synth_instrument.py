"""Instrument family of a single note, on the embedded corpus."""

from ..task import Question

TASK = Question("synth_instrument", 1, "synth", "classes", ("instrument",), "Which family plays the note?", part="note")
