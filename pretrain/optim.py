"""The optimiser from the recipe, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .recipe import Optim

if TYPE_CHECKING:
    from .objective import Objective


def build(optim: Optim, objective: Objective) -> torch.optim.Optimizer:
    """The optimiser over everything that requires a gradient; vectors and scalars decay where the recipe says so.

    A group of parameters that learns at another rate than the recipe's says so as `lr_scale`.
    """
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            decays = optim.decay_all or parameter.dim() > 1
            members.setdefault((objective.lr_scale(name), decays), []).append(parameter)
    if not members:
        raise ValueError("The objective has no parameter that requires a gradient, so there is nothing to train.")
    groups: list[dict[str, Any]] = []
    for (scale, decays), parameters in sorted(members.items(), key=lambda entry: entry[0], reverse=True):
        group = {"params": parameters, "weight_decay": optim.weight_decay if decays else 0.0}
        groups.append(group if scale == 1 else group | {"lr_scale": scale, "lr": optim.lr * scale})
    if optim.name == "sgd":
        nesterov = optim.momentum > 0
        return torch.optim.SGD(
            groups, lr=optim.lr, momentum=optim.momentum, nesterov=nesterov, fused=optim.fused or None
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    return kind(groups, lr=optim.lr, betas=optim.betas, eps=optim.eps, amsgrad=optim.amsgrad, fused=optim.fused or None)


def restore(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Give an optimiser what another one, whose `state_dict` is `saved`, had gathered of every parameter.

    Its settings stay what they are: the recipe's, whatever the file says.

    Raises:
        ValueError: the other one was over other parameters or of another kind, or has gathered NaN or infinity.
    """
    if optimizer.defaults.get("momentum") == 0:  # gathers nothing
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    names = {"momentum_buffer"} if "momentum" in optimizer.defaults else {"step", "exp_avg", "exp_avg_sq"}
    if optimizer.defaults.get("amsgrad"):
        names |= {"max_exp_avg_sq"}
    groups, state = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or not state:
        raise ValueError("The optimiser's state is empty.")
    if sum(len(group.get("params", ())) for group in groups if isinstance(group, dict)) != len(parameters):
        raise ValueError(f"The optimiser's state is of another number of parameters than {len(parameters)}.")
    for number, gathered in state.items():
        if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(gathered, dict):
            raise ValueError(f"The optimiser's state has a parameter {number!r}, and there are {len(parameters)}.")
        if gathered.keys() != names:
            raise ValueError(f"The optimiser's state has {sorted(gathered)}, expected {sorted(names)}.")
        for name, value in gathered.items():
            shape = torch.Size() if name == "step" else parameters[number].shape
            if not isinstance(value, Tensor) or value.shape != shape or not torch.isfinite(value).all():
                raise ValueError(f"The optimiser's {name} of parameter {number} has another shape, or isn't finite.")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def schedule(optim: Optim, step: int, steps: int) -> float:
    """The learning rate of step `step` (0 is the first) in a run of `steps`.

    Warm-up: lr · (step + 1) / warmup_steps. After it, with p the share of the way from warmup_steps to decay_steps (the
    run's end unless given): constant lr; linear lr · (1 − p); cosine lr · (1 + cos πp) / 2.
    All of it times the step's factor.
    """
    rate = _smooth(optim, step, steps)
    return rate * next((factor for begin, factor in reversed(optim.factors) if begin <= step), 1.0)


def _smooth(optim: Optim, step: int, steps: int) -> float:
    """The rate before `factors`."""
    if step < optim.warmup_steps:
        return optim.lr * (step + 1) / optim.warmup_steps
    if optim.decay == "constant":
        return optim.lr
    end = optim.decay_steps or steps
    way = min(max((step - optim.warmup_steps) / max(end - optim.warmup_steps, 1), 0.0), 1.0)
    return optim.lr * (1.0 - way if optim.decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * way)))
