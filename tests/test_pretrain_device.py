"""Every objective's whole training step on a GPU that isn't there: no devices mix, no kernel is asked for that CUDA
lacks, loss and gradient are the CPU's, and no step waits for the device more often than `ALLOWED`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groundbass.data.audio.read import write
from groundbass.data.track import Manifest, Track
from groundbass.models.frontends import ConvFrontEnd
from groundbass.pretrain.bench.gpu import _full_sizes
from groundbass.pretrain.bench.gpu import rows as first_contact
from groundbass.pretrain.bench.kernels import front_end_2d, gated_attention, gated_attention_flex
from groundbass.pretrain.cost.pretended_gpu import DEVICE, PretendedGpu
from groundbass.pretrain.cost.pretended_run import Steps, made, noise, of_size, on_cpu, on_pretended_gpu
from groundbass.pretrain.cost.roofline import counted, estimate, fused
from groundbass.pretrain.cost.waits import allowed, over
from groundbass.pretrain.objectives.tokens import Tokens
from groundbass.pretrain.recipe import addresses, find
from groundbass.pretrain.targets.codec import CodeStore
from groundbass.pretrain.targets.target import NOISE
from groundbass.pretrain.train import train

RATE, SECONDS, CROPS = 24_000, 6.0, 4
# a recipe whose tokenizer is "" can't train before one is named
DEBUG = [a for a in addresses() if a.endswith("_debug") and getattr(find(a).objective, "tokenizer", None) != ""]
FIRST = ("tokens.beats_iter1_debug", "masked.bestrq_debug", "tokenizer.mel_rvq_debug")
PADDED = 0.7
# the vocoder's averages amplify rounding where there are no partials, and noise has none (data/augment/pitch.py)
LOOSE = ("contrastive.clmr_debug",)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, labels_of: Callable[..., dict[str, Any]]) -> Manifest:
    folder, tracks = tmp_path_factory.mktemp("noise"), []
    for number in range(4):
        sound = 0.1 * np.random.default_rng(number).standard_normal(int(SECONDS * RATE))
        write(folder / f"{number}.flac", sound.clip(-1, 1).astype(np.float32), RATE)
        labels = labels_of(number, SECONDS)
        tracks.append(Track(f"{number}.flac", f"{number}.flac", len(sound), RATE, 1, f"{number:032x}", labels=labels))
    Manifest.from_tracks(tracks, folder).write(folder / "manifest.parquet")
    return Manifest.open(folder / "manifest.parquet")


def both(
    address: str, precision: str, share: float, manifest: Manifest, run: Path, steps: int = 2
) -> tuple[Steps, Steps]:
    recipe = of_size(find(address), CROPS, precision)
    return on_cpu(recipe, manifest, run, 1, share), on_pretended_gpu(recipe, manifest, run, steps, share)


def check(address: str, precision: str, share: float, manifest: Manifest, run: Path) -> Counter[str]:
    """Compare both, and give the waits of a usual step."""
    cpu, gpu = both(address, precision, share, manifest, run)
    assert gpu.refused() == []
    exact = precision == "no" and address not in LOOSE
    close = {"rel": 1e-5 if exact else 3e-2}
    assert gpu.losses[0] == pytest.approx(cpu.losses[0], **close)
    if exact:
        assert gpu.norms[0] == pytest.approx(cpu.norms[0], rel=1e-3)
    assert over(address, gpu.waits()) == {}, "what waits for the device beyond what is allowed (cost/waits.py)"
    return gpu.waits()


@pytest.mark.parametrize("address", FIRST)
def test_a_step_on_a_gpu(address: str, manifest: Manifest, tmp_path: Path) -> None:
    check(address, "no", PADDED, manifest, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "precision", "share"),
    [
        ("masked.mert_debug", "no", PADDED),
        ("latent.eat_debug", "no", PADDED),
        ("contrastive.clmr_debug", "no", PADDED),
        ("contrastive.myna_debug", "no", PADDED),
        ("tokens.beats_iter1_debug", "bf16", PADDED),
        ("masked.mert_debug", "bf16", 1.0),
    ],
)
def test_more_steps_on_a_gpu(address: str, precision: str, share: float, manifest: Manifest, tmp_path: Path) -> None:
    check(address, precision, share, manifest, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("address", DEBUG)
def test_every_objective_on_a_gpu(address: str, manifest: Manifest, tmp_path: Path) -> None:
    """Padded and whole, float32 and bf16; each wait that is allowed happens in one of them: counts only fall."""
    found: Counter[str] = Counter()
    for precision, share in itertools.product(("no", "bf16"), (1.0, PADDED)):
        found |= check(address, precision, share, manifest, tmp_path / f"{precision} {share}")
    print(f"{address}: {found.total()} waits")
    assert found == allowed(address)


@pytest.mark.slow
def test_augmented_ahead_is_augmented_alike(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLMR's chain runs in a stream of its own, for the next batch when this one's backward pass is on its way."""
    told: list[str] = []

    class Stream:
        def __init__(self, *_: Any) -> None:
            pass

        def wait_stream(self, other: Stream) -> None:
            told.append("waits" if self is main and other is not main else "the other way round")

    @contextmanager
    def inside(stream: Stream) -> Iterator[None]:
        told.append("begins" if stream is not main else "in the main stream")
        yield

    main, recipe = Stream(), of_size(find("contrastive.clmr_debug"), CROPS, "no")
    plain = on_pretended_gpu(recipe, manifest, tmp_path, 3)
    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.stream", inside)
    monkeypatch.setattr("torch.cuda.current_stream", lambda *_: main)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    ahead = on_pretended_gpu(recipe, manifest, tmp_path, 3, ahead=True)
    assert (ahead.losses, ahead.norms) == (plain.losses, plain.norms)
    assert told == ["begins", "waits", "begins", "waits", "begins", "waits", "begins"]
    assert over("contrastive.clmr_debug", ahead.waits()) == {}


@pytest.mark.slow
@pytest.mark.parametrize("address", DEBUG)
def test_gradients_arrive_in_one_order(address: str, manifest: Manifest, tmp_path: Path) -> None:
    """Whole or padded: ZeRO-2 adds what arrives n-th on one rank to what arrives n-th on the others."""
    recipe = of_size(find(address), CROPS, "no")

    def order(share: float) -> list[str]:
        objective = made(recipe, manifest, tmp_path)
        objective.place(torch.device("cpu"))
        names, arrived = {weight: name for name, weight in objective.named_parameters()}, []
        for weight in names:
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(lambda weight: arrived.append(names[weight]))
        objective(next(noise(recipe, manifest, share)), 0).value.backward()
        return arrived

    assert order(1.0) == order(PADDED) != []


def test_a_teacher_left_on_the_cpu_is_noticed(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokens, "place", lambda self, device: None)
    recipe = of_size(find("tokens.beats_iter1_debug"), 2, "no")
    with pytest.raises((RuntimeError, AssertionError)):
        assert on_pretended_gpu(recipe, manifest, tmp_path, 1).refused() == []


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda x: bool((x > 0).any()), "item"),
        (lambda x: x[x > 0], "boolean index"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
        (lambda x: x.tolist(), "tolist"),
        (lambda x: x.cpu(), "copy to the CPU"),
        (lambda x: x + torch.tensor(2.0, device=DEVICE), "copy to the GPU"),
        (lambda x: torch.bincount(x.long().clamp(min=0), minlength=4), "bincount"),
        (lambda x: x[torch.tensor([0, 1])], "index on the CPU"),
    ],
)
def test_what_waits_is_counted_and_where(ask: Callable[[Any], Any], what: str) -> None:
    with PretendedGpu() as gpu:
        x = torch.linspace(-1, 1, 5).to(DEVICE, non_blocking=True)
        assert not gpu.events
        ask(x)
        assert [event.what for event in gpu.events if event.kind == "wait"] == [what]


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.masked_fill(x > 0, 0.0),
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x.index_select(0, torch.arange(2, device=DEVICE)),
        lambda x: x.argsort()[:2],
        lambda x: torch.zeros(4, device=DEVICE).scatter_add_(0, x.long().clamp(min=0), x),
    ],
)
def test_what_does_not_wait_isnt_counted(ask: Callable[[Any], Any]) -> None:
    with PretendedGpu() as gpu:
        ask(torch.linspace(-1, 1, 5).to(DEVICE, non_blocking=True))
        assert not gpu.events


def test_mixed_devices_and_missing_dtypes_are_noticed() -> None:
    with PretendedGpu() as gpu:
        x = torch.linspace(-1, 1, 8).to(DEVICE, non_blocking=True)
        _ = x + torch.ones(8)
        torch.fft.rfft(x)
        assert [event.kind for event in gpu.events] == ["mix"]


def test_more_waits_than_allowed_are_told_by_file(manifest: Manifest, tmp_path: Path) -> None:
    recipe = of_size(find("masked.bestrq_debug"), 2, "no")
    waits = on_pretended_gpu(recipe, manifest, tmp_path, 1).waits()
    assert over("masked.bestrq_debug", waits) == {}
    waits["item · pretrain/objectives/masked.py"] += 1
    assert over("masked.bestrq_debug", waits) == {"item · pretrain/objectives/masked.py": 1}


def test_what_would_be_compiled_says_so(manifest: Manifest, tmp_path: Path) -> None:
    """BEATs compiles its blocks: their kernels (of GELU, too) are marked and fewer, those of losses and draws stay."""
    recipe = of_size(find("tokens.beats_iter1_debug"), 2, "no")
    kernels = on_pretended_gpu(recipe, manifest, tmp_path, 1, multiplies=False).kernels[-1]
    marked = [kernel for kernel in kernels if kernel.compiled]
    assert marked and {kernel.place.split(":")[0] for kernel in marked} <= {"models/beats.py", "models/layers.py"}
    left = fused(kernels)
    assert sum("fused" in kernel.name for kernel in left) > 5 and len(left) < len(kernels) - 50
    assert sum(kernel.flops for kernel in left) == sum(kernel.flops for kernel in kernels)
    assert [k.name for k in left if k.place.startswith("pretrain/")] == [
        k.name for k in kernels if k.place.startswith("pretrain/")
    ]


def test_kernels_carry_flops_and_bytes() -> None:
    with PretendedGpu() as gpu:
        a = torch.ones(8, 16).to(DEVICE)
        gpu.kernels.clear()
        _ = a @ a.T
    (kernel,) = gpu.kernels
    assert kernel.flops == 2 * 8 * 16 * 8 and kernel.bytes == 4 * (2 * 8 * 16 + 8 * 8)
    assert dataclasses.replace(kernel, name="") != kernel


@pytest.mark.slow
def test_first_contact_is_rehearsed() -> None:
    """`groundbass bench gpu --rehearse`: every part of it runs, none fails; every size in miniature, compiled too."""
    roofs = {"beats_debug": of_size(find("tokens.beats_iter1_debug"), 2, "bf16")}
    rows = {row["what"]: row for row in first_contact(rehearse=True, roofs=roofs)}
    assert [name for name in rows if name.endswith("_failed")] == []
    for address in DEBUG:
        ratios = [rows[f"{address}_{what}_no"]["ratio"] for what in ("loss", "gradient")]
        assert ratios == pytest.approx([1, 1], abs=1e-4) and rows[f"{address}_loss_no"]["value"] > 0, address
    eager, compiled = (rows[f"roofline_beats_debug{how}_kernels"]["value"] for how in ("", "_compiled"))
    assert 100 < compiled < eager
    for name in ("mert", "beats", "clmr", "eat", "muq"):
        assert {f"{name}_debug_step", f"{name}_debug_compiled_warm", f"{name}_debug_compiled_step"} <= rows.keys()
    assert {"mert_debug_1_step", "mert_debug_4_step"} <= rows.keys()


def test_what_a_card_will_train_can_be_built(tmp_path: Path) -> None:
    """The full sizes of `bench gpu`: their micro-batches, and MERT's codes in a store that answers."""
    sizes = _full_sizes(tmp_path)
    assert set(sizes) == {"mert_95m", "beats_base", "clmr_base", "eat_base", "mert_330m", "muq_large"}
    for name, recipe in sizes.items():
        with torch.device("meta"):
            objective = recipe.objective.build()
        assert objective.compiled_parts() and recipe.batch_size == recipe.micro_batch, name
    for name in ("mert_95m", "mert_330m"):
        codec, frames = sizes[name].objective.codec, sizes[name].objective.frames(sizes[name].crops.crop_samples)
        assert CodeStore(Path(codec.store)).read(NOISE.key, 0, frames).shape == (frames, codec.codebooks)


@pytest.mark.soak
@pytest.mark.parametrize(("name", "least"), [("mert_95m", 0.28), ("beats_base", 0.25), ("eat_base", 0.25)])
def test_compiled_steps_reach_their_share_of_the_peak(name: str, least: float, tmp_path: Path) -> None:
    """By the roofline of an H200: an estimate, and no measurement."""
    recipe = _full_sizes(tmp_path)[name]
    kernels, waits = counted(recipe, recipe.batch_size, Manifest.from_tracks([NOISE], "."), tmp_path / "run")
    told = estimate(recipe, fused(kernels), waits, recipe.batch_size)
    assert told.utilisation >= least and told.host_seconds < told.device_seconds and waits <= 2


NOT_COMPILED = ("tokenizer.mel_rvq_debug",)
"""A Fourier transform, two linear maps and look-ups, which are large kernels already."""


@pytest.mark.slow
@pytest.mark.parametrize("address", ["masked.mert_debug", "tokens.beats_iter1_debug", "contrastive.myna_debug"])
def test_compiling_breaks_no_graph_and_compiles_once(
    address: str, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles(address, manifest, tmp_path, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("address", DEBUG)
def test_compiling_any_objective_breaks_no_graph(
    address: str, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles(address, manifest, tmp_path, monkeypatch)


def compiles(address: str, manifest: Manifest, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `--compile` compiles becomes whole graphs (one that breaks raises); whole and padded crops need no more.

    Graphs are counted: what is compiled and never called makes none.
    """
    graphs: list[torch.fx.GraphModule] = []

    def counts(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend=counts, fullgraph=True))
    torch._dynamo.reset()
    recipe = of_size(find(address), 2, "no")
    torch.manual_seed(0)
    objective = recipe.objective.build().train()
    objective.prepare(manifest, run)
    objective.place(torch.device("cpu"))
    objective.compile_encoder()
    batches = noise(recipe, manifest, 1.0), noise(recipe, manifest, PADDED)
    for step, kind in enumerate(batches):
        objective(next(kind), step).value.backward()
    assert bool(graphs) == (address not in NOT_COMPILED)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step, kind in enumerate(batches, start=2):
            objective(next(kind), step).value.backward()
    torch._dynamo.reset()


def test_a_run_says_where_compile_does_nothing(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dataclasses.replace(find(NOT_COMPILED[0]), compile=True, steps=1)
    train(recipe, Path(str(manifest.root)) / "manifest.parquet", tmp_path / "run")
    assert "--compile does nothing here" in capsys.readouterr().out


def test_a_run_says_what_its_settings_change(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = dataclasses.replace(find("contrastive.myna_debug"), steps=1, batch_size=4, micro_batch=2)
    train(recipe, Path(str(manifest.root)) / "manifest.parquet", tmp_path / "run")
    assert "note    Negatives come from one micro-batch" in capsys.readouterr().out


def test_kernels_that_a_card_chooses_between_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """BEATs' gated bias by `flex_attention`, and wav2vec 2.0's front end with channels last: values and gradients."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)  # refuses gradients
    torch.manual_seed(0)
    heads = [torch.randn(2, 3, 12, 8, requires_grad=True) for _ in range(3)]
    gate = torch.rand(2, 3, 12, 1, requires_grad=True)
    for items in (1, 2):
        bias = torch.randn(items, 3, 12, 12, requires_grad=True)
        ours, flex = (how(*heads, gate, bias) for how in (gated_attention, gated_attention_flex))
        torch.testing.assert_close(flex, ours)
        weight = torch.randn_like(ours)
        for theirs, own in zip(*(torch.autograd.grad(y, [*heads, gate, bias], weight) for y in (flex, ours))):
            torch.testing.assert_close(theirs, own, rtol=1e-4, atol=1e-5)
    front = ConvFrontEnd((8,) * 3, (10, 3, 2), (5, 2, 2))
    sound = torch.randn(2, 2000, requires_grad=True)
    torch.testing.assert_close(front_end_2d(front, sound), front(sound))
    gradients = [torch.autograd.grad(how().square().sum(), [sound, *front.parameters()])
                 for how in (lambda: front(sound), lambda: front_end_2d(front, sound))]  # fmt: skip
    for theirs, own in zip(*gradients, strict=True):
        torch.testing.assert_close(theirs, own, rtol=1e-4, atol=1e-4)
