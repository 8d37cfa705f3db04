"""Beat times of a rendered piece: a linear head on frames, peaks picked, F at 70 ms as mir_eval does it, per track."""

from ..task import Question

TASK = Question(
    "synth_beat", 1, "synth", "beats", ("beats",), "When are the beats?", part="music", unit="frame",
    notes=("Mean of per-track F at 70 ms, first 5 s included; the reference isn't rounded to frames.",),
)  # fmt: skip
