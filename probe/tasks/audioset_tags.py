"""Sounds of a clip (AudioSet): trained on the balanced part, tested on the evaluation part."""

from ..task import Question

TASK = Question(
    "audioset_tags", 1, "audioset", "tags", ("tags",), "Which of 527 sounds are heard?",
    notes=(
        "Published systems trained on two million clips, and chose on the evaluation set: CNN14 has an average "
        "precision of 0.431, AST 0.459, HTS-AT 0.471.",
    ),
)  # fmt: skip
