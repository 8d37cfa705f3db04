"""Reading sound: every crop equals the same samples of the whole file, in every format, at every rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

from groundbass.data.audio import mp3
from groundbass.data.audio import read as audio

Waveform = npt.NDArray[np.float32]
Sound = Callable[..., Waveform]
FORMATS = ("wav", "flac", "ogg", "opus", "mp3")
LOSSLESS = ("wav", "flac")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, sweep: Sound) -> dict[str, Path]:
    """Eight seconds at 48 kHz: a sweep, whose every moment is different, in noise."""
    folder = tmp_path_factory.mktemp("formats")
    sound = sweep(seconds=8.0, sample_rate=48000, high=15000.0)[:-777]
    sound += np.random.default_rng(0).normal(0, 0.02, len(sound)).astype(np.float32)
    paths = {suffix: folder / f"sweep.{suffix}" for suffix in FORMATS}
    for path in paths.values():
        audio.write(path, sound, 48000)
    return paths


def whole(path: Path) -> Waveform:
    """The oracle: one read by soundfile from the first sample to the last."""
    sound, _ = sf.read(path, dtype="float32", always_2d=True)
    return sound.mean(axis=1)


@pytest.mark.parametrize("suffix", FORMATS)
def test_crop_equals_cut(files: dict[str, Path], suffix: str) -> None:
    full = whole(files[suffix])
    ends = [len(full) - n for n in (20000, 8000, 3000, 1000, 1)]  # the last Ogg page is where libsndfile misses
    for start in [0, 1, 1000, 5332, 40000, 77777, 200001, 300000, *ends]:
        crop = audio.read(files[suffix], start=start, samples=3000)
        assert crop.shape == full[start : start + 3000].shape
        np.testing.assert_allclose(crop, full[start : start + 3000], atol=1e-6, err_msg=f"at {start}")


def test_crops_of_a_variable_bitrate(tmp_path: Path, sweep: Sound) -> None:
    """Where libsndfile misses, and nothing tells. When the last line fails, it has learned to seek: drop mp3.py."""
    noise = np.random.default_rng(0).normal(0, 0.2, 5 * 48000)
    path = tmp_path / "vbr.mp3"
    audio.write(path, np.concatenate([sweep(seconds=5.0, sample_rate=48000), noise]), 48000)
    full, missed = whole(path), 0
    for start in range(1000, 450000, 24690):
        np.testing.assert_allclose(audio.read(path, start=start, samples=3000), full[start : start + 3000], atol=1e-6)
        with sf.SoundFile(path) as file:
            file.seek(start)
            missed += bool(np.abs(file.read(3000, dtype="float32") - full[start : start + 3000]).max() > 0.1)
    assert missed


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("sample_rate", [16000, 22050, 24000, 44100])
def test_resampled_crop_equals_resampled_file(files: dict[str, Path], suffix: str, sample_rate: int) -> None:
    """Tolerance 2e-6 of full scale (measured 5e-7): float32 rounding, the phase is exact."""
    full = audio.resample(whole(files[suffix]), 48000, sample_rate)
    for start in (0, 17, 12345, 70001, len(full) - 4000, len(full) - 500):
        crop = audio.read(files[suffix], sample_rate, start, 2500)
        assert crop.shape == full[start : start + 2500].shape
        np.testing.assert_allclose(crop, full[start : start + 2500], atol=2e-6)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_written_sound_comes_back(tmp_path: Path, note: Sound, suffix: str) -> None:
    sound = np.stack([note(60), note(64)])
    path = tmp_path / f"note.{suffix}"
    audio.write(path, sound, 22050)
    assert audio.info(path) == audio.AudioInfo(22050, 22050, 2)
    np.testing.assert_allclose(audio.read(path), sound.mean(axis=0), atol=2**-15)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]  # nothing left beside


def test_silent_channel_halves_the_mix(tmp_path: Path, note: Sound) -> None:
    path = tmp_path / "left.wav"
    audio.write(path, np.stack([note(69), np.zeros_like(note(69))]), 22050)
    np.testing.assert_allclose(audio.read(path), note(69) / 2, atol=2**-15)


def test_resample_keeps_pitch_and_level() -> None:
    """440 Hz stays 440 Hz at 0.5; 9 kHz does not survive 16 kHz as an alias at 7 kHz."""
    time = np.arange(44100) / 44100
    low, high = (0.5 * np.sin(2 * np.pi * f * time) for f in (440, 9000))
    out = audio.resample(np.stack([low, high]), 44100, 16000)
    assert out.shape == (2, 16000)
    spectrum = np.abs(np.fft.rfft(out[0][2000:14000] * np.hanning(12000)))
    assert abs(np.argmax(spectrum) * 16000 / 12000 - 440) < 1
    assert abs(np.abs(out[0][2000:14000]).max() - 0.5) < 1e-3
    assert np.abs(out[1][2000:14000]).max() < 1e-4


@pytest.mark.parametrize("sample_rate", [8000, 16000, 24000, 32000, 44100])
def test_mp3_of_every_mpeg_version(tmp_path: Path, sample_rate: int) -> None:
    """Stereo noise at MPEG-1, 2 and 2.5 rates; the frame index sees every sample of the decoder."""
    noise = np.random.default_rng(1).normal(0, 0.1, (2, 5 * sample_rate))
    path = tmp_path / "noise.mp3"
    audio.write(path, noise, sample_rate)
    frames = mp3.index(path)
    assert frames is not None
    assert frames.seekable
    assert frames.fault is None
    full = whole(path)
    assert frames.samples == len(full)
    for start in (0, 1, 576, 2 * sample_rate, 4 * sample_rate + 11):
        np.testing.assert_allclose(audio.read(path, start=start, samples=999), full[start : start + 999], atol=1e-6)


def test_mp3_without_its_header_frame(files: dict[str, Path], tmp_path: Path) -> None:
    """A stream without Xing frame: libsndfile guesses its length, the frame index counts, and crops stay exact."""
    frames = mp3.index(files["mp3"])
    assert frames is not None
    bare = tmp_path / "bare.mp3"
    bare.write_bytes(files["mp3"].read_bytes()[frames.offsets[0] :])
    assert audio.info(bare).samples == frames.frames * frames.frame_samples
    sound, full = audio.read(bare), whole(files["mp3"])
    np.testing.assert_allclose(sound[frames.delay : frames.delay + len(full)], full, atol=1e-6)
    np.testing.assert_allclose(audio.read(bare, start=123456, samples=5000), sound[123456:128456], atol=1e-6)


def test_mp3_between_tags(files: dict[str, Path], tmp_path: Path) -> None:
    tagged = tmp_path / "tagged.mp3"
    tagged.write_bytes(b"ID3\3\0\0\0\0\x08\0" + bytes(1024) + files["mp3"].read_bytes() + b"TAG" + bytes(125))
    sound = audio.read(tagged, start=99999, samples=100)
    np.testing.assert_allclose(sound, whole(files["mp3"])[99999:100099], atol=1e-6)


def test_blocks_are_the_file(files: dict[str, Path]) -> None:
    for suffix, path in files.items():
        sound = np.concatenate(list(audio.blocks(path, 50000)))[:, 0]
        np.testing.assert_allclose(sound, whole(path), atol=1e-6, err_msg=suffix)


def test_reading_past_the_end(files: dict[str, Path]) -> None:
    for path in files.values():
        assert len(audio.read(path, start=10_000_000, samples=10)) == 0
        assert len(audio.read(path, 16000, start=10_000_000, samples=10)) == 0


def test_errors_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.wav does not exist.*--root"):
        audio.read(tmp_path / "nothing.wav")
    (tmp_path / "text.wav").write_text("no sound at all")
    with pytest.raises(ValueError, match=r"text\.wav can't be opened as audio"):
        audio.info(tmp_path / "text.wav")
    with pytest.raises(ValueError, match="no suffix that can be written"):
        audio.write(tmp_path / "note.xyz", np.zeros(10), 22050)
    with pytest.raises(ValueError, match="must not be negative"):
        audio.read(tmp_path / "text.wav", start=-1)
