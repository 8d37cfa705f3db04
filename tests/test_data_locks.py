"""One writer at a time: of run, table, shard folder and feature store, freed by the system on a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from groundbass.data.audio import read as audio
from groundbass.data.collections.scan import scan_folder
from groundbass.data.locks import InUse, alone
from groundbass.data.storage.sharding import write_shards
from groundbass.data.synth.corpus import synth
from groundbass.pretrain.command import main as pretrain
from groundbass.probe.apply.embed import embed

HOLDER = """
import sys, time
from pathlib import Path
from groundbass.data.locks import alone
with alone(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def held(lock: Path, seconds: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock."""
    words = [sys.executable, "-c", HOLDER, str(lock), str(seconds)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_sentence_names_the_other_process_and_a_kill_frees_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / "deep" / "lock"
    with held(lock) as other:
        named = rf"my table is being written by another process, {other.pid} on .*since"
        with pytest.raises(InUse, match=named), alone(lock, "my table"):
            pass
        other.kill()
        other.wait()
        assert lock.exists()  # its file stays after a kill, the lock doesn't
        with alone(lock, "my table"):
            pass
    assert not lock.exists()


def test_who_waits_gets_it_when_the_other_has_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with held(tmp_path / "lock", 1.0), alone(tmp_path / "lock", "the store", wait=True):
        assert time.monotonic() - began > 0.5
    assert "waiting for it" in capsys.readouterr().err


def test_a_forked_worker_holds_nothing(tmp_path: Path) -> None:
    """The workers of a process that was killed live a little longer: they don't hold its lock."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with alone(tmp_path / "lock", "it"):
            grandchild = os.fork()
            if grandchild == 0:
                time.sleep(60)
                os._exit(0)
            os.write(writing, str(grandchild).encode())
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    grandchild = int(os.read(reading, 20))
    try:
        with alone(tmp_path / "lock", "it"):
            pass
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_every_command_that_goes_on_refuses_a_second_writer(tmp_path: Path) -> None:
    (tmp_path / "music").mkdir()
    for number in range(2):
        sound = 0.1 * np.random.default_rng(number).standard_normal(48_000)
        audio.write(tmp_path / "music" / f"{number}.wav", sound, 24_000)
    manifest = scan_folder(tmp_path / "music", workers=1, progress=False)[0]
    manifest.write(tmp_path / "music.parquet")
    words = ["contrastive.clmr_debug", "--data", str(tmp_path / "music.parquet"), "--run", str(tmp_path / "run")]
    with held(tmp_path / "run" / ".lock"), pytest.raises(OSError, match=r"run is being written by another process, \d"):
        pretrain([*words, "--steps", "1", "--workers", "0", "--trackers"])
    with held(tmp_path / "shards" / "__groundbass__" / "lock"), pytest.raises(OSError, match="shards is being written"):
        write_shards(manifest, tmp_path / "shards", 24_000, workers=1, progress=False)
    with held(tmp_path / ".corpus.lock"), pytest.raises(OSError, match="corpus is being written by another process"):
        synth(tmp_path / "corpus", hours=0.01)
    (tmp_path / "mine.py").write_text(
        "from groundbass.probe.baselines.simple import LogMelBaseline\nclass Mine(LogMelBaseline): pass\n"
    )
    encoder = f"{tmp_path / 'mine.py'}:Mine"
    with held(tmp_path / ".x.parquet.lock"), pytest.raises(OSError, match=r"x\.parquet is being written"):
        embed(encoder, (tmp_path / "music",), out=tmp_path / "x.parquet")


INTERRUPTED = """
import signal, sys, time
from groundbass.data.parallel import in_order
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
def work(item):
    time.sleep(0.2)
    return item
print("begun", flush=True)
try:
    for found in in_order(work, range(1000), 3):
        print(found, flush=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_ctrl_c_to_the_whole_group_ends_all_of_it(tmp_path: Path) -> None:
    """A terminal sends it to every process: workers leave it to the one that made them."""
    (tmp_path / "work.py").write_text(INTERRUPTED)
    for wait in (0.3, 0.7):
        process = subprocess.Popen(
            [sys.executable, str(tmp_path / "work.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=200)
        assert process.returncode == 130 and "Traceback" not in said, said
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["scan", "music", "--out", "x.parquet"], ["shard", "music", "shards"]], ids=" ".join)
def test_ctrl_c_ends_scan_and_shard_with_all_their_workers(words: list[str], tmp_path: Path) -> None:
    """While they decode; the same command then does all of it."""
    music = tmp_path / "music"
    music.mkdir()
    for number in range(60):
        sound = 0.1 * np.random.default_rng(number).standard_normal(24_000 * (40 if number < 20 else 1))
        audio.write(music / f"{number}.flac", sound.clip(-1, 1), 24_000)
    command = [sys.executable, "-m", "groundbass.cli", "data", *words, "--workers", "3"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the background ignores it
    )  # fmt: skip
    assert process.stderr is not None and process.stderr.read(1)  # its bar
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 130 and b"Traceback" not in said, said.decode()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # init takes a moment to bury what was ended
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("workers live on")
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / words[-1]).exists()
