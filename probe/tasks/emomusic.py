"""Arousal and valence of a song (emoMusic, 744 clips of 45 s), the split of MARBLE and jukemir: 504 / 115 / 125."""

from ..papers import JUKEMIR, MARBLE, MUQ
from ..task import Question

TASK = Question(
    "emomusic", 1, "emomusic", "numbers", ("arousal", "valence"), "How aroused and how pleasant is the song?",
    unit="window",
    seconds=5.0,
    notes=(
        "All 45 s in windows of 5 s; MARBLE hears the first 30 s only.",
        "Targets are standardised on the training songs alone.",
    ),
    published={
        MARBLE: {
            "MusiCNN": {"r2": 0.566, "r2_arousal": 0.688, "r2_valence": 0.444},
            "CLMR": {"r2": 0.5735, "r2_arousal": 0.703, "r2_valence": 0.444},
            "Jukebox-5B": {"r2": 0.65, "r2_arousal": 0.73, "r2_valence": 0.57},
            "MULE": {"r2": 0.669, "r2_arousal": 0.731, "r2_valence": 0.607},
            "music2vec": {"r2": 0.6155, "r2_arousal": 0.71, "r2_valence": 0.521},
            "MERT-v0-95M": {"r2": 0.614, "r2_arousal": 0.699, "r2_valence": 0.529},
            "MERT-v0-public": {"r2": 0.6595, "r2_arousal": 0.728, "r2_valence": 0.591},
            "MERT-v1-95M": {"r2": 0.659, "r2_arousal": 0.763, "r2_valence": 0.555},
            "MERT-v1-330M": {"r2": 0.674, "r2_arousal": 0.758, "r2_valence": 0.59},
        },
        MUQ: {
            "MERT-v1-330M": {"r2": 0.6795, "r2_arousal": 0.747, "r2_valence": 0.612},
            "MusicFM": {"r2": 0.683, "r2_arousal": 0.763, "r2_valence": 0.603},
            "MuQ (MTG data)": {"r2": 0.68, "r2_arousal": 0.76, "r2_valence": 0.6},
            "MuQ": {"r2": 0.6815, "r2_arousal": 0.754, "r2_valence": 0.609},
            "MuQ-iter": {"r2": 0.6945, "r2_arousal": 0.761, "r2_valence": 0.628},
        },
        JUKEMIR: {
            "Jukebox-5B": {"r2": 0.669, "r2_arousal": 0.721, "r2_valence": 0.617},
            "CLMR": {"r2": 0.568, "r2_arousal": 0.678, "r2_valence": 0.458},
        },
    },
)  # fmt: skip
