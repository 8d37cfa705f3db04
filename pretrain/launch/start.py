"""`groundbass launch STRATEGY --gpus N -- pretrain …`: the ranks of a machine, by a configuration that is here."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from ... import arguments
from . import FOLDER, names

USAGE = """usage: groundbass launch STRATEGY [--gpus N] [--machines M --machine-rank K --main HOST:PORT] -- COMMAND …
       groundbass launch --list      the strategies
       groundbass launch --where     the folder with their files and slurm.sh

Start a rank per GPU by Accelerate. What comes after -- is the command as it would be given for one GPU: pretrain, or
embed, predict, data codes, probe or similar, of which each process does its share and the first joins all. Under Slurm:
sbatch --nodes 4 --gpus-per-node 8 --ntasks-per-node 8 $(groundbass launch --where)/slurm.sh ddp ADDRESS …"""


LAUNCHED = (("pretrain",), ("embed",), ("predict",), ("data", "codes"), ("probe",), ("similar",))


@dataclass(frozen=True)
class Options:
    """Start a rank per GPU."""

    strategy: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STRATEGY")]
    """ddp, fsdp2, zero1, zero2, zero3, zero2_offload, zero3_offload, one_gpu, or cpu"""
    gpus: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """ranks in all, one per GPU; None: as the file says"""
    machines: int = 1
    """that take part"""
    machine_rank: int = 0
    """the number of this one"""
    main: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """HOST:PORT of machine 0"""


def main(argv: list[str]) -> int:
    """Take the place of this process by Accelerate's launcher.

    Raises:
        ValueError: an unknown strategy, or nothing to start.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv == ["--list"]:
        print("\n".join(names()))
        return 0
    if argv == ["--where"]:
        print(FOLDER)
        return 0
    words = command(argv)
    os.execv(words[0], words)  # signals and exit codes are the launcher's own


def command(argv: list[str]) -> list[str]:
    """What is started.

    Raises:
        ValueError: an unknown strategy, or nothing to start.
    """
    own, dash, started = argv[: argv.index("--")] if "--" in argv else argv, "--" in argv, []
    if dash:
        started = argv[len(own) + 1 :]
    options = arguments.read(Options, own, "groundbass launch")
    if options.strategy not in names():
        raise ValueError(f"There is no strategy {options.strategy!r} to launch by; there are {', '.join(names())}.")
    if not any(started[: len(name)] == list(name) and len(started) > len(name) for name in LAUNCHED):
        raise ValueError(
            "What shall be launched? For example: groundbass launch ddp --gpus 8 -- pretrain ADDRESS …, or one of "
            f"{', '.join(' '.join(name) for name in LAUNCHED[1:])}."
        )
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"{FOLDER / options.strategy}.yaml"]
    words += [] if options.gpus is None else ["--num_processes", str(options.gpus)]
    if options.machine_rank >= options.machines:
        raise ValueError(
            f"--machine-rank is {options.machine_rank}, but --machines is {options.machines}: they count from 0 to "
            f"{options.machines - 1}."
        )
    if options.machines > 1:
        host, port = _main_machine(options)
        words += ["--num_machines", str(options.machines), "--machine_rank", str(options.machine_rank)]
        words += ["--main_process_ip", host, "--main_process_port", port]
    if started[0] == "pretrain":
        return [*words, "-m", "groundbass.pretrain", *started[1:]]
    return [*words, "-m", "groundbass.cli", *started]


def _main_machine(options: Options) -> tuple[str, str]:
    """Host and port of --main.

    Raises:
        ValueError: they are missing, or no port has that number.
    """
    host, _, port = (options.main or "").rpartition(":")
    if not host or not port:
        raise ValueError(f"--machines {options.machines} need --main HOST:PORT, where machine 0 is reached.")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"--main is {options.main}, but a port is a number from 1 to 65535, as in {host}:29500.")
    return host, port
