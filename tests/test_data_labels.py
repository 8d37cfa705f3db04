"""Kinds of labels: files beside audio, rows with onsets, events by hand, a stranger's kind from folder to page."""

import csv
import json
import sys

import numpy as np
import pytest

from groundbass.data.audio import read as audio
from groundbass.data.labels import kinds as kinds_folder
from groundbass.data.labels.annotations import read_annotation
from groundbass.data.labels.folder import read_folder
from groundbass.data.labels.kind import FrameAnswers, best_thresholds
from groundbass.data.labels.kinds.events import onset_offset_f, segment_f
from groundbass.data.labels.kinds.tags import parted
from groundbass.data.labels.lookup import guess, kind_of, kinds, metric_name
from groundbass.models.head_files import read_head
from groundbass.models.heads import HEADS, ClassesHead
from groundbass.pretrain.objectives.parts.label_targets import LabelTask, targets_of
from groundbass.probe.addresses import find_tasks
from groundbass.probe.apply.classify import Classifier, OnEncoder
from groundbass.probe.apply.predict import Options, write_results
from groundbass.probe.apply.predict_page import write_page
from groundbass.probe.baselines.simple import LogMelBaseline
from groundbass.probe.evaluation import Settings
from groundbass.probe.listen.features import FeatureStore
from groundbass.probe.report.command import report
from groundbass.probe.session import Session

TOY = '''
"""How hard a piece is, from 1 on: wrong by one step is half right."""
import numpy as np
from groundbass.data.labels.kinds.classes import Classes

class Grade(Classes):
    name = "grade"
    words = ("grade",)
    metrics = {"near": "right or half right", "accuracy": "accuracy"}
    related = True
    rank = 200
    jams = "grade_open"

    def jams_value(self, name):
        return f"grade {name}"

    def gains(self, names):
        steps = np.abs(np.subtract.outer([int(n) for n in names], [int(n) for n in names]))
        return np.clip(1 - steps / 2, 0, 1)

    def measure(self, truth, guess, names):
        near = self.gains(names)[truth, guess.argmax(1)]
        return {"near": float(near.mean()), **super().measure(truth, guess, names)}

KIND = Grade()
'''


class GradeHead(ClassesHead):
    """The kind's other side."""

    kind = "grade"


def write_tones(folder, number, seconds=0.5):
    for row in range(number):
        sound = 0.3 * np.sin(2 * np.pi * (200 + 150 * row) * np.arange(round(8000 * seconds)) / 8000)
        audio.write(folder / f"{row}.wav", sound.astype(np.float32), 8000)


def write_table(folder, rows):
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def grades(tmp_path, monkeypatch):
    """One file in data/labels/kinds and one class in models/heads."""
    place = tmp_path / "kinds"
    place.mkdir()
    (place / "grade.py").write_text(TOY)
    monkeypatch.setattr(kinds_folder, "__path__", [*kinds_folder.__path__, str(place)])
    monkeypatch.setitem(HEADS, "grade", GradeHead)
    kinds.cache_clear()
    yield
    sys.modules.pop(f"{kinds_folder.__name__}.grade", None)
    kinds.cache_clear()


def test_a_new_kind_is_one_file_on_each_side(grades, tmp_path):
    """Found, named, learned, measured, drawn, kept; nothing else knows of it."""
    music = tmp_path / "music"
    music.mkdir()
    write_tones(music, 24)
    split = ["train", "train", "valid", "test"]
    write_table(music, [["path", "level", "split"], *[[f"{n}.wav", 1 + n // 8, split[n % 4]] for n in range(24)]])
    (task,) = find_tasks(f"folder:{music}", ["level:grade"], tmp_path / "store")
    assert (task.kind, task.classes, task.metric) == ("grade", ("1", "2", "3"), "near")
    out = tmp_path / "out"
    (record,) = Session(
        LogMelBaseline(),
        "log-mel",
        out,
        FeatureStore(tmp_path / "store", quiet=True),
        Settings(baselines=("constant",)),
    ).run([task])
    assert record.metric_name == "right or half right" and record.confusion.classes == ("1", "2", "3")
    assert record.baselines["constant"].score.value == pytest.approx(4 / 6)  # 2: half of 1 and 3, all of 2
    assert record.score.value > 0.8  # pitch rises with the grade
    report((out,), out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "right or half right" in page and "music_level" in page
    head, facts = read_head(out / "heads", "music_level")  # and whoever asks the head asks the kind
    classifier = Classifier(OnEncoder(LogMelBaseline(), [("level", head, facts)]), "graded")
    heard = {str(music / f"{n}.wav"): classifier.hear(music / f"{n}.wav") for n in (0, 23)}
    low, high = (found["level"] for found in heard.values())
    assert (low.kind, low.label, high.label) == ("grade", "1", "3")
    write_page(tmp_path / "heard.html", heard)
    assert "<h3>level</h3><p>1 (" in (tmp_path / "heard.html").read_text()
    write_results(tmp_path / "heard.jams", heard, Options("track", None, None, None, None))
    told = json.loads((tmp_path / "heard.jams" / "23.jams").read_text())["annotations"][0]
    assert (told["namespace"], told["data"][0]["value"]) == ("grade_open", "grade 3")
    assert (head.problem, head.kind, kind_of("grade").head) == ("single_label_classification", "grade", "grade")


def test_labels_over_time_from_files_beside_the_audio(tmp_path):
    write_tones(tmp_path, 5)
    for n in range(5):
        (tmp_path / f"{n}.beats").write_text("0.1 1\n0.2 2\n0.3 1\n")
        (tmp_path / f"{n}.lab").write_text("0.0\t0.25\tC:maj\n0.25 0.5 A:min\n")
    folder = read_folder(tmp_path)
    beats, downbeats, chords = (folder.column(asked) for asked in ("beats", "beats:downbeats", "lab"))
    assert (beats.kind.name, beats.labels[0], beats.names) == ("beats", [0.1, 0.2, 0.3], ("beat",))
    assert (downbeats.labels[0], downbeats.names) == ([0.1, 0.3], ("downbeat",))
    assert chords.kind.name == "chords" and chords.labels[4][1] == {"start": 0.25, "end": 0.5, "label": "A:min"}
    write_table(tmp_path, [["path", "pulse"], ["0.wav", "0.beats"], ["1.wav", ""]])
    pulse = read_folder(tmp_path).column("pulse:beats")
    assert pulse.labels == [[0.1, 0.2, 0.3], None, None, None, None]
    (tmp_path / "bad.lab").write_text("0.5 0.1 C\n")
    with pytest.raises(ValueError, match="before its start"):
        read_annotation(tmp_path / "bad.lab")
    with pytest.raises(ValueError, match=r"beats needs a list of times"):
        kind_of("beats").convert(["soon"], ["pulse"])


def test_rows_of_onset_and_offset_are_events(tmp_path):
    write_tones(tmp_path, 4)
    rows = [["path", "onset", "offset", "label", "fold"], ["0.wav", 0, 0.2, "flute", 1], ["0.wav", 0.1, 0.4, "drum", 1]]
    write_table(tmp_path, [*rows, ["1.wav", "", "", "", 2], ["2.wav", 0.1, 0.2, "flute", 0]])
    folder = read_folder(tmp_path)
    events = folder.column("label")
    assert events.kind.name == "events" and events.names == ("drum", "flute")
    assert [None if spans is None else len(spans) for spans in events.labels] == [2, 0, 1, None]  # 1: nothing sounds
    assert folder.columns["fold"] == [1, 2, 0, None]
    times = np.array([0.05, 0.15, 0.25])
    assert events.kind.frames(events.labels[0], times, events.names).tolist() == [[0, 1], [1, 1], [1, 0]]


def test_events_by_hand():
    kind = kind_of("events")
    truth = [{"start": 0.0, "end": 2.0, "label": "a"}, {"start": 1.0, "end": 2.0, "label": "b"}]
    guessed = [{"start": 1.0, "end": 4.0, "label": "a"}, {"start": 1.5, "end": 3.5, "label": "a"}]
    by_time = pytest.approx(2 * 1 / (3 + 3)), pytest.approx(1 / 3), pytest.approx(1 / 3)
    # segments: a in 0, 1 and b in 1 against a in 1, 2, 3; no onset within 0.2 s of a's
    assert kind.score(truth, guessed) == (*by_time, pytest.approx(2 * 1 / (3 + 3)), 0.0)
    assert kind.score(truth, truth) == kind.score([], []) == (1,) * 5 and kind.score(truth, []) == (0,) * 5
    assert [span["label"] for span in kind.deaf([truth], 3.0)] == ["a", "b"]  # F 4/5, then 6/7
    activity = np.array([[0.9, 0.1], [0.1, 0.1], [0.9, 0.8], [0.9, 0.8]])
    times = np.arange(4) + 0.5
    plain = kind.decode(activity, times, ("a", "b"), {"name": "threshold", "threshold": 0.5, "shortest": 0.0})
    assert [(s["start"], s["end"], s["label"]) for s in plain] == [(0, 1, "a"), (2, 4, "a"), (2, 4, "b")]
    joined = kind.decode(activity, times, ("a", "b"), {"name": "threshold", "threshold": 0.5, "shortest": 1.5})
    assert [(s["start"], s["end"], s["label"]) for s in joined] == [(0, 4, "a"), (2, 4, "b")]


def test_whole_events_are_matched_by_onset_and_offset():
    """Collars at their edges, a fifth of long events, names kept apart, one answer for one event, the most pairs."""

    def spans(*rows):
        return [dict(zip(("start", "end", "label"), row)) for row in rows]

    truth = spans((1.0, 2.0, "a"))
    for start, end, found in ((1.2, 2.2, 1), (0.8, 1.8, 1), (1.21, 2.0, 0), (1.0, 2.21, 0), (1.0, 1.79, 0)):
        assert onset_offset_f(truth, spans((start, end, "a"))) == found, (start, end)
    assert onset_offset_f(spans((0.0, 10.0, "a")), spans((0.1, 8.1, "a"))) == 1.0  # a fifth of 10 s
    assert onset_offset_f(truth, spans((1.0, 2.0, "b"))) == 0.0
    assert onset_offset_f(truth, spans((1.0, 2.0, "a"), (1.1, 2.1, "a"))) == pytest.approx(2 / 3)
    # greedy in order would give the first event the second answer and leave the second event none
    two = spans((1.0, 2.0, "a"), (1.3, 2.3, "a"))
    assert onset_offset_f(two, spans((1.15, 2.15, "a"), (0.9, 1.9, "a"))) == 1.0


def test_segments_of_a_second():
    def spans(*rows):
        return [dict(zip(("start", "end", "label"), row)) for row in rows]

    assert segment_f(spans((0.9, 1.1, "a")), spans((0.0, 2.0, "a"))) == 1.0  # both sound in segments 0 and 1
    assert segment_f(spans((0.0, 1.0, "a")), spans((1.0, 2.0, "a"))) == 0.0
    assert segment_f(spans((0.0, 3.0, "a"), (0.0, 1.0, "b")), spans((2.5, 4.0, "a"))) == pytest.approx(2 / 6)


def test_a_median_filter_takes_what_is_brief():
    """Against a median of five written out, at frames of 0.1 s."""
    kind, times = kind_of("events"), (np.arange(40) + 0.5) / 10
    activity = np.random.default_rng(0).random((40, 2))
    padded = np.concatenate([activity[:1], activity[:1], activity, activity[-1:], activity[-1:]])
    by_hand = np.array([np.median(padded[frame : frame + 5], 0) for frame in range(40)])
    way = {"name": "threshold", "threshold": 0.5, "shortest": 0.0}
    filtered = kind.decode(activity, times, ("a", "b"), {**way, "median": 0.4})
    assert filtered == kind.decode(by_hand, times, ("a", "b"), way) != kind.decode(activity, times, ("a", "b"), way)
    assert kind.said({**way, "median": 0.4}) == "above 0.5, median of 0.4 s"
    assert any(settings.get("median") for settings in kind.decoders([], quick=False))
    heard = kind.heard(FrameAnswers(activity, times, 3.95, ("a", "b")), {**way, "median": 0.4})
    assert heard.segments == [(s["start"], min(s["end"], 3.95), s["label"]) for s in filtered]
    lines = kind.text(heard).splitlines()
    assert kind.ending == ".lab" and len(lines) == len(filtered) and lines[0].split()[2] in "ab"


def test_kinds_are_guessed_and_named():
    chords = [[{"start": 0, "end": 1, "label": "C:maj"}], [{"start": 0, "end": 1, "label": "N"}]]
    assert guess(chords).name == "chords" and guess([[{"start": 0, "end": 1, "label": "verse"}]]).name == "events"
    assert guess([[0.5, 1.0], None]).name == "beats" and guess(["C major", "f# minor"]).name == "key"
    assert guess([None, ""]).name == "classes" and kind_of("class") is kind_of("classes")
    assert metric_name("r2_arousal") == "R² of arousal" and metric_name("mae") == "mae"


def test_thresholds_have_the_best_f():
    """Against every threshold tried."""
    generator = np.random.default_rng(0)
    truth = (generator.random((40, 3)) < [0.3, 0.6, 0.0]).astype(int)
    scores = np.round(np.clip(0.3 * truth + 0.7 * generator.random((40, 3)), 0, 1), 1)
    found = best_thresholds(truth, scores)

    def f(column, threshold):
        said = scores[:, column] >= threshold
        return 2 * (said & (truth[:, column] > 0)).sum() / (said.sum() + truth[:, column].sum())

    for column in (0, 1):
        assert f(column, found[column]) == max(f(column, level) for level in np.linspace(0, 1, 201))
    assert found[2] == 0.5


def test_tags_may_hold_commas() -> None:
    """At | and ; where a cell has one; at commas alone as ever, but not inside a name that is known."""
    speech, pop = "Male speech, man speaking", "Music, pop, slow"
    tags = kind_of("tags")
    assert tags.convert(["calm, wild,calm"], ["tags"]) == ["calm", "wild"], "as before"
    assert tags.convert(["calm|wild; slow"], ["tags"]) == ["calm", "slow", "wild"], "as before"
    assert tags.convert([f"{speech}|Music"], ["tags"]) == [speech, "Music"]
    assert tags.convert([f"{speech}|"], ["tags"]) == [speech]
    known = (speech, pop, "Music", "pop")
    assert parted(f"{speech},Music,jazz", known) == [speech, "Music", "jazz"]
    assert parted("Music,pop, slow", known) == [pop] and parted("Music, pop, fast", known) == ["Music", "pop", "fast"]
    assert parted(speech) == ["Male speech", "man speaking"] and parted(" , ") == []
    assert targets_of(tags).convert([f"{speech};Music"], LabelTask("tags", "tags")) == [speech, "Music"]
