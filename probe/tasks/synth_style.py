"""Style of a rendered piece (its rhythm and orchestration), on the embedded corpus."""

from ..task import Question

TASK = Question("synth_style", 1, "synth", "classes", ("style",), "Which style is the piece in?", part="music")
