"""Recipes, tasks, corpora and encoders from outside: in a file that the user names, or in an installed package.

`my_recipes.py:tiny` runs that file. A package that is installed offers names by entry points of the groups
`groundbass.recipes`, `.tasks`, `.corpora` and `.encoders`; names are listed without importing anything, and a package
is imported when one of its names is asked for. This module knows no other one of groundbass but how `new` writes; each
of them may ask it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import inspect
import keyword
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

Group = Literal["recipes", "tasks", "corpora", "encoders"]
_FILE = re.compile(r"(?P<file>.+?\.py):(?P<name>[A-Za-z_]\w*)(?::(?P<place>.*))?", re.DOTALL)
_TEMPLATES = {
    "objective": ("pretrain/new_objective.txt", "groundbass pretrain check {file}:tiny"),
    "task": ("probe/new_task.txt", "groundbass probe check {file}:TASK"),
    "corpus": ("data/new_corpus.txt", "groundbass data verify {file}:CORPUS FOLDER"),
}


@dataclass(frozen=True)
class Named:
    """What `FILE.py:NAME` or `FILE.py:NAME:PLACE` says."""

    file: Path
    name: str
    place: str = ""

    @property
    def address(self) -> str:
        """FILE.py:NAME, as it was written."""
        return f"{self.file}:{self.name}"

    def load(self) -> Any:
        """Run the file and return what it calls `name`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it has no such name, or can't be run.
        """
        module = run_file(self.file)
        if not hasattr(module, self.name):
            own = ", ".join(_defined(self.file)) or "nothing of its own"
            raise ValueError(f"{self.file} has no {self.name!r}; it has {own}.")
        return getattr(module, self.name)


def _defined(file: Path) -> list[str]:
    """The names that a file gives itself, without what it imports and what begins with _."""
    found: list[str] = []
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.append(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in dict.fromkeys(found) if not name.startswith("_")]


def named(address: str) -> Named | None:
    """The file, name and place that an address gives; None for addresses of other kinds. Nothing is run."""
    found = _FILE.fullmatch(address)
    return None if found is None else Named(Path(found["file"]).expanduser(), found["name"], found["place"] or "")


def run_file(file: Path) -> Any:
    """The module that a file makes; it is run again where it has changed since.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it raises something; the sentence has the line.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}; give FILE.py:NAME, with the path from {Path.cwd()}.")
    with told(str(file), file):
        return _run(file.resolve(), file.stat().st_mtime_ns)


def made(function: Callable[[], Any], name: str, file: Path | None = None) -> Any:
    """What a user's function or class makes. name: as sentences call it; file: that it stands in.

    Raises:
        ValueError: it needs arguments, or raises something.
    """
    if needed := _needed(function):
        raise ValueError(f"{name} is called without arguments, but it needs {', '.join(needed)}.")
    with told(name, file):
        return function()


def _needed(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of what isn't written in Python
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in free]


@contextlib.contextmanager
def told(name: str, file: Path | None) -> Iterator[None]:
    """What a user's code raises in here becomes a sentence, with its line; GROUNDBASS_TRACEBACK=1 shows the rest.

    name: as sentences call it where the line isn't in the file.
    """
    try:
        yield
    except Exception as error:  # a stranger's code may raise anything
        said = str(error) if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: {error}"
        if isinstance(error, SyntaxError):
            said = f"SyntaxError: {error.msg}"
        line = None if file is None else _line_in(file, error)
        where = name if line is None else f"{file} line {line}"
        raise ValueError(f"{where}: {said.rstrip('.')}.") from error


def _line_in(file: Path, error: Exception) -> int | None:
    own = str(file.resolve())
    if isinstance(error, SyntaxError) and error.filename == own:
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    return lines[-1] if lines else None


@functools.cache
def _run(file: Path, changed: int) -> Any:
    name = "_groundbass_plugin_" + hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def installed(group: Group) -> dict[str, importlib.metadata.EntryPoint]:
    """What installed packages offer, by name; nothing is imported."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=f"groundbass.{group}")}


def load_installed(group: Group, name: str) -> Any:
    """What a package offers under this name.

    Raises:
        ValueError: it isn't there, or doesn't import; the sentence names the package.
    """
    entry = installed(group)[name]
    with told(f"{name} is offered by {origin(entry)} as {entry.value}, which could not be imported", None):
        return entry.load()


def origin(entry: importlib.metadata.EntryPoint) -> str:
    """The package that offers it, with its version."""
    return "an installed package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


@dataclass
class Findings:
    """What a check found: promises kept and broken, one sentence each. broken: what that means, if any is."""

    passed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    broken: str = ""

    def hold(self, kept: bool, promise: str, cure: str) -> bool:
        """Note a promise, with its cure where it is broken; returns `kept`."""
        (self.passed if kept else self.failed).append(promise if kept else f"{promise}: {cure}")
        return kept

    def tell(self, what: str, contract: str) -> Findings:
        """Print every promise."""
        print("\n".join([*(f"  ok   {line}" for line in self.passed), *(f"  FAIL {line}" for line in self.failed)]))
        if self.failed:
            points = len(self.passed) + len(self.failed)
            self.broken = f"{what} breaks {contract} in {len(self.failed)} of {points} points, listed above."
        else:
            print(f"{what} keeps {contract}.")
        return self

    def hold_all(self) -> None:
        """Refuse what breaks a promise.

        Raises:
            ValueError: one is broken.
        """
        if self.broken:
            raise ValueError(self.broken)


def new(
    kind: Annotated[Literal["objective", "task", "corpus"], "what to begin"], name: str, /, *, force: bool = False
) -> None:
    """Write NAME.py, an objective, task or corpus of your own that works as it stands: change it line by line.

    Args:
        kind: objective (with recipes), task or corpus.
        name: of the file, and of what is in it: a Python name such as my_task.
        force: replace NAME.py where it is there.

    Raises:
        ValueError: a name that Python can't take, or that a package has.
        FileExistsError: the file is there.
    """
    from .data.writing import write_text

    name = name.removesuffix(".py")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"The name {name!r} is none that Python takes: small letters, digits and _, as in my_{kind}.")
    if keyword.iskeyword(name):
        raise ValueError(f"The name {name!r} is a word of Python's own: take another one, such as my_{name}.")
    file = Path(f"{name}.py")
    if _is_taken(name, file):
        raise ValueError(f"{file} would hide the package {name!r} from `import {name}`: take a name such as my_{name}.")
    if file.exists() and not force:
        raise FileExistsError(f"{file} is there already; take another name, or --force to replace it.")
    template, check = _TEMPLATES[kind]
    title = "".join(word.capitalize() for word in name.split("_"))
    text = (Path(__file__).parent / template).read_text(encoding="utf-8")
    write_text(file, text.replace("NAME", name).replace("TITLE", title))
    print(f"{file}: written. Next: {check.format(file=file)}")


def _is_taken(name: str, file: Path) -> bool:
    """Whether `import NAME` finds something else than this file, or a mere folder."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None and Path(found.origin).resolve() != file.resolve()
