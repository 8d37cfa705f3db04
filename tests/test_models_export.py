"""Exported encoders: torch.export and ONNX answer as the encoder does, on shapes that weren't traced."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_models_taggers import TINY, tiny

from groundbass import load_encoder
from groundbass.models import samplecnn, tagger
from groundbass.models.beats import BeatsConfig, BeatsModel
from groundbass.models.beats_tokenizer import BeatsQuantizer, BeatsQuantizerConfig
from groundbass.models.export import export
from groundbass.models.htsat import HtsatConfig, HtsatModel
from groundbass.models.mert import MertConfig, MertModel
from groundbass.models.panns import PannsConfig, PannsModel
from groundbass.models.published import write_encoder
from groundbass.models.quantizers import MelQuantizer, MelQuantizerConfig
from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel
from groundbass.models.spectrogram_transformer import SpectrogramTransformerConfig, SpectrogramTransformerModel
from groundbass.pretrain.recipe import find

KINDS = ("samplecnn", "clmr", "mert", "mel", "beats", "patch_codes", "mel_codes", "cpc")
BEATS: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "patch_dim": 16,
    "conv_pos": 16, "conv_pos_groups": 2,
}  # fmt: skip


def model(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "samplecnn":
        return SampleCNNModel(SampleCNNConfig(sample_rate=1000, strides=[3, 3, 3, 2], channels=[4, 4, 4, 8, 8, 8]))
    if kind == "clmr":  # CLMR's window of 59,049 samples is longer than a second
        return SampleCNNModel(SampleCNNConfig(width=0.03))
    if kind == "patch_codes":
        return BeatsQuantizer(BeatsQuantizerConfig(encoder=BEATS))
    if kind == "mel_codes":
        return MelQuantizer(MelQuantizerConfig(latent=8, codebooks=2))
    if kind == "cpc":
        return find("predictive.cpc_debug").objective.build().encoder
    if kind == "mel":
        return find("masked.mert_debug").objective.build().encoder
    if kind == "mert":
        return MertModel(
            MertConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
                       conv_dim=(8,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2)
        )  # fmt: skip
    return BeatsModel(BeatsConfig(**BEATS))


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write_encoder(model(request.param).eval(), tmp_path / request.param)
    return tmp_path / request.param


def sounds(encoder: Any) -> Iterator[torch.Tensor]:
    """Shapes that weren't traced: about one frame, whole frames, a long one, many short ones."""
    frame = round(encoder.sample_rate / encoder.frame_rate)
    for rows, samples in ((1, max(frame, 2 * encoder.shortest)), (2, 7 * frame), (1, 20 * frame + 1), (5, 3 * frame)):
        samples = max(samples, 2 * encoder.shortest)
        yield 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(7))


@pytest.mark.slow
def test_programs_answer_as_the_encoder(folder: Path, tmp_path: Path) -> None:
    export(str(folder), tmp_path / "e.pt2")
    extra = {"groundbass.json": ""}
    program = torch.export.load(tmp_path / "e.pt2", extra_files=extra).module()
    encoder: Any = load_encoder(folder)
    about = json.loads(extra["groundbass.json"])
    assert about["sample_rate"] == encoder.sample_rate and about["min_samples"] <= 2 * encoder.shortest
    for x in sounds(encoder):
        torch.testing.assert_close(program(x), encoder.hidden_states(x), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_onnx_answers_as_the_encoder(folder: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    export(str(folder), tmp_path / "e.onnx", layer=-1)
    session = onnxruntime.InferenceSession(tmp_path / "e.onnx", providers=["CPUExecutionProvider"])
    encoder: Any = load_encoder(folder)
    assert session.get_modelmeta().custom_metadata_map["sample_rate"] == str(encoder.sample_rate)
    for x in sounds(encoder):
        (found,) = session.run(None, {"waveform": x.numpy()})
        np.testing.assert_allclose(found, encoder.hidden_states(x)[:, -1].numpy(), atol=1e-4, rtol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["e.onnx", folder.name])


@torch.no_grad()
def exported_answers_alike(tagger: Any, folder: Path) -> None:
    """As ONNX, on a part of a window and on more than two."""
    onnxruntime = pytest.importorskip("onnxruntime")
    write_encoder(tagger, folder / "tagger")
    export(str(folder / "tagger"), folder / "e.onnx", layer=-1)
    session = onnxruntime.InferenceSession(folder / "e.onnx", providers=["CPUExecutionProvider"])
    encoder: Any = load_encoder(folder / "tagger")
    window = encoder.model.config.window_samples
    for rows, samples in ((2, window // 2), (1, 2 * window + window // 5)):
        x = 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(8))
        (found,) = session.run(None, {"waveform": x.numpy()})
        expected = encoder.hidden_states(x)[:, -1]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=1e-3)


QUICK = ("musicnn", "ast")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in QUICK else pytest.mark.soak) for name in TINY]
)
def test_every_tagger_answers_as_onnx(name: str, tmp_path: Path) -> None:
    exported_answers_alike(tiny(name), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("make", [
    lambda: PannsModel(PannsConfig()), lambda: HtsatModel(HtsatConfig()),
    lambda: SpectrogramTransformerModel(SpectrogramTransformerConfig()),
], ids=["Cnn14", "htsat", "ast"])  # fmt: skip
def test_networks_of_published_size_answer_as_onnx(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    exported_answers_alike(make().eval(), tmp_path)


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    write_encoder(model("samplecnn").eval(), tmp_path / "e")
    with pytest.raises(ValueError, match=r"\.pt2 or \.onnx"):
        export(str(tmp_path / "e"), tmp_path / "e.tflite")
    with pytest.raises(ValueError, match="layers 0 to 0"):
        export(str(tmp_path / "e"), tmp_path / "e.pt2", layer=3)
    (tmp_path / "e.pt2").write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        export(str(tmp_path / "e"), tmp_path / "e.pt2")
    assert (tmp_path / "e.pt2").read_text() == "mine"


@pytest.mark.parametrize("told", [samplecnn._exporting, tagger._exporting], ids=["samplecnn", "tagger"])
def test_what_compiles_isnt_taken_for_an_export(told: Callable[[], bool]) -> None:
    """`torch.compiler.is_exporting` is true in both."""

    class Told(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if told() else x

    nothing = torch.zeros(2)
    torch._dynamo.reset()
    assert torch.compile(Told(), backend="eager", fullgraph=True)(nothing).tolist() == [0, 0]
    assert torch.export.export(Told(), (nothing,)).module()(nothing).tolist() == [1, 1]


def test_a_compiled_quantiser_leaves_autocast_off() -> None:
    """An exported one has none to switch off; a compiled one would quantise in bfloat16."""
    quantiser, sound = model("mel_codes").eval(), 0.1 * torch.randn(1, 24_000)
    torch._dynamo.reset()
    expected = quantiser._quantize(sound)  # type: ignore[operator]
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.compile(quantiser._quantize, backend="eager")(sound)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_cpc_refuses_what_is_too_short() -> None:
    torch._dynamo.reset()
    with pytest.raises(ValueError, match="too few for one frame"):
        torch.compile(model("cpc").encode, backend="eager")(torch.zeros(1, 40))  # type: ignore[operator]
