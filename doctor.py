"""`groundbass doctor`: what this machine has, what is missing, and the cure."""

from __future__ import annotations

import importlib.metadata
import io
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

REQUIRED = (
    "torch", "torchaudio", "transformers", "accelerate", "datasets", "nnAudio", "einops", "numpy", "pyarrow",
    "soundfile", "soxr", "safetensors", "scikit-learn", "mir_eval", "tyro", "tensorboard", "matplotlib",
)  # fmt: skip
OPTIONAL = {
    "av": ("av", "m4a, AAC, WMA and the sound of videos"),
    "deepspeed": ("deepspeed", "ZeRO training"),
    "onnxruntime": ("onnx", "`groundbass export` to ONNX"),
    "peft": ("lora", "`groundbass finetune --lora`"),
    "s3fs": ("remote", "sound at s3://"),
    "gcsfs": ("remote", "sound at gs://"),
    "aiohttp": ("remote", "sound at https://"),
    "wandb": ("wandb", "`--trackers wandb`"),
    "pretty_midi": ("synth", "the embedded corpus (its soundfont)"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. `cure` is empty where nothing is wrong."""

    what: str
    value: str
    cure: str = ""
    fatal: bool = False


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def packages() -> Iterator[Finding]:
    """Required and optional packages."""
    for package in REQUIRED:
        found = version(package)
        yield Finding(package, found or "missing", "" if found else f'pip install "{package}"', fatal=not found)
    for package, (extra, use) in OPTIONAL.items():
        found = version(package)
        cure = "" if found else f'only for {use}: pip install "groundbass[{extra}]"'
        yield Finding(package, found or "not installed", cure)


def decoders() -> Iterator[Finding]:
    """Whether libsndfile on this machine writes and reads back each format that we decode."""
    import numpy as np
    import soundfile

    yield Finding("libsndfile", soundfile.__libsndfile_version__)
    tone = np.sin(np.arange(4800) / 10).astype(np.float32) / 2
    for name in ("WAV", "FLAC", "OGG", "MP3"):
        try:
            sound = io.BytesIO()
            soundfile.write(sound, tone, 24_000, format=name)
            sound.seek(0)
            good = len(soundfile.read(sound)[0]) >= len(tone)
        except (soundfile.LibsndfileError, ValueError, TypeError):
            good = False
        cure = "" if good else "pip install --upgrade soundfile (its wheels carry libsndfile 1.1 or later)"
        yield Finding(f"decode {name}", "yes" if good else "no", cure, fatal=not good)


def devices() -> Iterator[Finding]:
    """CUDA, NCCL, cores, memory."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            size = properties.total_memory / 2**30
            yield Finding(f"cuda:{index}", f"{properties.name}, {size:.0f} GiB, CUDA {torch.version.cuda}")
        yield Finding("bf16", "yes" if torch.cuda.is_bf16_supported() else "no; use --precision fp16 or no")
        nccl = torch.distributed.is_nccl_available()
        nccl_version = ".".join(map(str, torch.cuda.nccl.version())) if nccl else "no"
        yield Finding("NCCL", nccl_version, "" if nccl else "needed for several GPUs: install a CUDA build of torch")
    else:
        cure = "`tiny` and `debug` recipes run on a CPU; for a GPU install a CUDA build of torch that fits the driver"
        yield Finding("CUDA", "no device", cure)
    gloo = torch.distributed.is_available() and torch.distributed.is_gloo_available()
    yield Finding("gloo", "yes" if gloo else "no", "" if gloo else "needed for several CPU ranks")
    yield Finding("cores", f"{os.cpu_count()} (torch uses {torch.get_num_threads()})")


def torchaudio_imports() -> Finding:
    """Whether torchaudio fits torch: a mismatch shows only at import."""
    try:
        import torchaudio
    except (ImportError, OSError) as error:
        cure = 'pip install "torch>=2.8,<2.12" "torchaudio>=2.8,<2.12" of the same release'
        return Finding("torchaudio imports", f"no: {str(error).splitlines()[0][:80]}", cure, fatal=True)
    return Finding("torchaudio imports", f"yes ({torchaudio.__version__})")


def bf16_convolution() -> Finding:
    """Whether this CPU's bfloat16 convolution answers as that in float32 does.

    oneDNN's for AMX doesn't: groups of 8 channels with an even kernel come out wrong by about 100 %, where rounding
    would give 0.2 %. Small encoders with a convolution for positions have such groups.
    """
    import torch

    draw = torch.Generator().manual_seed(0)
    sound = torch.randn(2, 16, 64, generator=draw).bfloat16()
    kernel = torch.randn(16, 8, 8, generator=draw).bfloat16()  # two groups of 8 channels, 8 samples long
    exact = torch.nn.functional.conv1d(sound.float(), kernel.float(), padding=4, groups=2)
    found = torch.nn.functional.conv1d(sound, kernel, padding=4, groups=2).float()
    error = float((found - exact).norm() / exact.norm())
    if error < 0.02:
        return Finding("bf16 convolution", f"right, to {error:.1%}")
    cure = (
        "bf16 on this CPU errs where a convolution has groups of 8 channels and an even kernel (oneDNN's AMX kernels): "
        "train with --precision no, or set ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16"
    )
    return Finding("bf16 convolution", f"wrong by {error:.0%}", cure)


def findings() -> list[Finding]:
    """Everything that `groundbass doctor` reports, in order."""
    from . import __version__

    found = [
        Finding("groundbass", __version__),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("system", platform.platform()),
        *packages(),
    ]
    if not any(finding.fatal for finding in found):
        found += [torchaudio_imports(), *devices(), bf16_convolution(), *decoders()]
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    found.append(Finding("free disk here", f"{free:.0f} GiB", "" if free > 5 else "a run keeps several checkpoints"))
    data = os.environ.get("GROUNDBASS_DATA")
    cure = "" if data else "set it to the folder that holds the corpora, or give tasks as TASK:ROOT"
    found.append(Finding("GROUNDBASS_DATA", data or "not set", cure))
    return found


def doctor(*, json: bool = False) -> int:
    """Report versions, devices and decoders, what is missing, and the cure; exit code 1 if anything needed is.

    Args:
        json: print JSON and nothing else.
    """
    if json:
        return _as_json(findings())
    from rich.console import Console
    from rich.table import Table

    found = findings()
    table = Table(box=None)
    for title in ("", "found", "cure or note"):
        table.add_column(title, overflow="fold")  # a cure is read to its end
    for finding in found:
        colour = "red" if finding.fatal else "yellow" if finding.cure else "green"
        table.add_row(finding.what, f"[{colour}]{finding.value}[/]", finding.cure.replace("[", "\\["))
    Console().print(table)
    return 1 if any(finding.fatal for finding in found) else 0


def _as_json(found: list[Finding]) -> int:
    import json

    print(json.dumps([asdict(finding) for finding in found], indent=1, ensure_ascii=False))
    return 1 if any(finding.fatal for finding in found) else 0
