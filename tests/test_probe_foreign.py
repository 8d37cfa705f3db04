"""Any Hugging Face audio model, by its folder: from `groundbass probe` to the score, for five families."""

import csv
import json

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from groundbass.data.audio import read as audio
from groundbass.probe import command

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SPEECH = SMALL | {
    "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2, "conv_dim": (8, 8, 8), "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 4, 2), "vocab_size": 8,
}  # fmt: skip


def hubert():
    return HubertModel(HubertConfig(**SPEECH)), Wav2Vec2FeatureExtractor(sampling_rate=16000)


def wav2vec2():
    config = Wav2Vec2Config(**SPEECH, do_stable_layer_norm=True, feat_extract_norm="layer")
    return Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(sampling_rate=16000, return_attention_mask=True)


def ast():
    sizes = {"max_length": 64, "num_mel_bins": 48}
    return ASTModel(ASTConfig(**SMALL, **sizes)), ASTFeatureExtractor(**sizes)


def clap():
    sound = ClapAudioConfig(
        spec_size=64, num_mel_bins=16, window_size=4, patch_embeds_hidden_size=8, depths=[1, 1],
        num_attention_heads=[1, 2], hidden_size=16, projection_dim=8, enable_fusion=False,
    )  # fmt: skip
    words = ClapTextConfig(**SMALL, vocab_size=20, projection_dim=8)
    config = ClapConfig(text_config=words.to_dict(), audio_config=sound.to_dict(), projection_dim=8)
    return ClapModel(config), ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, hop_length=128, max_length_s=1, fft_window_size=256, frequency_max=4000
    )


def encodec():
    config = EncodecConfig(
        num_filters=4, hidden_size=16, upsampling_ratios=[4, 4], codebook_size=8, codebook_dim=16, num_lstm_layers=1
    )
    return EncodecModel(config), EncodecFeatureExtractor(sampling_rate=24000)


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    """Forty notes of two pitches and of 0.6 to 1.6 s, with labels of three kinds."""
    folder = tmp_path_factory.mktemp("notes")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(40):
        seconds, frequency = generator.uniform(0.6, 1.6), (150.0, 900.0)[number % 2]
        time = np.arange(round(22050 * seconds)) / 22050
        sound = 0.3 * np.sin(2 * np.pi * frequency * time) + 0.003 * generator.normal(size=len(time))
        audio.write(folder / f"{number}.wav", sound.astype(np.float32), 22050)
        rows.append(
            [f"{number}.wav", ("low", "high")[number % 2], f"{np.log2(frequency):.3f}", "a|b" if number % 2 else "a"]
        )
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "note", "octave", "tags"], *rows])
    return folder


@pytest.mark.parametrize(("make", "layers"), [(hubert, 3), (wav2vec2, 3), (ast, 3), (clap, 1), (encodec, 1)])
def test_a_hugging_face_model_is_probed_end_to_end(make, layers, notes, tmp_path):
    torch.manual_seed(0)
    for part in make():
        part.save_pretrained(tmp_path / "model")
    command.main(["check", str(tmp_path / "model")])
    words = [
        str(tmp_path / "model"),
        f"folder:{notes}",
        "--label",
        "note",
        "--label",
        "octave:number",
        "--label",
        "tags",
    ]
    words += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--baselines", "random", "constant"]
    command.main(words)
    for task, metric, floor in (("note", "accuracy", 0.9), ("octave", "r2", 0.7), ("tags", "roc_auc", 0.9)):
        (path,) = (tmp_path / "out").glob(f"*_{task}.json")
        record = json.loads(path.read_text())
        assert record["metric"] == metric and record["score"]["value"] >= floor
        assert len(record["layers"]) == layers and record["baselines"]["random"]["value"] is not None
