# ruff: noqa: PT017 (what may be raised is part of the answer)
"""Folders of models of anyone: damaged weights and configs open to what they say, or are refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import damage, damaged, few_and_many, within
from hypothesis import given
from hypothesis import strategies as st

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
