"""MTG-Jamendo's 50 commonest tags, the official split 0, which no artist crosses."""

from ..papers import MARBLE, TAGGERS
from ..task import Question

TASK = Question(
    "jamendo_top50", 1, "mtg_jamendo", "tags", ("top50",), "Which of the 50 commonest tags fit?",
    split="top50_split_0",
    notes=(
        "Features are averaged over the whole track; MARBLE averages the logits of its 30 s windows.",
    ),
    published={
        MARBLE: {
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
        TAGGERS: {
            "FCN": {"roc_auc": 0.8255, "average_precision": 0.2801},
            "MusiCNN": {"roc_auc": 0.8226, "average_precision": 0.2713},
            "SampleCNN": {"roc_auc": 0.8208, "average_precision": 0.2742},
            "SampleCNN+SE": {"roc_auc": 0.8233, "average_precision": 0.2784},
            "CRNN": {"roc_auc": 0.7978, "average_precision": 0.2358},
            "CNN with self-attention": {"roc_auc": 0.8261, "average_precision": 0.2883},
            "HarmonicCNN": {"roc_auc": 0.8322, "average_precision": 0.2956},
            "Short-chunk CNN": {"roc_auc": 0.8324, "average_precision": 0.2976},
            "Short-chunk CNN+Res": {"roc_auc": 0.8316, "average_precision": 0.2951},
        },
    },
)  # fmt: skip
