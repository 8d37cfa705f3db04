"""The notebooks run from top to bottom, with less music and fewer steps."""

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


@pytest.mark.soak
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path) -> None:
    code = "\n".join(cells(notebook))
    for old, new in LESS.items():
        code = re.sub(rf"\b{re.escape(old)}\b", new, code)
    environment = os.environ | {"GROUNDBASS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stderr[-3000:]
