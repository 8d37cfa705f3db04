"""One counter-based generator for the whole project: SplitMix64 (Steele, Lea & Flood 2014).

A draw is a function of integers (a run's seed, an example's index, a step, what the draw is for), so that neither the
number of processes nor an interruption changes it. Arithmetic is modulo 2^64; torch's int64 wraps alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_ALL = 2**64 - 1


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A small CPU tensor on `device`, without waiting for it: by way of pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def signed(number: int) -> int:
    """The int64 with the same lowest 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


GOLDEN = signed(_GOLDEN)


def shift_right(x: Tensor, bits: int) -> Tensor:
    """X >> bits as if int64 had no sign: torch shifts the sign in."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def scramble(x: Tensor) -> Tensor:
    """SplitMix64's finaliser: int64 to int64, one to one, every bit of the result depends on every bit of x."""
    for bits, factor in ((30, signed(_FIRST)), (27, signed(_SECOND))):
        x = (x ^ shift_right(x, bits)) * factor
    return x ^ shift_right(x, 31)


def scramble_array(x: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The finaliser on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return np.asarray(x ^ (x >> np.uint64(31)))


def next_number(number: int) -> int:
    """The number that follows the state `number`, as int64: the finaliser of number + 2^64 / golden ratio."""
    state = (number + _GOLDEN) & _ALL
    state = ((state ^ (state >> 30)) * _FIRST) & _ALL
    state = ((state ^ (state >> 27)) * _SECOND) & _ALL
    return signed(state ^ (state >> 31))


def draw_seed(seed: int, *numbers: int) -> int:
    """One non-negative 63-bit seed from the run's seed and any numbers (step, micro-batch, rank, …)."""
    state = next_number(seed)
    for number in numbers:
        state = next_number(state ^ next_number(number))
    return state & 0x7FFFFFFFFFFFFFFF


def draw_seeds(seed: int, index: Tensor, stream: int) -> Tensor:
    """One seed per example, a function of the run's seed, the example and what it is for.

    index: [batch] int64, the global example index (`batch.index`).
    stream: which draw this is (the view, say): other streams give independent seeds.
    Returns [batch] int64, not negative.
    """
    state = index.to(torch.int64) * GOLDEN + next_number(seed * 1000003 + stream)
    return scramble(state) & 0x7FFFFFFFFFFFFFFF


def uniform(seeds: Tensor, count: int) -> Tensor:
    """[batch] int64 seeds -> [batch, count] float64 in [0, 1), by 53 bits each."""
    counter = torch.arange(1, count + 1, device=seeds.device) * GOLDEN
    return shift_right(scramble(seeds[:, None] + counter), 11).double() * 2.0**-53


def normal(seeds: Tensor, count: int) -> Tensor:
    """[batch] int64 seeds -> [batch, count] float32, mean 0, standard deviation 1 (Box & Muller 1958)."""
    half = (count + 1) // 2
    u = uniform(seeds, 2 * half).float()
    radius = torch.sqrt(-2 * torch.log1p(-u[:, :half].clamp(max=1 - 2**-24)))
    angle = 2 * math.pi * u[:, half:]
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :count]


class Draws:
    """Random numbers of a batch, each item's from its own seed; the same on every device.

    With seeds on the CPU, numbers that decide what is computed can be had there (`here`), and nothing waits for a GPU.
    """

    def __init__(self, seeds: Tensor, salt: int, device: torch.device | None = None) -> None:
        """seeds: int64 [batch]. salt: tells the users of one seed apart. device: where numbers go, None: the seeds'."""
        self.seeds, self.device = seeds, device or seeds.device
        self.keys = scramble(seeds + signed(salt * GOLDEN))
        self.count = 0

    def __getitem__(self, index: Tensor) -> Draws:
        """The draws of some items, going on where these stopped; index: beside the seeds."""
        chosen = Draws.__new__(Draws)
        chosen.device = self.device
        chosen.seeds, chosen.keys, chosen.count = self.seeds[index], self.keys[index], self.count
        return chosen

    def uniform(self, low: float = 0.0, high: float = 1.0, here: bool = False) -> Tensor:
        """[batch] float32 in [low, high); here: on the CPU."""
        return self._placed(low + (high - low) * _to_unit(self._next()), here)

    def integer(self, low: int, high: int, here: bool = False) -> Tensor:
        """[batch] int64 from low to high, both included; here: on the CPU."""
        return self._placed(low + (_to_unit(self._next()) * (high - low + 1)).long(), here)

    def normal(self, samples: int) -> Tensor:
        """[batch, samples] float32, mean 0, standard deviation 1 (Box & Muller 1958)."""
        key = self._placed(self._next()[:, None])
        hashed = scramble(key + torch.arange(1, samples + 1, device=key.device) * GOLDEN)
        radius = torch.sqrt(-2 * torch.log1p(-_to_unit(hashed)))
        return radius * torch.cos(2 * math.pi * _to_unit(hashed << 24))

    def uniforms(self, count: int) -> Tensor:
        """[batch, count] float32 in [0, 1), two by 24 bits each of every number."""
        key = self._placed(self._next()[:, None])
        hashed = scramble(key + torch.arange(1, (count + 1) // 2 + 1, device=key.device) * GOLDEN)
        return torch.cat([_to_unit(hashed), _to_unit(hashed << 24)], 1)[:, :count]

    def again(self, repeat: int) -> Tensor:
        """[batch] other seeds for a repetition; those of repetition 0 are the seeds themselves."""
        return scramble(self.seeds + signed(repeat * GOLDEN)) if repeat else self.seeds

    def _placed(self, drawn: Tensor, here: bool = False) -> Tensor:
        if here or drawn.device == self.device:
            return drawn.cpu() if here else drawn
        return sent(drawn, self.device)

    def _next(self) -> Tensor:
        self.count += 1
        return scramble(self.keys + signed(self.count * GOLDEN))


def _to_unit(hashed: Tensor) -> Tensor:
    """The top 24 bits as float32 in [0, 1)."""
    return shift_right(hashed, 40).float() * 2.0**-24
