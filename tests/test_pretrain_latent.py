"""EAT, M2D and MATPAC++ as published: losses, masks, teachers and centre against second computations."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from groundbass.data.batch import Batch
from groundbass.data.draws import draw_seeds, normal
from groundbass.pretrain.objective import TrainingStopped, example_index
from groundbass.pretrain.objectives import latent
from groundbass.pretrain.objectives.latent import Eat, draw_blocks, draw_blocks_as_published
from groundbass.pretrain.objectives.split_views import HIDE, SplitViews, places
from groundbass.pretrain.objectives.tokens import draw_kept, hidden_patches
from groundbass.pretrain.recipe import Recipe, find


def make_batch(valid: tuple[int, ...] = (20_000, 20_000, 20_000)) -> Batch:
    count = len(valid)
    waveform = 0.1 * torch.randn(count, 1, 20_000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor(valid)[:, None]
    waveform[torch.arange(20_000) >= lengths[..., None]] = 0
    zeros = torch.zeros(count, 1, dtype=torch.int64)
    return Batch(waveform, 16_000, lengths, zeros, [f"track{i}" for i in range(count)], torch.arange(count))


def build(recipe: Recipe, **changes: Any) -> Any:
    torch.manual_seed(0)
    objective = dataclasses.replace(recipe.objective, **changes).build().train()
    with torch.no_grad():  # a teacher that isn't the student
        for parameter in objective.teacher.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return objective


# --- EAT ---


def test_eat_s_losses_are_those_of_its_code_row_by_row() -> None:
    """Each row (clip and mask) alone, without batching: feed-forward targets, noise at hidden places, class token.

    As published: Σ (x − y)² / √dim over hidden patches, plus cls_loss · sample_size · the same summed over rows, all of
    it divided by sample_size; with `rows` rows on the GPU that is clip_weight = rows.
    """
    objective: Eat = build(latent.eat_debug(), clip_weight=6.0)
    batch = make_batch((20_000, 20_000, 12_000))
    loss = objective(batch, 0)
    model, teacher = objective.encoder, objective.teacher
    index, dim = example_index(batch), 32
    patch_sum, clip_sum, count = 0.0, 0.0, 0
    for number in range(2):
        seeds = draw_seeds(0, index, latent.HIDE + number)
        valid = model.valid_frames(batch.valid[:, 0]) * 8
        inside = torch.arange(56) < valid[:, None]
        positions, mask = draw_blocks_as_published(inside, 7, 0.2, 2, seeds, 0.07)
        for clip in range(3):
            samples = int(batch.valid[clip, 0])
            fbank = model.fbank(batch.waveform[clip, :, :samples])
            total = int(valid[clip])
            wanted = taught(teacher, fbank)
            kept = positions[clip][mask[clip]]
            heard = model.encode(model.place(model.embed(fbank))[:, kept])[-1][0]
            grid = (
                0.01 * normal(draw_seeds(0, index[clip : clip + 1], latent.NOISE + number), 57 * dim).view(57, dim)[:56]
            )
            grid[kept] = heard[1:]
            predicted = objective.decoder(grid.view(1, 7, 8, dim)).view(56, dim)[:total]
            hidden = [place for place in range(total) if place not in kept.tolist()]
            each = (predicted[hidden] - wanted[hidden]).square().sum() / dim**0.5
            clip_error = (heard[0] - wanted.mean(0)).square().sum() / dim**0.5
            patch_sum, clip_sum = patch_sum + each.item(), clip_sum + clip_error.item() * len(hidden)
            count += len(hidden)
    assert float(loss.weight) == count
    assert float(loss.metrics["patch"]) == pytest.approx(patch_sum / count, rel=1e-4)
    assert float(loss.metrics["clip"]) == pytest.approx(clip_sum / count, rel=1e-4)
    assert loss.value.item() == pytest.approx((patch_sum + 6 * clip_sum) / count, rel=1e-4)


def taught(teacher: Any, fbank: Tensor) -> Tensor:
    """Targets [tokens, dim] of one clip: each block written out, post-LN."""
    hidden = torch.cat([teacher.class_token[None, None], teacher.place(teacher.embed(fbank))], 1)
    hidden = teacher.encoder.layer_norm(hidden)
    outputs = []
    for block in teacher.encoder.layers:
        hidden = block.layer_norm(hidden + block.attention(hidden))
        inner = block.feed_forward.intermediate_dense(hidden)
        output = block.feed_forward.output_dense(functional.gelu(inner))
        hidden = block.final_layer_norm(hidden + output)
        outputs.append(functional.instance_norm(output[:, 1:].transpose(1, 2)).transpose(1, 2))
    mean = torch.stack(outputs).mean(0)[0]
    return functional.layer_norm(mean, mean.shape[-1:]).detach()


def test_eat_s_masks_are_the_published_ones() -> None:
    """102 of 512 patches; 6 % stand alone, edge bands are kept less: against a loop over EAT's rule."""
    inside = torch.ones(600, 512, dtype=torch.bool)
    seeds = draw_seeds(0, torch.arange(600), 1)
    positions, mask = draw_blocks_as_published(inside, 64, 0.2, 5, seeds, 0.07)
    assert mask.all() and positions.shape == (600, 102)
    found = shares(positions)
    draw = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(600):
        kept = torch.zeros(64, 8)
        for centre in torch.randint(512, (int(512 * 0.27 / 25),), generator=draw).tolist():
            for down in range(-2, 3):
                for right in range(-2, 3):
                    kept[min(max(centre // 8 + down, 0), 63), min(max(centre % 8 + right, 0), 7)] = 1
        flat = kept.flatten()
        surplus = int(flat.sum()) - 102
        pool = flat if surplus > 0 else 1 - flat
        if surplus:
            flat[torch.multinomial(pool, abs(surplus), generator=draw)] = 0.0 if surplus > 0 else 1.0
        rows.append(flat.nonzero()[:, 0])
    wanted = shares(torch.stack(rows))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=0.012)
    alone, edge, middle = found
    assert 0.045 < alone < 0.08 and edge == pytest.approx(0.15, abs=0.02) and middle == pytest.approx(0.23, abs=0.02)
    variant, _ = draw_blocks(inside, 64, 0.2, 5, seeds)
    assert shares(variant)[0] < 0.02


def shares(positions: Tensor) -> tuple[float, float, float]:
    """Share of kept patches without a neighbour; share kept of the edge bands, and of the four middle ones."""
    kept = torch.zeros(len(positions), 512).scatter(1, positions, 1.0).view(-1, 1, 64, 8)
    cross = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])[None, None]
    neighbours = functional.conv2d(kept, cross, padding=1)
    alone = float(((kept == 1) & (neighbours == 0)).sum() / kept.sum())
    return alone, float(kept[..., [0, 7]].mean()), float(kept[..., 2:6].mean())


# --- M2D, MATPAC++ ---


@pytest.mark.parametrize("step", [0, 400])
def test_matpac_s_losses_written_out_clip_by_clip(step: int) -> None:
    """Two views of each clip alone, five tasks' worth of arithmetic from the definitions; late, the best one counts."""
    objective: SplitViews = build(latent.matpac_debug())
    objective.center.normal_(std=0.1)
    assert objective.head is not None and objective.teacher_head is not None
    batch = make_batch((20_000, 20_000, 12_000))
    loss = objective(batch, step)
    model, config = objective.encoder, objective.config
    valid = model.valid_frames(batch.valid[:, 0]) * 5
    inside = torch.arange(35) < valid[:, None]
    positions, mask = draw_kept(inside, 0.3, draw_seeds(0, example_index(batch), HIDE))
    hidden = hidden_patches(inside, positions, mask)
    temperature = 0.1 * 0.9**step
    sharpness = 0.04 + 0.03 * min(1.0, step / 4)
    latents, distributions = [], []
    for clip in range(3):
        waveform = batch.waveform[clip, :, : int(batch.valid[clip, 0])]
        tokens = model.place(model.embed(model.fbank(waveform)))
        kept, others = positions[clip][mask[clip]], hidden[clip].nonzero()[:, 0]
        heard = model.encode(tokens[:, kept])[-1]
        teacher = model.encode(tokens[:, others], blocks=objective.teacher)[-1][0, 1:].detach()
        whole = torch.ones(1, tokens.shape[1], dtype=torch.bool)
        said = objective.predictor(heard, kept[None], torch.ones(1, len(kept), dtype=torch.bool), whole, others[None])[
            0
        ]
        for prediction, target in zip(said, teacher, strict=True):
            each = torch.stack([
                (functional.normalize(one, dim=0) - functional.normalize(target, dim=0)).square().sum()
                for one in prediction
            ])  # fmt: skip
            weights = torch.softmax(-each / temperature, 0) if temperature > 1e-4 else (each == each.min()).float()
            latents.append(float((weights * each).sum()))
            logits = objective.teacher_head(target[None])[0]
            wanted = torch.softmax((logits - objective.center) / sharpness, 0)
            own = objective.head(prediction[each.argmin()][None])[0] / 0.1
            distributions.append(float(-(wanted * own.log_softmax(0)).sum()))
    assert float(loss.weight) == len(latents) and config.hypotheses == 3
    mean = [sum(values) / len(latents) for values in (latents, distributions)]
    assert float(loss.metrics["latent"]) == pytest.approx(mean[0], rel=1e-4)
    assert float(loss.metrics["distribution"]) == pytest.approx(mean[1], rel=1e-4)
    assert loss.value.item() == pytest.approx(0.5 * sum(mean), rel=1e-4)


def test_the_views_are_apart() -> None:
    """What the student hears can't change the target, what the teacher hears can't change the prediction."""
    objective: SplitViews = build(latent.m2d_debug())
    batch = make_batch()
    model = objective.encoder
    inside = torch.ones(3, 35, dtype=torch.bool)
    positions, mask = draw_kept(inside, 0.3, draw_seeds(0, example_index(batch), HIDE))
    others, hidden = places(hidden_patches(inside, positions, mask))
    assert positions.shape[1] == 10 and others.shape[1] == 25 and bool(hidden.all())  # 70 % of 35, rounded
    assert sorted([*positions[0].tolist(), *others[0].tolist()]) == list(range(35))
    tokens = model.place(model.embed(model.fbank(batch.waveform[:, 0]))).detach().requires_grad_()
    taken = tokens.gather(1, positions[..., None].expand(-1, -1, 32))
    objective.predictor(model.encode(taken)[-1], positions, mask, inside, others).sum().backward()
    assert tokens.grad is not None
    reached = tokens.grad.abs().sum(-1) > 0
    assert torch.equal(reached, ~hidden_patches(inside, positions, mask))


def test_the_centre_is_the_mean_of_the_teacher_s_logits() -> None:
    objective: SplitViews = build(latent.matpac_debug())
    batches = [make_batch(), make_batch((20_000, 12_000))]
    logits: list[Tensor] = []
    head = objective.teacher_head
    assert head is not None
    handle = head.register_forward_hook(lambda _, __, output: logits.append(output))
    for batch in batches:
        objective(batch, 0)
    handle.remove()
    objective.after_step(0)
    torch.testing.assert_close(objective.center, 0.1 * torch.cat(logits).mean(0), atol=1e-6, rtol=1e-4)


def test_a_teacher_that_says_the_same_everywhere_stops_the_run() -> None:
    objective: SplitViews = build(latent.m2d_debug())
    with torch.no_grad():
        objective.teacher.layer_norm.weight.zero_()
    objective(make_batch(), 99)
    with pytest.raises(TrainingStopped, match="says nearly the same"):
        objective.after_step(99)


def test_full_sizes_are_the_published_ones() -> None:
    for name in ("eat_base", "m2d_base", "matpac_base"):
        recipe = find(f"latent.{name}")
        config = recipe.objective.encoder.config()
        with torch.device("meta"):
            objective = recipe.objective.build()
        assert sum(p.numel() for p in objective.encoder.parameters()) == 85_254_144, name
        assert config.times(recipe.crops.crop_samples) == config.stretch == (64 if name == "eat_base" else 38)
    assert latent.eat_base().optim.warmup_steps == 53_333 and latent.matpac_base().optim.decay_all
    assert latent.matpac_base().objective.hypotheses == 5 and latent.m2d_base().batch_size == 2048
