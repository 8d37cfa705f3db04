"""Joint: several objectives on one encoder, each with its weight; one encoder is published.

Crops of a track teach what a track is, masked frames what a moment is; MT² (arXiv:2507.12996) and ViT-1D
(arXiv:2506.23873) read both out of one network. Each part is an objective as it stands in its own file, with its own
loss, targets and draws; what they share are the weights of one encoder and the crops, so all parts hear the same sound.
Each part's share of the gradient is logged, since a term that has none teaches nothing, however large its value is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...data.crops import CropConfig
from ..distributed import all_reduce_sum, divided
from ..objective import Loss, Objective, ObjectiveConfig
from ..recipe import Optim, Recipe
from . import contrastive, descriptors
from .parts.cqt_shape import CqtShape
from .parts.picture_augment import PictureAugment

if TYPE_CHECKING:
    from ...data.batch import Batch
    from ...data.track import Manifest


@dataclass(frozen=True)
class Part:
    """One of the objectives."""

    name: str
    """before its metrics, and before its weights in checkpoints; no dots"""
    objective: Any
    """its configuration; its encoder must be the others'"""
    weight: float = 1.0
    """multiplies its loss"""

    def __post_init__(self) -> None:
        """Names are of modules."""
        if not self.name.isidentifier() or not self.weight > 0:
            raise ValueError(f"A part is {self.name!r} with weight {self.weight}: a plain word, and more than 0.")


@dataclass(frozen=True)
class JointConfig(ObjectiveConfig):
    """Configuration."""

    parts: tuple[Part, ...]
    """what is learned at once"""
    share_every: int = 50
    """steps between measurements of each part's share of the gradient"""

    def __post_init__(self) -> None:
        """Two or more, by different names."""
        names = [part.name for part in self.parts]
        if len(names) < 2 or len(set(names)) < len(names):
            raise ValueError(f"The parts are {', '.join(names) or 'none'}: at least two, each with a name of its own.")
        if self.share_every < 1:
            raise ValueError(f"share_every is {self.share_every}: a number of steps of at least 1.")

    def cautions(self, micro_batches: int) -> list[str]:
        """All parts' own."""
        return [sentence for part in self.parts for sentence in part.objective.cautions(micro_batches)]

    def stand_in(self, folder: Path, crop_samples: int) -> tuple[JointConfig, str]:
        """Each part's own."""
        found = [part.objective.stand_in(folder / part.name, crop_samples) for part in self.parts]
        parts = tuple(dataclasses.replace(part, objective=made) for part, (made, _) in zip(self.parts, found))
        return dataclasses.replace(self, parts=parts), " ".join(said for _, said in found if said)

    def build(self) -> Joint:
        """Draw fresh weights; the encoder is the first part's."""
        return Joint(self)


class Joint(Objective):
    """The weighted sum of the parts' losses.

    Its weight counts crops, and a part's loss is a sum over what it predicts, divided by the number of crops and by how
    much it predicts of a crop (`usual`, counted on all ranks when the first step is heard). So micro-batches and ranks
    combine exactly, and where all crops are alike it is the part's own mean.
    """

    encoder: Any
    usual: Tensor

    def __init__(self, config: JointConfig) -> None:
        super().__init__()
        self.config = config
        self.parts = nn.ModuleDict({part.name: part.objective.build() for part in config.parts})
        first, *others = self._parts()
        self.encoder = first.encoder
        for said, other in zip(config.parts[1:], others, strict=True):
            mine, theirs = shapes(self.encoder), shapes(other.encoder)
            if mine != theirs:
                raise ValueError(
                    f"The part {said.name!r} brings another encoder than {config.parts[0].name!r} "
                    f"({type(other.encoder).__name__}, {difference(mine, theirs)}): give all parts the same."
                )
        trainable = {
            name for part in self._parts() for name, weight in part.encoder.named_parameters() if weight.requires_grad
        }
        self.fixed = tuple(name for part in self._parts() for name in part.fixed)
        for name, weight in self.encoder.named_parameters():
            weight.requires_grad_(name in trainable and name not in self.fixed)
        for part in self._parts():
            share(part, self.encoder)
        self.register_buffer("usual", torch.zeros(len(config.parts)))
        self._seen: tuple[Tensor, int] | None = None  # `usual` as it was when it held counts, and its version then
        self._pass_on_settings()

    def _parts(self) -> list[Objective]:
        return list(self.parts.values())  # type: ignore[arg-type]

    def _pass_on_settings(self) -> None:
        """The trainer sets these on the whole."""
        for part in self._parts():
            part.seed, part.logs = self.seed, self.logs

    def forward(self, batch: Batch, step: int) -> Loss:
        """Every part's loss on the same crops."""
        self._pass_on_settings()
        crops = torch.full((), float(batch.valid.numel()), device=batch.waveform.device)
        losses = [part(batch, step) for part in self._parts()]
        terms: dict[str, Tensor] = {}
        metrics: dict[str, Tensor | float] = {}
        shares = self._counted(torch.stack([loss.weight.float() for loss in losses]), crops)
        for said, loss, counted in zip(self.config.parts, losses, shares, strict=True):
            terms[said.name] = said.weight * counted * loss.value
            metrics[f"{said.name}/loss"] = (counted * loss.value).detach()
            metrics |= {f"{said.name}/{name}": value for name, value in loss.metrics.items()}
        value = torch.stack(list(terms.values())).sum()
        if self.logs and (step + 1) % self.config.share_every == 0 and value.requires_grad:
            metrics |= self._shares(terms)
        return Loss(value, crops, metrics)

    @torch.no_grad()
    def _counted(self, counts: Tensor, crops: Tensor) -> Tensor:
        """[parts] how much each predicts of these crops over what is usual; counts: [parts].

        Whether that is known is asked once, and again where a state was loaded: the answer waits for the device.
        """
        seen = self._seen
        if seen is None or seen[0] is not self.usual or seen[1] != self.usual._version:
            if not bool(self.usual.any()):
                found = all_reduce_sum(torch.cat([counts, crops[None]]))
                self.usual.copy_((found[:-1] / found[-1]).clamp(min=1e-9))
            self._seen = (self.usual, self.usual._version)
        return counts / (self.usual * crops)

    def _shares(self, terms: dict[str, Tensor]) -> dict[str, Tensor | float]:
        """Each part's share of the gradient: its norm over the last block, over the sum of all parts' norms.

        None where ZeRO-3 or FSDP have divided the weights: a backward pass of its own would find them gone.
        """
        if divided(self):
            return {}
        names = self.encoder._no_split_modules or ()
        blocks = [module for module in self.encoder.modules() if type(module).__name__ in names]
        last = blocks[-1] if blocks else self.encoder
        shared = [weight for weight in last.parameters() if weight.requires_grad]
        norms = {
            name: torch.stack(
                [
                    part.float().norm()
                    for part in torch.autograd.grad(term, shared, retain_graph=True, allow_unused=True)
                    if part is not None
                ]
                or [term.new_zeros(())]
            ).norm()
            for name, term in terms.items()
        }
        total = torch.stack(list(norms.values())).sum().clamp(min=1e-30)
        return {f"{name}/gradient_share": (norm / total).detach() for name, norm in norms.items()}

    def heard(self, manifest: Manifest) -> Manifest:
        """What every part trains on."""
        for part in self._parts():
            manifest = part.heard(manifest)
        return manifest

    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Every part in a folder of its own."""
        self._pass_on_settings()
        for said, part in zip(self.config.parts, self._parts(), strict=True):
            part.prepare(manifest, run / said.name)

    def prepare_for_counting(self) -> None:
        """Every part."""
        for part in self._parts():
            part.prepare_for_counting()

    def encoder_loaded(self) -> None:
        """Every part's teacher begins as the encoder."""
        for part in self._parts():
            part.encoder_loaded()

    def place(self, device: torch.device) -> None:
        """Every part's teachers."""
        for part in self._parts():
            part.place(device)

    def compiled_parts(self) -> list[nn.Module]:
        """Every part's, what they share once."""
        return list({id(module): module for part in self._parts() for module in part.compiled_parts()}.values())

    def after_step(self, step: int) -> None:
        """Every part's teachers and codebooks."""
        for part in self._parts():
            part.after_step(step)

    def lr_scale(self, name: str) -> float:
        """A part's own word about its own parameters, the first part's about the encoder."""
        if name.startswith("parts."):
            _, part, rest = name.split(".", 2)
            return next(p for said, p in zip(self.config.parts, self._parts()) if said.name == part).lr_scale(rest)
        return self._parts()[0].lr_scale(name)

    def provenance(self) -> dict[str, Any]:
        """Every part's, by name."""
        found = {said.name: part.provenance() for said, part in zip(self.config.parts, self._parts())}
        return {name: known for name, known in found.items() if known}

    def teachers(self) -> Iterator[nn.Module]:
        """Every part's, but not the encoder that they share."""
        return (teacher for teacher in super().teachers() if teacher is not self.encoder)


def share(part: Objective, encoder: nn.Module) -> None:
    """Let a part hear through an encoder that isn't its own: known to it, and no part of its state.

    Its teacher begins as that encoder.
    """
    part._modules.pop("encoder")
    part.__dict__["encoder"] = encoder
    part.encoder_loaded()


def shapes(encoder: Any) -> dict[str, Any]:
    """What two encoders must have in common: the class, and what its configuration says."""
    told = {name: value for name, value in encoder.config.to_dict().items() if not name.startswith("_")}
    return {"class": type(encoder).__name__, **told}


def difference(mine: dict[str, Any], theirs: dict[str, Any]) -> str:
    """The first name by which two encoders differ, with both values."""
    name = next(name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name))
    return f"{name} is {theirs.get(name)}, not {mine.get(name)}"


def _of(described: Recipe, contrasted: Recipe, shape: CqtShape, weight: float) -> tuple[Part, Part]:
    """Descriptions of frames and contrast of crops, both on one shape."""
    frames = dataclasses.replace(described.objective, network=shape)
    tracks = dataclasses.replace(contrasted.objective, encoder=shape)
    return Part("frames", frames), Part("tracks", tracks, weight)


def pase_myna_tiny() -> Recipe:
    """Descriptions for frames, masked crop contrast for tracks, on one transformer of 4 blocks of 384.

    groundbass pretrain joint.pase_myna_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    shape = CqtShape(
        stem="patches", trunk="transformer", hidden_size=384, num_hidden_layers=4, intermediate_size=768, dropout=0.0,
        described=True,
    )  # fmt: skip
    described, contrasted = descriptors.pase_tiny(), contrastive.myna_tiny()
    return dataclasses.replace(
        described,
        objective=JointConfig(_of(described, contrasted, shape, 0.2)),
        crops=CropConfig(sample_rate=24_000, crop_samples=96_000, views=2, align=960),
        optim=Optim(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02, warmup_steps=20, decay="cosine", clip=5.0),
        steps=200,
        batch_size=16,
    )


def pase_myna_debug() -> Recipe:
    """Both in miniature: one block of 16.

    groundbass pretrain joint.pase_myna_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    contrasted = contrastive.myna_debug()
    described = descriptors.pase_debug()
    frames = dataclasses.replace(described.objective, pictures=PictureAugment(semitones=2))
    described = dataclasses.replace(described, objective=frames)
    parts = _of(described, contrasted, contrasted.objective.encoder, 0.5)
    return dataclasses.replace(contrasted, objective=JointConfig(parts, share_every=2))
