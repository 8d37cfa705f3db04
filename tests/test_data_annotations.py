"""Readers against the published annotation files themselves, where $GROUNDBASS_ANNOTATIONS says where they lie.

It should hold gtzan/*_filtered.txt, gtzan_beats/beats, giantsteps_key/annotations/key, giantsteps_mtg_key/*.txt and
mtg_jamendo/autotagging_moodtheme-*.tsv; what is missing is passed over. The files are read here by plain splitting.
"""

import hashlib
import os
from collections import Counter
from pathlib import Path

import pytest

from groundbass.data.corpora import corpus, giantsteps_key, giantsteps_mtg_key, gtzan, gtzan_beats, mtg_jamendo

FLATS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}


@pytest.fixture
def published(request):
    """The folder of one corpus."""
    folder = Path(os.environ.get("GROUNDBASS_ANNOTATIONS", "/nonexistent")) / request.param
    if not folder.is_dir():
        pytest.skip(f"no {request.param} in $GROUNDBASS_ANNOTATIONS")
    return folder


def of(name):
    return pytest.mark.parametrize("published", [name], indirect=True)


def cells(file):
    lines = file.read_bytes().decode().split("\n")
    return [line.rstrip("\r").split("\t") for line in lines if line.strip()]


@of("gtzan")
def test_the_shipped_split_is_that_of_the_lists(published, tmp_path):
    listed = {
        line.strip().partition("/")[2].removesuffix(".wav"): part
        for part, file in gtzan.LISTS.items()
        for line in (published / file).read_text().split()
    }
    assert Counter(listed.values()) == {"train": 443, "valid": 197, "test": 290}
    for root in (tmp_path, published):  # the lists aren't in the first
        entries = gtzan.entries(root)
        assert {entry.key: entry.split for entry in entries if entry.split} == listed
        per_class = Counter((entry.split, entry.labels["genre"]) for entry in entries if entry.split)
        assert per_class == {(p, g): n for p, classes in gtzan.CORPUS.per_class.items() for g, n in classes.items()}


@of("gtzan_beats")
def test_beats(published):
    entries = gtzan_beats.entries(published)
    assert len(entries) == 999 and sum(entry.split is not None for entry in entries) == 930
    without = [entry for entry in entries if "downbeats" not in entry.labels]
    assert [entry.key for entry in without] == [f"jazz.000{n}" for n in ("03", "09", "10", "14", "18", "20")]
    assert sum(len(entry.labels["beats"]) for entry in without) == 276
    for entry in entries:
        rows = cells(published / f"beats/gtzan_{entry.key.replace('.', '_')}.beats")
        assert entry.labels["beats"] == [float(row[0]) for row in rows]
        if "downbeats" in entry.labels:
            assert entry.labels["downbeats"] == [float(row[0]) for row in rows if float(row[1]) == 1]


@of("giantsteps_mtg_key")
def test_giantsteps_mtg(published):
    artists = {
        row[0]: [part.strip() for part in row[1].split(",")] for row in cells(published / "beatport_metadata.txt")
    }
    artists.pop("ID")
    names = {part for row in artists.values() for part in row}
    valid = {part for part in names if int(hashlib.sha1(part.lower().encode()).hexdigest(), 16) % 116 >= 100}
    for _ in range(2):
        for row in artists.values():
            if valid & set(row):
                valid |= set(row)
    expected = {}
    for track, key, sure in cells(published / "annotations.txt")[1:]:
        if sure.strip() == "2" and "/" not in key:
            tonic, mode = key.split()
            expected[track] = (valid.isdisjoint(artists[track]), f"{FLATS.get(tonic, tonic)} {mode}")
    entries = giantsteps_mtg_key.entries(published)
    found = {entry.key.partition("/")[2]: (entry.split == "train", entry.labels["key"]) for entry in entries}
    assert found == expected
    assert Counter(entry.split for entry in entries) == {"train": 923, "valid": 236}
    for part in ("train", "valid"):
        assert Counter(e.labels["key"] for e in entries if e.split == part) == giantsteps_mtg_key.PER_KEY[part]


@of("giantsteps_key")
def test_giantsteps(published):
    expected = {
        file.name.partition(".")[0]: file.read_text().strip() for file in (published / "annotations/key").iterdir()
    }
    entries = [entry for entry in giantsteps_key.entries(published) if entry.split == "test"]
    assert {entry.key.partition("/")[2]: entry.labels["key"] for entry in entries} == expected
    assert len(entries) == 604 and sum("minor" in key for key in expected.values()) == 511
    assert Counter(expected.values()) == corpus("giantsteps_key").per_class["test"]


@of("mtg_jamendo")
def test_moods_and_themes(published):
    expected = {}
    for part, stem in mtg_jamendo.PARTS.items():
        for row in cells(published / f"autotagging_moodtheme-{stem}.tsv")[1:]:
            expected[row[0]] = (part, row[1], [tag.removeprefix("mood/theme---") for tag in row[5:]])
    entries = mtg_jamendo.entries(published)
    assert {e.key: (e.split, e.artist, e.labels["moodtheme"]) for e in entries} == expected
    assert Counter(entry.split for entry in entries) == {"train": 9949, "valid": 3802, "test": 4231}
    assert len({tag for _, _, tags in expected.values() for tag in tags}) == 56
    artists = {part: {e.artist for e in entries if e.split == part} for part in ("train", "valid", "test")}
    assert {part: len(names) for part, names in artists.items()} == {"train": 874, "valid": 307, "test": 327}
    assert not artists["train"] & artists["test"] and not artists["train"] & artists["valid"]
