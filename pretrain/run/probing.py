"""`--probe-every N`: the encoder as it is now, copied and probed in a process of its own, while training goes on.

RUN/probes/step_N/ has the copy, the results and what the probe printed; `groundbass report RUN` draws them over steps.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ...data.writing import put_folder

_ASK = "import sys; from groundbass.probe.addresses import unknown; print(unknown(sys.argv[1:]))"


def check_tasks(tasks: Sequence[str]) -> None:
    """Ask for the names of tasks before anything is trained, in a process of its own, as what probes stands apart.

    Raises:
        ValueError: `groundbass probe` knows no such task; whether its data are there isn't asked.
    """
    if os.environ.get("RANK", "0") != "0":
        return  # the first one asks, and ends them all
    named = [words[0] for task in tasks if (words := shlex.split(task)) and not words[0].startswith("-")]
    alone = {name: value for name, value in os.environ.items() if name not in _RANKS}
    asked = subprocess.run([sys.executable, "-c", _ASK, *named], capture_output=True, text=True, env=alone)
    said = asked.stdout.strip() or "".join(asked.stderr.strip().splitlines()[-1:] if asked.returncode else [])
    if said:
        raise ValueError(f"--probe-tasks {' '.join(tasks)}: {said}")


class Prober:
    """Probes of one run, one at a time. tasks: as `groundbass probe` takes them; an entry may hold options too."""

    def __init__(self, run: Path, every: int, tasks: Sequence[str], say: Callable[[str], None]) -> None:
        self._run, self._every, self._say = run, every, say
        self._words = [word for task in tasks for word in shlex.split(task)]
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = run

    def after(self, step: int) -> None:
        """Probe RUN/encoder if this step is one for it; a probe that still runs is not disturbed."""
        if not self._every or step % self._every:
            return
        if self._process is not None and self._process.poll() is None:
            self._say(f"The probe in {self._folder} still runs, so step {step} isn't probed; raise --probe-every.")
            return
        self._start(step)

    def catch_up(self, step: int) -> None:
        """Probe what a kill has cost: steps whose copies of the encoder lie there still, and this one."""
        for copy in sorted(self._run.glob("probes/step_*/encoder")) if self._every else ():
            if (number := copy.parent.name.removeprefix("step_")).isdigit() and int(number) != step:
                self._start(int(number))
                self._wait()
        if step:
            self.after(step)

    def finish(self, step: int) -> None:
        """Wait for the last one; the run's last step is probed whatever ran when it was done."""
        if not self._every:
            return
        self._wait()
        if step % self._every == 0 and self._folder.name != f"step_{step}":
            self._start(step)
            self._wait()

    def _start(self, step: int) -> None:
        self._judge()
        self._folder = self._run / "probes" / f"step_{step}"
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with self._folder.with_name(f".step_{step}.lock").open("w") as lock:
            # the probe holds it too, and outlives a run that is killed
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (self._folder / "results.json").is_file():  # a resumed run comes by again
                self._process = None
                shutil.rmtree(self._folder / "encoder", ignore_errors=True)
                Path(lock.name).unlink()
                return
            self._launch(lock.fileno())

    def _launch(self, lock: int) -> None:
        if not (self._folder / "encoder").is_dir():
            shutil.rmtree(self._folder, ignore_errors=True)
            shutil.copytree(self._run / "encoder", self._folder / ".encoder.part")
            put_folder(self._folder / ".encoder.part", self._folder / "encoder")
        # its own baselines are those of the finished run: here the curve is what counts
        command = [sys.executable, "-m", "groundbass.cli", "probe", str(self._folder / "encoder"), *self._words]
        command += ["--out", str(self._folder), "--baselines", "constant"]
        if "--device" not in self._words:
            command += ["--device", "cpu"]
        alone = {name: value for name, value in os.environ.items() if name not in _RANKS}
        with (self._folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=alone,
                start_new_session=True,
                pass_fds=(lock,),
            )

    def _wait(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._say(f"Waiting for the probe in {self._folder}.")
            self._process.wait()
        self._judge()

    def _judge(self) -> None:
        """Say what failed; the copy of an encoder that was probed is removed."""
        if self._process is None:
            return
        self._folder.with_name(f".{self._folder.name}.lock").unlink(missing_ok=True)
        if self._process.returncode == 0:
            shutil.rmtree(self._folder / "encoder", ignore_errors=True)
        else:
            lines = (self._folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            self._say(f"The probe in {self._folder} failed: {lines[-1] if lines else 'it said nothing'}")
        self._process = None


_RANKS = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_CPU"}
_RANKS |= {"ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"}
