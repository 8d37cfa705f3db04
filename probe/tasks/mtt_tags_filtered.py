"""MagnaTagATune's 50 commonest tags on the clips that have one of them, 12:1:3 by folder (as in tagging papers)."""

from ..task import Question

TASK = Question(
    "mtt_tags_filtered", 1, "magnatagatune", "tags", ("tags",), "Which of the 50 commonest tags fit the clip?",
    split="split_filtered",
    notes=(
        "Only clips with one of the 50 tags; mtt_tags is the other circulating split, and its figures differ.",
        "61.9 % of the test clips are by an artist who is in the training set too: that is the split everybody uses.",
    ),
    published={
        "Short-chunk CNN+Res, supervised": {"roc_auc": 0.9129, "average_precision": 0.4614},
        "HarmonicCNN, supervised": {"roc_auc": 0.9127, "average_precision": 0.4611},
    },
    source="Won et al. 2020, Evaluation of CNN-based automatic music tagging models",
)  # fmt: skip
