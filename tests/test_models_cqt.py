"""The log-CQT encoder: nnAudio's transform, notes at their rows, transposition as a crop, padding, publishing."""

import math
from pathlib import Path

import pytest
import torch
from nnAudio.features import CQT1992v2
from torch import Tensor

from groundbass.models.cqt import MAX_SHIFT, CqtConfig, CqtModel, LogCQT
from groundbass.models.encoder import load_encoder
from groundbass.models.published import write_encoder

RATE = 24_000
SMALL = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "tonal_channels": (4, 4, 4, 4)}
KINDS = [("conv", "conv"), ("patches", "transformer")]


def tone(*hertz: float, seconds: float = 3.0) -> Tensor:
    time = torch.arange(round(seconds * RATE)) / RATE
    return torch.stack([0.1 * torch.sin(2 * math.pi * f * time) for f in hertz]).sum(0)


def small(stem: str = "conv", trunk: str = "conv") -> CqtModel:
    torch.manual_seed(0)
    settings = SMALL | {"stem": stem, "trunk": trunk, "num_hidden_layers": 2, "rhythm_channels": (4, 4, 8)}
    return CqtModel(CqtConfig(**settings)).eval()


def test_the_transform_is_nnaudios() -> None:
    sound = torch.stack([tone(55.0, 440.0, 2637.0), 0.05 * torch.randn(3 * RATE, generator=torch.manual_seed(0))])
    ours = torch.expm1(LogCQT(RATE, 960)(sound)) / 100
    theirs = CQT1992v2(RATE, 480, 27.5, n_bins=192, bins_per_octave=24, pad_mode="constant", verbose=False)(sound)
    theirs = theirs.transpose(1, 2)[:, 1::2][:, : ours.shape[1]]  # frames in the middle of our 960 samples
    # nnAudio's kernels are whole numbers of samples long, ours are exact: up to 1 in 232 for the highest octave
    assert ((ours - theirs).abs().amax((1, 2)) / theirs.amax((1, 2))).tolist() < [0.002, 0.02]


def test_a_note_is_a_row_and_transposing_it_a_crop() -> None:
    cqt = LogCQT(RATE, 960)
    for midi in (33, 60, 81):
        picture = cqt(tone(440.0 * 2 ** ((midi - 69) / 12))[None])[0]
        assert int(picture[30].argmax()) == 2 * (midi - 21)
    model = small()
    low, high = (model.pictures(tone(220.0 * 2 ** (n / 12), 660.0 * 2 ** (n / 12))[None])[0] for n in (0, 5))
    shifted, heard = model.crop(low, torch.tensor([10])), model.crop(high, None)
    louder = torch.expm1(shifted) / 2 ** (5 / 24)  # kernels of lower rows are longer, and scaled by their roots
    assert (louder - torch.expm1(heard))[:, 20:-20].abs().max() < 0.01 * torch.expm1(heard).max()
    assert model.crop(low, torch.tensor([0])).equal(low[..., MAX_SHIFT:-MAX_SHIFT])


def test_frames_are_centred_on_their_samples() -> None:
    sound = torch.zeros(1, RATE)
    sound[0, 10 * 960 + 480] = 1.0  # the middle of frame 10
    cqt, mel = small().pictures(sound)
    assert mel is not None
    top = cqt[0, :, -20:].sum(1)
    assert int(top.argmax()) == 10
    assert abs(float(top[9] - top[11])) < 1e-3
    assert abs(float(mel[0, 20].sum() - mel[0, 21].sum())) < 1e-3 * float(mel[0, 20].sum())  # on either side of it


@pytest.mark.parametrize(("stem", "trunk"), KINDS)
def test_padding_changes_nothing(stem: str, trunk: str) -> None:
    model, sound = small(stem, trunk), 0.1 * torch.randn(2, 2 * RATE, generator=torch.manual_seed(1))
    mask = torch.ones_like(sound)
    mask[1, RATE:] = 0
    padded = model(sound, mask, output_hidden_states=True).hidden_states
    alone = model(sound[1:, :RATE], output_hidden_states=True).hidden_states
    assert len(padded) == model.layers == 3
    for ours, theirs in zip(padded, alone, strict=True):
        torch.testing.assert_close(ours[1:, :25], theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("stem", "trunk"), KINDS)
def test_published_and_loaded(stem: str, trunk: str, tmp_path: Path) -> None:
    model, sound = small(stem, trunk), 0.1 * torch.randn(1, RATE, generator=torch.manual_seed(2))
    write_encoder(model, tmp_path / "encoder")
    encoder = load_encoder(tmp_path / "encoder")
    assert (encoder.sample_rate, encoder.frame_rate, encoder.dim, encoder.layers) == (RATE, 25.0, 32, 3)
    expected = torch.stack(model(sound, output_hidden_states=True).hidden_states, 1)
    torch.testing.assert_close(encoder.hidden_states(sound), expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hop": 1000}, "multiple of 64"),
        ({"octaves": 9}, "fewer octaves"),
        ({"stem": "mel"}, "isn't known"),
        ({"trunk": "transformer", "hidden_size": 30}, "multiple of 12"),
    ],
)
def test_what_does_not_fit_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CqtConfig(**settings)  # type: ignore[arg-type]
