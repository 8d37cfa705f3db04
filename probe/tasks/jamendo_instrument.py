"""MTG-Jamendo's 40 instrument tags, the official split 0, which no artist crosses."""

from ..papers import MARBLE
from ..task import Question

TASK = Question(
    "jamendo_instrument", 1, "mtg_jamendo", "tags", ("instrument",), "Which instruments play?",
    split="instrument_split_0",
    notes=(
        "Features are averaged over the whole track; MARBLE averages the logits of its 30 s windows.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"roc_auc": 0.74, "average_precision": 0.172},
            "CLMR": {"roc_auc": 0.735, "average_precision": 0.17},
            "Jukebox-5B": {"roc_auc": 0.785, "average_precision": 0.22},
            "MULE": {"roc_auc": 0.766, "average_precision": 0.192},
            "music2vec": {"roc_auc": 0.761, "average_precision": 0.192},
            "MERT-v0-95M": {"roc_auc": 0.766, "average_precision": 0.187},
            "MERT-v0-public": {"roc_auc": 0.775, "average_precision": 0.196},
            "MERT-v1-95M": {"roc_auc": 0.775, "average_precision": 0.194},
            "MERT-v1-330M": {"roc_auc": 0.781, "average_precision": 0.198},
        },
    },
)  # fmt: skip
