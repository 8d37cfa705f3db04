"""Ten singing techniques (VocalSet); the five test singers are the published ones."""

from ..papers import MARBLE, MUQ
from ..task import Question

TASK = Question(
    "vocalset_technique", 1, "vocalset", "classes", ("technique",), "How is it sung?",
    unit="window",
    seconds=3.0,
    notes=(
        "No singer is in two sets.",
        "MARBLE's validation shares singers with its training, and it scores 3 s chunks, not files.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"accuracy": 0.703},
            "CLMR": {"accuracy": 0.581},
            "Jukebox-5B": {"accuracy": 0.767},
            "MULE": {"accuracy": 0.755},
            "music2vec": {"accuracy": 0.711},
            "MERT-v0-95M": {"accuracy": 0.736},
            "MERT-v0-public": {"accuracy": 0.756},
            "MERT-v1-95M": {"accuracy": 0.742},
            "MERT-v1-330M": {"accuracy": 0.769},
        },
        MUQ: {
            "MERT-v1-330M": {"accuracy": 0.769},
            "MusicFM": {"accuracy": 0.784},
            "MuQ (MTG data)": {"accuracy": 0.808},
            "MuQ": {"accuracy": 0.824},
            "MuQ-iter": {"accuracy": 0.816},
        },
    },
)  # fmt: skip
