"""Rows of `groundbass bench predict`: files to JSON over the bare encoder, one pass for several heads, memory."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from ...data.audio.read import write
from ...data.bench.peak import own_peak
from ...models.adapters import ModelEncoder
from ...models.classifier_files import make_classifier, write_classifier
from ...models.head_files import HeadFacts
from ...models.heads import HeadConfig
from ...models.mert import MertConfig, MertModel
from ..apply.classify import cut
from ..apply.predict import predict

RATE, FILES, SECONDS, HEADS = 24_000, 30, 60, 4  # half an hour: opening the classifier counts as it does for an album
SHORT_MINUTES, LONG_MINUTES = 30, 120
MEMORY = "import sys; from groundbass.probe.bench.predict import heard_memory; print(heard_memory(*sys.argv[1:]))"


def rows() -> list[dict[str, Any]]:
    """`predict`, `from_files`, `shared_pass`, `memory`."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        encoder = _encoder()
        for heads in (1, HEADS):
            named = [(f"head{n}", _head(n), HeadFacts()) for n in range(heads)]
            write_classifier(make_classifier(encoder, named), folder / f"classifier{heads}")
        files = [folder / f"{number}.flac" for number in range(FILES)]
        for number, file in enumerate(files):
            write(file, _sound(SECONDS, number), RATE)
        bare, read = _bare(encoder), _read(files)
        one, four = (min(_files(folder / f"classifier{n}", files, folder) for _ in range(2)) for n in (1, HEADS))
        total = FILES * SECONDS
        found = [
            _row("predict", total / one, "s of audio/s", "the encoder alone, on sound in memory", bare / one),
            _row("from_files", total / one, "s of audio/s", "soundfile, then the encoder alone", (read + bare) / one),
            _row("shared_pass", total / four, "s of audio/s", "one classifier on the same encoder", one / four),
        ]
        short, long = (_memory(folder, minutes) for minutes in (SHORT_MINUTES, LONG_MINUTES))
        words = f"{SHORT_MINUTES} minutes in place of {LONG_MINUTES}"
        return [*found, _row("memory", long, "MiB at the peak, two hours of sound", words, short / long)]


def heard_memory(classifier: str, file: str) -> float:
    """MiB at the peak of a process that hears a file."""
    with contextlib.redirect_stdout(io.StringIO()):
        predict((classifier, file), quiet=True)
    return own_peak()


def _encoder() -> MertModel:
    torch.manual_seed(0)
    config = MertConfig(
        hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768, norm_first=True,
        frontend="mel", mel_channels=16, num_conv_pos_embeddings=32,
    )  # fmt: skip
    return MertModel(config).eval()


def _head(number: int) -> Any:
    return HeadConfig("tags", tuple("abcdefgh"), 192, layer=1 + number % 4, pooling="mean+std+change").build()


def _sound(seconds: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return (0.1 * np.random.default_rng(seed).standard_normal(seconds * RATE)).astype(np.float32)


def _bare(encoder: MertModel) -> float:
    """Seconds that the encoder alone takes for as much sound, in the same windows and batches."""
    heard = ModelEncoder(encoder)
    batch = torch.from_numpy(_sound(SECONDS, 0)).view(-1, cut(SECONDS * RATE, 10 * RATE)[0][1])
    took = []
    for _ in range(2):
        began = time.perf_counter()
        for _ in range(FILES):
            with torch.inference_mode():
                heard.hidden_states(batch)
        took.append(time.perf_counter() - began)
    return min(took)


def _read(files: list[Path]) -> float:
    """Seconds that soundfile takes to decode the files: what no program that hears files is spared."""
    took = []
    for _ in range(2):
        began = time.perf_counter()
        for file in files:
            soundfile.read(file, dtype="float32")
        took.append(time.perf_counter() - began)
    return min(took)


def _files(classifier: Path, files: list[Path], folder: Path) -> float:
    began = time.perf_counter()
    names = (str(classifier), *map(str, files))
    predict(names, out=(folder / "heard.json",), quiet=True, force=True)
    return time.perf_counter() - began


def _memory(folder: Path, minutes: int) -> float:
    file = folder / f"{minutes}_minutes.flac"
    write(file, np.tile(_sound(60, 0), minutes), RATE)
    command = [sys.executable, "-c", MEMORY, str(folder / "classifier1"), str(file)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _row(
    what: str, value: float, unit: str, reference: str | None = None, ratio: float | None = None
) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "reference": reference, "ratio": ratio}
