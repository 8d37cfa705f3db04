"""MTG-Jamendo's 50 commonest tags, the official split 0, which no artist crosses."""

from ..task import Question

TASK = Question(
    "jamendo_top50", 1, "mtg_jamendo", "tags", ("top50",), "Which of the 50 commonest tags fit?",
    split="top50_split_0",
    notes=(
        "Features are averaged over the whole track; MARBLE averages the logits of its 30 s windows.",
    ),
    published={
        "MusiCNN": {"roc_auc": 0.82, "average_precision": 0.275},
        "CLMR": {"roc_auc": 0.813, "average_precision": 0.264},
        "Jukebox-5B": {"roc_auc": 0.837, "average_precision": 0.306},
        "MULE": {"roc_auc": 0.837, "average_precision": 0.306},
        "music2vec": {"roc_auc": 0.83, "average_precision": 0.292},
        "MERT-v0-95M": {"roc_auc": 0.828, "average_precision": 0.288},
        "MERT-v0-public": {"roc_auc": 0.83, "average_precision": 0.289},
        "MERT-v1-95M": {"roc_auc": 0.83, "average_precision": 0.29},
        "MERT-v1-330M": {"roc_auc": 0.834, "average_precision": 0.299},
    },
    source="MARBLE, constrained track (Yuan et al. 2023, tables of the paper)",
)  # fmt: skip
