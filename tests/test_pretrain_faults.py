"""What a cluster does to a run: kill -9 at any moment, dead ranks and workers, full disks, rotten files, stalls."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forks import launched, warm

from groundbass.data.audio.read import write
from groundbass.data.collections.scan import scan_folder
from groundbass.data.crops import CropConfig, Crops
from groundbass.data.loader import loader
from groundbass.data.track import Manifest
from groundbass.pretrain.recipe import addresses, find
from groundbass.pretrain.run.alarms import Watch

RATE = 24_000
DEBUG = [a for a in addresses() if a.endswith("_debug") and getattr(find(a).objective, "tokenizer", None) != ""]

ONE_EACH = {address.partition(".")[0]: address for address in reversed(DEBUG)}.values()  # the first of each objective


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, labels_of: Callable[..., dict[str, Any]]) -> Path:
    folder = tmp_path_factory.mktemp("music")
    for number in range(8):
        draw = np.random.default_rng(number)
        t = np.arange(6 * RATE) / RATE
        sound = 0.02 * draw.standard_normal(len(t))
        for pitch in draw.uniform(100, 2000, 4):
            sound += 0.1 * np.sin(2 * np.pi * pitch * t * (1 + 0.02 * t))
        write(folder / f"{number}.flac", sound.astype(np.float32), RATE)
    found = scan_folder(folder, workers=1, progress=False)[0]
    labelled = [dataclasses.replace(track, labels=labels_of(number, 6.0)) for number, track in enumerate(found)]
    Manifest.from_tracks(labelled, folder).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


# Forks a run from a process that has imported everything, and kills it -9 at random moments until one comes through.
CHAOS = """
import json, os, random, shutil, signal, sys, time
from groundbass.pretrain.command import main
words, kills, seed = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
run, enough = words[words.index("--run") + 1], min(2, kills)
draw = random.Random(seed)

def attempt(limit):
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1); os.dup2(null, 2)
        code = 70
        try:
            code = main(words)
        finally:
            os._exit(code)
    began = time.monotonic()
    while limit is None or time.monotonic() - began < limit:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return time.monotonic() - began, status
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return limit, None

killed, span, status = 0, float(sys.argv[4]), None
while killed < kills and status in (None, 0):
    took, status = attempt(draw.uniform(0.05, span))
    killed += status is None
    if status == 0 and killed >= enough:
        break
    if status == 0:  # the machine was busier when the span was measured: once more from the start, killed sooner
        shutil.rmtree(run)
        killed, span, status = 0, 0.7 * took, None
if status is None:
    took, status = attempt(None)
print(json.dumps({"killed": killed, "status": status, "took": took}))
"""


def chaos(address: str, manifest: Path, run: Path, kills: int, span: float = 0.0) -> dict[str, float]:
    words = [address, "--steps", "6", "--checkpoint-every", "2", "--log-every", "1", "--workers", "1"]
    words += ["--data", str(manifest), "--run", str(run), "--trackers"]
    ended = warm()(["-c", CHAOS, json.dumps(words), str(kills), "7", str(span)], seconds=900)
    assert ended.codes == [0], ended.said
    found: dict[str, float] = json.loads(ended.said[0].splitlines()[-1])
    assert found["status"] == 0, ended.said
    return found


def fingerprint(run: Path) -> dict[str, str]:
    files = [run / "loss.jsonl", run / "checkpoints/step_6/weights.safetensors", run / "encoder/model.safetensors"]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize(
    "address, kills",
    [
        *(pytest.param(address, 3, marks=pytest.mark.slow) for address in DEBUG if address in ONE_EACH),
        *(pytest.param(address, 20, marks=pytest.mark.soak) for address in DEBUG),
    ],
)
def test_killed_at_random_moments_is_an_undisturbed_run_byte_for_byte(
    manifest: Path, tmp_path: Path, address: str, kills: int
) -> None:
    quiet = chaos(address, manifest, tmp_path / "quiet", 0)
    found = chaos(address, manifest, tmp_path / "killed", kills, span=max(0.3, 0.7 * quiet["took"]))
    assert found["killed"] >= min(2, kills)
    assert fingerprint(tmp_path / "killed") == fingerprint(tmp_path / "quiet")


RANKS = """
import dataclasses, os, signal, sys, time
from groundbass.pretrain import distributed, train as module
distributed.COLLECTIVE_MINUTES = 0.25
real, mode = module.train_step, sys.argv[1]
def step(training, batches, number, *rest):
    if number == 2 and training.accelerator.process_index == 1:
        if mode == "killed": os.kill(os.getpid(), signal.SIGKILL)
        if mode == "raises": raise ValueError("the objective of this rank is broken")
        if mode == "hangs": time.sleep(600)
        if mode == "nan":
            batch = next(batches)
            batches = iter([dataclasses.replace(batch, waveform=batch.waveform * float("nan"))])
    return real(training, batches, number, *rest)
module.train_step = step
from groundbass.pretrain.__main__ import leave, run
sys.argv = [sys.argv[0], *sys.argv[2:]]
leave(run())
"""


def two_ranks(mode: str, folder: Path, address: str, *words: str) -> tuple[list[int | str], list[str]]:
    """Codes and words of two ranks, of which the second meets `mode` in step 3; the second is killed in the end."""
    line = ["-c", RANKS, mode, address, "--steps", "40", "--checkpoint-every", "1", "--workers", "0"]
    line += ["--run", str(folder / "run"), *words, "--trackers"]
    ended = warm()(line, ranks=launched(2), seconds=400, grace=0.5 if mode == "hangs" else 60)
    return ended.codes, ended.said


@pytest.mark.slow
@pytest.mark.parametrize("mode, sentence", [("killed", "is gone"), ("raises", "is gone"), ("hangs", "doesn't answer")])
def test_a_lost_rank_ends_the_others_in_bounded_time(manifest: Path, tmp_path: Path, mode: str, sentence: str) -> None:
    codes, said = two_ranks(mode, tmp_path, "contrastive.clmr_debug", "--objective.no-pitch", "--data", str(manifest))
    assert codes[0] == 75, said[0]  # one that never ended would say 'hangs'
    assert f"another rank {sentence}" in said[0] and "the same command goes on" in said[0]
    assert "Traceback" not in said[0]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")], "the last checkpoint stands"
    if mode == "raises":
        assert "the objective of this rank is broken" in said[1]


@pytest.mark.slow
def test_a_loss_that_is_no_number_names_the_rank_and_its_tracks(manifest: Path, tmp_path: Path) -> None:
    """Every rank stops, and says whose batch it was; a step may be left out instead, by all of them alike."""
    codes, said = two_ranks("nan", tmp_path, "masked.bestrq_debug", "--data", str(manifest))
    assert codes == [78, 78], said  # higher than the 75 of a rank that was lost: no new start cures it
    for words in said:
        assert re.search(r"In step 3 the loss is nan on rank 1 with the tracks \d\.flac, \d\.flac\. The weights", words)
    (tmp_path / "skip").mkdir()
    skip = ["--data", str(manifest), "--nonfinite", "skip", "--steps", "5"]
    codes, said = two_ranks("nan", tmp_path / "skip", "masked.bestrq_debug", *skip)
    assert codes == [0, 0], said
    assert "on rank 1 with the tracks" in said[0] and "The step is skipped" in said[0] and "Done: 5 steps" in said[0]


def test_a_worker_that_dies_is_replaced_and_nothing_is_lost(manifest: Path) -> None:
    crops = Crops(Manifest.open(manifest), CropConfig(RATE, RATE), 0)
    undisturbed = loader(crops, 2, workers=0)
    disturbed = loader(crops, 2, workers=2)
    expected = [next(undisturbed) for _ in range(8)]
    found = [next(disturbed) for _ in range(3)]
    for worker in disturbed._batches._workers:  # type: ignore[union-attr]
        os.kill(worker.pid, signal.SIGKILL)
    busy = time.monotonic()
    while time.monotonic() - busy < 0.5:  # a step computes: nothing may be raised into it
        pass
    with pytest.warns(UserWarning, match="a loader process died at step"):
        found += [next(disturbed) for _ in range(5)]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys == theirs.keys and torch.equal(ours.waveform, theirs.waveform)
    disturbed.close()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from groundbass.pretrain.run import checkpoint
real = checkpoint.begin
def begin(run, step):
    if step == 4 and run.name == "run":  # from here on no file may grow any further, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    return real(run, step)
checkpoint.begin = begin
from groundbass.cli import main
main(["pretrain", *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.parametrize("address", ["masked.mert_debug", "contrastive.clmr_debug"])
def test_a_full_disk_keeps_the_checkpoint_before(manifest: Path, tmp_path: Path, address: str) -> None:
    run = tmp_path / "run"
    words = [address, "--steps", "6", "--checkpoint-every", "2", "--workers", "0", "--trackers"]
    words += ["--log-every", "100", "--data", str(manifest), "--run", str(run)]
    ended = warm()(["-c", FULL, *words], seconds=200)
    assert ended.codes == [2], ended.said
    (said,) = ended.said
    assert "The checkpoint of step 4 can't be written" in said and "The one before it stands" in said
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_2"]
    from groundbass.pretrain.command import main

    assert main(words) == 0
    assert (run / "checkpoints" / "step_6").is_dir()


def test_files_that_vanish_are_counted_up_to_a_share(manifest: Path, tmp_path: Path) -> None:
    shutil.copytree(manifest.parent, tmp_path / "music")
    (tmp_path / "music" / "3.flac").unlink()
    (tmp_path / "music" / "5.flac").write_bytes(b"rotten")
    crops = Crops(Manifest.open(tmp_path / "music" / "manifest.parquet"), CropConfig(RATE, RATE), 0)
    batches = loader(crops, 2, workers=0, max_bad_share=0.3)
    for _ in range(8):
        next(batches)
    assert set(batches.bad) == {"3.flac", "5.flac"}
    strict = loader(crops, 2, workers=0, max_bad_share=0.2)
    with pytest.raises(ValueError, match=r"2 of 8 tracks can't be read, more than max_bad_share=0.2.*flac"):
        list(itertools.islice(strict, 8))


def line(**more: float) -> dict[str, float]:
    return {"step": 1, "loss": 3.0, "gradient_norm": 1.0} | more


@pytest.mark.parametrize(
    "bad, timing, sentence",
    [
        ({"effective_rank": 1.3}, {}, "1.30 directions"),
        ({"rvq/use_1": 0.03}, {}, r"only 3.0% of the codes are in use \(rvq/use_1\)"),
        ({"majority": 0.97}, {}, "97% of the labels are one code"),
        ({"spread": 0.02}, {}, "the teacher says nearly the same"),
        ({"cqt/gradient_share": 0.93}, {}, r"93% of the gradient is one term's \(cqt/gradient_share\)"),
        ({"gradient_norm": 80.0}, {}, "gradient's norm is 80, usually 1"),
        ({}, {"data_wait_share": 0.3}, "30% of the time goes into waiting for data"),
        ({}, {"memory_share": 0.99}, "99% of the device's memory"),
    ],
)
def test_alarms_say_what_is_wrong_once(bad: dict[str, float], timing: dict[str, float], sentence: str) -> None:
    watch = Watch("cpu")
    good = {"effective_rank": 30.0, "rvq/use_1": 0.8, "majority": 0.1, "spread": 0.9, "cqt/gradient_share": 0.6}
    for _ in range(20):
        assert watch.look(line(**good), {"data_wait_share": 0.01, "memory_share": 0.5}) == []
    (found,) = watch.look(line(**good | bad), timing)
    assert re.search(sentence, found), found
    assert watch.look(line(**good | bad), timing) == [], "not again at once"


def test_a_contrast_that_teaches_nothing_is_said_after_a_while() -> None:
    """Nobody finds a partner at first."""
    watch = Watch("cpu")
    said = [watch.look(line(first_place=0.01), {}) for _ in range(60)]
    assert not any(said[:50]) and "only 1.0% of the crops find their partner" in said[50][0]


def test_a_rising_loss_is_noticed() -> None:
    watch = Watch("cpu")
    said = [sentence for step in range(80) for sentence in watch.look(line(loss=1 + abs(step - 30) / 30), {})]
    assert len(said) == 1 and "the loss has risen" in said[0]


def test_locks_of_killed_compilers_are_waited_for_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever starts again at once doesn't wait for ever; a compiler that works keeps its lock, however slow it is."""
    from groundbass.pretrain import distributed

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(distributed, "STALE_SECONDS", 2.0)
    old, killed, works = (tmp_path / "py311_cpu" / name / "lock" for name in ("old", "killed", "works"))
    for lock in (old, killed, works):
        lock.parent.mkdir(parents=True)
        lock.touch()
    long_ago = time.time() - 700
    os.utime(old, (long_ago, long_ago))

    def compile() -> None:
        """Six objects in three seconds, longer than a still folder is given."""
        for number in range(6):
            (works.parent / f"{number}.o").touch()
            time.sleep(0.5)
        works.unlink()

    compiler = threading.Thread(target=compile)
    compiler.start()
    distributed._wait_for_compilers()
    assert not works.exists() and (works.parent / "5.o").exists(), "it was waited for"
    compiler.join()
    assert not old.exists() and not killed.exists()
    said = capsys.readouterr().err
    assert f"waiting for {works}" in said and str(old) not in said


# Stand-ins for Slurm's commands: `srun` starts the tasks on this machine and ends with the highest of their codes.
SRUN = """#!{python}
import os, signal, subprocess, sys
words = sys.argv[2:]  # after --kill-on-bad-exit=0
places = [{{"SLURM_PROCID": number, "SLURM_LOCALID": number}} for number in "01"]
tasks = [subprocess.Popen(words, env=os.environ | place) for place in places]
def tell(number, frame):
    for task in tasks: task.send_signal(number)
signal.signal(signal.SIGTERM, tell)
print("srun pid", os.getpid(), flush=True)
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
SCONTROL = """#!/bin/bash
if [ "$1" = show ]; then echo 127.0.0.1; else echo "$@" >> {folder}/requeued; fi
"""


@pytest.mark.slow
def test_the_slurm_script_trains_requeues_and_goes_on(manifest: Path, tmp_path: Path) -> None:
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text.format(python=sys.executable, folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    script = Path(__file__).parent.parent / "pretrain" / "launch" / "slurm.sh"
    words = ["masked.bestrq_debug", "--steps", "3000", "--checkpoint-every", "5", "--workers", "0", "--trackers"]
    words += ["--log-every", "1", "--data", str(manifest), "--run", str(tmp_path / "run")]
    told = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"}
    told |= {"PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}", "ACCELERATE_USE_CPU": "true"}
    log = tmp_path / "job.log"

    def submit(strategy: str, steps: str) -> subprocess.Popen[bytes]:
        line = ["bash", str(script), strategy, *words, "--steps", steps]
        with log.open("ab") as file:
            return subprocess.Popen(line, env=os.environ | told, stdout=file, stderr=subprocess.STDOUT)

    job = submit("ddp", "3000")
    deadline = time.monotonic() + 600
    while not (tmp_path / "run" / "checkpoints" / "step_5").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(int(re.findall(r"srun pid (\d+)", log.read_text())[0]), signal.SIGTERM)
    assert job.wait(timeout=600) == 75, log.read_text()
    assert "Stopped as asked after step" in log.read_text() and "goes into the queue again" in log.read_text()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    done = max(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").glob("step_*"))
    assert submit("ddp", str(done + 2)).wait(timeout=600) == 0, log.read_text()
    assert f"Done: {done + 2} steps" in log.read_text() and "on 2 ranks of 1 nodes, ddp" in log.read_text()
    assert submit("dpp", "3").wait(timeout=600) == 2 and "no launch configuration 'dpp'" in log.read_text()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n", "neither success nor a fault asks for another start"
