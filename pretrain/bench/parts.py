"""What benchmarks of `pretrain` share: rows, clocks, a recipe's objective with one batch on the device."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypedDict
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from ...data.audio.read import write
from ...data.batch import Batch
from ...data.bench.peak import own_peak
from ...data.collections.scan import scan_folder
from ...data.crops import Crops
from ...data.loader import loader
from .. import optim
from ..recipe import Recipe
from ..run.trial_step import random_batches


class Row(TypedDict):
    """One measurement: `ratio` is our speed over the reference's, None without a reference."""

    what: str
    value: float
    unit: str
    reference: str | None
    ratio: float | None


def row(what: str, value: float, unit: str, reference: str | None = None, ratio: float | None = None) -> Row:
    return {"what": what, "value": value, "unit": unit, "reference": reference, "ratio": ratio}


def peak_memory(device: torch.device) -> float:
    """GiB: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return own_peak() / 2**10


class Bench:
    """A recipe's objective, optimiser and one batch on the device, and clocks for them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(0)
        self.objective: Any = recipe.objective.build().train().to(self.device)
        self.objective.logs = False
        self.objective.place(self.device)
        self.optimiser = optim.build(recipe.optim, self.objective)
        self.batch = _batch(recipe).to(self.device)

    def seconds(self, work: Callable[[], Any], rounds: int = 5) -> float:
        """Median seconds of `work` after a warm-up, the device waited for."""
        work()
        took = []
        for _ in range(rounds):
            self._wait()
            began = time.perf_counter()
            work()
            self._wait()
            took.append(time.perf_counter() - began)
        return median(took)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The recipe's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def forward(self) -> Tensor:
        """One loss."""
        with self.autocast():
            return self.objective(self.batch, 0).value

    def step(self) -> None:
        """Forward, backward, optimiser."""
        self.forward().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def parts(self) -> dict[str, float]:
        """Seconds of a step's parts, each measured alone."""
        clean = self.batch.waveform.flatten(0, 1)
        frames = self.objective.encoder.frames(clean.shape[1])
        with self.autocast():
            features, _ = self.objective.encoder.extract(clean)

            def targets() -> Any:
                return self.objective._compute_targets(self.batch, clean, frames, None)

            found = {"data_wait": self._data_wait(), "targets": self.seconds(targets)}
            found["front_end"] = self.seconds(lambda: self.objective.encoder.extract(clean))
            found["transformer"] = self.seconds(lambda: self.objective.encoder.encode(features))
        forward = self.seconds(self.forward)
        both = self.seconds(lambda: self.forward().backward())
        found["backward"] = max(0.0, both - forward)

        def optimise() -> None:
            self.optimiser.step()

        self.forward().backward()
        found["optimiser"] = self.seconds(optimise)
        self.optimiser.zero_grad()
        return found

    def _data_wait(self) -> float:
        """Seconds that a step waits for its batch, when the loader has had a step's time to work ahead."""
        with tempfile.TemporaryDirectory() as folder:
            for number in range(16):
                noise = np.random.default_rng(number).standard_normal(8 * self.recipe.crops.sample_rate)
                write(Path(folder) / f"{number}.flac", (0.1 * noise).clip(-1, 1), self.recipe.crops.sample_rate)
            manifest, _ = scan_folder(folder, workers=1, progress=False)
            batches = loader(Crops(manifest, self.recipe.crops, 0), self._micro_batch(), workers=2)
            waits = []
            for _ in range(6):
                began = time.perf_counter()
                next(batches)
                waits.append(time.perf_counter() - began)
                self.step()
                self._wait()
            getattr(batches, "close", lambda: None)()
            return median(waits[1:])

    def _micro_batch(self) -> int:
        return self.recipe.micro_batch or self.recipe.batch_size

    def without_targets(self) -> float:
        """Seconds of a step whose targets are there already."""
        clean = self.batch.waveform.flatten(0, 1)
        frames = self.objective.encoder.frames(clean.shape[1])
        known = self.objective._compute_targets(self.batch, clean, frames, None)
        with patch.object(self.objective, "_compute_targets", lambda *_: known):
            return self.seconds(self.step)


def _batch(recipe: Recipe) -> Batch:
    """Noise in the recipe's shapes."""

    class Names:
        """Stands for a manifest: keys only."""

        def __len__(self) -> int:
            return 1

        def __getitem__(self, _: int) -> Any:
            return type("Name", (), {"key": "noise"})()

    return next(random_batches(recipe, Names()))  # type: ignore[arg-type]
