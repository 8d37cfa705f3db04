"""Official checkpoints in: layouts of CLMR and MERT with random weights, and refusals (BEATs: test_models_beats.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from groundbass import load_encoder
from groundbass.models.importers import import_checkpoint, read_checkpoint
from groundbass.models.mert import MertConfig, MertModel


def clmr_weights() -> dict[str, Tensor]:
    """SampleCNN's weights under CLMR v2's names."""
    draw = torch.Generator().manual_seed(0)
    channels = (128, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512)
    found: dict[str, Tensor] = {}
    inputs = 1
    for block, outputs in enumerate(channels):
        kernel = 3
        at = f"encoder.sequential.{block}"
        found[f"{at}.0.weight"] = torch.randn(outputs, inputs, kernel, generator=draw) * (3 * inputs) ** -0.5
        found[f"{at}.0.bias"] = 0.1 * torch.randn(outputs, generator=draw)
        found[f"{at}.1.weight"] = 1 + 0.1 * torch.randn(outputs, generator=draw)
        found[f"{at}.1.bias"] = 0.1 * torch.randn(outputs, generator=draw)
        found[f"{at}.1.running_mean"] = 0.1 * torch.randn(outputs, generator=draw)
        found[f"{at}.1.running_var"] = 0.5 + torch.rand(outputs, generator=draw)
        found[f"{at}.1.num_batches_tracked"] = torch.tensor(3)
        inputs = outputs
    found["projector.0.weight"] = torch.randn(512, 512, generator=draw)
    found["projector.2.weight"] = torch.randn(128, 512, generator=draw)
    return found


def clmr_reference(weights: dict[str, Tensor], waveform: Tensor) -> Tensor:
    """The published network, written out: stride-3 convolution, nine pooled blocks, a last block, average."""
    x = waveform[:, None]
    for block in range(11):
        at = f"encoder.sequential.{block}"
        stride, padding = (3, 0) if block == 0 else (1, 1)
        x = functional.conv1d(x, weights[f"{at}.0.weight"], weights[f"{at}.0.bias"], stride=stride, padding=padding)
        mean, var = weights[f"{at}.1.running_mean"], weights[f"{at}.1.running_var"]
        x = functional.batch_norm(x, mean, var, weights[f"{at}.1.weight"], weights[f"{at}.1.bias"])
        x = functional.relu(x)
        if 0 < block < 10:
            x = functional.max_pool1d(x, 3, 3)
    return x.mean(2)


def v1(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The old names: conv1 to conv11, and a head."""
    old = {}
    for name, value in weights.items():
        if name.startswith("encoder.sequential."):
            block, rest = name.removeprefix("encoder.sequential.").split(".", 1)
            old[f"encoder.conv{int(block) + 1}.{rest}"] = value
        else:
            old[name] = value
    return old | {"encoder.fc.weight": torch.zeros(50, 512), "encoder.fc.bias": torch.zeros(50)}


def lightning(weights: dict[str, Tensor]) -> dict[str, Any]:
    inner = {f"model.{name}": value for name, value in weights.items()}
    copies = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    return {"pytorch-lightning_version": "1.4", "epoch": 3, "state_dict": inner | copies}


@pytest.mark.parametrize("layout", ["v2", "v1", "lightning"])
def test_clmr_in_every_layout_is_the_published_network(tmp_path: Path, layout: str) -> None:
    weights = clmr_weights()
    torch.save({"v2": weights, "v1": v1(weights), "lightning": lightning(weights)}[layout], tmp_path / "clmr.pt")
    import_checkpoint(tmp_path / "clmr.pt", tmp_path / "out")
    encoder = load_encoder(tmp_path / "out")
    waveform = 0.1 * torch.randn(2, 59_049, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        encoder.hidden_states(waveform)[:, -1, 0], clmr_reference(weights, waveform), atol=1e-4, rtol=1e-4
    )
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("hidden", [0, 512])
def test_clmr_with_its_classifier(tmp_path: Path, hidden: int) -> None:
    """Scores of the published head on the published embedding, written out."""
    draw = torch.Generator().manual_seed(5)
    head = {
        "0.weight": torch.randn(hidden or 50, 512, generator=draw),
        "0.bias": torch.randn(hidden or 50, generator=draw),
    }
    if hidden:
        head |= {"2.weight": torch.randn(50, hidden, generator=draw), "2.bias": torch.randn(50, generator=draw)}
    torch.save(clmr_weights(), tmp_path / "clmr.pt")
    saved: dict[str, Any] = {"state_dict": {f"model.{k}": v for k, v in head.items()}} if hidden else dict(head)
    torch.save(saved, tmp_path / "head.pt")
    import_checkpoint(tmp_path / "clmr.pt", tmp_path / "out", head=tmp_path / "head.pt")
    model: Any = load_encoder(tmp_path / "out")
    waveform = 0.1 * torch.randn(2, 59_049, generator=torch.Generator().manual_seed(1))
    x = clmr_reference(clmr_weights(), waveform) @ head["0.weight"].T + head["0.bias"]
    if hidden:
        x = x.relu() @ head["2.weight"].T + head["2.bias"]
    with torch.no_grad():
        scores = model.model.logits(model.hidden_states(waveform)[:, 0, 0])
    torch.testing.assert_close(scores, x, atol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="no classifier of CLMR"):
        import_checkpoint(tmp_path / "clmr.pt", tmp_path / "out2", head=tmp_path / "clmr.pt")


def test_mert_from_fairseq_is_mert(tmp_path: Path) -> None:
    """Names by fairseq's scheme, written independently of the importer's patterns."""
    torch.manual_seed(0)
    model = MertModel(MertConfig.base()).eval()
    old: dict[str, Tensor] = {"label_embs_concat": torch.zeros(3, 3), "final_proj.weight": torch.zeros(2, 2)}
    blocks = {
        "attention": "self_attn", "layer_norm": "self_attn_layer_norm", "feed_forward.intermediate_dense": "fc1",
        "feed_forward.output_dense": "fc2", "final_layer_norm": "final_layer_norm",
    }  # fmt: skip
    whole = {
        "masked_spec_embed": "mask_emb",
        "feature_projection.layer_norm": "layer_norm",
        "feature_projection.projection": "post_extract_proj",
        "encoder.pos_conv_embed.conv.bias": "encoder.pos_conv.0.bias",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original0": "encoder.pos_conv.0.weight_g",
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1": "encoder.pos_conv.0.weight_v",
        "encoder.layer_norm": "encoder.layer_norm",
        "feature_extractor.conv_layers.0.layer_norm": "feature_extractor.conv_layers.0.2",
        **{f"feature_extractor.conv_layers.{i}.conv": f"feature_extractor.conv_layers.{i}.0" for i in range(7)},
        **{f"encoder.layers.{i}.{a}": f"encoder.layers.{i}.{b}" for i in range(12) for a, b in blocks.items()},
    }
    for name, value in model.state_dict().items():
        start = max((key for key in whole if name == key or name.startswith(key + ".")), key=len)
        old[whole[start] + name[len(start) :]] = value
    torch.save({"cfg": {}, "model": old}, tmp_path / "mert.pt")
    found = read_checkpoint(tmp_path / "mert.pt")
    assert found.family == "MERT" and set(found.dropped) == {"label_embs_concat", "final_proj.weight"}
    for name, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name


class Trap:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"a": Trap()}, "could run code"),
        ([1, 2], "holds a list"),
        ({"0.weight": torch.zeros(50, 512), "0.bias": torch.zeros(50)}, "A linear head alone"),
        ({"encoder.sequential.0.0.weight": torch.zeros(64, 1, 3)}, r"CLMR's \[128, 1, 3\]"),
        ({"encoder.sequential.0.0.weight": torch.zeros(128, 1, 3)}, "lacks weights"),
        (clmr_weights() | {"encoder.extra": torch.zeros(1)}, "CLMR hasn't: encoder.extra"),
        ({"model": {"feature_extractor.conv_layers.0.0.weight": torch.zeros(512, 1, 10)}}, "has 0 blocks"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=sentence):
        read_checkpoint(tmp_path / "x.pt")


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_checkpoint(tmp_path / "none.pt")
