"""`groundbass predict`: every format read back, interruptions, truth, the page, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score

from groundbass.cli import main
from groundbass.data.audio.read import write
from groundbass.data.labels.lookup import kind_of
from groundbass.models.classifier_files import make_classifier, write_classifier
from groundbass.models.head_files import HeadFacts
from groundbass.models.heads import HeadConfig
from groundbass.pretrain.recipe import find
from groundbass.probe.apply import predict as command
from groundbass.probe.apply.classify import Classifier, Prediction, Sound
from groundbass.probe.apply.predict_page import chord_colour
from groundbass.probe.apply.verdicts import Asked, compare, read_truth
from groundbass.probe.report.naming import short_names

RATE = 24_000
KINDS = {
    "genre": ({"kind": "classes", "names": ("rock", "jazz", "folk")}, {}),
    "mood": ({"kind": "tags", "names": ("calm", "wild")}, {"thresholds": (0.0, 1.0)}),
    "bpm": ({"kind": "numbers", "names": ("bpm",)}, {}),
    "beats": ({"kind": "beats", "names": ("beat", "downbeat")}, {"decoder": {"name": "tracker", "usual": 0.5}}),
    "chords": ({"kind": "chords", "names": ("C:maj", "A:min", "N")}, {"decoder": {"name": "viterbi", "switch": 0.5}}),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of five heads, and three songs, one of them broken."""
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    encoder = find("masked.bestrq_debug").objective.build().encoder.eval()
    heads = [
        (name, HeadConfig(dim=32, **settings).build(), HeadFacts(window_seconds=2.0, **facts))  # type: ignore[arg-type]
        for name, (settings, facts) in KINDS.items()
    ]
    write_classifier(make_classifier(encoder, heads), folder / "classifier")
    (folder / "songs").mkdir()
    for number in range(2):
        time = np.arange(6 * RATE) / RATE
        sound = 0.3 * np.sin(2 * np.pi * 220 * (number + 1) * time) * (np.sin(2 * np.pi * 2 * time) > 0)
        write(folder / "songs" / f"song{number}.flac", sound.astype(np.float32), RATE)
    (folder / "songs" / "broken.flac").write_bytes(b"no sound")
    return folder


def groundbass(*words: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["predict", *words])
    assert not stop.value.code


def run(place: Path, *words: str) -> None:
    groundbass(str(place / "classifier"), str(place / "songs"), *words)


def test_every_format_holds_the_same(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outs = [tmp_path / name for name in ("all.json", "all.csv", "all.parquet", "all.jams", "files")]
    run(place, *(word for out in outs for word in ("--out", str(out))), "--quiet")
    assert "broken.flac is left out" in capsys.readouterr().err
    told = json.loads(outs[0].read_text())
    song = str(place / "songs/song0.flac")
    assert set(told) == {song, str(place / "songs/song1.flac")} and set(told[song]) == set(KINDS)
    likely = told[song]["genre"]["probabilities"]
    assert sum(likely.values()) == pytest.approx(1.0, abs=1e-4) and next(iter(likely)) == told[song]["genre"]["label"]
    rows = list(csv.DictReader(outs[1].open()))
    table = pq.read_table(outs[2]).to_pylist()
    assert len(rows) == len(table) > 10
    genre = {row["label"]: float(row["value"]) for row in rows if (row["path"], row["head"]) == (song, "genre")}
    assert genre == pytest.approx(likely, abs=1e-5)
    beats = [float(row["start"]) for row in rows if (row["path"], row["head"]) == (song, "beats")]
    assert beats == pytest.approx(told[song]["beats"]["times"], abs=1e-3)

    lab = np.loadtxt(outs[4] / "song0.lab", dtype=str, ndmin=2)
    assert (
        float(lab[0, 0]) == 0
        and (lab[1:, 0] == lab[:-1, 1]).all()
        and set(lab[:, 2]) <= set(KINDS["chords"][0]["names"])
    )  # type: ignore[arg-type]
    assert float(lab[-1, 1]) == pytest.approx(6.0, abs=0.05)
    lines = np.loadtxt(outs[4] / "song0.beats", ndmin=2)
    assert lines[:, 0] == pytest.approx(beats, abs=1e-3) and set(np.diff(lines[:, 1])) <= {1.0, -2.0, -3.0}
    jams = json.loads((outs[3] / "song0.jams").read_text())
    by_name = {entry["namespace"]: entry for entry in jams["annotations"]}
    assert jams["file_metadata"]["duration"] == pytest.approx(6.0)
    assert {"tag_open", "vector", "beat", "chord"} == set(by_name)
    assert [o["time"] for o in by_name["beat"]["data"]] == pytest.approx(beats, abs=1e-3)


def test_recordings_of_one_name_are_told_apart_by_their_folders() -> None:
    assert short_names(["a/1.ogg", "/b/2.ogg"]) == {"a/1.ogg": "1.ogg", "/b/2.ogg": "2.ogg"}
    assert short_names(["/m/rock/1.ogg", "/m/jazz/1.ogg"]) == {
        "/m/rock/1.ogg": "rock/1.ogg", "/m/jazz/1.ogg": "jazz/1.ogg"
    }  # fmt: skip


def test_shares_end_at_one_whatever_their_intervals() -> None:
    """Of ten answers nine are right: the interval, wider for few tracks, would reach above 1."""
    one = Prediction("classes", ("a", "b"), np.zeros(1), np.ones(1), np.array([[0.9, 0.1]]), name="x")
    truth = {str(n): {"x": "b" if n == 0 else "a"} for n in range(10)}
    found = compare({str(n): {"x": one} for n in range(10)}, truth)
    top = found.verdicts[0].scores["accuracy, top 1"]
    assert top.value == pytest.approx(0.9) and 0 <= top.low < 0.9 < top.high <= 1.0


def test_json_lines_and_units(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    song = str(place / "songs/song0.flac")
    groundbass(str(place / "classifier"), song, "--unit", "window", "--window", "2", "--json")
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["head"] for line in lines] == list(KINDS)
    units = lines[0]["units"]
    assert [unit["start"] for unit in units] == [0.0, 2.0, 4.0] and len(units[0]["values"]) == 3
    groundbass(str(place / "classifier"), song, "--top", "2")
    shown = capsys.readouterr().out
    assert "genre" in shown and "beats" in shown and "bpm" in shown


def test_an_interrupted_run_goes_on(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, heard = Classifier.hear, []

    def hear(self: Classifier, sound: Any, *rest: Any) -> dict[str, Prediction]:
        if len(heard) == 1 and sound.name == "song1.flac":
            raise KeyboardInterrupt
        heard.append(sound.name)
        return real(self, sound, *rest)

    monkeypatch.setattr(Classifier, "hear", hear)
    (tmp_path / "whole.json").parent.mkdir(exist_ok=True)
    songs = [str(place / "songs/song0.flac"), str(place / "songs/song1.flac")]
    words = [
        "predict",
        str(place / "classifier"),
        *songs,
        "--out",
        str(tmp_path / "some.json"),
        "--quiet",
        "--workers",
        "1",
    ]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(words)
    assert not (tmp_path / "some.json").exists() and heard == ["song0.flac"]
    monkeypatch.setattr(
        Classifier, "hear", lambda self, sound, *rest: heard.append(sound.name) or real(self, sound, *rest)
    )
    groundbass(*words[1:])
    assert heard == ["song0.flac", "song1.flac"], "the first isn't heard again"
    monkeypatch.setattr(Classifier, "hear", real)
    run(place, "--out", str(tmp_path / "whole.json"), "--quiet")
    assert json.loads((tmp_path / "some.json").read_text()) == json.loads((tmp_path / "whole.json").read_text())
    assert list(tmp_path.glob(".*")) == []


def test_the_truth_is_compared(tmp_path: Path) -> None:
    """Top-1 and top-3 against scikit-learn and by hand; a strange class is wrong; rows without audio are nothing."""
    draw = np.random.default_rng(0)
    names = ("a", "b", "c", "d")
    results, rows = {}, ["path,genre,mood"]
    truth, guess = [], []
    for number in range(40):
        likely = draw.dirichlet(np.ones(4))
        one = np.zeros(1)
        results[f"/x/{number}.wav"] = {
            "folder_genre": Prediction("classes", names, one, one + 1, likely[None]),
            "mood": Prediction("tags", ("calm", "wild"), one, one + 1, likely[None, :2], thresholds=(0.2, 0.2)),
        }
        truth.append("strange" if number == 7 else names[draw.integers(4)])
        guess.append(likely)
        rows.append(f"/x/{number}.wav,{truth[-1]},{'calm|wild' if number % 3 else 'wild'}")
    (tmp_path / "labels.csv").write_text("\n".join([*rows, "/x/lost.wav,a,calm"]))
    found = compare(results, read_truth(tmp_path / "labels.csv", list(results)))
    genre, mood = found.verdicts
    chosen = [names[row.argmax()] for row in guess]
    assert genre.scores["accuracy, top 1"].value == pytest.approx(accuracy_score(truth, chosen))
    top3 = np.mean([t in {names[i] for i in np.argsort(-row)[:3]} for t, row in zip(truth, guess)])
    assert genre.scores["accuracy, top 3"].value == pytest.approx(top3)
    first = genre.scores["accuracy, top 1"]
    assert first.low < accuracy_score(truth, chosen) < first.high and "strange" in genre.notes[0]
    assert sum(map(sum, genre.confusion)) == 39
    assert mood.scores["ROC-AUC, macro"].known and mood.scores["F at the thresholds"].value > 0
    unnamed = {path: {"classifier": found["folder_genre"]} for path, found in results.items()}
    (by_values,) = compare(unnamed, read_truth(tmp_path / "labels.csv", list(results))).verdicts
    assert by_values.scores == genre.scores and by_values.head == "classifier"
    with pytest.raises(ValueError, match="no head is called like one"):
        compare(results, {"/x/1.wav": {"colour": "red"}})
    (tmp_path / "labels.csv").write_text("path,genre\n/y/1.wav,a\n")
    with pytest.raises(ValueError, match="is a recording that is heard"):
        read_truth(tmp_path / "labels.csv", list(results))


def heard(kind: str, names: tuple[str, ...], rows: list[list[float]], head: str) -> dict[str, dict[str, Prediction]]:
    one, place = np.zeros(1), "values" if kind == "numbers" else "probabilities"
    return {
        f"/x/{n}.wav": {head: Prediction(kind, names, one, one + 1, **{place: np.array([row])}, name=head)}  # type: ignore[arg-type]
        for n, row in enumerate(rows)
    }


def test_each_number_is_compared_with_its_own_column() -> None:
    """A head "emotion" says arousal and valence; of the columns, whatever their order, each gets its own."""
    results = heard("numbers", ("arousal", "valence"), [[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]], "song_emotion")
    truth = {f"/x/{n}.wav": {"valence": str(5.5 + n), "arousal": str(1.0 + n)} for n in range(3)}
    arousal, valence = compare(results, truth).verdicts
    assert (arousal.head, arousal.column) == ("song_emotion, arousal", "arousal") and valence.column == "valence"
    assert arousal.scores["mean absolute error"].value == 0 and valence.scores["mean absolute error"].value == 0.5
    (alone,) = compare(results, {path: {"valence": row["valence"]} for path, row in truth.items()}).verdicts
    assert str(alone.scores) == str(valence.scores)  # NaN is nothing's equal
    trained = heard("numbers", ("lab_bpm.0",), [[100.0], [120.0]], "lab_bpm.0")  # as fine-tuning calls it
    (bpm,) = compare(trained, {"/x/0.wav": {"bpm": "90"}, "/x/1.wav": {"bpm": "120"}}).verdicts
    assert bpm.scores["mean absolute error"].value == 5.0 and bpm.scores["mean absolute error"].bounded
    assert bpm.scores["R²"].known and not bpm.scores["R²"].bounded, "no resample of two but both has one"
    assert Asked("x_ab+y_cd", kind_of("beats"), ("beat",)).columns({"a": {"cd": 1}, "b": {"ab": 1}})[0][2] == "ab"


def test_truth_that_is_no_number_is_counted_or_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = heard("numbers", ("bpm",), [[100.0], [120.0], [90.0]], "bpm")
    truth = {"/x/0.wav": {"bpm": "90"}, "/x/1.wav": {"bpm": "nan"}, "/x/2.wav": {"bpm": "fast"}}
    (verdict,) = compare(results, truth).verdicts
    assert verdict.tracks == 1 and verdict.scores["mean absolute error"].value == 10
    assert "2 of 3 values in the column 'bpm' are no finite numbers ('nan')" in verdict.notes[0]
    song, table = place / "songs" / "song0.flac", place / "labels.csv"
    monkeypatch.setattr(Classifier, "hear", None)  # it is said before anything is heard
    for column, value, sentence in (
        ("bpm", "fast", r"labels\.csv has no number in the column 'bpm'.*song0\.flac has 'fast'"),
        ("beats", "120", r"labels\.csv can't be compared at the row of .*song0\.flac"),
        ("colour", "red", "no head is called like one"),
    ):
        table.write_text(f"path,{column}\n{song},{value}\n")
        with pytest.raises(ValueError, match=sentence):
            command.predict((str(place / "classifier"), str(song)), labels=(str(table),), quiet=True)


def test_tags_that_the_head_does_not_know_are_counted(tmp_path: Path) -> None:
    """And names with a comma are found whole, since the head has them."""
    speech = "Male speech, man speaking"
    results = heard("tags", ("Music", speech), [[0.9, 0.1], [0.2, 0.8], [0.7, 0.4]], "tags")
    table = tmp_path / "labels.csv"
    rows = ["path,tags", "/x/0.wav,Music|jazz|Rap; trap", f'/x/1.wav,"{speech}, jazz"', f'/x/2.wav,"Music, {speech}"']
    table.write_text("\n".join(rows) + "\n")
    found = compare(results, read_truth(table, list(results)))
    (verdict,) = found.verdicts
    assert verdict.unknown == {"jazz": 2, "Rap": 1, "trap": 1} and "jazz (2)" in verdict.notes[0]
    assert found.to_json()["verdicts"][0]["unknown"]["jazz"] == 2
    assert verdict.scores["recall at the thresholds"].value == pytest.approx((1 + 1 / 2) / 2)
    low = compare(results, read_truth(table, list(results)), threshold=0.4).verdicts[0]
    assert low.scores["recall at the thresholds"].value == 1.0 and "threshold 0.4" in low.notes[1]

    events = Prediction("events", ("voice",), np.zeros(1), np.ones(1), segments=[(0.0, 1.0, "voice")])
    spans = [{"start": 0.0, "end": 1.0, "label": name} for name in ("voice", "drum")]
    (timed,) = compare({"a": {"events": events}}, {"a": {"events": spans}}).verdicts
    assert timed.unknown == {"drum": 1} and "drum (1)" in timed.notes[0]


def test_json_is_strict_and_frames_of_clips_are_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One recording has no interval: null. Heads of clips have windows in place of frames: said once."""
    song, table = place / "songs" / "song0.flac", place / "truth.csv"
    table.write_text(f"path,genre,bpm\n{song},rock,100\n")
    groundbass(str(place / "classifier"), str(song), "--unit", "frame", "--labels", str(table), "--json")
    told = capsys.readouterr()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in told.out.splitlines()]
    genre, bpm = (one for one in lines[-1]["comparison"]["verdicts"] if "window" not in one["head"])
    assert genre["scores"]["accuracy, top 1"]["low"] is None and bpm["scores"]["R²"]["value"] is None
    assert told.err.count("answer about windows, not frames: genre, mood, bpm.") == 1


def test_silence_is_left_out(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, level in (("silent", 0.0), ("dither", 0.9e-4), ("soft", 2e-3)):
        sound = level * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)
        write(tmp_path / f"{name}.wav", sound.astype(np.float32), RATE)
    out = tmp_path / "heard.json"
    groundbass(str(place / "classifier"), str(tmp_path), "--out", str(out), "--quiet")
    assert [Path(path).name for path in json.loads(out.read_text())] == ["soft.wav"]
    said = capsys.readouterr().err
    assert "silent.wav is left out: It is silent" in said and "dither.wav is left out: It is silent" in said


def test_what_is_heard_over_time_is_compared(tmp_path: Path) -> None:
    """Beats and downbeats with a file of positions; events with a row per onset, a chord with a `.lab`; by hand."""
    one = np.zeros(1)
    beats = Prediction(
        "beats", ("beat", "downbeat"), one, one + 6, times=np.arange(0.5, 6.5), positions=np.array([1, 2, 3, 4, 1, 2])
    )
    chords = Prediction("chords", ("C:maj", "A:min"), one, one + 4, segments=[(0.0, 4.0, "C:maj")])
    heard = {"/x/a.wav": {"beats+downbeats": beats, "lab": chords}}
    lines = [f"{time}\t{1 + place % 3}\n" for place, time in enumerate(np.arange(0.5, 6.5))]  # a bar of three
    (tmp_path / "a.beats").write_text("".join(lines))
    (tmp_path / "a.lab").write_text("0 1 C:maj\n1 4 A:min\n")
    (tmp_path / "labels.csv").write_text("path,beats,lab\n/x/a.wav,a.beats,a.lab\n")
    time, bar, lab = compare(heard, read_truth(tmp_path / "labels.csv", list(heard))).verdicts
    assert time.scores["beat F, 70 ms"].value == 1.0 and "downbeats" in bar.head
    assert bar.scores["beat F, 70 ms"].value == 0.5  # bars are heard at 0.5 and 4.5 s, and begin at 0.5 and 3.5 s
    assert lab.scores["chord majmin"].value == pytest.approx(0.25)

    events = Prediction("events", ("voice", "drum"), one, one + 4, segments=[(0.0, 1.0, "voice"), (2.0, 4.0, "drum")])
    heard = {"/x/a.wav": {"folder_label": events}, "/x/b.wav": {"folder_label": events}}
    rows = "/x/a.wav,0,2,voice\n/x/a.wav,2,4,drum\n/x/b.wav,0,1,voice\n/x/b.wav,2,4,drum\n"
    (tmp_path / "labels.csv").write_text("path,onset,offset,label\n" + rows)
    (verdict,) = compare(heard, read_truth(tmp_path / "labels.csv", list(heard))).verdicts
    assert verdict.tracks == 2
    assert verdict.scores["event F, by time"].value == pytest.approx((2 * 3 / (3 + 4) + 1) / 2)
    (tmp_path / "labels.csv").write_text("path,beats\n/x/a.wav,lost.beats\n")
    with pytest.raises(FileNotFoundError, match=r"lost\.beats"):
        read_truth(tmp_path / "labels.csv", list(heard))


def test_the_page_has_a_lane_for_what_was_heard(place: Path, tmp_path: Path) -> None:
    run(place, "--page", str(tmp_path / "page.html"), "--quiet")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<section") == 2 and text.count("<audio") == 2 and text.count('id="all"') == 1
    source = re.search(r'<audio[^>]*src="([^"]*)"', text)
    assert source and (tmp_path / source[1]).resolve() == (place / "songs/song0.flac").resolve()
    for head in ("genre", "mood", "bpm", "beats", "chords"):
        assert f'data-head="{head}"' in text
    first = text.partition("</section>")[0]
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", first.partition('data-head="chords"')[2])]
    assert sum(widths) == pytest.approx(100.0, abs=1.0), "chords fill the song"
    assert len(re.findall('class="tick"', first)) > 3


def test_near_chords_look_alike() -> None:
    """A fifth up is 30 degrees of hue; enharmonic names agree, minor keeps its root's hue, no chord has no colour."""

    def hue(name: str) -> int:
        return int(re.findall(r"hsl\((\d+)", chord_colour(name))[0])

    circle = ("C:maj", "G:maj", "D:maj", "A", "E:maj", "B:7", "F#:maj", "Db:maj", "Ab:maj", "Eb:maj", "Bb", "F:maj")
    assert [hue(name) for name in circle] == list(range(0, 360, 30))
    assert chord_colour("F#:maj") == chord_colour("Gb:maj") and hue("A:min") == hue("A:maj")
    assert chord_colour("A:min") != chord_colour("A:maj") and chord_colour("N") == "transparent"


LISTENER = """
const audio = document.querySelector("audio"), told = {}, first = document.querySelector("section");
const press = (key, more) => document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, ...more}));
const click = (place, share) => {
  const box = place.getBoundingClientRect();
  place.dispatchEvent(new MouseEvent("click", {bubbles: true, clientX: box.left + share * box.width}));
};
const steps = {
  lane: () => click(first.querySelector(".lane[data-head=chords]"), 0.25),
  right: () => press("ArrowRight", {shiftKey: true}),
  left: () => press("ArrowLeft"),
  wave: () => click(first.querySelector(".wave"), 0.5),
  space: () => press(" "),
};
const sorted = () => {
  document.querySelectorAll("#all th button")[0].click(); document.querySelectorAll("#all th button")[0].click();
  told.order = [...document.querySelectorAll("#all tbody tr")].map(row => row.cells[0].textContent);
};
const begin = () => {
  if (audio.readyState < 1) return setTimeout(begin, 20);
  for (const [name, act] of Object.entries(steps)) { act(); told[name] = audio.currentTime; }
  told.share = parseFloat(first.querySelector(".cursor").style.left);
  told.says = first.querySelector("output").textContent; told.playing = !audio.paused;
  sorted();
  document.documentElement.dataset.told = JSON.stringify(told);
};
begin();
"""


@pytest.mark.slow
def test_the_page_seeks_plays_and_sorts_in_a_browser(place: Path, tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("No Chromium is installed (apt-get install chromium): the page isn't tried in a browser.")
    run(place, "--page", str(tmp_path / "page.html"), "--quiet")
    page = (tmp_path / "page.html").read_text() + f"<script>{{{LISTENER}}}</script>"
    (tmp_path / "tried.html").write_text(page)
    line = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required",
            f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom",
            (tmp_path / "tried.html").as_uri()]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    found = re.search(r'data-told="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    told = json.loads(found[1].replace("&quot;", '"'))
    assert told["lane"] == pytest.approx(1.5, abs=0.05), "a quarter of six seconds"
    assert told["right"] == pytest.approx(told["lane"] + 1) and told["left"] == 0
    assert told["wave"] == pytest.approx(3.0, abs=0.05) and told["share"] == pytest.approx(50.0, abs=1)
    names = KINDS["chords"][0]["names"]
    assert told["playing"] and told["says"].startswith("0:03.0") and any(name in told["says"] for name in names)  # type: ignore[attr-defined]
    assert told["order"] == ["song1.flac", "song0.flac"], "descending"


def test_what_is_refused_is_named(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, song = str(place / "classifier"), str(place / "songs/song0.flac")
    for words, sentence in (
        ([model, song, "--threshold", "1.5"], "a probability from 0 to 1"),
        ([model, song, "--out", "x.xml"], "the ending says what to write"),
        ([model], "no sound to hear"),
    ):
        with pytest.raises(ValueError, match=sentence):
            command.predict(tuple(word for word in words if not word.startswith("--") and word not in ("1.5", "x.xml")),
                            threshold=1.5 if "--threshold" in words else None,
                            out=(Path("x.xml"),) if "--out" in words else ())  # fmt: skip
    for words_, sentence in (({"top": 0}, "at least one name"), ({"window_seconds": 0.0}, "longer than 0 s"),
                             ({"window_seconds": float("nan")}, "longer than 0 s")):  # fmt: skip
        with pytest.raises(ValueError, match=sentence):
            command.predict((model, song), quiet=True, **words_)  # type: ignore[arg-type]
    (tmp_path / "labels.csv").write_text("path,genre\nelsewhere.wav,rock\n")
    with monkeypatch.context() as deaf:
        deaf.setattr(Classifier, "hear", None)  # labels are looked at before hours of listening
        with pytest.raises(ValueError, match="is a recording that is heard"):
            command.predict((model, song), labels=(str(tmp_path / "labels.csv"),), quiet=True)
    monkeypatch.setattr(command, "shipped", lambda: place / "classifier")
    command.predict((song,), quiet=True)
    with pytest.raises(ValueError, match="None of the 1 recordings could be heard"):
        command.predict((model, str(place / "songs/broken.flac")), quiet=True)


class Endless:
    """Hears the same second of a recording until it may no longer."""

    answering = type("Answering", (), {"rate": RATE})()

    def __init__(self) -> None:
        self.begun = threading.Event()

    def hear(self, sound: Sound, *_: object) -> dict[str, Prediction]:
        while True:
            sound.read(0, RATE)
            self.begun.set()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal has it: what runs in a shell's background inherits that it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interruption_does_not_wait_for_what_is_heard(place: Path) -> None:
    recordings = [command.Recording(f"{n}", (n,), place / "songs" / f"song{n}.flac") for n in range(2)]
    options = command.Options("track", None, None, None, None)
    nothing = command._Kept((), recordings, [], False)
    cores = torch.get_num_threads()

    def interrupt(begun: threading.Event) -> None:
        begun.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    for _ in range(30):  # each time at another line of the command
        classifier = Endless()
        threading.Thread(target=interrupt, args=[classifier.begun]).start()
        with pytest.raises(KeyboardInterrupt):
            list(command._heard(recordings, [classifier], options, nothing, 2, 2, {}, Counter()))  # type: ignore[list-item]
        assert torch.get_num_threads() == cores
