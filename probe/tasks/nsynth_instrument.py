"""Instrument family of a note (NSynth), the official split."""

from ..papers import MARBLE, MUQ
from ..task import Question

TASK = Question(
    "nsynth_instrument", 1, "nsynth", "classes", ("instrument",), "Which family plays the note?",
    notes=(
        "Eleven families; none of the test notes is a synth lead.",
    ),
    published={
        MARBLE: {
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
        MUQ: {
            "MERT-v1-330M": {"accuracy": 0.726},
            "MusicFM": {"accuracy": 0.762},
            "MuQ (MTG data)": {"accuracy": 0.769},
            "MuQ": {"accuracy": 0.792},
            "MuQ-iter": {"accuracy": 0.797},
        },
    },
)  # fmt: skip
