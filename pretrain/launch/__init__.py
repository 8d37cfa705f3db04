"""The machines' side of a run: Accelerate's configuration files, and a Slurm script that needs no launcher.

`accelerate launch --config_file pretrain/launch/zero2.yaml …` starts the ranks of one machine and tells them the
strategy by environment variables. Under Slurm, `srun` starts the ranks, and this says the same:

    eval "$(python -m groundbass.pretrain.launch zero2)"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The configurations that are here: ddp, fsdp2, zero1, …"""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def environment(name: str) -> dict[str, str]:
    """The variables by which Accelerate's launcher tells the ranks what `pretrain/launch/NAME.yaml` says.

    Raises:
        ValueError: there is no such configuration.
    """
    if name not in names():
        raise ValueError(f"There is no launch configuration {name!r}; there are {', '.join(names())}.")
    config = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    told = {"ACCELERATE_USE_CPU": "true"} if config["use_cpu"] else {}
    if "fsdp_config" in config:
        told |= {"ACCELERATE_USE_FSDP": "true"}
        told |= {key.upper(): _word(value) for key, value in config["fsdp_config"].items()}
    if "deepspeed_config" in config:
        told |= {"ACCELERATE_USE_DEEPSPEED": "true"}
        told |= {
            f"ACCELERATE_DEEPSPEED_{key.removesuffix('_flag').upper()}": _word(value)
            for key, value in config["deepspeed_config"].items()
        }
    return told


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
