"""Environmental sound (ESC-50), the five published folds."""

from ..task import Question

TASK = Question(
    "esc50_sound", 1, "esc50", "classes", ("sound",), "Which of 50 sounds is it?",
    folds="fold",
    notes=(
        "Published figures are means over folds; fold k + 1 validates here, which they train on: CNN14 0.947, AST "
        "0.956, HTS-AT 0.970, all from AudioSet's weights.",
    ),
)  # fmt: skip
