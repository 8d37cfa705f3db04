"""A probe run: tasks asked of one encoder, one after the other, each with its result on the disk before the next."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from rich.console import Console

from ..data import parallel
from ..models.encoder import Encoder
from .evaluation import Evaluation, RandomCopies, Settings, TaskProbe
from .heads.keep import PROTOCOLS, Origin, is_kept, write_kept
from .listen import transductive
from .listen.features import FeatureStore, digest, identity
from .report import long_table, result, tables
from .report.result import Result, plain
from .report.scoring import predictions, result_of
from .task import Task

PROTOCOL = "version 6"


class Session:
    """What tasks of one run share is made once: the encoder's identity, its random copies, its stored features.

    name: of the encoder, as it was asked for; folder: of the results; heads: keep the heads of the protocols that have
    plain maps, in FOLDER/heads.
    """

    def __init__(
        self,
        encoder: Encoder,
        name: str,
        folder: Path,
        store: FeatureStore,
        settings: Settings,
        *,
        heads: bool = True,
    ) -> None:
        self.encoder, self.name, self.folder, self.store = encoder, name, folder, store
        self.settings, self.heads = settings, heads
        self.about = identity(encoder)
        self.copies = RandomCopies(encoder, store.device)

    @cached_property
    def heard(self) -> frozenset[str]:
        """Hashes of the tracks that the encoder was pretrained on, as far as they are known."""
        return transductive.heard_by(self.name)

    def run(self, tasks: Sequence[Task]) -> list[Result]:
        """Probe every task, print the table; returns the results in the same order, without tasks that were left out.

        Raises:
            ValueError: tasks failed; all others are done before it is raised.
        """
        results: list[Result] = []
        failed: list[str] = []
        for task in tasks:
            try:
                found = self.probe(task)
            except ValueError as reason:
                if len(tasks) == 1:
                    raise
                failed.append(f"{task.name}: {reason}")
                say(f"{task.name} failed: {reason}")
                continue
            results += [] if found is None else [found]
        if results:
            long_table.write(self.folder)
            show(results, self.folder)
        if failed:
            raise ValueError(f"{len(failed)} of {len(tasks)} tasks could not be probed:\n" + "\n".join(failed))
        return results

    def listen_in_shares(self, tasks: Sequence[Task]) -> list[Path]:
        """Of processes that were launched together each stores the features of its share of every task's tracks.

        Returns the stores of the shares, which aren't needed when the first has put them together; none where this
        process is alone.
        """
        place = parallel.place()
        if place.alone:
            return []
        for task in tasks:
            settings = self.settings.on(task)
            if self._done(task, settings) is None and self.encoder.frame_rate >= task.label_kind.slowest:
                TaskProbe(task, self.encoder, self.store, settings, self.copies).listen(place)
        return [folder for made in parallel.gathered(self.store.made) for folder in made]

    def _done(self, task: Task, settings: Settings) -> Result | None:
        """The result of these very questions, where it is on the disk."""
        old = result.read(self.folder / f"{result.file_name(task.name, settings.protocol)}.json")
        return old if old is not None and old.key == self._key(task, settings) else None

    def probe(self, task: Task) -> Result | None:
        """A task's result, from the disk where it is whole; None where the encoder is too slow for the task."""
        settings = self.settings.on(task)
        path = self.folder / f"{result.file_name(task.name, settings.protocol)}.json"
        key = self._key(task, settings)
        old = self._done(task, settings)
        if old is not None:
            shots, damages, units = curves_of(old)
            if self._is_whole(path, settings) and _has(settings, shots, damages, units):
                say(f"{task.name}: already done, see {path}")
                return old
            settings = settings.and_curves(shots, damages, units)
        if self.encoder.frame_rate < (slowest := task.label_kind.slowest):
            say(
                f"{task.name}: left out, it needs {slowest:g} frames per second and the encoder has "
                f"{self.encoder.frame_rate:.2f}."
            )
            return None
        started = time.monotonic()
        found = TaskProbe(task, self.encoder, self.store, settings, self.copies).evaluate()
        record = self._write(task, found, key, settings)
        say(f"{task.name}: {time.monotonic() - started:.1f} s")
        return record

    def _key(self, task: Task, settings: Settings) -> str:
        """Of two results with the same key, the figures are the same."""
        decides = [PROTOCOL, self.about, task.fingerprint(), settings.that_decide(), self.store.window_seconds]
        return digest(decides)

    def _is_whole(self, path: Path, settings: Settings) -> bool:
        """Whether the head of a result is there, where one is to be kept."""
        return not self.heads or settings.protocol not in PROTOCOLS or is_kept(self.folder, path.stem)

    def _write(self, task: Task, found: Evaluation, key: str, settings: Settings) -> Result:
        """The result, its predictions and its head on the disk; returns the result as it is read from there."""
        made = result_of(
            task, found, self.name, self.about, settings.protocol, key=key, window_seconds=self.store.window_seconds
        )
        made = replace(made, notes=(*made.notes, *transductive.note(task, self.heard)))
        path = result.write(self.folder, made, predictions(task, found.trained, found.others))
        written = result.read(path) or made
        if self.heads and found.kept is not None:
            write_kept(self.folder, path.stem, *found.kept, _origin(written))
        return written


def _origin(found: Result) -> Origin:
    """What a head's file says of where the head comes from: the first fold of this result."""
    names = ("task", "version", "question", "kind", "corpus", "fingerprint", "protocol")
    task = {name: getattr(found, name) for name in names}
    chosen = {"folds": found.counts.folds, "fold": 0, **plain(found.folds[0])}
    baselines = {name: one.score.value for name, one in found.baselines.items()}
    scores = {**found.metrics, "metric": found.metric, **found.score.to_json(), "baselines": baselines}
    return Origin(found.encoder, found.weights_hash, found.window_seconds, task | chosen, plain(scores))


def curves_of(found: Result) -> tuple[tuple[int, ...], tuple[str, ...], bool]:
    """What stands beside a result's score: few-shot numbers, kinds of damage, whether units are compared."""
    damages = found.robustness.tried if found.robustness else ()
    return tuple(point.shots for point in found.few_shot), damages, bool(found.units)


def _has(settings: Settings, shots: Sequence[int], damages: Sequence[str], units: bool) -> bool:
    """Whether all curves that are asked for are there."""
    return set(settings.few_shot) <= set(shots) and set(settings.robustness) <= set(damages) and settings.units <= units


def show(results: Sequence[Result], folder: Path) -> None:
    """Print the table and the sentences under it."""
    console = Console()
    console.print(tables.terminal(results, console.width).terminal())
    for found in results:
        if found.units:
            console.print(tables.units(found).terminal())
    if damaged := tables.robustness([(results[0].encoder, results)]):
        console.print(damaged.terminal())
    for note, names in tables.said(results).items():
        console.print(f"{', '.join(names)}: {note}", style="dim", highlight=False, markup=False)
    console.print(
        f"▲ above its random copy outside the 95 % interval, = inside, ▼ below. Results: {folder}",
        highlight=False,
        markup=False,
    )


def say(sentence: str) -> None:
    """To who waits, not into what is piped."""
    print(sentence, file=sys.stderr)
