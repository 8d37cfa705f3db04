"""Tracks, manifests and the scan of a folder: what is kept, what is left out and why, and that nothing is lost."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from groundbass.data.audio import mp3
from groundbass.data.audio import read as audio
from groundbass.data.collections.scan import Skipped, scan, scan_folder
from groundbass.data.track import Manifest, Track

Sound = Callable[..., npt.NDArray[np.float32]]
CHORDS = [{"start": 0.0, "end": 1.5, "label": "C:maj"}, {"start": 1.5, "end": 2.0, "label": "N"}]


def cut(source: Path, target: Path, share: float) -> None:
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * share)])


@pytest.fixture
def messy(tmp_path: Path, note: Sound, sweep: Sound) -> Path:
    """Good files in every format and depth, and every kind of bad one."""
    folder = tmp_path / "music"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    tone = sweep(seconds=3.0, sample_rate=44100)
    for suffix in ("wav", "flac", "ogg", "opus", "mp3"):
        audio.write(
            folder / f"good.{suffix}",
            tone if suffix != "opus" else sweep(seconds=3.0, sample_rate=48000),
            44100 if suffix != "opus" else 48000,
        )
        cut(folder / f"good.{suffix}", folder / f"cut.{suffix}", 0.7)
    frames = mp3.index(folder / "good.mp3")
    assert frames is not None
    (folder / "headless.mp3").write_bytes((folder / "good.mp3").read_bytes()[frames.offsets[0] :])
    cut(folder / "headless.mp3", folder / "cut_headless.mp3", 0.5)
    audio.write(folder / "deep" / "er" / "UPPER.WAV", note(60), 22050)
    audio.write(folder / "left.wav", np.stack([note(64), 0 * note(64)]), 22050)
    (folder / "copy.wav").write_bytes((folder / "left.wav").read_bytes())
    audio.write(folder / "silent.flac", np.zeros(22050), 22050)
    audio.write(folder / "opposite.wav", np.stack([note(50), -note(50)]), 22050)
    audio.write(folder / "short.wav", note(60, seconds=0.09), 22050)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        broken = note(70)
        broken[20000] = value
        sf.write(folder / f"{name}.wav", broken, 22050, subtype="FLOAT")
    (folder / "text.wav").write_text("Dear diary, this is no sound.")
    (folder / "empty.flac").write_bytes(b"")
    (folder / "._good.mp3").write_bytes(b"a resource fork")
    (folder / ".hidden" / "hidden.wav").write_bytes((folder / "good.wav").read_bytes())
    (folder / "notes.txt").write_text("not audio, not counted")
    (folder / "broken_link.wav").symlink_to(folder / "nowhere.wav")
    (folder / "deep" / "loop").symlink_to(folder)
    return folder


EXPECTED = {
    "cut.wav": "truncated", "cut.flac": "truncated", "cut.ogg": "truncated", "cut.opus": "truncated",
    "cut.mp3": "truncated", "cut_headless.mp3": "truncated", "silent.flac": "silent", "opposite.wav": "silent",
    "short.wav": "too short", "nan.wav": "nan", "inf.wav": "nan", "text.wav": "unreadable", "empty.flac": "unreadable",
    "broken_link.wav": "unreadable", "left.wav": "duplicate",
}  # fmt: skip
KEPT = ["copy.wav", "deep/er/UPPER.WAV", *(f"good.{x}" for x in ("flac", "mp3", "ogg", "opus", "wav")), "headless.mp3"]


def test_scan_sorts_the_good_from_the_bad(messy: Path) -> None:
    manifest, skipped = scan_folder(messy, workers=2, progress=False)
    assert {item.path: item.reason for item in skipped} == EXPECTED, skipped
    assert [track.path for track in manifest] == sorted(KEPT)
    assert all(item.detail for item in skipped)
    by_path = {track.path: track for track in manifest}
    assert by_path["good.flac"] == Track(
        "good.flac", "good.flac", 3 * 44100, 44100, 1, by_path["good.flac"].hash, labels={}
    )
    assert by_path["copy.wav"].channels == 2
    for track in manifest:  # what the manifest says can be read, to the last sample
        assert len(audio.read(manifest.path_of(track))) == track.samples


def test_one_worker_or_two(messy: Path) -> None:
    one, two = (scan_folder(messy, workers=n, progress=False) for n in (1, 2))
    assert list(one[0]) == list(two[0])
    assert one[1] == two[1]


def test_scan_writes_and_tells(messy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("path", "genre", "fold", "energy", "artist", "split", "code", "tags")]
    rows += [("good.wav", "jazz", "1", "0.5", "Ann", "train", "007", '["a", "b"]')]
    rows += [
        ("deep/er/UPPER.WAV", "", "2", "1", "Bob, Jr.", "test", "008", "[]"),
        ("lost.wav", "rock", "3", "", "", "", "", ""),
    ]
    with open(messy / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    scan(messy, tmp_path / "out" / "m.parquet", workers=1)
    told = capsys.readouterr().out
    assert "8 of 23 files kept" in told
    assert "15 skipped" in told
    assert "6 truncated" in told
    assert "1 rows name no kept file, the first is lost.wav" in told
    assert "6 kept files have no row" in told
    with open(tmp_path / "out" / "m.skipped.csv", newline="") as file:
        assert {row["path"]: row["reason"] for row in csv.DictReader(file)} == EXPECTED
    manifest = Manifest.open(tmp_path / "out" / "m.parquet")
    track = next(track for track in manifest if track.path == "good.wav")
    assert (track.artist, track.split) == ("Ann", "train")
    assert track.labels == {"genre": "jazz", "fold": 1, "energy": 0.5, "code": "007", "tags": ["a", "b"]}
    upper = next(track for track in manifest if track.path == "deep/er/UPPER.WAV")
    assert upper.labels == {"fold": 2, "energy": 1.0, "code": "008", "tags": []}  # the empty cell is no label
    assert sorted(os.listdir(tmp_path / "out")) == ["m.parquet", "m.skipped.csv"]


@pytest.mark.parametrize(
    ("prepare", "match"),
    [
        (lambda folder: None, "no audio in"),
        (lambda folder: (folder / "readme.txt").write_text("hello"), "no audio in"),
        (lambda folder: (folder / "a.wav").write_text("hello"), "None of the 1 audio files"),
    ],
)
def test_nothing_to_hear(tmp_path: Path, prepare: Callable[[Path], Any], match: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(ValueError, match=match):
        scan(folder, tmp_path / "m.parquet", workers=1)
    assert not (tmp_path / "m.parquet").exists()


def test_scan_of_a_data_set_with_its_test_set_says_so(
    tmp_path: Path, note: Sound, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, part in enumerate(("train", "test")):
        (tmp_path / "set" / part).mkdir(parents=True)
        audio.write(tmp_path / "set" / part / "a.wav", note(60 + number, 1.0), 22_050)
    scan(tmp_path / "set", tmp_path / "m.parquet", workers=1)
    assert "to keep a test set unheard, scan train/ alone" in capsys.readouterr().out
    scan(tmp_path / "set/train", tmp_path / "m.parquet", workers=1)
    assert "unheard" not in capsys.readouterr().out


def test_scan_fails_at_the_door(tmp_path: Path, note: Sound) -> None:
    audio.write(tmp_path / "a.wav", note(60), 22050)
    with pytest.raises(FileNotFoundError, match="does not exist: give the folder"):
        scan(tmp_path / "nowhere", tmp_path / "m.parquet")
    with pytest.raises(OSError, match="can't be written"):
        scan(tmp_path, tmp_path / "a.wav" / "m.parquet")
    with pytest.raises(ValueError, match=r"must end in \.parquet"):
        scan(tmp_path, tmp_path / "m.csv")
    (tmp_path / "labels.csv").write_text("file,genre\na.wav,jazz\n")
    with pytest.raises(ValueError, match=r"no column `path`"):
        scan(tmp_path, tmp_path / "m.parquet")
    (tmp_path / "labels.csv").write_text("path,genre\na.wav,jazz\na.wav,rock\n")
    with pytest.raises(ValueError, match=r"a\.wav more than once"):
        scan(tmp_path, tmp_path / "m.parquet")


@pytest.fixture
def tracks() -> list[Track]:
    labels: list[dict[str, Any]] = [
        {"style": "jazz", "tempo": 120.0, "pitch": 60, "beats": [0.5, 1.0], "tags": ["a"], "chords": CHORDS},
        {"style": "rock", "tempo": 90.5, "beats": [], "tags": []},
        {},
    ]
    return [
        Track(f"k{n}", f"deep/{n}.flac", 1000 * (n + 1), 100, 1, f"hash{n}", "train" if n else None, None, labels[n])
        for n in range(3)
    ]


def test_manifest_round_trip(tracks: list[Track], tmp_path: Path) -> None:
    manifest = Manifest.from_tracks(tracks, tmp_path)
    manifest.write(tmp_path / "m.parquet")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "0.flac").touch()
    again = Manifest.open(tmp_path / "m.parquet")
    assert list(again) == tracks
    assert [again[n] for n in (0, 1, 2, -1)] == [*tracks, tracks[-1]]
    assert again.root == tmp_path
    assert again.labels("chords") == [CHORDS, None, None]
    assert again.seconds().tolist() == [10.0, 20.0, 30.0]
    assert list(again.select([2, 0])) == [tracks[2], tracks[0]]
    assert list(again[1:]) == tracks[1:]
    with pytest.raises(IndexError):
        again[3]
    with pytest.raises(ValueError, match="no label 'genre': it has style, tempo"):
        again.labels("genre")


def test_pandas_reads_it(tracks: list[Track], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    Manifest.from_tracks(tracks, tmp_path).write(tmp_path / "m.parquet")
    frame = pandas.read_parquet(tmp_path / "m.parquet")
    assert frame["label.style"].tolist()[:2] == ["jazz", "rock"]
    assert frame["label.chords"][0][0] == CHORDS[0]
    assert frame["label.beats"][0].tolist() == [0.5, 1.0]


def test_root_travels(tracks: list[Track], tmp_path: Path) -> None:
    """Inside each other: relative, and both move together. Apart: absolute. Lost: a sentence, and root= cures it."""
    home = tmp_path / "home"
    (home / "audio" / "deep").mkdir(parents=True)
    (home / "audio" / "deep" / "0.flac").touch()
    Manifest.from_tracks(tracks, home / "audio").write(home / "m.parquet")
    (tmp_path / "elsewhere").mkdir()
    Manifest.from_tracks(tracks, home / "audio").write(tmp_path / "elsewhere" / "m.parquet")
    stored = [
        json.loads(pq.read_schema(p / "m.parquet").metadata[b"groundbass"])["root"]
        for p in (home, tmp_path / "elsewhere")
    ]
    assert stored == ["audio", (home / "audio").resolve().as_posix()]
    moved = home.rename(tmp_path / "moved")
    assert Manifest.open(moved / "m.parquet").root == moved / "audio"
    with pytest.raises(FileNotFoundError, match=r"home/audio/deep/0\.flac is missing.*--root"):
        Manifest.open(tmp_path / "elsewhere" / "m.parquet")
    rescued = Manifest.open(tmp_path / "elsewhere" / "m.parquet", root=moved / "audio")
    assert rescued.path_of(rescued[0]).is_file()


def test_manifest_fails_in_sentences(tracks: list[Track], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Two tracks have the key 'k0'"):
        Manifest.from_tracks([tracks[0], tracks[0]], tmp_path)
    mixed = [Track("a", "a", 1, 1, 1, "", labels={"x": 1}), Track("b", "b", 1, 1, 1, "", labels={"x": "one"})]
    with pytest.raises(ValueError, match="Label 'x' mixes types"):
        Manifest.from_tracks(mixed, tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no manifest"):
        Manifest.open(tmp_path / "m.parquet")
    (tmp_path / "m.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match="is no Parquet file"):
        Manifest.open(tmp_path / "m.parquet")


def test_a_million_tracks_open_at_once(tmp_path: Path) -> None:
    """The table stays Arrow: opening and indexing build no million objects."""
    import pyarrow as pa

    one = Manifest.from_tracks([Track("k", "a.wav", 1000, 100, 1, "h", labels={"genre": "jazz"})], tmp_path)
    many = Manifest(pa.concat_tables([one.table] * 1000).combine_chunks(), tmp_path)
    many = Manifest(pa.concat_tables([many.table] * 1000), tmp_path)
    assert len(many) == 1_000_000
    assert many[999_999] == one[0]
    assert many.seconds().sum() == 1e7


def test_skipped_is_plain_data() -> None:
    assert Skipped("a.wav", "silent") == Skipped("a.wav", "silent", "")
