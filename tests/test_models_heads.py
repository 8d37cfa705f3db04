"""Heads against numpy and by hand: pooling over windows, folding, losses with missing labels, files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from groundbass.models.head_files import HeadFacts, head_names, read_head, read_heads, write_head
from groundbass.models.heads import HEADS, HeadConfig, combined, folded, moments, pooled, widened


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_pooling_is_mean_deviation_and_change() -> None:
    """Of a straight line of slope 2: deviation of differences 0; of a zigzag: that of its steps, by numpy."""
    line = 2.0 * torch.arange(10.0).view(1, 10, 1)
    assert pooled(moments(line), "mean+std+change")[0].tolist() == pytest.approx([9.0, np.std(line.numpy()), 0, 0])
    frames = draw(3, 17, 5) + 100
    one, four = frames[:, 1:] - frames[:, :-1], frames[:, 4:] - frames[:, :-4]
    expected = np.concatenate(
        [frames.numpy().mean(1)] + [x.double().numpy().std(1) for x in (frames, one, four)], axis=1
    )
    np.testing.assert_allclose(pooled(moments(frames), "mean+std+change").numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(pooled(moments(frames, change=False), "mean+std").numpy(), expected[:, :10], rtol=1e-5)


def test_padding_is_not_heard() -> None:
    frames = draw(2, 9, 4)
    padded = torch.cat([frames, torch.full((2, 6, 4), torch.nan)], 1)
    for pooling in ("mean", "mean+std", "mean+std+change", "attention"):
        head = HeadConfig("tags", ("a", "b"), 4, pooling=pooling).build().eval()
        clean = padded.nan_to_num(7.0) if pooling == "attention" else padded
        assert torch.allclose(head([clean], torch.tensor([9, 9])), head([frames]), atol=1e-6), pooling


def test_windows_combine_to_the_whole() -> None:
    """But for the differences across their borders, which no window hears."""
    frames = draw(2, 23, 3) + torch.linspace(0, 3, 23)[None, :, None]
    parts = [moments(frames[:, :4]), moments(frames[:, 4:15]), moments(frames[:, 15:])]
    whole, joined = moments(frames), combined(parts)
    assert torch.allclose(joined.mean[:, 0], whole.mean[:, 0]) and torch.allclose(
        joined.spread[:, 0], whole.spread[:, 0]
    )
    steps = torch.cat([p[:, 1:] - p[:, :-1] for p in (frames[:, :4], frames[:, 4:15], frames[:, 15:])], 1)
    assert torch.allclose(pooled(joined, "mean+std+change")[:, 6:9], steps.std(1, correction=0), atol=1e-5)


def test_constant_frames_have_a_gradient() -> None:
    frames = torch.ones(1, 6, 3, requires_grad=True)
    HeadConfig("numbers", ("x",), 3, pooling="mean+std+change").build()([frames]).sum().backward()
    assert frames.grad is not None and torch.isfinite(frames.grad).all()


def test_folding_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 1000 + draw(50, 8).double()
    mean, scale = x.mean(0), x.std(0)
    scale[3] = torch.inf  # a feature that never varied in training
    rotation, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))
    weight, bias = draw(8, 3).double(), torch.tensor([0.5, -torch.inf, 0.0]).double()
    expected = ((x - mean) / scale) @ rotation @ weight + bias
    found = folded(weight, bias, mean, scale, rotation)(x.float()).double()
    assert torch.allclose(found[:, [0, 2]], expected[:, [0, 2]], atol=2e-4)  # float32 holds x to 6e-5
    exact = folded(weight, bias, mean, scale, rotation).double()(x)
    assert torch.allclose(exact[:, [0, 2]], expected[:, [0, 2]], atol=1e-5)
    assert (torch.softmax(found, 1)[:, 1] == 0).all() and torch.isfinite(found).all()


def test_losses_leave_out_what_nobody_labelled() -> None:
    classes = HeadConfig("classes", ("a", "b", "c"), 4).build()
    logits = draw(3, 3)
    each, labelled = classes.losses(logits, torch.tensor([2, -1, 0]))
    by_hand = -torch.log_softmax(logits, 1)
    assert each.tolist() == pytest.approx([float(by_hand[0, 2]), 0.0, float(by_hand[2, 0])])
    assert labelled.tolist() == [1, 0, 1]
    assert float(classes.loss(logits, torch.tensor([2, -1, 0]))) == pytest.approx(float(each.sum()) / 2)

    tags = HeadConfig("tags", ("a", "b"), 4, positive_weight=3.0).build()
    wanted = torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan]])
    each, labelled = tags.losses(draw(2, 2), wanted)
    sure = torch.sigmoid(draw(2, 2)[0, 0])
    assert each.tolist() == pytest.approx([-3 * float(torch.log(sure)), 0.0]) and labelled.tolist() == [1, 0]

    numbers = HeadConfig("numbers", ("bpm",), 4).build()
    numbers.scale.fill_(20.0)
    each, _ = numbers.losses(torch.tensor([[100.0], [3.0]]), torch.tensor([[140.0], [torch.nan]]))
    assert each.tolist() == [4.0, 0.0]

    chords = HeadConfig("chords", ("C", "N"), 4).build()
    logits = draw(1, 4, 2)
    each, labelled = chords.losses(logits, torch.tensor([[0, -1, 1, -1]]))
    by_hand = -torch.log_softmax(logits[0], 1)
    assert float(each) == pytest.approx(float(by_hand[0, 0] + by_hand[2, 1]) / 2)
    assert float(chords.losses(logits, torch.full((1, 4), -1))[1]) == 0
    smooth, _ = classes.losses(draw(1, 3), torch.tensor([1]), smoothing=0.3)
    row = -torch.log_softmax(draw(1, 3), 1)[0]
    assert float(smooth) == pytest.approx(0.7 * float(row[1]) + 0.1 * float(row.sum()))


def test_a_weighted_sum_of_layers() -> None:
    head = HeadConfig("classes", ("a", "b"), 4, mixed=2).build()
    with torch.no_grad():
        head.shares.copy_(torch.tensor([0.0, 1.0]))
    states = [draw(1, 5, 4, seed=number) for number in range(3)]
    share = 1 / (1 + np.e)
    assert torch.allclose(head.select(states), share * states[1] + (1 - share) * states[2], atol=1e-6)


def test_widening_marks_the_neighbours() -> None:
    assert widened(torch.tensor([0.0, 0, 1, 0, 1, 0])).tolist() == [0, 0.5, 1, 0.5, 1, 0.5]


@pytest.mark.parametrize("kind", sorted(HEADS))
@pytest.mark.parametrize("hidden", [0, 6])
def test_what_is_written_is_read(kind: str, hidden: int, tmp_path: Path) -> None:
    config = HeadConfig(kind, ("a", "b", "ü"), 4, layer=1, pooling="mean+std", hidden=hidden, temperature=2.0)
    head = config.build().eval()
    facts = HeadFacts(thresholds=(0.1, 0.5, 0.9), unit="window", stretch_seconds=3.0, decoder={"name": "viterbi"})
    write_head(tmp_path, "first", head, facts)
    again, told = read_head(tmp_path, "first")
    states = [draw(2, 7, 4, seed=number) for number in range(3)]
    assert torch.equal(again(states), head(states)) and told == facts and again.config == config
    assert torch.equal(again.probabilities(head(states)), head.probabilities(head(states)))
    assert list(read_heads(tmp_path)) == ["first"]


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no heads"):
        read_heads(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    write_head(tmp_path, "genre", HeadConfig("classes", ("a", "b"), 4).build(), HeadFacts())
    assert head_names(tmp_path) == ["genre"]
    with pytest.raises(FileNotFoundError, match="there is genre"):
        read_head(tmp_path, "gnre")
    with pytest.raises(ValueError, match="can't be a head's name"):
        write_head(tmp_path, "a/b", HeadConfig("classes", ("a",), 4).build(), HeadFacts())
    content = json.loads((tmp_path / "genre.json").read_text())
    content["head"]["dim"] = 5
    (tmp_path / "genre.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="don't fit"):
        read_head(tmp_path, "genre")
    (tmp_path / "genre.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        read_head(tmp_path, "genre")
    with pytest.raises(ValueError, match=r"not 1\.5"):
        HeadFacts(thresholds=(1.5,))
    with pytest.raises(ValueError, match="no kind of label 'genre'"):
        HeadConfig("genre", ("a",), 4)
