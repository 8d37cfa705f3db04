"""Residual quantisers of stacked log-mel frames, publishable: four log-mel frames side by side are one encoder frame.

`MelQuantizer` is small: a linear map takes a frame to a space of 64, where codebook after codebook quantises what the
ones before left over; its codebooks are float32 buffers that follow the data by exponential averages.
`MuqQuantizer` is MuQ's Mel-RVQ (Zhu et al. 2025): each codebook has a projection to 16 and back of its own, looks for
the code of the most alike direction, and leaves its residual in the full space; all of it is trained by gradients.
`pretrain/objectives/tokenizer.py` trains both.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from transformers import PretrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput

from .frontends import Compression, Edges, LogMel, MelScale

FLOOR = -40.0
"""dB of mel power. A full-scale sine has about 54, 16-bit rounding -65: a file's word length shall be no label."""


class MelQuantizerConfig(PretrainedConfig):
    """Configuration of :class:`MelQuantizer`."""

    model_type = "groundbass_mel_quantizer"

    sample_rate: int = 24_000
    """Hz."""
    hop: int = 960
    """Samples per encoder frame."""
    stack: int = 4
    """Log-mel frames per encoder frame; the mel hop is hop / stack."""
    mels: int = 128
    """Mel bins, 0 Hz to half the sample rate, HTK scale."""
    window: int = 2048
    """Samples of the Hann window (and FFT)."""
    latent: int = 64
    """Width of the quantised space."""
    codebooks: int = 8
    """Quantisers in the residual chain."""
    codebook_size: int = 1024
    """Codes in each."""


class StackedMel(nn.Module):
    """Waveform → normalised log-mel frames in dB, `stack` of them side by side per encoder frame.

    Frame k holds the mel frames centred on samples k × hop + j × hop / stack, j < stack; there are samples // hop.
    Mean and deviation of each mel bin are buffers and travel with the weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        sample_rate: int,
        hop: int,
        stack: int = 4,
        mels: int = 128,
        window: int = 2048,
        edges: Edges = "zeros",
        floor: float = FLOOR,
        scale: MelScale = "htk",
        compress: Compression = "decibels",
    ) -> None:
        super().__init__()
        if hop % stack:
            raise ValueError(f"A frame of {hop} samples doesn't divide into {stack} mel frames: choose another stack.")
        self.hop, self.stack, self.floor = hop, stack, floor
        self.log_mel = LogMel(
            sample_rate, window, hop // stack, mels, scale=scale, area_norm=scale == "slaney", edges=edges,
            compress=compress,
        )  # fmt: skip
        self.register_buffer("mean", torch.full((mels,), 6.768))  # MusicFM's of FMA, until they are measured
        self.register_buffer("deviation", torch.full((mels,), 18.418))

    def forward(self, waveform: Tensor) -> Tensor:
        """Compute normalised frames [batch, samples // hop, stack × mels] of [batch, samples] in [-1, 1], float32."""
        whole = waveform[:, : waveform.shape[1] // self.hop * self.hop]
        mel = (self.decibels(whole) - self.mean) / self.deviation
        return mel.unflatten(1, (-1, self.stack)).flatten(2)

    def decibels(self, waveform: Tensor) -> Tensor:
        """Compute compressed mel power [batch, samples × stack // hop, mels], no lower than the floor."""
        mel: Tensor = self.log_mel(waveform)
        return mel.clamp(min=self.floor)

    @torch.no_grad()
    def measure_as(self, mean: float, deviation: float) -> None:
        """Normalise all bins by one pair of numbers."""
        self.mean.fill_(mean)
        self.deviation.fill_(deviation)

    @torch.no_grad()
    def measure(self, mel: Tensor, together: bool = False) -> None:
        """Take mean and deviation per bin, or one pair for all of them `together`, from mel frames [frames, mels]."""
        least = 1.0 if self.log_mel.compress == "decibels" else 0.05
        self.mean.copy_(mel.mean() if together else mel.mean(0))
        self.deviation.copy_((mel.std() if together else mel.std(0)).clamp(min=least))


class ResidualQuantizer(nn.Module):
    """Codebooks [codebooks, codes, dim] as float32 buffers, each quantising what the ones before left over."""

    codebooks: Tensor

    def __init__(self, codebooks: int, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.randn(codebooks, codes, dim) / math.sqrt(dim))

    @torch.no_grad()
    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise latent [n, dim].

        Returns codes int64 [n, codebooks], the sum of their codewords [n, dim], and residuals [codebooks, n, dim]:
        residuals[k] is what codebook k saw.
        """
        residual = latent.float()
        codes, residuals = [], []
        for codewords in self.codebooks.float():
            nearest = (codewords.square().sum(1) - 2 * residual @ codewords.T).argmin(1)
            residuals.append(residual)
            residual = residual - codewords[nearest]
            codes.append(nearest)
        return torch.stack(codes, 1), latent.float() - residual, torch.stack(residuals)


class MelQuantizer(PreTrainedModel):
    """Waveform → codes: stacked log-mel, a linear map, a residual quantiser; and a linear map back for training."""

    config_class = MelQuantizerConfig
    main_input_name = "input_values"

    def __init__(self, config: MelQuantizerConfig) -> None:
        super().__init__(config)
        width = config.stack * config.mels
        self.features = StackedMel(config.sample_rate, config.hop, config.stack, config.mels, config.window)
        self.project = nn.Linear(width, config.latent)
        self.quantizer = ResidualQuantizer(config.codebooks, config.codebook_size, config.latent)
        self.reconstruct = nn.Linear(config.latent, width)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill the mel tables, which Hugging Face's loading leaves empty; layers keep their own initialisation."""
        if isinstance(module, LogMel):
            for name, table in module.tables().items():
                init.copy_(getattr(module, name), table)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self.config.sample_rate)

    @property
    def frame_rate(self) -> float:
        """Frames per second: sample_rate / hop."""
        return float(self.config.sample_rate / self.config.hop)

    @property
    def dim(self) -> int:
        """Width of a hidden state."""
        return int(self.config.latent)

    @property
    def layers(self) -> int:
        """Hidden states that the model offers: the quantised frames."""
        return 1

    def valid_frames(self, valid: Tensor) -> Tensor:
        """Count the frames of valid samples, both int64 [batch]: valid // hop."""
        return valid // int(self.config.hop)

    def _quantize(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Codes [batch, frames, codebooks] and quantised frames [batch, frames, latent], float32 whatever the dtype."""
        features: Tensor = self.features(waveform)
        # torch.export can't take autocast around the quantiser's no_grad; and it has no autocast to switch off.
        # torch.compile, which calls itself exporting too, takes it and needs it off.
        exporting = torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()
        with nullcontext() if exporting else torch.autocast(waveform.device.type, enabled=False):
            latent = F.linear(features, self.project.weight.float(), self.project.bias.float())
            codes, quantised, _ = self.quantizer.quantize(latent.flatten(0, 1))
        return codes.unflatten(0, latent.shape[:2]), quantised.view_as(latent)

    @torch.no_grad()
    def codes(self, waveform: Tensor) -> Tensor:
        """Tokenise waveform [batch, samples] in [-1, 1]: int64 [batch, samples // hop, codebooks]."""
        return self._quantize(waveform)[0]

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Quantise [batch, samples]: last_hidden_state [batch, samples // hop, latent]; padding is set to silence."""
        sound = input_values if attention_mask is None else input_values * attention_mask.to(input_values.dtype)
        hidden = self._quantize(sound)[1].to(self.project.weight.dtype)
        output = BaseModelOutput(last_hidden_state=hidden, hidden_states=(hidden,) if output_hidden_states else None)
        return output if return_dict is not False else output.to_tuple()


class MuqQuantizerConfig(PretrainedConfig):
    """Configuration of :class:`MuqQuantizer`; the defaults are MuQ's."""

    model_type = "groundbass_muq_quantizer"

    sample_rate: int = 24_000
    """Hz."""
    hop: int = 960
    """Samples per encoder frame."""
    stack: int = 4
    """Log-mel frames per encoder frame; the mel hop is hop / stack."""
    mels: int = 128
    """Mel bins, 0 Hz to half the sample rate, HTK scale."""
    window: int = 2048
    """Samples of the Hann window (and FFT)."""
    mel_mean: float = 6.7684
    """dB subtracted, one number for all bins."""
    mel_std: float = 18.4179
    """dB divided by."""
    latent: int = 16
    """Width of a codebook's space."""
    codebooks: int = 8
    """Quantisers in the residual chain."""
    codebook_size: int = 1024
    """Codes in each."""


class FactorisedCodebook(nn.Module):
    """One codebook of the chain: down to `latent`, the code of the most alike direction, back up (Yu et al. 2022)."""

    def __init__(self, width: int, latent: int, codes: int) -> None:
        super().__init__()
        self.down = parametrizations.weight_norm(nn.Linear(width, latent))
        self.up = parametrizations.weight_norm(nn.Linear(latent, width))
        self.codewords = nn.Parameter(torch.randn(codes, latent))

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Quantise residual [n, width].

        Returns codes int64 [n]; what they stand for in the full space [n, width], whose gradient goes straight through
        to the projection down; the projection [n, latent]; and the codewords [n, latent].
        """
        latent = self.down(residual)
        codes = (latent @ F.normalize(self.codewords, dim=-1).T).argmax(-1)
        words = F.embedding(codes, self.codewords)
        return codes, self.up(latent + (words - latent).detach()), latent, words


class MuqQuantizer(PreTrainedModel):
    """Waveform → codes: stacked log-mel of one normalisation, a chain of factorised codebooks."""

    config_class = MuqQuantizerConfig
    main_input_name = "input_values"

    def __init__(self, config: MuqQuantizerConfig) -> None:
        super().__init__(config)
        width = config.stack * config.mels
        self.features = StackedMel(
            config.sample_rate, config.hop, config.stack, config.mels, config.window, edges="reflect", floor=-100.0
        )
        self.features.measure_as(config.mel_mean, config.mel_std)
        self.chain = nn.ModuleList(
            FactorisedCodebook(width, config.latent, config.codebook_size) for _ in range(config.codebooks)
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fill the mel tables, which Hugging Face's loading leaves empty; layers keep their own initialisation."""
        if isinstance(module, LogMel):
            for name, table in module.tables().items():
                init.copy_(getattr(module, name), table)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self.config.sample_rate)

    @property
    def frame_rate(self) -> float:
        """Frames per second: sample_rate / hop."""
        return float(self.config.sample_rate / self.config.hop)

    @property
    def dim(self) -> int:
        """Width of a hidden state."""
        return int(self.config.stack * self.config.mels)

    @property
    def layers(self) -> int:
        """Hidden states that the model offers: the quantised frames."""
        return 1

    def valid_frames(self, valid: Tensor) -> Tensor:
        """Count the frames of valid samples, both int64 [batch]: valid // hop."""
        return valid // int(self.config.hop)

    @torch.no_grad()
    def codes(self, waveform: Tensor) -> Tensor:
        """Tokenise waveform [batch, samples] in [-1, 1]: int64 [batch, samples // hop, codebooks]."""
        with torch.autocast(waveform.device.type, enabled=False):
            frames: Tensor = self.features(waveform)
            found = self.lookup(frames.flatten(0, 1))
        return found.unflatten(0, frames.shape[:2])

    def lookup(self, frames: Tensor) -> Tensor:
        """Codes int64 [n, codebooks] of normalised frames [n, width]: the chain's, without its width.

        All frames are projected down for all codebooks at once. What an earlier code takes away from a later codebook's
        projection is a table (the later projection of the earlier codewords), so nothing of the full width is computed
        between two look-ups.
        """
        chain: list[FactorisedCodebook] = list(self.chain)  # type: ignore[arg-type]
        down = torch.stack([book.down.weight.float() for book in chain])  # [codebooks, latent, width]
        books, latent, _ = down.shape
        waiting = F.linear(frames, down.flatten(0, 1)).unflatten(1, (books, latent))
        waiting = waiting + torch.stack([book.down.bias.float() for book in chain])
        codes = []
        for number, book in enumerate(chain):
            found = (waiting[:, number] @ F.normalize(book.codewords.float(), dim=-1).T).argmax(-1)
            codes.append(found)
            if number + 1 < books:
                taken = F.linear(book.codewords.float(), book.up.weight.float(), book.up.bias.float())
                table = F.linear(taken, down[number + 1 :].flatten(0, 1))
                waiting[:, number + 1 :] -= F.embedding(found, table).unflatten(1, (books - number - 1, latent))
        return torch.stack(codes, 1)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Quantise [batch, samples]: last_hidden_state [batch, samples // hop, width]; padding is set to silence."""
        sound = input_values if attention_mask is None else input_values * attention_mask.to(input_values.dtype)
        frames: Tensor = self.features(sound)
        residual = frames.flatten(0, 1).to(next(self.parameters()).dtype)
        quantised = torch.zeros_like(residual)
        for book in self.chain:
            part = book(residual)[1]
            residual, quantised = residual - part, quantised + part
        hidden = quantised.view_as(frames)
        output = BaseModelOutput(last_hidden_state=hidden, hidden_states=(hidden,) if output_hidden_states else None)
        return output if return_dict is not False else output.to_tuple()


MelQuantizerConfig.register_for_auto_class()
MelQuantizer.register_for_auto_class("AutoModel")
MuqQuantizerConfig.register_for_auto_class()
MuqQuantizer.register_for_auto_class("AutoModel")
