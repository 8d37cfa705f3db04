"""Pages in one look: templates beside this file, filled in by Jinja2, which escapes whatever is put in."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    found = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    found.filters["breakable"] = breakable
    return found


def breakable(text: str) -> Markup:
    """A text whose long names may break at their words."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def render(name: str, **values: Any) -> str:
    """The template of that name, e.g. `report.html`, filled in."""
    return _environment().get_template(name).render(**values)
