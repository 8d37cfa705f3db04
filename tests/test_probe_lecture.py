"""The classic pipeline's features against librosa, and by physics where librosa has none."""

import librosa
import numpy as np
import pytest
import torch
from scipy import stats

from groundbass.probe.baselines import lecture
from groundbass.probe.baselines.hand_crafted import Chroma
from groundbass.probe.baselines.lecture import HOP, RATE, WINDOW, Lecture

pytestmark = pytest.mark.slow  # librosa takes seconds to wake up
OPTIONS = {"n_fft": WINDOW, "hop_length": HOP}


@pytest.fixture(scope="module")
def sound():
    """Three notes with a hiss and a beat, then silence."""
    time = np.arange(4 * RATE) / RATE
    tones = sum(0.2 * np.sin(2 * np.pi * f * time) for f in (220.0, 277.2, 1661.2))
    beat = np.exp(-8 * (time % 0.5))
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(time))
    return np.where(time < 3.6, tones * beat + noise, 0.0)


@pytest.fixture(scope="module")
def spectrum(sound):
    found = lecture.magnitudes(sound)
    expected = np.abs(librosa.stft(sound, **OPTIONS)).T
    np.testing.assert_allclose(found, expected, atol=1e-9)
    return found


HERTZ = np.fft.rfftfreq(WINDOW, 1 / RATE)


def test_the_spectrums_shape_is_librosas(spectrum):
    loud = spectrum.sum(1) > 1e-3
    found = lecture.shape(spectrum, HERTZ)[loud]
    given = {"S": spectrum.T, "sr": RATE}
    np.testing.assert_allclose(found[:, 0], librosa.feature.spectral_centroid(**given)[0][loud], rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], librosa.feature.spectral_bandwidth(**given)[0][loud], rtol=1e-6)
    np.testing.assert_allclose(found[:, 4], librosa.feature.spectral_rolloff(**given)[0][loud])


def test_moments_are_scipys():
    counts = np.random.default_rng(1).integers(0, 30, 50)
    places = np.arange(50.0)
    heard = np.repeat(places, counts)
    found = lecture.shape(counts[None].astype(float), places)[0]
    np.testing.assert_allclose(found[1:4], [heard.std(), stats.skew(heard), stats.kurtosis(heard, fisher=False)])
    assert lecture.entropy(np.ones((1, 64)))[0] == pytest.approx(1)
    assert lecture.entropy(np.eye(1, 64))[0] == pytest.approx(0, abs=1e-6)
    assert lecture.flux(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])).tolist() == [0, 0, 2]


def test_contrast_and_flatness_are_librosas(spectrum):
    expected = librosa.feature.spectral_contrast(S=spectrum.T, sr=RATE)
    np.testing.assert_allclose(lecture.contrast(spectrum, HERTZ), expected.T, atol=1e-6)
    np.testing.assert_allclose(
        lecture.flatness(spectrum), librosa.feature.spectral_flatness(S=spectrum.T)[0], rtol=1e-6
    )


def test_crossings_and_levels_are_librosas(sound):
    frames = 1 + len(sound) // HOP
    crossings = librosa.feature.zero_crossing_rate(sound, frame_length=WINDOW, hop_length=HOP)[0]
    np.testing.assert_allclose(lecture.zero_crossings(sound, frames), crossings, atol=1.5 / WINDOW)
    level = librosa.feature.rms(y=sound, frame_length=WINDOW, hop_length=HOP)[0]
    np.testing.assert_allclose(lecture.root_mean_square(sound, frames), level, atol=1e-7)


def test_low_energy_is_the_share_of_quiet_frames():
    assert lecture.low_energy(np.array([0.0, 0.0, 0.0, 4.0] * 50), 8)[100] == pytest.approx(0.75)
    assert not lecture.low_energy(np.ones(60)).any()


def test_the_tempogram_is_librosas_and_knows_the_tempo(spectrum):
    onsets = lecture.onset_strength(spectrum)
    expected = librosa.feature.tempogram(onset_envelope=onsets, sr=RATE, hop_length=HOP)
    np.testing.assert_allclose(lecture.tempogram(onsets), expected.T, atol=1e-6)
    beats = np.zeros(900)
    beats[::21] = 1.0  # 123 bpm
    band = lecture.tempi(beats)[300:600].mean(0)
    assert lecture.TEMPI[band.argmax()] <= 60 * RATE / HOP / 21 < lecture.TEMPI[band.argmax() + 1]


def test_a_note_is_a_semitone_of_the_cqt():
    for midi in (36, 57, 81):
        tone = torch.sin(2 * torch.pi * float(librosa.midi_to_hz(midi)) * torch.arange(2 * RATE) / RATE)
        found = Chroma().semitones(tone)[20:-20].mean(0)
        assert int(found.argmax()) == midi - 24  # as librosa's cqt numbers its 84 bins


def test_the_whole_set_has_names_and_no_holes(sound):
    baseline = Lecture()
    found = baseline.hidden_states(torch.from_numpy(sound).float()[None])
    assert found.shape[3] == len(Lecture.names) == len(set(Lecture.names)) and bool(torch.isfinite(found).all())
    for quiet in (torch.zeros(1, RATE), torch.zeros(1, 300)):
        assert bool(torch.isfinite(baseline.hidden_states(quiet)).all())
    centroid = found[0, 0, :, Lecture.names.index("centroid")]
    assert float(centroid[20]) == pytest.approx(
        librosa.feature.spectral_centroid(y=sound, sr=RATE, **OPTIONS)[0, 20], rel=1e-4
    )
