"""Where tasks are found: a file of `probe/tasks/`, a corpus, anyone's folder."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from ..data import corpora
from ..data.open import open_sound
from ..data.track import Manifest
from . import tasks
from .task import Question, Task
from .tasks.folder import folder_tasks


def questions() -> dict[str, Question]:
    """Every file of `probe/tasks/` by its name."""
    names = sorted(module.name for module in pkgutil.iter_modules(tasks.__path__) if module.name != "folder")
    return {name: importlib.import_module(f"{tasks.__name__}.{name}").TASK for name in names}


def find_tasks(address: str, label: Sequence[str] = (), store: Path | None = None) -> list[Task]:
    """Open an address: `synth_key`, `synth_key:PATH`, `synth:PATH` (all tasks of a corpus), `folder:PATH` with labels.

    PATH is the corpus's folder, or a manifest of it (.parquet); without one, `$GROUNDBASS_DATA/<corpus>`.
    label: for `folder:` only, `COLUMN[:class|tags|number|key]` each. store: where the scan of a folder is remembered.

    Raises:
        ValueError: an unknown address; the sentence names the nearest tasks.
        FileNotFoundError: a corpus that isn't there.
    """
    name, _, place = address.partition(":")
    if name == "folder":
        if not place:
            raise ValueError("folder: needs a path, for example folder:my_music --label genre.")
        return folder_tasks(place if "://" in place else str(Path(place)), label, store)
    known = questions()
    chosen = [known[name]] if name in known else [q for q in known.values() if q.corpus == name]
    if not chosen:
        near = get_close_matches(name, [*known, *{q.corpus for q in known.values()}, "folder"], 3) or sorted(known)
        raise ValueError(
            f"There is no task {name!r}. Near or known: {', '.join(near)}. Your own labels: folder:PATH --label NAME."
        )
    where = Path(place) if place else corpora.place_of(chosen[0].corpus)
    manifest = open_sound(f"{chosen[0].corpus}:{where}")
    return [_checked(question, question.meet(manifest, f"{question.name}:{where}"), manifest) for question in chosen]


def available() -> tuple[list[str], list[str]]:
    """The names of the corpora that lie in `$GROUNDBASS_DATA`, and a sentence for each that doesn't."""
    names = sorted({question.corpus for question in questions().values()})
    root = os.environ.get("GROUNDBASS_DATA")
    here = [name for name in names if root and (Path(root) / name).exists()]
    missing = (
        [] if root else ["GROUNDBASS_DATA isn't set: let it name the folder that holds the corpora, each by name."]
    )
    for name in names:
        if name not in here:
            asked = ", ".join(q.name for q in questions().values() if q.corpus == name)
            place = Path(root or "$GROUNDBASS_DATA") / name
            missing.append(f"{name} isn't in {place} ({asked}). {_source(name, place)}")
    return here, missing


def _source(corpus: str, place: Path) -> str:
    if corpus == "synth":
        return f"`groundbass data synth {place}` makes it."
    known = corpora.corpus(corpus)
    return f"{known.source} Licence: {known.licence}"


def _checked(question: Question, task: Task, manifest: Manifest) -> Task:
    """With sentences about what the corpus lacks of its published size."""
    if question.corpus not in corpora.names():
        return task
    return replace(task, notes=(*task.notes, *corpora.shortfall(question.corpus, manifest, question.split)))
