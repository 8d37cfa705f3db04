"""The batched heads against scikit-learn, one head at a time."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from groundbass.probe.heads.linear import basis, logistic, logistics, ridge

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)


def data(clips=120, dim=30, seed=0):
    """Correlated features of very different scales, one of them constant."""
    generator = np.random.default_rng(seed)
    x = (
        generator.normal(size=(clips, dim)) @ generator.normal(size=(dim, dim)) * 10 ** generator.uniform(-3, 3, dim)
        + 5
    )
    x[:, 3] = 7.0
    return x.astype(np.float32)


@pytest.mark.parametrize(("clips", "dim"), [(120, 30), (40, 90)])  # more clips than features, and fewer
@pytest.mark.parametrize("classes", [2, 5])
def test_multinomial_equals_scikit_learn(clips, dim, classes):
    x, other = data(clips + 25, dim)[:clips], data(clips + 25, dim)[clips:]
    y = np.random.default_rng(1).integers(0, classes, clips)
    space = basis(torch.from_numpy(x))
    heads = logistic(
        space.project(torch.from_numpy(x)), torch.eye(classes).double()[y], STRENGTHS, "softmax", tolerance=1e-9
    )
    ours = torch.softmax(heads(space.project(torch.from_numpy(other))), -1).numpy()
    scaler = StandardScaler().fit(x.astype(np.float64))
    for number, strength in enumerate(STRENGTHS):
        # with two classes scikit-learn fits one weight vector w = w1 - w0, whose penalty is half that of the pair
        c = 1 / (strength * clips) * (2 if classes == 2 else 1)
        theirs = LogisticRegression(C=c, max_iter=20000, tol=1e-10).fit(scaler.transform(x.astype(np.float64)), y)
        np.testing.assert_allclose(
            ours[number], theirs.predict_proba(scaler.transform(other.astype(np.float64))), atol=2e-5
        )


def test_one_vs_rest_equals_scikit_learn():
    x, other = data(145)[:120], data(145)[120:]
    y = np.random.default_rng(1).random((120, 4)) < [0.5, 0.3, 0.1, 0.05]
    space = basis(torch.from_numpy(x))
    heads = logistic(
        space.project(torch.from_numpy(x)), torch.from_numpy(y).double(), STRENGTHS, "sigmoid", tolerance=1e-9
    )
    ours = torch.sigmoid(heads(space.project(torch.from_numpy(other)))).numpy()
    scaler = StandardScaler().fit(x.astype(np.float64))
    for number, strength in enumerate(STRENGTHS):
        for tag in range(4):
            one = LogisticRegression(C=1 / (strength * 120), max_iter=20000, tol=1e-10)
            one.fit(scaler.transform(x.astype(np.float64)), y[:, tag])
            expected = one.predict_proba(scaler.transform(other.astype(np.float64)))[:, 1]
            np.testing.assert_allclose(ours[number, :, tag], expected, atol=2e-5)


@pytest.mark.parametrize(("clips", "dim"), [(120, 30), (40, 90)])
def test_ridge_equals_scikit_learn(clips, dim):
    x, other = data(clips + 25, dim)[:clips], data(clips + 25, dim)[clips:]
    y = np.random.default_rng(1).normal(size=(clips, 2))
    space = basis(torch.from_numpy(x))
    ours = ridge(space.project(torch.from_numpy(x)), torch.from_numpy(y), STRENGTHS)(
        space.project(torch.from_numpy(other))
    )
    scaler = StandardScaler().fit(x.astype(np.float64))
    for number, strength in enumerate(STRENGTHS):
        theirs = Ridge(alpha=strength * clips).fit(scaler.transform(x.astype(np.float64)), y)
        np.testing.assert_allclose(
            ours[number].numpy(), theirs.predict(scaler.transform(other.astype(np.float64))), atol=1e-6
        )


def test_rounding_noise_of_a_constant_is_no_feature():
    x = torch.full((50, 4), 3.0) + 1e-7 * torch.randn(50, 4)
    assert basis(x).project(x).abs().max() == 0


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_a_path_ends_nearer_to_the_optimum_than_a_start_from_nothing(link):
    """Separable clips and weak penalties, where a small gradient says little: the answers are those of the optimum."""
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(80, 120)).astype(np.float32))
    wanted = torch.eye(4)[torch.from_numpy(np.random.default_rng(1).integers(0, 4, 80))]
    others = torch.from_numpy(np.random.default_rng(2).normal(size=(60, 120)).astype(np.float32))
    space = basis(x)
    seen, heard = space.project(x), space.project(others)
    weak = tuple(10.0**-k for k in (5, 4, 3, 2, 1, 0))

    def likely(strengths, tolerance=1e-5):
        return logistic(seen, wanted, strengths, link, tolerance, 5000)(heard).softmax(-1)

    optimum = likely(weak, 1e-9)
    path = (likely(weak) - optimum).abs().amax((1, 2))
    cold = torch.cat([(likely((strength,)) - optimum[k]).abs().amax()[None] for k, strength in enumerate(weak)])
    assert path.max() < 0.1 and path.max() < cold.max()


def test_tables_that_are_solved_together_are_solved_as_if_alone():
    x = torch.from_numpy(data(90, 60))
    wanted = torch.eye(3)[torch.from_numpy(np.random.default_rng(1).integers(0, 3, 90))]
    tables = [basis(part).project(part) for part in (x, x[:, :20], x[:, 30:])]
    together = logistics(tables, wanted, STRENGTHS, "softmax", 1e-9)
    for table, heads in zip(tables, together):
        alone = logistic(table, wanted, STRENGTHS, "softmax", 1e-9)
        assert heads.weight.shape[1] == table.shape[1]
        torch.testing.assert_close(heads(table), alone(table), atol=1e-5, rtol=1e-5)


def test_many_clips_in_float32_first_end_where_float64_does(monkeypatch):
    x = torch.from_numpy(data(400, 30))
    wanted = torch.eye(3)[torch.from_numpy(np.random.default_rng(1).integers(0, 3, 400))]
    table = basis(x).project(x)
    exact = logistic(table, wanted, STRENGTHS, "softmax", 1e-9)(table)
    monkeypatch.setattr("groundbass.probe.heads.linear.MANY", 1)
    torch.testing.assert_close(logistic(table, wanted, STRENGTHS, "softmax", 1e-9)(table), exact, atol=1e-4, rtol=1e-4)
