"""How fast `pretrain` is, each number against a reference measured in the same run."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torchaudio
from torch import Tensor

from ...data.draws import draw_seeds
from ...models.mert import MertConfig
from ..objectives import masked
from ..objectives import predictive as predictive_recipes
from ..objectives.parts.noise_mixture import NoiseMixture, add_segments, draw_segments
from ..objectives.parts.rvq_target import RVQSettings
from ..objectives.tokens import Tokens, beats_iter1, take
from ..recipe import Recipe
from ..run.hardware import peak_flops
from ..targets.cqt import CQTSettings
from .parts import Bench, Row, peak_memory, row


def mert() -> list[Row]:
    """A step of masked pretraining and its parts: `mert_tiny` on a CPU, `mert_95m` with Mel-RVQ + CQT on a GPU.

    Rows: seconds of audio per second of the full step; seconds per step of data wait, targets, front end, transformer,
    backward and optimiser; utilisation (GPU: analytic FLOPs over the vendor's dense bf16 peak); peak memory; and
    `noise_mixture` (against a loop over items), `attention` (against softmax written out), `targets` (a step without
    targets over a step with them: its ratio is the share of the step that isn't targets).
    """
    bench = Bench(_recipe())
    step = bench.seconds(bench.step)
    audio = bench.batch.waveform.numel() / bench.recipe.crops.sample_rate
    rows = [row("step", audio / step, "s of audio/s"), row("step_seconds", step, "s")]
    rows += [row(f"part_{name}", value, "s") for name, value in bench.parts().items()]
    if bench.device.type == "cuda":
        forward = flops(bench.objective.encoder.config, bench.recipe.crops.crop_samples) * len(bench.batch.waveform)
        rows += _utilisation(bench, step, forward)
    rows.append(row("peak_memory", peak_memory(bench.device), "GiB"))
    rows.append(_mixture_row(bench))
    rows.append(_attention_row(bench, step))
    without = bench.without_targets()
    rows.append(
        row("targets", without / step, "step without / step with", "the same step without targets", without / step)
    )
    return rows


def train() -> list[Row]:
    """The training loop: what it costs beyond the arithmetic, and on a GPU what full sizes reach.

    Rows: `loop` (our loop against a bare PyTorch loop around the same module, data and loader, in turns); `data_wait`
    (share of a step); `checkpoint` and `checkpoint_share` (of the recipe's time); `two_ranks` (CPU: two ranks with a
    thread each against one with two, at the same batch over all); `switch_…` (a step with fused AdamW, in bf16, with
    activations computed again, compiled, against one without); `checkpoint_full` (weights and optimiser's state of
    `mert_95m` with checksums, against a plain write). On a GPU, in bf16, plain and compiled, for MERT 95M and 330M,
    BEATs base, EAT base and CLMR base: seconds of audio per second, utilisation of the dense peak, peak memory.
    """
    from .train import rows

    return rows()


def gpu(rehearse: bool = False) -> list[Row]:
    """First contact with a GPU, in eight minutes, what is worth most first; each figure is said at once on stderr.

    Rows: the card's ceilings and attention kernels; every objective's loss and gradient in float32 and bf16 against the
    CPU's, and its waits against those that are allowed; steps of full sizes, plain and compiled. `--rehearse` runs this
    code on a CPU in miniature, and adds `roofline`: what the step's kernels would take on a GPU, an estimate.
    """
    from .gpu import rows

    return rows(rehearse)


def spectra() -> list[Row]:
    """The CQT target (`cqt`) and a mel front end whose kernels learn (`trained_mel`), each against nnAudio's layer.

    On a GPU these rows say which back end `--objective.cqt.backend` should be. `mel` is the fixed front end.
    """
    from .spectra import rows

    return rows()


def published() -> list[Row]:
    """Parts of published recipes: the conformer layer against transformers', MuQ's quantiser, split views, memory.

    Rows: `conformer_layer` (inference) and `conformer_layer_training` (MuQ's size, the same weights in both);
    `muq_quantiser` (against a plain loop over codebooks); `visible_patches` (a step of M2D base whose student hears the
    kept 30 % against one that hears all patches); `memory_…` (GiB per GPU of MuQ, MATPAC++ and EAT, counted).
    """
    from .recipe_parts import rows

    return rows()


def _recipe() -> Recipe:
    """The recipe that is measured; full size on a GPU, with the targets that need no download."""
    if not torch.cuda.is_available():
        return dataclasses.replace(masked.mert_tiny(), batch_size=8)
    recipe = masked.mert_95m()
    objective = dataclasses.replace(
        recipe.objective,
        codec=dataclasses.replace(recipe.objective.codec, weight=0.0),
        rvq=RVQSettings(weight=1.0, stack=2),
        cqt=CQTSettings(weight=1.0),
        encoder=dataclasses.replace(recipe.objective.encoder, attention_dropout=0.1),
    )
    return dataclasses.replace(recipe, objective=objective, batch_size=64, micro_batch=64)


def beats() -> list[Row]:
    """A step of BEATs base, iteration 1, on 10-second clips: 4 on a CPU, a micro-batch of 35 in bf16 on a GPU.

    Rows: `step` (seconds of audio per second), utilisation (GPU: analytic FLOPs over the dense bf16 peak), peak
    memory; `kept_patches` (the step whose encoder hears the kept quarter against the same step over all patches, the
    hidden ones set to 0); `fbank` (the batched filter bank against torchaudio's, clip by clip).
    """
    recipe = beats_iter1()
    count = 35 if torch.cuda.is_available() else 4
    recipe = dataclasses.replace(recipe, batch_size=count, micro_batch=count)
    bench = Bench(recipe if torch.cuda.is_available() else dataclasses.replace(recipe, precision="no"))
    step = bench.seconds(bench.step, rounds=2)
    rows = [row("step", count * recipe.crop_seconds / step, "s of audio/s"), row("step_seconds", step, "s")]
    if bench.device.type == "cuda":
        rows += _utilisation(bench, step, beats_flops(bench.objective, recipe.crops.crop_samples) * count)
    rows.append(row("peak_memory", peak_memory(bench.device), "GiB"))
    bench.objective.encode_kept = _encode_all(bench.objective)
    every = bench.seconds(bench.step, rounds=2)
    rows.append(row("kept_patches", step, "s per step", "the encoder over all patches", every / step))
    return [*rows, _fbank_row(bench)]


def _encode_all(objective: Tokens) -> Callable[..., Tensor]:
    """The encoder over whole clips, what isn't heard set to 0; gives the kept patches, as `Tokens` wants them."""

    def encode(tokens: Tensor, positions: Tensor, mask: Tensor, total: int) -> Tensor:
        index = positions[..., None].expand_as(tokens)
        grid = tokens.new_zeros(len(tokens), total, tokens.shape[2]).scatter(1, index, tokens)
        return take(objective.encoder.encode(grid)[-1], positions)

    return encode


def beats_flops(objective: Tokens, samples: int) -> float:
    """Multiply-adds × 2 of one clip's forward pass: patch embedding, encoder on the kept patches, label predictor."""
    config = objective.encoder.config
    dim, total = config.hidden_size, config.times(samples) * config.bands
    kept = round(total * (1 - objective.config.hidden))

    def blocks(tokens: int, layers: int) -> float:
        return 2.0 * layers * tokens * (4 * dim * dim + 2 * dim * config.intermediate_size + 2 * tokens * dim)

    patches = 2.0 * total * config.patch_dim * (config.patch_size**2 + dim)
    positions = 2.0 * total * dim * (dim // config.conv_pos_groups) * config.conv_pos
    labels = 2.0 * (kept * dim * dim + (total - kept) * dim * objective.config.codes)
    predictor = blocks(total, objective.config.predictor_layers) + labels
    return patches + positions + blocks(kept, config.num_hidden_layers) + predictor


def _fbank_row(bench: Bench) -> Row:
    waveform = torch.cat([bench.batch.waveform.flatten(0, 1)] * (16 // len(bench.batch.waveform) or 1))

    def loop() -> Tensor:
        return torch.stack([
            torchaudio.compliance.kaldi.fbank(clip[None] * 2**15, num_mel_bins=128, sample_frequency=16_000)
            for clip in waveform
        ])  # fmt: skip

    ours, theirs = bench.seconds(lambda: bench.objective.encoder.filter_bank(waveform)), bench.seconds(loop)
    return row("fbank", ours, f"s for {len(waveform)} clips of 10 s", "torchaudio clip by clip", theirs / ours)


def flops(config: MertConfig, samples: int) -> float:
    """Multiply-adds × 2 of one clip's forward pass through the encoder, convolutions included."""
    frames, dim = config.frames(samples), config.hidden_size
    total, length, inputs = 0.0, samples, 1
    if config.frontend == "conv":
        for outputs, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
            length = (length - kernel) // stride + 1
            total += 2.0 * length * inputs * outputs * kernel
            inputs = outputs
    else:
        for divisor, inputs in ((2, 1), (4, config.mel_channels)):
            cells = frames * 4 // divisor * (config.mel_bins // divisor)
            total += 2.0 * cells * inputs * config.mel_channels * 9
    total += 2.0 * frames * config.feature_dim * dim
    if config.positions == "conv":
        total += 2.0 * frames * dim * (dim // config.num_conv_pos_embedding_groups) * config.num_conv_pos_embeddings
    block = 4 * dim * dim + 2 * dim * config.intermediate_size + 2 * frames * dim
    return total + 2.0 * frames * block * config.num_hidden_layers


def _utilisation(bench: Bench, step: float, forward: float) -> list[Row]:
    """FLOPs of forward and backward (3 × forward, of the whole batch) over the step's seconds and the device's peak."""
    name = torch.cuda.get_device_name()
    peak = peak_flops("bf16")
    rate = 3 * forward / step
    rows = [row("flops", rate / 1e12, "TFLOP/s")]
    return rows if peak is None else [*rows, row("utilisation", rate / peak, f"of {name}'s dense bf16 peak")]


def _mixture_row(bench: Bench) -> Row:
    """The vectorised mixture against the published way, a loop over items and segments."""
    waveform = bench.batch.waveform.flatten(0, 1)
    seeds = draw_seeds(0, torch.arange(len(waveform), device=bench.device), 0)
    settings = NoiseMixture()

    def loop() -> Tensor:
        valid = torch.full((len(waveform),), waveform.shape[1], device=bench.device)
        segments = draw_segments(seeds, valid, settings)
        mixed = waveform.clone()
        for item in range(len(waveform)):
            others = torch.cat([waveform[:item], waveform[item + 1 :]]).flatten()
            for number in range(settings.segments[1]):
                length = int(segments.length[item, number])
                source, target = int(segments.source[item, number]), int(segments.target[item, number])
                mixed[item, target : target + length] += others[source : source + length]
        return mixed

    ours, theirs = bench.seconds(lambda: add_segments(waveform, seeds)), bench.seconds(loop)
    return row("noise_mixture", ours, "s", "a loop over items and segments", theirs / ours)


def _attention_row(bench: Bench, step: float) -> Row:
    """The full step with scaled_dot_product_attention against the step with softmax(QK)V written out."""
    with _naive_attention():
        naive = bench.seconds(bench.step)
    return row("attention", step, "s per step", "softmax attention written out", naive / step)


@contextlib.contextmanager
def _naive_attention() -> Iterator[None]:
    def naive(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
    ) -> Tensor:
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        return torch.dropout(scores.softmax(-1), dropout_p, True) @ value

    with patch("torch.nn.functional.scaled_dot_product_attention", naive):
        yield


def predictive() -> list[Row]:
    """CPC's InfoNCE, forward and backward, against the same sums in a loop over clips and steps ahead."""
    objective = predictive_recipes.cpc_tiny().objective.build()
    config, frames, clips = objective.config, 64, 8
    draw = torch.Generator().manual_seed(0)
    context = torch.randn(clips, frames, config.context_size, generator=draw)
    latents = torch.randn(clips, frames, config.channels[-1], generator=draw, requires_grad=True)
    lengths, index = torch.full((clips,), frames), torch.arange(clips)

    def ours() -> Tensor:
        others = objective._negatives(latents, lengths, index)
        loss = predictive_recipes.summed_up(objective.loss(context, latents, others), lengths, logs=False).value
        loss.backward()
        return loss

    def loop() -> Tensor:
        seeds = draw_seeds(objective.seed, index, predictive_recipes.CANDIDATES)
        drawn = predictive_recipes.draw_negatives(lengths, index, frames, config, seeds)
        total = latents.new_zeros(())
        for k, step in enumerate(objective.loss.predictor.weight.chunk(config.ahead), start=1):
            terms = []
            for clip in range(clips):
                for t in range(frames - k):
                    others = latents[drawn.clips[clip, t + k], drawn.frames[clip, t + k]]
                    scores = torch.cat([latents[clip, t + k][None], others]) @ (step @ context[clip, t])
                    terms.append(torch.logsumexp(scores, 0) - scores[0])
            total = total + torch.stack(terms).mean() / config.ahead
        total.backward()
        return total

    assert torch.allclose(ours(), loop(), rtol=1e-4)
    seconds = median(_seconds(ours) for _ in range(5))
    slow = _seconds(loop)
    reference = f"a loop over clips, frames and steps ahead: {clips / slow:.1f} clips/s"
    return [row("InfoNCE", clips / seconds, "clips/s", reference, slow / seconds)]


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
