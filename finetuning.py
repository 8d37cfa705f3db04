"""`groundbass finetune`: train an encoder on labels, and say what that brings over probing it frozen.

The short form of `groundbass pretrain labelled.finetune`: it takes data as `groundbass probe` does, sets rate and crops
by the encoder, and afterwards compares with the frozen encoder's linear probe on the same test tracks, paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

if TYPE_CHECKING:
    from .data.track import Manifest
    from .probe.report.finetuned import Compared


def finetune(
    encoder: tyro.conf.Positional[str],
    *,
    data: Annotated[str, tyro.conf.arg(metavar="folder:PATH|CORPUS")],
    run: Path,
    label: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN[:KIND]"), tyro.conf.UseAppendAction] = (),
    fold: int = 0,
    steps: int = 600,
    batch_size: int = 16,
    start: Literal["probe", "fresh"] = "probe",
    lr: float | None = None,
    layer_decay: float | None = None,
    head_lr: float | None = None,
    unfreeze: int | None = None,
    lora: int = 0,
    scratch: bool = False,
    pooling: Literal["mean", "mean+std", "mean+std+change", "attention"] = "mean+std",
    crop_seconds: float = 5.0,
    balance: bool = False,
    mixup: float = 0.0,
    smoothing: float = 0.0,
    average: float = 0.0,
    spec_augment: bool = False,
    validate_every: int = 50,
    patience: int = 4,
    probe: bool = True,
    store: Path | None = None,
    seed: int = 0,
    workers: int = 1,
    precision: Literal["no", "bf16", "fp16"] = "no",
    device: str | None = None,
) -> list[Any]:  # of `Compared`, which tyro would have to import
    """Fine-tune an encoder on labels; the same --run folder goes on where it stopped.

    RUN/classifier is what `groundbass predict` and `publish` take. The test tracks are heard once, at the end.

    Args:
        encoder: a run, or a published or imported folder.
        data: as `groundbass probe` takes it: folder:PATH (with --label), or a task or corpus such as gtzan_genre.
        run: the run's folder.
        label: of folder: data, COLUMN[:class|tags|number|key]; give it several times for several tasks at once.
        fold: which fold tests, where the data has folds.
        steps: of the optimiser, at most.
        batch_size: crops per step.
        start: the heads begin as the frozen encoder's linear probe, with its layer and pooling, which is published
            where validation finds that training brings nothing; or fresh. Those of labels over time (beats, chords,
            events) are always fresh, and decoded by default settings where the probe's are chosen on validation.
        lr: highest learning rate of the top block; 1e-3 for encoders of fewer than 12 blocks, else 3e-4.
        layer_decay: learning rate of a block over that of the block above it; 1 for fewer than 12 blocks, else 0.75.
        head_lr: learning rate of the heads over that of the top block; 1 for heads that begin as a probe, else 3 for
            fewer than 12 blocks and 10 for more.
        unfreeze: train only the last so many blocks; 0: the heads alone.
        lora: rank of what is learned beside the blocks' frozen linear maps (LoRA, needs PEFT); 0: the maps themselves
            are trained. Merged before publishing.
        scratch: draw the encoder's weights anew: what labels alone teach.
        pooling: of a clip's frames, by fresh heads.
        crop_seconds: length of a training crop.
        balance: hear rare classes as often as common ones.
        mixup: probability of mixing a clip with another.
        smoothing: label smoothing.
        average: share of averaged weights that a step keeps (EMA); what is validated and published is the average.
        spec_augment: silence spans and cut out bands.
        validate_every: steps between validations.
        patience: validations without a better one until the end.
        probe: fit the frozen encoder's linear probe too, as `groundbass probe` does by default, and compare.
        store: where features of the probe are kept; by default in the run.
        seed: of heads, crops and augmentation.
        workers: processes that read audio.
        precision: of the arithmetic.
        device: cpu, cuda; a GPU where there is one. Of several, CUDA_VISIBLE_DEVICES chooses.
    """
    from .pretrain.distributed import placed, rank
    from .probe.report import finetuned

    tasks = _tasks(data, label, fold, run)
    way = Way(
        start=start, scratch=scratch, unfreeze=unfreeze, lora_rank=lora, pooling=pooling,
        crop_seconds=crop_seconds, batch_size=batch_size, lr=lr, layer_decay=layer_decay, head_lr=head_lr, steps=steps,
        balance=balance, mixup=mixup, smoothing=smoothing, average=average, spec=spec_augment,
        validate_every=validate_every, patience=patience, seed=seed, workers=workers, precision=precision,
    )  # fmt: skip
    with placed(device):
        frozen = Frozen(encoder, store or run / "features")
        if not finetune_on(frozen, tasks, run, way) or rank() != 0:
            return []
        found = [_compared(task, number, run, frozen if probe else None) for number, task in enumerate(tasks)]
    for one in found:
        print(one.told())
    if timed := [label_of(task) for task in tasks if not _about_clips(task)]:
        print(f"Labels over time ({', '.join(timed)}) had fresh heads, and decoders that no validation chose.")
    finetuned.write(run, found)
    print(f"The classifier: {run / 'classifier'}. Next: groundbass predict {run} FILES, groundbass publish {run} OUT")
    return found


@dataclass(frozen=True)
class Way:
    """How an encoder is trained on labels; see `finetune`, whose words these are."""

    start: Literal["probe", "fresh"] = "probe"
    scratch: bool = False
    unfreeze: int | None = None
    lora_rank: int = 0
    pooling: str = "mean+std"
    crop_seconds: float = 5.0
    batch_size: int = 16
    lr: float | None = None
    layer_decay: float | None = None
    head_lr: float | None = None
    steps: int = 600
    balance: bool = False
    mixup: float = 0.0
    smoothing: float = 0.0
    average: float = 0.0
    spec: bool = False
    validate_every: int = 50
    patience: int = 4
    seed: int = 0
    workers: int = 1
    precision: Literal["no", "bf16", "fp16"] = "no"


class Frozen:
    """An encoder as it is, and the linear probes on it, each fitted once. store: folder of its features."""

    def __init__(self, address: str, store: Path) -> None:
        self.address, self._store = address, store
        self._found: dict[str, Any] = {}

    @cached_property
    def encoder(self) -> Any:
        """Opened when first asked for."""
        from .models.encoder import load_encoder, usual_device

        return load_encoder(self.address, usual_device())

    def probe(self, task: Any) -> Any:
        """What `groundbass probe` finds on a task by default, without baselines."""
        from .models.encoder import usual_device
        from .probe.evaluation import Settings, TaskProbe
        from .probe.listen.features import FeatureStore

        if task.name not in self._found:
            settings, store = Settings(baselines=(), seeds=()), FeatureStore(self._store, device=usual_device())
            self._found[task.name] = TaskProbe(task, self.encoder, store, settings).evaluate()
        return self._found[task.name]

    def write_heads(self, tasks: Sequence[Any], folder: Path) -> None:
        """Heads of the tasks about clips, as labels are named in training; those that are there stay."""
        from .models.encoder import weights_hash
        from .models.head_files import head_names, write_head

        there = head_names(folder)
        for task in tasks:
            if _about_clips(task) and label_of(task) not in there:
                head, facts = self.probe(task).kept
                told = {"task": task.name, "question": task.question}
                facts = dataclasses.replace(
                    facts, encoder=self.address, encoder_hash=weights_hash(self.encoder), task=told
                )
                write_head(folder, label_of(task), head, facts)


def finetune_on(frozen: Frozen, tasks: Sequence[Any], run: Path, way: Way) -> bool:
    """Train on tasks of the same tracks, each with one fold, until RUN/classifier stands; goes on where it stopped.

    Returns whether it came to its end: SIGTERM and Ctrl-C stop it before.
    """
    from .pretrain.distributed import rank
    from .pretrain.train import train

    manifest = run / "labelled.parquet"
    _check_labels(manifest, tasks)
    heads = run / "probe" if _begins_as_probe(tasks, way) else None
    if rank() == 0:
        if not manifest.is_file():
            run.mkdir(parents=True, exist_ok=True)
            labelled_manifest(tasks).write(manifest)
        if heads is not None:
            frozen.write_heads(tasks, heads)
    return train(_recipe(frozen, tasks, way, heads), manifest, run, address="labelled.finetune") >= way.steps


def _check_labels(kept: Path, tasks: Sequence[Any]) -> None:
    """Refuse other labels than those that a run was begun on. kept: its manifest, which may not be there yet."""
    from .data.track import Manifest

    if not kept.is_file():
        return
    asked = {name for task in tasks for name in label_of(task).split("+")}
    begun = set(Manifest.open(kept).label_names)
    if asked != begun:
        raise ValueError(
            f"The run {kept.parent} was begun on the labels {', '.join(sorted(begun))}, and now "
            f"{', '.join(sorted(asked))} are asked for: name its --label again, or choose another --run."
        )


def _begins_as_probe(tasks: Sequence[Any], way: Way) -> bool:
    return way.start == "probe" and not way.scratch and any(map(_about_clips, tasks))


def _tasks(data: str, label: Sequence[str], fold: int, run: Path) -> list[Any]:
    """The questions, each with the one fold that is asked for.

    Raises:
        ValueError: they aren't of one corpus.
    """
    from .probe.addresses import find_tasks

    tasks = find_tasks(data, label, run / "features")
    if not 0 <= fold < len(tasks[0].folds):
        raise ValueError(f"fold is {fold}, but {data} has the folds 0 to {len(tasks[0].folds) - 1}.")
    kept = [dataclasses.replace(task, folds=(task.folds[fold],)) for task in tasks]
    others = [task.name for task in kept if task.hashes != kept[0].hashes]
    if others:
        raise ValueError(f"{others[0]} asks about other tracks than {kept[0].name}: fine-tune on one task at a time.")
    return kept


def kind_of(task: Any) -> str:
    """The name of a task's kind of label."""
    return str(task.label_kind.head)


def _about_clips(task: Any) -> bool:
    return not task.label_kind.over_time


def label_of(task: Any) -> str:
    """The name of a task's labels in the manifest: one column per number."""
    names = [f"{task.name}.{number}" for number in range(len(task.classes))] if not task.label_kind.nominal else []
    return "+".join(names) or str(task.name)


def labelled_manifest(tasks: Sequence[Any]) -> Manifest:
    """The tasks' tracks with their labels, each in the set that the first task's fold puts it into."""
    manifest: Manifest = tasks[0].manifest
    sides: dict[int, str] = {}
    for task in reversed(tasks):
        for side in ("train", "valid", "test"):
            sides |= {int(row): side for row in getattr(task.folds[0], side)}
    rows, tracks = sorted(sides), []
    for row in rows:
        labels: dict[str, Any] = {}
        for task in tasks:
            value = task.labels[row]
            several = not task.label_kind.nominal
            values = [value] if not several else [None] * len(task.classes) if value is None else value
            labels |= {name: one for name, one in zip(label_of(task).split("+"), values) if one is not None}
        tracks.append(dataclasses.replace(manifest[row], split=sides[row], labels=labels))
    return manifest.relabelled(rows, tracks)


DEEP = 12
"""Blocks from which on an encoder is fine-tuned as MERT and BEATs are: gently, and its lower blocks more so."""


def _rates(frozen: Frozen, way: Way, probed: bool) -> tuple[float, float, float]:
    """lr, layer_decay and head_lr: what was asked for, else by the encoder's depth."""
    deep = int(frozen.encoder.layers) - 1 >= DEEP
    usual = 3e-4 if deep else 1e-3, 0.75 if deep else 1.0, 1.0 if probed else 10.0 if deep else 3.0
    if way.scratch:
        usual = usual[0], 1.0, 1.0
    asked = way.lr, way.layer_decay, way.head_lr
    lr, layer_decay, head_lr = (one if told is None else told for told, one in zip(asked, usual, strict=True))
    return lr, layer_decay, head_lr


def _recipe(frozen: Frozen, tasks: Sequence[Any], way: Way, heads: Path | None) -> Any:
    """`labelled.finetune`, set by the encoder and the way. heads: a folder of what they begin as."""
    from .data.crops import CropConfig
    from .pretrain.objectives.labelled import LabelledConfig, Mixup, SpecAugment, finetune
    from .pretrain.objectives.parts.label_targets import LabelTask
    from .pretrain.recipe import Optim

    base = finetune()
    asked_of = tuple(
        LabelTask(
            label_of(task), kind_of(task), names=() if task.label_kind.nameless else tuple(map(str, task.classes)),
            pooling=way.pooling, smoothing=way.smoothing,
        )
        for task in tasks
    )  # fmt: skip
    rate = int(frozen.encoder.sample_rate)
    lr, layer_decay, head_lr = _rates(frozen, way, heads is not None)
    objective = LabelledConfig(
        encoder=frozen.address, heads="" if heads is None else str(heads), fresh=way.scratch, tasks=asked_of,
        unfreeze=way.unfreeze, lora_rank=way.lora_rank,
        layer_decay=layer_decay, head_lr=head_lr, balance=way.balance,
        mixup=Mixup(probability=way.mixup),
        spec=SpecAugment(times=2, bands=2) if way.spec else SpecAugment(),
        average=way.average, validate_every=way.validate_every, patience=way.patience,
    )  # fmt: skip
    crops = CropConfig(sample_rate=rate, crop_samples=max(1, round(way.crop_seconds * rate)))
    optim = Optim(
        lr=lr, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=min(50, way.steps // 10),
        decay="cosine", clip=1.0,
    )  # fmt: skip
    return dataclasses.replace(
        base, objective=objective, crops=crops, optim=optim, steps=way.steps, batch_size=way.batch_size,
        checkpoint_every=max(way.validate_every, 1), seed=way.seed, workers=way.workers,
        precision=way.precision, keep_last=1,
    )  # fmt: skip


def heard(task: Any, number: int, run: Path) -> Any:
    """What the run's classifier says of the first fold's test tracks: [tracks, outputs]; number: of the task's head.

    Of labels over time, whose answers are no numbers, their scores: [tracks, measures].
    """
    return _heard(task, number, run)[0]


def _heard(task: Any, number: int, run: Path) -> tuple[Any, tuple[float, ...]]:
    """See `heard`; and above what a tag holds."""
    from .probe.apply.classify import load_classifier, what_to_hear

    classifier, found = load_classifier(run), []
    thresholds: tuple[float, ...] = ()
    for row in task.folds[0].test:
        said = classifier.hear(*what_to_hear(task.manifest, int(row)))[classifier.names[number]]
        thresholds = said.thresholds
        if not _about_clips(task):
            found.append(task.label_kind.score(task.labels[int(row)], task.label_kind.answered(said.timed)))
            continue
        values = said.values if said.values is not None else said.probabilities
        assert values is not None
        found.append(values[0])
    return np.stack(found), thresholds


def _compared(task: Any, number: int, run: Path, frozen: Frozen | None) -> Compared:
    """Score the classifier, and the frozen encoder's probe, on the fold's test tracks; paired by resampling them."""
    from .probe.report import bootstrap
    from .probe.report.finetuned import Compared

    rows, (ours, thresholds) = task.folds[0].test, _heard(task, number, run)
    theirs = None if frozen is None else _probed(task, frozen)
    drawn = [task.groups[int(row)] for row in rows]
    counts, groups = bootstrap.draw(drawn)
    truth = task.targets[rows]
    mine, replicates = score_of(task, truth, ours, counts)
    bounds = _bounds(task)
    one = Compared(
        task.name, _metric(task), len(rows), bootstrap.interval(mine, replicates, groups, bounds),
        classes=_per_class(task, truth, ours, theirs, drawn, thresholds),
    )  # fmt: skip
    if task.label_kind.one_of:
        table = np.zeros((len(task.classes), len(task.classes)), dtype=int)
        np.add.at(table, (truth, ours.argmax(1)), 1)
        one = dataclasses.replace(
            one, names=tuple(map(str, task.classes)), confusion=tuple(tuple(map(int, row)) for row in table),
            constant=float(np.mean(truth == _commonest(task))),
        )  # fmt: skip
    if theirs is None:
        return one
    other, others = score_of(task, truth, theirs, counts)
    return dataclasses.replace(
        one, probe=bootstrap.interval(other, others, groups, bounds),
        difference=bootstrap.interval(mine - other, replicates - others, groups),
    )  # fmt: skip


def _commonest(task: Any) -> int:
    """The number of the class of most training tracks."""
    return int(np.bincount(task.targets[task.folds[0].train]).argmax())


def _probed(task: Any, frozen: Frozen) -> Any:
    """What the frozen encoder's probe says of the first fold's test tracks: as `heard`."""
    outcome = frozen.probe(task).trained
    order = {int(row): place for place, row in enumerate(outcome.rows)}
    return np.stack([outcome.guess[order[int(row)]] for row in task.folds[0].test])


def _per_class(task: Any, truth: Any, ours: Any, theirs: Any, groups: Any, thresholds: tuple[float, ...]) -> Any:
    """Scores of each class, tag or number of a task about clips, with what the probe and guessing reach of classes."""
    from .probe.report import per_class

    kind, names = task.label_kind, [str(name) for name in task.classes]
    if kind.over_time:
        return ()
    if kind.one_of:
        others = {} if theirs is None else {"frozen probe": theirs.argmax(1)}
        others |= {"commonest class": np.full(len(truth), _commonest(task))}
        return per_class.of_classes(truth, ours.argmax(1), names, groups, others)
    if kind.several:
        return per_class.of_tags(truth, ours, names, groups, thresholds)
    return per_class.of_numbers(truth, ours, names, groups)


def score_of(task: Any, truth: Any, guess: Any, counts: Any) -> tuple[float, Any]:
    """The main metric, and the same on every resample."""
    once = task.label_kind.resampled(truth, guess, task.classes, np.ones((1, len(truth))))
    return float(once[0]), task.label_kind.resampled(truth, guess, task.classes, counts)


def _metric(task: Any) -> str:
    return str(task.metric)


def _bounds(task: Any) -> tuple[float, float]:
    found: tuple[float, float] = task.label_kind.bounds
    return found
