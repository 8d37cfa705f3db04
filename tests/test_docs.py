"""The documentation: the tutorial's commands run, links lead somewhere, named recipes and tasks exist."""

import ast
import csv
import dataclasses
import functools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from forks import groundbass_on_path

from groundbass import cli
from groundbass.data.audio.read import write
from groundbass.models.published import write_encoder
from groundbass.pretrain.recipe import addresses, find
from groundbass.probe.addresses import questions

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "pretrain" / "RESULTS.md"])


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 7
    with groundbass_on_path() as path:
        for kind, code in blocks:
            line = ["bash", "-euo", "pipefail", "-c", code] if kind == "bash" else [sys.executable, "-c", code]
            done = subprocess.run(
                line, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=1200
            )
            assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    for made in ("runs/first/recipe.json", "report.html", "my-encoder/README.md", "vectors.parquet", "near.html"):
        assert (tmp_path / made).is_file(), made


GENRES = {"rock": 300, "jazz": 1100, "folk": 4000}  # Hz
FEWER = ["--steps", "90", "--batch-size", "9", "--crop-seconds", "1", "--lr", "3e-3", "--layer-decay", "1"]
FEWER += ["--head-lr", "3", "--validate-every", "30", "--workers", "0"]


def tone(pitch: float, seconds: float = 2.0) -> npt.NDArray[np.float32]:
    return (0.2 * np.sin(2 * np.pi * pitch * np.arange(round(24_000 * seconds)) / 24_000)).astype(np.float32)


def labelled_folder(place: Path) -> list[str]:
    """Where the page about labels begins: tones that are called genres, recordings without labels, and an encoder.

    Returns the columns of labels.csv.
    """
    (place / "music" / "disc1").mkdir(parents=True)
    (place / "Music").mkdir()
    rows = ["path,genre,split"]
    for number in range(30):
        genre, split = [*GENRES][number % 3], "test" if number >= 24 else "valid" if number >= 18 else "train"
        write(place / f"music/disc1/{number}.flac", tone(GENRES[genre] * (1 + 0.002 * number)), 24_000)
        rows.append(f"disc1/{number}.flac,{genre},{split}")
    (place / "music" / "labels.csv").write_text("\n".join(rows) + "\n")
    for genre, pitch in GENRES.items():
        write(place / f"Music/{genre}.flac", tone(1.031 * pitch), 24_000)
    soundfile.write(place / "song.mp3", tone(GENRES["folk"], 6.0), 24_000)
    torch.manual_seed(0)
    write_encoder(find("masked.bestrq_debug").objective.build().encoder, place / "my-encoder")
    return rows[0].split(",")


@pytest.mark.slow
def test_labels_become_a_classifier_that_anyone_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's blocks in their order; what opens the published folder runs where groundbass can't be imported."""
    blocks = re.findall(r"```(csv|bash|python)\n(.*?)```", (ROOT / "docs" / "labels.md").read_text(), re.DOTALL)
    assert [kind for kind, _ in blocks] == ["csv", "bash", "bash", "python", "bash", "python"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert blocks[0][1].splitlines()[0].split(",") == labelled_folder(tmp_path)
    for line in (line for kind, code in blocks if kind == "bash" for line in code.splitlines()):
        program, command, *words = map(os.path.expanduser, shlex.split(line))
        assert program == "groundbass"
        with pytest.raises(SystemExit) as ended:
            cli.main([command, *words, *(FEWER if command == "finetune" else [])])
        assert not ended.value.code, line
    out = capsys.readouterr().out
    assert "frozen probe" in out and "accuracy, top 1" in out

    heard: dict[str, dict[str, float]] = {}
    with (tmp_path / "heard.csv").open() as file:
        for row in csv.DictReader(file):
            heard.setdefault(Path(row["path"]).stem, {})[row["label"]] = float(row["value"])
    assert {name: max(found, key=lambda label: found[label]) for name, found in heard.items()} == {g: g for g in GENRES}
    assert (tmp_path / "heard.html").read_text().count("<section") == 3

    told: dict[str, Any] = {}
    exec(blocks[3][1], told)
    assert told["said"].label == "folk"
    np.save(tmp_path / "folk.npy", tone(GENRES["folk"]))
    code = blocks[5][1] + 'print(classifier({"array": numpy.load("folk.npy"), "sampling_rate": 24_000})[0]["label"])\n'
    done = subprocess.run(
        [sys.executable, "-I", "-c", "import sys; sys.modules['groundbass'] = None\n" + code], cwd=tmp_path,
        env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    noise, known = done.stdout.splitlines()
    assert {entry["label"] for entry in ast.literal_eval(noise)} == set(GENRES) and known == "folk"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert link.startswith("http") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_exists(page: Path) -> None:
    """Commands and recipes as they stand in the text."""
    text = page.read_text()
    for words in re.findall(r"`groundbass ([a-z]+(?: [a-z]+)?)", text):
        assert words in cli.COMMANDS or words.split()[0] in cli.COMMANDS, words
    modules = {address.split(".")[0] for address in addresses()}
    for module, name in re.findall(r"\b([a-z]+)\.([a-z0-9]+_[a-z0-9_]+)\b(?!\*)", text):
        if module in modules:
            assert f"{module}.{name}" in addresses() or f"{module}.{name}".endswith("_"), f"{module}.{name}"
    for task in re.findall(r"groundbass probe (?!check|--)\S+ ([a-z_]+)\b(?!\.py:)", text):
        assert task in {*questions(), "folder", "synth"} or task.startswith("synth_"), task


@functools.cache
def options(recipe: str) -> set[str]:
    """Every leaf of a recipe as its command line names it."""

    def leaves(value: Any, at: str) -> Iterator[str]:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                name = f"{at}.{field.name}".lstrip(".").replace("_", "-")
                yield name
                yield from leaves(getattr(value, field.name), name)
        elif isinstance(value, dict):
            yield from (f"{at}.{key}".replace("_", "-") for key in value)

    return set(leaves(find(recipe), ""))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_of_recipes_exist(page: Path) -> None:
    """`groundbass pretrain RECIPE --leaf value`, in a command or in a table of keys."""
    text = page.read_text()
    known = {"data", "run", "avoid", "init", "from", "help", "list", "dry-run", "root", "probe", "weights"}
    for recipe, rest in re.findall(r"groundbass pretrain ([a-z0-9]+\.[a-z0-9_]+)([^\n`#|]*)", text):
        assert recipe in addresses(), recipe
        for option in re.findall(r"--([a-z][a-z.-]*)", rest):
            option = option.replace(".no-", ".")  # a flag turned off
            assert option in options(recipe) | known or option.startswith("probe"), f"{recipe} --{option}"
    leaves = set().union(*(options(recipe) for recipe in addresses()))
    for option in re.findall(r"`--((?:objective|optim|crops)\.[a-z0-9.-]+)", text):
        assert option in leaves, option


@pytest.mark.parametrize("module", sorted({address.split(".")[0] for address in addresses()}))
def test_an_objective_s_page_has_its_recipes_as_they_are(module: str) -> None:
    text = (ROOT / "docs" / "objectives" / f"{module}.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) s \| ([\d.e-]+) \|", text, re.MULTILINE)
    whole = [address for address in addresses() if address.startswith(f"{module}.") and not address.endswith("_debug")]
    assert [f"{module}.{row[0]}" for row in listed] == whole
    for name, steps, batch, seconds, lr in listed:
        recipe = find(f"{module}.{name}")
        assert (int(steps.replace(",", "")), int(batch.replace(",", ""))) == (recipe.steps, recipe.batch_size), name
        assert float(seconds) == pytest.approx(recipe.crops.crop_samples / recipe.crops.sample_rate, rel=1e-3), name
        assert float(lr) == recipe.optim.lr, name
