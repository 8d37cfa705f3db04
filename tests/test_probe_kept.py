"""Kept heads against the probe's own predictions, for every kind and both protocols whose heads are plain maps."""

import json

import numpy as np
import pytest
import torch

from groundbass.data.audio import read as audio
from groundbass.data.labels.lookup import kind_of, kinds
from groundbass.data.labels.splits import Fold
from groundbass.data.track import Manifest, Track
from groundbass.models.head_files import head_names, read_head
from groundbass.probe.baselines.simple import LogMelBaseline
from groundbass.probe.evaluation import Settings
from groundbass.probe.fit import fit
from groundbass.probe.heads.frames import fit_frames
from groundbass.probe.heads.head import WEIGHTED, Features
from groundbass.probe.heads.keep import keep_head
from groundbass.probe.listen.features import FeatureStore, Frames
from groundbass.probe.session import Session
from groundbass.probe.task import Task

CLIPS, LAYERS, FRAMES, DIM = 90, 4, 30, 12
STEP = 0.1  # s per frame


def label(kind, row):
    """Of a track; its sound below depends on it."""
    level = row % 3
    spans = [("C:maj", "A:min", "N")[(row + part) % 3] for part in range(3)]
    return {
        "classes": "abc"[level],
        "key": ("C major", "A minor", "Gb major")[level],
        "tags": [name for name, bit in (("x", 1), ("y", 2)) if (row % 4) & bit] + ["always"],
        "numbers": [float(level), 100.0 - 3 * level],
        "beats": (0.25 + np.arange(0, 2.6, 0.5 + 0.1 * level)).tolist(),
        "downbeats": (0.25 + np.arange(0, 2.6, 0.9)).tolist(),
        "chords": [{"start": n, "end": n + 1.0, "label": name} for n, name in enumerate(spans)],
        "events": [{"start": n, "end": n + 1.5, "label": name} for n, name in enumerate(spans)],
    }[kind]


def asked(name, seconds=None):
    kind = kind_of(name)
    tracks = [Track(f"{n}", f"{n}", 3000, 1000, 1, f"{n}") for n in range(CLIPS)]
    rows = np.random.default_rng(5).permutation(CLIPS)
    labels = [label(name, row) for row in range(CLIPS)]
    unit = "frame" if kind.over_time else "window" if seconds else "clip"
    fold = Fold(*(np.sort(part) for part in np.split(rows, [50, 70])))
    names = kind.names(labels, ["one", "two"])
    return Task("asked", 1, name, Manifest.from_tracks(tracks, "."), labels, names, (fold,), unit, seconds)


def sound(task):
    """[layers, tracks, frames, dim]: far from 0, of very different scales, one feature constant."""
    generator = np.random.default_rng(1)
    levels = np.arange(CLIPS) % 3
    x = generator.normal(size=(LAYERS, CLIPS, FRAMES, DIM))
    x += 0.8 * (levels == np.arange(3)[:, None]).T[None, :, None].repeat(4, -1).reshape(1, CLIPS, 1, DIM)
    x = 5 + x * np.geomspace(0.01, 100, DIM)
    x[..., 3] = 7.0
    return x.astype(np.float32)


@pytest.mark.parametrize("protocol", ["linear", "marble"])
@pytest.mark.parametrize("name", [name for name, kind in kinds().items() if not kind.over_time])
def test_a_kept_head_equals_the_probes_own_predictions(name, protocol):
    """The head hears frames and pools them itself; the probe read pooled features."""
    task = asked(name)
    x = sound(task) / (100 if protocol == "marble" else 1)
    exact = x.astype(np.float64)  # as the feature store pools
    changes = [(exact[:, :, step:] - exact[:, :, :-step]).std(2) for step in (1, 4)]
    pooled = np.concatenate([exact.mean(2), exact.std(2), *changes], -1).astype(np.float32)
    widths = {"mean": DIM, "mean+std": 2 * DIM, "mean+std+change": 4 * DIM}
    if protocol == "marble" or name == "classes":
        pooled, widths = pooled[..., :DIM], {}
    elif name == "tags":
        widths = {"mean+std+change": 4 * DIM}
    features = Features(pooled, np.arange(CLIPS), widths)
    layers = None if name != "key" else [1, 3]  # a weighted sum that leaves layers out
    outcome = fit(task, features, layers, protocol)
    head, facts = keep_head(task, outcome, features, LAYERS)
    rows = outcome.rows
    with torch.no_grad():
        logits = head([torch.from_numpy(layer[rows]) for layer in x])
    found = {"softmax": lambda t: t.softmax(-1), "sigmoid": torch.sigmoid, "identity": lambda t: t}
    scale = 100.0 if name == "numbers" else 1.0  # float32 holds 100 to 1e-5
    np.testing.assert_allclose(
        found[task.label_kind.link](logits.double()).numpy() / scale, outcome.guess / scale, atol=1e-5
    )
    assert len(facts.thresholds) == (len(task.classes) if name == "tags" else 0)
    assert facts.aggregation == "moments" and head.config.layer < LAYERS
    if name == "numbers":
        assert head.config.temperature == 1.0


def test_a_weighted_sum_is_kept(monkeypatch):
    """Forced: the choice among layers is made for it."""
    task = asked("classes")
    x = sound(task) / 100
    features = Features(x.mean(2), np.arange(CLIPS))
    monkeypatch.setattr("groundbass.probe.fit.choose", lambda task, fold, given, heads: only(heads))
    outcome = fit(task, features, [0, 1, 3], "marble")
    head, _ = keep_head(task, outcome, features, LAYERS)
    with torch.no_grad():
        logits = head([torch.from_numpy(layer[outcome.rows]) for layer in x])
    assert head.config.mixed == 3  # of layers 1 to 3, 2 has no share
    np.testing.assert_allclose(logits.softmax(-1).numpy(), outcome.guess, atol=1e-5)


def only(heads):
    """The heads of the weighted sum at one rate, as `choose` returns its choice."""
    from groundbass.probe.fit import Choice

    chosen = [head for head in heads if head.layer == WEIGHTED and head.setting == 1e-3]
    return chosen, Choice(WEIGHTED, 1e-3, 1.0), {}


@pytest.mark.parametrize("name", [name for name, kind in kinds().items() if kind.over_time])
def test_a_kept_head_over_time_equals_the_probes_own_activity(name):
    task = asked(name)
    x = sound(task).reshape(LAYERS, CLIPS * FRAMES, DIM)
    times = np.tile((np.arange(FRAMES) + 0.5) * STEP, CLIPS)
    frames = Frames(x, tuple(range(LAYERS)), {n: (n * FRAMES, (n + 1) * FRAMES) for n in range(CLIPS)}, times)
    outcome = fit_frames(task, frames, LAYERS)
    head, facts = keep_head(task, outcome, frames, LAYERS)
    row = int(outcome.rows[0])
    with torch.no_grad():
        logits = head([torch.from_numpy(layer[row * FRAMES : (row + 1) * FRAMES])[None] for layer in x])[0].double()
    activity = outcome.frame_heads[0][0].activities(task, frames, [row])[row]
    if task.label_kind.link == "softmax":
        np.testing.assert_allclose(logits.softmax(-1).numpy(), np.exp(activity), atol=1e-5)
    else:
        np.testing.assert_allclose(torch.sigmoid(logits).numpy(), activity, atol=1e-5)
    assert facts.unit == "frame" and facts.decoder == outcome.frame_heads[0][0].decoder
    assert head.config.temperature == 1.0  # decoders were chosen on these activities
    assert head.names == task.classes


def test_windows_average_logits():
    """A head of stretches: the mean of its logits over a track's stretches is the probe's answer."""
    task = asked("classes", seconds=1.5)
    x = sound(task).reshape(LAYERS, 2 * CLIPS, FRAMES // 2, DIM)
    features = Features(x.mean(2), np.repeat(np.arange(CLIPS), 2))
    outcome = fit(task, features)
    head, facts = keep_head(task, outcome, features, LAYERS)
    with torch.no_grad():
        logits = head([torch.from_numpy(layer) for layer in x]).view(CLIPS, 2, -1).double().mean(1)
    np.testing.assert_allclose(logits.softmax(-1).numpy()[outcome.rows], outcome.guess, atol=1e-5)
    assert (facts.aggregation, facts.stretch_seconds) == ("logits", 1.5)


def test_calibration_lowers_the_loss_on_validation_only():
    """Labels that are half noise: a head that is sure is cooled, and its answers keep their order."""
    task = asked("classes")
    noise = np.random.default_rng(0)
    labels = [name if noise.random() < 0.6 else noise.choice(list("abc")) for name in task.labels]
    task = Task(**{**{f: getattr(task, f) for f in task.__dataclass_fields__}, "labels": labels})
    x = sound(task)
    features = Features(x.mean(2), np.arange(CLIPS))
    outcome = fit(task, features)
    head, _ = keep_head(task, outcome, features, LAYERS)
    valid = task.folds[0].valid
    with torch.no_grad():
        logits = head([torch.from_numpy(layer[valid]) for layer in x])
        warm, plain = head.probabilities(logits).double().numpy(), logits.softmax(-1).double().numpy()
    loss = task.label_kind.loss
    assert head.config.temperature != 1.0 and loss(task.targets[valid], warm) < loss(task.targets[valid], plain)
    assert (warm.argmax(1) == plain.argmax(1)).all()


def test_the_command_writes_heads_beside_results_and_not_without(tmp_path):
    for row in range(24):
        tone = 0.3 * np.sin(2 * np.pi * (200 + 150 * row) * np.arange(4000) / 8000)
        audio.write(tmp_path / f"{row}.wav", tone.astype(np.float32), 8000)
    tracks = [Track(f"{n}", f"{n}.wav", 4000, 8000, 1, f"{n}") for n in range(24)]
    parts = [np.arange(24)[np.arange(24) % 4 == k] for k in range(4)]
    fold = Fold(np.sort(np.concatenate(parts[:2])), parts[2], parts[3])
    labels = ["low" if n < 12 else "high" for n in range(24)]
    task = Task("pitch", 1, "classes", Manifest.from_tracks(tracks, tmp_path), labels, ("high", "low"), (fold,))
    store, settings = FeatureStore(tmp_path / "store", quiet=True), Settings(baselines=("constant",))
    Session(LogMelBaseline(), "log-mel", tmp_path / "bare", store, settings, heads=False).run([task])
    assert not (tmp_path / "bare" / "heads").exists()
    out = tmp_path / "out"
    (record,) = Session(LogMelBaseline(), "log-mel", out, store, settings).run([task])
    assert head_names(out / "heads") == ["pitch"]
    head, facts = read_head(out / "heads", "pitch")
    assert (facts.encoder, facts.encoder_hash) == ("log-mel", record.weights_hash)
    assert facts.task["fingerprint"] == record.fingerprint and facts.scores["value"] == record.score.value
    assert head.config.layer == record.layer and head.names == ("high", "low") and facts.window_seconds == 10.0
    content = json.loads((out / "heads" / "pitch.json").read_text())
    assert content["format"] == "groundbass-head"
    (out / "heads" / "pitch.json").unlink()
    Session(LogMelBaseline(), "log-mel", out, store, settings).run([task])  # a result without its head isn't done
    assert head_names(out / "heads") == ["pitch"]
