"""BEATs' self-distilled tokenizer: codes from which a small estimator can say what a teacher heard.

Chen et al. 2022, arXiv:2212.09058, section 3.2. A tokenizer encoder maps patches to the nearest of l2-normalised
codewords (straight through); a few blocks on top, the estimator, predict the teacher's output from the codewords alone;
the loss is 1 − cosine, plus the distance between latents and their codewords. The teacher is the encoder of the last
iteration, patch by patch, or a fine-tuned model whose logits per clip are predicted. Codewords are no parameters: they
follow the mean of what chose them by exponential averages, summed over ranks, in float32. The recipes are in
`objectives/tokenizer.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn import functional

from ...data.draws import draw_seed, draw_seeds, sent, uniform
from ...models.beats import BeatsModel, BeatsTransformer, init_weights
from ...models.beats_file import load_beats_file
from ...models.beats_tokenizer import BeatsQuantizer, BeatsQuantizerConfig
from ...models.encoder import ModelEncoder, weights_hash
from ...models.transformer import time_mask
from ..distributed import all_reduce_sum, gather, ranks
from ..objective import Loss, Objective, ObjectiveConfig
from ..targets.codes import LabelCounts, histogram
from ..targets.first_crops import first_crops, k_means
from .parts.masking import taken, true_places
from .tokens import BeatsShape, check_front_ends, check_rate, find_published, label_metrics

if TYPE_CHECKING:
    from ...data.batch import Batch
    from ...data.track import Manifest

UNTRAINED = "untrained"
REVIVE = 131  # stream of draws


@dataclass(frozen=True)
class DistillationConfig(ObjectiveConfig):
    """Settings of the self-distilled tokenizer; the defaults are BEATs'."""

    encoder: BeatsShape = field(default_factory=BeatsShape)
    """Of the tokenizer; the teacher has its own."""
    teacher: str = ""
    """A BEATs encoder: a run of `tokens.beats_*`, a published folder, or Microsoft's file (.pt). untrained: a random
    one of the tokenizer's shape, for tests."""
    target: Literal["hidden", "logits"] = "hidden"
    """hidden: the teacher's last hidden state of each patch; logits: its fine-tuned head's, per clip (iter3+)."""
    teacher_dim: int = 768
    """Width of what is predicted: the teacher's hidden size, or its classes."""
    codes: int = 1024
    code_dim: int = 256
    decay: float = 0.99
    """Share of a codeword that a step keeps."""
    commitment: float = 1.0
    """Weight of the mean square distance between latents and their codewords (ESPnet's rebuild takes 10)."""
    estimator_layers: int = 3
    revive_below: float = 0.0
    """A codeword that is chosen less often than this share of the average moves onto a current latent; 0: never, as
    published."""
    revive_every: int = 20
    """Steps between looks for such codewords."""
    first_crops: int = 64
    """Five-second crops on which the codewords start, by k-means."""
    least_entropy: float = 2.0
    """Bits: a codebook that stays below this has collapsed, and the run stops."""
    window: int = 100
    """Steps over which codes are counted."""

    def stand_in(self, folder: Path, crop_samples: int) -> tuple[DistillationConfig, str]:
        """An untrained teacher, where none is named."""
        if self.teacher:
            return self, ""
        said = "An encoder of the tokenizer's shape with random weights stands in for --objective.teacher."
        return replace(self, teacher=UNTRAINED, target="hidden", teacher_dim=self.encoder.hidden_size), said

    def build(self) -> Distillation:
        """Build the objective, with random codewords until `prepare`."""
        return Distillation(self)


class Estimator(nn.Module):
    """Blocks from codewords [batch, tokens, code_dim] to what the teacher says [batch, tokens, teacher_dim]."""

    def __init__(self, config: DistillationConfig) -> None:
        super().__init__()
        shape = config.encoder.config()
        self.project = nn.Linear(config.code_dim, shape.hidden_size)
        self.transformer = BeatsTransformer(shape, config.estimator_layers, conv_pos=0)
        self.predict = nn.Linear(shape.hidden_size, config.teacher_dim)
        self.apply(init_weights)

    def forward(self, codewords: Tensor, mask: Tensor | None) -> Tensor:
        found: Tensor = self.predict(self.transformer(self.project(codewords), mask=mask)[-1])
        return found


class Distillation(Objective):
    """1 − cosine to the teacher's output + commitment; the weight is the number of patches (or clips, for logits)."""

    encoder: BeatsQuantizer
    usage: Tensor

    def __init__(self, config: DistillationConfig) -> None:
        super().__init__()
        self.config = config
        shape = BeatsQuantizerConfig(encoder=asdict(config.encoder), codes=config.codes, code_dim=config.code_dim)
        self.encoder = BeatsQuantizer(shape)
        self.estimator = Estimator(config)
        self.register_buffer("usage", torch.ones(config.codes))
        self.counts = LabelCounts((config.codes,), config.window, config.least_entropy, "tokenizer")
        self._teacher: tuple[BeatsModel, ...] = ()  # in a tuple, out of parameters and state_dict
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, batch: Batch, step: int) -> Loss:
        """Quantise, estimate, compare.

        Raises:
            ValueError: the audio has another sample rate, or crops are shorter than a row of patches.
        """
        model = self.encoder.beats
        check_rate(batch, model.config.sample_rate)
        waveform, valid = batch.by_view()
        with torch.no_grad():
            fbank = model.fbank(waveform)
        total = fbank.shape[1] // model.config.patch_size * model.bands
        inside = time_mask(model.valid_patches(valid), total)
        host_valid, numbers = batch.on_host().by_view()
        sound = time_mask(model.valid_patches(host_valid), total)
        mask = None if bool(sound.all()) else inside
        wanted = self._taught(waveform, mask)

        latent = self.encoder.latent(fbank, mask)
        direction, codewords, codes = self.encoder.quantizer(latent)
        estimate = self.estimator(direction + (codewords - direction).detach(), mask)
        if self.training:
            keys = uniform(draw_seeds(self.seed, numbers, REVIVE), total)[sound]
            found = sent(true_places(sound), direction.device)
            self._note(taken(direction, found), taken(codes, found), sent(keys, direction.device))
        commitment = self._commitment((direction - codewords).float().square().mean(-1), inside)
        cosine, count = self._cosine(estimate.float(), wanted.float(), inside)
        value = 1 - cosine + self.config.commitment * commitment
        metrics = label_metrics(self.counts) | {"cosine": cosine.detach(), "commitment": commitment.detach()}
        return Loss(value, count, metrics)

    def _cosine(self, estimate: Tensor, wanted: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cosine over patches, or over clips for logits, and their number."""
        if self.config.target == "hidden":
            each, counted = functional.cosine_similarity(estimate, wanted, dim=-1), inside
        else:
            number = inside.sum(1, keepdim=True)
            mean = estimate.masked_fill(~inside[..., None], 0.0).sum(1) / number.clamp(min=1)
            each, counted = functional.cosine_similarity(mean, wanted, dim=-1), number[:, 0] > 0
        count = counted.sum()
        return each.masked_fill(~counted, 0.0).sum() / count.clamp(min=1), count

    def _commitment(self, each: Tensor, inside: Tensor) -> Tensor:
        """Mean over patches; for logits over each clip's, then over clips: what the weight counts, as for the cosine.

        each: [batch, tokens], distances; inside: bool [batch, tokens].
        """
        each, number = each.masked_fill(~inside, 0.0), inside.sum(1)
        if self.config.target == "hidden":
            return each.sum() / number.sum().clamp(min=1)
        return (each.sum(1) / number.clamp(min=1)).sum() / (number > 0).sum().clamp(min=1)

    @torch.no_grad()
    def _taught(self, waveform: Tensor, mask: Tensor | None) -> Tensor:
        """What the teacher says: [batch, tokens, dim], or logits [batch, classes]."""
        teacher = self._teacher[0]
        hidden = teacher.encode(teacher.embed_patches(teacher.fbank(waveform)), mask=mask)[-1]
        return hidden if self.config.target == "hidden" else teacher.logits(hidden, mask)

    @torch.no_grad()
    def _note(self, direction: Tensor, codes: Tensor, keys: Tensor) -> None:
        """Keep a micro-batch's statistics until the step: uses, sums, and the latents of lowest keys for revival."""
        self.counts.observe(codes[:, None])
        uses = histogram(codes, self.config.codes).float()
        sums = torch.zeros_like(self.encoder.quantizer.codewords).index_add_(0, codes, direction.float())
        # as many rows on every rank, however little sound it heard; the last column is the key, 2 where there is none
        found = torch.cat([direction.float(), keys[:, None].float()], 1)[keys.argsort()[: self.config.codes]]
        fresh = functional.pad(found, (0, 0, 0, self.config.codes - len(found)), value=2.0)
        self._pending.append((uses, sums, fresh))

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the codewords towards the mean of what chose them, back onto the sphere; judge the codes.

        A codeword that nobody chose stays where it is, as published, unless `revive_below` moves it.
        """
        if not self._pending:
            return
        uses = all_reduce_sum(torch.stack([entry[0] for entry in self._pending]).sum(0))
        sums = all_reduce_sum(torch.stack([entry[1] for entry in self._pending]).sum(0))
        latents = torch.cat([entry[2] for entry in self._pending])
        self._pending = []
        words, decay = self.encoder.quantizer.codewords, self.config.decay
        mean = functional.normalize(sums / uses.clamp(min=1)[:, None], dim=-1)
        mean = torch.where((uses > 0)[:, None], mean, words)
        words.copy_(functional.normalize(decay * words + (1 - decay) * mean, dim=-1))
        self.usage.mul_(decay).add_(uses, alpha=1 - decay)
        if self.config.revive_below > 0 and (step + 1) % self.config.revive_every == 0:
            self._revive(latents)
        self.counts.follow(step)

    def _revive(self, latents: Tensor) -> None:
        """Put codewords that are hardly chosen onto latents of the step.

        latents: [n, code_dim + 1], as many on each rank. Those of the lowest keys (the last column) over all ranks are
        taken, so that the division into ranks and micro-batches changes nothing.
        """
        joint = gather(latents)
        joint = joint[joint[:, -1].argsort()]
        count = (joint[:, -1] < 2).sum()
        fresh = joint[torch.arange(self.config.codes, device=joint.device) % count.clamp(min=1), :-1]
        dead = (self.usage < self.config.revive_below * self.usage.mean()) & (count > 0)
        self.encoder.quantizer.codewords.copy_(
            torch.where(dead[:, None], fresh, self.encoder.quantizer.codewords)
        )  # fmt: skip
        self.usage.copy_(torch.where(dead, self.usage.mean(), self.usage))

    @torch.no_grad()
    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Load the teacher; start the codewords by k-means on the first crops' latents, the first rank's for all.

        Raises:
            ValueError: no teacher, one of another front end, or one whose output has another width.
        """
        self.prepare_for_counting()
        model, config = self.encoder, self.config
        batch = first_crops(manifest, model.beats.config.sample_rate, config.first_crops, self.seed)
        points = []
        training = model.training
        model.eval()
        for waveform, valid in zip(*(part.split(16) for part in batch.by_view())):
            fbank = model.beats.fbank(waveform)
            patches = fbank.shape[1] // model.beats.config.patch_size * model.bands
            inside = time_mask(model.beats.valid_patches(valid), patches)
            points.append(functional.normalize(model.latent(fbank, inside), dim=-1)[inside])
        model.train(training)
        generator = torch.Generator().manual_seed(draw_seed(self.seed, 1))
        found = torch.cat(points)
        if not len(found):
            raise ValueError("The first crops hold no whole row of patches: is the manifest's audio too short?")
        centres, _ = k_means(found, config.codes, generator, rounds=10)
        model.quantizer.codewords.copy_(_from_first(functional.normalize(centres, dim=-1)))

    def prepare_for_counting(self) -> None:
        """Load the teacher; the codewords stay random."""
        self._teacher = (load_teacher(self.config, self.encoder.beats),)

    @property
    def network(self) -> BeatsModel:
        """The encoder inside: codes carry no gradient."""
        return self.encoder.beats

    def place(self, device: torch.device) -> None:
        """Move the teacher."""
        self._teacher[0].to(device)  # type: ignore[arg-type]

    def compiled_parts(self) -> list[nn.Module]:
        """The blocks of encoder and estimator, which `encode` calls."""
        return [*self.encoder.beats.encoder.layers, *self.estimator.transformer.layers]

    def provenance(self) -> dict[str, Any]:
        """Hash of the teacher's weights."""
        return {"teacher": weights_hash(ModelEncoder(self._teacher[0]))}


def _from_first(tensor: Tensor) -> Tensor:
    """The first rank's values, on all ranks."""
    if ranks() == 1:
        return tensor
    sent = tensor.to(PartialState().device).contiguous()  # NCCL knows GPUs only
    dist.broadcast(sent, 0)
    return sent.to(tensor.device)


def load_teacher(config: DistillationConfig, student: BeatsModel) -> BeatsModel:
    """The frozen teacher that a recipe names.

    Raises:
        ValueError: none is named, it is no BEATs encoder, its patches differ, or its output's width does.
    """
    name = config.teacher
    if not name:
        raise ValueError(
            "A tokenizer is distilled from an encoder: name it with --objective.teacher FOLDER (the run of `groundbass "
            "pretrain tokens.beats_…`, a published folder, or Microsoft's file)."
        )
    if name == UNTRAINED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loaded: Any = BeatsModel(student.config)
    elif Path(name).is_file():
        loaded = load_beats_file(name)
    else:
        folder = find_published(name)
        kind = BeatsModel.config_class.get_config_dict(folder)[0].get("model_type")
        if kind != BeatsModel.config_class.model_type:
            raise ValueError(f"{name} is a model of type {kind!r}, no BEATs encoder: give a run of `tokens.beats_…`.")
        loaded = BeatsModel.from_pretrained(folder)
    if not isinstance(loaded, BeatsModel):
        raise ValueError(f"{name} is a BEATs tokenizer; its teacher has to be an encoder.")
    check_front_ends(name, loaded.config, student.config)
    if config.target == "logits" and not loaded.config.classes:
        raise ValueError(f"{name} has no fine-tuned head, so no logits: set objective.target to hidden.")
    width = loaded.config.hidden_size if config.target == "hidden" else loaded.config.classes
    if width != config.teacher_dim:
        raise ValueError(
            f"The teacher {name} says {width} numbers, the recipe expects {config.teacher_dim}: set "
            f"objective.teacher_dim to {width}."
        )
    return loaded.eval().requires_grad_(False)
