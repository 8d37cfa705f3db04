"""What an encoder promises, tried on synthesised sound, and what a task does; each broken promise with its cure."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import corpora
from ..data.labels.lookup import kind_of, words
from ..models.encoder import Encoder
from ..plugins import Findings
from .task import Question, Task


def problems(encoder: Encoder, device: str = "cpu") -> Findings:
    """Try every promise of the contract. A crash inside the encoder is a broken promise, told with its message."""
    found = attributes(encoder)
    if not found.failed:
        try:
            _listen(encoder, device, found)
        except Exception as error:  # a stranger's code may raise anything, and saying what is the purpose here
            found.hold(False, "it listens without an exception", f"{type(error).__name__}: {error}")
    return found


def attributes(encoder: Encoder) -> Findings:
    """The promises that need no listening: numbers and methods."""
    found = Findings()
    for name, kind in (("sample_rate", int), ("frame_rate", (int, float)), ("dim", int), ("layers", int)):
        value = getattr(encoder, name, None)
        good = isinstance(value, kind) and not isinstance(value, bool) and value > 0
        found.hold(good, f"{name} is a positive number", f"it is {value!r}; set it on the class or in __init__")
    for name in ("hidden_states", "valid_frames"):
        found.hold(
            callable(getattr(encoder, name, None)), f"{name} is a method", "add it, see models/encoder.py:Encoder"
        )
    return found


def _listen(encoder: Encoder, device: str, found: Findings) -> None:
    rate = encoder.sample_rate
    long, short = 6 * rate, 4 * rate
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(long) / rate
    sound = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[220.0], [330.0]]) * time) + 0.02 * torch.randn(
        2, long, generator=generator
    )
    sound = sound.to(device)
    hidden = encoder.hidden_states(sound)
    good = isinstance(hidden, Tensor) and hidden.ndim == 4
    shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
    if not found.hold(good, "hidden_states returns [batch, layers, frames, dim]", f"it returned {shape}"):
        return
    good = (hidden.shape[0], hidden.shape[1], hidden.shape[3]) == (2, encoder.layers, encoder.dim)
    promise = f"its shape is [2, {encoder.layers}, frames, {encoder.dim}]"
    if not found.hold(good, promise, f"it is {shape}; batch first, then layers, frames, dim, as the attributes say"):
        return
    found.hold(hidden.dtype == torch.float32, "it is float32", f"it is {hidden.dtype}; return .float()")
    found.hold(not hidden.requires_grad, "it carries no gradient", "wrap the forward in torch.no_grad()")
    hidden = hidden.detach()
    good = bool(torch.isfinite(hidden).all())
    if not found.hold(good, "it is finite on finite sound", "there are NaN or inf in it"):
        return
    again = encoder.hidden_states(sound)
    found.hold(
        torch.equal(hidden, again), "the same sound gives the same frames", "call .eval(): dropout or noise is on"
    )
    alone = encoder.hidden_states(sound[:1])
    found.hold(
        alone.shape[1:] == hidden.shape[1:] and torch.allclose(alone[0], hidden[0], rtol=1e-2, atol=_tolerance(hidden)),
        "a clip's frames don't depend on its neighbours in the batch",
        "batch statistics are used; call .eval()",
    )
    expected = 6 * encoder.frame_rate
    found.hold(
        abs(hidden.shape[2] - expected) <= max(2.0, 0.1 * expected),
        f"6 s give about {expected:.0f} frames at {encoder.frame_rate:g} Hz",
        f"they gave {hidden.shape[2]}; frame_rate is frames per second",
    )
    frames = encoder.valid_frames(torch.tensor([long, short]))
    found.hold(
        isinstance(frames, Tensor)
        and frames.shape == (2,)
        and int(frames[0]) <= hidden.shape[2]
        and int(frames[1]) >= 1,
        "valid_frames(samples [batch]) gives frames [batch], at least 1 and never more than there are",
        f"it gave {frames!r} for {long} and {short} samples, and {hidden.shape[2]} frames came out",
    )
    _padding(encoder, sound, short, found)
    other = encoder.hidden_states(sound[:, : 4 * (rate // 2)], sample_rate=rate // 2)
    wanted = encoder.hidden_states(sound[:, : rate * 4]).shape[2]
    found.hold(
        abs(other.shape[2] - wanted) <= 1,
        "sound of another rate is resampled",
        f"4 s at {rate // 2} Hz gave {other.shape[2]} frames, 4 s at {rate} Hz gave {wanted}",
    )


def _padding(encoder: Encoder, sound: Tensor, short: int, found: Findings) -> None:
    """A short clip padded in a batch must give the frames it gives alone."""
    padded = sound.clone()
    padded[1, short:] = 0
    valid = torch.tensor([sound.shape[1], short], device=sound.device)
    together = encoder.hidden_states(padded, valid).detach()
    alone = encoder.hidden_states(padded[1:, :short]).detach()
    count = min(int(encoder.valid_frames(torch.tensor([short]))[0]), alone.shape[2], together.shape[2])
    gap = float((together[1, :, :count] - alone[0, :, :count]).abs().mean() / alone.abs().mean().clamp_min(1e-9))
    found.hold(
        gap < 0.02,
        "padding doesn't change valid frames",
        f"they differ by {gap:.1%} on average; use `valid` to mask the padding (in attention, norms and convolutions)",
    )


def _tolerance(hidden: Tensor) -> float:
    return 1e-3 * float(hidden.abs().mean()) + 1e-6


def question_problems(question: Question) -> Findings:
    """The promises of a task that need no corpus."""
    found = Findings()
    found.hold(
        question.name.isidentifier(), "its name is one word", f"{question.name!r}: it names files, so take letters, "
        "digits and _",
    )  # fmt: skip
    found.hold(question.version >= 1, "its version counts from 1", f"it is {question.version}")
    try:
        kind = kind_of(question.kind)
    except ValueError:
        kind = None
    found.hold(kind is not None, "its kind of label is known", f"it is {question.kind!r}; take {words()}")
    found.hold(bool(question.label), "it reads a label", 'name the corpus\'s labels, as in label=("genre",)')
    good = question.unit in ("clip", "window", "frame") and (question.unit == "window") == (
        question.seconds is not None
    )
    found.hold(good, "its unit is clip, window (of `seconds`) or frame", f"{question.unit!r} of {question.seconds} s")
    if kind is not None:
        found.hold(
            kind.over_time == (question.unit == "frame"), "frames are asked for labels over time, and for no others",
            f"{question.kind} {'vary' if kind.over_time else 'do not vary'} over time, the unit is {question.unit}",
        )  # fmt: skip
    found.hold(
        question.corpus in [*corpora.names(), "synth"], "its corpus is known",
        f"{question.corpus!r} isn't; name it by groundbass.data.corpora.corpus(\"my_corpus.py:CORPUS\") in the task's "
        "file",
    )  # fmt: skip
    found.hold(bool(question.question.strip()), "it says in words what it asks", "set question=…")
    return found


def task_problems(task: Task) -> Findings:
    """The promises of a task that has met its corpus."""
    found = Findings()
    for number, fold in enumerate(task.folds):
        which = f"fold {number + 1}: " if len(task.folds) > 1 else ""
        parts = {"train": fold.train, "valid": fold.valid, "test": fold.test}
        empty = [name for name, rows in parts.items() if not len(rows)]
        found.hold(not empty, f"{which}tracks train, validate and test", f"none is there to {', '.join(empty)}")
        sets = [set(rows.tolist()) for rows in parts.values()]
        apart = sum(map(len, sets)) == len(set().union(*sets))
        found.hold(apart, f"{which}no track is in two sets", "a track that was learned can't test")
        artists = [{task.groups[row] for row in rows} for rows in sets]
        shared = artists[0] & artists[2]
        found.hold(
            not shared, f"{which}no artist trains and tests",
            f"{len(shared)} do ({min(shared, default='')}): the score would be too good; split by artist",
        )  # fmt: skip
        taught = {str(name) for row in fold.train for name in _names(task.labels[row])}
        asked = {str(name) for row in fold.test for name in _names(task.labels[row])}
        if task.label_kind.nominal and not task.label_kind.over_time:
            unheard = sorted(asked - taught)
            found.hold(
                not unheard, f"{which}what is asked was taught", f"no training track has {', '.join(unheard[:5])}"
            )
    found.hold(
        len(task.classes) > 1 or not task.label_kind.nominal, "there are at least two answers",
        f"all tracks are {', '.join(task.classes)}",
    )  # fmt: skip
    return found


def _names(label: object) -> tuple[object, ...]:
    return () if label is None else tuple(label) if isinstance(label, (list, tuple, set)) else (label,)
