"""How fast `probe` is, each number against a reference measured in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ...data.audio import read as audio
from ...data.bench.peak import own_peak
from ...data.collections.scan import scan_folder
from ...data.labels.splits import Fold
from ...data.synth.corpus import synth
from ...data.track import Manifest, Track
from ...models.adapters import ModelEncoder
from ...models.cqt import CqtConfig, CqtModel
from ..command import Options
from ..command import probe as ask
from ..fit import fit, training_data
from ..heads import marble
from ..heads.head import WEIGHTED, Features, answer
from ..listen.features import FeatureStore, forget
from ..task import Task

CLIPS, LAYERS, DIM, CLASSES = 930, 13, 768, 10  # GTZAN's fault-filtered clips, a base encoder's hidden states
SIZES = (443, 197, 290)
LIMIT_SECONDS = 60.0
TIMED_HEADS = ((3, 1e-3), (9, 5e-5), (12, 1e-2), (WEIGHTED, 5e-4))  # (layer, learning rate) of the reference
QUICKSTART_HOURS, QUICKSTART_SECONDS = 1.5, 240.0
LARGE_CLIPS, LARGE_LAYERS = 120_000, 13  # 4.5 GiB of features: more than the memory that is allowed


class Row(TypedDict):
    """One measurement: `ratio` is our speed over the reference's, None without a reference."""

    what: str
    value: float
    unit: str
    reference: str | None
    ratio: float | None


def probe() -> list[Row]:
    """Rows `linear_grid`, `marble_grid`, `marble_scores`, `extract`, `memory`, `quickstart_probe`.

    Features are of GTZAN's size and of MERT's kind: 930 clips × 13 layers × 768, ten classes.
    """
    task, features = _gtzan_like()
    rows = [_linear_row(task, features), *_marble_rows(task, features), _extract_row(), _memory_row()]
    return [*rows, _quickstart_row()]


def predict() -> list[Any]:
    """Rows `predict`, `shared_pass`, `memory`."""
    from .predict import rows

    return rows()


def _task(labels: npt.NDArray[np.int64], sizes: tuple[int, ...]) -> Task:
    """A task without audio: `sizes` tracks to train, validate and test."""
    tracks = [Track(f"{n}", f"{n}", 1, 1, 1, f"{n}") for n in range(len(labels))]
    order = np.random.default_rng(1).permutation(len(labels))
    ends = np.cumsum(sizes)
    parts = [np.sort(order[end - size : end]) for end, size in zip(ends, sizes)]
    names = tuple(f"{k}" for k in range(CLASSES))
    return Task(
        "bench", 1, "classes", Manifest.from_tracks(tracks, "."), [f"{k}" for k in labels], names, (Fold(*parts),)
    )


def _gtzan_like() -> tuple[Task, npt.NDArray[np.float32]]:
    """Classes that overlap, in features whose variance falls along their axes, as those of real encoders do."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, CLIPS)
    centres = generator.normal(size=(CLASSES, DIM))
    scale = np.linspace(1, 0.05, DIM) ** 2
    strength = np.linspace(0.05, 0.2, LAYERS)[:, None, None]
    noise = generator.normal(size=(LAYERS, CLIPS, DIM))
    return _task(labels, SIZES), ((noise + strength * centres[labels]) * scale).astype(np.float32)


def _linear_row(task: Task, features: npt.NDArray[np.float32]) -> Row:
    started = time.perf_counter()
    outcome = fit(task, features)
    seconds = time.perf_counter() - started
    accuracy = float((outcome.guess.argmax(1) == outcome.truth).mean())
    what = f"linear_grid: 13 layers × 9 strengths to the optimum (accuracy {accuracy:.3f})"
    reference = f"the limit that is asked for, {LIMIT_SECONDS:g} s"
    return Row(what=what, value=seconds, unit="s", reference=reference, ratio=LIMIT_SECONDS / seconds)


def _marble_rows(task: Task, features: npt.NDArray[np.float32]) -> list[Row]:
    """The grid of 84 heads (13 layers and their sum × 6 learning rates) against a process per head."""
    fold = task.folds[0]
    owner = np.arange(CLIPS)
    data = training_data(task, Features(features, owner), fold.train, fold.valid, list(range(LAYERS)))
    started = time.perf_counter()
    heads = {(head.layer, head.setting): head for head in marble.grid(data)}
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.save(folder / "features.npy", features)
        np.save(folder / "targets.npy", task.targets)
        np.savez(folder / "rows.npz", train=fold.train, valid=fold.valid)
        started = time.perf_counter()
        alone = [_one_process(folder, layer, rate) for layer, rate in TIMED_HEADS]
        each = (time.perf_counter() - started) / len(TIMED_HEADS)
    differences = []
    for (layer, rate), score in zip(TIMED_HEADS, alone):
        guess = answer(task.label_kind, heads[layer, rate].respond(features, fold.valid), fold.valid)
        differences.append(abs(task.main(task.targets[fold.valid], guess) - score))
    reference = f"one process per head: {each:.1f} s each, timed on {len(TIMED_HEADS)} and scaled to {len(heads)}"
    return [
        Row(
            what=f"marble_grid: {len(heads)} heads at once", value=seconds, unit="s", reference=reference,
            ratio=each * len(heads) / seconds,
        ),
        Row(
            what="marble_scores: largest difference from the heads trained alone", value=max(differences),
            unit="accuracy", reference=None, ratio=None,
        ),
    ]  # fmt: skip


def _one_process(folder: Path, layer: int, rate: float) -> float:
    files = [str(folder / name) for name in ("features.npy", "targets.npy", "rows.npz")]
    script = str(Path(__file__).with_name("head.py"))
    command = [sys.executable, script, *files, str(layer), str(rate), "0"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["valid"])


class _Transformer(torch.nn.Module):
    """An encoder of MERT's shape in small: 4 layers of 384 at 50 frames per second, random weights."""

    sample_rate, frame_rate, dim, layers = 24_000, 50.0, 384, 5
    fingerprint = "bench"

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.front = torch.nn.Conv1d(1, self.dim, 960, stride=480, padding=240)
        blocks = [torch.nn.TransformerEncoderLayer(self.dim, 6, 4 * self.dim, batch_first=True) for _ in range(4)]
        self.blocks = torch.nn.ModuleList(blocks)
        self.eval()

    def valid_frames(self, valid: Tensor) -> Tensor:
        return valid // 480

    def hidden_states(self, waveform: Tensor, valid: Tensor | None = None, sample_rate: int | None = None) -> Tensor:
        with torch.inference_mode():
            states = [self.front(waveform[:, None]).transpose(1, 2)[:, : waveform.shape[1] // 480]]
            for block in self.blocks:
                states.append(block(states[-1]))
            return torch.stack(states, 1)


def _extract_row() -> Row:
    """All pooled layers of 24 files of 20 s, decoding and store included, against the bare forward in memory."""
    encoder = _Transformer()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _noise_files(folder / "audio", 24, 20)
        manifest, _ = scan_folder(folder / "audio", progress=False)
        sound = torch.stack([torch.from_numpy(audio.read(manifest.path_of(track))) for track in manifest])
        windows = sound.view(-1, 10 * 24_000).split(8)
        encoder.hidden_states(windows[0])
        seconds, bare = [], []
        for turn in range(3):  # in turn, so that both meet the same machine; the best of three
            started = time.perf_counter()
            for batch in windows:
                encoder.hidden_states(batch)
            bare.append(time.perf_counter() - started)
            store = FeatureStore(folder / f"store{turn}", quiet=True)
            started = time.perf_counter()
            store.clips(encoder, manifest)
            seconds.append(time.perf_counter() - started)
    return Row(
        what="extract: seconds of audio per second into the feature store", value=480 / min(seconds), unit="s/s",
        reference=f"the bare encoder, audio in memory: {480 / min(bare):.4g} s/s", ratio=min(bare) / min(seconds),
    )  # fmt: skip


def _memory_row() -> Row:
    """Peak memory of a process that fits a table larger than the memory it may take."""
    code = f"from groundbass.probe.bench import _large; print(_large({LARGE_CLIPS}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    size = LARGE_CLIPS * LARGE_LAYERS * DIM * 4 / 2**30
    what = f"memory: {LARGE_CLIPS:,} clips × {LARGE_LAYERS} layers × {DIM} ({size:.1f} GiB), linear protocol on three"
    peak = float(done.stdout.split()[-1])
    return Row(what=what, value=peak, unit="GiB", reference="the limit that is asked for, 4 GiB", ratio=4 / peak)


def _large(clips: int) -> float:
    """Fit a memory-mapped table; the peak of this process in GiB."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, clips)
    centres = 0.1 * generator.normal(size=(CLASSES, DIM)).astype(np.float32)
    with tempfile.TemporaryDirectory() as place:
        array = np.lib.format.open_memmap(Path(place) / "x.npy", "w+", np.float32, (LARGE_LAYERS, clips, DIM))
        for start in range(0, clips, 4096):
            here = slice(start, min(clips, start + 4096))
            noise = generator.standard_normal((LARGE_LAYERS, here.stop - start, DIM), dtype=np.float32)
            array[:, here] = noise + centres[labels[here]]
            array.flush()
            forget(array)
        table = np.load(Path(place) / "x.npy", mmap_mode="r")
        fit(_task(labels, (clips * 8 // 10, clips // 10, clips // 10)), table, range(0, LARGE_LAYERS, 6))
    return own_peak() / 1024


def _quickstart_row() -> Row:
    """All tasks of the quickstart's corpus asked of an untrained network of the shape of `descriptors.music_tiny`.

    Three copies and all hand-crafted sets stand beside it; the corpus is made first, which isn't timed.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        synth(folder / "corpus", hours=QUICKSTART_HOURS)
        torch.manual_seed(0)
        shape = CqtConfig(stem="patches", stem_norm=False, hidden_size=96, num_hidden_layers=3, dilations=(1, 5, 25))
        encoder = ModelEncoder(CqtModel(shape).eval())
        options = Options(
            f"{folder / 'untrained'}", (f"synth:{folder / 'corpus'}",), out=folder / "probe", store=folder / "store"
        )
        started = time.perf_counter()
        found = ask(options, encoder)
        seconds = time.perf_counter() - started
    what = (
        f"quickstart_probe: {len(found)} tasks, {QUICKSTART_HOURS:g} h of corpus, three copies, all hand-crafted sets"
    )
    reference = f"the limit that is asked for, {QUICKSTART_SECONDS:g} s"
    return Row(what=what, value=seconds, unit="s", reference=reference, ratio=QUICKSTART_SECONDS / seconds)


def embed() -> list[Row]:
    """Rows `embed`, `embed_memory`: `groundbass embed` from files to the table, against the bare forward in memory."""
    from ...data.collections.headers import from_headers
    from ..apply.embed import embed as command
    from ..apply.embedding import Embedding, embed_parts, parts

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "encoder.py").write_text("from groundbass.probe.bench import _Transformer as Transformer\n")
        name = f"{folder / 'encoder.py'}:Transformer"
        files = _noise_files(folder / "audio", 24, 20)
        encoder = _Transformer()
        sound = torch.stack([torch.from_numpy(audio.read(file)) for file in files])
        windows = sound.view(-1, 10 * 24_000).split(8)
        encoder.hidden_states(windows[0])
        seconds, bare = [], []
        for turn in range(3):  # in turn, so that both meet the same machine; the best of three
            started = time.perf_counter()
            for batch in windows:
                encoder.hidden_states(batch)
            bare.append(time.perf_counter() - started)
            started = time.perf_counter()
            command(name, (str(folder / "audio"),), out=folder / f"{turn}.parquet")
            seconds.append(time.perf_counter() - started)
        long = _noise_files(folder / "long", 1, 1800)
        asked = Embedding((4,))
        peaks = []
        for number in (1, 4):  # half an hour, then two hours of it
            manifest = from_headers(long, {}).select([0] * number)
            for _ in embed_parts(encoder, manifest, list(parts(manifest, encoder, asked)), asked):
                peaks.append(own_peak())
    return [
        Row(
            what="embed: seconds of audio per second, files to table", value=480 / min(seconds), unit="s/s",
            reference=f"the bare encoder, audio in memory: {480 / min(bare):.4g} s/s", ratio=min(bare) / min(seconds),
        ),
        Row(
            what="embed_memory: growth of the peak from half an hour to two hours", value=peaks[-1] - peaks[0],
            unit="MiB", reference=f"the peak after half an hour: {peaks[0]:.0f} MiB", ratio=None,
        ),
    ]  # fmt: skip


def _noise_files(folder: Path, number: int, seconds: int) -> list[Path]:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for file in range(number):
        noise = 0.1 * np.cumsum(generator.normal(size=seconds * 24_000)) / 200
        audio.write(folder / f"{file}.flac", np.clip(noise, -1, 1).astype(np.float32), 24_000)
    return sorted(folder.glob("*.flac"))
