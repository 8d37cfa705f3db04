"""The published files of the taggers: recognised by their weights' names and shapes, opened strictly, and labelled.

What a file stores and we compute (mel filters, windows, STFT kernels, index tables, shift masks) is compared with ours;
what no output of the original uses is dropped, by name. Which labels the outputs mean isn't in any file: it is told
(`--labels`), or the family's own set is taken and that is said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .htsat import HtsatConfig, HtsatModel
from .music_taggers import MusicTaggerConfig, MusicTaggerModel
from .panns import DECISIONS, PannsConfig, PannsModel
from .spectrogram_transformer import SpectrogramTransformerConfig, SpectrogramTransformerModel
from .tagger import DecibelMel, hann
from .tagging_transformer import TaggingTransformerConfig, TaggingTransformerModel
from .weight_files import fill

Weights = dict[str, Tensor]
PREFIXES = ("module.", "network.", "sed_model.", "teacher.", "model.")
MUSIC, MTT, PANNS, AST, HTSAT = "music taggers", "Music Tagging Transformer", "PANNs", "AST", "HTS-AT"
LABEL_SETS = Path(__file__).parent / "label_sets.txt"
# where nothing is said: the sets that outputs of a number most likely mean
USUAL = {
    MUSIC: {50: "mtat"},
    MTT: {50: "cals"},
    PANNS: {527: "audioset"},
    AST: {527: "audioset", 50: "esc50"},
    HTSAT: {527: "audioset", 50: "esc50"},
}
# a weight that only this network has -> its name; looked for in this order
MARKS = {
    "hstft.bw_Q": "hcnn",
    "layers.0.conv.weight": "musicnn",
    "layer5.weight_ih_l0": "crnn",
    "pooler.dense.weight": "attention",
    "layer11.conv.weight": "sample",
    "layer11.conv_1.weight": "se",
    "layer7.conv_1.weight": "short_res",
    "layer7.conv.weight": "short",
    "layer5.conv.weight": "fcn",
}
# mean and standard deviation of AST's features: AudioSet, ESC-50, Speech Commands, told apart by classes
STATISTICS = {50: (-6.6268077, 5.358466), 35: (-6.845978, 5.5654526)}


class Tagged(NamedTuple):
    """An imported tagger. remarks: sentences for whoever imports it."""

    model: Any
    family: str
    dropped: list[str]
    remarks: list[str]


def read_tagger(
    path: Path, weights: Mapping[str, Tensor], labels: str | None = None, network: str | None = None
) -> Tagged | None:
    """A tagger from its published weights, in eval mode; None where they are none of a tagger.

    Args:
        path: for the sentences.
        weights: by their names in the file.
        labels: a set of label_sets.txt, or a text file with a name per line; None: the family's usual.
        network: which of several networks with the same weights: Cnn14_DecisionLevelMax or …Avg instead of Cnn14.

    Raises:
        ValueError: weights that are missing, unexpected, misshapen, or belong to another front end; labels of another
            number.
    """
    bare, dropped = stripped(weights)
    reader = _reader(bare)
    if reader is None:
        return None
    if network is not None and reader is not _panns:
        raise ValueError(f"--network is for PANNs, whose Cnn14 has heads that no weight tells apart; {path} has none.")
    try:
        found = reader(path, bare, network) if reader is _panns else reader(path, bare)
    except ValueError as error:
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    remarks = [*found.remarks, *_name_outputs(found.model, found.family, labels)]
    return Tagged(found.model.eval(), found.family, [*dropped, *found.dropped], remarks)


def stripped(weights: Mapping[str, Tensor]) -> tuple[Weights, list[str]]:
    """Names without the prefixes that trainers put before all of them; and the names of a teacher that came along."""
    teacher = [name for name in weights if name.startswith("teacher")]
    dropped = teacher if len(teacher) < len(weights) else []
    bare = {name: value for name, value in weights.items() if name not in dropped}
    while prefix := next((p for p in PREFIXES if bare and all(name.startswith(p) for name in bare)), None):
        bare = {name.removeprefix(prefix): value for name, value in bare.items()}
    return bare, dropped


def _reader(weights: Weights) -> Callable[..., Tagged] | None:
    if "tscam_conv.weight" in weights and "patch_embed.proj.weight" in weights:
        return _htsat
    if "conv_block1.conv1.weight" in weights and "bn0.weight" in weights:
        return _panns
    if "v.patch_embed.proj.weight" in weights:
        return _ast
    if "frontend.fc.weight" in weights and "pos_embedding" in weights:
        return _mtt
    if _music_network(weights) and any(name.startswith(("dense", "spec", "hstft")) for name in weights):
        return _music
    return None


def _music_network(weights: Weights) -> str | None:
    return next((network for mark, network in MARKS.items() if mark in weights), None)


def _music(path: Path, weights: Weights) -> Tagged:
    """One of the nine."""
    network = _music_network(weights)
    assert network is not None  # that is how the reader was chosen
    classes = _rows(weights, "dense2.weight" if "dense2.weight" in weights else "dense.weight")
    sizes: dict[str, Any] = {}
    if network == "musicnn":
        sizes = {"back_end": _rows(weights, "layer1.conv.weight"), "hidden": _rows(weights, "dense1.weight")}
    model = MusicTaggerModel(MusicTaggerConfig(network=network, classes=classes, **sizes))
    spectrum = getattr(model.network, "spec", None)
    stored = {"spec.spectrogram.window": hann(512), "hstft.spec.window": hann(512)}
    if spectrum is not None:
        stored["spec.mel_scale.fb"] = spectrum.filters
    return _filled(path, model, MUSIC, weights, stored, f"this looks like {network}")


def _mtt(path: Path, weights: Weights) -> Tagged:
    blocks = _count(weights, r"transformer\.layers\.(\d+)\.")
    model = TaggingTransformerModel(
        TaggingTransformerConfig(
            classes=_rows(weights, "mlp_head.1.weight"), hidden_size=_rows(weights, "frontend.fc.weight"),
            channels=_rows(weights, "frontend.layer1.conv_1.weight"), num_hidden_layers=blocks,
        )
    )  # fmt: skip
    stored = {"spec.spectrogram.window": hann(1024), "spec.mel_scale.fb": model.network.spec.filters}
    return _filled(path, model, MTT, weights, stored, "the published files are the teacher's and the student's")


def _panns(path: Path, weights: Weights, network: str | None) -> Tagged:
    kernel = weights["conv_block1.conv1.weight"].shape[-1]
    found = "Cnn14" if "conv_block6.conv1.weight" in weights else "Cnn6" if kernel == 5 else "Cnn10"
    classes = _rows(weights, "fc_audioset.weight" if "fc_audioset.weight" in weights else "att_block.cla.weight")
    allowed = {found}
    remarks = []
    if "att_block.cla.weight" in weights:
        found = "Cnn14_DecisionLevelAtt"
        allowed = {found}
    elif found == "Cnn14":
        allowed |= {f"Cnn14_DecisionLevel{decision}" for decision in DECISIONS[:2]}
        if network is None:
            remarks = [
                "Cnn14 and its DecisionLevelMax and DecisionLevelAvg have the same weights by name and shape: taken as "
                "Cnn14; give --network Cnn14_DecisionLevelMax for the others."
            ]
    if network is not None and network not in allowed:
        raise ValueError(f"{path} holds {found}, not {network}; --network may be {' or '.join(sorted(allowed))}.")
    kernels = weights.get("spectrogram_extractor.stft.conv_real.weight")
    rates: dict[int, Callable[..., PannsConfig]] = {1024: PannsConfig, 512: PannsConfig.at_16k, 256: PannsConfig.at_8k}
    size = 1024 if kernels is None else kernels.shape[-1]
    if size not in rates:
        raise ValueError(
            f"{path} has STFT kernels of {size} samples; the published ones have {', '.join(map(str, rates))}."
        )
    model = PannsModel(rates[size](network=network or found, classes=classes))
    done = _filled(
        path,
        model,
        PANNS,
        weights,
        stft_tables(model.network.spectrum),
        f"this looks like {found}",
        ("att_block.bn_att.",),
    )
    return done._replace(remarks=remarks)


def _htsat(path: Path, weights: Weights) -> Tagged:
    depths = [_count(weights, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)]
    table = "layers.{}.blocks.0.attn.relative_position_bias_table"
    heads = [weights[table.format(i)].shape[1] if table.format(i) in weights else 1 for i in range(4)]
    sizes: dict[str, Any] = {
        "classes": _rows(weights, "tscam_conv.weight"), "hidden_size": _rows(weights, "patch_embed.proj.weight"),
        "depths": depths, "heads": heads,
    }  # fmt: skip
    model = HtsatModel(HtsatConfig(**sizes))
    mel = weights.get("logmel_extractor.melW")
    if mel is not None and not _near(mel, model.network.spectrum.filters):  # Speech Commands: 16 kHz
        slow = HtsatModel(HtsatConfig(**sizes, sample_rate=16_000, hop=160, window_samples=160_000, high=8000.0))
        model = slow if _near(mel, slow.network.spectrum.filters) else model
    stored = stft_tables(model.network.spectrum)
    for name, module in model.network.named_modules():
        if hasattr(module, "relative_position_bias_table"):
            stored[f"{name}.relative_position_index"] = module.index.view(64, 64)
        if getattr(module, "shift", 0):
            stored[f"{name}.attn_mask"] = module.mask[:, 0]
    return _filled(path, model, HTSAT, weights, stored, "the published ones have depths 2, 2, 6, 2", ("head.",))


def _ast(path: Path, weights: Weights) -> Tagged:
    tokens, classes = weights["v.pos_embed"].shape[1] - 2, _rows(weights, "mlp_head.1.weight")
    dim = _rows(weights, "v.patch_embed.proj.weight")
    heads = max(1, dim // 64)
    blocks = _count(weights, r"v\.blocks\.(\d+)\.")
    mean, std = STATISTICS.get(classes, (-4.2677393, 4.5689974))
    for stride in (10, 12, 14, 16):
        for spectra in (1024, 512, 128):
            config = SpectrogramTransformerConfig(
                classes=classes, hidden_size=dim, num_hidden_layers=blocks, num_attention_heads=heads, spectra=spectra,
                stride=stride, mean=mean, std=std,
            )  # fmt: skip
            if config.rows * config.columns == tokens:
                model = SpectrogramTransformerModel(config)
                remarks = [
                    f"{spectra} spectra of 10 ms, patches every {stride}; features standardised by mean {mean} and "
                    f"deviation {std}, which the file doesn't tell: those of the set with {classes} classes."
                ]
                done = _filled(
                    path, model, AST, weights, {}, "is it of another architecture?", ("v.head.", "v.head_dist.")
                )
                return done._replace(remarks=remarks)
    raise ValueError(f"{path} has positions for {tokens} patches, which no published AST has (1212, 600, 144, …).")


def _filled(
    path: Path,
    model: Any,
    family: str,
    weights: Weights,
    stored: Mapping[str, Tensor],
    hint: str,
    unused: tuple[str, ...] = (),
) -> Tagged:
    """Fill the network under the file's own names. stored: what we compute, compared where the file has it too."""
    for name in set(weights) & set(stored):
        # torchaudio of old left its mel filters empty until they were used
        if weights[name].numel() and not _near(weights[name].reshape(-1), stored[name].reshape(-1)):
            raise ValueError(
                f"{path} stores {name} {list(weights[name].shape)}, which isn't what this network computes there "
                f"{list(stored[name].shape)}: it was trained on another front end, and its weights would mean nothing."
            )
    dropped = [name for name in weights if name in stored or name.startswith(unused)]
    named = {name: value for name, value in weights.items() if name not in dropped}
    counters = {
        name: value for name, value in model.network.state_dict().items() if name.endswith("num_batches_tracked")
    }
    fill(path, model.network, counters | named, hint)
    return Tagged(model, family, dropped, [])


def stft_tables(spectrum: DecibelMel) -> Weights:
    """What torchlibrosa keeps as weights: the Fourier transform as two convolutions, and the mel matrix."""
    size = spectrum.n_fft
    phase = torch.arange(size // 2 + 1, dtype=torch.float64)[:, None] * torch.arange(size, dtype=torch.float64)
    phase = (phase % size) * (2 * math.pi / size)
    window = hann(size).double()
    return {
        "spectrogram_extractor.stft.conv_real.weight": (phase.cos() * window)[:, None].float(),
        "spectrogram_extractor.stft.conv_imag.weight": (-phase.sin() * window)[:, None].float(),
        "logmel_extractor.melW": spectrum.filters,
    }


def _near(found: Tensor, ours: Tensor) -> bool:
    """Equal but for rounding (stored mel filters of another version of torchaudio differ by 1.3e-5 of their peak)."""
    if found.shape != ours.shape:
        return False
    peak = float(ours.abs().max())
    return bool((found.double() - ours.double()).abs().max() <= 1e-4 * max(peak, 1e-12))


def _rows(weights: Weights, name: str) -> int:
    if name not in weights:
        raise ValueError(f"The weight {name} is missing, so its outputs can't be counted; is the file whole?")
    return len(weights[name])


def _count(weights: Weights, pattern: str) -> int:
    return 1 + max((int(m[1]) for name in weights if (m := re.match(pattern, name))), default=-1)


# ---- what the outputs mean


@cache
def label_sets() -> dict[str, tuple[str, ...]]:
    """The sets of label_sets.txt."""
    found: dict[str, list[str]] = {}
    for line in LABEL_SETS.read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            found[line[1:-1]] = []
        elif line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return {name: tuple(lines) for name, lines in found.items()}


def read_labels(labels: str) -> tuple[str, ...]:
    """The names of a set, or of a text file with one per line.

    Raises:
        ValueError: no such set or file; a name twice.
    """
    if labels in label_sets():
        return label_sets()[labels]
    file = Path(labels)
    if not file.is_file():
        raise ValueError(
            f"--labels {labels}: there is no such set ({', '.join(label_sets())}), nor a text file of that name with a "
            "label per line."
        )
    names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise ValueError(f"{file} has the label {twice[0]!r} twice; each output needs a name of its own.")
    return names


def _name_outputs(model: Any, family: str, labels: str | None) -> list[str]:
    """Write the outputs' names into the config; what is to be said of that."""
    classes, remarks = model.config.classes, []
    chosen = labels or USUAL[family].get(classes)
    if chosen is None:
        names = tuple(f"LABEL_{i}" for i in range(classes))
        remarks = [f"What the {classes} outputs mean isn't in the file: give --labels FILE, a name per line, in order."]
    else:
        names = read_labels(chosen)
        if labels is None and family == MUSIC:
            remarks = [
                "What the outputs mean isn't in the file: taken as mtat (MagnaTagATune's 50 tags); give --labels "
                "jamendo, msd or FILE where it was trained on others."
            ]
        elif labels is None:
            remarks = [f"What the outputs mean isn't in the file: taken as {chosen}; --labels names another set."]
    if len(names) != classes:
        raise ValueError(f"--labels {chosen} has {len(names)} names, and the network has {classes} outputs.")
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    if chosen == "esc50":
        model.config.problem_type = "single_label_classification"
    return remarks
