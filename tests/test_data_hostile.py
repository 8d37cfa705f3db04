# ruff: noqa: PT017 (what may be raised is part of the answer)
"""Files that nobody should be hurt by: containers that lie, labels and manifests of any content, pipes, links, names.

The limits are in `data/audio/read.py`. Recorded seeds; 2,000 more cases in `make soak`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from fuzz import damage, damaged, few_and_many, within
from hypothesis import given
from hypothesis import strategies as st

from groundbass.data.audio import read as audio
from groundbass.data.augment.degrade import degrade
from groundbass.data.collections.overlap import opened, overlap
from groundbass.data.collections.scan import Skipped, examine, scan, scan_folder
from groundbass.data.labels.lookup import guess
from groundbass.data.open import open_sound
from groundbass.data.storage.sharding import OURS, shard
from groundbass.data.track import FIELDS, METADATA, Manifest, Track
from groundbass.pretrain.run.heard import kept_manifest
from groundbass.pretrain.targets.kmeans import kmeans
from groundbass.probe.tasks.folder import folder_tasks

RATE = 24_000


def tone(seconds: float = 1.0, channels: int = 1, rate: int = RATE) -> np.ndarray[Any, Any]:
    time = np.arange(int(seconds * rate)) / rate
    return np.repeat((0.3 * np.sin(2 * np.pi * 440 * time))[:, None], channels, 1).astype(np.float32)


def flac_that_claims(path: Path, samples: int) -> None:
    """A FLAC whose header announces another length (36 bits, at the end of STREAMINFO's numbers)."""
    sf.write(path, tone(), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = (samples & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)


def test_a_length_that_no_bytes_can_hold_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    flac_that_claims(tmp_path / "x.flac", (1 << 36) - 1)
    with (
        within(10),
        pytest.raises(ValueError, match=r"68,719,476,735 samples, and no format holds so many in [\d,]+ by"),
    ):
        audio.info(tmp_path / "x.flac")
    found = examine(tmp_path, "x.flac")
    assert isinstance(found, Skipped) and found.reason == "unreadable"
    flac_that_claims(tmp_path / "y.flac", 40_000_000)  # 160 MB of memory: may be, and isn't
    with within(10):
        assert len(audio.read(tmp_path / "y.flac")) == RATE
        found = examine(tmp_path, "y.flac")
    assert isinstance(found, Skipped) and found.reason == "truncated"


def test_rates_and_channels_have_limits(tmp_path: Path) -> None:
    for rate, channels, kept in ((1, 1, False), (999, 1, False), (1000, 1, True), (768_000, 1, True), (RATE, 32, True)):
        sf.write(tmp_path / "x.wav", tone(2.0, channels, max(rate, RATE))[: 2 * max(rate, 1000)], rate)
        assert isinstance(examine(tmp_path, "x.wav"), Track) is kept, (rate, channels)
    sf.write(tmp_path / "x.wav", tone(1.0, 33), RATE)
    with pytest.raises(ValueError, match="33 channels, and at most 32 are read"):
        audio.read(tmp_path / "x.wav")


@pytest.mark.parametrize("peak", [1e30, 3e38, 2000.0])
def test_samples_beyond_all_sound_are_refused(tmp_path: Path, peak: float) -> None:
    sf.write(tmp_path / "x.wav", tone() * peak / 0.3, RATE, subtype="FLOAT")
    found = examine(tmp_path, "x.wav")
    assert isinstance(found, Skipped) and found.reason == "too loud" and "full scale is 1" in found.detail
    with pytest.raises(ValueError, match=r"full scale is 1|NaN or infinity"):
        audio.read(tmp_path / "x.wav", 16_000, 100, 5000)
    sf.write(tmp_path / "loud.wav", tone() * 20, RATE, subtype="FLOAT")  # overshoots are music
    assert isinstance(examine(tmp_path, "loud.wav"), Track)


@pytest.mark.parametrize("suffix", [".au", ".w64", ".aiff", ".caf", ".wav", ".flac", ".ogg"])
def test_a_file_whose_end_is_missing_is_left_out(tmp_path: Path, suffix: str) -> None:
    audio.write(tmp_path / f"x{suffix}", tone(3.0)[:, 0], RATE)
    assert isinstance(examine(tmp_path, f"x{suffix}"), Track)
    content = (tmp_path / f"x{suffix}").read_bytes()
    (tmp_path / f"x{suffix}").write_bytes(content[: len(content) * 2 // 3])
    found = examine(tmp_path, f"x{suffix}")
    assert isinstance(found, Skipped) and found.reason in ("truncated", "unreadable"), found


def test_pipes_links_and_names_hang_and_end_nothing(tmp_path: Path) -> None:
    music = tmp_path / "music"
    music.mkdir()
    for number in range(12):
        sf.write(music / f"{number}.wav", tone(1 + number / 10), RATE)
    (music / "labels.csv").write_text("path,kind\n" + "".join(f"{n}.wav,{'ab'[n % 2]}\n" for n in range(12)))
    os.mkfifo(music / "pipe.wav")
    (music / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    os.link(music / "0.wav", os.fsencode(music) + b"/caf\xe9.wav")
    (music / "=1+1.wav").write_bytes(b"no sound")
    with within(60):
        manifest, skipped = scan_folder(music, workers=1, progress=False)
        assert len(manifest) == 12 and {item.reason for item in skipped} == {"unreadable"} and len(skipped) == 4
        scan(music, tmp_path / "music.parquet", workers=1)
        assert (tmp_path / "music.skipped.csv").read_bytes().count(b"\n'=1+1.wav,") == 1  # no formula
        (task,) = folder_tasks(music, ["kind"], tmp_path / "store")
        assert len(task.manifest) == 12
        with pytest.raises(FileNotFoundError, match="is no file"):
            audio.read(music / "gone.wav")
        with pytest.raises(ValueError, match="is a pipe"):
            audio.read(music / "pipe.wav")


@pytest.mark.parametrize(
    "content, sentence",
    [
        (b"path,kind\n0.wav,\xff\xfe\n", r"labels\.csv is not UTF-8 after its row"),
        ("path,kind\n0.wav,é\n".encode("utf-16"), r"labels\.csv is not UTF-8"),
        (b"path,kind\n0.wav," + b"x" * 200_000 + b"\n", r"labels\.csv can't be read after its row 1: field larger"),
        (b"path,kind\n0.wav,a,b,c\n", r"labels\.csv has more cells than columns in row 2"),
    ],
)
def test_labels_that_cant_be_read_name_the_file_and_the_row(tmp_path: Path, content: bytes, sentence: str) -> None:
    sf.write(tmp_path / "0.wav", tone(), RATE)
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        scan_folder(tmp_path, workers=1, progress=False)


@pytest.mark.parametrize("cell", ["9" * 30, "9" * 5000, "[" * 500 + "]" * 500, "[" * 100_000, "1e999999", "-0x1"])
def test_odd_cells_are_text_or_numbers_and_never_the_end(tmp_path: Path, cell: str) -> None:
    sf.write(tmp_path / "0.wav", tone(), RATE)
    (tmp_path / "labels.csv").write_text(f"path,kind\n0.wav,{cell}\n")
    manifest, _ = scan_folder(tmp_path, workers=1, progress=False)
    assert str(manifest[0].labels["kind"]) in (cell, "inf")


def manifest_with(path: Path, **changed: Any) -> Path:
    cells = {"key": "a", "path": "0.wav", "samples": RATE, "sample_rate": RATE, "channels": 1, "hash": "0"}
    table = pa.Table.from_pylist([cells | {"split": None, "artist": None} | changed], FIELDS)
    pq.write_table(table.replace_schema_metadata({METADATA: b'{"version": 1, "root": "."}'}), path)
    return path


@pytest.mark.parametrize(
    "changed, sentence",
    [
        ({"samples": 1 << 62}, r"samples = 4611686018427387904 of 'a', and it must be 0 to 1,099,511,627,776"),
        ({"samples": -1}, "samples = -1"),
        ({"samples": None}, "samples = None"),
        ({"sample_rate": 0}, "sample_rate = 0"),
    ],
)
def test_manifests_with_impossible_lengths_are_refused(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    sf.write(tmp_path / "0.wav", tone(), RATE)
    with pytest.raises(ValueError, match=sentence):
        Manifest.open(manifest_with(tmp_path / "x.parquet", **changed))


# ── Fuzzing ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au", ".w64", ".caf", ".opus")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A whole file of every format."""
    folder = tmp_path_factory.mktemp("whole")
    for suffix in SUFFIXES:
        audio.write(folder / f"x{suffix}", tone(0.7)[:, 0], RATE)
    sf.write(folder / "float.wav", tone(0.7, 2), RATE, subtype="FLOAT")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


NAMES = sorted([f"x{suffix}" for suffix in SUFFIXES] + ["float.wav"])


@few_and_many(120)
@given(case=damage(NAMES))
def test_damaged_containers_are_tracks_or_sentences(
    whole: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, case: tuple[str, list[Any]]
) -> None:
    """What is kept can be read as long as it says, finite and of sound's size; what is left out has a reason."""
    name, steps = case
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(damaged(whole[name], steps))
    with within(20):
        found = examine(folder, name)
        if isinstance(found, Skipped):
            assert found.detail
            return
        assert 1000 <= found.sample_rate <= 768_000 and found.channels <= 32 and found.samples <= 1 << 26
        sound = audio.read(folder / name)
        assert abs(len(sound) - found.samples) <= 4608 and np.isfinite(sound).all() and np.abs(sound).max() <= 1000
        try:
            part = audio.read(folder / name, 16_000, 1000, 2000)
        except ValueError as error:
            assert str(error)
        else:
            assert len(part) <= 2000 and np.isfinite(part).all()


@few_and_many(40)
@given(
    rate=st.one_of(st.integers(1, 768_000), st.sampled_from([1, 999, 8000, 44_100, 768_000])),
    channels=st.integers(1, 40),
    level=st.sampled_from([0.0, 1e-30, 1e-5, 0.3, 1.0, 30.0, 1e30, np.inf, np.nan]),
    samples=st.one_of(st.integers(0, 3000), st.sampled_from([0, 1, 48_000])),
)
def test_containers_of_any_shape_are_tracks_or_sentences(
    tmp_path_factory: pytest.TempPathFactory, rate: int, channels: int, level: float, samples: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    wave = np.random.default_rng(samples).uniform(-1, 1, (samples, channels)).astype(np.float32) * np.float32(level)
    sf.write(folder / "shape.wav", wave, rate, subtype="FLOAT")
    with within(20):
        found = examine(folder, "shape.wav")
    fine = 1000 <= rate and channels <= 32 and 1e-3 < level <= 30 and samples >= 0.1 * rate
    if fine and level / np.sqrt(channels) > 0.05:
        assert isinstance(found, Track), found
    if rate < 1000 or channels > 32 or not level <= 1000 or samples < 0.1 * rate:
        assert isinstance(found, Skipped) and found.detail


CELLS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["", "1", "1.5", "1,5", "nan", "[1, 2]", "[[", "a|b", "=1+1", "007", "é", '"', "true", "9" * 40]),
    st.integers().map(str),
    st.floats().map(str),
)


@few_and_many(60)
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=4), min_size=1, max_size=12), raw=st.binary(max_size=6))
def test_labels_of_any_content_are_labels_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], raw: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "labels"
    if not folder.is_dir():
        folder.mkdir()
        for number in range(12):
            sf.write(folder / f"{number}.wav", tone(0.3 + number / 100), RATE)
        scan_folder(folder, workers=1, progress=False)[0].write(folder / "m.parquet")
    lines = ["path,kind,split"] + [f"{n}.wav," + ",".join(cells) for n, cells in enumerate(rows)]
    (folder / "labels.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass") + raw)
    with within(30):
        try:
            manifest, _ = scan_folder(folder, workers=1, progress=False)
            manifest.write(folder / "written.parquet")
            assert len(Manifest.open(folder / "written.parquet", root=folder)) == 12
            folder_tasks(folder / "written.parquet", ["kind"])
        except ValueError as error:
            assert len(str(error)) > 20 and not str(error).startswith(("'utf", "invalid literal"))


@few_and_many(40)
@given(steps=damage(["x.parquet"]))
def test_damaged_manifests_open_or_are_refused(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    folder = tmp_path_factory.getbasetemp() / "manifests"
    if not folder.is_dir():
        folder.mkdir()
        sf.write(folder / "0.wav", tone(), RATE)
        Manifest.from_tracks([Track("a", "0.wav", RATE, RATE, 1, "0", labels={"kind": "x"})], folder).write(
            folder / "whole.parquet"
        )
    (folder / "x.parquet").write_bytes(damaged((folder / "whole.parquet").read_bytes(), steps[1]))
    with within(20):
        try:
            manifest = open_sound(folder / "x.parquet")
            assert [track.seconds >= 0 for track in manifest] == [True] * len(manifest)
        except (ValueError, FileNotFoundError) as error:
            assert len(str(error)) > 20


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=10), inner, max_size=3)),
    max_leaves=6,
)


@few_and_many(40)
@given(metadata=st.one_of(st.binary(max_size=20), JSON.map(lambda value: json.dumps(value).encode())))
def test_manifests_may_say_anything_about_themselves(tmp_path_factory: pytest.TempPathFactory, metadata: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    sf.write(folder / "0.wav", tone(0.1), RATE)
    table = pq.read_table(manifest_with(folder / "x.parquet"))
    pq.write_table(table.replace_schema_metadata({METADATA: metadata}), folder / "x.parquet")
    try:
        open_sound(folder / "x.parquet")
    except (ValueError, FileNotFoundError) as error:
        assert len(str(error)) > 20


FUZZED = ("test_data_hostile.py", "test_probe_hostile.py", "test_models_hostile.py", "test_pretrain_hostile.py")


@pytest.mark.soak
@pytest.mark.parametrize("name", FUZZED)
def test_two_thousand_more_cases(name: str) -> None:
    """The fuzz tests of a file with 400 cases each: what they find is recorded above."""
    file = str(Path(__file__).with_name(name))
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", file, "-k", "any or damaged"]
    done = subprocess.run(words, env=os.environ | {"GROUNDBASS_FUZZ": "400"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


def test_a_decimal_comma_is_not_two_tags() -> None:
    for values in (["1,5", "2,25"], ["1,5", "2"], ["1,5", 3]):
        with pytest.raises(ValueError, match=r"Write 1\.5 for a number, or name the kind, as in --label COLUMN:tags"):
            guess(values)
    assert guess(["1,5", "rock"]).name == "tags" and guess(["1,5,7", "2,3,4"]).name == "tags"


def test_a_terminal_of_few_letters_gets_all_sentences(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "groundbass.cli", "data", "scan", str(tmp_path / "nirgends·é\udce9"), "x.parquet"]
    done = subprocess.run(words, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii:strict"})
    assert done.returncode == 2 and b"does not exist" in done.stderr and b"Traceback" not in done.stderr


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A folder with one recording, a damaged one and a pipe."""
    (tmp_path / "half").mkdir()
    sf.write(tmp_path / "half/good.wav", tone(3.0), RATE)
    (tmp_path / "half/broken.wav").write_bytes(b"RIFF no more")
    os.mkfifo(tmp_path / "half/pipe.wav")
    return tmp_path / "half"


def test_what_is_left_out_of_a_folder_is_said_whoever_opens_it(half: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(open_sound(half)) == 1
    said = capsys.readouterr().err
    assert "2 files were left out" in said and "broken.wav" in said and "is a pipe, not a file" in said
    refused: dict[str, str] = {}
    assert len(open_sound(half, refused=refused)) == 1 and set(refused) == {"broken.wav", "pipe.wav"}
    assert "left out" not in capsys.readouterr().err, "who asked for the list says it"


def test_shard_degrade_and_overlap_tell_what_they_left_out(half: Path, tmp_path: Path) -> None:
    told = shard(str(half), tmp_path / "shards", workers=1)
    listed = json.loads((tmp_path / "shards" / OURS / "skipped.json").read_text())
    assert set(told["skipped"]) == set(listed) == {"broken.wav", "pipe.wav"}
    told = degrade(str(half), tmp_path / "worse", chain="phone_speaker", workers=1, quiet=True)
    assert set(told["skipped"]) == {"broken.wav", "pipe.wav"} and told["recordings"] == 1
    _, _, refused = opened(str(half / "good.wav"), str(half))
    assert set(refused) == {f"{name}.wav in {half}" for name in ("broken", "pipe")}


def test_overlap_counts_what_could_not_be_heard(
    half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    overlap(str(half / "good.wav"), str(half), json=True, workers=1)
    assert {f"{name}.wav in {half}" for name in ("broken", "pipe")} <= set(
        json.loads(capsys.readouterr().out)["skipped"]
    )


def test_a_pipe_and_a_name_that_no_table_holds_are_called_so_by_every_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    odd.write_bytes(b"RIFF")
    for path, sentence in ((tmp_path / "pipe.wav", "it is a pipe, not a file"), (odd, audio.UNNAMED)):
        with within(10), pytest.raises(ValueError, match=sentence):
            audio.info(path)
        with within(10):
            found = examine(tmp_path, path.name)
        assert isinstance(found, Skipped) and found.detail.startswith(sentence)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"mel_clusters": 0}, {"chroma_clusters": -1}, {"batch_size": 0}])
def test_kmeans_of_nothing_is_refused_before_anything_is_decoded(tmp_path: Path, wrong: dict[str, int]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} {value} must be at least 1"):
        kmeans(str(tmp_path / "nowhere"), tmp_path / "k.safetensors", **wrong)  # type: ignore[arg-type]


def test_training_hears_the_rest_of_a_folder_with_a_name_that_no_table_holds(half: Path, tmp_path: Path) -> None:
    (half / os.fsdecode(b"caf\xe9.wav")).write_bytes((half / "good.wav").read_bytes())
    kept = kept_manifest(str(half), tmp_path / "run")
    assert [track.path for track in Manifest.open(Path(kept))] == ["good.wav"]
    assert audio.UNNAMED.encode() in (tmp_path / "run/manifest.skipped.csv").read_bytes()
