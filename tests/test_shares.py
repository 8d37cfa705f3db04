"""Processes launched together do a command in shares, and leave what one process leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import Ended, launched, warm
from transformers import EncodecConfig, EncodecModel

from groundbass.data.audio.read import write
from groundbass.data.parallel import Place, begin, gathered, in_parts
from groundbass.data.track import Manifest, Track
from groundbass.models.encoder import usual_device

RATE = 8000
SMALL_PARTS = """import sys
from groundbass import cli
from groundbass.pretrain.targets import codec
from groundbass.probe.apply import embedding
codec.TRACKS_PER_PART, embedding.PART_SECONDS = 2, 4.0
cli.main(sys.argv[1:])"""


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty recordings of 2 s with a style and beats, as a corpus and as files."""
    root = tmp_path_factory.mktemp("music")
    tracks = []
    for number in range(30):
        beats = np.arange(0.1, 1.8, 0.25 + 0.05 * (number % 4))
        sound = 0.05 * np.random.default_rng(number).standard_normal(2 * RATE) * (1 + number % 3)
        for beat in beats:
            sound[int(beat * RATE) : int(beat * RATE) + 80] += 0.4
        path = f"{number:02d}.flac"
        write(root / path, sound.clip(-1, 1).astype(np.float32), RATE)
        part = ("train", "train", "train", "valid", "test")[number % 5]
        labels = {"part": "music", "style": ("rock", "waltz", "blues")[number % 3], "beats": beats.tolist()}
        tracks.append(Track(path, path, 2 * RATE, RATE, 1, f"{number:032x}", part, f"band {number}", labels))
    Manifest.from_tracks(tracks, root).write(root / "manifest.parquet")
    return root


def together(*words: object, count: int = 2) -> Ended:
    """A command by `count` processes."""
    return warm()(["-c", SMALL_PARTS, *map(str, words)], ranks=launched(count) if count > 1 else [{}])


def alike(one: Path, two: Path, command: Callable[[Path], list[object]]) -> Ended:
    """Run it by one process and by two; what they leave is equal to the byte. Gives the two's end."""
    for folder in (one, two):
        folder.mkdir()
    assert together(*command(one), count=1).codes == [0]
    ended = together(*command(two))
    assert ended.codes == [0, 0], ended.said
    found = [
        {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        for place in (one, two)
    ]
    assert found[0] and found[0] == found[1]
    return ended


@pytest.mark.slow
def test_embed(music: Path, tmp_path: Path) -> None:
    ended = alike(
        tmp_path / "one", tmp_path / "two", lambda out: ["embed", "groundbass-tiny", music, "--out", out / "v.parquet"]
    )
    assert "30 rows" in ended.said[0] and "rows" not in ended.said[1]
    assert "28.0/28.0" in ended.said[0] and "32.0/32.0" in ended.said[1], "each heard its share of the 60 s"


@pytest.mark.slow
def test_predict(music: Path, tmp_path: Path) -> None:
    alike(tmp_path / "one", tmp_path / "two", lambda out: ["predict", music, "--out", out / "p.csv", "--quiet"])


@pytest.mark.slow
def test_codes(music: Path, tmp_path: Path) -> None:
    config = EncodecConfig(
        sampling_rate=RATE, upsampling_ratios=[8, 5, 4, 2], num_filters=2, hidden_size=4, codebook_dim=4,
        codebook_size=8, target_bandwidths=[0.5, 1.0], num_lstm_layers=1, num_residual_layers=1,
    )  # fmt: skip
    EncodecModel(config).save_pretrained(tmp_path / "codec")
    words = ["--codec", tmp_path / "codec", "--codebooks", 2]
    alike(tmp_path / "one", tmp_path / "two", lambda out: ["data", "codes", music / "manifest.parquet", out, *words])
    assert len(list((tmp_path / "two").glob("part_*.npy"))) == 15


@pytest.mark.slow
def test_similar(music: Path, tmp_path: Path) -> None:
    table = tmp_path / "v.parquet"
    assert together("embed", "groundbass-tiny", music, "--out", table, count=1).codes == [0]
    strangers = []
    for number in range(3):
        strangers.append(tmp_path / f"{number}.flac")
        write(strangers[-1], np.sin(np.arange(RATE) * (0.1 + 0.2 * number)).astype(np.float32), RATE)
    words = ["similar", table, *strangers, music / "00.flac", "--encoder", "groundbass-tiny"]
    one, two = together(*words, count=1), together(*words)
    assert one.codes + two.codes == [0, 0, 0], two.said
    assert "nearest to" in one.said[0] and two.said[0] == one.said[0] and "nearest" not in two.said[1]


@pytest.mark.slow
def test_probe(music: Path, tmp_path: Path) -> None:
    words = ["groundbass-tiny", f"synth_style:{music}", f"synth_beat:{music}", "--random-seeds", 0]
    words += ["--baselines", "random", "mfcc", "constant"]
    for name, count in (("one", 1), ("two", 2)):
        ended = together("probe", *words, "--out", tmp_path / name, "--store", tmp_path / f"{name}.store", count=count)
        assert ended.codes == [0] * count, ended.said
    results = [read(tmp_path / name) for name in ("one", "two")]
    for name, found in results[0].items():
        assert results[1][name]["score"]["value"] == pytest.approx(found["score"]["value"], abs=1e-6)
    stores = [features(tmp_path / f"{name}.store") for name in ("one", "two")]
    assert stores[0].keys() == stores[1].keys(), "the shares' own stores are gone"
    for key, array in stores[0].items():
        np.testing.assert_allclose(stores[1][key], array, rtol=1e-3, atol=1e-5)
    assert "going on after 30 of 30" not in ended.said[0]
    assert ended.said[1].count("/15") and "30/30" not in ended.said[1], "the second heard its fifteen tracks"


def read(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("synth_*.json")}


def features(folder: Path) -> dict[str, Any]:
    return {str(path.relative_to(folder)): np.load(path) for path in folder.glob("*/*/features.npy")}


@pytest.mark.slow
def test_who_loses_another_says_so(tmp_path: Path) -> None:
    code = """
import os, sys
from groundbass.data import parallel
place = parallel.begin()
parallel.gathered(0)
if not place.first: os._exit(9)
try: parallel.gathered(1)
except OSError as error: print(error); sys.stdout.flush(); os._exit(5)
"""
    ended = warm()(["-c", code], ranks=launched(2))
    assert ended.codes == [5, 9] and "Process 1/2 of those that were launched: another one ended" in ended.said[0]


def test_a_part_besides_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundbass.data.parallel._place", Place(0, 2))
    with pytest.raises(ValueError, match="each takes its part by itself"):
        in_parts(lambda words: 0, ["--part", "1/2"])


def test_alone_there_is_nobody_to_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert begin().alone and gathered("x") == ["x"]


def test_each_process_has_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert usual_device() == usual_device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert usual_device() == usual_device("cuda") == "cuda:3"
    assert [usual_device(name) for name in ("cpu", "cuda:1")] == ["cpu", "cuda:1"]
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    assert usual_device() == "cpu"
