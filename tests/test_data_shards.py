"""Shards: the crops of the files, from Parquet; killed, cut, flipped, full; and data sets of the library `datasets`."""

import errno
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import datasets
import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from groundbass.cli import main
from groundbass.data.audio import read as audio
from groundbass.data.collections.scan import scan_folder
from groundbass.data.crops import CropConfig, Crops
from groundbass.data.loader import loader
from groundbass.data.open import open_sound
from groundbass.data.storage import sharding
from groundbass.data.storage.sharding import write_shards
from groundbass.data.storage.shards import INDEX, OURS, Shards, is_sharded
from groundbass.data.track import Manifest

RATE = 8000
CHUNK = 1.5  # s, so that crops span chunks


def tone(number, seconds, rate):
    time = np.arange(round(seconds * rate)) / rate
    noise = 0.05 * np.random.default_rng(number).normal(size=len(time))
    return (0.4 * np.sin(2 * np.pi * (150 + 20 * number) * time) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Nine files of several rates, lengths and formats; one overshoots full scale, as decoders of Vorbis do."""
    root = tmp_path_factory.mktemp("files")
    for number in range(9):
        rate = (8000, 11_025, 16_000)[number % 3]
        sound = tone(number, 0.7 + 0.9 * number, rate)
        name = root / f"{number}.{('flac', 'wav', 'ogg')[number % 3]}"
        audio.write(name, sound * (2.2 if number == 8 else 1), rate)
    (root / "labels.csv").write_text("path,mood,split\n" + "".join(f"{n}.flac,calm,train\n" for n in (0, 3, 6)))
    manifest = scan_folder(root, progress=False)[0]
    manifest.write(root / "manifest.parquet")
    return manifest


def write(corpus, out, **more):
    return write_shards(corpus, out, RATE, CHUNK, 1, workers=1, progress=False, **more)


@pytest.fixture
def small(monkeypatch):
    """Shards of a few seconds, so that nine files make several."""
    monkeypatch.setattr(sharding, "PACKED", 8.0)


@pytest.fixture
def sharded(corpus, tmp_path, small):
    write(corpus, tmp_path / "out")
    return Shards.open_folder(tmp_path / "out")


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted in /proc")
def test_index_and_remote_chunks_are_read_by_one_thread(corpus, tmp_path, small):
    """Arrow's threads let go of a file of Python's when they like, and abort a process that has just ended."""
    write(corpus, tmp_path / "out")
    code = """
import os, sys
from groundbass.data.storage.shards import Shards
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
assert len(Shards.open_folder(sys.argv[1])) == 9
print(threads() - before)
assert len(Shards.open_folder("file://" + sys.argv[1]).read(5)) > 9000
print(threads() - before)"""
    line = [sys.executable, "-c", code, str(tmp_path / "out")]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "0\n0\n"


def test_the_crops_of_the_files(corpus, sharded):
    assert len(sharded.files) >= 3 and len(sharded) == 9
    config = CropConfig(RATE, 4000, views=2)
    files, packed = Crops(corpus, config, seed=5), Crops(sharded, config, seed=5)
    assert files.epoch_length == packed.epoch_length
    for epoch in range(4):
        for position in range(files.epoch_length):
            a, b = files[epoch, position], packed[epoch, position]
            assert a.key == b.key and a.starts.tolist() == b.starts.tolist() and a.valid.tolist() == b.valid.tolist()
            assert np.abs(a.waveform - b.waveform).max() <= 2**-15
    longest = Crops(corpus, CropConfig(RATE, 60_000), 0)[0, 0]  # longer than any track: all chunks, then padding
    np.testing.assert_allclose(
        Crops(sharded, CropConfig(RATE, 60_000), 0)[0, 0].waveform, longest.waveform, atol=2**-15
    )


def test_overshoot_is_kept(corpus, sharded):
    row = [track.key for track in sharded].index("8.ogg")
    sound = sharded.read(row)
    assert np.abs(sound).max() > 1.0  # not clipped
    np.testing.assert_allclose(sound, corpus.read(row, RATE)[: len(sound)], atol=2**-15)


def test_reading_any_stretch(corpus, sharded):
    row = [track.key for track in sharded].index("7.wav")
    whole = sharded.read(row)
    for start, samples in ((0, 10), (11_990, 20), (12_000, 12_000), (5000, 30_000), (len(whole) - 5, 100), (10**6, 5)):
        np.testing.assert_array_equal(sharded.read(row, RATE, start, samples), whole[start : start + samples])
    with pytest.raises(ValueError, match="--sample-rate 16000"):
        sharded.read(row, 16_000)


def test_labels_splits_and_selections_are_kept(corpus, sharded):
    assert sharded.labels("mood") == corpus.labels("mood")
    assert [t.split for t in sharded] == [t.split for t in corpus] and [t.hash for t in sharded] == [
        t.hash for t in corpus
    ]
    chosen = sharded.select([4, 1])
    np.testing.assert_array_equal(chosen.read(1), sharded.read(1))
    np.testing.assert_array_equal(chosen[:1].read(0), sharded.read(4))


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_an_epoch_and_resume(corpus, sharded, workers):
    """Each example on one rank, in the order of the files; step 3 alone is step 3 of a run."""
    files = Crops(corpus, CropConfig(RATE, 3000), 1)
    packed = pickle.loads(pickle.dumps(Crops(sharded, CropConfig(RATE, 3000), 1)))
    whole = loader(files, 4, workers=0)
    expected = [
        (key, start) for _ in range(4) for b in [next(whole)] for key, start in zip(b.keys, b.starts[:, 0].tolist())
    ]
    ranks = [loader(packed, 2, rank=rank, ranks=2, workers=workers) for rank in (0, 1)]
    found = []
    for _ in range(4):
        for one in ranks:
            batch = next(one)
            found += zip(batch.keys, batch.starts[:, 0].tolist())
    assert found == expected
    late = next(loader(packed, 2, rank=1, ranks=2, first_step=3, workers=workers))
    assert list(zip(late.keys, late.starts[:, 0].tolist())) == expected[14:16]


def test_a_killed_run_goes_on_and_equals_an_undisturbed_one(corpus, tmp_path, small, monkeypatch):
    write(corpus, tmp_path / "whole")
    real, made = sharding._write_shard, []

    def dying(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(sharding, "_write_shard", dying)
    with pytest.raises(KeyboardInterrupt):
        write(corpus, tmp_path / "killed")
    assert is_sharded(tmp_path / "killed")
    with pytest.raises(FileNotFoundError, match="sharding was not finished"):
        Shards.open_folder(tmp_path / "killed")
    monkeypatch.undo()
    monkeypatch.setattr(sharding, "PACKED", 8.0)
    (tmp_path / "killed/.shard-00002.parquet.77").write_bytes(b"half")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*.parquet")}
    assert len(before) == 2
    write(corpus, tmp_path / "killed")
    assert all((tmp_path / "killed" / name).stat().st_mtime_ns == time for name, time in before.items())
    names = sorted(os.listdir(tmp_path / "killed"))
    assert names == sorted(os.listdir(tmp_path / "whole")) and not any(name.startswith(".") for name in names)
    for name in names:
        if name.startswith("shard"):
            assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert "finished already" in write(corpus, tmp_path / "killed")[0]


def test_several_processes_write_the_same_bytes(corpus, tmp_path):
    write_shards(corpus, tmp_path / "one", RATE, CHUNK, 1, workers=1, progress=False)
    write_shards(corpus, tmp_path / "two", RATE, CHUNK, 1, workers=2, progress=False)
    for path in (tmp_path / "one").glob("shard-*"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_full_disk_leaves_nothing_half_written(corpus, tmp_path, small, monkeypatch):
    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match=r"no space is left for .*/out, .* the same command goes on with shard 0 of"):
        write(corpus, tmp_path / "out")
    left = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*"))
    assert left == [OURS, f"{OURS}/done", f"{OURS}/plan.json"]
    monkeypatch.undo()
    monkeypatch.setattr(sharding, "PACKED", 8.0)
    write(corpus, tmp_path / "out")
    assert len(Shards.open_folder(tmp_path / "out", check=True)) == 9


def test_cut_missing_and_flipped_shards_are_named(sharded, tmp_path):
    path = tmp_path / "out/shard-00001.parquet"
    good = path.read_bytes()
    place = good.index(b"fLaC") + 3000
    path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
    broken = Shards.open_folder(tmp_path / "out")  # the size is right
    rows = [row for row in range(9) if broken.table["shard"][row].as_py() == 1]
    with pytest.raises(ValueError, match=r"shard-00001\.parquet is damaged in chunk"):
        [broken.read(row) for row in rows]
    batches = loader(Crops(broken, CropConfig(RATE, 3000), 0), 9, workers=0, max_bad_share=0.5)
    for _ in range(3):
        next(batches)
    assert 1 <= len(batches.bad) <= len(rows) and "shard-00001.parquet" in next(iter(batches.bad.values()))
    with pytest.raises(ValueError, match="bytes have changed"):
        Shards.open_folder(tmp_path / "out", check=True)
    path.write_bytes(good[:-100])
    with pytest.raises(ValueError, match=r"shard-00001\.parquet has \d+ bytes and should have"):
        Shards.open_folder(tmp_path / "out")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard-00001\.parquet is missing"):
        Shards.open_folder(tmp_path / "out")
    index = tmp_path / "out" / INDEX
    good = index.read_bytes()
    place = good.index(b"\x28\xb5\x2f\xfd") + 12  # in the first page, which Zstandard packed
    index.write_bytes(good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :])
    with pytest.raises(ValueError, match=r"index\.parquet is damaged"):
        Shards.open_folder(tmp_path / "out")
    index.write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match="is damaged"):
        Shards.open_folder(tmp_path / "out")


def test_no_flipped_bit_is_heard(sharded, tmp_path):
    """Anywhere in a shard, its footer and its pages' headers included: the same sound, or a sentence."""
    whole = [sharded.read(row) for row in range(9)]
    number = sharded.table["shard"][8].as_py()  # of the track that overshoots, whose chunks are scaled
    rows = [row for row in range(9) if sharded.table["shard"][row].as_py() == number]
    path = tmp_path / "out" / sharded.files[number].file
    good = path.read_bytes()
    generator = np.random.default_rng(0)
    ends = np.arange(len(good) - 3000, len(good))  # the footer
    said = []
    for place in [*generator.integers(0, len(good), 150).tolist(), *generator.choice(ends, 150).tolist()]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << int(generator.integers(8))]) + good[place + 1 :])
        broken = Shards.open_folder(tmp_path / "out")
        for row in rows:
            try:
                np.testing.assert_array_equal(broken.read(row), whole[row])
            except ValueError as error:
                said.append(str(error))
    assert len(said) > 100 and all(path.name in sentence for sentence in said)


def test_unreadable_files_are_left_out_and_listed(corpus, tmp_path, small):
    shutil.copytree(corpus.root, tmp_path / "files")
    (tmp_path / "files/3.flac").unlink()
    (tmp_path / "files/4.wav").write_bytes((tmp_path / "files/4.wav").read_bytes()[:2000])
    sentences = write(Manifest(corpus.table, tmp_path / "files"), tmp_path / "out")
    assert "2 tracks were left out" in sentences[1]
    assert set(json.loads((tmp_path / "out" / OURS / "skipped.json").read_text())) == {"3.flac", "4.wav"}
    found = Shards.open_folder(tmp_path / "out")
    assert len(found) == 7 and found.read(3).shape == (corpus[5].samples * RATE // corpus[5].sample_rate,)
    nothing = Manifest(corpus.table, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="None of the 9 tracks"):
        write(nothing, tmp_path / "none")


def test_another_plan_needs_another_folder(corpus, sharded, tmp_path):
    with pytest.raises(ValueError, match="another manifest, rate or size"):
        write_shards(corpus, tmp_path / "out", 16_000, CHUNK, 1, workers=1, progress=False)
    (tmp_path / "out" / OURS / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"no __groundbass__/plan"):
        write(corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="no track"):
        write(corpus[:0], tmp_path / "empty")


class Counted(fsspec.AbstractFileSystem):
    """A remote file system made of a local folder: it counts its requests and the bytes it sent."""

    protocol = "counted"
    root, requests, sent = "", 0, 0

    def ls(self, path, detail=True, **_):
        Counted.requests += 1
        folder = os.path.join(Counted.root, path)
        if not os.path.isdir(folder):
            raise FileNotFoundError(path)
        entries = [
            {"name": f"{path}/{e.name}", "size": e.stat().st_size, "type": "directory" if e.is_dir() else "file"}
            for e in os.scandir(folder)
        ]
        return entries if detail else [entry["name"] for entry in entries]

    def _open(self, path, mode="rb", block_size=None, cache_options=None, cache_type="readahead", **_):
        return CountedFile(self, path, mode, block_size or 5 << 20, cache_type=cache_type)


class CountedFile(fsspec.spec.AbstractBufferedFile):
    def _fetch_range(self, start, end):
        Counted.requests += 1
        with open(os.path.join(Counted.root, self.path), "rb") as file:
            file.seek(start)
            data = file.read(end - start)
        Counted.sent += len(data)
        return data


def test_over_fsspec(sharded, tmp_path):
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "out").rglob("*.parquet"):
        memory.pipe_file(f"/corpus/{path.relative_to(tmp_path / 'out').as_posix()}", path.read_bytes())
    for url in ("memory://corpus", (tmp_path / "out").as_uri()):
        remote = open_sound(url)
        assert isinstance(remote, Shards) and len(remote) == 9
        for row in (0, 5, 8):
            np.testing.assert_array_equal(remote.read(row, RATE, 100, 9000), sharded.read(row, RATE, 100, 9000))
    memory.rm("/corpus/shard-00000.parquet")
    with pytest.raises(FileNotFoundError, match=r"memory://corpus/shard-00000\.parquet is missing"):
        open_sound("memory://corpus")
    with pytest.raises(FileNotFoundError, match="There is nothing in memory://nothing"):
        open_sound("memory://nothing")
    with pytest.raises(ValueError, match=r"elsewhere://corpus can't be opened"):
        open_sound("elsewhere://corpus")


def test_a_remote_chunk_is_one_request_of_its_own_bytes(sharded, tmp_path, monkeypatch):
    fsspec.register_implementation("counted", Counted, clobber=True)
    monkeypatch.setattr(Counted, "root", str(tmp_path))
    remote = Shards.open_folder("counted://out")
    sizes_and_index = Counted.requests
    assert sizes_and_index <= 6  # however many shards there are
    chunks = [(row, chunk) for row in range(9) for chunk in range(remote.table["chunks"][row].as_py())]
    for row, _ in chunks[:1]:
        remote.read(row, RATE, 0, 10)
    monkeypatch.setattr(Counted, "requests", 0)
    monkeypatch.setattr(Counted, "sent", 0)
    shard = remote.table["shard"][0].as_py()
    wanted = [(row, chunk) for row, chunk in chunks if remote.table["shard"][row].as_py() == shard]
    for row, chunk in wanted:
        remote.read(row, RATE, chunk * remote.chunk_samples, 10)
    assert Counted.requests == len(wanted)
    assert Counted.sent < 1.1 * (tmp_path / "out" / remote.files[shard].file).stat().st_size


def test_few_shards_stay_open(sharded, monkeypatch):
    monkeypatch.setattr("groundbass.data.storage.shards.OPEN", 2)
    for row in range(9):
        sharded.read(row, RATE, 0, 10)
    assert len(sharded._held.files) == 2


def test_threads_read_at_once(sharded):
    """As a feature store does; Arrow crashes where two share an open file."""
    rows = [(row, start) for row in range(len(sharded)) for start in range(0, 3000, 200)] * 4
    whole = [sharded.read(row, RATE, start, 200) for row, start in rows]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(lambda place: sharded.read(place[0], RATE, place[1], 200), rows), whole):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("way", ["files", "glob", "data_dir", "folder"])
def test_the_library_datasets_reads_them(sharded, tmp_path, way):
    out, cache = tmp_path / "out", {"split": "train", "cache_dir": str(tmp_path / "cache")}
    files = [str(path) for path in sorted(out.glob("shard-*.parquet"))]
    found = {
        "files": lambda: datasets.load_dataset("parquet", data_files=files, **cache),
        "glob": lambda: datasets.load_dataset("parquet", data_files=str(out / "*.parquet"), **cache),
        "data_dir": lambda: datasets.load_dataset("parquet", data_dir=str(out), **cache),
        "folder": lambda: datasets.load_dataset(str(out), **cache),
    }[way]()
    assert len(found) == sum(file.rows for file in sharded.files)
    assert isinstance(found.features["audio"], datasets.Audio) and found.features["audio"].sampling_rate == RATE
    row = found.cast_column("audio", datasets.Audio(decode=False))[0]
    sound, rate = sf.read(io.BytesIO(row["audio"]["bytes"]))
    assert rate == RATE and len(sound) == row["samples"] and row["key"] == sharded[0].key


def test_some_tracks_of_shards_are_a_manifest(sharded, tmp_path):
    (tmp_path / "run").mkdir()
    sharded.select([6, 2]).write(tmp_path / "run/some.parquet")
    some = open_sound(tmp_path / "run/some.parquet")
    assert isinstance(some, Shards) and [track.key for track in some] == [sharded[6].key, sharded[2].key]
    np.testing.assert_array_equal(some.read(1), sharded.read(2))
    with pytest.raises(ValueError, match="aren't files"):
        Manifest.open(tmp_path / "run/some.parquet")
    shutil.move(tmp_path / "out", tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="is missing"):
        open_sound(tmp_path / "run/some.parquet")
    np.testing.assert_array_equal(open_sound(tmp_path / "run/some.parquet", tmp_path / "moved").read(1), some.read(1))


def test_command(corpus, tmp_path, capsys):
    words = ["data", "shard", str(corpus.root / "manifest.parquet"), str(tmp_path / "out")]
    with pytest.raises(SystemExit) as left:
        main([*words, "--sample-rate", "8000", "--workers", "1"])
    assert left.value.code == 0 and "9 tracks" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, "--check"])
    assert "are as they were written" in capsys.readouterr().out
    with pytest.raises(SystemExit) as wrong:
        main([*words, "--chunk-seconds", "40"])
    assert wrong.value.code == 2 and "at most 30" in capsys.readouterr().err


@pytest.mark.parametrize("rate", [8000, 22_050])
def test_training_on_shards_draws_the_crops_of_the_files(tmp_path, rate, monkeypatch):
    """The same run on files and on shards hears the same crops in the same order; files of 16 bits give the same loss
    to the last digit.
    """
    root = tmp_path / "files"
    root.mkdir()
    for number in range(8):
        audio.write(root / f"{number}.flac", tone(number, 4.0, rate), rate)
    manifest = scan_folder(root, progress=False)[0]
    manifest.write(tmp_path / "m.parquet")
    write_shards(manifest, tmp_path / "out", 8000, workers=1, progress=False)
    heard = []
    plain = Crops.cut
    monkeypatch.setattr(Crops, "cut", lambda *words: heard.append(plain(*words)) or heard[-1])
    for data in ("m.parquet", "out"):
        words = ["pretrain", "contrastive.clmr_debug", "--data", str(tmp_path / data), "--steps", "2"]
        with pytest.raises(SystemExit) as left:
            main([*words, "--run", str(tmp_path / f"run {data}")])
        assert left.value.code == 0
    half = len(heard) // 2
    assert half >= 8 and [crop.key for crop in heard[:half]] == [crop.key for crop in heard[half:]]
    for file, shard in zip(heard[:half], heard[half:], strict=True):
        np.testing.assert_allclose(file.waveform, shard.waveform, atol=2**-15)
    losses = [(tmp_path / f"run {data}/loss.jsonl").read_text() for data in ("m.parquet", "out")]
    assert (losses[0] == losses[1]) is (rate == 8000)


def test_shards_of_another_rate_than_the_recipe_are_refused(corpus, tmp_path, capfd):
    write_shards(corpus, tmp_path / "wrong", 22_050, workers=1, progress=False)
    words = ["pretrain", "contrastive.clmr_debug", "--data", str(tmp_path / "wrong"), "--run", str(tmp_path / "r")]
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2 and "shard again with --sample-rate 8000" in capfd.readouterr().err


# Data sets of the library `datasets`


def rows(corpus):
    return [
        {
            "audio": {"bytes": (corpus.root / f"{n}.flac").read_bytes(), "path": f"{n}.flac"},
            "mood": "calm",
            "year": 1990 + n,
        }
        for n in (0, 3, 6)
    ]


@pytest.mark.parametrize("kind", ["disk", "parquet", "webdataset"])
def test_existing_data_sets_are_manifests(corpus, tmp_path, kind, monkeypatch):
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    content = datasets.Dataset.from_list(
        [*rows(corpus), {"audio": {"bytes": b"noise", "path": "x"}, "mood": "", "year": 0}]
    ).cast_column("audio", datasets.Audio(decode=False))
    folder = tmp_path / "set"
    folder.mkdir()
    if kind == "disk":
        content.save_to_disk(str(folder))
    elif kind == "parquet":
        content.to_parquet(str(folder / "part.parquet"))
    else:
        with tarfile.open(folder / "part.tar", "w") as tar:
            for row in rows(corpus):
                for suffix, data in (("flac", row["audio"]["bytes"]), ("json", json.dumps({"mood": "calm"}).encode())):
                    entry = tarfile.TarInfo(f"{row['audio']['path'][0]}.{suffix}")
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
    found = open_sound(folder)
    assert [track.samples for track in found] == [corpus[n].samples for n in (0, 3, 6)]  # noise is left out
    for place, number in enumerate((0, 3, 6)):
        np.testing.assert_allclose(
            found.read(place, 16_000, 500, 2000), corpus.read(number, 16_000, 500, 2000), atol=1e-4
        )
    crops = Crops(found, CropConfig(RATE, 3000), 2)
    assert next(loader(crops, 3, workers=0)).waveform.shape == (3, 1, 3000)
    assert found.labels("mood") == ["calm"] * 3
    if kind != "webdataset":
        assert found.labels("year") == [1990, 1993, 1996]
    monkeypatch.setattr("groundbass.data.storage.hf_dataset._track", None)  # headers are read once
    assert len(open_sound(folder)) == 3
    found.select([2, 0]).write(tmp_path / "some.parquet")
    some = open_sound(tmp_path / "some.parquet")
    assert [track.key for track in some] == [found[2].key, found[0].key]
    np.testing.assert_array_equal(some.read(0, RATE, 100, 900), found.read(2, RATE, 100, 900))
    with pytest.raises(SystemExit) as left:
        main(["data", "shard", str(folder), str(tmp_path / "shards"), "--sample-rate", str(RATE), "--workers", "2"])
    assert left.value.code == 0
    packed = Shards.open_folder(tmp_path / "shards")
    assert len(packed) == 3
    np.testing.assert_allclose(packed.read(1, RATE, 50, 3000), corpus.read(3, RATE, 50, 3000), atol=2**-14)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_of_several_splits_only_the_training_set_is_heard(corpus, tmp_path, kind, monkeypatch):
    """As they lie on the Hub: a test set in the same folder is no training data."""
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "set/data"
    folder.mkdir(parents=True)
    for split, row in zip(("train", "validation", "test"), rows(corpus), strict=True):
        if kind == "parquet":
            datasets.Dataset.from_list([row]).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
            continue
        with tarfile.open(folder / f"{split}-00000.tar", "w") as tar:
            tar.add(corpus.root / row["audio"]["path"], row["audio"]["path"])
    found = open_sound(tmp_path / "set")
    assert [track.hash for track in found] == [corpus[0].hash]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_audio_in_memory_is_that_of_files(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    audio.write(path, np.stack([tone(1, 3.0, 44_100), tone(2, 3.0, 44_100)]), 44_100)
    data = path.read_bytes()
    assert audio.header_of(data) == audio.info(path)
    for rate, start, samples in (
        (None, 0, None),
        (44_100, 30_011, 5000),
        (16_000, 12_345, 7000),
        (16_000, 46_000, 9000),
    ):
        np.testing.assert_allclose(
            audio.read_bytes(data, "x", rate, start, samples), audio.read(path, rate, start, samples), atol=2e-4
        )
    with pytest.raises(ValueError, match="x can't be decoded"):
        audio.read_bytes(b"no audio", "x")


def test_folders_that_are_no_data_set(tmp_path):
    with pytest.raises(ValueError, match="There is no audio in"):
        open_sound(tmp_path)
    datasets.Dataset.from_list([{"audio": {"bytes": b"x", "path": "x"}}]).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match="no readable audio"):
        open_sound(tmp_path)
