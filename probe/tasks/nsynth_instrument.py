"""Instrument family of a note (NSynth), the official split."""

from ..task import Question

TASK = Question(
    "nsynth_instrument", 1, "nsynth", "classes", ("instrument",), "Which family plays the note?",
    notes=(
        "Eleven families; none of the test notes is a synth lead.",
    ),
    published={
        "MusiCNN": {"accuracy": 0.726},
        "CLMR": {"accuracy": 0.679},
        "Jukebox-5B": {"accuracy": 0.704},
        "MULE": {"accuracy": 0.746},
        "music2vec": {"accuracy": 0.693},
        "MERT-v0-95M": {"accuracy": 0.704},
        "MERT-v0-public": {"accuracy": 0.704},
        "MERT-v1-95M": {"accuracy": 0.707},
        "MERT-v1-330M": {"accuracy": 0.726},
    },
    source="MARBLE, constrained track (Yuan et al. 2023, tables of the paper)",
)  # fmt: skip
