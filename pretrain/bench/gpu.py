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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from ...data.audio.read import write
from ...data.track import Manifest, Track
from ...models.adapters import ModelEncoder
from ...models.heads import moments
from ...models.mert import MertConfig, MertModel
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
from . import kernels
from .parts import Row, peak_memory, row

SECONDS = 480.0  # a card lent for a quarter of an hour leaves time for a second try
PACKAGE = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORKERS = 16
FIRST = (
    "masked.mert_debug", "tokens.beats_iter1_debug", "latent.eat_debug", "contrastive.clmr_debug", "masked.muq_debug",
)  # fmt: skip
"""Recipes that are checked before anything is timed."""
ESTIMATED = ("mert_95m", "beats_base", "eat_base", "clmr_base")


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
        except (
            RuntimeError,
            ValueError,
            AssertionError,
            OSError,
            ArithmeticError,
        ) as error:  # CUDA's are RuntimeErrors
            traceback.print_exc(file=sys.stderr)
            self.add(f"{name}_failed", 1.0, f"{type(error).__name__}: {str(error)[:160]}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def rows(rehearse: bool = False, seconds: float = SECONDS, roofs: dict[str, Recipe] | None = None) -> list[Row]:
    """Measure; see `groundbass bench gpu`.

    roofs: whose roofline a rehearsal estimates; None: those of `ESTIMATED`.

    Raises:
        ValueError: there is no GPU, and it isn't a rehearsal.
    """
    if not rehearse and not torch.cuda.is_available():
        raise ValueError("There is no GPU here; `groundbass bench gpu --rehearse` runs the same code on a CPU.")
    device = CPU if rehearse else torch.device("cuda", 0)
    found = Found(float("inf") if rehearse else seconds)
    print(choose_arithmetic(device, tf32=True).strip() or "a rehearsal on a CPU", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        noise = _noise(folder, [dataclasses.replace(NOISE, path="noise.flac", samples=144_000, sample_rate=24_000)])
        full = _full_sizes(folder) if roofs is None or not rehearse else roofs
        sizes = _debug_sizes(folder) if rehearse else full
        for name, needs, work in _sections(found, device, noise, folder, sizes, rehearse):
            found.section(name, needs, work)
        for name, recipe in full.items() if rehearse else ():
            if roofs is None and name not in ESTIMATED:
                continue
            found.section(f"roofline_{name}", 0, partial(roofline, found, name, recipe, noise, folder / f"roof_{name}"))
    return found.rows


Section = tuple[str, float, Callable[[], None]]


def _sections(
    found: Found, device: torch.device, noise: Manifest, folder: Path, sizes: dict[str, Recipe], rehearse: bool
) -> Iterator[Section]:
    """What is measured, in the order of its worth: name, seconds that it needs on a GPU, the work."""
    first, *others = sizes
    several = _noise(folder, _labelled_tracks())  # contrasts need more than one track, and some learn from labels

    def sped(name: str, recipe: Recipe, compiled: bool = False) -> Section:
        place = folder / name
        work = partial(speed, found, name, recipe, device, noise, place, compiled)
        return name, 45 if compiled else 12, work

    def checked(address: str) -> Section:
        return f"right_{address}", 5, partial(right, found, address, device, several, folder / address)

    yield "ceilings", 10, partial(ceilings, found, device)
    yield "attention", 10, partial(kernels.attention, found, device)
    alone = _alone()
    yield from (checked(address) for address in alone if address in FIRST)
    yield sped(first, sizes[first])
    yield sped(f"{first}_compiled", sizes[first], compiled=True)
    for name in others:
        yield sped(name, sizes[name])
    yield "data", 40, partial(data, found, first, 1 if rehearse else WORKERS)
    yield "listening", 15, partial(listening, found, device)
    yield from (checked(address) for address in alone if address not in FIRST)
    for micro in (1, 4) if rehearse else (16, 128):
        yield sped(f"{first}_{micro}", of_size(sizes[first], micro, "bf16"))
    for name in others:
        yield sped(f"{name}_compiled", sizes[name], compiled=True)
    yield "front_end", 10, partial(kernels.front_end, found, device)
    yield "beats_attention", 30, partial(kernels.beats, found, device)


def _alone() -> list[str]:
    """The debug recipes that need no other run."""
    named = [address for address in addresses() if address.endswith("_debug")]
    return [address for address in named if getattr(find(address).objective, "tokenizer", None) != ""]


def _noise(folder: Path, tracks: Sequence[Track]) -> Manifest:
    """The tracks as files of noise: what an objective fits before it trains (a tokenizer, say) reads them."""
    place = Path(tempfile.mkdtemp(dir=folder))
    for number, track in enumerate(tracks):
        sound = 0.1 * np.random.default_rng(number).standard_normal(track.samples)
        write(place / track.path, sound.clip(-1, 1).astype(np.float32), track.sample_rate)
    return Manifest.from_tracks(tracks, place)


def _labelled_tracks() -> list[Track]:
    """Four tracks: three with labels of every kind, one without."""
    beats = [0.1 + 0.4 * beat for beat in range(14)]
    chords = [{"start": 0.0, "end": 3.0, "label": "C:maj"}, {"start": 3.0, "end": 6.0, "label": "A:min7"}]
    tracks = []
    for number in range(4):
        labels = {"genre": "ab"[number % 2], "tempo": 120.0 + number, "tags": ["x", "yz"[number % 2]], "chords": chords}
        labels |= {"beats": beats, "downbeats": beats[::4]}
        tracks.append(Track(f"{number}", f"{number}.flac", 144_000, 24_000, 1, f"{number:032x}", None, None, labels))
    tracks[3] = dataclasses.replace(tracks[3], labels={})
    return tracks


def _debug_sizes(folder: Path) -> dict[str, Recipe]:
    """Each of `_full_sizes` in miniature, in its precision, MERT with stored codes too."""
    mert = masked.mert_debug()
    codec = dataclasses.replace(mert.objective.codec, weight=1.0, codebooks=2, codebook_size=16)
    mert = dataclasses.replace(mert, objective=dataclasses.replace(mert.objective, codec=codec))
    sizes = {
        "mert_debug": _with_stored_codes(mert, folder / "mert_debug_codes"),
        "beats_debug": tokens.beats_iter1_debug(),
        "clmr_debug": contrastive.clmr_debug(),
        "eat_debug": latent.eat_debug(),
        "muq_debug": masked.muq_debug(),
    }
    return {name: of_size(recipe, 2, "no" if name.startswith("clmr") else "bf16") for name, recipe in sizes.items()}


def _full_sizes(folder: Path) -> dict[str, Recipe]:
    """What is trained on GPUs, with a micro-batch that fits; MERT's codes are read from a store, as is advised."""
    sizes = {
        "mert_95m": (masked.mert_95m(), 64),
        "beats_base": (tokens.beats_iter1(), 35),
        "clmr_base": (contrastive.clmr_base(), 48),
        "eat_base": (latent.eat_base(), 12),
        "mert_330m": (masked.mert_330m(), 16),
        "muq_large": (masked.muq_large(), 8),
    }
    return {
        name: of_size(_with_stored_codes(recipe, folder / f"{name}_codes"), micro, recipe.precision)
        for name, (recipe, micro) in sizes.items()
    }


def _with_stored_codes(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with a store of random codes of the noise, where it predicts a codec's."""
    codec = getattr(recipe.objective, "codec", None)
    if codec is None or codec.weight == 0:
        return recipe
    folder.mkdir(parents=True)
    asked = dataclasses.replace(recipe.objective, codec=dataclasses.replace(codec, store=str(folder)))
    stored, _ = asked.stand_in(folder, recipe.crops.crop_samples)
    return dataclasses.replace(recipe, objective=stored)


# ---- what the card can


def ceilings(found: Found, device: torch.device) -> None:
    """Products and copies."""
    size = 8192 if device.type == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    found.add("product_bf16", 2 * size**3 / kernels.seconds(lambda: a @ b) / 1e12, "TFLOP/s")
    source = torch.empty(2**28 if device.type == "cuda" else 2**20, device=device)
    target = torch.empty_like(source)
    copied = kernels.seconds(lambda: target.copy_(source))
    found.add("copy", 8 * source.numel() / copied / 1e12, "TB/s read and written")


# ---- whether it is right


class Stepper:
    """`train_step` on one device, so that what is timed is what trains."""

    def __init__(
        self, recipe: Recipe, device: torch.device, noise: Manifest, run: Path, fits: bool, compiled: bool = False
    ) -> None:
        """fits: as of `made`; what is only timed needs no tokenizer that was trained."""
        objective = made(recipe, noise, run, fits)
        objective.to(device)
        objective.place(device)
        if compiled:  # on a CPU the graphs alone, without making kernels of them
            for part in objective.compiled_parts():
                part.compile(backend="inductor" if device.type == "cuda" else "eager")

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
        wanted = Stepper(of_size(recipe, 4, "no"), CPU, noise, run, fits=True)()
        for precision in ("no", "bf16"):
            stepper = Stepper(of_size(recipe, 4, precision), device, noise, run, fits=True)
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
    stepper = Stepper(recipe, device, noise, run, fits=False)
    with flop_counter() as counter:
        stepper()
    flops = float(counter.get_total_flops())
    if compiled:
        stepper = Stepper(recipe, device, noise, run, fits=False, compiled=True)
    began = time.perf_counter()
    for _ in range(3):
        stepper()
    kernels.wait()
    if compiled:
        found.add(f"{name}_warm", time.perf_counter() - began, "s until it is compiled")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    took, rounds = [], 6 if device.type == "cuda" else 2
    with running(Clock(device)) as clock:
        for _ in range(rounds):
            began = time.perf_counter()
            stepper()
            kernels.wait()
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


def data(found: Found, name: str, workers: int) -> None:
    """What a step of MERT waits for its batch, read from FLAC files by so many processes."""
    from .train import _free_of_downloads, _music, _our_steps

    recipe = masked.mert_debug() if workers == 1 else of_size(masked.mert_95m(), 64, "bf16")
    recipe = dataclasses.replace(_free_of_downloads(recipe, rvq=False), workers=workers, trackers=())
    with _music(recipe.crops) as manifest, tempfile.TemporaryDirectory() as run:
        lines = _our_steps(recipe, manifest, Path(run) / "run")
    found.add(f"{name}_data_wait", median(line["data_wait_share"] for line in lines), f"of a step, {workers} workers")


def listening(found: Found, device: torch.device) -> None:
    """What `embed` and `probe` do on a card: all hidden states of windows of 10 s, and their moments brought back."""
    cuda = device.type == "cuda"
    small = MertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7
    )
    for precision in ("float32", "bfloat16"):
        model: Any = MertModel(MertConfig() if cuda else small)
        encoder = ModelEncoder(model.to(device, getattr(torch, precision)).eval())
        sound = 0.1 * torch.randn(16 if cuda else 2, 240_000 if cuda else 24_000, device=device)

        def hear(encoder: Any = encoder, sound: Tensor = sound) -> None:
            with torch.inference_mode():
                for states in encoder.hidden_states(sound):
                    tree_map_only(Tensor, Tensor.cpu, moments(states))

        took = kernels.seconds(hear, 5)
        found.add(f"listening_{precision}", sound.numel() / 24_000 / took, "s of audio/s of all layers, pooled")


def roofline(found: Found, name: str, recipe: Recipe, noise: Manifest, run: Path) -> None:
    """What the step's kernels would take on a GPU, as they are and compiled; no measurement."""
    print(f"roofline: {ASSUMED}", file=sys.stderr)
    micro = recipe.batch_size
    kernels, waits = counted(recipe, micro, noise, run)
    for how, launched in (("", kernels), ("_compiled", fused(kernels))):
        told = estimate(recipe, launched, waits, micro)
        found.add(f"roofline_{name}{how}", told.utilisation, f"of 989 TFLOP/s, an estimate, {micro} crops")
        found.add(f"roofline_{name}{how}_kernels", told.kernels, f"per step, {told.waits} waits")
        found.add(f"roofline_{name}{how}_device", 1e3 * told.device_seconds, "ms")
        found.add(f"roofline_{name}{how}_host", 1e3 * told.host_seconds, "ms")
        found.add(f"roofline_{name}{how}_audio", told.audio_seconds / told.seconds, "s of audio/s")
