"""`pretrain --splits`: test tracks that nobody heard before; and what a probe says of those that were heard."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from groundbass.data.audio.read import write
from groundbass.data.collections.scan import scan
from groundbass.data.track import Manifest
from groundbass.pretrain import command as pretrain
from groundbass.probe import command as probe

RATE, SPLITS = 16_000, ("train", "train", "train", "train", "valid", "test")


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory, note: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("music")
    rows = ["path,kind,split"]
    for number in range(24):
        write(folder / f"{number}.wav", note(45 + number, 1.5, RATE), RATE)
        rows.append(f"{number}.wav,{'xy'[number % 2]},{SPLITS[number // 2 % 6]}")
    (folder / "labels.csv").write_text("\n".join(rows))
    scan(str(folder), folder / "manifest.parquet")
    return folder


def trained(music: Path, run: Path, *more: str, address: str = "contrastive.clmr_debug") -> dict[str, Any]:
    words = [address, "--data", str(music / "manifest.parquet"), "--run", str(run), "--steps", "1", "--workers", "0"]
    assert pretrain.main([*words, *more]) == 0
    told: dict[str, Any] = json.loads((run / "recipe.json").read_text())
    return told


def probed(music: Path, run: Path, place: Path) -> str:
    words = [str(run), f"folder:{music}", "--label", "kind", "--baselines", "constant"]
    assert probe.main([*words, "--store", str(place / "store"), "--out", str(place / "out")]) == 0
    (result,) = (place / "out").glob("*_kind.json")
    return " ".join(json.loads(result.read_text())["notes"])


@pytest.mark.slow
def test_tracks_of_other_splits_are_not_heard(music: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    told = trained(music, run, "--splits", "train", "valid")
    assert told["manifest"]["heard"] == {"train": 16, "valid": 4} and told["manifest"]["tracks"] == 20
    assert set(Manifest.open(run / "manifest.splits.parquet").column("split")) == {"train", "valid"}
    assert "--splits" not in told["overrides"]
    assert "Transductive" not in probed(music, run, tmp_path)
    with pytest.raises(ValueError, match="other tracks"):  # a run that goes on hears the same
        trained(music, run, "--splits", "train", "--steps", "2")
    with pytest.raises(ValueError, match=r"--splits dev: .* it has train \(16 tracks\), test \(4 tracks\), valid"):
        trained(music, tmp_path / "other", "--splits", "dev")


@pytest.mark.slow
def test_a_probe_of_what_was_heard_says_so(music: Path, tmp_path: Path) -> None:
    assert trained(music, tmp_path / "run")["manifest"]["heard"] == {"test": 4, "train": 16, "valid": 4}
    assert "Transductive: 4 of 4 test tracks" in probed(music, tmp_path / "run", tmp_path)
