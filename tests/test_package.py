"""The house itself: who imports whom, what the wheel holds, how fast the command answers."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import groundbass
from groundbass import benchmarks, cli, doctor
from groundbass.reading import json_of

ROOT = Path(groundbass.__file__).parent
FOLDERS = {"data", "models", "pretrain", "probe"}
ALLOWED = {
    "data": {"data"},
    "models": {"models"},
    "pretrain": {"data", "models", "pretrain"},
    "probe": {"data", "models", "probe"},
}
# A published folder is loaded in a process that has only these (and the standard library).
PUBLISHED_MAY_IMPORT = {"torch", "transformers"}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> list[tuple[str, str]]:
    """Return (dotted name relative to the package, or an outside package's name; "ours" or "outside")."""
    package = list(path.relative_to(ROOT).parent.parts)
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                ours = name.split(".")[0] == "groundbass"
                found.append((name.removeprefix("groundbass."), "ours") if ours else (name, "outside"))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                base = package[: len(package) - (node.level - 1)]
                parts = [*base, *module.split(".")] if module else base
                names = [alias.name for alias in node.names] if not module else [""]
                found += [(".".join([*parts, name]).strip("."), "ours") for name in names]
            elif module.split(".")[0] == "groundbass":
                found.append((module.removeprefix("groundbass").lstrip("."), "ours"))
            else:
                found.append((module, "outside"))
    return found


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_folders_import_only_what_the_architecture_allows(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(folder)
        for name, kind in imported(path)
        if kind == "ours" and name.split(".")[0] in FOLDERS - ALLOWED[folder]
    ]
    assert not wrong


def test_imports_across_folders_are_relative() -> None:
    """So that checkers and editors follow the real path."""
    wrong = [
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in modules(folder)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "groundbass"
    ]
    assert not wrong


def test_no_import_goes_in_a_circle() -> None:
    """Imports inside functions and under TYPE_CHECKING count."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for folder in FOLDERS
        for path in modules(folder)
    }

    def reached(name: str) -> set[str]:
        found = set()
        package = list(files[name].relative_to(ROOT).parent.parts)
        for node in ast.walk(ast.parse(files[name].read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = package[: len(package) - (node.level - 1)]
                module = ".".join([*base, *([node.module] if node.module else [])])
                found |= {inner if (inner := f"{module}.{alias.name}") in files else module for alias in node.names}
        return {other for other in found if other in files and other != name}

    waiting = {name: reached(name) for name in files}
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting, f"these import one another: {sorted(waiting)}"


LEAVES = {"pretrain/targets": "pretrain/objectives", "probe/tasks": "probe/report", "data/labels": "data/corpora"}


@pytest.mark.parametrize("room", sorted(LEAVES))
def test_rooms_know_nothing_of_who_uses_them(room: str) -> None:
    user = LEAVES[room].replace("/", ".")
    assert not [path.name for path in modules(room) for name, _ in imported(path) if name.startswith(user)]


LISTS = {"models", "data/corpora", "probe/tasks"}  # a file per model, corpus, task: as many as there are
DOORS = 18


def test_no_folder_shows_more_doors_than_one_takes_in() -> None:
    folders = {path.parent for folder in FOLDERS for path in modules(folder)}
    doors = {
        folder.relative_to(ROOT).as_posix(): [
            path.name for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
        ]
        for folder in folders
    }
    crowded = {name: len(found) for name, found in doors.items() if len(found) > DOORS and name not in LISTS}
    assert not crowded


def published_files() -> set[Path]:
    """Files that define a PreTrainedModel, and every flat sibling that they reach."""
    reached = {
        path
        for path in (ROOT / "models").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "PreTrainedModel" for base in node.bases)
    }
    waiting = set(reached)
    while waiting:
        path = waiting.pop()
        for name, kind in imported(path):
            sibling = ROOT / (name.replace(".", "/") + ".py")
            if kind == "ours" and sibling.exists() and sibling not in reached:
                reached.add(sibling)
                waiting.add(sibling)
    return reached


def test_published_files_import_only_torch_transformers_and_flat_siblings() -> None:
    files = published_files()
    assert ROOT / "models" / "samplecnn.py" in files
    for path in files:
        for name, kind in imported(path):
            if kind == "outside":
                package = name.split(".")[0]
                assert package in PUBLISHED_MAY_IMPORT | sys.stdlib_module_names, f"{path.name} imports {name}"
            else:
                assert name.split(".")[0] == "models", f"{path.name} imports {name}"
                assert (ROOT / (name.replace(".", "/") + ".py")).parent == ROOT / "models", f"{path.name}: {name}"


def test_only_the_writing_modules_rename() -> None:
    """`data/writing.py` and `models/writing.py` write beside and rename; elsewhere a half could be found."""
    assert renamings(ast.parse("os.replace(a, b); c.rename(d); c.replace(d); os.rename(a, b); shutil.move(a, b)")) == 5
    assert (
        renamings(ast.parse("'a'.replace('b', 'c'); dataclasses.replace(a, b=1); replace(a, b=1); a.rename_it(b)")) == 0
    )
    writers = {ROOT / "data" / "writing.py", ROOT / "models" / "writing.py"}
    files = [path for folder in FOLDERS for path in modules(folder)] + sorted(ROOT.glob("*.py"))
    found = {path.relative_to(ROOT).as_posix(): renamings(ast.parse(path.read_text())) for path in files}
    assert {name for name, count in found.items() if count} == {path.relative_to(ROOT).as_posix() for path in writers}


def renamings(tree: ast.AST) -> int:
    """Calls that give a file or folder another name. A `replace` of one argument is a path's, of two a string's."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return sum(
        name in ("rename", "renames", "move")
        or (name == "replace" and not call.keywords and (len(call.args) == 1 or ast.unparse(owner) == "os"))
        for call in calls
        for name, owner in [(call.func.attr, call.func.value)]
    )


def test_only_reading_reads_json() -> None:
    """`reading.py` names the file and survives deep nesting; elsewhere a traceback would end a command."""
    files = [path for folder in FOLDERS for path in modules(folder)] + sorted(ROOT.glob("*.py"))
    bare = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.load", "json.loads")
    }
    ours = {
        one for one in bare if re.search(r"json\.loads\((json\.dumps\(|config\.to_json_string\(\)|done\.stdout)", one)
    }
    assert {one.partition(":")[0] for one in bare - ours} == {
        "reading.py",
        "models/reload.py",  # runs where groundbass isn't installed
        "data/collections/scan.py",  # a cell of labels, whose depth is counted before
    }


def test_json_of_anyone_is_read_or_named(tmp_path: Path) -> None:
    for content in (b'{"a":' * 3000, b"\xff\xfe", b"9" * 6000, b"{", b""):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.json is no JSON.*: write it again, or take it away\.$"):
            json_of(tmp_path / "x.json")


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_four_folders(tmp_path: Path) -> None:
    """A package that is missing from pyproject's list works in an editable install and fails for users."""
    expected = set()
    for path in tracked_files():
        name = path.relative_to(ROOT)
        target = tmp_path / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        inside = name.parts[0] in FOLDERS or (len(name.parts) == 1 and name.suffix == ".py")
        if inside and name.suffix != ".pyc":
            expected.add(f"groundbass/{name.as_posix()}")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(tmp_path / "source")],
        check=True,
        capture_output=True,
        text=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert not expected - held
    assert not {name for name in held if name.startswith("tests/") or name.startswith("groundbass/tests/")}


def test_what_is_imported_is_declared_and_the_other_way_round() -> None:
    """What comes along with another package today may not tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {requirement_name(text) for text in project["dependencies"]}
    extras = {requirement_name(text) for texts in project["optional-dependencies"].values() for text in texts}
    provides = importlib.metadata.packages_distributions()
    used: set[str] = set()
    for path in [path for folder in FOLDERS for path in modules(folder)] + sorted(ROOT.glob("*.py")):
        for name in {name.split(".")[0] for name, kind in imported(path) if kind == "outside"}:
            if name not in sys.stdlib_module_names:
                packages = {requirement_name(package) for package in provides.get(name, [name])}
                assert packages & (needed | extras), f"{path.relative_to(ROOT)} imports {name}: declare it"
                used |= packages
    assert needed - used == {"tensorboard"}, "torch.utils.tensorboard imports it"


def requirement_name(text: str) -> str:
    """`PyYAML>=6,<7` -> pyyaml."""
    return re.split(r"[\[<>=!~ ;]", text, maxsplit=1)[0].lower().replace("_", "-")


def test_help_imports_nothing_heavy() -> None:
    """`groundbass --help` must answer at once: the time goes into imports, so that is what is tested."""
    code = "import sys, groundbass.cli as c; c.help_text(); print([m for m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "transformers", "numpy", "sklearn", "tyro"):
        assert f"'{heavy}'" not in loaded


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_exists_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([*name.split(), "--help"])
    assert stop.value.code in (0, None)
    assert len(capsys.readouterr().out) > 150


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["quikstart"])
    assert stop.value.code == 2
    assert "`quickstart`" in capsys.readouterr().err


def test_unknown_command_of_a_group_lists_the_group(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "scann"])
    assert stop.value.code == 2
    assert "`data scan`" in capsys.readouterr().err


def test_doctor_finds_this_environment_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.doctor() == 0
    printed = capsys.readouterr().out
    assert "libsndfile" in printed
    assert "decode FLAC" in printed


def test_doctor_names_what_is_missing_and_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda package: None if package in ("soxr", "pretty_midi") else "1.0")
    found = {finding.what: finding for finding in doctor.findings()}
    assert found["soxr"].fatal
    assert "pip install" in found["soxr"].cure
    assert not found["pretty_midi"].fatal
    assert "groundbass[synth]" in found["pretty_midi"].cure


@pytest.mark.parametrize("wrong", [False, True])
def test_doctor_says_where_bf16_convolutions_are_wrong(monkeypatch: pytest.MonkeyPatch, wrong: bool) -> None:
    import torch

    real = torch.nn.functional.conv1d

    def conv1d(sound: torch.Tensor, kernel: torch.Tensor, **more: int) -> torch.Tensor:
        answer = real(sound.float(), kernel.float(), **more)
        return (answer.flip(1) if wrong and sound.dtype == torch.bfloat16 else answer).to(sound.dtype)

    monkeypatch.setattr(torch.nn.functional, "conv1d", conv1d)
    found = doctor.bf16_convolution()
    assert found.value.startswith("wrong by 1") if wrong else found.value == "right, to 0.2%"
    assert ("ONEDNN_MAX_CPU_ISA" in found.cure) == wrong and not found.fatal


def test_benchmarks_are_found_without_importing_them() -> None:
    assert {"augment", "loader"} <= set(benchmarks.available())


def test_unknown_benchmark_lists_the_known() -> None:
    with pytest.raises(ValueError, match="augment"):
        benchmarks.run_benchmarks(["augmnt"], as_json=False)


def readme_commands() -> list[list[str]]:
    lines = (ROOT / "README.md").read_text().splitlines()
    return [line.split("#")[0].split()[1:] for line in lines if line.startswith("groundbass ")]


def test_readme_names_only_commands_and_recipes_that_exist() -> None:
    from groundbass.pretrain.recipe import addresses

    commands = readme_commands()
    assert len(commands) >= 6
    for words in commands:
        name, rest = cli.resolve(words)
        if name == "pretrain" and not rest[0].startswith("-"):
            assert rest[0] in addresses()


def test_docstrings_say_in_one_form_what_is_raised() -> None:
    """A section `Raises:` with a line per exception, no sentence in between."""
    prose = []
    for path in [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in modules(folder))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                said = re.search(r"\bRaises \w+(Error|Stopped|Exit)\b", ast.get_docstring(node) or "")
                prose += [f"{path.relative_to(ROOT)}:{node.lineno}: {said[0]}"] if said else []
    assert not prose


def test_error_sentences_begin_with_a_capital() -> None:
    """But for those that begin with the name of what is wrong: `batch_size is 0`, `config.json says`."""
    small = []
    for path in [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in modules(folder))]:
        tree = list(ast.walk(ast.parse(path.read_text())))
        names = {node.arg for node in tree if isinstance(node, ast.arg)}
        names |= {node.attr for node in tree if isinstance(node, ast.Attribute)}
        names |= {ast.unparse(node.target) for node in tree if isinstance(node, ast.AnnAssign)}
        for node in tree:
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                word = re.match(r"f?['\"]([a-z][\w./]*)(.?)", ast.unparse(node.exc.args[0]))
                if word and not (word[1] in names - ARTICLES or re.search(r"[_./]", word[1]) or word[2] in {":", "="}):
                    small.append(f"{path.relative_to(ROOT)}:{node.lineno}: {word[0]}")
    assert not small


ARTICLES = {"a", "an", "the", "there", "this", "its"}
