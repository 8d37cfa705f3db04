"""Official checkpoints in: layouts of CLMR and MERT with random weights, and refusals (BEATs: test_models_beats.py)."""

from __future__ import annotations

import argparse
import collections
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from groundbass import load_encoder
from groundbass.models.importers import import_checkpoint, read_checkpoint
from groundbass.models.mert import MertConfig, MertModel
from groundbass.models.published import publish


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


@pytest.mark.parametrize("layout", ["v2", "v1", "lightning", "bare"])
def test_clmr_in_every_layout_is_the_published_network(tmp_path: Path, layout: str) -> None:
    weights = clmr_weights()
    bare = {f"module.{name.removeprefix('encoder.')}": value for name, value in weights.items() if "encoder" in name}
    content = {"v2": weights, "v1": v1(weights), "lightning": lightning(weights), "bare": bare}[layout]
    torch.save(content, tmp_path / "clmr.pt")
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
    with torch.no_grad():
        scores = model.model.logits(model.hidden_states(waveform)[:, 0, 0])
    torch.testing.assert_close(scores, score(clmr_weights(), head, waveform), atol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="no classifier of CLMR"):
        import_checkpoint(tmp_path / "clmr.pt", tmp_path / "out2", head=tmp_path / "clmr.pt")


def score(weights: dict[str, Tensor], head: dict[str, Tensor], waveform: Tensor) -> Tensor:
    """The published classifier on the published embedding, written out."""
    x = clmr_reference(weights, waveform) @ head["0.weight"].T + head["0.bias"]
    return x.relu() @ head["2.weight"].T + head["2.bias"] if "2.weight" in head else x


def test_lightnings_file_of_the_linear_evaluation_has_both(tmp_path: Path) -> None:
    """`encoder.…` and `model.0.…` in one file: as the source itself, and as --head of another file."""
    draw = torch.Generator().manual_seed(5)
    weights = {name: value for name, value in clmr_weights().items() if name.startswith("encoder.")}
    head = {"0.weight": torch.randn(50, 512, generator=draw), "0.bias": torch.randn(50, generator=draw)}
    state = weights | {f"model.{name}": value for name, value in head.items()}
    state |= {"encoder.fc.weight": torch.zeros(50, 512), "encoder.fc.bias": torch.zeros(50)}
    torch.save({"pytorch-lightning_version": "1.3", "state_dict": state}, tmp_path / "linear.ckpt")
    torch.save(clmr_weights(), tmp_path / "clmr.pt")
    import_checkpoint(tmp_path / "linear.ckpt", tmp_path / "one")
    import_checkpoint(tmp_path / "clmr.pt", tmp_path / "two", head=tmp_path / "linear.ckpt")
    waveform = 0.1 * torch.randn(2, 59_049, generator=torch.Generator().manual_seed(1))
    for name in ("one", "two"):
        encoder: Any = load_encoder(tmp_path / name)
        with torch.no_grad():
            found = encoder.model.logits(encoder.hidden_states(waveform)[:, 0, 0])
        torch.testing.assert_close(found, score(weights, head, waveform), atol=1e-3, rtol=1e-4)


def test_a_fitted_fc_is_kept_and_a_filled_in_one_isnt(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(5)
    weights = {name: value for name, value in clmr_weights().items() if name.startswith("encoder.")}
    head = {"0.weight": torch.randn(50, 512, generator=draw), "0.bias": torch.zeros(50)}
    fitted = weights | {"encoder.fc.weight": head["0.weight"], "encoder.fc.bias": head["0.bias"]}
    torch.save({"pytorch-lightning_version": "1.3", "state_dict": fitted}, tmp_path / "supervised.ckpt")
    model: Any = read_checkpoint(tmp_path / "supervised.ckpt").model
    waveform = 0.1 * torch.randn(1, 59_049)
    with torch.no_grad():
        found = model.logits(model(waveform).last_hidden_state[:, 0])
    torch.testing.assert_close(found, score(weights, head, waveform), atol=1e-3, rtol=1e-4)
    torch.save(v1(clmr_weights()), tmp_path / "v1.pt")
    assert read_checkpoint(tmp_path / "v1.pt").model.config.classes == 0


def test_the_strides_of_another_rate_are_seen_in_the_kernels(tmp_path: Path) -> None:
    strides = (3, 3, 3, 3, 3, 3, 5, 2, 2)  # CLMR v1's at 16 kHz
    weights = clmr_weights()
    for block, kernel in enumerate(strides, 1):
        at = f"encoder.sequential.{block}.0.weight"
        weights[at] = torch.randn(*weights[at].shape[:2], kernel) * 0.05
    torch.save(weights, tmp_path / "clmr.pt")
    config = read_checkpoint(tmp_path / "clmr.pt").model.config
    assert (config.sample_rate, config.window) == (16_000, 3**7 * 20)


def fairseq_weights(model: MertModel) -> dict[str, Tensor]:
    """Names by fairseq's scheme, written independently of the importer's patterns."""
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
        **{f"encoder.layers.{i}.{a}": f"encoder.layers.{i}.{b}" for i in range(24) for a, b in blocks.items()},
    }
    for name, value in model.state_dict().items():
        start = max((key for key in whole if name == key or name.startswith(key + ".")), key=len)
        old[whole[start] + name[len(start) :]] = value
    return old


def test_mert_from_fairseq_is_mert(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MertModel(MertConfig.base()).eval()
    torch.save({"cfg": {}, "model": fairseq_weights(model)}, tmp_path / "mert.pt")
    found = read_checkpoint(tmp_path / "mert.pt")
    assert found.family == "MERT" and set(found.dropped) == {"label_embs_concat", "final_proj.weight"}
    for name, value in model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a class of a package that isn't here, so that it can be pickled; gone when the file is read."""

    def make(where: str, base: type = object) -> Any:
        module, _, name = where.rpartition(".")
        for end in range(1, module.count(".") + 2):
            part = ".".join(module.split(".")[:end])
            if part not in sys.modules:
                monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
        made = type(name, (base,), {"__module__": module, "__qualname__": name})
        monkeypatch.setattr(sys.modules[module], name, made, raising=False)
        return made

    yield make
    monkeypatch.undo()


def save_and_forget(content: Any, path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool = True) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.undo()
    assert not {"fairseq", "omegaconf", "pytorch_lightning"} & set(sys.modules)


SMALL: dict[str, Any] = {
    "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "norm_first": True,
    "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["cfg", "args"])
def test_fairseqs_own_objects_in_a_file_stop_nobody(
    tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch, where: str, zipped: bool
) -> None:
    """A real file has a Namespace or OmegaConf's settings and fairseq's dictionaries; no such package is imported."""
    torch.manual_seed(0)
    model = MertModel(MertConfig(sample_rate=16_000, do_normalize=True, **SMALL)).eval()
    told = {"encoder_attention_heads": 4, "layer_norm_first": True, "sample_rate": 16_000, "normalize": True}
    dictionary = pretend("fairseq.data.dictionary.Dictionary")()
    dictionary.symbols, dictionary.indices = ["<s>", "0"], {"<s>": 0, "0": 1}
    if where == "args":
        settings: Any = argparse.Namespace(**told)
    else:
        node, metadata = pretend("omegaconf.nodes.AnyNode"), pretend("omegaconf.base.ContainerMetadata")()
        metadata.object_type, metadata.ref_type = dict, Any
        settings = pretend("omegaconf.dictconfig.DictConfig")()
        settings._metadata, settings._content = metadata, {}
        for key, value in told.items():
            settings._content[key] = node()
            settings._content[key].__dict__.update(_val=value, _parent=settings)
    content = {
        "args": None, "cfg": None, where: settings, "model": fairseq_weights(model),
        "optimizer_history": [{"num_updates": np.float64(4e5)}], "task_state": {"dictionaries": [dictionary]},
        "extra_state": {"meters": collections.defaultdict(list, a=[1])},
    }  # fmt: skip
    save_and_forget(content, tmp_path / "mert.pt", monkeypatch, zipped)
    found = read_checkpoint(tmp_path / "mert.pt").model
    assert not {"fairseq", "omegaconf"} & set(sys.modules)
    assert (found.config.sample_rate, found.config.do_normalize, found.config.norm_first) == (16_000, True, True)
    waveform = 0.1 * torch.randn(1, 8000)
    with torch.no_grad():
        assert torch.equal(found(waveform).last_hidden_state, model(waveform).last_hidden_state)


def test_lightnings_own_objects_in_a_file_stop_nobody(
    tmp_path: Path, pretend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callbacks by class, and hyper-parameters in a dictionary of Lightning's own kind."""
    kept = pretend("pytorch_lightning.utilities.parsing.AttributeDict", dict)(args=argparse.Namespace(lr=3e-4))
    callback = pretend("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint")
    content = lightning(clmr_weights()) | {"hyper_parameters": kept, "hparams_type": type(kept)}
    content |= {"callbacks": {callback: {"best_model_path": "x"}}}
    save_and_forget(content, tmp_path / "clmr.ckpt", monkeypatch)
    found = read_checkpoint(tmp_path / "clmr.ckpt").model
    waveform = 0.1 * torch.randn(1, 59_049)
    with torch.no_grad():
        torch.testing.assert_close(
            found(waveform).last_hidden_state[:, 0], clmr_reference(clmr_weights(), waveform), atol=1e-4, rtol=1e-4
        )


class Trap:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code ran')",))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"a": Trap()}, "could run code"),
        ([1, 2], "holds a list"),
        ({"0.weight": torch.zeros(50, 512), "0.bias": torch.zeros(50)}, "A linear head alone"),
        ({"encoder.sequential.0.0.weight": torch.zeros(128, 1, 3)}, r"lacks weights.*CLMR's first convolution"),
        (
            clmr_weights() | {"encoder.sequential.0.0.weight": torch.zeros(64, 1, 3)},
            r"has the shape \[64, 1, 3\], expected \[128, 1, 3\]",
        ),
        (clmr_weights() | {"encoder.extra": torch.zeros(1)}, "CLMR hasn't: encoder.extra"),
        ({"model": {"feature_extractor.conv_layers.0.0.weight": torch.zeros(512, 1, 10)}}, "has 0 blocks"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(tmp_path: Path, content: Any, sentence: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=sentence):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_among_harmless_objects_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    content = {"args": argparse.Namespace(a=1), "model": {"x": Trap()}}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"names .*exec, and opening it could run code"):
        read_checkpoint(tmp_path / "x.pt")


def test_damaged_files_and_wrong_folders_are_sentences(tmp_path: Path) -> None:
    torch.save(clmr_weights(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"cut\.pt is no torch file, or damaged.*download it again"):
        read_checkpoint(tmp_path / "cut.pt")
    with zipfile.ZipFile(tmp_path / "release.zip", "w") as archive:
        archive.write(tmp_path / "whole.pt", "clmr_10000.pt")
    with pytest.raises(ValueError, match=r"unpack it, and give clmr_10000\.pt"):
        read_checkpoint(tmp_path / "release.zip")
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "program.pt")
    with pytest.raises(ValueError, match="TorchScript program"):
        read_checkpoint(tmp_path / "program.pt")

    folder = tmp_path / "mert"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no config\.json.*download the whole folder"):
        read_checkpoint(folder)
    (folder / "clmr.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"give one of its files \(clmr\.ckpt\)"):
        read_checkpoint(folder)
    (folder / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ValueError, match=r"'whisper'.*need no import"):
        read_checkpoint(folder)
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match=r"config\.json is no JSON \(.*\): download it again"):
        read_checkpoint(folder)
    (folder / "config.json").write_text('{"model_type": "mert_model", "sample_rate": 24000}')
    (folder / "preprocessor_config.json").write_text('{"do_normalize": true, "sampling_rate": 24000}')
    save_file({"x": torch.zeros(1000)}, folder / "model.safetensors")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or damaged.*download it again"):
        read_checkpoint(folder)


def test_what_lies_in_the_way_is_never_removed(tmp_path: Path) -> None:
    torch.save(clmr_weights(), tmp_path / "clmr.pt")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(FileExistsError, match="--force"):
        import_checkpoint(tmp_path / "clmr.pt", tmp_path / "photos")
    with pytest.raises(FileExistsError, match="even --force leaves it"):
        import_checkpoint(tmp_path / "clmr.pt", tmp_path / "photos", force=True)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "meow"


def test_licence_and_source_go_on_when_an_import_is_published(tmp_path: Path) -> None:
    """MERT's weights don't become Apache-2.0 by passing through."""
    torch.manual_seed(0)
    told = {"model": {"encoder_attention_heads": 4, "layer_norm_first": True}}
    torch.save({"cfg": told, "model": fairseq_weights(MertModel(MertConfig(**SMALL)))}, tmp_path / "mert_95m.pt")
    import_checkpoint(tmp_path / "mert_95m.pt", tmp_path / "mert")
    publish(tmp_path / "mert", tmp_path / "again")
    for folder in ("mert", "again"):
        card = (tmp_path / folder / "README.md").read_text()
        assert "license: cc-by-nc-4.0" in card and "arXiv:2306.00107" in card and "`mert_95m.pt`" in card
        assert "`label_embs_concat`" in card and "not trained here" in card and "$" not in card
    assert load_encoder(tmp_path / "again").model.config.origin["family"] == "MERT"


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_checkpoint(tmp_path / "none.pt")
