"""`groundbass bench train`: what the training loop costs beyond the arithmetic, and what full sizes reach on a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from ...data.audio.read import write
from ...data.collections.scan import scan_folder
from ...data.crops import CropConfig, Crops
from ...data.loader import loader
from ...data.track import Manifest
from ...reading import json_lines
from .. import optim
from ..objectives import contrastive, labelled, latent, masked, tokens
from ..objectives.parts.rvq_target import RVQSettings
from ..recipe import Recipe
from ..run import checkpoint
from ..run.flops import flop_counter
from ..run.hardware import peak_flops
from ..targets.cqt import CQTSettings
from ..train import train
from .parts import Bench, Row, row

BARE = "a bare PyTorch loop around the same module and data"
ROUNDS = 3
SKIPPED, COUNTED = 10, 20  # steps of a round: the first ones start workers and fill caches


def rows() -> list[Row]:
    """Rows of `groundbass bench train`; see there."""
    cuda = torch.cuda.is_available()
    recipe = _loop_recipe(cuda)
    with _music(recipe.crops) as manifest:
        lines, bare = _in_turns(recipe, manifest)
        loop, saving = _middle(lines, "seconds_per_step"), _middle(lines, "checkpoint_seconds", last=True)
        waits = mean(line["data_wait_share"] for part in lines for line in part)
        found = [
            row("loop", loop, "s per step", BARE, bare / loop),
            row("data_wait", waits, f"of a step's time (expected: at most {0.02 if cuda else 0.05})"),
            row("checkpoint", saving, "s to write, training stands still"),
            row("checkpoint_share", saving / (recipe.checkpoint_every * loop), "of the time, as often as set"),
        ]
        lines, bare = _in_turns(_labelled_recipe(recipe), manifest)
        loop = _middle(lines, "seconds_per_step")
        found.append(row("labelled", loop, "s per step", BARE, bare / loop))
        if not cuda:
            found.append(_two_ranks(recipe, manifest))
    found += [*_switches(recipe), *_full_checkpoint()]
    return found + (_full_sizes() if cuda else [])


def _in_turns(recipe: Recipe, manifest: Path) -> tuple[list[list[dict[str, float]]], float]:
    """Lines of timing.jsonl of ROUNDS runs, and the bare loop's seconds per step, in turns: neighbours slow both."""
    lines: list[list[dict[str, float]]] = []
    bare: list[float] = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as run:
            lines.append(_our_steps(recipe, manifest, Path(run) / "run"))
        bare += _bare_steps(recipe, manifest)
    return lines, median(bare)


def _middle(lines: list[list[dict[str, float]]], name: str, last: bool = False) -> float:
    """The median over all lines, or over the last of each run."""
    return median(line[name] for part in lines for line in (part[-1:] if last else part))


def _labelled_recipe(recipe: Recipe) -> Recipe:
    """Learning one label from scratch on the same crops, with mixup, SpecAugment and balance."""
    base = labelled.scratch()
    return dataclasses.replace(
        recipe, objective=dataclasses.replace(base.objective, labels=("genre",)), optim=base.optim
    )


def _loop_recipe(cuda: bool) -> Recipe:
    """A step long enough to be timed, with targets that need no tokenizer."""
    recipe = masked.cqt_tiny() if not cuda else _free_of_downloads(masked.mert_95m(), rvq=False)
    batch = 64 if cuda else 8
    return dataclasses.replace(recipe, batch_size=batch, micro_batch=None, workers=8 if cuda else 2, trackers=())


@contextlib.contextmanager
def _music(crops: CropConfig) -> Iterator[Path]:
    """A manifest of 32 recordings of 20 s at the recipe's rate: chords in noise, as FLAC, of two genres."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = np.arange(20 * crops.sample_rate) / crops.sample_rate
        for number in range(32):
            draw = np.random.default_rng(number)
            sound = 0.02 * draw.standard_normal(len(seconds))
            for pitch in draw.uniform(60, 2000, 6):
                sound += 0.1 * np.sin(2 * np.pi * pitch * seconds)
            write(Path(folder) / f"{number}.flac", sound.astype(np.float32), crops.sample_rate)
        manifest, _ = scan_folder(folder, workers=1, progress=False)
        tracks = [dataclasses.replace(track, labels={"genre": "ab"[n % 2]}) for n, track in enumerate(manifest)]
        Manifest.from_tracks(tracks, manifest.root).write(Path(folder) / "manifest.parquet")
        yield Path(folder) / "manifest.parquet"


def _our_steps(recipe: Recipe, manifest: Path, run: Path) -> list[dict[str, float]]:
    """The lines of timing.jsonl after the start."""
    steps = SKIPPED + COUNTED
    train(dataclasses.replace(recipe, steps=steps, log_every=10, checkpoint_every=COUNTED), manifest, run)
    lines = json_lines(run / "timing.jsonl")
    return [line for line in lines if line["step"] > SKIPPED]


def _bare_steps(recipe: Recipe, manifest: Path) -> list[float]:
    """Seconds per step of what anybody would write, in pieces of ten steps."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    objective: Any = recipe.objective.build().train()
    objective.logs = False
    music = Manifest.open(manifest)
    objective.prepare(music, manifest.parent)
    objective.to(device)
    objective.place(device)
    optimiser = optim.build(recipe.optim, objective)
    crops = Crops(objective.heard(music), recipe.crops, recipe.seed)
    pin = device.type == "cuda"
    batches = loader(crops, recipe.batch_size, workers=recipe.workers, pin=pin)
    pieces = []
    for piece in range((SKIPPED + COUNTED) // 10):
        began = time.perf_counter()
        for step in range(10 * piece, 10 * piece + 10):
            batch = next(batches).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                loss = objective(batch, step).value
            loss.backward()
            if recipe.optim.clip is not None:
                torch.nn.utils.clip_grad_norm_(objective.parameters(), recipe.optim.clip)
            optimiser.step()
            optimiser.zero_grad()
            with torch.no_grad():
                objective.after_step(step)
        if pin:
            torch.cuda.synchronize()
        pieces.append((time.perf_counter() - began) / 10)
    batches.close()
    return pieces[SKIPPED // 10 :]


def _two_ranks(recipe: Recipe, manifest: Path) -> Row:
    """Two ranks with a thread each against one rank with two, at the same batch over all."""
    speeds = {ranks: _launched(recipe, manifest, ranks) for ranks in (1, 2)}
    reference = "one rank with two threads, the same batch"
    return row("two_ranks", speeds[2], "s of audio/s", reference, speeds[2] / speeds[1])


def _launched(recipe: Recipe, manifest: Path, ranks: int) -> float:
    """Seconds of audio per second of a run in processes of its own."""
    run, steps = manifest.parent / f"ranks_{ranks}", SKIPPED + COUNTED
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", "groundbass.pretrain", "masked.cqt_tiny", "--data", str(manifest)]
    command += ["--run", str(run), "--steps", str(steps), "--batch-size", str(recipe.batch_size), "--log-every", "10"]
    command += ["--checkpoint-every", str(steps), "--trackers", "--workers", "1"]
    processes = []
    for rank in range(ranks):
        told = {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{ranks}", "LOCAL_WORLD_SIZE": f"{ranks}"}
        told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        told |= {"OMP_NUM_THREADS": str(2 // ranks)}
        processes.append(subprocess.Popen(command, env=os.environ | told, stdout=subprocess.DEVNULL))
    if any(process.wait() for process in processes):
        raise RuntimeError(f"A run on {ranks} ranks failed; its message stands above")
    lines = json_lines(run / "timing.jsonl")
    return median(line["audio_seconds_per_second"] for line in lines if line["step"] > SKIPPED)


def _switches(recipe: Recipe) -> list[Row]:
    """A step with each of the recipe's switches against the step without it."""
    plain = Bench(dataclasses.replace(recipe, precision="no"))
    fused = dataclasses.replace(recipe, precision="no", optim=dataclasses.replace(recipe.optim, fused=True))
    benches = {
        "fused": Bench(fused),
        "bf16": Bench(dataclasses.replace(recipe, precision="bf16")),
        "checkpoint_activations": Bench(dataclasses.replace(recipe, precision="no")),
        "compile": Bench(dataclasses.replace(recipe, precision="no")),
    }
    benches["checkpoint_activations"].objective.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    benches["compile"].objective.compile_encoder()
    found = []
    for name, bench in benches.items():
        ours, theirs = bench.seconds(bench.step), plain.seconds(plain.step)
        found.append(row(f"switch_{name}", ours, "s per step", "the same step without it", theirs / ours))
    return found


def _full_checkpoint() -> list[Row]:
    """Weights and optimiser's state of `mert_95m`, written as a checkpoint, against the same bytes written plainly."""
    recipe = _free_of_downloads(masked.mert_95m(), rvq=False)
    objective = recipe.objective.build()
    optimiser = optim.build(dataclasses.replace(recipe.optim, fused=False), objective)
    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        began = time.perf_counter()
        part = checkpoint.begin(run, 1)
        checkpoint.write_weights(part, objective.state_dict())
        checkpoint.write_optimizer(part, {"optimizer": optimiser.state_dict(), "scaler": {}})
        final = checkpoint.finish(part, 1, 1, 1).folder
        took = time.perf_counter() - began
        size = sum(path.stat().st_size for path in final.iterdir())
        began = time.perf_counter()
        with (run / "plain").open("wb") as file:
            torch.save([objective.state_dict(), optimiser.state_dict()], file)
            file.flush()
            os.fsync(file.fileno())
        plain = time.perf_counter() - began
    name = f"s for {size / 2**30:.2f} GiB (mert_95m)"
    return [row("checkpoint_full", took, name, "torch.save and fsync, without checksums", plain / took)]


def _free_of_downloads(recipe: Recipe, rvq: bool) -> Recipe:
    """A masked recipe whose targets need no codec: the constant-Q transform, and Mel-RVQ with random codewords."""
    objective = dataclasses.replace(
        recipe.objective,
        codec=dataclasses.replace(recipe.objective.codec, weight=0.0),
        rvq=RVQSettings(weight=1.0 if rvq else 0.0, stack=2),
        cqt=CQTSettings(weight=1.0),
    )
    return dataclasses.replace(recipe, objective=objective)


def _full_sizes() -> list[Row]:
    """One GPU, bf16, plain and compiled: seconds of audio per second, utilisation, peak memory."""
    recipes = {
        "mert_95m": (_free_of_downloads(masked.mert_95m(), rvq=True), 32),
        "mert_330m": (_free_of_downloads(masked.mert_330m(), rvq=True), 16),
        "beats_base": (tokens.beats_iter1(), 32),
        "eat_base": (latent.eat_base(), 8),
        "clmr_base": (contrastive.clmr_base(), 48),
    }
    found = []
    for name, (recipe, micro) in recipes.items():
        recipe = dataclasses.replace(recipe, batch_size=micro, micro_batch=micro, precision="bf16")
        for compiled in (False, True):
            found += _full_size(f"{name}{'_compiled' if compiled else ''}", recipe, compiled)
    return found


def _full_size(name: str, recipe: Recipe, compiled: bool) -> list[Row]:
    torch.cuda.empty_cache()
    bench = Bench(recipe)
    with flop_counter() as counter:
        bench.step()
    if compiled:
        bench.objective.compile_encoder()
    torch.cuda.reset_peak_memory_stats()
    seconds = bench.seconds(bench.step)
    flops = float(counter.get_total_flops()) / seconds
    peak = peak_flops("bf16")
    rows = [row(name, recipe.seconds_per_step / seconds, "s of audio/s")]
    if peak is not None:
        rows.append(row(f"{name}_utilisation", flops / peak, "of the dense bf16 peak"))
    return [*rows, row(f"{name}_memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")]
