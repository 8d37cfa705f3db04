"""Tags of a rendered piece, several per piece, on the embedded corpus; macro ROC-AUC."""

from ..task import Question

TASK = Question("synth_tags", 1, "synth", "tags", ("tags",), "Which tags fit the piece?", part="music")
