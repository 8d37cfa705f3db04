"""Zero-shot: CLAP compares sound with words, so that labels are whatever is asked (`groundbass predict --clap`).

Y. Wu et al. 2023, arXiv:2211.06687. The network is transformers' `ClapModel`, whose audio tower is HTS-AT's trunk; what
it says of one window is what transformers' zero-shot pipeline says. Longer recordings are heard in the fewest equal
windows that it takes, whose probabilities are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, AutoTokenizer, ClapModel

from ...models.classifier import cut
from ...models.head_files import HeadFacts
from ...models.loading import download, quiet, read_config
from ...models.tagger import average
from .classify import Answer, Classifier, Sound

SENTENCE = "This is a sound of {}."  # transformers' own


class Compared:
    """Words against sound. model, extractor: CLAP's; texts: [labels, dim], what its text tower makes of them."""

    def __init__(self, name: str, model: Any, extractor: Any, labels: Sequence[str], texts: Tensor) -> None:
        self.model, self.extractor, self.texts = model, extractor, texts
        self.device = model.device
        self.rate = int(extractor.sampling_rate)
        self.longest = int(extractor.nb_max_samples)
        facts = HeadFacts(window_seconds=self.longest / self.rate, aggregation="probabilities")
        self.heads = [(name, "classes", tuple(labels), facts)]

    @torch.inference_mode()
    def hear(self, sound: Sound, window: float | None) -> list[Answer]:
        """See `classify.Answering`; window: seconds, at most those that the network takes."""
        longest = min(self.longest, max(1, round((window or self.longest) * self.rate)))
        answer = Answer()
        for start, count in cut(sound.samples, longest):
            logits = self.logits(torch.from_numpy(np.ascontiguousarray(sound.read(start, count))))
            answer.windows.append((start / self.rate, (start + count) / self.rate, logits))
        each = torch.stack([logits for _, _, logits in answer.windows])
        answer.logits = average(each[None], "probabilities", "single_label_classification")[0]
        return [answer]

    @torch.inference_mode()
    def logits(self, waveform: Tensor) -> Tensor:
        """Of the labels, [labels]: cosines with one window [samples], times the learned scale."""
        given = self.extractor(waveform.numpy(), sampling_rate=self.rate, return_tensors="pt")
        sound = embedding(self.model.get_audio_features(**{name: one.to(self.device) for name, one in given.items()}))
        found: Tensor = self.model.logit_scale_a.exp() * sound @ self.texts.T
        return found[0].float().cpu()

    def probabilities(self, member: int, logits: Tensor) -> Tensor:
        """Of the labels against each other."""
        return torch.softmax(logits, -1)


def load_clap(folder: str | Path, labels: Sequence[str], device: str = "cpu") -> Classifier:
    """CLAP with the labels that it shall choose from.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: it is no CLAP, fewer than two labels, one twice or an empty one.
    """
    named = [label.strip() for label in labels]
    if len(named) < 2 or not all(named):
        raise ValueError(
            f"--labels holds {len(named)}: CLAP chooses among words, so give two or more that aren't empty, such as "
            '--labels "sitar" "jazz trio".'
        )
    twice = [label for place, label in enumerate(named) if label in named[:place]]
    if twice:
        raise ValueError(f"--labels has {twice[0]!r} twice; each answer needs a name of its own.")
    path = Path(folder).expanduser()
    if not path.is_dir():
        path = download(str(folder))
    kind = read_config(path).get("model_type")
    if kind != "clap":
        raise ValueError(f"{folder} is a model of type {kind!r}: --clap takes transformers' CLAP (laion/clap-…).")
    with quiet():
        model: Any = ClapModel.from_pretrained(str(path)).to(device).eval()  # type: ignore[arg-type]
        extractor = AutoFeatureExtractor.from_pretrained(str(path))
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    given = tokenizer([SENTENCE.format(label) for label in named], return_tensors="pt", padding=True)
    with torch.inference_mode():
        texts = embedding(model.get_text_features(**{name: one.to(device) for name, one in given.items()}))
    return Classifier(Compared(path.name, model, extractor, named, texts), path.name)


def embedding(found: Any) -> Tensor:
    """[rows, dim] of length 1, from what either tower gives."""
    return torch.nn.functional.normalize(found.pooler_output, dim=-1)
