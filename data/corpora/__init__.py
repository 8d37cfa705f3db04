"""The field's data sets in their official layouts, one file each: `tracks(root) -> list[Track]` and `CORPUS`.

Every reader goes in two steps: the annotations (`entries(root)`, no audio needed) and the audio's headers (`tracks`).
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from ... import plugins
from ..track import Manifest
from .corpus import Corpus, Entry
from .recordings import tracks_of

__all__ = [
    "Corpus",
    "Entry",
    "corpus",
    "listed",
    "manifest",
    "names",
    "place_of",
    "register",
    "shortfall",
    "split_address",
]


def names() -> list[str]:
    """All corpora that can be read, those of installed packages too, sorted; no package is imported for it."""
    return sorted({**_corpora(), **plugins.installed("corpora")})


def listed() -> list[str]:
    """A line for every corpus: name, title, licence; or the package that offers it, which isn't imported."""
    offered = {name: f"of {plugins.origin(entry)}" for name, entry in plugins.installed("corpora").items()}
    width = max(map(len, names()))
    ours = [f"{name:{width}}  {known.title}; {known.licence}" for name, known in sorted(_own().items())]
    return [*ours, *(f"{name:{width}}  {whence}" for name, whence in offered.items())]


def split_address(address: str) -> tuple[str, str]:
    """CORPUS:ROOT -> CORPUS, ROOT; CORPUS may be `my_corpus.py:CORPUS`, and ROOT empty. Nothing is run."""
    if (own := plugins.named(address)) is not None:
        return own.address, own.place
    name, _, root = address.partition(":")
    return name, root


def register(found: Corpus, whence: str) -> Corpus:
    """Make a corpus of a user's file, or of a package, one of those that can be named.

    Raises:
        ValueError: groundbass has another one of this name.
    """
    if found.name in _own():
        raise ValueError(f"{whence} calls its corpus {found.name!r}, as one of groundbass's: give it another name.")
    _corpora()[found.name] = found
    return found


def corpus(name: str) -> Corpus:
    """What is known of a corpus: one of ours, `my_corpus.py:CORPUS`, or one that an installed package offers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown one; the sentence names the nearest.
    """
    if (own := plugins.named(name)) is not None:
        return register(_checked(own.load(), name), name)
    known = _corpora()
    if name not in known:
        if name in plugins.installed("corpora"):
            return register(_checked(plugins.load_installed("corpora", name), name), name)
        near = get_close_matches(name, names(), 3) or names()
        raise ValueError(f"There is no corpus {name!r}. Near or known: {', '.join(near)}.")
    return known[name]


def manifest(name: str, root: str | Path, progress: bool = True) -> Manifest:
    """The corpus in `root` as a manifest: all tracks whose audio is there and readable.

    Fast from the second time on (see `recordings.tracks_of`). `shortfall` says what is missing.

    Raises:
        FileNotFoundError: it isn't there; the sentence says where to get it.
        ValueError: it isn't what it should be.
    """
    return Manifest.from_tracks(tracks_of(corpus(name), root, progress), root)


def place_of(name: str) -> Path:
    """Where a corpus lies by itself: $GROUNDBASS_DATA/NAME.

    Raises:
        ValueError: the variable isn't set.
    """
    if "GROUNDBASS_DATA" not in os.environ:
        raise ValueError(
            f"Where is the corpus {name!r}? Write {name}:PATH, or set GROUNDBASS_DATA to the folder above it."
        )
    return Path(os.environ["GROUNDBASS_DATA"]) / (corpus(name).name if plugins.named(name) else name)


def shortfall(name: str, tracks: Manifest, split: str = "split") -> list[str]:
    """Sentences for every set of a split that has other than the published number of tracks; none where all is well."""
    known = corpus(name)
    held = [track.split if split == "split" else track.labels.get(split) for track in tracks]
    return [
        f"{known.title}: the {part} set has {held.count(part)} of {count} tracks, so the score can't be compared with "
        f"published ones; `groundbass data verify {name} {tracks.root}` lists what is missing."
        for part, count in known.expected.get(split, {}).items()
        if held.count(part) != count and count - held.count(part) != _excused(known, part, tracks)
    ]


def _excused(known: Corpus, part: str, tracks: Manifest) -> int:
    """Files of this set that one of the circulating copies holds in an unreadable state, and that aren't here."""
    return len(known.faulty - {track.key for track in tracks}) if part == "train" else 0


def _checked(found: object, name: str) -> Corpus:
    if not isinstance(found, Corpus):
        raise ValueError(f"{name} is no corpus but a {type(found).__name__}: name a groundbass.data.corpora.Corpus.")
    return found


@cache
def _corpora() -> dict[str, Corpus]:
    """Those that are known so far: ours, and what was registered."""
    return dict(_own())


@cache
def _own() -> dict[str, Corpus]:
    found: dict[str, Corpus] = {}
    for module in pkgutil.iter_modules(__path__):
        loaded = importlib.import_module(f"{__name__}.{module.name}")
        single = (loaded.CORPUS,) if hasattr(loaded, "CORPUS") else ()
        for item in getattr(loaded, "CORPORA", single):
            found[item.name] = item
    return found
