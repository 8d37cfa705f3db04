"""`groundbass import`: official checkpoints of CLMR, MERT, BEATs and the taggers, as published folders like our own.

A source is recognised by what is in it, never by its name. Files are opened without running code (`weight_files.py`);
every weight is mapped, or named as dropped, or refused.

| source | kept | dropped |
|---|---|---|
| CLMR, native or Lightning, v1 (`encoder.conv1.0.…`) or v2 | SampleCNN, a fitted `fc` | projector, second copies |
| CLMR's classifier: in Lightning's file, or `--head` | linear or an MLP: `model.logits` | |
| MERT, Hugging Face folder | everything | label embeddings, projections, CQT head, where they were left in |
| MERT, fairseq file | the encoder | the same heads, optimiser |
| BEATs, pretrained or fine-tuned file | everything, the head and its class names | |
| BEATs, tokenizer file | encoder, projection, codebook | the averages behind the codebook |
| nine music taggers, Music Tagging Transformer, PANNs, AST, HTS-AT (`tagger_files.py`) | encoder and head | tables |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from torch import Tensor
from transformers import PreTrainedModel

from .adapters import ModelEncoder
from .beats_file import load_beats_file
from .card import LICENSES, write_card
from .classifier_files import make_classifier, write_classifier
from .folders import check_out
from .mert import MertConfig, MertModel
from .mert_folder import HEADS, load_mert_folder, read_json
from .published import write_encoder
from .samplecnn import STRIDES, SampleCNNConfig, SampleCNNModel
from .tagger_files import read_tagger
from .weight_files import fill, safe_load, setting

Weights = dict[str, Tensor]


@dataclass
class Imported:
    """A model from elsewhere.

    family: CLMR, MERT, BEATs or a tagger's; dropped: names of weights that the model has no use for; remarks: what was
    taken for granted, in sentences.
    """

    model: PreTrainedModel
    family: str
    dropped: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def import_checkpoint(
    source: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    *,
    head: Path | None = None,
    sample_rate: int | None = None,
    labels: Annotated[str | None, tyro.conf.arg(metavar="SET|FILE")] = None,
    network: str | None = None,
    license: Annotated[str | None, tyro.conf.arg(metavar="SPDX")] = None,
    force: bool = False,
) -> dict[str, Any]:
    """Turn an official checkpoint (CLMR, MERT, BEATs, a tagger) into a folder for `load_encoder` and transformers.

    Args:
        source: CLMR's, BEATs' or a tagger's file, MERT's Hugging Face folder or fairseq file; told by its content.
        out: the folder to write.
        head: CLMR's classifier, which is a file of its own (`0.weight`, `0.bias`); becomes `model.logits`.
        sample_rate: Hz, where the file doesn't tell it; by default CLMR's by its strides (22050, as published), and
            fairseq MERT's by its settings (24000).
        labels: what a tagger's outputs mean, which no file tells: mtat, jamendo, msd, cals, esc50, audioset, or a text
            file with a name per line; by default the usual ones of its family (music taggers': mtat).
        network: Cnn14_DecisionLevelMax or Cnn14_DecisionLevelAvg, whose weights can't be told from Cnn14's.
        license: of the weights; the published one by default (MERT's is non-commercial).
        force: replace OUT where it is there.
    """
    check_out(out, force)
    found = read_checkpoint(source, sample_rate, labels, network)
    if head is not None:
        found = _with_head(found, head)
    encoder = ModelEncoder(found.model)
    license = license or LICENSES[found.family]
    found.model.config.origin = {"family": found.family, "source": source.resolve().name, "license": license}
    found.model.config.origin["dropped"] = found.dropped
    card = write_card(encoder, None, license=license, name=out.resolve().name)
    tagger = hasattr(found.model, "class_logits")
    if tagger:
        write_classifier(make_classifier(found.model, []), out, card)
    else:
        write_encoder(found.model, out, card)
    parameters = sum(weight.numel() for weight in found.model.parameters())
    print(
        f"{source}: {found.family}, {parameters:,} parameters, {encoder.sample_rate} Hz, {encoder.frame_rate:.4g} "
        f"frames per second, {encoder.layers} layer{'s' * (encoder.layers > 1)} of {encoder.dim}. Licence of the "
        f"weights: {license}."
    )
    for remark in found.remarks:
        print(remark)
    if found.dropped:
        shown = ", ".join(found.dropped[:6]) + (" …" if len(found.dropped) > 6 else "")
        print(f"Dropped, as no hidden state needs them: {len(found.dropped)} weights ({shown}).")
    kind = f"Classifier of {found.model.config.classes} labels, and encoder" if tagger else "Encoder"
    print(f"{kind}: {out}. Next: groundbass probe {out} folder:PATH --label COLUMN")
    return {
        "out": out, "family": found.family, "parameters": parameters, "sample_rate": encoder.sample_rate,
        "frame_rate": encoder.frame_rate, "layers": encoder.layers, "dim": encoder.dim, "licence": license,
        "dropped": found.dropped,
    }  # fmt: skip


def read_checkpoint(
    source: str | Path, sample_rate: int | None = None, labels: str | None = None, network: str | None = None
) -> Imported:
    """Recognise and load an official checkpoint; see the table above.

    Raises:
        FileNotFoundError: there is nothing at `source`.
        ValueError: it can't be opened without running code, or is none of the known layouts; or weights are missing,
            unexpected or misshapen.
    """
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file or folder {path}. From the Hugging Face Hub it comes by `hf download m-a-p/MERT-v1-95M "
            "--local-dir mert`, for instance; then give that folder."
        )
    if path.is_dir():
        return Imported(_folder(path), "MERT")
    content = safe_load(path)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, no checkpoint: expected weights by name.")
    if isinstance(content.get("model"), Mapping) and "patch_embedding.weight" in content["model"]:
        return Imported(load_beats_file(path), "BEATs")
    found = _tagger(path, content, labels, network)
    if found is not None:
        return found
    if labels is not None or network is not None:
        raise ValueError(f"--labels and --network are for taggers' files, and {path} is none of theirs.")
    weights = content.get("state_dict", content.get("model", content))
    weights = dict(weights) if isinstance(weights, Mapping) else {}
    weights = {str(name).removeprefix("module."): w for name, w in weights.items() if isinstance(w, Tensor)}
    if any(name.startswith("feature_extractor.conv_layers.") for name in weights):
        return _fairseq_mert(path, weights, content, sample_rate)
    if any(re.match(r"(model\.)?(encoder\.)?(sequential\.0|conv1)\.0\.", name) for name in weights):
        return _clmr(path, weights, sample_rate)
    names = ", ".join(list(weights)[:4]) or ", ".join(map(str, list(content)[:4])) or "nothing"
    raise ValueError(
        f"{path} is no checkpoint of CLMR, MERT, BEATs or a tagger that is known; it has {names}. A linear head alone "
        "(0.weight, 0.bias) is no encoder: give the encoder's file, and the head's as --head."
    )


def _tagger(path: Path, content: Mapping[str, Any], labels: str | None, network: str | None) -> Imported | None:
    weights = content.get("state_dict", content.get("model", content))
    weights = weights if isinstance(weights, Mapping) else {}
    found = read_tagger(path, {str(k): w for k, w in weights.items() if isinstance(w, Tensor)}, labels, network)
    return None if found is None else Imported(*found)


def _folder(path: Path) -> MertModel:
    """MERT's Hugging Face folder; a sentence for other folders."""
    if not (path / "config.json").is_file():
        files = [file.name for file in sorted(path.iterdir()) if file.suffix in (".pt", ".ckpt", ".pth")]
        cure = f"give one of its files ({', '.join(files[:3])})" if files else "download the whole folder"
        raise FileNotFoundError(f"{path} has no config.json, so it is no Hugging Face folder of MERT: {cure}.")
    kind = str(read_json(path / "config.json").get("model_type", "mert_model"))
    if kind.startswith("groundbass_"):
        raise ValueError(f"{path} is a folder of groundbass already: use it as it is.")
    if kind not in ("mert_model", "hubert"):
        raise ValueError(
            f"{path} holds a model of type {kind!r}, and `import` knows CLMR, MERT and BEATs; other Hugging Face audio "
            "models need no import: give the folder as the encoder."
        )
    return load_mert_folder(path)


def _clmr(path: Path, weights: Weights, sample_rate: int | None) -> Imported:
    """CLMR's SampleCNN, v2's `encoder.sequential.i.j` or v1's `encoder.conv(i+1).j`, and a fitted classifier.

    Lightning's file of the pretraining keeps `encoder.…` and, once more, `model.encoder.…`; that of the linear
    evaluation has the classifier as `model.0.…`.
    """
    twice = any(name.startswith("model.encoder.") for name in weights)
    named: Weights = {}
    head: Weights = {}
    fc: dict[str, str] = {}
    dropped: list[str] = []
    for name, value in weights.items():
        inner = name.removeprefix("model.") if twice else name
        inner = f"encoder.{inner}" if re.match(r"(sequential|conv\d+|fc)\.", inner) else inner  # the encoder alone
        block = re.sub(r"^encoder\.conv(\d+)\.", lambda m: f"encoder.sequential.{int(m[1]) - 1}.", inner)
        if (twice and inner == name) or inner.startswith("projector."):
            dropped.append(name)
        elif block.startswith("encoder.sequential."):
            named[block.removeprefix("encoder.")] = value
        elif re.match(r"encoder\.fc\.(weight|bias)$", inner):
            fc[name] = f"head.0.{inner.rpartition('.')[2]}"
        elif re.match(r"model\.\d\.(weight|bias)$", name):
            head[f"head.{name.removeprefix('model.')}"] = value
        else:
            raise ValueError(f"{path} has a weight that CLMR hasn't: {name}.")
    if head or not any(weights[name].count_nonzero() for name in fc):  # CLMR's own loader puts zeros there
        dropped += fc
    else:
        head = {target: weights[name] for name, target in fc.items()}
    strides = [named[name].shape[-1] for i in range(1, 10) if (name := f"sequential.{i}.0.weight") in named]
    rates: dict[tuple[int, ...], int] = {published: rate for rate, published in STRIDES.items()}
    rate = sample_rate or rates.get(tuple(strides), 22_050)
    model = _samplecnn(path, named, head, sample_rate=rate, strides=strides if len(strides) == 9 else None)
    return Imported(model, "CLMR", dropped)


def _samplecnn(path: Path, named: Weights, head: Weights, **settings: Any) -> SampleCNNModel:
    """A SampleCNN with its weights, and with a classifier `head.0.…` (`head.2.…` too: one hidden layer)."""
    last = head.get("head.2.weight", head.get("head.0.weight"))
    if last is not None:
        settings |= {"classes": len(last), "head_hidden": len(head["head.0.weight"]) if "head.2.weight" in head else 0}
    model = SampleCNNModel(SampleCNNConfig(**settings))
    fill(path, model, named | head, "CLMR's first convolution is [128, 1, 3], and eleven blocks follow each other")
    return model.eval()


def _with_head(found: Imported, path: Path) -> Imported:
    """The SampleCNN with CLMR's classifier from a file of its own: `0.weight`, `0.bias`, and `2.…` of an MLP.

    Lightning's file has them as `model.0.…`, beside a copy of the encoder.
    """
    if not isinstance(found.model, SampleCNNModel):
        raise ValueError(f"--head is for CLMR, whose classifier is a file of its own; this is {found.family}.")
    content = safe_load(path)
    content = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    inner = {str(name).removeprefix("model."): value for name, value in content.items() if isinstance(value, Tensor)}
    head = {f"head.{name}": value for name, value in inner.items() if not name.startswith("encoder.")}
    known = [{"head.0.weight", "head.0.bias"}, {"head.0.weight", "head.0.bias", "head.2.weight", "head.2.bias"}]
    if set(head) not in known:
        shown = ", ".join(map(str, list(content)[:4])) or "nothing"
        raise ValueError(
            f"{path} is no classifier of CLMR (0.weight, 0.bias, and 2. where it is an MLP); it has {shown}."
        )
    config, named = found.model.config, found.model.state_dict()
    bare = {name: value for name, value in named.items() if not name.startswith("head.")}
    model = _samplecnn(path, bare, head, sample_rate=config.sample_rate, strides=config.strides)
    return Imported(model, found.family, found.dropped)


FAIRSEQ = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"^feature_extractor\.conv_layers\.0\.2\.", "feature_extractor.conv_layers.0.layer_norm."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^encoder\.pos_conv\.0\.bias", "encoder.pos_conv_embed.conv.bias"),
    (r"^encoder\.pos_conv\.0\.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.parametrizations", "encoder.pos_conv_embed.conv.parametrizations"),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)


def _fairseq_mert(path: Path, weights: Weights, content: Mapping[str, Any], sample_rate: int | None) -> Imported:
    """MERT as fairseq saved it, with the settings that it recorded (`cfg`, of old `args`) where it did.

    Without them, 12 blocks of 768 are the 95M arrangement (post-LN) and 24 of 1024 the 330M one (pre-LN).
    """
    named: Weights = {}
    dropped = [name for name in weights if name.startswith(HEADS)]
    for name, value in weights.items():
        if name not in dropped:
            target = name
            for pattern, ours in FAIRSEQ:
                target = re.sub(pattern, ours, target)
            named[target] = value
    told = {key: content.get(key) for key in ("cfg", "args")}
    layers = 1 + max((int(m[1]) for name in named if (m := re.match(r"encoder\.layers\.(\d+)\.", name))), default=-1)
    width, inner = (
        len(named[name]) if name in named else 0
        for name in ("feature_projection.projection.weight", "encoder.layers.0.feed_forward.intermediate_dense.weight")
    )
    arrangement = {(12, 768): MertConfig.base, (24, 1024): MertConfig.large}.get((layers, width))
    heads, norm_first = setting(told, "encoder_attention_heads"), setting(told, "layer_norm_first")
    if arrangement is None and (heads is None or not layers):
        raise ValueError(
            f"{path} has {layers} blocks of {width}; MERT's are 12 of 768 (95M) and 24 of 1024 (330M). Convert others "
            "to a Hugging Face folder first."
        )
    if setting(told, "deepnorm"):
        raise ValueError(f"{path} has deepnorm = True, which none of the published MERT models has: not known here.")
    changes = {
        "sample_rate": sample_rate or setting(told, "sample_rate") or 24_000,
        "do_normalize": bool(setting(told, "normalize")),
        "hidden_size": width, "num_hidden_layers": layers, "intermediate_size": inner,
    }  # fmt: skip
    changes |= {} if heads is None else {"num_attention_heads": int(heads)}
    changes |= {} if norm_first is None else {"norm_first": bool(norm_first)}
    model = MertModel((arrangement or MertConfig.base)(**changes))
    fill(path, model, named, "is it of another architecture?")
    return Imported(model.eval(), "MERT", dropped)
