"""The site: no link leads nowhere, every page stands in the margin, and Sphinx has nothing to complain of."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages() -> Any:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "site" / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_link_leads_to_a_page_a_picture_or_a_file(pages: Any, tmp_path: Path) -> None:
    known = pages.sources()
    for file, name in known.items():
        text = pages.moved(file.read_text(), file, name, known, tmp_path)
        assert "](../pretrain" not in text and "](../SECURITY" not in text
    with pytest.raises(FileNotFoundError, match=r"links to nowhere\.md"):
        pages.moved("[a](nowhere.md)", ROOT / "README.md", "index", known, tmp_path)


def test_links_are_moved_and_code_is_left_alone(pages: Any, tmp_path: Path) -> None:
    known = pages.sources()
    text = "[r](../pretrain/RESULTS.md#x) `[r](no.md)` [`f`](site/conf.py)\n```\n[r](no.md)\n```\n![p](report.png)"
    moved = pages.moved(text, ROOT / "docs" / "tutorial.md", "tutorial", known, tmp_path)
    assert moved == "[r](results.md#x) `[r](no.md)` `docs/site/conf.py`\n```\n[r](no.md)\n```\n![p](report.png)"
    assert (tmp_path / "report.png").is_file()


def test_every_page_stands_in_the_margin(pages: Any) -> None:
    shown = {name for names in pages.SECTIONS.values() for name in names} | {"index"}
    assert set(pages.sources().values()) | {"api", "commands", "corpora"} == shown


@pytest.mark.soak
@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="needs the extra docs")
def test_the_site_is_made_without_a_warning(tmp_path: Path) -> None:
    source, out = str(tmp_path / "site"), str(tmp_path / "docs")
    for words in (
        [str(ROOT / "docs" / "site" / "pages.py"), source],
        ["-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", source, out],
    ):
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    assert "groundbass data scan" in (tmp_path / "docs" / "commands.html").read_text()
