"""The same recording after codecs, resampling, gain and cutting is found, at its place; another recording isn't."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import soxr

from groundbass.cli import main
from groundbass.data.audio import read as audio
from groundbass.data.collections.fingerprints import RATE, SHIFTS, Index, Prints, fingerprint, peaks
from groundbass.data.collections.overlap import find_overlap, without
from groundbass.data.collections.scan import scan_folder
from groundbass.data.open import open_sound
from groundbass.data.storage.sharding import write_shards
from groundbass.data.storage.shards import Shards
from groundbass.data.track import Manifest
from groundbass.pretrain.run.heard import avoiding

HIGH = 24_000


def piece(seed, seconds=16.0, rate=HIGH):
    """Music-like: three voices of decaying, harmonic notes from one scale, and a noisy beat at the piece's tempo."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    sound = np.zeros(len(time))
    for voice in range(3):
        start = 0.0
        while start < seconds:
            length = float(generator.choice([0.25, 0.375, 0.5, 0.75])) * (1 + 0.1 * voice)
            midi = 45 + 12 * voice + generator.choice([0, 2, 4, 5, 7, 9, 11]) + generator.integers(-3, 4)
            here = slice(int(start * rate), min(len(time), int((start + length) * rate)))
            local = time[here] - start
            for harmonic in range(1, 6):
                pitch = harmonic * 440 * 2 ** ((midi - 69) / 12)
                sound[here] += np.sin(2 * np.pi * pitch * local) * np.exp(-3 * local) / harmonic
            start += length
    beat = 0.4 + 0.3 * generator.random()
    sound += 0.3 * generator.normal(size=len(time)) * np.exp(-30 * (time % beat))
    return (0.2 * sound / np.abs(sound).max() * 4).clip(-1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Twelve pieces, as a scanned folder."""
    root = tmp_path_factory.mktemp("library")
    for number in range(12):
        audio.write(root / f"{number:02d}.flac", piece(number), HIGH)
    return scan_folder(root, progress=False)[0]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fingerprints"


CODECS = {
    "mp3": ("MP3", "MPEG_LAYER_III", 16_000), "ogg": ("OGG", "VORBIS", 22_050), "wav": ("WAV", "PCM_16", 11_025),
}  # fmt: skip


def damaged(path, sound, start, seconds=8.0, level=0.1):
    """A cut at a place that is no multiple of a frame, softer, at another rate, encoded at the lowest quality."""
    kind, subtype, rate = CODECS[path.suffix[1:]]
    cut = level * sound[round(start * HIGH) :][: round(seconds * HIGH)]
    quality = {} if kind == "WAV" else {"compression_level": 0.99}
    with sf.SoundFile(path, "w", rate, 1, format=kind, subtype=subtype, **quality) as file:
        file.write(soxr.resample(cut, HIGH, rate))


@pytest.mark.parametrize("codec", CODECS)
def test_found_after_codec_resampling_gain_and_cut(library, tmp_path, codec):
    generator = np.random.default_rng(3)
    starts = {}
    for number in range(0, 12, 3):
        starts[number] = float(generator.uniform(0.5, 7.5))
        damaged(tmp_path / f"x{number}.{codec}", piece(number), starts[number])
    for number in range(100, 104):
        damaged(tmp_path / f"other{number}.{codec}", piece(number), 1.0)
    found = find_overlap(scan_folder(tmp_path, progress=False)[0], library, progress=False, workers=1)
    assert {(hit.a, hit.b) for hit in found.hits} == {(f"x{n}.{codec}", f"{n:02d}.flac") for n in starts}
    for hit in found.hits:
        assert hit.offset == pytest.approx(starts[int(hit.a[1:].split(".")[0])], abs=0.05)
        assert hit.confidence > 32 and 0.2 < hit.share <= 1
    assert found.skipped == {} and (found.a, found.b) == (8, 12)


def test_a_library_overlaps_itself_track_by_track(library):
    found = find_overlap(library, library, progress=False, workers=1)
    assert sorted((hit.a, hit.b) for hit in found.hits) == [(track.key, track.key) for track in library]
    assert all(abs(hit.offset) < 0.05 for hit in found.hits)
    assert len(without(library, found.hits)) == 0
    halves = find_overlap(library[:6], library[6:], progress=False, workers=1)
    assert halves.hits == [] and len(without(library[:6], halves.hits)) == 6


def test_a_longer_recording_that_holds_the_track(library, tmp_path):
    """A mix in which the track begins after 5 s: the offset is negative."""
    mix = np.concatenate([piece(50, 5.0), piece(4), piece(51, 5.0)])
    audio.write(tmp_path / "mix.flac", mix, HIGH)
    (hit,) = find_overlap(scan_folder(tmp_path, progress=False)[0], library, progress=False, workers=1).hits
    assert hit.b == "04.flac" and hit.offset == pytest.approx(-5.0, abs=0.05)


def test_prints_do_not_depend_on_level_and_peaks_lie_where_the_sound_is():
    sound = soxr.resample(piece(0), HIGH, RATE)
    loud, soft = fingerprint(sound), fingerprint(sound * np.float32(0.03125))
    np.testing.assert_array_equal(loud.hashes, soft.hashes)
    assert 30 < len(loud.hashes) / 16 < 130
    time = np.arange(4 * RATE) / RATE
    tones = np.where(time % 1 < 0.5, np.sin(2 * np.pi * 1000 * time), np.sin(2 * np.pi * 2000 * time))
    _, bins = peaks(tones.astype(np.float32))
    strong = np.bincount(bins, minlength=257)
    assert {int(k) for k in np.argsort(strong)[-2:]} == {64, 128}  # 15.625 Hz a bin


def test_following_the_rarest_hashes_finds_what_following_all_does(library, monkeypatch):
    """In a large index few hashes are followed first; matches, offsets and chances must be those of all."""
    prints = [fingerprint(library.read_all(row, RATE, 60.0)) for row in range(len(library))]
    index = Index([*prints, prints[3], Prints(prints[5].hashes[::2], prints[5].frames[::2])])  # two more copies
    generator = np.random.default_rng(0)
    queries = []
    for row in range(12):
        cut = library.read_all(row, RATE, 60.0)[4321:]
        queries.append(fingerprint(0.1 * cut + generator.normal(0, 0.002, len(cut)).astype(np.float32), SHIFTS))
    queries.append(fingerprint(soxr.resample(piece(99), HIGH, RATE), SHIFTS))
    whole = [index.search(query, 10) for query in queries]
    assert [sorted(match.track for match in found) for found in whole[:6]] == [[0], [1], [2], [3, 12], [4], [5, 13]]
    monkeypatch.setattr("groundbass.data.collections.fingerprints.FOLLOWED", 3)
    few = [index.search(query, 10) for query in queries]
    assert [[replace(m, chance=0) for m in found] for found in few] == [
        [replace(m, chance=0) for m in found] for found in whole
    ]


def test_hits_agree_with_counting_by_hand(library):
    """Every place of a query's hashes, against two nested loops."""
    prints = [fingerprint(library.read_all(row, RATE, 5.0)) for row in range(4)]
    index, query = Index(prints), prints[2]
    first = index.begins[query.hashes]
    track, offset, anchor = index._hits(query, first, index.begins[query.hashes + 1] - first)
    expected = sorted(
        (t, int(f) - int(frame), int(frame))
        for code, frame in zip(query.hashes, query.frames)
        for t, p in enumerate(prints)
        for f in p.frames[p.hashes == code]
    )
    assert sorted(zip(track.tolist(), offset.tolist(), anchor.tolist())) == expected


@pytest.mark.parametrize("sound", [np.zeros(5 * RATE), np.zeros(10), np.full(3 * RATE, 0.5), np.ones(0)])
def test_nothing_to_hear_gives_no_prints(sound):
    assert len(fingerprint(sound.astype(np.float32), SHIFTS).hashes) == 0
    assert Index([]).search(fingerprint(soxr.resample(piece(0), HIGH, RATE))) == []
    assert Index([fingerprint(sound.astype(np.float32))]).search(fingerprint(sound.astype(np.float32))) == []


def test_a_repeated_note_is_no_recording():
    """Two players repeat the same note at the same tempo: the hashes agree, the recordings differ."""
    time = np.arange(12 * RATE) / RATE
    first, second = (
        sum(np.sin(2 * np.pi * k * 220 * time) * np.exp(-6 * (time % period)) / k for k in range(1, 8)).astype(
            np.float32
        )
        for period in (0.5, 0.55)
    )
    assert Index([fingerprint(first)]).search(fingerprint(second, SHIFTS)) == []


def test_prints_are_remembered_and_a_damaged_memory_is_made_anew(library, cache, monkeypatch):
    first = find_overlap(library[:3], library[:3], progress=False, workers=1)
    files = sorted(cache.glob("*.npz"))
    assert len(files) == 2  # with and without shifts
    monkeypatch.setattr("groundbass.data.collections.overlap.fingerprint", None)
    assert find_overlap(library[:3], library[:3], progress=False, workers=1) == first
    monkeypatch.undo()
    monkeypatch.setenv("GROUNDBASS_CACHE", str(cache.parent))
    files[0].write_bytes(files[0].read_bytes()[:100])
    assert find_overlap(library[:3], library[:3], progress=False, workers=1) == first


def test_unreadable_tracks_are_skipped_named_and_read_again(library, tmp_path, cache):
    tracks = [
        replace(library[0], path=str(library.path_of(library[0])), hash="x"),
        replace(library[1], path="lost.flac"),
    ]
    broken = Manifest.from_tracks(tracks, tmp_path)
    found = find_overlap(broken, library, progress=False, workers=1)
    assert list(found.skipped) == ["01.flac"] and "lost.flac" in found.skipped["01.flac"]
    assert [hit.a for hit in found.hits] == ["00.flac"]
    audio.write(tmp_path / "lost.flac", piece(1), HIGH)
    assert find_overlap(broken, library, progress=False, workers=1).skipped == {}
    nothing = find_overlap(library[:0], library[:2], progress=False, workers=1)
    assert (nothing.hits, nothing.a, nothing.b) == ([], 0, 2)


def test_command_reports_writes_and_excludes(library, tmp_path, capsys):
    library.write(tmp_path / "a.parquet")
    (tmp_path / "b").mkdir()
    damaged(tmp_path / "b/x.mp3", piece(2), 1.3)
    out, rest = tmp_path / "hits.parquet", tmp_path / "rest.parquet"
    words = ["data", "overlap", str(tmp_path / "a.parquet"), str(tmp_path / "b"), "--workers", "1"]
    with pytest.raises(SystemExit) as left:
        main([*words, "--out", str(out), "--exclude", str(rest)])
    said = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0 and "1 of 12 tracks" in said and "11 tracks to train on" in said
    assert pq.read_table(out).to_pylist()[0]["a"] == "02.flac"
    assert "02.flac" not in Manifest.open(rest).column("key") and len(Manifest.open(rest)) == 11
    with pytest.raises(SystemExit):
        main([*words, "--json", "--out", str(tmp_path / "hits.csv")])
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == 11 and found["hits"][0]["offset"] == pytest.approx(-1.3, abs=0.05)
    assert "02.flac" in (tmp_path / "hits.csv").read_text()
    with pytest.raises(SystemExit) as wrong:
        main([*words, "--out", "hits.txt"])
    assert wrong.value.code == 2 and ".parquet, .csv or .json" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"CORPUS:ROOT .*with one of .*gtzan"):
        open_sound("gtzam:/data")


def test_corpora_by_their_names(tmp_path, monkeypatch):
    for place in ("gtzan", "elsewhere"):
        (tmp_path / place / "genres/jazz").mkdir(parents=True)
        audio.write(tmp_path / place / "genres/jazz/jazz.00003.wav", piece(3, 2.0), HIGH)
    monkeypatch.setenv("GROUNDBASS_DATA", str(tmp_path))
    for address in ("gtzan", f"gtzan:{tmp_path / 'elsewhere'}"):
        assert open_sound(address).column("key").tolist() == ["jazz.00003"]
    monkeypatch.delenv("GROUNDBASS_DATA")
    with pytest.raises(ValueError, match="set GROUNDBASS_DATA"):
        open_sound("gtzan")


def test_training_avoids_what_is_tested_on(library, tmp_path, capsys):
    library.write(tmp_path / "train.parquet")
    (tmp_path / "test").mkdir()
    damaged(tmp_path / "test/x.ogg", piece(7), 2.0)
    run = tmp_path / "run"
    kept = avoiding(tmp_path / "train.parquet", [str(tmp_path / "test")], run)
    assert "1 of 12 tracks left out" in capsys.readouterr().err
    assert "07.flac" not in Manifest.open(kept).column("key") and len(Manifest.open(kept)) == 11
    assert json.loads((run / "avoided.json").read_text())["hits"][0]["a"] == "07.flac"
    assert avoiding(tmp_path / "train.parquet", [str(tmp_path / "test")], run) == kept  # a run that goes on
    with pytest.raises(ValueError, match="was begun avoiding"):
        avoiding(tmp_path / "train.parquet", ["elsewhere"], run)
    library.select(range(3)).write(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"was begun on .*train\.parquet, and .*other\.parquet holds other tracks"):
        avoiding(tmp_path / "other.parquet", [str(tmp_path / "test")], run)
    with pytest.raises(ValueError, match="nothing is left"):
        avoiding(tmp_path / "train.parquet", [str(tmp_path / "train.parquet")], tmp_path / "other")


def test_shards_and_data_sets_are_searched_too(library, tmp_path, capsys):
    """What is trained on may be packed: the same hits, and what is left stays packed."""
    write_shards(library, tmp_path / "shards", HIGH, 5.0, workers=1, progress=False)
    (tmp_path / "test").mkdir()
    damaged(tmp_path / "test/x.ogg", piece(7), 2.0)
    cells = [{"audio": {"bytes": library.path_of(library[n]).read_bytes(), "path": f"{n}"}} for n in (6, 7, 8)]
    datasets.Dataset.from_list(cells).to_parquet(str(tmp_path / "train-00000-of-00001.parquet"))
    (tmp_path / "set").mkdir()
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "set/train-00000-of-00001.parquet")
    for place, count, hit in (("shards", 12, "07.flac"), ("set", 3, "7#1")):
        rest = tmp_path / f"{place}.rest.parquet"
        with pytest.raises(SystemExit) as left:
            main(["data", "overlap", str(tmp_path / place), str(tmp_path / "test"), "--json", "--exclude", str(rest)])
        assert left.value.code == 0
        found = json.loads(capsys.readouterr().out)
        assert [item["a"] for item in found["hits"]] == [hit] and found["kept"] == count - 1
        kept = open_sound(rest)
        assert type(kept) is type(open_sound(tmp_path / place)) and hit not in kept.column("key")
        assert len(kept.read(count - 2, HIGH, 100, 500)) == 500
    run = tmp_path / "run"
    kept = avoiding(tmp_path / "shards", [str(tmp_path / "test")], run)
    assert "1 of 12 tracks left out" in capsys.readouterr().err
    assert isinstance(open_sound(kept), Shards) and len(open_sound(kept)) == 11
