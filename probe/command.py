"""`groundbass probe ENCODER TASK…` and `groundbass probe check ENCODER`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import torch
import tyro
from rich.console import Console

from ..models.encoder import Encoder, load_encoder
from . import baselines, result
from .beats import SLOWEST, constant_beats, fit_beats
from .contract import problems
from .features import FeatureStore, default_root, digest, identity
from .fit import Outcome, fit
from .report import table
from .task import Task, find_tasks

PROTOCOL = "linear, version 1"
FRAME_BYTES = 2_000_000_000  # a frame store of more layers than fit in here takes evenly spaced ones


def main(argv: list[str]) -> int:
    """Run `groundbass probe …` or `groundbass probe check …`; returns the exit code."""
    if argv[:1] == ["check"]:
        tyro.cli(check, args=argv[1:], prog="groundbass probe check")
    else:
        tyro.cli(probe, args=argv, prog="groundbass probe")
    return 0


def probe(
    encoder: tyro.conf.Positional[str],
    tasks: tyro.conf.Positional[tuple[str, ...]],
    *,
    label: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN[:KIND]"), tyro.conf.UseAppendAction] = (),
    out: Path | None = None,
    layers: tuple[int, ...] = (),
    seeds: tuple[int, ...] = (0,),
    pooling: Literal["mean", "mean+std"] = "mean",
    window_seconds: float = 10.0,
    store: Path | None = None,
    device: str | None = None,
    workers: int = 2,
) -> None:
    """Ask a frozen encoder what it learned: linear heads on every layer, beside baselines, with 95 % intervals.

    Finished tasks with the same encoder, clips and settings aren't done again.

    Args:
        encoder: a run, a published folder, a Hub name, any Hugging Face audio model, or file.py:Class.
        tasks: synth_key:PATH, synth:PATH (all tasks of the embedded corpus), folder:PATH (any folder with labels.csv).
        label: what a folder task predicts, a column of labels.csv; COLUMN:class, COLUMN:tags, COLUMN:number or
            COLUMN:key names the kind, which is guessed otherwise. May be given several times.
        out: where the results go; RUN/probe for a run folder, else probe/NAME.
        layers: the layers that may be chosen; all by default.
        seeds: one random copy of the encoder per seed; their scores are averaged. None at all leaves this baseline out.
        pooling: clip vectors are means over frames, or means and standard deviations.
        window_seconds: longer tracks are encoded in equal windows of at most this length.
        store: where features are kept; $GROUNDBASS_CACHE or ~/.cache/groundbass by default.
        device: cpu, cuda, cuda:1; a GPU where there is one.
        workers: threads that decode.
    """
    if not tasks:
        raise ValueError("Which task? For example: synth:PATH, synth_key:PATH, or folder:PATH --label COLUMN.")
    if window_seconds <= 0:
        raise ValueError(f"--window-seconds must be above 0, not {window_seconds}.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    keep = FeatureStore(store or default_root() / "features", window_seconds, workers=workers, device=device)
    heard = load_encoder(encoder, device=device)
    if any(not 0 <= layer < heard.layers for layer in layers):
        raise ValueError(f"--layers {' '.join(map(str, layers))}: the encoder has the layers 0 to {heard.layers - 1}.")
    asked = [task for address in tasks for task in find_tasks(address, label, keep.root)]
    folder = out or default_out(encoder)
    run_tasks(heard, encoder, asked, folder, keep, layers, seeds, pooling)


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
    layers: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    pooling: Literal["mean", "mean+std"] = "mean",
) -> list[dict[str, object]]:
    """Probe an encoder on tasks, write one result each, print the table; returns the results in the same order."""
    about = identity(encoder)
    copies: dict[tuple[str, int], Encoder] = {}
    results: list[dict[str, object]] = []
    for task in tasks:
        settings = [PROTOCOL, about, task.fingerprint(), list(layers), list(seeds), pooling, store.window_seconds]
        key = digest(settings)
        old = result.read(folder / f"{task.name}.json")
        if old is not None and old.get("key") == key:
            print(f"{task.name}: already done, see {folder / task.name}.json", file=sys.stderr)
            results.append(old)
            continue
        if task.unit == "frame" and encoder.frame_rate < SLOWEST:
            print(
                f"{task.name}: left out, it needs {SLOWEST:g} frames per second and the encoder has "
                f"{encoder.frame_rate:.2f}.",
                file=sys.stderr,
            )
            continue
        started = time.monotonic()
        trained, others, features, notes = _evaluate(task, encoder, store, layers, seeds, pooling, copies)
        record = result.result_json(task, name, about, key, trained, others, features, notes)
        record["pooling"], record["window_seconds"] = pooling, store.window_seconds
        result.write(folder, record, result.predictions(task, trained, others))
        print(f"{task.name}: {time.monotonic() - started:.1f} s", file=sys.stderr)
        results.append(result.read(folder / f"{task.name}.json") or record)
    if results:
        show(results, folder)
    return results


def _evaluate(
    task: Task,
    encoder: Encoder,
    store: FeatureStore,
    layers: Sequence[int],
    seeds: Sequence[int],
    pooling: Literal["mean", "mean+std"],
    copies: dict[tuple[str, int], Encoder],
) -> tuple[Outcome, dict[str, list[Outcome]], npt.NDArray[np.float32] | None, list[str]]:
    """The trained encoder's outcome, the baselines', the trained features, and sentences for the reader."""
    notes: list[str] = []
    features: npt.NDArray[np.float32] | None = None
    used = list(layers) or list(range(encoder.layers))
    if task.unit == "frame":
        used = affordable(used, encoder, task)
        if len(used) < (len(layers) or encoder.layers):
            notes.append(
                f"Frames of the layers {used} only: more don't fit in {FRAME_BYTES / 1e9:g} GB (choose with --layers)."
            )
        trained = _frames(task, encoder, store, used, f"encoder for {task.name}")
    else:
        features = store.clips(encoder, task.manifest, pooling, f"encoder for {task.name}")
        trained = fit(task, features, used)
    mel = baselines.LogMel()
    others: dict[str, list[Outcome]] = {"random": []}
    for seed in seeds:
        place = (digest([task.hashes, task.folds[0].train.tolist()]), seed)
        try:
            if place not in copies:
                copies[place] = baselines.untrained(encoder, task, seed, store.device)
        except ValueError as reason:
            notes.append(f"No random copy to compare with: {reason}")
            break
        title = f"random copy {seed} for {task.name}"
        if task.unit == "frame":
            others["random"].append(_frames(task, copies[place], store, used, title))
        else:
            others["random"].append(fit(task, store.clips(copies[place], task.manifest, pooling, title), used))
    if task.unit == "frame":
        others["log_mel"] = [_frames(task, mel, store, [0], f"log-mel for {task.name}")]
        others["constant"] = [constant_beats(task)]
    else:
        others["log_mel"] = [fit(task, store.clips(mel, task.manifest, "mean+std", f"log-mel for {task.name}"))]
        others["constant"] = [baselines.constant(task)]
    return trained, others, features, notes


def _frames(task: Task, encoder: Encoder, store: FeatureStore, layers: Sequence[int], title: str) -> Outcome:
    rows = sorted({int(row) for fold in task.folds for part in (fold.train, fold.valid, fold.test) for row in part})
    return fit_beats(task, store.frames(encoder, task.manifest, rows, layers, title), encoder.layers)


def affordable(layers: list[int], encoder: Encoder, task: Task) -> list[int]:
    """Evenly spaced layers, the last among them, whose frames fit in FRAME_BYTES."""
    size = float(task.manifest.seconds().sum()) * encoder.frame_rate * encoder.dim * 4
    number = max(1, min(len(layers), int(FRAME_BYTES // max(1.0, size))))
    return [layers[-1 - round(k * (len(layers) - 1) / max(1, number - 1))] for k in range(number)][::-1]


def show(results: Sequence[dict[str, object]], folder: Path) -> None:
    """Print the table and the sentences under it."""
    console = Console()
    console.print(table(results, console.width))
    for record in results:
        for note in record["notes"]:  # type: ignore[attr-defined]
            console.print(f"{record['task']}: {note}", style="dim", highlight=False, markup=False)
    console.print(
        f"▲ above its random copy outside the 95 % interval, = inside, ▼ below. Results: {folder}",
        highlight=False,
        markup=False,
    )


def check(encoder: tyro.conf.Positional[str], *, device: str = "cpu") -> None:
    """Explain what is wrong with an encoder: shapes, rates, padding, determinism, gradients.

    Args:
        encoder: a run, a published folder, a Hub name, any Hugging Face audio model, or file.py:Class.
        device: cpu or cuda.
    """
    found = problems(load_encoder(encoder, device=device), device)
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
