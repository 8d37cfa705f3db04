"""Folders of models, written beside their place and renamed, so that half a folder is never found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder`, gone afterwards unless it was renamed."""
    part, old = folder.parent / f".{folder.name}.part", folder.parent / f".{folder.name}.old"
    try:
        if old.exists() and not folder.exists():  # a writer was killed between the two renamings of `replace_folder`
            old.rename(folder)
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{folder} can't be written ({error.strerror or error}); choose another place.") from error
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace_folder(folder: Path, part: Path) -> None:
    """Put `part` where `folder` is; should the renaming fail, the old one is put back."""
    old = folder.parent / f".{folder.name}.old"
    replaced = folder.exists()
    if replaced:
        folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        if replaced:
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


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
