"""Ten genres, the fault-filtered split of Kereliuk, Sturm and Larsen (443 / 197 / 290 clips)."""

from ..papers import JUKEMIR, MARBLE, MUQ, TZANETAKIS
from ..task import Question

TASK = Question(
    "gtzan_genre", 1, "gtzan", "classes", ("genre",), "Which genre is it?",
    notes=(
        "One clip is 0.34 points: encoders closer than about 5 points can't be told apart.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"accuracy": 0.735},
            "CLMR": {"accuracy": 0.652},
            "Jukebox-5B": {"accuracy": 0.779},
            "MULE": {"accuracy": 0.755},
            "music2vec": {"accuracy": 0.741},
            "MERT-v0-95M": {"accuracy": 0.748},
            "MERT-v0-public": {"accuracy": 0.728},
            "MERT-v1-95M": {"accuracy": 0.748},
            "MERT-v1-330M": {"accuracy": 0.776},
        },
        MUQ: {
            "MERT-v1-330M": {"accuracy": 0.786},
            "MusicFM": {"accuracy": 0.838},
            "MuQ (MTG data)": {"accuracy": 0.84},
            "MuQ": {"accuracy": 0.855},
            "MuQ-iter": {"accuracy": 0.856},
        },
        JUKEMIR: {
            "Jukebox-5B": {"accuracy": 0.797},
            "CLMR": {"accuracy": 0.686},
        },
        TZANETAKIS: {
            "timbre, rhythm and pitch, Gaussian mixtures": {"accuracy": 0.61},
        },
    },
)  # fmt: skip
