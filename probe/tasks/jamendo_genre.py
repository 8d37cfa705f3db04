"""MTG-Jamendo's 87 genre tags, the official split 0, which no artist crosses."""

from ..papers import MARBLE
from ..task import Question

TASK = Question(
    "jamendo_genre", 1, "mtg_jamendo", "tags", ("genre",), "Which genres fit?",
    split="genre_split_0",
    notes=(
        "Features are averaged over the whole track; MARBLE averages the logits of its 30 s windows.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"roc_auc": 0.86, "average_precision": 0.175},
            "CLMR": {"roc_auc": 0.846, "average_precision": 0.162},
            "Jukebox-5B": {"roc_auc": 0.88, "average_precision": 0.205},
            "MULE": {"roc_auc": 0.88, "average_precision": 0.204},
            "music2vec": {"roc_auc": 0.871, "average_precision": 0.188},
            "MERT-v0-95M": {"roc_auc": 0.869, "average_precision": 0.185},
            "MERT-v0-public": {"roc_auc": 0.872, "average_precision": 0.188},
            "MERT-v1-95M": {"roc_auc": 0.871, "average_precision": 0.188},
            "MERT-v1-330M": {"roc_auc": 0.867, "average_precision": 0.186},
        },
    },
)  # fmt: skip
