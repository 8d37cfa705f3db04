"""The batched heads against scikit-learn, one head at a time."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from groundbass.probe.heads.linear import basis, logistic, ridge

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
