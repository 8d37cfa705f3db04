"""The documentation: the tutorial's commands run, links lead somewhere, named recipes and tasks exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from groundbass import cli
from groundbass.pretrain.recipe import addresses
from groundbass.probe.task import questions

ROOT = Path(__file__).parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "pretrain" / "RESULTS.md"])


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text()
    blocks = re.findall(r"```(bash|python)\n(.*?)```", text, re.DOTALL)
    assert len(blocks) > 7
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "120"}
    environment |= {"GROUNDBASS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "2"}
    for kind, code in blocks:
        line = ["bash", "-euo", "pipefail", "-c", code] if kind == "bash" else [sys.executable, "-c", code]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
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
