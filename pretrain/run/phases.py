"""Phases of a run: each begins with the best checkpoint so far by validation, and with an optimiser that knows nothing.

As the music taggers of M. Won et al. 2020 (arXiv:2006.00751) were trained: Adam, then SGD at three rates. Where nothing
is validated, a phase goes on from the weights as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import optim

if TYPE_CHECKING:
    from ..step import Training
    from .judge import Judge


def check(training: Training) -> None:
    """Refuse phases where the optimiser belongs to an engine.

    Raises:
        ValueError: DeepSpeed or FSDP steps the optimiser.
    """
    if training.recipe.phases and training.sharded:
        raise ValueError(
            "The recipe has phases, each with an optimiser of its own, and DeepSpeed and FSDP keep one for the whole "
            "run: launch by ddp, or one process."
        )


def begin(training: Training, judge: Judge, step: int, say: Any) -> None:
    """Begin the phase whose first step is `step`: load the best weights, renew the optimiser."""
    settings, _, _ = training.recipe.phase_at(step)
    best = judge.best_weights()
    if best is not None:
        training.objective.load_state_dict(best)
    _renew(training, settings)
    told = "the weights as they are" if best is None else f"those of step {judge.best}, which validated best"
    say(f"Step {step}: a phase begins with {told}: {settings.name}, learning rate {settings.lr:g}.")


def resume(training: Training, step: int) -> bool:
    """Make the optimiser that of a checkpoint's phase; returns whether its state is to be loaded.

    A checkpoint at a phase's first step was written by the phase before, whose optimiser is done with.
    """
    settings, first, _ = training.recipe.phase_at(step)
    if first == 0:
        return True
    _renew(training, settings)
    return step != first


def _renew(training: Training, settings: optim.Optim) -> None:
    training.accelerator._optimizers.clear()  # clipping under fp16 unscales the gradients of all that it knows
    training.optimizer = training.accelerator.prepare(optim.build(settings, training.objective))
