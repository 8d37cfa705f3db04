"""Front ends: mel filters against librosa and torchaudio, the group norm against torch, frames against physics."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import librosa
import numpy as np
import pytest
import torch
import torchaudio
from librosa.filters import mel as librosa_mel
from torch import Tensor, nn

from groundbass.models.frontends import (
    ConvFrontEnd,
    LogMel,
    MelFrontEnd,
    TimeGroupNorm,
    TrainedLogMel,
    _normalise_by_sums,
    mel_filterbank,
    normalise_inside,
    normalize_waveform,
)

RATE = 24_000


@pytest.mark.parametrize(
    "rate, n_fft, bins, low, high", [(24_000, 2048, 128, 0.0, None), (16_000, 400, 40, 50.0, 7000.0)]
)
def test_mel_filters_equal_librosa_s_and_torchaudio_s(
    rate: int, n_fft: int, bins: int, low: float, high: float | None
) -> None:
    for htk in (False, True):
        for norm in ("slaney", None):
            theirs = librosa_mel(sr=rate, n_fft=n_fft, n_mels=bins, fmin=low, fmax=high, htk=htk, norm=norm)
            ours = mel_filterbank(rate, n_fft, bins, low, high, "htk" if htk else "slaney", area_norm=norm is not None)
            np.testing.assert_allclose(ours.numpy(), theirs.T, atol=2e-6)
    other = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, low, high or rate / 2, bins, rate)
    torch.testing.assert_close(mel_filterbank(rate, n_fft, bins, low, high), other, atol=1e-4, rtol=0)


def test_mel_filters_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="9000"):
        mel_filterbank(16_000, 400, 40, high=9000.0)
    with pytest.raises(ValueError, match="'bark'"):
        mel_filterbank(16_000, 400, 40, scale="bark")  # type: ignore[arg-type]


def test_trained_kernels_begin_as_the_fixed_ones() -> None:
    """Until they learn, the same decibels; and each sample and each filter has a gradient, in silence too."""
    waveform = 0.1 * torch.randn(2, 6000, generator=torch.Generator().manual_seed(0))
    fixed, trained = LogMel(RATE, 512, 240, 40), TrainedLogMel(RATE, 512, 240, 40)
    torch.testing.assert_close(trained(waveform), fixed(waveform), atol=1e-3, rtol=0)
    waveform[1] = 0.0
    trained(waveform).square().mean().backward()
    for name, weight in trained.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.any(), name
    assert trained.half()(waveform).dtype == torch.float32


def test_log_mel_equals_torchaudio_s_of_the_zero_padded_clip() -> None:
    """MusicFM's MelSpectrogram and AmplitudeToDB, but with zeros instead of reflections beyond the ends."""
    waveform = torch.randn(2, 12_345, generator=torch.Generator().manual_seed(0)) * 0.1
    reference = nn.Sequential(
        torchaudio.transforms.MelSpectrogram(RATE, 2048, hop_length=240, n_mels=128, pad_mode="constant"),
        torchaudio.transforms.AmplitudeToDB(),
    )
    theirs = reference(waveform)[..., :-1].transpose(1, 2)
    torch.testing.assert_close(LogMel(RATE)(waveform), theirs, atol=2e-2, rtol=0)
    assert LogMel(RATE)(torch.zeros(1, 2400)).eq(-100).all()  # silence is the floor, 10 log10(1e-10)


def test_a_tone_peaks_in_its_filter_and_a_click_in_its_frame(note: Callable[..., Any]) -> None:
    log_mel = LogMel(RATE)
    for midi in (45, 69, 93):
        hertz = 440 * 2 ** ((midi - 69) / 12)
        tone = torch.from_numpy(note(midi, 1.0, RATE, harmonics=1))[None]
        peak = log_mel(tone)[0, 50].argmax().item()
        centre = librosa.mel_frequencies(130, fmin=0, fmax=12_000, htk=True)[peak + 1]
        width = librosa.mel_frequencies(130, fmin=0, fmax=12_000, htk=True)[peak + 2] - centre
        assert abs(centre - hertz) < width
    click = torch.zeros(1, 24_000)
    click[0, 4800] = 1.0
    assert log_mel(click)[0].sum(-1).argmax() == 4800 // 240


def test_ten_times_the_amplitude_is_20_decibels_more() -> None:
    waveform = torch.randn(1, 4800, generator=torch.Generator().manual_seed(0)) * 0.1
    difference = LogMel(RATE)(10 * waveform) - LogMel(RATE)(waveform)
    torch.testing.assert_close(difference, torch.full_like(difference, 20.0), atol=1e-3, rtol=0)


def test_log_mel_keeps_its_tables_exact_and_out_of_the_state_dict() -> None:
    log_mel = LogMel(RATE)
    waveform = torch.randn(1, 4800)
    exact = log_mel(waveform)
    for other in (
        copy.deepcopy(log_mel).bfloat16(),
        copy.deepcopy(log_mel).half(),
        pickle.loads(pickle.dumps(log_mel)),
    ):
        assert torch.equal(other(waveform), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(log_mel(waveform), exact)
    assert not log_mel.state_dict()


def mel_front_end(channels: int = 4) -> MelFrontEnd:
    torch.manual_seed(0)
    return MelFrontEnd(LogMel(RATE), 128, channels, mean=6.768, std=18.418)


def test_mel_frames_are_at_25_hz_and_centred_on_multiples_of_960_samples() -> None:
    """A click moves exactly the frames whose mel frames see it: three mel frames and half a window around."""
    front_end = mel_front_end()
    assert front_end.dim == 4 * 32
    for samples, frames in ((120_000, 125), (960, 1), (1919, 1), (1920, 2)):
        assert front_end(torch.zeros(1, samples)).shape == (1, frames, 128)
    click = torch.zeros(1, 48_000)
    click[0, 25 * 960] = 1.0
    moved = (front_end(click) - front_end(torch.zeros(1, 48_000)))[0].abs().amax(-1)
    assert moved.argmax() == 25
    reach = torch.arange(50) * 960 - 25 * 960
    assert moved[reach.abs() >= 3 * 240 + 1024].eq(0).all()
    assert moved[reach.abs() <= 960].gt(0).all()


@pytest.mark.parametrize("bins", [80, 127])
def test_mel_front_end_takes_any_number_of_bins(bins: int) -> None:
    front_end = MelFrontEnd(LogMel(RATE, bins=bins), bins, 4, 0.0, 1.0)
    assert front_end(torch.zeros(1, 4800)).shape == (1, 5, front_end.dim)


def by_hand(norm: TimeGroupNorm, signal: Tensor) -> Tensor:
    mean, variance = signal.mean(-1, keepdim=True), signal.var(-1, keepdim=True, correction=0)
    return (signal - mean) / (variance + norm.eps).sqrt() * norm.weight[:, None] + norm.bias[:, None]


def test_group_norm_is_torch_s_and_leaves_padding_out() -> None:
    norm = TimeGroupNorm(3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    signal = torch.randn(2, 3, 50) + 5
    torch.testing.assert_close(norm(signal), nn.GroupNorm.forward(norm, signal))
    torch.testing.assert_close(norm(signal, torch.tensor([50, 50])), norm(signal), atol=1e-5, rtol=1e-5)
    found = norm(signal, torch.tensor([50, 20]))
    torch.testing.assert_close(found[0], norm(signal)[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1, :, :20], by_hand(norm, signal[1, :, :20]), atol=1e-5, rtol=1e-5)


def test_conv_frames_see_their_receptive_field_only() -> None:
    """Without a norm over time, a changed sample moves the frames that see it and no other (400 samples every 320)."""
    torch.manual_seed(0)
    front_end = ConvFrontEnd([8] * 7, (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2))
    front_end.conv_layers[0].register_module("layer_norm", None)
    for parameter in front_end.parameters():
        nn.init.normal_(parameter, std=0.5)
    waveform = torch.randn(1, 8000)
    changed = waveform.clone()
    changed[0, 3200] += 10
    moved = (front_end(changed) - front_end(waveform))[0].abs().amax(-1) > 0
    assert moved.nonzero().flatten().tolist() == [9, 10]  # 320·9 <= 3200 < 320·9 + 400, and 320·10


def test_normalised_clips_have_zero_mean_and_unit_variance_over_the_valid_part() -> None:
    waveform = torch.randn(3, 1000) * 0.01 + 0.3
    valid = torch.tensor([1000, 400, 0])
    found = normalize_waveform(waveform, valid)
    for item, count in enumerate((1000, 400)):
        clip = waveform[item, :count].numpy()
        theirs = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)  # Wav2Vec2FeatureExtractor's formula
        np.testing.assert_allclose(found[item, :count], theirs, atol=1e-3)
        assert found[item, count:].eq(0).all()
    assert found[2].eq(0).all()
    torch.testing.assert_close(normalize_waveform(waveform)[0], found[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_by_sums_is_batch_norm_of_the_steps_inside(kind, momentum):
    """What a GPU does, where gathering would wait: values, gradients and running statistics."""
    torch.manual_seed(0)
    shape = (3, 4, 7) if kind is nn.BatchNorm1d else (3, 4, 7, 5)
    image = (2 * torch.randn(shape) + 1).requires_grad_()
    inside = torch.arange(7) < torch.tensor([7, 3, 5])[:, None]
    norm = kind(4, momentum=momentum)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    other = copy.deepcopy(norm)
    for _ in range(2):
        expected, found = normalise_inside(norm, image, inside), _normalise_by_sums(other, image, inside)
    torch.testing.assert_close(found, expected)
    weight = torch.randn_like(expected)
    theirs = torch.autograd.grad(expected, [image, norm.weight, norm.bias], weight)
    for ours, wanted in zip(torch.autograd.grad(found, [image, other.weight, other.bias], weight), theirs):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    for name, buffer in norm.named_buffers():
        torch.testing.assert_close(dict(other.named_buffers())[name], buffer)
