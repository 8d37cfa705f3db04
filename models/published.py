"""Published folders: what a stranger loads with transformers alone, and the model card that says what it is.

`write_encoder` makes the folder (every checkpoint of a run keeps one as RUN/encoder), `publish` adds the card, reloads
the folder in a clean process and compares.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor
from transformers import PreTrainedModel

from .adapters import ModelEncoder
from .card import write_card
from .encoder import load_encoder
from .loading import find_folder, quiet

TOLERANCE = 1e-5
HERE = Path(__file__).parent


def write_encoder(model: PreTrainedModel, folder: str | Path, card: str | None = None) -> None:
    """Write a model as a folder that `AutoModel.from_pretrained(folder, trust_remote_code=True)` loads without us.

    It holds config.json, model.safetensors, the model's source and what that imports, preprocessor_config.json, and
    README.md where there is a card. It is written beside and renamed; an older folder of that name is replaced.

    Args:
        model: one of this package's models (unwrapped from any distributed wrapper).
        folder: where to; its parent is made if need be.
        card: text of README.md.

    Raises:
        OSError: the place can't be written to.
    """
    folder = Path(folder)
    with _beside(folder) as part:
        _write(model, part, card)
        _replace(folder, part)


def publish(
    run: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    *,
    force: bool = False,
    license: Annotated[str, tyro.conf.arg(metavar="SPDX")] = "apache-2.0",
    push: Annotated[str | None, tyro.conf.arg(metavar="ORG/NAME")] = None,
) -> None:
    """Turn a run into a Hugging Face folder with a model card, and prove that it loads without this package.

    Args:
        run: a run folder (or its encoder folder).
        out: the folder to write.
        force: replace OUT where it already holds a model.
        license: of the weights, for the card.
        push: also upload it to this name on the Hugging Face Hub.

    Raises:
        FileExistsError: OUT is in use.
        OSError: OUT can't be written.
        ValueError: the run's encoder is none of ours, or the reloaded model answers differently.
    """
    encoder = load_encoder(run)
    if not isinstance(encoder, ModelEncoder):
        model = getattr(encoder, "model", encoder)
        raise ValueError(f"{run} holds a {type(model).__name__}, which is no model of groundbass; publish a run.")
    _check_out(out, force)
    records = run if (run / "recipe.json").is_file() else find_folder(run).resolve().parent
    card = write_card(encoder, records, license=license, name=push or out.resolve().name)
    with _beside(out) as part:
        _write(encoder.model, part, card)
        difference = verify(encoder, part)
        _replace(out, part)
    print(f"{out}: published; reloaded with torch and transformers alone, it differs by at most {difference:.1e}.")
    if push is not None:
        _push(out, push)


def verify(encoder: ModelEncoder, folder: Path) -> float:
    """Load a published folder in a clean process and compare its hidden states with ours on random audio.

    Args:
        encoder: what was published, on the CPU.
        folder: where it was published.

    Returns:
        The largest difference.

    Raises:
        ValueError: the folder doesn't load there, or a difference is above 1e-5 (absolute plus relative).
    """
    inputs = _random_audio(encoder)
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "inputs.pt", Path(place) / "outputs.pt"
        torch.save(inputs, source)
        # a code cache of its own: an older version of the remote code must not answer in its place
        environment = os.environ | {"HF_MODULES_CACHE": f"{place}/modules", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-I", str(HERE / "reload.py"), str(folder.resolve()), str(source), str(target)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"the published model doesn't load with torch and transformers alone: {reason}")
        answer = torch.load(target, weights_only=True)
    if (answer["rate"], answer["normalizes"]) != (encoder.sample_rate, False):
        raise ValueError(
            f"the published feature extractor says {answer['rate']} Hz, the encoder {encoder.sample_rate}."
        )
    difference = 0.0
    for (waveform, mask), theirs in zip(inputs, answer["states"]):
        with torch.no_grad():
            output = encoder.model(waveform, attention_mask=mask, output_hidden_states=True)
        ours = torch.stack(output.hidden_states, dim=1)
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE):
            raise ValueError(
                "the published model answers differently in a process without groundbass: its source or its weights "
                "were not written as they are used here; nothing was published."
            )
        difference = max(difference, float((ours - theirs).abs().max()))
    return difference


def _random_audio(encoder: ModelEncoder) -> list[tuple[Tensor, Tensor | None]]:
    """Two rows of noise, at least a second and two frames; once whole, once with a padded second row."""
    samples = max(encoder.sample_rate, math.ceil(2 * encoder.sample_rate / encoder.frame_rate), 2 * encoder.shortest)
    waveform = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, samples, dtype=torch.int64)
    mask[1, samples * 2 // 3 :] = 0
    return [(waveform, None), (waveform * mask, mask)]


def _write(model: PreTrainedModel, folder: Path, card: str | None) -> None:
    type(model).register_for_auto_class("AutoModel")
    type(model.config).register_for_auto_class()
    with quiet():
        model.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):  # written for the owner alone; the others are as the umask says
        file.chmod((folder / "config.json").stat().st_mode)
    preprocessor = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": model.config.sample_rate,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": False,  # the model applies its own normalisation
        "return_attention_mask": True,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n", encoding="utf-8")
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A fresh folder beside `folder`, gone afterwards unless it was renamed."""
    part, old = folder.parent / f".{folder.name}.part", folder.parent / f".{folder.name}.old"
    try:
        if old.exists() and not folder.exists():  # a writer was killed between the two renamings of `_replace`
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


def _replace(folder: Path, part: Path) -> None:
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


def _check_out(out: Path, force: bool) -> None:
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


def _push(folder: Path, name: str) -> None:
    command = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()", "upload", name, str(folder)]
    done = subprocess.run(command, env=os.environ | {"NO_COLOR": "1"}, capture_output=True, text=True)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "Error" in line), "no message.")
        raise OSError(
            f"{folder} is complete, but uploading it to {name} failed: {reason} Check the network and `hf auth login`, "
            f"then: hf upload {name} {folder}"
        )
    print(f"https://huggingface.co/{name}")
