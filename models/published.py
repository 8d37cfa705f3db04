"""Published folders: what a stranger loads with transformers alone, and the model card that says what it is.

`write_encoder` makes the folder (every checkpoint of a run keeps one as RUN/encoder), `publish` adds the card, reloads
the folder in a clean process and compares.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from ..reading import json_of
from . import hub
from .adapters import ModelEncoder
from .card import CURVES, NOT_PROBED, Measured, draw_losses, origin_of, write_card
from .classifier_published import holds_classifier, publish_classifier, save_inputs
from .encoder import load_encoder, weights_hash
from .folders import check_out, run_of, write_preprocessor
from .loading import quiet
from .writing import beside, replace_folder, written

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
    with beside(folder) as part:
        _write(model, part, card)
        replace_folder(folder, part)


def holds(folder: Path, weights: dict[str, Tensor], config: PretrainedConfig) -> bool:
    """Whether a published folder is there with exactly these weights and settings. weights: by name, on the CPU."""
    files = sorted(folder.glob("*.safetensors"))
    if not files or not _says(folder / "config.json", config):
        return False
    found: set[str] = set()
    try:
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is no dictionary)
                    if name not in weights or not torch.equal(opened.get_tensor(name), weights[name]):
                        return False
                    found.add(name)
    except SafetensorError:
        return False
    return found == set(weights)


def _says(file: Path, config: PretrainedConfig) -> bool:
    """Whether a config.json can be read and has all of these settings, by whatever version it was written."""
    try:
        told = json_of(file)
    except (OSError, ValueError):
        return False
    expected = json.loads(config.to_json_string())
    return isinstance(told, dict) and all(
        told.get(name) == value for name, value in expected.items() if name != "transformers_version"
    )


def publish(
    run: Path,
    out: Path,
    *,
    force: bool = False,
    license: str | None = None,
    measured: Measured | None = None,
    push: str | None = None,
    private: bool = False,
    shard_size: str = "5GB",
    dry_run: bool = False,
) -> float | None:
    """See `groundbass.publishing.publish`, the command. measured: what the card says of measurements; None: nothing.

    Returns:
        By how much the reloaded model differs at most; None where nothing was written anew.

    Raises:
        FileExistsError: OUT is in use.
        OSError: OUT can't be written.
        ValueError: the run's encoder is none of ours, or the reloaded model answers differently.
    """
    if holds_classifier(run):
        return publish_classifier(
            run, out, force=force, license=license, measured=measured, push=push, private=private, dry_run=dry_run
        )
    encoder = load_encoder(run)
    if not isinstance(encoder, ModelEncoder):
        model = getattr(encoder, "model", encoder)
        raise ValueError(f"{run} holds a {type(model).__name__}, which is no model of groundbass; publish a run.")
    done, difference = push is not None and not force and _is_published(out, encoder), None
    if not done:
        check_out(out, force)
    if push is not None and not dry_run:
        hub.check_push(push, _sources(encoder.model), private=private, force=force)
    records = run_of(run) or run
    license = license or origin_of(encoder.model.config).get("license", "apache-2.0")
    if not done:
        with tempfile.TemporaryDirectory() if dry_run else beside(out) as place:
            part = Path(place)
            curves = draw_losses(records / "loss.jsonl", part / CURVES)
            probed = NOT_PROBED if measured is None else measured.probed(records, weights_hash(encoder))
            name = push or out.resolve().name
            card = write_card(encoder, records, license=license, name=name, curves=curves, probed=probed)
            _write(encoder.model, part, card, shard_size)
            if dry_run:
                _list(part, out, push, private)
                return None
            difference = verify(encoder, part)
            replace_folder(out, part)
        print(f"{out}: published; reloaded with torch and transformers alone, it differs by at most {difference:.1e}.")
    elif dry_run:
        _list(out, out, push, private)
        return None
    else:
        _rename(out / "README.md", out.resolve().name, str(push))
        print(f"{out} holds these very weights already; it is uploaded as it is (--force writes it anew).")
    if push is not None:
        print(hub.push(out, push, private))
    return difference


def _is_published(out: Path, encoder: ModelEncoder) -> bool:
    """Whether OUT is a published folder of these weights, with its card."""
    if not (out / "config.json").is_file() or not (out / "README.md").is_file():
        return False
    try:
        return weights_hash(load_encoder(out)) == weights_hash(encoder)
    except (ValueError, OSError):
        return False


def _sources(model: PreTrainedModel) -> list[str]:
    """Names of the Python files that a published folder of this model holds."""
    return [f"{type(model).__module__.rpartition('.')[2]}.py"]


def _rename(card: Path, old: str, new: str) -> None:
    """Let a card's examples name the repository, where it was written for a local folder."""
    text = card.read_text(encoding="utf-8")
    for door in ("from_pretrained", "load_encoder"):
        text = text.replace(f'{door}("{old}"', f'{door}("{new}"')
    with written(card) as part:
        part.write_text(text, encoding="utf-8")


def _list(folder: Path, out: Path, push: str | None, private: bool) -> None:
    """What would be written, and where to."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        print(f"{file.stat().st_size:>14,} bytes  {file.relative_to(folder)}")
    kind = "private" if private else "public"
    where = f"{out}" if push is None else f"{out} and the {kind} repository {push}"
    total = sum(file.stat().st_size for file in files)
    print(f"{total:>14,} bytes  in {len(files)} files would go to {where}; nothing was written.")


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
        save_inputs(inputs, source)
        # a code cache of its own: an older version of the remote code must not answer in its place
        environment = os.environ | {"HF_MODULES_CACHE": f"{place}/modules", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-I", str(HERE / "reload.py"), str(folder.resolve()), str(source), str(target)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"The published model doesn't load with torch and transformers alone: {reason}")
        answer = torch.load(target, weights_only=True)
    if (answer["rate"], answer["normalizes"]) != (encoder.sample_rate, False):
        raise ValueError(
            f"The published feature extractor says {answer['rate']} Hz, the encoder {encoder.sample_rate}."
        )
    difference = 0.0
    for (waveform, mask), theirs in zip(inputs, answer["states"]):
        with torch.no_grad():
            output = encoder.model(waveform, attention_mask=mask, output_hidden_states=True)
        ours = torch.stack(output.hidden_states, dim=1)
        if ours.shape != theirs.shape or not torch.allclose(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE):
            raise ValueError(
                "The published model answers differently in a process without groundbass: its source or its weights "
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


def _write(model: PreTrainedModel, folder: Path, card: str | None, shard_size: str = "5GB") -> None:
    type(model).register_for_auto_class("AutoModel")
    type(model.config).register_for_auto_class()
    with quiet():
        model.save_pretrained(folder, max_shard_size=shard_size)
    _check_config(model, folder)
    for file in folder.glob("*.safetensors"):  # written for the owner alone; the others are as the umask says
        file.chmod((folder / "config.json").stat().st_mode)
    write_preprocessor(model.config.sample_rate, folder)
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")


def _check_config(model: PreTrainedModel, folder: Path) -> None:
    """What config.json says is what the model has: a value that JSON can't hold would be lost without a word."""
    written = json_of(folder / "config.json")
    again = type(model.config).from_dict(written).to_dict()
    passing = {"transformers_version", "_name_or_path", "auto_map", "architectures", "dtype", "torch_dtype"}
    own = json.loads(json.dumps(model.config.to_dict(), default=str))
    again = json.loads(json.dumps(again, default=str))
    differ = [key for key in own if key not in passing and again.get(key) != own[key]]
    if differ:
        raise ValueError(f"config.json doesn't hold {', '.join(differ)} of {type(model.config).__name__} as they are.")
