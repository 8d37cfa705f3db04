"""How often a step may wait for the device, by objective, by what and by file: counts that only fall.

Each wait drains the queue of kernels. One is intended: a step's loss, weight and norm decide what follows. A number is
lowered when one goes; who raises one says why beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

STEP = {"tolist · pretrain/step.py": 1}
CHAIN = {"item · data/augment/chain.py": 1}  # whether the sound is finite, once for all views
ALLOWED: dict[str, dict[str, int]] = {
    # a teacher hears recordings of any length, length by length
    "tagging.ast": {"copy to the CPU · models/tagger.py": 1},
    "contrastive.clmr": CHAIN,
    # the radio's compressor runs on the CPU, millisecond by millisecond; recordings are sent once
    "contrastive.simclr": CHAIN
    | {"copy to the CPU · data/augment/degradations.py": 1, "copy to the GPU · data/augment/degradations.py": 3},
}


def over(address: str, waits: Mapping[str, int]) -> dict[str, int]:
    """The waits of a step of this recipe, by "what · file", that are more than allowed, and by how many."""
    return dict(Counter(waits) - allowed(address))


def allowed_by_file(address: str) -> Counter[str]:
    """How often a step of this recipe may wait, by file alone: CUDA's own warnings say no more."""
    found: Counter[str] = Counter()
    for what, count in allowed(address).items():
        found[what.split(" · ")[1]] += count
    return found


def allowed(address: str) -> Counter[str]:
    """How often a step of this recipe may wait, by "what · file"."""
    family = address.rpartition("_")[0] or address
    return Counter(STEP | ALLOWED.get(family, {}))
