"""`groundbass bench`: finds the functions in the folders' `bench` rooms, runs them, prints a table or JSON lines."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDERS = ("data", "models", "pretrain", "probe")


def available() -> dict[str, str]:
    """Return {benchmark name: folder}, read from the folders' `bench` rooms without importing them."""
    found = {}
    for folder in FOLDERS:
        path = Path(__file__).parent / folder / "bench" / "__init__.py"
        if path.exists():
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    found[node.name] = folder
    return found


def run_benchmarks(names: list[str], as_json: bool, rehearse: bool = False) -> None:
    """Run the named benchmarks, one after the other; rehearse: in miniature on a CPU, those that can be.

    Raises:
        ValueError: a name that no folder's `bench` room has, or one that can't be rehearsed.
    """
    known = available()
    if not names:
        listed = ", ".join(f"{name} ({folder})" for name, folder in known.items())
        print(json.dumps(known) if as_json else f"benchmarks: {listed}")
        return
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"No benchmark is called {unknown[0]!r}; there are {', '.join(known)}.")
    if rehearse and names != ["gpu"]:
        raise ValueError(f"--rehearse is for `bench gpu`, not for {', '.join(names)}.")
    from .pretrain.run.hardware import hardware

    for name in names:
        with contextlib.redirect_stdout(sys.stderr):  # a benchmark may talk; stdout is for its figures
            bench: Callable[..., list[Any]] = getattr(importlib.import_module(f"groundbass.{known[name]}.bench"), name)
            rows = bench(rehearse=True) if rehearse else bench()
        if as_json:
            print(json.dumps({"name": name, "machine": hardware(), "rows": rows}), flush=True)
        else:
            print_table(name, rows)


def print_table(name: str, rows: list[Any]) -> None:
    """Print one benchmark's rows for people."""
    from rich.console import Console
    from rich.table import Table

    from .pretrain.run.hardware import hardware

    table = Table("what", "value", "unit", "ratio", "reference", title=f"{name} on {hardware()}", title_justify="left")
    table.columns[0].min_width = 20  # names stay whole
    for row in rows:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        table.add_row(row["what"], f"{row['value']:.4g}", row["unit"], ratio, row["reference"] or "")
    Console().print(table)
