"""Key of electronic dance music: GiantSteps-MTG trains and validates, the 604 tracks of GiantSteps test."""

from ..papers import JUKEMIR, MARBLE, MUQ
from ..task import Question

TASK = Question(
    "giantsteps_key", 1, "giantsteps_key", "key", ("key",), "Which key is the track in?",
    unit="window",
    seconds=30.0,
    notes=(
        "A constant C minor scores 0.158 on these 604 tracks.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"key_score": 0.144},
            "CLMR": {"key_score": 0.148},
            "Jukebox-5B": {"key_score": 0.638},
            "MULE": {"key_score": 0.649},
            "music2vec": {"key_score": 0.506},
            "MERT-v0-95M": {"key_score": 0.641},
            "MERT-v0-public": {"key_score": 0.673},
            "MERT-v1-95M": {"key_score": 0.635},
            "MERT-v1-330M": {"key_score": 0.617},
        },
        MUQ: {
            "MERT-v1-330M": {"key_score": 0.656},
            "MusicFM": {"key_score": 0.639},
            "MuQ (MTG data)": {"key_score": 0.637},
            "MuQ": {"key_score": 0.635},
            "MuQ-iter": {"key_score": 0.65},
        },
        JUKEMIR: {
            "Jukebox-5B": {"key_score": 0.667},
            "CLMR": {"key_score": 0.149},
        },
    },
)  # fmt: skip
