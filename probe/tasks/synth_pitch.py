"""MIDI pitch of a single note, one class per semitone, on the embedded corpus."""

from ..task import Question

TASK = Question("synth_pitch", 1, "synth", "classes", ("pitch",), "Which pitch has the note?", part="note")
