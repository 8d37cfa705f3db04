"""The one door for listening to any network: the `Encoder` protocol, and `load_encoder` from wherever it lives."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from .adapters import HuggingFaceEncoder, ModelEncoder, prepare_input
from .beats_file import load_beats_file
from .loading import download, find_folder, load_folder, load_offered, load_stranger, shipped

__all__ = [
    "Encoder",
    "HuggingFaceEncoder",
    "ModelEncoder",
    "WrappedEncoder",
    "bare",
    "calibrate_batch_norm",
    "load_encoder",
    "random_copy",
    "usual_device",
    "weights_hash",
]


# Far from the seeds of runs: a random copy shall not be the very network that a run began with.
_RANDOM_SEEDS = 0x6B0A55


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns sound into frames.

    Attributes:
        sample_rate: Hz of the waveform that it was trained on.
        frame_rate: frames per second.
        dim: size of a frame.
        layers: how many layers `hidden_states` shows; layer 0 is the front end's output.
    """

    sample_rate: int
    frame_rate: float
    dim: int
    layers: int

    def hidden_states(self, waveform: Tensor, valid: Tensor | None = None, sample_rate: int | None = None) -> Tensor:
        """Listen, in evaluation mode and without gradients.

        Args:
            waveform: [batch, samples] in [-1, 1]; the encoder normalises it as its training did.
            valid: [batch] samples of sound in each row, the rest being padding; None when all are.
            sample_rate: Hz of the waveform (resampled where it differs); None for the encoder's own.

        Returns:
            [batch, layers, frames, dim] float32. Only the first `valid_frames(valid)` frames of a row mean anything.

        Raises:
            ValueError: a wrong shape, type or length, or NaN in the waveform.
        """
        ...

    def valid_frames(self, valid: Tensor) -> Tensor:
        """[batch] samples at `sample_rate` -> [batch] frames that they fill, at least one."""
        ...


class WrappedEncoder:
    """An encoder that can do more: it answers as the one that it holds, and whatever it hasn't is that one's."""

    def __init__(self, encoder: Encoder) -> None:
        self.bare = encoder
        self.sample_rate, self.frame_rate = encoder.sample_rate, encoder.frame_rate
        self.dim, self.layers = encoder.dim, encoder.layers

    def hidden_states(self, waveform: Tensor, valid: Tensor | None = None, sample_rate: int | None = None) -> Tensor:
        """See `Encoder.hidden_states`."""
        return self.bare.hidden_states(waveform, valid, sample_rate)

    def valid_frames(self, valid: Tensor) -> Tensor:
        """See `Encoder.valid_frames`."""
        return self.bare.valid_frames(valid)

    def __getattr__(self, name: str) -> Any:
        if name == "bare" or name.startswith("__"):  # copying asks before anything is held
            raise AttributeError(name)
        return getattr(self.bare, name)


def bare(encoder: Encoder) -> Encoder:
    """The encoder itself, without what it was wrapped in."""
    return bare(encoder.bare) if isinstance(encoder, WrappedEncoder) else encoder


def load_encoder(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    dtype: Any = None,
    *,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load an encoder from a run, a published folder, a Hub name, any Hugging Face audio model, `file.py:Class`, an
    installed package that offers one by this name, or one of Microsoft's BEATs files (`.pt`).

    Python code is run from a file that is named, as in `file.py:Class`, and nowhere else unless it is trusted.

    Args:
        name_or_path: where it lives; `groundbass-tiny` comes with the package, which `groundbass models` lists.
        device: where it shall compute.
        dtype: of the weights, as torch.dtype or its name; None for float32. Hidden states are float32 in any case.
        trust_remote_code: run the Python that a folder or Hub model brings (`auto_map`). Our own models never need it.

    Raises:
        FileNotFoundError: no such folder, file or model, or a folder that lacks config or weights.
        ValueError: code that isn't trusted, weights that don't fit the config, broken files, an unsupported kind of
            model, no such device.
    """
    name, device = str(name_or_path), _device(device)
    file, _, class_name = name.rpartition(":")
    if file.endswith(".py"):
        return load_stranger(Path(file).expanduser(), class_name, device)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, dtype)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype {dtype!r} is no floating point type of torch; take float32, bfloat16 or float16.")
    path = Path(name).expanduser()
    if path.suffix == ".pt" and path.is_file():
        beats: Any = load_beats_file(path)
        return ModelEncoder(beats.to(device=device, dtype=dtype or torch.float32))
    if path.is_file():
        raise ValueError(f"{name} is a file; give the folder that holds config.json, or a class as {name}:Class.")
    if path.is_dir():
        return load_folder(find_folder(path), device, dtype, trust=trust_remote_code)
    if (own := shipped(name)) is not None:
        return load_folder(own, device, dtype, trust=False)
    if (offered := load_offered(name, device)) is not None:
        return offered
    return load_folder(download(name), device, dtype, trust=trust_remote_code)


def random_copy(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same architecture with fresh weights, by the model's own initialisation: what the network knows untrained.

    A stranger's class says how by a method `random_copy(seed) -> Encoder`.

    Args:
        encoder: stays as it is.
        seed: the same seed gives the same weights; the global generator isn't touched.

    Raises:
        ValueError: an encoder that doesn't say how it is initialised.
    """
    encoder = bare(encoder)
    if hasattr(encoder, "random_copy"):
        fresh: Encoder = encoder.random_copy(seed)
        return fresh
    if not isinstance(encoder, (ModelEncoder, HuggingFaceEncoder)):
        raise ValueError(
            f"{type(encoder).__name__} doesn't say how its weights are initialised; give it a method "
            "random_copy(seed) that returns an untrained encoder of the same architecture."
        )
    model = encoder.model
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(_RANDOM_SEEDS + seed)
        fresh_model = type(model)(copy.deepcopy(model.config))
    twin = copy.copy(encoder)
    twin.model = fresh_model.to(model.device, model.dtype).eval()
    return twin


def calibrate_batch_norm(encoder: Encoder, waveforms: Iterable[Tensor]) -> None:
    """Set the running statistics of batch norms to the mean over `waveforms`; nothing else changes.

    A random copy needs it: with the initial statistics its layers would be scaled by chance. Every batch counts the
    same (cumulative average of its mean and unbiased variance); without batch norm nothing is read.

    Args:
        encoder: changed in place.
        waveforms: batches [batch, samples] at the encoder's rate.

    Raises:
        ValueError: no batch at all, an encoder that we can't look into, or a batch that gives one frame in all.
    """
    encoder = bare(encoder)
    module = _module(encoder)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] if module else []
    if not norms or module is None:
        return
    if not isinstance(encoder, (ModelEncoder, HuggingFaceEncoder)):
        raise ValueError(f"{type(encoder).__name__} has batch norm, but only loaded models can be calibrated.")
    module.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative average
        norm.train()
    try:
        batches = 0
        for waveform in waveforms:
            ready = prepare_input(waveform, None, None, encoder.sample_rate, encoder.shortest, encoder.model.device)
            with torch.no_grad():
                encoder.run(*ready)
            batches += 1
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "Batch norm can't be calibrated on a batch that makes a single frame; give more audio at once."
        ) from error
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
        module.eval()
    if batches == 0:
        raise ValueError("Batch norm can't be calibrated without audio; give at least one batch of waveforms.")


def weights_hash(encoder: Encoder) -> str:
    """A name for what the encoder computes: blake2b over class, config and every weight and buffer, in hex.

    For a stranger's class it covers its source file and the tensors and modules that the object holds.

    Raises:
        ValueError: a stranger's class without a source file.
    """
    encoder = bare(encoder)
    digest = hashlib.blake2b(digest_size=20)
    if isinstance(encoder, (ModelEncoder, HuggingFaceEncoder)):
        extractor = getattr(encoder, "extractor", None)
        digest.update(type(encoder.model).__name__.encode())
        digest.update(_settings(encoder.model.config) + (_settings(extractor) if extractor is not None else b""))
        tensors = encoder.model.state_dict()
    else:
        source = getattr(sys.modules.get(type(encoder).__module__), "__file__", None)
        if source is None:
            raise ValueError(f"{type(encoder).__name__} has no source file by which its features could be named.")
        digest.update(type(encoder).__name__.encode() + Path(source).read_bytes())
        tensors = _tensors(encoder)
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


LATER = {"mel_kernels": "fixed", "described": False, "shifts": 1, "stem_norm": True}
"""Settings that configs have had since version 0.1, at the value that means what was before them: stores and heads of
that time know the encoder by a hash without them."""


def _settings(config: Any) -> bytes:
    """A config as stable bytes, without what depends on where, when and by whom it was saved."""
    passing = {"transformers_version", "_name_or_path", "auto_map", "architectures", "dtype"}
    told = {key: value for key, value in config.to_dict().items() if key not in passing}
    values = {key: value for key, value in told.items() if key not in LATER or LATER[key] != value}
    return json.dumps(values, sort_keys=True, default=str).encode()


def _tensors(holder: Any) -> dict[str, Tensor]:
    """Every tensor that a stranger's object holds, by name."""
    found: dict[str, Tensor] = dict(holder.state_dict()) if isinstance(holder, nn.Module) else {}
    for name, value in vars(holder).items():
        if isinstance(value, nn.Module):
            found |= {f"{name}.{key}": tensor for key, tensor in value.state_dict().items()}
        elif isinstance(value, Tensor):
            found[name] = value
        elif type(value).__module__ == "numpy" and hasattr(value, "tobytes") and value.dtype != object:
            found[name] = torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8)
    return found


def _module(encoder: Encoder) -> nn.Module | None:
    model = getattr(encoder, "model", encoder)
    return model if isinstance(model, nn.Module) else None


def usual_device(asked: str | None = None) -> str:
    """Where a command computes: as asked, else on a GPU where there is one.

    Of processes that were launched together (LOCAL_RANK) each has a GPU of its own, unless one is asked for by number.
    """
    if asked not in (None, "cuda"):
        return asked
    if asked is None and (not torch.cuda.is_available() or os.environ.get("ACCELERATE_USE_CPU") == "true"):
        return "cpu"
    own = int(os.environ.get("LOCAL_RANK", "0"))
    return f"cuda:{own % max(1, torch.cuda.device_count())}" if own else "cuda"


def _device(device: str | torch.device) -> torch.device:
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"There is no device {device!r}; take cpu, cuda or cuda:0.") from error
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device} was asked for, but torch sees no GPU here; take cpu, or run groundbass doctor."
        )
    return place
