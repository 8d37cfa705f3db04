"""`groundbass pretrain check RECIPE`: what an objective promises, tried on noise; each broken promise with its cure."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data.audio.read import write
from ..data.batch import Batch
from ..data.crops import Crops
from ..data.draws import draw_seed
from ..data.loader import loader
from ..data.track import Manifest, Track
from ..models.encoder import load_encoder
from ..models.published import write_encoder
from ..plugins import Findings
from . import optim
from .objective import Loss, Objective
from .recipe import Recipe, find, resolved

STEPS = 40  # on one batch, in which the loss must fall
CLIPS = 4
TRACKS = 10


def check(address: str, /) -> Findings:
    """Explain what is wrong with a recipe and its objective: loss, gradients, draws, padding, state, publishing.

    Nothing is downloaded and no audio is needed: it hears chords in noise. An objective that needs labels can't be
    checked so; train a few steps instead.

    Args:
        address: a recipe: my_recipes.py:tiny, or one that `groundbass pretrain --list` names.

    Raises:
        ValueError: no such recipe.
    """
    return problems(find(address)).tell(address, "the objective's contract")


def problems(recipe: Recipe) -> Findings:
    """Try every promise. A crash is a broken one, told with its message."""
    found = Findings()
    record = resolved(recipe)
    found.hold(
        json.loads(json.dumps(record)) == record, "the recipe is plain data",
        "it holds values that JSON doesn't keep; let configs hold numbers, texts and tuples of them",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _try(recipe, Path(folder), found)
        except Exception as error:  # a stranger's code may raise anything, and saying what is the purpose here
            found.hold(False, "it learns from noise without an exception", f"{type(error).__name__}: {error}")
    return found


def _try(recipe: Recipe, folder: Path, found: Findings) -> None:
    objective = recipe.objective.build()
    if not found.hold(
        isinstance(objective, Objective), "build() returns an Objective",
        f"it returned a {type(objective).__name__}; inherit from groundbass.pretrain.objective.Objective",
    ):  # fmt: skip
        return
    case = _Case(recipe, _tones(recipe, folder), folder)
    batch = case.batch()
    loss = case.forward(case.objective(), batch)
    if not found.hold(
        isinstance(loss, Loss), "forward(batch, step) returns a Loss", f"it returned a {type(loss).__name__}"
    ):
        return
    if not _hold_loss(loss, found):
        return
    _hold_gradients(case, batch, found)
    again = float(case.forward(case.objective(), batch).value.detach())
    found.hold(
        again == float(loss.value.detach()), "the same seed gives the same loss",
        "draw by groundbass.data.draws from self.seed, the step and the example, not by a generator of your own",
    )  # fmt: skip
    padded = case.forward(case.objective(), _padded(batch)).value
    found.hold(
        math.isfinite(float(padded.detach())), "a batch of which half is padding has a finite loss",
        f"it is {float(padded.detach())}; clamp what you divide by",
    )  # fmt: skip
    _hold_state(case, batch, found)
    _hold_learning(case, batch, found)
    _hold_publishing(case, batch, found)


@dataclass(frozen=True)
class _Case:
    """A recipe and what it is tried on."""

    recipe: Recipe
    manifest: Manifest
    folder: Path

    def objective(self) -> Objective:
        """As the trainer makes it: the same weights each time."""
        torch.manual_seed(draw_seed(self.recipe.seed, 0x1417))
        made: Objective = self.recipe.objective.build()
        made.seed = self.recipe.seed
        made.train()
        made.prepare(self.manifest, self.folder / "run")
        made.place(torch.device("cpu"))
        return made

    def batch(self) -> Batch:
        """The first micro-batch that training would hear."""
        crops = Crops(self.manifest, self.recipe.crops, self.recipe.seed)
        return next(iter(loader(crops, min(CLIPS, self.recipe.batch_size), workers=0)))

    def forward(self, objective: Objective, batch: Batch, step: int = 0) -> Loss:
        torch.manual_seed(step)
        loss: Loss = objective(batch, step)
        return loss


def _tones(recipe: Recipe, folder: Path) -> Manifest:
    """Tracks of chords in noise, twice as long as a crop, as files."""
    tracks, rate = [], recipe.crops.sample_rate
    samples = max(2 * recipe.crops.crop_samples, int(recipe.crops.min_seconds * rate) + rate)
    for number in range(TRACKS):
        draw = np.random.default_rng(number)
        time = np.arange(samples) / rate
        sound = 0.02 * draw.standard_normal(samples)
        for pitch in draw.uniform(100, rate / 8, 4):
            sound += 0.1 * np.sin(2 * np.pi * pitch * time) * (np.sin(time * pitch / 50) > 0)
        write(folder / f"{number}.wav", sound.astype(np.float32), rate)
        tracks.append(Track(f"{number}.wav", f"{number}.wav", samples, rate, 1, f"{number:032x}"))
    return Manifest.from_tracks(tracks, folder)


def _padded(batch: Batch) -> Batch:
    valid = batch.valid // 2
    heard = torch.arange(batch.waveform.shape[-1]) < valid[..., None]
    return dataclasses.replace(batch, waveform=batch.waveform * heard, valid=valid)


def _hold_loss(loss: Loss, found: Findings) -> bool:
    value, weight = loss.value, loss.weight
    good = value.shape == () and value.dtype == torch.float32 and math.isfinite(float(value.detach()))
    return all(
        (
            found.hold(good, "the loss is one finite float32", f"it is {value.dtype} {list(value.shape)}: {value}"),
            found.hold(value.requires_grad, "the loss has a gradient", "something detached it, or nothing is trained"),
            found.hold(
                float(weight) > 0 and not weight.requires_grad,
                "the weight counts what was predicted, without gradient",
                f"it is {weight}; return the number of masked frames, pairs, … as a detached tensor",
            ),
            found.hold(
                not any(isinstance(one, torch.Tensor) and one.requires_grad for one in loss.metrics.values()),
                "metrics carry no gradient",
                "detach them: they would keep every step's graph in memory",
            ),
        )
    )


def _hold_gradients(case: _Case, batch: Batch, found: Findings) -> None:
    objective, reached = case.objective(), set()
    for step in range(4):  # several: layer drop leaves some out
        objective.zero_grad()
        case.forward(objective, batch, step).value.backward()
        reached |= {n for n, p in objective.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    missed = [n for n, p in objective.named_parameters() if p.requires_grad and n not in reached]
    found.hold(
        not missed, "a gradient reaches every trainable parameter",
        f"none reaches {', '.join(missed[:5])}{' …' * (len(missed) > 5)}; set requires_grad=False on what shall stay",
    )  # fmt: skip


def _hold_state(case: _Case, batch: Batch, found: Findings) -> None:
    objective = case.objective()
    optimiser = optim.build(case.recipe.optim, objective)
    for step in range(2):
        _step(case, objective, optimiser, batch, step)
    fresh = case.objective()
    fresh.load_state_dict(objective.state_dict())
    values = [float(case.forward(one, batch, 2).value.detach()) for one in (objective, fresh)]
    found.hold(
        values[0] == values[1], "a fresh objective with this one's state_dict says the same",
        f"{values[1]} in place of {values[0]}: keep what changes in parameters or buffers, or a run can't go on",
    )  # fmt: skip


def _step(case: _Case, objective: Objective, optimiser: torch.optim.Optimizer, batch: Batch, step: int) -> float:
    loss = case.forward(objective, batch, step)
    optimiser.zero_grad()
    loss.value.backward()
    optimiser.step()
    with torch.no_grad():
        objective.after_step(step)
    return float(loss.value.detach())


def _hold_learning(case: _Case, batch: Batch, found: Findings) -> None:
    objective = case.objective()
    settings = dataclasses.replace(case.recipe.optim, lr=max(case.recipe.optim.lr, 1e-3), fused=False)
    optimiser = optim.build(settings, objective)
    values = [_step(case, objective, optimiser, batch, 0) for _ in range(STEPS)]
    first, last = sum(values[:5]) / 5, sum(values[-5:]) / 5
    found.hold(last < first, f"in {STEPS} steps on one batch the loss falls", f"it went from {first:.4g} to {last:.4g}")


def _hold_publishing(case: _Case, batch: Batch, found: Findings) -> None:
    encoder = case.objective().encoder
    if not type(encoder).__module__.startswith("groundbass."):
        found.hold(True, "its encoder is a model of yours: a stranger needs --trust-remote-code to load it", "")
        return
    write_encoder(encoder, case.folder / "encoder")
    loaded = load_encoder(case.folder / "encoder")
    states = loaded.hidden_states(batch.waveform[:1, 0])
    good = states.shape[:2] == (1, loaded.layers) and states.shape[3] == loaded.dim and bool(states.isfinite().all())
    found.hold(good, "the encoder is published, reloads and listens", f"its hidden states are {list(states.shape)}")
