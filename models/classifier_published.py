"""Publishing classifiers: the folder, its card, and the proof that it answers alike without this package."""

from __future__ import annotations

import importlib.metadata
import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from . import hub
from .card import Measured
from .classifier import AudioClassifier
from .classifier_files import is_classifier, make_classifier, open_classifier, write_classifier
from .encoder import ModelEncoder, load_encoder, weights_hash
from .folders import check_out, classifier_in
from .head_files import head_names, read_heads
from .loading import read_config

HERE = Path(__file__).parent
TOLERANCE = 1e-5
PICTURE = "confusion.png"
NOT_MEASURED = "Not measured."
LIMITS = (
    "It knows the classes it was trained on and answers with one of them whatever it hears; its probabilities are "
    "those of sound like its training data. Check it on your own recordings (`groundbass predict --labels labels.csv`) "
    "before anything depends on it, and don't use it to judge people."
)


def holds_classifier(place: Path) -> bool:
    """Whether a folder is a heads folder, a run with a classifier, or a classifier."""
    if head_names(place) or classifier_in(place):
        return True
    return (place / "config.json").is_file() and is_classifier(read_config(place))


def publish_classifier(
    place: Path, out: Path, *, force: bool, license: str | None, measured: Measured | None, push: str | None,
    private: bool, dry_run: bool,
) -> float | None:  # fmt: skip
    """See `published.publish`."""
    model = _opened(place)
    check_out(out, force)
    license = license or "apache-2.0"
    if push is not None and not dry_run:
        hub.check_push(push, ["audio_classifier.py"], private=private, force=force)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "model"
        facts = dict(zip(model.head_names, model.facts, strict=True))
        pictured = measured is not None and measured.draw_confusion(facts, Path(folder) / PICTURE)
        scores = NOT_MEASURED if measured is None else measured.classified(facts, PICTURE if pictured else None)
        card = write_classifier_card(model, scores, license=license, name=push or out.resolve().name)
        write_classifier(model, part, card)
        difference = verify_classifier(model, part)
        if dry_run:
            for file in sorted(part.rglob("*")):
                print(f"{file.stat().st_size:>14,} bytes  {file.relative_to(part)}")
            print(f"They would go to {out}; nothing was written.")
            return None
        write_classifier(model, out, card)
        if pictured:
            (out / PICTURE).write_bytes((Path(folder) / PICTURE).read_bytes())
    print(f"{out}: published; with torch and transformers alone it answers alike, to {difference:.1e}.")
    if push is not None:
        print(hub.push(out, push, private))
    return difference


def _opened(place: Path) -> AudioClassifier:
    """The classifier of a run, a folder, or heads on their encoder."""
    kept = classifier_in(place)
    if kept is not None:
        return open_classifier(kept)
    if not head_names(place):
        return open_classifier(place)
    heads = [(name, head, facts) for name, (head, facts) in read_heads(place).items()]
    where = heads[0][2].encoder
    if not where:
        raise ValueError(f"The heads in {place} don't say where their encoder is; probe again.")
    encoder = load_encoder(where)
    if not isinstance(encoder, ModelEncoder):
        raise ValueError(f"{where} is no model of groundbass, so its heads can't be published with it.")
    wrong = [name for name, _, facts in heads if facts.encoder_hash and facts.encoder_hash != weights_hash(encoder)]
    if wrong:
        raise ValueError(f"The head {wrong[0]!r} was fitted on other weights than those of {where}; probe again.")
    return make_classifier(encoder.model, heads)


def save_inputs(inputs: list[tuple[Tensor, Tensor | None]], file: Path) -> None:
    """Write what a clean process shall answer; torch's own error for a full disk names neither the place nor a cure."""
    buffer = io.BytesIO()
    torch.save(inputs, buffer)
    try:
        file.write_bytes(buffer.getvalue())
    except OSError as error:
        raise OSError(
            f"{file.parent} can't be written ({error.strerror or error}): the model is tried in a clean process before "
            "it is published, which needs some room there. Name another folder for temporary files with TMPDIR."
        ) from error


def verify_classifier(model: AudioClassifier, folder: Path) -> float:
    """The largest difference of logits in a process without this package, on noise with and without padding.

    Raises:
        ValueError: the folder doesn't load there, or a difference is above 1e-5 (absolute plus relative).
    """
    samples = 2 * model.sample_rate
    sound = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, samples, dtype=torch.int64)
    mask[1, samples // 2 :] = 0
    inputs = [(sound, None), (sound * mask, mask)]
    with tempfile.TemporaryDirectory() as place:
        source, target = Path(place) / "inputs.pt", Path(place) / "outputs.pt"
        save_inputs(inputs, source)
        environment = os.environ | {"HF_MODULES_CACHE": f"{place}/modules", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-I", str(HERE / "reload.py"), str(folder.resolve()), str(source), str(target)]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"The classifier doesn't load with torch and transformers alone: {reason}")
        answer = torch.load(target, weights_only=True)
    difference = 0.0
    for (waveform, padding), theirs in zip(inputs, answer["logits"], strict=True):
        for number, logits in enumerate(theirs):
            with torch.no_grad():
                found: Any = model(waveform, attention_mask=padding, head=number)
            if not torch.allclose(found.logits, logits, atol=TOLERANCE, rtol=TOLERANCE):
                raise ValueError(f"The head {model.head_names[number]!r} answers differently without groundbass.")
            difference = max(difference, float((found.logits - logits).abs().max()))
    return difference


def write_classifier_card(model: AudioClassifier, scores: str, *, license: str, name: str) -> str:
    """The text of README.md. scores: how good it is, in Markdown."""
    heads = []
    for title, head, facts in zip(model.head_names, model.heads, model.facts, strict=True):
        config: Any = head.config
        shown = ", ".join(config.names[:40]) + (" …" if len(config.names) > 40 else "")
        limits = facts.get("thresholds") or []
        more = f"; thresholds {', '.join(f'{value:.2f}' for value in limits)}" if limits else ""
        task = facts.get("task", {}).get("question") or facts.get("task", {}).get("label") or title
        heads.append(f"- **{title}** ({config.kind}; {task}): {shown}{more}")
    licences = sorted({str(facts.get("licence")) for facts in model.facts if facts.get("licence")})
    text = Template((HERE / "classifier_card.md").read_text(encoding="utf-8")).substitute(
        license=license, title=name.rpartition("/")[2], name=name, sample_rate=model.sample_rate,
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        asked=", ".join(model.head_names), heads="\n".join(heads), scores=scores,
        limits=LIMITS, label_licence=f"; labels: {', '.join(licences)}" if licences else "",
        version=importlib.metadata.version("groundbass"),
    )  # fmt: skip
    return text
