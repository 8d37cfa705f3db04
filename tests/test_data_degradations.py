"""Degradations by physics: what was asked for is measured in the sound."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from torch import Tensor

from groundbass.cli import run
from groundbass.data.audio import read as audio
from groundbass.data.augment import responses
from groundbass.data.augment.degradations import KINDS, PRESETS, Degrade, chain_of, find_chain, first_order
from groundbass.data.augment.label_times import TimeMap, moved_rows
from groundbass.data.labels.folder import read_folder
from groundbass.data.track import Manifest, Track

RATE = 22050
SEEDS = torch.arange(3)
NEEDS: dict[str, dict[str, Any]] = {
    "mix": {"path": "synth:dust"}, "impulse_response": {"path": "synth:hall"}, "clipping": {"percent_samples": 2},
    "delay": {"samples": 500},
}  # fmt: skip


def through(sound: Tensor, name: str, **values: Any) -> Tensor:
    return chain_of([{"name": name, **values}])(sound, RATE, SEEDS[: len(sound)])


def tone(hertz: float, seconds: float = 2.0, level: float = 0.3, rate: int = RATE) -> Tensor:
    return level * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)[None]


def music(seconds: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(3)
    return 0.1 * torch.randn(3, round(seconds * RATE), generator=draw)


def rms(sound: Tensor) -> float:
    return float(sound.double().square().mean().sqrt())


def decibels(ratio: float) -> float:
    return 20 * math.log10(ratio)


def frequency_of(sound: Tensor, rate: int = RATE) -> float:
    """Hz of the strongest partial, by a parabola through its peak."""
    x = sound.flatten().double().numpy()
    spectrum = np.log(np.abs(np.fft.rfft(x * np.hanning(len(x)), 8 * len(x))) + 1e-12)
    k = int(spectrum[1:-1].argmax()) + 1
    a, b, c = spectrum[k - 1 : k + 2]
    return (k + (a - c) / (2 * (a - 2 * b + c))) * rate / (8 * len(x))


def cents(found: float, expected: float) -> float:
    return 1200 * math.log2(found / expected)


@pytest.mark.parametrize("color, slope", [("white", 0), ("pink", -3), ("brown", -6), ("blue", 3), ("violet", 6)])
def test_noise_has_its_level_and_its_slope(color: str, slope: float) -> None:
    sound = tone(440, 6)
    noise = through(sound, "noise", snr=17, color=color) - sound
    assert decibels(rms(sound) / rms(noise)) == pytest.approx(17, abs=0.01)
    power = np.abs(np.fft.rfft(noise[0].numpy())) ** 2
    hertz = np.fft.rfftfreq(noise.shape[1], 1 / RATE)
    octaves = [10 * np.log10(power[(hertz >= low) & (hertz < 2 * low)].mean()) for low in (200, 400, 800, 1600, 3200)]
    assert np.polyfit(range(5), octaves, 1)[0] == pytest.approx(slope, abs=0.5)
    kurtosis = float(((noise - noise.mean()) / noise.std()).pow(4).mean())
    assert kurtosis == pytest.approx(3, abs=0.5)  # as of Gaussian noise


def test_mix_has_its_level_and_loops(tmp_path: Path) -> None:
    audio.write(tmp_path / "other.wav", tone(1000, 0.25, rate=44100)[0].numpy(), 44100)  # another rate
    sound = tone(440)
    other = through(sound, "mix", path=str(tmp_path / "other.wav"), snr=6) - sound
    assert decibels(rms(sound) / rms(other)) == pytest.approx(6, abs=0.01)
    assert abs(cents(frequency_of(other[:, RATE:]), 1000)) < 5
    silence = torch.zeros(1, 1000)
    for name in ("noise", "mix"):
        assert not through(silence, name, **NEEDS.get(name, {})).any()


@pytest.mark.parametrize("name, sides", [("low_pass", (1, 2)), ("high_pass", (1, 0.5))])
def test_filters_are_3_db_down_at_the_cutoff_and_6_db_per_octave(name: str, sides: tuple[float, float]) -> None:
    losses = [decibels(rms(through(tone(f), name, cutoff=1000)) / rms(tone(f))) for f in (1000 * s for s in sides)]
    assert losses[0] == pytest.approx(-3.01, abs=0.05)
    assert losses[1] == pytest.approx(-10 * math.log10(5), abs=0.3)
    far = [decibels(rms(through(tone(f), name, cutoff=1000)) / rms(tone(f))) for f in (125, 4000)]
    assert min(far) < -11 and max(far) > -0.5


def test_filters_are_scipys() -> None:
    from scipy import signal

    sound = music()
    pole = float(first_order(torch.tensor([700.0]), RATE)[0, 0])
    expected = signal.lfilter([(1 - pole) / 2] * 2, [1, -pole], sound.double().numpy())
    assert np.allclose(through(sound, "low_pass", cutoff=700).numpy(), expected, atol=2e-6)


def test_the_equalizer_has_its_gain_at_its_frequency_and_half_of_it_at_its_edges() -> None:
    for gain in (-9.0, 6.0):
        for hertz, share in ((1000, 1.0), (1000 * 2**0.5, 0.5), (1000 * 2**-0.5, 0.5), (60, 0.0)):
            found = decibels(rms(through(tone(hertz), "equalizer", frequency=1000, gain=gain)) / rms(tone(hertz)))
            assert found == pytest.approx(gain * share, abs=0.25), hertz


def test_gain_and_normalize() -> None:
    sound = music()
    assert torch.allclose(through(sound, "gain", volume=6), sound * 10 ** (6 / 20))
    assert torch.allclose(through(sound, "normalize").abs().amax(1), torch.full((3,), 10**-0.005), atol=1e-6)
    assert not through(torch.zeros(1, 50), "normalize").any()


def test_clipping_cuts_as_many_samples_as_asked_and_keeps_the_peak() -> None:
    sound = music()
    clipped = through(sound, "clipping", percent_samples=5)
    top = clipped.abs().amax(1, keepdim=True)
    assert torch.allclose(top, sound.abs().amax(1, keepdim=True))
    assert ((clipped.abs() > top * (1 - 1e-6)).sum(1) - round(0.05 * sound.shape[1])).abs().max() <= 1
    assert int((through(sound, "clipping", samples=7).abs() >= top * (1 - 1e-6)).sum()) == 21


def test_compression_follows_its_ratio_above_the_threshold() -> None:
    for level, expected in ((0.5, -20 + (decibels(0.5) - 3.01 + 20) / 4), (0.05, decibels(0.05) - 3.01)):
        found = through(tone(1000, level=level), "dynamic_range_compression", threshold=-20, ratio=4)
        assert decibels(rms(found[:, RATE:])) == pytest.approx(expected, abs=0.1)
    loud = through(
        torch.cat([tone(1000, level=0.01), tone(1000, level=0.5)], 1), "dynamic_range_compression", attack=200
    )
    early, late = rms(loud[:, 2 * RATE + 441 : 2 * RATE + 882]), rms(loud[:, -RATE // 2 :])
    assert decibels(early / late) > 6  # before the attack's time is over


def test_harmonic_distortion_adds_odd_harmonics_only() -> None:
    bent = through(tone(500), "harmonic_distortion", num_passes=2)
    spectrum = np.abs(np.fft.rfft(bent[0].numpy() * np.hanning(bent.shape[1])))
    level = [20 * np.log10(spectrum[round(500 * k * 2)] / spectrum[1000]) for k in (2, 3, 4)]
    assert level[1] > -25 and max(level[0], level[2]) < -60
    assert float(bent.abs().max()) == pytest.approx(0.3, rel=1e-3)


def test_mp3_loses_the_treble_but_no_time() -> None:
    sound = music(2.0)
    shares = []
    for bitrate in (32, 160):  # of the smaller the decoder doesn't know the delay
        coded = through(sound, "mp3", bitrate=bitrate)
        spectra = [np.fft.rfft(one[0].numpy(), 2 * one.shape[1]) for one in (coded, sound)]
        assert coded.shape == sound.shape and np.fft.irfft(spectra[0] * spectra[1].conj()).argmax() == 0
        power = np.abs(spectra[0]) ** 2
        hertz = np.fft.rfftfreq(2 * coded.shape[1], 1 / RATE)
        shares.append(power[hertz > 8000].mean() / power[(hertz > 500) & (hertz < 3000)].mean())
    assert shares[0] < 0.1 and shares[1] > 0.5


def test_resampling_loses_what_lies_above_half_the_rate_and_aliasing_folds_it() -> None:
    assert rms(through(tone(3500), "resample", rate=6000)[:, 2000:-2000]) < 1e-3 * rms(tone(3500))
    kept = through(tone(1000), "resample", rate=6000)
    assert torch.allclose(kept[:, 2000:-2000], tone(1000)[:, 2000:-2000], atol=2e-3)
    assert through(tone(3500), "resample", rate=RATE).equal(tone(3500))
    assert abs(cents(frequency_of(through(tone(5000), "aliasing", dest_frequency=8000)), 3000)) < 5  # 8000 - 5000


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_moves_pitch_and_time_by_the_factor(speed: float) -> None:
    found = through(tone(600), "speedup", speed=speed)
    assert abs(cents(frequency_of(found), 600 * speed)) < 1
    assert found.shape[1] == math.ceil(2 * RATE / speed)
    assert rms(found[:, 1000:-1000]) == pytest.approx(rms(tone(600)), rel=0.01)


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_a_stretch_moves_onsets_by_the_factor_and_keeps_the_pitch(factor: float) -> None:
    time = torch.arange(4 * RATE) / RATE
    sound = torch.zeros(4 * RATE)
    onsets = [0.5, 1.3, 2.1, 2.9]
    for start in onsets:
        later = time >= start
        sound = torch.where(later & (time < start + 0.5), 0.5 * torch.sin(2 * math.pi * 523.25 * time), sound)
    chain = chain_of([{"name": "time_stretch", "factor": factor}])
    found = chain(sound[None], RATE, SEEDS[:1])[0]
    assert abs(len(found) - len(sound) / factor) <= 1
    envelope = torch.nn.functional.avg_pool1d(found.abs()[None, None], 221, 1)[0, 0]
    rises = ((envelope[1:] > 0.1) & (envelope[:-1] <= 0.1)).nonzero().flatten() / RATE
    rises = rises[torch.cat([torch.tensor([True]), rises.diff() > 0.2])]
    expected = chain.moved(np.array(onsets), len(sound), RATE, 0)
    assert np.allclose(expected, np.array(onsets) / factor)
    assert len(rises) == 4 and np.abs(rises.numpy() - expected).max() < 0.035
    assert abs(cents(frequency_of(through(tone(523.25, 3), "time_stretch", factor=factor)[:, 5000:-9000]), 523.25)) < 10


def test_a_pitch_shift_goes_up_and_keeps_time() -> None:
    found = through(tone(440), "pitch_shift", octaves=0.25)
    assert found.shape == tone(440).shape and abs(cents(frequency_of(found[:, 4000:-4000]), 440 * 2**0.25)) < 3


def test_wow_swings_the_speed_by_its_intensity() -> None:
    chain = chain_of([{"name": "wow_flutter", "intensity": 2, "frequency": 2, "upsampling": 5}])
    found = chain(tone(1000, 4), RATE, SEEDS[:1])[0].double().numpy()
    from scipy.signal import hilbert

    hertz = np.diff(np.unwrap(np.angle(hilbert(found)))) * RATE / (2 * np.pi)
    hertz = np.convolve(hertz, np.ones(441) / 441, "same")[2000:-2000]
    assert (hertz.max() / 1000, hertz.min() / 1000) == (pytest.approx(1.02, abs=1e-3), pytest.approx(0.98, abs=1e-3))
    swing = np.abs(np.fft.rfft(hertz - hertz.mean(), 16 * len(hertz)))
    assert swing.argmax() * RATE / (16 * len(hertz)) == pytest.approx(2, abs=0.1)
    times = np.linspace(0.1, 3.5, 50)
    moved = chain.moved(times, 4 * RATE, RATE, 0)
    depth = 0.02 / (2 * np.pi * 2)
    assert np.allclose(moved + depth * np.sin(2 * np.pi * 2 * moved), times, atol=1e-9)


def test_a_room_keeps_the_direct_sound_in_time_and_decays_as_it_says() -> None:
    click = torch.zeros(1, 3 * RATE)
    click[0, 500] = 1
    wet = through(click, "impulse_response", path="synth:hall")[0]
    assert int(wet.abs().argmax()) == 500 and rms(wet) == pytest.approx(rms(click), rel=1e-5)
    energy = wet[500:].double().square().flip(0).cumsum(0).flip(0)  # Schroeder's integral
    curve = 10 * torch.log10(energy / energy[0])
    late, early = int((curve < -25).nonzero()[0]), int((curve < -10).nonzero()[0])
    assert (late - early) / RATE * 60 / 15 == pytest.approx(1.5, abs=0.6)


def test_devices_have_their_curve_at_any_rate() -> None:
    for rate in (16000, 44100):
        spectrum = np.abs(np.fft.rfft(responses.sound_of("synth:phone_speaker", rate).astype(float), 16384))
        level = {f: 20 * np.log10(spectrum[round(f * 16384 / rate)]) for f in (100, 1000, 2500)}
        assert level[1000] == pytest.approx(0, abs=0.5) and level[2500] == pytest.approx(3, abs=0.5)
        assert level[100] < -40


def test_a_response_at_another_rate_is_resampled(tmp_path: Path) -> None:
    response = np.zeros(4410)
    response[0], response[4409] = 1.0, 0.5  # an echo after 0.1 s at 44,100 Hz
    sf.write(tmp_path / "echo.wav", response, 44100, subtype="FLOAT")
    click = torch.zeros(1, 5000)
    click[0, 100] = 1
    wet = through(click, "impulse_response", path=str(tmp_path / "echo.wav"))[0]
    assert int(wet.abs().argmax()) == 100 and abs(int(wet[1000:].abs().argmax()) + 1000 - 100 - 2205) <= 1


@pytest.mark.parametrize("name", KINDS)
def test_an_item_depends_on_its_seed_alone_and_nothing_is_written_over(name: str) -> None:
    sound = music(0.5)
    kept = sound.clone()
    found = through(sound, name, **NEEDS.get(name, {}))
    assert torch.isfinite(found).all() and sound.equal(kept) and found.dtype == torch.float32
    alone = chain_of([{"name": name, **NEEDS.get(name, {})}])(sound[1:2], RATE, SEEDS[1:2])
    assert torch.allclose(found[1], alone[0], atol=2e-5)


def test_a_range_draws_for_each_item() -> None:
    chain = chain_of([{"name": "gain", "volume": [-20, 0]}, {"name": "gain", "volume": [-20, 0]}])
    sound = torch.ones(1000, 4)
    level = 20 * chain(sound, RATE, torch.arange(1000))[:, 0].log10()
    assert (
        -40 <= float(level.min()) < -30
        and -10 < float(level.max()) <= 0
        and float(level.mean()) == pytest.approx(-20, abs=1)
    )
    assert float(level.std()) == pytest.approx(20 / math.sqrt(12) * math.sqrt(2), abs=0.5)  # two draws, not one twice
    slow = chain_of([{"name": "speedup", "speed": [0.8, 1.2]}])
    longest = slow(music(), RATE, SEEDS)
    ends = [float(slow.moved(np.array([1.0]), RATE, RATE, seed)[0]) for seed in range(3)]
    assert len(set(ends)) == 3 and longest.shape[1] == pytest.approx(max(ends) * RATE, abs=2)


def test_degrade_is_a_part_of_recipes() -> None:
    part = Degrade(RATE, list(PRESETS), p=0.5)
    sound = torch.cat([music()] * 4)
    found = part(sound, torch.arange(12))
    changed = (found != sound).any(1)
    assert found.shape == sound.shape and 0 < int(changed.sum()) < 12
    with pytest.raises(ValueError, match="no chain to degrade with"):
        Degrade(RATE, [])


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"name": "noise"}, "A chain is a list"),
        ([{"name": "nois"}], "no degradation 'nois'; nearest: noise"),
        ([{"name": "noise", "srn": 3}], "noise has no 'srn'; it has snr"),
        ([{"name": "noise", "snr": 300}], "snr is 300; give a number from -60 to 120"),
        ([{"name": "noise", "snr": [30, 10]}], r"snr is \[30, 10\]"),
        ([{"name": "noise", "snr": "loud"}], "snr is 'loud'"),
        ([{"name": "noise", "color": "green"}], "color is 'green'; choose white"),
        ([{"name": "speedup", "speed": 0}], "speed is 0; give a number from 0.25 to 4"),
        ([{"name": "time_stretch", "factor": -1}], "factor is -1"),
        ([{"name": "clipping"}], "either samples or percent_samples"),
        ([{"name": "clipping", "samples": 3, "percent_samples": 3}], "not both"),
        ([{"name": "mix"}], "there is no path"),
        ([{"name": "delay", "samples": [1, 5]}], "one whole number"),
        ([{"name": "trim_millis", "amount": [1, 5]}], "amount is a range"),
    ],
)
def test_a_chain_that_makes_no_sense_is_refused(entries: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        chain_of(entries)


def test_bad_recordings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sf.write(tmp_path / "silent.wav", np.zeros(100), RATE)
    with pytest.raises(ValueError, match=r"silent.wav is silent"):
        through(music(), "impulse_response", path=str(tmp_path / "silent.wav"))
    with pytest.raises(ValueError, match="nearest: synth:hall"):
        through(music(), "impulse_response", path="synth:hal")
    with pytest.raises(ValueError, match="nothing would be left"):
        through(music(), "trim_millis", amount=5000)
    monkeypatch.setattr(sf, "available_formats", lambda: {"WAV": ""})
    with pytest.raises(ValueError, match="no MP3 encoder"):
        through(music(), "mp3")
    with pytest.raises(ValueError, match="no preset 'radoi'; nearest: radio"):
        find_chain("radoi")
    (tmp_path / "broken.json").write_text("[{")
    with pytest.raises(ValueError, match="is no JSON"):
        find_chain(str(tmp_path / "broken.json"))


def test_the_command_moves_labels_with_the_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound = np.zeros(4 * RATE, np.float32)
    beats = [0.5, 1.0, 1.5, 2.0, 3.0]
    for beat in beats:
        sound[round(beat * RATE)] = 0.9
    (tmp_path / "in").mkdir()
    audio.write(tmp_path / "in/a.wav", sound, RATE)
    audio.write(tmp_path / "in/b.wav", np.zeros(RATE, np.float32), RATE)
    chords = [{"start": 0.0, "end": 1.4, "label": "C"}, {"start": 1.4, "end": 1.6, "label": "D"}]
    labels = {"beats": beats, "chords": chords, "tempo": 120.0, "genre": "x"}
    about = [("a.wav", 4 * RATE, labels), ("b.wav", RATE, {"genre": "y"})]
    tracks = [Track(name, name, n, RATE, 1, name, "train", "me", held) for name, n, held in about]
    Manifest.from_tracks(tracks, tmp_path / "in").write(tmp_path / "in/manifest.parquet")
    steps = [
        {"name": "delay", "n_samples": RATE // 2}, {"name": "speedup", "speed": 1.25},
        {"name": "trim_millis", "offset": 1500, "amount": 200}, {"name": "noise", "snr": 60},
        {"name": "gain", "volume": 30},
    ]  # fmt: skip
    (tmp_path / "chain.json").write_text(json.dumps(steps))
    words = ["data", "degrade", str(tmp_path / "in"), str(tmp_path / "out"), "--chain", str(tmp_path / "chain.json")]
    assert run([*words, "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 moments or spans lay in parts that were cut away" in said and "1 recording(s) are silent" in said
    assert "1 recording(s) went beyond full scale" in said and "moves the pitch, but chords" in said
    one = Manifest.open(tmp_path / "out/manifest.parquet")[0]
    assert one.labels["beats"] == pytest.approx([0.8, 1.2, 1.8, 2.6]) and one.labels["tempo"] == pytest.approx(150)
    assert one.labels["genre"] == "x" and (one.split, one.artist) == ("train", "me")
    assert one.labels["chords"] == [{"start": pytest.approx(0.4), "end": pytest.approx(1.5, abs=1e-4), "label": "C"}]
    heard = audio.read(tmp_path / "out/a.wav")
    assert one.samples == len(heard) == pytest.approx((4.5 / 1.25 - 0.2) * RATE, abs=2)
    for beat in one.labels["beats"]:
        near = round(beat * RATE)
        assert np.abs(heard[near - 3 : near + 4]).max() > 0.9
    with pytest.raises(FileExistsError, match="is in use"):
        run(words)


def test_the_command_moves_annotation_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a second of delay, then 1.25 times as fast, then 1.0 to 1.2 s cut out: t -> (t + 0.5) / 1.25, by hand."""
    home = tmp_path / "in"
    for number, name in enumerate(("a.wav", "a.flac", "sub/b.wav", "c.wav")):
        audio.write(home / name, tone(300 + 50 * number)[0].numpy(), RATE)
    audio.write(home / "d.wav", np.stack([tone(600)[0].numpy()] * 2), RATE)
    (home / "ann").mkdir()
    (home / "ann/a.beats").write_text("0.125\t4\n0.5\t1\n0.875 2\n1.5\t3\n")
    (home / "a.lab").write_text("0 0.25 N\n0.25 0.875 C:maj\n0.875 0.95 G:7\n1.5 2.0 a long name\n")
    (home / "bad.beats").write_text("0.5\nsoon\n")
    (home / "sub/b.lab").write_text("0.0\t2.0\tverse\n")
    rows = ["a.wav,ann/a.beats,x", "a.flac,ann/a.beats,y", "sub/b.wav,,x", "c.wav,bad.beats,x", "d.wav,no.beats,y"]
    (home / "labels.csv").write_text("\n".join(["path,rhythm,genre", *rows]) + "\n")
    steps = [
        {"name": "delay", "n_samples": RATE // 2}, {"name": "speedup", "speed": 1.25},
        {"name": "trim_millis", "offset": 1000, "amount": 200},
    ]  # fmt: skip
    (tmp_path / "chain.json").write_text(json.dumps(steps))
    out = tmp_path / "out"
    assert run(["data", "degrade", f"folder:{home}", str(out), "--chain", str(tmp_path / "chain.json")]) == 0
    said = capsys.readouterr().out
    assert "4 moments or spans lay in parts that were cut away" in said  # 0.875 and G:7, of both a's
    assert "2 annotation file(s) can't be read, and are no labels any more. Line 2 of" in said
    assert "1 recording(s) had several channels, which were mixed to one" in said
    labels = {track.path: track.labels for track in Manifest.open(out / "manifest.parquet")}
    assert labels["a.wav"] == {"rhythm": "a.wav.beats", "genre": "x", "lab": "a.wav.lab"}
    assert labels["c.wav"] == {"genre": "x"} and labels["sub/b.wav"] == {"genre": "x", "lab": "sub/b.lab"}
    assert (out / "a.wav.beats").read_text() == "0.500000\t4\n0.800000\t1\n1.400000\t3\n"
    spans = "0.400000\t0.600000\tN\n0.600000\t1.000000\tC:maj\n1.400000\t1.800000\ta long name\n"
    assert (out / "a.wav.lab").read_text() == (out / "a.flac.lab").read_text() == spans
    folder = read_folder(out)
    at = {track.path: row for row, track in enumerate(folder.manifest)}
    assert folder.columns["rhythm"][at["a.flac"]] == [[0.5, 4], [0.8, 1], [1.4, 3]]
    assert folder.columns["lab"][at["sub/b.wav"]] == [{"start": 0.4, "end": 1.8, "label": "verse"}]
    assert not [file for file in out.rglob("*") if file.name.startswith(".")]


def test_annotation_files_of_several_labels_keep_their_names(tmp_path: Path) -> None:
    """Two labels of one file name one file again; two files of one ending have the label's name, but for its own."""
    home, out = tmp_path / "in", tmp_path / "out"
    audio.write(home / "a.wav", tone(300)[0].numpy(), RATE)
    for name, text in {"a.lab": "0 1 C\n", "on.beats": "0.25\n", "b.beats": "0.5\n"}.items():
        (home / name).write_text(text)
    (home / "labels.csv").write_text("path,chords,onset s,beats\na.wav,a.lab,on.beats,b.beats\n")
    (tmp_path / "chain.json").write_text('[{"name": "delay", "samples": 22050}]')
    assert run(["data", "degrade", str(home), str(out), "--chain", str(tmp_path / "chain.json")]) == 0
    (track,) = Manifest.open(out / "manifest.parquet")
    named = {"lab": "a.lab", "chords": "a.lab", "beats": "a.beats", "onset s": "a.onset_s.beats"}
    assert track.labels == named
    texts = {"a.lab": "1.000000\t2.000000\tC\n", "a.beats": "1.500000\n", "a.onset_s.beats": "1.250000\n"}
    assert {file.name: file.read_text() for file in out.iterdir() if file.suffix in (".lab", ".beats")} == texts


def test_one_file_takes_its_annotations_along(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", tone(300)[0].numpy(), RATE)
    (tmp_path / "a.beats").write_text("0.5\n1.0\n")
    (tmp_path / "chain.json").write_text(json.dumps([{"name": "delay", "samples": RATE}]))
    words = ["data", "degrade", str(tmp_path / "a.wav"), str(tmp_path / "a.flac"), "--chain"]
    words.append(str(tmp_path / "chain.json"))
    assert run(words) == 0
    assert (tmp_path / "a.flac.beats").read_text() == "1.500000\n2.000000\n"
    assert (tmp_path / "a.beats").read_text() == "0.5\n1.0\n"
    (tmp_path / "a.flac").unlink()
    with pytest.raises(FileExistsError, match=r"a.flac.beats is in use"):
        run(words)


def test_a_cut_span_has_its_exact_edges() -> None:
    chain = chain_of([{"name": "trim_millis", "amount": 500}])
    where = TimeMap(chain, 200 * RATE, RATE, 0)
    spans = [
        {"start": 0.0, "end": 200.0}, {"start": 0.1, "end": 0.5}, {"start": 0.2, "end": 150.0},
        {"start": 0.3, "end": 0.3}, {"start": 7.0, "end": 7.0},
    ]  # fmt: skip
    expected = [(0.0, 199.5), (0.0, 149.5), (6.5, 6.5)]
    assert [(span["start"], span["end"]) for span in moved_rows(spans, where)] == expected
    twice = chain_of([{"name": "trim_millis", "offset": 1000}, {"name": "trim_millis", "offset": -1, "amount": 250}])
    where = TimeMap(twice, 2 * RATE, RATE, 0)
    (span,) = moved_rows([{"start": 1.05, "end": 2.0}], where)
    assert (span["start"], span["end"]) == (pytest.approx(1.0), pytest.approx(1.65, abs=1e-4))


def test_a_trim_and_a_delay_move_an_impulse_by_so_many_samples() -> None:
    def place(at: int, name: str, **values: Any) -> tuple[int, int | None]:
        """Length, and where the one sample that isn't 0 is now."""
        click = torch.zeros(1, RATE)
        click[0, at] = 1
        found = through(click, name, **values)[0]
        (where,) = found.nonzero(as_tuple=True)
        chain = chain_of([{"name": name, **values}])
        (moved,) = chain.moved(np.array([at / RATE]), RATE, RATE, 0)
        assert len(where) == (0 if np.isnan(moved) else 1)
        if not len(where):
            return len(found), None
        assert round(moved * RATE) == int(where[0])
        return len(found), int(where[0])

    assert place(0, "delay", samples=123) == (RATE + 123, 123)
    assert place(1000, "delay", samples=1) == (RATE + 1, 1001)
    cut = {"amount": 100, "offset": 200}  # 2,205 samples from 4,410 on
    edges = {4409: 4409, 4410: None, 6614: None, 6615: 4410, 20_000: 17_795}
    for at, expected in edges.items():
        assert place(at, "trim_millis", **cut) == (RATE - 2205, expected)
    for at, expected in {RATE - 2206: RATE - 2206, RATE - 2205: None, RATE - 1: None}.items():
        assert place(at, "trim_millis", offset=-1) == (RATE - 2205, expected)


def test_the_command_takes_one_file(tmp_path: Path) -> None:
    audio.write(tmp_path / "a.wav", tone(440)[0].numpy(), RATE)
    assert run(["data", "degrade", str(tmp_path / "a.wav"), str(tmp_path / "b.flac"), "--chain", "vinyl"]) == 0
    heard = audio.read(tmp_path / "b.flac")
    assert len(heard) == 2 * RATE and np.abs(heard).max() == pytest.approx(10**-0.005, abs=1e-3)
    with pytest.raises(ValueError, match="no suffix that can be written"):
        run(["data", "degrade", str(tmp_path / "a.wav"), str(tmp_path / "b.xyz"), "--chain", "vinyl"])
    with pytest.raises(FileNotFoundError, match="There is no"):
        run(["data", "degrade", str(tmp_path / "no.wav"), str(tmp_path / "b.wav"), "--chain", "vinyl"])
