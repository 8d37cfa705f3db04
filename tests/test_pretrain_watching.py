"""What a long run is asked for: probes on the way, weights from elsewhere, checkpoints to keep, parts of a step."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from groundbass.data.audio.read import write
from groundbass.data.collections.scan import scan_folder
from groundbass.models.encoder import load_encoder, weights_hash
from groundbass.models.published import write_encoder
from groundbass.pretrain.clock import SECTIONS
from groundbass.pretrain.command import main
from groundbass.pretrain.recipe import find
from groundbass.pretrain.run.probing import Prober, check_tasks
from groundbass.pretrain.train import train
from groundbass.probe.report.command import report

RATE = 24_000


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-six notes, high or low, labelled and listed."""
    folder = tmp_path_factory.mktemp("notes")
    rows = []
    for number in range(36):
        draw = np.random.default_rng(number)
        time = np.arange(2 * RATE) / RATE
        high = number % 2 == 1
        frequency = draw.uniform(1000, 2000) if high else draw.uniform(100, 300)
        sound = 0.2 * np.sin(2 * np.pi * frequency * time) + 0.01 * draw.standard_normal(len(time))
        write(folder / f"{number}.flac", sound.astype(np.float32), RATE)
        rows.append((f"{number}.flac", "high" if high else "low", ("train", "valid", "test")[number // 2 % 3]))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "height", "split"), *rows])
    scan_folder(folder, workers=1, progress=False)[0].write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def pretrain(music: Path, run: Path, address: str = "masked.bestrq_debug", *words: str) -> None:
    told = [address, "--data", str(music), "--run", str(run), "--steps", "4", "--log-every", "1", "--workers", "0"]
    assert main([*told, "--checkpoint-every", "1", "--trackers", *words]) == 0


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_probes_on_the_way_disturb_nothing(music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last step is probed whatever ran when it was done; a second start probes nothing again."""
    pretrain(music, tmp_path / "quiet")
    words = [
        "--probe-every",
        "2",
        "--probe-tasks",
        f"folder:{music.parent} --label height --store {tmp_path / 'store'}",
    ]
    pretrain(music, tmp_path / "probed", "masked.bestrq_debug", *words)
    assert (tmp_path / "probed/loss.jsonl").read_bytes() == (tmp_path / "quiet/loss.jsonl").read_bytes()
    last = tmp_path / "probed" / "probes" / "step_4"
    rows = json.loads((last / "results.json").read_text())["rows"]
    (score,) = [row for row in rows if row["system"] == "encoder" and row["split"] == "test"][:1]
    assert score["weights"] == weights_hash(load_encoder(tmp_path / "probed" / "encoder"))
    assert 0 <= score["value"] <= 1 and score["tracks"] == 12
    assert not (last / "encoder").exists(), "the copy is gone when it has been probed"
    changed = (last / "results.json").stat().st_mtime_ns
    pretrain(music, tmp_path / "probed", "masked.bestrq_debug", *words)
    assert (last / "results.json").stat().st_mtime_ns == changed
    assert not list(last.parent.glob(".*")), "no lock is left"
    report((tmp_path / "probed",), out=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "What was learned on the way" in page and "Scores over the steps of pretraining" in page


def test_a_last_probe_that_a_kill_lost_is_made_up_for(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it had a result, it is begun again by a start that has nothing left to train; then never more."""
    launched: list[str] = []
    monkeypatch.setattr(Prober, "_launch", lambda self, lock: launched.append(self._folder.name))
    words = ["masked.bestrq_debug", "--probe-every", "2", "--probe-tasks", "synth:nowhere"]
    pretrain(music, tmp_path, *words)
    assert launched == ["step_2", "step_4"]
    pretrain(music, tmp_path, *words)
    assert launched == ["step_2", "step_4", "step_4"]
    (tmp_path / "probes/step_4").mkdir()
    (tmp_path / "probes/step_4/results.json").write_text("{}")
    pretrain(music, tmp_path, *words)
    assert launched == ["step_2", "step_4", "step_4"]


@pytest.mark.slow
def test_a_probe_that_fails_is_said_and_training_goes_on(
    music: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--probe-every", "4", "--probe-tasks", "gtzan_genre:nowhere"]
    pretrain(music, tmp_path / "run", "masked.bestrq_debug", *words)
    said = capsys.readouterr().out
    assert "step_4 failed" in said and "nowhere" in said and "Done: 4 steps" in said


def test_begin_with_an_encoder_that_is_there(music: Path, tmp_path: Path) -> None:
    """Its weights, for encoder and EMA teacher alike; the run says whose they were."""
    torch.manual_seed(7)
    other: Any = find("latent.eat_beats_debug").objective.build()
    write_encoder(other.encoder, tmp_path / "other")
    pretrain(music, tmp_path / "run", "latent.eat_beats_debug", "--init", str(tmp_path / "other"), "--optim.lr", "0")
    trained = load_file(tmp_path / "run" / "checkpoints" / "step_4" / "weights.safetensors")
    for name, tensor in other.encoder.state_dict().items():
        assert torch.equal(trained[f"encoder.{name}"], tensor)
        assert torch.equal(trained[f"teacher.{name}"], tensor)
    record = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert record["init"] == weights_hash(load_encoder(tmp_path / "other"))


def test_an_encoder_that_does_not_fit_is_refused(music: Path, tmp_path: Path) -> None:
    write_encoder(find("latent.eat_beats_debug").objective.build().encoder, tmp_path / "beats")
    with pytest.raises(ValueError, match=r"is a BeatsModel; this recipe trains a MertModel"):
        pretrain(music, tmp_path / "run", "masked.bestrq_debug", "--init", str(tmp_path / "beats"))
    recipe = find("masked.bestrq_debug")
    wide = dataclasses.replace(recipe.objective.encoder, hidden_size=64)
    write_encoder(dataclasses.replace(recipe.objective, encoder=wide).build().encoder, tmp_path / "wide")
    with pytest.raises(ValueError, match=r"has another shape than this recipe's encoder: .*64.* against .*32"):
        pretrain(music, tmp_path / "run", "masked.bestrq_debug", "--init", str(tmp_path / "wide"))
    with pytest.raises((ValueError, OSError), match="nowhere"):
        pretrain(music, tmp_path / "run", "masked.bestrq_debug", "--init", str(tmp_path / "nowhere"))


def test_which_checkpoints_stay(music: Path, tmp_path: Path) -> None:
    pretrain(music, tmp_path / "run", "masked.bestrq_debug", "--steps", "7", "--keep-last", "1", "--keep-every", "3")
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"step_3", "step_6", "step_7"}


@pytest.mark.parametrize("address", ["masked.bestrq_debug", "tokens.beats_iter1_debug", "latent.eat_beats_debug"])
def test_activations_computed_again_change_nothing(music: Path, tmp_path: Path, address: str) -> None:
    pretrain(music, tmp_path / "plain", address)
    pretrain(music, tmp_path / "again", address, "--checkpoint-activations")
    ours, theirs = lines(tmp_path / "again/loss.jsonl"), lines(tmp_path / "plain/loss.jsonl")
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-6)
    assert [line["gradient_norm"] for line in ours] == pytest.approx(
        [line["gradient_norm"] for line in theirs], rel=1e-5
    )


def test_an_encoder_that_cannot_compute_again_says_so(music: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="SampleCNNModel can't compute its activations again"):
        pretrain(music, tmp_path / "run", "contrastive.clmr_debug", "--checkpoint-activations")


@pytest.mark.parametrize("address", ["masked.bestrq_debug", "contrastive.clmr_debug", "latent.eat_beats_debug"])
def test_a_step_is_the_sum_of_its_parts(music: Path, tmp_path: Path, address: str) -> None:
    pretrain(music, tmp_path / "run", address)
    for line in lines(tmp_path / "run" / "timing.jsonl"):
        parts = [line[f"{name}_seconds"] for name in SECTIONS if f"{name}_seconds" in line]
        assert len(parts) >= 4 and min(parts) >= 0
        assert 0.5 * line["seconds_per_step"] < sum(parts) <= line["seconds_per_step"]
        crops = find(address)
        heard = crops.batch_size * crops.crops.views * crops.crop_seconds
        assert line["audio_seconds_per_second"] == pytest.approx(heard / line["seconds_per_step"])


def test_flops_are_those_of_a_step(music: Path, tmp_path: Path) -> None:
    """tflops × seconds is what PyTorch's counter finds for forward and backward of one batch."""
    recipe = dataclasses.replace(find("masked.bestrq_debug"), steps=2, log_every=1, workers=0, trackers=())
    train(recipe, music, tmp_path / "run")
    line = lines(tmp_path / "run" / "timing.jsonl")[-1]
    objective: Any = recipe.objective.build().train()
    from groundbass.data.track import Manifest
    from groundbass.pretrain.run.trial_step import random_batches

    batch = next(random_batches(recipe, Manifest.open(music)))
    with FlopCounterMode(display=False) as counter:
        objective(batch, 0).value.backward()
    assert line["tflops"] * 1e12 * line["seconds_per_step"] == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize("dry", [["--dry-run"], ["--data", "nowhere.parquet", "--run", "run"]])
def test_a_probe_task_that_nobody_knows_is_refused_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--probe-tasks synth_kee: There is no task 'synth_kee'\. Near or known"):
        main(["masked.mert_tiny", "--probe-every", "1", "--probe-tasks", "synth_kee", *dry])
    assert not (tmp_path / "run").exists()


def test_tasks_whose_name_alone_does_not_decide_are_left_to_the_probe() -> None:
    check_tasks(["synth_key", "folder:nowhere --label genre", "gtzan:nowhere", "--protocol knn"])
