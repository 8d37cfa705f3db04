"""What an earlier version wrote opens: runs go on, shards and stores are read, results are reported, models answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import groundbass
from groundbass.data.open import open_sound
from groundbass.data.track import Manifest
from groundbass.models import encoder as encoder_door
from groundbass.models.mert import MertConfig
from groundbass.pretrain.command import main as pretrain
from groundbass.pretrain.recipe import differences, find, resolved
from groundbass.probe.listen.features import FeatureStore
from groundbass.probe.report import result
from groundbass.probe.report.command import report

OLD = Path(__file__).parent / "old"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return Path(shutil.copytree(OLD, tmp_path / "old"))


def test_a_run_goes_on(old: Path) -> None:
    words = ["contrastive.clmr_debug", "--data", str(old / "music.parquet"), "--run", str(old / "run")]
    assert pretrain([*words, "--steps", "3", "--workers", "0", "--trackers"]) == 0
    before = (OLD / "run" / "loss.jsonl").read_text()
    after = (old / "run" / "loss.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == 3


def test_classes_that_have_another_name_now_are_known_by_their_old_one() -> None:
    for recipe, then, now in (
        ("labelled.synth_debug", "Labelled", "LabelledConfig"),
        ("tagging.musicnn_tiny", "Tagging", "TaggingConfig"),
        ("contrastive.clmr_debug", "Contrastive", "ContrastiveConfig"),
    ):
        new = resolved(find(recipe))
        assert new["objective"]["kind"] == now
        old = new | {"objective": new["objective"] | {"kind": then}}
        assert differences(old, new) == []
        assert differences(old | {"objective": old["objective"] | {"kind": "Else"}}, new) != []


def test_a_published_folder_answers_as_it_did() -> None:
    encoder = groundbass.load_encoder(OLD / "published")
    states = encoder.hidden_states(torch.sin(torch.arange(24_000) / 9.0)[None]).double()
    assert states.shape == (1, 1, 1, 15)
    assert float(states.sum()) == pytest.approx(0.4792172363959253, abs=1e-6)
    assert float(states.square().sum()) == pytest.approx(0.04868701333189719, abs=1e-6)


def test_shards_hold_what_the_files_hold() -> None:
    files, shards = Manifest.open(OLD / "music.parquet"), open_sound(OLD / "shards", None)
    assert shards.column("key").tolist() == files.column("key").tolist()
    for row in range(len(files)):
        np.testing.assert_allclose(shards.read(row, 8000, 100, 5000), files.read(row, 8000, 100, 5000), atol=2e-5)


def test_a_feature_store_is_not_computed_again(old: Path) -> None:
    encoder, manifest = groundbass.load_encoder(OLD / "published"), Manifest.open(OLD / "music.parquet")
    [stored] = old.glob("store/*/*/features.npy")
    store = FeatureStore(old / "store", workers=0, quiet=True)
    np.testing.assert_array_equal(store.clips(encoder, manifest, "mean"), np.load(stored))
    assert store.calls == 0


def test_what_a_feature_store_lacks_is_computed_anew_and_said(old: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It holds means alone, and deviations are asked for."""
    encoder, manifest = groundbass.load_encoder(OLD / "published"), Manifest.open(OLD / "music.parquet")
    [stored] = old.glob("store/*/*/features.npy")
    store = FeatureStore(old / "store", workers=0)
    wide = store.clips(encoder, manifest, "mean+std")
    assert "holds mean alone, by an earlier version; they are computed anew" in capfd.readouterr().err
    means = np.load(stored)
    np.testing.assert_allclose(wide[..., : means.shape[-1]], means, rtol=1e-5, atol=1e-6)
    heard = store.calls
    assert heard > 0 and store.clips(encoder, manifest, "mean+std+change").shape[-1] == 4 * means.shape[-1]
    assert store.calls == heard


def test_results_are_reported(tmp_path: Path) -> None:
    tables = (OLD / "probe" / "results.json", OLD / "probe" / "results.parquet")
    report((OLD / "probe", *tables), out=tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    value = json.loads((OLD / "probe" / "music_note.json").read_text())["score"]["value"]
    assert page.count(f"| {value:.3f} [") >= 3


def test_results_mean_what_they_meant() -> None:
    """Every field of an old result comes back as it stands in the file; what it lacks has a default."""
    for path in (OLD / "probe" / "music_note.json", OLD / "probe" / "music_level.json"):
        told, found = json.loads(path.read_text()), result.read(path)
        assert found is not None and found.pooling == "mean" and found.units == ()
        again = found.to_json()
        for fold in again["folds"]:
            assert fold.pop("pooling") == "mean"  # the only one there was
        for baseline in again["baselines"].values():
            baseline.pop("poolings", None)  # was not told
        assert {name: again[name] for name in told} == told


def test_a_setting_that_came_later_changes_no_hash() -> None:
    """Stores, results and heads of version 0.1 name an encoder by its weights' hash, as it was without the setting."""
    config = MertConfig(frontend="mel")
    told = config.to_dict()
    assert told["mel_kernels"] == "fixed"

    class Before:
        def to_dict(self) -> dict[str, Any]:
            return {name: value for name, value in told.items() if name != "mel_kernels"}

    class Now(Before):
        def to_dict(self) -> dict[str, Any]:
            return told

    class Trained(Before):
        def to_dict(self) -> dict[str, Any]:
            return told | {"mel_kernels": "trained"}

    assert encoder_door._settings(Now()) == encoder_door._settings(Before()) != encoder_door._settings(Trained())
    assert b"null" in encoder_door._settings(Now())  # what is None stays in it
