"""`groundbass models`: the encoders that ship, those that packages offer, and the published ones that can be read."""

from __future__ import annotations

import json as text
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import plugins
from .card import LICENSES

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Known:
    """An encoder or classifier that can be named, or had. scores: what was measured of it, in words."""

    name: str
    what: str
    how: str
    licence: str
    scores: str = "not published here"


READ = (
    Known("CLMR, v1 and v2", "SampleCNN, MagnaTagATune", "groundbass import FILE OUT", LICENSES["CLMR"]),
    Known(
        "MERT-v0, -v1 (95M, 330M)",
        "masked transformer, 24 kHz",
        'load_encoder("m-a-p/MERT-v1-95M"), or import',
        LICENSES["MERT"],
    ),
    Known(
        "BEATs, iterations 1 to 3", "patches, AudioSet", 'load_encoder("BEATs_iter3.pt"), or import', LICENSES["BEATs"]
    ),
    Known(
        "nine music taggers (Won et al. 2020)",
        "MTAT, MSD, Jamendo",
        "groundbass import FILE OUT --labels mtat",
        LICENSES["music taggers"],
    ),
    Known("PANNs: Cnn6, Cnn10, Cnn14 …", "AudioSet tagging", "groundbass import FILE OUT", LICENSES["PANNs"]),
    Known(
        "AST, HTS-AT",
        "AudioSet, ESC-50, Speech Commands",
        "groundbass import FILE OUT",
        f"{LICENSES['AST']}, {LICENSES['HTS-AT']}",
    ),
    Known(
        "wav2vec 2.0, HuBERT, WavLM, data2vec, …",
        "any audio model of transformers",
        "load_encoder(HUB NAME)",
        "see its card",
    ),
)
"""What `groundbass import` and `load_encoder` read, with the licence of the weights as their authors publish them."""


def known() -> Iterator[Known]:
    """Everything, what ships first; packages are named, not imported."""
    for folder in sorted(SHIPPED.iterdir()):
        if (folder / "config.json").is_file():
            yield _shipped(folder)
    for name, entry in plugins.installed("encoders").items():
        see = "see the package"
        yield Known(name, f"of {plugins.origin(entry)}", f"load_encoder({name!r})", see, see)
    yield from READ


def _shipped(folder: Path) -> Known:
    name = folder.name.replace("_", "-")
    heads, licences, accuracies = [], set(), []
    for file in sorted(folder.glob("*.json")):
        facts = text.loads(file.read_text(encoding="utf-8")).get("facts")
        if facts:
            heads.append(file.stem)
            licences.add(facts["licence"])
            accuracies += [f"{key.removeprefix('corpus_')} {value:.2f}" for key, value in facts["scores"].items()]
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    said = [f"accuracy {', '.join(accuracies)} on the embedded corpus's test clips"] if accuracies else []
    said += _of_card(folder / "README.md", name)
    about = f"{size:.1f} MB; heads {', '.join(heads)}"
    return Known(name, about, f"load_encoder({name!r})", ", ".join(sorted(licences)), "; ".join(said) or Known.scores)


def _of_card(card: Path, name: str) -> list[str]:
    """The rows of the card's tables whose first column of figures is the encoder's: what, and its value."""
    found, ours = [], False
    for line in card.read_text(encoding="utf-8").splitlines() if card.is_file() else ():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        ours = len(cells) > 1 and (cells[1] == name or ours)
        if ours and cells[0].strip("-:"):
            found.append(f"{cells[0]} {cells[1]}")
    return [f"on recordings that it never met: {'; '.join(found)}"] if found else []


def models(*, json: bool = False) -> None:
    """List the encoders that ship, those of installed packages, and the published ones that can be read.

    Nothing is loaded or looked up elsewhere.

    Args:
        json: print JSON and nothing else.
    """
    found = list(known())
    if json:
        print(text.dumps([asdict(one) for one in found], indent=1, ensure_ascii=False))
        return
    for one in found:
        print(f"{one.name}\n    {one.what}; licence {one.licence}\n    {one.how}")
        print(f"    scores: {one.scores}")
