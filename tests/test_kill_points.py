"""A kill after every single rename, replace and rmtree of every command that writes: the next start ends alike.

Alike means byte for byte what an undisturbed start leaves, with nothing beside it; or a sentence that says what to do.
A few points of some commands here; all points of all commands in `make soak`, whose table is in pretrain/RESULTS.md.
A command is one row of COMMANDS.

Of one process, one start shows all points of the soak: it stops after each rename with all its threads, and what lies
on the disk is copied, as a kill there would leave it (a test compares the two); of points between which nothing on the
disk has changed one is tried for all. Ranks are killed, as the others go on.
`efficiency`, whose trainings are those of `finetune` four times over, and `probe_every`, which is `contrastive` with a
fresh interpreter for each probe, are tried where they do what those don't.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import FSDP_ON_CPU, Ended, launched, warm

from groundbass.data.audio.read import write
from groundbass.data.collections.scan import scan_folder
from groundbass.data.track import Manifest
from groundbass.pretrain.launch import environment as launch_environment

RATE = 24_000
TIMES = ("*timing.jsonl", "*/trackers/*", "*/log.txt", "*alarms.jsonl", "*.lock", "*/lock")  # what depends on the clock
DEBUG = ["--trackers", "--log-every", "1", "--workers", "0", "--checkpoint-every", "2", "--steps", "4"]


@dataclass(frozen=True)
class Row:
    """A command whose every kill point is tried.

    words: of the command; `+` stands between several. ranks, strategy: how it is launched. said: parts of sentences
    that may be the answer of the next start, in place of an equal result. passing: files that may differ. code: Python
    in place of a command. points: those that the soak tries, as in `chosen`.
    """

    words: str
    ranks: int = 1
    strategy: str = "ddp"
    said: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()
    code: str = ""
    points: str = "all"

    @property
    def line(self) -> list[str]:
        """As `python` takes it."""
        words = shlex.split(self.words)
        if self.code:
            return ["-c", self.code]
        if self.strategy == "fsdp2":
            return ["-c", FSDP2, *words]
        return ["-c", SEVERAL, *words] if "+" in words else ["-m", "groundbass.cli", *words]


def pretrain(address: str, *more: str, data: str = "music.parquet") -> str:
    return " ".join(["pretrain", address, "--data", data, "--run", "made", *DEBUG, *more])


def in_parts(words: str) -> str:
    """A command as two jobs of an array and the one that joins what they made."""
    return f"{words} --part 1/2 + {words} --part 2/2 + {words}"


SEVERAL = """
import itertools, sys
from groundbass.cli import main
for between, words in itertools.groupby(sys.argv[1:], "+".__eq__):
    try:
        between or main([*words])
    except SystemExit as stop:
        if stop.code: raise
"""
# The encoder that ships, from a run to its folder; `groundbass tiny` makes corpus and run before, by two other rows.
TINY = """
from pathlib import Path
from groundbass import cli, tiny
tiny.RECIPE = "labelled.synth_debug"
del tiny.HEADS["key"]
words = "labelled.synth_debug --data labelled.parquet --run made --steps 2 --workers 0 --trackers"
try:
    cli.main(["pretrain", *words.split()])
except SystemExit as stop:
    if stop.code: raise
tiny.write_tiny(Path("made"), Path("labelled.parquet"), Path("tiny"))
"""

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
    "labelled": Row(pretrain("labelled.finetune_debug", data="labelled.parquet")),
    "predictive": Row(pretrain("predictive.cpc_debug")),
    "tagging": Row(pretrain("tagging.ast_debug", data="labelled.parquet")),
    "joint": Row(pretrain("joint.pase_myna_debug")),
    "descriptors": Row(pretrain("descriptors.pase_debug")),
    "muq": Row(pretrain("masked.muq_debug", "--objective.rvq.steps 2")),
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
        points="rmtree step_ | rmtree encoder",
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
    "efficiency": Row(
        "efficiency run --data folder:music --label kind --out curve --per-class 1 --steps 2 --batch-size 4 "
        "--crop-seconds 2.7 --baselines mfcc --workers 0",
        points="frozen_ | tuned_ | scratch_ | efficiency",
    ),
    "tiny": Row("", code=TINY),
    "predict": Row("predict music --out said.json --out said.csv --page page.html --workers 1"),
    "export": Row("export run program.pt2", said=("exists; choose another name, or replace it",)),
    "report": Row("report probed_before --out page.html"),
    "similar": Row("embed run music --out table.parquet + similar table.parquet music/0.wav --page page.html"),
    "bridge_hear": Row("bridge hear run --out adapter.py", said=("adapter.py is there already",)),
    "new": Row("new task mine", said=("mine.py is there already",)),
    "synth": Row("data synth corpus --hours 0.005 --workers 1"),
    "scan_parts": Row(in_parts("data scan music out.parquet --workers 1")),
    "shard_parts": Row(in_parts("data shard music.parquet shards --shard-mb 1 --workers 1")),
    "overlap_parts": Row(in_parts("data overlap music.parquet more.parquet --out hits.parquet --workers 1")),
    "codes_parts": Row(in_parts("data codes music.parquet codes --codec encodec --codebooks 2")),
    "embed_parts": Row(in_parts("embed run music --out table.parquet --device cpu")),
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

    def __init__(self, place: Path) -> None:
        self.place, self.work = place, place / "work"
        (place / "tmp").mkdir(parents=True, exist_ok=True)

    def __call__(
        self, row: Row, kill: int | None = None, told: Path | None = None, states: Path | None = None
    ) -> Ended:
        """kill: of rank 0, None counts nothing. told: a file for its kill points. states: a folder for what `place`
        holds at each of them, as 1, 2, …
        """
        zero = row.strategy.startswith("zero")
        own = {"TMPDIR": str(self.place / "tmp"), "GROUNDBASS_CACHE": str(self.work / "cache")}
        own |= {"GIT_DIR": str(self.place / "none")}  # recipe.json tells the commit, which may change meanwhile
        if row.ranks > 1:
            own |= launch_environment(row.strategy) | {"ACCELERATE_USE_CPU": str(not zero).lower()}
        ranks = launched(row.ranks, **own) if row.ranks > 1 else [own]
        kept = None if states is None else (self.place, states)
        return warm()(row.line, ranks=ranks, folder=self.work, seconds=600, grace=60, kill=kill, told=told, kept=kept)

    def put(self, state: Path) -> None:
        """Begin with what `place` held once; `state` is used up."""
        shutil.rmtree(self.place)
        state.rename(self.place)


def state(folder: Path, passing: Sequence[str]) -> dict[str, str]:
    """{path: digest} of all files that have to be the same."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink())
    names = [(path.relative_to(folder).as_posix(), path) for path in files]
    kept = [(name, path) for name, path in names if not any(fnmatch.fnmatch(name, word) for word in passing)]
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in kept}


def everything(folder: Path) -> str:
    """A digest of all folders and files."""
    folders = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_dir())
    return hashlib.sha256(json.dumps([folders, state(folder, ())]).encode()).hexdigest()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, labels_of: Callable[..., dict[str, Any]]) -> Path:
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
    tracks = [replace(track, labels=labels_of(n, 5.5)) for n, track in enumerate(scan_folder(music, 1, False)[0])]
    Manifest.from_tracks(tracks, music).write(place / "work" / "labelled.parquet")
    run = Runner(place)
    for words in (
        "data scan music music.parquet --workers 1",
        "data scan more more.parquet --workers 1",
        "pretrain contrastive.clmr_debug --data music.parquet --run run --steps 2 --workers 0 --trackers",
        "pretrain tokens.beats_iter1_debug --data music.parquet --run teacher --steps 2 --workers 0 --trackers",
        "publish run run_published",
        "probe run folder:music --label kind --out probed_before --store store_before --baselines constant",
    ):
        done = run(Row(words))
        assert done.codes == [0], done.said
    made = warm()(["-c", STRANGERS], folder=run.work)
    assert made.codes == [0], made.said
    return run.work


def begin(template: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(template, work)


def chosen(events: Sequence[str], asked: str) -> list[int]:
    """Kill points, from 1. asked: `all`; a number of them, evenly spread; `near`: first, last, and those that stand
    before, at and after what a resumed command looks at: marks, checkpoints, encoders; the points, as `3,7`; or
    parts of events' words, as `loss | rmtree step_`."""
    if asked == "all":
        return list(range(1, len(events) + 1))
    if asked == "near":
        decisive = [k for k, event in enumerate(events, 1) if any(word in event for word in DECISIVE)]
        around = {k + step for k in decisive for step in (-1, 0, 1)} | {1, len(events)}
        return sorted(k for k in around if 1 <= k <= len(events))
    if "," in asked:
        return [int(k) for k in asked.split(",") if k]
    if not asked.isdecimal():
        return [k for k, event in enumerate(events, 1) if any(part in event for part in asked.split(" | "))]
    count = min(int(asked), len(events))
    return sorted({int((k + 0.5) * len(events) / count) + 1 for k in range(count)})


def sweep(name: str, template: Path, place: Path, asked: str = "", killed: bool = False) -> Iterator[dict[str, Any]]:
    """Kill points of a command, the row's unless asked (see `chosen`): where it ended, and how the next start did.

    killed: a start for each, which is killed, also where one that stops shows them all.
    """
    row = COMMANDS[name]
    passing = [*TIMES, *row.passing, *(SHARDED if row.strategy != "ddp" else ())]
    run, states = Runner(place / "here"), place / "states"
    stopped = row.ranks == 1 and not killed
    begin(template, run.work)
    quiet = run(row, 0, place / "told", states if stopped else None)
    assert quiet.codes == [0] * row.ranks, quiet.said
    events = (place / "told").read_text().splitlines()
    expected = state(run.work, passing)
    tried: dict[str, dict[str, Any]] = {}
    for point in chosen(events, asked or row.points):
        about = {"row": name, "kill": point, "of": len(events), "event": events[point - 1]}
        seen = everything(states / f"{point}") if stopped else f"killed at {point}"
        if seen in tried:  # the disk is as it was at an earlier point
            yield tried[seen] | about
            continue
        if stopped:
            run.put(states / f"{point}")
        else:
            begin(template, run.work)
            ended = run(row, point, place / "again")
            if ended.codes[0] != -9:
                yield about | {"outcome": "not reached", "fine": False, "said": ended.said}
                continue
        left = len(list((run.place / "tmp").iterdir()))
        tried[seen] = {"left": left, "state": point, **judged(run(row), run.work, expected, passing, row)}
        yield about | tried[seen]
        shutil.rmtree(run.place)
        (run.place / "tmp").mkdir(parents=True)
    shutil.rmtree(states, ignore_errors=True)


def summed(name: str, lines: Sequence[dict[str, Any]], seconds: float) -> str:
    """A row's line of the table: points tried of all, states of the disk, equal, answered by a sentence, failed."""
    states = len({line.get("state", line["kill"]) for line in lines})
    bad, equal = sum(not line["fine"] for line in lines), sum(line["outcome"] == "equal" for line in lines)
    counts = f"{len(lines)} of {lines[0]['of']} | {states} | {equal} | {len(lines) - equal - bad} | {bad}"
    return f"| {name} | {counts} | {seconds:.0f} s |"


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
    found = list(sweep(name, template, tmp_path, FEW[name], killed=True))
    assert found and [line for line in found if not line["fine"]] == []


@pytest.mark.slow
def test_a_process_that_stands_still_shows_what_a_killed_one_leaves(template: Path, tmp_path: Path) -> None:
    row, run = COMMANDS["embed"], Runner(tmp_path / "here")
    begin(template, run.work)
    assert run(row, 0, states=tmp_path / "states").codes == [0]
    shown = [state(tmp_path / "states" / f"{point}" / "work", TIMES) for point in range(1, 6)]
    for point in (2, 4):
        begin(template, run.work)
        assert run(row, point).codes == [-9]
        assert state(run.work, TIMES) == shown[point - 1]
    assert len({tuple(one.items()) for one in shown}) == len(shown), "no two points are alike"


@pytest.mark.soak
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_start_after_any_kill_ends_alike(template: Path, tmp_path: Path, name: str) -> None:
    if COMMANDS[name].strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    began = time.monotonic()
    found = []
    for line in sweep(name, template, tmp_path):
        found.append(line)
        print("\n   ", json.dumps(line), end="")
    print("\n" + summed(name, found, time.monotonic() - began))
    assert found and [line for line in found if not line["fine"]] == []


if __name__ == "__main__":  # the table: python tests/test_kill_points.py [NAME | NAME=POINTS …], points as in `chosen`
    import tempfile

    from conftest import invent_labels

    with tempfile.TemporaryDirectory() as folder:

        class _Factory:
            def mktemp(self, name: str) -> Path:
                (Path(folder) / name).mkdir()
                return Path(folder) / name

        start = template.__wrapped__(_Factory(), invent_labels)  # type: ignore[attr-defined]
        for row_name, _, points in (word.partition("=") for word in sys.argv[1:] or COMMANDS):
            began, lines = time.monotonic(), []
            for line in sweep(row_name, start, Path(folder) / row_name, points):
                lines.append(line)
                print("   ", json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)
            print(summed(row_name, lines, time.monotonic() - began), flush=True)
            shutil.rmtree(Path(folder) / row_name)
