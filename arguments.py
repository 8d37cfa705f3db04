"""A typed function as a command line: positionals by their names, errors as sentences, and --json for its figures.

`groundbass COMMAND …` reads its words here, and so do the commands that read their own (`pretrain`, `plan`, `probe`,
`iterate`, `launch`). The functions of `import groundbass` pass what they are given through the same checks (`call`).
This module knows no other one of groundbass; each of them may ask it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import json
import math
import operator
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

JSON = "print JSON and nothing else"
NAMES = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
_BOX = re.compile(r"\x1b\[[0-9;]*m|[│╭╮╰╯]")


def read(what: Any, words: Sequence[str], prog: str, default: Any = None) -> Any:
    """What words make of a dataclass; of a function, a call of it that waits. --help is printed, and ends.

    default: an instance of the dataclass that the words change.

    Raises:
        ValueError: words that it doesn't take; the sentence names what is missing, or the nearest.
        SystemExit: after --help.
    """
    shown = _waiting(what) if inspect.isroutine(what) else what
    given = {} if default is None else {"default": default}
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            found = tyro.cli(shown, args=list(words), prog=prog, **given)
        except SystemExit as stop:
            if not stop.code:
                raise
            raise ValueError(sentence(said.getvalue(), prog)) from None
    if said.getvalue():
        print(said.getvalue(), file=sys.stderr, end="")
    given = found.keywords if inspect.isroutine(what) else vars(found)
    _bounded(what, given, lambda name: f"--{name.replace('_', '-')}")
    return found


LEAST = {"workers": 1, "threads": 1, "gpus": 1, "machines": 1, "machine_rank": 0, "random_seeds": 0, "head_seeds": 0}
"""The least that an option of this name may be; of `workers` 0 where one process is the default, not one per core."""


def _bounded(what: Any, given: Mapping[str, Any], shown: Callable[[str], str]) -> None:
    """Check numbers that would be wrong everywhere.

    Raises:
        ValueError: one is below its least.
    """
    for name, parameter in inspect.signature(what).parameters.items():
        value = given.get(name)
        least = 0 if name == "workers" and parameter.default is not None else LEAST.get(name)
        if least is None or value is None:
            continue
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if one < least:
                raise ValueError(f"{shown(name)} is {one}, but it must be at least {least}.")


def call(what: Callable[..., Any], /, *given: Any, **named: Any) -> Any:
    """Call a command's function, or make its options, from Python: what it is given is checked as words are.

    A path may be text, a tuple a list, a number NumPy's.

    Raises:
        ValueError: an option that isn't there, a value of another kind, or one that isn't among those possible.
    """
    signature, hints = inspect.signature(what), typing.get_type_hints(what)
    unknown = [name for name in named if name not in signature.parameters]
    if unknown:
        near = difflib.get_close_matches(unknown[0], signature.parameters, 3) or list(signature.parameters)
        raise ValueError(f"There is no option {unknown[0]!r}; near or known are {', '.join(near)}.")
    bound = signature.bind(*given, **named)
    for name, value in bound.arguments.items():
        bound.arguments[name] = fitting(value, hints.get(name, Any), name)
    _bounded(what, bound.arguments, str)
    return what(*bound.args, **bound.kwargs)


def fitting(value: Any, hint: Any, name: str) -> Any:
    """The value as the hint has it.

    Raises:
        ValueError: it is of another kind; the sentence says what is possible.
    """
    try:
        return _fitted(value, hint)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name} is {value!r}, but it must be {_possible(hint)}.") from None


def _fitted(value: Any, hint: Any) -> Any:
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Literal:
        return parts[parts.index(value)]
    if kind in (typing.Union, types.UnionType):
        if type(value) in parts:
            return value
        for one in parts:
            with contextlib.suppress(ValueError, TypeError, OverflowError):
                return _fitted(value, one)
        raise ValueError
    if kind is tuple:
        if isinstance(value, (str, bytes, Path, Mapping)):
            raise ValueError
        return tuple(_fitted(one, parts[0]) for one in value)
    if kind is types.NoneType:
        if value is not None:
            raise ValueError
        return None
    if kind is bool:
        if value not in (True, False):
            raise ValueError
        return bool(value)
    if kind in (int, float):
        if isinstance(value, (bool, str)):
            raise ValueError
        return operator.index(value) if kind is int else float(value)
    if kind is Path:
        return Path(os.fspath(value))
    if kind is str:
        if value is None or isinstance(value, (bool, int, float, list, tuple, Mapping)):
            raise ValueError
        return str(value)
    return value


def _possible(hint: Any) -> str:
    """What a value may be, in words."""
    kind, parts = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if kind in (typing.Union, types.UnionType):
        return " or ".join(map(_possible, parts))
    if kind is tuple:
        return f"several, each {_possible(parts[0])}"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text", Path: "a path"}
    return words.get(kind, "None" if kind is types.NoneType else str(kind))


def run(function: Callable[..., Any], words: Sequence[str], prog: str) -> Any:
    """Call a function with what words say and return its answer; one that has an answer takes --json."""
    return read(answering(function), _placed(function, words), prog)()


def _placed(function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """The words, in which `--out X` names an OUT that has a place of its own: the last one."""
    hints = typing.get_type_hints(function, include_extras=True)
    if not is_positional(hints.get("out")):
        return list(words)
    for place, word in enumerate(words):
        if word == "--out" and place + 1 < len(words):
            return [*words[:place], *words[place + 2 :], words[place + 1]]
        if word.startswith("--out="):
            return [*words[:place], *words[place + 1 :], word.removeprefix("--out=")]
    return list(words)


def answering(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with --json where it returns something and has no such option of its own."""
    signature = inspect.signature(function)
    own = {"json", "json_"} & signature.parameters.keys()
    if own or signature.return_annotation in (None, "None", int, "int", inspect.Signature.empty):
        return function

    def told(*args: Any, json: bool = False, **named: Any) -> Any:
        with aside(json):
            answer = function(*args, **named)
        if json:
            say(answer)
        return answer

    asked = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False)
    kind = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=JSON)]
    hints = typing.get_type_hints(function, include_extras=True) | {"json": kind}
    return _as(function, told, signature.replace(parameters=[*signature.parameters.values(), asked]), hints)


def _waiting(function: Callable[..., Any]) -> Callable[..., Any]:
    """What returns a call instead of calling; its positionals are named, and `int | None` is an INT."""

    def waits(*args: Any, **named: Any) -> Callable[[], Any]:
        return functools.partial(function, *args, **named)

    hints = typing.get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    signature = inspect.signature(function)
    for name, parameter in signature.parameters.items():
        told = getattr(hints[name], "__metadata__", ())
        if any(hasattr(one, "metavar") and one.metavar for one in told):
            continue
        if is_positional(hints[name]) or parameter.kind is parameter.POSITIONAL_ONLY:
            hints[name] = Annotated[hints[name], tyro.conf.arg(metavar=name.strip("_").upper())]
        elif (one := _one_or_none(hints[name])) in NAMES:
            hints[name] = Annotated[hints[name], tyro.conf.arg(metavar=NAMES[one])]
    return _as(function, waits, signature, hints)


def _as(
    function: Callable[..., Any], other: Callable[..., Any], signature: inspect.Signature, hints: dict[str, Any]
) -> Callable[..., Any]:
    """The other function with the name and docstring of the first, for a parser (which looks behind __wrapped__)."""
    other.__name__, other.__qualname__, other.__doc__ = function.__name__, function.__qualname__, function.__doc__
    other.__signature__, other.__annotations__ = signature, hints  # type: ignore[attr-defined]
    return other


def is_positional(hint: Any) -> bool:
    """Whether an argument is given by its place."""
    return typing.get_args(tyro.conf.Positional[int])[1] in getattr(hint, "__metadata__", ())


def _one_or_none(hint: Any) -> Any:
    """X of `X | None`."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return None
    kinds = [one for one in typing.get_args(hint) if one is not type(None)]
    return kinds[0] if len(kinds) == 1 and len(typing.get_args(hint)) == 2 else None


def sentence(box: str, prog: str) -> str:
    """What a parser's box of an error says: its first paragraph, and what it proposes, a line each."""
    paragraphs: list[list[str]] = [[]]
    for line in _BOX.sub("", box).strip().splitlines()[1:]:  # the first one is the box's title
        if not line.strip(" ─-"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line.rstrip())
    paragraphs = [lines for lines in paragraphs if lines]
    if paragraphs and paragraphs[0][0].strip() == f"Missing from {prog}:":
        told = _missing(paragraphs[0][1:])
    else:
        told = [" ".join(map(str.strip, lines)) for lines in paragraphs]
        told = [text for text in told if not text.startswith(("For full helptext", "Got errors"))]
    return "\n  ".join([*(told or ["These words aren't understood."]), f"`{prog} --help` explains every option."])


def _missing(lines: Sequence[str]) -> list[str]:
    """Of names and what is said of each, further to the right: a sentence per name."""
    told: list[str] = []
    margin = min((len(line) - len(line.lstrip()) for line in lines), default=0)
    for line in lines:
        text = line.strip()
        if line[margin:].startswith(" ") and told:
            told[-1] += f" {text}"
        else:
            told.append(f"{text.removesuffix(' (required)')} is missing:")
    whole = [text.removesuffix("(required)").rstrip(" :") for text in told]
    return [text if text.endswith(".") else f"{text}." for text in whole]


@contextlib.contextmanager
def aside(json: bool) -> Iterator[None]:
    """With --json, what is said to people goes to stderr: stdout is for the figures."""
    if not json:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def say(answer: Any) -> None:
    """Print an answer as JSON."""
    print(json.dumps(plain(answer), indent=1, ensure_ascii=False), flush=True)


def plain(value: Any) -> Any:
    """An answer as JSON has it: dataclasses by their fields, arrays as lists, no number for what isn't finite."""
    if hasattr(value, "to_json"):
        return plain(value.to_json())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "tolist"):  # of NumPy
        return plain(value.tolist())
    return [plain(one) for one in value] if isinstance(value, (Sequence, set, frozenset)) else str(value)
