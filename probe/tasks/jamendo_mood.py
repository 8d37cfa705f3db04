"""MTG-Jamendo's 56 mood and theme tags, the official split 0, which no artist crosses."""

from ..papers import MARBLE
from ..task import Question

TASK = Question(
    "jamendo_mood", 1, "mtg_jamendo", "tags", ("moodtheme",), "Which moods and themes fit?",
    split="moodtheme_split_0",
    notes=(
        "Features are averaged over the whole track; MARBLE averages the logits of its 30 s windows.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"roc_auc": 0.74, "average_precision": 0.126},
            "CLMR": {"roc_auc": 0.735, "average_precision": 0.126},
            "Jukebox-5B": {"roc_auc": 0.776, "average_precision": 0.153},
            "MULE": {"roc_auc": 0.78, "average_precision": 0.154},
            "music2vec": {"roc_auc": 0.767, "average_precision": 0.143},
            "MERT-v0-95M": {"roc_auc": 0.759, "average_precision": 0.137},
            "MERT-v0-public": {"roc_auc": 0.762, "average_precision": 0.133},
            "MERT-v1-95M": {"roc_auc": 0.764, "average_precision": 0.134},
            "MERT-v1-330M": {"roc_auc": 0.765, "average_precision": 0.14},
        },
    },
)  # fmt: skip
