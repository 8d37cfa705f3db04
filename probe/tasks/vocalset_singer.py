"""Twenty singers over all techniques (VocalSet), a seeded split over files."""

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
    source="MARBLE, constrained track (Yuan et al. 2023, tables of the paper)",
)  # fmt: skip
