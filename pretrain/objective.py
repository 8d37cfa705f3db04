"""The contract of what trains: an `Objective` is an `nn.Module` whose `forward(batch, step)` returns a `Loss`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass

from ..models.beats import BeatsBlock
from ..models.transformer import Block

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..data.batch import Batch
    from ..data.track import Manifest


BLOCKS = (Block, BeatsBlock)


class TrainingStopped(ValueError):
    """Going on would waste the machine: labels carry no information, the loss is no number. The sentence says which."""


@dataclass
class Loss:
    """What one forward pass says.

    value: [] the mean over everything that was predicted in this micro-batch on this rank, with gradient, float32.
    weight: [] how many things (masked frames, pairs) stand behind that mean. The trainer combines micro-batches and
        ranks as sum(value · weight) / sum(weight), so that any division of a batch gives the same gradient. A
        micro-batch with nothing to predict has value 0 (attached to the graph) and weight 0.
    metrics: detached scalars to log; they are combined by the same weights.
    """

    value: Tensor
    weight: Tensor
    metrics: dict[str, Tensor | float] = field(default_factory=dict)


register_dataclass(Loss)  # FSDP looks into what `forward` returns for what the backward pass begins with


class Objective(nn.Module):
    """Something to learn. Subclasses set `encoder` and write `forward`; the rest has defaults.

    Parameters and buffers are state: optimised (where they require gradients), saved and restored. A frozen teacher is
    no state: keep it in a plain tuple attribute (`self._teacher = (model,)`), where `nn.Module` doesn't see it, and
    move it in `place`. An EMA teacher or a codebook is state: buffers, or parameters with `requires_grad=False`.

    Random draws are functions of `self.seed`, the step and `batch.index` (:func:`draw_seeds`), so that the number of
    ranks and an interruption change nothing. What draws from torch's global generator (dropout) is seeded by the
    trainer before each micro-batch.
    """

    encoder: PreTrainedModel  # what gets published
    seed: int = 0  # the run's seed; the trainer sets it
    logs: bool = True  # whether this step's metrics will be written; the trainer sets it, costly ones may follow it

    def forward(self, batch: Batch, step: int) -> Loss:
        """One micro-batch of this rank at `step` (0 is the first) -> its loss."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(batch, step)")

    def heard(self, manifest: Manifest) -> Manifest:
        """The tracks of `manifest` that are trained on, all unless told otherwise. Called once, after `build`."""
        return manifest

    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Make what must exist before training (a tokenizer, say) under `run`. Called once after `build`, on all ranks.

        To train something, call `train` with a run folder under `run`: all ranks take part. What one process should
        write goes under `with distributed.main_first():`, so that the others find it done and load it. The same run
        folder is prepared again when it resumes: what is there already is loaded.
        """

    def stand_in(self) -> None:
        """Invent what `prepare` would read from data (heads for labels, say), so that a step's cost can be counted."""

    def encoder_loaded(self) -> None:
        """Follow an encoder whose weights came from elsewhere (`--init`): EMA teachers begin as it. After `build`."""

    def place(self, device: torch.device) -> None:
        """Move what is no state (frozen teachers) to `device`. Called once, after `prepare`."""

    def after_step(self, step: int) -> None:
        """Follow the weights after the optimiser's step (EMA teachers, codebooks); no gradient is recorded.

        Every rank must do the same here: torch's generator is seeded alike on all of them.
        """

    def compile_encoder(self) -> None:
        """Compile what takes the time (`--compile`); an objective that calls other methods compiles those."""
        self.encoder.compile()

    def lr_scale(self, name: str) -> float:
        """The learning rate of a parameter, by its name in this module, over the recipe's."""
        return 1.0

    def provenance(self) -> dict[str, Any]:
        """What else decides the result and belongs into `recipe.json`: hashes of teachers, say. JSON-able."""
        return {}

    @property
    def _no_split_modules(self) -> list[str]:
        """The blocks that FSDP gathers one after the other, as Accelerate asks for them: classes by name."""
        return sorted({type(module).__name__ for module in self.modules() if isinstance(module, BLOCKS)})

    @property
    def leaves_unused(self) -> bool:
        """True where a step may leave a trainable parameter without gradient (layer drop): DDP then looks for it."""
        return float(getattr(self.encoder.config, "layerdrop", 0.0) or 0.0) > 0


def example_index(batch: Batch) -> Tensor:
    """A number for every view of every example, int64 [batch · views]: what its random draws are a function of."""
    views = batch.waveform.shape[1]
    return (batch.index[:, None] * views + torch.arange(views, device=batch.index.device)).flatten()
