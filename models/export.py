"""`groundbass export ENCODER OUT`: an encoder as a torch.export program (.pt2) or as ONNX, for those who deploy.

The exported function is waveform [batch, samples] → hidden states [batch, layers, frames, dim] (or one layer), all
samples being sound; any batch and any length. Before the file is put in place it is run on other shapes and compared.
What it says about itself (rate, frame rate, layers, `min_samples`) is in ONNX's metadata, and in groundbass.json of a
.pt2 (`torch.export.load(path, extra_files={"groundbass.json": ""})`).
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .adapters import ModelEncoder
from .encoder import load_encoder
from .writing import beside, put_files

TOLERANCE = 1e-4  # other kernels add in another order


class _Listen(nn.Module):
    """`Encoder.hidden_states` as one module."""

    def __init__(self, encoder: ModelEncoder, layer: int | None) -> None:
        super().__init__()
        self.model, self.layer = encoder.model, layer

    def forward(self, waveform: Tensor) -> Tensor:
        states = torch.stack(self.model(waveform, output_hidden_states=True).hidden_states, dim=1)
        bands = getattr(self.model, "bands", 1)
        if bands > 1:
            states = states.unflatten(2, (-1, bands)).mean(dim=3)
        return states if self.layer is None else states[:, self.layer]


def export(
    encoder: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    *,
    layer: int | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write an encoder as a torch.export program or ONNX model, and check that it answers as the encoder does.

    Input: waveform, float32 [batch, samples], mono, in [-1, 1], at the encoder's rate. Output: hidden_states, float32
    [batch, layers, frames, dim]. Batch and samples are free. It is written on the CPU, so that it runs anywhere.

    Args:
        encoder: a run, or a published or imported folder of groundbass.
        out: X.pt2 (torch.export.load), or X.onnx (onnxruntime; needs `pip install 'groundbass[onnx]'`).
        layer: only this layer, 0 being the front end, as [batch, frames, dim]; negative numbers count from the end.
        force: replace OUT where it is there.

    Raises:
        FileExistsError: OUT exists.
        ValueError: an encoder that is none of ours, a layer that it hasn't, or an export that answers differently.
    """
    if out.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"{out}: the ending says what to write, .pt2 or .onnx.")
    if out.exists() and not force:
        raise FileExistsError(f"{out} exists; choose another name, or replace it with --force.")
    if out.suffix == ".onnx":
        _need_onnx()
    heard = load_encoder(encoder)
    if not isinstance(heard, ModelEncoder):
        raise ValueError(f"{encoder} is no model of groundbass; Hugging Face models are exported by `optimum`.")
    if layer is not None and not -heard.layers <= layer < heard.layers:
        raise ValueError(f"--layer {layer}: the encoder has the layers 0 to {heard.layers - 1}.")
    module = _Listen(heard, layer).eval()
    about: dict[str, Any] = {
        "sample_rate": heard.sample_rate, "frame_rate": heard.frame_rate, "layers": heard.layers, "dim": heard.dim,
        "layer": layer, "min_samples": heard.shortest,
    }  # fmt: skip
    with beside(out) as folder:
        part = folder / out.name
        with _quiet(), torch.no_grad():
            run = (_onnx if out.suffix == ".onnx" else _program)(module, _example(heard), part, about)
            difference = _compare(module, run, heard, about["min_samples"])
        put_files(folder, out)  # large ONNX models have their weights beside them
    size = out.stat().st_size / 1e6
    print(
        f"{out}: {size:.1f} MB, for any batch and {about['min_samples']} samples or more; on shapes that weren't "
        f"traced it differs by at most {difference:.1e}."
    )
    return about | {"out": out, "bytes": out.stat().st_size, "largest_difference": difference}


def _program(module: nn.Module, sound: Tensor, path: Path, about: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    program = _traced(module, sound)
    # Without the example no guards are made from it. They forbid what a graph does well ("not a whole number of
    # frames", "not a single frame"), since the traced sound was not so; `_compare` tries those instead.
    program.example_inputs = None
    limits = [int(limit.lower) for limit in program.range_constraints.values()]  # MERT's begin at two frames
    about["min_samples"] = max(about["min_samples"], *limits)
    torch.export.save(program, path, extra_files={"groundbass.json": json.dumps(about)})
    answer: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return answer


def _traced(module: nn.Module, sound: Tensor) -> torch.export.ExportedProgram:
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with sdpa_kernel(SDPBackend.MATH):  # fused attention leaves a layout behind that other runtimes don't have
        return torch.export.export(module, (sound,), dynamic_shapes={"waveform": free}, strict=False)


def _onnx(module: nn.Module, sound: Tensor, path: Path, about: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    program = torch.onnx.export(
        _traced(module, sound), (sound,), dynamo=True, verbose=False,
        input_names=["waveform"], output_names=["hidden_states"],
    )  # fmt: skip
    assert program is not None
    program.model.metadata_props.update({key: str(value) for key, value in about.items()})
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"waveform": x.numpy()})[0])


def _need_onnx() -> None:
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"ONNX needs the package {error.name}: pip install 'groundbass[onnx]'") from error


def _example(encoder: ModelEncoder) -> Tensor:
    """What is traced, without being computed: a second or, where the model hears windows, more than two of them.

    Of a single window the tracer would believe that there is never another.
    """
    second, windows = _sound(encoder, 2, 0.8), _windows(encoder)
    return second if second.shape[1] > windows else _noise(2, windows + second.shape[1])


def _windows(encoder: ModelEncoder) -> int:
    """Samples of two of the model's windows; 0 where it has none."""
    return 2 * int(getattr(encoder.model.config, "window_samples", 0))


def _sound(encoder: ModelEncoder, rows: int, part: float) -> Tensor:
    """Noise of about a second (three frames at least), and `part` of a frame more."""
    frame = encoder.sample_rate / encoder.frame_rate
    return _noise(rows, round((max(3, round(encoder.frame_rate)) + part) * frame))


def _noise(rows: int, samples: int) -> Tensor:
    return 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(samples))


def _compare(module: nn.Module, run: Callable[[Tensor], Tensor], encoder: ModelEncoder, shortest: int) -> float:
    """The largest difference on shapes that weren't traced: the shortest, whole frames, and others."""
    second = _sound(encoder, 1, 0.0).shape[1]
    largest = 0.0
    shapes = [(1, shortest), (3, 2 * second), (1, 3 * second + second // 7), (4, second)]
    if _windows(encoder) > 3 * second:
        shapes.append((1, _windows(encoder) + second // 7))
    for rows, samples in shapes:
        sound = _noise(rows, samples)
        expected, found = module(sound), run(sound)
        if expected.shape != found.shape or not torch.allclose(expected, found, atol=TOLERANCE, rtol=TOLERANCE):
            raise ValueError(
                f"The exported model answers differently on {list(sound.shape)}: {list(found.shape)} against "
                f"{list(expected.shape)}; nothing was written."
            )
        largest = max(largest, float((expected - found).abs().max()))
    return largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings; what goes wrong raises."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
