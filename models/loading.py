"""Where encoders come from: a stranger's class, a folder, the Hub; and a sentence for every way they can be broken."""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoFeatureExtractor, AutoModel
from transformers.utils import logging as transformers_logging

from .. import plugins
from ..reading import json_of
from .adapters import HuggingFaceEncoder, ModelEncoder
from .folders import encoder_in
from .mert_folder import load_mert_folder

PUBLIC_MERT = "mert_model"
MOST_RATE = 768_000  # Hz, as for audio
ODD = (TypeError, AttributeError, LookupError, ArithmeticError)  # what configs with values of another kind end in
PARTS = ("sample_rate", "frame_rate", "dim", "layers", "hidden_states", "valid_frames")


TINY = "groundbass-tiny"
"""What ships with the package, and hears where nobody names an encoder or a classifier."""


def shipped(name: str) -> Path | None:
    """The folder of an encoder that ships with the package, such as groundbass-tiny; None for other names."""
    folder = Path(__file__).parent / "shipped" / name.replace("-", "_")
    return folder if re.fullmatch(r"groundbass-[a-z0-9-]+", name) and (folder / "config.json").is_file() else None


def load_stranger(file: Path, class_name: str, device: torch.device) -> Any:
    """An object of the class `class_name` in `file`."""
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}, from which the encoder {class_name!r} was to come.")
    module = plugins.run_file(file)
    maker = getattr(module, class_name, None)
    if not isinstance(maker, type):
        known = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        wrong = f"no class {class_name!r}" if maker is None else f"{class_name!r}, but that is a {type(maker).__name__}"
        raise ValueError(f"{file} has {wrong}; its classes are {', '.join(known) or 'none'}.")
    return _made(maker, f"{class_name} in {file}", device, file)


def load_offered(name: str, device: torch.device) -> Any:
    """The encoder that an installed package offers under this name; None where none does.

    Raises:
        ValueError: the package doesn't import, or what it offers is no encoder.
    """
    if name not in plugins.installed("encoders"):
        return None
    return _made(plugins.load_installed("encoders", name), name, device)


def _made(maker: Any, name: str, device: torch.device, file: Path | None = None) -> Any:
    """The encoder that a class or function makes."""
    encoder = plugins.made(maker, name, file)
    missing = [part for part in PARTS if not hasattr(encoder, part)]
    if missing:
        raise ValueError(f"{name} is no Encoder: it lacks {', '.join(missing)}.")
    if hasattr(encoder, "to"):
        encoder = encoder.to(device)
    return encoder


def find_folder(path: Path) -> Path:
    """The folder itself, or the encoder that a run keeps."""
    found = encoder_in(path)
    if found is not None:
        return found
    if (path / "recipe.json").is_file():
        raise FileNotFoundError(
            f"The run {path} has no encoder yet: none is written before the first checkpoint; train it further, or "
            "lower checkpoint_every."
        )
    raise FileNotFoundError(
        f"{path} holds neither config.json nor encoder/config.json, so there is no encoder in it; give a run, or a "
        "folder that groundbass publish or save_pretrained has written."
    )


def download(name: str) -> Path:
    """The local copy of a model on the Hugging Face Hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise FileNotFoundError(
            f"There is no folder {name}; give a run, a published folder, or a Hub name as org/name."
        )
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.py", "*.txt"]))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.bin", "*.py", "*.txt"]))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"There is no folder {name} here, and no model of that name could be had from the Hugging Face Hub "
            f"({type(error).__name__}); check the spelling, or the network."
        ) from error
    return folder


def load_folder(
    folder: Path, device: torch.device, dtype: torch.dtype | None, *, trust: bool
) -> ModelEncoder | HuggingFaceEncoder:
    """The encoder in a folder with config.json and weights."""
    config = read_config(folder)
    _check_files(folder)
    if config.get("model_type") == PUBLIC_MERT:  # its own remote code doesn't load with today's transformers
        mert: Any = load_mert_folder(folder)  # transformers' decorator hides the type of `to`
        return ModelEncoder(mert.to(device=device, dtype=dtype or torch.float32))
    ours = find_our_class(config)
    if ours is None and not trust:
        _refuse_code(folder, config)
    rate = config.get("sample_rate", 1)
    if ours is not None and (type(rate) not in (int, float) or not 0 < rate <= MOST_RATE):
        raise ValueError(f"{folder / 'config.json'} says sample_rate = {str(rate)[:80]!r}, and it is a number of Hz.")
    with quiet():
        try:
            model, report = (ours or AutoModel).from_pretrained(
                str(folder),
                dtype=dtype or torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                local_files_only=True,
                **({} if ours else {"trust_remote_code": trust}),
            )
        except (ValueError, ImportError, RuntimeError, UnpicklingError, *ODD) as error:
            raise ValueError(
                f"{folder} (model type {config.get('model_type')!r}) could not be loaded by transformers: "
                f"{str(error).partition(chr(10))[0]}"
            ) from error
    classifier = getattr(model.config, "classifier", None)
    if ours is not None and classifier:  # the encoder alone, as it was before it got heads
        report["unexpected_keys"] = [key for key in report["unexpected_keys"] if not str(key).startswith("heads.")]
        forget_heads(model.config)
    _check_report(folder, model, report, strict=ours is not None)
    model = model.to(device)
    if all(hasattr(model, part) for part in ("frame_rate", "dim", "layers", "valid_frames")):
        return ModelEncoder(model)
    return HuggingFaceEncoder(model, _extractor(folder, trust))


def _refuse_code(folder: Path, config: dict[str, Any]) -> None:
    """Raise where a folder that isn't trusted would have its own Python run, of the model or of what prepares sound."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            config = config | {"auto_map": config.get("auto_map") or _read_json(folder / name).get("auto_map")}
    if config.get("auto_map"):
        raise ValueError(
            f"{folder.absolute()} (model type {config.get('model_type')!r}) brings its own Python code, and none of it "
            "was run: read its .py files, and trust them with --trust-remote-code (trust_remote_code=True in Python)."
        )


def read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so nothing tells what model it is.")
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    config = json_of(path, "the folder is damaged, write it again")
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__} instead of settings by name; write the folder again.")
    return config


def _check_files(folder: Path) -> None:
    """Weights are there, and every safetensors file is whole."""
    files = sorted(folder.glob("*.safetensors"))
    if not files and not list(folder.glob("*.bin")):
        raise FileNotFoundError(f"{folder} has a config.json but no weights (*.safetensors); was it copied completely?")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is truncated or damaged ({error}); copy or write it again.") from error


def find_our_class(config: dict[str, Any]) -> Any:
    """Our own class for a config that one of our models wrote: the module's name is the address, as published."""
    module_name, _, class_name = str(_mapped(config).get("AutoModel", "")).rpartition(".")
    if not module_name.isidentifier() or not (Path(__file__).parent / f"{module_name}.py").is_file():
        return None
    module = importlib.import_module(f".{module_name}", __package__)
    found = getattr(module, class_name, None)
    known = getattr(getattr(found, "config_class", None), "model_type", None)
    return found if known == config.get("model_type") else None


def forget_heads(config: Any) -> None:
    """Make a classifier's config its encoder's again."""
    for name, value in config.classifier.get("encoder", {}).items():
        setattr(config, name, {int(k): v for k, v in value.items()} if name == "id2label" and value else value)
    for name in ("classifier", "thresholds"):
        if hasattr(config, name):
            delattr(config, name)


def _mapped(config: dict[str, Any]) -> dict[str, Any]:
    found = config.get("auto_map")
    return found if isinstance(found, dict) else {}


def _check_report(folder: Path, model: Any, report: dict[str, Any], *, strict: bool) -> None:
    """Refuse weights that don't fit: a silent gap would be probed as if it had been trained.

    Of foreign models, heads that the bare encoder doesn't have are dropped, and a mask embedding may be missing.
    """
    parts = {name for name, _ in model.named_children()}
    unexpected = [str(key) for key in report["unexpected_keys"]]
    missing = [str(key) for key in report["missing_keys"]]
    if not strict:
        prefix = f"{model.base_model_prefix}."
        unexpected = [key for key in unexpected if key.removeprefix(prefix).split(".")[0] in parts]
        missing = [key for key in missing if not key.endswith("masked_spec_embed")]
    for what, keys in (("lacks", missing), ("has unexpected", unexpected)):
        if keys:
            shown = ", ".join(sorted(keys)[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")
            raise ValueError(f"{folder} {what} weights: {shown}; weights and config.json don't belong together.")
    for key, found, wanted in report["mismatched_keys"]:
        raise ValueError(
            f"The weight {key} in {folder} has shape {list(found)}, but config.json asks for {list(wanted)}; weights "
            "and config don't belong together."
        )
    broken = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"The weight {broken[0]} in {folder} holds NaN or infinity ({len(broken)} weights do).")


def _extractor(folder: Path, trust: bool) -> Any:
    """The model's feature extractor, or None where the folder has none."""
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return None
    return AutoFeatureExtractor.from_pretrained(str(folder), trust_remote_code=trust, local_files_only=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' loading report, progress bar and warnings: what matters in them is raised as an error."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))  # DeepSpeed, where it is installed, greets on the way
    try:
        yield
    finally:
        logging.disable(level)
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
