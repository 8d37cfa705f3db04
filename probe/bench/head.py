"""The reference of `groundbass bench probe`: one MARBLE head in a process of its own, as anyone would write it.

Usage: python head.py FEATURES.npy TARGETS.npy ROWS.npz LAYER RATE SEED; prints JSON {"valid", "epochs"}. Layer -1
is the learned weighted sum. The rules are those of `marble.py`; the seed is drawn in the same order.
"""

import json
import sys

import numpy as np
import torch
from torch import nn


def main() -> None:
    """Train one head, keep its best epoch, print its validation accuracy."""
    features, targets, rows = np.load(sys.argv[1], mmap_mode="r"), np.load(sys.argv[2]), np.load(sys.argv[3])
    layer, rate, generator = int(sys.argv[4]), float(sys.argv[5]), torch.Generator().manual_seed(int(sys.argv[6]))
    data = torch.from_numpy(np.array(features[1:] if layer < 0 else features[layer]))
    truth = torch.from_numpy(targets)
    train, valid = torch.from_numpy(rows["train"]), torch.from_numpy(rows["valid"])
    first, last = nn.Linear(data.shape[-1], 512), nn.Linear(512, int(truth.max()) + 1)
    with torch.no_grad():
        for linear in (first, last):
            for part in (linear.weight, linear.bias):
                drawn = torch.rand(part.shape, generator=generator)
                part.copy_((drawn * 2 - 1) / linear.in_features**0.5)
    parameters = [*first.parameters(), *last.parameters()]
    shares = nn.Parameter(torch.randn(len(data), generator=generator)) if layer < 0 else None
    optimiser = torch.optim.Adam(parameters if shares is None else [*parameters, shares], lr=rate)

    def mixed(chosen: torch.Tensor) -> torch.Tensor:
        if shares is None:
            return data[chosen]
        return torch.einsum("l,lid->id", torch.softmax(shares, 0), data[:, chosen])

    best, since, epochs = (-1.0, float("inf")), 0, 0
    for _ in range(100):
        epochs += 1
        for batch in torch.randperm(len(train), generator=generator).split(64):
            mask = (torch.rand(len(batch), 512, generator=generator) >= 0.2).float() / 0.8
            logits = last(torch.relu(first(mixed(train[batch]))) * mask)
            optimiser.zero_grad()
            nn.functional.cross_entropy(logits, truth[train[batch]]).backward()
            optimiser.step()
        with torch.no_grad():
            logits = last(torch.relu(first(mixed(valid)))).double()
        score = float((logits.argmax(1) == truth[valid]).double().mean())
        loss = float(nn.functional.cross_entropy(logits, truth[valid]))
        since = 0 if score > best[0] else since + 1
        best = max(best, (score, loss), key=lambda pair: (pair[0], -pair[1]))
        if since and since % 5 == 0:
            optimiser.param_groups[0]["lr"] /= 2
        if since >= 15:
            break
    print(json.dumps({"valid": best[0], "epochs": epochs}))


if __name__ == "__main__":
    main()
