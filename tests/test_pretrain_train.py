"""The life of a run: resumed bit-equal, weighted exactly, stopped with reasons, damaged and mended."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import groundbass.pretrain.train as train_module
from groundbass.data.audio.read import write
from groundbass.data.batch import Batch
from groundbass.data.crops import CropConfig
from groundbass.data.track import Manifest, Track
from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel
from groundbass.pretrain.command import main
from groundbass.pretrain.distributed import STOPPED
from groundbass.pretrain.objective import Loss, Objective, TrainingStopped
from groundbass.pretrain.objectives.contrastive import ContrastiveConfig
from groundbass.pretrain.optim import schedule
from groundbass.pretrain.recipe import Optim, Phase, Recipe, find
from groundbass.pretrain.run import checkpoint
from groundbass.pretrain.run.judge import Judge
from groundbass.pretrain.run.log import Log
from groundbass.pretrain.train import train

SAMPLES = 20736  # SampleCNN's window at 8 kHz


@dataclass(frozen=True)
class Toy:
    """A weighted regression with dropout, batch norm and an EMA buffer; `event` happens in `event_step`."""

    event: Callable[[Objective, Batch], Tensor | None] | None = None
    event_step: int = -1
    dropout: float = 0.0

    def build(self) -> ToyObjective:
        return ToyObjective(self)


class ToyObjective(Objective):
    average: Tensor

    def __init__(self, config: Toy) -> None:
        super().__init__()
        self.config = config
        self.encoder = SampleCNNModel(SampleCNNConfig(sample_rate=8000, width=0.01))
        self.head = nn.Linear(16, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("average", torch.zeros(16))

    def forward(self, batch: Batch, step: int) -> Loss:
        pieces = batch.waveform[:, 0].unfold(1, 16, 1024)  # [batch, pieces, 16]
        known = torch.arange(pieces.shape[1]) * 1024 < batch.valid[:, :1]
        errors = (self.head(self.dropout(pieces)).squeeze(-1) - 0.3).square()[known]
        value = errors.mean()
        if step == self.config.event_step and self.config.event is not None:
            factor = self.config.event(self, batch)
            value = value if factor is None else value * factor
        return Loss(value, torch.tensor(float(len(errors))), {"error": value.detach()})

    def after_step(self, step: int) -> None:
        self.average.lerp_(self.head.weight[0], 0.5)


def toy(event: Callable[[Objective, Batch], Tensor | None] | None = None, step: int = -1, **changes: Any) -> Recipe:
    recipe = Recipe(
        objective=Toy(event, step), crops=CropConfig(sample_rate=8000, crop_samples=SAMPLES),
        optim=Optim(lr=1e-2, warmup_steps=2, decay="cosine", decay_steps=10, clip=1.0), steps=4, batch_size=4,
        log_every=1, checkpoint_every=2, workers=0, trackers=(),
    )  # fmt: skip
    return dataclasses.replace(recipe, **changes)


def contrastive(**changes: Any) -> Recipe:
    objective = ContrastiveConfig(sample_rate=8000, width=0.03, projection=8, pitch=False)
    return dataclasses.replace(find("contrastive.clmr_debug"), objective=objective, steps=4, **changes)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven tracks, one of them shorter than a crop, so that weights differ."""
    folder = tmp_path_factory.mktemp("tones")
    tracks = []
    for number in range(7):
        seconds = 1.5 if number == 3 else 4.0
        time = np.arange(int(8000 * seconds)) / 8000
        noise = np.random.default_rng(number).standard_normal(len(time))
        sound = (0.2 * np.sin(2 * np.pi * (150 + 60 * number) * time) + 0.02 * noise).astype(np.float32)
        write(folder / f"{number}.flac", sound, 8000)
        tracks.append(Track(f"{number}.flac", f"{number}.flac", len(sound), 8000, 1, f"{number:032x}"))
    Manifest.from_tracks(tracks, folder).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def weights(run: Path, step: int) -> bytes:
    return (run / "checkpoints" / f"step_{step}" / "weights.safetensors").read_bytes()


def optimiser_of(run: Path) -> dict[int, dict[str, Tensor]]:
    """What the newest checkpoint holds of every parameter."""
    saved = checkpoint.newest(run)
    assert saved is not None
    found: dict[int, dict[str, Tensor]] = saved.optimizer()["optimizer"]["state"]
    return found


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "loss.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 2])
def test_two_steps_and_two_more_are_four_to_the_bit(manifest: Path, tmp_path: Path, workers: int) -> None:
    """Mid-epoch (7 tracks, 4 crops a step), with dropout, batch norm, EMA, accumulation and decay."""
    recipe = toy(objective=Toy(dropout=0.5), micro_batch=2, workers=workers)
    train(recipe, manifest, tmp_path / "straight")
    train(dataclasses.replace(recipe, steps=2), manifest, tmp_path / "twice")
    assert train(recipe, manifest, tmp_path / "twice") == 4
    assert weights(tmp_path / "twice", 4) == weights(tmp_path / "straight", 4)
    assert (tmp_path / "twice/loss.jsonl").read_bytes() == (tmp_path / "straight/loss.jsonl").read_bytes()
    optimizers = [checkpoint.newest(tmp_path / run) for run in ("straight", "twice")]
    states = [found.optimizer()["optimizer"]["state"] for found in optimizers if found is not None]
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])


@dataclass(frozen=True)
class Judged(Toy):
    """A toy that counts its steps in its state and is validated by that count: best after two."""

    def build(self) -> JudgedObjective:
        return JudgedObjective(self)


class JudgedObjective(ToyObjective):
    done: Tensor
    validate_every = 2

    def __init__(self, config: Judged) -> None:
        super().__init__(config)
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def after_step(self, step: int) -> None:
        super().after_step(step)
        self.done += 1

    def validate(self, state: dict[str, Tensor]) -> dict[str, float]:
        return {"score": {2: 0.9}.get(int(state["done"]), 0.5)}


PHASES = (Phase(4, Optim("sgd", 1e-2, warmup_steps=2, clip=0.1)), Phase(7, Optim("sgd", 1e-3, momentum=0.5)))


@pytest.fixture(scope="module")
def straight(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine steps of three phases that nothing disturbs."""
    run = tmp_path_factory.mktemp("phases")
    train(toy(objective=Judged(dropout=0.5), steps=9, checkpoint_every=1, keep_last=1, phases=PHASES), manifest, run)
    return run


def test_a_phase_begins_with_the_best_and_a_new_optimiser(straight: Path) -> None:
    judged = [json.loads(line) for line in (straight / "valid.jsonl").read_text().splitlines()]
    assert [(line["step"], line["score"]) for line in judged] == [
        (2, 0.9), (4, 0.5), (6, 0.5), (7, 0.5), (8, 0.5), (9, 0.5)
    ]  # fmt: skip
    adam = Optim(lr=1e-2, warmup_steps=2, decay="cosine", decay_steps=10)
    rates = [*(schedule(adam, step, 4) for step in range(4)), 5e-3, 1e-2, 1e-2, 1e-3, 1e-3]
    assert [line["lr"] for line in lines(straight)] == pytest.approx(rates)
    assert load_file(straight / "checkpoints/step_9/weights.safetensors")["done"] == 2 + 2, "twice from step 2"
    assert {name for state in optimiser_of(straight).values() for name in state} == {"momentum_buffer"}


@pytest.mark.parametrize(
    "part, step", [(Log, 4), (Judge, 4), (Log, 5), (Log, 6), (Judge, 7), (Log, 8)],
    ids=["before a phase ends", "before it is judged", "as one begins", "within one", "between two", "in the last"],
)  # fmt: skip
def test_phases_resume_to_the_bit(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: Path, part: Any, step: int
) -> None:
    """Killed around a phase's begin, the same command ends with the same losses, validations, weights and momenta."""
    name = "write" if part is Log else "after"
    real = getattr(part, name)

    def killed(self: Any, at: int, *rest: Any) -> None:
        if at == step:
            raise KeyboardInterrupt
        real(self, at, *rest)

    recipe = toy(objective=Judged(dropout=0.5), steps=9, checkpoint_every=1, keep_last=1, phases=PHASES)
    with monkeypatch.context() as patched:
        patched.setattr(part, name, killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, manifest, tmp_path)
    assert train(recipe, manifest, tmp_path) == 9
    assert weights(tmp_path, 9) == weights(straight, 9)
    for file in ("loss.jsonl", "valid.jsonl"):
        assert (tmp_path / file).read_bytes() == (straight / file).read_bytes()
    ours, theirs = optimiser_of(tmp_path), optimiser_of(straight)
    assert all(torch.equal(ours[i]["momentum_buffer"], theirs[i]["momentum_buffer"]) for i in theirs)


@pytest.mark.parametrize("log_every", [1, 2])
def test_contrast_resumes_to_the_bit(manifest: Path, tmp_path: Path, log_every: int) -> None:
    """Also where the shorter run wrote a line of its last step, which is none of the longer one's."""
    recipe = dataclasses.replace(contrastive(), log_every=log_every)
    train(recipe, manifest, tmp_path / "straight")
    train(dataclasses.replace(recipe, steps=3), manifest, tmp_path / "twice")
    assert len((tmp_path / "twice/loss.jsonl").read_text().splitlines()) == 3 // log_every + log_every - 1
    train(recipe, manifest, tmp_path / "twice")
    assert weights(tmp_path / "twice", 4) == weights(tmp_path / "straight", 4)
    assert (tmp_path / "twice/loss.jsonl").read_bytes() == (tmp_path / "straight/loss.jsonl").read_bytes()


@pytest.mark.parametrize("steps", [6, 4], ids=["goes on", "is done"])
@pytest.mark.parametrize("left", ["stale", "none"])
def test_a_kill_between_checkpoint_and_encoder_leaves_no_stale_encoder(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, left: str
) -> None:
    """The encoder is that of the checkpoint before anything else happens, also where all steps are done."""
    run, first = tmp_path / "run", 2 if left == "stale" else 0

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    if first:
        train(toy(steps=first), manifest, run)
    with monkeypatch.context() as patched:
        patched.setattr(train_module, "write_encoder", killed)
        with pytest.raises(KeyboardInterrupt):
            train(toy(steps=4, checkpoint_every=4), manifest, run)
    assert (run / "checkpoints/step_4").is_dir() and (run / "encoder").exists() == bool(first)
    monkeypatch.setattr(train_module, "trial_step", killed)  # the next thing that happens in a run with steps to do
    if steps == 4:
        assert train(toy(), manifest, run) == 4
    else:
        with pytest.raises(KeyboardInterrupt):
            train(toy(steps=steps), manifest, run)
    saved = load_file(run / "checkpoints/step_4/weights.safetensors")
    published = load_file(run / "encoder/model.safetensors")
    assert published and all(torch.equal(saved[f"encoder.{name}"], value) for name, value in published.items())


def test_a_run_leaves_what_it_promises(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    recipe = contrastive(checkpoint_every=1, keep_last=2, trackers=("tensorboard",))
    assert train(recipe, manifest, run, address="contrastive.clmr_debug") == 4
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_3", "step_4"]
    record = json.loads((run / "recipe.json").read_text())
    assert json.loads((run / "checkpoints" / "step_4" / "recipe.json").read_text()) == record
    assert record["address"] == "contrastive.clmr_debug"
    assert record["recipe"]["objective"]["width"] == 0.03
    assert record["manifest"]["tracks"] == 7
    assert record["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    assert {"loss", "lr", "gradient_norm", "positive_similarity", "chance_loss"} <= set(lines(run)[0])
    timing = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]
    assert all(line["audio_seconds_per_second"] > 0 for line in timing)
    assert list((run / "trackers").rglob("events.out.tfevents*"))
    assert "7 tracks" in capsys.readouterr().out
    encoder = SampleCNNModel.from_pretrained(run / "encoder")
    saved = load_file(run / "checkpoints/step_4/weights.safetensors")
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, saved[f"encoder.{name}"]), name
    torch.load(run / "checkpoints/step_4/optimizer.pt", weights_only=True)


def test_the_dry_run_leaves_no_trace(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, batch norm, EMA, optimiser and random state after training are the same with it and without."""
    for recipe, name in ((toy(objective=Toy(dropout=0.5)), "toy"), (contrastive(), "contrast")):
        train(recipe, manifest, tmp_path / name)
        with monkeypatch.context() as patched:
            patched.setattr(train_module, "trial_step", lambda *_: torch.rand(3))
            train(recipe, manifest, tmp_path / f"{name}-without")
        assert weights(tmp_path / name, 4) == weights(tmp_path / f"{name}-without", 4)
        assert (tmp_path / name / "loss.jsonl").read_bytes() == (tmp_path / f"{name}-without/loss.jsonl").read_bytes()


def test_the_dry_run_finds_what_would_break(manifest: Path, tmp_path: Path) -> None:
    def explode(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train(toy(explode, step=0), manifest, tmp_path)
    assert not (tmp_path / "loss.jsonl").exists()


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_accumulation_weighs_exactly(manifest: Path, tmp_path: Path, micro_batch: int) -> None:
    """A short track has fewer pieces: the mean of means would be another number."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(toy(optim=Optim(lr=1e-2, clip=0.05), steps=7), manifest, whole)
    train(toy(optim=Optim(lr=1e-2, clip=0.05), steps=7, micro_batch=micro_batch), manifest, parts)
    for one, other in zip(lines(whole), lines(parts), strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other["error"] == pytest.approx(one["error"], rel=1e-5)
        assert other["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    final = [load_file(run / "checkpoints/step_7/weights.safetensors")["head.weight"] for run in (whole, parts)]
    assert torch.allclose(final[0], final[1], rtol=1e-3, atol=1e-5)


def test_learning_rate_follows_the_schedule(manifest: Path, tmp_path: Path) -> None:
    train(toy(optim=Optim(lr=1.0, warmup_steps=2, decay="linear", decay_steps=6)), manifest, tmp_path)
    assert [line["lr"] for line in lines(tmp_path)] == [0.5, 1.0, 1.0, 0.75]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(toy(), manifest, tmp_path / "straight")
    damages: list[Callable[[Path], Any]] = [
        lambda folder: _flip(folder / "weights.safetensors"),
        lambda folder: (folder / "optimizer.pt").unlink(),
        lambda folder: (folder / "checkpoint.json").write_text("{"),
    ]
    for number, damage in enumerate(damages):
        run = tmp_path / f"run{number}"
        shutil.copytree(tmp_path / "straight", run)
        damage(run / "checkpoints/step_4")
        capsys.readouterr()
        assert train(toy(), manifest, run) == 4
        said = capsys.readouterr().out
        assert "step_4 is damaged" in said
        assert "Going on from" in said and "step_2" in said
        assert weights(run, 4) == weights(tmp_path / "straight", 4)
        assert (run / "loss.jsonl").read_bytes() == (tmp_path / "straight/loss.jsonl").read_bytes()


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_no_whole_checkpoint_left_is_said(manifest: Path, tmp_path: Path) -> None:
    train(toy(steps=2), manifest, tmp_path)
    _flip(tmp_path / "checkpoints/step_2/weights.safetensors")
    with pytest.raises(ValueError, match=r"Every checkpoint .* is damaged"):
        train(toy(), manifest, tmp_path)


def test_half_a_line_of_a_killed_run_is_cut(manifest: Path, tmp_path: Path) -> None:
    train(toy(), manifest, tmp_path / "straight")
    train(toy(steps=2), manifest, tmp_path / "killed")
    with (tmp_path / "killed/loss.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 1.0}\n{"step": 4, "lo')
    (tmp_path / "killed/checkpoints/.step_4.part").mkdir()
    train(toy(), manifest, tmp_path / "killed")
    assert (tmp_path / "killed/loss.jsonl").read_bytes() == (tmp_path / "straight/loss.jsonl").read_bytes()
    assert not list((tmp_path / "killed/checkpoints").glob(".*"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_and_ctrl_c_end_with_a_checkpoint_and_the_run_goes_on(
    manifest: Path, tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    """A scheduler and a terminal send them to the loader's workers too."""
    sent: list[int] = []

    def terminate(*_: Any) -> None:
        if not sent:
            sent.append(1)
            for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
                os.kill(process or 0, number)

    train(toy(steps=6, checkpoint_every=5), manifest, tmp_path / "straight")
    recipe = toy(terminate, step=1, steps=6, checkpoint_every=5, workers=workers)
    handler = signal.getsignal(number)
    done = train(recipe, manifest, tmp_path / "run")
    assert done == 3, "the signal comes in the second step, the third hears of it"
    assert signal.getsignal(number) is handler
    assert train(recipe, manifest, tmp_path / "run") == 6
    assert weights(tmp_path / "run", 6) == weights(tmp_path / "straight", 6)


def test_sigterm_has_an_exit_code_of_its_own(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundbass.pretrain.command.train", lambda *_, **__: 3)
    words = ["contrastive.clmr_debug", "--data", str(manifest), "--run", str(tmp_path)]
    assert main(words) == STOPPED == 75


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_with_names(manifest: Path, tmp_path: Path, number: float) -> None:
    with pytest.raises(
        TrainingStopped, match=r"step 3 the loss is (nan|inf) on rank 0 with the tracks .*\.flac"
    ) as stop:
        train(toy(lambda *_: torch.tensor(number), step=2), manifest, tmp_path)
    assert "--nonfinite skip" in str(stop.value)
    assert (tmp_path / "checkpoints/step_2").is_dir()
    assert len(lines(tmp_path)) == 2


def test_a_gradient_that_is_no_number_stops_too(manifest: Path, tmp_path: Path) -> None:
    def spoil(objective: Objective, _: Batch) -> Tensor:
        weight = next(objective.head.parameters())  # type: ignore[union-attr]
        return 1 + (weight.sum() * 0).sqrt()  # finite, with an infinite slope

    with pytest.raises(TrainingStopped, match="step 3 the gradient is nan"):
        train(toy(spoil, step=2), manifest, tmp_path)


def test_skipping_leaves_the_weights_of_the_step_before(manifest: Path, tmp_path: Path) -> None:
    recipe = toy(lambda *_: torch.tensor(float("nan")), step=3, nonfinite="skip", checkpoint_every=1, keep_last=4)
    assert train(recipe, manifest, tmp_path) == 4
    before, after = (load_file(tmp_path / f"checkpoints/step_{n}/weights.safetensors") for n in (3, 4))
    assert torch.equal(before["head.weight"], after["head.weight"])


def test_a_skipped_step_leaves_no_trace_in_buffers(manifest: Path, tmp_path: Path) -> None:
    """Codebooks and running statistics that met the bad batch are as before it."""

    def spoil(objective: Objective, batch: Batch) -> Tensor:
        objective.average.fill_(float("nan"))  # type: ignore[operator, union-attr]
        return torch.tensor(float("nan"))

    train(toy(spoil, step=1, nonfinite="skip", steps=2), manifest, tmp_path / "skipped")
    train(toy(steps=1, checkpoint_every=1), manifest, tmp_path / "before")
    after, before = (
        load_file(tmp_path / run / "checkpoints" / f"step_{step}" / "weights.safetensors")
        for run, step in (("skipped", 2), ("before", 1))
    )
    assert all(torch.equal(after[name], before[name]) for name in after)
    assert "The step is skipped" in (tmp_path / "skipped" / "alarms.jsonl").read_text()


def test_a_damaged_checkpoint_that_is_newer_costs_no_whole_one(manifest: Path, tmp_path: Path) -> None:
    train(toy(steps=4, keep_last=2), manifest, tmp_path)
    (tmp_path / "checkpoints" / "step_4" / "weights.safetensors").write_bytes(b"rotten")
    (tmp_path / "checkpoints" / ".step_9.part").mkdir()
    part = checkpoint.begin(tmp_path, 3)
    shutil.copy(tmp_path / "checkpoints" / "step_2" / "weights.safetensors", part)
    checkpoint.finish(part, 3, 1, keep_last=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_3"]
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.step == 3


def test_a_run_goes_on_without_the_encoder_that_it_began_with(manifest: Path, tmp_path: Path) -> None:
    train(contrastive(checkpoint_every=4), manifest, tmp_path / "first")
    shutil.copytree(tmp_path / "first" / "encoder", tmp_path / "encoder")
    recipe = contrastive(init=str(tmp_path / "encoder"), checkpoint_every=2)
    train(dataclasses.replace(recipe, steps=2), manifest, tmp_path / "second")
    shutil.rmtree(tmp_path / "encoder")
    assert train(recipe, manifest, tmp_path / "second") == 4
    assert json.loads((tmp_path / "second" / "recipe.json").read_text())["init"]


def test_an_objective_can_stop_the_run(manifest: Path, tmp_path: Path) -> None:
    def stop(*_: Any) -> None:
        raise TrainingStopped("The labels carry no information.")

    with pytest.raises(TrainingStopped, match="no information"):
        train(toy(stop, step=2), manifest, tmp_path)
    assert (tmp_path / "checkpoints/step_2").is_dir()


def test_effective_rank_of_what_is_no_number_is_no_number() -> None:
    from groundbass.pretrain.objectives.contrastive import effective_rank

    embeddings = torch.randn(8, 4)
    assert 1 < float(effective_rank(embeddings)) <= 4
    embeddings[2, 1] = float("nan")
    assert torch.isnan(effective_rank(embeddings))


def test_another_recipe_or_manifest_is_refused(manifest: Path, tmp_path: Path) -> None:
    train(toy(), manifest, tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds another run.*batch_size: 4 there, 2 here"):
        train(toy(batch_size=2), manifest, tmp_path / "run")
    fewer = Manifest.open(manifest).select([0, 1])
    fewer.write(manifest.parent / "fewer.parquet")
    with pytest.raises(ValueError, match="other tracks"):
        train(toy(), manifest.parent / "fewer.parquet", tmp_path / "run")
    assert train(toy(log_every=2, keep_last=1, workers=1), manifest, tmp_path / "run") == 4


def test_an_unknown_tracker_is_named(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracker 'nonsense'"):
        train(toy(trackers=("nonsense",)), manifest, tmp_path)


def test_weights_and_biases_works_without_a_network(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both parts of a resumed run are one run there, with its recipe and the losses of loss.jsonl."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    recipe = toy(trackers=("wandb",))
    train(dataclasses.replace(recipe, steps=2), manifest, tmp_path)
    train(recipe, manifest, tmp_path)
    files = sorted((tmp_path / "trackers" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1
    content = b"".join(file.read_bytes() for file in files)
    assert b"gradient_norm" in content and b"batch_size" in content
    for line in lines(tmp_path):
        assert str(line["loss"])[:8].encode() in content


def test_a_step_waits_for_the_device_once(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No `.item()`, no `float(tensor)`: one reading of four numbers, which on a CPU is no operation."""
    asked: list[str] = []

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"):
                asked.append("".join(traceback.format_stack(limit=8)))
            return func(*args, **(kwargs or {}))

    real = train_module.train_step

    def watched(*arguments: Any) -> Any:
        with Waits():
            return real(*arguments)

    monkeypatch.setattr(train_module, "train_step", watched)
    optim = Optim(lr=1e-2, clip=1.0, fused=True)  # the other kernels count their steps on the CPU
    train(toy(optim=optim, micro_batch=2, log_every=100), manifest, tmp_path)
    assert asked == []


def test_a_published_folder_is_no_run(manifest: Path, tmp_path: Path) -> None:
    train(toy(steps=1), manifest, tmp_path / "run")
    with pytest.raises(ValueError, match="is a published model, not a run"):
        train(toy(steps=1), manifest, tmp_path / "run" / "encoder")


def test_a_batch_that_ranks_cannot_share_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="micro_batch = 3"):
        train(toy(micro_batch=3), manifest, tmp_path)


def test_bf16_is_a_switch(manifest: Path, tmp_path: Path) -> None:
    train(contrastive(precision="bf16", batch_size=2), manifest, tmp_path)
    saved = load_file(tmp_path / "checkpoints/step_4/weights.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32, torch.int64}
    assert all(np.isfinite(line["loss"]) for line in lines(tmp_path))


@pytest.mark.soak
@pytest.mark.parametrize("address", ["masked.bestrq_debug", "contrastive.clmr_debug"])
def test_compiled_training_learns_the_same(manifest: Path, tmp_path: Path, address: str) -> None:
    """SampleCNN's first step only: from then on rounding decides which sample a max-pool takes, and Adam makes steps
    of it (two ranks against one differ alike: test_pretrain_distributed.py).
    """
    recipe = contrastive() if address.startswith("contrastive") else find(address)
    recipe = dataclasses.replace(recipe, steps=4, checkpoint_every=4, log_every=1, workers=0, trackers=())
    train(recipe, manifest, tmp_path / "plain")
    train(dataclasses.replace(recipe, compile=True), manifest, tmp_path / "compiled")
    same = 1 if address.startswith("contrastive") else 4
    for ours, theirs in list(zip(lines(tmp_path / "compiled"), lines(tmp_path / "plain"), strict=True))[:same]:
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=5e-5)
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=1e-3)
    assert (
        load_file(tmp_path / "compiled/checkpoints/step_4/weights.safetensors").keys()
        == load_file(tmp_path / "plain/checkpoints/step_4/weights.safetensors").keys()
    )


def test_the_command_trains_a_folder_and_repeats_from_recipe_json(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, again = tmp_path / "run", tmp_path / "again"
    words = ["contrastive.clmr_debug", "--run", str(run), "--steps", "2", "--objective.no-pitch", "--optim.lr=1e-3"]
    assert main([*words, "--data", str(manifest.parent)]) == 0
    said = capsys.readouterr().out
    assert "Next: groundbass probe" in said
    assert (run / "manifest.parquet").exists()
    record = json.loads((run / "recipe.json").read_text())
    assert record["overrides"] == ["--steps", "2", "--objective.no-pitch", "--optim.lr=1e-3"]
    assert main(["--from", str(run / "recipe.json"), "--run", str(again)]) == 0
    assert weights(again, 2) == weights(run, 2)
    assert (again / "loss.jsonl").read_bytes() == (run / "loss.jsonl").read_bytes()
    assert main([*words, "--data", str(manifest.parent)]) == 0
    assert "has done its 2 steps already" in capsys.readouterr().out


@pytest.mark.gpu
def test_batches_copied_ahead_are_the_same_batches(manifest: Path, tmp_path: Path) -> None:
    from groundbass.data.crops import Crops
    from groundbass.data.loader import loader
    from groundbass.pretrain.run.prefetch import on_device

    crops = Crops(Manifest.open(manifest), CropConfig(8000, SAMPLES), 0)
    device = torch.device("cuda")
    ahead = on_device(loader(crops, 2, workers=0, pin=True), device, ahead=True)
    for expected, found in zip(itertools.islice(loader(crops, 2, workers=0), 20), ahead):
        assert found.waveform.is_cuda and torch.equal(found.waveform.cpu(), expected.waveform)
        assert found.keys == expected.keys


def test_a_run_on_a_folder_refuses_another_folder(manifest: Path, tmp_path: Path) -> None:
    """The audio is listed in the run when it begins: another --data would be passed over without a word."""
    for name in ("first", "second"):
        shutil.copytree(manifest.parent, tmp_path / name)
        (tmp_path / name / "manifest.parquet").unlink()
    words = ["contrastive.clmr_debug", "--steps", "1", "--workers", "0", "--run", str(tmp_path / "run"), "--trackers"]
    assert main([*words, "--data", str(tmp_path / "first")]) == 0
    with pytest.raises(ValueError, match=r"was begun on the audio in .*first; it can't go on with .*second"):
        main([*words, "--data", str(tmp_path / "second"), "--steps", "2"])
    shutil.move(tmp_path / "first", tmp_path / "moved")
    with pytest.raises(ValueError, match=r"where the audio has moved, --data .*manifest\.parquet --root"):
        main([*words, "--data", str(tmp_path / "moved"), "--steps", "2"])
    told = ["--data", str(tmp_path / "run" / "manifest.parquet"), "--root", str(tmp_path / "moved")]
    assert main([*words, *told, "--steps", "2"]) == 0
