"""`--part I/N` of long jobs: all parts, in any order, and the same command without --part give the bytes of one run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import EncodecConfig, EncodecModel

from groundbass import cli
from groundbass.data.audio.read import write
from groundbass.data.parallel import Part

RATE = 24_000


def run(*argv: object) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in argv])
    assert not stop.value.code


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nineteen recordings; the 5th is silent, the 7th no audio, the 12th has the bytes of the 2nd."""
    folder = tmp_path_factory.mktemp("music")
    for number in range(19):
        clock = np.arange(RATE * 3) / RATE
        sweep = np.sin(2 * np.pi * (200 + 37 * number) * clock * (1 + 0.3 * clock))
        file = folder / f"{number:02d}.wav"
        write(file, (0.3 * sweep * (number != 5)).astype(np.float32), RATE)
        if number == 7:
            file.write_bytes(b"no audio at all")
        if number == 12:
            file.write_bytes((folder / "02.wav").read_bytes())
    (folder / "labels.csv").write_text("path,n\n" + "".join(f"{n:02d}.wav,{n % 3}\n" for n in range(19)))
    return folder


@pytest.fixture(scope="module")
def manifest(music: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifest") / "music.parquet"
    run("data", "scan", music, out, "--workers", 1)
    return out


def files(folder: Path) -> dict[str, bytes]:
    """What was written, without locks, notes of progress and prints."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.name
    }


def in_parts(one: Path, several: Path, command: Callable[[Path], list[object]], finish: bool = True) -> None:
    """Run a command whole and in three parts, the last first, and compare everything that they leave."""
    run(*command(one))
    for number in (3, 1, 2):
        run(*command(several), "--part", f"{number}/3")
    if finish:
        run(*command(several))
    assert files(one) == files(several)
    assert files(one)


@pytest.mark.parametrize("total", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_parts_are_everything_once_in_order(total: int, count: int) -> None:
    parts = [Part(number, count).rows(total) for number in range(1, count + 1)]
    assert [row for part in parts for row in part] == list(range(total))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_parts_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="part I of N"):
        Part.of(text)


def test_scan(music: Path, tmp_path: Path) -> None:
    in_parts(
        tmp_path / "one",
        tmp_path / "several",
        lambda out: ["data", "scan", music, made(out) / "m.parquet", "--workers", 1],
    )
    said = (tmp_path / "several" / "m.skipped.csv").read_text()
    assert "12.wav,duplicate,the same bytes as 02.wav" in said  # of another part


def made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_scan_reads_a_file_again_that_has_changed(music: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in music.glob("0[0-3].wav"):
        (folder / file.name).write_bytes(file.read_bytes())
    run("data", "scan", folder, tmp_path / "m.parquet", "--part", "1/1", "--workers", 1)
    (folder / "01.wav").write_bytes(b"gone")
    os.utime(folder / "01.wav", (1, 1))
    run("data", "scan", folder, tmp_path / "m.parquet", "--workers", 1)
    assert "01.wav" in (tmp_path / "m.skipped.csv").read_text()
    assert not (tmp_path / ".m.parquet.parts").exists()


def test_shard(manifest: Path, tmp_path: Path) -> None:
    in_parts(
        tmp_path / "one",
        tmp_path / "several",
        lambda out: ["data", "shard", manifest, out, "--shard-mb", 1, "--chunk-seconds", 1, "--workers", 1],
    )
    assert len(list((tmp_path / "one").glob("shard-*.parquet"))) >= 2


@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_embed(music: Path, tmp_path: Path, ending: str) -> None:
    def command(out: Path) -> list[object]:
        return ["embed", "groundbass-tiny", music, "--out", made(out) / f"v.{ending}", "--unit", "window"]

    in_parts(tmp_path / "one", tmp_path / "several", command)


def test_predict(music: Path, tmp_path: Path) -> None:
    def command(out: Path) -> list[object]:
        return ["predict", music, "--out", made(out) / "p.json", "--out", out / "p.csv", "--quiet"]

    in_parts(tmp_path / "one", tmp_path / "several", command)


def test_codes(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundbass.pretrain.targets.codec.TRACKS_PER_PART", 4)
    config = EncodecConfig(
        sampling_rate=RATE, upsampling_ratios=[8, 5, 4, 2], num_filters=2, hidden_size=4, codebook_dim=4,
        codebook_size=8, target_bandwidths=[1.5, 3.0], num_lstm_layers=1, num_residual_layers=1,
    )  # fmt: skip
    EncodecModel(config).save_pretrained(tmp_path / "codec")
    in_parts(
        tmp_path / "one",
        tmp_path / "several",
        lambda out: ["data", "codes", manifest, out, "--codec", tmp_path / "codec", "--codebooks", 2],
        finish=False,
    )
    assert len(list((tmp_path / "one").glob("part_*.npy"))) == 5 - 1


def test_overlap(manifest: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundbass.data.collections.overlap.BATCH", 4)

    def command(out: Path) -> list[object]:
        monkeypatch.setenv("GROUNDBASS_CACHE", str(out / "cache"))
        return ["data", "overlap", manifest, manifest, "--out", made(out) / "hits.json", "--workers", 1]

    in_parts(tmp_path / "one", tmp_path / "several", command)
