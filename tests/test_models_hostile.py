# ruff: noqa: PT017 (what may be raised is part of the answer)
"""Folders of models of anyone: damaged weights and configs open to what they say, or are refused in a sentence."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import damage, damaged, few_and_many, within
from hypothesis import given
from hypothesis import strategies as st
from test_models_published import every_kind
from transformers import HubertConfig, HubertModel

from groundbass.models.adapters import ModelEncoder
from groundbass.models.card import write_card
from groundbass.models.encoder import load_encoder
from groundbass.models.published import write_encoder
from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel

FILES = ["config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole folder, without its Python."""
    folder = tmp_path_factory.mktemp("whole") / "encoder"
    torch.manual_seed(0)
    config = SampleCNNConfig(sample_rate=1000, strides=[3, 3, 3, 2], channels=[4, 4, 4, 8, 8, 8])
    write_encoder(SampleCNNModel(config).eval(), folder)
    (folder / "samplecnn.py").unlink()
    return folder


def heard_or_refused(whole: Path, name: str, content: bytes) -> None:
    folder = whole.parent / "damaged"
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    (folder / name).write_bytes(content)
    with within(20):
        try:
            encoder = load_encoder(folder)
            hidden = encoder.hidden_states(torch.zeros(1, 2 * 1000))
        except (ValueError, OSError) as error:
            assert len(str(error)) > 20
        else:
            assert hidden.shape[:2] == (1, encoder.layers) and hidden.shape[3] == encoder.dim


@few_and_many(30)
@given(case=damage(FILES))
def test_damaged_folders_are_encoders_or_sentences(whole: Path, case: tuple[str, list[Any]]) -> None:
    name, steps = case
    heard_or_refused(whole, name, damaged((whole / name).read_bytes(), steps))


KINDS = every_kind()


@few_and_many(40)
@given(kind=st.sampled_from(sorted(KINDS)), seconds=st.floats(0, 1.5), hops=st.integers(0, 40), step=st.integers(-1, 1))
def test_clips_of_any_length_have_the_frames_that_are_told(kind: str, seconds: float, hops: int, step: int) -> None:
    """Also at a sample more or less than a whole number of frames; padding changes neither their number nor them."""
    encoder = ModelEncoder(KINDS[kind])
    rate = encoder.sample_rate
    hop = round(rate / encoder.frame_rate)
    samples = max(1, hops * hop + step if seconds > 1 else round(seconds * rate))
    sound = 0.1 * torch.randn(1, samples + 2 * hop, generator=torch.Generator().manual_seed(samples))
    with within(20):
        alone = encoder.hidden_states(sound[:, :samples])
        padded = encoder.hidden_states(sound.repeat(2, 1), torch.tensor([samples, sound.shape[1]]))
    frames = int(encoder.valid_frames(torch.tensor([samples]))[0])
    assert 1 <= frames <= alone.shape[2] and torch.isfinite(alone).all()
    torch.testing.assert_close(padded[0, :, :frames], alone[0, :, :frames], atol=2e-5, rtol=1e-3)


class Evil:
    """Unpickled with the whole of Python, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_code_in_a_strangers_bin_is_a_sentence(tmp_path: Path) -> None:
    HubertModel(
        HubertConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=[8],
            conv_stride=[320],
            conv_kernel=[400],
            num_feat_extract_layers=1,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=1,
        )
    ).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    for content in ({"weight": Evil(tmp_path / "evil")}, None):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises((ValueError, OSError), match=r"[A-Z/].{30}"):
            load_encoder(tmp_path)
    assert not (tmp_path / "evil").exists()


def test_a_folder_that_is_called_like_a_hub_name_runs_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`facebook/hubert-base-ls960` may lie here too: it is opened, and its code is asked for as any folder's is."""
    folder = tmp_path / "facebook" / "hubert-base-ls960"
    shutil.copytree(whole, folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "another"}
    config["auto_map"] = {"AutoConfig": "evil.C", "AutoModel": "evil.M"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'evil')!r})\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"brings its own Python code, and none of it was run.*--trust-remote-code"):
        load_encoder("facebook/hubert-base-ls960")
    assert not (tmp_path / "evil").exists()


HURTS = "<script>alert(1)</script>|`x`\n---\nlicense: mit\n\n# A heading [x](javascript:1)"


@pytest.mark.parametrize(
    "field", ["address", "overrides", "versions", "manifest", "recipe", "hardware", "git", "origin"]
)
def test_what_a_record_says_is_text_in_the_card(whole: Path, tmp_path: Path, field: str) -> None:
    record: dict[str, Any] = {"address": "x.y", "manifest": {"hours": 1.0, "tracks": 2}, "recipe": {"steps": 3}}
    encoder = ModelEncoder(SampleCNNModel.from_pretrained(whole))
    if field == "origin":
        encoder.model.config.origin = {"family": "CLMR", "source": HURTS, "license": HURTS, "dropped": [HURTS]}
    else:
        inside = {"overrides": [HURTS], "versions": {HURTS: HURTS}, "manifest": {"hash": HURTS, "tracks": HURTS}}
        inside |= {"recipe": {"steps": HURTS, "batch_size": HURTS, "init": HURTS}}
        (tmp_path / "recipe.json").write_text(json.dumps(record | {field: inside.get(field, HURTS)}))
    card = write_card(encoder, None if field == "origin" else tmp_path, license="mit", name="x")
    fenced = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert "<script>" not in fenced and "\n# A heading" not in card and card.count("\n---\n") == 1
    assert not re.search(r"(?<!\\)\]\(javascript", fenced)
    with pytest.raises(ValueError, match="is no SPDX name"):
        write_card(encoder, None, license=HURTS, name="x")


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 300), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=2)),
    max_leaves=4,
)


@few_and_many(30)
@given(number=st.integers(0, 60), value=VALUES)
def test_configs_of_any_content_are_encoders_or_sentences(whole: Path, number: int, value: Any) -> None:
    config = json.loads((whole / "config.json").read_text())
    config[sorted(config)[number % len(config)]] = value
    heard_or_refused(whole, "config.json", json.dumps(config).encode())


@few_and_many(30)
@given(path=st.lists(st.integers(0, 50), min_size=1, max_size=2), value=VALUES, raw=st.binary(max_size=4))
def test_records_of_any_content_are_cards_or_sentences(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, path: list[int], value: Any, raw: bytes
) -> None:
    record: Any = {
        "address": "x.y",
        "overrides": ["--steps", "3"],
        "manifest": {"hours": 1.0, "tracks": 2, "hash": "h"},
    }
    record |= {"recipe": {"steps": 3, "batch_size": 4, "init": None}, "versions": {"groundbass": "1"}, "git": "g"}
    place = record
    for step in path[:-1]:
        inner = place[sorted(place)[step % len(place)]]
        place = inner if isinstance(inner, dict) else place
    place[sorted(place)[path[-1] % len(place)]] = value
    run = tmp_path_factory.getbasetemp() / "recorded"
    run.mkdir(exist_ok=True)
    (run / "recipe.json").write_text(json.dumps(record))
    (run / "loss.jsonl").write_bytes(json.dumps({"step": value, "loss": value}).encode() + raw)
    try:
        card = write_card(ModelEncoder(SampleCNNModel.from_pretrained(whole)), run, license="mit", name="x")
    except ValueError as error:
        assert "is no record of a run" in str(error)
    else:
        assert card.startswith("---\nlicense: mit\n")
