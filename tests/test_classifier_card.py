"""The card of heads that `groundbass probe` fitted: scores, intervals and baselines, per class, from its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn import metrics as sk

from groundbass.cli import main
from groundbass.data.audio.read import write
from groundbass.models.published import write_encoder
from groundbass.pretrain.recipe import find
from groundbass.probe.report import per_class
from groundbass.publishing import Measurements

RATE = 24_000


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A heads folder of classes, numbers and tags, as the command writes it beside its results."""
    place = tmp_path_factory.mktemp("card")
    (place / "lab").mkdir()
    noise, time = np.random.default_rng(0), np.arange(RATE) / RATE
    rows = ["path,genre,bpm,mood,split"]
    for number in range(24):
        pitch = (300, 1100, 4000)[number % 3] * (1.0 + 0.3 * (number % 4))
        sound = 0.1 * np.sin(2 * np.pi * pitch * time) + 0.1 * noise.standard_normal(RATE)
        write(place / "lab" / f"{number}.wav", sound.astype(np.float32), RATE)
        genre, mood = ("rock", "jazz", "folk")[number % 3], ("calm|dark", "wild", "wild|dark")[number % 5 % 3]
        rows.append(f"{number}.wav,{genre},{80 + 3 * number},{mood},{'test' if number >= 12 else ''}")
    rows[1:] = [row + ("valid" if n < 5 else "train") if row.endswith(",") else row for n, row in enumerate(rows[1:])]
    (place / "lab" / "labels.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    write_encoder(find("masked.bestrq_debug").objective.build().encoder, place / "encoder")
    labels = [word for label in ("genre", "bpm:number", "mood:tags") for word in ("--label", label)]
    with pytest.raises(SystemExit) as stop:
        main(["probe", str(place / "encoder"), f"folder:{place / 'lab'}", *labels, "--baselines", "constant",
              "--random-seeds", "--out", str(place / "out"), "--store", str(place / "features")])  # fmt: skip
    assert not stop.value.code
    return place / "out" / "heads"


def facts_of(heads: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text())["facts"] for path in sorted(heads.glob("*.json"))}


def test_the_card_has_scores_per_class_with_intervals_and_baselines(heads: Path, tmp_path: Path) -> None:
    card = Measurements(heads).classified(facts_of(heads), "confusion.png")
    told = json.loads((heads.parent / "lab_genre.json").read_text())
    score, constant = told["score"], told["baselines"]["constant"]
    cells = [f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in (score, constant)]
    assert f"| lab_genre | accuracy | {cells[0]} | {cells[1]} | 12 |" in card
    for broken in ("| value |", "| low |", "| high |", "{'", "| metric | accuracy"):
        assert broken not in card.replace("| task | metric |", "")
    table = pq.read_table(heads.parent / "lab_genre.predictions.parquet")
    truth, guess = ([word.strip('"') for word in table[column].to_pylist()] for column in ("truth", "encoder"))
    recalls = sk.recall_score(truth, guess, average=None, labels=["rock", "jazz", "folk"])
    for name, recall in zip(("rock", "jazz", "folk"), recalls, strict=True):
        (row,) = [line for line in card.splitlines() if line.startswith(f"| {name} |")]
        assert row.startswith(f"| {name} | {recall:.2f} [") and row.endswith("| 4 |") and row.count("[") == 2
    assert "| lab_genre, each | recall | F | F, constant answer | test tracks |" in card
    assert "| lab_mood, each | ROC-AUC | F | F, always said | test tracks |" in card and "| dark |" in card
    assert "| lab_bpm, each | R² | mean absolute error |" in card and "| bpm |" in card
    assert "genre of lab; 7 tracks trained the head, 5 chose its layer and settings, 12 tested it." in card
    assert card.endswith("![Confusions](confusion.png)")
    assert Measurements(heads).draw_confusion(facts_of(heads), tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000


def test_without_the_results_the_heads_files_fill_the_columns(heads: Path, tmp_path: Path) -> None:
    """Elsewhere, or of another encoder: the score with its interval and the baseline's value, in their columns."""
    facts = facts_of(heads)
    score = facts["lab_genre"]["scores"]
    row = (
        f"| lab_genre | accuracy | {score['value']:.3f} [{score['low']:.3f}, {score['high']:.3f}] | "
        f"{score['baselines']['constant']:.3f} | – |"
    )
    card = Measurements(heads, tmp_path).classified(facts, None)
    assert row in card and "| value |" not in card and "{'" not in card
    assert not Measurements(heads, tmp_path).draw_confusion(facts, tmp_path / "none.png")
    others = {name: one | {"encoder_hash": "another"} for name, one in facts.items()}
    assert row in Measurements(heads).classified(others, None), "these results are of another encoder"
    assert Measurements(heads, tmp_path).classified({"x": {}}, None) == "Not measured."


def test_scores_per_class_by_hand() -> None:
    """Four tracks of a (three found), two of b (one found), one of c, and nobody of d."""
    truth, guess = np.array([0, 0, 0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 0, 2])
    a, b, c = per_class.of_classes(truth, guess, "abcd", list("tuvwxyz"), {"a": np.zeros(7, int)})
    assert (a.scores["recall"].value, b.scores["recall"].value) == (0.75, 0.5)
    assert a.scores["F"].value == pytest.approx(6 / 8) and a.baselines["F, a"] == pytest.approx(8 / 11)
    assert 0 <= a.scores["recall"].low < 0.75 < a.scores["recall"].high <= 1
    assert c.scores["recall"].value == 1.0 and not c.scores["recall"].bounded, "of one track nothing can be said"
    assert [one.tracks for one in (a, b, c)] == [4, 2, 1]
    same = per_class.of_classes(truth, guess, "abcd", list("ttttxyz"))[0]
    assert not same.scores["recall"].bounded, "one artist has all tracks of a"
    assert per_class.ClassScore.from_json(
        {"name": "a", "tracks": 4, "scores": {"F": {"value": 0.5, "low": None, "high": None}}}
    ).scores["F"].value == 0.5  # fmt: skip
