"""Recipes, tasks, corpora and encoders from outside: in a file that is named, in a package that is installed."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from groundbass import cli, load_encoder, plugins
from groundbass.data import corpora
from groundbass.data.audio.read import write
from groundbass.data.open import open_sound
from groundbass.pretrain.recipe import find
from groundbass.probe.addresses import find_tasks

PACKAGE = Path(__file__).parent / "plugin"


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in argv])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example package's wheel is installed into by pip."""
    folder = tmp_path_factory.mktemp("site")
    words = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        folder,
        wheel(tmp_path_factory.mktemp("dist")),
    ]
    done = subprocess.run([sys.executable, "-m", "pip", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def wheel(folder: Path) -> Path:
    """What a build backend makes of the package: a zip with its files and what pyproject.toml says of it."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    about = f"{project['name'].replace('-', '_')}-{project['version']}"
    groups = project["entry-points"]
    points = "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in groups[group].items()) for group in groups)
    files = {file.relative_to(PACKAGE).as_posix(): file.read_text() for file in PACKAGE.glob("*/*.py")}
    files |= {
        f"{about}.dist-info/METADATA": "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".format(**project),
        f"{about}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}.dist-info/entry_points.txt": points,
    }
    files[f"{about}.dist-info/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{about}.dist-info/RECORD"])
    with zipfile.ZipFile(folder / f"{about}-py3-none-any.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return folder / f"{about}-py3-none-any.whl"


@pytest.fixture
def example(site: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(site))
    return site


@pytest.fixture
def levels(tmp_path: Path, note: Callable[..., npt.NDArray[np.float32]]) -> Path:
    """The example package's corpus: 16 notes, every second one a tenth as loud."""
    folder = tmp_path / "levels"
    folder.mkdir()
    for number in range(16):
        write(folder / f"{number}.wav", note(60 + number, 2.0, 8000) * (0.1 if number % 2 else 1.0), 8000)
    return folder


def test_an_installed_package_is_listed_without_being_imported(
    example: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(plugins.installed("encoders")) >= {"example-levels", "broken"}
    for words in (["pretrain", "--list"], ["probe", "--list"], ["data", "verify", "--list"]):
        run(*words)
    printed = capsys.readouterr().out
    assert "example.tiny" in printed and "example_loud" in printed
    assert printed.count("of groundbass-example 1.2.3") == 3
    assert "groundbass_example" not in sys.modules


def test_an_installed_package_is_found_by_its_names(example: Path, levels: Path) -> None:
    assert find("example.tiny").steps == 3
    [task] = find_tasks(f"example_loud:{levels}")
    assert task.name == "example_loud" and len(task.manifest) == 16
    assert len(open_sound(f"example:{levels}")) == 16
    assert load_encoder("example-levels").dim == 2


@pytest.mark.slow
def test_a_task_and_an_encoder_of_a_package_meet_in_a_probe(
    example: Path, levels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The encoder hears levels and nothing else, and the question is about levels: it answers all."""
    out = tmp_path / "out"
    words = [
        "--out",
        out,
        "--store",
        tmp_path / "store",
        "--random-seeds",
        "--baselines",
        "constant",
        "--pooling",
        "mean",
    ]
    assert run("probe", "example-levels", f"example_loud:{levels}", *words) == 0
    assert re.search(r"example_loud +4 +1\.000", capsys.readouterr().out)


def test_a_package_that_does_not_import_is_named(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("probe", "check", "broken") == 2
    said = capsys.readouterr().err
    assert "groundbass-example 1.2.3" in said and "groundbass_example.nowhere" in said


@pytest.mark.slow
def test_a_new_objective_keeps_the_contract_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("new", "objective", "my_objective") == 0
    assert run("new", "objective", "my_objective") == 2  # it is there already
    assert run("pretrain", "check", "my_objective.py:debug") == 0
    assert run("data", "scan", levels, "music.parquet") == 0
    words = ["--objective.noise", "0.01", "--crops.crop-samples", "16000"]
    assert run("pretrain", "my_objective.py:debug", "--data", "music.parquet", "--run", "run", *words) == 0
    record = json.loads(Path("run/recipe.json").read_text())
    assert record["address"] == "my_objective.py:debug" and record["recipe"]["objective"]["noise"] == 0.01
    assert record["code"]["file"] == str(tmp_path / "my_objective.py")
    assert load_encoder("run").dim == 8
    assert run("pretrain", "--from", "run/recipe.json", "--run", "again") == 0
    assert Path("again/loss.jsonl").read_bytes() == Path("run/loss.jsonl").read_bytes()


@pytest.mark.slow
def test_an_objective_that_breaks_its_promises_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("new", "objective", "odd")
    text = Path("odd.py").read_text()
    odd = text.replace("seeds = draw_seeds(self.seed, example_index(batch), NOISE + step)", "seeds = self.count()")
    odd = odd.replace(
        "    def octave_energies",
        "    def count(self):\n        global NOISE\n        NOISE += 1\n        return torch.full((4,), NOISE)\n\n"
        "    def octave_energies",
    ).replace(
        "self.head = nn.Linear(width, config.octaves)", "self.head, self.idle = nn.Linear(width, 7), nn.Linear(2, 2)"
    )
    Path("odd.py").write_text(odd)
    assert run("pretrain", "check", "odd.py:debug") == 2
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  FAIL")]
    assert any("the same seed" in line for line in told)
    assert any("idle.weight" in line for line in told)


def test_a_new_corpus_is_verified_opened_and_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with (levels / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split", "artist"])
        rows.writerows(
            [f"{n}.wav", "quiet" if n % 2 else "loud", "train" if n < 8 else "valid" if n < 12 else "test", f"a{n}"]
            for n in range(16)
        )
    run("new", "corpus", "my_corpus")
    assert run("data", "verify", "my_corpus.py:CORPUS", levels) == 0
    assert len(open_sound(f"my_corpus.py:CORPUS:{levels}")) == 16
    run("new", "task", "my_task")
    text = Path("my_task.py").read_text().replace("# from", "from").replace("# corpus(", "corpus(")
    text = text.replace('corpus="synth"', 'corpus="my_corpus"').replace('("style",)', '("label",)')
    Path("my_task.py").write_text(text.replace('part="music",', ""))
    assert run("probe", "check", f"my_task.py:TASK:{levels}") == 0
    assert "no artist trains and tests" in capsys.readouterr().out
    [task] = find_tasks(f"my_task.py:TASK:{levels}")
    assert task.classes == ("loud", "quiet")


def test_a_task_whose_artist_trains_and_tests_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, example: Path, levels: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = corpora.corpus("example")
    read = known.read
    object.__setattr__(known, "read", lambda root: [_by_one(entry) for entry in read(root)])
    try:
        assert run("probe", "check", f"example_loud:{levels}") == 2
    finally:
        object.__setattr__(known, "read", read)
    assert "no artist trains and tests: 1 do (artist one)" in capsys.readouterr().out


def _by_one(entry: corpora.Entry) -> corpora.Entry:
    return corpora.Entry(entry.key, entry.path, entry.split, "one", entry.labels)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretrain", "nowhere.py:tiny", "--dry-run"], "There is no file nowhere.py"),
        (["pretrain", "own.py:missing", "--dry-run"], "own.py has no 'missing'; it has NUMBER, GTZAN, made"),
        (["pretrain", "own.py:NUMBER", "--dry-run"], "own.py:NUMBER is no recipe but a int"),
        (["pretrain", "own.py:made", "--dry-run"], "returned a str"),
        (["probe", "x", "own.py:NUMBER"], "own.py:NUMBER is no task but a int"),
        (["data", "verify", "own.py:NUMBER", "."], "own.py:NUMBER is no corpus but a int"),
        (["data", "verify", "own.py:GTZAN", "."], "calls its corpus 'gtzan', as one of groundbass's"),
        (["new", "task", "My-Task"], "The name 'My-Task' is none that Python takes"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from groundbass.data.corpora import corpus\nimport dataclasses\nNUMBER = 3\n"
        "GTZAN = dataclasses.replace(corpus('gtzan'))\ndef made():\n    return 'a recipe'\n"
    )
    if words[:2] == ["probe", "x"]:
        words = ["probe", "groundbass-tiny", words[2]]
    assert run(*words) == 2
    assert sentence in capsys.readouterr().err


def test_no_address_but_the_one_that_is_named_runs_code(tmp_path: Path) -> None:
    """A manifest, a table or a folder beside such a file doesn't."""
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    assert plugins.named(f"{tmp_path}/evil.py") is None  # a file alone names nothing in it
    assert plugins.named(f"{tmp_path}/evil.py:CORPUS") is not None
    with pytest.raises(FileNotFoundError):
        open_sound(tmp_path / "music")


WRONG = """\
from groundbass.pretrain.recipe import Recipe

TASK: dict[str, int] = {"a": 1}


class Raises:
    def __init__(self) -> None:
        self.x = {}["key"]


class Needs:
    def __init__(self, size: int) -> None:
        pass


def sized(size: int) -> Recipe:
    raise AssertionError


def broken() -> Recipe:
    return Recipe(objective=None, crops=None, steps=0)
"""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["pretrain", "check", "boom.py:tiny"], "boom.py line 2: RuntimeError: boom."),
        (["pretrain", "boom.py:tiny", "--dry-run"], "boom.py line 2: RuntimeError: boom."),
        (["pretrain", "syn.py:tiny"], "syn.py line 1: SyntaxError: "),
        (["probe", "check", "imp.py:E"], "imp.py line 1: ModuleNotFoundError: No module named 'nosuchlib'."),
        (["probe", "check", "wrong.py:Raises"], "wrong.py line 8: KeyError: 'key'."),
        (["probe", "check", "wrong.py:Needs"], "Needs in wrong.py is called without arguments, but it needs size."),
        (["pretrain", "check", "wrong.py:sized"], "wrong.py:sized is called without arguments, but it needs size."),
        (["pretrain", "check", "wrong.py:broken"], "wrong.py line 21: steps is 0, but it must be at least 1."),
        (["probe", "check", "wrong.py:TASK"], "wrong.py:TASK is a dict: neither a task ("),
        (
            ["probe", "wrong.py:TASK", "synth:x"],
            "wrong.py has 'TASK', but that is a dict; its classes are Raises, Needs.",
        ),
        (["data", "verify", "wrong.py:NOPE"], "wrong.py has no 'NOPE'; it has TASK, Raises, Needs, sized, broken."),
        (["new", "task", "class"], "The name 'class' is a word of Python's own"),
        (["new", "task", "torch"], "torch.py would hide the package 'torch' from `import torch`"),
        (["new", "corpus", "json"], "json.py would hide the package 'json'"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_sentence_with_its_line(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"boom.py": "\nraise RuntimeError('boom')\n", "imp.py": "import nosuchlib\n", "syn.py": "def f(:\n"}
    for name, code in {**files, "wrong.py": WRONG}.items():
        Path(name).write_text(code)
    assert run(*words) == 2
    assert capsys.readouterr().err.startswith(f"groundbass: error: {sentence}")
    assert {path.name for path in tmp_path.glob("*.py")} == {*files, "wrong.py"}
    monkeypatch.setenv("GROUNDBASS_TRACEBACK", "1")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        cli.main(words)


def test_a_name_that_only_a_folder_has_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "loudness_of").mkdir()
    for words in (["new", "task", "loudness_of"], ["new", "task", "loudness_of", "--force"]):
        assert run(*words) == 0
