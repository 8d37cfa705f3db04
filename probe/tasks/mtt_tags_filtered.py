"""MagnaTagATune's 50 commonest tags on the clips that have one of them, 12:1:3 by folder (as in tagging papers)."""

from ..papers import TAGGERS
from ..task import Question

TASK = Question(
    "mtt_tags_filtered", 1, "magnatagatune", "tags", ("tags",), "Which of the 50 commonest tags fit the clip?",
    split="split_filtered",
    notes=(
        "Only clips with one of the 50 tags; mtt_tags is the other circulating split, and its figures differ.",
        "61.9 % of the test clips are by an artist who is in the training set too: that is the split everybody uses.",
    ),
    published={
        TAGGERS: {
            "FCN": {"roc_auc": 0.9005, "average_precision": 0.4295},
            "MusiCNN": {"roc_auc": 0.9106, "average_precision": 0.4493},
            "SampleCNN": {"roc_auc": 0.9058, "average_precision": 0.4422},
            "SampleCNN+SE": {"roc_auc": 0.9103, "average_precision": 0.452},
            "CRNN": {"roc_auc": 0.8722, "average_precision": 0.3625},
            "CNN with self-attention": {"roc_auc": 0.9077, "average_precision": 0.4445},
            "HarmonicCNN": {"roc_auc": 0.9127, "average_precision": 0.4611},
            "Short-chunk CNN": {"roc_auc": 0.9126, "average_precision": 0.459},
            "Short-chunk CNN+Res": {"roc_auc": 0.9129, "average_precision": 0.4614},
        },
    },
)  # fmt: skip
