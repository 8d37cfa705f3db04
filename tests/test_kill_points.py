"""A kill after every single rename, replace and rmtree of every command that writes: the next start ends alike.

Alike means byte for byte what an undisturbed start leaves, with nothing beside it; or a sentence that says what to do.
A few points of some commands here; all points of all commands in `make soak`, whose table is in pretrain/RESULTS.md.
A command is one row of COMMANDS.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import FSDP_ON_CPU, Ended, launched, warm

from groundbass.data.audio.read import write
from groundbass.pretrain.launch import environment as launch_environment

RATE = 24_000
TIMES = ("*timing.jsonl", "*/trackers/*", "*/log.txt", "*alarms.jsonl", "*.lock", "*/lock")  # what depends on the clock
DEBUG = ["--trackers", "--log-every", "1", "--workers", "0", "--checkpoint-every", "2", "--steps", "4"]


@dataclass(frozen=True)
class Row:
    """A command whose every kill point is tried.

    words: of the command; `+` stands between several. ranks, strategy: how it is launched. said: parts of sentences
    that may be the answer of the next start, in place of an equal result. passing: files that may differ.
    """

    words: str
    ranks: int = 1
    strategy: str = "ddp"
    said: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()


def pretrain(address: str, *more: str) -> str:
    return " ".join(["pretrain", address, "--data", "music.parquet", "--run", "made", *DEBUG, *more])


COMMANDS = {
    "scan": Row("data scan music out.parquet --workers 1"),
    "shard": Row("data shard music.parquet shards --shard-mb 1 --workers 1"),
    "overlap": Row("data overlap music.parquet more.parquet --out hits.parquet --exclude rest.parquet --workers 1"),
    "kmeans": Row("data kmeans music.parquet centres.safetensors --steps 2 --mel-clusters 8 --chroma-clusters 8"),
    "contrastive": Row(pretrain("contrastive.clmr_debug")),
    "latent": Row(pretrain("latent.eat_debug")),
    "mert": Row(pretrain("masked.mert_debug", "--objective.rvq.steps 2")),
    "bestrq": Row(pretrain("masked.bestrq_debug")),
    "mel_rvq": Row(pretrain("tokenizer.mel_rvq_debug")),
    "beats_tokenizer": Row(pretrain("tokenizer.beats_tokenizer_debug", "--objective.teacher teacher")),
    "beats_iter1": Row(pretrain("tokens.beats_iter1_debug")),
    "avoid": Row(pretrain("contrastive.clmr_debug", "--avoid more.parquet")),
    "mixture": Row(
        "pretrain contrastive.clmr_debug --data music.parquet=2 more.parquet=1 --run made " + " ".join(DEBUG)
    ),
    "folder": Row("pretrain contrastive.clmr_debug --data music --run made " + " ".join(DEBUG)),
    "iterate": Row(
        "iterate debug --data music.parquet --run made --encoder-steps 2 --tokenizer-steps 2 --iterations 2"
    ),
    "probe_every": Row(
        pretrain(
            "contrastive.clmr_debug", "--probe-every 2 --probe-tasks", "'folder:music --label kind --store store'"
        ),
        passing=("*/results.*",),
    ),
    "embed": Row("embed run music --out table.parquet --device cpu"),
    "embed_npz": Row("embed run music --out table.npz --unit window --device cpu", passing=("table.npz",)),
    "probe": Row("probe run folder:music --label kind --out probed --store store --baselines constant mfcc random"),
    "publish": Row("publish run out", said=("exists and isn't empty; choose another folder, or replace it",)),
    "publish_force": Row("publish run run_published --force"),
    "degrade": Row("data degrade music worse --chain phone --workers 1", said=("worse is in use; choose another",)),
    "codes": Row("data codes music.parquet codes --codec encodec --codebooks 2"),
    "import": Row("import clmr.pt imported", said=("exists and isn't empty; choose another folder, or replace it",)),
    "finetune": Row(
        "finetune run --data folder:music --label kind --run made --steps 4 --batch-size 4 --crop-seconds 2.7 "
        "--validate-every 2 --workers 0 --store store"
    ),
    "predict": Row("predict music --out said.json --out said.csv --page page.html --workers 1"),
    "export": Row("export run program.pt2", said=("exists; choose another name, or replace it",)),
    "report": Row("report probed_before --out page.html"),
    "two_ranks": Row(pretrain("contrastive.clmr_debug"), ranks=2),
    "two_ranks_mert": Row(pretrain("masked.mert_debug", "--objective.rvq.steps 2"), ranks=2),
    "fsdp2": Row(pretrain("latent.eat_debug"), ranks=2, strategy="fsdp2"),
    "zero1": Row(pretrain("latent.eat_debug"), ranks=2, strategy="zero1"),
    "zero3": Row(pretrain("latent.eat_debug"), ranks=2, strategy="zero3"),
}
# Files that commands begin with and groundbass itself doesn't write.
STRANGERS = """
import torch
from transformers import EncodecConfig, EncodecModel
from test_models_importers import clmr_weights
torch.manual_seed(0)
small = EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64, num_lstm_layers=1,
                      target_bandwidths=[0.9, 1.8], upsampling_ratios=[8, 5, 4, 2])
EncodecModel(small).save_pretrained("encodec")
torch.save(clmr_weights(), "clmr.pt")
"""
# Where a run may wait for ranks: the sharded forms are written in parts that are not byte-equal (pickled metadata).
SHARDED = ("*/sharded/*", "*/checkpoint.json")

FEW = {"scan": "2", "contrastive": "2", "mert": "2", "iterate": "1", "embed": "2"}
DECISIVE = (" step_", "done", "encoder", "classifier", "manifest", "lock", "latest")  # parts of an event's words

FSDP2 = FSDP_ON_CPU + "from groundbass.cli import main\nmain()"


class Runner:
    """Runs commands of groundbass in the folder `place`/work, with temporary files of their own beside it."""

    def __init__(self, place: Path, row: Row) -> None:
        self.place, self.work, self.row = place, place / "work", row
        (place / "tmp").mkdir(parents=True, exist_ok=True)

    def __call__(self, words: str, kill: int | None = None, told: Path | None = None) -> Ended:
        """kill: of rank 0, None counts nothing. told: a file for its kill points."""
        row, zero = self.row, self.row.strategy.startswith("zero")
        own = {"TMPDIR": str(self.place / "tmp"), "GROUNDBASS_CACHE": str(self.work / "cache")}
        own |= {"GIT_DIR": str(self.place / "none")}  # recipe.json tells the commit, which may change meanwhile
        if row.ranks > 1:
            own |= launch_environment(row.strategy) | {"ACCELERATE_USE_CPU": str(not zero).lower()}
        line = ["-c", FSDP2] if row.strategy == "fsdp2" else ["-m", "groundbass.cli"]
        server = warm("deepspeed") if zero else warm()
        ranks = launched(row.ranks, **own) if row.ranks > 1 else [own]
        return server(
            [*line, *shlex.split(words)], ranks=ranks, folder=self.work, seconds=600, grace=60, kill=kill, told=told
        )


def state(folder: Path, passing: Sequence[str]) -> dict[str, str]:
    """{path: digest} of all files that have to be the same."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    names = [(path.relative_to(folder).as_posix(), path) for path in files]
    kept = [(name, path) for name, path in names if not any(fnmatch.fnmatch(name, word) for word in passing)]
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands begin with: music, manifests, a run, what was published and probed of it."""
    place = tmp_path_factory.mktemp("template")
    music = place / "work" / "music"
    music.mkdir(parents=True)
    rows = ["path,split,kind"]
    for number in range(12):
        draw = np.random.default_rng(number)
        time_ = np.arange(int(5.5 * RATE)) / RATE
        sound = 0.02 * draw.standard_normal(len(time_)) + 0.2 * np.sin(2 * np.pi * (200 + 900 * (number % 2)) * time_)
        write(music / f"{number}.wav", sound.astype(np.float32), RATE)
        rows.append(
            f"{number}.wav,{('train', 'train', 'valid', 'test')[number % 8 // 2]},{'high' if number % 2 else 'low'}"
        )
    (music / "silent.wav").write_bytes(b"")  # something to skip
    (music / "labels.csv").write_text("\n".join(rows) + "\n")
    more = place / "work" / "more"
    more.mkdir()
    for number in (3, 20, 21):
        time_ = np.arange(6 * RATE) / RATE
        write(
            more / f"{number}.wav", (0.1 * np.random.default_rng(number).standard_normal(len(time_))).astype("f4"), RATE
        )
    run = Runner(place, Row(""))
    for words in (
        "data scan music music.parquet --workers 1",
        "data scan more more.parquet --workers 1",
        "pretrain contrastive.clmr_debug --data music.parquet --run run --steps 2 --workers 0 --trackers",
        "pretrain tokens.beats_iter1_debug --data music.parquet --run teacher --steps 2 --workers 0 --trackers",
        "publish run run_published",
        "probe run folder:music --label kind --out probed_before --store store_before --baselines constant",
    ):
        done = run(words)
        assert done.codes == [0], done.said
    made = warm()(["-c", STRANGERS], folder=run.work)
    assert made.codes == [0], made.said
    return run.work


def begin(template: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)


def chosen(events: Sequence[str], asked: str) -> list[int]:
    """Kill points, from 1. asked: `all`; a number of them, evenly spread; `near`: first, last, and those that stand
    before, at and after what a resumed command looks at: marks, checkpoints, encoders; or the points, as `3,7`."""
    if asked == "all":
        return list(range(1, len(events) + 1))
    if asked == "near":
        decisive = [k for k, event in enumerate(events, 1) if any(word in event for word in DECISIVE)]
        around = {k + step for k in decisive for step in (-1, 0, 1)} | {1, len(events)}
        return sorted(k for k in around if 1 <= k <= len(events))
    if "," in asked:
        return [int(k) for k in asked.split(",") if k]
    count = min(int(asked), len(events))
    return sorted({int((k + 0.5) * len(events) / count) + 1 for k in range(count)})


def sweep(name: str, template: Path, place: Path, asked: str = "all") -> Iterator[dict[str, Any]]:
    """Kill points of a command (see `chosen`): what was killed, and how the next start ended."""
    row = COMMANDS[name]
    passing = [*TIMES, *row.passing, *(SHARDED if row.strategy != "ddp" else ())]
    run = Runner(place, row)
    begin(template, run.work)
    quiet = run(row.words, 0, place / "told")
    assert quiet.codes == [0] * row.ranks, quiet.said
    events = (place / "told").read_text().splitlines()
    expected = state(run.work, passing)
    for point in chosen(events, asked):
        begin(template, run.work)
        killed = run(row.words, point, place / "again")
        about = {"row": name, "kill": point, "of": len(events), "event": events[point - 1]}
        if killed.codes[0] != -9:
            yield about | {"outcome": "not reached", "fine": False, "said": killed.said}
            continue
        left = len(list((place / "tmp").iterdir()))
        yield about | {"left": left, **judged(run(row.words), run.work, expected, passing, row)}
        for path in (place / "tmp").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def judged(again: Ended, work: Path, expected: dict[str, str], passing: Sequence[str], row: Row) -> dict[str, Any]:
    """How the start after a kill ended: equal, said, or what is wrong."""
    said = "\n".join(again.said)
    if set(again.codes) == {2} and "Traceback" not in said and any(words in said for words in row.said):
        return {"outcome": "said", "fine": True}
    if set(again.codes) != {0}:
        return {"outcome": f"ends with {again.codes}", "fine": False, "said": said[-2000:]}
    found = state(work, passing)
    differ = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    lost, more = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if differ or lost or more:
        return {"outcome": f"differ: {differ[:4]}, lost: {lost[:4]}, left over: {more[:4]}", "fine": False}
    return {"outcome": "equal", "fine": True}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FEW))
def test_a_start_after_a_kill_ends_alike(template: Path, tmp_path: Path, name: str) -> None:
    found = list(sweep(name, template, tmp_path, FEW[name]))
    assert found and [line for line in found if not line["fine"]] == []


@pytest.mark.soak
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_start_after_any_kill_ends_alike(template: Path, tmp_path: Path, name: str) -> None:
    if COMMANDS[name].strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    found = list(sweep(name, template, tmp_path))
    assert found and [line for line in found if not line["fine"]] == []


if __name__ == "__main__":  # the table: python tests/test_kill_points.py [NAME | NAME=POINTS …], points as in `chosen`
    import tempfile

    with tempfile.TemporaryDirectory() as folder:

        class _Factory:
            def mktemp(self, name: str) -> Path:
                (Path(folder) / name).mkdir()
                return Path(folder) / name

        start = template.__wrapped__(_Factory())  # type: ignore[attr-defined]
        for row_name, _, points in (word.partition("=") for word in sys.argv[1:] or COMMANDS):
            began, lines = time.monotonic(), []
            for line in sweep(row_name, start, Path(folder) / row_name, points or "all"):
                lines.append(line)
                print("   ", json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)
            bad = sum(not line["fine"] for line in lines)
            equal = sum(line["outcome"] == "equal" for line in lines)
            print(f"| {row_name} | {len(lines)} of {lines[0]['of']} | {equal} | {len(lines) - equal - bad} | {bad} | "
                  f"{time.monotonic() - began:.0f} s |", flush=True)  # fmt: skip
            shutil.rmtree(Path(folder) / row_name)
