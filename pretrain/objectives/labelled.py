"""Learning from labels: any encoder, fine-tuned or from scratch, one head per task, several tasks at once.

What MARBLE's unconstrained track, BEATs' and MERT's fine-tuning and the taggers of the supervised era do is one
objective: hear a crop, answer about the clip (genre, key, tags, numbers) or about every frame (beats, chords, events),
compare with the manifest's labels. A track may lack any of its labels. The encoder is a published one (or a run), or
that of a recipe with fresh weights; low blocks may stay frozen, and learning rates may fall with depth.

    groundbass pretrain labelled.finetune --objective.encoder ENCODER --objective.labels genre key --data MANIFEST
        --run RUN

Where the manifest says who trains (`split`), only its training tracks are heard. Each task's loss is a mean over all
clips divided by the share of tracks that have its label, so that micro-batches and ranks combine exactly whatever is
missing where, and a rare label weighs as much as a common one.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from einops import rearrange, reduce
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from ...data.augment.chain import clmr_chain
from ...data.augment.pitch import shift_pitch
from ...data.crops import CropConfig
from ...data.draws import draw_seed, draw_seeds, sent
from ...data.labels.folder import opened
from ...data.labels.kind import Kind
from ...data.track import WEIGHT, Manifest
from ...models.classifier import AudioClassifier
from ...models.classifier_files import make_classifier, write_classifier
from ...models.encoder import ModelEncoder, load_encoder, weights_hash
from ...models.head_files import HeadFacts, head_names, read_head
from ...models.heads import Head, HeadConfig
from ...models.own_heads import UNHEARD
from ...models.transformer import time_mask
from ..clock import section
from ..distributed import divided
from ..objective import Loss, Objective, ObjectiveConfig
from ..recipe import Optim, Recipe, addresses, find
from .parts.cqt_shape import CqtShape
from .parts.damage import damage_for
from .parts.label_targets import Answers, Clips, LabelTask, meet, resolved, targets_of
from .parts.low_rank import adapt, linear_maps, merged
from .parts.picture_augment import Changed, PictureAugment, change, moves, played
from .parts.weight_averages import MeanOfWeights, averaged, begin_averages, follow

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...data.batch import Batch

AUGMENT, PARTNER, SHARE, SPEC, PICTURES, DAMAGE = 401, 402, 403, 404, 405, 408  # streams of draws
TRAINING = {"train", "training"}
VALIDATION = {"valid", "validation", "val", "dev"}
VALID_SECONDS = 30.0  # of a track, that validation hears


@dataclass(frozen=True)
class Mixup:
    """Zhang et al. 2018: a clip is mixed with another of its micro-batch, and so are their losses."""

    probability: float = 0.0
    """of a clip being mixed"""
    alpha: float = 0.8
    """the share of the other is drawn from Beta(alpha, alpha)"""
    labels: bool = True
    """mix the clips' losses too; False: each clip keeps its own label, as HTS-AT was trained"""


@dataclass(frozen=True)
class SpecAugment:
    """Park et al. 2019, in the waveform, so that it serves every front end: spans of silence, bands cut out."""

    times: int = 0
    """spans of silence per clip"""
    seconds: float = 0.5
    """longest span"""
    bands: int = 0
    """bands that are cut out of the spectrum per clip"""
    width: float = 0.2
    """widest band, as a share of the mel axis"""


@dataclass(frozen=True)
class LabelledConfig(ObjectiveConfig):
    """Configuration: what hears, what is asked, how the sound is changed before."""

    encoder: str = "masked.mert_tiny"
    """a run or a published folder, with its weights; or a recipe's address, whose encoder begins with fresh ones"""
    network: CqtShape | None = None
    """in place of `encoder`: a small network on a log-CQT with fresh weights"""
    fresh: bool = False
    """draw the encoder's weights anew, where it is a folder"""
    labels: tuple[str, ...] = ()
    """what is asked, as COLUMN[:KIND] of the manifest's labels, each with the settings of `head`"""
    head: LabelTask = field(default_factory=lambda: LabelTask(""))
    """settings of the heads of `labels`; its own label and kind mean nothing"""
    tasks: tuple[LabelTask, ...] = ()
    """more of what is asked, each with settings of its own"""
    heads: str = ""
    """a heads folder that `groundbass probe` fitted on this encoder, from which heads of a label's name begin, each
    with its own layer, pooling and windows (LP-FT, Kumar et al. 2022); as they begin they are validated too, so that
    training is kept only where validation says that it helps"""
    window_seconds: float = 10.0
    """longest stretch that the classifier hears at a time, when it listens to whole tracks"""
    labels_csv: str = ""
    """a table with a column key (or path) and the labels, in place of the manifest's; looked up by track key"""
    unfreeze: int | None = None
    """train only the last so many blocks that a head reads; 0: the heads alone; None: everything"""
    lora_rank: int = 0
    """more than 0: the blocks' linear maps stay frozen, and additions of this rank are learned (LoRA); they are merged
    into what is published"""
    lora_alpha: float = 16.0
    """the additions count alpha / rank times"""
    layer_decay: float = 1.0
    """learning rate of a block over that of the block above it"""
    head_lr: float = 1.0
    """learning rate of the heads over the recipe's"""
    balance: bool = False
    """hear tracks of rare classes as often as those of common ones (the first task of classes, key or tags)"""
    balance_by: Literal["rarest", "each"] = "rarest"
    """a track weighs 1 / (tracks of its rarest name), or the sum of that over all its names: a name is drawn, then one
    of its tracks"""
    validate_every: int = 0
    """steps between validations on the manifest's validation tracks (none: a fifth of the others is kept); 0: no"""
    patience: int = 0
    """validations without a better one until the run ends; 0: it goes to the end. The best one is published"""
    judge: Literal["metric", "loss"] = "metric"
    """what is best: the tasks' mean metric (accuracy, ROC-AUC, R²; over time: of frames), or the lowest loss"""
    average: float = 0.0
    """share of the averaged weights that a step keeps (EMA), which are what gets published; 0: no averaging"""
    mean: MeanOfWeights = field(default_factory=MeanOfWeights)
    """in its place, the plain mean of the weights after some steps"""
    augment: Literal["none", "clmr"] = "none"
    """CLMR's chain on each clip, without its pitch shift"""
    degrade: tuple[str, ...] | None = None
    """presets (phone, radio, vinyl, live, …) or chains (.json) of data degrade: a clip goes through one of them; those
    that move time or pitch are refused where a label is about it"""
    degrade_share: float | None = None
    """of the clips that do; None: a half"""
    transpose: int = 0
    """semitones by which a clip may be transposed up or down; keys, chords and pitches move with it"""
    pictures: PictureAugment = field(default_factory=PictureAugment)
    """changes of what a log-CQT network sees: transposition, speed and colour, at the cost of nothing"""
    mixup: Mixup = field(default_factory=Mixup)
    spec: SpecAugment = field(default_factory=SpecAugment)

    def __post_init__(self) -> None:
        """Refuse what can't be learned."""
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}: a share above 0 and up to 1.")
        if self.unfreeze is not None and self.unfreeze < 0:
            raise ValueError(f"unfreeze is {self.unfreeze}: a number of blocks, at least 0.")
        if self.lora_rank < 0 or not self.lora_alpha > 0:
            raise ValueError(f"lora_rank is {self.lora_rank} and lora_alpha {self.lora_alpha}: at least 0, above 0.")
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}: a share from 0 to below 1.")
        if self.average and self.mean.every:
            raise ValueError(f"average is {self.average}, and {self.mean} is asked too: one of them gets published.")
        if self.pictures.on and self.network is None:
            raise ValueError("pictures change what a log-CQT network sees: give `network`, or leave them at 0.")
        if not 0 <= self.transpose <= 12:
            raise ValueError(f"transpose is {self.transpose}: at most an octave, 12 semitones.")

    @property
    def averages(self) -> bool:
        """Whether averages of the weights are what gets published."""
        return bool(self.average or self.mean.every)

    @property
    def questions(self) -> tuple[LabelTask, ...]:
        """All that is asked."""
        short = []
        for words in self.labels:
            label, _, kind = words.partition(":")
            short.append(dataclasses.replace(self.head, label=label, kind=kind))
        return (*short, *self.tasks)

    def build(self) -> Labelled:
        """Load or draw the encoder; heads come with the labels, in `prepare`."""
        return Labelled(self)


class Labelled(Objective):
    """The weighted sum of the tasks' losses; the weight counts clips."""

    encoder: PreTrainedModel

    def __init__(self, config: LabelledConfig) -> None:
        super().__init__()
        self.config = config
        if not config.questions:
            raise ValueError("Nothing is asked: give --objective.labels COLUMN[:KIND], a label of the manifest.")
        self.encoder, self._origin = _encoder(config)
        if config.lora_rank:
            depth, blocks = depths(self.encoder)
            whole = config.unfreeze is None or config.heads  # heads of lower layers come later
            lowest = 0 if whole else blocks - (config.unfreeze or 0) + 1
            maps = [n for n in linear_maps(self.encoder, depth, lowest) if not f"{n}.".startswith(UNHEARD)]
            adapt(self.encoder, maps, config.lora_rank, config.lora_alpha)
        self.heads = nn.ModuleList()
        self.answers: list[Answers] = []
        self.shares: list[float] = []
        self._labels_hash = ""
        self._valid: Manifest | None = None
        self._valid_rows = np.zeros(0, bool)
        self._valid_answers: list[Answers] = []
        self.validate_every, self.patience = config.validate_every, config.patience
        self.validates_start = bool(config.heads and config.validate_every)
        self._windows: dict[str, HeadFacts] = {}
        self._freeze()

    # ---- what is heard, and what is known of it

    def heard(self, manifest: Manifest) -> Manifest:
        """The tracks that are trained on: those of the training split that have any of the labels.

        With `balance` they come with weights.

        Raises:
            ValueError: none is left.
        """
        columns = self._columns(manifest)
        chosen, left = self._training_rows(manifest, columns)
        if left.any():
            print(f"{left.sum()} of {len(left)} tracks ({left.mean():.1%}) have none of the labels: they aren't heard.")
        kept = manifest.select(np.flatnonzero(chosen))
        return self._balanced(kept, columns) if self.config.balance else kept

    def _training_rows(
        self, manifest: Manifest, columns: dict[str, dict[str, Any]]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Rows of the training split that have any of the labels, and those that have none; notes who validates.

        Tracks without a label that are in no split train, too: they came beside others that are.

        Raises:
            ValueError: none has a label.
        """
        labelled = set().union(*(meet(task, columns).labels for task in self.config.questions))
        keys, splits = manifest.column("key"), manifest.column("split")
        has = np.array([key in labelled for key in keys])
        training = np.array([str(split).lower() in TRAINING for split in splits])
        among = training if training.any() else np.ones(len(keys), bool)
        chosen = has & among
        if self.config.validate_every:
            self._valid_rows = has & np.array([str(split).lower() in VALIDATION for split in splits])
            if not self._valid_rows.any():
                self._valid_rows = _fifth(manifest, chosen)
            chosen = chosen & ~self._valid_rows
        if not chosen.any():
            raise ValueError(
                f"None of the {len(keys)} tracks has a label of {', '.join(t.label for t in self.config.questions)}"
                f"{' in the training split' if training.any() else ''}: nothing can be learned."
            )
        alone = np.array([split is None or not str(split) for split in splits])
        return chosen, (among | alone) & ~has

    def _balanced(self, manifest: Manifest, columns: dict[str, dict[str, Any]]) -> Manifest:
        """With a column of weights: 1 / (number of tracks) of a track's rarest class, or summed over its classes."""
        for task in self.config.questions:
            answers = meet(task, columns)
            if answers.kind.nominal and not answers.kind.over_time:
                break
        else:
            raise ValueError("balance needs a task of classes, key or tags.")
        keys = manifest.column("key")
        of = {key: _as_list(answers.labels[key]) for key in keys if key in answers.labels}
        counts = Counter(name for names in of.values() for name in names)
        commonest = max(counts.values(), default=1)
        if self.config.balance_by == "each":
            weights = [sum(1 / counts[name] for name in of.get(key, [])) or 1 / commonest for key in keys]
        else:
            weights = [1 / min((counts[name] for name in of.get(key, [])), default=commonest) for key in keys]
        table = manifest.table
        if WEIGHT in table.column_names:
            weights = list(np.array(weights) * manifest.column(WEIGHT))
            table = table.drop_columns([WEIGHT])
        return manifest.with_table(table.append_column(WEIGHT, pa.array(weights, pa.float64())))

    def _columns(self, manifest: Manifest) -> dict[str, dict[str, Any]]:
        """Label name -> track key -> value, of what has one."""
        wanted = {column for task in self.config.questions for column in task.columns}
        keys = [str(key) for key in manifest.column("key")]
        if self.config.labels_csv:
            return _csv_columns(Path(self.config.labels_csv), set(keys), wanted)
        names = [name for name in manifest.label_names if name in wanted]
        found = {name: dict(zip(keys, opened(manifest.labels(name), manifest), strict=True)) for name in names}
        found = {name: {k: v for k, v in values.items() if v not in (None, "")} for name, values in found.items()}
        return found if set(found) == wanted else found | {n: {} for n in manifest.label_names if n not in found}

    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Read the labels and make the heads. The manifest may hold more than what is trained on."""
        kept, columns = self.heard(manifest), self._columns(manifest)
        self._learn_from(kept, columns)
        if self.config.validate_every:
            self._valid = manifest.select(np.flatnonzero(self._valid_rows))
            self._valid_answers = [
                dataclasses.replace(learned, labels=meet(learned.task, columns).labels) for learned in self.answers
            ]

    def _learn_from(self, manifest: Manifest, columns: dict[str, dict[str, Any]]) -> None:
        keys = set(map(str, manifest.column("key")))
        weights = manifest.column(WEIGHT) if WEIGHT in manifest.table.column_names else np.ones(len(manifest))
        training = {name: {k: v for k, v in values.items() if k in keys} for name, values in columns.items()}
        self.answers = [meet(task, training) for task in self._questions()]
        self.shares = [
            float(weights[[key in answers.labels for key in manifest.column("key")]].sum() / weights.sum())
            for answers in self.answers
        ]
        told = [
            [a.task.label, a.kind.name, a.names, sorted(a.labels.items(), key=lambda pair: pair[0])]
            for a in self.answers
        ]
        self._labels_hash = hashlib.blake2b(json.dumps(told, default=str).encode(), digest_size=16).hexdigest()
        self._draw_heads()
        self._damage()

    def _questions(self) -> tuple[LabelTask, ...]:
        """What is asked, once it is known what answers there are."""
        return self.config.questions

    def prepare_for_counting(self) -> None:
        """Heads of ten outputs where the labels would say how many."""
        invented = tuple(map(str, range(10)))
        kinds = [resolved(task) for task in self.config.questions]
        self.answers = [
            Answers(task, kind, task.names or targets_of(kind).names([], task) or invented, {})
            for task, kind in zip(self.config.questions, kinds, strict=True)
        ]
        self.shares = [1.0] * len(self.answers)
        self._draw_heads()

    def _draw_heads(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_seed(self.seed, 0x4EAD))
            self.heads = nn.ModuleList(_head(answers, self.encoder) for answers in self.answers)
        if self.config.heads:
            self._begin_with(Path(self.config.heads))
        self._freeze()
        if self.config.averages:
            begin_averages(self)
        self.train(self.training)

    def _begin_with(self, folder: Path) -> None:
        """Heads that were fitted on the frozen encoder, in place of fresh ones where there are any."""
        fitted = set(head_names(folder)) & {answers.task.name for answers in self.answers}
        if not fitted:
            asked = ", ".join(answers.task.name for answers in self.answers)
            raise ValueError(
                f"{folder} holds no head of {asked}: `groundbass probe` writes some, else leave heads out."
            )
        for number, answers in enumerate(self.answers):
            if answers.task.name in fitted:
                head, facts = read_head(folder, answers.task.name)
                self.heads[number] = _continued(head, answers, self.encoder)
                self._windows[answers.task.name] = facts

    # ---- what is trained

    def _freeze(self) -> None:
        """Leave alone what no label reaches, what lies above all heads' layers, and what `unfreeze` leaves out."""
        depth, blocks = depths(self.encoder)
        highest = max((_highest(head, self.encoder) for head in self._heads()), default=blocks)
        highest = blocks if blocks + 1 != int(getattr(self.encoder, "layers", 0)) else highest
        lowest = 0 if self.config.unfreeze is None else highest - self.config.unfreeze + 1
        if self.config.unfreeze is not None and self.config.unfreeze > blocks:
            raise ValueError(f"unfreeze is {self.config.unfreeze}, but the encoder has {blocks} blocks.")
        for name, parameter in self.encoder.named_parameters():
            trained = lowest <= depth[name] <= highest and not name.startswith(UNHEARD)
            trained = trained and (not self.config.lora_rank or "lora_" in name)
            parameter.requires_grad_(trained and parameter.is_floating_point())

    def lr_scale(self, name: str) -> float:
        """How a parameter's learning rate compares with the recipe's: heads by head_lr, blocks by layer_decay."""
        if not name.startswith("encoder."):
            return self.config.head_lr
        depth, blocks = depths(self.encoder)
        return float(self.config.layer_decay ** (blocks - depth[name.removeprefix("encoder.")]))

    def train(self, mode: bool = True) -> Labelled:
        """What is frozen neither drops anything nor moves its running statistics."""
        super().train(mode)
        for module in self.encoder.modules():
            own = [parameter for parameter in module.parameters() if parameter is not None]
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
        return self

    @property
    def leaves_unused(self) -> bool:
        """True where layer drop may leave a block out."""
        return float(getattr(self.encoder.config, "layerdrop", 0.0) or 0.0) > 0

    # ---- a step

    def forward(self, batch: Batch, step: int) -> Loss:
        """Change the sound, hear it, answer, compare.

        Raises:
            ValueError: the audio has another sample rate than the encoder.
        """
        rate = self.encoder.config.sample_rate
        if batch.sample_rate != rate:
            raise ValueError(
                f"The crops have {batch.sample_rate} Hz, the encoder hears {rate} Hz: set --crops.sample-rate {rate}."
            )
        views = batch.waveform.shape[1]
        (waveform, valid), host = batch.by_view(), batch.on_host()
        host_valid, index = host.by_view()
        keys = [key for key in batch.keys for _ in range(views)]
        starts = host.starts.flatten().double() / rate
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False), section("augment"):
            waveform, semitones = self._changed(waveform, host_valid, index)
            waveform, partner, share = self._mixed(waveform, index)
        padded = bool((host_valid < waveform.shape[1]).any())
        states, frames, changed = self._hear(waveform, valid, index, padded)
        total, speed = states[-1].shape[1], None
        known = self.encoder.valid_frames(host_valid).clamp(1, total)  # type: ignore[operator]
        if changed is not None:  # what labels follow, on the CPU as they are
            more, speed = moves(draw_seeds(self.seed, index, PICTURES), self.config.pictures)
            known = played(known, speed, total) if self.config.pictures.speed else known
            semitones = more if semitones is None else semitones + more
        clips = Clips(starts, total, float(self.encoder.frame_rate), known, semitones, speed)  # type: ignore[arg-type]
        with section("targets"):
            wanted = [sent(answers.targets(keys, clips), waveform.device) for answers in self.answers]
        return self._compare(states, frames, wanted, partner, share)

    def _hear(
        self, waveform: Tensor, valid: Tensor, index: Tensor, padded: bool
    ) -> tuple[tuple[Tensor, ...], Tensor, Changed | None]:
        """Hidden states, frames of sound, and what was done to the pictures (None: nothing)."""
        encoder: Any = self.encoder
        if not (self.training and self.config.pictures.on):
            return *hear(encoder, waveform, valid, padded), None
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False), section("augment"):
            cqt, mel = encoder.pictures(waveform)
            frames = encoder.valid_frames(valid).clamp(1, cqt.shape[1])
            seeds = sent(draw_seeds(self.seed, index, PICTURES), waveform.device)
            changed = change(cqt, mel, frames, seeds, self.config.pictures, encoder.mel_hertz)
        inside = time_mask(changed.valid, cqt.shape[1])
        shift = 2 * changed.semitones
        output = encoder.encode(changed.cqt, changed.mel, inside, shift, output_hidden_states=True)
        return output.hidden_states, changed.valid, changed

    def compiled_parts(self) -> list[nn.Module]:
        """The encoder; where its pictures are changed first, the stem and the blocks, which `encode` calls."""
        encoder: Any = self.encoder
        return [*encoder.stems, *encoder.encoder.layers] if self.config.pictures.on else [encoder]

    def _compare(
        self, states: Sequence[Tensor], frames: Tensor, wanted: list[Tensor], partner: Tensor | None, share: Tensor
    ) -> Loss:
        """partner: whose sound was mixed into each clip, with share [batch] of itself left."""
        total = states[-1].new_zeros((), dtype=torch.float32)
        metrics: dict[str, Tensor | float] = {}
        clips = len(share)
        for head, answers, known, targets in zip(self._heads(), self.answers, self.shares, wanted, strict=True):
            logits = head(states, frames)
            each, labelled = head.losses(logits, targets, answers.task.smoothing)
            sure = labelled
            if partner is not None:
                other, known_other = head.losses(logits, targets[partner], answers.task.smoothing)
                each = share * each * labelled + (1 - share) * other * known_other
                sure = share * labelled + (1 - share) * known_other
            value = each.sum() / (max(known, 1e-9) * clips)
            total = total + answers.task.weight * value
            metrics[f"{answers.task.name}/loss"] = value.detach()
            metrics[f"{answers.task.name}/labelled"] = sure.detach().mean()
        return Loss(total, torch.full_like(total, float(clips)).detach(), metrics)

    def _heads(self) -> list[Head]:
        return list(self.heads)  # type: ignore[arg-type]

    def _changed(self, waveform: Tensor, valid: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Augmentation, in training only: the waveform, and by how many semitones it was transposed.

        valid, index and the result's semitones [batch] lie on the CPU.
        """
        if not self.training:
            return waveform, None
        semitones = None
        config, rate = self.config, int(self.encoder.config.sample_rate)
        if config.transpose:
            draws = draw_seeds(self.seed, index, AUGMENT)
            semitones = draws % (2 * config.transpose + 1) - config.transpose
            waveform = shift_pitch(waveform, 100.0 * semitones, rate)
        if config.augment == "clmr":
            waveform = self._chain()(waveform, draw_seeds(self.seed, index, AUGMENT + 1000))
        for damage in self._damage():
            damaged = damage(waveform, draw_seeds(self.seed, index, DAMAGE))
            waveform = torch.where(time_mask(sent(valid, waveform.device), waveform.shape[1]), damaged, 0.0)
        if config.spec.times or config.spec.bands:
            waveform = spec_augment(waveform, valid, rate, config.spec, draw_seeds(self.seed, index, SPEC))
        return waveform, semitones

    def _chain(self) -> nn.Module:
        if not hasattr(self, "_augmentation"):
            self._augmentation: tuple[nn.Module, ...] = (clmr_chain(int(self.encoder.config.sample_rate), pitch=False),)
        return self._augmentation[0]

    def _damage(self) -> tuple[nn.Module, ...]:
        """What degrades a share of the clips, if that is asked.

        Raises:
            ValueError: a chain under which labels would be wrong.
        """
        if not self.config.degrade:
            return ()
        if not hasattr(self, "_damages"):
            rate, share = int(self.encoder.config.sample_rate), self.config.degrade_share
            self._damages: tuple[nn.Module, ...] = (damage_for(self.config.degrade, share, rate, self.answers),)
        return self._damages

    def _mixed(self, waveform: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Mixup: the mixture, each clip's partner (None: nothing was mixed), and each clip's share [batch]."""
        clips = len(waveform)
        whole = torch.ones(clips, device=waveform.device)
        if not self.training or self.config.mixup.probability <= 0 or clips < 2:
            return waveform, None, whole
        partner = torch.roll(torch.arange(clips, device=waveform.device), 1)
        share = self._mixup_shares(index, waveform.device)
        return share[:, None] * waveform + (1 - share[:, None]) * waveform[partner], partner, share

    def _mixup_shares(self, index: Tensor, device: torch.device) -> Tensor:
        """What is left of each clip [clips], on the device; index: on the CPU."""
        seeds = draw_seeds(self.seed, index, SHARE)
        return sent(torch.tensor([_share(int(seed), self.config.mixup) for seed in seeds]), device)

    # ---- validation, averages, publishing

    def after_step(self, step: int) -> None:
        """The averaged weights follow."""
        if self.config.mean.every:
            follow(self, self.config.mean.share(step + 1))
        elif self.config.average:
            follow(self, 1 - self.config.average if step else 1.0)

    def published_state(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The averages in the place of what they are averages of, and low-rank additions in what they add to."""
        state = averaged(state) if self.config.averages else state
        return merged(state, self.config.lora_rank, self.config.lora_alpha) if self.config.lora_rank else state

    def publish_more(self, state: dict[str, Tensor], run: Path) -> None:
        """RUN/classifier."""
        write_classifier(self.classifier(state), run / "classifier")

    def classifier(self, state: dict[str, Tensor] | None = None) -> AudioClassifier:
        """Encoder and heads as one model, on the CPU; state: of the objective, None for its own as it is now."""
        state = self.published_state(self.state_dict()) if state is None else state
        with torch.random.fork_rng(devices=[]):
            encoder = self._plain_encoder()
            heads = nn.ModuleList(head.config.build() for head in self.heads).eval()  # type: ignore[union-attr, operator]
        heads.load_state_dict({n.removeprefix("heads."): v for n, v in state.items() if n.startswith("heads.")})
        seconds = self.config.window_seconds
        named: list[Any] = [
            (answers.task.name, head, _facts(head, answers, seconds, self._windows.get(answers.task.name)))
            for head, answers in zip(heads, self.answers, strict=True)
        ]
        weights = {n.removeprefix("encoder."): v.cpu() for n, v in state.items() if n.startswith("encoder.")}
        with torch.random.fork_rng(devices=[]):
            made = make_classifier(encoder, named)
        made.encoder.load_state_dict(weights)
        return made

    def _plain_encoder(self) -> Any:
        """The encoder, or where low-rank additions or ranks have changed its weights, another as its config says."""
        changed = self.config.lora_rank or divided(self.encoder)
        return type(self.encoder)(self.encoder.config) if changed else self.encoder

    @torch.no_grad()
    def validate(self, state: dict[str, Tensor]) -> dict[str, float]:
        """Each task's loss and metric on the validation tracks, heard whole (30 s at most) by the classifier."""
        assert self._valid is not None
        model, rate = self.classifier(self.published_state(state)), int(self.encoder.config.sample_rate)
        raw: list[list[Tensor]] = [[] for _ in self._valid_answers]
        wanted: list[list[Tensor]] = [[] for _ in self._valid_answers]
        for row, track in enumerate(self._valid):
            sound = torch.from_numpy(self._valid.read_all(row, rate, VALID_SECONDS))[None]
            for number, answers in enumerate(self._valid_answers):
                if track.key in answers.labels:
                    logits, frames = _track_logits(model, sound, number)
                    clips = Clips(torch.zeros(1, dtype=torch.float64), frames, model.frame_rate, torch.tensor([frames]))
                    raw[number].append(logits)
                    wanted[number].append(answers.targets([track.key], clips))
        found: dict[str, float] = {}
        scores, losses, total = 0.0, 0.0, 0.0
        for head, answers, logits_of, targets in zip(model.heads, self._valid_answers, raw, wanted, strict=True):
            if not logits_of:
                continue
            pairs = zip(logits_of, targets, strict=True)
            each = [head.losses(one, truth) for one, truth in pairs]  # type: ignore[operator]
            loss = float(sum(value.sum() for value, _ in each) / max(1.0, float(sum(known.sum() for _, known in each))))
            metric = judged(answers.kind, logits_of, targets)
            found |= {f"{answers.task.name}/loss": loss, f"{answers.task.name}/metric": metric}
            scores, losses = scores + answers.task.weight * metric, losses + answers.task.weight * loss
            total += answers.task.weight
        if not total:
            raise ValueError("No validation track has a label, so nothing can be judged: --objective.validate-every 0.")
        return {"score": scores / total if self.config.judge == "metric" else -losses / total, **found}

    def provenance(self) -> dict[str, Any]:
        """Hashes of the encoder that it began with, and of the labels."""
        found = {"encoder": self._origin, "labels": self._labels_hash}
        return found | {"heads": _told(self._windows, self._heads())} if self._windows else found


def _facts(head: Any, answers: Answers, seconds: float, fitted: HeadFacts | None) -> HeadFacts:
    """fitted: of a head that it began as, whose windows it keeps."""
    decoder = dict(answers.kind.untuned([targets_of(answers.kind).first(x) for x in answers.labels.values()]))
    # attention weighs frames within a crop; what is learned of crops is averaged as logits
    way: Any = "moments" if head.streams else "logits"
    found = HeadFacts(
        window_seconds=seconds, unit="frame" if head.over_time else "clip", aggregation=way, decoder=decoder,
        task={"label": answers.task.label, "kind": answers.kind.name},
    )  # fmt: skip
    if fitted is None:
        return found
    kept = {name: getattr(fitted, name) for name in ("window_seconds", "stretch_seconds", "unit", "aggregation")}
    return dataclasses.replace(found, **kept)


def _track_logits(model: AudioClassifier, sound: Tensor, number: int) -> tuple[Tensor, int]:
    """Raw logits of one track and how many frames they are over; 1 where they are about the track."""
    if model.heads[number].over_time:
        logits, valid = model.answer_frames(sound, head=number)
        return logits, int(valid[0])
    return model._answer(sound, None, number), 1


def judged(kind: Kind, logits: list[Tensor], targets: list[Tensor]) -> float:
    """The metric of a kind of label over tracks: accuracy, macro ROC-AUC or R²; over time of all frames together."""
    guess = torch.cat([rearrange(one, "... classes -> (...) classes") for one in logits])
    if kind.exclusive:
        truth = torch.cat([one.flatten() for one in targets])
        known = truth >= 0
        return float((guess.argmax(-1)[known] == truth[known]).float().mean()) if known.any() else 0.0
    truth = torch.cat([rearrange(one, "... classes -> (...) classes") for one in targets])
    scores = []
    for guessed, wanted in zip(guess.T, truth.T, strict=True):
        known = ~torch.isnan(wanted)
        answer, right = guessed[known].numpy(), wanted[known].numpy()
        if not kind.nominal and len(right) > 1 and right.std() > 0:
            scores.append(1 - float(np.mean((answer - right) ** 2) / right.var()))
        elif kind.nominal and 0 < (right >= 1).sum() < len(right):
            scores.append(float(roc_auc_score(right >= 1, answer)))
    return float(np.mean(scores)) if scores else 0.0


def _fifth(manifest: Manifest, chosen: Any) -> Any:
    """A fifth of the chosen rows, whole artists at a time, in a seeded order."""
    artists = [str(a) if a else f"track {key}" for a, key in zip(manifest.column("artist"), manifest.column("key"))]
    rows = np.flatnonzero(chosen)
    order = np.random.default_rng(0).permutation(sorted({artists[row] for row in rows}))
    kept = np.zeros(len(chosen), bool)
    for artist in order:
        if kept.sum() >= len(rows) / 5:
            break
        kept[[row for row in rows if artists[row] == artist]] = True
    return kept


def _encoder(config: LabelledConfig) -> tuple[Any, str | None]:
    """The network, and its weights' hash where they aren't fresh."""
    if config.network is not None:
        return config.network.build(), None
    if config.encoder in addresses():
        return find(config.encoder).objective.build().encoder, None
    with torch.device("cpu"):
        loaded = load_encoder(config.encoder)
    if not isinstance(loaded, ModelEncoder):
        kind = type(getattr(loaded, "model", loaded)).__name__
        raise ValueError(
            f"{config.encoder} is a {kind}, which is no model of groundbass: `groundbass import` makes one of MERT, "
            "BEATs and CLMR; others can be probed but not trained here."
        )
    if config.fresh:
        return type(loaded.model)(loaded.model.config), None
    return loaded.model.train(), weights_hash(loaded)


def _head(answers: Answers, encoder: Any) -> Head:
    task = answers.task
    head: Any = HeadConfig(
        answers.kind.head, answers.names, int(encoder.dim), task.layer, task.mixed, task.pooling, task.hidden,
        task.dropout, task.positive_weight,
    ).build()  # fmt: skip
    if not answers.kind.nominal and answers.labels:
        values = torch.tensor(list(answers.labels.values()), dtype=torch.float64)
        offset = torch.nanmean(values, 0)
        spread = torch.nanmean((values - offset).square(), 0).sqrt()
        head.offset.copy_(offset)
        head.scale.copy_(torch.where(spread > 1e-9, spread, 1.0))
    return head


def _continued(fitted: Head, answers: Answers, encoder: Any) -> Head:
    """A fitted head to go on from, its temperature folded in, with dropout and weight of positives as the task says.

    Raises:
        ValueError: it answers something else, or belongs to another encoder.
    """
    task, told = answers.task, fitted.config
    same = told.kind == answers.kind.head and len(told.names) == len(answers.names)
    if not same or (answers.kind.nominal and told.names != answers.names) or told.dim != int(encoder.dim):
        raise ValueError(
            f"The fitted head {task.name!r} answers {told.kind} of {len(told.names)} ({', '.join(told.names[:3])}, …) "
            f"from {told.dim} numbers; asked are {answers.kind.head} of {len(answers.names)} "
            f"({', '.join(answers.names[:3])}, …) from {int(encoder.dim)}: probe this encoder on these labels."
        )
    head = dataclasses.replace(
        told, names=answers.names, dropout=task.dropout, positive_weight=task.positive_weight, temperature=1.0
    ).build()  # fmt: skip
    head.load_state_dict(fitted.state_dict())
    if head.nominal and told.temperature != 1:
        with torch.no_grad():
            for value in (head.last or head.first).parameters():
                value.div_(told.temperature)
    return head


def _told(windows: dict[str, HeadFacts], heads: Sequence[Head]) -> str:
    """A hash of how fitted heads read and listen: their weights are the checkpoint's once a run goes on."""
    told = [{name: dataclasses.asdict(facts) for name, facts in windows.items()}, [h.config.to_dict() for h in heads]]
    return hashlib.blake2b(json.dumps(told, default=str).encode(), digest_size=16).hexdigest()


def _highest(head: Head, encoder: Any) -> int:
    """The number of the highest hidden state that a head reads."""
    layers = int(encoder.layers)
    if head.config.mixed:
        return layers - 1
    if not -layers <= head.config.layer < layers:
        raise ValueError(f"A head reads layer {head.config.layer}, but the encoder has the layers 0 to {layers - 1}.")
    return head.config.layer % layers


def hear(encoder: Any, waveform: Tensor, valid: Tensor, padded: bool) -> tuple[tuple[Tensor, ...], Tensor]:
    """Hidden states [batch, frames, dim] of all layers with gradient, and each clip's frames of sound [batch].

    padded: whether `valid` [batch] samples are fewer than there are for any clip.
    """
    mask = time_mask(valid, waveform.shape[1]).long() if padded else None
    states = encoder(waveform, attention_mask=mask, output_hidden_states=True).hidden_states
    bands = getattr(encoder, "bands", 1)  # BEATs: a frame is the mean over its patches
    if bands > 1:
        times = "batch (frames bands) dim -> batch frames dim"
        states = tuple(reduce(state, times, "mean", bands=bands) for state in states)
    return tuple(states), encoder.valid_frames(valid).clamp(1, states[-1].shape[1])


def depths(encoder: nn.Module) -> tuple[dict[str, int], int]:
    """How deep each parameter lies: 0 before the blocks, 1 for the first block, …; and the number of blocks.

    The blocks are the entries of the list of modules (`ModuleList` or `Sequential`) that has one per hidden state after
    the first, else of the longest, heads of its own aside; what is registered before it is at depth 0, what comes after
    it is as deep as the last block.
    """
    wanted = int(getattr(encoder, "layers", 0)) - 1
    trunk, blocks = "", 0
    for name, module in encoder.named_modules():
        inside = blocks == wanted and name.startswith(f"{trunk}.")
        if isinstance(module, nn.ModuleList | nn.Sequential) and not inside and not f"{name}.".startswith(UNHEARD):
            size = sum(1 for child in module if any(True for _ in child.parameters()))
            if size == wanted or (size > blocks and blocks != wanted):
                trunk, blocks = name, size
    found: dict[str, int] = {}
    order: dict[str, int] = {}
    seen = False
    for name, _ in encoder.named_parameters():
        if trunk and name.startswith(f"{trunk}."):
            seen = True
            block = name.removeprefix(f"{trunk}.").partition(".")[0]
            found[name] = order.setdefault(block, len(order) + 1)
        else:
            found[name] = blocks if seen else 0
    return found, blocks


def _share(seed: int, config: Mixup) -> float:
    draws = np.random.Generator(np.random.Philox(seed))
    if draws.random() >= config.probability:
        return 1.0
    return float(draws.beta(config.alpha, config.alpha))


def spec_augment(waveform: Tensor, valid: Tensor, sample_rate: int, config: SpecAugment, seeds: Tensor) -> Tensor:
    """Silence spans of each clip [batch, samples] and cut bands out of its spectrum; see `SpecAugment`.

    valid (samples) and seeds, [batch], lie on the CPU, where the spans are drawn.
    """
    draws = [np.random.Generator(np.random.Philox(int(seed))) for seed in seeds]
    samples, device = waveform.shape[1], waveform.device
    if config.bands:
        spectrum = torch.fft.rfft(waveform)
        mels = _mel(torch.linspace(0, sample_rate / 2, spectrum.shape[1]))
        cuts = [_spans(draw, config.bands, config.width, float(mels[-1])) for draw in draws]
        spectrum = spectrum.masked_fill(_within(sent(mels, device), sent(torch.tensor(cuts), device)), 0)
        waveform = torch.fft.irfft(spectrum, samples)
    if config.times:
        silent = []
        for draw, count in zip(draws, valid.tolist(), strict=True):
            for _ in range(config.times):
                length = min(int(draw.uniform(0, config.seconds) * sample_rate), count)
                start = int(draw.integers(0, count - length + 1))
                silent.append([start, start + length])
        spans = sent(torch.tensor(silent).unflatten(0, (len(draws), config.times)), device)
        waveform = waveform.masked_fill(_within(torch.arange(samples, device=device), spans), 0)
    return torch.where(time_mask(sent(valid, device), samples), waveform, 0.0)


def _spans(draw: np.random.Generator, count: int, widest: float, top: float) -> list[list[float]]:
    """`count` spans [low, high] within [0, top], each up to `widest` of it wide."""
    found = []
    for _ in range(count):
        width = draw.uniform(0, widest) * top
        low = draw.uniform(0, top - width)
        found.append([low, low + width])
    return found


def _within(places: Tensor, spans: Tensor) -> Tensor:
    """Bool [batch, places]: in any of the spans [batch, spans, 2], from low on and below high."""
    low, high = spans[..., :1], spans[..., 1:]
    return ((places >= low) & (places < high)).any(1)


def _mel(hertz: Tensor) -> Tensor:
    """O'Shaughnessy's mel."""
    return 2595.0 * torch.log10(1.0 + hertz / 700.0)


def _as_list(label: Any) -> list[str]:
    return [str(name) for name in label] if isinstance(label, list) else [str(label)]


def _csv_columns(path: Path, keys: set[str], wanted: set[str]) -> dict[str, dict[str, Any]]:
    """labels.csv as label -> key -> value; rows without audio are counted and said, empty cells are no labels."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no table of labels {path}.")
    with path.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.DictReader(lines))
    place = next((name for name in ("key", "path") if rows and name in rows[0]), None)
    if place is None:
        raise ValueError(f"{path} has no rows, or neither a column key nor a column path by which tracks are found.")
    lost = sum(row[place] not in keys for row in rows)
    if lost == len(rows):
        raise ValueError(
            f"None of the {lost} rows of {path} names a track of the manifest; the first is {rows[0][place]!r}."
        )
    if lost:
        print(f"{lost} of {len(rows)} rows of {path.name} ({lost / len(rows):.1%}) match no audio.")
    found: dict[str, dict[str, Any]] = {name: {} for name in rows[0] if name not in (None, place)}
    for row in rows:
        for name in wanted & set(found):
            if row[place] in keys and row[name] not in (None, "") and not _is_nan(row[name]):
                found[name][row[place]] = row[name]
    return found


def _is_nan(value: Any) -> bool:
    try:
        return math.isnan(float(value))
    except (TypeError, ValueError):
        return False


def finetune() -> Recipe:
    """Fine-tune a published encoder on labels: everything trains, lower blocks more slowly, heads faster.

    Settings between MERT's (Adam 1e-5, cosine, no warm-up) and BEATs' (3e-5, layer-wise decay 0.3 to 0.6): a decay of
    0.75 per block, warm-up, weight decay 0.01.

    groundbass pretrain labelled.finetune --objective.encoder ENCODER --objective.labels genre --data MANIFEST --run RUN
    · any machine · minutes on two cores for a tiny encoder
    """
    return Recipe(
        objective=LabelledConfig(labels=("genre",), layer_decay=0.75, head_lr=10.0),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000, align=320),
        optim=Optim(lr=1e-4, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=50, decay="cosine", clip=1.0),
        steps=1000,
        batch_size=16,
        log_every=10,
        checkpoint_every=250,
    )


def finetune_debug() -> Recipe:
    """Two tasks over a clip and two over time in miniature: MERT's mel front end at 25 Hz, two blocks of 32.

    groundbass pretrain labelled.finetune_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    return Recipe(
        objective=LabelledConfig(
            encoder="masked.bestrq_debug",
            tasks=(
                LabelTask("genre", pooling="mean+std+change", smoothing=0.1),
                LabelTask("tempo", "numbers", pooling="attention", hidden=8, log2=True, tempo=True),
                LabelTask("beats+downbeats", positive_weight=4.0, mixed=2),
                LabelTask("chords"),
            ),
            layer_decay=0.5,
            head_lr=2.0,
            validate_every=5,
            average=0.5,
        ),
        crops=CropConfig(sample_rate=24_000, crop_samples=24_000, align=960),
        optim=Optim(lr=1e-3, warmup_steps=2, clip=10.0),
        steps=10,
        batch_size=4,
        log_every=1,
        checkpoint_every=5,
        workers=0,
        trackers=(),
    )


def scratch() -> Recipe:
    """Learn from labels alone: `masked.mert_tiny`'s encoder from fresh weights, with mixup, SpecAugment and balance.

    groundbass pretrain labelled.scratch --objective.labels genre --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    return Recipe(
        objective=LabelledConfig(
            labels=("genre",), balance=True, mixup=Mixup(probability=0.5), spec=SpecAugment(times=2, bands=2)
        ),
        crops=CropConfig(sample_rate=24_000, crop_samples=120_000, align=960),
        optim=Optim(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=50, decay="cosine", clip=1.0),
        steps=1000,
        batch_size=16,
        log_every=10,
        checkpoint_every=250,
    )


def _synth_tasks(rhythm: int, hidden: int = 128) -> tuple[LabelTask, ...]:
    """All that the embedded corpus knows. rhythm: the layer that beats and tempo are read from.

    Crops are as many as a track is long, so that of all crops .85 are music, which is .46 of the tracks: the losses of
    music weigh 1.8 times, those of single notes 0.3 times what stands here.
    """
    clip = {"pooling": "mean+std", "dropout": 0.2}
    return (
        LabelTask("key", "key", hidden=hidden, smoothing=0.05, **clip),  # type: ignore[arg-type]
        LabelTask("chords", "chords"),
        LabelTask("beats", "beats", weight=2.0, positive_weight=3.0, layer=rhythm),
        LabelTask("beats+downbeats", "beats", weight=2.0, positive_weight=4.0),
        LabelTask("tempo", "numbers", weight=0.2, log2=True, tempo=True, layer=rhythm, **clip),  # type: ignore[arg-type]
        LabelTask("style", "classes", weight=0.15, smoothing=0.05, **clip),  # type: ignore[arg-type]
        LabelTask("tags", "tags", weight=0.7, **clip),  # type: ignore[arg-type]
        LabelTask("instrument", "classes", weight=0.7, smoothing=0.05, **clip),  # type: ignore[arg-type]
        LabelTask("pitch", "classes", weight=0.7, semitones=True, **clip),  # type: ignore[arg-type]
        LabelTask("technique", "classes", weight=0.5, smoothing=0.05, **clip),  # type: ignore[arg-type]
    )


def synth_tiny() -> Recipe:
    """Exact labels that cost nothing: all that the embedded corpus knows of its music, on one network of 1.1 M weights.

    No recording is heard. What makes it hold on recordings is the corpus's variety, and that every clip is transposed,
    played faster or slower, and coloured as another recording chain would (`parts/picture_augment.py`).

    groundbass data synth CORPUS --hours 8 --seed 7 --clip-seconds 18 --variety 0.8 --music 0.85 --train 0.9
    groundbass pretrain labelled.synth_tiny --data CORPUS/manifest.parquet --run RUN · one CPU core that computes
    bf16 (AMX), with --precision bf16: 42 minutes; others about twice that · scores in `pretrain/RESULTS.md`
    """
    return Recipe(
        objective=LabelledConfig(
            network=CqtShape(
                hidden_size=128,
                num_hidden_layers=9,
                joins=6,
                dilations=(1, 2, 4, 8, 16, 32, 1, 4, 16),
                tonal_channels=(10, 16, 24, 32),
                rhythm_channels=(16, 16, 48),
            ),
            tasks=_synth_tasks(6),
            pictures=PictureAugment(semitones=6, speed=0.25, colour=1.0),
            average=0.998,
        ),
        crops=CropConfig(sample_rate=24_000, crop_samples=240_000, align=960, epoch="duration"),
        optim=Optim(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.02, warmup_steps=100, decay="cosine", clip=2.0),
        steps=3300,
        batch_size=8,
        log_every=20,
        checkpoint_every=300,
        workers=1,
    )


def synth_small() -> Recipe:
    """`synth_tiny` with 20 M weights and 60 hours of corpus: one GPU for an hour; not run here yet.

    groundbass data synth CORPUS --hours 60 --seed 7 --clip-seconds 24 --variety 0.8 --music 0.85 --train 0.95
    groundbass pretrain labelled.synth_small --data CORPUS/manifest.parquet --run RUN · one GPU · hours
    """
    network = CqtShape(
        hidden_size=512,
        num_hidden_layers=9,
        joins=6,
        dilations=(1, 2, 4, 8, 16, 32, 1, 4, 16),
        tonal_channels=(32, 48, 64, 96),
        rhythm_channels=(32, 48, 128),
    )
    base = synth_tiny()
    crops = dataclasses.replace(base.crops, crop_samples=480_000)
    optim = dataclasses.replace(base.optim, lr=1e-3, warmup_steps=500)
    return dataclasses.replace(
        base, objective=dataclasses.replace(base.objective, network=network, tasks=_synth_tasks(6, 256)), crops=crops,
        optim=optim, steps=20_000, batch_size=64, precision="bf16", log_every=50, checkpoint_every=1000, workers=8,
    )  # fmt: skip


def synth_debug() -> Recipe:
    """`synth_tiny` in miniature: what music has labels for, two blocks of 16, crops of two seconds.

    groundbass pretrain labelled.synth_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    network = CqtShape(
        hidden_size=16,
        num_hidden_layers=2,
        joins=1,
        tonal_channels=(2, 2, 2, 4),
        rhythm_channels=(2, 2, 4),
        dropout=0.0,
    )
    objective = LabelledConfig(
        network=network,
        tasks=(
            LabelTask("genre", pooling="mean+std"),
            LabelTask("beats+downbeats", "beats", layer=1),
            LabelTask("chords"),
        ),
        pictures=PictureAugment(semitones=2, speed=0.1, colour=1.0),
    )
    return dataclasses.replace(
        finetune_debug(), objective=objective, crops=CropConfig(sample_rate=24_000, crop_samples=48_000, align=960)
    )
