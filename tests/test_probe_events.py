"""Events over time, from rows of onset and offset through the probe to what `predict` writes and draws."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from groundbass.cli import run
from groundbass.data.audio.read import write
from groundbass.data.labels.annotations import read_annotation
from groundbass.data.labels.kinds.events import event_scores, onset_offset_f, segment_f
from groundbass.models.published import write_encoder
from groundbass.pretrain.recipe import find

RATE, SECONDS, PITCHES = 24_000, 6.0, {"low": 400.0, "high": 3000.0}


def recording(number: int) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    """Noise, and two tones that each begin and end somewhere."""
    draw = np.random.default_rng(number)
    time = np.arange(round(SECONDS * RATE)) / RATE
    sound, spans = 0.003 * draw.standard_normal(len(time)), []
    for name, pitch in PITCHES.items():
        start = draw.uniform(0.5, 2.5)
        end = start + draw.uniform(1.5, 3.0)
        spans.append((round(start, 3), round(end, 3), name))
        sound += 0.2 * np.sin(2 * np.pi * pitch * time) * ((time >= start) & (time < end))
    return sound.astype(np.float32), spans


@pytest.mark.slow
def test_events_from_rows_to_what_predict_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    music = tmp_path / "music"
    music.mkdir()
    rows = [["path", "onset", "offset", "label", "fold"]]
    for number in range(16):
        sound, spans = recording(number)
        write(music / f"{number}.wav", sound, RATE)
        rows += [[f"{number}.wav", start, end, name, number % 4] for start, end, name in spans]
    with (music / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows(rows)
    torch.manual_seed(0)
    write_encoder(find("masked.bestrq_debug").objective.build().encoder.eval(), tmp_path / "encoder")
    command = ["probe", str(tmp_path / "encoder"), f"folder:{music}", "--label", "label", "--baselines", "constant"]
    assert (
        run([*command, "--random-seeds", "0", "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]) == 0
    )
    told = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    (scores,) = [one["metrics"] for one in told if "metrics" in one]
    assert scores["event_f"] > 0.85 and scores["segment_f"] > 0.85, scores
    assert 0 < scores["onset_offset_f"] <= 1, scores

    sound, spans = recording(99)
    write(tmp_path / "new.wav", sound, RATE)
    capsys.readouterr()
    assert run(["predict", str(tmp_path / "out" / "heads"), str(tmp_path / "new.wav"), "--out", str(tmp_path / "said"),
                "--out", str(tmp_path / "said.csv"), "--page", str(tmp_path / "page.html")]) == 0  # fmt: skip
    (lab,) = (tmp_path / "said").rglob("*.lab")
    found, truth = read_annotation(lab), [dict(zip(("start", "end", "label"), span)) for span in spans]
    assert event_scores(truth, found)[0] > 0.85 and segment_f(truth, found) > 0.8
    assert onset_offset_f(truth, found) > 0
    with (tmp_path / "said.csv").open() as table:
        written = [(float(row["start"]), float(row["end"]), row["label"]) for row in csv.DictReader(table)]
    assert [name for _, _, name in written] == [span["label"] for span in found]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "low" in page and "high" in page and page.count("data-from=") == len(found)
