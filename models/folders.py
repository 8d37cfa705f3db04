"""Folders of models: what a run keeps where, where a published folder may be written, what it says of its sound."""

from __future__ import annotations

import json
from pathlib import Path


def encoder_in(place: Path) -> Path | None:
    """The folder of an encoder: `place` itself, or what the run `place` keeps; None where there is neither."""
    return next((folder for folder in (place, place / "encoder") if (folder / "config.json").is_file()), None)


def classifier_in(place: Path) -> Path | None:
    """The classifier that the run `place` keeps, if it learned from labels."""
    folder = place / "classifier"
    return folder if (folder / "config.json").is_file() else None


def run_of(place: Path) -> Path | None:
    """The run that `place` is, or whose encoder or classifier it is; None where it belongs to none."""
    return next((run for run in (place, place.resolve().parent) if (run / "recipe.json").is_file()), None)


def check_out(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; give the name of a folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not force:
        raise FileExistsError(f"{out} exists and isn't empty; choose another folder, or replace it with --force.")
    if not (out / "config.json").is_file():
        raise FileExistsError(
            f"{out} holds other things than a model, so even --force leaves it; choose another folder."
        )


def write_preprocessor(sample_rate: int, folder: Path) -> None:
    """The feature extractor of all our models: a waveform at `sample_rate` Hz as it is, padded, with its mask."""
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": sample_rate,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": False,  # the model applies its own normalisation
        "return_attention_mask": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")
