"""What a run writes about itself: recipe.json at its start, loss.jsonl and timing.jsonl on the way."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import plugins
from ...data.track import Manifest
from ...data.writing import write_text
from ...reading import json_in, json_of
from ..recipe import Recipe, differences, filled, resolved
from .hardware import hardware

SCHEMA = 1
PACKAGES = ("torch", "transformers", "accelerate", "datasets", "numpy", "soundfile", "soxr", "nnAudio", "deepspeed")


def describe(
    recipe: Recipe, address: str | None, overrides: Sequence[str], manifest: Manifest, data: Path | str,
    heard: Manifest,
) -> dict[str, Any]:  # fmt: skip
    """The contents of recipe.json: what is needed to repeat the run, and to know whether it was.

    heard: the tracks of the manifest that the objective trains on, whose splits are counted.
    """
    return {
        "schema": SCHEMA,
        "address": address,
        "overrides": list(overrides),
        "recipe": resolved(recipe),
        "manifest": {
            "path": str(data) if "://" in str(data) else str(Path(data).resolve()),
            "hash": manifest_hash(manifest),
            "tracks": len(manifest),
            "hours": float(manifest.seconds().sum()) / 3600,
            "heard": dict(sorted(Counter(split or "" for split in heard.column("split")).items())),
        },
        "versions": versions(),
        "hardware": f"{int(os.environ.get('WORLD_SIZE', 1))} × {hardware()}",
        "git": _git_hash(),
        **_code_from(address),
    }


def _code_from(address: str | None) -> dict[str, Any]:
    """The file, with its hash, that a recipe of the user's came from; the version of a package that offered it."""
    if address is None:
        return {}
    if (own := plugins.named(address)) is not None:
        code = own.file.read_bytes()
        return {"code": {"file": str(own.file.resolve()), "hash": hashlib.blake2b(code, digest_size=16).hexdigest()}}
    offered = plugins.installed("recipes")
    return {"code": {"package": plugins.origin(offered[address])}} if address in offered else {}


def versions() -> dict[str, str]:
    """Versions of what decides a result, this package and Python first."""
    found = {"python": platform.python_version()}
    for name in ("groundbass", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def manifest_hash(manifest: Manifest) -> str:
    """blake2b over the tracks' keys, content hashes and weights in their order: what a crop can depend on."""
    digest = hashlib.blake2b(digest_size=16)
    for name in ("key", "hash", "weight"):
        if name not in manifest.table.column_names:
            continue
        for value in manifest.table.column(name).to_pylist():
            digest.update(f"{value}\n".encode())
    return digest.hexdigest()


def check_same(run: Path, new: dict[str, Any], recipe: Recipe) -> dict[str, Any] | None:
    """What recipe.json says of this run, which `run` already holds; None where it holds none. recipe: of `new`.

    Raises:
        ValueError: it holds another one; the sentence says what differs.
    """
    path = run / "recipe.json"
    if not path.exists():
        if (run / "config.json").exists():
            raise ValueError(
                f"{run} is a published model, not a run: choose another --run (--init {run} begins with its weights)."
            )
        return None
    old = read_record(path)
    differ = differences(filled(old["recipe"], recipe), new["recipe"])
    if old["manifest"]["hash"] != new["manifest"]["hash"]:
        differ.append(f"manifest: {old['manifest']['path']} there, {new['manifest']['path']} here, other tracks")
    if differ:
        raise ValueError(
            f"{run} holds another run ({old.get('address')}): {_shown(differ)}. Only steps, logging and workers may "
            "differ when a run goes on; choose another --run folder."
        )
    return old


def check_checkpoint(folder: Path, recipe: Recipe) -> None:
    """Refuse a checkpoint that another recipe than this run's has written.

    Raises:
        ValueError: the recipe.json in it is another one; the sentence says what differs.
    """
    old = read_record(folder / "recipe.json")
    if differ := differences(filled(old["recipe"], recipe), resolved(recipe)):
        raise ValueError(
            f"{folder} belongs to another run ({old.get('address')}): {_shown(differ)}. Delete it to go on from the "
            "checkpoint before it, or choose another --run folder."
        )


def read_record(path: Path) -> dict[str, Any]:
    """What `describe` wrote into a recipe.json.

    Raises:
        ValueError: it is damaged.
    """
    record = read_json(path, recipe=dict, manifest=dict, objective=(dict, type(None)))
    for name in ("path", "hash"):
        if not isinstance(record["manifest"].get(name), str):
            raise ValueError(_unreadable(path, f"its manifest has no {name}"))
    return record


def asked_of(path: Path, takes: str) -> dict[str, Any]:
    """A run's recipe.json, of which `address` and `overrides` are the words that asked for it. takes: for a sentence.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: it is damaged, or its recipe was made in Python.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}: {takes}.")
    try:
        record = read_record(path)
    except ValueError as error:
        raise ValueError(f"{path} is no recipe.json of a run, or a damaged one: {error}") from error
    if not record.get("address"):
        raise ValueError(f"{path} names no address: its recipe was made in Python, not named on the command line.")
    return record


def last_loss(run: Path) -> dict[str, Any] | None:
    """The last line of RUN/loss.jsonl; None where nothing was logged."""
    file = run / "loss.jsonl"
    lines = _whole_lines(file) if file.is_file() else []
    return json_in(lines[-1], f"The last line of {file}") if lines else None


def read_json(path: Path, **kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """What a run has written about itself (see `write_json`). kinds: of fields that it must have.

    Raises:
        ValueError: it is damaged.
    """
    value = json_of(path, "choose another --run folder")
    for name, kind in kinds.items():
        if not isinstance(value, dict) or not isinstance(value.get(name), kind):
            raise ValueError(_unreadable(path, f"its field {name!r} is missing, or of another kind"))
    found: dict[str, Any] = value
    return found


def _unreadable(path: Path, reason: str) -> str:
    return f"{path} can't be read ({reason}); choose another --run folder."


def _shown(differ: Sequence[str]) -> str:
    return "; ".join(differ[:8]) + (f"; and {len(differ) - 8} more" if len(differ) > 8 else "")


def check_teachers(run: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse to go on with a teacher that has changed since the run began.

    Raises:
        ValueError: its hash in recipe.json is another one.
    """
    changed = [name for name, told in (old.get("objective") or {}).items() if new["objective"].get(name) != told]
    if changed:
        raise ValueError(
            f"{run} was begun with another {changed[0]} than the one that is there now ({old['objective'][changed[0]]} "
            f"then, {new['objective'].get(changed[0])} now): what it has learned would not fit. Put the old one back, "
            "or choose another --run folder."
        )


def write_json(path: Path, value: Any) -> None:
    """Write into a run, whose lock is held."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n", locked=True)


class Lines:
    """A JSON-lines file that can be cut back to a step, so that a resumed run's file equals an undisturbed one's."""

    def __init__(self, path: Path, step: int) -> None:
        """Keep the whole lines up to `step`; 0 begins anew.

        Raises:
            ValueError: a line is damaged.
        """
        kept = [line for number, line in enumerate(_whole_lines(path), 1) if _step(path, number, line) <= step]
        write_text(path, "".join(f"{line}\n" for line in kept), locked=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Add a line and hand it to the system at once."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(path: Path) -> list[str]:
    """Lines that end in a newline: a killed process may have left half a one."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return text[: text.rfind("\n") + 1].split("\n")[:-1]


def _step(path: Path, number: int, line: str) -> int:
    try:
        step = json_in(line, path)["step"]
    except (ValueError, KeyError, TypeError):
        step = None
    if type(step) is not int or step < 0 or "\ufffd" in line:
        raise ValueError(
            f"Line {number} of {path} is damaged: {line[:60]!r}. Delete that line, or take the file away to go on "
            "without the steps so far in it."
        )
    return step


def _git_hash() -> str | None:
    """The commit of the clone that this package runs from, with ``+changes`` where files differ; None outside one."""
    folder = Path(__file__).parents[2]
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()
