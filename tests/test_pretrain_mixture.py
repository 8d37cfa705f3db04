"""The noise mixture against a loop over items and segments with the same draws, and its published parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from groundbass.data.draws import draw_seeds
from groundbass.pretrain.objectives.parts.noise_mixture import NoiseMixture, add_segments, draw_segments


def mix_by_loop(waveform: Tensor, seeds: Tensor, valid: Tensor, settings: NoiseMixture) -> Tensor:
    """What the vectorised mixture has to equal: item by item, segment by segment, by concatenating the others."""
    segments = draw_segments(seeds, valid, settings)
    mixed = waveform.clone()
    for item in range(len(waveform)):
        others = torch.cat([waveform[other, : valid[other]] for other in range(len(waveform)) if other != item])
        for number in range(settings.segments[1]):
            length = int(segments.length[item, number])
            source, target = int(segments.source[item, number]), int(segments.target[item, number])
            assert source + length <= len(others) and target + length <= valid[item]
            mixed[item, target : target + length] += settings.gain * others[source : source + length]
    return mixed


@pytest.mark.parametrize("valid", [[1000, 1000, 1000, 1000], [1000, 300, 0, 555], [20, 10, 1000, 1]])
def test_equals_the_loop(valid: list[int]) -> None:
    settings = NoiseMixture(probability=0.8, lengths=(100, 700), gain=0.5)
    lengths = torch.tensor(valid)
    waveform = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1))
    waveform *= torch.arange(1000) < lengths[:, None]
    for trial in range(20):
        seeds = draw_seeds(3, torch.arange(4), trial)
        expected = mix_by_loop(waveform, seeds, lengths, settings)
        torch.testing.assert_close(add_segments(waveform, seeds, lengths, settings), expected, atol=1e-5, rtol=0)
    assert not torch.equal(expected, waveform)


def test_draws_have_the_published_distribution() -> None:
    seeds = draw_seeds(0, torch.arange(20_000), 0)
    drawn = draw_segments(seeds, torch.full((20_000,), 120_000), NoiseMixture())
    number = (drawn.length > 0).sum(1)
    mixed = number > 0
    assert float(mixed.float().mean()) == pytest.approx(0.5, abs=0.02)
    for count in (1, 2, 3):
        assert float((number[mixed] == count).float().mean()) == pytest.approx(1 / 3, abs=0.02)
    lengths = drawn.length[drawn.length > 0]
    assert lengths.min() >= 12_000 and lengths.max() <= 24_000
    assert float(lengths.float().mean()) == pytest.approx(18_000, abs=100)
    assert (drawn.target + drawn.length <= 120_000).all()
    assert drawn.source.max() > 119_999  # from far beyond the first other item


def test_one_item_alone_stays_clean_and_the_input_is_not_touched() -> None:
    waveform = torch.randn(1, 1000)
    always = NoiseMixture(probability=1.0, lengths=(10, 20))
    assert torch.equal(add_segments(waveform, torch.tensor([5]), None, always), waveform)
    pair = torch.randn(2, 1000)
    before = pair.clone()
    mixed = add_segments(pair, torch.tensor([5, 6]), None, always)
    assert torch.equal(pair, before) and not torch.equal(mixed, before)


def test_wrong_settings_are_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"mixture\.lengths is \(5, 2\)"):
        NoiseMixture(lengths=(5, 2))
