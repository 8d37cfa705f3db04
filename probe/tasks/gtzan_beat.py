"""Beats of the GTZAN clips, fault-filtered split; F at 70 ms per track."""

from ..papers import MARBLE
from ..task import Question

TASK = Question(
    "gtzan_beat", 1, "gtzan_beats", "beats", ("beats",), "When are the beats?",
    unit="frame",
    notes=(
        "Mean of per-track F at 70 ms, first 5 s included.",
        "MARBLE pools over the corpus and rounds the reference to frames.",
    ),
    published={
        MARBLE: {
            "music2vec": {"f_measure": 0.682},
            "MERT-v0-95M": {"f_measure": 0.883},
            "MERT-v0-public": {"f_measure": 0.881},
            "MERT-v1-95M": {"f_measure": 0.883},
            "MERT-v1-330M": {"f_measure": 0.879},
        },
    },
)  # fmt: skip
