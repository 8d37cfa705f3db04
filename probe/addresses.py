"""Where tasks are found: a file of `probe/tasks/`, a corpus, anyone's folder."""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from .. import plugins
from ..data import corpora
from ..data.corpora import Corpus
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
    """Open an address: `synth_key`, `synth_key:PATH`, `synth:PATH` (all tasks of a corpus), `folder:PATH` with labels,
    `my_task.py:TASK:PATH`, or a task of an installed package.

    PATH is the corpus's folder, or a manifest of it (.parquet); without one, `$GROUNDBASS_DATA/<corpus>`.
    label: for `folder:` only, `COLUMN[:class|tags|number|key]` each. store: where the scan of a folder is remembered.

    Raises:
        ValueError: an unknown address; the sentence names the nearest tasks.
        FileNotFoundError: a corpus that isn't there.
    """
    if (own := plugins.named(address)) is not None:
        chosen, place = [_question(own.load(), own.address)], own.place
        _register_corpora(own)
    else:
        name, _, place = address.partition(":")
        if name == "folder":
            if not place:
                raise ValueError("folder: needs a path, for example folder:my_music --label genre.")
            return folder_tasks(place if "://" in place else str(Path(place)), label, store)
        chosen = _known(name)
    where = place if "://" in place else Path(place) if place else corpora.place_of(chosen[0].corpus)
    manifest = open_sound(f"{chosen[0].corpus}:{where}")
    return [_checked(question, question.meet(manifest, f"{question.name}:{where}"), manifest) for question in chosen]


def question_at(address: str) -> Question | None:
    """The task that an address names, before it meets its corpus; None where it names none."""
    own = plugins.named(address)
    if own is not None:
        value = own.load()
        if isinstance(value, Question):
            _register_corpora(own)
        return _question(value, own.address) if isinstance(value, Question) else None
    name = address.partition(":")[0]
    if name in questions():
        return questions()[name]
    return _known(name)[0] if name in plugins.installed("tasks") else None


def listed() -> list[str]:
    """A line for every task that can be named: its corpus, what it asks, or the package that offers it."""
    known = questions()
    offered = {name: f"of {plugins.origin(entry)}" for name, entry in plugins.installed("tasks").items()}
    width = max(map(len, [*known, *offered]))
    lines = [f"{name:{width}}  {task.corpus + ':':16} {task.question}" for name, task in known.items()]
    return [*lines, *(f"{name:{width}}  {whence}" for name, whence in offered.items())]


def unknown(addresses: Sequence[str]) -> str:
    """A sentence about the first address whose name alone says that it is no task; empty where all may be some."""
    for address in addresses:
        name = address.partition(":")[0]
        try:
            if plugins.named(address) is None and name not in ("all", "folder"):
                _known(name)
        except (ValueError, FileNotFoundError) as error:
            return str(error)
    return ""


def _known(name: str) -> list[Question]:
    """The task of this name, ours or of an installed package, or all of ours about the corpus of this name.

    Raises:
        ValueError: there is none; the sentence names the nearest.
    """
    known = questions()
    chosen = [known[name]] if name in known else [q for q in known.values() if q.corpus == name]
    offered = plugins.installed("tasks")
    if not chosen and name in offered:
        return [_question(plugins.load_installed("tasks", name), name)]
    if not chosen:
        possible = [*known, *{q.corpus for q in known.values()}, *offered, "folder"]
        near = get_close_matches(name, possible, 3) or sorted(known)
        raise ValueError(
            f"There is no task {name!r}. Near or known: {', '.join(near)}. Your own labels: folder:PATH --label NAME."
        )
    return chosen


def _question(found: object, address: str) -> Question:
    if not isinstance(found, Question):
        raise ValueError(f"{address} is no task but a {type(found).__name__}: name a groundbass.probe.task.Question.")
    if found.name in questions():
        raise ValueError(f"{address} calls itself {found.name!r}, as one of groundbass's tasks: give it another name.")
    return found


def _register_corpora(own: plugins.Named) -> None:
    """Corpora that stand in the file beside its task can be named by it."""
    for value in vars(plugins.run_file(own.file)).values():
        if isinstance(value, Corpus) and value.name not in corpora.names():
            corpora.register(value, str(own.file))


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
