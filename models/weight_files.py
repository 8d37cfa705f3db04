"""Weights from files of other people, opened without running code: torch's pickles and safetensors.

Training frameworks put more than tensors into their files: fairseq an `argparse.Namespace` or OmegaConf's settings and
its dictionaries, Lightning the classes of its callbacks. Of these families nothing is imported: an inert stand-in takes
the place of each class and keeps what it is told, so the weights come out and no code runs. Any other class or function
that a pickle names is refused.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

INERT = re.compile(
    r"(_codecs\.encode|argparse\.Namespace|collections\.defaultdict|pathlib\.\w+|enum\.\w+"
    r"|(builtins|__builtin__)\.(dict|list|tuple|set|frozenset|str|unicode|int|float|bool|object)"
    r"|(typing|numpy|omegaconf|fairseq|mert_fairseq|mert_faiseq|fairseq_user_dir_\w+|hydra)\..+"
    r"|(pytorch_lightning|lightning|lightning_fabric|torchmetrics)\..+)"
)
KNOWN = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.nn.parameter.Parameter": torch.nn.Parameter,
    "torch.Size": torch.Size,
    "torch.device": torch.device,
    **{str(dtype): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)},
}


class Inert(dict[Any, Any]):
    """In the place of an object of a class that isn't imported: keeps its state by name, does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Take any arguments."""
        return super().__new__(cls)

    def __init__(self, *told: Any, **named: Any) -> None:
        super().__init__(named, **({"value": told[0]} if len(told) == 1 else {}))

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.update(part)

    def append(self, _: Any) -> None:
        """Lists of their own classes stay empty."""

    def extend(self, _: Any) -> None:
        """See `append`."""

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class CodeError(pickle.UnpicklingError):
    """The pickle names something that isn't known to be harmless."""


class _Unpickler(pickle.Unpickler):
    """Builds tensors, plain values and `Inert`; asks Python for nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Answer with one of `KNOWN`, or with a stand-in."""
        if f"{module}.{name}" in KNOWN:
            return KNOWN[f"{module}.{name}"]
        if INERT.fullmatch(f"{module}.{name}"):
            return Inert
        raise CodeError(f"{module}.{name}")


_RESTRICTED = SimpleNamespace(  # what torch.load takes in place of the module `pickle`
    __name__="restricted", Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load()
)
DAMAGED = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
)  # fmt: skip


def safe_load(path: Path) -> Any:
    """Open a torch file, without running code: first by torch's own safe loader, then with stand-ins.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds code, or is no torch file, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: give a checkpoint (.pt, .ckpt, .pth), or MERT's folder.")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    try:
        try:
            with warnings.catch_warnings(action="ignore"):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RESTRICTED)
    except CodeError as error:
        raise ValueError(
            f"{path} isn't loaded: it names {error}, and opening it could run code. Ask its author for a file of "
            "tensors, or save its weights and settings again, as plain dictionaries, in a place you trust."
        ) from None
    except DAMAGED as error:
        if "TorchScript" in str(error):
            raise ValueError(f"{path} is a TorchScript program, no checkpoint: give the file of weights.") from None
        raise ValueError(f"{path} is no torch file, or damaged{_reason(error)}: {_cure(path)}") from error


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it is truncated or damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): download it again.") from error


def fill(source: Any, model: nn.Module, weights: Mapping[str, Tensor], hint: str) -> None:
    """Give a model its weights, strictly, in its own dtypes.

    Args:
        source: where they come from, for the sentences.
        model: changed in place.
        weights: by the model's names.
        hint: what to look at where names or shapes don't fit.

    Raises:
        ValueError: missing, unexpected or misshapen weights, by name; or values that are no numbers.
    """
    wanted = model.state_dict()
    lacking, strange = sorted(set(wanted) - set(weights)), sorted(set(weights) - set(wanted))
    for what, names in (("lacks", lacking), ("has unexpected", strange)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"{source} {what} weights: {', '.join(names[:5])}{more}; {hint}.")
    for name, value in weights.items():
        if value.shape != wanted[name].shape:
            raise ValueError(
                f"{source}: {name} has the shape {list(value.shape)}, expected {list(wanted[name].shape)}; {hint}."
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"{source}: {name} holds NaN or infinity: download it again.")
    model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in weights.items()})


def setting(content: Any, name: str) -> Any:
    """The value of that name in a checkpoint's settings, the least deep one; None where there is none.

    fairseq keeps them in `cfg` (dictionaries, or OmegaConf's nodes with a `_val`) or, of old, in `args`.
    """
    waiting, seen = [content], set()
    while waiting:
        here = waiting.pop(0)
        if not isinstance(here, Mapping) or id(here) in seen:  # a node knows its parent
            continue
        seen.add(id(here))
        found = here.get(name)
        if found is not None:
            return found.get("_val") if isinstance(found, Inert) else found
        waiting += here.values()
    return None


def _reason(error: Exception) -> str:
    """The first sentence of an error, where it is one."""
    sentence = (str(error).splitlines() or [""])[0].partition(". ")[0].strip(" .")
    return f" ({sentence})" if " " in sentence else ""


def _cure(path: Path) -> str:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            inside = [name for name in archive.namelist() if name.endswith((".pt", ".ckpt", ".pth"))]
        if inside:
            return f"it is an archive; unpack it, and give {', '.join(inside[:3])}."
    return "download it again."
