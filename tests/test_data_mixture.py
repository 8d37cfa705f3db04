"""Several manifests as one: weights are heard exactly, what they share once."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from groundbass.data.audio.read import write
from groundbass.data.collections.mixed import Part, mixed, parse
from groundbass.data.collections.scan import scan_folder
from groundbass.data.crops import CropConfig, Crops
from groundbass.data.labels.folder import opened
from groundbass.pretrain.command import main

RATE = 8000


def folder(place: Path, seeds: list[int], seconds: float = 6.0) -> Path:
    """Noise bursts with a melody, unlike each other; the manifest's path."""
    place.mkdir()
    for seed in seeds:
        draw = np.random.default_rng(seed)
        notes = np.repeat(draw.uniform(200, 3000, int(seconds * 4)), RATE // 4)
        sound = 0.3 * np.sin(2 * np.pi * np.cumsum(notes) / RATE) + 0.02 * draw.standard_normal(len(notes))
        write(place / f"{seed}.flac", sound.astype(np.float32), RATE)
    manifest, _ = scan_folder(place, workers=1, progress=False)
    manifest.write(place.with_suffix(".parquet"))
    return place.with_suffix(".parquet")


def test_words() -> None:
    assert parse("a.parquet") == Part("a.parquet")
    assert parse("a=b/c.parquet=2.5") == Part("a=b/c.parquet", 2.5)
    assert parse("a=b.parquet") == Part("a=b.parquet")
    with pytest.raises(ValueError, match="above 0"):
        parse("a.parquet=0")


@pytest.mark.parametrize("epoch", ["track", "duration"])
def test_weights_are_heard_exactly(tmp_path: Path, epoch: str) -> None:
    """Over an epoch a manifest of weight 3 is heard three times as often for its length as one of weight 1."""
    a = folder(tmp_path / "a", [0, 1, 2])
    b = folder(tmp_path / "b", [3, 4], seconds=9.0)
    manifest, _ = mixed([Part(a, 3.0), Part(b)])
    crops = Crops(manifest, CropConfig(RATE, RATE, epoch=epoch))  # type: ignore[arg-type]
    heard: Counter[str] = Counter()
    for number in range(4):
        heard.update(manifest[int(row)].key.partition("/")[0] for row in crops.order(number))
    length = {"track": (3, 2), "duration": (18, 18)}[epoch]
    assert heard["0"] == 4 * 3 * length[0] and heard["1"] == 4 * length[1]
    example = crops[0, 0]
    assert np.isfinite(example.waveform).all() and example.waveform.any()


def test_equal_weights_change_nothing(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", [0, 1, 2])
    manifest, _ = mixed([Part(a, 2.0)])
    crops = Crops(manifest, CropConfig(RATE, RATE))
    assert sorted(crops.order(0)) == [0, 1, 2]


def test_the_same_recording_is_heard_once(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [0, 1, 2, 3], 12.0), folder(tmp_path / "b", [2, 7], 12.0)
    manifest, left_out = mixed([Part(a), Part(b)])
    assert left_out == {str(a): 0, str(b): 1} and len(manifest) == 5
    from groundbass.data.audio.read import read

    quiet = 0.3 * read(tmp_path / "a" / "1.flac")[RATE : 9 * RATE]
    write(tmp_path / "b" / "again.ogg", quiet, RATE)
    scan_folder(tmp_path / "b", workers=1, progress=False)[0].write(b)
    assert len(mixed([Part(a), Part(b)])[0]) == 6, "other bytes"
    manifest, left_out = mixed([Part(a), Part(b)], by_sound=True)
    assert left_out[str(b)] == 2 and sorted(manifest.column("key")) == [*(f"0/{k}.flac" for k in range(4)), "1/7.flac"]


def test_labels_stay_and_are_missing_where_there_are_none(tmp_path: Path) -> None:
    (a, b, c), seeds = [tmp_path / name for name in "abc"], iter(range(9))
    for place, cells in ((a, ["genre", "rock", "jazz"]), (b, []), (c, ["genre", "1", "2"])):
        folder(place, [next(seeds), next(seeds)])
        if cells:
            names = sorted(file.name for file in place.glob("*.flac"))
            rows = [f"path,{cells[0]}", *(f"{name},{cell}" for name, cell in zip(names, cells[1:], strict=True))]
            (place / "labels.csv").write_text("\n".join(rows) + "\n")
            scan_folder(place, workers=1, progress=False)[0].write(place.with_suffix(".parquet"))
    manifest, _ = mixed([Part(str(place.with_suffix(".parquet"))) for place in (a, b)])
    assert manifest.table["label.genre"].to_pylist() == ["rock", "jazz", None, None]
    with pytest.raises(ValueError, match=r"The label 'genre' is string in .*a\.parquet, int64 in .*: write it alike"):
        mixed([Part(str(place.with_suffix(".parquet"))) for place in (a, c)])


def test_labels_that_lie_in_files_are_found_from_a_mixture(tmp_path: Path) -> None:
    a, b = folder(tmp_path / "a", [0]), folder(tmp_path / "b", [1])
    (tmp_path / "a" / "0.beats").write_text("0.5 1\n1.0 2\n")
    (tmp_path / "a" / "labels.csv").write_text("path,beats\n0.flac,0.beats\n")
    scan_folder(tmp_path / "a", workers=1, progress=False)[0].write(a)
    manifest, _ = mixed([Part(str(a)), Part(str(b))])
    assert opened(manifest.labels("beats"), manifest) == [[[0.5, 1.0], [1.0, 2.0]], None]


@pytest.mark.slow
def test_a_run_on_two_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = folder(tmp_path / "a", [0, 1, 2]), folder(tmp_path / "b", [2, 3])
    run = tmp_path / "run"
    words = ["contrastive.clmr_debug", "--objective.no-pitch", "--steps", "2", "--workers", "0", "--run", str(run)]
    words += ["--trackers"]
    assert main([*words, "--data", str(a), f"{b}=2"]) == 0
    told = json.loads((run / "mixture.json").read_text())
    assert told["left_out"] == {str(a): 0, str(b): 1}
    record = json.loads((run / "recipe.json").read_text())
    assert record["manifest"]["tracks"] == 4 and str(a) not in record["overrides"]
    assert main([*words, "--steps", "3", "--data", str(a), f"{b}=2"]) == 0
    with pytest.raises(ValueError, match="can't go on with other manifests or weights"):
        main([*words, "--data", str(a), f"{b}=3"])
    with pytest.raises(ValueError, match=r"memory://b \(a URL\) is given with others: give it alone"):
        main([*words, "--data", str(a), "memory://b"])
