"""Downbeats of the GTZAN clips, fault-filtered split; F at 70 ms per track."""

from ..task import Question

TASK = Question(
    "gtzan_downbeat", 1, "gtzan_beats", "beats", ("downbeats",), "Where do bars begin?",
    unit="frame",
    notes=(
        "Six jazz clips have no downbeats and take no part.",
    ),
)  # fmt: skip
