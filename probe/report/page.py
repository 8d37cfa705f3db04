"""The report as one HTML file without any other file: words first, then pictures, then how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from . import comparison, pictures
from .result import title
from .sections import Record, Section
from .tables import CRAFTED, marks, row, said, short, verdict

STYLE = """
:root { --ink: #23272e; --soft: #5b626c; --line: #e3e6ea; --paper: #fcfcfb; --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 3rem 2rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 3rem 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; margin: 2.8rem 0 .6rem; padding-top: 1.1rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; } .soft { color: var(--soft); font-size: .92rem; }
.verdict { border-left: 4px solid var(--blue); padding: .2rem 0 .2rem 1.1rem; font-size: 1.08rem; }
.counts { display: flex; gap: 1rem; margin: 1.4rem 0 0; flex-wrap: wrap; }
.counts div { border: 1px solid var(--line); border-radius: 8px; padding: .7rem 1.1rem; min-width: 10rem;
  background: white; }
.counts b { display: block; font-size: 1.7rem; line-height: 1.2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .78rem; font-variant-numeric: tabular-nums; width: 100%; }
th { text-align: right; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line);
  white-space: nowrap; }
td { text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th, td { padding: .42rem .5rem; } th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
td:first-child { font-weight: 600; white-space: normal; min-width: 8rem; }
.up { color: #00735a; } .down { color: #b04a00; }
pre { background: #f3f4f5; border-radius: 8px; padding: .9rem 1.1rem; white-space: pre-wrap;
  font-size: .84rem; line-height: 1.45; }
figure { margin: 1rem 0; } figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; margin-bottom: .6rem; }
.several { display: flex; flex-wrap: wrap; gap: 0 2rem; align-items: flex-start; }
.several figure { flex: 1 1 24rem; max-width: 36rem; }
ul { padding-left: 1.2rem; max-width: 52rem; } li { margin: .15rem 0; }
"""


def page(sections: Sequence[Section], found: Sequence[comparison.Line], truth_in: str = "rows") -> str:
    """The whole page: encoders side by side, then each of them, then what the literature has."""
    names = " and ".join(section.name for section in sections)
    parts = [comparison.html(sections, found)]
    if len(sections) > 1:
        curves = pictures.shared_layer_curves({section.name: section.records for section in sections})
        parts.append(
            _figure(curves, "Validation score of every layer, from the first (0) to the last (1).") if curves else ""
        )
    own = [_section(section, truth_in) for section in sections if section.whole]
    body = "\n".join([*parts, *own, comparison.published_html(found)])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>groundbass: {escape(names)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _section(section: Section, truth_in: str = "rows") -> str:
    records = section.records
    by = marks(records)
    about = records[0]["about"]
    boxes = [
        ("▲", "above its random copy", "up"),
        ("=", "no difference shown", ""),
        ("▼", "below its random copy", "down"),
    ]
    parts = [
        f"<h1>What {escape(section.name)} learned</h1>",
        f'<p class="soft">{about["layers"]} layer{"s" * (about["layers"] > 1)} of {about["dim"]}, '
        f"{about['frame_rate']:.4g} frames per second at {about['sample_rate']:,} Hz; weights "
        f"{escape(about['weights'][:12])}; probed with groundbass "
        f"{escape(records[0]['versions']['groundbass'])}.</p>",
        f'<p class="verdict">{escape(verdict(records))}</p>',
        '<div class="counts">'
        + "".join(f'<div><b class="{kind}">{sign} {len(by[sign])}</b>{words}</div>' for sign, words, kind in boxes)
        + "</div>",
        "<h2>Scores</h2>",
        f"<p>{_heads(records)} on frozen features. Layer and setting are chosen on validation tracks; the test "
        "tracks are read once. "
        "The interval is a 95 % bootstrap over test tracks, whole artists at a time where they are known; the "
        "difference is paired.</p>",
        _table(records),
        _figure(pictures.bars(records), ""),
        *_crafted(records),
    ]
    parts += _loss(section)
    curves = pictures.layer_curves(records)
    if curves:
        parts += [
            "<h2>Layers</h2>",
            _figure(
                curves, "Validation score of the best strength on each layer; the ring is the layer that was chosen."
            ),
        ]
    damaged = pictures.robustness(records)
    if damaged:
        words = "The trained heads hear damaged test tracks, from mild to severe; the first point is the clean score."
        parts += ["<h2>Robustness</h2>", _figure(damaged, words)]
    parts += [_units(record) for record in records if record.get("units")]
    few = pictures.few_shot(records)
    if few:
        words = (
            "Test score against the number of training tracks per class; every dot is a draw, the line their mean. "
            "Of several folds, the first."
        )
        parts += ["<h2>With few labels</h2>", _figure(few, words)]
    matrices = [_figure(pictures.confusion(record, truth_in), "") for record in records if record.get("confusion")]
    if matrices:
        one, other = ("row", "column") if truth_in == "rows" else ("column", "row")
        words = (
            f"<p>Each {one} is a true class, each {other} an answer of the head; shares of the {one}, in per cent.</p>"
        )
        parts += ["<h2>What is taken for what</h2>", words, f'<div class="several">{"".join(matrices)}</div>']
    shown = _first(records, "projection", ("style", "genre", "instrument"))
    if shown is not None:
        caption = (
            "Test tracks that sound alike to the encoder lie together. The picture used no labels; the colours do."
        )
        parts += [f"<h2>The encoder's view: {escape(title(shown))}</h2>", _figure(pictures.projection(shown), caption)]
    return "\n".join([*parts, *_notes(records), *_commands(section)])


HEADS = {
    "linear": "linear heads",
    "marble": "MARBLE's networks of one hidden layer",
    "knn": "nearest neighbours",
    "gmm": "Gaussian mixtures",
    "svm": "support vector machines",
    "forest": "random forests",
}


def _heads(records: Sequence[Record]) -> str:
    """What the scores are of."""
    names = [HEADS[name] for name in HEADS if any(record["protocol"] == name for record in records)]
    words = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return words[0].upper() + words[1:]


def _crafted(records: Sequence[Record]) -> list[str]:
    """Scores of every hand-crafted baseline."""
    names = [name for name in CRAFTED if any(name in record["baselines"] for record in records)]
    if not names:
        return []
    head = "".join(f"<th>{name}</th>" for name in ("task", "encoder", *(CRAFTED[name] for name in names)))
    lines = []
    for record in records:
        cells = [title(record), short(record["score"]), *(short(record["baselines"].get(name)) for name in names)]
        lines.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    words = "Statistics that nobody had to learn, with the same heads (Tz.: the features of Tzanetakis and Cook 2002)."
    return ["<h2>Hand-crafted baselines</h2>", f"<p>{words}</p>", table]


def _first(records: Sequence[Record], part: str, names: Sequence[str]) -> Record | None:
    """The record with this part whose task's name fits best."""
    having = [record for record in records if record.get(part)]
    having.sort(key=lambda record: next((n for n, name in enumerate(names) if name in record["task"]), len(names)))
    return having[0] if having else None


def _table(records: Sequence[Record]) -> str:
    names = (
        "task",
        "metric",
        "n test",
        "score",
        "random copy",
        "difference",
        "",
        "best hand-crafted",
        "constant",
        "layer",
    )
    head = "".join(f"<th>{name}</th>" for name in names)
    lines = []
    for record in records:
        cells = row(record)
        colour = {"▲": "up", "▼": "down"}.get(cells[6], "")
        kinds = [""] * 5 + [colour, colour] + [""] * 3
        shown = [escape(cells[0]).replace("_", "_<wbr>"), *map(escape, cells[1:])]  # long names break at their words
        lines.append("<tr>" + "".join(f'<td class="{k}">{c}</td>' for c, k in zip(shown, kinds)) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}{picture}</figure>"


def _units(record: Record) -> str:
    """Scores of frames, windows and songs by one head."""
    rows = "".join(
        f"<tr><td>{escape(line['unit'])}</td><td>{escape(line['rule'])}</td><td>{line['number']:,}</td>"
        f"<td>{line['value']:.3f}</td></tr>"
        for line in record["units"]
    )
    head = f"<tr><th>heard</th><th>rule</th><th>number</th><th>{escape(record['metric_name'])}</th></tr>"
    return f"<h2>Frame, window, song: {escape(title(record))}</h2><table>{head}{rows}</table>"


def _loss(section: Section) -> list[str]:
    loss, learned = pictures.loss_curve(section.losses), pictures.learned(section.probes)
    parts = []
    if loss:
        parts.append(_figure(loss, "The loss that the encoder was trained with, unlabelled audio only."))
    if learned:
        words = "What was learned on the way: test scores with their 95 % intervals; dashed: the constant baseline."
        parts.append(_figure(learned, words))
    return ["<h2>Pretraining</h2>", *parts] if parts else []


def _notes(records: Sequence[Record]) -> list[str]:
    found = said(records)
    if not found:
        return []
    items = "".join(f"<li><b>{escape(', '.join(tasks))}</b>: {escape(note)}</li>" for note, tasks in found.items())
    return ["<h2>To know when reading the scores</h2>", f"<ul>{items}</ul>"]


def _commands(section: Section) -> list[str]:
    recipe: dict[str, Any] = section.recipe
    encoder = section.run or section.records[0]["encoder"]
    asked: dict[str, list[str]] = {}  # one command per folder, since labels belong to a folder
    for record in section.records:
        address, _, label = record["address"].partition(" --label ")
        asked.setdefault(address if label else "", []).append(label or address)
    lines = [
        f"groundbass probe {encoder} {address} {' '.join(f'--label {label}' for label in rest)}"
        if address
        else f"groundbass probe {encoder} {' '.join(rest)}"
        for address, rest in asked.items()
    ]
    lines.append(f"groundbass report {section.folder}")
    if recipe.get("address"):
        lines.insert(0, f"groundbass pretrain {recipe['address']} --data MANIFEST --run {section.run}")
    parts = ["<h2>To repeat it</h2>", f"<pre>{escape(chr(10).join(lines))}</pre>"]
    if recipe:
        parts.append(f"<details><summary>Recipe</summary><pre>{escape(json.dumps(recipe, indent=2))}</pre></details>")
    return parts
