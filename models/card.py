"""The model card of a published folder, written from what the run recorded: its recipe and its loss."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any, Protocol

from ..reading import json_in, json_of
from .adapters import ModelEncoder

LICENSES = {
    "CLMR": "apache-2.0", "MERT": "cc-by-nc-4.0", "BEATs": "mit", "music taggers": "mit",
    "Music Tagging Transformer": "mit", "PANNs": "cc-by-4.0", "AST": "bsd-3-clause", "HTS-AT": "mit",
}  # fmt: skip
"""Of the authors' weights, as published."""
PAPERS = {
    "CLMR": "Paper: J. Spijkervet and J. Burgoyne 2021, Contrastive learning of musical representations, "
    "arXiv:2103.09410. Code and weights: Spijkervet/CLMR.",
    "MERT": "Paper: Y. Li et al. 2024, MERT: acoustic music understanding model with large-scale self-supervised "
    "training, arXiv:2306.00107. Code: yizhilll/MERT, weights: m-a-p on the Hugging Face Hub.",
    "BEATs": "Paper: S. Chen et al. 2022, BEATs: audio pre-training with acoustic tokenizers, arXiv:2212.09058. Code "
    "and weights: microsoft/unilm, folder beats.",
    "music taggers": "Paper: M. Won et al. 2020, Evaluation of CNN-based automatic music tagging models, "
    "arXiv:2006.00751. Code and weights: minzwon/sota-music-tagging-models.",
    "Music Tagging Transformer": "Paper: M. Won et al. 2021, Semi-supervised music tagging transformer, "
    "arXiv:2111.13457. Code and weights: minzwon/semi-supervised-music-tagging-transformer.",
    "PANNs": "Paper: Q. Kong et al. 2020, PANNs: large-scale pretrained audio neural networks for audio pattern "
    "recognition, arXiv:1912.10211. Code: qiuqiangkong/audioset_tagging_cnn, weights: Zenodo record 3987831.",
    "AST": "Paper: Y. Gong et al. 2021, AST: audio spectrogram transformer, arXiv:2104.01778. Code and weights: "
    "YuanGongND/ast.",
    "HTS-AT": "Paper: K. Chen et al. 2022, HTS-AT: a hierarchical token-semantic audio transformer, arXiv:2202.00874. "
    "Code and weights: RetroCirce/HTS-Audio-Transformer.",
}
TEMPLATE = Path(__file__).parent / "card.md"
CURVES = "loss.png"
LIMITS = """Trained on and for music; speech and other sound were not evaluated. Whether the weights may be used for a
purpose can also depend on the rights in the recordings that they were trained on."""
NOT_PROBED = "It hasn't been probed. (`groundbass probe RUN TASK…` before `groundbass publish` fills in this table.)"


class Measured(Protocol):
    """Who knows what was measured and says it in Markdown; what a result is, a model needn't know."""

    def probed(self, records: Path, weights: str) -> str:
        """What probes say. records: the run's folder; weights: the hash of the published ones."""
        ...

    def classified(self, heads: Mapping[str, Mapping[str, Any]], picture: str | None) -> str:
        """How good a classifier is. heads: name -> facts, as `HeadFacts` has them; picture: of confusions."""
        ...

    def draw_confusion(self, heads: Mapping[str, Mapping[str, Any]], picture: Path) -> bool:
        """Draw confusions into a PNG; False where none are known."""
        ...


def write_card(
    encoder: ModelEncoder,
    run: Path | None,
    *,
    license: str,
    name: str,
    curves: bool = False,
    probed: str = NOT_PROBED,
) -> str:
    """The model card: what it hears and answers, what the probes say, how RUN/recipe.json trained it or who else did.

    Args:
        encoder: what is published.
        run: the run's folder; what it lacks is said to be unknown. None: there was none.
        license: of the weights.
        name: what `from_pretrained` is to be given.
        curves: whether a picture of the losses lies beside it.
        probed: what the probes say, in Markdown.
    """
    recipe = _record(run / "recipe.json") if run else {}
    model = encoder.model
    origin = origin_of(model.config)
    imported = origin and not recipe
    docstring = (sys.modules[type(model).__module__].__doc__ or "").split("\n\n")
    paper = [text for text in docstring if "arXiv" in text or "Paper:" in text]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}", license):
        raise ValueError(
            f"The licence {license!r} is no SPDX name such as apache-2.0 or cc-by-nc-4.0: give it by --license."
        )
    address = plain(_public(recipe.get("address") or "unknown recipe"))
    training = _origin(origin) if imported else _training(recipe, run / "loss.jsonl" if run else None)
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        license=license,
        family=type(model).__module__.rpartition(".")[2],
        title=name.rpartition("/")[2],
        name=name,
        model_class=type(model).__name__,
        parameters=f"{sum(weight.numel() for weight in model.parameters()):,}",
        made=(
            f"the authors' weights of {origin['family']}, imported by *groundbass*; not trained here"
            if imported
            else f"pretrained without labels by\n*groundbass*: `{address}`"
        ),
        sample_rate=encoder.sample_rate,
        tokens=_tokens(getattr(model, "bands", 1)),
        samples=max(encoder.sample_rate * 5, math.ceil(encoder.sample_rate / encoder.frame_rate)),
        layers=f"{encoder.layers} layer{'s' * (encoder.layers > 1)}",
        dim=encoder.dim,
        frame_rate=f"{encoder.frame_rate:.4g}",
        more=_more(model),
        probe=probed,
        training=training + (f"\n\n![Loss per step]({CURVES})" if curves else ""),
        paper=PAPERS[origin["family"]] if imported else paper[0].strip() if paper else "",
        version=plain((recipe.get("versions") or {}).get("groundbass") or "")
        or importlib.metadata.version("groundbass"),
        year=datetime.date.today().year,
        limits="What the authors say of their weights holds here too." if imported else LIMITS,
    )


def origin_of(config: Any) -> dict[str, Any]:
    """Whose weights an imported folder holds, as its config says; {} where they were trained here.

    Raises:
        ValueError: it isn't what `groundbass import` writes.
    """
    origin = getattr(config, "origin", None) or {}
    told = [origin.get(name) for name in ("family", "source", "license")] if isinstance(origin, dict) else [None]
    dropped = origin.get("dropped") or [] if isinstance(origin, dict) else None
    if origin and not (all(isinstance(word, str) for word in told) and told[0] in PAPERS and isinstance(dropped, list)):
        raise ValueError(
            f"The config's origin is {str(origin)[:80]!r}, not a family, source and license as `groundbass import` "
            "writes them: import the authors' file again."
        )
    return {**origin, "dropped": dropped} if origin else {}


def plain(content: Any) -> str:
    """A value of a record as text of one line that is neither Markdown nor HTML: records may come from anyone."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(content))
    return re.sub(r"[`|\\]|\](?=\()", lambda found: f"\\{found[0]}", text.replace("<", "&lt;"))


def _public(word: Any) -> str:
    """A word of a command without the folders of this machine, which are nobody's business; recipe.json keeps them."""
    before, sign, place = str(word).rpartition("=")
    return before + sign + (place.rstrip("/").rpartition("/")[2] if "/" in place and " " not in place else place)


def _more(model: Any) -> str:
    """Lines for the example, where a model answers more than hidden states: codes, or a classifier's scores."""
    lines = []
    if hasattr(model, "codes"):
        lines += ["with torch.no_grad():", "    print(model.codes(waveform).shape)  # one code per token"]
    if getattr(model.config, "classes", 0):
        if hasattr(model, "class_logits"):
            said = "  # before the softmax" if model.config.problem_type == "single_label_classification" else ""
            lines += [
                "with torch.no_grad():",
                f"    scores = model.class_logits(waveform){said or '  # before the sigmoid'}",
            ]
            return "".join(f"\n{line}" for line in [*lines, "print(model.config.id2label[int(scores[0].argmax())])"])
        tokens = "" if hasattr(model, "bands") else ".mean(dim=1)  # per window; CLMR averages those of a track"
        lines += ["with torch.no_grad():", f"    scores = model.logits(output.last_hidden_state){tokens}"]
        lines += ["print(scores.shape)  # [batch, classes], before the sigmoid"]
        if any(not str(name).startswith("LABEL_") for name in model.config.id2label.values()):
            lines += ["print(model.config.id2label[int(scores[0].argmax())])"]
    return "".join(f"\n{line}" for line in lines)


def _origin(origin: dict[str, Any]) -> str:
    """Where an imported folder's weights come from, and what isn't in it."""
    dropped = origin["dropped"]
    names = ", ".join(f"`{plain(name)}`" for name in dropped[:12]) or "nothing"
    more = f" and {len(dropped) - 12} more" if len(dropped) > 12 else ""
    return (
        f"Not here: `{plain(origin['source'])}` is a file by the authors of {origin['family']} or by their code, and "
        f"these are its weights under other names. Licence of the weights: **{plain(origin['license'])}**. Dropped "
        f"on the way, since no hidden state needs it: {names}{more}."
    )


def _tokens(bands: int) -> str:
    """A sentence where a frame is several tokens (BEATs)."""
    if bands == 1:
        return ""
    return (
        f" The model itself answers in tokens, {bands} per frame (bands of the spectrum, time-major); a frame is their "
        "mean."
    )


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON file's object, or None where there is none."""
    if not path.is_file():
        return None
    value: dict[str, Any] = json_of(path)
    return value


def _record(path: Path) -> dict[str, Any]:
    """RUN/recipe.json, {} where there is none.

    Raises:
        ValueError: it isn't what `groundbass pretrain` writes.
    """
    record: Any = _json(path) or {}
    kinds = {"recipe": dict, "manifest": dict, "versions": dict, "overrides": list, "address": str}
    whole = isinstance(record, dict) and all(isinstance(record.get(name), kind | None) for name, kind in kinds.items())
    if whole:
        begun, hours = (record.get("recipe") or {}).get("init"), (record.get("manifest") or {}).get("hours")
        whole = isinstance(begun, str | None) and isinstance(hours, float | int | None)
    if not whole:
        raise ValueError(f"{path} is no record of a run: write it again, or remove it.")
    found: dict[str, Any] = record
    return found


def draw_losses(losses: Path, picture: Path) -> bool:
    """Draw loss.jsonl as a PNG; False where there are fewer than two steps to draw."""
    rows = []
    for line in losses.read_text(encoding="utf-8", errors="replace").splitlines() if losses.is_file() else []:
        try:
            row = json_in(line, losses)
            rows.append((int(row["step"]), float(row["loss"])))
        except (ValueError, KeyError, TypeError, OverflowError):  # a killed run may leave half a line
            continue
    if len(rows) < 2:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*rows), color="#0071b2", linewidth=1.2)
    axes.set(xlabel="step", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    FigureCanvasAgg(figure).print_png(picture)
    return True


def _training(recipe: dict[str, Any], losses: Path | None) -> str:
    if not recipe or losses is None:
        return "No record of the run was found beside the encoder."
    data, plan, git = recipe.get("manifest") or {}, recipe.get("recipe") or {}, recipe.get("git")
    command = " ".join(
        [
            "groundbass pretrain",
            *(_public(word) for word in (recipe.get("address"), *(recipe.get("overrides") or []))),
            "--data MANIFEST",
        ]
    )
    command = "".join(letter if letter.isprintable() and letter != "`" else " " for letter in command)
    facts = {
        "data": f"{data.get('hours') or 0:.2f} hours in {data.get('tracks')} tracks" if data else None,
        "data hash": data.get("hash"),
        "planned": f"{plan['steps']} steps of {plan.get('batch_size')} crops" if "steps" in plan else None,
        "began with": f"{Path(plan['init']).name} (its licence binds these weights too)" if plan.get("init") else None,
        "hardware": recipe.get("hardware"),
        "loss": _last_loss(losses),
        "versions": ", ".join(f"{name} {version}" for name, version in (recipe.get("versions") or {}).items()),
        "commit": git,
    }
    rows = [f"- {name}: {plain(value)}" for name, value in facts.items() if value]
    return "\n".join([f"```\n{command}\n```", "", *rows])


def _last_loss(path: Path) -> str | None:
    """The last whole line of loss.jsonl, in words."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in reversed(lines):
        try:
            row = json_in(line, path)
            return f"{row['loss']:.4g} at step {row['step']}"
        except (ValueError, KeyError, TypeError):  # a killed run may leave half a line
            continue
    return None
