"""Encoders side by side, the long table, other protocols beside the linear one, the page in a real browser."""

import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from groundbass.data.labels.splits import Fold
from groundbass.data.track import Manifest, Track
from groundbass.probe.curves.few_shot import Point
from groundbass.probe.curves.robustness import DamageCurve, Robustness
from groundbass.probe.evaluation import Evaluation
from groundbass.probe.fit import fit
from groundbass.probe.report import comparison, long_table, result, tables
from groundbass.probe.report.command import report
from groundbass.probe.report.scoring import predictions, result_of
from groundbass.probe.report.sections import collect, distinct, sections_of
from groundbass.probe.report.table import UP, Cell, Column, Table
from groundbass.probe.task import Task

CLIPS = 200
ABOUT = {"class": "Made", "weights": "abc", "layers": 3, "dim": 8, "frame_rate": 50.0, "sample_rate": 24000}


def task(kind="classes", name="made_genre"):
    generator = np.random.default_rng(0)
    names = ("blues", "jazz", "rock")
    labels = {
        "classes": [names[k] for k in generator.integers(0, 3, CLIPS)],
        "tags": [[tag for tag in names if generator.random() < 0.4] for _ in range(CLIPS)],
        "numbers": generator.normal(size=(CLIPS, 3)).tolist(),
    }[kind]
    tracks = [Track(f"{n}", f"{n}", 100, 100, 1, f"h{n}", artist=f"band {n // 2}") for n in range(CLIPS)]
    fold = Fold(np.arange(80), np.arange(80, 120), np.arange(120, CLIPS))
    return Task(
        name, 1, kind, Manifest.from_tracks(tracks, "."), labels, names, (fold,), corpus="made", address=f"{name}:x",
        published={"A paper & a table (2021)": {"CLMR": {"accuracy": 0.686, "roc_auc": 0.9}}},
    )  # fmt: skip


def features(asked, strength, seed=0):
    generator = np.random.default_rng(seed)
    table = np.eye(3)[asked.targets] if asked.kind == "classes" else asked.targets.astype(float)
    mix = np.random.default_rng(9).normal(size=(3, 8))
    x = generator.normal(size=(3, CLIPS, 8)) + strength * np.arange(3)[:, None, None] / 2 * (table @ mix)
    return x.astype(np.float32)


def write(folder, asked, strength, protocol="linear", name="encoder", **more):
    x = features(asked, strength)
    outcome = fit(asked, x, None, protocol, (0, 1) if protocol == "marble" else (0,))
    noise = fit(asked, features(asked, 0.0, 5))
    others = {"random": [noise, fit(asked, features(asked, 0.0, 6))], "mfcc": [noise]}
    found = Evaluation(outcome, others, x, **more)
    made = result_of(asked, found, name, ABOUT, protocol, key="key")
    result.write(folder, made, predictions(asked, outcome, others))
    long_table.write(folder)
    return outcome


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A good and a poor encoder on three kinds of tasks."""
    root = tmp_path_factory.mktemp("two")
    damage = Robustness(0.9, {"noise": DamageCurve("dB", (20, 0), (0.8, 0.3))})
    shots = [Point(1, 3, (0.3, 0.5))]
    for name, strength in (("poor", 0.2), ("good", 1.5)):
        for kind in ("classes", "tags", "numbers"):
            write(root / name, task(kind, f"made_{kind}"), strength, name=name, robustness=damage, few_shot=shots)
    return root


def test_differences_are_those_of_the_same_tracks(two):
    sections = [collect(two / "poor"), collect(two / "good")]
    found = {line.task: line for line in comparison.lines(sections)}
    for kind in ("classes", "tags", "numbers"):
        line = found[f"made_{kind}"]
        poor, good = line.scores
        assert line.differences[0] is None and line.differences[1].value == pytest.approx(good.value - poor.value)
        assert 0 < line.differences[1].low < line.differences[1].value < line.differences[1].high
    assert [[cell.words for cell in row[1:4]] for row in comparison.literature([found["made_classes"]]).rows] == [
        ["CLMR", "accuracy", "0.686"], ["CLMR", "ROC-AUC, macro", "0.900"],
    ]  # fmt: skip
    same = comparison.lines([sections[0], sections[0]])[0].differences[1]
    assert same.value == same.low == same.high == 0
    assert "above on 3 (made_classes, made_numbers, made_tags)" in comparison.verdict(sections, list(found.values()))


def test_a_result_comes_back_from_its_file(two):
    for path in sorted(two.glob("*/made_*.json")):
        found = result.read(path)
        assert json.loads(json.dumps(found.to_json())) == json.loads(path.read_text())
        assert result.Result.from_json(found.to_json()) == found and found.few_shot[0].value == pytest.approx(0.4)
        assert found.robustness.kinds["noise"].values == (0.8, 0.3) and found.baselines["random"].values != ()


def test_damage_is_one_table_of_all_encoders(two, tmp_path, capsys):
    page, told = tmp_path / "page.html", tmp_path / "page.md"
    other = replace(
        collect(two / "good").results[0], robustness=Robustness(0.7, {"mp3": DamageCurve("kb/s", (8.0,), (0.25,))})
    )
    table = tables.robustness([("poor", collect(two / "poor").results[:1]), ("good", [other])])
    assert [[cell.words for cell in row[1:]] for row in table.rows] == [
        ["none", "", "0.900", "0.700"], ["noise", "20 0 dB", "0.80 0.30", "–"], ["mp3", "kb/s", "–", "0.25"],
    ]  # fmt: skip
    assert tables.robustness([("plain", [replace(other, robustness=None)])]) is None
    for out in (page, told):
        report((two / "poor", two / "good"), out=out)
    assert "0.80 0.30" in capsys.readouterr().out
    assert page.read_text().count("0.80 0.30") == 12  # three tasks, both encoders: side by side and alone
    assert "| made_tags | noise | 20 0 dB | 0.80 0.30 | 0.80 0.30 |" in told.read_text()


def test_a_folder_that_is_named_twice_stands_in_the_report_once(two, tmp_path, capsys):
    found = report((two / "poor", two / "good", two / "good" / ".." / "poor"), out=tmp_path / "t.tex")
    assert [one["name"] for one in found["encoders"]] == ["poor", "good"]
    assert "no task in common" not in capsys.readouterr().out


def test_a_table_shows_itself_everywhere():
    best = Cell("0.5", "[0.4, 0.6]", "▲", best=True, tone=UP, under="accuracy")
    table = Table(("task", Column("score_1", right=True)), [("a|b_<i>", best)], "[red]title")
    assert table.markdown().splitlines() == ["| task | score_1 |", "|---|---|", "| a\\|b_&lt;i> | 0.5 [0.4, 0.6] ▲ |"]
    assert table.markdown(aligned=True).splitlines()[1] == "|---|---:|"
    begin, _, head, _, row, *_ = table.latex().splitlines()
    assert begin == r"\begin{tabular}{lr}" and head == r"task & score\_1 \\"
    assert row == r"a|b\_<i> & \textbf{0.5} $\uparrow$ {\scriptsize [0.4, 0.6]} \\"
    page = table.html()
    assert (
        '<td class="right up" data-column="score_1">0.5 [0.4, 0.6] ▲</td>' in page
        and "a|b_<wbr>&lt;i&gt;" in page
        and "<i>" not in page
    )
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table.terminal())
    lines = console.export_text().splitlines()
    assert lines[0].strip() == "[red]title" and "0.5 [0.4, 0.6] ▲" in lines[3] and lines[4].strip() == "accuracy"
    with pytest.raises(ValueError, match="3 cells and the head 2"):
        Table(("a", "b"), [("1", "2", "3")])


def test_other_tracks_are_not_compared(two, tmp_path):
    other = task()
    shifted = Task(**{**other.__dict__, "labels": list(other.labels[::-1]), "name": "made_classes"})
    write(tmp_path / "x", shifted, 1.0)
    (line,) = (
        row for row in comparison.lines([collect(two / "good"), collect(tmp_path / "x")]) if row.task == "made_classes"
    )
    assert line.differences == (None, None) and "clips, labels or splits differ" in line.notes[0]
    shutil.copytree(two / "good", tmp_path / "lost")
    for path in (tmp_path / "lost").glob("*.predictions.parquet"):
        path.unlink()
    lines = comparison.lines([collect(two / "good"), collect(tmp_path / "lost")])
    assert all(row.differences[1] is None and "is missing" in row.notes[0] for row in lines)


def test_other_protocols_stand_beside_the_linear_one(two, tmp_path):
    asked = task(name="made_genre")
    for protocol in ("linear", "knn", "marble", "gmm"):
        write(tmp_path / "one", asked, 1.0, protocol)
    names = {path.name for path in (tmp_path / "one").glob("made*.json")}
    assert names == {"made_genre.json", "made_genre.knn.json", "made_genre.marble.json", "made_genre.gmm.json"}
    lines = comparison.lines([collect(tmp_path / "one")])
    assert [line.protocol for line in lines] == ["linear", "gmm", "knn", "marble"]
    marble = json.loads((tmp_path / "one/made_genre.marble.json").read_text())
    assert len(marble["values"]) == 2 and marble["setting"] == "learning rate"
    assert marble["score"]["value"] == pytest.approx(np.mean(marble["values"]))
    report((tmp_path / "one",))
    assert "made_genre (knn)" in (tmp_path / "one/report.html").read_text()


def test_the_long_table_holds_every_figure_and_merges(two):
    tables = [pq.read_table(two / name / "results.parquet") for name in ("poor", "good")]
    assert tables[0].schema == long_table.COLUMNS
    whole = pa.concat_tables(tables).to_pylist()
    record = json.loads((two / "good/made_classes.json").read_text())

    def cells(**wanted):
        return [
            r for r in whole if all(r[k] == v for k, v in {"encoder": "good", "task": "made_classes", **wanted}.items())
        ]

    (main,) = cells(system="encoder", split="test", condition="clean", metric="accuracy", seed=None)
    assert (main["value"], main["low"]) == (record["score"]["value"], record["score"]["low"])
    assert main["head"].startswith("strength ") and main["tracks"] == 80 and main["protocol"] == "linear"
    assert [row["layer"] for row in cells(split="valid")] == [0, 1, 2]
    assert cells(metric="balanced_accuracy")[0]["value"] == record["metrics"]["balanced_accuracy"]
    assert [row["seed"] for row in cells(system="random")] == [None, 0, 1]
    assert [row["value"] for row in cells(condition="noise 0")] == [0.3]
    assert [row["seed"] for row in cells(condition="1 shots")] == [None, 0, 1]
    read = json.loads((two / "good/results.json").read_text())
    assert read["table"] == 1 and read["rows"] == tables[1].to_pylist()
    assert result.read(two / "good/results.json") is None  # it is no task's result


def test_tables_of_strangers_stand_beside_ours(two, tmp_path, capsys):
    """Two merged tables, in both formats: scores, intervals and layer curves are theirs; no difference is made up."""
    tables = [pq.read_table(two / name / "results.parquet") for name in ("good", "poor")]
    pq.write_table(pa.concat_tables(tables), tmp_path / "theirs.parquet")
    shutil.copy(two / "good/results.json", tmp_path / "good.json")
    report((two / "poor", tmp_path / "theirs.parquet", tmp_path / "good.json"), out=tmp_path / "all.html")
    page = (tmp_path / "all.html").read_text()
    assert "4 encoders side by side" in page and page.count(" learned</h1>") == 1
    assert "which has no predictions" in " ".join(capsys.readouterr().out.split())
    ours, theirs = collect(two / "good"), sections_of(tmp_path / "theirs.parquet")
    assert [section.name for section in theirs] == ["good", "poor"] and len(theirs[0].scores) == 3
    for a, b in zip(ours.scores, theirs[0].scores):
        assert (a.task, a.score, a.layers, a.metric_name) == (b.task, b.score, b.layers, b.metric_name)
    (tmp_path / "odd.json").write_text(json.dumps({"rows": [{"schema": 7}]}))
    with pytest.raises(ValueError, match=r"schema '7'; a long table of schema 1 is expected"):
        sections_of(tmp_path / "odd.json")


def test_markdown_latex_and_what_the_terminal_says(two, tmp_path, capsys):
    report((two / "poor", two / "good"), out=tmp_path / "both.md")
    assert "good against poor: above on 3" in " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "both.md").read_text()
    assert "| made_classes | CLMR | accuracy | 0.686 | A paper & a table (2021) |" in text and "▲" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    report((two / "poor", two / "good"), out=tmp_path / "both.tex")
    lines = (tmp_path / "both.tex").read_text().splitlines()
    assert r"\toprule" in lines and any(r"made\_classes" in line and r"\textbf{" in line for line in lines)
    rows = [line for line in lines if line.startswith("made") and "textbf" in line]
    assert {line.count("&") for line in rows} == {3} and all(line.endswith(r"\\") for line in rows)
    with pytest.raises(ValueError, match=r"\.html, \.md or \.tex"):
        report((two / "poor",), out=tmp_path / "both.pdf")


def test_runs_of_one_name_get_their_paths(two, tmp_path):
    for place in ("a/run", "b/run"):
        shutil.copytree(two / "good", tmp_path / place / "probe")
        (tmp_path / place / "recipe.json").write_text("{}")
    sections = distinct([collect(tmp_path / "a/run"), collect(tmp_path / "b/run")])
    assert [section.name for section in sections] == [str(tmp_path / "a/run"), str(tmp_path / "b/run")]


def browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def test_the_page_loads_nothing_from_elsewhere(two):
    report((two / "poor", two / "good"))
    page = (two / "poor/report.html").read_text()
    assert "2 encoders side by side" in page and "Published figures" in page
    assert page.count("<h2>Robustness") == 3, "of each, and of both side by side"
    for part in ("With few labels", "Hand-crafted baselines", "What is taken for what"):
        assert page.count(f"<h2>{part}") == 2, part
    assert not re.search(r'(src|href)="(?!#|data:)', page)


LOOK = """<script>addEventListener("load", () => {
  const sizes = [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect());
  const cells = [...document.querySelectorAll("td, th")];
  document.title = JSON.stringify({
    pictures: sizes.length,
    small: sizes.filter(r => r.width < 200 || r.height < 80).length,
    beyond: sizes.filter(r => r.left < 0 || r.right > innerWidth).length,
    wide: [...document.querySelectorAll("h1, h2, p, li")].filter(e => e.scrollWidth > innerWidth).length,
    blank: cells.filter(e => e.offsetHeight < 8).length,
    labels: cells.filter(e => getComputedStyle(e, "::before").content.length > 4).length,
    cut: [...document.querySelectorAll(".wide")].filter(e => e.scrollWidth > e.clientWidth).length,
    tables: document.querySelectorAll("table").length,
    loaded: performance.getEntriesByType("resource").map(e => e.name),
    height: document.body.scrollHeight,
  });
});</script></body>"""


@pytest.mark.skipif(browser() is None, reason="no Chromium here")
def test_the_page_in_a_real_browser(two, tmp_path):
    """It is laid out, nothing is loaded, the console stays silent, and a photograph of it shows tables and pictures."""
    report((two / "poor", two / "good"))
    page = (two / "poor/report.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("</body>", LOOK))

    def run(*words):
        command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += ["--no-first-run", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
        command += [f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=5000", "--enable-logging=stderr"]
        return subprocess.run([*command, *words], capture_output=True, text=True, timeout=600, check=True)

    done = run("--window-size=1280,900", "--dump-dom", f"file://{tmp_path}/page.html")
    assert "CONSOLE" not in done.stderr, done.stderr  # an error or a refused request would be told there
    found = json.loads(re.search(r"<title>(.*?)</title>", done.stdout, re.S).group(1).replace("&quot;", '"'))
    assert found["loaded"] == []
    assert [found[name] for name in ("small", "beyond", "wide", "blank", "cut")] == [0] * 5, found
    assert found["pictures"] == page.count("<svg") >= 9 and found["height"] > 3000 and found["tables"] == 9
    narrow = run("--window-size=700,900", "--dump-dom", f"file://{tmp_path}/page.html")
    told = json.loads(re.search(r"<title>(.*?)</title>", narrow.stdout, re.S).group(1).replace("&quot;", '"'))
    assert [told[name] for name in ("beyond", "wide", "cut")] == [0] * 3, told
    assert told["labels"] > 10, "cells of broad tables stand under their column's name"
    run(f"--window-size=1280,{found['height']}", f"--screenshot={tmp_path}/page.png", f"file://{two}/poor/report.html")
    pixels = np.round(255 * matplotlib.image.imread(tmp_path / "page.png")[..., :3]).astype(int)
    assert pixels.shape == (found["height"], 1280, 3)
    paper = np.abs(pixels - [252, 252, 251]).max(2) < 6
    bars = np.abs(pixels - [0, 114, 178]).max(2) < 6  # the blue of the encoders' bars and curves
    assert 0.5 < paper.mean() < 0.98 and bars.sum() > 10_000
    strips = np.array_split(~paper, found["height"] // 300)
    assert sum(strip.any() for strip in strips) > 0.9 * len(strips)  # no long blank stretch
