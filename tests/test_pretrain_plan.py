"""`groundbass plan`: what is counted against counts by hand and by the trainer, what is computed against arithmetic."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode
from transformers import EncodecConfig, EncodecModel

from groundbass.data.audio.read import write
from groundbass.data.track import Manifest, Track
from groundbass.models.transformer import Block
from groundbass.pretrain import bench
from groundbass.pretrain.cost import formulas as cost
from groundbass.pretrain.cost import plan
from groundbass.pretrain.cost.count import Count, LiveBytes, count, kept, kept_share, run
from groundbass.pretrain.cost.formulas import GIB, Case, largest_micro, memory, total
from groundbass.pretrain.cost.fused_attention import fused_attention
from groundbass.pretrain.cost.pretended_gpu import Kernel
from groundbass.pretrain.cost.roofline import seconds_of
from groundbass.pretrain.launch import FOLDER
from groundbass.pretrain.objective import Loss
from groundbass.pretrain.recipe import Recipe, addresses, find
from groundbass.pretrain.run.flops import flop_counter
from groundbass.pretrain.train import train

DEBUG = [address for address in addresses() if address.endswith("_debug")]


class Toy(nn.Module):
    """An objective whose loss is the mean of a network's output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Tensor, step: int) -> Loss:
        return Loss(self.network(batch).mean(), torch.ones(()))


def chain(width: int, layers: int) -> nn.Module:
    """Linear and GELU in turn, without biases."""
    return nn.Sequential(*(part for _ in range(layers) for part in (nn.Linear(width, width, bias=False), nn.GELU())))


# ---- FLOPs


def test_linear_layers_cost_six_flops_per_parameter_and_token() -> None:
    tokens, width, layers = 10, 32, 3
    batch = torch.randn(tokens, width, requires_grad=True)
    flops, forward, _ = run(Toy(chain(width, layers)), batch)  # type: ignore[arg-type]
    assert forward == 2 * layers * width**2 * tokens
    assert flops == 6 * layers * width**2 * tokens


def test_a_transformer_block_costs_six_flops_per_weight_and_token_and_seven_products_of_attention() -> None:
    batch, tokens, dim, inner = 2, 24, 16, 40
    block = Block(
        dim, 4, inner, norm_first=True, dropout=0.0, attention_dropout=0.1, activation_dropout=0.0, eps=1e-5
    ).train()
    flops, _, _ = run(Toy(block), torch.randn(batch, tokens, dim, requires_grad=True))  # type: ignore[arg-type]
    dense = 6 * (4 * dim * dim + 2 * dim * inner) * batch * tokens
    product = 2 * batch * tokens * tokens * dim  # QKᵀ over all heads
    assert flops == dense + 7 * product


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.ConvTranspose1d])
def test_a_grouped_convolution_costs_what_its_groups_cost_one_by_one(kind: Any) -> None:
    groups, channels, length = 4, 8, 50
    together = kind(channels, channels, 5, groups=groups)
    alone = [kind(channels // groups, channels // groups, 5) for _ in range(groups)]
    sound = torch.randn(2, channels, length, requires_grad=True)
    with FlopCounterMode(display=False) as parts:
        torch.cat([conv(part) for conv, part in zip(alone, sound.chunk(groups, 1), strict=True)], 1).sum().backward()
    with flop_counter() as ours:
        together(sound).sum().backward()
    assert ours.get_total_flops() == parts.get_total_flops()


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four tracks of five seconds of noise."""
    folder = tmp_path_factory.mktemp("noise")
    tracks = []
    for number in range(4):
        sound = 0.1 * np.random.default_rng(number).standard_normal(5 * 24_000)
        write(folder / f"{number}.flac", sound.astype(np.float32), 24_000)
        tracks.append(Track(f"{number}.flac", f"{number}.flac", len(sound), 24_000, 1, f"{number:032x}"))
    Manifest.from_tracks(tracks, folder).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


@pytest.mark.slow
@pytest.mark.parametrize(
    "address", ["contrastive.clmr_debug", "masked.mert_debug", "masked.bestrq_debug", "tokenizer.mel_rvq_debug"]
)
def test_the_count_is_that_of_the_trainers_dry_run(address: str, noise: Path, tmp_path: Path) -> None:
    """The others' attention has a bias with a gradient: without a fused kernel for it, a CPU counts differently."""
    recipe = dataclasses.replace(find(address), batch_size=2, steps=1, log_every=1)
    train(recipe, noise, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "timing.jsonl").read_text().splitlines()[0])
    assert line["tflops"] * 1e12 * line["seconds_per_step"] == pytest.approx(2 * count(recipe).flops, rel=1e-9)


# ---- bytes


def test_the_live_bytes_of_a_chain_are_those_by_hand() -> None:
    tokens, width, layers = 64, 16, 3
    network = chain(width, layers)
    batch = torch.randn(tokens, width)
    with LiveBytes() as alive:
        output = network(batch)
    one = 4 * tokens * width
    assert alive.now == 2 * layers * one  # each linear's output for GELU, each GELU's for the next linear
    assert alive.peak == alive.now
    del output
    assert alive.now == 0


def test_views_and_changes_in_place_are_no_new_bytes_and_freed_ones_are_forgotten() -> None:
    before = torch.zeros(100)
    with LiveBytes() as alive:
        before.view(10, 10).add_(1.0)
        fresh = before + 1
        parts = fresh.view(10, 10).T.split(5)
        assert alive.now == 400
        del fresh
        assert alive.now == 400  # the parts hold it
        del parts
        assert alive.now == 0
        for _ in range(5):
            before * 2
    assert (alive.now, alive.peak) == (0, 400)


def test_the_peak_of_both_passes_is_that_of_torchs_own_tracker() -> None:
    toy, batch = Toy(chain(48, 4)), torch.randn(32, 48)
    for parameter in toy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    there = sum(2 * parameter.nbytes for parameter in toy.parameters()) + batch.nbytes
    tracker = MemTracker()
    tracker.track_external(toy, batch, *(parameter.grad for parameter in toy.parameters()))
    with tracker:
        toy(batch, 0).value.backward()
    theirs = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]
    assert run(toy, batch)[2] == pytest.approx(theirs - there, abs=64)  # type: ignore[arg-type]


@pytest.mark.parametrize("masked", ["no", "bias", "bool"])
def test_fused_attention_is_attention(masked: str) -> None:
    torch.manual_seed(0)
    given = [torch.randn(2, 3, 7, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    bias = torch.randn(1, 3, 7, 7, dtype=torch.float64, requires_grad=True) if masked == "bias" else None
    if masked == "bool":
        bias = torch.rand(2, 1, 1, 7) > 0.3
    wanted = [tensor for tensor in [*given, bias] if tensor is not None and tensor.requires_grad]
    weight = torch.randn(2, 3, 7, 4, dtype=torch.float64)

    theirs = F.scaled_dot_product_attention(*given, attn_mask=bias)
    with fused_attention():
        ours = F.scaled_dot_product_attention(*given, attn_mask=bias)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad((output * weight).sum(), wanted) for output in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_fused_attention_keeps_nothing_that_is_square() -> None:
    batch, heads, tokens, dim = 1, 2, 200, 8
    query, key, value = torch.randn(3, batch, heads, tokens, dim, requires_grad=True)
    with fused_attention(), LiveBytes() as alive:
        output = F.scaled_dot_product_attention(query, key, value, dropout_p=0.1)
    assert alive.now == output.nbytes + 4 * batch * heads * tokens  # and one sum per query


def test_16_bits_keep_what_autocast_keeps() -> None:
    """The linear layer's input as a copy and its output; then float32: GELU's output, cast up, and the norm's."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(64, 32), nn.LayerNorm(32)

        def forward(self, waveform: Tensor) -> Tensor:
            normed: Tensor = self.norm(F.gelu(self.linear(waveform)))
            return normed

    encoder = Encoder()
    float32 = 4 * (32 + 32 + 32 + 2)
    half = 2 * 64 + 2 * 32 + 4 * (32 + 32 + 2)
    assert kept(encoder, 4, 64, False) - kept(encoder, 2, 64, False) == 2 * float32
    assert kept_share(encoder, 64) == pytest.approx(half / float32)


def test_a_tokenizer_keeps_what_the_encoder_in_it_keeps() -> None:
    """Its codes have no gradient, so that its own forward pass would keep nothing."""
    shares = [
        count(dataclasses.replace(find(address), precision="bf16")).kept_share
        for address in ("tokenizer.beats_tokenizer_debug", "tokens.beats_iter1_debug")
    ]
    assert 0.5 < shares[0] < 1 and shares[0] == pytest.approx(shares[1])


@pytest.mark.parametrize("address", ["masked.mert_debug", "tokens.beats_iter1_debug"])
def test_checkpointing_trades_bytes_for_flops(address: str) -> None:
    recipe = find(address)
    deeper = dataclasses.replace(recipe.objective.encoder, num_hidden_layers=12)
    recipe = dataclasses.replace(recipe, objective=dataclasses.replace(recipe.objective, encoder=deeper))
    plain, checkpointed = count(recipe), count(dataclasses.replace(recipe, checkpoint_activations=True))
    assert checkpointed.float32_activations < plain.float32_activations
    assert plain.flops < checkpointed.flops < 1.5 * plain.flops


# ---- formulas


def case(gpus: int = 4, precision: Any = "bf16", **crops: Any) -> Case:
    """Round numbers: P = 1000, F = 100, 800 in matrices, one block of 300 and 200 outside; 10 bytes per crop."""
    counted = Count(
        encoder=900, trained=1000, matrices=800, frozen=100, buffers=7, teachers=5, block=300, beside_blocks=200,
        flops=1e9, backward_share=0.6, float32_activations=20.0, kept_share=1.0 if precision == "no" else 0.5,
        notes=(), seconds=0.0,
    )  # fmt: skip
    recipe = dataclasses.replace(find("masked.mert_debug"), precision=precision, **{"batch_size": 48, **crops})
    return Case(counted, recipe, gpus, "H100")


BESIDE = 7 + 5 + 3 * 10  # buffers, teachers, three crops


@pytest.mark.parametrize(
    ("strategy", "states"),
    [
        ("ddp", 4000 + 4000 + 8000 + 1600 + 4000 + 400),  # weights, gradients, Adam, autocast's copies, buckets, EMA
        ("zero1", 4000 + 4000 + (4000 + 8000) / 4 + 1600 + 400 + 2e8),
        ("zero2", 4000 + (4000 + 4000 + 8000) / 4 + 1600 + 400 + 2e8),
        ("zero2_offload", 4000 + 1600 + 400 + 2e8),
        ("zero3", (4000 + 4000 + 4000 + 8000) / 4 + 100 + 1600 + 4 * 1100 + 2e8),
        ("zero3_offload", 1600 + 4 * 1100 + 2e8),
        # a block of 300, the next one, and the 200 outside are whole; gradients stay whole until the last micro-batch
        ("fsdp2", (4000 + 4000 + 8000) / 4 + 100 + 1600 + 4 * 800 + 4000),
    ],
)
def test_memory_by_strategy_is_that_by_hand(strategy: Any, states: float) -> None:
    assert total(memory(case(), strategy, 3)) == states + BESIDE


def test_memory_in_float32_and_on_one_gpu() -> None:
    assert total(memory(case(precision="no"), "ddp", 1)) == 4000 + 4000 + 8000 + 4000 + 400 + 12 + 20
    assert total(memory(case(gpus=1), "ddp", 1)) == 4000 + 4000 + 8000 + 1600 + 400 + 12 + 10
    assert total(memory(case(precision="no"), "zero2", 1)) == 4000 + (4000 + 4000 + 8000) / 4 + 400 + 2e8 + 12 + 20
    assert total(memory(case(), "fsdp2", 12)) == 4000 + 100 + 1600 + 3200 + 3200 + 12 + 120  # one micro-batch
    assert total(cost.host(case(), "zero2_offload")) == (4 + 8 + 4 + 4) * 1000 / 4
    assert total(cost.host(case(), "zero3_offload")) == (4 + 8 + 4 + 4) * 1000 / 4 + 4 * 100 / 4
    assert not any(cost.host(case(), strategy) for strategy in ("ddp", "zero1", "zero2", "zero3", "fsdp2"))


def test_the_largest_micro_batch_divides_the_share_and_fits() -> None:
    states = total(memory(case(), "ddp", 1)) - 10
    for room in range(0, 15):
        heavy = case()
        bytes_per_crop = (heavy.usable - states) / (room + 0.5)
        counted = dataclasses.replace(heavy.count, float32_activations=2 * bytes_per_crop)
        expected = max((micro for micro in (1, 2, 3, 4, 6, 12) if micro <= room), default=None)
        assert largest_micro(dataclasses.replace(heavy, count=counted), "ddp") == expected


def test_gradient_caching_holds_a_chunk_at_a_time() -> None:
    recipe = find("contrastive.clmr_debug")
    objective = dataclasses.replace(recipe.objective, chunk=2)
    chunked = dataclasses.replace(case(gpus=1), recipe=dataclasses.replace(recipe, objective=objective))
    parts = {term.name: term.value for term in memory(chunked, "ddp", 4)}
    assert parts["activations"] == 2 * chunked.count.activations


def time_of(made: Case, strategy: Any) -> cost.Time:
    return cost.time(made, strategy, cost.by_utilisation(made, 0.5), 1.0)


@pytest.mark.parametrize(
    ("strategy", "seconds", "hidden"),
    [
        ("ddp", 2 * 0.75 * 4000 / 1e9, 0.6 / 3),  # of the computing: the backward pass of one micro-batch of three
        ("zero1", 2 * 0.75 * 4000 / 1e9, 0.0),
        ("zero2", (3 + 1) * 0.75 * 4000 / 1e9, 0.0),
        ("zero3", 3 * 3 * 0.75 * 4000 / 1e9, 1.0),
        ("fsdp2", (2 * 3 + 1) * 0.75 * 4000 / 1e9, 1.0),
    ],
)
def test_the_time_of_a_step_is_that_by_hand(strategy: Any, seconds: float, hidden: float) -> None:
    found = time_of(case(micro_batch=4), strategy)
    computing = 12 * 1e9 / (989e12 * 0.5)
    assert found.compute.value == pytest.approx(computing)
    assert found.communication.value == pytest.approx(seconds)
    left = max(0.0, seconds - hidden * computing)
    assert found.step == pytest.approx(computing + left)


@pytest.mark.parametrize(("strategy", "times"), [("zero2_offload", 3 + 1), ("zero3_offload", 3 * 3)])
def test_offloading_sends_gradients_and_weights_over_the_bus(strategy: Any, times: int) -> None:
    found = time_of(case(micro_batch=4), strategy)
    plain = time_of(case(micro_batch=4), strategy.removesuffix("_offload"))
    assert found.transfers.value == pytest.approx(times * 4000 / 4 / 25e9)
    assert found.step == pytest.approx(plain.step + found.transfers.value)


def test_strategies_are_the_files_that_launch_them() -> None:
    files = {file.stem for file in FOLDER.glob("*.yaml")}
    assert set(cost.STRATEGIES) == files - {"cpu", "one_gpu"}


def test_one_gpu_sends_nothing_and_float32_has_half_the_peak() -> None:
    found = time_of(case(gpus=1, precision="no"), "ddp")
    assert found.communication.value == 0.0
    assert found.step == pytest.approx(48 * 1e9 / (989e12 / 2 * 0.5))


# ---- the command


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert plan.main([*words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("address", DEBUG)
def test_every_recipe_in_miniature_is_planned(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, address, "--gpus", "2", "--strategy", "zero2")
    recipe = find(address)
    assert found["recipe"] == address and found["step"]["crops_per_gpu"] == recipe.batch_size // 2
    assert found["counted"]["flops_per_crop"] > 0 and found["counted"]["activation_bytes_per_crop"] > 0
    for held in found["memory"].values():
        assert held["fits"] and held["total_bytes"] == pytest.approx(sum(term["value"] for term in held["terms"]))
    took = found["time"]
    assert took["gpu_hours"] == pytest.approx(2 * recipe.steps * took["step_seconds"] / 3600)
    assert took["kwh_at_most"] == pytest.approx(0.7 * took["gpu_hours"])


@pytest.mark.slow
def test_what_bounds_a_step_is_the_longest_of_what_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """CLMR's convolutions in float32 take the GPU longer than the host launches, 40 % of the peak or not.

    Its step launched 3,982 kernels once, more than half of them in augmentation.
    """
    words = ["contrastive.clmr_base", "--gpu", "H200", "--micro-batch", "48", "--batch-size", "48", "--kernels"]
    found = told(capsys, *words)
    launched, compute = found["kernels"], found["time"]["terms"][0]
    assert launched["bound"] == "GPU" and launched["waits"] == 2 and launched["per_micro_batch"] <= 3982 // 2
    assert compute["value"] == launched["device_seconds"] > 2 * launched["host_seconds"]
    assert found["time"]["step_seconds"] == compute["value"] and "by roofline" in compute["formula"]


def test_a_tiny_step_is_bound_by_who_launches_it_or_by_the_network(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["masked.bestrq_debug", "--gpu", "H200", "--kernels"]
    found = told(capsys, *words)
    assert found["kernels"]["bound"] == "host"
    assert found["time"]["step_seconds"] == found["kernels"]["host_seconds"] > found["kernels"]["device_seconds"]
    slow = told(capsys, *words, "--gpus", "2", "--network-gbs", "1e-4")
    assert slow["kernels"]["bound"] == "communication"
    given = told(capsys, *words, "--utilisation", "1e-9")  # what is known goes before an estimate
    assert given["kernels"]["bound"] == "GPU" and "by roofline" not in given["time"]["terms"][0]["formula"]
    plan.show(given, Console(width=100))
    assert "the GPU bounds the step" in " ".join(capsys.readouterr().out.split())


def test_a_faster_card_needs_less_of_what_it_is_better_at() -> None:
    moves = Kernel("mul", "", 0, 4.3e12 * 0.85, torch.float32, (), (), (), 0, False)
    multiplies = dataclasses.replace(moves, flops=790e12 * 0.6, bytes=0, dtype=torch.bfloat16)
    assert [seconds_of(kernel) for kernel in (moves, multiplies)] == pytest.approx([1, 1])
    assert [seconds_of(kernel, "B200") for kernel in (moves, multiplies)] == pytest.approx([4.8 / 8, 989 / 2250])


def test_an_ema_teacher_is_state_and_a_frozen_one_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    latent = told(capsys, "latent.eat_debug")
    assert latent["parameters"]["frozen_state"] == latent["parameters"]["encoder"]
    assert latent["frozen_teacher_bytes"] == 0
    distilled = told(capsys, "tokenizer.beats_tokenizer_debug")
    teacher = find("tokens.beats_iter1_debug").objective.encoder.config()
    assert distilled["parameters"]["frozen_state"] == 0
    parameters = told(capsys, "tokens.beats_iter1_debug")["parameters"]["encoder"]
    assert teacher.hidden_size == 32 and distilled["frozen_teacher_bytes"] >= 4 * parameters


def test_people_get_formulas_in_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["masked.mert_debug", "--gpus", "2", "--precision", "bf16", "--micro-batch", "1"]) == 0
    out, err = capsys.readouterr()
    assert max(map(len, out.splitlines())) <= 100
    assert "Counting" in err and "Counting" not in out
    trained = told(capsys, "masked.mert_debug", "--gpus", "2")["parameters"]["trained"]
    assert f"4 B · {trained:,}" in out and f"2 · 1/2 · 4 B · {trained:,} / 450 GB/s" in out
    assert "It fits" in out and "up to --micro-batch 2 would" in out
    assert "utilisation 0.4 is assumed" in out and "--kernels counts" in out


def test_a_codec_that_is_not_here_is_stood_in_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = EncodecConfig(num_filters=4, hidden_size=8, codebook_dim=8, codebook_size=16, num_lstm_layers=1)
    monkeypatch.setattr("groundbass.pretrain.targets.codec.EncodecConfig", lambda: small)
    words = ["--objective.codec.weight", "1", "--objective.codec.codebooks", "2", "--objective.codec.codebook-size"]
    live = told(capsys, "masked.mert_debug", *words, "16")
    assert any("stands in for facebook/encodec_24khz" in note for note in live["notes"])
    assert any("data codes MANIFEST CODES --codec facebook/encodec_24khz" in note for note in live["notes"])
    weights = sum(parameter.nbytes for parameter in EncodecModel(small).parameters())
    without = told(capsys, "masked.mert_debug")
    assert live["frozen_teacher_bytes"] - without["frozen_teacher_bytes"] >= weights
    stored = told(capsys, "masked.mert_debug", *words, "16", "--objective.codec.store", str(tmp_path))
    assert stored["frozen_teacher_bytes"] == without["frozen_teacher_bytes"] and not stored["notes"]
    assert without["counted"]["flops_per_crop"] < stored["counted"]["flops_per_crop"]
    assert stored["counted"]["flops_per_crop"] < live["counted"]["flops_per_crop"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--gpus", "3"], "batch_size is 4, which 3 ranks can't share evenly"),
        (["--gpus", "0"], "--gpus is 0, but it must be at least 1"),
        (["--gpus", "2", "--micro-batch", "4"], "share of the batch is 2 crops .* choose a micro_batch that divides 2"),
        (["--gpu", "V100"], "--gpu V100 isn't known; known are B200, H200, H100, A100, L40S, 4090, A10"),
        (["--utilisation", "40"], "--utilisation is 40, but a share of the peak lies between 0 and 1"),
        (["--network-gbs", "0"], "--network-gbs is 0"),
        (["--like", "nowhere"], "There is no nowhere/timing.jsonl"),
        (["--like", "nowhere", "--utilisation", "0.3"], "give one of them"),
    ],
)
def test_the_impossible_is_refused_before_anything_is_counted(
    words: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "count", lambda _: pytest.fail("it was counted"))
    with pytest.raises(ValueError, match=sentence):
        plan.main(["masked.mert_debug", *words])


def test_what_does_not_fit_says_the_cure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = told(capsys, "masked.mert_debug", "--batch-size", "12")
    heavy = Count(
        encoder=0, trained=10**9, matrices=10**9, frozen=0, buffers=0, teachers=0, block=10**8, beside_blocks=0,
        flops=1e12, backward_share=2 / 3, float32_activations=5 * GIB, kept_share=1.0, notes=(), seconds=0.0,
    )  # fmt: skip

    def verdict(*words: str, **changes: Any) -> str:
        monkeypatch.setattr(plan, "count", lambda _: dataclasses.replace(heavy, **changes))
        return plan.verdict(told(capsys, "masked.mert_debug", "--batch-size", "24", *words))

    assert found["memory"]["ddp"]["fits"]
    # 16 · 10⁹ B are 14.9 GiB; 58.7 of 73.6 are left, 11 crops of 5 GiB, and 8 divides 24
    assert verdict().endswith("lower --micro-batch to 8.") and "does not fit" in verdict()
    assert verdict("--micro-batch", "4").endswith("up to --micro-batch 8 would.")
    assert "Not even one crop fits" in verdict(float32_activations=100.0 * GIB)
    assert "larger card" in verdict(float32_activations=100.0 * GIB)
    shared = verdict("--gpus", "4", trained=6 * 10**9)
    assert "--strategy zero1 with --micro-batch" in shared


def test_the_utilisation_of_a_run_is_its_median_without_the_first_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = [{"step": step, "utilisation": value} for step, value in enumerate([0.01, 0.2, 0.3, 0.25], 1)]
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = told(capsys, "contrastive.clmr_debug", "--like", str(tmp_path))
    half = told(capsys, "contrastive.clmr_debug", "--utilisation", "0.5")
    assert found["time"]["step_seconds"] == pytest.approx(2 * half["time"]["step_seconds"])
    assert any("0.250 is the median" in line for line in found["assumptions"])
    (tmp_path / "timing.jsonl").write_text('{"step": 1, "tflops": 0.1}\n')
    with pytest.raises(ValueError, match="says no utilisation"):
        plan.main(["contrastive.clmr_debug", "--like", str(tmp_path)])


def test_a_run_alone_is_planned_as_it_was_asked_for(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = {
        "recipe": {}, "manifest": {"path": "m.parquet", "hash": "0"}, "address": "contrastive.clmr_debug",
        "overrides": ["--batch-size", "8"],
    }  # fmt: skip
    (tmp_path / "recipe.json").write_text(json.dumps(record))
    (tmp_path / "timing.jsonl").write_text('{"step": 1, "utilisation": 0.1}\n{"step": 2, "utilisation": 0.2}\n')
    whole = told(capsys, "contrastive.clmr_debug", "--batch-size", "8", "--utilisation", "0.2", "--gpus", "2")
    for words in (["--like", str(tmp_path), "--gpus", "2"], ["--gpus", "2", f"--like={tmp_path}"]):
        found = told(capsys, *words)
        assert found["step"] == whole["step"] and found["recipe"] == "contrastive.clmr_debug"
        assert found["time"]["step_seconds"] == pytest.approx(whole["time"]["step_seconds"])
    for words, sentence in (
        (["--gpus", "2"], "Name a recipe before --gpus, or a run by --like RUN"),
        (["--like", str(tmp_path / "no")], "There is no .*recipe.json: --like takes a run"),
    ):
        with pytest.raises((ValueError, OSError), match=sentence):
            plan.main(words)
    assert plan.main(["--help"]) == 0
    assert "--strategy" in (page := capsys.readouterr().out) and "plan RECIPE --help" in page


@pytest.mark.slow
def test_mert_95m_is_counted_as_its_formula_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Three times the forward pass by `bench.flops`, the heads, and EnCodec's encoder, whose sum is counted once."""
    found = told(capsys, "masked.mert_95m", "--gpus", "64")
    recipe: Recipe = find("masked.mert_95m")
    assert found["parameters"]["encoder"] == 94_371_712
    assert found["step"] == {
        "crops": 1024, "crops_per_gpu": 16, "micro_batch": 16, "micro_batches": 1, "audio_seconds": 5120.0
    }  # fmt: skip
    forward = bench.flops(recipe.objective.encoder.config(), recipe.crops.crop_samples)
    assert 1.0 < found["counted"]["flops_per_crop"] / (3 * forward) < 1.15
    assert 0.5 < found["counted"]["kept_share"] < 0.75
    # published: 1.0 M samples, 8 crops, fit an 80 GB A100 even with attention written out
    assert found["memory"]["ddp"]["fits"]
