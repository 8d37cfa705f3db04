"""Frame, window, song: rules by hand, and a task whose frames are right less often than its songs."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from groundbass.data.audio.read import write
from groundbass.data.labels.lookup import kind_of
from groundbass.data.labels.splits import Fold
from groundbass.data.track import Manifest, Track
from groundbass.models.adapters import ModelEncoder
from groundbass.models.music_taggers import MusicTaggerConfig, MusicTaggerModel
from groundbass.probe.curves.units import RULES, aggregated, compared, own_head
from groundbass.probe.fit import SETTINGS, fit
from groundbass.probe.listen.features import Frames, Windows
from groundbass.probe.report import tables
from groundbass.probe.report.page import HEADS
from groundbass.probe.report.result import Confusion
from groundbass.probe.task import Task

TRACKS, FRAMES = 90, 30


@pytest.mark.parametrize("kind", ["classes", "tags"])
def test_rules_are_what_they_say(kind):
    logits = np.random.default_rng(0).normal(0, 2, (7, 3))
    owner = np.array([0, 0, 0, 1, 2, 2, 2])
    turn = expit if kind == "tags" else lambda x: softmax(x, axis=-1)
    each, parts = turn(logits), [slice(0, 3), slice(3, 4), slice(4, 7)]
    found = {rule: aggregated(kind_of(kind), logits, owner, rule) for rule in RULES}
    np.testing.assert_allclose(found["mean of logits"], [turn(logits[p].mean(0)) for p in parts])
    np.testing.assert_allclose(found["mean of probabilities"], [each[p].mean(0) for p in parts])
    votes = each > 0.5 if kind == "tags" else np.eye(3)[each.argmax(1)]
    np.testing.assert_allclose(found["majority of answers"], [votes[p].mean(0) for p in parts], atol=2e-6)
    highest = np.array([each[p].max(0) for p in parts])
    expected = highest if kind == "tags" else highest / highest.sum(1, keepdims=True)
    np.testing.assert_allclose(found["most certain piece"], expected)


@dataclass
class Store:
    """Frames of noise around their class's place; a window is 5 frames."""

    table: np.ndarray  # [layers, tracks, frames, dim]

    def frames(self, encoder, manifest, rows, layers, name):
        array = self.table[list(layers)][:, rows].reshape(len(layers), -1, self.table.shape[3])
        spans = {row: (k * FRAMES, (k + 1) * FRAMES) for k, row in enumerate(rows)}
        return Frames(array, tuple(layers), spans, np.zeros(array.shape[1]))

    def windows(self, encoder, manifest, seconds, pooling, name):
        rows = [int(track.key) for track in manifest]
        array = self.table[:, rows].reshape(2, len(rows) * FRAMES // 5, 5, -1).mean(2)
        return Windows(array, np.repeat(np.arange(len(rows)), FRAMES // 5))

    def clips(self, encoder, manifest, pooling, name):
        return self.table[:, [int(track.key) for track in manifest]].mean(2)


def test_more_sound_is_a_better_answer():
    draw = np.random.default_rng(1)
    truth = draw.integers(0, 3, TRACKS)
    table = draw.standard_normal((2, TRACKS, FRAMES, 4)).astype(np.float32) * 2
    table[1, :, :, :3] += np.eye(3)[truth][:, None] * 1.5
    manifest = Manifest.from_tracks([Track(str(n), str(n), 1, 1, 1, str(n)) for n in range(TRACKS)], ".")
    folds = tuple(Fold(np.arange(40), np.arange(40, 60), part) for part in (np.arange(60, 75), np.arange(75, 90)))
    task = Task("made", 1, "classes", manifest, ["abc"[k] for k in truth], ("a", "b", "c"), folds)
    rows = compared(task, None, Store(table), fit(task, table.mean(2)))
    value = {(row.unit, row.rule): row.value for row in rows}
    number = {row.unit: row.number for row in rows}
    assert number == {"song": 30, "frame": 900, "window": 180, "song of frames": 30, "song of windows": 30}
    assert value["frame", "each alone"] < value["window", "each alone"] < value["song", "mean of features"]
    assert value["frame", "each alone"] > 0.4 and value["song of windows", "mean of logits"] > 0.9
    # a linear head on the mean of features says the mean of its answers on the frames
    assert value["song of frames", "mean of logits"] == value["song", "mean of features"]
    with pytest.raises(ValueError, match="classes, keys and tags"):
        compared(Task("n", 1, "numbers", manifest, [[1.0]] * TRACKS, ("x",), folds), None, Store(table), None)


def test_a_taggers_own_head_stands_beside(tmp_path):
    """Windows and songs as its config says, against its answers counted by hand; none where names differ."""
    torch.manual_seed(0)
    model = MusicTaggerModel(MusicTaggerConfig(network="musicnn", classes=3, width=0.05, window_samples=16_000))
    model.config.id2label = {0: "c", 1: "b", 2: "a"}
    model.config.problem_type = "single_label_classification"
    encoder = ModelEncoder(model.eval())
    sound = (0.1 * np.random.default_rng(0).standard_normal((6, 40_000))).astype(np.float32)
    for number, wave in enumerate(sound):
        write(tmp_path / f"{number}.wav", wave, 16_000)
    tracks = [Track(str(n), f"{n}.wav", 40_000, 16_000, 1, str(n)) for n in range(6)]
    rows = np.arange(6)
    truth = ["abc"[n % 3] for n in range(6)]
    task = Task(
        "made", 1, "classes", Manifest.from_tracks(tracks, tmp_path), truth, ("a", "b", "c"), (Fold(rows, rows, rows),)
    )
    table = np.random.default_rng(1).standard_normal((2, TRACKS, FRAMES, 4)).astype(np.float32)
    value = {
        (row.unit, row.rule): row for row in compared(task, encoder, Store(table), fit(task, table[:, :6].mean(2)))
    }
    sound = np.stack([task.manifest.read(n, 16_000) for n in range(6)])  # rounded to 16 bit
    with torch.no_grad():
        song = model.class_logits(torch.from_numpy(sound)).argmax(1).tolist()
        hop = 24_000 // 16
        cuts = torch.stack([torch.from_numpy(wave[i * hop : i * hop + 16_000]) for wave in sound for i in range(16)])
        window = model.window_logits(cuts).argmax(1).tolist()
    found = value["song, own head", "16 windows spread evenly, mean of probabilities"]
    assert (found.number, found.value) == (6, pytest.approx(np.mean(["cba"[k] == t for k, t in zip(song, truth)])))
    found = value["window, own head", "each alone"]
    right = np.mean(["cba"[k] == t for k, t in zip(window, np.repeat(truth, 16))])
    assert (found.number, found.value) == (96, pytest.approx(right))
    model.config.id2label = {0: "x", 1: "b", 2: "a"}
    assert own_head(task, encoder) is None


def test_a_report_can_have_truth_in_columns():
    found = Confusion(("a", "b"), ((5, 1), (2, 7)))  # one a was taken for b
    columns, rows = (tables.confusion(found, where).markdown(aligned=True) for where in ("columns", "rows"))
    assert "| b | 1 | 7 |" in columns and "| a | 5 | 1 |" in rows and "|---|---:|---:|" in rows


def test_every_protocol_has_a_name_in_reports():
    assert set(SETTINGS) == set(HEADS)
