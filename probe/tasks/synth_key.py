"""Key of a rendered piece, 24 classes, on the embedded corpus; MIREX-weighted as mir_eval does it."""

from ..task import Question

TASK = Question("synth_key", 1, "synth", "key", ("key",), "Which key is the piece in?", part="music")
