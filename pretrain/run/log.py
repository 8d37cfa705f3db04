"""What a run says while it trains: progress bar, loss.jsonl, timing.jsonl, alarms.jsonl, trackers."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...data.writing import write_text
from ...progress import tqdm
from .. import distributed
from ..clock import Clock, running
from ..recipe import Recipe, resolved
from ..step import Step, Training
from .alarms import Watch
from .hardware import peak_flops
from .record import Lines

SECONDS_IN_FILES = 30.0  # between states of the progress bar where nobody watches


class Log:
    """Progress bar, loss.jsonl, timing.jsonl and trackers; only rank 0 has them."""

    def __init__(self, training: Training, run: Path, first: int) -> None:
        self._training, self._main = training, training.accelerator.is_main_process
        self._began, self._since, self._wait, self._saving = time.perf_counter(), first, 0.0, 0.0
        self._clock = Clock(training.accelerator.device)
        self._bad: set[str] = set()
        if not self._main:
            return
        self._watch = Watch(training.accelerator.device.type)
        self._alarms = Lines(run / "alarms.jsonl", first)
        # a run that was shorter once wrote a line of what was its last step
        told = first if first % training.recipe.log_every == 0 or first == training.recipe.steps else first - 1
        self._loss, self._timing = Lines(run / "loss.jsonl", told), Lines(run / "timing.jsonl", told)
        self._bar = tqdm(
            total=training.recipe.steps, initial=first, unit="step", desc="pretrain", dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else SECONDS_IN_FILES,
        )  # fmt: skip
        if training.recipe.trackers:
            training.accelerator.init_trackers("groundbass", init_kwargs=_tracker_settings(training.recipe, run))

    def write(self, step: int, result: Step, bad: Mapping[str, str]) -> None:
        """Take note of a step; every `log_every` steps, and of the last one, a line is written.

        bad: the tracks that turned out unreadable so far, and why.
        """
        self._wait += result.wait_seconds
        if not self._main:
            if step % self._training.recipe.log_every == 0:
                self._clock.take()
            return
        self._bar.update()
        fresh = [key for key in bad if key not in self._bad]
        self._bad |= set(fresh)
        for key in fresh:
            self._alarm(step, f"{key} can't be read ({bad[key]}): another crop takes its place. {len(bad)} so far.")
        if result.skipped:
            self._alarm(step, result.skipped)
        if step % self._training.recipe.log_every and step != self._training.recipe.steps:
            return
        line = {"step": step, "loss": result.loss, "lr": result.learning_rate, "gradient_norm": result.gradient_norm}
        line |= result.metrics
        self._loss.write(line)
        timing = self._timed(step)
        self._timing.write(timing)
        for sentence in self._watch.look(line, timing):
            self._alarm(step, sentence)
        self._bar.set_postfix_str(
            f"loss {result.loss:.4g}, {timing['audio_seconds_per_second']:.0f} s of audio/s", refresh=False
        )
        self._training.accelerator.log(
            {**{name: value for name, value in line.items() if name != "step"}, **_timing_names(timing)}, step=step
        )

    def _alarm(self, step: int, sentence: str) -> None:
        self._alarms.write({"step": step, "alarm": sentence})
        tqdm.write(f"Step {step}: {sentence}")

    def saved(self, seconds: float) -> None:
        """Take note of a checkpoint, during which training stood still."""
        self._saving += seconds

    def _timed(self, step: int) -> dict[str, float]:
        """What the steps since the last line took, without checkpoints."""
        now, steps = time.perf_counter(), max(step - self._since, 1)
        seconds = max(now - self._began - self._saving, 1e-9) / steps
        line = {
            "step": step,
            "seconds_per_step": seconds,
            "audio_seconds_per_second": self._training.recipe.seconds_per_step / seconds,
            "data_wait_share": self._wait / (seconds * steps),
            "checkpoint_seconds": self._saving,
        }
        line |= {f"{name}_seconds": value / steps for name, value in self._clock.take().items()}
        line |= distributed.sending(self._training.model)
        if self._training.flops is not None:
            line["tflops"] = self._training.flops / seconds / 1e12
            peak = peak_flops(self._training.recipe.precision, self._training.recipe.tf32)
            if peak is not None:
                line["utilisation"] = self._training.flops / seconds / peak
        if torch.cuda.is_available():
            line["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
            line["memory_share"] = torch.cuda.max_memory_reserved() / torch.cuda.get_device_properties(0).total_memory
        self._began, self._since, self._wait, self._saving = now, step, 0.0, 0.0
        return line

    def __enter__(self) -> Log:
        self._running = running(self._clock)
        self._running.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.__exit__(None, None, None)
        if self._main:
            self._bar.close()
            self._alarms.close()
            self._loss.close()
            self._timing.close()
            for tracker in self._training.accelerator.trackers:
                tracker.finish()


def _tracker_settings(recipe: Recipe, run: Path) -> dict[str, dict[str, Any]]:
    """What Weights & Biases is told beside the numbers; a run that goes on is the same run there too."""
    if "wandb" not in recipe.trackers:
        return {}
    known = run / "trackers" / "wandb_id"
    if not known.exists():
        write_text(known, secrets.token_hex(8), locked=True)
    settings = {
        "id": known.read_text(encoding="utf-8"),
        "resume": "allow",
        "name": run.name,
        "dir": str(run / "trackers"),
    }
    return {"wandb": settings | {"config": resolved(recipe)}}


def _timing_names(timing: dict[str, float]) -> dict[str, float]:
    return {f"timing/{name}": value for name, value in timing.items() if name != "step"}
