"""Writing beside and renaming, on both sides of the house: a name stands for something whole, or for what was there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from groundbass.data import writing as data_writing
from groundbass.models import writing as models_writing

Written = Callable[[Path], AbstractContextManager[Path]]
both = pytest.mark.parametrize("written", [data_writing.written, models_writing.written], ids=["data", "models"])


@both
def test_a_file_is_the_old_one_until_the_new_one_is_whole(written: Written, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")
    with written(path) as beside:
        beside.write_text("half")
        assert path.read_text() == "old" and beside.parent == path.parent and beside.name.startswith(".table.json.")
        beside.write_text("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["table.json"]


@both
def test_an_exception_leaves_the_old_file_and_nothing_beside_it(written: Written, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), written(path) as beside:
        beside.write_text("half \ud800", encoding="utf-8")  # opened and cut before it fails
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.json"]


def test_what_killed_writers_left_goes_after_a_day(tmp_path: Path) -> None:
    for name in (".page[1].html.17", ".page[1].html.18", ".page1.html.19"):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (1e9, 1e9))
    (tmp_path / ".page[1].html.18").write_text("of somebody who writes now")
    data_writing.remove_leftovers(tmp_path / "page[1].html")
    assert sorted(os.listdir(tmp_path)) == [".page1.html.19", ".page[1].html.18"]


def test_a_locked_place_keeps_nothing_of_a_killed_start(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from groundbass.data.writing import written\n"
        "with written(Path('made/table.json'), locked=True) as beside:\n"
        "    beside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == -signal.SIGKILL
    assert os.listdir(tmp_path / "made") == [".table.json.part"]
    data_writing.write_text(tmp_path / "made" / "table.json", "whole", locked=True)
    assert os.listdir(tmp_path / "made") == ["table.json"]


def test_threads_that_write_at_once_write_whole_files(tmp_path: Path) -> None:
    path, here = tmp_path / "table.txt", threading.Barrier(8)

    def write(letter: str) -> None:
        here.wait()
        for _ in range(50):
            data_writing.write_text(path, letter * 5000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = path.read_text()
    assert text == text[0] * 5000 and os.listdir(tmp_path) == ["table.txt"]


def test_of_files_that_belong_together_the_named_one_is_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "made"
    place.mkdir()
    for name in ("a.onnx", "a.onnx.data"):
        (place / name).write_text(name)
    moved: list[str] = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), real(a, b)))
    models_writing.put_files(place, tmp_path / "a.onnx")
    assert moved == ["a.onnx.data", "a.onnx"] and (tmp_path / "a.onnx").read_text() == "a.onnx"
