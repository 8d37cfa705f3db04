"""What ships is whole, small, and hears: on clips of a corpus that it never met."""

from pathlib import Path

import mir_eval
import numpy as np
import pytest

import groundbass.models
from groundbass.data.synth.corpus import make_clip
from groundbass.data.synth.plan import plan_clips
from groundbass.models.encoder import load_encoder, weights_hash
from groundbass.models.head_files import read_heads
from groundbass.models.loading import shipped
from groundbass.probe.apply.classify import load_classifier

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


def test_it_hears_beats_and_chords_of_music_that_it_never_met() -> None:
    classifier = load_classifier(FOLDER)
    beats, tempi = [], []
    for clip in plan_clips(0.06, 991, 16.0)[:6]:
        sound, labels = make_clip(clip, 991)
        found = classifier.hear(sound, 24_000)["beats"].times
        assert found is not None
        beats.append(mir_eval.beat.f_measure(np.array(labels["beats"]), found))
        ratio = 60 / float(np.median(np.diff(found))) / labels["tempo"]
        tempi.append(min(abs(ratio / r - 1) for r in (0.5, 1.0, 2.0)) < 0.04)
    assert np.mean(beats) > 0.7 and np.mean(tempi) > 0.6
