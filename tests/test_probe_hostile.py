# ruff: noqa: E501 (a whole record)
"""Results of anyone: damaged and hostile ones are refused by field, and nothing in one becomes markup or code."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzz import few_and_many
from hypothesis import given
from hypothesis import strategies as st

from groundbass.models.card import _public, plain
from groundbass.probe.apply.embed import read_about
from groundbass.probe.apply.similar import similar
from groundbass.probe.report import result
from groundbass.probe.report.command import report
from groundbass.probe.report.long_table import SCHEMA as TABLE
from groundbass.probe.report.long_table import read as read_long_table


def record(**changed: Any) -> dict[str, Any]:
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    baseline = interval | {
        "difference": {"value": 0.1, "low": 0.0, "high": 0.2},
        "layer": 0,
        "layers": [0.5],
        "values": [0.4],
    }
    return {
        "schema": result.SCHEMA, "task": "x_kind", "version": 1, "protocol": "linear", "encoder": "run", "metric": "accuracy",
        "metric_name": "accuracy", "kind": "classes", "fingerprint": "f", "address": "folder:x --label kind",
        "weights_hash": "0" * 32, "unit": "clip", "setting": "strength", "score": interval, "baselines": {"random": baseline},
        "layer": 0, "layers": [0.5], "counts": {"train": 9, "valid": 3, "test": 3, "folds": 1}, "notes": ["a note"],
        "classes": ["a", "b"], "versions": {"groundbass": "0.1.0", "torch": "2"}, "published": {}, "metrics": {"accuracy": 0.5},
        "about": {"layers": 1, "dim": 4, "sample_rate": 8000, "frame_rate": 10.0, "weights": "0" * 32, "class": "C"},
        "values": [0.5], "strength": 0.1, "question": "q", "corpus": "", "key": "k", "groups": {"number": 3, "of": "track"},
        "confusion": {"classes": ["a", "b"], "counts": [[1, 0], [0, 2]]}, "projection": None, "few_shot": [],
        "robustness": None, "aggregation": "mean", "decoder": None, "folds": [], "pooling": "mean",
    } | changed  # fmt: skip


def shown(folder: Path, content: dict[str, Any], suffix: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "x_kind.json").write_text(json.dumps(content))
    report((folder,), out=folder / f"page{suffix}")
    return (folder / f"page{suffix}").read_text()


HURTS = "<script>alert(1)</script>|`x`\n\n| a | b |\n# $\\frac{$ [1ex] \\\\"


@pytest.mark.parametrize("suffix", [".html", ".md", ".tex"])
def test_texts_of_a_result_stay_texts(tmp_path: Path, suffix: str) -> None:
    texts = dict.fromkeys(("task", "metric_name", "encoder", "address", "question", "corpus"), HURTS)
    content = record(**texts, notes=[HURTS], classes=[HURTS, "b"], versions={"groundbass": HURTS, "torch": "2"})
    content["confusion"]["classes"] = [HURTS, "$\\frac{$"]
    page = shown(tmp_path / "x", content, suffix)
    assert "<script>alert" not in page or suffix == ".tex"
    if suffix == ".tex":
        assert r"\frac{" not in page and not re.search(r"\\\\\s*\[", page), "no command, no length after a row"
    if suffix == ".md":
        for part in page.split("\n### "):  # the scores, then a table of confusions under each heading
            rows = [line for line in part.splitlines() if line.startswith("|")]
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1, "each row has the header's columns"


@pytest.mark.parametrize(
    "name", ["score", "about", "versions", "counts", "layers", "baselines", "confusion", "task", "notes"]
)
@pytest.mark.parametrize("value", ["<b>", 7, ["x"], {"value": "<b>"}, {"dim": "<b>"}, [[1]], True])
def test_fields_of_another_kind_are_named(tmp_path: Path, name: str, value: Any) -> None:
    if (name, value) in (("task", "<b>"), ("notes", ["x"])):
        pytest.skip("is of the right kind")
    with pytest.raises(ValueError, match=rf"x_kind\.json is no whole result: its field `{name}`"):
        shown(tmp_path / "x", record(**{name: value}), ".md")


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(HURTS)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


@few_and_many(40)
@given(path=st.lists(st.integers(0, 50), min_size=1, max_size=3), value=JSON)
def test_results_of_any_content_are_shown_or_refused(
    tmp_path_factory: pytest.TempPathFactory, path: list[int], value: Any
) -> None:
    content: Any = copy.deepcopy(record())
    place = content
    for step in path[:-1]:
        names = sorted(place) if isinstance(place, dict) else range(len(place)) if isinstance(place, list) else []
        inner = place[names[step % len(names)]] if names else None
        if not isinstance(inner, (dict, list)) or not inner:
            break
        place = inner
    names = sorted(place) if isinstance(place, dict) else range(len(place))
    place[names[path[-1] % len(names)]] = value
    try:
        page = shown(tmp_path_factory.getbasetemp() / "results", content, ".md")
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        assert len(said) > 20
    else:
        assert "<script>alert" not in page


@pytest.mark.parametrize(
    "content, why", [(b'{"schema": 3, "ta', "is no JSON"), (json.dumps(record(schema=99)).encode(), "of schema '99'")]
)
def test_results_that_are_left_out_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, why: str
) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"holds no probe result that can be read\. Left out: .*bad\.json .*{why}"):
        report((tmp_path,))
    (tmp_path / "x_kind.json").write_text(json.dumps(record()))
    told = report((tmp_path,), out=tmp_path / "page.md")
    [sentence] = told["left_out"]
    assert "bad.json" in sentence and why in sentence and sentence in capsys.readouterr().out


ROW: dict[str, Any] = {
    "schema": TABLE, "encoder": "theirs", "weights": "0" * 32, "system": "encoder", "task": "key", "protocol": "linear",
    "split": "test", "condition": "clean", "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "layer": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "content, sentence",
    [
        ({"rows": [3]}, "Row 0 of .*x.json is '3', not fields by name"),
        ({"rows": 5}, "x.json holds no rows"),
        ([ROW | {"schema": [1]}], r"schema '\[1\]'"),
        ([{"schema": TABLE}], "Row 0 of .*x.json is no figure: its field `encoder` is 'None'"),
        ([ROW, ROW | {"value": "x"}], "Row 1 of .* its field `value` is 'x', which should be a number"),
        ([ROW | {"value": [1]}], r"field `value` is '\[1\]'"),
        ([ROW | {"task": {"a": 1}}], "field `task` is .*should be a text"),
        ([ROW | {"split": "valid", "layer": 1 << 52}], "field `layer`"),
        (b"\xff\xfe", "x.json is no JSON"),
        (b'{"rows": [' + b"9" * 6000 + b"]}", "x.json is no JSON"),
        (b'{"a":' * 3000, "x.json is no JSON of ours .it is nested too deeply"),
    ],
)
def test_long_tables_of_anyone_are_checked_by_row_and_field(tmp_path: Path, content: Any, sentence: str) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ValueError, match=sentence):
        report((file,))


def test_long_tables_merged_elsewhere_are_read(tmp_path: Path) -> None:
    """pandas writes NaN for null, and 3.0 for 3 in a column with nulls."""
    rows = [ROW | {"layer": 3.0, "seed": float("nan")}, ROW | {"layer": None, "seed": 2.0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    first, second = read_long_table(tmp_path / "x.parquet")
    assert (first.layer, first.seed, second.layer, second.seed) == (3, None, None, 2)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ValueError, match=r"x\.parquet is no whole Parquet file"):
        report((tmp_path / "x.parquet",))


@few_and_many(40)
@given(field=st.sampled_from(sorted(ROW)), value=JSON, suffix=st.sampled_from([".json", ".parquet"]))
def test_long_tables_of_any_content_are_shown_or_refused(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any, suffix: str
) -> None:
    file = tmp_path_factory.getbasetemp() / f"long{suffix}"
    row = ROW | {field: value}
    try:
        if suffix == ".json":
            file.write_text(json.dumps({"rows": [ROW, row]}))
        else:
            pq.write_table(pa.Table.from_pylist([row]), file)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # what Arrow can't hold can't be in a file of it
        return
    try:
        report((file,), out=file.with_suffix(".html"))
    except (ValueError, FileNotFoundError) as error:
        said = str(error)
        assert file.name in said
    else:
        assert "<script>alert" not in file.with_suffix(".html").read_text()


SOUND = {"encoder": "nowhere", "identity": {"dim": 2}}
ASKED = {"layers": [1], "unit": "track", "pooling": "mean", "window_seconds": 10.0, "overlap_seconds": 0.0}


def table(place: Path, about: Any, **columns: pa.Array) -> Path:
    """A table of embeddings as anyone may have written it: three tracks, one layer of two numbers."""
    flat = pa.array(np.arange(6.0), pa.float32())
    told = {"path": pa.array(["a.wav", "b.wav", "c.wav"]), "start": pa.array([0.0] * 3), "end": pa.array([1.0] * 3)}
    told |= {"layer_1": pa.FixedSizeListArray.from_arrays(flat, 2)} | columns
    written = pa.table({name: column for name, column in told.items() if column is not None})
    pq.write_table(written.replace_schema_metadata({b"groundbass": json.dumps(about)}), place)
    return place


@pytest.mark.parametrize(
    "about, sentence",
    [
        ([1], "is no table of embeddings"),
        ({"kind": "embeddings"}, "its metadata say asked = 'None'"),
        ({"asked": ASKED | {"layers": []}}, r"asked\.layers = '\[\]'"),
        ({"asked": ASKED | {"layers": [True]}}, r"asked\.layers"),
        ({"asked": ASKED | {"unit": "year"}}, r"asked\.unit = 'year'"),
        ({"asked": ASKED | {"window_seconds": 1e300}}, r"asked\.window_seconds = '1e\+300'"),
        ({"asked": ASKED | {"window_seconds": "__import__"}}, r"asked\.window_seconds"),
        ({"asked": ASKED | {"evil": 1}}, "asked = "),
        ({"asked": ASKED, "identity": "x"}, "identity = 'x'"),
        ({"asked": ASKED, "encoder": ["x"]}, "encoder = "),
    ],
)
def test_a_table_that_says_odd_things_of_itself_is_refused(tmp_path: Path, about: Any, sentence: str) -> None:
    told = {"kind": "embeddings"} | SOUND | about if isinstance(about, dict) else about
    with pytest.raises(ValueError, match=sentence):
        similar(table(tmp_path / "x.parquet", told), (tmp_path / "a.wav",))


@pytest.mark.parametrize(
    "columns, sentence",
    [
        ({"start": None}, "has no column start"),
        ({"layer_1": pa.array(["x", "y", "z"])}, "isn't whole"),
        ({"layer_1": pa.array([[1.0], [1.0, 2.0], []])}, "isn't whole"),
        ({"layer_1": pa.FixedSizeListArray.from_arrays(pa.array([np.nan] * 6), 2)}, "isn't whole"),
        ({"end": pa.array(["1", "2", "3"])}, "isn't whole"),
        ({"path": pa.array([1, 2, 3])}, "isn't whole"),
    ],
)
def test_a_table_whose_columns_are_others_is_refused(tmp_path: Path, columns: Any, sentence: str) -> None:
    about = {"kind": "embeddings", "asked": ASKED, **SOUND}
    with pytest.raises(ValueError, match=sentence):
        similar(table(tmp_path / "x.parquet", about, **columns), (tmp_path / "a.wav",))
    read_about(table(tmp_path / "fine.parquet", about))


def test_cards_hold_neither_markup_nor_folders_of_this_machine() -> None:
    assert "\n" not in plain(HURTS) and "<" not in plain(HURTS) and not re.search(r"(?<!\\)[|`]", plain(HURTS))
    assert _public("/home/me/recipes.py:tiny") == "recipes.py:tiny"
    assert _public("/home/me/runs/teacher") == "teacher" and _public("--optim.lr") == "--optim.lr"
    assert _public("masked.mert_tiny") == "masked.mert_tiny" and _public("--x=/a/b/c.txt") == "--x=c.txt"
