"""The documentation: the tutorial's commands run, links lead somewhere, named recipes and tasks exist."""

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forks import groundbass_on_path

from groundbass import cli
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
    for task in re.findall(r"groundbass probe (?!check)\S+ ([a-z_]+)\b", text):
        assert task in {*questions(), "folder", "synth"} or task.startswith("synth_"), task


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
