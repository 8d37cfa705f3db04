"""`loss.backward()` for tensors of a pretended GPU, for which autograd's engine has no device.

The graph is walked as the engine does: a node runs when all that follows it in the forward pass has run, with its
gradients added up, each in the shape and dtype of what it belongs to.
"""

from __future__ import annotations

from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from .pretended_gpu import GpuTensor, PretendedGpu


def backward(gpu: PretendedGpu, loss: Tensor) -> None:
    """Add the gradient of `loss` [] to the leaves that it came from.

    Raises:
        RuntimeError: a gradient lies on another device than its parameter.
    """
    root = loss.grad_fn
    if root is None:
        raise RuntimeError("The loss has no graph: nothing in it requires a gradient.")
    waiting = _edges(root)
    held: dict[Any, dict[int, Tensor]] = {root: {0: torch.ones_like(loss)}}
    ready = [root]
    # checkpoints ask for the engine's number, to compute again once
    with torch.no_grad(), patch("torch._C._current_graph_task_id", lambda: 1):
        while ready:
            node = ready.pop()
            gpu.backward_of = node.name()
            gradients = _inputs(node, held.pop(node, {}))
            found = _call(node, gradients)
            following = node.next_functions  # gradients are added up in the node's name
            for number, (after, place) in enumerate(following):
                if after is None:
                    continue
                value = found[number] if number < len(found) else None
                if value is not None:
                    _add(held.setdefault(after, {}), place, _fitted(value, after._input_metadata[place]))
                waiting[after] -= 1
                if not waiting[after]:
                    ready.append(after)
            gpu.backward_of = ""


def _edges(root: Any) -> Counter[Any]:
    """How many edges lead to each node."""
    edges: Counter[Any] = Counter()
    seen, stack = {root}, [root]
    while stack:
        for after, _ in stack.pop().next_functions:
            if after is not None:
                edges[after] += 1
                if after not in seen:
                    seen.add(after)
                    stack.append(after)
    return edges


def _inputs(node: Any, held: dict[int, Tensor]) -> list[Tensor | None]:
    return [held.get(place) for place in range(len(node._input_metadata))]


def _call(node: Any, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    if hasattr(node, "variable"):  # the end: a leaf
        _accumulate(node.variable, gradients[0])
        return ()
    if all(gradient is None for gradient in gradients):
        return ()
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        shapes: Any = node._input_metadata  # type: ignore[attr-defined]
        filled = [
            torch.zeros(shape.shape, dtype=shape.dtype, device=shape.device) if gradient is None else gradient
            for gradient, shape in zip(gradients, shapes, strict=True)
        ]
        found = node.apply(*filled)
    else:
        found = node(*gradients)
    return found if isinstance(found, tuple) else (found,)


def _accumulate(leaf: Tensor, gradient: Tensor | None) -> None:
    if gradient is None:
        return
    if gradient.device != leaf.device:
        raise RuntimeError(f"A gradient lies on {gradient.device}, its parameter on {leaf.device}.")
    if leaf.grad is None:  # the engine takes what nobody else holds: no kernel
        assert isinstance(gradient, GpuTensor)
        leaf.grad = GpuTensor(gradient.inside.detach().clone())
    else:
        leaf.grad = leaf.grad + gradient


def _add(held: dict[int, Tensor], place: int, value: Tensor) -> None:
    held[place] = value if place not in held else held[place] + value


def _fitted(value: Tensor, wanted: Any) -> Tensor:
    if tuple(value.shape) != tuple(wanted.shape):
        value = value.sum_to_size(tuple(wanted.shape))
    return value if value.dtype == wanted.dtype else value.to(wanted.dtype)
