"""Nine convolutional music taggers, as compared with each other by Won et al.: mel images, harmonics, or bare samples.

Paper: M. Won, A. Ferraro, D. Bogdanov, X. Serra, "Evaluation of CNN-based automatic music tagging models", 2020,
arXiv:2006.00751. One file since they share blocks; `config.network` says which of them a model is:

| network | hears | network of |
|---|---|---|
| fcn | 29 s, 96 mels | K. Choi et al., "Automatic tagging using deep convolutional neural networks", 2016 |
| musicnn | 3 s, 96 mels | J. Pons et al., "End-to-end learning for music audio tagging at scale", 2018 |
| crnn | 29 s, 96 mels | K. Choi et al., "Convolutional recurrent neural networks for music classification", 2017 |
| sample | 3.69 s, samples | J. Lee et al., "Sample-level deep convolutional neural networks …", 2017 |
| se | 3.69 s, samples | T. Kim et al., "Sample-level CNN architectures for music auto-tagging …", 2018 |
| attention | 15 s, 128 mels | M. Won et al., "Toward interpretable music tagging with self-attention", 2019 |
| hcnn | 5 s, six harmonics of 128 semitone halves | M. Won et al., "Data-driven harmonic filters …", 2020 |
| short, short_res | 3.69 s, 128 mels | the paper above: short chunks of sound, small pools |

Names of weights are those of the published code behind `network.`; the mel filters and windows are computed here, and
so is CNNSA's class token, which the published files lack: uniform numbers of a fixed seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from .tagger import DecibelMel, Heard, Tagger, check_windows, decibels, hann, init_default, power_spectrum, refill

N_FFT, HOP = 512, 256
# network: window in samples at 16 kHz, frames of a window (the network's own last time steps), mel bins
SIZES: dict[str, tuple[int, int, int]] = {
    "fcn": (464_000, 1, 96),
    "musicnn": (48_000, 188, 96),
    "crnn": (464_000, 18, 96),
    "sample": (59_049, 1, 0),
    "se": (59_049, 1, 0),
    "attention": (240_000, 118, 128),
    "hcnn": (80_000, 1, 128),
    "short": (59_049, 1, 128),
    "short_res": (59_049, 2, 128),
}
SHORT = (128, 128, 256, 256, 256, 256, 512)
SAMPLE = (128, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512)


class MusicTaggerConfig(PretrainedConfig):
    """Which of the nine, and how large; the defaults of each network are the published ones.

    Raises:
        ValueError: an unknown network, or sizes that mean nothing.
    """

    model_type = "groundbass_music_tagger"

    network: str = "fcn"
    """fcn, musicnn, crnn, sample, se, attention, hcnn, short or short_res."""
    classes: int = 50
    """Outputs (the published models have 50)."""
    width: float = 1.0
    """Multiplies all channels but the input's (at least 4 remain), for small machines."""
    back_end: int = 64
    """MusiCNN's channels behind the front end; the published model of the Million Song Dataset has 512."""
    hidden: int = 200
    """MusiCNN's hidden units; there 500."""
    sample_rate: int = 16_000
    """Hz of the waveform."""
    window_samples: int = 0
    """Crop in samples that the network answers on; 0: the published one."""
    window_frames: int = 0
    """Hidden states per window; 0: the network's own last time steps."""
    windows: str = "even"
    """"even": `window_count` windows spread evenly over a track; "row": one after the other, to the end; "whole":
    without the rest; "first": its beginning alone."""
    window_count: int = 16
    """Of "even"; the published evaluation takes 16."""
    aggregation: str = "probabilities"
    """Of windows: the mean of "probabilities" (published) or "logits"."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.problem_type = self.problem_type or "multi_label_classification"
        super().__post_init__(**kwargs)
        if self.network not in SIZES:
            raise ValueError(f"There is no tagger {self.network!r} here: choose one of {', '.join(SIZES)}.")
        (samples, frames, _) = SIZES[self.network]
        self.window_samples = self.window_samples or samples
        self.window_frames = self.window_frames or frames
        check_windows(self)

    def channels(self, published: int) -> int:
        """A number of channels, `width` applied."""
        return published if self.width == 1 else max(4, round(published * self.width))


def pool(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Maximum over parts of `sizes` (floor), or over what there is where it is less: short windows stay in reach."""
    kernel = [min(size, int(length)) for size, length in zip(sizes, x.shape[-len(sizes) :])]
    if all(size == 1 for size in kernel):
        return x
    return F.max_pool2d(x, kernel) if len(kernel) == 2 else F.max_pool1d(x, kernel)


def over_frequency(image: Tensor) -> Tensor:
    """[windows, channels, bins, steps] -> [windows, channels, steps], the mean: a layer as the encoder shows it."""
    return image.mean(dim=2)


class Conv2d(nn.Module):
    """3×3 convolution, batch norm, ReLU, maximum over (frequency, time)."""

    def __init__(self, inputs: int, outputs: int, pools: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.pools = pools
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return pool(torch.relu(self.bn(self.conv(x))), self.pools)


class Conv1d(nn.Module):
    """Convolution over time, batch norm, ReLU, maximum over `pooled` steps."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, pooled: int = 1) -> None:
        super().__init__()
        self.pooled = pooled
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return pool(torch.relu(self.bn(self.conv(x))), (self.pooled,))


class Residual2d(nn.Module):
    """Two 3×3 convolutions beside a 3×3 shortcut; strides instead of pools."""

    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.bn_1 = nn.BatchNorm2d(outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.bn_2 = nn.BatchNorm2d(outputs)
        self.conv_3 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.bn_3 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn_2(self.conv_2(torch.relu(self.bn_1(self.conv_1(x)))))
        return torch.relu(inner + self.bn_3(self.conv_3(x)))


class PooledResidual2d(nn.Module):
    """Two 3×3 convolutions beside the identity, then a maximum."""

    def __init__(self, channels: int, pools: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.pools = pools
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn_1 = nn.BatchNorm2d(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn_2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn_2(self.conv_2(torch.relu(self.bn_1(self.conv_1(x)))))
        return pool(torch.relu(inner + x), self.pools)


class ExcitedResidual1d(nn.Module):
    """Two convolutions whose channels are gated by their means over time, beside a shortcut; then a maximum."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, pooled: int = 1) -> None:
        super().__init__()
        self.pooled, self.projected = pooled, stride != 1 or inputs != outputs
        self.conv_1 = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.bn_1 = nn.BatchNorm1d(outputs)
        self.conv_2 = nn.Conv1d(outputs, outputs, kernel, padding=kernel // 2)
        self.bn_2 = nn.BatchNorm1d(outputs)
        self.dense1 = nn.Linear(outputs, outputs)
        self.dense2 = nn.Linear(outputs, outputs)
        if self.projected:
            self.conv_3 = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
            self.bn_3 = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn_2(self.conv_2(torch.relu(self.bn_1(self.conv_1(x)))))
        gate = torch.sigmoid(self.dense2(torch.relu(self.dense1(inner.mean(dim=-1)))))
        shortcut = self.bn_3(self.conv_3(x)) if self.projected else x
        return pool(torch.relu(inner * gate[..., None] + shortcut), (self.pooled,))


class MelFeatures(nn.Module):
    """Log-mel in dB, one batch norm over everything: [windows, samples] -> [windows, 1, bins, steps]."""

    frame_wise = False
    axes = (3, 2)

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__()
        self.bins = SIZES[config.network][2]
        self.spec = DecibelMel(config.sample_rate, N_FFT, HOP, self.bins)
        self.spec_bn = nn.BatchNorm2d(1)

    def features(self, windows: Tensor, counted: Tensor | None = None) -> Tensor:
        """[windows, samples] -> [windows, 1, bins, steps], standardised."""
        mel = self.spec(windows).transpose(1, 2)[:, None]
        return self.spec_bn(mel.to(self.spec_bn.weight.dtype))


class Fcn(MelFeatures):
    """Five convolutions with pools so large that one number per channel remains of 29 s."""

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__(config)
        a, b = config.channels(64), config.channels(128)
        self.widths = [self.bins, a, b, b, b, a]
        self.layer1 = Conv2d(1, a, (2, 4))
        self.layer2 = Conv2d(a, b, (2, 4))
        self.layer3 = Conv2d(b, b, (2, 4))
        self.layer4 = Conv2d(b, b, (3, 5))
        self.layer5 = Conv2d(b, a, (4, 4))
        self.dropout = nn.Dropout(0.5)
        self.dense = nn.Linear(a, config.classes)

    def hear(self, features: Tensor) -> Heard:
        """Features to layers and logits."""
        x, states = features, [features[:, 0]]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4, self.layer5):
            x = layer(x)
            states.append(over_frequency(x))
        return Heard(states, self.dense(self.dropout(x.amax(dim=(2, 3)))))


class Vertical(nn.Module):
    """MusiCNN's timbre filters: tall in frequency, seven steps wide; the maximum over where they fit."""

    def __init__(self, channels: int, height: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (height, 7), padding=(0, 3))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(features))).amax(dim=2)


class Horizontal(nn.Module):
    """MusiCNN's tempo filters: long in time, on the mean over frequency."""

    def __init__(self, channels: int, length: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, channels, length, padding=length // 2)
        self.bn = nn.BatchNorm1d(channels)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(features.mean(dim=2))))


class MusiCNN(MelFeatures):
    """Filters with musical shapes, then three dense layers over time, maximum and mean."""

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__(config)
        tall, long = config.channels(204), config.channels(51)
        back, front = config.back_end, 2 * tall + 3 * long
        self.widths = [self.bins, front, back, back, back]
        vertical = [Vertical(tall, int(share * self.bins / 10)) for share in (7, 4)]
        self.layers = nn.ModuleList([*vertical, *(Horizontal(long, length) for length in (129, 65, 33))])
        self.layer1 = Conv1d(front, back, 7)
        self.layer2 = Conv1d(back, back, 7)
        self.layer3 = Conv1d(back, back, 7)
        self.dense1 = nn.Linear(2 * (front + 3 * back), config.hidden)
        self.bn = nn.BatchNorm1d(config.hidden)
        self.dropout = nn.Dropout(0.5)
        self.dense2 = nn.Linear(config.hidden, config.classes)

    def hear(self, features: Tensor) -> Heard:
        """Features to layers and logits."""
        front = torch.cat([layer(features) for layer in self.layers], dim=1)
        first = self.layer1(front)
        second = self.layer2(first) + first
        third = self.layer3(second) + second
        everything = torch.cat([front, first, second, third], dim=1)
        pooled = torch.cat([everything.amax(dim=-1), everything.mean(dim=-1)], dim=-1)
        hidden = torch.relu(self.bn(self.dense1(pooled)))
        return Heard([features[:, 0], front, first, second, third], self.dense2(self.dropout(hidden)))


class Crnn(MelFeatures):
    """Four convolutions, then two recurrent layers whose last step answers."""

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__(config)
        a, b, c = config.channels(64), config.channels(128), config.channels(32)
        self.widths = [self.bins, a, b, b, b, c]
        self.layer1 = Conv2d(1, a, (2, 2))
        self.layer2 = Conv2d(a, b, (3, 3))
        self.layer3 = Conv2d(b, b, (4, 4))
        self.layer4 = Conv2d(b, b, (4, 4))
        self.layer5 = nn.GRU(b, c, 2, batch_first=True)
        self.dropout = nn.Dropout(0.5)
        self.dense = nn.Linear(c, config.classes)

    def hear(self, features: Tensor) -> Heard:
        """Features to layers and logits."""
        x, states = features, [features[:, 0]]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            states.append(over_frequency(x))
        steps, _ = self.layer5(x.amax(dim=2).transpose(1, 2))
        states.append(steps.transpose(1, 2))
        return Heard(states, self.dense(self.dropout(steps[:, -1])))


class SampleLevel(nn.Module):
    """SampleCNN as a tagger: eleven small convolutions from the samples to one vector.

    CLMR's encoder (`samplecnn.py`) differs: no padding in its first block, and a last kernel of three.
    """

    frame_wise = False
    axes = None

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__()
        widths = [config.channels(c) for c in SAMPLE]
        excited = config.network == "se"
        block: Callable[..., nn.Module] = ExcitedResidual1d if excited else Conv1d
        self.widths = widths
        self.layer1 = block(1, widths[0], 3, stride=3)
        for i in range(2, 11):
            setattr(self, f"layer{i}", block(widths[i - 2], widths[i - 1], 3, pooled=3))
        self.layer11 = block(widths[9], widths[10], 1)
        self.dropout = nn.Dropout(0.5)
        if excited:
            self.dense1 = nn.Linear(widths[10], widths[10])
            self.bn: nn.Module = nn.BatchNorm1d(widths[10])
            self.dense2 = nn.Linear(widths[10], config.classes)
        else:
            self.dense = nn.Linear(widths[10], config.classes)
        self.excited = excited

    def features(self, windows: Tensor, counted: Tensor | None = None) -> Tensor:
        """[windows, samples] -> [windows, 1, samples]."""
        return windows[:, None].to(next(self.parameters()).dtype)

    def hear(self, features: Tensor) -> Heard:
        """Samples to layers and logits."""
        x, states = features, []
        for i in range(1, 12):
            x = getattr(self, f"layer{i}")(x)
            states.append(x)
        last = x.amax(dim=-1)
        if not self.excited:
            return Heard(states, self.dense(self.dropout(last)))
        return Heard(states, self.dense2(self.dropout(torch.relu(self.bn(self.dense1(last))))))


class ShortChunk(MelFeatures):
    """Seven convolutions with small pools on a short chunk, the maximum over time, two dense layers."""

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__(config)
        widths = [config.channels(c) for c in SHORT]
        residual = config.network == "short_res"
        block: Callable[[int, int], nn.Module] = Residual2d if residual else Conv2d
        self.widths = [self.bins, *widths]
        for i, (inputs, outputs) in enumerate(zip([1, *widths], widths)):
            setattr(self, f"layer{i + 1}", block(inputs, outputs))
        self.dense1 = nn.Linear(widths[-1], widths[-1])
        self.bn = nn.BatchNorm1d(widths[-1])
        self.dropout = nn.Dropout(0.5)
        self.dense2 = nn.Linear(widths[-1], config.classes)

    def hear(self, features: Tensor) -> Heard:
        """Features to layers and logits."""
        x, states = features, [features[:, 0]]
        for i in range(1, 8):
            x = getattr(self, f"layer{i}")(x)
            states.append(over_frequency(x))
        hidden = torch.relu(self.bn(self.dense1(x.amax(dim=(2, 3)))))
        return Heard(states, self.dense2(self.dropout(hidden)))


class HarmonicSpectrogram(nn.Module):
    """Six harmonics of 128 fundamentals, half a semitone apart from C1 (32.7 Hz), as channels, in dB.

    The triangles' bandwidth follows hearing, (0.1079 f + 24.7) / Q, and Q is learned.
    """

    window: Tensor

    def __init__(self, sample_rate: int, harmonics: int = 6, bins: int = 128) -> None:
        super().__init__()
        self.sample_rate, self.harmonics, self.bins = sample_rate, harmonics, bins
        self.bw_Q = nn.Parameter(torch.ones(1))
        device = torch.empty(0).device
        for name, table in self.tables().items():
            self.register_buffer(name, table.to(device), persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """The window."""
        return {"window": hann(N_FFT)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> HarmonicSpectrogram:
        """Keep the window as it is, whatever the model is cast to."""
        return refill(self, super()._apply, fn, recurse)

    def filters(self) -> Tensor:
        """[n_fft / 2 + 1, harmonics · bins] triangles, the harmonics one after the other."""
        device = self.bw_Q.device
        midi = 24 + torch.arange(self.bins, device=device) / 2
        fundamental = 440.0 * torch.exp2((midi - 69) / 12)
        centre = torch.cat([fundamental * (i + 1) for i in range(self.harmonics)])
        bandwidth = (0.1079 * centre + 24.7) / self.bw_Q.float()
        hertz = torch.linspace(0, self.sample_rate / 2, N_FFT // 2 + 1, device=device)[:, None]
        offset = 2 * (hertz - centre) / bandwidth
        return torch.minimum(1 + offset, 1 - offset).clamp(min=0)

    def forward(self, waveform: Tensor) -> Tensor:
        """[windows, samples] -> [windows, harmonics, bins, steps] dB."""
        with torch.autocast(waveform.device.type, enabled=False):
            power = power_spectrum(waveform, self.window, HOP).transpose(1, 2) @ self.filters()
            return decibels(power).transpose(1, 2).unflatten(1, (self.harmonics, self.bins))


class HarmonicCnn(nn.Module):
    """A CNN whose input channels are harmonics, so that a small kernel sees a whole tone."""

    frame_wise = False
    axes = (3, 2)

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__()
        a, b = config.channels(128), config.channels(256)
        self.widths = [128, a, a, a, a, b, b, b]
        self.hstft = HarmonicSpectrogram(config.sample_rate)
        self.hstft_bn = nn.BatchNorm2d(6)
        self.layer1 = Conv2d(6, a)
        self.layer2 = PooledResidual2d(a)
        self.layer3 = PooledResidual2d(a)
        self.layer4 = PooledResidual2d(a)
        self.layer5 = Conv2d(a, b)
        self.layer6 = PooledResidual2d(b, (2, 3))
        self.layer7 = PooledResidual2d(b, (2, 3))
        self.dense1 = nn.Linear(b, b)
        self.bn = nn.BatchNorm1d(b)
        self.dropout = nn.Dropout(0.5)
        self.dense2 = nn.Linear(b, config.classes)

    def features(self, windows: Tensor, counted: Tensor | None = None) -> Tensor:
        """[windows, samples] -> [windows, harmonics, bins, steps], standardised."""
        return self.hstft_bn(self.hstft(windows).to(self.hstft_bn.weight.dtype))

    def hear(self, features: Tensor) -> Heard:
        """Features to layers and logits; layer 0 is the mean over the harmonics."""
        x, states = features, [features.mean(dim=1)]
        for i in range(1, 8):
            x = getattr(self, f"layer{i}")(x)
            states.append(over_frequency(x))
        hidden = torch.relu(self.bn(self.dense1(x.amax(dim=(2, 3)))))
        return Heard(states, self.dense2(self.dropout(hidden)))


def uniform(seed: int, count: int) -> Tensor:
    """`numpy.random.RandomState(seed).rand(count)` in float32, by the same Mersenne twister."""
    state = [seed]
    for i in range(1, 624):
        state.append((1_812_433_253 * (state[-1] ^ state[-1] >> 30) + i) & 0xFFFFFFFF)
    twister = random.Random()
    twister.setstate((3, (*state, 624), None))
    return torch.tensor([twister.random() for _ in range(count)], dtype=torch.float32, device="cpu")


class _SelfAttention(nn.Module):
    """BERT's projections, by its names; the weights' dropout is its attention dropout."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2).flatten(2)


class _Output(nn.Module):
    """Dense layer, dropout, sum with what came in, layer norm."""

    def __init__(self, inputs: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, dim)
        self.dropout = nn.Dropout(dropout)
        self.LayerNorm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(residual + self.dropout(self.dense(x)))


class BertLayer(nn.Module):
    """One post-LN block of BERT, by its names."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.attention = nn.ModuleDict(
            {"self": _SelfAttention(dim, heads, attention_dropout), "output": _Output(dim, dim, dropout)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, inner)})
        self.output = _Output(inner, dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention["output"](self.attention["self"](x), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class SelfAttention(MelFeatures):
    """Residual convolutions down to one row of 118 tokens, two BERT layers, and a class token that answers."""

    cls: Tensor

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__(config)
        a, b = config.channels(128), 8 * (config.channels(256) // 8) or 8
        self.dim = b
        widths = (a, a, b, b, b, b, b)
        self.widths = [self.bins, *widths, b, b]
        for i, (inputs, outputs) in enumerate(zip((1, *widths), widths)):
            setattr(self, f"layer{i + 1}", Residual2d(inputs, outputs, (2, 2) if i < 3 else (2, 1)))
        layers = nn.ModuleList(BertLayer(b, 8, 4 * b, 0.4, 0.5) for _ in range(2))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(b, b)})
        self.dropout = nn.Dropout(0.5)
        self.dense = nn.Linear(b, config.classes)
        device = torch.empty(0).device
        for name, table in self.tables().items():
            self.register_buffer(name, table.to(device), persistent=False)

    def tables(self) -> dict[str, Tensor]:
        """The class token, which the published code draws from numpy's seed 0 and never saves."""
        return {"cls": uniform(0, self.dim)}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SelfAttention:
        """Keep the class token as it is."""
        return refill(self, super()._apply, fn, recurse)

    def hear(self, features: Tensor) -> Heard:
        """Features to layers and logits."""
        x, states = features, [features[:, 0]]
        for i in range(1, 8):
            x = getattr(self, f"layer{i}")(x)
            states.append(over_frequency(x))
        tokens = x.mean(dim=2).transpose(1, 2) if x.shape[2] > 1 else x[:, :, 0].transpose(1, 2)
        tokens = torch.cat([self.cls.to(tokens.dtype).expand(tokens.shape[0], 1, -1), tokens], dim=1)
        for layer in self.encoder["layer"].children():
            tokens = layer(tokens)
            states.append(tokens[:, 1:].transpose(1, 2))
        answer = torch.tanh(self.pooler["dense"](tokens[:, 0]))
        return Heard(states, self.dense(self.dropout(answer)))


NETWORKS: dict[str, Callable[[MusicTaggerConfig], nn.Module]] = {
    "fcn": Fcn,
    "musicnn": MusiCNN,
    "crnn": Crnn,
    "sample": SampleLevel,
    "se": SampleLevel,
    "attention": SelfAttention,
    "hcnn": HarmonicCnn,
    "short": ShortChunk,
    "short_res": ShortChunk,
}


class MusicTaggerModel(Tagger, PreTrainedModel):
    """One of the nine taggers; see `tagger.py` for what it answers."""

    config: MusicTaggerConfig
    config_class = MusicTaggerConfig
    base_model_prefix = "music_tagger"
    main_input_name = "input_values"

    def __init__(self, config: MusicTaggerConfig) -> None:
        super().__init__(config)
        self.network = NETWORKS[config.network](config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """PyTorch's own defaults, as the published training has them; BERT's in the two attention layers."""
        if isinstance(module, HarmonicSpectrogram):
            nn.init.ones_(module.bw_Q)
        init_default(module)


MusicTaggerConfig.register_for_auto_class()
MusicTaggerModel.register_for_auto_class("AutoModel")
