"""MERT's public Hugging Face folders (v0, v1-95M, v1-330M), read strictly: every weight is used or named.

Their code isn't run: the folder's numbers go into `MertConfig`, its tensors into `MertModel`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from ..reading import json_of
from .mert import MertConfig, MertModel
from .weight_files import fill, load_safetensors, safe_load

# fields of their config.json that are ours under the same name
SAME = (
    "sample_rate",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_dropout",
    "attention_dropout",
    "activation_dropout",
    "feat_proj_dropout",
    "layerdrop",
    "layer_norm_eps",
    "initializer_range",
    "conv_dim",
    "conv_kernel",
    "conv_stride",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
)

# fields that would be another architecture, and the value that all three published models have
FIXED: dict[str, Any] = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "feat_extract_norm": "group",
    "feat_extract_dropout": 0.0,
    "feat_proj_layer_norm": True,
    "conv_bias": False,
    "conv_pos_batch_norm": False,
    "feature_extractor_cqt": False,  # a CQT beside the convolutions' output
    "deepnorm": False,
}

# fields without a meaning for an encoder's output: fine-tuning, CTC, tokens, Hugging Face's own.
# attention_relax divides the scores and multiplies them back before the softmax: a guard for fp16's range, no function.
UNUSED = (
    "attention_relax",
    "feature_extractor_cqt_bins",
    "apply_spec_augment",
    "mask_",
    "ctc_",
    "classifier_proj_size",
    "final_dropout",
    "use_weighted_layer_sum",
    "vocab_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tokenizer_class",
    "num_feat_extract_layers",
    "architectures",
    "auto_map",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "_name_or_path",
    "gradient_checkpointing",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
)

# parts of MERT's training that some conversions leave in: they predict labels, no hidden state needs them
HEADS = ("label_embs_concat", "final_proj.", "encoder_cqt_model.", "encoder_mel_model.")

RENAMED = {
    "encoder.pos_conv_embed.conv.weight_g": "encoder.pos_conv_embed.conv.parametrizations.weight.original0",
    "encoder.pos_conv_embed.conv.weight_v": "encoder.pos_conv_embed.conv.parametrizations.weight.original1",
}


def load_mert_folder(folder: str | Path) -> MertModel:
    """Load MERT's weights, configuration and input normalisation from a folder as it is on the Hugging Face Hub.

    Args:
        folder: holds config.json, preprocessor_config.json and model.safetensors or pytorch_model.bin.

    Returns:
        The model in eval mode, float32; `config.do_normalize` and the sample rate are the folder's.

    Raises:
        FileNotFoundError: a file isn't there.
        ValueError: a weight is missing, unexpected or of another shape, or the folder describes another architecture;
            the sentence names it.
    """
    folder = Path(folder)
    config = mert_config(read_json(folder / "config.json"), read_json(folder / "preprocessor_config.json"))
    model = MertModel(config)
    fill(folder, model, _named(_read_weights(folder), folder), "its weights and its config.json don't belong together")
    return model.eval()


def mert_config(published: dict[str, Any], preprocessor: dict[str, Any]) -> MertConfig:
    """Translate MERT's config.json and preprocessor_config.json into our configuration.

    Raises:
        ValueError: a field that makes another architecture, or two files that name different sample rates.
    """
    for name, value in FIXED.items():
        if published.get(name, value) != value:
            raise ValueError(
                f"The folder's config.json has {name} = {published[name]!r}, but MertModel has only {value!r}: "
                f"this is another architecture."
            )
    sample_rate = published.get("sample_rate", preprocessor.get("sampling_rate"))
    if sample_rate is None:
        raise ValueError("Neither config.json (sample_rate) nor preprocessor_config.json (sampling_rate) has a rate.")
    if preprocessor.get("sampling_rate", sample_rate) != sample_rate:
        raise ValueError(
            f"config.json says {sample_rate} Hz and preprocessor_config.json {preprocessor['sampling_rate']} Hz: "
            f"correct the one that is wrong."
        )
    if "do_normalize" not in preprocessor:
        raise ValueError("preprocessor_config.json has no do_normalize: add true or false, as the weights expect it.")
    norm_first = bool(published.get("do_stable_layer_norm", False))
    known = {*SAME, *FIXED, "do_stable_layer_norm"}
    unknown = [name for name in published if name not in known and not name.startswith(UNUSED)]
    if unknown:
        warnings.warn(
            f"config.json has fields that MertModel doesn't know and ignores: {sorted(unknown)}", stacklevel=3
        )
    return MertConfig(
        **{name: published[name] for name in SAME if name in published and name != "sample_rate"},
        sample_rate=sample_rate,
        norm_first=norm_first,
        do_normalize=bool(preprocessor["do_normalize"]),
        feature_grad_mult=1.0 if norm_first else 0.1,  # not in the folder: the published recipes' values
    )


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file.

    Raises:
        FileNotFoundError: it isn't there.
        ValueError: it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} isn't there: download the whole folder of the model.")
    found = json_of(path, "download it again")
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no JSON object, it holds a {type(found).__name__}: download it again.")
    return found


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """One file, or all shards."""
    for pattern, read in (("model*.safetensors", load_safetensors), ("pytorch_model*.bin", safe_load)):
        files = sorted(folder.glob(pattern))
        if files:
            return {name: value for file in files for name, value in read(file).items()}
    raise FileNotFoundError(f"{folder} has neither model.safetensors nor pytorch_model.bin: download the weights.")


def _named(found: dict[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The folder's weights under our names, without the heads of MERT's training."""
    named: dict[str, Tensor] = {}
    for name, weight in found.items():
        if name.startswith(HEADS):
            continue
        target = RENAMED.get(name, name)
        if target in named:
            raise ValueError(f"The weights in {folder} have {target} twice, under its old name and its new one.")
        named[target] = weight
    return named
