"""The taggers' published files in: layouts and prefixes as published, the originals' outputs; and refusals.

A golden case (tests/golden) says which numbers an original network gave with weights that a rule makes from their
names; the same rule makes the files here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor

from groundbass import load_encoder
from groundbass.cli import run
from groundbass.data.audio.read import write
from groundbass.models import reload
from groundbass.models.classifier_files import open_classifier
from groundbass.models.importers import import_checkpoint, read_checkpoint
from groundbass.models.panns import repeat_segments
from groundbass.models.tagger_files import label_sets

GOLDEN = Path(__file__).parent / "golden"
# name of the golden case: the model, its weights as the originals count them less what is frozen or unused there
PARAMETERS = {
    "fcn": 447_732, "musicnn": 784_300, "musicnn_msd": 7_972_000, "crnn": 394_100, "sample": 1_869_874,
    "se": 6_951_858, "attention": 10_521_652, "hcnn": 3_631_551, "short": 3_687_348, "short_res": 12_104_244,
    "mtt_teacher": 4_567_732, "mtt_student": 1_108_852, "Cnn6": 4_837_455, "Cnn10": 5_219_279, "Cnn14": 80_753_615,
    "Cnn14_16k": 80_753_615, "Cnn14_DecisionLevelMax": 80_753_615, "Cnn14_DecisionLevelAtt": 81_834_492 - 2 * 527,
    "ast": 88_132_063 - 1_538_000, "htsat": 30_241_687 - 527 * 528,
}  # fmt: skip
SMALL_INIT = ("pos_embed", "pos_embedding", "cls_token", "dist_token", "relative_position_bias_table")


def rule(seed: int, key: str, shape: list[int]) -> Tensor:
    """The golden cases' weight of that name."""
    x = np.random.default_rng(zlib.crc32(f"{seed}:{key}".encode())).standard_normal(shape)
    if key.endswith("running_var"):
        x = 0.5 + np.abs(x)
    elif key.endswith("running_mean"):
        x = 0.1 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x if key.endswith("weight") else 0.1 * x
    elif key.endswith(SMALL_INIT):
        x = 0.02 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x, dtype=np.float32))


def computed(key: str, shape: list[int], rate: int) -> Tensor:
    """What the original network computes for itself, by other means than ours."""
    if key.endswith("num_batches_tracked"):
        return torch.tensor(7)
    if key.endswith("window"):
        return torch.hann_window(shape[0])
    if key.endswith("mel_scale.fb"):
        return torchaudio.functional.melscale_fbanks(shape[0], 0.0, rate / 2, shape[1], rate)
    if key.endswith("melW"):
        high = {32_000: 14_000.0, 16_000: 8000.0}[rate]
        return torchaudio.functional.melscale_fbanks(shape[0], 50.0, high, shape[1], rate, "slaney", "slaney")
    if "stft.conv_" in key:
        n = np.arange(shape[2])
        kernel = np.exp(-2j * np.pi * np.outer(np.arange(shape[0]), n) / shape[2]) * (
            0.5 - 0.5 * np.cos(2 * np.pi * n / shape[2])
        )
        return torch.from_numpy((kernel.real if "real" in key else kernel.imag).astype(np.float32))[:, None]
    if key.endswith("relative_position_index"):
        tokens = [(i, j) for i in range(8) for j in range(8)]
        return torch.tensor([[(a - c + 7) * 15 + b - d + 7 for c, d in tokens] for a, b in tokens])
    assert key.endswith("attn_mask")
    size = 8 * int(shape[0] ** 0.5)

    def part(x: int) -> int:  # of the shifted square: undisturbed, last window's first half, wrapped around
        return 0 if x < size - 8 else 1 if x < size - 4 else 2

    regions = [
        [3 * part(top + i) + part(left + j) for i in range(8) for j in range(8)]
        for top in range(0, size, 8)
        for left in range(0, size, 8)
    ]
    found = torch.tensor(regions)
    return (found[:, :, None] != found[:, None, :]) * -100.0


def published(name: str, prefix: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A golden case, and the file that the original would have saved."""
    case: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text())
    weights = {
        f"{prefix}{key}": computed(key, shape, case["sample_rate"])
        if key in case["kept"]
        else rule(case["seed"], key, shape)
        for key, shape in case["keys"].items()
    }
    return case, weights


def sound_of(case: dict[str, Any]) -> Tensor:
    n, rate = case["input"][1], case["sample_rate"]
    t = np.arange(n) / rate
    x = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * 330 * t)
    x += 0.1 * np.sin(2 * np.pi * (500 + 200 * t) * t) * np.sin(2 * np.pi * 2 * t)
    return torch.from_numpy((x + 0.05 * np.random.default_rng(5).standard_normal(n)).astype(np.float32))[None]


def check(found: Tensor, expected: dict[str, Any], tolerance: float) -> None:
    assert list(found.shape) == expected["shape"]
    flat = found.flatten()
    ends = torch.tensor(expected["first_16"] + expected["last_8"])
    torch.testing.assert_close(torch.cat([flat[:16], flat[-8:]]), ends, atol=tolerance, rtol=0)
    assert abs(float(flat.double().sum()) - expected["sum"]) < tolerance * len(flat) ** 0.5


LAYOUTS = [
    ("fcn", "", None, None),
    ("musicnn", "", None, None),
    ("musicnn_msd", "", None, None),
    ("crnn", "module.", None, None),
    ("sample", "", None, None),
    ("se", "", None, None),
    ("attention", "", None, None),
    ("hcnn", "", None, None),
    ("short", "", None, None),
    ("short_res", "", None, None),
    ("mtt_student", "network.", None, None),
    ("mtt_teacher", "network.", "state_dict", None),
    ("Cnn6", "", "model", None),
    ("Cnn10", "module.", "model", None),
    ("Cnn14", "", "model", None),
    ("Cnn14_16k", "", "model", None),
    ("Cnn14_DecisionLevelMax", "", "model", "Cnn14_DecisionLevelMax"),
    ("Cnn14_DecisionLevelAtt", "", "model", None),
    ("htsat", "sed_model.", "state_dict", None),
    ("ast", "module.", None, None),
]
LARGE = {"Cnn14", "Cnn14_16k", "Cnn14_DecisionLevelMax", "Cnn14_DecisionLevelAtt", "htsat", "ast"}  # > 20 M weights


@pytest.mark.parametrize(
    ("name", "prefix", "inside", "network"),
    [pytest.param(*layout, marks=pytest.mark.soak) if layout[0] in LARGE else layout for layout in LAYOUTS],
)
@torch.no_grad()
def test_a_published_file_opens_and_answers_as_the_original(
    name: str, prefix: str, inside: str | None, network: str | None, tmp_path: Path
) -> None:
    case, weights = published(name, prefix)
    if name == "mtt_student":  # the teacher travels inside
        weights |= {f"teacher.{key}": value[:1] for key, value in list(weights.items())[-4:-2]}
    torch.save({inside: weights, "iteration": 3} if inside else weights, tmp_path / "best_model.pth")
    found = read_checkpoint(tmp_path / "best_model.pth", network=network)
    model: Any = found.model
    outputs = case["output"]
    if name == "ast":
        features = torch.from_numpy(0.5 * np.random.default_rng(6).standard_normal((1, 1024, 128)).astype(np.float32))
        check(model.network.hear(features).logits, outputs["logits"], 1e-4)
    else:
        sound, tolerance = sound_of(case), 1e-3 if "clipwise_output" in outputs else 1e-4
        check(model.class_logits(sound).sigmoid(), outputs.get("tags", outputs.get("clipwise_output")), tolerance)
        for key in {"embedding", "latent_output"} & set(outputs):
            check(model.embedding(sound), outputs[key], tolerance)
        if "framewise_output" in outputs:
            expected = outputs["framewise_output"]
            steps = repeat_segments(model.frame_logits(sound).sigmoid(), expected["shape"][1])
            check(steps, expected, tolerance)
    assert any(label in found.remarks[-1] for label in ("mtat", "cals", "audioset"))
    assert len(model.config.id2label) == model.config.classes
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_the_sets_of_labels() -> None:
    sets = label_sets()
    assert {name: len(names) for name, names in sets.items()} == {
        "mtat": 50, "jamendo": 50, "msd": 50, "cals": 50, "esc50": 50, "audioset": 527,
    }  # fmt: skip
    assert list(sets["jamendo"]) == sorted(sets["jamendo"])
    anchors = {0: "Speech", 27: "Singing", 137: "Music", 138: "Musical instrument", 140: "Guitar", 153: "Piano",
               164: "Drum", 213: "Theremin",
               216: "Pop music", 237: "Classical music", 266: "Song", 282: "Scary music", 283: "Wind",
               500: "Silence", 526: "Field recording"}  # fmt: skip
    assert {number: sets["audioset"][number] for number in anchors} == anchors


def test_an_imported_folder_has_names_card_and_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, weights = published("musicnn_msd")
    torch.save(weights, tmp_path / "best_model.pth")
    import_checkpoint(tmp_path / "best_model.pth", tmp_path / "out", labels="jamendo")
    assert "7,972,000 parameters, 16000 Hz" in capsys.readouterr().out
    encoder = load_encoder(tmp_path / "out")
    assert encoder.model.config.id2label[31] == "instrument---acousticguitar"  # type: ignore[attr-defined]
    classifier = open_classifier(tmp_path / "out")
    sound = 0.1 * torch.randn(1, 40_000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = read_checkpoint(tmp_path / "best_model.pth").model.class_logits(sound)  # type: ignore[operator]
        torch.testing.assert_close(classifier(sound).logits, expected)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "class_logits" in card and "license: mit" in card and "arXiv:2006.00751" in card


@pytest.mark.slow
@pytest.mark.parametrize("name", ["crnn", "mtt_student", "Cnn6"])
def test_pipeline_runs_an_imported_folder_without_this_package(name: str, tmp_path: Path) -> None:
    """transformers.pipeline in a process that finds torch and transformers only; scores as the original's outputs."""
    case, weights = published(name)
    torch.save({"model": weights}, tmp_path / "model.pth")
    import_checkpoint(tmp_path / "model.pth", tmp_path / "out")
    np.save(tmp_path / "sound.npy", sound_of(case)[0].numpy())
    script = f"""
import json, sys
import numpy as np
sys.path.insert(0, {str(Path(reload.__file__).parent)!r})
from reload import Narrow, hidden_packages
hidden = hidden_packages() - {{"numpy"}}
sys.meta_path[:] = [Narrow(finder, hidden) for finder in sys.meta_path]
from transformers import pipeline
listen = pipeline("audio-classification", {str(tmp_path / "out")!r}, trust_remote_code=True)
sound = {{"array": np.load({str(tmp_path / "sound.npy")!r}), "sampling_rate": {case["sample_rate"]}}}
found = listen(sound, function_to_apply="sigmoid", top_k=None)
print(json.dumps({{entry["label"]: entry["score"] for entry in found}}))
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads(done.stdout.splitlines()[-1])
    names = open_classifier(tmp_path / "out").config.id2label
    expected = next(case["output"][key] for key in ("tags", "clipwise_output") if key in case["output"])
    found = torch.tensor([scores[names[i]] for i in range(16)])
    torch.testing.assert_close(found, torch.tensor(expected["first_16"]), atol=1e-3, rtol=0)


@pytest.mark.soak
def test_an_imported_cnn14_from_file_to_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`import`, then `predict --page` on sound of another rate; the original's answers, drawn over time."""
    case, weights = published("Cnn14_DecisionLevelMax")
    torch.save({"model": weights}, tmp_path / "Cnn14_DecisionLevelMax.pth")
    run(["import", str(tmp_path / "Cnn14_DecisionLevelMax.pth"), str(tmp_path / "cnn14"),
         "--network", "Cnn14_DecisionLevelMax"])  # fmt: skip
    sound = sound_of(case)[0].numpy()
    write(tmp_path / "tone.wav", sound, case["sample_rate"])
    write(tmp_path / "slow.wav", sound[::2], 16_000)
    capsys.readouterr()
    files = [str(tmp_path / "tone.wav"), str(tmp_path / "slow.wav")]
    run(["predict", str(tmp_path / "cnn14"), *files, "--json", "--threshold", "0", "--page", str(tmp_path / "p.html")])
    said = capsys.readouterr()
    assert "Resampled from 16000 Hz to the 32000 Hz that a classifier hears: 1 recording(s)." in said.err
    answers = json.loads(said.out.splitlines()[0])["probabilities"]
    names = open_classifier(tmp_path / "cnn14").config.id2label
    expected = case["output"]["clipwise_output"]["first_16"]
    np.testing.assert_allclose([answers[names[k]] for k in range(16)], expected, atol=2e-3)  # of 16 bit
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    likeliest = sorted(answers, key=lambda name: -answers[name])[0]
    assert likeliest in page and page.count("tone.wav") and page.count("slow.wav")
    # eight lanes of 31 segments of 0.32 s for each recording
    assert page.count("data-from=") == 2 * 8 * 31


@pytest.mark.parametrize("name", ["crnn", "Cnn6"])
@torch.no_grad()
def test_a_clip_shorter_than_the_window_is_padded_with_silence(name: str, tmp_path: Path) -> None:
    case, weights = published(name)
    torch.save(weights, tmp_path / "model.pth")
    model: Any = read_checkpoint(tmp_path / "model.pth").model
    for samples in (9, 5000):
        sound = sound_of(case)[:, :samples]
        padded = torch.nn.functional.pad(sound, (0, model.config.window_samples - samples))
        torch.testing.assert_close(model.class_logits(sound), model.class_logits(padded))


def test_what_isnt_a_taggers_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    _, good = published("fcn")

    def refused(weights: dict[str, Tensor], words: str, **options: Any) -> None:
        torch.save(weights, file)
        with pytest.raises(ValueError, match=words):
            read_checkpoint(file, **options)

    refused(
        {k: v for k, v in good.items() if k != "layer3.bn.bias"}, "lacks weights: layer3.bn.bias; this looks like fcn"
    )
    refused(good | {"extra.weight": torch.ones(2)}, "has unexpected weights: extra.weight")
    refused(good | {"layer1.conv.weight": torch.ones(64, 2, 3, 3)}, r"layer1.conv.weight has the shape \[64, 2, 3, 3\]")
    refused(good | {"spec.mel_scale.fb": torch.ones(257, 96)}, "another front end")
    refused(good, "has 527 names, and the network has 50", labels="audioset")
    refused(good, "no such set", labels="mtatt")
    refused(good, "--network is for PANNs", network="Cnn14_DecisionLevelMax")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["a"] * 50))
    refused(good, "the label 'a' twice", labels=str(names))
    refused({"0.weight": torch.ones(2, 2)}, "are for taggers' files", labels="mtat")
    # torchaudio of old left the filters empty until they were first used
    torch.save(good | {"spec.mel_scale.fb": torch.ones(0)}, file)
    assert read_checkpoint(file).family == "music taggers"


OFFICIAL = {
    "mtat/fcn": (2.34738, 25, (0.00581, 0.00406, 0.38570, 0.04825)),
    "mtat/musicnn": (2.30251, 10, (0.00058, 0.00251, 0.44538, 0.04339)),
    "mtat/crnn": (2.03919, 10, (0.02576, 0.04183, 0.33539, 0.02550)),
    "jamendo/fcn": (2.19763, 8, (0.13269, 0.32691, 0.04573, 0.02650)),
    "jamendo/musicnn": (2.54031, 8, (0.03641, 0.53234, 0.06387, 0.09041)),
    "jamendo/crnn": (3.18493, 8, (0.04817, 0.45504, 0.06568, 0.11275)),
    "msd/fcn": (0.74425, 4, (0.03082, 0.01167, 0.02774, 0.04587)),
    "msd/crnn": (1.76092, 4, (0.04346, 0.04201, 0.03827, 0.05907)),
}


@pytest.mark.parametrize("name", OFFICIAL)
@torch.no_grad()
def test_official_weights(name: str) -> None:
    """Needs the published files: $GROUNDBASS_TAGGERS/mtat/fcn/best_model.pth and so on."""
    root = os.environ.get("GROUNDBASS_TAGGERS")
    file = Path(root or "") / name / "best_model.pth"
    if root is None or not file.is_file():
        pytest.skip(f"lacks the published weights {name}/best_model.pth: set GROUNDBASS_TAGGERS to their models folder")
    model: Any = read_checkpoint(file, labels=name.partition("/")[0]).model
    t = np.arange(model.config.window_samples) / 16_000
    x = 0.3 * np.sin(2 * np.pi * 220 * t) + 0.2 * np.sin(2 * np.pi * 330 * t)
    x += 0.1 * np.sin(2 * np.pi * (500 + 200 * t) * t) * np.sin(2 * np.pi * 2 * t)
    answer = model.class_logits(torch.from_numpy(x.astype(np.float32))[None]).sigmoid()[0]
    total, highest, first = OFFICIAL[name]
    assert abs(float(answer.sum()) - total) < 1e-4 and int(answer.argmax()) == highest
    torch.testing.assert_close(answer[:4], torch.tensor(first), atol=1e-5, rtol=0)
