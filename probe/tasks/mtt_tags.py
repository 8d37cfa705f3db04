"""MagnaTagATune's 50 commonest tags, all 25,860 readable clips, 12:1:3 by folder (MARBLE's and jukemir's split)."""

from ..papers import MARBLE, MUQ
from ..task import Question

TASK = Question(
    "mtt_tags", 1, "magnatagatune", "tags", ("tags",), "Which of the 50 commonest tags fit the clip?",
    notes=(
        "All clips, also those without a tag; the other circulating split is mtt_tags_filtered, with other figures.",
        "61.9 % of the test clips are by an artist who is in the training set too: that is the split everybody uses.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"roc_auc": 0.903, "average_precision": 0.378},
            "CLMR": {"roc_auc": 0.895, "average_precision": 0.36},
            "Jukebox-5B": {"roc_auc": 0.914, "average_precision": 0.406},
            "MULE": {"roc_auc": 0.912, "average_precision": 0.401},
            "music2vec": {"roc_auc": 0.9, "average_precision": 0.362},
            "MERT-v0-95M": {"roc_auc": 0.907, "average_precision": 0.382},
            "MERT-v0-public": {"roc_auc": 0.907, "average_precision": 0.384},
            "MERT-v1-95M": {"roc_auc": 0.91, "average_precision": 0.393},
            "MERT-v1-330M": {"roc_auc": 0.911, "average_precision": 0.395},
        },
        MUQ: {
            "MERT-v1-330M": {"roc_auc": 0.913, "average_precision": 0.402},
            "MusicFM": {"roc_auc": 0.913, "average_precision": 0.4},
            "MuQ (MTG data)": {"roc_auc": 0.911, "average_precision": 0.39},
            "MuQ": {"roc_auc": 0.914, "average_precision": 0.403},
            "MuQ-iter": {"roc_auc": 0.914, "average_precision": 0.401},
        },
    },
)  # fmt: skip
