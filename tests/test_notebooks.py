"""The notebooks run from top to bottom, with less music and fewer steps."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
LESS = {"HOURS, STEPS = 1.5, 250": "HOURS, STEPS = 0.15, 6", "HOURS, STEPS = 0.5, 200": "HOURS, STEPS = 0.3, 6",
        "HOURS = 0.5": "HOURS = 0.2"}  # fmt: skip


def cells(notebook: Path) -> list[str]:
    told = json.loads(notebook.read_text())
    return ["".join(cell["source"]) for cell in told["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs_and_compile(notebook: Path) -> None:
    told = json.loads(notebook.read_text())
    assert told["nbformat"] == 4
    assert not any(cell.get("outputs") for cell in told["cells"])
    for number, code in enumerate(cells(notebook)):
        compile(code, f"{notebook.name}, cell {number}", "exec")
    assert sum(code.count(old) for code in cells(notebook) for old in LESS) >= 1


def lessened(code: str) -> str:
    for old, new in LESS.items():
        code = re.sub(rf"\b{re.escape(old)}\b", new, code)
    return code


@pytest.mark.soak
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_in_a_kernel_and_draw(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cell by cell, as a reader runs them: no cell ends in an error, and a report is drawn in its place."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    told = nbformat.read(notebook, as_version=4)
    for cell in told.cells:
        cell.source = lessened(cell.source) if cell.cell_type == "code" else cell.source
    nbclient.NotebookClient(told, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [out for cell in told.cells if cell.cell_type == "code" for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error"]
    drawn = [out.data["text/html"] for out in outputs if "text/html" in out.get("data", {})]
    reports = sum(cell.source.lstrip().count(".report(") for cell in told.cells if cell.cell_type == "code")
    assert sum("<iframe srcdoc" in page for page in drawn) == reports


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is not None, reason="they run in a kernel, see above")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_as_a_script(notebook: Path, tmp_path: Path) -> None:
    code = lessened("\n".join(cells(notebook)))
    environment = os.environ | {"GROUNDBASS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
