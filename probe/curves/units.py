"""Frame, window, song: one trained head hears test tracks in pieces of each size, and rules make one answer of them.

The head is that of the clean result; only what it is given differs. A frame and a window inherit the label of their
track, which may be wrong for them (a quiet bar of a metal song), so their scores are lower bounds. A tagger's own head
stands beside, where its outputs are the task's names: its windows and its songs, as its config says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...data.labels.kind import Kind
from ...models.encoder import Encoder
from ..fit import Outcome
from ..heads.forms import form_of
from ..heads.head import Floats
from ..listen.features import FeatureStore
from ..task import Task

Array = npt.NDArray[np.float64]
RULES = ("mean of logits", "mean of probabilities", "majority of answers", "most certain piece")
EVENT_SECONDS = 3.0


@dataclass(frozen=True)
class PieceScore:
    """The main metric of pieces of one size. rule: how a song's pieces became one answer; number: of answers."""

    unit: str
    rule: str
    number: int
    value: float


def compared(
    task: Task, encoder: Encoder, store: FeatureStore, trained: Outcome, seconds: float = EVENT_SECONDS
) -> list[PieceScore]:
    """The main metric of frames, of windows of `seconds`, and of songs by each rule from either.

    Raises:
        ValueError: the task has no label per track, or the head mixes layers.
    """
    if not answers_by_name(task) or not trained.heads:
        raise ValueError(f"{task.name}: frame, window and song are compared for classes, keys and tags of tracks only.")
    if any(heads[0].layer < 0 for heads in trained.heads):
        raise ValueError(f"{task.name}: the head mixes layers; frame, window and song are compared for one layer.")
    found: dict[str, list[tuple[Array, Any]]] = {}
    own = own_head(task, encoder)
    for fold, heads in zip(task.folds, trained.heads, strict=True):
        head, truth = heads[0], task.targets[fold.test]
        tracks = task.manifest.select(fold.test)
        frames = store.frames(encoder, task.manifest, fold.test.tolist(), [head.layer], f"{task.name}, units")
        starts = [frames.spans[int(row)] for row in fold.test]
        rows = np.concatenate([np.arange(first, end) for first, end in starts])
        owner = np.repeat(np.arange(len(starts)), [end - first for first, end in starts])
        windows = store.windows(encoder, tracks, seconds, "mean", f"{task.name}, windows")
        song = store.clips(encoder, tracks, "mean", f"{task.name}, songs")
        pieces = {
            "frame": (_heard(head, frames.array[0][rows]), owner),
            "window": (_heard(head, windows.array[head.layer]), windows.owner),
        }
        _keep(found, ("song", "mean of features"), task, _heard(head, song[head.layer]), truth)
        for unit, (logits, owner) in pieces.items():
            _keep(found, (unit, "each alone"), task, logits, truth[owner])
            for rule in RULES:
                _keep(
                    found,
                    (f"song of {unit}s", rule),
                    task,
                    aggregated(task.label_kind, logits, owner, rule),
                    truth,
                    True,
                )
        if own is not None:
            _keep_own(found, own, task, fold.test, truth)
    result = []
    for name, parts in found.items():
        guess, truth = (np.concatenate(column) for column in zip(*parts))
        value = task.measure(truth, guess)[task.metric]
        unit, _, rule = name.partition(": ")
        result.append(PieceScore(unit, rule, len(truth), value))
    return result


@dataclass(frozen=True)
class OwnHead:
    """A tagger's own answers to a task. model: see `models/tagger.py`; columns: of its outputs, the task's names."""

    model: Any
    columns: list[int]

    @property
    def rule(self) -> str:
        """How its config makes one answer of a song."""
        config = self.model.config
        windows = {
            "even": f"{config.window_count} windows spread evenly", "row": "windows in a row", "first": "first window",
            "whole": "whole windows in a row",
        }[config.windows]  # fmt: skip
        return f"{windows}, mean of {config.aggregation}"

    @torch.inference_mode()
    def answers(self, sound: Array) -> tuple[Array, Array]:
        """Logits of a song's windows [windows, names] and of the song [names]. sound: [samples] at the model's rate."""
        size = self.model.config.window_samples
        waveform = torch.from_numpy(np.asarray(sound, dtype=np.float32)).to(self.model.device)
        windows = torch.stack([waveform[at : at + size] for at in self.model.starts(len(waveform))])
        each = self.model.judged(windows)
        both = each[:, self.columns], self.model.averaged(each[None])[0, self.columns]
        return np.asarray(both[0].double().cpu()), np.asarray(both[1].double().cpu())


def own_head(task: Task, encoder: Encoder) -> OwnHead | None:
    """The encoder's own head, where it has one with an output for each of the task's names."""
    model: Any = getattr(encoder, "model", None)
    if not hasattr(model, "class_logits"):
        return None
    names = {str(name): number for number, name in model.config.id2label.items()}
    wanted = [str(name) for name in task.classes]
    return OwnHead(model, [int(names[name]) for name in wanted]) if set(wanted) <= set(names) else None


def _keep_own(found: dict[str, list[tuple[Array, Any]]], own: OwnHead, task: Task, rows: Any, truth: Any) -> None:
    """Windows and songs by the classifier's own head, as its config says."""
    rate = int(own.model.config.sample_rate)
    heard = [own.answers(np.asarray(task.manifest.read(int(row), rate))) for row in rows]
    owner = np.repeat(np.arange(len(heard)), [len(windows) for windows, _ in heard])
    windows = np.concatenate([windows for windows, _ in heard])
    _keep(found, ("window, own head", "each alone"), task, windows, truth[owner])
    _keep(found, ("song, own head", own.rule), task, np.stack([song for _, song in heard]), truth)


def answers_by_name(task: Task) -> bool:
    """Whether a track's answer is a class, a key or tags."""
    return task.unit != "frame" and hasattr(form_of(task.label_kind), "constants")


def _heard(head: Any, features: Floats) -> Array:
    """[items, outputs] of the head on [items, dim] of its own layer."""
    table: Any = {head.layer: np.ascontiguousarray(features)}
    return np.asarray(head.respond(table, np.arange(len(features))))


def _keep(
    found: dict[str, list[tuple[Array, Any]]], name: tuple[str, str], task: Task, given: Array, truth: Any,
    sure: bool = False,
) -> None:  # fmt: skip
    """Note probabilities; given: logits, or probabilities already (`sure`)."""
    found.setdefault(": ".join(name), []).append((given if sure else probabilities(task.label_kind, given), truth))


def probabilities(kind: Kind, logits: Array) -> Array:
    """Logits [..., outputs] as probabilities: independent ones for tags, else of one class."""
    return np.asarray(form_of(kind).likely(logits))


def aggregated(kind: Kind, logits: Array, owner: npt.NDArray[np.int64], rule: str) -> Array:
    """[pieces, outputs] -> [songs, outputs] probabilities. owner: [pieces] song numbers in rising order."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    counts = np.diff([*starts, len(owner)])[:, None]
    each = probabilities(kind, logits)
    if rule == "mean of logits":
        return probabilities(kind, np.add.reduceat(np.clip(logits, -1e4, 1e4), starts) / counts)
    if rule == "mean of probabilities":
        return np.asarray(np.add.reduceat(each, starts) / counts)
    if rule == "majority of answers":
        votes = np.eye(each.shape[1])[each.argmax(1)] if kind.one_of else (each > 0.5)
        near = np.add.reduceat(each, starts) / counts  # breaks ties
        return np.asarray((np.add.reduceat(votes.astype(np.float64), starts) / counts + 1e-6 * near) / (1 + 1e-6))
    highest = np.asarray(np.maximum.reduceat(each, starts))
    return np.asarray(highest / highest.sum(1, keepdims=True)) if kind.one_of else highest
