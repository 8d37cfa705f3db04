"""`groundbass bench gpu`: first contact with a GPU in eight minutes, what is worth most first, each figure at once.

`--rehearse` runs the same code on a CPU with recipes in miniature, so that nothing is new on the day there is a card.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...data.track import Manifest
from .. import optim
from ..clock import Clock, running
from ..cost.pretended_run import Machine, made, of_size
from ..cost.roofline import ASSUMED, counted, estimate, fused
from ..cost.waits import allowed_by_file
from ..objectives import contrastive, latent, masked, tokens
from ..recipe import Recipe, addresses, find
from ..run.flops import flop_counter
from ..run.hardware import choose_arithmetic, peak_flops
from ..run.trial_step import random_batches
from ..step import Training, train_step
from ..targets.target import NOISE
from .parts import Row, peak_memory, row

SECONDS = 480.0  # a card lent for a quarter of an hour leaves time for a second try
PACKAGE = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORKERS = 16
SHAPES = {"mert": (374, False), "mert_padded": (374, True), "beats_bias": (124, True)}  # tokens, mask or bias


class Found:
    """Rows, said as soon as they are known, until the time is up."""

    def __init__(self, seconds: float) -> None:
        self.rows: list[Row] = []
        self._began, self._seconds = time.perf_counter(), seconds

    def add(self, what: str, value: float, unit: str, reference: str | None = None, ratio: float | None = None) -> None:
        """One more row."""
        self.rows.append(row(what, value, unit, reference, ratio))
        compared = "" if ratio is None else f" ({ratio:.3g} of {reference})"
        print(f"{self.passed:6.1f} s  {what}: {value:.5g} {unit}{compared}", file=sys.stderr, flush=True)

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began

    def section(self, name: str, needs: float, work: Callable[[], None]) -> None:
        """A part that takes `needs` seconds: left out where they aren't left; what fails in it ends this part alone."""
        if self.passed + needs > self._seconds:
            self.add(f"{name}_left_out", needs, "s that it needs are not left")
            return
        try:
            work()
        except (RuntimeError, ValueError, AssertionError) as error:  # CUDA's are RuntimeErrors
            traceback.print_exc(file=sys.stderr)
            self.add(f"{name}_failed", 1.0, f"{type(error).__name__}: {str(error)[:160]}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def rows(rehearse: bool = False, seconds: float = SECONDS) -> list[Row]:
    """Measure; see `groundbass bench gpu`.

    Raises:
        ValueError: there is no GPU, and it isn't a rehearsal.
    """
    if not rehearse and not torch.cuda.is_available():
        raise ValueError("There is no GPU here; `groundbass bench gpu --rehearse` runs the same code on a CPU.")
    device = CPU if rehearse else torch.device("cuda", 0)
    found = Found(seconds)
    print(choose_arithmetic(device, tf32=True).strip() or "a rehearsal on a CPU", file=sys.stderr)
    sizes = _debug_sizes() if rehearse else _full_sizes()
    with tempfile.TemporaryDirectory() as scratch:
        folder, noise = Path(scratch), Manifest.from_tracks([NOISE], ".")
        for name, needs, work in _sections(found, device, noise, folder, sizes, rehearse):
            found.section(name, needs, work)
    return found.rows


Section = tuple[str, float, Callable[[], None]]


def _sections(
    found: Found, device: torch.device, noise: Manifest, folder: Path, sizes: dict[str, Recipe], rehearse: bool
) -> Iterator[Section]:
    """What is measured, in the order of its worth: name, seconds that it needs on a GPU, the work."""
    yield "ceilings", 10, partial(ceilings, found, device)
    for address in ["tokens.beats_iter1_debug"] if rehearse else _alone():
        yield f"right_{address}", 6, partial(right, found, address, device, noise, folder / address)
    for name, recipe in sizes.items():
        yield name, 20, partial(speed, found, name, recipe, device, noise, folder / name)
    first = next(iter(sizes))
    for micro in () if rehearse else (16, 128):
        name, recipe = f"{first}_{micro}", of_size(sizes[first], micro, "bf16")
        yield name, 20, partial(speed, found, name, recipe, device, noise, folder / name)
    for name, recipe in sizes.items():
        name, compiled = f"{name}_compiled", not rehearse
        yield name, 60, partial(speed, found, name, recipe, device, noise, folder / name, compiled)
    yield "data", 60, partial(data, found, first, sizes[first], 1 if rehearse else WORKERS)
    if rehearse:
        yield "roofline", 20, partial(roofline, found, first, sizes[first], noise, folder / "roofline")


def _alone() -> list[str]:
    """The debug recipes that need no other run."""
    named = [address for address in addresses() if address.endswith("_debug")]
    return [a for a in named if getattr(find(a).objective, "tokenizer", None) != "" and not a.startswith("labelled")]


def _debug_sizes() -> dict[str, Recipe]:
    return {"beats_debug": of_size(tokens.beats_iter1_debug(), 2, "bf16")}


def _full_sizes() -> dict[str, Recipe]:
    from .train import _free_of_downloads as without_codec

    sizes = {
        "mert_95m": (without_codec(masked.mert_95m(), rvq=False), 64),
        "beats_base": (tokens.beats_iter1(), 35),
        "clmr_base": (contrastive.clmr_base(), 48),
        "eat_base": (latent.eat_base(), 12),
        "mert_330m": (without_codec(masked.mert_330m(), rvq=False), 16),
        "muq_large": (masked.muq_large(), 8),
    }
    return {name: of_size(recipe, micro, recipe.precision) for name, (recipe, micro) in sizes.items()}


# ---- what the card can


def ceilings(found: Found, device: torch.device) -> None:
    """Products and copies, and which kernel attends in three shapes that we train with."""
    size = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    found.add("product_bf16", 2 * size**3 / _seconds(lambda: a @ b) / 1e12, "TFLOP/s")
    source = torch.empty(2**28 if device.type == "cuda" else 2**20, device=device)
    target = torch.empty_like(source)
    found.add("copy", 8 * source.numel() / _seconds(lambda: target.copy_(source)) / 1e12, "TB/s read and written")
    for name, (count, masked_out) in SHAPES.items():
        _attention(found, name, count if device.type == "cuda" else 16, masked_out, device)


def _attention(found: Found, name: str, count: int, masked_out: bool, device: torch.device) -> None:
    biased = name.endswith("bias")
    heads = torch.randn(16, 12, count, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    bias: Tensor | None = None
    if biased:
        bias = torch.zeros(16, 12, count, count, device=device, dtype=torch.bfloat16, requires_grad=True)
    elif masked_out:
        bias = torch.ones(16, 1, 1, count, device=device, dtype=torch.bool)

    def both() -> None:
        scaled_dot_product_attention(heads, heads, heads, attn_mask=bias).sum().backward()

    began = time.perf_counter()
    both()
    _wait()
    first = time.perf_counter() - began
    kind = ""
    if device.type == "cuda":
        from torch.nn.attention import SDPBackend

        kind = f" by {SDPBackend(torch._fused_sdp_choice(heads, heads, heads, bias)).name.lower()}"
    found.add(f"attention_{name}", 1e3 * _seconds(both), f"ms forward and backward{kind}")
    found.add(f"attention_{name}_first", 1e3 * first, "ms, the first time in this shape")


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _seconds(work: Callable[[], Any], rounds: int = 10) -> float:
    for _ in range(3):
        work()
    _wait()
    began = time.perf_counter()
    for _ in range(rounds):
        work()
    _wait()
    return (time.perf_counter() - began) / rounds


# ---- whether it is right


class Stepper:
    """`train_step` on one device, so that what is timed is what trains."""

    def __init__(
        self, recipe: Recipe, device: torch.device, noise: Manifest, run: Path, compiled: bool = False
    ) -> None:
        objective = made(recipe, noise, run)
        objective.to(device)
        objective.place(device)
        if compiled:
            objective.compile_encoder()

        def model(batch: Any, step: int) -> Any:
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                return objective(batch, step)

        model.parameters = objective.parameters  # type: ignore[attr-defined]
        machine: Any = Machine(device)
        self.training = Training(recipe, machine, objective, model, optim.build(recipe.optim, objective))
        self.batches = (batch.to(device) for batch in random_batches(recipe, noise))
        self.steps = 0

    def __call__(self) -> tuple[float, float]:
        """One step: loss and gradient norm."""
        taken = train_step(self.training, self.batches, self.steps)
        self.steps += 1
        return taken.loss, taken.gradient_norm


def right(found: Found, address: str, device: torch.device, noise: Manifest, run: Path) -> None:
    """Loss and gradient of a debug recipe against the CPU's, and its waits against those that are allowed."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    recipe = find(address)
    try:
        wanted = Stepper(of_size(recipe, 4, "no"), CPU, noise, run)()
        for precision in ("no", "bf16"):
            stepper = Stepper(of_size(recipe, 4, precision), device, noise, run)
            for what, ours, theirs in zip(("loss", "gradient"), stepper(), wanted, strict=True):
                found.add(f"{address}_{what}_{precision}", ours, what, "the CPU's in float32", ours / theirs)
            waits = _told_waits(stepper) if device.type == "cuda" else Counter()
            beyond = waits - allowed_by_file(address)
            found.add(f"{address}_waits_{precision}", sum(waits.values()), f"per step; not allowed: {dict(beyond)}")
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _told_waits(stepper: Stepper) -> Counter[str]:
    """What CUDA itself says it waits for in a usual step, by file."""
    stepper()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        stepper()
        torch.cuda.set_sync_debug_mode("default")
    files = [Path(each.filename) for each in told if "synchroniz" in str(each.message)]
    return Counter(str(f.relative_to(PACKAGE)) if f.is_relative_to(PACKAGE) else f.name for f in files)


# ---- how fast it is


def speed(
    found: Found, name: str, recipe: Recipe, device: torch.device, noise: Manifest, run: Path, compiled: bool = False
) -> None:
    """A step's seconds, seconds of audio per second, utilisation, memory, and the targets' share of it."""
    stepper = Stepper(recipe, device, noise, run)
    with flop_counter() as counter:
        stepper()
    flops = float(counter.get_total_flops())
    if compiled:
        stepper = Stepper(recipe, device, noise, run, compiled=True)
    began = time.perf_counter()
    for _ in range(3):
        stepper()
    _wait()
    if compiled:
        found.add(f"{name}_warm", time.perf_counter() - began, "s until it is compiled")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    took, rounds = [], 6 if device.type == "cuda" else 2
    with running(Clock(device)) as clock:
        for _ in range(rounds):
            began = time.perf_counter()
            stepper()
            _wait()
            took.append(time.perf_counter() - began)
        parts = clock.take()
    step = median(took)
    found.add(name, recipe.seconds_per_step / step, "s of audio/s")
    found.add(f"{name}_step", 1e3 * step, "ms")
    peak = peak_flops(recipe.precision, recipe.tf32)
    if peak is not None:
        found.add(f"{name}_utilisation", flops / step / peak, "of the dense peak in what is really used")
    found.add(f"{name}_memory", peak_memory(device), "GiB")
    for part in ("targets", "augment"):
        if part in parts:
            found.add(f"{name}_{part}", parts[part] / (rounds * step), "of the step")


def data(found: Found, name: str, recipe: Recipe, workers: int) -> None:
    """What a step waits for its batch, read from FLAC files by so many processes."""
    from .train import _music, _our_steps

    with _music(recipe.crops) as manifest, tempfile.TemporaryDirectory() as run:
        lines = _our_steps(dataclasses.replace(recipe, workers=workers, trackers=()), manifest, Path(run) / "run")
    found.add(f"{name}_data_wait", median(line["data_wait_share"] for line in lines), f"of a step, {workers} workers")


def roofline(found: Found, name: str, recipe: Recipe, noise: Manifest, run: Path) -> None:
    """What the step's kernels would take on a GPU, as they are and compiled; no measurement."""
    print(f"roofline: {ASSUMED}", file=sys.stderr)
    micro = recipe.batch_size
    kernels, waits = counted(recipe, micro, noise, run)
    for how, launched in (("", kernels), ("_compiled", fused(kernels))):
        told = estimate(recipe, launched, waits, micro)
        found.add(f"roofline_{name}{how}", told.utilisation, "of 989 TFLOP/s, an estimate")
        found.add(f"roofline_{name}{how}_kernels", told.kernels, f"per step, {told.waits} waits")
        found.add(f"roofline_{name}{how}_device", 1e3 * told.device_seconds, "ms")
        found.add(f"roofline_{name}{how}_host", 1e3 * told.host_seconds, "ms")
        found.add(f"roofline_{name}{how}_audio", told.audio_seconds / told.seconds, "s of audio/s")
