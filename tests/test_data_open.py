"""One door for sound: every command takes every kind of address, and hears the same recordings through it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from groundbass import finetuning
from groundbass.cli import main
from groundbass.data import corpora
from groundbass.data import open as door
from groundbass.data.audio.read import write
from groundbass.data.collections.scan import scan_folder
from groundbass.data.storage.sharding import write_shards
from groundbass.models.published import write_encoder
from groundbass.pretrain import command, iterate
from groundbass.pretrain.recipe import find
from groundbass.pretrain.targets import codec
from groundbass.pretrain.train import train

RATE, COUNT = 24_000, 12
GTZAN = (29, 47, 30, 48, 0, 2, 1, 3, 12, 73, 13, 74)  # of blues and jazz in turn: train, validation, test
KINDS = ["file", "folder", "manifest", "table", "shards", "data set", "corpus", "URL", "remote"]
BANDS = '''
import torch

class Bands:
    """Frames of 10 ms that hear the energy at 200 and 1,000 Hz."""

    sample_rate, frame_rate, dim, layers = 24_000, 100.0, 2, 1

    def valid_frames(self, valid):
        return (valid // 240).clamp(min=1)

    def hidden_states(self, waveform, valid=None, sample_rate=None):
        spectrum = torch.fft.rfft(waveform.unfold(1, 240, 240)).abs()
        return spectrum[..., [2, 10]][:, None] / 120
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of two pitches with labels, as every kind of address; and small encoders."""
    place = tmp_path_factory.mktemp("addresses")
    clips, genres = place / "gtzan" / "genres", ("blues", "jazz")
    rows, cells = ["path,split,kind"], []
    for number in range(COUNT):
        time, genre = np.arange(3 * RATE) / RATE, genres[number % 2]
        draw = np.random.default_rng(number)
        sound = 0.02 * draw.standard_normal(len(time)) + 0.2 * np.sin(2 * np.pi * (200, 1000)[number % 2] * time)
        split = ("train", "train", "valid", "test")[number % 8 // 2]
        clip = clips / genre / f"{genre}.{GTZAN[number]:05}.wav"
        for path in (place / "music" / f"{number:02}.wav", clip):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, sound.astype(np.float32), RATE)
        rows.append(f"{number:02}.wav,{split},{genre}")
        content = (place / "music" / f"{number:02}.wav").read_bytes()
        cells.append({"audio": {"bytes": content, "path": f"{number:02}.wav"}, "kind": genre})
    (place / "music" / "labels.csv").write_text("\n".join(rows) + "\n")
    manifest, _ = scan_folder(place / "music", workers=1, progress=False)
    manifest.write(place / "music.parquet")
    write_shards(manifest, place / "shards", RATE, 30.0, 10, 1, progress=False)
    (place / "set").mkdir()
    datasets.Dataset.from_list(cells).to_parquet(str(place / "set" / "train-00000-of-00001.parquet"))
    (place / "bands.py").write_text(BANDS)
    torch.manual_seed(0)
    write_encoder(find("masked.bestrq_debug").objective.build().encoder, place / "encoder")
    return place


@pytest.fixture(autouse=True)
def caches(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUNDBASS_CACHE", str(place / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", place / "hf")


def address(place: Path, kind: str) -> str:
    return {
        "file": f"{place}/music/00.wav", "folder": f"{place}/music", "manifest": f"{place}/music.parquet",
        "table": f"{place}/music/labels.csv", "shards": f"{place}/shards", "data set": f"{place}/set",
        "corpus": f"gtzan:{place}/gtzan", "URL": f"file://{place}/shards",
        "remote": f"file://{place}/music",
    }[kind]  # fmt: skip


def expected(kind: str) -> int:
    return 1 if kind == "file" else COUNT


@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_sound_comes_through_every_door(place: Path, kind: str, headers: bool) -> None:
    assert door.address_kind(address(place, kind)) == kind
    found = door.open_sound(address(place, kind), headers=headers)
    assert len(found) == expected(kind) and found.column("samples").tolist() == [3 * RATE] * len(found)
    row = len(found) - 1
    if kind == "corpus":
        row = found.column("path").tolist().index(f"genres/jazz/jazz.{GTZAN[COUNT - 1]:05}.wav")
    number = 0 if kind == "file" else COUNT - 1
    whole = door.open_sound(place / "music")
    np.testing.assert_allclose(found.read(row, RATE, 1000, 500), whole.read(number, RATE, 1000, 500), atol=2**-14)
    assert found.has_files == (kind not in ("shards", "data set", "URL", "remote"))


@pytest.mark.parametrize("headers", [False, True])
def test_what_cannot_be_read_is_left_out_and_named(place: Path, tmp_path: Path, headers: bool) -> None:
    (tmp_path / "noise.wav").write_bytes(b"no audio")
    table = tmp_path / "list.csv"
    table.write_text(f"path,kind\nnoise.wav,a\n{place}/music/03.wav,b\ngone.wav,a\n")
    refused: dict[str, str] = {}
    found = door.open_sound(table, headers=headers, refused=refused)
    assert len(found) == 1 and {Path(name).name for name in refused} == {"noise.wav", "gone.wav"}
    assert found.read(0, RATE, 0, 10).shape == (10,) and (headers or found.labels("kind") == ["b"])
    with pytest.raises(ValueError, match=r"noise\.wav"):
        door.open_sound(tmp_path / "noise.wav", headers=headers)
    table.write_text("path\nnoise.wav\n")
    with pytest.raises(ValueError, match=r"noise\.wav"):
        door.open_sound(table, headers=headers)
    table.write_text("path\n")
    with pytest.raises(ValueError, match=r"list\.csv names no file"):
        door.open_sound(table, headers=headers)


def test_a_folder_may_be_called_what_probe_calls_it(place: Path) -> None:
    sound = str(place / "music")
    assert list(door.open_sound(f"folder:{sound}", progress=False)) == list(door.open_sound(sound, progress=False))
    with pytest.raises(FileNotFoundError, match="There is no folder:nowhere"):
        door.open_sound("folder:nowhere")


def test_an_unknown_address_says_what_is_possible(place: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no audio")
    for wrong in ("nowhere", "nowhere.wav", "gtzam:/data", str(tmp_path / "notes.txt")):
        with pytest.raises((FileNotFoundError, ValueError)) as told:
            door.open_sound(wrong)
        for word in ("folder of audio", ".parquet", ".csv", "shards", "datasets", "CORPUS:ROOT", Path(wrong).name):
            assert word in str(told.value)
        assert str(told.value).endswith(".") and "\n" not in str(told.value)
    with pytest.raises(FileNotFoundError, match="gtzan"):
        door.open_sound("gtzam:/data")
    with pytest.raises(FileNotFoundError, match="There is no manifest"):
        door.open_sound(tmp_path / "none.parquet")
    with pytest.raises(FileNotFoundError, match="groundbass data synth"):
        door.open_sound(f"synth:{tmp_path}")


def test_a_folder_with_a_manifest_is_what_that_lists(place: Path, tmp_path: Path) -> None:
    """As a corpus that was made is: but who takes headers hears the folder's files."""
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes((place / "music" / f"{number:02}.wav").read_bytes())
    scan_folder(tmp_path, workers=1, progress=False)[0].select([0, 2]).write(tmp_path / "manifest.parquet")
    assert door.open_sound(tmp_path).column("key").tolist() == ["0.wav", "2.wav"]
    assert door.open_sound(f"synth:{tmp_path}").column("key").tolist() == ["0.wav", "2.wav"]
    assert len(door.open_sound(tmp_path, headers=True)) == 3


def test_a_tar_beside_audio_makes_no_data_set(place: Path, tmp_path: Path) -> None:
    (tmp_path / "backup.tar").write_bytes(b"anything")
    (tmp_path / "a.wav").write_bytes((place / "music" / "00.wav").read_bytes())
    assert door.address_kind(tmp_path) == "folder" and len(door.open_sound(tmp_path, headers=True)) == 1


def test_several_files_and_folders_are_taken_together_and_others_alone(place: Path) -> None:
    files = [place / "music", place / "music" / "00.wav", place / "music" / "labels.csv"]
    assert len(door.open_several(files, {})) == COUNT, "each file once"
    with pytest.raises(ValueError, match=r"shards \(a shards\) is given with others: give it alone"):
        door.open_several([place / "music", place / "shards"], {})
    with pytest.raises(ValueError, match="Which sound"):
        door.open_several([], {})


@pytest.mark.parametrize("kind", ["shards", "data set", "manifest"])
def test_other_labels_on_the_same_sound(place: Path, kind: str, tmp_path: Path) -> None:
    whole = door.open_sound(address(place, kind))
    tracks = [replace(whole[row], split="test", labels={"mood": f"{row}"}) for row in (7, 2)]
    found = whole.relabelled([7, 2], tracks)
    assert found.labels("mood") == ["7", "2"] and found.label_names == ["mood"] and type(found) is type(whole)
    np.testing.assert_array_equal(found.read(0, RATE, 50, 100), whole.read(7, RATE, 50, 100))
    found.write(tmp_path / "some.parquet")
    np.testing.assert_array_equal(
        door.open_sound(tmp_path / "some.parquet").read(1, RATE, 50, 100), whole.read(2, RATE, 50, 100)
    )


# Every command of the command line that takes sound. Each returns how many recordings it heard.


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    assert left.value.code in (0, None)


def pretrain(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Up to the training, which `test_pretraining_hears` does."""
    heard: list[int] = []

    def stop(recipe: Any, data: str, folder: Path, **_: Any) -> int:
        heard.append(len(door.open_sound(data)))
        return int(recipe.steps)

    monkeypatch.setattr(command, "train", stop)
    for _ in range(2):  # a start that goes on hears the same
        run("pretrain", "masked.bestrq_debug", "--data", sound, "--run", made)
    assert heard[0] == heard[1]
    return heard[0]


def iterated(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    heard: list[int] = []

    def stop(recipe: Any, data: str, folder: Path, **_: Any) -> int:
        heard.append(len(door.open_sound(data)))
        return int(recipe.steps)

    monkeypatch.setattr(iterate, "train", stop)
    monkeypatch.setattr(iterate, "_publish_last", lambda *_: None)
    run("iterate", "debug", "--data", sound, "--run", made)
    return heard[-1]


class Fake:
    """A codec whose codes are zeros, one per 320 samples."""

    def __init__(self, name: str, codebooks: int) -> None:
        self.codebooks, self.model = codebooks, torch.nn.Identity()
        self.identity = codec.CodecIdentity(name, "hash", RATE, 320, codebooks, 1024)

    def place(self, device: torch.device) -> None:
        self.device = device

    def encode_track(self, sound: np.ndarray) -> np.ndarray:
        return np.zeros((len(sound) // 320, self.codebooks), np.uint16)


def codes(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(codec, "Codec", Fake)
    run("data", "codes", sound, made, "--codebooks", 2)
    return sum(pq.read_metadata(file).num_rows for file in made.glob("part_*.parquet"))


def kmeans(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    heard: list[int] = []
    real = door.open_sound

    def told(address: str) -> Any:
        heard.append(len(found := real(address)))
        return found

    monkeypatch.setattr("groundbass.pretrain.targets.kmeans.open_sound", told)
    size = ["--steps", 1, "--batch-size", min(4, expected(sound_kind(place, sound))), "--mel-clusters", 4]
    run("data", "kmeans", sound, made, *size, "--chroma-clusters", 4)
    assert made.is_file()
    return heard[0]


def sound_kind(place: Path, sound: str) -> str:
    return next(kind for kind in KINDS if address(place, kind) == sound)


def overlap(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    made.mkdir()
    run("data", "overlap", sound, place / "music", "--out", made / "hits.json", "--workers", 1)
    told = json.loads((made / "hits.json").read_text())
    assert len({hit["a"] for hit in told["hits"]}) + len(told["skipped"]) >= told["a"]
    return int(told["a"])


def embed(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    made.mkdir()
    run("embed", f"{place}/bands.py:Bands", sound, "--out", made / "x.parquet")
    return int(pq.read_metadata(made / "x.parquet").num_rows)


def column(sound: str) -> str:
    return "genre" if sound.startswith("gtzan") else "kind"


def probe(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    run(
        "probe", f"{place}/bands.py:Bands", f"folder:{sound}", "--label", column(sound), "--out", made, "--store",
        made / "store", "--baselines", "constant",
    )  # fmt: skip
    (result,) = [file for file in made.glob("*.json") if file.name != "results.json"]
    told = json.loads(result.read_text())
    assert told["score"]["value"] == 1.0, "two pitches are two bands"
    return int(sum(told["tracks"].values())) if isinstance(told.get("tracks"), dict) else COUNT


def predict(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    heads = place / "probed" / "heads"
    if not heads.is_dir():
        probe(place, f"{place}/music", place / "probed", monkeypatch)
    made.mkdir()
    run("predict", heads, sound, "--out", made / "said.json", "--quiet")
    told = json.loads((made / "said.json").read_text())
    names = [one["label"] for said in told.values() for one in said.values()]
    assert set(names) <= {"blues", "jazz"} and (len(names) == 1 or names.count("blues") == COUNT // 2)
    return len(told)


def finetune(place: Path, sound: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    (found,) = finetuning.finetune(
        str(place / "encoder"), data=f"folder:{sound}", run=made, label=(column(sound),), steps=1, batch_size=2,
        crop_seconds=1.0, validate_every=1, workers=0, store=made / "store",
    )  # fmt: skip
    assert found.probe is not None
    return len(door.open_sound(made / "labelled.parquet"))


COMMANDS: dict[str, Callable[..., int]] = {
    "pretrain": pretrain, "iterate": iterated, "data codes": codes, "data kmeans": kmeans, "data overlap": overlap,
    "embed": embed, "probe": probe, "predict": predict,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_every_kind_of_address(
    place: Path,
    tmp_path: Path,
    name: str,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One recording without labels teaches a probe nothing: a sentence."""
    sound = address(place, kind)
    if name == "probe" and kind == "file":
        with pytest.raises(SystemExit) as left:
            main(["probe", f"{place}/bands.py:Bands", f"folder:{sound}", "--label", "kind"])
        assert left.value.code == 2 and "There is no label 'kind'" in capsys.readouterr().err
        return
    assert COMMANDS[name](place, sound, tmp_path / "made", monkeypatch) == expected(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "file"])
def test_finetuning_takes_every_kind_of_address(
    place: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert finetune(place, address(place, kind), tmp_path / "made", monkeypatch) == COUNT


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_pretraining_hears(place: Path, tmp_path: Path, kind: str) -> None:
    recipe = replace(find("masked.bestrq_debug"), steps=1, batch_size=1, workers=0, trackers=())
    assert train(recipe, address(place, kind), tmp_path / "run") == 1
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["manifest"]["tracks"] == expected(kind)
    with pytest.raises(ValueError, match=r"was begun on|holds another run"):
        train(recipe, f"{place}/music/01.wav", tmp_path / "run")


def test_every_corpus_has_a_name_that_no_path_takes() -> None:
    assert all(":" not in name and "/" not in name for name in corpora.names())
