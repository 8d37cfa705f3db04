"""Pitch of a note (NSynth), one class per semitone, the official split."""

from ..papers import MARBLE, MUQ
from ..task import Question

TASK = Question(
    "nsynth_pitch", 1, "nsynth", "classes", ("pitch",), "Which pitch has the note?",
    notes=(
        "Some test notes are byte-identical under different labels, or noise: no accuracy of 1 is possible.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"accuracy": 0.641},
            "CLMR": {"accuracy": 0.47},
            "Jukebox-5B": {"accuracy": 0.916},
            "MULE": {"accuracy": 0.885},
            "music2vec": {"accuracy": 0.931},
            "MERT-v0-95M": {"accuracy": 0.923},
            "MERT-v0-public": {"accuracy": 0.923},
            "MERT-v1-95M": {"accuracy": 0.926},
            "MERT-v1-330M": {"accuracy": 0.944},
        },
        MUQ: {
            "MERT-v1-330M": {"accuracy": 0.944},
            "MusicFM": {"accuracy": 0.911},
            "MuQ (MTG data)": {"accuracy": 0.912},
            "MuQ": {"accuracy": 0.923},
            "MuQ-iter": {"accuracy": 0.913},
        },
    },
)  # fmt: skip
