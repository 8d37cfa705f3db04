"""m4a, AAC, WMA and the sound of videos, by PyAV: exact crops, lengths, damage; and what is said without it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from groundbass.data.audio import av_file, read
from groundbass.data.collections import scan
from groundbass.data.open import open_sound

Sweep = Callable[..., npt.NDArray[np.float32]]
needs_av = pytest.mark.skipif(not av_file.is_installed(), reason="PyAV is not installed")
KINDS = {
    "song.m4a": "aac",
    "song.aac": "aac",
    "film.mp4": "aac",
    "song.wma": "wmav2",
    "film.mkv": "aac",
    "a.wv": "wavpack",
}


def encode(path: Path, sound: npt.NDArray[np.float32], rate: int, codec: str) -> Path:
    """Write [samples] as stereo, the right channel at half the level; a film has pictures too."""
    import av

    with av.open(str(path), "w", format={".aac": "adts", ".wma": "asf"}.get(path.suffix)) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout, stream.bit_rate = "stereo", 192_000
        if path.stem == "film":
            video = container.add_stream("mpeg4", rate=10)
            video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        both = np.stack([sound, sound / 2]).astype(np.float32)
        size = stream.codec_context.frame_size or 1024
        converter = av.AudioResampler(stream.codec_context.format, "stereo", rate, frame_size=size)
        frame = av.AudioFrame.from_ndarray(both, "fltp", "stereo")
        frame.sample_rate = rate
        for part in [*converter.resample(frame), *converter.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
        if path.stem == "film":
            for _ in range(10):
                picture = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
    return path


@needs_av
@pytest.mark.parametrize("name", KINDS)
def test_what_was_encoded_is_heard(name: str, tmp_path: Path, sweep: Sweep) -> None:
    """The sweep comes back where it was, but for the codec's delay, and the mono mix is that of both channels."""
    sound = sweep(seconds=3.0, sample_rate=44_100)
    file = encode(tmp_path / name, sound, 44_100, KINDS[name])
    heard = read.read(file)
    about = read.info(file)
    assert (about.sample_rate, about.channels, about.samples) == (44_100, 2, len(heard))
    assert abs(len(heard) - len(sound)) < 4096
    size = 1 << 18
    found = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(0.75 * sound, size)))
    delay = int(found.argmax())
    delay -= size * (delay > size // 2)
    assert abs(delay) < 4096
    part = slice(8192, len(sound) - 8192)
    error = np.roll(heard, -delay)[part] - 0.75 * sound[part]
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.sqrt(np.mean(sound**2))


@needs_av
@pytest.mark.parametrize("name", ["song.m4a", "song.wma"])
def test_a_crop_is_cut_out_of_the_whole(name: str, tmp_path: Path, sweep: Sweep) -> None:
    file = encode(tmp_path / name, sweep(seconds=3.0, sample_rate=44_100), 44_100, KINDS[name])
    for rate in (None, 16_000):
        whole = read.read(file, rate)
        for start, samples in ((0, 100), (12_345, 20_000), (30_001, 5000)):
            crop = read.read(file, rate, start, samples)
            assert np.abs(crop - whole[start : start + samples]).max() < 1e-5
            assert len(crop) == samples
    with av_file.AvFile(file) as opened:  # back, and on
        first = opened.read(5000, always_2d=True)
        opened.seek(1000)
        assert np.array_equal(opened.read(1000, always_2d=True), first[1000:2000])


@needs_av
def test_a_folder_with_damaged_files_is_scanned(tmp_path: Path, sweep: Sweep) -> None:
    """Junk, a playlist and a film without sound are left out with a reason; a playlist opens nothing."""
    import av

    good = encode(tmp_path / "song.m4a", sweep(seconds=2.0, sample_rate=44_100), 44_100, "aac")
    (tmp_path / "junk.m4a").write_bytes(np.random.default_rng(0).bytes(3000))
    (tmp_path / "cut.m4a").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (tmp_path / "list.m4a").write_text("#EXTM3U\n#EXTINF:10,\nsong.m4a\n")
    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        container.mux(video.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        container.mux(video.encode(None))
    scan.scan(tmp_path, tmp_path / "music.parquet", workers=1)
    with (tmp_path / "music.skipped.csv").open() as lines:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(lines)}
    assert [track.path for track in open_sound(tmp_path / "music.parquet")] == ["song.m4a"]
    assert set(reasons) == {"junk.m4a", "cut.m4a", "list.m4a", "silent.mp4"}


def test_without_pyav_such_files_are_counted_and_the_cure_is_named(
    tmp_path: Path, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (read, scan):
        monkeypatch.setattr(module, "SUFFIXES", read.WRITTEN)
    monkeypatch.setattr("groundbass.data.audio.files.SUFFIXES", read.WRITTEN)
    monkeypatch.setattr(av_file, "is_installed", lambda: False)
    (tmp_path / "song.m4a").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"groundbass\[av\]"):
        read.read(tmp_path / "song.m4a")
    with pytest.raises(ValueError, match=r"groundbass\[av\].*\.m4a"):
        scan.scan(tmp_path, tmp_path / "music.parquet")
    read.write(tmp_path / "song.wav", sweep(seconds=1.0), 22_050)
    scan.scan(tmp_path, tmp_path / "music.parquet", workers=1)
    assert 'not read: 1 .m4a (they need PyAV: pip install "groundbass[av]")' in capsys.readouterr().out
