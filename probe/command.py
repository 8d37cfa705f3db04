"""`groundbass probe ENCODER TASK…` and `groundbass probe check ENCODER`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from rich.console import Console

from ..data.labels.splits import Fold
from ..data.track import cache_folder
from ..models.encoder import Encoder, load_encoder
from .addresses import available, find_tasks
from .baselines import simple as baselines
from .baselines.hand_crafted import Chroma, Mfcc, Tzanetakis
from .baselines.lecture import Lecture
from .contract import attributes, problems
from .curves import few_shot, robustness
from .curves import units as pieces
from .curves.robustness import kinds_of
from .fit import Outcome, Protocol, fit
from .heads.frames import constant_frames, fit_fold, fit_frames
from .heads.head import Features
from .heads.keep import PROTOCOLS, is_kept, keep_head, write_kept
from .listen.features import FeatureStore, Frames, digest, identity
from .report import long_table, result, tables
from .report.importance import importance, moments_of, sentences
from .report.naming import distinct
from .report.tables import said, table
from .task import Task

if TYPE_CHECKING:
    from ..models.head_files import HeadFacts
    from ..models.heads import Head

PROTOCOL = "version 2"
FRAME_BYTES = 4_000_000_000  # where the frames of all layers take more, few tracks say which layers are kept
Baseline = Literal["random", "log_mel", "mfcc", "chroma", "tzanetakis", "lecture", "constant"]
BASELINES: tuple[Baseline, ...] = ("random", "log_mel", "mfcc", "chroma", "tzanetakis", "constant")
FRAME_BASELINES = ("random", "log_mel", "mfcc", "chroma", "constant")
Damage = str  # one of `robustness.LEVELS`, or all


@dataclass(frozen=True)
class Settings:
    """How to ask; see the arguments of `probe`."""

    layers: tuple[int, ...] = ()
    seeds: tuple[int, ...] = (0,)
    pooling: Literal["mean", "mean+std"] = "mean"
    protocol: Protocol = "linear"
    head_seeds: tuple[int, ...] = (0,)
    baselines: tuple[Baseline, ...] = BASELINES
    few_shot: tuple[int, ...] = ()
    robustness: tuple[Damage, ...] = ()
    units: bool = False

    def that_decide(self) -> tuple[Any, ...]:
        """What decides a score: all but the curves and tables that stand beside it."""
        return astuple(replace(self, few_shot=(), robustness=()))[:-1]


@dataclass
class Evaluation:
    """What was found on one task: outcomes of the encoder and the baselines, further curves, sentences."""

    trained: Outcome
    others: dict[str, list[Outcome]]
    features: npt.NDArray[np.float32] | None = None
    few_shot: list[few_shot.Point] = field(default_factory=list)
    robustness: dict[str, Any] | None = None
    units: list[dict[str, Any]] = field(default_factory=list)
    importance: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: tuple[Head, HeadFacts] | None = None


def main(argv: list[str]) -> int:
    """Run `groundbass probe …` or `groundbass probe check …`; returns the exit code."""
    if argv[:1] == ["check"]:
        tyro.cli(check, args=argv[1:], prog="groundbass probe check")
    else:
        tyro.cli(probe, args=argv, prog="groundbass probe")
    return 0


def probe(
    encoder: tyro.conf.Positional[str],
    addresses: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TASK…")] = (),
    *,
    tasks: tuple[str, ...] = (),
    label: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN[:KIND]"), tyro.conf.UseAppendAction] = (),
    out: Path | None = None,
    protocol: Protocol = "linear",
    layers: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (0,),
    head_seeds: tuple[int, ...] = (0, 1, 2),
    few_shot: tuple[int, ...] = (),
    robustness: tuple[Damage, ...] = (),
    units: bool = False,
    baselines: tuple[Baseline, ...] = BASELINES,
    pooling: Literal["mean", "mean+std"] = "mean",
    window_seconds: float = 10.0,
    heads: bool = True,
    store: Path | None = None,
    device: str | None = None,
    workers: int = 2,
    trust_remote_code: bool = False,
) -> None:
    """Ask a frozen encoder what it learned: heads on every layer, beside baselines, with 95 % intervals.

    Finished tasks with the same encoder, clips and settings aren't done again. Everything is chosen on validation
    tracks; the test tracks are read once. Beside a JSON file per task, results.parquet and results.json hold one long
    table of all figures.

    Args:
        encoder: a run, a published folder, a Hub name, any Hugging Face audio model, or file.py:Class.
        addresses: synth_key:PATH, synth:PATH (all tasks of a corpus), folder:PATH (any folder with labels.csv),
            gtzan_genre (in $GROUNDBASS_DATA/gtzan), or all: every task whose corpus lies in $GROUNDBASS_DATA.
        tasks: the same, as an option: --tasks all.
        label: what a folder task predicts, a column of labels.csv; COLUMN:class, COLUMN:tags, COLUMN:number or
            COLUMN:key names the kind, which is guessed otherwise. May be given several times.
        out: where the results go; RUN/probe for a run folder, else probe/NAME.
        protocol: linear (convex heads, one path of strengths), marble (MARBLE's constrained track: networks with 512
            hidden units, six learning rates, every layer and their weighted sum), knn (nearest neighbours), gmm
            (Gaussian mixtures per class), svm or forest. Frame tasks are always linear.
        layers: the layers that may be chosen; all by default.
        seeds: one random copy of the encoder per seed; their scores are averaged. None at all leaves this baseline out.
        head_seeds: of the heads of the marble protocol; the score is the mean over seeds.
        few_shot: also learn from this many tracks per class (tracks in all, for frames), for example 1 5 10 20: a
            curve of five draws each.
        robustness: also test the trained head on damaged audio: all, or some of noise mp3 low-pass reverb clipping …
        units: also give the trained head single frames, windows of 3 s and songs, with rules that make one answer of a
            song's pieces (pooling mean only).
        baselines: which stand beside the score.
        pooling: clip vectors are means over frames, or means and standard deviations.
        heads: keep the head of each task (linear and marble) in OUT/heads, as `groundbass predict` reads it.
        window_seconds: longer tracks are encoded in equal windows of at most this length.
        store: where features are kept; $GROUNDBASS_CACHE or ~/.cache/groundbass by default.
        device: cpu, cuda, cuda:1; a GPU where there is one.
        workers: threads that decode.
        trust_remote_code: run the Python that the encoder's folder or Hub repository brings; read it first.
    """
    asked = [*addresses, *tasks]
    if units and pooling != "mean":
        raise ValueError(f"--units needs --pooling mean, not {pooling}: a single frame has no deviation.")
    if not asked:
        raise ValueError("Which task? For example: synth:PATH, synth_key:PATH, folder:PATH --label COLUMN, or all.")
    if window_seconds <= 0:
        raise ValueError(f"--window-seconds must be above 0, not {window_seconds}.")
    if any(number < 1 for number in few_shot):
        raise ValueError(f"--few-shot {' '.join(map(str, few_shot))}: numbers of tracks are at least 1.")
    if not head_seeds:
        raise ValueError("--head-seeds needs at least one seed.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    keep = FeatureStore(store or cache_folder() / "features", window_seconds, workers=workers, device=device)
    missing: list[str] = []
    if "all" in asked:
        here, missing = available()
        asked = [*(address for address in asked if address != "all"), *here]
        if not asked:
            raise ValueError("There is no corpus to probe with.\n" + "\n".join(missing))
    else:
        here = []
    heard = load_encoder(encoder, device=device, trust_remote_code=trust_remote_code)
    wrong = attributes(heard).failed
    if wrong:
        raise ValueError(f"{encoder} breaks the encoder's contract: {'; '.join(wrong)}.")
    if any(not 0 <= layer < heard.layers for layer in layers):
        raise ValueError(f"--layers {' '.join(map(str, layers))}: the encoder has the layers 0 to {heard.layers - 1}.")
    found: list[Task] = []
    for address in asked:
        try:
            found += find_tasks(address, label, keep.root)
        except (ValueError, FileNotFoundError) as reason:
            if address not in here:
                raise
            missing.append(f"{address}: {reason}")  # of all that is there, one broken corpus costs itself alone
    settings = Settings(
        layers, seeds, pooling, protocol, head_seeds, baselines, tuple(sorted(set(few_shot))), kinds_of(robustness),
        units,
    )  # fmt: skip
    try:
        place = out or default_out(encoder)
        run_tasks(heard, encoder, distinct(found, place), place, keep, settings, heads)
    finally:
        for sentence in missing:
            print(f"not probed: {sentence}", file=sys.stderr)


def default_out(encoder: str) -> Path:
    """RUN/probe when the encoder is a run folder, else probe/NAME under the working folder."""
    path = Path(encoder)
    if (path / "encoder").is_dir() or (path / "recipe.json").is_file():
        return path / "probe"
    name = encoder.rstrip("/").rpartition("/")[2] if path.exists() else encoder
    return Path("probe") / "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def run_tasks(
    encoder: Encoder,
    name: str,
    tasks: Sequence[Task],
    folder: Path,
    store: FeatureStore,
    settings: Settings,
    heads: bool = True,
) -> list[dict[str, object]]:
    """Probe an encoder on tasks, write one result each, print the table; returns the results in the same order.

    heads: keep the heads of the protocols that have plain maps, in FOLDER/heads.
    Raises ValueError when tasks failed, after all others are done.
    """
    about = identity(encoder)
    copies: dict[tuple[str, int], Encoder] = {}
    results: list[dict[str, object]] = []
    failed: list[str] = []
    for task in tasks:
        protocol = "linear" if task.unit == "frame" else settings.protocol
        seeds = settings.head_seeds if protocol == "marble" else (0,)  # nothing else draws anything
        here = replace(settings, protocol=protocol, head_seeds=seeds)
        key = digest([PROTOCOL, about, task.fingerprint(), here.that_decide(), store.window_seconds])
        path = folder / f"{result.file_name(task.name, protocol)}.json"
        old = result.read(path)
        whole = not heads or protocol not in PROTOCOLS or is_kept(folder, path.stem)
        if old is not None and old.get("key") == key:
            shots, damages = _curves(old)
            had = bool(old.get("units"))
            asked_before = set(here.few_shot) <= set(shots) and set(here.robustness) <= set(damages)
            if whole and asked_before and here.units <= had:
                print(f"{task.name}: already done, see {path}", file=sys.stderr)
                results.append(old)
                continue
            here = replace(  # curves that are there aren't lost when others are asked for
                here,
                few_shot=tuple(sorted({*here.few_shot, *shots})),
                robustness=tuple({**dict.fromkeys(damages), **dict.fromkeys(here.robustness)}),
                units=here.units or had,
            )
        slowest = task.label_kind.slowest
        if encoder.frame_rate < slowest:
            print(
                f"{task.name}: left out, it needs {slowest:g} frames per second and the encoder has "
                f"{encoder.frame_rate:.2f}.",
                file=sys.stderr,
            )
            continue
        started = time.monotonic()
        try:
            found = evaluate(task, encoder, store, here, copies)
        except ValueError as reason:
            if len(tasks) == 1:
                raise
            failed.append(f"{task.name}: {reason}")
            print(f"{task.name} failed: {reason}", file=sys.stderr)
            continue
        record = result.result_json(
            task, name, about, key, found.trained, found.others, found.features, found.notes, protocol
        )
        record["pooling"], record["window_seconds"] = settings.pooling, store.window_seconds
        record["few_shot"] = [point.to_json() for point in found.few_shot]
        record["robustness"] = found.robustness
        record["importance"], record["units"] = found.importance, found.units
        result.write(folder, record, result.predictions(task, found.trained, found.others))
        if heads and found.kept is not None:
            write_kept(folder, path.stem, *found.kept, task, result.read(path) or record, name)
        print(f"{task.name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
        results.append(result.read(path) or record)
    if results:
        long_table.write(folder)
        show(results, folder)
    if failed:
        raise ValueError(f"{len(failed)} of {len(tasks)} tasks could not be probed:\n" + "\n".join(failed))
    return results


def _curves(record: dict[str, Any]) -> tuple[list[int], list[Damage]]:
    """The few-shot numbers and the kinds of damage that a result has."""
    damages = record.get("robustness") or {}
    tried = [*(damages.get("kinds") or {}), *damages.get("left_out", ())]
    return [point["shots"] for point in record.get("few_shot") or []], tried


def evaluate(
    task: Task,
    encoder: Encoder,
    store: FeatureStore,
    settings: Settings,
    copies: dict[tuple[str, int], Encoder] | None = None,
) -> Evaluation:
    """Everything about one encoder on one task. copies: random copies that other tasks have made already."""
    copies = {} if copies is None else copies
    used = list(settings.layers) or list(range(encoder.layers))
    notes: list[str] = []
    trained, features = _probe(task, encoder, store, settings, used, f"encoder for {task.name}")
    if isinstance(features, Frames) and len(features.layers) < len(used):
        notes.append(
            f"Frames of the layers {list(features.layers)} alone, which did best on a part of the training and "
            f"validation tracks: all take more than {FRAME_BYTES / 1e9:g} GB."
        )
    pooled = features if isinstance(features, Features) else None
    found = Evaluation(trained, {}, None if pooled is None else pooled.array, notes=notes)
    if settings.protocol in PROTOCOLS:
        found.kept = keep_head(task, trained, features, encoder.layers, settings.pooling)
    wanted = [name for name in settings.baselines if task.unit != "frame" or name in FRAME_BASELINES]
    for name in wanted:
        found.others |= _baseline(name, task, encoder, store, settings, used, copies, notes)
    if settings.units and pieces.answers_by_name(task):
        found.units = pieces.compared(task, encoder, store, trained)
    if settings.protocol == "forest":
        found.importance = {"encoder": importance(trained)}
        for outcome in found.others.get("lecture", []):
            found.importance["lecture"] = importance(outcome, moments_of(Lecture.names))
        notes += sentences(found.importance)
    if settings.few_shot:
        found.few_shot = few_shot.curve(task, features, settings.few_shot, used)
    if settings.robustness:
        found.robustness = robustness.curves(task, encoder, store, trained, settings.robustness, settings.pooling)
    return found


def _probe(
    task: Task, encoder: Encoder, store: FeatureStore, settings: Settings, layers: Sequence[int], title: str
) -> tuple[Outcome, Features | Frames]:
    """Heads on some layers of an encoder, and the features that they read."""
    if task.unit == "frame":
        kept = frame_layers(task, encoder, store, layers, title)
        frames = store.frames(encoder, task.manifest, task.rows, kept, title)
        return fit_frames(task, frames, encoder.layers), frames
    features = robustness.features_of(task, encoder, store, settings.pooling, title)
    return fit(task, features, layers, settings.protocol, settings.head_seeds), features


def _baseline(
    name: Baseline,
    task: Task,
    encoder: Encoder,
    store: FeatureStore,
    settings: Settings,
    layers: Sequence[int],
    copies: dict[tuple[str, int], Encoder],
    notes: list[str],
) -> dict[str, list[Outcome]]:
    """Outcomes of one baseline; several for random copies of several seeds, none where it can't be made."""
    if name == "constant":
        return {name: [constant_frames(task) if task.unit == "frame" else baselines.constant(task)]}
    if name == "random":
        return {name: _random(task, encoder, store, settings, layers, copies, notes)}
    moments = replace(settings, pooling="mean+std", protocol="linear")
    if name == "tzanetakis":
        whole = replace(store, window_seconds=30.0)
        outcome, features = _probe(
            task, Tzanetakis(), whole, replace(moments, pooling="mean"), [0], f"{name} for {task.name}"
        )
        assert isinstance(features, Features)
        found: dict[str, list[Outcome]] = {name: [outcome], "tzanetakis_knn": [fit(task, features, [0], "knn")]}
        if task.label_kind.one_of and not task.label_kind.related:
            found["tzanetakis_gmm"] = [fit(task, features, [0], "gmm")]
        return found
    if name == "lecture":  # by the protocol that was asked for, since pipelines end in it
        own = replace(moments, protocol="linear" if settings.protocol == "marble" else settings.protocol)
        return {name: [_probe(task, Lecture(), store, own, [0], f"{name} for {task.name}")[0]]}
    heard: Encoder = baselines.LogMelBaseline() if name == "log_mel" else Mfcc() if name == "mfcc" else Chroma()
    return {name: [_probe(task, heard, store, moments, [0], f"{name} for {task.name}")[0]]}


def _random(
    task: Task,
    encoder: Encoder,
    store: FeatureStore,
    settings: Settings,
    layers: Sequence[int],
    copies: dict[tuple[str, int], Encoder],
    notes: list[str],
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for seed in settings.seeds:
        place = (digest([task.hashes, task.folds[0].train.tolist()]), seed)
        try:
            if place not in copies:
                copies[place] = baselines.untrained(encoder, task, seed, store.device)
        except ValueError as reason:
            notes.append(f"No random copy to compare with: {reason}")
            break
        title = f"random copy {seed} for {task.name}"
        outcomes.append(_probe(task, copies[place], store, settings, layers, title)[0])
    return outcomes


def frame_layers(task: Task, encoder: Encoder, store: FeatureStore, layers: Sequence[int], title: str) -> Sequence[int]:
    """All layers, or as many as have their frames in FRAME_BYTES: the best on validation tracks, tried on fewer tracks
    of the first fold.
    """
    size = float(task.manifest.seconds()[task.rows].sum()) * encoder.frame_rate * encoder.dim * 4
    number = max(1, int(FRAME_BYTES // size))
    if number >= len(layers):
        return layers
    share = FRAME_BYTES / (size * len(layers))
    train, valid = (_few(part, share) for part in (task.folds[0].train, task.folds[0].valid))
    rows = np.sort(np.concatenate([train, valid])).tolist()
    frames = store.frames(encoder, task.manifest, rows, layers, f"{title}, a part")
    _, _, curve = fit_fold(task, frames, Fold(train, valid, train[:0]))
    return sorted(sorted(layers, key=lambda layer: -curve[layer])[:number])


def _few(rows: npt.NDArray[np.int64], share: float) -> npt.NDArray[np.int64]:
    """A seeded share of the rows, at least one."""
    return np.sort(np.random.default_rng(0).permutation(rows)[: max(1, int(share * len(rows)))])


def show(results: Sequence[dict[str, object]], folder: Path) -> None:
    """Print the table and the sentences under it."""
    console = Console()
    console.print(table(results, console.width))
    for record in results:
        if record.get("units"):
            console.print(tables.units(dict(record)))
    for note, names in said(results).items():
        console.print(f"{', '.join(names)}: {note}", style="dim", highlight=False, markup=False)
    console.print(
        f"▲ above its random copy outside the 95 % interval, = inside, ▼ below. Results: {folder}",
        highlight=False,
        markup=False,
    )


def check(encoder: tyro.conf.Positional[str], *, device: str = "cpu", trust_remote_code: bool = False) -> None:
    """Explain what is wrong with an encoder: shapes, rates, padding, determinism, gradients.

    Args:
        encoder: a run, a published folder, a Hub name, any Hugging Face audio model, or file.py:Class.
        device: cpu or cuda.
        trust_remote_code: run the Python that the encoder's folder or Hub repository brings; read it first.
    """
    found = problems(load_encoder(encoder, device=device, trust_remote_code=trust_remote_code), device)
    for line in found.passed:
        print(f"  ok   {line}")
    for line in found.failed:
        print(f"  FAIL {line}")
    if found.failed:
        raise ValueError(
            f"{encoder} breaks the encoder's contract in {len(found.failed)} of "
            f"{len(found.passed) + len(found.failed)} points, listed above."
        )
    print(f"{encoder} keeps the encoder's contract.")
