"""Gather the site's sources: `python docs/site/pages.py FOLDER`, then `sphinx -W -b html FOLDER OUT`.

The pages are the repository's own Markdown files, whose links are moved to where the pages lie in the site; commands
and corpora are printed by groundbass itself. A link to no file ends with an error.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECTIONS = {
    "Begin": ["tutorial", "reading-a-report"],
    "Guides": ["labels", "plugins", "large", "cluster", "degradations", "coming-from", "notebooks"],
    "What is learned": [
        "objectives",
        *(f"objectives/{p.stem}" for p in sorted((ROOT / "docs/objectives").glob("*.md"))),
        "results",
    ],
    "Reference": ["api", "commands", "corpora"],
    "The house": ["architecture", "contributing", "security", "upgrading", "changelog"],
}
ELSEWHERE = {
    "index": "README.md",
    "results": "pretrain/RESULTS.md",
    "contributing": "CONTRIBUTING.md",
    "security": "SECURITY.md",
    "changelog": "CHANGELOG.md",
}
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)\s]+)\)")


def sources() -> dict[Path, str]:
    """The repository's pages and their names in the site."""
    found = {ROOT / file: name for name, file in ELSEWHERE.items()}
    for file in sorted((ROOT / "docs").rglob("*.md")):
        found[file] = file.relative_to(ROOT / "docs").with_suffix("").as_posix()
    return found


def moved(text: str, file: Path, name: str, pages: dict[Path, str], out: Path) -> str:
    """A page's text with its links as they must be in the site; pictures are copied. Code stays as it is.

    Raises:
        FileNotFoundError: a link leads nowhere.
    """

    def place(found: re.Match[str]) -> str:
        label, link = found.groups()
        if re.match(r"[a-z]+:|#", link):
            return found.group()
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve()
        if not target.exists():
            raise FileNotFoundError(f"{file.relative_to(ROOT)} links to {link}, and there is no such file.")
        if target in pages:
            there = os.path.relpath(f"{pages[target]}.md", Path(name).parent)
            return f"{label}({there}{'#' * bool(anchor)}{anchor})"
        if target.suffix in (".png", ".svg", ".jpg"):
            shutil.copy(target, out / target.name)
            return f"{label}({os.path.relpath(target.name, Path(name).parent)})"
        return f"`{target.relative_to(ROOT)}`"  # a file of the source

    parts = re.split(r"(^```.*?^```|`[^`\n]*`)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("`") else LINK.sub(place, part) for part in _joined(parts))


def _joined(parts: list[str]) -> list[str]:
    """Code within a link's label belongs to the link: [`file`](file)."""
    text = "".join(parts)
    return re.split(r"(^```.*?^```|(?<!\[)`[^`\n]*`(?!\]))", text, flags=re.DOTALL | re.MULTILINE)


def trees() -> str:
    """What stands in the margin."""
    told = []
    for title, names in SECTIONS.items():
        told.append("\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *names, "```"]))
    return "\n\n".join(told)


def commands() -> str:
    """Every command's --help."""
    from groundbass import cli

    os.environ["COLUMNS"] = "110"
    told = ["# Commands", "", "```text", cli.help_text(), "```"]
    for name in cli.COMMANDS:
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            cli.main([*name.split(), "--help"])
        text = re.sub(r"\x1b\[[0-9;]*m", "", said.getvalue()).rstrip()
        told += ["", f"## groundbass {name}", "", "```text", *(line.rstrip() for line in text.splitlines()), "```"]
    return "\n".join([*told, ""])


def corpora() -> str:
    """What is known of every corpus, and the tasks that ask about it."""
    from groundbass.data import corpora as known
    from groundbass.probe.addresses import questions

    told = ["# Corpora and licences", "", "`groundbass data verify CORPUS FOLDER` compares a copy with these counts."]
    for name in known.names():
        one = known.corpus(name)
        tasks = [f"`{task.name}`" for task in questions().values() if task.corpus == name]
        sizes = [
            f"{split}: " + ", ".join(f"{count:,} {part}" for part, count in sets.items())
            for split, sets in one.expected.items()
            if sets
        ]
        told += ["", f"## {one.title}", "", f"`{name}`, <{one.home}>. Licence: {one.licence}", "", one.source, ""]
        told += [f"- {line}" for line in (one.layout, *sizes, *one.known)]
        told += [f"- Tasks: {', '.join(tasks)}"] if tasks else []
    return "\n".join([*told, ""])


API = """# Python

```{eval-rst}
.. automodule:: groundbass.api
   :members:
   :exclude-members: logger

What an encoder keeps
---------------------

.. autoclass:: groundbass.models.encoder.Encoder
   :members:

What objectives, recipes, tasks and corpora are made of
-------------------------------------------------------

.. autoclass:: groundbass.pretrain.objective.Objective
   :members:
.. autoclass:: groundbass.pretrain.objective.ObjectiveConfig
   :members:
.. autoclass:: groundbass.pretrain.objective.Loss
.. autoclass:: groundbass.pretrain.recipe.Recipe
   :members:
.. autoclass:: groundbass.pretrain.recipe.Optim
.. autoclass:: groundbass.data.crops.CropConfig
.. autoclass:: groundbass.data.batch.Batch
   :members:
.. autoclass:: groundbass.probe.task.Question
   :members:
.. autoclass:: groundbass.data.corpora.Corpus
.. autoclass:: groundbass.data.corpora.Entry
```
"""


def main(folder: str) -> None:
    """Write all sources into a new folder."""
    out = Path(folder)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    pages = sources()
    for file, name in pages.items():
        place = out / f"{name}.md"
        place.parent.mkdir(parents=True, exist_ok=True)
        text = moved(file.read_text(encoding="utf-8"), file, name, pages, out)
        place.write_text(f"{text}\n{trees()}\n" if name == "index" else text, encoding="utf-8")
    (out / "commands.md").write_text(commands(), encoding="utf-8")
    (out / "corpora.md").write_text(corpora(), encoding="utf-8")
    (out / "api.md").write_text(API, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("conf.py"), out)


if __name__ == "__main__":
    main(sys.argv[1])
