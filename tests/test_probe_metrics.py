"""Metrics against scikit-learn and mir_eval; intervals against a world whose truth is known."""

import mir_eval
import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from groundbass.probe import metrics
from groundbass.probe.beats import f_measure, peaks
from groundbass.probe.bootstrap import Interval, draw, interval, mark


def example(kind, clips=60, seed=0):
    """truth, guess, class names of a plausible split."""
    generator = np.random.default_rng(seed)
    if kind in ("classes", "key"):
        names = list(metrics.KEYS) if kind == "key" else list("abcd")
        truth = generator.integers(0, len(names), clips)
        guess = (
            generator.random((clips, len(names)))
            + 1.0 * np.eye(len(names))[truth] * (generator.random(clips) < 0.5)[:, None]
        )
        return truth, guess, names
    if kind == "tags":
        truth = (generator.random((clips, 5)) < [0.5, 0.3, 0.2, 0.1, 0.0]).astype(int)  # the last tag has no positive
        return (
            truth,
            np.round(generator.random((clips, 5)) + 0.5 * truth, 1),
            list("abcde"),
        )  # rounded, so that there are ties
    truth = generator.normal(size=(clips, 2))
    return truth, truth + generator.normal(size=(clips, 2)), ["arousal", "valence"]


@pytest.mark.parametrize("kind", ["classes", "key", "tags", "numbers"])
def test_resampled_metric_equals_the_library_on_the_drawn_clips(kind):
    truth, guess, names = example(kind)
    counts, _ = draw(list(range(len(truth))), resamples=20)
    counts[0] = 1
    ours = metrics.resampled(kind, truth, guess, names, counts)
    assert ours[0] == pytest.approx(metrics.measure(kind, truth, guess, names)[metrics.MAIN[kind]], abs=1e-12)
    for resample, value in zip(counts.astype(int), ours):
        rows = np.repeat(np.arange(len(truth)), resample)
        assert value == pytest.approx(
            metrics.measure(kind, truth[rows], guess[rows], names)[metrics.MAIN[kind]], abs=1e-12
        )


def test_measures_by_hand():
    assert metrics.measure("classes", np.array([0, 0, 1]), np.eye(2)[[0, 1, 1]], ["a", "b"]) == {
        "accuracy": pytest.approx(2 / 3),
        "balanced_accuracy": 0.75,
    }
    keys = list(metrics.KEYS)
    truth = np.array([keys.index(k) for k in ("C major", "C major", "C major", "C major", "C major")])
    answers = [
        "C major",
        "G major",
        "A minor",
        "C minor",
        "F major",
    ]  # same, fifth above, relative, parallel, fifth below
    guess = np.eye(24)[[keys.index(k) for k in answers]]
    assert metrics.measure("key", truth, guess, keys)["key_score"] == pytest.approx((1 + 0.5 + 0.3 + 0.2 + 0) / 5)
    found = metrics.measure("tags", *example("tags"))
    truth, guess, _ = example("tags")
    assert found["tags_scored"] == 4  # the tag without a positive isn't counted as 0
    assert found["roc_auc"] == pytest.approx(np.mean([roc_auc_score(truth[:, k], guess[:, k]) for k in range(4)]))
    truth, guess, names = example("numbers")
    assert metrics.measure("numbers", truth, guess, names)["r2_valence"] == pytest.approx(
        r2_score(truth[:, 1], guess[:, 1])
    )


def test_key_names():
    assert metrics.key_name("c# Minor") == "Db minor"
    assert metrics.key_name("Bb major") == "Bb major"
    with pytest.raises(ValueError, match="no key"):
        metrics.key_name("H dur")


@pytest.mark.parametrize(("groups", "per_group"), [(60, 1), (15, 6)])
def test_intervals_cover_the_truth(groups, per_group):
    """Right answers of chance 0.7, the tracks of one artist alike: 95 % of the intervals must hold 0.7."""
    generator = np.random.default_rng(3)
    held, runs = 0, 300
    names = np.repeat(np.arange(groups), per_group)
    counts, number = draw(names.tolist(), resamples=400)
    for _ in range(runs):
        chance = np.clip(0.7 + (0.2 * generator.choice([-1, 1], groups) if per_group > 1 else np.zeros(groups)), 0, 1)
        right = generator.random(len(names)) < chance[names]
        guess = np.eye(2)[right.astype(int)]
        truth = np.ones(len(names), int)
        found = interval(right.mean(), metrics.resampled("classes", truth, guess, ["a", "b"], counts), number, (0, 1))
        held += found.low <= 0.7 <= found.high
    assert number == groups
    assert 0.90 <= held / runs <= 0.99


def test_clusters_widen_and_pairing_narrows():
    generator = np.random.default_rng(0)
    artist = np.repeat(np.arange(20), 5)
    right = (generator.random(20) < 0.5)[artist]  # all tracks of an artist right, or all wrong
    truth, guess = np.ones(100, int), np.eye(2)[right.astype(int)]
    widths = []
    for names in (list(range(100)), artist.tolist()):
        counts, number = draw(names)
        found = interval(right.mean(), metrics.resampled("classes", truth, guess, ["a", "b"], counts), number)
        widths.append(found.high - found.low)
    assert widths[1] > 1.8 * widths[0]  # sqrt(5) = 2.2 in theory
    other = np.eye(2)[(right & (np.arange(100) != np.flatnonzero(right)[0])).astype(int)]  # one more mistake
    counts, number = draw(list(range(100)))
    difference = metrics.resampled("classes", truth, guess, ["a", "b"], counts) - metrics.resampled(
        "classes", truth, other, ["a", "b"], counts
    )
    paired = interval(0.01, difference, number)
    assert paired.high - paired.low < 0.05 < widths[0]


def test_marks():
    assert [mark(Interval(0.1, low, high)) for low, high in ((0.05, 0.2), (-0.1, 0.2), (-0.2, -0.1))] == ["▲", "=", "▼"]
    assert mark(None) == mark(Interval(0.1, float("nan"), float("nan"))) == "?"


def test_peaks_find_beats_and_mir_eval_scores_them():
    times = (np.arange(500) + 0.5) / 50
    beats = np.arange(0.4, 9.9, 0.5)
    probability = np.exp(-((times[:, None] - beats[None]) ** 2).min(1) / 0.001)
    found = peaks(probability, times, 0.3)
    assert len(found) == len(beats) and np.abs(found - beats).max() < 0.02
    assert f_measure(beats.tolist(), found) == 1.0
    assert f_measure(beats.tolist(), found[::2]) == pytest.approx(mir_eval.beat.f_measure(beats, found[::2]))
    assert f_measure(beats.tolist(), found[:0]) == 0.0
