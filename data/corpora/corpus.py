"""What is known of a corpus before its audio is opened: its source, its splits, and an entry per recording."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Entry:
    """A recording as the annotations name it.

    key: unique in its corpus and the same in every layout. path: where its audio is or should be, relative to the root.
    split: "train", "valid", "test", or None for a recording that the benchmark leaves out. labels: as in `Track`.
    md5: the file, relative to the root, that publishes the audio's MD5, where there is one.
    """

    key: str
    path: str
    split: str | None = None
    artist: str | None = None
    labels: dict[str, Any] = field(default_factory=dict)
    md5: str | None = None

    def split_of(self, label: str) -> str | None:
        """Its set in one of the corpus's splits: `split`, or the label that holds another one."""
        return self.split if label == "split" else self.labels.get(label)


@dataclass(frozen=True)
class Checksum:
    """A published digest of a file that may lie in the root, or the first digits of one."""

    path: str
    method: str
    digits: str


@dataclass(frozen=True)
class Corpus:
    """A benchmark's data set.

    source: where to get it, in a sentence. licence: what is allowed. layout: what the root should hold.
    read: root -> entries, from the annotations alone; raises FileNotFoundError or ValueError in a sentence.
    expected: {split label: {set: tracks}} as published; a split whose sizes aren't published has an empty dict.
    labelled: {label: tracks that have it}. classes: {label: number of different values}. label: the one that the
    benchmark asks for. per_class: {set: {class: tracks}}, where published. total: recordings that the annotations list;
    about: whether that is a round figure.
    faulty: keys of files that are known to be unreadable in one of the circulating copies.
    separate: splits that promise that no artist is in two sets. checksums: of archives and annotation files. lists:
    (files in the root, method): published lists of the audio's digests, a digest and a path per line.
    known: what a reader of scores should know.
    """

    name: str
    title: str
    home: str
    source: str
    licence: str
    layout: str
    read: Callable[[Path], list[Entry]]
    label: str
    expected: Mapping[str, Mapping[str, int]]
    labelled: Mapping[str, int] = field(default_factory=dict)
    classes: Mapping[str, int] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    total: int | None = None
    about: bool = False
    faulty: frozenset[str] = frozenset()
    separate: tuple[str, ...] = ()
    checksums: tuple[Checksum, ...] = ()
    lists: tuple[tuple[str, str], ...] = ()
    known: tuple[str, ...] = ()
