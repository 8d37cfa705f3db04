"""One word, one meaning over all commands; errors as sentences; --json for whatever prints figures."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import io
import json
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tyro

from groundbass import arguments, cli
from groundbass.data.audio.read import write

HELD = {  # what the help of an option says wherever there is one, and how it begins or goes on
    "--json": "^print JSON",
    "--force": "^replace (OUT|NAME.py)",
    "--workers": "^processes",
    "--threads": "^threads",
    "--device": "^cpu, cuda(, cuda:1)?; a GPU where there is one",
    "--layers": "^which layers.* 0 being the front end; negative numbers count from the end; all",
    "--layer": "^only this layer",
    "--part": "of the (files|shards|tracks|recordings) only, for job arrays",
    "--root": "^where the manifest's paths begin, if the audio has moved",
    "--store": "^where features",
    "--run": "^the (run's )?folder",
    "--quiet": "^no bars and no words, only errors",
    "--random-seeds": "^one random copy of the encoder per seed",
    "--trust-remote-code": "^run the Python that .* brings; read it first",
    "--license": "^of the weights",
}
WITHOUT_FIGURES = {"launch", "new"}


def parsers() -> Iterator[tuple[str, Any, Any]]:
    """Every command, what reads its words, and the defaults of that."""
    from groundbass.pretrain import command as pretraining
    from groundbass.pretrain import contract, iterate
    from groundbass.pretrain.cost import plan
    from groundbass.pretrain.launch import start
    from groundbass.pretrain.recipe import find
    from groundbass.probe import command as probing

    recipe = find("masked.mert_tiny")
    own = {
        "pretrain": (pretraining.Options, pretraining.Options(recipe)),
        "plan": (plan.Options, plan.Options(recipe)),
        "iterate": (iterate.iterate, None),
        "probe": (probing.Options, None),
        "launch": (start.Options, None),
    }
    assert set(own) == {name for name, command in cli.COMMANDS.items() if command.argv}
    for name, command in cli.COMMANDS.items():
        yield name, *(own[name] if command.argv else (command.load(), None))
    yield "pretrain check", contract.check, None
    yield "probe check", probing.check, None


@functools.cache
def options() -> dict[str, list[argparse.Action]]:
    """{command: what it takes}."""
    found = {}
    for name, what, default in parsers():
        shown = arguments._waiting(arguments.answering(what)) if inspect.isroutine(what) else what
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a parser to walk over has no other door
            parser = tyro.extras.get_parser(shown, **({} if default is None else {"default": default}))
        found[name] = [one for one in parser._actions if "-h" not in one.option_strings]
    return found


def by_word() -> dict[str, dict[str, argparse.Action]]:
    """{option: {command: what it is there}}."""
    found: dict[str, dict[str, argparse.Action]] = defaultdict(dict)
    for command, actions in options().items():
        for action in actions:
            for word in action.option_strings:
                found[word][command] = action
    return found


def kind(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "flag"
    words = set(re.findall(r"INT|FLOAT", str(action.metavar)))
    return "text" if not words or "all" in str(action.metavar) else "number"


def help_of(action: argparse.Action) -> str:
    return " ".join((action.help or "").split())


def test_a_word_takes_the_same_kind_of_value_everywhere() -> None:
    found = {word: {name: kind(one) for name, one in there.items()} for word, there in by_word().items()}
    assert not {word: kinds for word, kinds in found.items() if len(set(kinds.values())) > 1}


def test_choices_of_a_word_are_the_same_or_fewer() -> None:
    for word, there in by_word().items():
        choices = sorted((set(one.choices) for one in there.values() if one.choices), key=len)
        largest = choices[-1] | {"auto", "attention"} if choices else set()  # of --pooling: each of one command
        assert all(few <= largest for few in choices), word


@pytest.mark.parametrize("word", sorted(HELD))
def test_a_word_means_the_same_everywhere(word: str) -> None:
    there = by_word()[word]
    assert there
    assert not {name: help_of(one) for name, one in there.items() if not re.search(HELD[word], help_of(one))}


def test_whatever_prints_figures_takes_json() -> None:
    without = set(cli.COMMANDS) - set(by_word()["--json"])
    assert without == WITHOUT_FIGURES


def test_positionals_have_names() -> None:
    wrong = [
        (command, one.metavar)
        for command, actions in options().items()
        for one in actions
        if not one.option_strings and re.search(r"\b(PATH|STR|INT|TEXT)\b|\{", str(one.metavar))
    ]
    assert not wrong


def test_whatever_writes_takes_out() -> None:
    """By its name, or by its place, which is the last one; and there `--out` is understood too."""
    for command, actions in options().items():
        places = [one.dest for one in actions if not one.option_strings]
        if "out" in places:
            assert places[-1] == "out" and all(one.nargs != "*" for one in actions), command


@pytest.mark.parametrize("words", [["a", "b"], ["a", "--out", "b"], ["--out=b", "a"], ["--out", "b", "--force", "a"]])
def test_out_by_place_or_by_name(words: list[str]) -> None:
    def copy(
        source: tyro.conf.Positional[str], out: tyro.conf.Positional[Path], *, force: bool = False
    ) -> dict[str, Any]:
        return {"source": source, "out": out}

    assert arguments.run(copy, words, "groundbass copy") == {"source": "a", "out": Path("b")}


def test_old_names_are_no_options_any_more_and_lead_to_one() -> None:
    words = by_word()
    for (command, old), new in cli.RENAMED.items():
        assert command in words[new] and command not in words.get(old, {}), (command, old, new)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["data", "scan", "a"], "OUT is missing: the Parquet manifest to write."),
        (["data", "scan", "a", "b", "--wokers", "3"], "Unrecognized options: --wokers, 3"),
        (["data", "scan", "a", "b", "--workers", "x"], "Error parsing --workers"),
        (["pretrain", "masked.mert_debug", "--dry-run", "--optim.lrr", "1"], "Unrecognized options: --optim.lrr, 1"),
        (["probe"], "ENCODER"),
        (["probe", "check"], "ENCODER|TASK"),
        (["plan", "masked.mert_debug", "--gpuss", "8"], "Unrecognized options: --gpuss"),
        (["iterate", "gigantic", "--data", "x", "--run", "y"], "gigantic"),
        (["launch", "ddp", "--gpus", "x", "--", "pretrain", "y"], "Error parsing --gpus"),
        (["export", "x", "y.pt2", "--layer"], "--layer"),
        (["similar", "none.parquet", "x.wav"], "There is no table none.parquet"),
        (["data", "scann"], "did you mean `data scan`?"),
        (["data", "scna"], "did you mean `data scan`?"),
        (["pretrain", "--from", "none.json", "--run", "x"], "There is no none.json: --from takes the recipe.json"),
        (["dta", "scan"], "did you mean `data scan`"),
        (["embed"], "which ships with the package.\n  --out PATH is missing: X.parquet, or X.npz.\n"),
        (["data", "scan", "a", "b.parquet", "--workers", "-3"], "--workers is -3, but it must be at least 1."),
        (["data", "scan", "a", "b.parquet", "--workers", "0"], "--workers is 0, but it must be at least 1."),
        (["embed", "x", "y", "--out", "z.parquet", "--threads", "0"], "--threads is 0, but it must be at least 1."),
        (["predict", "y", "--threads", "-1"], "--threads is -1, but it must be at least 1."),
        (["probe", "x", "y", "--threads", "-2"], "--threads is -2, but it must be at least 1."),
        (["probe", "x", "y", "--random-seeds", "0", "-1"], "--random-seeds is -1, but it must be at least 0."),
        (
            ["finetune", "x", "--data", "y", "--run", "z", "--workers", "-1"],
            "--workers is -1, but it must be at least 0",
        ),
        (["pretrain", "masked.mert_debug", "--data", "x", "--run", "y", "--workers", "-2"], "workers is -2, but"),
        (["launch", "ddp", "--gpus", "0", "--", "pretrain", "y"], "--gpus is 0, but it must be at least 1."),
        (["launch", "ddp", "--gpus", "-1", "--", "pretrain", "y"], "--gpus is -1, but it must be at least 1."),
        (["launch", "ddp", "--machines", "0", "--", "pretrain", "y"], "--machines is 0, but it must be at least 1."),
    ],
)
def test_every_error_has_one_prefix(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    said = capsys.readouterr()
    assert stop.value.code == 2 and not said.out
    assert said.err.startswith("groundbass: error: ") and sentence in said.err
    assert "│" not in said.err and "\x1b" not in said.err
    assert not list(tmp_path.iterdir())


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    def weigh(name: str, /, *, twice: bool = False) -> dict[str, Any]:
        """Weigh a thing.

        Args:
            name: of the thing.
            twice: weigh again.
        """
        print(f"{name} is weighed")
        return {
            "name": name,
            "g": np.float32(2.5),
            "none": math.nan,
            "twice": twice,
            "at": Path("x"),
            "n": np.arange(2),
        }

    arguments.run(weigh, ["cat", "--json", "--twice"], "groundbass weigh")
    said = capsys.readouterr()
    assert json.loads(said.out) == {"name": "cat", "g": 2.5, "none": None, "twice": True, "at": "x", "n": [0, 1]}
    assert said.err == "cat is weighed\n"
    assert arguments.run(weigh, ["cat"], "groundbass weigh")["name"] == "cat"
    assert capsys.readouterr().out == "cat is weighed\n"
    with pytest.raises(SystemExit):
        arguments.run(weigh, ["--help"], "groundbass weigh")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_box_becomes_sentences(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def weigh(grams: int, /, *, often: int = 1) -> None:
        """Weigh.

        Args:
            grams: on the scale.
            often: how many times.
        """

    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    with pytest.raises(
        ValueError, match=r"^GRAMS is missing: on the scale\.\n  `groundbass weigh --help` explains every option\.$"
    ):
        arguments.run(weigh, ["--often", "2"], "groundbass weigh")
    with pytest.raises(ValueError, match=r"^Unrecognized options: --offen\n  Perhaps you meant: --often INT"):
        arguments.run(weigh, ["1", "--offen"], "groundbass weigh")


@pytest.fixture
def asked(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What a command prints with --json, in a folder with eight labelled tones in `music`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    rows = ["path,split,height"]
    Path("music").mkdir()
    for number in range(8):
        clock = np.arange(48_000) / 24_000
        sound = 0.3 * np.sin(2 * np.pi * (200, 1500)[number % 2] * (1 + number / 50) * clock)
        write(Path("music") / f"{number}.wav", sound.astype(np.float32), 24_000)
        rows.append(f"{number}.wav,{('train', 'train', 'valid', 'test')[number // 2]},{('low', 'high')[number % 2]}")
    Path("music/labels.csv").write_text("\n".join(rows) + "\n")

    def ask(*words: object, code: int = 0) -> Any:
        with pytest.raises(SystemExit) as left:
            cli.main([*map(str, words), "--json"])
        said = capsys.readouterr().out
        assert (left.value.code or 0) == code, words
        return json.loads(said) if said else None

    return ask


def test_commands_of_recordings_print_their_figures_as_json(
    asked: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["--workers", 1]
    assert asked("data", "scan", "music", "m.parquet", *one)["tracks"] == 8
    assert asked("data", "shard", "m.parquet", "shards", *one)["shards"] == 1
    assert asked("data", "shard", "m.parquet", "shards", "--check")["tracks"] == 8
    assert asked("data", "synth", "corpus", "--hours", 0.006, *one)["parts"]["music"] >= 1
    assert any(one["name"] == "groundbass-tiny" for one in asked("models"))
    assert "gtzan" in dict(asked("data", "verify", "--list")) and asked("bench")["loader"] == "data"
    assert any(one["what"] == "torch" for one in asked("doctor"))
    assert "masked.mert_tiny" in dict(asked("pretrain", "--list")) and "gtzan_genre" in dict(asked("probe", "--list"))
    asked("new", "task", "mine", code=2)
    cli.COMMANDS["new"].load()("task", "mine")
    capsys.readouterr()
    found = asked("probe", "check", "mine.py:TASK")
    assert len(found["passed"]) == 8 and not found["failed"] and not found["broken"]
    Path("mine.py").write_text(Path("mine.py").read_text().replace('question="', 'question="" and "'))
    assert asked("probe", "check", "mine.py:TASK", code=2)["failed"] == [
        "it says in words what it asks: set question=…"
    ]


@pytest.mark.soak
def test_commands_of_models_print_their_figures_as_json(asked: Callable[..., Any]) -> None:
    """One after another, each with what the one before wrote."""
    assert asked("data", "degrade", "music", "worse", "--chain", "phone", "--workers", 1)["recordings"] == 8
    sizes = ["--mel-clusters", 4, "--chroma-clusters", 4, "--steps", 1, "--batch-size", 4]
    assert asked("data", "kmeans", "music", "k.safetensors", *sizes)["bits_per_frame"] == 4
    assert asked("pretrain", "predictive.cpc_debug", "--dry-run")["parameters"]["encoder"] > 0
    trained = asked("pretrain", "predictive.cpc_debug", "--data", "music", "--run", "run", "--steps", 2)
    assert trained["steps"] == 2 and trained["last_loss"]["step"] == 2
    listed = asked("probe", "run", "folder:music", "--label", "height", "--baselines", "constant", "--random-seeds")
    assert {row["system"] for row in listed} == {"encoder", "constant"}
    assert len(asked("report", "run")["encoders"][0]["rows"]) == len(listed)
    assert asked("publish", "run", "published")["largest_difference"] < 1e-5
    assert asked("embed", "published", "music", "--out", "v.parquet")["rows"] == 8
    [[file, hits]] = asked("similar", "v.parquet", "music/2.wav", "--k", 2)
    assert file.endswith("2.wav") and len(hits) == 2 and hits[0]["similarity"] >= hits[1]["similarity"]
    assert asked("bridge", "hear", "published")["numbers"] == 12
    assert asked("export", "published", "p.pt2")["largest_difference"] < 1e-3


def test_figures_and_quiet_may_be_asked_for_before_the_command() -> None:
    assert cli.leading(["--json", "models"]) == (["models", "--json"], False)
    assert cli.leading(["--quiet", "--json", "probe", "x", "y"]) == (["probe", "x", "y", "--json"], True)
    assert cli.leading(["--quiet", "--help"]) == (["--help"], True)
    assert cli.leading(["--quiet"]) == ([], True)
    assert cli.leading(["models", "--quiet"]) == (["models", "--quiet"], False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--quiet"], "usage: groundbass COMMAND"),
        (["--quiet", "--help"], "usage: groundbass COMMAND"),
        (["--quiet", "--version"], "groundbass 0."),
        (["--json", "models"], '"name": "groundbass-tiny"'),
    ],
)
def test_what_stands_before_the_command_is_understood(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert not stop.value.code and sentence in capsys.readouterr().out


def asked_for(
    name: str,
    *,
    out: Path | None = None,
    how: Literal["fast", "slow"] = "fast",
    seeds: tuple[int, ...] = (0,),
    layers: tuple[int, ...] | Literal["all"] = "all",
    share: float = 1.0,
    loud: bool = False,
    threads: int = 2,
) -> tuple[Any, ...]:
    """What it was given."""
    return name, out, how, seeds, layers, share, loud, threads


def test_python_passes_the_checks_of_the_command_line() -> None:
    given = {"out": "x", "how": "slow", "seeds": [np.int64(3)], "layers": np.arange(2), "share": 1, "loud": np.True_}
    assert arguments.call(asked_for, Path("y"), **given) == ("y", Path("x"), "slow", (3,), (0, 1), 1.0, True, 2)
    assert arguments.call(asked_for, "y", layers="all", out=None)[4] == "all"
    for wrong, sentence in (
        ({"how": "quick"}, "how is 'quick', but it must be one of fast, slow."),
        ({"seeds": "x"}, "seeds is 'x', but it must be several, each a whole number."),
        ({"seeds": [0.5]}, "seeds is [0.5], but it must be several, each a whole number."),
        ({"layers": "some"}, "layers is 'some', but it must be several, each a whole number or all."),
        ({"share": "half"}, "share is 'half', but it must be a number."),
        ({"loud": "yes"}, "loud is 'yes', but it must be True or False."),
        ({"out": 3}, "out is 3, but it must be a path or None."),
        ({"threads": -1}, "threads is -1, but it must be at least 1."),
        ({"shar": 1.0}, "There is no option 'shar'; near or known are share."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            arguments.call(asked_for, "y", **wrong)


def test_answers_are_plain() -> None:
    @dataclasses.dataclass
    class Weight:
        grams: float
        of: tuple[str, ...] = ("cat",)

    assert arguments.plain([Weight(1.0), {1: {"a"}}]) == [{"grams": 1.0, "of": ["cat"]}, {"1": ["a"]}]


def test_quiet_may_stand_behind_the_command() -> None:
    assert cli.quieted("probe", ["x", "--quiet", "y"]) == (["x", "y"], True)
    assert cli.quieted("predict", ["x", "--quiet"]) == (["x", "--quiet"], True)
    line = ["ddp", "--", "pretrain", "--quiet"]
    assert cli.quieted("launch", line) == (line, False)
