"""Pooling by choice: statistics of change, what validation alone chooses, and that all systems choose alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_probe_command import Oracle, corpus, store, tasks  # noqa: F401  (a fixture)

from groundbass.data.labels.splits import Fold
from groundbass.data.track import Manifest, Track
from groundbass.models.heads import moments, pooled
from groundbass.probe.baselines.simple import LogCqtBaseline, NnAudioCqtBaseline
from groundbass.probe.evaluation import CRAFTED, Settings, TaskProbe, all_crafted, all_crafted_frames
from groundbass.probe.fit import fit
from groundbass.probe.heads.head import Features
from groundbass.probe.task import Task

RATE, BINS = 24_000, 24
POOLINGS = ("mean", "mean+std", "mean+std+change")


def tone(hertz):
    """[samples] of a sine whose frequency is given sample by sample."""
    return torch.from_numpy(0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)).float()[None]


def statistics(sound):
    """[4, bins] of its log-CQT: mean, deviation, deviation of differences over one and four frames."""
    frames = LogCqtBaseline().hidden_states(sound)[:, 0]
    return pooled(moments(frames), "mean+std+change").view(4, -1)


@pytest.mark.parametrize("midi", [45, 57, 69, 81])
def test_the_log_cqt_of_a_note_peaks_at_its_bin(midi):
    hertz = 440 * 2 ** ((midi - 69) / 12)
    mean = statistics(tone(np.full(2 * RATE, hertz)))[0]
    assert int(mean.argmax()) == round(BINS * np.log2(hertz / 27.5))


@pytest.mark.parametrize("midi", [33, 57, 81, 105])
def test_nnaudio_says_the_same_of_a_note(midi):
    """nnAudio's transform is the oracle of ours: its kernels are made and applied by others, at the full rate."""
    hertz = 440 * 2 ** ((midi - 69) / 12)
    sound = tone(np.full(3 * RATE, hertz))
    own, other = (made().hidden_states(sound)[0, 0].expm1() / 100 for made in (LogCqtBaseline, NnAudioCqtBaseline))
    assert own.shape == other.shape == (75, 192)
    inside = slice(20, 55)  # the bass kernels are 1.2 s long
    assert int(other[inside].mean(0).argmax()) == round(BINS * np.log2(hertz / 27.5))
    assert (own - other)[inside].abs().max() < 0.01 * own[inside].max()


def test_change_tells_a_vibrato_from_steady_tones_of_the_same_pitches():
    """The same two pitches for the same time: each held for 2 s, or a vibrato between them five times per second."""
    low, high = 880.0, 880.0 * 2 ** (1 / 12)
    held = np.repeat([low, high], 2 * RATE)
    vibrato = np.tile(np.repeat([low, high], RATE // 10), 20)
    steady, moved = statistics(tone(held)), statistics(tone(vibrato))
    here = [round(BINS * np.log2(hertz / 27.5)) for hertz in (low, high)]
    narrow = (moved[:2, here] / steady[:2, here]).log2().abs()
    change = moved[2, here] / steady[2, here]
    assert narrow.max() < 0.5 and change.min() > 2


def made(valid_reads_change):
    """A task and its features: training tracks tell their class by mean and change, validation by one, test by the
    other.
    """
    draw, clips, dim = np.random.default_rng(0), 180, 6
    truth = draw.integers(0, 3, clips)
    fold = Fold(np.arange(80), np.arange(80, 130), np.arange(130, clips))
    told = np.eye(3, dim)[truth] * 4
    array = draw.normal(size=(1, clips, 4 * dim)).astype(np.float32)
    mean, change = np.ones(clips, bool), np.ones(clips, bool)
    (mean if valid_reads_change else change)[fold.valid] = False
    (change if valid_reads_change else mean)[fold.test] = False
    array[0, mean, :dim] += told[mean]
    array[0, change, 2 * dim : 3 * dim] += told[change]
    manifest = Manifest.from_tracks([Track(str(n), str(n), 1, 1, 1, str(n)) for n in range(clips)], ".")
    task = Task("made", 1, "classes", manifest, ["abc"[k] for k in truth], ("a", "b", "c"), (fold,))
    widths = {"mean": dim, "mean+std": 2 * dim, "mean+std+change": 4 * dim}
    return task, Features(array, np.arange(clips), widths)


@pytest.mark.parametrize(("by_change", "chosen"), [(True, ("mean+std+change",)), (False, ("mean", "mean+std"))])
def test_the_pooling_is_chosen_on_validation_and_never_on_test(by_change, chosen):
    """The test tracks would prefer the other one."""
    outcome = fit(*made(by_change))
    assert outcome.pooling in chosen and outcome.choices[0].valid > 0.8


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        (Settings(), POOLINGS),
        (Settings(pooling="mean+std"), POOLINGS[1:2]),
        (Settings(protocol="marble"), POOLINGS[:1]),
        (Settings(pooling="mean", units=True), POOLINGS[:1]),
    ],
)
def test_encoder_copies_and_hand_crafted_sets_choose_from_the_same_poolings(settings, allowed, corpus, tmp_path):  # noqa: F811
    """The choice is in every outcome."""
    (task,) = tasks(corpus, ("synth_style",))
    asked = replace(settings, seeds=(0,), baselines=("log_mel", "log_cqt", "all_crafted"), layers=(1,)).on(task)
    keep = store(tmp_path)
    found = TaskProbe(task, Oracle(), keep, asked).evaluate()
    systems = {"encoder": [found.trained], **found.others}
    assert {"encoder", "log_cqt", "all_crafted"} <= set(systems)
    assert all(outcome.pooling in allowed for outcomes in systems.values() for outcome in outcomes)
    assert tuple(all_crafted(task, keep, asked.pooling).widths) == tuple(allowed)


@pytest.mark.slow
def test_all_hand_crafted_sets_of_frames_stand_side_by_side(corpus, tmp_path):  # noqa: F811
    """Beside each of MFCC's frames those of the other sets that are nearest in time; frame tasks are asked of them."""
    (task,) = tasks(corpus[::3], ("synth_beat",))
    keep = store(tmp_path)
    together, begin = all_crafted_frames(task, keep), 0
    for name, make in CRAFTED.items():
        alone = keep.frames(make(), task.manifest, task.rows, [0], name)
        width = alone.array.shape[-1]
        for row, (first, end) in list(together.spans.items())[:3]:
            own = slice(*alone.spans[row])
            near = np.abs(alone.times[own][None] - together.times[first:end, None]).argmin(1)
            ours = together.array[0, first:end, begin : begin + width]
            np.testing.assert_array_equal(ours, alone.array[0, own][near])
        begin += width
    assert together.array.shape[-1] == begin
    asked = Settings(baselines=("all_crafted", "constant"), layers=(1,)).on(task)
    assert "all_crafted" in TaskProbe(task, Oracle(), keep, asked).evaluate().others
