"""SampleCNN: eleven convolutions straight from the waveform to one embedding per window; the encoder of CLMR.

Paper: J. Lee et al., "Sample-level deep convolutional neural networks for music auto-tagging using raw waveforms",
2017; as trained by J. Spijkervet and J. Burgoyne, "Contrastive learning of musical representations" (CLMR), 2021.
The squeeze-and-excitation blocks follow T. Kim et al., "Sample-level CNN architectures for music auto-tagging using
raw waveforms", 2018.

Names of weights: `sequential.<i>.<0|1>.<weight|bias|running_mean|…>`, block i = 0…10, 0 the convolution and 1 the batch
norm; this is CLMR's checkpoint layout without its leading `encoder.`. CLMR's `fc` and `projector` belong to no encoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

# The published lists; the window is 3 · their product: 59,049 (2.678 s), 43,740 (2.734 s), 20,736 (2.592 s) samples.
STRIDES = {
    22050: (3, 3, 3, 3, 3, 3, 3, 3, 3),
    16000: (3, 3, 3, 3, 3, 3, 5, 2, 2),
    8000: (3, 3, 3, 2, 2, 4, 4, 2, 2),
}
CHANNELS = (128, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512)
FIRST_STRIDE = 3  # block 0 steps by its kernel, without padding
WINDOWS_AT_ONCE = 64  # in evaluation; 64 full-width windows hold about 1.3 GB of activations


class SampleCNNConfig(PretrainedConfig):
    """Everything that fixes a SampleCNN; the defaults are CLMR's network, 2,368,512 weights.

    Raises:
        ValueError: lists that don't fit together, or strides that don't reduce a window to one frame.
    """

    model_type = "groundbass_samplecnn"

    sample_rate: int = 22050
    """Hz of the waveform; one of 22050, 16000, 8000 unless `strides` are given."""
    strides: Sequence[int] = ()
    """Kernel and pool size of the inner blocks (both, as published); by default the list of `sample_rate`."""
    channels: Sequence[int] = CHANNELS
    """Output channels of all blocks, two more than `strides`, before `width`."""
    width: float = 1.0
    """Multiplies `channels` (at least 4 remain), for small machines."""
    excitation: float = 0.0
    """Hidden units of the squeeze-and-excitation per channel (published: 16); 0 leaves it out."""
    init: str = "torch"
    """"torch" (CLMR v2: PyTorch's defaults) or "kaiming" (CLMR v1: Kaiming-uniform convolutions)."""
    classes: int = 0
    """Outputs of a head that was fitted on the frozen embedding (see `logits`); 0: none."""
    head_hidden: int = 0
    """Hidden units of that head; 0: it is linear."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not self.strides and self.sample_rate not in STRIDES:
            raise ValueError(
                f"SampleCNN has no published strides for {self.sample_rate} Hz, only for {sorted(STRIDES)} Hz; "
                "choose one of these rates or give `strides`."
            )
        self.strides = list(self.strides or STRIDES[self.sample_rate])
        self.channels = list(self.channels)
        self._check()

    def _check(self) -> None:
        if len(self.channels) != len(self.strides) + 2:
            raise ValueError(
                f"SampleCNN got {len(self.channels)} channels for {len(self.strides)} strides; it needs two more "
                "channels than strides, since the first and the last block don't pool."
            )
        if self.init not in ("torch", "kaiming"):
            raise ValueError(f"SampleCNN's init is {self.init!r}; it must be 'torch' or 'kaiming'.")
        if self.width <= 0 or self.excitation < 0:
            raise ValueError(f"SampleCNN needs width > 0 and excitation >= 0, not {self.width} and {self.excitation}.")
        if min(self.strides) < 1 or self.lengths[-1] != 1:
            raise ValueError(
                f"strides {self.strides} turn a window of {self.window} samples into {self.lengths[-1]} frames; "
                f"SampleCNN needs exactly one. Take a published list, for instance {list(STRIDES[22050])}."
            )

    @property
    def window(self) -> int:
        """Samples that become one embedding: the first stride times the product of the others."""
        return FIRST_STRIDE * math.prod(self.strides)

    @property
    def lengths(self) -> list[int]:
        """Output length of every block for one window: conv (padding 1, step 1) adds 3 - k, the pool divides by k."""
        lengths = [self.window // FIRST_STRIDE]
        for k in self.strides:
            lengths.append((lengths[-1] + 3 - k) // k)
        return [*lengths, lengths[-1]]

    @property
    def block_channels(self) -> list[int]:
        """Output channels of every block, `width` applied."""
        return [max(4, round(c * self.width)) for c in self.channels]

    @property
    def hidden_size(self) -> int:
        """Size of the embedding."""
        return self.block_channels[-1]


class Excitation(nn.Module):
    """Squeeze and excitation: a gate per channel from the channel's mean over time."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = max(1, round(channels * ratio))
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(dim=-1)))))
        return x * gate.unsqueeze(-1)


def _exporting() -> bool:
    """Whether torch.export traces. Inside torch.compile `is_exporting` is true as well (PyTorch 2.11)."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def _block(
    source: int, target: int, kernel: int, *, step: int = 1, pool: int = 0, excitation: float = 0.0
) -> nn.Module:
    """Convolution 0, batch norm 1, ReLU; then, without weights of CLMR, the gate and the pool."""
    modules: list[nn.Module] = [
        nn.Conv1d(source, target, kernel, stride=step, padding=0 if step > 1 else 1),
        nn.BatchNorm1d(target),
        nn.ReLU(),
    ]
    if excitation > 0:
        modules.append(Excitation(target, excitation))
    if pool:
        modules.append(nn.MaxPool1d(pool))
    return nn.Sequential(*modules)


def _head(dim: int, hidden: int, classes: int) -> nn.Sequential:
    """CLMR's classifier on the frozen embedding: linear, or with one hidden layer."""
    if not hidden:
        return nn.Sequential(nn.Linear(dim, classes))
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, classes))


class SampleCNNModel(PreTrainedModel):
    """The encoder: whole windows of the waveform in, one embedding per window out.

    Its frames are windows that don't overlap. It has one layer; the input isn't normalised (nor was CLMR's).
    """

    config: SampleCNNConfig
    config_class = SampleCNNConfig
    base_model_prefix = "samplecnn"
    main_input_name = "input_values"

    def __init__(self, config: SampleCNNConfig) -> None:
        super().__init__(config)
        channels = config.block_channels
        blocks = [_block(1, channels[0], FIRST_STRIDE, step=FIRST_STRIDE)]
        for i, k in enumerate(config.strides):
            blocks.append(_block(channels[i], channels[i + 1], k, pool=k, excitation=config.excitation))
        blocks.append(_block(channels[-2], channels[-1], 3))
        self.sequential = nn.Sequential(*blocks)
        self.head = _head(config.hidden_size, config.head_hidden, config.classes) if config.classes else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Conv1d, nn.Linear)):
            module.reset_parameters()
            if self.config.init == "kaiming" and isinstance(module, nn.Conv1d):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
        else:
            super()._init_weights(module)

    @property
    def frame_rate(self) -> float:
        """Windows per second."""
        return self.config.sample_rate / self.config.window

    @property
    def dim(self) -> int:
        """Size of the embedding."""
        return self.config.hidden_size

    @property
    def layers(self) -> int:
        """Entries of `hidden_states`: only the embedding itself."""
        return 1

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of an imported head, per window: [..., dim] -> [..., classes]. CLMR averages a track's windows.

        Raises:
            ValueError: this model has no head.
        """
        if self.head is None:
            raise ValueError("This SampleCNN has no head (classes = 0): import one with --head.")
        scores: Tensor = self.head(hidden)
        return scores

    def valid_frames(self, valid: Tensor) -> Tensor:
        """Windows that lie wholly in the first `valid` samples, at least one.

        Args:
            valid: [batch] int64 samples.

        Returns:
            [batch] int64 frames.
        """
        return torch.div(valid, self.config.window, rounding_mode="floor").clamp(min=1)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:
        """Embed every whole window; audio shorter than one is padded with zeros, a shorter tail is dropped.

        Args:
            input_values: [batch, samples] (or CLMR's [batch, 1, samples]) waveform in [-1, 1] at `config.sample_rate`.
            attention_mask: [batch, samples] 1 for sound, 0 for padding, which is silenced.
            output_hidden_states: also return `hidden_states`, one entry, the same as `last_hidden_state`.
            return_dict: False returns a tuple.

        Returns:
            `last_hidden_state`: [batch, windows, dim].

        Raises:
            ValueError: a waveform of another shape.
        """
        if input_values.dim() == 3 and input_values.shape[1] == 1:
            input_values = input_values.squeeze(1)
        if input_values.dim() != 2:
            raise ValueError(
                f"SampleCNN takes a mono waveform [batch, samples], not {list(input_values.shape)}; "
                "mix the channels first."
            )
        if attention_mask is not None:
            input_values = input_values * attention_mask.to(input_values.dtype)
        windows = self._windows(input_values)
        batch, count = input_values.shape[0], windows.shape[1]
        state = self._embed(windows.reshape(batch * count, 1, -1)).reshape(batch, count, self.dim)
        hidden_states = (state,) if output_hidden_states or self.config.output_hidden_states else None
        if return_dict is False:
            return (state,) if hidden_states is None else (state, hidden_states)  # type: ignore[return-value]
        return BaseModelOutput(last_hidden_state=state, hidden_states=hidden_states)

    def _windows(self, waveform: Tensor) -> Tensor:
        """[batch, samples] -> [batch, windows, window]: whole windows, at least one."""
        window, samples = self.config.window, waveform.shape[1]
        if _exporting():  # a graph takes every length by the same steps
            count = torch.sym_max(1, samples // window)
            padded = nn.functional.pad(waveform, (0, window))
            return padded[:, : count * window].reshape(-1, count, window)
        if samples < window:
            waveform = nn.functional.pad(waveform, (0, window - samples))
        return waveform.unfold(1, window, window)

    def _embed(self, windows: Tensor) -> Tensor:
        """[windows, 1, samples] -> [windows, dim]; a long track goes in portions, unless in training."""
        # batch norm must see all windows of a batch at once while it trains or is calibrated
        frozen = not torch.is_grad_enabled() and not any(module.training for module in self.modules())
        frozen = frozen and not _exporting()  # a graph knows no number of windows
        portions = windows.split(WINDOWS_AT_ONCE) if frozen else (windows,)
        dtype = next(self.sequential.parameters()).dtype
        return torch.cat([self.sequential(portion.to(dtype)).flatten(1) for portion in portions])
