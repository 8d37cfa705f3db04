"""A clean process: load a published folder with nothing but torch, transformers and what these depend on.

Run as `python -I reload.py FOLDER INPUT OUTPUT` by `published.verify`. INPUT and OUTPUT are files of `torch.save`.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = ("torch", "transformers")


def reachable(roots: tuple[str, ...]) -> set[str]:
    """Names of the distributions that `roots` need, themselves included."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # optional, or of another platform
            continue
        found.add(name)
        needs = [Requirement(line) for line in lines]
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


def hidden_packages() -> set[str]:
    """Top-level import names that a stranger with only torch and transformers would not have; ours among them."""
    known = reachable(ROOTS)
    owners = importlib.metadata.packages_distributions()
    return {"groundbass"} | {
        package for package, names in owners.items() if not any(canonicalize_name(name) in known for name in names)
    }


class Narrow:
    """A finder that finds everything but the hidden packages."""

    def __init__(self, finder: Any, hidden: set[str]) -> None:
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Answer None, as if it weren't installed, for a hidden package."""
        return None if name.partition(".")[0] in self.hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


def main(folder: str, source: str, target: str) -> None:
    """Load the model and its feature extractor from `folder`, answer the inputs in `source`."""
    hidden = hidden_packages()
    sys.meta_path[:] = [Narrow(finder, hidden) for finder in sys.meta_path]
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    answers = []
    with torch.no_grad():
        for waveform, mask in torch.load(source, weights_only=True):
            output = model(waveform, attention_mask=mask, output_hidden_states=True)
            answers.append(torch.stack(output.hidden_states, dim=1))
    told = {"states": answers, "rate": extractor.sampling_rate, "normalizes": extractor.do_normalize}
    torch.save(told | classified(folder, source), target)


def classified(folder: str, source: str) -> dict[str, Any]:
    """What a classifier in `folder` answers: every head's logits, and the pipeline's words; nothing for encoders."""
    import json

    import torch
    from transformers import AutoModelForAudioClassification, pipeline

    with open(f"{folder}/config.json", encoding="utf-8") as file:
        if "AutoModelForAudioClassification" not in json.load(file).get("auto_map", {}):
            return {}
    model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
    pipe = pipeline("audio-classification", folder, trust_remote_code=True)
    logits = []
    with torch.no_grad():
        for waveform, mask in torch.load(source, weights_only=True):
            logits.append([model(waveform, attention_mask=mask, head=n).logits for n in range(len(model.heads))])
            words = pipe({"array": waveform[0].numpy(), "sampling_rate": model.sample_rate})
    return {"logits": logits, "words": words}


if __name__ == "__main__":
    main(*sys.argv[1:])
