"""A GPU that isn't there: tensors that say cuda:0 and compute on the CPU, and a record of what a real one would do.

Inside `with PretendedGpu() as gpu:` whatever asks for `cuda` gets such tensors, so that branches, shapes, dtypes and
values are real. `gpu.events` counts where the host would wait for the device, where devices mix (CUDA would refuse),
and where a kernel is asked for in a dtype that CUDA doesn't have; `gpu.kernels` lists what would be launched, with
FLOPs and bytes. Autograd's engine knows no such device: call `pretended_backward.backward`, or train with `Machine`.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from ..objective import Objective
from ..run.flops import attention, attention_backward, flops_of

DEVICE = torch.device("cuda", 0)
PACKAGE = Path(__file__).resolve().parents[2]
OWN = {"pretended_gpu.py", "pretended_backward.py", "pretended_run.py"}
aten = torch.ops.aten

Kind = Literal["wait", "mix", "dtype"]

WAITING = {
    aten._local_scalar_dense.default: "item",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._unique2.default: "unique",
    aten.unique_dim.default: "unique",
    aten.unique_consecutive.default: "unique",
    aten.bincount.default: "bincount",
    aten.histc.default: "histc",
    aten.equal.default: "equal",
    aten.repeat_interleave.Tensor: "repeat_interleave",
    aten._linalg_eigh.default: "eigh",
    aten._linalg_svd.default: "svd",
}
"""Kernels that read sizes or values back (ATen/native/cuda), whoever calls them."""
ONLY_FLOAT32 = ("_fft", "linalg_", "polar", "complex", "histc", "bincount", "_cdist")
"""Parts of names of kernels that CUDA has neither in bfloat16 nor in float16."""
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
COPIES = (aten._to_copy.default, aten.copy_.default)
NO_KERNEL = {
    aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default, aten.new_empty.default,
    aten.new_empty_strided.default, aten.lift_fresh.default, aten._unsafe_view.default, aten.alias.default,
    aten.detach.default, aten.view.default, aten._local_scalar_dense.default,
}  # fmt: skip
PRODUCTS = {
    aten.mm.default, aten.addmm.default, aten.bmm.default, aten.baddbmm.default, aten.convolution.default,
    aten.convolution_backward.default,
}  # fmt: skip


SECONDS_PER_FRAME = 1e-5
"""A recurrent layer's kernels go frame by frame, whatever the batch (cuDNN walks a wavefront of layers)."""


@dataclass(frozen=True)
class Event:
    """What a GPU would wait for, or refuse."""

    kind: Kind
    what: str
    place: str
    """The innermost line of this package that asks for it, file:line."""

    @property
    def file(self) -> str:
        """The file of the place, as the package names it."""
        return self.place.split(":")[0]


@dataclass(frozen=True)
class Kernel:
    """A launch."""

    name: str
    place: str
    flops: float
    bytes: float
    """read and written"""
    dtype: torch.dtype
    """of the products"""
    reads: tuple[int, ...] = ()
    """numbers of the storages that are read"""
    writes: tuple[int, ...] = ()
    """and of those that are written"""
    sizes: tuple[float, ...] = ()
    """bytes of both, in that order"""
    least: float = 0.0
    """seconds that it takes however small it is, where it is sequential"""
    compiled: bool = False
    """whether `--compile` compiles what launches it"""


class GpuTensor(Tensor):
    """A CPU tensor under a name of cuda:0."""

    inside: Tensor

    @staticmethod
    def __new__(cls, inside: Tensor) -> GpuTensor:
        """Name `inside`; both share memory."""
        made: GpuTensor = Tensor._make_wrapper_subclass(
            cls, inside.size(), strides=inside.stride(), storage_offset=inside.storage_offset(), dtype=inside.dtype,
            layout=inside.layout, device=DEVICE, requires_grad=inside.requires_grad,
        )  # fmt: skip
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"A tensor of the pretended GPU was used outside of `with PretendedGpu()`, by {func}.")

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"GpuTensor({tuple(self.shape)}, {self.dtype})"


class PretendedGpu(TorchDispatchMode):
    """Runs on the CPU what is asked of cuda:0, and notes what a GPU would do."""

    def __init__(self, multiplies: bool = True) -> None:
        """multiplies: False gives zeros for products and convolutions, where only kernels are counted."""
        super().__init__()
        self.multiplies = multiplies
        self.events: Counter[Event] = Counter()
        self.kernels: list[Kernel] = []
        self._storages = _Numbered()
        self.backward_of = ""  # the node whose backward pass runs, set by `backward`
        self._inside = 0  # of how many modules that would be compiled
        self._open = ExitStack()

    def __enter__(self) -> PretendedGpu:
        """Begin to pretend; not nested."""
        torch._C._ensureCUDADeviceGuardSet()
        lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self._open.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        future = torch.__future__  # `module.to` must make new parameters: old ones can't hold another class's memory
        self._open.callback(
            future.set_overwrite_module_params_on_conversion, future.get_overwrite_module_params_on_conversion()
        )
        future.set_overwrite_module_params_on_conversion(True)
        self._open.enter_context(patch("torch.cuda._lazy_init", lambda: None))
        super().__enter__()
        self._open.enter_context(_Composites(self))
        return self

    def __exit__(self, *error: Any) -> None:
        """End it."""
        self._open.close()
        super().__exit__(*error)

    def note(self, kind: Kind, what: str) -> None:
        """Count an event at the line of the package that causes it."""
        self.events[Event(kind, what, self.place())] += 1

    def launch(
        self,
        name: str,
        flops: float,
        moved: float,
        dtype: torch.dtype,
        given: Any = (),
        out: Any = (),
        least: float = 0,
    ) -> None:
        """List a kernel; given, out: the CPU tensors that it reads and writes."""
        reads, writes = self._storages.of(given), self._storages.of(out)
        sizes = (*reads.values(), *writes.values())
        place, compiled = self.place(), self._inside > 0
        kernel = Kernel(name, place, flops, moved, dtype, tuple(reads), tuple(writes), sizes, least, compiled)
        self.kernels.append(kernel)

    def would_compile(self, objective: Objective) -> None:
        """Mark the kernels of what the objective compiles under `--compile`; nothing is compiled."""
        modules: list[torch.nn.Module] = []
        with patch.object(torch.nn.Module, "compile", lambda module: modules.append(module)):
            objective.compile_encoder()
        for module in modules:
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave)

    def _enter(self, *_: Any) -> None:
        self._inside += 1

    def _leave(self, *_: Any) -> None:
        self._inside -= 1

    def place(self) -> str:
        """file:line of the innermost frame in this package; what the backward pass belongs to, where there is none."""
        frame = sys._getframe(1)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.name not in OWN and "site-packages" not in path.parts and path.is_relative_to(PACKAGE):
                inside = path.relative_to(PACKAGE)
                if inside.parts[0] != "tests":
                    return f"{inside}:{frame.f_lineno}"
            if path.name == "pretended_backward.py":
                break  # further out stands the line that calls `backward`, which says nothing
            frame = frame.f_back  # type: ignore[assignment]
        return f"backward of {self.backward_of}:0" if self.backward_of else "elsewhere:0"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [leaf for leaf in given if isinstance(leaf, GpuTensor)]
        asked = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        made_here = asked is not None and asked.type == "cuda"
        if not ours and not made_here:
            return func(*args, **kwargs)
        self._judge(func, args, kwargs, given, made_here)
        inner_args, inner_kwargs = tree_map_only(GpuTensor, lambda tensor: tensor.inside, (args, dict(kwargs)))
        if made_here:
            inner_kwargs["device"] = torch.device("cpu")
        inner_kwargs.pop("pin_memory", None)
        out = self._run(func, inner_args, inner_kwargs)
        if not func.is_view and func not in NO_KERNEL:
            self._count(func, inner_args, inner_kwargs, out)
        stays = made_here or (asked is None and bool(ours))
        if func in (aten._local_scalar_dense.default, aten.equal.default):
            stays = False
        elif func is aten.copy_.default:
            stays = isinstance(args[0], GpuTensor)
        if not stays:
            return args[0] if func is aten.copy_.default else out
        known = {id(tensor.inside): tensor for tensor in ours}
        named = tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else GpuTensor(t), out)
        if func is aten._to_copy.default or not ours:
            return named
        return return_and_correct_aliasing(func, args, kwargs, named)

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if not self.multiplies and func in PRODUCTS:
            meta_args, meta_kwargs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), (args, kwargs))
            shapes = func(*meta_args, **meta_kwargs)
            return tree_map_only(Tensor, lambda tensor: torch.zeros(tensor.shape, dtype=tensor.dtype), shapes)
        return CPU_FORM.get(func, func)(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        dtype = next((tensor.dtype for tensor in reversed(tensors) if tensor.is_floating_point()), torch.float32)
        moved = _bytes((args, kwargs)) + _bytes(out)
        if "index" in str(func) or "gather" in str(func) or func is aten.embedding.default:
            moved = 2 * _bytes(out) + _bytes(args[1:])  # of what is indexed, no more is read than comes out
        elif "group_norm" in str(func) or "batch_norm" in str(func):
            moved *= 2  # once for the statistics
        self.launch(str(func), flops_of(func, args, kwargs, out), moved, dtype, (args, kwargs), out)

    def _judge(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], made_here: bool) -> None:
        if func in WAITING and not (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is not None):
            self.note("wait", WAITING[func])
        if func in INDEXED:
            self._judge_index(func, args)
        elif func in COPIES:
            self._judge_copy(func, args, kwargs, made_here)
        else:
            strangers = [tuple(t.shape) for t in given if not isinstance(t, GpuTensor) and t.dim() > 0]
            if strangers and any(isinstance(t, GpuTensor) for t in given):
                self.note("mix", f"{func} with CPU tensors of shapes {strangers}")
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type == "cpu":
            self.note("mix", f"{func} with a generator of the CPU")
        half = [t.dtype for t in given if t.dtype in (torch.bfloat16, torch.float16)]
        if half and any(part in str(func) for part in ONLY_FLOAT32):
            self.note("dtype", f"{func} of {half[0]}")

    def _judge_index(self, func: Any, args: Any) -> None:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        reads = func is aten.index.Tensor
        # one number written under one mask is a `masked_fill`
        fills = not reads and len(masks) == 1 and args[2].numel() == 1 and not isinstance(args[2], GpuTensor)
        if masks and not fills:
            self.note("wait", "boolean index" if reads else "boolean index, written")
        if isinstance(args[0], GpuTensor) and any(not isinstance(index, GpuTensor) for index in indices):
            self.note("wait", "index on the CPU")

    def _judge_copy(self, func: Any, args: Any, kwargs: Any, made_here: bool) -> None:
        into, source = (made_here, args[0]) if func is aten._to_copy.default else (None, args[1])
        to_gpu = isinstance(args[0], GpuTensor) if into is None else into
        if into is not None and kwargs.get("device") is None:
            return  # a cast
        from_gpu = isinstance(source, GpuTensor)
        goes_on = bool(kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True))
        if from_gpu and not to_gpu:
            self.note("wait", "copy to the CPU")
        elif to_gpu and not from_gpu and not goes_on:
            self.note("wait", "copy to the GPU")


class _Numbered:
    """Storages by number: one that is freed never lends its number to another."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._next = 0

    def of(self, tree: Any) -> dict[int, float]:
        """Number and bytes of every storage in a tree of tensors."""
        found = {}
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key = id(storage)
                if key not in self._numbers:
                    self._numbers[key], self._next = self._next, self._next + 1
                    weakref.finalize(storage, self._numbers.pop, key, None).atexit = False
                found[self._numbers[key]] = float(leaf.numel() * leaf.element_size())
        return found


def _bytes(tree: Any) -> float:
    return float(sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)))


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    found = aten.native_batch_norm.default(x, weight, bias, mean, var, training, momentum, eps)
    return (*found, x.new_empty(0))


def _batch_norm_backward(
    x: Tensor, gradient: Tensor, weight: Any, mean: Any, var: Any, kept: Any, inverse: Any, eps: float, _: Any
) -> Any:
    wanted = [True, True, True]
    return aten.native_batch_norm_backward.default(gradient, x, weight, mean, var, kept, inverse, True, eps, wanted)


CPU_FORM: dict[Any, Callable[..., Any]] = {
    aten.cudnn_batch_norm.default: _batch_norm,
    aten.cudnn_batch_norm_backward.default: _batch_norm_backward,
}
"""What CUDA's composites call and a CPU doesn't have."""


# ---- what is one thing on a GPU, and asked for above the dispatcher


class _Composites(TorchFunctionMode):
    """Attention and recurrent layers as one kernel each way; reading into Python; pinned memory."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first: Any = args[0] if args else None
        if func is Tensor.pin_memory:
            return first
        if func is Tensor.is_pinned:
            return True
        on_gpu = isinstance(first, GpuTensor)
        if func is Tensor.tolist and on_gpu:
            self.gpu.note("wait", "tolist")
            return first.inside.tolist()
        if func is torch.nn.functional.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale")
            return self._attend(**(dict(zip(names, args, strict=False)) | kwargs))
        if getattr(func, "__name__", "") in ("lstm", "gru", "rnn_tanh") and on_gpu:
            return self._recur(func, args)
        return func(*args, **kwargs)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, **given: Any) -> Any:
        function = torch.nn.functional.scaled_dot_product_attention
        if not isinstance(query, GpuTensor):
            with torch._C.DisableTorchFunction():
                return function(query, key, value, **given)
        forward, back = attention(query.shape, key.shape, value.shape), 0.0
        back = attention_backward(query.shape, query.shape, key.shape, value.shape)

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            if not self.gpu.multiplies:
                return (
                    q
                    + 0 * (k.sum() + v.sum())
                    + (0 if mask is None or not mask.is_floating_point() else 0 * mask.sum())
                )
            with torch.autocast("cpu", enabled=False):
                dropout = given.get("dropout_p", 0.0)
                return function(q, k, v, attn_mask=mask, dropout_p=dropout, scale=given.get("scale"))

        mask = given.get("attn_mask")
        low = torch.is_autocast_enabled("cuda")
        if low:
            to = torch.get_autocast_dtype("cuda")
            query, key, value = (part.to(to) for part in (query, key, value))
            if mask is not None and mask.is_floating_point():
                mask = mask.to(to)
        return _Fused.apply(query, key, value, mask, (self.gpu, "fused attention", (forward, back), attend))

    def _recur(self, func: Any, args: Any) -> Any:
        leaves, _ = torch.utils._pytree.tree_flatten(args)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        spec = torch.utils._pytree.tree_structure(args)

        def recur(*tensors: Tensor) -> Any:
            mixed = list(leaves)
            for place, tensor in zip(places, tensors, strict=True):
                mixed[place] = tensor
            with torch._C.DisableTorchFunction():
                return func(*torch.utils._pytree.tree_unflatten(mixed, spec))

        width = sum(leaf.numel() for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim() == 2)
        flops = 2.0 * args[0].shape[0] * args[0].shape[1] * width
        tensors = [leaves[place] for place in places]
        return _Fused.apply(*tensors, (self.gpu, getattr(func, "__name__", "rnn"), (flops, 2 * flops), recur))


class _Fused(torch.autograd.Function):
    """A function of CPU tensors as one kernel forward and one backward.

    Tensors come first, then (gpu, name, FLOPs of both passes, function): a node's edges are those of the tensors.
    """

    @staticmethod
    def forward(ctx: Any, *told: Any) -> Any:
        (gpu, name, flops, run), given = told[-1], told[:-1]
        inside = [_leaf(tensor) if isinstance(tensor, Tensor) else tensor for tensor in given]
        with torch.enable_grad():
            out = run(*inside)
        several = isinstance(out, tuple)
        outs = out if several else (out,)
        moved = _bytes(inside) + _bytes(outs)
        least = SECONDS_PER_FRAME * sum(given[0].shape[:2]) if "attention" not in name else 0.0
        gpu.launch(name, flops[0], moved, given[0].dtype, inside, outs, least)
        ctx.kept = (gpu, name, flops[1], 2.5 * moved, inside, outs, given, 2 * least)
        named = tuple(GpuTensor(part.detach()) for part in outs)
        return named if several else named[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        gpu, name, flops, moved, inside, outs, given, least = ctx.kept
        wanted = [place for place, tensor in enumerate(inside) if isinstance(tensor, Tensor) and tensor.requires_grad]
        pairs = [(out, grad.inside) for out, grad in zip(outs, gradients, strict=True) if grad is not None]
        found = torch.autograd.grad(
            [pair[0] for pair in pairs], [inside[place] for place in wanted], [pair[1] for pair in pairs],
            allow_unused=True,
        )  # fmt: skip
        read = [*inside, *outs, *(pair[1] for pair in pairs)]
        gpu.launch(f"{name}, backward", flops, moved, given[0].dtype, read, found, least)
        result: list[Any] = [None] * len(inside)
        for place, value in zip(wanted, found, strict=True):
            result[place] = None if value is None else GpuTensor(value)
        return (*result, None)


def _leaf(tensor: Tensor) -> Tensor:
    inside = tensor.inside if isinstance(tensor, GpuTensor) else tensor
    return inside.detach().requires_grad_(tensor.requires_grad)


@contextmanager
def autocast(enabled: bool, dtype: torch.dtype = torch.bfloat16) -> Iterator[None]:
    """CUDA's autocast, which `torch.autocast` refuses where there is no CUDA."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", enabled)
    torch.set_autocast_dtype("cuda", dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
