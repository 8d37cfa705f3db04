"""Runs whose files are damaged, gone, or of another run: they go on to the same weights, or end in a sentence."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from fuzz import damage, damaged, few_and_many, within
from hypothesis import given
from hypothesis import strategies as st
from test_pretrain_train import Judged, toy

from groundbass.data.audio.read import write
from groundbass.data.track import Manifest, Track
from groundbass.pretrain.iterate import _keep_teacher
from groundbass.pretrain.objective import TrainingStopped
from groundbass.pretrain.optim import restore
from groundbass.pretrain.recipe import Optim, Recipe
from groundbass.pretrain.run.checkpoint import checksum
from groundbass.pretrain.run.heard import avoiding, kept_manifest, mixture_of
from groundbass.pretrain.run.sharded import refuse_code
from groundbass.pretrain.train import train

# Validated every second step, best after the second: three checkpoints stay, and the encoder ends as the first's.
RECIPE = toy(objective=Judged(), steps=6)
OF_A_STEP = ("weights.safetensors", "optimizer.pt", "recipe.json", "checkpoint.json")
FILES = [
    *(f"checkpoints/step_{step}/{name}" for step in (6, 4) for name in OF_A_STEP),
    "checkpoints/step_2/weights.safetensors", "checkpoints/step_2/checkpoint.json", "recipe.json", "loss.jsonl",
    "valid.jsonl", "timing.jsonl", "alarms.jsonl", "encoder/model.safetensors", "encoder/config.json",
]  # fmt: skip
UNSIGNED = ("loss.jsonl", "valid.jsonl")  # a digit may be another one there, and nothing tells


@dataclasses.dataclass(frozen=True)
class Runs:
    """after_six: a run that goes on to eight steps; after_eight: the undisturbed one; other: of another recipe."""

    manifest: Path
    after_six: Path
    after_eight: Path
    other: Path


def longer(recipe: Recipe) -> Recipe:
    return dataclasses.replace(recipe, steps=8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    tracks = []
    for number in range(5):
        sound = 0.1 * np.random.default_rng(number).standard_normal(24_000)
        write(folder / f"{number}.flac", sound.astype(np.float32), 8000)
        tracks.append(Track(f"{number}.flac", f"{number}.flac", 24_000, 8000, 1, f"{number:032x}"))
    Manifest.from_tracks(tracks, folder).write(folder / "manifest.parquet")
    found = Runs(folder / "manifest.parquet", *(folder / name for name in ("after_six", "after_eight", "other")))
    train(RECIPE, found.manifest, found.after_six)
    shutil.copytree(found.after_six, found.after_eight)
    train(longer(RECIPE), found.manifest, found.after_eight)
    train(dataclasses.replace(RECIPE, optim=Optim("sgd", 1e-3)), found.manifest, found.other)
    return found


def sign(folder: Path) -> None:
    """Make a checkpoint's checksums those of its files."""
    told = json.loads((folder / "checkpoint.json").read_text())
    told["files"] = {name: checksum(folder / name) for name in told["files"] if (folder / name).is_file()}
    (folder / "checkpoint.json").write_text(json.dumps(told))


def content(run: Path, *left_out: str) -> dict[str, bytes]:
    """What a run is known by."""
    names = ("checkpoints/step_8/weights.safetensors", "encoder/model.safetensors", "encoder/config.json")
    return {name: (run / name).read_bytes() for name in (*names, *UNSIGNED) if name not in left_out}


def goes_on(runs: Runs, run: Path) -> str | None:
    """Train to step 8: None where it is done, else the sentence."""
    with within(60):
        try:
            assert train(longer(RECIPE), runs.manifest, run) == 8
        except (ValueError, OSError, TrainingStopped) as error:
            said = str(error)
            assert len(said) > 40 and said[0] in "/ABCDEFGHIJKLMNOPQRSTUVWXYZ" and "Errno" not in said, said
            return said
    return None


@few_and_many(30)
@given(case=damage(FILES), way=st.sampled_from(["damaged", "gone", "another's"]), signed=st.booleans())
def test_runs_with_damaged_files_go_on_alike_or_are_refused(
    runs: Runs, tmp_path_factory: pytest.TempPathFactory, case: tuple[str, list[Any]], way: str, signed: bool
) -> None:
    """signed: the checkpoint's checksums fit what was done to it, as if somebody had written it so."""
    name, steps = case
    run = tmp_path_factory.getbasetemp() / "hostile"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(runs.after_six, run)
    file = run / name
    if way == "gone":
        file.unlink()
    elif way == "another's":
        shutil.copy(runs.other / name, file)
    else:
        file.write_bytes(damaged(file.read_bytes(), steps))
    if signed and "step_" in name and not name.endswith("checkpoint.json"):
        sign(file.parent)
    said = goes_on(runs, run)
    if said is None and not (signed and name.endswith("weights.safetensors")):
        left_out = UNSIGNED if name in UNSIGNED else ()
        if name == "valid.jsonl":  # another step may have been the best
            left_out = (*UNSIGNED, "encoder/model.safetensors")
        assert content(run, *left_out) == content(runs.after_eight, *left_out)


def copied(runs: Runs, tmp_path: Path) -> Path:
    shutil.copytree(runs.after_six, tmp_path / "run")
    return tmp_path / "run"


def put_other(runs: Runs, folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(runs.other / "checkpoints" / folder.name, folder)


def put_others_optimiser(runs: Runs, folder: Path) -> None:
    shutil.copy(runs.other / "checkpoints" / folder.name / "optimizer.pt", folder / "optimizer.pt")


def put_other_weights(runs: Runs, folder: Path) -> None:
    shutil.copy(runs.after_six / "encoder/model.safetensors", folder / "weights.safetensors")


def put_code(runs: Runs, folder: Path) -> None:
    torch.save({"optimizer": Evil(folder / "evil"), "scaler": {}}, folder / "optimizer.pt")


def put_nothing(runs: Runs, folder: Path) -> None:
    (folder / "optimizer.pt").unlink()


class Evil:
    """Unpickled with the whole of Python, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "put, sentence",
    [
        (put_other, r"step_6 belongs to another run .*optim\.name: 'sgd' there, 'adamw' here.*Delete it to go on from"),
        (
            put_others_optimiser,
            r"step_6 doesn't fit this run \(The optimiser's state has \['momentum_buffer'\], expected",
        ),
        (put_other_weights, r"step_6 doesn't fit this run \(Error\(s\) in loading state_dict"),
        (put_code, r"step_6 doesn't fit this run \(optimizer\.pt can't be opened"),
        (put_nothing, r"step_6 doesn't fit this run \(optimizer\.pt is missing"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused_though_its_checksums_fit(
    runs: Runs, tmp_path: Path, put: Callable[[Runs, Path], None], sentence: str
) -> None:
    run = copied(runs, tmp_path)
    folder = run / "checkpoints/step_6"
    put(runs, folder)
    sign(folder)
    with pytest.raises(ValueError, match=sentence):
        train(longer(RECIPE), runs.manifest, run)
    assert not (folder / "evil").exists()
    shutil.rmtree(folder)  # as the sentence says
    assert train(longer(RECIPE), runs.manifest, run) == 8 and content(run) == content(runs.after_eight)


def test_a_damaged_best_checkpoint_is_not_published(runs: Runs, tmp_path: Path) -> None:
    run = copied(runs, tmp_path)
    best = run / "checkpoints/step_2/weights.safetensors"
    whole = best.read_bytes()
    best.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"checkpoint of step 2 is needed.*weights\.safetensors has another checksum"):
        train(longer(RECIPE), runs.manifest, run)
    best.write_bytes(whole)
    assert train(longer(RECIPE), runs.manifest, run) == 8 and content(run) == content(runs.after_eight)


def test_a_checkpoint_that_a_kill_left_is_removed(runs: Runs, tmp_path: Path) -> None:
    """Also in a run that has nothing left to do; the best one stays."""
    shutil.copytree(runs.after_eight, tmp_path / "run")
    stays = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    shutil.copytree(runs.after_six / "checkpoints/step_4", tmp_path / "run/checkpoints/step_4")
    assert train(longer(RECIPE), runs.manifest, tmp_path / "run") == 8
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == stays
    assert "step_2" in stays and "step_4" not in stays


def test_an_encoder_that_was_damaged_is_written_again(runs: Runs, tmp_path: Path) -> None:
    """Also in a run that has nothing left to do."""
    shutil.copytree(runs.after_eight, tmp_path / "run")
    for name in ("encoder/config.json", "encoder/model.safetensors"):
        (tmp_path / "run" / name).write_bytes(b"{}")
        assert train(longer(RECIPE), runs.manifest, tmp_path / "run") == 8
        assert content(tmp_path / "run") == content(runs.after_eight)


def test_an_optimisers_settings_are_the_recipes(runs: Runs) -> None:
    """Whatever a file says of them; and what it has gathered must be of the same parameters."""
    weight = torch.nn.Parameter(torch.ones(3))
    ours = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones(3)
    ours.step()
    saved = ours.state_dict()
    saved["param_groups"][0] |= {"betas": (0.0, 0.0), "weight_decay": 1e9}
    fresh = torch.optim.AdamW([weight], lr=0.1)
    restore(fresh, saved)
    assert fresh.param_groups[0]["betas"] == (0.9, 0.999) and fresh.param_groups[0]["weight_decay"] == 0.01
    assert torch.equal(fresh.state[weight]["exp_avg"], ours.state[weight]["exp_avg"])
    for wrong in (torch.ones(4), torch.full((3,), torch.nan), None):
        saved["state"][0]["exp_avg"] = wrong
        with pytest.raises(ValueError, match="exp_avg of parameter 0 has another shape, or isn't finite"):
            restore(fresh, saved)
    for state in ({}, {7: saved["state"][0]}, {0: {"exp_avg": torch.ones(3)}}):
        with pytest.raises(ValueError, match="The optimiser's state"):
            restore(fresh, saved | {"state": state})
    nothing = torch.optim.SGD([weight], lr=0.1)
    restore(nothing, nothing.state_dict())  # without momentum nothing is gathered


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"data": 3, "avoid": 3}', b"\xff", b"[" * 100_000])
def test_what_a_run_says_of_itself_is_refused_where_it_is_damaged(runs: Runs, tmp_path: Path, content: bytes) -> None:
    two = [f"{shutil.copy(runs.manifest, tmp_path / name)}" for name in ("a.parquet", "b.parquet")]
    asked: dict[str, Callable[[], Any]] = {
        "data.json": lambda: kept_manifest(runs.manifest.parent, tmp_path),
        "mixture.json": lambda: mixture_of(two, tmp_path),
        "avoided.json": lambda: avoiding(runs.manifest, two, tmp_path),
        "recipe.json": lambda: _keep_teacher(tmp_path, 6, runs.other),
    }
    for name in ("", ".mixed", ".avoiding"):
        shutil.copy(runs.manifest, tmp_path / f"manifest{name}.parquet")
    for name, ask in asked.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            ValueError,
            match=rf"{name} (can't be read \(.*\);|is no JSON( of ours)? \(.*\):) choose another --run folder",
        ):
            ask()


# ── Sharded checkpoints, which DeepSpeed and PyTorch unpickle ────────────────────────────────────────────────────────


def test_pickles_of_sharded_checkpoints_name_tensors_alone(tmp_path: Path) -> None:
    """The whole grid of real ones is opened in the tests of ranks; here one of PyTorch's, and hostile ones."""
    dcp.save(
        {"weight": torch.ones(3), "step": torch.tensor(1.0), "name": "x"},
        checkpoint_id=tmp_path / "model",
        no_dist=True,
    )
    states = {"module": {"weight": torch.ones(3)}, "dtype": torch.bfloat16, "shape": torch.Size([3]), "names": {"a"}}
    torch.save(states, tmp_path / "model_states.pt")
    refuse_code(tmp_path)
    evil = Evil(tmp_path / "evil")
    archive = io.BytesIO()
    torch.save({"a": 1}, archive)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("archive/DATA.PKL", pickle.dumps(evil))
    torch.save({"weight": torch.ones(3), "more": evil}, tmp_path / "x.pt")
    hostile = {
        "x.pt": (tmp_path / "x.pt").read_bytes(),
        "twice.pt": archive.getvalue(),
        "bare.pt": pickle.dumps(evil),
        "before.pt": pickle.dumps(evil) + archive.getvalue(),
        "model/.metadata": pickle.dumps(evil),
        "cut/.metadata": (tmp_path / "model/.metadata").read_bytes()[:-40],
    }
    (tmp_path / "x.pt").unlink()
    for number, (name, content) in enumerate(hostile.items()):
        file = tmp_path / str(number) / name
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"isn't loaded: it names posix\.mkdir|is damaged \("):
            refuse_code(tmp_path / str(number))
    assert not (tmp_path / "evil").exists()


def test_a_run_that_was_launched_otherwise_says_so(runs: Runs, tmp_path: Path) -> None:
    run = copied(runs, tmp_path)
    folder = run / "checkpoints/step_6"
    (folder / "sharded").mkdir()
    (folder / "optimizer.pt").unlink()
    sign(folder)
    with pytest.raises(
        ValueError, match=r"step_6 was written under DeepSpeed or FSDP: launch as before, or begin a new"
    ):
        train(longer(RECIPE), runs.manifest, run)
