"""Masks: exact coverage, padding, independence of the batch; fairseq's semantics against a loop like its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from groundbass.data.draws import draw_seeds
from groundbass.pretrain.objectives.parts.masking import (
    Masking,
    cell_mask,
    fairseq_mask,
    noise_fill,
    normal,
    span_mask,
    uniform,
)


def seeds(count: int, stream: int = 0) -> torch.Tensor:
    return draw_seeds(7, torch.arange(count), stream)


def runs(mask: torch.Tensor) -> list[int]:
    """Lengths of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, mask.numpy().astype(int), 0]))
    return list(edges[1::2] - edges[::2])


def test_uniform_is_uniform_and_a_function_of_the_seed() -> None:
    u = uniform(seeds(64), 2000)
    assert u.min() >= 0 and u.max() < 1
    histogram = torch.histc(u.float(), bins=20, min=0, max=1) / u.numel()
    assert histogram.sub(1 / 20).abs().max() < 0.002
    assert abs(float(torch.corrcoef(u[:2])[0, 1])) < 0.1
    assert torch.equal(u[5], uniform(seeds(64)[5:6], 2000)[0])


def test_normal_has_the_normal_moments() -> None:
    z = normal(seeds(8), 100_001)
    assert z.shape == (8, 100_001)
    assert abs(float(z.mean())) < 0.005 and abs(float(z.std()) - 1) < 0.005
    assert abs(float((z**4).mean()) - 3) < 0.05


@pytest.mark.parametrize("valid", [374, 200, 7, 5])
def test_spans_cover_exactly_what_is_stated(valid: int) -> None:
    mask = span_mask(torch.full((200,), valid), 374, seeds(200), 0.6, 5)
    expected = max(1, min(round(0.6 * valid / 5), valid // 5)) * 5
    assert (mask.sum(1) == expected).all()
    assert not mask[:, valid:].any()
    assert all(length % 5 == 0 for row in mask[:20] for length in runs(row))  # spans may touch, never overlap


def test_every_arrangement_of_spans_is_equally_likely() -> None:
    """Two spans of 2 in 6 frames have 6 arrangements: as many as ways to choose 2 of 4 slots."""
    mask = span_mask(torch.full((6000,), 6), 6, seeds(6000), 0.66, 2)
    patterns, counts = np.unique(mask.numpy(), axis=0, return_counts=True)
    assert len(patterns) == 6
    assert np.abs(counts / 6000 - 1 / 6).max() < 0.02


def test_clips_shorter_than_a_span_stay_unmasked_and_crops_are_refused() -> None:
    for draw in (span_mask, fairseq_mask, cell_mask):
        mask = draw(torch.tensor([3, 0, 40]), 40, seeds(3), 0.6, 5)
        assert not mask[:2].any() and mask[2].any()
    with pytest.raises(ValueError, match="4 frames, fewer than one mask span of 5"):
        Masking(span=5).draw(torch.tensor([4]), 4, seeds(1))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Masking(coverage=1.5)


def test_a_clips_mask_does_not_depend_on_its_batch() -> None:
    valid = torch.tensor([374, 100, 374, 250])
    for kind in ("spans", "cells"):
        masking = Masking(kind=kind)  # type: ignore[arg-type]
        together = masking.draw(valid, 374, seeds(4))
        alone = torch.cat([masking.draw(valid[i : i + 1], 374, seeds(4)[i : i + 1]) for i in range(4)])
        assert torch.equal(together, alone)


def fairseq_row(size: int, draw: np.random.Generator) -> np.ndarray:
    """fairseq's compute_mask_indices for one row (static lengths, overlap), as its source goes."""
    spans = max(2, int(0.8 * size / 5 + draw.random()))
    least = 5 if size - 5 > spans else size - spans - 1
    starts = draw.choice(size - least, spans, replace=False)
    return np.unique([start + offset for start in starts for offset in range(5) if start + offset < size])


def test_fairseq_masks_583_per_mille_before_thinning() -> None:
    """58.7 % away from the ends (1 - (1 - 59.84 / 369)^5), 58.3 % over the clip; not 80 %."""
    whole = torch.cat([fairseq_mask(torch.tensor([374]), 374, seed[None], 0.8, 5) for seed in seeds(400)])
    draw = np.random.default_rng(0)
    oracle = np.mean([len(fairseq_row(374, draw)) / 374 for _ in range(400)])
    coverage = float(whole.float().mean())
    assert coverage == pytest.approx(0.583, abs=0.004)
    assert coverage == pytest.approx(float(oracle), abs=0.004)
    assert float(whole[:, 10:360].float().mean()) == pytest.approx(0.587, abs=0.004)
    assert not whole[:, -1].any()  # starts lie in [0, 369), so the last frame is never masked


def test_fairseq_thins_to_the_batchs_smallest_count() -> None:
    """About 54 % in batches of 16; every row of a batch loses the same."""
    counts = []
    for batch in range(40):
        mask = fairseq_mask(torch.full((16,), 374), 374, seeds(16, batch), 0.8, 5)
        assert len(set(mask.sum(1).tolist())) == 1
        counts.append(int(mask[0].sum()))
    assert np.mean(counts) / 374 == pytest.approx(0.54, abs=0.015)


def test_cells_lie_on_their_grid() -> None:
    mask = cell_mask(torch.full((500,), 750), 750, seeds(500), 0.6, 10)
    cells = mask.view(500, 75, 10)
    assert torch.equal(cells.all(-1), cells.any(-1))
    assert float(mask.float().mean()) == pytest.approx(0.6, abs=0.01)
    assert cell_mask(torch.full((500,), 20), 20, seeds(500), 0.1, 10).any(1).all()  # no clip is wasted


def test_noise_fills_masked_samples_only() -> None:
    waveform = torch.ones(2, 1000)
    mask = torch.zeros(2, 9, dtype=torch.bool)
    mask[0, 2:4] = True
    filled = noise_fill(waveform, mask, 100, seeds(2))
    assert torch.equal(filled[1], waveform[1])
    assert (filled[0, :200] == 1).all() and (filled[0, 400:] == 1).all()
    assert float(filled[0, 200:400].std()) == pytest.approx(0.1, abs=0.03)
