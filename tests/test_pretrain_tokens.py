"""BEATs' pretraining: what is heard, what is predicted, the distilled tokenizer, the loop; and masked latents."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from groundbass import load_encoder
from groundbass.data.audio.read import write
from groundbass.data.batch import Batch
from groundbass.data.draws import draw_seeds
from groundbass.data.track import Manifest, Track
from groundbass.models.beats import BeatsModel
from groundbass.models.beats_tokenizer import BeatsQuantizer
from groundbass.models.published import write_encoder
from groundbass.pretrain.command import _plan
from groundbass.pretrain.iterate import iterate
from groundbass.pretrain.objective import TrainingStopped, example_index
from groundbass.pretrain.objectives import latent, tokenizer, tokens
from groundbass.pretrain.objectives.distillation import Distillation
from groundbass.pretrain.objectives.latent import Latent, draw_blocks, over_clip
from groundbass.pretrain.objectives.tokens import Tokens, draw_kept, hidden_patches
from groundbass.pretrain.recipe import find

RATE = 16_000


def make_batch(clips: int = 3, samples: int = 20_000, valid: list[int] | None = None, rate: int = RATE) -> Batch:
    waveform = 0.1 * torch.randn(clips, 1, samples, generator=torch.Generator().manual_seed(7))
    counts = torch.tensor(valid or [samples] * clips)[:, None]
    return Batch(
        waveform=waveform, sample_rate=rate, valid=counts, starts=torch.zeros(clips, 1, dtype=torch.int64),
        keys=[str(n) for n in range(clips)], index=torch.arange(clips),
    )  # fmt: skip


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Six tracks of noise bursts and tones at 16 kHz."""
    tracks = []
    for number in range(6):
        draw = np.random.default_rng(number)
        time = np.arange(RATE * 3) / RATE
        sound = 0.2 * np.sin(2 * np.pi * 200 * (number + 1) * time) * (np.sin(9 * time) > 0)
        sound = (sound + 0.05 * draw.standard_normal(len(time))).astype(np.float32)
        write(tmp_path / f"{number}.flac", sound, RATE)
        tracks.append(Track(f"{number}.flac", f"{number}.flac", len(sound), RATE, 1, f"{number:032x}"))
    found = Manifest.from_tracks(tracks, tmp_path)
    found.write(tmp_path / "manifest.parquet")
    return found


def build_tokens(**changes: Any) -> Tokens:
    torch.manual_seed(0)
    objective = dataclasses.replace(find("tokens.beats_iter1_debug").objective, **changes).build()
    return objective.train()


def build_distillation(manifest: Manifest, tmp_path: Path, **changes: Any) -> Distillation:
    torch.manual_seed(0)
    objective = dataclasses.replace(find("tokenizer.beats_tokenizer_debug").objective, **changes).build().train()
    objective.prepare(manifest, tmp_path)
    return objective


# --- what is heard ---


def test_a_fixed_share_of_the_sound_patches_is_kept() -> None:
    inside = torch.arange(120) < torch.tensor([120, 64, 8, 1, 0])[:, None]
    positions, mask = draw_kept(inside, 0.25, torch.arange(5))
    assert mask.sum(1).tolist() == [30, 16, 2, 0, 0]  # one patch alone is hidden: something has to be predicted
    for row, (places, used) in enumerate(zip(positions, mask)):
        kept = places[used].tolist()
        assert kept == sorted(set(kept)) and all(inside[row, p] for p in kept)
    hidden = hidden_patches(inside, positions, mask)
    assert hidden.sum(1).tolist() == [90, 48, 6, 1, 0]
    assert not (hidden & ~inside).any()


def test_every_patch_is_kept_equally_often() -> None:
    inside = torch.ones(4000, 24, dtype=torch.bool)
    positions, mask = draw_kept(inside, 0.25, draw_seeds(0, torch.arange(4000), 1))
    share = 1 - hidden_patches(inside, positions, mask).float().mean(0)
    assert float((share - 0.25).abs().max()) < 0.03


def test_a_row_draws_from_its_own_seed() -> None:
    inside = torch.ones(3, 40, dtype=torch.bool)
    together, _ = draw_kept(inside, 0.25, torch.tensor([5, 6, 7]))
    alone, _ = draw_kept(inside[:1], 0.25, torch.tensor([6]))
    assert torch.equal(together[1], alone[0])


# --- what is predicted ---


@pytest.mark.parametrize("valid", [None, [20_000, 9_000, 5_000]])
def test_the_loss_is_smoothed_cross_entropy_of_hidden_patches(valid: list[int] | None) -> None:
    """Against a second way: whole clips with the hidden patches masked out, and the loss written out."""
    objective, batch = build_tokens(), make_batch(valid=valid)
    loss = objective(batch, 0)
    model, config = objective.encoder, objective.config
    waveform, counts = batch.waveform[:, 0], batch.valid[:, 0]
    fbank = model.fbank(waveform)
    labels = objective.labels(waveform, fbank, counts)
    inside = torch.arange(labels.shape[1]) < model.valid_patches(counts)[:, None]
    seeds = draw_seeds(objective.seed, example_index(batch), tokens.HIDE)
    positions, mask = draw_kept(inside, 0.25, seeds)
    hidden = hidden_patches(inside, positions, mask)
    kept = inside & ~hidden
    states = model.encode(model.embed_patches(fbank), mask=kept)[-1]
    predictor = objective.predictor
    grid = torch.where(kept[..., None], predictor.project(states), predictor.hidden_embedding)
    scores = predictor.logits(predictor.norm(predictor.transformer(grid, mask=inside)[-1])).log_softmax(-1).detach()
    total, number = 0.0, 0
    for clip in range(3):
        for token in hidden[clip].nonzero()[:, 0].tolist():
            own = scores[clip, token, labels[clip, token]]
            total -= float((1 - config.label_smoothing) * own + config.label_smoothing * scores[clip, token].mean())
            number += 1
    assert float(loss.weight) == number
    assert float(loss.value.detach()) == pytest.approx(total / number, rel=1e-4)


def test_compacted_positions_are_another_function() -> None:
    batch = make_batch()
    true = build_tokens()(batch, 0).value.item()
    compacted = build_tokens(positions="compacted")(batch, 0).value.item()
    assert true != pytest.approx(compacted, abs=1e-7)


def test_labels_without_information_stop_the_run() -> None:
    objective = build_tokens(window=4)
    batch = dataclasses.replace(make_batch(), waveform=torch.zeros(3, 1, 20_000))
    for step in range(3):
        objective(batch, step)
        objective.after_step(step)
    objective(batch, 3)
    with pytest.raises(TrainingStopped, match=r"'tokens'.* carry 0\.00 bits"):
        objective.after_step(3)


def test_wrong_audio_is_a_sentence() -> None:
    objective = build_tokens()
    with pytest.raises(ValueError, match="24000 Hz, the encoder expects 16000 Hz"):
        objective(make_batch(rate=24_000), 0)
    with pytest.raises(ValueError, match="one row of patches needs 2800"):
        objective(make_batch(samples=2_000), 0)
    with pytest.raises(ValueError, match=r"hidden is 1\.0"):
        build_tokens(hidden=1.0)


def test_a_named_tokenizer_gives_the_labels(manifest: Manifest, tmp_path: Path) -> None:
    teacher = build_distillation(manifest, tmp_path).encoder.eval()
    write_encoder(teacher, tmp_path / "tokenizer")
    objective = build_tokens(tokenizer=str(tmp_path / "tokenizer"))
    objective.prepare(manifest, tmp_path)
    waveform = make_batch().waveform[:, 0]
    found = objective.labels(waveform, objective.encoder.fbank(waveform), torch.full((3,), 20_000))
    assert torch.equal(found, teacher.codes(waveform))
    assert len(objective.provenance()["tokenizer"]) > 20
    assert not any("quantizer" in name for name in objective.state_dict())


def test_a_wrong_tokenizer_is_a_sentence(manifest: Manifest, tmp_path: Path) -> None:
    def refuse(sentence: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=sentence):
            build_tokens(**changes).prepare(manifest, tmp_path)

    refuse("name it with --objective.tokenizer", tokenizer="")
    refuse("no published model in", tokenizer=str(tmp_path / "nowhere"))
    teacher = build_distillation(manifest, tmp_path).encoder
    write_encoder(teacher, tmp_path / "tokenizer")
    refuse("has 32 codes, the recipe 64: set objective.codes to 32", tokenizer=str(tmp_path / "tokenizer"), codes=64)
    other = dataclasses.replace(tokens.DEBUG, mel_bins=64)
    refuse("has mel_bins = 128, the recipe's encoder 64", tokenizer=str(tmp_path / "tokenizer"), encoder=other)
    write_encoder(teacher.beats, tmp_path / "encoder_only")
    refuse("is no BEATs tokenizer", tokenizer=str(tmp_path / "encoder_only"))


# --- the distilled tokenizer ---


def test_the_distillation_loss_is_cosine_and_commitment(manifest: Manifest, tmp_path: Path) -> None:
    objective, batch = build_distillation(manifest, tmp_path), make_batch(valid=[20_000, 9_000, 5_000])
    loss = objective(batch, 0)
    model, teacher = objective.encoder, objective._teacher[0]
    cosines, distances = [], []
    for clip, samples in enumerate([20_000, 9_000, 5_000]):  # each clip alone: padding must not matter
        waveform = batch.waveform[clip, :, :samples]
        direction = functional.normalize(model.latent(model.beats.fbank(waveform)), dim=-1)
        words = model.quantizer.codewords
        chosen = words[(direction[0] @ words.T).argmax(1)][None]  # on the sphere the nearest is the most alike
        estimate = objective.estimator(chosen, None)
        wanted = teacher(waveform).last_hidden_state
        cosines.append(functional.cosine_similarity(estimate, wanted, dim=-1)[0])
        distances.append((direction - chosen).square()[0])
    expected = 1 - torch.cat(cosines).mean() + torch.cat(distances).mean()
    assert float(loss.value.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert int(loss.weight) == len(torch.cat(cosines))


@pytest.mark.parametrize("target", ["hidden", "logits"])
def test_distillation_combines_over_micro_batches(manifest: Manifest, tmp_path: Path, target: str) -> None:
    torch.manual_seed(1)
    config = tokens.DEBUG.config()
    config.classes = 5
    write_encoder(BeatsModel(config).eval(), tmp_path / "tuned")
    width = {"hidden": config.hidden_size, "logits": 5}[target]
    changes = {"teacher": str(tmp_path / "tuned"), "target": target, "teacher_dim": width}
    objective = build_distillation(manifest, tmp_path, **changes)
    batch = make_batch(valid=[20_000, 9_000, 5_000])
    parts = [make_batch(valid=[20_000, 9_000, 5_000]) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, 1), slice(1, 3))):
        part.waveform, part.valid, part.index = batch.waveform[rows], batch.valid[rows], batch.index[rows]
        part.starts, part.keys = batch.starts[rows], batch.keys[rows]
    whole, losses = objective(batch, 0), [objective(part, 0) for part in parts]
    weight = sum(float(loss.weight) for loss in losses)
    assert weight == float(whole.weight)
    for name in ("cosine", "commitment"):
        mean = sum(float(loss.metrics[name]) * float(loss.weight) for loss in losses) / weight
        assert mean == pytest.approx(float(whole.metrics[name]), rel=1e-5)
    mean = sum(float(loss.value.detach()) * float(loss.weight) for loss in losses) / weight
    assert mean == pytest.approx(float(whole.value.detach()), rel=1e-5)


def test_codewords_follow_the_mean_of_what_chose_them(manifest: Manifest, tmp_path: Path) -> None:
    objective = build_distillation(manifest, tmp_path, revive_below=0.0)
    before = objective.encoder.quantizer.codewords.clone()
    batches = [make_batch(), dataclasses.replace(make_batch(), waveform=make_batch().waveform.flip(2))]
    points: list[Tensor] = []
    for batch in batches:
        objective(batch, 0)
        latents = objective.encoder.latent(objective.encoder.beats.fbank(batch.waveform[:, 0])).detach()
        points.append(functional.normalize(latents, dim=-1).flatten(0, 1))
    objective.after_step(0)
    every = torch.cat(points)
    codes = torch.cdist(every, before).argmin(1)
    for code in range(32):
        chosen = every[codes == code]
        if len(chosen):
            mean = chosen.mean(0) / chosen.mean(0).norm()
            wanted = 0.99 * before[code] + 0.01 * mean
            wanted = wanted / wanted.norm()
        else:
            wanted = before[code]  # nobody chose it: it stays
        torch.testing.assert_close(objective.encoder.quantizer.codewords[code], wanted, atol=1e-5, rtol=0)


def test_codewords_start_on_the_data_and_dead_ones_are_revived(manifest: Manifest, tmp_path: Path) -> None:
    objective = build_distillation(manifest, tmp_path)
    words = objective.encoder.quantizer.codewords
    torch.testing.assert_close(words.norm(dim=1), torch.ones(32))
    words[0] = -functional.normalize(words.mean(0), dim=0)  # opposite to all the data
    objective.usage.zero_().add_(1.0)
    objective.usage[0] = 0.0
    lost = words[0].clone()
    for step in range(2):
        objective(make_batch(), step)
        objective.after_step(step)
    assert float(words[0] @ lost) < 0.9
    assert words.dtype == torch.float32


def test_a_collapsed_codebook_stops_the_run(manifest: Manifest, tmp_path: Path) -> None:
    objective = build_distillation(manifest, tmp_path, window=3, revive_below=0.0)
    objective.encoder.quantizer.codewords.copy_(functional.normalize(torch.ones(32, 16), dim=-1))
    for step in range(2):
        objective(make_batch(), step)
        objective.after_step(step)
    objective(make_batch(), 2)
    with pytest.raises(TrainingStopped, match=r"'tokenizer'.* but at least 1\.00 are expected"):
        objective.after_step(2)


def test_a_fine_tuned_teacher_teaches_its_logits(manifest: Manifest, tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = tokens.DEBUG.config()
    config.classes = 5
    teacher = BeatsModel(config).eval()
    write_encoder(teacher, tmp_path / "tuned")
    changes = {"teacher": str(tmp_path / "tuned"), "target": "logits", "teacher_dim": 5}
    objective, batch = build_distillation(manifest, tmp_path, **changes), make_batch()
    loss = objective(batch, 0)
    with torch.no_grad():
        wanted = teacher.logits(teacher(batch.waveform[:, 0]).last_hidden_state)
        _, words, _ = objective.encoder.quantizer(
            objective.encoder.latent(objective.encoder.beats.fbank(batch.waveform[:, 0]))
        )
        said = objective.estimator(words, None).mean(1)
    cosine = functional.cosine_similarity(said, wanted, dim=-1).mean()
    assert float(loss.metrics["cosine"]) == pytest.approx(float(cosine), rel=1e-4)
    assert float(loss.weight) == 3
    with pytest.raises(ValueError, match=r"set objective\.teacher_dim to 5"):
        build_distillation(manifest, tmp_path, **(changes | {"teacher_dim": 6}))


def test_a_wrong_teacher_is_a_sentence(manifest: Manifest, tmp_path: Path) -> None:
    def refuse(sentence: str, **changes: Any) -> None:
        with pytest.raises(ValueError, match=sentence):
            build_distillation(manifest, tmp_path, **changes)

    refuse("name it with --objective.teacher", teacher="")
    refuse("no published model in", teacher=str(tmp_path / "nowhere"))
    quantizer = build_distillation(manifest, tmp_path).encoder
    write_encoder(quantizer, tmp_path / "tokenizer")
    refuse("no BEATs encoder", teacher=str(tmp_path / "tokenizer"))
    write_encoder(quantizer.beats, tmp_path / "encoder_only")
    refuse("has no fine-tuned head", teacher=str(tmp_path / "encoder_only"), target="logits")
    other = dataclasses.replace(tokens.DEBUG, mel_bins=64)
    refuse("has mel_bins = 128", teacher=str(tmp_path / "encoder_only"), encoder=other)


# --- the loop ---


@pytest.mark.slow
def test_the_loop_runs_goes_on_and_publishes(manifest: Manifest, tmp_path: Path) -> None:
    data, run = tmp_path / "manifest.parquet", tmp_path / "loop"
    assert iterate("debug", data=data, run=run, iterations=1, encoder_steps=3, tokenizer_steps=2) == 0
    first = (run / "encoder_1" / "loss.jsonl").read_bytes()
    assert iterate("debug", data=data, run=run, iterations=2, encoder_steps=3, tokenizer_steps=2) == 0
    assert (run / "encoder_1" / "loss.jsonl").read_bytes() == first
    record = json.loads((run / "encoder_2" / "recipe.json").read_text())
    assert record["recipe"]["objective"]["tokenizer"] == str(run / "tokenizer_2")
    assert record["objective"]["tokenizer"]
    assert "--objective.tokenizer" in record["overrides"]
    assert isinstance(BeatsQuantizer.from_pretrained(run / "tokenizer_2" / "encoder"), BeatsQuantizer)
    last, published = load_encoder(run / "encoder_2"), load_encoder(run)
    waveform = 0.1 * torch.randn(1, 16_000)
    assert torch.equal(last.hidden_states(waveform), published.hidden_states(waveform))
    with pytest.raises(ValueError, match="--iterations is 0"):
        iterate("debug", data=data, run=run, iterations=0)
    with pytest.raises(ValueError, match=r"encoder_1 was trained for 3 steps, and .*tokenizer_2 has begun"):
        iterate("debug", data=data, run=run, iterations=2, encoder_steps=4, tokenizer_steps=2)
    quantizer = BeatsQuantizer.from_pretrained(run / "tokenizer_2" / "encoder")
    codewords = quantizer.quantizer.codewords.clone()
    quantizer.quantizer.codewords.mul_(-1)
    write_encoder(quantizer, run / "tokenizer_2" / "encoder")  # a stage's encoder becomes that of its checkpoint again
    assert iterate("debug", data=data, run=run, iterations=2, encoder_steps=3, tokenizer_steps=2) == 0
    mended = BeatsQuantizer.from_pretrained(run / "tokenizer_2" / "encoder")
    assert torch.equal(mended.quantizer.codewords, codewords)
    record["objective"]["tokenizer"] = "0" * len(record["objective"]["tokenizer"])
    (run / "encoder_2" / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"encoder_2 was begun with another tokenizer than the one that is there now"):
        iterate("debug", data=data, run=run, iterations=2, encoder_steps=3, tokenizer_steps=2)


@pytest.mark.parametrize(
    "address", ["tokens.beats_iter1", "tokens.beats_iter2", "tokenizer.beats_tokenizer", "latent.eat_beats_base"]
)
def test_full_size_recipes_are_planned_without_memory(address: str) -> None:
    shown = _plan(address, find(address))
    if address.startswith("tokenizer"):
        assert "heads and the rest" in shown
    else:
        assert "90,311,792 parameters" in shown


def test_published_numbers_of_the_recipes() -> None:
    recipe = tokens.beats_iter1()
    assert recipe.seconds_per_step == 5600  # of audio
    assert tokenizer.beats_tokenizer().seconds_per_step == 1400
    assert (recipe.objective.hidden, recipe.objective.codes, recipe.objective.predictor_layers) == (0.75, 1024, 3)


# --- masked latents ---


def build_latent(**changes: Any) -> Latent:
    torch.manual_seed(0)
    objective: Latent = dataclasses.replace(latent.eat_beats_debug().objective, **changes).build().train()
    return objective


def test_blocks_are_kept_and_their_number_is_exact() -> None:
    rows, bands = 31, 8
    inside = torch.arange(rows * bands) < torch.tensor([248, 248, 80, 8])[:, None]
    positions, mask = draw_blocks(inside, rows, 0.2, 5, torch.arange(4))
    assert mask.sum(1).tolist() == [50, 50, 16, 2]
    assert all(bool(inside[row][positions[row][mask[row]]].all()) for row in range(4))
    kept = torch.zeros(2000, 248, dtype=torch.bool)
    everywhere = torch.ones(2000, 248, dtype=torch.bool)
    places, _ = draw_blocks(everywhere, rows, 0.2, 5, draw_seeds(0, torch.arange(2000), 3))
    kept.scatter_(1, places, True)
    grid = kept.view(-1, rows, bands)
    neighbours = (grid[:, 1:] & grid[:, :-1]).sum() / grid[:, 1:].sum()
    assert float(neighbours) > 0.6  # single patches at random would give 0.2
    share = grid.float().mean((0, 2))
    assert float(share.min()) > 0.12 and float(share.max()) < 0.28


def test_over_clip_is_instance_norm_of_the_sound_patches() -> None:
    states, inside = torch.randn(2, 10, 4), torch.arange(10) < torch.tensor([10, 6])[:, None]
    ours = over_clip(states, inside)
    for row, count in enumerate((10, 6)):
        theirs = functional.instance_norm(states[row, :count].T[None], eps=1e-5)[0].T
        torch.testing.assert_close(ours[row, :count], theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("valid", [None, [20_000, 9_000, 5_000]])
def test_the_latent_loss_is_the_error_at_hidden_patches(valid: list[int] | None) -> None:
    """Mask by mask and clip by clip, the teacher asked anew each time, hidden patches masked out of whole clips."""
    objective, batch = build_latent(), make_batch(valid=valid)
    loss = objective(batch, 0)
    model, teacher = objective.encoder, objective.teacher
    total = clip_total = number = 0.0
    for mask_number in range(2):
        seeds = draw_seeds(0, example_index(batch), latent.HIDE + mask_number)
        for clip in range(3):
            samples = int(batch.valid[clip, 0])
            fbank = model.fbank(batch.waveform[clip, :, :samples])
            rows = fbank.shape[1] // 16
            inside = torch.ones(1, rows * 8, dtype=torch.bool)
            full_rows = model.fbank(batch.waveform[clip]).shape[1] // 16
            padded = torch.arange(full_rows * 8)[None] < rows * 8
            positions, used = draw_blocks(padded, full_rows, 0.2, 2, seeds[clip : clip + 1])
            hidden = hidden_patches(padded, positions, used)[:, : rows * 8]
            kept = inside & ~hidden
            states = teacher.encode(teacher.embed_patches(fbank), keep_all=True)[1:]
            normed = [functional.instance_norm(s.transpose(1, 2), eps=1e-5).transpose(1, 2) for s in states]
            wanted = functional.layer_norm(torch.stack(normed).mean(0), (32,))
            heard = model.encode(model.embed_patches(fbank), mask=kept)[-1]
            # the decoder's convolutions see the learned embedding in the padding, as in the batch
            grid = objective.hidden_embedding.expand(1, full_rows * 8, -1).clone()
            grid[:, : rows * 8] = torch.where(kept[..., None], heard, grid[:, : rows * 8])
            predicted = objective.decoder(grid.view(1, full_rows, 8, -1)).flatten(1, 2)[:, : rows * 8]
            count = float(hidden.sum())
            total += float((predicted - wanted).square().mean(-1)[hidden].sum().detach())
            clip_error = objective.clip_head(heard[kept].mean(0)) - wanted[0].mean(0)
            clip_total += count * float(clip_error.square().mean().detach())
            number += count
    assert float(loss.weight) == number
    assert float(loss.value.detach()) == pytest.approx((total + clip_total) / number, rel=1e-3)


def test_the_teacher_follows_and_is_never_trained() -> None:
    objective = build_latent(ema_start=0.9, ema_end=0.5, ema_steps=4)
    objective(make_batch(), 0).value.backward()
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    old = objective.teacher.encoder.layer_norm.weight.detach().clone()
    with torch.no_grad():
        objective.encoder.encoder.layer_norm.weight.add_(1.0)
    new = objective.encoder.encoder.layer_norm.weight.detach()
    objective.after_step(0)
    once = 0.9 * old + 0.1 * new
    torch.testing.assert_close(objective.teacher.encoder.layer_norm.weight, once)
    objective.after_step(2)  # half way: 0.7
    torch.testing.assert_close(objective.teacher.encoder.layer_norm.weight, 0.7 * once + 0.3 * new)
    assert objective.train().teacher.training is False


def test_a_collapsed_teacher_stops_the_run() -> None:
    objective = build_latent()
    with torch.no_grad():
        for block in objective.teacher.encoder.layers:
            block.final_layer_norm.weight.zero_()
    objective(make_batch(), 99)
    with pytest.raises(TrainingStopped, match="collapsed"):
        objective.after_step(99)
