"""The contract of what trains: an `Objective` is an `nn.Module` whose `forward(batch, step)` returns a `Loss`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass
from transformers import PreTrainedModel

if TYPE_CHECKING:
    from ..data.batch import Batch
    from ..data.track import Manifest


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


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of an objective: a frozen dataclass of plain data that builds it."""

    def build(self) -> Objective:
        """The objective, with fresh weights."""
        raise NotImplementedError(f"{type(self).__name__} has no build()")

    def stand_in(self, folder: Path, crop_samples: int) -> tuple[Self, str]:
        """For counting what a step costs, where teachers can't be had: settings that name stand-ins of the same shape.

        They have random weights and are written to `folder`. Also a sentence about them; empty where nothing is needed.
        """
        return self, ""

    def cautions(self, micro_batches: int) -> list[str]:
        """Sentences that a run, `--dry-run` and `groundbass plan` say about these settings.

        What `micro_batches` per step change besides the time, and what costs time that needn't be.
        """
        return []


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
    fixed: tuple[str, ...] = ()  # weights of the encoder that stay as they are, also where others train it beside this
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

    def prepare_for_counting(self) -> None:
        """Load what `forward` needs, without data: what `prepare` fits to audio is left out."""

    def encoder_loaded(self) -> None:
        """Follow an encoder whose weights came from elsewhere (`--init`): EMA teachers begin as it. After `build`."""

    def place(self, device: torch.device) -> None:
        """Move what is no state (frozen teachers) to `device`. Called once, after `prepare`."""

    def ahead(self, batch: Batch) -> Batch:
        """The batch as `forward` would change it first, whatever it learns: augmentation, while another is trained on.

        Called on a GPU, in a stream of its own (`--prefetch`); `forward` does it where it hasn't been done
        (`Batch.changed`).
        """
        return batch

    def after_step(self, step: int) -> None:
        """Follow the weights after the optimiser's step (EMA teachers, codebooks); no gradient is recorded.

        Every rank must do the same here: torch's generator is seeded alike on all of them.
        """

    def compiled_parts(self) -> list[nn.Module]:
        """What `--compile` compiles; empty where nothing is worth it.

        A compiled module is one whose `forward` is compiled: parts of which `forward` here calls other methods (the
        encoder, by an objective that hides or leaves out some of what it hears) name the modules inside.
        """
        return [self.encoder]

    def compile_encoder(self) -> None:
        """Compile `compiled_parts`, each alone."""
        for part in self.compiled_parts():
            part.compile()

    validate_every: int = 0  # steps between validations; 0: none
    validates_start: bool = False  # whether what training begins with is validated too, and may be the best
    patience: int = 0  # validations without a better one until the run ends; 0: it never ends by itself

    def validate(self, state: dict[str, Tensor]) -> dict[str, float]:
        """Judge a `state_dict` on tracks that aren't trained on: `score` (higher is better), and what it is made of."""
        raise NotImplementedError(f"{type(self).__name__} has no validate(state)")

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What of a `state_dict` gets published, under its names: the averaged weights, say."""
        return state

    def publish_more(self, state: dict[str, Tensor], run: Path) -> None:
        """Write what is published beside RUN/encoder. `state`: as `published_state` gave it. On rank 0 only."""

    def lr_scale(self, name: str) -> float:
        """The learning rate of a parameter, by its name in this module, over the recipe's."""
        return 1.0

    def provenance(self) -> dict[str, Any]:
        """What else decides the result and belongs into `recipe.json`: hashes of teachers, say. JSON-able."""
        return {}

    @property
    def network(self) -> nn.Module:
        """What takes most of the time and carries the gradient: the encoder, or the one inside a tokenizer."""
        return self.encoder

    def teachers(self) -> Iterator[nn.Module]:
        """The frozen teachers, which modules keep in tuples, out of parameters and state."""
        for module in self.modules():
            for value in vars(module).values():
                for entry in value if isinstance(value, tuple) else ():
                    held = getattr(entry, "model", entry)
                    if isinstance(held, nn.Module):
                        yield held

    def blocks(self) -> list[nn.Module]:
        """The repeated blocks, of whatever model: classes that a model names in `_no_split_modules`."""
        models = [type(module) for module in self.modules() if isinstance(module, PreTrainedModel)]
        named = {name for model in models for name in model._no_split_modules or ()}
        return [module for module in self.modules() if type(module).__name__ in named]

    @property
    def _no_split_modules(self) -> list[str]:
        """The blocks that FSDP gathers one after the other, as Accelerate asks for them: classes by name."""
        return sorted({type(module).__name__ for module in self.blocks()})

    @property
    def leaves_unused(self) -> bool:
        """True where a step may leave a trainable parameter without gradient (layer drop): DDP then looks for it."""
        return float(getattr(self.encoder.config, "layerdrop", 0.0) or 0.0) > 0


def example_index(batch: Batch) -> Tensor:
    """A number for every view of every example, int64 [batch · views]: what its random draws are a function of."""
    return batch.item_numbers()
