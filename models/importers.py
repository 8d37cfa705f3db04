"""`groundbass import`: the official checkpoints of CLMR, MERT and BEATs, as published folders like our own.

A source is recognised by what is in it, never by its name. Files are opened with torch's safe loader, which runs no
code; every weight is mapped, or named as dropped, or refused.

| source | kept | dropped |
|---|---|---|
| CLMR, native or Lightning file, old (`encoder.conv1.0.…`) or new names | the SampleCNN | projector, `fc`, copies |
| CLMR, a classifier's file beside it (`--head`) | linear or one hidden layer, as `model.logits` | |
| MERT, Hugging Face folder | everything | label embeddings, final projection, CQT head, where they were left in |
| MERT, fairseq file | the encoder | the same heads, optimiser |
| BEATs, pretrained or fine-tuned file | everything, the head and its class names | |
| BEATs, tokenizer file | encoder, projection, codebook | the averages behind the codebook |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor
from transformers import PreTrainedModel

from .adapters import ModelEncoder
from .beats_file import load_beats_file, safe_load
from .mert import MertConfig, MertModel
from .mert_folder import HEADS, load_mert_folder
from .published import write_encoder
from .samplecnn import SampleCNNConfig, SampleCNNModel

LICENSES = {"CLMR": "apache-2.0", "MERT": "cc-by-nc-4.0", "BEATs": "mit"}
PAPERS = {
    "CLMR": "Spijkervet and Burgoyne 2021, Contrastive learning of musical representations, arXiv:2103.09410",
    "MERT": "Li et al. 2023, MERT: acoustic music understanding model with large-scale self-supervised training, "
    "arXiv:2306.00107",
    "BEATs": "Chen et al. 2022, BEATs: audio pre-training with acoustic tokenizers, arXiv:2212.09058",
}


@dataclass
class Imported:
    """A model from elsewhere. family: CLMR, MERT or BEATs; dropped: names of weights that the model has no use for."""

    model: PreTrainedModel
    family: str
    dropped: list[str] = field(default_factory=list)


def import_checkpoint(
    source: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    *,
    head: Path | None = None,
    sample_rate: int | None = None,
    license: Annotated[str | None, tyro.conf.arg(metavar="SPDX")] = None,
    force: bool = False,
) -> None:
    """Turn an official checkpoint (CLMR, MERT, BEATs) into a folder that `load_encoder` and transformers open.

    Args:
        source: CLMR's or BEATs' file, MERT's Hugging Face folder or fairseq file; recognised by its content.
        out: the folder to write.
        head: CLMR's classifier, which is a file of its own (`0.weight`, `0.bias`); becomes `model.logits`.
        sample_rate: Hz, where the file doesn't tell it: CLMR's (22050, as published) and fairseq MERT's (24000).
        license: of the weights; the published one by default (MERT's is non-commercial).
        force: replace a folder that is there.
    """
    if out.exists() and not force:
        raise ValueError(f"{out} is there already; give another folder, or --force to replace it.")
    found = read_checkpoint(source, sample_rate)
    if head is not None:
        found = _with_head(found, head)
    encoder = ModelEncoder(found.model)
    write_encoder(found.model, out, card(found, source, encoder, license or LICENSES[found.family]))
    parameters = sum(weight.numel() for weight in found.model.parameters())
    print(
        f"{source}: {found.family}, {parameters:,} parameters, {encoder.sample_rate} Hz, {encoder.frame_rate:.4g} "
        f"frames per second, {encoder.layers} layers of {encoder.dim}. Licence of the weights: "
        f"{license or LICENSES[found.family]}."
    )
    if found.dropped:
        shown = ", ".join(found.dropped[:6]) + (" …" if len(found.dropped) > 6 else "")
        print(f"Dropped, as no hidden state needs them: {len(found.dropped)} weights ({shown}).")
    print(f"Encoder: {out}. Next: groundbass probe {out} folder:PATH --label COLUMN")


def read_checkpoint(source: str | Path, sample_rate: int | None = None) -> Imported:
    """Recognise and load an official checkpoint; see the table above.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: it can't be opened without running code, or is none of the known layouts; or weights are missing,
            unexpected or misshapen.
    """
    path = Path(source)
    if path.is_dir():
        return Imported(load_mert_folder(path), "MERT")
    content = safe_load(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, no checkpoint: expected weights by name.")
    if "cfg" in content and "model" in content and "patch_embedding.weight" in content["model"]:
        return Imported(load_beats_file(path), "BEATs")
    weights = content.get("state_dict", content.get("model", content))
    weights = {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}
    if any(name.startswith("feature_extractor.conv_layers.") for name in weights):
        return _fairseq_mert(path, weights, sample_rate or 24_000)
    if any(re.match(r"(model\.)?encoder\.(sequential\.0|conv1)\.0\.", name) for name in weights):
        return _clmr(path, weights, sample_rate or 22_050)
    names = ", ".join(list(weights)[:4]) or ", ".join(map(str, list(content)[:4]))
    raise ValueError(
        f"{path} is no checkpoint of CLMR, MERT or BEATs that is known; it has {names}. A linear head alone (0.weight, "
        "0.bias) is no encoder: give the encoder's file, and the head's as --head."
    )


def _clmr(path: Path, weights: dict[str, Tensor], sample_rate: int) -> Imported:
    """CLMR's SampleCNN: v2's `encoder.sequential.i.j`, v1's `encoder.conv(i+1).j`; Lightning puts `model.` before."""
    if any(name.startswith("model.encoder.") for name in weights):  # Lightning keeps both copies
        copies = [name for name in weights if not name.startswith("model.")]
        kept = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
    else:
        copies, kept = [], weights
    named, dropped = {}, copies
    for name, value in kept.items():
        inner = re.sub(r"^conv(\d+)\.", lambda m: f"sequential.{int(m[1]) - 1}.", name.removeprefix("encoder."))
        if name.startswith("encoder.") and inner.startswith("sequential."):
            named[inner] = value
        elif name.startswith(("projector.", "encoder.fc.", "fc.")):
            dropped.append(name)
        else:
            raise ValueError(f"{path} has a weight that CLMR hasn't: {name}.")
    first = named.get("sequential.0.0.weight")
    model = SampleCNNModel(SampleCNNConfig(sample_rate=sample_rate))
    if first is not None and first.shape != model.state_dict()["sequential.0.0.weight"].shape:
        raise ValueError(f"{path}: the first convolution has the shape {list(first.shape)}, CLMR's [128, 1, 3].")
    _load(path, model, named)
    return Imported(model.eval(), "CLMR", dropped)


def _with_head(found: Imported, path: Path) -> Imported:
    """The SampleCNN with CLMR's classifier: `0.weight`, `0.bias`, and `2.…` where it has a hidden layer."""
    if not isinstance(found.model, SampleCNNModel):
        raise ValueError(f"--head is for CLMR, whose classifier is a file of its own; this is {found.family}.")
    content = safe_load(path)
    content = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    named = {
        "head." + str(name).removeprefix("model."): value
        for name, value in content.items()
        if isinstance(value, Tensor)
    }
    known = [{"head.0.weight", "head.0.bias"}, {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}]
    if set(named) not in known:
        shown = ", ".join(map(str, list(content)[:4])) or "nothing"
        raise ValueError(
            f"{path} is no classifier of CLMR (0.weight, 0.bias, and 2. where it is an MLP); it has {shown}."
        )
    hidden = len(named["head.0.weight"]) if len(named) == 4 else 0
    classes = len(named["head.2.weight" if hidden else "head.0.weight"])
    config = found.model.config
    model = SampleCNNModel(
        SampleCNNConfig(sample_rate=config.sample_rate, init=config.init, classes=classes, head_hidden=hidden)
    )
    _load(path, model, found.model.state_dict() | named)
    return Imported(model.eval(), found.family, found.dropped)


FAIRSEQ = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.bias", "encoder.pos_conv_embed.conv.bias"),
    (r"^encoder\.pos_conv\.0\.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)


def _fairseq_mert(path: Path, weights: dict[str, Tensor], sample_rate: int) -> Imported:
    """MERT as fairseq saved it; 12 blocks are the 95M arrangement (post-LN), 24 the 330M one (pre-LN)."""
    named: dict[str, Tensor] = {}
    dropped = [name for name in weights if name.startswith(HEADS)]
    for name, value in weights.items():
        if name not in dropped:
            target = name
            for pattern, ours in FAIRSEQ:
                target = re.sub(pattern, ours, target)
            named[target] = value
    layers = 1 + max((int(m[1]) for name in named if (m := re.match(r"encoder\.layers\.(\d+)\.", name))), default=-1)
    width = named.get("feature_projection.projection.weight", torch.empty(0, 0)).shape[0]
    known = {(12, 768): MertConfig.base, (24, 1024): MertConfig.large}
    if (layers, width) not in known:
        raise ValueError(
            f"{path} has {layers} blocks of {width}; MERT's are 12 of 768 (95M) and 24 of 1024 (330M). Convert others "
            "to a Hugging Face folder first."
        )
    model = MertModel(known[layers, width](sample_rate=sample_rate))
    _load(path, model, named)
    return Imported(model.eval(), "MERT", dropped)


def _load(path: Path, model: PreTrainedModel, named: dict[str, Tensor]) -> None:
    """Load strictly, as float32 (counters stay whole numbers)."""
    wanted = model.state_dict()
    lacking, strange = sorted(set(wanted) - set(named)), sorted(set(named) - set(wanted))
    for what, names in (("lacks", lacking), ("has unexpected", strange)):
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise ValueError(f"{path} {what} weights: {', '.join(names[:5])}{more}.")
    for name, value in named.items():
        if value.shape != wanted[name].shape:
            raise ValueError(
                f"{path}: {name} has the shape {list(value.shape)}, expected {list(wanted[name].shape)}: another "
                "sample rate (--sample-rate) or architecture?"
            )
    model.load_state_dict({name: value.to(wanted[name].dtype) for name, value in named.items()})


def card(found: Imported, source: Path, encoder: ModelEncoder, license: str) -> str:
    """The model card of an imported folder: where the weights come from, under which licence, how they are used."""
    model: Any = found.model
    kept = f"{sum(weight.numel() for weight in model.parameters()):,} parameters"
    dropped = ", ".join(f"`{name}`" for name in found.dropped[:12]) or "nothing"
    more = f" and {len(found.dropped) - 12} more" if len(found.dropped) > 12 else ""
    return f"""---
license: {license}
library_name: transformers
pipeline_tag: feature-extraction
tags:
- music
- audio
- self-supervised
- {found.family.lower()}
- groundbass
---

# {found.family}, imported from {source.name}

The authors' weights ({kept}) in another form; not trained here. Licence of the weights: **{license}**.

Source: {PAPERS[found.family]}.

| hears | answers |
|---|---|
| mono waveform in [-1, 1] at {encoder.sample_rate} Hz | {encoder.layers} layers, {encoder.dim} dimensions, \
{encoder.frame_rate:.4g} frames per second |

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True).eval()
output = model(waveform, output_hidden_states=True)  # [batch, samples] at {encoder.sample_rate} Hz
```

With groundbass: `groundbass.load_encoder("FOLDER").hidden_states(waveform, sample_rate=44_100)`.

Dropped on the way, since no hidden state needs it: {dropped}{more}.
"""
