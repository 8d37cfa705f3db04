"""How fast the taggers listen, each number that has a reference against it, measured in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ASTConfig, ASTForAudioClassification, ClapAudioConfig, ClapAudioModel

from ..htsat import HtsatConfig, HtsatModel
from ..music_taggers import SIZES, MusicTaggerConfig, MusicTaggerModel
from ..panns import NETWORKS, PannsConfig, PannsModel
from ..spectrogram_transformer import SpectrogramTransformerConfig, SpectrogramTransformerModel
from ..tagger import DecibelMel, decibels
from ..tagger_files import stft_tables
from ..tagging_transformer import TaggingTransformerConfig, TaggingTransformerModel

ROUNDS = 6


class Row(TypedDict):
    """One measurement: `ratio` is our speed over the reference's, None without a reference."""

    what: str
    value: float
    unit: str
    reference: str | None
    ratio: float | None


def models() -> list[Row]:
    """Seconds of audio per second of every tagger, from the waveform to the classes.

    Rows `ast` and `htsat` go against transformers' networks on the same spectrograms, `panns_front_end` against the
    published Fourier transform by convolutions.
    """
    rows = [_alone(name, MusicTaggerModel(MusicTaggerConfig(network=name))) for name in SIZES]
    rows += [_alone("musicnn_msd", MusicTaggerModel(MusicTaggerConfig(network="musicnn", back_end=512, hidden=500)))]
    for name, size in (("mtt_teacher", 256), ("mtt_student", 64)):
        rows.append(_alone(name, TaggingTransformerModel(TaggingTransformerConfig(hidden_size=size))))
    for network in NETWORKS:
        rows.append(_alone(network, PannsModel(PannsConfig(network=network))))
    rows.append(_alone("Cnn14_16k", PannsModel(PannsConfig.at_16k())))
    return [*rows, _ast(), _htsat(), _panns_front_end()]


@torch.no_grad()
def _alone(what: str, model: Any) -> Row:
    sound = _noise(2, model.config.window_samples)
    seconds = sound.numel() / model.config.sample_rate
    (spent,) = _seconds(lambda: model.eval().window_logits(sound))
    return {"what": what, "value": seconds / spent, "unit": "s of audio per s", "reference": None, "ratio": None}


@torch.no_grad()
def _ast() -> Row:
    model: Any = SpectrogramTransformerModel(SpectrogramTransformerConfig()).eval()
    settings: Any = {"num_labels": 527, "layer_norm_eps": 1e-6}
    theirs = ASTForAudioClassification(ASTConfig(**settings)).eval()
    features = model.network.features(_noise(1, model.config.window_samples))
    ours, reference = _seconds(lambda: model.network.hear(features).logits, lambda: theirs(features).logits)
    return _against("ast", 10 / ours, "transformers' ASTForAudioClassification", reference / ours)


@torch.no_grad()
def _htsat() -> Row:
    model: Any = HtsatModel(HtsatConfig()).eval()
    theirs = ClapAudioModel(ClapAudioConfig()).eval()
    mel = model.network.spectrum(_noise(2, model.config.window_samples))[:, None]
    normed = model.network.bn0(mel.transpose(1, 3)).transpose(1, 3)
    ours, reference = _seconds(lambda: model.network.hear(normed).logits, lambda: theirs(mel).pooler_output)
    return _against("htsat", 20 / ours, "transformers' ClapAudioModel", reference / ours)


@torch.no_grad()
def _panns_front_end() -> Row:
    mel = DecibelMel(32_000, 1024, 320, 64, 50.0, 14_000.0, "slaney", True)
    tables = stft_tables(mel)
    real, imaginary, filters = tables.values()
    sound = _noise(2, 320_000)

    def convolved() -> Tensor:
        padded = F.pad(sound[:, None], (512, 512), mode="reflect")
        power = sum(F.conv1d(padded, kernel, stride=320).square() for kernel in (real, imaginary))
        assert isinstance(power, Tensor)
        return decibels(power.transpose(1, 2) @ filters)

    ours, reference = _seconds(lambda: mel(sound), convolved)
    return _against("panns_front_end", 20 / ours, "the Fourier transform as two convolutions", reference / ours)


def _against(what: str, value: float, reference: str, ratio: float) -> Row:
    return {"what": what, "value": value, "unit": "s of audio per s", "reference": reference, "ratio": ratio}


def _noise(rows: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(0))


def _seconds(*works: Callable[[], object]) -> list[float]:
    """The shortest of some rounds of each, one after the other, so that a busy moment hits both."""
    best = [float("inf")] * len(works)
    for work in works:
        work()
    for _ in range(ROUNDS):
        for place, work in enumerate(works):
            begin = time.perf_counter()
            work()
            best[place] = min(best[place], time.perf_counter() - begin)
    return best
