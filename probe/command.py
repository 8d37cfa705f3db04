"""`groundbass probe ENCODER TASK…` and `groundbass probe check ENCODER`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from .. import arguments, plugins
from ..data import parallel
from ..data.track import cache_folder
from ..models.encoder import Encoder, load_encoder, usual_device
from ..plugins import Findings
from .addresses import available, find_tasks, listed, question_at
from .apply.embedding import chosen_layers
from .contract import attributes, problems, question_problems, task_problems
from .curves.robustness import kinds_of
from .evaluation import BASELINES, AskedPooling, Baseline, Damage, Settings
from .fit import Protocol
from .listen.features import FeatureStore
from .report import long_table
from .report.naming import distinct
from .report.result import Result
from .session import Session, say
from .task import Task

ALL = "all"


@dataclass(frozen=True)
class Options:
    """Ask a frozen encoder what it learned: heads on every layer, beside baselines, with 95 % intervals.

    Finished tasks with the same encoder, clips and settings aren't done again. Everything is chosen on validation
    tracks; the test tracks are read once. Beside a JSON file per task, results.parquet and results.json hold one long
    table of all figures.

    Args:
        encoder: a run, a published folder, a Hub name, any Hugging Face audio model, or file.py:Class.
        addresses: synth_key:PATH, synth:PATH (all tasks of a corpus), folder:PATH (any folder with labels.csv),
            gtzan_genre (in $GROUNDBASS_DATA/gtzan), my_task.py:TASK:PATH, or all: every task whose corpus lies in
            $GROUNDBASS_DATA. `groundbass probe --list` names them.
        tasks: the same, as an option: --tasks all.
        label: what a folder task predicts, a column of labels.csv; COLUMN:class, COLUMN:tags, COLUMN:number or
            COLUMN:key names the kind, which is guessed otherwise. May be given several times.
        out: where the results go; RUN/probe for a run folder, else probe/NAME.
        protocol: linear (convex heads, one path of strengths), marble (MARBLE's constrained track: networks with 512
            hidden units, six learning rates, every layer and their weighted sum), knn (nearest neighbours), gmm
            (Gaussian mixtures per class), svm or forest. Frame tasks are always linear.
        layers: which layers may be chosen, 0 being the front end; negative numbers count from the end; all.
        random_seeds: one random copy of the encoder per seed; their scores are averaged. None at all leaves this
            baseline out.
        head_seeds: of the heads of the marble protocol; the score is the mean over seeds.
        few_shot: also learn from this many tracks per class (tracks in all, for frames), for example 1 5 10 20: a
            curve of five draws each.
        robustness: also test the trained head on damaged audio: all, or some of noise mp3 low-pass reverb clipping …
        units: also give the trained head single frames, windows of 3 s and songs, with rules that make one answer of a
            song's pieces (pooling mean only).
        baselines: which stand beside the score.
        pooling: what of a clip's frames a head reads: mean, mean+std (and standard deviations), mean+std+change (and
            deviations of the differences over one and four frames), or auto: what did best on validation tracks, chosen
            alike for encoder, random copies and hand-crafted features. The other protocols read the mean.
        heads: keep the head of each task (linear and marble) in OUT/heads, as `groundbass predict` reads it.
        window_seconds: longer tracks are encoded in equal windows of at most this length.
        store: where features are kept; $GROUNDBASS_CACHE or ~/.cache/groundbass by default.
        device: cpu, cuda, cuda:1; a GPU where there is one.
        dtype: of the weights of encoder and random copies; features are float32 in any case, and stored by dtype.
        threads: threads that decode.
        trust_remote_code: run the Python that the encoder's folder or Hub repository brings; read it first.
        json: print JSON and nothing else.
    """

    encoder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODER")]
    addresses: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TASK…")] = ()
    tasks: tuple[str, ...] = ()
    label: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN[:KIND]"), tyro.conf.UseAppendAction] = ()
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    protocol: Protocol = "linear"
    layers: tuple[int, ...] | Literal["all"] = "all"
    random_seeds: tuple[int, ...] = (0, 1, 2)
    head_seeds: tuple[int, ...] = (0, 1, 2)
    few_shot: tuple[int, ...] = ()
    robustness: tuple[Damage, ...] = ()
    units: bool = False
    baselines: tuple[Baseline, ...] = BASELINES
    pooling: AskedPooling = "auto"
    window_seconds: float = 10.0
    heads: bool = True
    store: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    device: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: int = 2
    trust_remote_code: bool = False
    json: tyro.conf.FlagCreatePairsOff[bool] = False

    def settings(self) -> Settings:
        """How to ask; which layers, the encoder must be known for.

        Raises:
            ValueError: options that contradict each other or mean nothing.
        """
        pooling = "mean" if self.units and self.pooling == "auto" else self.pooling
        if self.units and pooling != "mean":
            raise ValueError(f"--units needs --pooling mean, not {pooling}: a single frame has no deviation.")
        if any(number < 1 for number in self.few_shot):
            shots = " ".join(map(str, self.few_shot))
            raise ValueError(f"--few-shot {shots}: numbers of tracks are at least 1.")
        if not self.head_seeds:
            raise ValueError("--head-seeds needs at least one seed.")
        return Settings(
            (), self.random_seeds, pooling, self.protocol, self.head_seeds, self.baselines,
            tuple(sorted(set(self.few_shot))), kinds_of(self.robustness), self.units,
        )  # fmt: skip

    def features(self) -> FeatureStore:
        """Where features are kept, and how they are made."""
        if self.window_seconds <= 0:
            raise ValueError(f"--window-seconds must be above 0, not {self.window_seconds}.")
        device = usual_device(self.device)
        root = self.store or cache_folder() / "features"
        return FeatureStore(root, self.window_seconds, workers=self.threads, device=device)


def main(argv: list[str]) -> int:
    """Run `groundbass probe …` or `groundbass probe check …`; returns the exit code."""
    if "--list" in argv:
        if "--json" in argv:
            arguments.say([line.split(maxsplit=1) for line in listed()])
        else:
            print("\n".join(listed()))
    elif argv[:1] == ["check"]:
        arguments.run(check, argv[1:], "groundbass probe check").hold_all()
    else:
        options: Options = arguments.read(Options, argv, "groundbass probe")
        with arguments.aside(options.json):
            found = probe(options)
        if options.json:
            arguments.say([row for result in found for row in long_table.rows(result)])
    return 0


def probe(options: Options, encoder: Encoder | None = None) -> list[Result]:
    """Load the encoder (unless it is given), find the tasks, ask them one by one; the results in their order."""
    addresses = list(dict.fromkeys([*options.addresses, *options.tasks]))
    if not addresses:
        raise ValueError("Which task? For example: synth:PATH, synth_key:PATH, folder:PATH --label COLUMN, or all.")
    settings, store = options.settings(), options.features()
    here, missing = available() if ALL in addresses else ([], [])
    addresses = [*(address for address in addresses if address != ALL), *here]
    if not addresses:
        raise ValueError("There is no corpus to probe with.\n" + "\n".join(missing))
    encoder = _checked(encoder or _load(options, store.device), options)
    if options.layers not in ("all", ()):
        settings = replace(settings, layers=chosen_layers(encoder, options.layers))
    tasks, broken = _find(addresses, here, options.label, store.root)
    folder = options.out or default_out(options.encoder)
    try:
        session = Session(encoder, options.encoder, folder, store, settings, heads=options.heads)
        chosen = distinct(tasks, folder)
        parts = session.listen_in_shares(chosen)
        if not parallel.place().first:
            return []
        results = session.run(chosen)
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
        return results
    finally:
        for sentence in [*missing, *broken]:
            say(f"not probed: {sentence}")


def _load(options: Options, device: str) -> Encoder:
    dtype = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[options.dtype]
    return load_encoder(options.encoder, device, dtype, trust_remote_code=options.trust_remote_code)


def _checked(encoder: Encoder, options: Options) -> Encoder:
    """The encoder.

    Raises:
        ValueError: it breaks the contract.
    """
    if wrong := attributes(encoder).failed:
        raise ValueError(f"{options.encoder} breaks the encoder's contract: {'; '.join(wrong)}.")
    return encoder


def _find(addresses: list[str], here: list[str], labels: tuple[str, ...], folder: Path) -> tuple[list[Task], list[str]]:
    """The tasks, and why those of a broken corpus can't be asked. here: addresses that nobody named one by one."""
    tasks: list[Task] = []
    broken: list[str] = []
    for address in addresses:
        try:
            tasks += find_tasks(address, labels, folder)
        except (ValueError, FileNotFoundError) as reason:
            if address not in here:
                raise
            broken.append(f"{address}: {reason}")  # of all that is there, one broken corpus costs itself alone
    return tasks, broken


def default_out(encoder: str) -> Path:
    """RUN/probe when the encoder is a run folder, else probe/NAME under the working folder."""
    path = Path(encoder)
    if (path / "encoder").is_dir() or (path / "recipe.json").is_file():
        return path / "probe"
    name = encoder.rstrip("/").rpartition("/")[2] if path.exists() else encoder
    return Path("probe") / "".join(c if c.isalnum() or c in "._-" else "_" for c in name)


def check(
    encoder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ENCODER|TASK")],
    *,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Findings:
    """Explain what is wrong with an encoder (shapes, rates, padding, determinism, gradients) or with a task.

    Args:
        encoder: a run, a published folder, a Hub name, any Hugging Face audio model, or file.py:Class; or a task: its
            name, my_task.py:TASK, or with its corpus my_task.py:TASK:PATH.
        device: cpu, cuda, cuda:1; a GPU where there is one.
        trust_remote_code: run the Python that the encoder's folder or Hub repository brings; read it first.
    """
    question = question_at(encoder)
    own = plugins.named(encoder)
    if question is None and own is not None and not isinstance(own.load(), type):
        kind = type(own.load()).__name__
        raise ValueError(
            f"{own.address} is a {kind}: neither a task (a groundbass.probe.task.Question) nor an encoder's class."
        )
    if question is not None:
        found = question_problems(question)
        if not found.failed and encoder.partition(".py:")[2 if ".py:" in encoder else 0].count(":"):
            met = task_problems(find_tasks(encoder)[0])
            found.passed, found.failed = [*found.passed, *met.passed], met.failed
        return found.tell(encoder, "a task's contract")
    device = usual_device(device)
    loaded = load_encoder(encoder, device=device, trust_remote_code=trust_remote_code)
    return problems(loaded, device).tell(encoder, "the encoder's contract")
