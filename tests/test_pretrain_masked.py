"""Masked prediction: its loss, terms and recipes; the tokenizer that it trains into its run."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import EncodecConfig, EncodecModel

from groundbass.data.audio import read as audio
from groundbass.data.batch import Batch
from groundbass.data.collections.scan import scan_folder
from groundbass.data.draws import draw_seeds
from groundbass.data.track import Manifest
from groundbass.pretrain.objective import TrainingStopped
from groundbass.pretrain.objectives import masked, tokenizer
from groundbass.pretrain.objectives.masked import MASK, Masked, MaskedConfig, gradient_shares
from groundbass.pretrain.objectives.parts.masking import Masking
from groundbass.pretrain.objectives.parts.rvq_target import RVQSettings, RVQTarget
from groundbass.pretrain.recipe import Recipe
from groundbass.pretrain.targets.codec import CodecSettings
from groundbass.pretrain.targets.codes import CodeHeadSettings
from groundbass.pretrain.targets.cqt import CQTSettings
from groundbass.pretrain.train import train

DEBUG = [masked.mert_debug, masked.bestrq_debug]


def make_batch(samples: int = 24_000, valid: tuple[int, ...] = (), count: int = 4, rate: int = 24_000) -> Batch:
    """Melodies: a new random pitch every 0.1 s."""
    draw = np.random.default_rng(0)
    pitch = 220 * 2 ** (draw.integers(0, 24, (count, samples // 2400 + 1)).repeat(2400, 1)[:, :samples] / 12)
    waveform = torch.from_numpy(0.2 * np.sin(2 * np.pi * np.cumsum(pitch, 1) / rate)).float()[:, None]
    lengths = torch.tensor([*valid, *[samples] * (count - len(valid))])[:, None]
    waveform[torch.arange(samples) >= lengths[..., None]] = 0
    zeros = torch.zeros(count, 1, dtype=torch.int64)
    return Batch(waveform, rate, lengths, zeros, [f"track{i}" for i in range(count)], torch.arange(count))


def build(recipe: Recipe) -> Masked:
    torch.manual_seed(0)
    objective: Masked = recipe.objective.build()
    return objective.train()


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    return dataclasses.replace(recipe, objective=dataclasses.replace(recipe.objective, **changes))


@pytest.mark.parametrize("recipe", DEBUG)
def test_gradient_reaches_every_trainable_parameter(recipe: Any) -> None:
    objective = build(recipe())
    loss = objective(make_batch(), 0)
    loss.value.backward()
    assert torch.isfinite(loss.value)
    trained = [(name, p.grad) for name, p in objective.named_parameters() if p.requires_grad]
    missing = [name for name, gradient in trained if gradient is None or not gradient.any()]
    assert not missing
    assert not any("teacher" in name for name in objective.state_dict())


@pytest.mark.parametrize("recipe", DEBUG)
def test_loss_falls_on_one_batch_and_is_a_function_of_the_seed(recipe: Any) -> None:
    losses = []
    for _ in range(2):
        objective = build(recipe())
        optimiser = torch.optim.AdamW(objective.parameters(), lr=5e-3)
        values = []
        for _ in range(8):
            loss = objective(make_batch(), 0)
            optimiser.zero_grad()
            loss.value.backward()
            optimiser.step()
            values.append(loss.value.item())
        losses.append(values)
    assert losses[0] == losses[1]
    assert losses[0][-1] < 0.9 * losses[0][0]


def test_loss_is_the_weighted_sum_of_its_terms_over_masked_frames() -> None:
    """Against a slow re-telling: frame by frame, from the model's own hidden states."""
    recipe = changed(masked.mert_debug(), cqt=CQTSettings(weight=3.0), mixture=masked.NoiseMixture(probability=0.0))
    objective = build(recipe)
    batch = make_batch(valid=(12_000,))
    loss = objective(batch, 0)
    clean, valid = batch.waveform[:, 0], batch.valid[:, 0]
    frames = objective.encoder.frames(24_000)
    assert frames == 74
    seeds = draw_seeds(0, batch.index, MASK)
    mask = recipe.objective.masking.draw(objective.encoder.valid_frames(valid), frames, seeds)
    attention = torch.arange(24_000) < valid[:, None]
    features, frame_mask = objective.encoder.extract(clean, attention)
    hidden = objective.encoder.encode(features, frame_mask, mask).last_hidden_state
    assert hidden is not None
    rvq, cqt = objective.targets
    codes = rvq.targets(clean, batch.starts[:, 0], batch.keys)
    magnitude = cqt.targets(clean, batch.starts[:, 0], batch.keys)
    assert codes.shape[1] == 75 and magnitude.shape[1] == 76  # trimmed to 74, not resampled
    total, count = 0.0, 0
    for item, frame in mask.nonzero().tolist():
        logits = rvq.head.logits(hidden[item, frame][None])[:, 0]
        total += nn.functional.cross_entropy(logits, codes[item, frame], reduction="sum").item()
        predicted = cqt.head.projection(hidden[item, frame])
        total += 3.0 * (predicted - magnitude[item, frame]).square().mean().item()
        count += 1
    assert frame_mask is not None
    # the square summed over frames, per masked frame, times the masked share of a crop without padding
    usual = float(mask[1].sum()) / 74
    penalty = usual * features[frame_mask].square().mean(1).sum().item() / count
    assert int(loss.weight) == count and not (mask & ~frame_mask).any()
    assert loss.value.item() == pytest.approx(total / count + 10 * penalty, rel=1e-4)
    assert float(loss.metrics["feature_penalty"]) == pytest.approx(penalty, rel=1e-4)


def test_the_penalty_is_a_mean_square_where_nothing_is_padded() -> None:
    objective, batch = build(changed(masked.mert_debug(), mixture=masked.NoiseMixture(probability=0.0))), make_batch()
    features, _ = objective.encoder.extract(batch.waveform[:, 0])
    found = float(objective(batch, 0).metrics["feature_penalty"])
    assert found == pytest.approx(float(features.detach().square().mean()), rel=1e-5)
    assert masked.usual_coverage(Masking(kind="fairseq", coverage=0.8), 374) == pytest.approx(0.54, abs=0.01)


def cut(batch: Batch, rows: slice) -> Batch:
    return Batch(batch.waveform[rows], batch.sample_rate, batch.valid[rows], batch.starts[rows], batch.keys[rows],
                 batch.index[rows])  # fmt: skip


def test_micro_batches_combine_to_the_whole_batch_in_spite_of_padding() -> None:
    """Loss, penalty and gradient, with clips of four lengths, one of them too short for a span."""
    recipe = changed(masked.mert_debug(), mixture=masked.NoiseMixture(probability=0.0))
    batch = make_batch(valid=(24_000, 1_200, 9_000, 17_000))
    found = []
    for division in ([slice(0, 4)], [slice(0, 2), slice(2, 4)], [slice(0, 1), slice(1, 2), slice(2, 4)]):
        objective = build(recipe)
        losses = [objective(cut(batch, rows), 0) for rows in division]
        weight = sum(loss.weight for loss in losses)
        value = sum(loss.value * loss.weight for loss in losses) / weight
        value.backward()
        penalty = sum(loss.metrics["feature_penalty"] * loss.weight for loss in losses) / weight
        gradient = next(p.grad for p in objective.encoder.feature_extractor.parameters())
        found.append((int(weight), value.detach(), penalty, gradient))
    for other in found[1:]:
        assert other[0] == found[0][0]
        for ours, theirs in zip(other[1:], found[0][1:]):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_unmasked_frames_count_as_much_as_they_are_told() -> None:
    """With weight 1 a frame counts alike, masked or not: the loss is that of all frames over the masked ones."""
    quiet: dict[str, Any] = {"mixture": masked.NoiseMixture(probability=0.0), "feature_penalty": 0.0}
    objective = build(changed(masked.mert_debug(), unmasked_weight=1.0, **quiet))
    published = build(changed(masked.mert_debug(), **quiet))
    batch = make_batch()
    loss = objective(batch, 0)
    assert int(loss.weight) == int(published(batch, 0).weight)
    mask = objective.config.masking.draw(torch.full((4,), 74), 74, draw_seeds(0, batch.index, MASK))
    features, _ = objective.encoder.extract(batch.waveform[:, 0])
    hidden = objective.encoder.encode(features, None, mask).last_hidden_state
    assert hidden is not None
    total = torch.zeros(())
    for target in objective.targets:
        wanted = target.targets(batch.waveform[:, 0], batch.starts[:, 0], batch.keys)[:, :74]
        total = total + target.weight * target.loss(hidden.flatten(0, 1), wanted.flatten(0, 1))[0] * 4 * 74
    torch.testing.assert_close(loss.value, total / mask.sum(), rtol=1e-4, atol=1e-4)


def test_targets_hear_the_clean_sound() -> None:
    heard: list[torch.Tensor] = []
    recipe = changed(masked.mert_debug(), mixture=masked.NoiseMixture(probability=1.0, lengths=(1200, 2400)))
    objective = build(recipe)
    batch = make_batch()
    original = objective.encoder.extract

    def listen(waveform: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        heard.append(waveform)
        return original(waveform, mask)

    objective.encoder.extract = listen  # type: ignore[method-assign]
    for target in objective.targets:
        compute = target.targets
        target.targets = lambda w, s, k, compute=compute: (heard.append(w), compute(w, s, k))[1]
    objective(batch, 0)
    *clean, mixed = heard
    assert len(clean) == 2 and all(torch.equal(sound, batch.waveform[:, 0]) for sound in clean)
    assert (mixed != batch.waveform[:, 0]).any(1).all()


def test_padding_changes_nothing_for_the_other_clips() -> None:
    recipe = changed(masked.mert_debug(), mixture=masked.NoiseMixture(probability=0.0))
    objective = build(recipe)
    short = make_batch(valid=(9_000, 9_000, 9_000, 9_000))
    cut = dataclasses.replace(short, waveform=short.waveform[..., :12_000])
    long, trimmed = objective(short, 0), objective(cut, 0)
    assert int(long.weight) == int(trimmed.weight)
    # the draws of positions differ with the number of frames, so only their number is compared above
    silent = objective(dataclasses.replace(short, valid=torch.zeros_like(short.valid)), 0)
    silent.value.backward()
    assert int(silent.weight) == 0 and torch.isfinite(silent.value)


def test_gradient_shares_name_an_inert_term() -> None:
    hidden = torch.randn(10, 4, requires_grad=True)
    terms = {"loud": hidden.square().sum(), "inert": 1e-6 * hidden.square().sum()}
    shares = gradient_shares(terms, hidden)
    assert float(shares["loud/gradient_share"]) == pytest.approx(1, abs=1e-4)
    assert float(shares["inert/gradient_share"]) == pytest.approx(1e-6, rel=1e-2)
    objective = build(changed(masked.mert_debug(), share_every=5))
    assert not any("share" in name for name in objective(make_batch(), 0).metrics)
    assert sum(float(objective(make_batch(), 4).metrics[f"{name}/gradient_share"]) for name in ("rvq", "cqt")) == (
        pytest.approx(1)
    )


def test_silence_stops_the_run() -> None:
    head = CodeHeadSettings(dim=8, window=5)
    recipe = masked.mert_debug()
    objective = build(changed(recipe, rvq=dataclasses.replace(recipe.objective.rvq, head=head)))
    batch = make_batch()
    batch.waveform.zero_()
    for step in range(4):
        objective(batch, step)
        objective.after_step(step)
    objective(batch, 4)
    with pytest.raises(TrainingStopped, match=r"carry 0\.00 bits over the last 5 steps"):
        objective.after_step(4)


def test_bad_input_is_a_sentence() -> None:
    objective = build(masked.mert_debug())
    with pytest.raises(ValueError, match="16000 Hz, the encoder expects 24000 Hz"):
        objective(make_batch(rate=16_000), 0)
    with pytest.raises(ValueError, match="4 frames, fewer than one mask span of 5"):
        objective(make_batch(samples=1_500), 0)
    with pytest.raises(ValueError, match="all targets have weight 0"):
        MaskedConfig(cqt=CQTSettings(weight=0.0)).build()


def test_published_recipes_have_the_published_sizes() -> None:
    for recipe, parameters, seconds, frames in (
        (masked.mert_95m(), 94_371_712, 1024 * 5.0, 374),
        (masked.mert_330m(), 315_428_992, 3584 * 5.12, 383),
    ):
        with torch.device("meta"):
            objective = recipe.objective.build()
        assert sum(p.numel() for p in objective.encoder.parameters()) == parameters
        assert recipe.seconds_per_step == pytest.approx(seconds)
        assert masked.tokens(recipe) == recipe.steps * recipe.batch_size * frames
        labels = objective.targets[0].head.labels
        assert labels.shape[:2] == (8, 1024)
    assert masked.bestrq_base().objective.frames(720_000) == 750


def test_codec_and_kmeans_stand_beside_other_targets(tmp_path: Path) -> None:
    """A small EnCodec with random weights, beside Mel-RVQ and CQT: three terms, each with its weight."""
    torch.manual_seed(0)
    config = EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64, num_lstm_layers=1,
                           target_bandwidths=[0.9, 1.8], upsampling_ratios=[8, 5, 4, 2])  # fmt: skip
    model = EncodecModel(config)
    for layer in model.quantizer.layers:
        nn.init.normal_(layer.codebook.embed)
    model.save_pretrained(tmp_path)
    codec = CodecSettings(weight=0.5, name=str(tmp_path), codebooks=2, codebook_size=64)
    objective = build(changed(masked.mert_debug(), codec=codec))
    loss = objective(make_batch(), 49)
    assert {name.split("/")[0] for name in loss.metrics if name.endswith("gradient_share")} == {"rvq", "codec", "cqt"}
    names = set(objective.state_dict())
    assert not any("quantizer" in name or "decoder" in name for name in names)


# --- tokenizer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for number, waveform in enumerate(make_batch(samples=48_000).waveform[:, 0]):
        audio.write(folder / f"track{number}.wav", waveform.numpy(), 24_000)
    manifest, _ = scan_folder(folder, workers=1, progress=False)
    manifest.write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def test_prepare_lays_codebooks_into_the_data(corpus: Path) -> None:
    recipe = tokenizer.mel_rvq_debug()
    torch.manual_seed(0)
    objective = recipe.objective.build()
    batch = make_batch(samples=48_000)
    before = float(objective(batch, 0).metrics["reconstruction"])
    objective.prepare(Manifest.open(corpus), Path())
    loss = objective(batch, 0)
    assert float(loss.metrics["reconstruction"]) < 0.3 < before
    codes = objective.encoder.codes(batch.waveform[:, 0])
    used = [len(codes[..., book].unique()) for book in range(2)]
    assert min(used) >= 12  # of 16
    loss.value.backward()
    assert all(p.grad is not None and p.grad.any() for p in objective.parameters())
    assert not objective.encoder.quantizer.codebooks.requires_grad


def test_codebooks_follow_the_averages_of_what_chose_them(corpus: Path) -> None:
    """One step without revival, against a loop."""
    torch.manual_seed(0)
    objective = tokenizer.mel_rvq_debug().objective.build()
    objective.prepare(Manifest.open(corpus), Path())
    batch = make_batch(samples=48_000)
    usage, sums = objective.usage.clone(), objective.sums.clone()
    frames = objective._valid_frames(batch.waveform[:, 0], batch.valid[:, 0])
    rest = objective.encoder.project(frames).detach()
    for book, words in enumerate(objective.encoder.quantizer.codebooks.clone()):
        nearest = torch.cdist(rest, words).argmin(1)
        for code in range(len(words)):
            chosen = rest[nearest == code]
            usage[book, code] = 0.99 * usage[book, code] + 0.01 * len(chosen)
            sums[book, code] = 0.99 * sums[book, code] + 0.01 * chosen.sum(0)
        rest = rest - words[nearest]
    objective(batch, 0)
    with torch.no_grad():
        objective.after_step(0)
    torch.testing.assert_close(objective.usage, usage)
    torch.testing.assert_close(objective.encoder.quantizer.codebooks, sums / usage[..., None], atol=1e-4, rtol=1e-4)


def test_dead_codewords_are_revived(corpus: Path) -> None:
    torch.manual_seed(0)
    objective = tokenizer.mel_rvq_debug().objective.build()
    objective.prepare(Manifest.open(corpus), Path())
    objective.encoder.quantizer.codebooks[0, 3] = 1e3
    objective.usage[0, 3], objective.sums[0, 3] = 1e-3, 1.0
    objective(make_batch(samples=48_000), 19)
    with torch.no_grad():
        objective.after_step(19)
    assert float(objective.encoder.quantizer.codebooks[0, 3].abs().max()) < 100


def test_revival_is_the_same_however_a_batch_is_divided(corpus: Path) -> None:
    """Codebooks after two steps in which codewords are revived, for three divisions into micro-batches."""
    batches = [make_batch(samples=48_000, valid=(48_000, 500, 20_000)) for _ in range(2)]
    batches[1] = dataclasses.replace(batches[1], waveform=batches[1].waveform.flip(0), index=torch.arange(4, 8))
    found = []
    for division in ([slice(0, 4)], [slice(0, 2), slice(2, 4)], [slice(0, 1), slice(1, 2), slice(2, 4)]):
        torch.manual_seed(0)
        objective = dataclasses.replace(tokenizer.mel_rvq_debug().objective, revive_every=1).build().train()
        objective.prepare(Manifest.open(corpus), Path())
        objective.usage[:, :4] = 0.0
        for step, batch in enumerate(batches):
            before = objective.encoder.quantizer.codebooks.clone()
            losses = [objective(cut(batch, rows), step) for rows in division]
            with torch.no_grad():
                objective.after_step(step)
            assert all(torch.isfinite(loss.value) for loss in losses)
        moved = (objective.encoder.quantizer.codebooks - before).norm(dim=-1) > 0.1
        assert moved.any()
        entropy = losses[0].metrics["entropy"]
        assert all(loss.metrics["entropy"] == entropy for loss in losses)
        found.append([objective.encoder.quantizer.codebooks.clone(), objective.usage.clone(), entropy])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-5)


def test_a_run_trains_its_tokenizer_first_and_finds_it_again(corpus: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(masked.mert_debug(), steps=2, checkpoint_every=2)
    assert train(recipe, corpus, tmp_path / "run") == 2
    folder = tmp_path / "run" / "tokenizer"
    assert (folder / "loss.jsonl").is_file() and (folder / "encoder" / "config.json").is_file()
    written = (folder / "encoder" / "model.safetensors").stat().st_mtime_ns
    assert train(dataclasses.replace(recipe, steps=3), corpus, tmp_path / "run") == 3
    assert (folder / "encoder" / "model.safetensors").stat().st_mtime_ns == written
    shape = dataclasses.replace(recipe.objective.rvq, path=str(folder))
    named: Any = RVQTarget(shape, recipe.objective.grid, 32)
    fitted = objective_after_prepare(recipe, corpus, tmp_path / "run")
    waveform = make_batch().waveform[:, 0]
    assert torch.equal(named.targets(waveform, torch.zeros(4), []), fitted.targets(waveform, torch.zeros(4), []))
    assert named.provenance() == fitted.provenance()
    expected = (folder / "encoder" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "encoder")  # as a kill between its last checkpoint and its encoder could leave it
    objective_after_prepare(recipe, corpus, tmp_path / "run")
    assert (folder / "encoder" / "model.safetensors").read_bytes() == expected


def objective_after_prepare(recipe: Recipe, corpus: Path, run: Path) -> Any:
    objective = build(recipe)
    objective.prepare(Manifest.open(corpus), run)
    return objective.targets[0]


def test_random_projection_measures_the_corpus_once(corpus: Path, tmp_path: Path) -> None:
    objective = build(masked.bestrq_debug())
    objective.prepare(Manifest.open(corpus), tmp_path)
    file = tmp_path / "tokenizer" / "feature_statistics.safetensors"
    before = file.stat().st_mtime_ns
    features = objective.targets[0]._teacher[0].inputs["mel"]
    sound = make_batch(samples=48_000).waveform[:, 0]
    normalised = features(sound)
    assert abs(float(normalised.mean())) < 0.1 and float(normalised.std()) == pytest.approx(1, abs=0.2)
    objective.prepare(Manifest.open(corpus), tmp_path)
    assert file.stat().st_mtime_ns == before


def test_masked_noise_leaves_no_sound_under_the_mask() -> None:
    """With fill="noise" two clips that differ under the mask only are heard alike."""
    recipe = masked.bestrq_debug()
    objective = build(recipe).eval()
    batch = make_batch()
    mask = recipe.objective.masking.draw(torch.full((4,), 25), 25, draw_seeds(0, batch.index, MASK))
    heard: list[torch.Tensor] = []
    original = objective.encoder.extract
    objective.encoder.extract = lambda w, m=None: (heard.append(w), original(w, m))[1]  # type: ignore[method-assign]
    objective(batch, 0)
    other = dataclasses.replace(batch, waveform=batch.waveform.clone())
    under = mask.repeat_interleave(960, 1)
    other.waveform[:, 0][under] = 0.0
    objective(other, 0)
    assert torch.equal(heard[0], heard[1])


def test_mask_settings_reach_the_loss() -> None:
    for masking in (Masking(coverage=0.3), Masking(kind="fairseq", coverage=0.8)):
        loss = build(changed(masked.mert_debug(), masking=masking))(make_batch(), 0)
        expected = 0.3 if masking.kind == "spans" else 0.55
        assert float(loss.metrics["coverage"]) == pytest.approx(expected, abs=0.06)


def test_a_named_tokenizer_that_is_missing_is_a_sentence() -> None:
    with pytest.raises(ValueError, match="There is no Mel-RVQ tokenizer in /nowhere"):
        MaskedConfig(rvq=RVQSettings(weight=1.0, path="/nowhere")).build()
