"""`groundbass data verify CORPUS ROOT`: can the benchmark be run honestly on what lies here?"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from .. import corpora
from ..corpora.corpus import Checksum, Corpus, Entry
from ..corpora.recordings import Facts, audio_below, digest_of, facts_of

ABOUT = 0.98  # of a round figure: what counts as whole
CLASSES = 24  # that the terminal prints
SHOWN = 8  # names of a kind that the terminal prints; --json has all


@dataclass
class Findings:
    """What was found.

    sets: {split: {set: {"found": tracks with readable audio, "listed": by the annotations, "expected": as published}}}.
    classes: {set: {class: {"found", "expected"}}} of the benchmark's label; labelled: {label: {"found", "expected"}}.
    missing: files; extra: audio that the benchmark doesn't use; unreadable, truncated: {file: why}; duplicates: groups
    of files with the same bytes, with the sets they are in; checksums: {file: "as published", "differs", "absent"}.
    problems: why scores wouldn't be comparable, a sentence each; notes: what a reader should know besides.
    """

    corpus: str
    root: str
    sets: dict[str, dict[str, dict[str, int | None]]] = field(default_factory=dict)
    classes: dict[str, dict[str, dict[str, int | None]]] = field(default_factory=dict)
    labelled: dict[str, dict[str, int]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    truncated: dict[str, str] = field(default_factory=dict)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    checksums: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    corpus: tyro.conf.Positional[str] = "",
    root: Annotated[Path | None, tyro.conf.Positional] = None,
    *,
    list: tyro.conf.FlagCreatePairsOff[bool] = False,
    json: bool = False,
    workers: int | None = None,
) -> None:
    """Say whether a benchmark can be run honestly on this copy of its corpus. Exit code 0 if so, 1 if not.

    Counts per set and class beside the published ones; files that are missing, extra, unreadable, cut short or there
    twice; checksums where they are published; where to get the corpus, and its licence.

    Args:
        corpus: gtzan or another one of --list, or my_corpus.py:CORPUS.
        root: the folder that holds it; $GROUNDBASS_DATA/CORPUS by default.
        list: name the corpora that can be read, with their licences, and stop.
        json: print JSON and nothing else.
        workers: processes that read headers; one per core by default.
    """
    if list or not corpus:
        print(names_as_json() if json else "\n".join(corpora.listed()))
        return
    known = corpora.corpus(corpus)
    found = examine(known, root or corpora.place_of(corpus), progress=not json, workers=workers)
    if json:
        print(as_json(known, found))
    else:
        show(known, found)
    if not found.ok:
        raise SystemExit(1)


def examine(known: Corpus, root: str | Path, progress: bool = True, workers: int | None = None) -> Findings:
    """Read the annotations and the headers of all audio. Raises what `known.read` raises, about the layout."""
    root = Path(root)
    entries = known.read(root)
    facts = facts_of(root, [entry.path for entry in entries], known.name, progress, workers)
    found = Findings(known.name, str(root), notes=list(known.known))
    _compare_files(known, root, entries, facts, found)
    whole = [entry for entry in entries if entry.path in facts and not facts[entry.path].fault]
    _count(known, entries, whole, found)
    _find_duplicates(known, whole, facts, found)
    _check_sums(known, root, entries, facts, found)
    _check_artists(known, whole, found)
    return found


def _compare_files(known: Corpus, root: Path, entries: list[Entry], facts: dict[str, Facts], found: Findings) -> None:
    used = [entry for entry in entries if _matters(known, entry)]
    found.missing = [entry.path for entry in entries if entry.path not in facts]
    found.unreadable = {path: fact.fault for path, fact in facts.items() if fact.fault}
    found.truncated = {path: fact.cut for path, fact in facts.items() if fact.cut and not fact.fault}
    listed = {entry.path for entry in entries}
    found.extra = [path for path in audio_below(root) if path not in listed]
    lost = [entry for entry in used if entry.path not in facts and entry.key not in known.faulty]
    if lost:
        found.problems.append(
            f"{len(lost)} of {len(used)} files of the benchmark are missing, {lost[0].path} is the first. "
            f"{known.source}"
        )
    broken = [entry for entry in used if entry.path in found.unreadable and entry.key not in known.faulty]
    if broken:
        path = broken[0].path
        found.problems.append(
            f"{len(broken)} files can't be read; {path}: {found.unreadable[path]}. Get them again. {known.source}"
        )
    cut = [entry.path for entry in used if entry.path in found.truncated]
    if cut:
        found.problems.append(f"{len(cut)} files end too early; {cut[0]}: {found.truncated[cut[0]]}. Get them again.")
    for entry in entries:
        if entry.key in known.faulty and (entry.path not in facts or facts[entry.path].fault):
            found.notes.append(f"{entry.key} is unreadable in one of the circulating copies, as here: a track fewer.")


def _matters(known: Corpus, entry: Entry) -> bool:
    """Whether a split of the benchmark uses this recording."""
    return any(entry.split_of(name) is not None for name in known.expected)


def _count(known: Corpus, entries: list[Entry], whole: list[Entry], found: Findings) -> None:
    absent = sum(entry.key in known.faulty for entry in entries) - sum(entry.key in known.faulty for entry in whole)
    for name, expected in known.expected.items():
        here = Counter(entry.split_of(name) for entry in whole)
        listed = Counter(entry.split_of(name) for entry in entries)
        if not any(listed[part] for part in ("train", "valid", "test")):
            continue  # a split whose files aren't here, such as one of MTG-Jamendo's twenty
        parts = [part for part in ("train", "valid", "test") if part in listed or part in expected]
        found.sets[name] = {
            part: {"found": here[part], "listed": listed[part], "expected": expected.get(part)} for part in parts
        }
        for part, count in expected.items():
            allowed = (count, count - absent) if part == "train" else (count,)
            if here[part] not in allowed:
                found.problems.append(
                    f"{name}: the {part} set has {here[part]} tracks and {count} are published"
                    + (f" ({listed[part]} in the annotations here)." if listed[part] != count else ".")
                )
        for part in parts:
            if not here[part] and part not in expected:
                found.problems.append(f"{name}: no track of the {part} set can be read.")
    found.labelled = {
        label: {"found": sum(label in entry.labels for entry in entries), "expected": count}
        for label, count in known.labelled.items()
    }
    for label, numbers in found.labelled.items():
        if numbers["found"] != numbers["expected"]:
            found.problems.append(f"{numbers['found']} tracks have {label}, and {numbers['expected']} are published.")
    listed_in_all = len(entries)
    least = round(known.total * ABOUT) if known.total and known.about else known.total
    if known.total and least and not least <= listed_in_all <= known.total + known.total - least:
        found.problems.append(
            f"{listed_in_all} recordings are listed, and {'about ' * known.about}{known.total} are published."
        )
    _count_classes(known, entries, whole, found)


def _count_classes(known: Corpus, entries: list[Entry], whole: list[Entry], found: Findings) -> None:
    for label, count in known.classes.items():
        names = {name for entry in entries for name in _names(entry.labels.get(label))}
        if names and len(names) != count:
            found.problems.append(f"{label} has {len(names)} classes here, and {count} are published.")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in whole:
        counts[entry.split or "unused"].update(_names(entry.labels.get(known.label)))
        counts["all"].update(_names(entry.labels.get(known.label)))
    for part, held in counts.items():
        expected = known.per_class.get(part, {})
        found.classes[part] = {
            name: {"found": held[name], "expected": expected.get(name)} for name in sorted({*held, *expected})
        }
        lost = Counter(
            name
            for entry in entries
            if entry.key in known.faulty and part in (entry.split, "all")
            for name in _names(entry.labels.get(known.label))
        )
        wrong = [name for name, count in expected.items() if not count - lost[name] <= held[name] <= count]
        if wrong:
            more = f" ({len(wrong)} classes differ)" if len(wrong) > 1 else ""
            found.problems.append(
                f"{part}: {held[wrong[0]]} tracks of {wrong[0]}, and {expected[wrong[0]]} are published{more}."
            )


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(name) for name in value] if isinstance(value, (list, tuple)) else [str(value)]


def _find_duplicates(known: Corpus, whole: list[Entry], facts: dict[str, Facts], found: Findings) -> None:
    same: dict[str, list[Entry]] = defaultdict(list)
    for entry in whole:
        same[facts[entry.path].hash].append(entry)
    for group in same.values():
        if len(group) > 1:
            sets = sorted({str(entry.split) for entry in group if entry.split})
            found.duplicates.append({"files": [entry.path for entry in group], "sets": sets})
    across = [group for group in found.duplicates if len(group["sets"]) > 1]
    if across:
        first = " and ".join(across[0]["files"][:2])
        found.notes.append(f"{len(across)} groups of files with the same bytes are in several sets, {first} for one.")


def _check_sums(known: Corpus, root: Path, entries: list[Entry], facts: dict[str, Facts], found: Findings) -> None:
    for item in known.checksums:
        found.checksums[item.path] = _sum_of(root, item)
    wrong = [path for path, state in found.checksums.items() if state == "differs"]
    if wrong:
        found.problems.append(f"{wrong[0]} isn't the published file: its checksum differs. {known.source}")
    bad = _differing(known, root, [entry.path for entry in entries if entry.path in facts], found)
    for entry in entries:
        file = root / entry.md5 if entry.md5 else None
        if file is None or not file.is_file() or entry.path not in facts:
            continue
        published = file.read_text(encoding="utf-8", errors="replace").split()
        good = bool(published) and digest_of(root / entry.path, hashlib.md5(usedforsecurity=False)) == published[0]
        found.checksums[entry.path] = "as published" if good else "differs"
        if not good:
            bad.append(entry.path)
    if bad:
        found.problems.append(f"{len(bad)} audio files differ from their published checksum, {bad[0]} is the first.")


def _differing(known: Corpus, root: Path, paths: list[str], found: Findings) -> list[str]:
    """Audio whose digest isn't that of a published list. Lists name it by its last folder and file."""
    by_end = {"/".join(Path(path).parts[-2:]): path for path in paths}
    bad = []
    for pattern, method in known.lists:
        for file in sorted(root.glob(pattern)):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                digest, _, name = line.strip().partition(" ")
                path = by_end.get("/".join(Path(name.strip(" *")).parts[-2:]))
                if path is None or path in found.checksums:
                    continue
                good = digest_of(root / path, hashlib.new(method, usedforsecurity=False)) == digest
                found.checksums[path] = "as published" if good else "differs"
                bad += [] if good else [path]
    return bad


def _sum_of(root: Path, item: Checksum) -> str:
    if not (root / item.path).is_file():
        return "absent"
    digest = digest_of(root / item.path, hashlib.new(item.method, usedforsecurity=False))
    return "as published" if digest.startswith(item.digits) else "differs"


def _check_artists(known: Corpus, whole: list[Entry], found: Findings) -> None:
    """A split that promises that no artist is in two sets must keep it."""
    for name in known.separate:
        homes: dict[str, set[str]] = defaultdict(set)
        for entry in whole:
            part = entry.split_of(name)
            if part is not None and entry.artist:
                homes[entry.artist].add(part)
        straddling = sorted(artist for artist, parts in homes.items() if len(parts) > 1)
        if straddling:
            found.problems.append(f"{name}: {len(straddling)} artists are in several sets, {straddling[0]} for one.")


def as_json(known: Corpus, found: Findings) -> str:
    """Everything, for other programs."""
    about = {"title": known.title, "home": known.home, "source": known.source, "licence": known.licence}
    return json.dumps({"ok": found.ok, **about, **asdict(found)}, indent=1, ensure_ascii=False)


def names_as_json() -> str:
    """The corpora that can be read: [[name, what is said of it]]."""
    return json.dumps([line.split(maxsplit=1) for line in corpora.listed()], indent=1, ensure_ascii=False)


def show(known: Corpus, found: Findings) -> None:
    """The findings as tables and sentences."""
    console = Console()
    console.print(f"[bold]{known.title}[/] in {found.root}", highlight=False)
    table = _table("split", "set", "found", "expected")
    for split, parts in found.sets.items():
        for part, numbers in parts.items():
            table.add_row(split, part, *_figures(numbers))
    console.print(table)
    _show_classes(console, known, found)
    _list(console, "missing", found.missing)
    _list(console, "not used by the benchmark", found.extra)
    _list(console, "unreadable", [f"{path}: {why}" for path, why in found.unreadable.items()])
    _list(console, "cut short", [f"{path}: {why}" for path, why in found.truncated.items()])
    _list(console, "same bytes", [" = ".join(group["files"]) for group in found.duplicates])
    sums = Counter(found.checksums.values())
    if sums["as published"] or sums["differs"]:
        console.print(f"checksums: {sums['as published']} as published, {sums['differs']} differ", highlight=False)
    for note in found.notes:
        console.print(f"note: {note}", style="dim", highlight=False, markup=False)
    console.print(f"from: {known.source}\nlicence: {known.licence}", style="dim", highlight=False, markup=False)
    for problem in found.problems:
        console.print(f"✗ {problem}", style="red", highlight=False, markup=False)
    if found.ok:
        console.print("✓ The benchmark can be run on this copy.", style="green", highlight=False)


def _show_classes(console: Console, known: Corpus, found: Findings) -> None:
    parts = [part for part in ("train", "valid", "test") if part in found.classes] or [*found.classes][:1]
    names = sorted({name for part in parts for name in found.classes[part]})
    if not names:
        return
    table = _table(known.label, *parts)
    for name in names[:CLASSES]:
        pairs = [_figures(found.classes[part].get(name, {"found": 0, "expected": None})) for part in parts]
        table.add_row(name, *(held if wanted in (held, "–") else f"{held} of {wanted}" for held, wanted in pairs))
    console.print(table)
    if len(names) > CLASSES:
        console.print(f"… and {len(names) - CLASSES} more (--json lists all)", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("split", "set", columns[0]) else "right")
    return table


def _figures(numbers: dict[str, int | None]) -> tuple[str, str]:
    found, expected = numbers["found"], numbers["expected"]
    return f"{found:,}", "–" if expected is None else f"{expected:,}"


def _list(console: Console, title: str, names: Sequence[str]) -> None:
    if names:
        more = f"\n  … and {len(names) - SHOWN} more (--json lists all)" if len(names) > SHOWN else ""
        lines = "\n  ".join(names[:SHOWN])
        console.print(f"{title}: {len(names)}\n  {lines}{more}", highlight=False, markup=False)
