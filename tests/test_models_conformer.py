"""The conformer: its layer against transformers', its front end against torchaudio and torch, padding, publishing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor, nn
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerEncoderLayer,
    Wav2Vec2ConformerRotaryPositionalEmbedding,
)

from groundbass.models.conformer import ConformerConfig, ConformerLayer, ConformerModel
from groundbass.models.frontends import LogMel, ResidualMelFrontEnd, reflect
from groundbass.models.published import publish, write_encoder
from groundbass.models.transformer import rotation

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "mel_bins": 32,
    "mel_channels": 6, "n_fft": 512, "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
}  # fmt: skip


def small(**changes: Any) -> ConformerModel:
    torch.manual_seed(0)
    return ConformerModel(ConformerConfig(**{**SMALL, **changes})).eval()


def noise(*lengths: int) -> tuple[Tensor, Tensor]:
    longest = max(lengths)
    waveform = 0.1 * torch.randn(len(lengths), longest, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return waveform * mask, mask.long()


@pytest.mark.parametrize("training", [False, True])
def test_a_layer_is_transformers_layer(training: bool) -> None:
    """Output, gradient and, in training, running statistics, with the same weights under the same names."""
    settings = Wav2Vec2ConformerConfig(
        hidden_size=32, num_attention_heads=4, intermediate_size=64, conv_depthwise_kernel_size=31, hidden_act="swish",
        position_embeddings_type="rotary", hidden_dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        conformer_conv_dropout=0.0,
    )  # fmt: skip
    settings._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = Wav2Vec2ConformerEncoderLayer(settings)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.conv_module.batch_norm.running_var.uniform_(0.5, 2.0)
    ours = ConformerLayer(ConformerConfig(**SMALL))
    ours.load_state_dict(theirs.state_dict(), strict=True)
    states = torch.randn(3, 41, 32)
    inputs = [states.clone().requires_grad_() for _ in range(2)]
    turn = Wav2Vec2ConformerRotaryPositionalEmbedding(settings)(states)
    theirs.train(training), ours.train(training)
    wanted = theirs(inputs[0], relative_position_embeddings=turn)
    found = ours(inputs[1], None, None, rotation(41, 8, 10_000.0, states.device))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(wanted)
    (wanted * weights).sum().backward(), (found * weights).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.conv_module.batch_norm.running_var, theirs.conv_module.batch_norm.running_var)


def test_reflected_mel_is_torchaudio_s() -> None:
    """MusicFM's and MuQ's spectrum; OMAR-RQ's compression and filters."""
    waveform = noise(12_345)[0]
    decibels = nn.Sequential(
        torchaudio.transforms.MelSpectrogram(24_000, 2048, hop_length=240, n_mels=128),
        torchaudio.transforms.AmplitudeToDB(),
    )
    found = LogMel(24_000, edges="reflect")(waveform)
    torch.testing.assert_close(found, decibels(waveform)[..., :-1].transpose(1, 2), atol=2e-2, rtol=0)
    power = torchaudio.transforms.MelSpectrogram(
        16_000, 512, hop_length=256, n_mels=96, norm="slaney", mel_scale="slaney"
    )(waveform)[..., :-1].transpose(1, 2)
    other = LogMel(16_000, 512, 256, 96, scale="slaney", area_norm=True, edges="reflect", compress="log1p")(waveform)
    torch.testing.assert_close(other, torch.log10(1 + 10_000 * power), atol=1e-4, rtol=1e-4)


def test_each_clip_is_mirrored_at_its_own_end() -> None:
    waveform = torch.arange(1.0, 11.0)[None].repeat(2, 1)
    waveform[1, 6:] = 0
    found = reflect(waveform, 3, torch.tensor([10, 6]))
    assert found[0].tolist() == [4, 3, 2, *range(1, 11), 9, 8, 7]
    assert found[1].tolist() == [4, 3, 2, *range(1, 7), 5, 4, 3, 0, 0, 0, 0]
    assert torch.equal(found[:1], nn.functional.pad(waveform[:1], (3, 3), mode="reflect"))


def test_the_front_end_is_two_residual_blocks() -> None:
    """Written out with torch's functions, on an image with frequency first, as in MusicFM's file."""
    front = small().feature_extractor
    assert isinstance(front, ResidualMelFrontEnd)
    for norm in (m for m in front.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2), nn.init.uniform_(norm.weight, 0.5, 2)
    waveform = noise(9_600)[0]
    image = ((front.log_mel(waveform) - 6.7684) / 18.4179).transpose(1, 2)[:, None]

    def convolve(conv: Any, given: Tensor, stride: int) -> Tensor:
        return nn.functional.conv2d(given, conv.weight.transpose(2, 3), conv.bias, stride=stride, padding=1)

    for block in front.blocks:
        inner = block.bn1(convolve(block.conv1, image, 2)).relu()
        image = (block.bn2(convolve(block.conv2, inner, 1)) + block.bn3(convolve(block.conv3, image, 2))).relu()
    wanted = image.permute(0, 3, 1, 2).flatten(2)
    assert wanted.shape == (1, 10, 6 * 8)
    torch.testing.assert_close(front(waveform), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frontend", ["conv2d", "stacked"])
@pytest.mark.parametrize("training", [False, True])
def test_padding_changes_no_valid_frame(frontend: str, training: bool) -> None:
    """In training neither: batch norm hears the valid frames alone. Clips of one length, once padded and once not."""
    model = small(frontend=frontend)
    waveform, mask = noise(9_600, 9_600)
    padded, padded_mask = (nn.functional.pad(part, (0, 6_000)) for part in (waveform, mask))
    padded[:, 9_600:] = 7.0  # whatever is there
    for one in (model, twin := copy.deepcopy(model)):
        one.train(training)
    alone = model(waveform, mask, output_hidden_states=True).hidden_states
    together = twin(padded, padded_mask, output_hidden_states=True).hidden_states
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours[:, :10], theirs, atol=1e-5, rtol=1e-5)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(twin.get_buffer(name), buffer, msg=name)


def test_time_and_sizes() -> None:
    with torch.device("meta"):
        muq = ConformerModel(ConformerConfig())
    assert sum(p.numel() for p in muq.parameters()) == 316_344_320
    assert muq.frame_rate == 25.0 and muq.frames(720_000) == 750 and muq.layers == 13
    model = small()
    with torch.no_grad():
        assert model(noise(9_599)[0]).last_hidden_state.shape == (1, 9, 32)
    with pytest.raises(ValueError, match="959 samples, but one frame needs 960"):
        model(noise(959)[0])
    with pytest.raises(ValueError, match="multiple of 8"):
        small(hidden_size=36)
    with pytest.raises(ValueError, match="conv_kernel is 30"):
        small(conv_kernel=30)


@pytest.mark.slow
@pytest.mark.parametrize("frontend", ["conv2d", "stacked"])
def test_it_publishes_and_exports(tmp_path: Path, frontend: str) -> None:
    from groundbass.models.export import export

    write_encoder(small(frontend=frontend), tmp_path / "encoder")
    publish(tmp_path / "encoder", tmp_path / "published")
    export(str(tmp_path / "published"), tmp_path / "program.pt2")
