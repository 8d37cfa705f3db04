"""Classifiers as folders: made of an encoder and heads, written so that plain transformers opens them, and opened.

FOLDER/config.json            the encoder's config, with `classifier`, `id2label`, `problem_type` and `thresholds`
FOLDER/model.safetensors      encoder and heads
FOLDER/audio_classifier.py    three lines that put both together; beside it the sources of encoder and heads
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.dynamic_module_utils import get_relative_import_files

from ..reading import json_of
from .classifier import AudioClassifier, classifier_of
from .folders import write_preprocessor
from .head_files import HeadFacts
from .heads import Head
from .loading import find_our_class, quiet, read_config
from .writing import beside, replace_folder

ENTRY = "audio_classifier"
HERE = Path(__file__).parent


def make_classifier(encoder: Any, heads: Sequence[tuple[str, Head, HeadFacts]]) -> AudioClassifier:
    """An encoder (one of our models) with copies of some heads, each with its name and facts, in evaluation mode.

    Raises:
        ValueError: heads that don't fit the encoder: another width, or a layer that it lacks.
    """
    for name, head, _ in heads:
        if head.config.dim != encoder.dim or not -encoder.layers <= head.config.layer < encoder.layers:
            raise ValueError(
                f"The head {name!r} reads layer {head.config.layer} of frames of {head.config.dim} numbers, the "
                f"encoder has {encoder.layers} layers of {encoder.dim}: it belongs to another encoder."
            )
    config = copy.deepcopy(encoder.config)
    config.classifier = {
        "encoder": {name: getattr(config, name, None) for name in ("id2label", "label2id", "problem_type")},
        "heads": [{"name": name, "head": head.config.to_dict(), "facts": _plain(facts)} for name, head, facts in heads],
    }
    if heads:
        _, first, facts = heads[0]
        config.id2label = dict(enumerate(first.names))
        config.label2id = {name: number for number, name in enumerate(first.names)}
        config.problem_type = first.problem
        config.thresholds = list(facts.thresholds)
    kind = classifier_of(type(encoder))
    with torch.device("meta"):
        model = kind(config)
    model.to_empty(device="cpu")
    model.encoder.load_state_dict(encoder.state_dict())
    _refill(model.encoder, encoder)
    for mine, (_, head, _) in zip(model.heads, heads, strict=True):
        mine.load_state_dict(head.state_dict())
    classifier: AudioClassifier = model.eval()
    return classifier


def write_classifier(model: AudioClassifier, folder: str | Path, card: str | None = None) -> None:
    """Write a folder that `AutoModelForAudioClassification` (and `AutoModel`, the encoder) opens with remote code.

    It is written beside and renamed; an older folder of that name is replaced.
    """
    folder = Path(folder)
    with beside(folder) as part:
        with quiet():
            model.save_pretrained(part)
        _sources(model, part)
        write_preprocessor(model.config.sample_rate, part)
        if card is not None:
            (part / "README.md").write_text(card, encoding="utf-8")
        replace_folder(folder, part)


def open_classifier(folder: str | Path, device: str | torch.device = "cpu") -> AudioClassifier:
    """A classifier of ours from its folder, by our own classes.

    Raises:
        ValueError: any other model.
    """
    folder = Path(folder)
    config = read_config(folder)
    encoder_class = find_our_class(config)
    if encoder_class is None or not is_classifier(config):
        raise ValueError(f"{folder} holds no classifier of groundbass.")
    with quiet():
        model = classifier_of(encoder_class).from_pretrained(str(folder), local_files_only=True)
    classifier: AudioClassifier = model.to(device).eval()
    return classifier


def is_classifier(config: dict[str, Any]) -> bool:
    """Whether a config.json is a classifier's: it names heads, or none where the encoder answers by its own."""
    return config.get("classifier") is not None


def _plain(facts: HeadFacts) -> dict[str, Any]:
    """As JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(facts)))
    return plain


def _refill(copy_of: torch.nn.Module, encoder: torch.nn.Module) -> None:
    """Buffers that aren't in the state dict (tables of front ends) have no content after `to_empty`."""
    theirs = dict(encoder.named_buffers())
    with torch.no_grad():
        for name, buffer in copy_of.named_buffers():
            buffer.copy_(theirs[name])


def _sources(model: AudioClassifier, folder: Path) -> None:
    """The entry and what it imports, and `auto_map` in config.json."""
    encoder = type(model.encoder)
    stem, name = encoder.__module__.rpartition(".")[2], type(model).__name__
    (folder / f"{ENTRY}.py").write_text(
        f'"""{name}: written by groundbass."""\n\nfrom .classifier import classifier_of\n'
        f"from .{stem} import {encoder.__name__}\n\n"
        f"{name} = classifier_of({encoder.__name__})\n{name}.__module__ = __name__\n",
        encoding="utf-8",
    )
    entries = [HERE / f"{file}.py" for file in (stem, "classifier")]
    needed = {path for entry in entries for path in [entry, *map(Path, get_relative_import_files(str(entry)))]}
    for path in needed:
        shutil.copy(path, folder / path.name)
    config = json_of(folder / "config.json")
    config["auto_map"] = {
        "AutoConfig": f"{stem}.{type(model.config).__name__}",
        "AutoModel": f"{stem}.{encoder.__name__}",
        "AutoModelForAudioClassification": f"{ENTRY}.{name}",
    }
    config["architectures"] = [name]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for file in folder.glob("*.safetensors"):
        file.chmod((folder / "config.json").stat().st_mode)
