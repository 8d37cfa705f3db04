"""Protocols: a head of the grid equals the same head alone, neighbours and mixtures are scikit-learn's, shots nest."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier

from groundbass.data.labels.kinds.key import KEYS
from groundbass.data.labels.lookup import kind_of
from groundbass.data.labels.splits import Fold
from groundbass.data.track import Manifest, Track
from groundbass.probe.baselines.simple import constant
from groundbass.probe.curves import few_shot
from groundbass.probe.fit import candidates, fit, training_data
from groundbass.probe.heads import classic, marble
from groundbass.probe.heads.head import WEIGHTED, Features, answer, items_of
from groundbass.probe.task import Task

CLIPS, DIM, LAYERS = 150, 12, 3


def task(kind="classes", owners=CLIPS, classes=4):
    """Labels of `owners` tracks, 60:20:20, without audio."""
    generator = np.random.default_rng(0)
    names = tuple("abcdefgh"[:classes])
    labels = {
        "classes": [names[k] for k in generator.integers(0, classes, owners)],
        "tags": [[name for name in names if generator.random() < 0.4] for _ in range(owners)],
        "numbers": generator.normal(size=(owners, classes)).tolist(),
    }[kind]
    tracks = [Track(f"{n}", f"{n}", 100, 100, 1, f"h{n}") for n in range(owners)]
    order = generator.permutation(owners)
    parts = [np.sort(order[: owners * 3 // 5]), np.sort(order[owners * 3 // 5 : owners * 4 // 5])]
    fold = Fold(*parts, np.sort(order[owners * 4 // 5 :]))
    return Task("made", 1, kind, Manifest.from_tracks(tracks, "."), labels, names, (fold,))


def features(asked, strength=1.5, seed=1):
    """[layers, tracks, dim]: layer 0 is noise, the others carry the targets more and more clearly."""
    generator = np.random.default_rng(seed)
    targets = asked.targets
    table = np.eye(len(asked.classes))[targets] if asked.kind == "classes" else targets.astype(float)
    mix = generator.normal(size=(table.shape[1], DIM))
    noise = generator.normal(size=(LAYERS, len(table), DIM))
    return (noise + np.array([0, 0.3, 1])[:, None, None] * strength * (table @ mix)).astype(np.float32)


def grid(asked, x, layers=(0, 1, 2), seeds=(0,), rates=marble.RATES, epochs=30):
    fold = asked.folds[0]
    data = training_data(asked, Features(x, np.arange(x.shape[1])), fold.train, fold.valid, list(layers), seeds)
    return list(marble.grid(data, rates, epochs))


@pytest.mark.parametrize("kind", ["classes", "tags", "numbers"])
def test_a_head_of_the_grid_is_the_head_alone(kind):
    asked = task(kind)
    x = features(asked)
    rows = asked.folds[0].test
    whole = {(h.layer, h.setting, h.seed): h.respond(x, rows) for h in grid(asked, x, seeds=(0, 5))}
    assert len(whole) == 4 * 6 * 2 and {layer for layer, _, _ in whole} == {WEIGHTED, 0, 1, 2}
    for layer, rate, seed in [(1, 1e-2, 0), (2, 5e-4, 5), (0, 5e-5, 0)]:
        (alone,) = (h for h in grid(asked, x, (layer,), (seed,), (rate,)) if h.layer == layer)
        np.testing.assert_allclose(alone.respond(x, rows), whole[layer, rate, seed], atol=1e-3)
    assert not np.allclose(whole[2, 1e-2, 0], whole[2, 1e-2, 5])  # another seed is another head


def plain_head(asked, x, layer, rate, seed, epochs):
    """One head as anyone would write it: torch.nn, torch.optim.Adam, autograd; the seed drawn in the same order."""
    fold = asked.folds[0]
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape, fan_in):
        return (torch.rand(shape, generator=generator) * 2 - 1) / fan_in**0.5

    first, last = torch.nn.Linear(DIM, 512), torch.nn.Linear(512, len(asked.classes))
    with torch.no_grad():
        for part, shape, fan_in in (
            (first.weight, (512, DIM), DIM), (first.bias, (512,), DIM),
            (last.weight, (len(asked.classes), 512), 512), (last.bias, (len(asked.classes),), 512),
        ):  # fmt: skip
            part.copy_(uniform(*shape, fan_in=fan_in))
    optimiser = torch.optim.Adam([*first.parameters(), *last.parameters()], lr=rate)
    data, truth = torch.from_numpy(x[layer]), torch.from_numpy(asked.targets)
    train = torch.from_numpy(fold.train)
    for _ in range(epochs):
        for batch in torch.randperm(len(train), generator=generator).split(64):
            mask = (torch.rand(len(batch), 512, generator=generator) >= 0.2).float() / 0.8
            logits = last(torch.relu(first(data[train[batch]])) * mask)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(logits, truth[train[batch]]).backward()
            optimiser.step()
    with torch.no_grad():
        return torch.log_softmax(last(torch.relu(first(data))).double(), -1).numpy()


@pytest.mark.parametrize("rate", [1e-4, 1e-2])
def test_marbles_head_against_torchs_own_layers_and_adam(rate, monkeypatch):
    """Four epochs, each better than the last on validation, so that the last one is kept."""
    asked = task()
    x = features(asked, strength=0.7)
    rising = iter(range(100))
    monkeypatch.setattr("groundbass.data.labels.kind.Kind.main", lambda *_: float(next(rising)))
    (head,) = (h for h in grid(asked, x, (2,), (3,), (rate,), epochs=4))
    np.testing.assert_allclose(head.respond(x, np.arange(CLIPS)), plain_head(asked, x, 2, rate, 3, 4), atol=2e-4)


@pytest.mark.parametrize("name, patience", [("", 15), ("gtzan_genre", 20), ("mtt_tags", 10)])
def test_marble_stops_early_and_keeps_the_best_epoch(name, patience, monkeypatch):
    """A validation score that peaks at epoch 3: the kept head is that of three epochs, whatever follows."""
    asked = replace(task(), name=name)
    x = features(asked, strength=0.7)
    scores = iter([0.1, 0.2, 0.9, *([0.3] * 1000)])
    seen = []

    def judged(*_):
        seen.append(next(scores))
        return seen[-1]

    monkeypatch.setattr("groundbass.data.labels.kind.Kind.main", judged)
    (head,) = (h for h in grid(asked, x, (1,), (0,), (1e-3,), epochs=100))
    assert len(seen) == 3 + patience
    np.testing.assert_allclose(head.respond(x, np.arange(CLIPS)), plain_head(asked, x, 1, 1e-3, 0, 3), atol=2e-4)


@pytest.mark.parametrize("protocol", ["linear", "marble", "knn", "gmm", "svm", "forest"])
def test_every_protocol_finds_the_layer_that_knows(protocol, monkeypatch):
    monkeypatch.setattr(marble, "EPOCHS", 20)
    monkeypatch.setattr(classic, "TREES", 40)
    asked = task()
    outcome = fit(asked, features(asked, 3.0), None, protocol, (0, 1) if protocol == "marble" else (0,))
    assert outcome.layer in (2, WEIGHTED) and (outcome.guess.argmax(1) == outcome.truth).mean() > 0.9
    assert outcome.layers[2] > outcome.layers[0] and len(outcome.guesses) == (2 if protocol == "marble" else 1)
    np.testing.assert_allclose(outcome.guess.sum(1), 1)
    noise = fit(asked, features(asked, 0.0), None, protocol)
    assert (noise.guess.argmax(1) == noise.truth).mean() < 0.6


def key_task():
    """One of three keys per track."""
    asked = task(classes=3)
    names = {"a": "C major", "b": "A minor", "c": "Gb minor"}
    labels = [names[label] for label in asked.labels]
    return Task("made", 1, "key", asked.manifest, labels, KEYS, asked.folds)


KINDS = ("classes", "key", "tags", "numbers")
CLASSIC = [(p, kind) for p in ("svm", "forest") for kind in KINDS]
ASKED = [
    *((p, kind) for p in ("linear", "marble", "knn") for kind in KINDS),
    ("gmm", "classes"),
    ("gmm", "key"),
    *CLASSIC,
]


@pytest.mark.parametrize("unit", ["clip", "window"])
@pytest.mark.parametrize(("protocol", "kind"), ASKED)
def test_an_oracle_reaches_one_and_a_constant_the_constant_baseline(kind, protocol, unit, monkeypatch):
    """By every protocol, for every kind that it takes, on clips and on windows: the brackets of a score."""
    monkeypatch.setattr(classic, "TREES", 40)
    asked = key_task() if kind == "key" else task(kind)
    owner = np.repeat(np.arange(CLIPS), 2 if unit == "window" else 1)
    table = asked.targets if kind in ("tags", "numbers") else np.eye(len(asked.classes))[asked.targets]
    outcome = fit(asked, Features(table[None, owner].astype(np.float32), owner), None, protocol)
    value = kind_of(kind).measure(outcome.truth, outcome.guess, list(asked.classes))[asked.metric]
    rough = kind == "numbers" and protocol in ("knn", "svm", "forest")  # none of them draws lines
    assert value > 0.3 if rough else value == pytest.approx(1, abs=0.01)
    if protocol == "knn":
        return  # all clips are equally near: which are nearest is arbitrary
    nothing = fit(asked, Features(np.full((1, len(owner), 5), 3.0, np.float32), owner), None, protocol)
    floor = constant(asked)
    scores = [kind_of(kind).measure(o.truth, o.guess, list(asked.classes))[asked.metric] for o in (nothing, floor)]
    if kind == "key":  # the constant knows the metric and may do better than the commonest key
        assert scores[0] <= scores[1] + 1e-9
    else:
        assert scores[0] == pytest.approx(scores[1], abs=0.05 if protocol == "marble" or rough else 1e-9)


def test_the_weighted_sum_learns_its_weights():
    """Half of what must be known lies in each of two layers: only their sum tells all four classes apart."""
    asked = task()
    bits = np.array([[k // 2, k % 2] for k in asked.targets], dtype=np.float32)
    x = 0.3 * np.random.default_rng(0).normal(size=(3, CLIPS, DIM)).astype(np.float32)
    x[1, :, 0] += 4 * bits[:, 0]
    x[2, :, 1] += 4 * bits[:, 1]
    outcome = fit(asked, x, None, "marble")
    assert outcome.layer == WEIGHTED and (outcome.guess.argmax(1) == outcome.truth).mean() > 0.95


def test_neighbours_are_scikit_learns():
    asked = task()
    x, fold = features(asked), asked.folds[0]
    data = training_data(asked, Features(x, np.arange(CLIPS)), fold.train, fold.valid, [2])
    mean, scale = x[2][fold.train].mean(0), x[2][fold.train].std(0)
    for head in candidates("knn", data):
        theirs = KNeighborsClassifier(int(head.setting), metric="cosine")
        theirs.fit((x[2][fold.train] - mean) / scale, asked.targets[fold.train])
        votes = theirs.predict_proba((x[2][fold.test] - mean) / scale)
        found = answer(kind_of("classes"), head.respond(x, fold.test), fold.test)
        np.testing.assert_allclose(found, votes, atol=2e-3)
    assert head.setting == 50
    numbers = task("numbers")
    guess = fit(numbers, features(numbers, 3.0), None, "knn")
    assert guess.layer == 2 and np.corrcoef(guess.guess[:, 0], guess.truth[:, 0])[0, 1] > 0.5


def test_mixtures_are_scikit_learns():
    asked = task(classes=2)
    x, fold = features(asked), asked.folds[0]
    data = training_data(asked, Features(x, np.arange(CLIPS)), fold.train, fold.valid, [1])
    one = next(iter(candidates("gmm", data)))
    train = x[1][fold.train].astype(np.float64)
    mean, scale = train.mean(0), train.std(0)
    scores = []
    for name in (0, 1):
        clips = ((train - mean) / scale)[asked.targets[fold.train] == name]
        theirs = GaussianMixture(1, covariance_type="diag", reg_covar=1e-2).fit(clips)
        scores.append(theirs.score_samples((x[1][fold.test] - mean) / scale) + np.log(len(clips) / len(train)))
    np.testing.assert_allclose(one.respond(x, fold.test), np.stack(scores, 1), rtol=1e-6)
    with pytest.raises(ValueError, match="tells classes apart"):
        fit(task("tags"), features(task("tags")), None, "gmm")


@pytest.mark.parametrize("kind", ["classes", "tags", "numbers"])
def test_windows_answer_together(kind):
    """A track's answer is that of its windows' mean logits; tracks of one window are tracks."""
    asked = task(kind, owners=40)
    owner = np.repeat(np.arange(40), 1 + np.arange(40) % 3)
    x = features(asked, 2.0)[:, owner] + 0.1 * np.random.default_rng(0).normal(size=(LAYERS, len(owner), DIM))
    outcome = fit(asked, Features(x.astype(np.float32), owner))
    fold, (head,) = asked.folds[0], outcome.heads[0]
    for row, guess in zip(fold.test, outcome.guess):
        logits = head.respond(x.astype(np.float32), np.flatnonzero(owner == row)).mean(0)
        if kind == "classes":
            expected = np.exp(logits) / np.exp(logits).sum()
        else:
            expected = logits if kind == "numbers" else 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(guess, expected, atol=1e-12)
    assert items_of(owner, np.array([2, 0, 4])).tolist() == [3, 4, 5, 0, 7, 8]


def test_test_tracks_are_not_learned_from():
    """Other features and labels of the test tracks change no choice and no head."""
    asked = task()
    x = features(asked)
    y = x.copy()
    y[:, asked.folds[0].test] = 1e3
    for protocol in ("linear", "knn", "gmm", "marble"):
        a, b = fit(asked, x, None, protocol), fit(asked, y, None, protocol)
        assert a.choices == b.choices and a.layers == b.layers
        np.testing.assert_array_equal(
            a.heads[0][0].respond(x, asked.folds[0].train), b.heads[0][0].respond(x, asked.folds[0].train)
        )


def test_few_shots_nest_and_help():
    asked = task()
    train = asked.folds[0].train
    for draw in range(3):
        small, large = few_shot.subset(asked, train, 2, draw), few_shot.subset(asked, train, 5, draw)
        assert set(small) < set(large) <= set(train)
        assert np.bincount(asked.targets[small]).tolist() == [2] * 4
    points = few_shot.curve(asked, Features(features(asked, 1.0), np.arange(CLIPS)), (1, 5, 1000), [1, 2])
    assert [point.clips for point in points] == [4, 20, len(train)]
    whole = fit(asked, features(asked, 1.0), [1, 2])
    score = (whole.guess.argmax(1) == whole.truth).mean()
    assert all(value == pytest.approx(score, abs=0.04) for value in points[-1].values)
    assert np.mean(points[0].values) < np.mean(points[1].values) <= score + 0.05
    assert len(few_shot.subset(task("tags"), train, 3, 0)) == 12


def test_rare_and_missing_classes_are_lived_with():
    """A class without training clips, one without any others, a tag that all carry: probabilities stay finite."""
    asked = task()
    fold = asked.folds[0]
    lost = Fold(fold.train[asked.targets[fold.train] != 3], fold.valid, fold.test)
    only = Fold(fold.train[asked.targets[fold.train] == 1], fold.valid, fold.test)
    for protocol in ("linear", "knn", "gmm", "marble"):
        for part in (lost, only):
            narrow = Task("made", 1, "classes", asked.manifest, asked.labels, asked.classes, (part,))
            guess = fit(narrow, features(asked), [1], protocol).guess
            assert np.isfinite(guess).all() and (guess[:, 3] < 0.3).all()
    tags = task("tags")
    labels = [[*{*tags.labels[row], "a"} - {"b"}] for row in range(CLIPS)]  # everyone has a, no one b
    even = Task("made", 1, "tags", tags.manifest, labels, tags.classes, tags.folds)
    guess = fit(even, features(tags)).guess
    assert (guess[:, 0] == 1).all() and (guess[:, 1] == 0).all()


def test_judging_is_the_main_metric():
    asked = task()
    fold = asked.folds[0]
    data = training_data(asked, Features(features(asked), np.arange(CLIPS)), fold.train, fold.valid, [0])
    guess = np.eye(4)[asked.targets[fold.valid]]
    assert data.judge(guess) == (
        kind_of("classes").main(asked.targets[fold.valid], guess, list("abcd")),
        pytest.approx(0, abs=1e-9),
    )
    assert kind_of("classes").loss(np.array([0, 0]), np.full((2, 4), 0.25)) == pytest.approx(np.log(4))
