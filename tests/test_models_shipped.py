"""What ships is whole, small, and hears: on clips of a corpus that it never met."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mir_eval
import numpy as np
import pytest
import torch

import groundbass.models
from groundbass.data.synth.corpus import make_clip
from groundbass.data.synth.plan import plan_clips
from groundbass.models.encoder import load_encoder, weights_hash
from groundbass.models.head_files import read_heads
from groundbass.models.loading import shipped
from groundbass.probe.apply.classify import load_classifier
from groundbass.tiny import template_key

FOLDER = Path(groundbass.models.__file__).parent / "shipped" / "groundbass_tiny"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="nothing ships with this version")


def test_whole_and_small() -> None:
    assert shipped("groundbass-tiny") == FOLDER and shipped("groundbass-huge") is None and shipped("../x") is None
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 6e6
    assert not list(FOLDER.glob("*.py"))
    digest = weights_hash(load_encoder("groundbass-tiny"))
    for name, (head, facts) in read_heads(FOLDER).items():
        assert facts.encoder_hash == digest and facts.encoder == "groundbass-tiny", name
        assert head.config.dim == load_encoder("groundbass-tiny").dim
    card = (FOLDER / "README.md").read_text()
    assert "GPL" in card and "groundbass tiny" in card  # the soundfont's licence, the command that makes it


def test_key_profiles_find_the_key_of_a_scale(note: Callable[..., Any]) -> None:
    """The rival of the card's table: notes of a scale, the tonic and its fifth longest."""
    model = load_encoder("groundbass-tiny").model  # type: ignore[attr-defined]
    for tonic, steps, name in ((62, (0, 2, 4, 5, 7, 9, 11), "D major"), (57, (0, 2, 3, 5, 7, 8, 10), "A minor")):
        notes = [*steps, 0, 0, 0, 7, 0, 4 if "major" in name else 3, 7, 0]
        sound = np.concatenate([note(tonic + step, 0.4, 24_000) for step in notes])
        assert template_key(model.pictures(torch.from_numpy(sound)[None])[0]) == name


def test_it_hears_beats_and_chords_of_music_that_it_never_met() -> None:
    classifier = load_classifier("groundbass-tiny")
    beats, tempi = [], []
    for clip in plan_clips(0.06, 991, 16.0)[:6]:
        sound, labels = make_clip(clip, 991)
        found = classifier.hear(sound, 24_000)["beats"].times
        assert found is not None
        beats.append(mir_eval.beat.f_measure(np.array(labels["beats"]), found))
        ratio = 60 / float(np.median(np.diff(found))) / labels["tempo"]
        tempi.append(min(abs(ratio / r - 1) for r in (0.5, 1.0, 2.0)) < 0.04)
    assert np.mean(beats) > 0.7 and np.mean(tempi) > 0.6
