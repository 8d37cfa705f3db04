"""What an `Encoder` promises, tried on synthesised sound; each broken promise is told with its cure."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..models.encoder import Encoder


@dataclass
class Findings:
    """Promises kept and broken, one sentence each."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def hold(self, kept: bool, promise: str, cure: str) -> bool:
        (self.passed if kept else self.failed).append(promise if kept else f"{promise}: {cure}")
        return kept


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
