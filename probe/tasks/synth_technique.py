"""Playing technique of a note (vibrato, slide, trill, …), on the embedded corpus."""

from ..task import Question

TASK = Question("synth_technique", 1, "synth", "classes", ("technique",), "How is the note played?", part="technique")
