"""Twenty singers over all techniques (VocalSet), a seeded split over files."""

from ..papers import MARBLE, MUQ
from ..task import Question

TASK = Question(
    "vocalset_singer", 1, "vocalset", "classes", ("singer",), "Who sings?",
    split="split_singer",
    unit="window",
    seconds=3.0,
    notes=(
        "MARBLE's split isn't published, so its figures are of other files and of 3 s chunks.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"accuracy": 0.57},
            "CLMR": {"accuracy": 0.499},
            "Jukebox-5B": {"accuracy": 0.826},
            "MULE": {"accuracy": 0.875},
            "music2vec": {"accuracy": 0.814},
            "MERT-v0-95M": {"accuracy": 0.77},
            "MERT-v0-public": {"accuracy": 0.78},
            "MERT-v1-95M": {"accuracy": 0.837},
            "MERT-v1-330M": {"accuracy": 0.871},
        },
        MUQ: {
            "MERT-v1-330M": {"accuracy": 0.871},
            "MusicFM": {"accuracy": 0.92},
            "MuQ (MTG data)": {"accuracy": 0.952},
            "MuQ": {"accuracy": 0.958},
            "MuQ-iter": {"accuracy": 0.962},
        },
    },
)  # fmt: skip
