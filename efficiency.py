"""`groundbass efficiency`: how many labels an encoder saves.

A few recordings per class, more, and all of them teach, in turn: heads on the frozen encoder and on hand-crafted
features (`groundbass probe`), the whole encoder (`groundbass finetune`), and the same network from fresh weights. Every
fold of the data tests once; the answers of all folds are scored together, with 95 % intervals over recordings.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from .data.writing import write_text, written
from .reading import json_of

TRAINED = ("fine-tuned", "from scratch")


@dataclass(frozen=True)
class Point:
    """What one way of learning reached, mean over draws of the recordings, with its interval over test recordings.

    shots: recordings per class; None: all. clips: of them, mean over folds. first: the score of the first draw, which
    is the one that trained methods have.
    """

    method: str
    shots: int | None
    clips: int
    value: float
    low: float
    high: float
    first: float
    draws: int = 1


def efficiency(
    encoder: tyro.conf.Positional[str],
    *,
    data: Annotated[str, tyro.conf.arg(metavar="folder:PATH|CORPUS")],
    out: Path,
    label: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN[:KIND]"), tyro.conf.UseAppendAction] = (),
    per_class: tuple[int, ...] = (1, 5, 20),
    baselines: tuple[str, ...] = ("mfcc", "log_cqt", "all_crafted"),
    draws: int = 1,
    finetune: bool = True,
    steps: int = 100,
    batch_size: int = 16,
    lr: float | None = None,
    crop_seconds: float = 5.0,
    average: float = 0.0,
    mixup: float = 0.0,
    spec_augment: bool = False,
    store: Path | None = None,
    seed: int = 0,
    workers: int = 1,
    precision: Literal["no", "bf16", "fp16"] = "no",
    device: str | None = None,
) -> list[Point]:
    """Draw the curve of scores over the number of labelled recordings; the same --out goes on where it stopped.

    Validation tracks choose as always: pooling, layer and strength of heads, the best moment of training. OUT gets
    efficiency.csv, efficiency.json and efficiency.png.

    Args:
        encoder: a run, or a published or imported folder.
        data: as `groundbass probe` takes it: folder:PATH (with --label), or a task such as gtzan_genre.
        out: the folder of answers and results.
        label: of folder: data, COLUMN[:KIND].
        per_class: numbers of training recordings per class (per output, for tags and numbers); all are always there.
        baselines: hand-crafted sets that stand beside it.
        draws: of the recordings, over which scores of heads on frozen and hand-crafted features are averaged; what is
            trained, which takes longest, has the first.
        finetune: also fine-tune the encoder, and train its network from scratch.
        steps: of each training.
        batch_size: crops per step.
        lr: highest learning rate; by default as `groundbass finetune` takes it.
        crop_seconds: length of a training crop.
        average: share of averaged weights that a step keeps (EMA).
        mixup: probability of mixing a clip with another in training.
        spec_augment: silence spans and cut out bands in training.
        store: where features are kept; OUT/features by default.
        seed: of the draws of recordings, of heads and crops.
        workers: processes that read audio in training.
        precision: of the arithmetic in training: no, bf16, fp16.
        device: cpu, cuda; a GPU where there is one. Of several, CUDA_VISIBLE_DEVICES chooses.

    Raises:
        ValueError: several tasks, a task over time, a number per class or of draws below 1.
    """
    from .finetuning import Way
    from .models.encoder import load_encoder, usual_device, weights_hash
    from .pretrain.distributed import placed
    from .probe.addresses import find_tasks

    tasks = find_tasks(data, label, out / "features")
    if len(tasks) != 1 or tasks[0].label_kind.over_time:
        named = ", ".join(task.name for task in tasks)
        raise ValueError(
            f"The curve is that of one task about whole recordings, and {data} asks {named}: give --label."
        )
    if min(per_class, default=1) < 1:
        raise ValueError(f"--per-class {min(per_class)}: at least one recording per class.")
    if draws < 1:
        raise ValueError(f"--draws {draws}: at least one draw of the recordings.")
    way = Way(
        steps=steps, batch_size=batch_size, lr=lr, crop_seconds=crop_seconds, average=average,
        mixup=mixup, spec=spec_augment, seed=seed, workers=workers, precision=precision,
        validate_every=max(1, steps // 2), patience=0,
    )  # fmt: skip
    with placed(device):
        loaded = load_encoder(encoder, usual_device())
        how = _Trained(encoder, weights_hash(loaded), out, store or out / "features", way)
        points: list[Point] = []
        for shots in (*sorted(per_class), None):
            part = fewer(tasks[0], shots, seed)
            if shots is not None and _as_many(part, tasks[0]):
                print(f"{shots} per class are all that there are.")
                continue
            answers: dict[str, list[Answers]] = {}
            for draw in range(draws if shots is not None else 1):
                drawn = fewer(tasks[0], shots, seed + draw)
                for method, said in _probed(
                    drawn, shots, draw, loaded, baselines, out, store or out / "features"
                ).items():
                    answers.setdefault(method, []).append(said)
            if finetune:
                answers |= {method: [how.answers(part, shots, method)] for method in TRAINED}
            points += [scored(part, shots, method, said) for method, said in answers.items()]
            write(out, tasks[0].metric, points)
            print(lines_of(points[-len(answers) :]), flush=True)
    print(f"{out / 'efficiency.csv'}, {out / 'efficiency.png'}")
    return points


def fewer(task: Any, shots: int | None, seed: int) -> Any:
    """The task with so many training recordings per class in every fold; None: all."""
    from .probe.curves.few_shot import subset

    if shots is None:
        return task
    folds = [dataclasses.replace(fold, train=subset(task, fold.train, shots, seed)) for fold in task.folds]
    return dataclasses.replace(task, folds=tuple(folds))


def _as_many(part: Any, task: Any) -> bool:
    """Whether nothing was left out in any fold."""
    return all(len(few.train) == len(fold.train) for few, fold in zip(part.folds, task.folds, strict=True))


Answers = tuple[Any, Any]  # rows of the task's manifest, and what was said of them


def _probed(
    task: Any, shots: int | None, draw: int, encoder: Any, baselines: Sequence[str], out: Path, store: Path
) -> dict[str, Answers]:
    """Linear heads on the frozen encoder and on hand-crafted features, kept in OUT/answers."""
    from .models.encoder import usual_device, weights_hash
    from .probe.evaluation import Settings, TaskProbe
    from .probe.listen.features import FeatureStore

    wanted: Any = tuple(baselines)
    place = out / "answers" / f"frozen_{_name(shots)}{f'_draw{draw}' if draw else ''}.json"
    key = _digest(task, weights_hash(encoder), wanted)

    def find() -> dict[str, Answers]:
        settings = Settings(baselines=wanted, seeds=())
        found = TaskProbe(task, encoder, FeatureStore(store, device=usual_device()), settings).evaluate()
        outcomes = {"frozen": found.trained, **{name: each[0] for name, each in found.others.items()}}
        return {name: (outcome.rows, outcome.guess) for name, outcome in outcomes.items()}

    return _kept(place, key, find)


@dataclass(frozen=True)
class _Trained:
    """How the trained methods learn; see `efficiency`."""

    encoder: str
    weights: str
    out: Path
    store: Path
    way: Any

    def answers(self, task: Any, shots: int | None, method: str) -> Answers:
        """Of all folds' test tracks."""
        parts = [self._fold(task, number, shots, method) for number in range(len(task.folds))]
        rows, guesses = zip(*parts, strict=True)
        return np.concatenate(rows), np.concatenate(guesses)

    def _fold(self, task: Any, number: int, shots: int | None, method: str) -> Answers:
        one = dataclasses.replace(task, folds=(task.folds[number],))
        place = self.out / "answers" / f"{method.replace(' ', '_')}_{_name(shots)}_{number}.json"
        key = _digest(one, method, self.weights, dataclasses.astuple(self.way))
        return _kept(place, key, lambda: {method: (one.folds[0].test, self._train(one, method, key))})[method]

    def _train(self, task: Any, method: str, key: str) -> Any:
        """A run of its own, of which the answers alone are kept."""
        from .finetuning import Frozen, finetune_on, heard

        run, scratch = self.out / "runs" / key, method == "from scratch"
        way = dataclasses.replace(self.way, scratch=scratch)
        if not finetune_on(Frozen(self.encoder, self.store), [task], run, way):
            sys.exit("Stopped as asked; the same command goes on from there.")
        found = heard(task, 0, run)
        shutil.rmtree(run)
        return found


def _name(shots: int | None) -> str:
    return "all" if shots is None else str(shots)


def _said(shots: int | None) -> str:
    return "all" if shots is None else f"{shots} per class"


def _digest(task: Any, *settings: Any) -> str:
    """Of the tracks, labels and folds that teach and test, and of how."""
    folds = [[getattr(fold, part).tolist() for part in ("train", "valid", "test")] for fold in task.folds]
    told = [task.hashes, np.asarray(task.targets).tolist(), folds, settings]
    return hashlib.blake2b(json.dumps(told, default=str).encode(), digest_size=12).hexdigest()


def _kept(place: Path, key: str, find: Callable[[], dict[str, Answers]]) -> dict[str, Answers]:
    """What a file holds under this key, else what `find` finds, written beside and renamed."""
    if place.is_file():
        told = json_of(place)
        if told["key"] == key:
            return {name: (np.array(rows), np.array(guess)) for name, (rows, guess) in told["answers"].items()}
    found = find()
    lists = {name: (np.asarray(rows).tolist(), np.asarray(guess).tolist()) for name, (rows, guess) in found.items()}
    write_text(place, json.dumps({"key": key, "answers": lists}))
    return {name: (np.array(rows), np.array(guess)) for name, (rows, guess) in lists.items()}


def scored(task: Any, shots: int | None, method: str, answers: Sequence[Answers]) -> Point:
    """The task's main metric on all folds' test tracks, mean over draws, with its interval over groups of tracks."""
    from .finetuning import score_of
    from .probe.report import bootstrap

    rows = answers[0][0]  # of every draw: the folds are the same
    counts, groups = bootstrap.draw([task.groups[int(row)] for row in rows])
    each = [score_of(task, task.targets[rows], guess, counts) for _, guess in answers]
    value, replicates = (np.mean([one[place] for one in each], axis=0) for place in (0, 1))
    found = bootstrap.interval(float(value), replicates, groups, task.label_kind.bounds)
    clips = round(float(np.mean([len(fold.train) for fold in task.folds])))
    return Point(method, shots, clips, found.value, found.low, found.high, each[0][0], len(answers))


def write(out: Path, metric: str, points: Sequence[Point]) -> None:
    """efficiency.csv, .json and .png."""
    rows = [dataclasses.asdict(point) for point in points]
    with written(out / "efficiency.csv") as beside, beside.open("w", newline="", encoding="utf-8") as lines:
        table = csv.DictWriter(lines, [field.name for field in dataclasses.fields(Point)])
        table.writeheader()
        table.writerows(rows)
    write_text(out / "efficiency.json", json.dumps({"metric": metric, "points": rows}, indent=1) + "\n")
    draw(out / "efficiency.png", metric, points)


def draw(place: Path, metric: str, points: Sequence[Point]) -> None:
    """Scores with intervals over the number of training recordings, a line per method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    methods = list(dict.fromkeys(point.method for point in points))
    for number, method in enumerate(methods):
        mine = [point for point in points if point.method == method]
        at = [point.clips * (1 + 0.02 * (number - len(methods) / 2)) for point in mine]
        values = [point.value for point in mine]
        spans = [[p.value - p.low for p in mine], [p.high - p.value for p in mine]]
        style = "--" if method not in ("frozen", *TRAINED) else "-"
        axes.errorbar(at, values, yerr=np.nan_to_num(spans), fmt=f"o{style}", capsize=2, markersize=4, label=method)
    ticks = sorted({(point.clips, _said(point.shots)) for point in points})
    axes.set_xscale("log")
    axes.set_xticks([clips for clips, _ in ticks], [f"{clips}\n({name})" for clips, name in ticks])
    axes.minorticks_off()
    axes.set_xlabel("training recordings")
    axes.set_ylabel(metric)
    axes.legend()
    figure.savefig(place, dpi=150)
    pyplot.close(figure)


def lines_of(points: Sequence[Point]) -> str:
    """A line per method."""
    first = points[0]
    head = f"{_said(first.shots).capitalize()} ({first.clips} recordings):"
    draws = [f", mean of {p.draws} draws (the first: {p.first:.3f})" if p.draws > 1 else "" for p in points]
    scores = [f"  {p.method:<14} {p.value:.3f} [{p.low:.3f}, {p.high:.3f}]" for p in points]
    return "\n".join([head, *map("".join, zip(scores, draws, strict=True))])
