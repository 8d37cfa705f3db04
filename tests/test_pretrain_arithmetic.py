"""What is said to torch and to DDP where there is a GPU, seen on a machine without: cards and flags are pretended."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from groundbass.pretrain import train
from groundbass.pretrain.cost.pretended_gpu import DEVICE, PretendedGpu
from groundbass.pretrain.recipe import Recipe, find
from groundbass.pretrain.run import hardware
from groundbass.pretrain.targets.codec import Codec, whole_float32


@pytest.fixture
def flags() -> Iterator[None]:
    """torch's flags, put back afterwards."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, torch.backends.cuda.cudnn_sdp_enabled()
    yield
    products.allow_tf32, convolutions.allow_tf32 = before[:2]
    torch.backends.cuda.enable_cudnn_sdp(before[2])


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize(("capability", "cudnn"), [((9, 0), False), ((8, 0), True), ((10, 0), True)])
def test_tf32_is_said_for_both_and_cudnn_attends_but_on_hopper(
    tf32: bool, capability: tuple[int, int], cudnn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda _: capability)
    torch.backends.cuda.enable_cudnn_sdp(not cudnn)
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = not tf32, not tf32
    said = hardware.choose_arithmetic(torch.device("cuda:0"), tf32)
    assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
    assert torch.backends.cuda.cudnn_sdp_enabled() is cudnn
    assert ("cuDNN" in said) is cudnn and said.endswith(f"float32 as {'TF32' if tf32 else 'float32'}")


def test_a_cpu_is_left_alone() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert hardware.choose_arithmetic(torch.device("cpu"), not before[0]) == ""
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize(
    ("card", "precision", "tf32", "peak"),
    [
        ("NVIDIA H200", "bf16", True, 989e12),
        ("NVIDIA A100-SXM4-80GB", "fp16", False, 312e12),
        ("NVIDIA H200", "no", True, 494.5e12),
        ("NVIDIA H200", "no", False, 67e12),
        ("NVIDIA GeForce GTX 1080", "bf16", True, None),
    ],
)
def test_the_peak_is_that_of_the_arithmetic(
    card: str, precision: str, tf32: bool, peak: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: card)
    assert hardware.peak_flops(precision, tf32) == peak


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize("before", [(True, False), (False, True)])
def test_a_codec_computes_in_float32_and_leaves_all_as_it_was(before: tuple[bool, bool]) -> None:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    products.allow_tf32, convolutions.allow_tf32 = before
    with whole_float32():
        assert not products.allow_tf32 and not convolutions.allow_tf32
    assert (products.allow_tf32, convolutions.allow_tf32) == before


def ddp(recipe: Recipe, run: Path, monkeypatch: pytest.MonkeyPatch, **of_objective: Any) -> Any:
    """What DDP is told."""
    told: list[Any] = []

    def accelerator(**given: Any) -> Any:
        told.extend(given["kwargs_handlers"])
        return SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=None))

    monkeypatch.setattr(train, "Accelerator", accelerator)
    objective: Any = SimpleNamespace(leaves_unused=False, **of_objective)
    train._accelerator(recipe, run, objective)
    return told[0]


def test_buckets_are_views_of_the_recipes_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = dataclasses.replace(find("masked.bestrq_debug"), bucket_mb=77.0, trackers=())
    told = ddp(recipe, tmp_path, monkeypatch)
    assert told.bucket_cap_mb == 77.0 and told.gradient_as_bucket_view and told.static_graph
    assert not told.find_unused_parameters


@pytest.mark.parametrize(
    ("accumulation", "phases", "leaves_unused", "same"),
    [(1, 0, False, True), (1, 1, False, True), (2, 0, False, False), (1, 2, False, False), (1, 0, True, False)],
)
def test_one_graph_is_one_micro_batch_one_phase_and_every_parameter(
    accumulation: int, phases: int, leaves_unused: bool, same: bool
) -> None:
    recipe: Any = SimpleNamespace(accumulation=lambda ranks: accumulation, phases=[None] * phases)
    objective: Any = SimpleNamespace(leaves_unused=leaves_unused)
    assert train._same_graph(recipe, objective) is same


def test_what_encodec_reads_in_python_stays_on_the_cpu(tmp_path: Path) -> None:
    """Three numbers at each convolution, which Python would ask a GPU for; everything else moves."""
    shape = EncodecConfig(num_filters=4, hidden_size=8, codebook_dim=8, codebook_size=16, num_lstm_layers=1)
    EncodecModel(shape).save_pretrained(tmp_path)
    with PretendedGpu():
        codec = Codec(str(tmp_path), 2)
        codec.place(DEVICE)
        stay = ("stride", "kernel_size", "padding_total")
        places = {name: buffer.device.type for name, buffer in codec.model.named_buffers()}
        read = {name: place for name, place in places.items() if name.rsplit(".", 1)[-1] in stay}
        assert read and set(read.values()) == {"cpu"}
        assert {place for name, place in places.items() if name not in read} == {"cuda"}
        assert {parameter.device.type for parameter in codec.model.parameters()} == {"cuda"}
