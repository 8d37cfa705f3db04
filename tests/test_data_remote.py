"""Audio behind a URL: the tracks and the sound of the same folder on a disk, fetched once; sentences for what isn't."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundbass import cli
from groundbass.data import open as door
from groundbass.data.audio.read import write
from groundbass.data.collections import scan
from groundbass.data.collections.scan import scan_folder
from groundbass.data.labels.folder import read_folder
from groundbass.data.storage import remote
from groundbass.data.storage.remote import RemoteFiles, RemoteFolder
from groundbass.data.storage.sharding import write_shards
from groundbass.probe.addresses import find_tasks

RATE = 24_000


def tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


@pytest.fixture
def music(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five tones with labels, a file that is no audio and a hidden one; a cache of its own."""
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "music"
    for number in range(5):
        (folder / f"band {number % 2}").mkdir(parents=True, exist_ok=True)
        write(folder / f"band {number % 2}" / f"{number}.flac", tone(200 + 50 * number), RATE)
    (folder / "noise.wav").write_bytes(b"no audio")
    (folder / ".hidden.wav").write_bytes(b"no audio")
    (folder / "beats.beats").write_text("0.1 1\n0.6 2\n")
    rows = "".join(f"band {n % 2}/{n}.flac,{n % 2},beats.beats\n" for n in range(5))
    (folder / "labels.csv").write_text("path,band,pulse\n" + rows)
    return folder


@pytest.fixture
def url(music: Path) -> Iterator[str]:
    """The same files in fsspec's memory."""
    memory = fsspec.filesystem("memory")
    for file in music.rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/bucket/music/{file.relative_to(music).as_posix()}", file.read_bytes())
    yield "memory://bucket/music"
    memory.rm("/bucket", recursive=True)


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    assert left.value.code in (0, None)


def same_tracks(found: object, whole: object) -> None:
    assert [str(track) for track in found] == [str(track) for track in whole]  # type: ignore[attr-defined]


def test_a_folder_behind_a_url_is_that_folder(url: str, music: Path) -> None:
    whole, skipped = scan_folder(music, workers=1, progress=False)
    refused: dict[str, str] = {}
    for _ in range(2):  # the second time the scan is remembered
        found = door.open_sound(url, refused=refused, progress=False)
        same_tracks(found, whole)
        assert isinstance(found, RemoteFiles) and not found.has_files
        for row in range(5):
            np.testing.assert_array_equal(found.read(row, 16_000, 100, 500), whole.read(row, 16_000, 100, 500))
    assert len(skipped) == 1 and set(refused) == {"noise.wav"} and ".hidden" not in str(refused)


def test_scan_writes_a_manifest_that_opens_again(url: str, music: Path, tmp_path: Path) -> None:
    run("data", "scan", url, tmp_path / "far.parquet", "--workers", 1)
    run("data", "scan", music, tmp_path / "near.parquet", "--workers", 1)
    far, near = door.open_sound(tmp_path / "far.parquet"), door.open_sound(tmp_path / "near.parquet")
    same_tracks(far, near)
    np.testing.assert_array_equal(far.select([3, 1]).read(0, RATE, 10, 99), near.read(3, RATE, 10, 99))
    assert json.loads(far.table.schema.metadata[b"groundbass"]) == {"version": 1, "root": url}
    for part in (2, 1):
        run("data", "scan", url, tmp_path / "parts.parquet", "--workers", 1, "--part", f"{part}/2")
    run("data", "scan", url, tmp_path / "parts.parquet", "--workers", 1)
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "far.parquet").read_bytes()


def test_a_manifest_in_the_folder_or_by_its_own_url(url: str, music: Path, tmp_path: Path) -> None:
    manifest, _ = scan_folder(music, workers=1, progress=False)
    manifest.select([2, 0]).write(music / "manifest.parquet")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/music/manifest.parquet", (music / "manifest.parquet").read_bytes())
    for address in (url, f"{url}/manifest.parquet"):
        found = door.open_sound(address)
        assert found.column("key").tolist() == manifest.select([2, 0]).column("key").tolist()
        np.testing.assert_array_equal(found.read(0, RATE, 0, 50), manifest.read(2, RATE, 0, 50))
    (tmp_path / "elsewhere").mkdir()
    manifest.write(tmp_path / "elsewhere" / "lost.parquet")  # its root is absolute
    memory.pipe_file("/bucket/lost.parquet", (tmp_path / "elsewhere" / "lost.parquet").read_bytes())
    with pytest.raises(ValueError, match=f"says that its audio lies in {music.resolve()}, which isn't there"):
        door.open_sound("memory://bucket/lost.parquet")
    found = door.open_sound("memory://bucket/lost.parquet", root=url)
    np.testing.assert_array_equal(found.read(0, RATE, 0, 50), manifest.read(0, RATE, 0, 50))


def test_a_strangers_manifest_is_checked(url: str, tmp_path: Path) -> None:
    run("data", "scan", url, tmp_path / "far.parquet", "--workers", 1)
    table = pq.read_table(tmp_path / "far.parquet")
    for name, value, sentence in (
        ("samples", [1 << 60] * len(table), "says samples = "),
        ("path", ["../../secrets.wav"] * len(table), "is no path below"),
        ("version", ["../../.."] * len(table), "is no path below"),
    ):
        place = table.schema.get_field_index(name)
        pq.write_table(table.set_column(place, name, pa.array(value)), tmp_path / "odd.parquet")
        with pytest.raises(ValueError, match=sentence):
            door.open_sound(tmp_path / "odd.parquet").read(0, RATE, 0, 9)


def test_labels_and_annotations_come_along(url: str) -> None:
    folder = read_folder(url)
    assert folder.columns["band"] == [0, 0, 0, 1, 1]
    assert folder.column("pulse").kind.name == "beats"


def test_one_file_and_shards_behind_a_url(url: str, music: Path, tmp_path: Path) -> None:
    one = door.open_sound(f"{url}/band 0/2.flac")
    assert one.column("key").tolist() == ["2.flac"] and one.read(0, RATE, 0, 10).shape == (10,)
    assert door.address_kind(url) == "remote"
    write_shards(scan_folder(music, workers=1, progress=False)[0], tmp_path / "out", RATE, workers=1, progress=False)
    memory = fsspec.filesystem("memory")
    for file in (tmp_path / "out").rglob("*.parquet"):
        memory.pipe_file(f"/bucket/packed/{file.relative_to(tmp_path / 'out').as_posix()}", file.read_bytes())
    assert door.address_kind("memory://bucket/packed") == "URL"
    assert len(door.open_sound("memory://bucket/packed")) == len(door.open_sound("synth:memory://bucket/packed")) == 5


def test_a_file_that_changes_is_fetched_again(url: str, tmp_path: Path) -> None:
    before = door.open_sound(url).read(0, RATE)
    write(tmp_path / "new.flac", tone(999), RATE)
    fsspec.filesystem("memory").pipe_file("/bucket/music/band 0/0.flac", (tmp_path / "new.flac").read_bytes())
    after = door.open_sound(url).read(0, RATE)
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, tone(999), atol=1e-4)


def test_a_file_is_fetched_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = door.open_sound(url)
    fetched = []
    monkeypatch.setattr(remote, "filesystem_of", lambda folder: fetched.append(folder))
    assert all(len(found.read(row, RATE, 0, 9)) == 9 for row in range(5)) and not fetched


def test_copies_make_room_for_others(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote, "OFTEN", 1)
    monkeypatch.setenv(remote.ROOM_GB, "0.00003")  # one file of 30 kB or so
    found = door.open_sound(url)
    kept = list((tmp_path / "cache" / "remote").rglob("*.flac"))
    assert 1 <= len(kept) < 5
    assert all(len(found.read(row, RATE, 0, 9)) == 9 for row in range(5))
    monkeypatch.setenv(remote.ROOM_GB, "much")
    with pytest.raises(ValueError, match="GROUNDBASS_REMOTE_GB=much is no number of gigabytes"):
        RemoteFolder(url).fetch("band 0/0.flac", "other")


def test_a_copy_that_goes_before_it_is_examined_is_fetched_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    examine, gone = scan.examine, []

    def too_late(root: Path, path: str) -> object:
        if path not in gone:
            gone.append(path)
            (root / path).unlink()  # as another process does that makes room
        return examine(root, path)

    monkeypatch.setattr(scan, "examine", too_late)
    place = RemoteFolder(url)
    found, skipped = scan.scan_remote(place, place.files(), workers=1, progress=False)
    assert len(found) == 5 and len(gone) == 6 and [item.path for item in skipped] == ["noise.wav"]


def test_what_cannot_be_had_is_a_sentence(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fsspec.register_implementation("packed", "not_there.System", clobber=True)
    with pytest.raises(ValueError, match=r"packed://x can't be opened: .*: pip install .groundbass\[remote\]"):
        door.open_sound("packed://x")
    with pytest.raises(ValueError, match="elsewhere://x can't be opened"):
        door.open_sound("elsewhere://x")
    with pytest.raises(FileNotFoundError, match="There is nothing in memory://nowhere"):
        door.open_sound("memory://nowhere")
    with pytest.raises(FileNotFoundError, match=r"There is no memory://bucket/music/gone\.wav"):
        door.open_sound(f"{url}/gone.wav")
    with pytest.raises(FileNotFoundError, match=r"There is no memory://bucket/gone\.parquet"):
        door.open_sound("memory://bucket/gone.parquet")
    with pytest.raises(ValueError, match=r"is no path below"):
        RemoteFolder(url).fetch("../secrets.wav")
    fsspec.filesystem("memory").pipe_file("/bucket/text/notes.txt", b"no audio")
    with pytest.raises(ValueError, match="There is no audio in memory://bucket/text"):
        door.open_sound("memory://bucket/text")


def test_a_corpus_behind_a_url_is_fetched_for_its_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As its folder on a disk is read; what is here already isn't fetched again, and what went since is."""
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    here, memory = tmp_path / "gtzan", fsspec.filesystem("memory")
    for number in range(4):
        genre = ("blues", "rock")[number % 2]
        file = here / "genres" / genre / f"{genre}.{number:05d}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, tone(200 + 50 * number), RATE)
        memory.pipe_file(f"/shelf/gtzan/{file.relative_to(here).as_posix()}", file.read_bytes())
    near = door.open_sound(f"gtzan:{here}", progress=False)
    far = door.open_sound("gtzan:memory://shelf/gtzan/")
    assert "memory://shelf/gtzan: fetching 4 files, 0.00 GB." in capsys.readouterr().err
    same_tracks(far, near)
    fetched: list[str] = []
    monkeypatch.setattr(memory, "get_file", lambda place, *_: fetched.append(place) or pytest.fail("fetched again"))
    np.testing.assert_array_equal(far.read(2, RATE, 0, 99), near.read(2, RATE, 0, 99))
    same_tracks(door.open_sound("gtzan:memory://shelf/gtzan"), near)
    monkeypatch.undo()
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    for copy in (tmp_path / "cache" / "remote").rglob("*.wav"):
        copy.unlink()  # as others do that make room
    np.testing.assert_array_equal(far.read(2, RATE, 0, 99), near.read(2, RATE, 0, 99))
    with pytest.raises(ValueError, match="no labelled track for test; it holds"):  # of these four
        find_tasks("gtzan_genre:memory://shelf/gtzan")
    monkeypatch.setenv(remote.ROOM_GB, "0.0001")
    with pytest.raises(
        OSError, match=r"holds 0\.0 GB, and 0\.0001 of fetched files may stay here: raise GROUNDBASS_RE"
    ):
        door.open_sound("gtzan:memory://shelf/gtzan")
    memory.rm("/shelf", recursive=True)


def test_training_takes_a_root_behind_a_url(url: str, music: Path, tmp_path: Path) -> None:
    """The manifest of a folder that is gone trains on its copy in a bucket, to the same loss."""
    manifest = tmp_path / "music.parquet"
    run("data", "scan", music, manifest, "--workers", 1)
    words = ["pretrain", "predictive.cpc_debug", "--data", manifest, "--steps", 2, "--workers", 0]
    run(*words, "--run", tmp_path / "near")
    music.rename(tmp_path / "gone")
    run(*words, "--run", tmp_path / "far", "--root", url)
    assert (tmp_path / "far/loss.jsonl").read_bytes() == (tmp_path / "near/loss.jsonl").read_bytes()


def test_degrade_reads_a_url(url: str, tmp_path: Path) -> None:
    run("data", "degrade", url, tmp_path / "out", "--chain", "phone", "--workers", 1, "--quiet")
    assert len(door.open_sound(tmp_path / "out" / "manifest.parquet")) == 5


def test_over_http(music: Path) -> None:
    """From Python's own server, which lists folders as pages."""
    pytest.importorskip("aiohttp")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(music))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            found = door.open_sound(f"http://127.0.0.1:{server.server_port}/band%200")
            assert len(found) == 3 and found.read(2, RATE, 0, 10).shape == (10,)
        finally:
            server.shutdown()
