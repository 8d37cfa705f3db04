"""SampleCNN against its published table, and against the same network written a second time with functions."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from groundbass.models.samplecnn import CHANNELS, SampleCNNConfig, SampleCNNModel

# Output lengths of the eleven blocks for one window of 59,049 samples, as published.
TABLE = [19683, 6561, 2187, 729, 243, 81, 27, 9, 3, 1, 1]


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Weights and statistics as after training: nothing is 0 or 1 that could hide a swap."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(value + 0.1 * noise if "running_var" not in name else 1 + 0.3 * noise.abs())


def tiny(**settings: object) -> SampleCNNModel:
    """Windows of 162 samples, 8-dimensional."""
    defaults: dict[str, object] = {"sample_rate": 1000, "strides": [3, 3, 3, 2], "channels": [4, 4, 4, 8, 8, 8]}
    torch.manual_seed(0)
    model = SampleCNNModel(SampleCNNConfig(**(defaults | settings)))  # type: ignore[arg-type]
    randomize(model)
    return model.eval()


def functional(state: dict[str, Tensor], strides: list[int], waveform: Tensor) -> Tensor:
    """The published network, one window [batch, 1, samples] -> [batch, dim], from CLMR's keys."""
    x = waveform
    for i in range(len(strides) + 2):
        weight, bias = state[f"encoder.sequential.{i}.0.weight"], state[f"encoder.sequential.{i}.0.bias"]
        x = F.conv1d(x, weight, bias, stride=3 if i == 0 else 1, padding=0 if i == 0 else 1)
        mean, variance, scale, shift = (
            state[f"encoder.sequential.{i}.1.{name}"][:, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)
        if 0 < i <= len(strides):
            pool = strides[i - 1]
            x = x[..., : x.shape[-1] // pool * pool].unflatten(-1, (-1, pool)).amax(dim=-1)
    return x.flatten(1)


def test_the_published_network() -> None:
    model = SampleCNNModel(SampleCNNConfig())
    assert sum(weight.numel() for weight in model.parameters()) == 2_368_512
    assert model.config.window == 59_049
    lengths: list[int] = []
    for block in model.sequential:
        block.register_forward_hook(lambda _, __, output: lengths.append(output.shape[-1]))
    with torch.no_grad():
        output = model.eval()(torch.randn(1, 1, 59_049))
    assert lengths == TABLE == model.config.lengths
    assert output.last_hidden_state.shape == (1, 1, 512)
    assert [block[0].out_channels for block in model.sequential] == list(CHANNELS)


@pytest.mark.parametrize(
    ("rate", "window", "seconds"), [(22050, 59_049, 2.678), (16000, 43_740, 2.734), (8000, 20_736, 2.592)]
)
def test_windows_of_the_published_rates(rate: int, window: int, seconds: float) -> None:
    model = SampleCNNModel(SampleCNNConfig(sample_rate=rate, width=0.05)).eval()
    assert model.config.window == window
    assert window / rate == pytest.approx(seconds, abs=5e-4)
    assert model.frame_rate == rate / window
    lengths: list[int] = []
    for block in model.sequential:
        block.register_forward_hook(lambda _, __, output: lengths.append(output.shape[-1]))
    with torch.no_grad():
        model(torch.randn(2, window))
    assert lengths == model.config.lengths and lengths[-1] == 1


@pytest.mark.parametrize("rate", [22050, 16000, 8000])
def test_same_weights_same_embedding_as_the_functional_network(rate: int) -> None:
    torch.manual_seed(1)
    model = SampleCNNModel(SampleCNNConfig(sample_rate=rate, width=0.1))
    randomize(model)
    waveform = torch.randn(3, 1, model.config.window)
    state = {f"encoder.{name}": value for name, value in model.state_dict().items()}  # CLMR's layout
    with torch.no_grad():
        ours = model.eval()(waveform).last_hidden_state[:, 0]
        theirs = functional(state, model.config.strides, waveform)
    assert theirs.std() > 0.01
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_windows_are_whole_at_least_one_and_independent() -> None:
    model = tiny()
    window = model.config.window
    assert window == 162
    with torch.no_grad():
        long = torch.randn(2, 3 * window + 100)
        states = model(long).last_hidden_state
        assert states.shape == (2, 3, 8)
        for i in range(3):
            alone = model(long[:, i * window : (i + 1) * window]).last_hidden_state
            torch.testing.assert_close(states[:, i : i + 1], alone)
        short = torch.randn(2, 50)
        padded = model(F.pad(short, (0, window - 50))).last_hidden_state
        torch.testing.assert_close(model(short).last_hidden_state, padded)
    assert model.valid_frames(torch.tensor([1, 161, 162, 323, 324, 586])).tolist() == [1, 1, 1, 1, 2, 3]


def test_a_row_alone_equals_the_row_in_a_padded_batch() -> None:
    model = tiny()
    valid = torch.tensor([500, 330, 100])
    waveform = torch.randn(3, 500)  # what lies beyond `valid` is rubbish and must not matter
    mask = torch.arange(500) < valid[:, None]
    with torch.no_grad():
        together = model(waveform, attention_mask=mask.long()).last_hidden_state
        for row, samples in enumerate(valid.tolist()):
            alone = model(waveform[row : row + 1, :samples]).last_hidden_state[0]
            frames = int(model.valid_frames(valid)[row])
            assert len(alone) == frames
            torch.testing.assert_close(together[row, :frames], alone)


def test_long_audio_in_portions_equals_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    waveform = torch.randn(1, 162 * 7)
    with torch.no_grad():
        once = model(waveform).last_hidden_state
        monkeypatch.setattr("groundbass.models.samplecnn.WINDOWS_AT_ONCE", 3)
        torch.testing.assert_close(model(waveform).last_hidden_state, once)


def test_one_layer_in_the_hidden_states() -> None:
    model = tiny()
    output = model(torch.randn(1, 400), output_hidden_states=True)
    assert len(output.hidden_states) == model.layers == 1
    assert output.hidden_states[0] is output.last_hidden_state
    assert model(torch.randn(1, 400)).hidden_states is None
    assert isinstance(model(torch.randn(1, 400), return_dict=False), tuple)


def test_squeeze_and_excitation_gates_channels_and_keeps_the_keys() -> None:
    plain, gated = tiny(), tiny(excitation=0.5)
    assert set(plain.state_dict()) < set(gated.state_dict())
    gated.load_state_dict(plain.state_dict(), strict=False)
    waveform = torch.randn(2, 162)
    excitations = [block[3] for block in gated.sequential[1:-1]]
    assert len(excitations) == 4
    with torch.no_grad():
        assert not torch.allclose(gated(waveform).last_hidden_state, plain(waveform).last_hidden_state)
        for excitation in excitations:  # a gate that is open everywhere leaves the plain network
            excitation.excite.weight.zero_()
            excitation.excite.bias.fill_(30.0)
        torch.testing.assert_close(gated(waveform).last_hidden_state, plain(waveform).last_hidden_state)
        x = torch.randn(2, 4, 10)
        excitation = tiny(excitation=0.5).sequential[1][3]
        hidden = (x.mean(-1) @ excitation.squeeze.weight.T + excitation.squeeze.bias).clamp(min=0)
        gate = 1 / (1 + (-(hidden @ excitation.excite.weight.T + excitation.excite.bias)).exp())
        torch.testing.assert_close(excitation(x), x * gate[:, :, None])


def test_initialisations_of_the_two_versions() -> None:
    torch.manual_seed(0)
    second = SampleCNNModel(SampleCNNConfig(width=0.5)).sequential[5][0].weight
    first = SampleCNNModel(SampleCNNConfig(width=0.5, init="kaiming")).sequential[5][0].weight
    fan_in = 128 * 3
    assert second.abs().max().item() == pytest.approx(fan_in**-0.5, rel=0.01)  # PyTorch: U(±1/√fan_in)
    assert first.abs().max().item() == pytest.approx((6 / fan_in) ** 0.5, rel=0.01)  # Kaiming-uniform, ReLU


def test_gradient_reaches_every_weight() -> None:
    model = tiny(excitation=0.5).train()
    model(torch.randn(4, 324)).last_hidden_state.square().sum().backward()
    for name, weight in model.named_parameters():
        if not name.endswith(".0.bias"):  # a bias before batch norm has none
            assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_width_scales_every_block() -> None:
    model = SampleCNNModel(SampleCNNConfig(width=0.25))
    assert [block[0].out_channels for block in model.sequential] == [c // 4 for c in CHANNELS]
    assert model.dim == 128


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sample_rate": 44100}, "no published strides for 44100 Hz"),
        ({"strides": [3, 3]}, "11 channels for 2 strides"),
        ({"strides": [7] * 9}, r"turn a window of .* samples into 0 frames"),
        ({"init": "orthogonal"}, "'torch' or 'kaiming'"),
        ({"width": 0}, "width > 0"),
    ],
)
def test_impossible_configs_say_why(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        SampleCNNConfig(**settings)  # type: ignore[arg-type]


def test_stereo_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="mix the channels first"):
        tiny()(torch.randn(1, 2, 400))
