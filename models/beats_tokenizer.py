"""BEATs' acoustic tokenizers: one code per 16 × 16 patch, what masked prediction predicts.

`RandomProjectionPatches` gives the codes of iteration 1: frozen random maps and codewords. `BeatsQuantizer` is the
self-distilled one of later iterations: an encoder of its own, a small projection, the nearest of 1,024 l2-normalised
codewords; `pretrain/objectives/tokenizer.py` trains it. This file is published with the models.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .beats import BeatsConfig, BeatsModel, init_weights


def patches(fbank: Tensor, size: int) -> Tensor:
    """Cut a filter bank [batch, frames, mel_bins] into patches [batch, tokens, size²], time-major.

    Frames of a last row of patches that isn't whole are dropped.
    """
    batch, frames, bins = fbank.shape
    rows = frames // size
    cut = fbank[:, : rows * size].reshape(batch, rows, size, bins // size, size)
    return cut.transpose(2, 3).reshape(batch, rows * (bins // size), size * size)


def nearest(points: Tensor, codewords: Tensor) -> Tensor:
    """Index of the nearest codeword, int64 [...], for points [..., dim] and codewords [codes, dim]; in float32."""
    points, codewords = points.float(), codewords.float()
    return (codewords.square().sum(-1) - 2 * points @ codewords.T).argmin(-1)


class RandomProjectionPatches(nn.Module):
    """Codes of iteration 1: two frozen random maps of a patch, and the nearest of random codewords.

    Everything is drawn from `seed`, apart from the model's weights. The paper doesn't publish the normalisation; as in
    ESPnet's rebuild, a patch is embedded, brought to zero mean and unit variance over the embedding (its own level
    stays in), projected, and normalised again. Here directions are compared (both sides l2-normalised, as in BEST-RQ):
    of Gaussian codewords that aren't normalised the short ones win, and about half are never used.

    Args:
        patch_size: frames and bins of a patch.
        codes: size of the codebook.
        dim: width of projections and codewords.
        seed: of maps and codewords.
        embedding: width of the first map.
    """

    embed: Tensor
    projection: Tensor
    codewords: Tensor

    def __init__(self, patch_size: int, codes: int = 1024, dim: int = 256, seed: int = 0, embedding: int = 512) -> None:
        super().__init__()
        self.patch_size = patch_size
        draw = torch.Generator().manual_seed(seed)
        width = patch_size * patch_size
        with torch.device("cpu"):  # the same numbers wherever the model is built
            embed = torch.randn(width, embedding, generator=draw) * (2.0 / (width + embedding)) ** 0.5
            projection = torch.randn(embedding, dim, generator=draw) * (2.0 / (embedding + dim)) ** 0.5
            codewords = F.normalize(torch.randn(codes, dim, generator=draw), dim=-1)
        for name, table in (("embed", embed), ("projection", projection), ("codewords", codewords)):
            self.register_buffer(name, table, persistent=False)

    @torch.no_grad()
    def codes(self, fbank: Tensor) -> Tensor:
        """Codes int64 [batch, tokens] of a normalised filter bank [batch, frames, mel_bins]."""
        with torch.autocast(fbank.device.type, enabled=False):
            embedded = patches(fbank.float(), self.patch_size) @ self.embed
            projected = F.layer_norm(embedded, embedded.shape[-1:]) @ self.projection
            projected = F.layer_norm(projected, projected.shape[-1:])
            return nearest(F.normalize(projected, dim=-1), self.codewords)


class BeatsQuantizerConfig(PretrainedConfig):
    """Configuration of `BeatsQuantizer`."""

    model_type = "groundbass_beats_tokenizer"

    encoder: dict[str, Any] = field(default_factory=dict)
    """Fields of the encoder's `BeatsConfig`, as a dictionary."""
    codes: int = 1024
    """Size of the codebook."""
    code_dim: int = 256
    """Width of a codeword."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.encoder = dict(self.encoder or {})
        self.sample_rate = self.beats().sample_rate

    def beats(self) -> BeatsConfig:
        """The encoder's configuration."""
        return BeatsConfig(**self.encoder)


class CodebookQuantizer(nn.Module):
    """L2-normalised codewords as a float32 buffer [codes, dim], and the nearest of them."""

    codewords: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codewords", F.normalize(torch.randn(codes, dim), dim=-1))

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise latent [..., dim]: l2-normalised latent, its codeword (both [..., dim] float32), code [...]."""
        with torch.autocast(latent.device.type, enabled=False):
            direction = F.normalize(latent.float(), dim=-1)
            code = nearest(direction.detach(), self.codewords)
            return direction, F.embedding(code, self.codewords.float()), code


class BeatsQuantizer(PreTrainedModel):
    """Waveform to one code per patch: an encoder, Linear-Tanh-Linear, the nearest codeword."""

    config_class = BeatsQuantizerConfig
    config: BeatsQuantizerConfig
    base_model_prefix = "beats_tokenizer"
    main_input_name = "input_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: BeatsQuantizerConfig) -> None:
        super().__init__(config)
        self.beats = BeatsModel(config.beats())
        width = self.beats.config.hidden_size
        self.quantize_layer = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.code_dim)
        )  # fmt: skip
        self.quantizer = CodebookQuantizer(config.codes, config.code_dim)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        init_weights(module)

    @property
    def frame_rate(self) -> float:
        """Time steps per second, in Hz."""
        return self.beats.frame_rate

    @property
    def dim(self) -> int:
        """Width of a hidden state: of a codeword."""
        return self.config.code_dim

    @property
    def layers(self) -> int:
        """Hidden states that the model offers: the codewords."""
        return 1

    @property
    def bands(self) -> int:
        """Tokens of one time step; an encoder averages them."""
        return self.beats.bands

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] int64 valid samples to [batch] int64 time steps of valid samples only."""
        return self.beats.valid_frames(valid)

    def latent(self, fbank: Tensor, mask: Tensor | None = None) -> Tensor:
        """What is quantised: [batch, tokens, code_dim], for a normalised filter bank [batch, frames, mel_bins].

        mask: [batch, tokens] bool, True for valid tokens; None: all.
        """
        hidden = self.beats.encode(self.beats.embed_patches(fbank), mask=mask)[-1]
        found: Tensor = self.quantize_layer(hidden)
        return found

    @torch.no_grad()
    def codes(self, waveform: Tensor, valid: Tensor | None = None) -> Tensor:
        """Tokenise waveform [batch, samples] in [-1, 1], of which `valid` [batch] samples count: int64 [batch, tokens].

        Codes beyond the valid tokens mean nothing.
        """
        fbank = self.beats.fbank(waveform)
        tokens = fbank.shape[1] // self.beats.config.patch_size * self.beats.bands
        mask = None
        if valid is not None:
            mask = torch.arange(tokens, device=fbank.device) < self.beats.valid_patches(valid)[:, None]
        code: Tensor = self.quantizer(self.latent(fbank, mask))[2]
        return code

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Any, ...]:
        """Waveform [batch, samples] to its codewords [batch, tokens, code_dim], as last_hidden_state."""
        fbank = self.beats.fbank(input_values)
        tokens = fbank.shape[1] // self.beats.config.patch_size * self.beats.bands
        _, codewords, _ = self.quantizer(self.latent(fbank, self.beats.token_mask(attention_mask, tokens)))
        hidden = codewords.to(self.dtype)
        output = BaseModelOutput(last_hidden_state=hidden, hidden_states=(hidden,) if output_hidden_states else None)
        return output if return_dict is not False else output.to_tuple()


BeatsQuantizerConfig.register_for_auto_class()
BeatsQuantizer.register_for_auto_class("AutoModel")
