"""The patch transformer: filter banks against torchaudio and librosa, positions, padding, stretches, publishing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor, nn

from groundbass.models.published import publish, write_encoder
from groundbass.models.vit import SlaneyFbank, ViTConfig, ViTModel, sine_positions

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "stretch": 6,
}  # fmt: skip


def small(**changes: Any) -> ViTModel:
    torch.manual_seed(0)
    return ViTModel(ViTConfig(**{**SMALL, **changes})).eval()


def noise(samples: int, rows: int = 2) -> Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(1))


def test_m2d_s_filter_bank_is_librosa_s() -> None:
    waveform = noise(16_000, 1)
    found = SlaneyFbank(16_000, 80, 400, 160, 50.0)(waveform)[0]
    power = librosa.feature.melspectrogram(
        y=waveform[0].numpy(), sr=16_000, n_fft=400, hop_length=160, n_mels=80, fmin=50, fmax=8000, center=False
    ).T
    np.testing.assert_allclose(found.numpy(), np.log(power + np.finfo(np.float32).eps), atol=1e-3)


def test_eat_s_filter_bank_is_torchaudio_s() -> None:
    waveform = noise(16_000, 2)
    model = small(frontend="kaldi", mel_bins=128, low_frequency=20.0, fbank_mean=-4.268, fbank_std=9.138)
    for clip, found in zip(waveform, model.fbank(waveform), strict=True):
        theirs = torchaudio.compliance.kaldi.fbank(
            (clip - clip.mean())[None], htk_compat=True, sample_frequency=16_000, use_energy=False,
            window_type="hanning", num_mel_bins=128, dither=0.0, frame_shift=10,
        )  # fmt: skip
        torch.testing.assert_close(found, (theirs + 4.268) / 9.138, atol=1e-3, rtol=1e-3)


def test_positions_are_a_loop_s() -> None:
    found = sine_positions(7, 3, 16, torch.device("cpu"))
    for time in range(7):
        for band in range(3):
            wanted = []
            for place in (time, band):
                angles = [place / 10_000 ** (i / 4) for i in range(4)]
                wanted += [np.sin(a) for a in angles] + [np.cos(a) for a in angles]
            np.testing.assert_allclose(found[time * 3 + band].numpy(), wanted, atol=1e-5)


def test_a_frame_is_the_patches_of_its_time_step() -> None:
    model, waveform = small(), noise(400 + 160 * 16 * 4)
    with torch.no_grad():
        tokens = model.place(model.embed(model.fbank(waveform)))
        last = model.encode(tokens)[-1]
        frames = model(waveform).last_hidden_state
        mean = small(bands="mean")(waveform).last_hidden_state
    assert tokens.shape == (2, 20, 32) and frames.shape == (2, 4, 160) and model.dim == 160
    torch.testing.assert_close(frames[:, 2, 32:64], last[:, 1 + 2 * 5 + 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean[:, 2], last[:, 11:16].mean(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
def test_long_clips_are_heard_in_stretches_and_padding_changes_nothing(norm_first: bool) -> None:
    model = small(norm_first=norm_first)
    shift = 160 * 16
    long = noise(400 - 160 + shift * 14)  # 14 time steps, in stretches of 6, 6 and 2
    with torch.no_grad():
        whole = model(long, output_hidden_states=True).hidden_states
        parts = [
            model(long[:, start : start + 240 + shift * n]) for start, n in ((0, 6), (6 * shift, 6), (12 * shift, 2))
        ]
        padded = nn.functional.pad(long, (0, 9_000), value=3.0)
        mask = (torch.arange(padded.shape[1]) < long.shape[1]).long().expand(2, -1)
        other = model(padded, mask, output_hidden_states=True).hidden_states
    assert whole[-1].shape == (2, 14, 160) and len(whole) == model.layers
    together = torch.cat([part.last_hidden_state for part in parts], 1)
    torch.testing.assert_close(whole[-1], together, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(other, whole, strict=True):
        torch.testing.assert_close(ours[:, :14], theirs, atol=1e-5, rtol=1e-5)


def test_sizes_and_sentences() -> None:
    with torch.device("meta"):
        model = ViTModel(ViTConfig())
    assert sum(p.numel() for p in model.parameters()) == 85_254_144
    assert model.config.times(97_520) == 38 and model.frame_rate == 6.25 and model.dim == 3840
    with pytest.raises(ValueError, match="one row of patches needs 2800"):
        small()(noise(2_799))
    with pytest.raises(ValueError, match="82 mel bins"):
        small(mel_bins=82)


@pytest.mark.slow
@pytest.mark.parametrize("frontend", ["mel", "kaldi"])
def test_it_publishes_and_exports(tmp_path: Path, frontend: str) -> None:
    from groundbass.models.export import export

    write_encoder(small(frontend=frontend), tmp_path / "encoder")
    publish(tmp_path / "encoder", tmp_path / "published")
    export(str(tmp_path / "published"), tmp_path / "program.pt2")
