"""Zero-shot with CLAP: a tiny random one against transformers' own pipeline, windows, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapTextConfig,
    PreTrainedTokenizerFast,
    pipeline,
)  # fmt: skip

from groundbass.cli import run
from groundbass.data.audio.read import write
from groundbass.models.music_taggers import MusicTaggerConfig, MusicTaggerModel
from groundbass.models.published import write_encoder
from groundbass.probe.apply.zero_shot import load_clap

RATE = 48_000
LABELS = ("sitar", "jazz trio", "rain")


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds at a time, towers of 16 numbers, with random weights and a scale that tells labels apart."""
    folder = tmp_path_factory.mktemp("clap") / "tiny"
    torch.manual_seed(0)
    text = ClapTextConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=32, projection_dim=8, pad_token_id=1,
    )  # fmt: skip
    audio = ClapAudioConfig(
        patch_embeds_hidden_size=8, depths=[1, 1, 1, 1], num_attention_heads=[2, 2, 2, 2], hidden_size=64,
        projection_dim=8,
    )  # fmt: skip
    model = ClapModel(ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=8))
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    ClapFeatureExtractor(max_length_s=2, truncation="rand_trunc").save_pretrained(folder)
    words = ["<s>", "<pad>", "</s>", "<unk>", "This", "is", "a", "sound", "of", ".", "sitar", "jazz", "trio", "rain"]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def by_transformers(clap: Path, sound: np.ndarray) -> np.ndarray:
    theirs = pipeline("zero-shot-audio-classification", model=str(clap))
    scores = {one["label"]: one["score"] for one in theirs(sound, candidate_labels=list(LABELS))}
    return np.array([scores[label] for label in LABELS])


@pytest.mark.parametrize("seconds", [2.0, 0.7])
def test_one_window_is_what_transformers_pipeline_says(clap: Path, seconds: float) -> None:
    said = load_clap(clap, LABELS).hear(noise(seconds), RATE)["tiny"]
    expected = by_transformers(clap, noise(seconds))
    assert said.kind == "classes" and said.names == LABELS and expected.std() > 0.01, "labels that aren't alike"
    np.testing.assert_allclose(said.probabilities[0], expected, atol=1e-5)  # type: ignore[index]


def test_a_longer_recording_is_the_mean_of_its_windows(clap: Path) -> None:
    sound = noise(5.0)
    loaded = load_clap(clap, LABELS)
    said = loaded.hear(sound, RATE)["tiny"]
    thirds = [by_transformers(clap, part) for part in np.split(sound, 3)]
    np.testing.assert_allclose(said.probabilities[0], np.mean(thirds, 0), atol=1e-5)  # type: ignore[index]
    windows = loaded.hear(sound, RATE, unit="window")["tiny"]
    np.testing.assert_allclose(windows.probabilities, thirds, atol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(windows.end, [5 / 3, 10 / 3, 5.0])


def test_the_command_beside_another_classifier(clap: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files may come after the words; other classifiers answer in the same run."""
    for number in range(2):
        write(tmp_path / f"{number}.wav", noise(2.0, number), RATE)
    files = [str(tmp_path / f"{number}.wav") for number in range(2)]
    assert run(["predict", "--json", "--clap", str(clap), "--labels", *LABELS, *files]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == files and {line["head"] for line in lines} == {"tiny"}
    assert lines[0]["label"] in LABELS and sum(lines[0]["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    torch.manual_seed(0)
    write_encoder(
        MusicTaggerModel(MusicTaggerConfig(network="short", classes=2, width=0.05)).eval(), tmp_path / "short"
    )
    assert run(["predict", "--json", str(tmp_path / "short"), files[0], "--clap", str(clap), "--labels", *LABELS]) == 0
    assert [json.loads(line)["head"] for line in capsys.readouterr().out.splitlines()] == ["short", "tiny"]


def test_what_is_refused(clap: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two or more that aren't empty"):
        load_clap(clap, ["sitar"])
    with pytest.raises(ValueError, match="'sitar' twice"):
        load_clap(clap, ["sitar", "sitar"])
    write_encoder(MusicTaggerModel(MusicTaggerConfig(network="short", classes=2, width=0.05)), tmp_path / "short")
    with pytest.raises(ValueError, match="takes transformers' CLAP"):
        load_clap(tmp_path / "short", LABELS)
