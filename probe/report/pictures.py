"""The report's pictures, drawn by matplotlib as SVG text, in colours that colour-blind readers can tell apart."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .bootstrap import Interval
from .result import Result, Scored, title
from .tables import crafted

# Okabe and Ito, Color Universal Design (2008)
BLUE, ORANGE, GREEN, PINK, SKY, RED, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
)
GREY, LIGHT, INK = "#8A8F98", "#CFD4DA", "#23272E"
SYSTEMS = {"encoder": BLUE, "random copy": ORANGE, "best hand-crafted": GREY, "constant": LIGHT}
WIDTH = 11.0  # inches of a picture as wide as the page
MANY = (BLUE, ORANGE, GREEN, PINK, SKY, RED, "#6A5ACD", "#999933", "#882255", "#44AA99", "#661100", "#88CCEE")
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a label may hold dollars
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#B8BEC6",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": "#555B64",
    "ytick.color": "#555B64",
    "grid.color": "#E7EAEE",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
}


def svg(figure: Figure, words: str, layout: Literal["tight", "constrained"] = "tight") -> Markup:
    """The figure as an <svg> element that fits its column; `words` are what a screen reader says."""
    figure.set_layout_engine(layout)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": words}):
        page = io.StringIO()
        figure.savefig(page, format="svg", metadata={"Date": None, "Creator": None})
    _, _, body = page.getvalue().partition("<svg ")  # what is before it is XML's and DOCTYPE's
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\b(width|height)="[0-9.]+pt" ?', "", body, count=2)  # the page decides the size
    width = float(figure.get_size_inches()[0]) * 96
    style = f"width:100%;max-width:{width:.0f}px;height:auto"
    return Markup(f'<svg role="img" aria-label="{escape(words)}" style="{style}" {body}')


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure without pyplot, so that nothing global is left behind."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        return figure, figure.add_subplot()


def bars(results: Sequence[Result]) -> Markup:
    """Every task's score beside its baselines, each with its interval."""
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(WIDTH, max(2.2, 0.5 + 0.78 * len(results)))
        for place, result in enumerate(results):
            for number, (found, (name, colour)) in enumerate(zip(_systems(result), SYSTEMS.items())):
                if found is None or not found.known:
                    continue
                height = place + (number - 1.5) * 0.2
                axes.barh(height, max(found.value, -0.5), 0.18, color=colour, label=name if place == 0 else None)
                if np.isfinite(found.low) and number < 3:
                    ends = [max(found.low, -0.5), found.high]
                    axes.plot(ends, [height, height], color=INK, lw=1.1, solid_capstyle="butt")
        axes.set_yticks(range(len(results)), [f"{title(result)}\n{result.metric_name}" for result in results])
        axes.set_ylim(len(results) - 0.4, -0.6)
        axes.axvline(0, color="#B8BEC6", lw=0.8)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("score on the test tracks, 95 % interval")
        axes.legend(loc="upper center", bbox_to_anchor=(0.45, 1 + 0.55 / max(1, len(results))), ncols=4, frameon=False)
        axes.tick_params(left=False)
        return svg(figure, "Scores of all tasks beside their baselines")


def _systems(result: Result) -> list[Interval | None]:
    """Scores of the encoder and its baselines, in the order of `SYSTEMS`."""
    base = result.baselines
    found = [base.get(name) if name else None for name in ("random", crafted(base), "constant")]
    return [result.score, *(None if one is None else one.score for one in found)]


def loss_curve(losses: Sequence[dict[str, Any]]) -> Markup | None:
    """Training loss against the step, with the loss of a guess where it was logged; None without a loss."""
    points = [
        (line["step"], line["loss"]) for line in losses if "step" in line and isinstance(line.get("loss"), (int, float))
    ]
    if len(points) < 2:
        return None
    steps, values = np.array(points, dtype=np.float64).T
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(WIDTH, 3.2)
        wide = max(1, len(values) // 40)
        axes.plot(steps, values, color=SKY if wide > 1 else BLUE, lw=0.8 if wide > 1 else 1.8, label="each record")
        if wide > 1:
            smooth = np.convolve(values, np.ones(wide) / wide, "valid")
            axes.plot(steps[wide - 1 :], smooth, color=BLUE, lw=2, label=f"mean of {wide}")
        chance = next(
            (
                name
                for name in ("chance", "chance_loss", "loss_chance")
                if isinstance(losses[0].get(name), (int, float))
            ),
            None,
        )
        if chance is not None:
            line = [(r["step"], r[chance]) for r in losses if isinstance(r.get(chance), (int, float))]
            axes.plot(*np.array(line, dtype=np.float64).T, color=RED, lw=1.3, ls="--", label="guessing")
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.grid()
        axes.legend(frameon=False)
        return svg(figure, "Training loss")


def layer_curves(results: Sequence[Result]) -> Markup | None:
    """Validation score of every layer, one small picture per task, the random copy beside it; None with one layer."""
    several = [result for result in results if len(_known(result.layers)) > 1]
    if not several:
        return None
    columns = min(4, len(several))
    lines = -(-len(several) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.4 + 1.9 * lines))
        grid = figure.subplots(lines, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_visible(False)
        for result, axes in zip(several, grid.flat):
            axes.set_visible(True)
            random = result.baselines.get("random")
            curves = ((random.layers if random else (), ORANGE, "random copy"), (result.layers, BLUE, "encoder"))
            for values, colour, name in curves:
                known = _known(values)
                axes.plot(*zip(*known), "o-", color=colour, ms=3.5, lw=1.4, label=name) if known else None
            if 0 <= result.layer < len(result.layers):
                chosen = result.layers[result.layer]
                axes.plot([result.layer], [chosen], "o", ms=9, mfc="none", mec=BLUE, mew=1.4)
            axes.set_title(title(result), fontsize=9.5)
            axes.grid()
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=6))
        for axes in grid[-1]:
            axes.set_xlabel("layer")
        grid[0][0].legend(frameon=False, fontsize=8)
        return svg(figure, "Validation score of every layer")


def _known(values: Sequence[float]) -> list[tuple[int, float]]:
    """Layers with their scores, where there is one."""
    return [(layer, value) for layer, value in enumerate(values) if np.isfinite(value)]


def confusion(result: Result, truth_in: str = "rows") -> Markup | None:
    """Truth in rows and answers in columns, or the other way round; shares of each true class; None without classes."""
    if result.confusion is None:
        return None
    names: Sequence[str] = result.confusion.classes
    counts = np.array(result.confusion.counts, dtype=np.float64)
    if len(names) > 40:
        kept = np.flatnonzero(counts.sum(0) + counts.sum(1))
        names, counts = [names[int(k)] for k in kept], counts[np.ix_(kept, kept)]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    said = ["answer of the head", "truth"]
    if truth_in == "columns":
        counts, share, said = counts.T, share.T, said[::-1]
    with matplotlib.rc_context(STYLE):
        side = 3.0 + 0.22 * len(names)
        figure, axes = canvas(min(9, side + 0.8), min(8.2, side))
        image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        size = 9 if len(names) <= 14 else 7
        axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 30, fontsize=size)
        axes.set_yticks(range(len(names)), names, fontsize=size)
        axes.set_xlabel(said[0])
        axes.set_ylabel(said[1])
        axes.tick_params(length=0)
        if len(names) <= 14:
            for (row, column), value in np.ndenumerate(share):
                if counts[row, column]:
                    axes.text(
                        column, row, f"{value:.0%}"[:-1], ha="center", va="center", fontsize=8,
                        color="white" if value > 0.55 else INK,
                    )  # fmt: skip
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(title(result), fontsize=10.5)
        if len(names) > 14:
            bar = figure.colorbar(image, ax=axes, shrink=0.7, format=lambda value, _: f"{value:.0%}")
            bar.outline.set_visible(False)
        return svg(figure, f"Confusion matrix of {title(result)}")


def projection(result: Result) -> Markup | None:
    """Test embeddings in two dimensions; colour and marker both tell the class; None where there are none."""
    found = result.projection
    if found is None:
        return None
    x, y, labels = np.array(found.x), np.array(found.y), np.array(found.label)
    with matplotlib.rc_context(STYLE):
        figure, axes = canvas(WIDTH, 5.2)
        for number, name in enumerate(c for c in result.classes if c in set(labels.tolist())):
            here = labels == name
            axes.scatter(
                x[here],
                y[here],
                s=20,
                color=MANY[number % len(MANY)],
                marker="os^Dv<>pP*Xh"[number % 12],
                alpha=0.8,
                lw=0,
                label=name,
            )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel(f"{found.method} of layer {result.layer}, {len(x)} test tracks")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return svg(figure, f"Embeddings coloured by {title(result)}")


def shared_layer_curves(encoders: dict[str, Sequence[Scored]]) -> Markup | None:
    """Every encoder's validation score against the depth of the layer, one small picture per task."""
    names = dict.fromkeys(found.task for scores in encoders.values() for found in scores if len(found.layers) > 1)
    if not names:
        return None
    with matplotlib.rc_context(STYLE):
        figure, grid = _small(len(names))
        for task, axes in zip(names, grid):
            for number, (name, scores) in enumerate(encoders.items()):
                found = next((one for one in scores if one.task == task), None)
                values = () if found is None else found.layers
                known = [(layer / max(1, len(values) - 1), value) for layer, value in _known(values)]
                if known:
                    axes.plot(*zip(*known), "o-", color=MANY[number % len(MANY)], ms=3, lw=1.4, label=name)
            axes.set_title(task, fontsize=9.5)
            axes.grid()
        grid[0].legend(frameon=False, fontsize=8)
        return svg(figure, "Validation score against depth, all encoders")


def robustness(results: Sequence[Result]) -> Markup | None:
    """The test score against the severity of each kind of damage, a line per task; None where none was tried."""
    having = [(result, result.robustness) for result in results if result.robustness and result.robustness.kinds]
    kinds = list(dict.fromkeys(kind for _, found in having for kind in found.kinds))
    if not kinds:
        return None
    with matplotlib.rc_context(STYLE):
        figure, grid = _small(len(kinds), columns=3, height=2.6)
        for kind, axes in zip(kinds, grid):
            ticks: list[str] = []
            for number, (result, found) in enumerate(having):
                curve = found.kinds.get(kind)
                if curve is None:
                    continue
                ticks = ["clean", *(f"{level:g}" for level in curve.levels)]
                drawn = [max(value, -0.5) if np.isfinite(value) else np.nan for value in (found.clean, *curve.values)]
                axes.plot(drawn, "o-", color=MANY[number % len(MANY)], ms=3, lw=1.3, label=title(result))
                axes.set_xlabel(f"{kind}, {curve.unit}", fontsize=9)
            axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
            axes.grid()
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
        return svg(figure, "Scores on damaged audio", layout="constrained")


def few_shot(results: Sequence[Result]) -> Markup | None:
    """The test score against the number of tracks per class, one small picture per task; None where none was tried."""
    having = [result for result in results if result.few_shot]
    if not having:
        return None
    with matplotlib.rc_context(STYLE):
        figure, grid = _small(len(having))
        for result, axes in zip(having, grid):
            shots = [point.shots for point in result.few_shot]
            for point in result.few_shot:
                axes.plot([point.shots] * len(point.values), point.values, ".", color=SKY, ms=5)
            axes.plot(shots, [point.value for point in result.few_shot], "o-", color=BLUE, ms=3.5, lw=1.4)
            axes.axhline(result.score.value, color=GREY, lw=1, ls="--")
            axes.set_xscale("log")
            axes.set_xticks(shots, [str(number) for number in shots])
            axes.minorticks_off()
            axes.set_title(title(result), fontsize=9.5)
            axes.grid()
        return svg(figure, "Scores with few labels; dashed: with all of them")


def learned(probes: Sequence[tuple[int, Result]]) -> Markup | None:
    """Test scores over the steps of pretraining, one small picture per task; None where fewer than two steps are known.

    probes: (step, result) by step. The band is the 95 % interval, the dashed line the constant baseline.
    """
    tasks: dict[str, list[tuple[int, Result]]] = {}
    for step, result in probes:
        tasks.setdefault(title(result), []).append((step, result))
    tasks = {name: found for name, found in tasks.items() if len(found) > 1}
    if not tasks:
        return None
    with matplotlib.rc_context(STYLE):
        figure, grid = _small(len(tasks))
        for (name, found), axes in zip(tasks.items(), grid):
            steps = [step for step, _ in found]
            scores = [result.score for _, result in found]
            values, low, high = np.array([(one.value, one.low, one.high) for one in scores]).T
            axes.fill_between(steps, low, high, color=SKY, alpha=0.25, lw=0)
            axes.plot(steps, values, "o-", color=BLUE, ms=3.5, lw=1.4)
            constant = found[-1][1].baselines.get("constant")
            if constant is not None and constant.score.known:
                axes.axhline(constant.score.value, color=GREY, lw=1, ls="--")
            axes.set_title(name, fontsize=9.5)
            axes.set_xlabel("step")
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, nbins=5))
            axes.grid()
        return svg(figure, "Scores over the steps of pretraining", layout="constrained")


def _small(number: int, columns: int = 4, height: float = 1.9) -> tuple[Figure, list[Axes]]:
    """A grid of small pictures, only as many as are needed."""
    columns = min(columns, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(WIDTH, 0.5 + height * rows))
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[number:]:
        axes.set_visible(False)
    return figure, grid[:number]
