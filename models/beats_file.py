"""Microsoft's BEATs files, read strictly and safely: pretrained, fine-tuned and tokenizer.

A file is a pickled dictionary {"cfg", "model"[, "label_dict"]}. It is opened with torch's safe loader, which runs no
code; its `cfg` decides the architecture, whatever this package's defaults are; every tensor is used or named.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .beats import BeatsConfig, BeatsModel
from .beats_tokenizer import BeatsQuantizer, BeatsQuantizerConfig
from .weight_files import fill, safe_load

# their field -> ours
FIELDS = {
    "input_patch_size": "patch_size",
    "embed_dim": "patch_dim",
    "conv_bias": "patch_bias",
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "deep_norm": "deep_norm",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "input_dropout",
    "encoder_layerdrop": "layerdrop",
    "conv_pos": "conv_pos",
    "conv_pos_groups": "conv_pos_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
    "gru_rel_pos": "gated_bias",
    "predictor_dropout": "head_dropout",
}

# what their classes take where `cfg` is silent
DEFAULTS: dict[str, Any] = {
    "embed_dim": 512,
    "conv_bias": False,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "deep_norm": False,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "num_buckets": 320,
    "max_distance": 1280,
    "gru_rel_pos": False,
    "predictor_dropout": 0.1,
}

HINT = "cfg and model don't belong together"
SHARED_BIAS = "self_attn.relative_attention_bias.weight"
UNUSED = ("quantize.cluster_size", "quantize.embedding.cluster_size", "quantize.embedding.embed_avg")


def load_beats_file(path: str | Path) -> BeatsModel | BeatsQuantizer:
    """A BEATs checkpoint file of Microsoft's as our model, in eval mode.

    A fine-tuned file keeps its head; the names of its classes, where it has them, go into `config.id2label`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it can't be opened without running code, is no BEATs file, describes another architecture, or lacks
            or has unexpected weights.
    """
    content = safe_load(Path(path))
    if not isinstance(content, Mapping) or not {"cfg", "model"} <= set(content):
        keys = ", ".join(map(str, list(content)[:6])) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(
            f"{path} is no BEATs file: expected the keys 'cfg' and 'model', found {keys}. `groundbass import` opens "
            "CLMR's and MERT's."
        )
    cfg, weights = dict(content["cfg"]), dict(content["model"])
    if any(name.startswith("quantize") for name in weights):
        return _tokenizer(path, cfg, weights)
    model = BeatsModel(_config(path, cfg, weights))
    fill(path, model, _renamed(path, weights), HINT)
    names = content.get("label_dict")
    if names:
        model.config.id2label = {int(number): str(name) for number, name in dict(names).items()}
        model.config.label2id = {name: number for number, name in model.config.id2label.items()}
    return model.eval()


def _config(path: str | Path, cfg: dict[str, Any], weights: Mapping[str, Tensor]) -> BeatsConfig:
    """Our configuration of their `cfg`, which is trusted over all defaults.

    Raises:
        ValueError: an architecture that this model hasn't: pre-LN blocks, another activation.
    """
    asked = {**DEFAULTS, **cfg}
    for name, fixed in (("layer_norm_first", False), ("activation_fn", "gelu")):
        if asked.get(name, fixed) != fixed:
            raise ValueError(f"{path} has {name} = {asked[name]!r}; only {fixed!r} is known here.")
    if int(asked.get("input_patch_size", -1)) < 1:
        raise ValueError(f"{path} has input_patch_size = {asked.get('input_patch_size')!r}: its cfg isn't whole.")
    fields = {ours: asked[theirs] for theirs, ours in FIELDS.items()}
    if not asked.get("relative_position_embedding", False):
        fields["num_buckets"] = 0
    fields["gated_bias"] = bool(fields["gated_bias"])
    head = weights.get("predictor.weight")
    return BeatsConfig(**fields, classes=0 if head is None else len(head))


def _tokenizer(path: str | Path, cfg: dict[str, Any], weights: dict[str, Tensor]) -> BeatsQuantizer:
    codewords = weights.pop("quantize.embedding.weight", None)
    if codewords is None:
        raise ValueError(f"{path} lacks weights: quantize.embedding.weight; a tokenizer's file has its codebook.")
    started = weights.pop("quantize.embedding.initted", torch.ones(1))
    if not bool(started.all()):
        raise ValueError(f"{path} holds a codebook that was never started (initted is 0): train the tokenizer first.")
    for name in UNUSED:
        weights.pop(name, None)
    config = _config(path, cfg, weights).to_diff_dict()
    encoder = {name: value for name, value in config.items() if name in BeatsConfig().to_dict() and name[0] != "_"}
    for name in ("model_type", "transformers_version", "architectures", "dtype"):
        encoder.pop(name, None)
    model = BeatsQuantizer(BeatsQuantizerConfig(encoder=encoder, codes=len(codewords), code_dim=codewords.shape[1]))
    own = {name: value for name, value in weights.items() if name.startswith("quantize_layer.")}
    rest = {name: value for name, value in weights.items() if name not in own}
    renamed = {f"beats.{name}": value for name, value in _renamed(path, rest).items()}
    fill(path, model, renamed | own | {"quantizer.codewords": codewords}, HINT)
    return model.eval()


def _renamed(path: str | Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their names as ours: the positional convolution's two halves, and the one bias table that all blocks repeat."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.endswith(SHARED_BIAS):
            name = "encoder.relative_attention_bias.weight"
            if name in found and not torch.equal(found[name], value):
                raise ValueError(f"{path} has another relative bias in each block; BEATs shares one among all.")
        elif name.startswith("encoder.pos_conv.0."):
            half = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
            last = name.removeprefix("encoder.pos_conv.0.")
            name = f"encoder.pos_conv.{half.get(last, last)}"
        found[name] = value
    return found
