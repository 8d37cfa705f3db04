"""The `knn` protocol: the answers of the nearest training clips by cosine distance, on every layer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors

from .forms import form_of
from .head import Array, Floats, Head, Rows, TrainingData
from .linear import standardisation

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
PRIOR = 1e-3  # weight of the training shares: an answer that no neighbour gives stays possible


def nearest(data: TrainingData) -> Iterator[Head]:
    """Heads of every layer and number of neighbours; features are standardised on the training clips first."""
    counts = [number for number in NEIGHBOURS if number <= len(data.train)]
    for layer in data.layers:
        index = _Index(data, layer, max(counts))
        for number in counts:

            def respond(array: Floats, items: Rows, number: int = number, index: _Index = index) -> Array:
                return index.answers(index.neighbours(array, items)[:, :number])

            yield Head(layer, float(number), 0, respond)


class _Index:
    """The training clips of one layer, and what they answer."""

    def __init__(self, data: TrainingData, layer: int, most: int) -> None:
        targets = data.targets[data.train]
        self.form, self.layer = form_of(data.kind), layer
        self.table = self.form.table(targets, data.outputs)
        train = data.array[layer][data.train]
        self.mean, self.scale = (part.float().numpy() for part in standardisation(torch.from_numpy(train)))
        # on the unit sphere the nearest by Euclid are the nearest by angle, and scikit-learn needs no large table
        self.search = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(self._directions(train))
        self.last: tuple[int, bytes, Rows] | None = None

    def neighbours(self, array: Floats, items: Rows) -> Rows:
        """[items, most], nearest first; the search is kept for the next, smaller number of neighbours."""
        if self.last is None or self.last[:2] != (id(array), items.tobytes()):
            found = self.search.kneighbors(self._directions(array[self.layer][items]), return_distance=False)
            self.last = id(array), items.tobytes(), found
        return self.last[2]

    def _directions(self, features: Floats) -> Floats:
        """features: [items, dim], changed in place -> standardised and of length 1."""
        features -= self.mean
        features /= self.scale
        features /= np.sqrt(np.einsum("nd,nd->n", features, features))[:, None].clip(1e-12)
        return features

    def answers(self, chosen: Rows) -> Array:
        """[items, neighbours] -> log shares of the votes, their logits for tags, or mean numbers."""
        return self.form.votes(self.table[chosen].mean(1), self.table, PRIOR)
