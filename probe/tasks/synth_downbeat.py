"""Downbeats of a rendered piece: as its beats, but only the first beat of each bar counts, on the embedded corpus."""

from ..task import Question

TASK = Question(
    "synth_downbeat", 1, "synth", "beats", ("downbeats",), "Where do bars begin?", part="music", unit="frame",
    notes=("Mean of per-track F at 70 ms, first 5 s included; the reference isn't rounded to frames.",),
)  # fmt: skip
