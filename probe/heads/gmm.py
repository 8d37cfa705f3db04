"""The `gmm` protocol: one Gaussian mixture per class, as Tzanetakis and Cook classified genres."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from .head import Array, Floats, Head, Rows, TrainingData
from .linear import standardisation

COMPONENTS = (1, 2, 3, 5)
RIDGE = 1e-2  # added to variances of standardised features


def mixtures(data: TrainingData) -> Iterator[Head]:
    """Heads of every layer and number of components; diagonal covariances on standardised features, seed 0.

    Raises:
        ValueError: anything but classes.
    """
    if not data.kind.one_of:
        raise ValueError(f"The gmm protocol tells classes apart; it has nothing to say about {data.kind.name}.")
    targets = data.targets[data.train]
    names = np.unique(targets)
    for layer in data.layers:
        train = data.array[layer][data.train]
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
                logits = np.full((len(items), data.outputs), -np.inf)
                logits[:, names] = np.stack([model.score_samples(features) for model in models], 1) + prior
                return logits

            yield Head(layer, float(number), 0, respond)
