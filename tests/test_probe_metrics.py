"""Metrics against scikit-learn and mir_eval; intervals against a world whose truth is known."""

from itertools import pairwise

import mir_eval
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import r2_score, roc_auc_score

from groundbass.data.labels.kinds.beats import beat_scores, f_measure
from groundbass.data.labels.kinds.chords import CHORDS, chord_class, chord_scores, chord_spans, frame_edges, majmin
from groundbass.data.labels.kinds.key import KEYS, key_name
from groundbass.data.labels.lookup import kind_of
from groundbass.probe.report.bootstrap import Interval, draw, interval, mark


def example(kind, clips=60, seed=0):
    """truth, guess, class names of a plausible split."""
    generator = np.random.default_rng(seed)
    if kind in ("classes", "key"):
        names = list(KEYS) if kind == "key" else list("abcd")
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
    assert kind_of(kind).main(truth, guess, names) == pytest.approx(
        kind_of(kind).measure(truth, guess, names)[kind_of(kind).metric], abs=1e-12
    )
    ours = kind_of(kind).resampled(truth, guess, names, counts)
    assert ours[0] == pytest.approx(kind_of(kind).measure(truth, guess, names)[kind_of(kind).metric], abs=1e-12)
    for resample, value in zip(counts.astype(int), ours):
        rows = np.repeat(np.arange(len(truth)), resample)
        assert value == pytest.approx(
            kind_of(kind).measure(truth[rows], guess[rows], names)[kind_of(kind).metric], abs=1e-12
        )


def test_measures_by_hand():
    assert kind_of("classes").measure(np.array([0, 0, 1]), np.eye(2)[[0, 1, 1]], ["a", "b"]) == {
        "accuracy": pytest.approx(2 / 3),
        "balanced_accuracy": 0.75,
    }
    keys = list(KEYS)
    truth = np.array([keys.index(k) for k in ("C major", "C major", "C major", "C major", "C major")])
    answers = [
        "C major",
        "G major",
        "A minor",
        "C minor",
        "F major",
    ]  # same, fifth above, relative, parallel, fifth below
    guess = np.eye(24)[[keys.index(k) for k in answers]]
    assert kind_of("key").measure(truth, guess, keys)["key_score"] == pytest.approx((1 + 0.5 + 0.3 + 0.2 + 0) / 5)
    found = kind_of("tags").measure(*example("tags"))
    truth, guess, _ = example("tags")
    assert found["tags_scored"] == 4  # the tag without a positive isn't counted as 0
    assert found["roc_auc"] == pytest.approx(np.mean([roc_auc_score(truth[:, k], guess[:, k]) for k in range(4)]))
    truth, guess, names = example("numbers")
    assert kind_of("numbers").measure(truth, guess, names)["r2_valence"] == pytest.approx(
        r2_score(truth[:, 1], guess[:, 1])
    )


def test_key_names():
    assert key_name("c# Minor") == "Db minor"
    assert key_name("Bb major") == "Bb major"
    with pytest.raises(ValueError, match="no key"):
        key_name("H dur")


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
        found = interval(right.mean(), kind_of("classes").resampled(truth, guess, ["a", "b"], counts), number, (0, 1))
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
        found = interval(right.mean(), kind_of("classes").resampled(truth, guess, ["a", "b"], counts), number)
        widths.append(found.high - found.low)
    assert widths[1] > 1.8 * widths[0]  # sqrt(5) = 2.2 in theory
    other = np.eye(2)[(right & (np.arange(100) != np.flatnonzero(right)[0])).astype(int)]  # one more mistake
    counts, number = draw(list(range(100)))
    difference = kind_of("classes").resampled(truth, guess, ["a", "b"], counts) - kind_of("classes").resampled(
        truth, other, ["a", "b"], counts
    )
    paired = interval(0.01, difference, number)
    assert paired.high - paired.low < 0.05 < widths[0]


def test_a_perfect_score_is_no_certainty():
    """20 of 20 right: Clopper and Pearson's interval, as scipy has it; a difference has no bound and stays as it is."""
    copies = np.ones(100)
    for value, hits in ((1.0, 20), (0.0, 0)):
        theirs = binomtest(hits, 20).proportion_ci(0.95)
        found = interval(value, value * copies, 20, (0.0, 1.0))
        assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))
    assert interval(0.0, 0 * copies, 20) == Interval(0.0, 0.0, 0.0)


def test_marks():
    assert [mark(Interval(0.1, low, high)) for low, high in ((0.05, 0.2), (-0.1, 0.2), (-0.2, -0.1))] == ["▲", "=", "▼"]
    assert mark(None) == mark(Interval(0.1, float("nan"), float("nan"))) == "?"


def test_beat_scores_are_mir_evals():
    beats = np.arange(0.4, 29.9, 0.5)
    for estimate in (
        beats,
        beats + 0.05,
        beats[::2],
        beats[::2] + 0.25,
        np.sort(np.random.default_rng(0).random(40) * 30),
    ):
        found = beat_scores(beats.tolist(), estimate)
        assert found[0] == pytest.approx(mir_eval.beat.f_measure(beats, estimate))
        assert found[1:] == pytest.approx(mir_eval.beat.continuity(beats, estimate))
    assert beat_scores(beats.tolist(), beats) == (1, 1, 1, 1, 1)
    assert beat_scores(beats.tolist(), beats[::2])[3] == 1.0  # half the tempo is allowed by AML, not by CML
    assert beat_scores(beats.tolist(), beats[:0]) == (0, 0, 0, 0, 0)


def test_chord_classes_follow_the_third_and_fifth():
    names = [
        "C:maj",
        "C:7",
        "C:maj7",
        "C:min",
        "C:min7",
        "C:dim",
        "C:sus4",
        "C:aug",
        "N",
        "X",
        "Db:maj/3",
        "C#:min",
        "B",
    ]
    found = [chord_class(name) for name in names]
    assert [CHORDS[n] if n >= 0 else None for n in found] == [
        "C:maj", "C:maj", "C:maj", "C:min", "C:min", None, None, None, "N", None, "Db:maj", "Db:min", "B:maj",
    ]  # fmt: skip
    for name, number in zip(names, found):  # a class always counts as right for its label, where mir_eval compares
        if number >= 0:
            assert mir_eval.chord.majmin([name], [CHORDS[number]])[0] == 1
        else:
            assert mir_eval.chord.majmin([name], ["C:maj"])[0] == -1


def test_chord_scores_weigh_by_time():
    truth = [{"start": 0.0, "end": 3.0, "label": "C:maj7"}, {"start": 3.0, "end": 4.0, "label": "A:min"}]
    half = [{"start": 0.0, "end": 2.0, "label": "C:maj"}, {"start": 2.0, "end": 4.0, "label": "A:maj"}]
    assert chord_scores(truth, truth) == (1, 1)
    assert chord_scores(truth, half) == pytest.approx((0.5, 0.75))
    assert chord_scores(truth, half[:1]) == pytest.approx((0.5, 0.5))  # what is missing is no chord
    assert chord_scores(truth, [*half, {"start": 4.0, "end": 9.0, "label": "B:min"}]) == pytest.approx((0.5, 0.75))


def test_frame_kinds_are_means_over_tracks():
    scores = np.array([[0.5, 0.1, 0.2, 0.3, 0.4], [1.0, 0.3, 0.4, 0.5, 0.6]])
    found = kind_of("beats").measure(np.zeros(2), scores, ["beat"])
    assert found == pytest.approx({"f_measure": 0.75, "cmlc": 0.2, "cmlt": 0.3, "amlc": 0.4, "amlt": 0.5})
    assert kind_of("beats").resampled(np.zeros(2), scores, ["beat"], np.array([[2.0, 0.0]])).tolist() == [0.5]


def test_quick_beat_scores_are_mir_evals():
    """Crowded, sparse and empty beats, and pairs just inside and outside of 70 ms."""
    draw = np.random.default_rng(3)
    for number in range(200):
        truth, guess = (np.sort(draw.uniform(0, 4, draw.integers(0, 60))) for _ in range(2))
        if number % 2:
            guess = np.sort(truth + draw.choice([-0.0701, -0.0699, 0.0, 0.0699, 0.0701], len(truth)))
        assert f_measure(truth, guess) == pytest.approx(beat_scores(truth.tolist(), guess)[0], abs=1e-12)


def test_quick_chord_scores_are_mir_evals():
    draw = np.random.default_rng(4)
    names = [*CHORDS, "C:dim", "D:min7", "X"]
    for _ in range(50):
        cuts = np.concatenate([[0.0], np.sort(draw.uniform(0.3, 7.9, 5)), [draw.uniform(8, 9)]])
        spans = [{"start": a, "end": b, "label": str(draw.choice(names))} for a, b in pairwise(cuts)]
        times = (np.arange(draw.integers(60, 110)) + 0.5) / 12.5
        path = np.repeat(draw.integers(0, 25, len(times)), 8)[: len(times)]
        numbers = np.array([chord_class(span["label"]) for span in spans])
        found = majmin(cuts[:-1], cuts[1:], numbers, path, frame_edges(times))
        assert found == pytest.approx(chord_scores(spans, chord_spans(path, times))[0], abs=1e-9)
