"""Eight balanced genres (FMA small), the official split."""

from ..task import Question

TASK = Question(
    "fma_small_genre", 1, "fma_small", "classes", ("genre",), "Which genre is it?",
)  # fmt: skip
