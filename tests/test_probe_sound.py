"""Decoders, hand-crafted features and damage, on sound and curves whose truth is known."""

from types import SimpleNamespace

import librosa
import mir_eval
import numpy as np
import pytest
import torch

from groundbass.data.augment.degradations import PRESETS
from groundbass.data.labels.decoding import peaks, track_beats, viterbi
from groundbass.data.labels.kinds.chords import chord_classes, chord_spans
from groundbass.probe.baselines.hand_crafted import (
    Chroma,
    Mfcc,
    Tzanetakis,
    beat_histogram,
    pitch_histogram,
    rhythm,
    timbre,
)
from groundbass.probe.baselines.simple import LogCqtBaseline, LogMelBaseline
from groundbass.probe.contract import problems
from groundbass.probe.curves.robustness import LEVELS, Degradation, changes_truth, kinds_of

RATE = 22_050


def curve(beats, seconds=20.0, rate=50.0):
    times = (np.arange(round(seconds * rate)) + 0.5) / rate
    return np.exp(-((times[:, None] - np.asarray(beats)[None]) ** 2).min(1) / 0.001), times


def test_peaks_find_beats():
    beats = np.arange(0.4, 19.9, 0.5)
    probability, times = curve(beats)
    found = peaks(probability, times, 0.3)
    assert len(found) == len(beats) and np.abs(found - beats).max() < 0.02
    assert len(peaks(probability[:1], times[:1], 0.3)) == 0


@pytest.mark.parametrize("period", [0.35, 0.5, 0.8])
def test_the_tracker_bridges_missing_beats_and_ignores_lone_peaks(period):
    """A fifth of the beats unheard, some noise between: peaks go wrong there, the tracker keeps the pulse."""
    generator = np.random.default_rng(0)
    beats = np.arange(0.3, 19.5, period)
    heard = beats[generator.random(len(beats)) > 0.2]
    probability, times = curve([*heard, *(generator.random(4) * 19)])
    found = track_beats(probability, times, usual=0.45)
    plain = mir_eval.beat.f_measure(beats, peaks(probability, times, 0.3))
    assert mir_eval.beat.f_measure(beats, found) > 0.9 > plain
    drift = np.cumsum(np.linspace(period, 1.15 * period, 30))
    assert mir_eval.beat.f_measure(drift, track_beats(*curve(drift, drift[-1] + 0.3), usual=0.45)) > 0.95


def test_beats_between_frames_have_the_right_tempo():
    """At 25 frames per second 130 beats per minute are 11.5 frames apart: whole frames say 11 or 12, 4 % off."""
    times = (np.arange(500) + 0.5) / 25
    beats = np.arange(0.31, 19.5, 60 / 130)
    probability = np.exp(-0.5 * np.square((times[:, None] - beats) / 0.03)).max(1)

    def error(parts):
        found = track_beats(probability, times, usual=0.5, parts=parts)
        return abs(float(np.median(np.diff(found))) / (60 / 130) - 1)

    assert error(4) < 0.02 < 0.035 < error(1)
    found = track_beats(probability, times, usual=0.5, parts=4)
    assert np.abs(found[:, None] - beats).min(1).max() < 0.02


def test_the_tracker_is_a_metronome_where_nothing_is():
    times = (np.arange(500) + 0.5) / 50
    np.testing.assert_allclose(track_beats(np.full(500, 0.2), times, 0.6), np.arange(0, 10, 0.6))
    assert len(track_beats(np.full(3, 0.5), times[:3], 0.5)) == 0


def test_viterbi_against_every_path():
    generator = np.random.default_rng(0)
    for switch in (0.0, 0.7, 5.0):
        scores = generator.normal(size=(6, 3))
        paths = np.stack(np.meshgrid(*[range(3)] * 6, indexing="ij"), -1).reshape(-1, 6)
        totals = scores[np.arange(6), paths].sum(1) - switch * (np.diff(paths, axis=1) != 0).sum(1)
        assert viterbi(scores, switch).tolist() == paths[totals.argmax()].tolist()


def test_chords_to_frames_and_back():
    label = [{"start": 0.0, "end": 1.0, "label": "C:maj7"}, {"start": 1.0, "end": 2.0, "label": "A:min"}]
    times = (np.arange(20) + 0.5) / 10
    classes = chord_classes([*label, {"start": 1.5, "end": 1.7, "label": "D:sus4"}], times)
    assert classes.tolist() == [0] * 10 + [21] * 5 + [-1] * 2 + [21] * 3
    spans = chord_spans(chord_classes(label, times), times)
    assert [(s["label"], pytest.approx(s["start"]), pytest.approx(s["end"])) for s in spans] == [
        ("C:maj", 0.0, 1.0), ("A:min", 1.0, 2.05),
    ]  # fmt: skip


def music(seconds=6.0):
    """Three notes, one after another, and clicks."""
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = 440 * 2 ** (np.array([0, 4, 7])[(time / 0.5).astype(int) % 3] / 12)
    sound = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    sound += 0.02 * np.random.default_rng(0).normal(size=len(sound)) * np.exp(-8 * (time % 0.5))
    return sound.astype(np.float32)


def moments(values):
    """jukemir's moments of [bins, frames] with librosa's frames: mean and deviation, of two differences too."""
    parts = [values, np.diff(values, axis=1), np.diff(values, n=2, axis=1)]
    return np.concatenate([part.mean(1) for part in parts]), np.concatenate([part.std(1) for part in parts])


def test_mfcc_and_chroma_against_librosa():
    sound = music()
    ours = Mfcc().coefficients(torch.from_numpy(sound)).numpy()
    theirs = librosa.feature.mfcc(y=sound, sr=RATE, n_mfcc=20)
    np.testing.assert_allclose(ours, theirs.T, atol=1e-2)
    chroma = Chroma().classes(torch.from_numpy(sound)).numpy()
    reference = librosa.feature.chroma_cqt(y=sound, sr=RATE, hop_length=512, tuning=0.0)[:, : len(chroma)]
    np.testing.assert_allclose(chroma, reference.T, atol=0.03)
    frames = Mfcc().hidden_states(torch.from_numpy(sound)[None])[0, 0].numpy()
    mean, deviation = moments(theirs)
    np.testing.assert_allclose(frames.mean(0), mean, atol=0.15)
    np.testing.assert_allclose(frames.std(0), deviation, rtol=0.02, atol=0.05)
    assert frames.shape[1] == 60 and Chroma().hidden_states(torch.from_numpy(sound)[None]).shape[3] == 36


@pytest.mark.parametrize(("midi", "name"), [(45, 9), (60, 0), (69, 9), (76, 4)])
def test_chroma_and_pitch_histogram_hear_a_note(midi, name):
    time = np.arange(3 * RATE) / RATE
    note = sum(np.sin(2 * np.pi * k * 440 * 2 ** ((midi - 69) / 12) * time) / k for k in range(1, 6)) / 5
    assert Chroma().classes(torch.from_numpy(note.astype(np.float32))).mean(0).argmax() == name
    assert pitch_histogram(note, RATE).argmax() == midi


@pytest.mark.parametrize("tempo", [60, 90, 120, 168])
def test_beat_histogram_hears_a_tempo(tempo):
    clicks = 1e-4 * np.random.default_rng(0).normal(size=12 * RATE)
    for beat in np.arange(0.1, 11.9, 60 / tempo):
        clicks[int(beat * RATE) : int(beat * RATE) + 100] += 0.8
    found = rhythm(clicks, RATE)
    assert abs(found[3] - tempo) <= 3 and found[5] > 0
    assert abs(int(beat_histogram(clicks, RATE).argmax()) - tempo) <= 3
    assert rhythm(np.zeros(5 * RATE), RATE).tolist() == [0] * 6


def test_timbre_is_physics():
    time = np.arange(3 * RATE) / RATE
    none = np.zeros((200, 5))
    low, high = (timbre(0.5 * np.sin(2 * np.pi * f * time), RATE, none) for f in (300, 3000))
    noise = timbre(np.random.default_rng(0).normal(size=len(time)), RATE, none)
    assert low[0] == pytest.approx(300, rel=0.15) and high[0] == pytest.approx(3000, rel=0.05)  # centroid, Hz
    assert low[1] < high[1] < noise[1]  # roll-off
    assert high[3] == pytest.approx(2 * 3000 / RATE, rel=0.02)  # zero crossings per sample
    assert noise[2] > 10 * high[2]  # flux
    halves = np.where(time % 1.0 < 0.25, 1.0, 0.05) * np.random.default_rng(0).normal(size=len(time))
    assert timbre(halves, RATE, none)[8] == pytest.approx(0.75, abs=0.06)  # share of quiet frames


def test_descriptors_keep_the_contract_except_the_rate():
    for descriptor in (Mfcc(), Chroma()):
        assert [line for line in problems(descriptor).failed if "22050 Hz" not in line and "padding" not in line] == []
    found = Tzanetakis().hidden_states(torch.from_numpy(np.stack([music(), music()])), torch.tensor([6 * RATE, 300]))
    assert found.shape == (2, 1, 1, 30) and torch.isfinite(found).all()


@pytest.mark.parametrize("samples", [512, 1024, 20 * 512, 20 * 512 - 1, 20 * 512 + 1, 1, 511, 513])
def test_descriptors_hear_clips_of_any_length(samples):
    """A clip of whole hops gives the transform one frame more than the clip has middles."""
    sound = torch.from_numpy(music())[: 20 * 512 + 1].repeat(2, 1)
    for descriptor in (Mfcc(), Chroma(), Tzanetakis()):
        alone = descriptor.hidden_states(sound[:1, :samples])
        assert alone.shape[2] == int(descriptor.valid_frames(torch.tensor([samples]))[0])
        padded = descriptor.hidden_states(sound, torch.tensor([samples, sound.shape[1]]))
        assert torch.equal(padded[:1, :, : alone.shape[2]], alone) and not padded[0, :, alone.shape[2] :].any()


@pytest.mark.parametrize("seed", range(3))
def test_descriptors_hear_clips_of_drawn_lengths(seed):
    """Four lengths, none chosen: each descriptor gives as many finite frames as it says, alone and in a batch."""
    lengths = torch.from_numpy(np.random.default_rng(seed).integers(1, 20 * 512, 4))
    sound = torch.from_numpy(music())[: 20 * 512].repeat(4, 1)
    for descriptor in (Mfcc(), Chroma(), Tzanetakis(), LogMelBaseline(), LogCqtBaseline()):
        valid = descriptor.valid_frames(lengths)
        padded = descriptor.hidden_states(sound, lengths)
        for samples, frames in zip(lengths.tolist(), valid.tolist(), strict=True):
            alone = descriptor.hidden_states(sound[:1, :samples])
            assert alone.shape[2] >= frames and torch.isfinite(alone).all() and torch.isfinite(padded).all()
            assert padded.shape[2] >= frames


@pytest.mark.parametrize("kind", LEVELS)
def test_damage_is_repeatable_keeps_the_length_and_grows(kind):
    sound = music(2.0)
    distances = []
    for level in LEVELS[kind].levels:
        change = Degradation(kind, level)
        found = change(sound, RATE, 7)
        assert found.shape == sound.shape and found.dtype == np.float32 and np.isfinite(found).all()
        np.testing.assert_array_equal(found, change(sound, RATE, 7))
        assert np.isfinite(change(np.zeros(500, np.float32), RATE, 1)).all()
        distances.append(float(np.square(found - sound).mean()))
    grows = kind not in (
        "reverb",
        "pitch",
        "speed",
        "stretch",
        "delay",
        "trim",
        "mp3",
        "distortion",
        "wow",
        "dust",
        "aliasing",
        "compression",
        *PRESETS,
    )
    assert distances[0] > 0 and (not grows or (distances == sorted(distances) and distances[-1] > 2 * distances[0]))
    assert len({Degradation(kind, level).name for level in LEVELS[kind].levels}) == len(distances)


def test_all_kinds_and_unknown_ones():
    assert kinds_of(["gain", "all"]) == tuple(LEVELS) and kinds_of(["gain", "gain"]) == ("gain",)
    with pytest.raises(ValueError, match="no damage 'gian'; nearest: gain"):
        kinds_of(["gian"])


def test_damage_is_what_it_says():
    time = np.arange(2 * RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 3000 * time)).astype(np.float32)

    def power(sound):
        return float(np.mean(np.square(sound, dtype=np.float64)))

    hiss = Degradation("noise", 10.0)(tone, RATE, 0) - tone
    assert 10 * np.log10(power(tone) / power(hiss)) == pytest.approx(10, abs=0.2)
    assert not np.array_equal(hiss, Degradation("noise", 10.0)(tone, RATE, 1) - tone)
    middle = slice(RATE // 2, -RATE // 2)
    for cutoff in (2000.0, 7000.0):  # a bilinear RC filter
        bent = np.tan(np.pi * 3000 / RATE) / np.tan(np.pi * cutoff / RATE)
        lost = power(Degradation("low-pass", cutoff)(tone, RATE, 0)[middle]) / power(tone[middle])
        assert lost == pytest.approx(1 / (1 + bent**2), rel=0.01)
    assert power(Degradation("gain", -6.0)(tone, RATE, 0)) == pytest.approx(power(tone) / 10**0.6, rel=1e-3)
    clipped = Degradation("clipping", 50.0)(tone, RATE, 0)
    assert np.abs(clipped).max() == pytest.approx(0.5, abs=1e-3) and (np.abs(clipped) > 0.499).mean() > 0.49
    assert power(Degradation("resampling", 4000.0)(tone, RATE, 0)[middle]) < 1e-3 * power(tone)
    np.testing.assert_array_equal(Degradation("resampling", 48_000.0)(tone, RATE, 0), tone)
    click = np.zeros(2 * RATE, np.float32)
    click[100] = 1
    room = Degradation("reverb", 0.5)(click, RATE, 0).astype(np.float64)[100:]
    decay = np.cumsum(np.square(room[1:])[::-1])[::-1]  # Schroeder's integral
    early, late = (int(np.argmax(decay < decay[0] * 10 ** (-level / 10))) for level in (5, 35))
    assert 2 * (late - early) / RATE == pytest.approx(0.5, rel=0.2)


def test_every_kind_says_what_it_changes_of_the_truth():
    plain, timed = (
        SimpleNamespace(unit=unit, name="made", label_kind=SimpleNamespace(over_time=False, pitched=pitched))
        for unit, pitched in (("track", False), ("frame", True))
    )
    assert [changes_truth(plain, kind) for kind in LEVELS] == [None] * len(LEVELS)
    changed = {kind: changes_truth(timed, kind) for kind in LEVELS}
    assert {"delay", "trim", "speed", "stretch"} <= {kind for kind, what in changed.items() if what == "times"}
    assert changed["pitch"] == "pitches" and changed["noise"] is None and changed["phone"] is None
