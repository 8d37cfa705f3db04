"""The report as one HTML file without any other file: words first, then pictures, then how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from ..pages.render import render
from . import comparison, pictures, tables
from .comparison import Line
from .result import Result, title
from .sections import Section
from .table import DOWN, UP, Table


@dataclass(frozen=True)
class Figure:
    """A picture as SVG, with what is written above it."""

    picture: Markup
    caption: str = ""


@dataclass(frozen=True)
class Part:
    """What stands under a heading, in the order of the page. stacked: several figures below each other; items: names
    with a sentence; code: commands.
    """

    title: str = ""
    words: str = ""
    table: Table | None = None
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    stacked: bool = False
    items: tuple[tuple[str, str], ...] = ()
    code: str = ""
    recipe: str = ""


@dataclass(frozen=True)
class Box:
    """On how many tasks the encoder stands how against its random copy."""

    sign: str
    number: int
    words: str
    tone: str = ""


@dataclass(frozen=True)
class Together:
    """Encoders side by side."""

    verdict: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Alone:
    """One encoder."""

    name: str
    facts: str
    verdict: str
    counts: tuple[Box, ...]
    parts: tuple[Part, ...]


def page(sections: Sequence[Section], found: Sequence[Line], truth_in: str = "rows") -> str:
    """The whole page: encoders side by side, then each of them, then what the literature has."""
    figures = comparison.literature(found)
    return render(
        "report.html", sections=sections, together=_together(sections, found) if len(sections) > 1 else None,
        encoders=[_alone(section, truth_in) for section in sections if section.whole],
        published=None if figures is None else Part("Published figures", PUBLISHED, figures),
    )  # fmt: skip


FALLING = "The trained heads hear damaged test tracks, from mild to severe; nothing is learned or chosen anew."
PUBLISHED = "By other protocols than ours (heads, windows, splits): for orientation."


def _together(sections: Sequence[Section], found: Sequence[Line]) -> Together:
    words = (
        "Differences are paired: both encoders are resampled on the same test tracks, whole artists at a time where "
        f"known. ▲ above {sections[0].name} outside the 95 % interval, = inside, ▼ below."
    )
    curves = pictures.shared_layer_curves({section.name: section.scores for section in sections})
    caption = "Validation score of every layer, from the first (0) to the last (1)."
    notes = tuple(note for line in found for note in line.notes)
    table = comparison.differences(sections, found)
    part = Part(words=words, table=table, notes=notes, figures=_figures((curves, caption)))
    damaged = tables.robustness([(section.name, section.results) for section in sections])
    more = () if damaged is None else (Part("Robustness", FALLING, damaged),)
    return Together(comparison.verdict(sections, found), (part, *more))


def _figures(*drawn: tuple[Markup | None, str]) -> tuple[Figure, ...]:
    """Of pictures with their captions those that there are."""
    return tuple(Figure(picture, caption) for picture, caption in drawn if picture is not None)


def _alone(section: Section, truth_in: str) -> Alone:
    results = section.results
    by, first = tables.marks(results), results[0]
    facts = (
        f"{first.about.layers} layer{'s' * (first.about.layers > 1)} of {first.about.dim}, "
        f"{first.about.frame_rate:.4g} frames per second at {first.about.sample_rate:,} Hz; weights "
        f"{first.about.weights[:12]}; probed with groundbass {first.versions['groundbass']}."
    )
    counts = (
        Box("▲", len(by["▲"]), "above its random copy", UP),
        Box("=", len(by["="]), "no difference shown"),
        Box("▼", len(by["▼"]), "below its random copy", DOWN),
    )
    return Alone(section.name, facts, tables.verdict(results), counts, tuple(_parts(section, truth_in)))


def _parts(section: Section, truth_in: str) -> Iterator[Part]:
    results = section.results
    words = (
        f"{_heads(results)} on frozen features. Layer and setting are chosen on validation tracks; the test tracks are "
        "read once. The interval is a 95 % bootstrap over test tracks, whole artists at a time where they are known; "
        "the difference is paired."
    )
    yield Part("Scores", words, tables.scores(results), figures=_figures((pictures.bars(results), "")))
    if crafted := tables.hand_crafted(results):
        words = (
            "Statistics that nobody had to learn, with the same heads (Tz.: the features of Tzanetakis and Cook 2002)."
        )
        yield Part("Hand-crafted baselines", words, crafted)
    if losses := _losses(section):
        yield Part("Pretraining", figures=losses, stacked=True)
    caption = "Validation score of the best strength on each layer; the ring is the layer that was chosen."
    if curves := _figures((pictures.layer_curves(results), caption)):
        yield Part("Layers", figures=curves)
    if curves := _figures((pictures.robustness(results), "The first point is the clean score.")):
        table = tables.robustness([(section.name, results)])
        yield Part("Robustness", FALLING, table, figures=curves)
    for result in results:
        if result.units:
            yield Part(f"Frame, window, song: {title(result)}", table=tables.units(result))
    caption = (
        "Test score against the number of training tracks per class; every dot is a draw, the line their mean. Of "
        "several folds, the first."
    )
    if few := _figures((pictures.few_shot(results), caption)):
        yield Part("With few labels", figures=few)
    if matrices := _figures(*((pictures.confusion(result, truth_in), "") for result in results)):
        one, other = ("row", "column") if truth_in == "rows" else ("column", "row")
        words = f"Each {one} is a true class, each {other} an answer of the head; shares of the {one}, in per cent."
        yield Part("What is taken for what", words, figures=matrices)
    if (shown := _shown(results)) is not None:
        caption = (
            "Test tracks that sound alike to the encoder lie together. The picture used no labels; the colours do."
        )
        yield Part(f"The encoder's view: {title(shown)}", figures=_figures((pictures.projection(shown), caption)))
    if notes := tables.said(results):
        items = tuple((", ".join(tasks), note) for note, tasks in notes.items())
        yield Part("To know when reading the scores", items=items)
    yield Part("To repeat it", code=_commands(section), recipe=_recipe(section))


HEADS = {
    "linear": "linear heads",
    "marble": "MARBLE's networks of one hidden layer",
    "knn": "nearest neighbours",
    "gmm": "Gaussian mixtures",
    "svm": "support vector machines",
    "forest": "random forests",
}


def _heads(results: Sequence[Result]) -> str:
    """What the scores are of."""
    names = [HEADS[name] for name in HEADS if any(result.protocol == name for result in results)]
    words = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return words[:1].upper() + words[1:]


def _losses(section: Section) -> tuple[Figure, ...]:
    words = "What was learned on the way: test scores with their 95 % intervals; dashed: the constant baseline."
    return _figures(
        (pictures.loss_curve(section.losses), "The loss that the encoder was trained with, unlabelled audio only."),
        (pictures.learned(section.probes), words),
    )


def _shown(results: Sequence[Result]) -> Result | None:
    """The result with a projection whose task's name fits best."""
    names = ("style", "genre", "instrument")
    having = [result for result in results if result.projection]
    having.sort(key=lambda result: next((n for n, name in enumerate(names) if name in result.task), len(names)))
    return having[0] if having else None


def _commands(section: Section) -> str:
    encoder = section.run or section.results[0].encoder
    asked: dict[str, list[str]] = {}  # one command per folder, since labels belong to a folder
    for result in section.results:
        address, _, label = result.address.partition(" --label ")
        asked.setdefault(address if label else "", []).append(label or address)
    lines = [
        f"groundbass probe {encoder} {address} {' '.join(f'--label {label}' for label in rest)}"
        if address
        else f"groundbass probe {encoder} {' '.join(rest)}"
        for address, rest in asked.items()
    ]
    lines.append(f"groundbass report {section.folder}")
    if trained := section.recipe.get("address"):
        lines.insert(0, f"groundbass pretrain {trained} --data MANIFEST --run {section.run}")
    return "\n".join(lines)


def _recipe(section: Section) -> str:
    return json.dumps(section.recipe, indent=2) if section.recipe else ""
