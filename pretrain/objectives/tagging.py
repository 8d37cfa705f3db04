"""Learning labels with networks that were made for it: convolutional taggers, PANNs, AST, HTS-AT, by their own heads.

M. Won et al. 2020, "Evaluation of CNN-based automatic music tagging models" (arXiv:2006.00751); M. Won et al. 2021
(Music Tagging Transformer); Q. Kong et al. 2020 (PANNs); Y. Gong et al. 2021 (AST); K. Chen et al. 2022 (HTS-AT). As
`labelled.*`, but the network is fresh, hears one window of its own length, and answers by its own head; noise is put
where each family puts it: SpecAugment on the standardised spectrogram, mixup on the waveform or on the spectrogram.

    groundbass pretrain tagging.fcn_mtt --objective.labels tags --data MANIFEST --run RUN

With a teacher the network is its noisy student (`parts/noisy_student.py`): tracks without a label are heard too, and
the teacher's answer about the untouched crop stands in for the label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.crops import CropConfig
from ...data.draws import draw_seed, draw_seeds, sent
from ...data.track import Manifest
from ...models.classifier import AudioClassifier
from ...models.classifier_files import make_classifier
from ...models.head_files import HeadFacts
from ...models.heads import Head, HeadConfig
from ...models.htsat import HtsatConfig, HtsatModel
from ...models.music_taggers import SIZES, MusicTaggerConfig, MusicTaggerModel
from ...models.panns import NETWORKS, PannsConfig, PannsModel
from ...models.spectrogram_transformer import SpectrogramTransformerConfig, SpectrogramTransformerModel
from ...models.tagger import repeated
from ...models.tagging_transformer import TaggingTransformerConfig, TaggingTransformerModel
from ..clock import section
from ..objective import Loss, Objective
from ..recipe import Optim, Phase, Recipe
from .labelled import VALID_SECONDS, Labelled, LabelledConfig, Mixup, judged
from .parts.label_targets import Answers, Clips, LabelTask
from .parts.noisy_student import UNTRAINED, Teacher, check_names, load_teacher, taught_losses, with_unlabelled
from .parts.weight_averages import MeanOfWeights, begin_averages

if TYPE_CHECKING:
    from ...data.batch import Batch

STRIPES, WEIGHTS, TEACHER = 405, 406, 407  # streams of draws
PLACEHOLDER = 10  # outputs before the labels say how many


@dataclass(frozen=True)
class Stripes:
    """SpecAugment on the spectrogram that the network hears: Park et al. 2019, filled with its mean (0)."""

    times: int = 0
    """stripes of time per clip"""
    time_width: int = 64
    """steps that a stripe may be wide, drawn evenly from 0"""
    bands: int = 0
    """stripes of frequency per clip"""
    band_width: int = 8
    """bins that a stripe may be wide, drawn evenly from 0"""


@dataclass(frozen=True)
class TaggingConfig(LabelledConfig):
    """Configuration: which network, and what is done to the sound; `encoder` and the settings of heads mean nothing."""

    network: str = "fcn"  # type: ignore[assignment]
    """fcn, musicnn, crnn, sample, se, attention, hcnn, short, short_res; mtt; Cnn6, Cnn10, Cnn14 and
    Cnn14_DecisionLevelMax, …Avg, …Att; ast; htsat"""
    width: float = 1.0
    """multiplies the channels (mtt, ast and htsat: of 256, 768 and 96), for small machines"""
    depth: int | None = None
    """blocks of ast; None: 12"""
    spectra: int | None = None
    """of 10 ms that ast's positions are for; None: as many as the window holds, and 24"""
    log_mel: tuple[float, float] | None = None
    """mean and deviation of ast's log-mel energies; None: AudioSet's"""
    repeat_short: bool = False
    """htsat hears a clip shorter than its window again and again; else silence follows it"""
    sample_rate: int = 16_000
    """Hz"""
    window_samples: int = 464_000
    """samples that the network answers on; the recipe's crops are as long"""
    msd: bool = False
    """MusiCNN as large as for the Million Song Dataset"""
    stripes: Stripes = field(default_factory=Stripes)
    mixed: Literal["waveform", "spectrogram", "pairs"] = "waveform"
    """what mixup mixes: waveforms, standardised spectrograms, or these two by two, so that half as many are heard"""
    channels: int | None = None
    """of mtt's convolutions; None: 128 × width. The published student's are as many as its teacher's"""
    teacher: str | None = None
    """a classifier whose answers are learned where a track has no label (a run, a published or imported folder; its
    outputs become the network's); None: labels alone; untrained: a random one, for tests"""
    unlabelled: float = 0.5
    """share of the crops that are of tracks without a label, where there is a teacher"""

    def __post_init__(self) -> None:
        """Refuse what can't be learned."""
        super().__post_init__()
        if self.teacher is not None and not 0 < self.unlabelled < 1:
            raise ValueError(f"unlabelled is {self.unlabelled}: a share above 0 and below 1.")

    def stand_in(self, folder: Path, crop_samples: int) -> tuple[TaggingConfig, str]:
        """An untrained teacher of the student's shape, where none is named."""
        if self.teacher != "":
            return self, ""
        return replace(self, teacher=UNTRAINED), "A random network of the student's shape stands in for its teacher."

    def build(self) -> Tagging:
        """Draw the network; its outputs come with the labels, in `prepare`."""
        return Tagging(self)

    def draw(self, classes: int) -> Any:
        """The network with fresh weights."""
        sound: dict[str, Any] = {
            "classes": classes,
            "sample_rate": self.sample_rate,
            "window_samples": self.window_samples,
        }
        if self.network in SIZES:
            large: dict[str, Any] = {"back_end": 512, "hidden": 500} if self.msd else {}
            return MusicTaggerModel(MusicTaggerConfig(network=self.network, width=self.width, **large, **sound))
        if self.network == "mtt":
            channels = self.channels or max(8, round(128 * self.width))
            hidden = max(8, 8 * round(32 * self.width))
            return TaggingTransformerModel(TaggingTransformerConfig(channels=channels, hidden_size=hidden, **sound))
        if self.network in NETWORKS:
            make = PannsConfig.at_16k if self.sample_rate == 16_000 else PannsConfig
            return PannsModel(make(network=self.network, width=self.width, **sound))
        if self.network == "ast":
            heads = max(1, round(12 * self.width))
            spectra = self.spectra or self.window_samples * 100 // self.sample_rate + 24
            told: dict[str, Any] = dict(zip(("mean", "std"), self.log_mel or ()))
            return SpectrogramTransformerModel(
                SpectrogramTransformerConfig(
                    hidden_size=64 * heads, num_attention_heads=heads, num_hidden_layers=self.depth or 12,
                    spectra=spectra, **told, **sound,
                )
            )  # fmt: skip
        if self.network == "htsat":
            first = max(1, round(4 * self.width))
            hop, high = (320, 14_000.0) if self.sample_rate == 32_000 else (160, self.sample_rate / 2)
            heads_of = tuple(first << i for i in range(4))
            return HtsatModel(
                HtsatConfig(
                    hidden_size=24 * first, heads=heads_of, hop=hop, high=high, repeat_short=self.repeat_short, **sound
                )
            )  # fmt: skip
        known = ", ".join([*SIZES, "mtt", *NETWORKS, "ast", "htsat"])
        raise ValueError(f"There is no network {self.network!r}; there is {known}.")


class Tagging(Labelled):
    """One question, answered by the network's own head; the weight counts clips."""

    config: TaggingConfig

    def __init__(self, config: TaggingConfig) -> None:
        Objective.__init__(self)
        self.config = config
        if len(config.questions) != 1:
            asked = ", ".join(task.label for task in config.questions) or "nothing"
            raise ValueError(f"A tagger's head answers one question, and {asked} is asked: --objective.labels tags")
        self.encoder, self._origin = config.draw(PLACEHOLDER), None
        self.heads = nn.ModuleList()
        self.answers: list[Answers] = []
        self.shares: list[float] = []
        self._labels_hash = ""
        self._valid: Manifest | None = None
        self._valid_rows = np.zeros(0, bool)
        self._valid_answers: list[Answers] = []
        self.validate_every, self.patience = config.validate_every, config.patience
        self._windows: dict[str, HeadFacts] = {}
        self._judges: tuple[Head, ...] = ()
        self._teacher: tuple[Teacher, ...] = ()  # in a tuple, out of parameters and state

    def heard(self, manifest: Manifest) -> Manifest:
        """See `Labelled.heard`; with a teacher the training tracks without a label, too.

        Raises:
            ValueError: with a teacher, every track has a label.
        """
        if self.config.teacher is None:
            return super().heard(manifest)
        columns = self._columns(manifest)
        chosen, left = self._training_rows(manifest, columns)
        if not left.any():
            raise ValueError(
                "A student learns from its teacher on tracks without a label, and every one has one: add tracks "
                "(--data LABELLED UNLABELLED), or train without --objective.teacher."
            )
        labelled = manifest.select(np.flatnonzero(chosen))
        labelled = self._balanced(labelled, columns) if self.config.balance else labelled
        return with_unlabelled(manifest, labelled, left, self.config.unlabelled)

    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Load the teacher, read the labels, draw the network."""
        if self.config.teacher not in (None, UNTRAINED):
            self._teacher = (load_teacher(str(self.config.teacher), self.config.sample_rate),)
        super().prepare(manifest, run)

    def place(self, device: torch.device) -> None:
        """Move the teacher."""
        for teacher in self._teacher:
            teacher.model.to(device)

    def provenance(self) -> dict[str, Any]:
        """See `Labelled`; also the hash of the teacher's weights."""
        found = super().provenance()
        return found | {"teacher": self._teacher[0].hash()} if self._teacher else found

    def _questions(self) -> tuple[LabelTask, ...]:
        """With the teacher's names, in its order, where there is one."""
        (task,) = self.config.questions
        return (replace(task, names=task.names or self._teacher[0].names),) if self._teacher else (task,)

    def _draw_heads(self) -> None:
        """A network with as many outputs as there are labels; what was loaded into the first one stays."""
        (answers,) = self.answers
        if not answers.kind.nominal or answers.kind.over_time:
            raise ValueError(f"A tagger answers about clips, and {answers.task.label} is of kind {answers.kind.name}.")
        # its weights are never used: it says how wrong an answer is
        self._judges = (
            HeadConfig(answers.kind.head, answers.names, 1, positive_weight=answers.task.positive_weight).build(),
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw_seed(self.seed, WEIGHTS))
            fresh = self.config.draw(len(answers.names))
        old, wanted = self.encoder.state_dict(), fresh.state_dict()
        fresh.load_state_dict({name: old[name] if old[name].shape == w.shape else w for name, w in wanted.items()})
        fresh.config.id2label = dict(enumerate(answers.names))
        fresh.config.label2id = {name: number for number, name in enumerate(answers.names)}
        fresh.config.problem_type = self._judges[0].problem
        self.encoder = fresh.train(self.training)
        self._check_teacher(answers)
        if self.config.averages:
            begin_averages(self)

    def _check_teacher(self, answers: Answers) -> None:
        """Draw the untrained one; refuse one that answers other questions."""
        if self.config.teacher == UNTRAINED:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(draw_seed(self.seed, TEACHER))
                drawn = self.config.draw(len(answers.names)).eval().requires_grad_(False)
            self._teacher = (Teacher(drawn, answers.names, self._judges[0].problem),)
        for teacher in self._teacher:
            if teacher.problem != self._judges[0].problem:
                raise ValueError(
                    f"The teacher's problem is {teacher.problem}, and {answers.task.label} is {answers.kind.name}: "
                    "name the kind as --objective.labels COLUMN:KIND, or take another teacher."
                )
            check_names(teacher, answers.names)
            check_names(teacher, _named(answers))

    def _heads(self) -> list[Head]:
        return list(self._judges)

    def _freeze(self) -> None:
        """Everything trains."""

    def lr_scale(self, name: str) -> float:
        """The same for all."""
        return 1.0

    def train(self, mode: bool = True) -> Tagging:
        """Nothing is frozen."""
        nn.Module.train(self, mode)
        return self

    def forward(self, batch: Batch, step: int) -> Loss:
        """Change the sound, hear it, answer, compare.

        Raises:
            ValueError: crops of another rate or length than the network's.
        """
        rate, window = self.encoder.config.sample_rate, self.encoder.config.window_samples
        if batch.sample_rate != rate or batch.waveform.shape[-1] > window:
            raise ValueError(
                f"The crops have {batch.waveform.shape[-1]} samples at {batch.sample_rate} Hz, the network hears "
                f"{window} at {rate} Hz: set --crops.sample-rate {rate} --crops.crop-samples {window}."
            )
        views = batch.waveform.shape[1]
        (waveform, valid), host = batch.by_view(), batch.on_host()
        host_valid, index = host.by_view()
        keys = [key for key in batch.keys for _ in range(views)]
        own: Tensor | None = None
        partner: Tensor | None = None
        share = torch.ones(len(waveform), device=waveform.device)
        taught = self._taught(waveform, host_valid, keys)
        with torch.no_grad(), torch.autocast(waveform.device.type, enabled=False), section("augment"):
            waveform, semitones = self._changed(waveform, host_valid, index)
            if self.config.mixed == "waveform":
                waveform, partner, share = self._mixed(waveform, index)
        network: Any = self.encoder.network
        if self.config.repeat_short:
            waveform, valid = repeated(waveform, window), torch.full_like(valid, window)
        padded = F.pad(waveform, (0, window - waveform.shape[1]))
        features = network.features(padded, valid)
        if self.training:
            features = striped(features, network.axes, self.config.stripes, draw_seeds(self.seed, index, STRIPES))
        if self.config.mixed == "pairs":
            features, own, partner, share = self._paired(features, index)
        elif self.config.mixed == "spectrogram":
            flat, partner, share = self._mixed(features.flatten(1), index)
            features = flat.view_as(features)
        logits = network.hear(features).logits
        clips = Clips(host.starts.flatten().double() / rate, 1, 1.0, torch.ones_like(host_valid), semitones)
        with section("targets"):
            wanted = [sent(answers.targets(keys, clips), waveform.device) for answers in self.answers]
        return self._judged(logits, wanted[0], partner, share, taught, own)

    def compiled_parts(self) -> list[nn.Module]:
        """The network's blocks or stages, which `hear` calls; single layers are kernels already."""
        network: Any = self.encoder.network
        return stages(network)

    def _paired(self, features: Tensor, index: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """Clips 2i and 2i + 1 mixed: the mixtures, whose they are, and the shares of the first, as PANNs were trained.

        A last clip without another stays as it is.
        """
        clips, device = len(features), features.device
        if not self.training or self.config.mixup.probability <= 0:
            return features, None, None, torch.ones(clips, device=device)
        own = torch.arange(0, clips, 2)
        share = self._mixup_shares(index[own], device)
        own, partner = sent(own, device), sent((own + 1).clamp(max=clips - 1), device)
        wide = share.view(-1, *[1] * (features.ndim - 1))
        return wide * features[own] + (1 - wide) * features[partner], own, partner, share

    @torch.no_grad()
    def _taught(self, waveform: Tensor, valid: Tensor, keys: Sequence[str]) -> Taught | None:
        """What the teacher says of the untouched crops without a label; None where there is no teacher.

        valid: [clips] samples of sound, on the CPU.
        """
        if not self._teacher:
            return None
        (teacher,), (answers,) = self._teacher, self.answers
        places = torch.tensor([place for place, key in enumerate(keys) if key not in answers.labels], dtype=torch.int64)
        rows = sent(places, waveform.device)
        found = waveform.new_zeros(len(waveform), len(answers.names))
        columns = torch.tensor([teacher.names.index(name) for name in answers.names])
        if len(rows):
            with torch.autocast(waveform.device.type, enabled=False), section("teacher"):
                said = teacher.answers(waveform[rows], valid[places])
                found[rows] = said.index_select(1, sent(columns, said.device))
        return Taught(torch.zeros(len(waveform), device=waveform.device).index_fill(0, rows, 1.0), found)

    def classifier(self, state: dict[str, Tensor] | None = None) -> AudioClassifier:
        """The network, which answers by its own head; state: of the objective, None for its own as it is now."""
        state = self.published_state(self.state_dict()) if state is None else state
        with torch.random.fork_rng(devices=[]):
            made = make_classifier(self._plain_encoder(), [])
        made.encoder.load_state_dict({n.removeprefix("encoder."): v.cpu() for n, v in state.items() if "encoder." in n})
        return made

    @torch.no_grad()
    def validate(self, state: dict[str, Tensor]) -> dict[str, float]:
        """Loss and metric on the validation tracks, heard in the windows that the network's config names."""
        assert self._valid is not None
        model, rate = self.classifier(self.published_state(state)), int(self.encoder.config.sample_rate)
        (answers,), (judge,) = self._valid_answers, self._judges
        once = Clips(torch.zeros(1, dtype=torch.float64), 1, 1.0, torch.ones(1, dtype=torch.int64))
        raw, wanted = [], []
        for row, track in enumerate(self._valid):
            if track.key in answers.labels:
                sound = torch.from_numpy(self._valid.read_all(row, rate, VALID_SECONDS))[None]
                raw.append(model(sound).logits)
                wanted.append(answers.targets([track.key], once))
        if not raw:
            raise ValueError("No validation track has a label, so nothing can be judged: --objective.validate-every 0.")
        loss = float(judge.loss(torch.cat(raw), torch.cat(wanted)))
        metric = judged(answers.kind, raw, wanted)
        score = metric if self.config.judge == "metric" else -loss
        return {"score": score, f"{answers.task.name}/loss": loss, f"{answers.task.name}/metric": metric}

    def _judged(
        self,
        logits: Tensor,
        targets: Tensor,
        partner: Tensor | None,
        share: Tensor,
        taught: Taught | None = None,
        own: Tensor | None = None,
    ) -> Loss:
        """own, partner: of which clips an answer is (None: of all in their order, of nobody else), with share."""
        (judge,), (answers,), (known,) = self._judges, self.answers, self.shares
        of_partner = None if partner is None else targets[partner]
        theirs = None if taught is None or partner is None else taught.of(partner)
        if own is not None:
            targets, taught = targets[own], None if taught is None else taught.of(own)
        each, labelled = self._each(logits, targets, taught)
        if of_partner is not None and self.config.mixup.labels:
            other, _ = self._each(logits, of_partner, theirs)
            each = share * each + (1 - share) * other
        metrics: dict[str, Tensor | float] = {f"{answers.task.name}/labelled": labelled.detach().mean()}
        if taught is not None:
            soft = taught_losses(logits.detach(), taught.answers, judge.problem) * taught.rows
            metrics[f"{answers.task.name}/taught"] = soft.sum() / taught.rows.sum().clamp(min=1)
        if answers.kind.one_of:
            hit = (logits.argmax(-1) == targets).float() * labelled
            metrics[f"{answers.task.name}/accuracy"] = (hit.sum() / labelled.sum().clamp(min=1)).detach()
        value = each.sum() / (max(known, 1e-9) * len(each))
        return Loss(value, torch.full_like(value, float(len(each))).detach(), metrics)

    def _each(self, logits: Tensor, targets: Tensor, taught: Taught | None) -> tuple[Tensor, Tensor]:
        """How wrong each clip's answer is, and whether it has a label.

        What a teacher answers for counts known / (1 - known) times, known being the share of clips with a label, by
        which the sum is divided later: the loss is the sum of both halves' means, however a batch is divided.
        """
        (judge,), (answers,), (known,) = self._judges, self.answers, self.shares
        each, labelled = judge.losses(logits, targets, answers.task.smoothing)
        if taught is None:
            return each, labelled
        soft = taught_losses(logits, taught.answers, judge.problem) * taught.rows
        return each + soft * (known / max(1 - known, 1e-9)), labelled


class Taught(NamedTuple):
    """rows: [clips] 1 where the teacher answers; answers: [clips, names], 0 elsewhere."""

    rows: Tensor
    answers: Tensor

    def of(self, clips: Tensor) -> Taught:
        """Of some clips."""
        return Taught(self.rows[clips], self.answers[clips])


def _named(answers: Answers) -> list[str]:
    """The names that a task's labels hold; of numbers none."""
    if not answers.kind.nominal:
        return []
    labels = answers.labels.values()
    return sorted({str(name) for label in labels for name in (label if isinstance(label, list) else [label])})


def stages(network: nn.Module) -> list[nn.Module]:
    """The outermost parts of a network that are made of several layers, each of which it calls."""
    found: list[nn.Module] = []
    for part in network.children():
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            found += stages(part)
        elif any(True for _ in part.children()):
            found.append(part)
    return found


def striped(features: Tensor, axes: tuple[int, int] | None, config: Stripes, seeds: Tensor) -> Tensor:
    """SpecAugment: features with stripes of 0, each clip by its own seed.

    axes: which dimensions are time and frequency; None (bare samples): left as they are.
    """
    if axes is None or not (config.times or config.bands):
        return features
    kept = torch.ones_like(features)
    wanted = ((axes[0], config.times, config.time_width), (axes[1], config.bands, config.band_width))
    for clip, seed in zip(kept, seeds.tolist(), strict=True):
        draw = torch.Generator().manual_seed(int(seed))
        for axis, stripes, width in wanted:
            total = clip.shape[axis - 1]
            for _ in range(stripes):
                wide = int(torch.randint(0, min(width, total), (1,), generator=draw))
                first = int(torch.randint(0, total - wide, (1,), generator=draw))
                clip.narrow(axis - 1, first, wide).zero_()
    return features * kept


def _recipe(network: str, seconds: float, lr: float, steps: int, batch: int, **more: Any) -> Recipe:
    optim, rate = more.pop("optim", {}), more.get("sample_rate", 16_000)
    samples, phases = more.pop("samples", round(seconds * rate)), more.pop("phases", ())
    labels = more.pop("labels", ("tags:tags",))
    return Recipe(
        objective=TaggingConfig(labels=labels, network=network, window_samples=samples, **more),
        crops=CropConfig(sample_rate=rate, crop_samples=samples),
        optim=Optim(**{"name": "adam", "lr": lr, **optim}),
        phases=phases,
        steps=steps,
        batch_size=batch,
        log_every=100,
        checkpoint_every=953,
    )


EPOCH = 953  # steps: MagnaTagATune's 15,247 clips, 16 at a time
PUBLISHED = 200 * EPOCH
L2: dict[str, Any] = {"weight_decay": 1e-4, "decay_all": True}
FOUR_PHASES: dict[str, Any] = {
    "optim": L2,
    "phases": tuple(
        Phase(epoch * EPOCH, Optim("sgd", lr, **L2)) for epoch, lr in ((80, 1e-3), (100, 1e-4), (120, 1e-5))
    ),
    "validate_every": EPOCH,
    "judge": "loss",
}
"""Adam, then SGD with Nesterov's momentum at three rates, each from the epoch of the lowest validation loss so far."""


def fcn_mtt() -> Recipe:
    """FCN on MagnaTagATune, 29 s: Adam over 80 epochs, SGD over 120 · one GPU, hours · .9005 / .4295."""
    return _recipe("fcn", 29, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def musicnn_mtt() -> Recipe:
    """MusiCNN on MagnaTagATune, 3 s: Adam and SGD · one GPU, hours · published .9106 / .4493."""
    return _recipe("musicnn", 3, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def crnn_mtt() -> Recipe:
    """CRNN on MagnaTagATune, 29 s: Adam and SGD · one GPU, hours · published .8722 / .3625."""
    return _recipe("crnn", 29, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def sample_mtt() -> Recipe:
    """SampleCNN on MagnaTagATune, 3.69 s: Adam and SGD · one GPU, hours · published .9058 / .4422."""
    return _recipe("sample", 3.69, 1e-4, PUBLISHED, 16, samples=59_049, **FOUR_PHASES)


def se_mtt() -> Recipe:
    """SampleCNN with excitation on MagnaTagATune: Adam and SGD · one GPU · published .9103 / .4520."""
    return _recipe("se", 3.69, 1e-4, PUBLISHED, 16, samples=59_049, **FOUR_PHASES)


def attention_mtt() -> Recipe:
    """CNN with self-attention on MagnaTagATune, 15 s: Adam and SGD · one GPU · .9077 / .4445."""
    return _recipe("attention", 15, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def hcnn_mtt() -> Recipe:
    """Harmonic CNN on MagnaTagATune, 5 s: Adam and SGD · one GPU, hours · published .9127 / .4611."""
    return _recipe("hcnn", 5, 1e-4, PUBLISHED, 16, **FOUR_PHASES)


def short_mtt() -> Recipe:
    """Short-chunk CNN on MagnaTagATune, 3.69 s: Adam and SGD · one GPU · published .9126 / .4590."""
    return _recipe("short", 3.69, 1e-4, PUBLISHED, 16, samples=59_049, **FOUR_PHASES)


def short_res_mtt() -> Recipe:
    """Short-chunk CNN with residuals on MagnaTagATune: Adam and SGD · one GPU · .9129 / .4614."""
    return _recipe("short_res", 3.69, 1e-4, PUBLISHED, 16, samples=59_049, **FOUR_PHASES)


MSD_EPOCH = 5110  # steps: 163,504 labelled tracks, 32 at a time


def mtt_msd() -> Recipe:
    """Music Tagging Transformer (teacher) on the Million Song Dataset, 10 s, CLMR's chain: Adam 1e-4, no schedule."""
    return _recipe(
        "mtt", 10, 1e-4, 200 * MSD_EPOCH, 32, sample_rate=22_050, augment="clmr", validate_every=MSD_EPOCH, patience=40,
        judge="loss",
    )  # fmt: skip


def mtt_student_msd() -> Recipe:
    """Its noisy student, 64 wide: 16 labelled and 16 unlabelled crops a step, whose labels are the teacher's answers.

    groundbass pretrain tagging.mtt_student_msd --objective.teacher RUN --data LABELLED UNLABELLED --run STUDENT
    · GPUs, days · 163,504 labelled and 516,415 unlabelled tracks in the paper
    """
    return _recipe(
        "mtt", 10, 1e-4, 200 * 2 * MSD_EPOCH, 32, sample_rate=22_050, augment="clmr", validate_every=2 * MSD_EPOCH,
        patience=40, judge="loss", width=0.25, channels=128, teacher="",
    )  # fmt: skip


def cnn14_audioset() -> Recipe:
    """PANNs' CNN14 on AudioSet: amsgrad, balanced, mixup and SpecAugment on the log-mel · published mAP .431."""
    return _recipe(
        "Cnn14", 10, 1e-3, 600_000, 64, sample_rate=32_000, balance=True, balance_by="each", mixed="pairs",
        mixup=Mixup(1.0, 1.0), stripes=Stripes(2, 64, 2, 8), optim={"amsgrad": True},
    )  # fmt: skip


AST_EPOCH = 161_200  # steps: 1,934,000 clips, 12 at a time
HTSAT_EPOCH = 15_100  # steps: 1,934,000 clips, 128 at a time


def ast_audioset() -> Recipe:
    """AST on AudioSet's two million clips: Adam 1e-5, halved by epoch, waveforms mixed, mean of epochs · mAP .459."""
    halved = tuple((epoch * AST_EPOCH, 0.5 ** (epoch - 1)) for epoch in (2, 3, 4))
    return _recipe(
        "ast", 10, 1e-5, 5 * AST_EPOCH, 12, balance=True, balance_by="each", mixup=Mixup(0.5, 10.0),
        stripes=Stripes(1, 192, 1, 48), mean=MeanOfWeights(AST_EPOCH, first=AST_EPOCH),
        optim={"betas": (0.95, 0.999), "weight_decay": 5e-7, "decay_all": True, "warmup_steps": 1000,
               "factors": halved},
    )  # fmt: skip


def htsat_audioset() -> Recipe:
    """HTS-AT on AudioSet: AdamW 1e-3 by steps of its own, decay .05, SpecAugment · published mAP .453 from scratch."""
    epochs = ((0, 0.02), (1, 0.05), (2, 0.1), (10, 0.05), (20, 0.02), (30, 0.03))
    return _recipe(
        "htsat", 10, 1e-3, 100 * HTSAT_EPOCH, 128, sample_rate=32_000, balance=True, balance_by="each",
        mixed="spectrogram", mixup=Mixup(1.0, 0.5, labels=False), stripes=Stripes(2, 64, 2, 8),
        optim={"name": "adamw", "weight_decay": 0.05, "decay_all": True, "clip": 1.0,
               "factors": tuple((epoch * HTSAT_EPOCH, factor) for epoch, factor in epochs)},
    )  # fmt: skip


ESC50_EPOCH = {"ast": 34, "htsat": 25}  # steps: four folds of 400 clips, 48 and 64 at a time


def ast_esc50() -> Recipe:
    """AST on ESC-50 from AudioSet's: Adam 1e-5, times .85 each epoch from the fifth on · published .9575, five folds.

    groundbass pretrain tagging.ast_esc50 --init AST --data MANIFEST --run RUN · one GPU, minutes

    AST is an imported one; without --init the published rate is --optim.lr 1e-4. The manifest's `split` says which four
    folds train.
    """
    epoch = ESC50_EPOCH["ast"]
    return _recipe(
        "ast", 5, 1e-5, 25 * epoch, 48, labels=("sound:class",), spectra=512, log_mel=(-6.6268077, 5.358466),
        stripes=Stripes(1, 96, 1, 24),
        optim={"betas": (0.95, 0.999), "weight_decay": 5e-7, "decay_all": True,
               "factors": tuple((done * epoch, 0.85 ** (done - 4)) for done in range(5, 25))},
    )  # fmt: skip


def htsat_esc50() -> Recipe:
    """HTS-AT on ESC-50 from AudioSet's, each clip heard twice in a window: AdamW by steps · published .970, five folds.

    groundbass pretrain tagging.htsat_esc50 --init HTSAT --data MANIFEST --run RUN · one GPU, minutes

    HTSAT is an imported one. The manifest's `split` says which four folds train.
    """
    epochs, epoch = ((0, 0.02), (1, 0.05), (2, 0.1), (10, 0.05), (20, 0.02), (30, 0.03)), ESC50_EPOCH["htsat"]
    recipe = _recipe(
        "htsat", 10, 1e-3, 100 * epoch, 64, sample_rate=32_000, labels=("sound:class",), stripes=Stripes(2, 64, 2, 8),
        repeat_short=True,
        optim={"name": "adamw", "weight_decay": 0.05, "decay_all": True, "clip": 1.0,
               "factors": tuple((done * epoch, factor) for done, factor in epochs)},
    )  # fmt: skip
    return replace(recipe, crops=replace(recipe.crops, crop_samples=160_000))


def _tiny(network: str, width: float, **more: Any) -> Recipe:
    samples = more.pop("samples", 48_000)
    return Recipe(
        objective=TaggingConfig(labels=("genre",), network=network, width=width, window_samples=samples, **more),
        crops=CropConfig(sample_rate=16_000, crop_samples=samples),
        optim=Optim(name="adamw", lr=1e-3, weight_decay=0.01, warmup_steps=20, decay="cosine", clip=1.0),
        steps=150,
        batch_size=16,
        log_every=10,
        checkpoint_every=75,
    )


def fcn_tiny() -> Recipe:
    """FCN a quarter as wide on 3 s · two CPU cores, minutes."""
    return _tiny("fcn", 0.25)


def musicnn_tiny() -> Recipe:
    """MusiCNN a quarter as wide on 3 s · two CPU cores, minutes."""
    return _tiny("musicnn", 0.25)


def crnn_tiny() -> Recipe:
    """CRNN a quarter as wide on 3 s · two CPU cores, minutes."""
    return _tiny("crnn", 0.25)


def sample_tiny() -> Recipe:
    """SampleCNN a quarter as wide on 3.69 s · two CPU cores, minutes."""
    return _tiny("sample", 0.25, samples=59_049)


def se_tiny() -> Recipe:
    """SampleCNN with excitation, an eighth as wide, on 3.69 s · two CPU cores, minutes."""
    return _tiny("se", 0.125, samples=59_049)


def attention_tiny() -> Recipe:
    """CNN with self-attention, an eighth as wide, on 3 s · two CPU cores, minutes."""
    return _tiny("attention", 0.125)


def hcnn_tiny() -> Recipe:
    """Harmonic CNN an eighth as wide on 5 s · two CPU cores, minutes."""
    return _tiny("hcnn", 0.125, samples=80_000)


def short_tiny() -> Recipe:
    """Short-chunk CNN an eighth as wide on 3.69 s · two CPU cores, minutes."""
    return _tiny("short", 0.125, samples=59_049)


def short_res_tiny() -> Recipe:
    """Short-chunk CNN with residuals, an eighth as wide, on 3.69 s · two CPU cores, minutes."""
    return _tiny("short_res", 0.125, samples=59_049)


def mtt_tiny() -> Recipe:
    """Music Tagging Transformer an eighth as wide on 3 s · two CPU cores, minutes."""
    return _tiny("mtt", 0.125)


def mtt_student_tiny() -> Recipe:
    """Noisy student in miniature: taught by a run of `mtt_tiny` on 3 s, CLMR's chain · two CPU cores, minutes.

    groundbass pretrain tagging.mtt_student_tiny --objective.teacher RUN --objective.labels genre --data LABELLED
        UNLABELLED --run STUDENT
    """
    return _tiny("mtt", 0.125, teacher="", augment="clmr")


def cnn6_tiny() -> Recipe:
    """PANNs' CNN6 an eighth as wide on 3 s, with its mixup and SpecAugment · two CPU cores, minutes."""
    return _tiny("Cnn6", 0.125, mixed="spectrogram", mixup=Mixup(1.0, 1.0), stripes=Stripes(2, 32, 2, 8))


def ast_tiny() -> Recipe:
    """AST of two blocks of 64 on 3 s · two CPU cores, minutes."""
    return _tiny("ast", 1 / 12, depth=2, stripes=Stripes(1, 48, 1, 24))


def htsat_tiny() -> Recipe:
    """HTS-AT a quarter as wide on 3 s, which are stretched to its 1,024 spectra · two CPU cores, minutes."""
    return _tiny("htsat", 0.25, stripes=Stripes(2, 32, 2, 8))


def ast_debug() -> Recipe:
    """One block of 64 on a second, a random teacher where a track has no tags, stripes · any CPU · seconds.

    groundbass pretrain tagging.ast_debug --data MANIFEST --run RUN
    """
    return _debug("ast", 1 / 12, depth=1, teacher=UNTRAINED, stripes=Stripes(1, 8, 1, 8))


def cnn6_debug() -> Recipe:
    """PANNs' CNN6 of four channels on a second, mixed, balanced, averaged and validated · any CPU · seconds.

    groundbass pretrain tagging.cnn6_debug --data MANIFEST --run RUN
    """
    return _debug(
        "Cnn6", 0.01, mixed="spectrogram", mixup=Mixup(1.0, 1.0), stripes=Stripes(2, 8, 2, 8), balance=True,
        average=0.5, validate_every=5,
    )  # fmt: skip


def _debug(network: str, width: float, **more: Any) -> Recipe:
    small = _tiny(network, width, samples=16_000, **more)
    return replace(
        small, objective=replace(small.objective, labels=("tags:tags",)),
        optim=Optim(lr=1e-3, warmup_steps=2, clip=10.0, amsgrad=True), steps=10, batch_size=4, log_every=1,
        checkpoint_every=5, workers=0, trackers=(),
    )  # fmt: skip
