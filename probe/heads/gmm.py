"""The `gmm` protocol: one Gaussian mixture per class, as Tzanetakis and Cook classified genres."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from ..fit import Array, Floats, Head, Lesson, Rows
from .linear import standardisation

COMPONENTS = (1, 2, 3, 5)
RIDGE = 1e-2  # added to variances of standardised features


def mixtures(lesson: Lesson) -> Iterator[Head]:
    """Heads of every layer and number of components; diagonal covariances on standardised features, seed 0.

    Raises ValueError for anything but classes.
    """
    if lesson.kind not in ("classes", "key"):
        raise ValueError(f"The gmm protocol tells classes apart; it has nothing to say about {lesson.kind}.")
    targets = lesson.targets[lesson.train]
    names = np.unique(targets)
    for layer in lesson.layers:
        train = lesson.array[layer][lesson.train]
        mean, scale = (part.numpy() for part in standardisation(torch.from_numpy(train)))
        for number in COMPONENTS:
            models = []
            for name in names:
                clips = (train[targets == name] - mean) / scale
                model = GaussianMixture(
                    min(number, len(clips)), covariance_type="diag", reg_covar=RIDGE, random_state=0
                )
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    models.append(model.fit(clips if len(clips) > 1 else np.repeat(clips, 2, 0)))
            prior = np.log([np.mean(targets == name) for name in names])

            def respond(
                array: Floats,
                items: Rows,
                layer: int = layer,
                mean: Array = mean,
                scale: Array = scale,
                models: list[GaussianMixture] = models,
                prior: Array = prior,
            ) -> Array:
                features = (array[layer][items] - mean) / scale
                logits = np.full((len(items), lesson.outputs), -np.inf)
                logits[:, names] = np.stack([model.score_samples(features) for model in models], 1) + prior
                return logits

            yield Head(layer, float(number), 0, respond)
