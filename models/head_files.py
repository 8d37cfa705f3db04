"""Heads folders: fitted heads beside what must be known to use them, as safetensors and JSON, without pickle.

FOLDER/NAME.safetensors    a head's weights
FOLDER/NAME.json           its settings (`HeadConfig`) and facts (`HeadFacts`)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..reading import json_of
from .heads import Head, HeadConfig
from .writing import written

FORMAT = "groundbass-head"
VERSION = 1
Aggregation = Literal["moments", "logits", "probabilities"]
AGGREGATIONS = ("moments", "logits", "probabilities")


@dataclass(frozen=True)
class HeadFacts:
    """What a head was fitted on, and how its answers become a track's.

    window_seconds: longest stretch that the encoder hears at a time. stretch_seconds: longest stretch that the head
        judges at a time (unit "window"); None: the whole track. Tracks are cut into the fewest equal ones.
    unit: "clip", "window" or "frame", what an answer is about.
    aggregation: what is averaged over windows: `moments` of frames, `logits` (of numbers: values) or `probabilities`.
    thresholds: per name, above which a tag holds; empty: 0.5.
    decoder: for beats and chords, {"name": "peaks" | "tracker" | "viterbi" | "threshold", …its settings}; of
        beats, "bars" may name a head of chords on the same encoder, whose changes say where bars begin.
    encoder: where the encoder was (a path or a Hub name); encoder_hash: of its weights; task: name, question,
        fingerprint; scores: metric → value on the test set; licence: of the labels, where known.
    """

    window_seconds: float = 10.0
    stretch_seconds: float | None = None
    unit: Literal["clip", "window", "frame"] = "clip"
    aggregation: Aggregation = "moments"
    thresholds: tuple[float, ...] = ()
    decoder: dict[str, Any] = field(default_factory=dict)
    encoder: str = ""
    encoder_hash: str = ""
    task: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    licence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        wrong = [value for value in self.thresholds if not 0 <= value <= 1]
        if wrong:
            raise ValueError(f"A threshold is a probability from 0 to 1, not {wrong[0]}.")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"There is no aggregation {self.aggregation!r}; there is {', '.join(AGGREGATIONS)}.")
        if not self.window_seconds > 0 or (self.stretch_seconds is not None and not self.stretch_seconds > 0):
            raise ValueError(f"Windows are longer than 0 s, not {self.window_seconds} and {self.stretch_seconds}.")


def write_head(folder: str | Path, name: str, head: Head, facts: HeadFacts) -> Path:
    """Write one head; written beside and renamed, the JSON last, so that what can be read is whole.

    folder: is made if need be; heads of other names in it stay. name: a file name without an ending.
    Returns the path of its JSON.
    """
    if not name or Path(name).name != name or name.startswith("."):
        raise ValueError(f"{name!r} can't be a head's name: it becomes a file's name, without folders.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()}
    with written(folder / f"{name}.safetensors") as part:
        save_file(weights, part)
    content = {"format": FORMAT, "version": VERSION, "head": head.config.to_dict(), "facts": asdict(facts)}
    with written(folder / f"{name}.json") as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return folder / f"{name}.json"


def read_head(folder: str | Path, name: str) -> tuple[Head, HeadFacts]:
    """The head `name` of a folder, in evaluation mode, and its facts.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or of a newer version.
    """
    place = Path(folder) / f"{name}.json"
    if not place.is_file():
        known = ", ".join(head_names(folder)) or "none"
        raise FileNotFoundError(f"There is no head {name!r} in {folder}; there is {known}.")
    content = _read(place)
    if content is None:
        raise ValueError(f"{place} describes no head; write the folder again with `groundbass probe`.")
    if content.get("version", 0) > VERSION:
        raise ValueError(f"{place} was written by a newer version ({content['version']}, here {VERSION}): update.")
    head = HeadConfig.from_dict(content["head"]).build().eval()
    known_facts = {entry.name for entry in fields(HeadFacts)}
    facts = HeadFacts(**{key: value for key, value in content["facts"].items() if key in known_facts})
    try:
        weights = load_file(place.with_suffix(".safetensors"))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"The weights beside {place} are missing or damaged ({error}); write them again.") from error
    ours = head.state_dict()
    wrong = sorted(set(ours) ^ set(weights)) or [key for key in ours if ours[key].shape != weights[key].shape]
    if wrong:
        raise ValueError(f"The weights beside {place} don't fit its settings ({wrong[0]}): write the folder again.")
    head.load_state_dict(weights)
    return head, facts


def head_names(folder: str | Path) -> list[str]:
    """The names of the heads in a folder, in their order; none where it is no heads folder."""
    return [path.stem for path in sorted(Path(folder).glob("*.json")) if _read(path) is not None]


def read_heads(folder: str | Path) -> Mapping[str, tuple[Head, HeadFacts]]:
    """All heads of a folder by name.

    Raises:
        FileNotFoundError: it holds none.
    """
    names = head_names(folder)
    if not names:
        raise FileNotFoundError(f"{folder} holds no heads; `groundbass probe ENCODER TASK` writes some.")
    return {name: read_head(folder, name) for name in names}


def _read(path: Path) -> dict[str, Any] | None:
    """What a head's JSON says; None for any other file."""
    try:
        content = json_of(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None
