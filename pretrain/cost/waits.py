"""How often a step may wait for the device, by objective, by what and by file: counts that only fall.

Each wait drains the queue of kernels. One is intended: a step's loss, weight and norm decide what follows. A number is
lowered when one goes; who raises one says why beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

STEP = {"tolist · pretrain/step.py": 1}
CHAIN = {"item · data/augment/chain.py": 1}  # whether the sound is finite, once for all views
MYNA = {"item · pretrain/objectives/tokens.py": 3, "item · models/cqt.py": 3}  # how many tokens a row keeps, per crop
TAUGHT = {  # a teacher hears recordings of any length, length by length
    "copy to the CPU · models/tagger.py": 1, "copy to the GPU · models/tagger.py": 1,
    "item · pretrain/objectives/parts/noisy_student.py": 1, "copy to the GPU · pretrain/objectives/tagging.py": 1,
}  # fmt: skip
ALLOWED: dict[str, dict[str, int]] = {
    "contrastive.myna": MYNA,
    "contrastive.myna_mel": {"item · pretrain/objectives/tokens.py": 2, "item · models/vit.py": 2},
    "joint.pase_myna": MYNA | {"item · pretrain/objectives/joint.py": 1},
    "tagging.ast": TAUGHT,
    "tagging.cnn6": TAUGHT,
    "contrastive.clmr": CHAIN,
    # the radio's compressor runs on the CPU, millisecond by millisecond; recordings are sent once
    "contrastive.simclr": CHAIN
    | {"copy to the CPU · data/augment/degradations.py": 2, "copy to the GPU · data/augment/degradations.py": 4},
    "labelled.synth": CHAIN,
}


def over(address: str, waits: Mapping[str, int]) -> dict[str, int]:
    """The waits of a step of this recipe, by "what · file", that are more than allowed, and by how many."""
    return dict(Counter(waits) - _allowed(address))


def allowed_by_file(address: str) -> Counter[str]:
    """How often a step of this recipe may wait, by file alone: CUDA's own warnings say no more."""
    found: Counter[str] = Counter()
    for what, count in _allowed(address).items():
        found[what.split(" · ")[1]] += count
    return found


def _allowed(address: str) -> Counter[str]:
    family = address.rpartition("_")[0] or address
    allowed = Counter(STEP)
    allowed.update(ALLOWED.get(family, {}))
    return allowed
