"""Tasks from manifests and folders: the split that a table asks for, disjoint sets, labels that don't fit."""

import csv

import numpy as np
import pytest

from groundbass.data.audio import read as audio
from groundbass.data.labels.lookup import guess
from groundbass.data.labels.splits import grouped, official, rotating, split
from groundbass.data.track import Manifest, Track
from groundbass.probe.addresses import available, find_tasks, questions
from groundbass.probe.task import describe

HERE = np.ones(30, bool)


def disjoint(folds, rows):
    for fold in folds:
        sets = [set(part.tolist()) for part in (fold.train, fold.valid, fold.test)]
        assert all(sets) and not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
        assert sets[0] | sets[1] | sets[2] == rows


def test_folds_rotate_and_every_track_is_tested_once():
    names = [row % 5 for row in range(30)]
    folds, notes = rotating(names, [None] * 30, HERE)
    disjoint(folds, set(range(30)))
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(30))
    for k, fold in enumerate(folds):
        assert {names[row] for row in fold.test} == {k} and {names[row] for row in fold.valid} == {(k + 1) % 5}
    assert "5 folds" in notes[0]
    _, notes = rotating(names, ["one artist"] * 30, HERE)
    assert "1 artists have tracks in several folds" in notes[1]
    with pytest.raises(ValueError, match="at least 3"):
        rotating([0, 1] * 15, [None] * 30, HERE)


@pytest.mark.parametrize("artists", [3, 7, 30])
def test_groups_never_straddle(artists):
    groups = [f"artist {row % artists}" for row in range(30)]
    for seed in range(5):
        folds = grouped(groups, HERE, seed)
        disjoint(folds, set(range(30)))
        homes = [{groups[row] for row in part} for part in (folds[0].train, folds[0].valid, folds[0].test)]
        assert not (homes[0] & homes[1] or homes[0] & homes[2] or homes[1] & homes[2])
    assert grouped(groups, HERE, 1)[0].test.tolist() == grouped(groups, HERE, 1)[0].test.tolist()


def test_columns_take_precedence_split_fold_artist_random():
    splits = ["train"] * 20 + ["validation"] * 5 + ["test"] * 5
    nothing = [None] * 30
    folds, notes = split(splits, list(range(30)), ["a"] * 30, HERE)
    assert folds[0].valid.tolist() == list(range(20, 25)) and notes == []
    assert "folds" in split(nothing, [row % 3 for row in range(30)], ["a"] * 30, HERE)[1][0]
    assert "by artist" in split(nothing, nothing, [str(row % 9) for row in range(30)], HERE)[1][0]
    assert "at random" in split(nothing, nothing, nothing, HERE)[1][0]
    _, notes = official(["train"] * 20 + ["test"] * 10, HERE)
    assert "fifth" in notes[0]
    with pytest.raises(ValueError, match="no labelled track for valid and test"):
        official(["train"] * 30, HERE)
    unlabelled = HERE.copy()
    unlabelled[3] = False
    disjoint(split(nothing, nothing, nothing, unlabelled)[0], set(range(30)) - {3})


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["rock", "pop", None], "classes"),
        ([1, 2, 3, 1], "classes"), ([0.5, 1.25, 3.0], "numbers"),
        (["0.5", "2"], "numbers"),
        (list(range(40)), "numbers"), (["rock|slow", "pop"], "tags"), ([["rock"], ["pop", "slow"]], "tags"),
    ],
)  # fmt: skip
def test_kind_is_guessed(values, kind):
    assert guess(values).name == kind


@pytest.fixture
def folder(tmp_path):
    """Twelve notes in a folder, and a function that writes its labels.csv."""
    for number in range(12):
        sound = 0.3 * np.sin(2 * np.pi * (200 + 30 * number) * np.arange(4000) / 8000)
        audio.write(tmp_path / f"{number}.wav", sound.astype(np.float32), 8000)

    def write(**columns):
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(columns)
            table.writerows(zip(*columns.values()))
        return f"folder:{tmp_path}"

    return write


PATHS = [f"{number}.wav" for number in range(12)]


def test_folder_reads_labels_and_remembers_the_scan(folder, tmp_path, monkeypatch):
    address = folder(
        path=PATHS, mood=["calm", "wild"] * 6, artist=list("aabbccddeeff"), level=[n / 7 for n in range(12)]
    )
    mood, level = find_tasks(address, ["mood", "level:number"], tmp_path / "store")
    assert (mood.kind, mood.classes, mood.metric) == ("classes", ("calm", "wild"), "accuracy")
    assert (level.kind, level.metric) == ("numbers", "r2")
    assert (
        mood.grouped
        and any("by artist" in note for note in mood.notes)
        and any("guessed" in note for note in mood.notes)
    )
    monkeypatch.setattr("groundbass.data.labels.folder.scan_folder", None)  # a second look must not scan again
    assert find_tasks(address, ["mood"], tmp_path / "store")[0].fingerprint() == mood.fingerprint()
    assert len(find_tasks(address, ["mood", "level", "mood"], tmp_path / "store")) == 2  # each once


def test_labels_that_match_no_audio(folder):
    address = folder(path=[*PATHS[:9], "x.wav", "y.wav", "z.wav"], mood=["calm", "wild"] * 6)
    (task,) = find_tasks(address, ["mood"])
    sentences = " ".join(describe(task))
    assert "3 of 12 rows of labels.csv (25.0%) match no audio" in sentences
    assert "3 of 12 tracks (25.0%) have no label" in sentences
    with pytest.raises(ValueError, match="None of the 12 paths"):
        find_tasks(folder(path=[f"lost/{p}" for p in PATHS], mood=["calm", "wild"] * 6), ["mood"])


def test_bad_labels_are_sentences(folder):
    address = folder(path=PATHS, mood=["calm"] * 12, word=list("abcdefghijkl"))
    with pytest.raises(ValueError, match="nothing to tell apart"):
        find_tasks(address, ["mood"])
    with pytest.raises(ValueError, match="no label 'genre'"):
        find_tasks(address, ["genre"])
    with pytest.raises(ValueError, match="needs numbers"):
        find_tasks(address, ["word:number"])
    with pytest.raises(ValueError, match="chords, class, downbeats, events, key, number or tags"):
        find_tasks(address, ["mood:colour"])
    with pytest.raises(ValueError, match="needs --label"):
        find_tasks(address)
    assert "Classes of one clip" in " ".join(describe(find_tasks(address, ["word"])[0]))


def test_addresses(monkeypatch, tmp_path):
    monkeypatch.delenv("GROUNDBASS_DATA", raising=False)
    with pytest.raises(ValueError, match="synth_key"):
        find_tasks("synth_kee:x")
    with pytest.raises(ValueError, match="GROUNDBASS_DATA"):
        find_tasks("synth_key")
    with pytest.raises(FileNotFoundError, match="groundbass data synth"):
        find_tasks(f"synth:{tmp_path}")
    monkeypatch.setenv("GROUNDBASS_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="synth"):
        find_tasks("synth_key")
    for name, question in questions().items():
        assert question.name == name and question.question.endswith("?")


def test_a_changed_label_or_clip_changes_the_fingerprint(tmp_path):
    def tasks(key="C major", name="h0"):
        tracks = [
            Track(
                f"{n}.wav",
                f"{n}.wav",
                100,
                100,
                1,
                name if n == 0 else f"h{n}",
                ("train", "valid", "test")[n % 3],
                None,
                {"part": "music", "key": key if n == 1 else "D minor"},
            )
            for n in range(9)
        ]
        return questions()["synth_key"].meet(Manifest.from_tracks(tracks, tmp_path), "x").fingerprint()

    assert tasks() == tasks()
    assert len({tasks(), tasks(key="C# major"), tasks(name="other")}) == 3


VALUES = {  # a value of every label that the tasks read, by the number of a track
    "tags": lambda n: ["rock", "slow"][: n % 3],
    "beats": lambda n: [0.1 * n, 0.5 + 0.1 * n],
    "downbeats": lambda n: [0.1 * n],
    "chords": lambda n: [{"start": 0.0, "end": 1.0, "label": "C:maj" if n % 2 else "A:min"}],
    "key": lambda n: ("C major", "F# minor")[n % 2],
    **dict.fromkeys(("top50", "genre", "instrument", "moodtheme"), lambda n: ["x", "y"][: 1 + n % 2]),
    **dict.fromkeys(("arousal", "valence", "tempo"), lambda n: 60.0 + n),
    **dict.fromkeys(("pitch",), lambda n: 60 + n % 2),
}


@pytest.mark.parametrize("name", questions())
def test_every_question_meets_a_corpus_of_its_kind(name, tmp_path):
    """Kind, split and labels fit together; tracks without label or part are left out and counted."""
    question = questions()[name]
    single = question.kind == "classes"
    tracks = []
    for n in range(30):
        labels = {}
        for label in question.label:
            value = VALUES.get(label, lambda n: "ab"[n % 2])(n)
            labels[label] = "ab"[n % 2] if single and isinstance(value, list) else value
        if n == 29:
            labels = {}
        side = ("train", "valid", "test", None)[n % 4]
        if question.split != "split" and side is not None:
            labels[question.split] = side
        if question.folds is not None and side is not None:
            labels[question.folds] = ("train", "valid", "test").index(side)
        labels["part"] = question.part or "other"
        tracks.append(Track(f"{n}", f"{n}", 8000, 8000, 1, f"h{n}", side, None, labels))
    task = question.meet(Manifest.from_tracks(tracks, tmp_path), f"{name}:here")
    fold = task.folds[-1]  # of three where each tests once
    assert len(task.folds) == (1 if question.folds is None else 3) and len(task.manifest) == 22
    sizes = [len(part) for part in (fold.train, fold.valid, fold.test)]
    assert sizes == ([8, 7, 7] if question.folds is None else [7, 8, 7])
    assert any("1 of 30 tracks (3.3%) have no label" in sentence for sentence in describe(task))
    assert len(task.targets) == 22 and all(label is not None for label in task.labels)
    assert task.corpus == question.corpus and (task.seconds is not None) == (task.unit == "window")
    for systems in task.published.values():
        for figures in systems.values():
            assert task.metric in figures and all(0 < value < 1 for value in figures.values())


def test_all_lists_what_is_there_and_how_to_get_the_rest(monkeypatch, tmp_path):
    monkeypatch.setenv("GROUNDBASS_DATA", str(tmp_path))
    (tmp_path / "gtzan").mkdir()
    here, missing = available()
    assert here == ["gtzan"] and len(missing) == len({q.corpus for q in questions().values()}) - 1
    sentences = "\n".join(missing)
    assert "groundbass data synth" in sentences and "nsynth_pitch" in sentences and "CC BY 4.0" in sentences
    with pytest.raises(FileNotFoundError, match="no readable audio"):
        find_tasks("gtzan")
    for number in (0, 1, 2):
        sound = 0.3 * np.sin(np.arange(4000) * (0.1 + 0.02 * number)).astype(np.float32)
        (tmp_path / "gtzan/genres/jazz").mkdir(parents=True, exist_ok=True)
        audio.write(tmp_path / f"gtzan/genres/jazz/jazz.{number:05d}.wav", sound, 8000)
    with pytest.raises(ValueError, match="no labelled track for"):
        find_tasks("gtzan_genre")
    monkeypatch.delenv("GROUNDBASS_DATA")
    assert available()[0] == []
