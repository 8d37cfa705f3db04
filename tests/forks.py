"""Commands in forks of one warm process: what a fresh interpreter spends on imports (5 to 10 s each) is spent once.

    ended = warm()(["-m", "groundbass.pretrain", "masked.mert_debug", …])
    ended = warm()(["-c", CODE, …], ranks=launched(2), kill=7)

The line is that of `python`. A fork is a process of its own: it may be killed, may fork, may join other ranks. How an
interpreter starts and ends is the point of other tests, which start one.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import runpy
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

TESTS = Path(__file__).parent
# What most commands import sooner or later. Nothing here may start threads or touch autograd: forks would hang.
WARM = (
    "accelerate", "matplotlib", "pyarrow.dataset", "scipy.signal", "sklearn.linear_model", "tensorboard",
    "transformers", "transformers.models.auto.modeling_auto", "typeguard",
    "torch.distributed.fsdp", "torch.distributed.checkpoint.state_dict",
    "groundbass.cli", "groundbass.data.storage.sharding", "groundbass.data.collections.scan",
    "groundbass.models.published", "groundbass.pretrain.command", "groundbass.pretrain.iterate",
    "groundbass.probe.apply.embed", "groundbass.probe.apply.similar", "groundbass.probe.command",
    "groundbass.probe.report.command",
    *(f"groundbass.pretrain.objectives.{file.stem}" for file in TESTS.parent.glob("pretrain/objectives/[a-z]*.py")),
    *(["deepspeed"] if importlib.util.find_spec("deepspeed") else []),  # which transformers imports where it saves
)  # fmt: skip

# Accelerate shards by FSDP on accelerators only, PyTorch on CPUs too: begins the code of a rank.
FSDP_ON_CPU = """
from accelerate import PartialState
from accelerate.utils import DistributedType
from groundbass.pretrain import distributed
real = distributed.join
def join():
    state = real()
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return state
distributed.join = join
"""


@dataclass(frozen=True)
class Ended:
    """codes: of each rank, -9 one that was killed, 'hangs' one that had to be. said: stdout and stderr of each."""

    codes: list[int | str]
    said: list[str]


def launched(count: int, **more: str) -> list[dict[str, str]]:
    """The variables by which a launcher tells `count` ranks of one machine about each other, on CPUs; and more."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    told = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    told |= {"ACCELERATE_USE_CPU": "true"} | more
    return [told | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


class Warm:
    """A process that has imported everything and forks it again and again, one command at a time."""

    def __init__(self, imported: Sequence[str], **environment: str) -> None:
        """imported: names of modules. environment: that stands before any import."""
        told = {"PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])}
        told |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *imported], env=os.environ | told | environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(
        self,
        line: Sequence[str],
        *,
        ranks: Sequence[dict[str, str]] = ({},),
        folder: Path | None = None,
        seconds: float = 400,
        grace: float = 400,
        kill: int | None = None,
        told: Path | None = None,
        kept: tuple[Path, Path] | None = None,
    ) -> Ended:
        """Run `python LINE` once for each of `ranks`, their variables; wait for all.

        folder: to run in, else this process's. seconds: before what still runs is killed. grace: the same, from the end
        of rank 0. kill, told: rank 0 is killed after that many renames, which are told there (see sitecustomize). kept:
        a folder, and another that gets a copy of it as 1, 2, … after every rename of rank 0, which stands still then.
        """  # fmt: skip
        with tempfile.TemporaryDirectory() as place:
            files = [f"{place}/{rank}" for rank in range(len(ranks))]
            asked = {"line": list(map(str, line)), "ranks": list(ranks), "folder": str(folder or Path.cwd())}
            asked |= {"seconds": seconds, "grace": grace, "kill": kill, "told": str(told or ""), "said": files}
            asked |= {"kept": list(map(str, kept or ()))}
            assert self._process.stdin is not None and self._process.stdout is not None
            print(json.dumps(asked), file=self._process.stdin, flush=True)
            codes = json.loads(self._process.stdout.readline())
            return Ended(codes, [Path(file).read_text(errors="replace") for file in files])

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@functools.cache
def warm() -> Warm:
    """The tests' own, with everything. It ends with them, as its stdin does."""
    return Warm(WARM)


SHIM = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as wire:
    wire.connect({place!r})
    wire.sendall(json.dumps([sys.argv[1:], os.getcwd()]).encode() + b"\\n")
    code, said = json.loads(b"".join(iter(lambda: wire.recv(65536), b"")))
sys.stdout.write(said)
sys.exit(code)
"""


@contextlib.contextmanager
def groundbass_on_path() -> Iterator[str]:
    """A $PATH for shells, on which `groundbass` is served by `warm`."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            words, where = json.loads(self.rfile.readline())
            ended = warm()(["-m", "groundbass.cli", *words], folder=Path(where), seconds=600)
            self.wfile.write(json.dumps([ended.codes[0], ended.said[0]]).encode())

    with tempfile.TemporaryDirectory() as folder:  # a short name: sockets have no long ones
        script, place = Path(folder) / "groundbass", f"{folder}/socket"
        script.write_text(SHIM.format(python=sys.executable, place=place))
        script.chmod(0o755)
        with socketserver.UnixStreamServer(place, Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield os.pathsep.join([folder, str(Path(sys.executable).parent), os.environ["PATH"]])
            server.shutdown()


# ── In the warm process ──────────────────────────────────────────────────────────────────────────────────────────────


def _child(asked: dict[str, Any], rank: int) -> NoReturn:
    os.chdir(asked["folder"])
    said = os.open(asked["said"][rank], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for file, place in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(file, place)
    os.environ.update(asked["ranks"][rank])
    tempfile.tempdir = None  # asks for $TMPDIR anew
    if asked["kill"] is not None and rank == 0:
        import sitecustomize

        sitecustomize.arm(asked["kill"], asked["told"] or None, stop=bool(asked["kept"]))
    code = 1
    try:
        _run(asked["line"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run(line: list[str]) -> None:
    """As `python LINE` would."""
    if line[0] == "-m":
        sys.argv = [line[1], *line[2:]]
        runpy.run_module(line[1], run_name="__main__", alter_sys=True)
    elif line[0] == "-c":
        sys.argv = ["-c", *line[2:]]
        exec(compile(line[1], "<line>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = list(line)
        runpy.run_path(line[0], run_name="__main__")


def _starved(processes: list[int]) -> dict[int, float]:
    """Seconds for which processes, and those that they started, have waited for a processor that others had."""
    waited, left = {}, list(processes)
    while left:
        process = left.pop()
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended meanwhile, or this is no Linux
            waited[process] = int(Path(f"/proc/{process}/schedstat").read_text().split()[1]) / 1e9
            left += map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return waited


def _wait(children: list[int], seconds: float, grace: float, kept: list[str]) -> list[int | str]:
    """Codes of the children; those that run for too long, or when the tests have ended, are killed.

    Time for which they had no processor isn't counted: a busy machine makes nothing late. kept: a folder of which a
    copy is put into another each time a child stops; it goes on then.
    """
    parent, end, stops = os.getppid(), time.monotonic() + seconds, 0
    looked, starved = time.monotonic(), _starved(children)
    codes: dict[int, int | str] = {}
    while len(codes) < len(children):
        if time.monotonic() > looked + 1:
            now, waited = time.monotonic(), _starved(children)
            lost = max((waited[process] - starved.get(process, 0.0) for process in waited), default=0.0)
            end += min(max(lost, 0.0), now - looked)
            looked, starved = now, waited
        for child in set(children) - codes.keys():
            done, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
            if done and os.WIFSTOPPED(status):
                stops += 1
                shutil.copytree(kept[0], Path(kept[1]) / str(stops), symlinks=True)
                os.kill(child, signal.SIGCONT)
            elif done:
                codes[child] = os.waitstatus_to_exitcode(status)
                if child == children[0]:
                    end = min(end, time.monotonic() + grace)
        if time.monotonic() > end or os.getppid() != parent:
            for child in set(children) - codes.keys():
                os.kill(child, 9)
                os.waitpid(child, 0)
                codes[child] = "hangs"
        time.sleep(0.005)
    return [codes[child] for child in children]


def _look_up(line: list[str]) -> None:
    """What a command finds out about the recipe that it names, from sources and docstrings: forks keep it."""
    from groundbass.pretrain import command, recipe

    for address in set(line) & recipe.addresses().keys():
        command.chosen(address, [])


def _serve() -> None:
    import importlib

    for name in sys.argv[1:]:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        _look_up(asked["line"])
        children = []
        for rank in range(len(asked["ranks"])):
            child = os.fork()
            if not child:
                _child(asked, rank)
            children.append(child)
        print(json.dumps(_wait(children, asked["seconds"], asked["grace"], asked["kept"])), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        _serve()
