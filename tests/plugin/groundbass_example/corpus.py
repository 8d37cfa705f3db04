"""A corpus of numbered files, half of them loud, and the question which."""

from pathlib import Path

from groundbass.data.corpora import Corpus, Entry
from groundbass.probe.task import Question


def entries(root: Path) -> list[Entry]:
    """Files 0.wav, 1.wav, …: the even ones are loud; eight train, four validate, four test."""
    sides = ["train"] * 8 + ["valid"] * 4 + ["test"] * 4
    return [
        Entry(str(n), f"{n}.wav", side, f"artist {n}", {"level": "quiet" if n % 2 else "loud"})
        for n, side in enumerate(sides)
    ]


CORPUS = Corpus(
    name="example",
    title="Loud and quiet",
    home="https://example.org",
    source="Make it.",
    licence="CC0",
    layout="The root should hold 0.wav to 15.wav.",
    read=entries,
    label="level",
    expected={"split": {"train": 8, "valid": 4, "test": 4}},
)

TASK = Question("example_loud", 1, "example", "classes", ("level",), "Is it loud?")
