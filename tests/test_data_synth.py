"""The embedded corpus by physics: labels against what is measured on the sound, and against mir_eval's notation."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import librosa
import mir_eval
import numpy as np
import pytest
from scipy.signal import hilbert

from groundbass.data.audio import read as audio
from groundbass.data.synth import labels, plan, render, score, technique, theory
from groundbass.data.synth.corpus import make_clip, synth
from groundbass.data.synth.plan import SPLITS, Clip, rng_of
from groundbass.data.synth.soundfont import DRUM_BANK, SAMPLE_RATE, Sampler, soundfont_path
from groundbass.data.synth.styles import STYLE_NAMES, STYLES
from groundbass.data.synth.variety import free_band
from groundbass.data.track import Manifest, Track

Corpus = tuple[Manifest, list[Track]]
HOURS, SEED, CLIP_SECONDS = 0.06, 5, 6.0
CHROMA_RATE = SAMPLE_RATE / 2048
MAJOR_PROFILE = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])  # Krumhansl
MINOR_PROFILE = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])


@pytest.fixture(scope="session")
def sampler() -> Sampler:
    return Sampler()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """About 20 clips of each part, made in one process."""
    folder = tmp_path_factory.mktemp("synth") / "corpus"
    synth(folder, hours=HOURS, seed=SEED, workers=1, clip_seconds=CLIP_SECONDS)
    manifest = Manifest.open(folder / "manifest.parquet")
    return manifest, list(manifest)


def of_part(corpus: Corpus, part: str) -> list[Track]:
    return [track for track in corpus[1] if track.labels["part"] == part]


@pytest.fixture(scope="session")
def chromagrams(corpus: Corpus) -> dict[str, np.ndarray[Any, Any]]:
    """[12, frames] of every music clip, CHROMA_RATE frames a second."""
    return {
        track.key: librosa.feature.chroma_stft(
            y=sound(corpus, track), sr=SAMPLE_RATE, n_fft=8192, hop_length=2048, tuning=0.0
        )
        for track in of_part(corpus, "music")
    }


def sound(corpus: Corpus, track: Track) -> np.ndarray[Any, Any]:
    return audio.read(corpus[0].path_of(track))


def pitch_curve(wave: np.ndarray[Any, Any], key: float) -> np.ndarray[Any, Any]:
    """Cents off a MIDI key, a value every 5 ms, NaN where the sound is weak."""
    frequency = 440.0 * 2.0 ** ((key - 69.0) / 12.0)
    length = 2048 if frequency > 140.0 else 4096
    found = librosa.yin(
        wave, fmin=max(20.0, frequency / 2.3), fmax=min(11_000.0, frequency * 2.3), sr=SAMPLE_RATE, frame_length=length,
        hop_length=120, center=True,
    )  # fmt: skip
    level = librosa.feature.rms(y=wave, frame_length=length, hop_length=120)[0]
    cents = 1200.0 * np.log2(found / frequency)
    cents[level[: len(cents)] < 0.1 * level.max()] = np.nan
    return np.asarray(cents)


def one_note(program: int, low: int = 40, high: int = 90) -> technique.Musician:
    dry = render.Room(np.array([1.0], dtype=np.float32), 0)
    return technique.Musician(technique.Instrument("any", program, low, high), 0.0, dry)


def phrase(sampler: Sampler, program: int, key: int, name: str, seed: int) -> tuple[np.ndarray[Any, Any], float]:
    made = technique.Phrase(sampler, one_note(program), key, 100, np.random.default_rng(seed))
    return made.play(name), made.rate


# the sampler


@pytest.mark.parametrize("program", [0, 24, 33, 40, 42, 57, 71, 74])
def test_a_sampled_note_has_its_pitch(sampler: Sampler, program: int) -> None:
    for key in (48, 60, 67) if program != 74 else (67, 79):
        cents = pitch_curve(sampler.play(program, key, 100, 0.8)[2400:16_000], key)
        assert abs(float(np.nanmedian(cents))) < 20.0


@pytest.mark.parametrize("name", list(technique.FAMILIES))
def test_the_ends_of_every_instruments_range_are_in_tune(sampler: Sampler, name: str) -> None:
    for instrument in technique.FAMILIES[name]:
        for key in (instrument.low, (instrument.low + instrument.high) // 2, instrument.high):
            wave = sampler.play(instrument.program, key, 100, 0.7)
            cents = pitch_curve(wave[1200:14_000], key)
            assert abs(float(np.nanmedian(cents))) < 50.0, (instrument, key)


@pytest.mark.parametrize(
    ("program", "bank", "key"), [(0, 0, 60), (6, 0, 60), (24, 0, 60), (12, 0, 72), (0, DRUM_BANK, 38)]
)
def test_a_note_sounds_at_its_time(sampler: Sampler, program: int, bank: int, key: int) -> None:
    out = np.zeros(2 * SAMPLE_RATE, dtype=np.float32)
    render.add(out, sampler.play(program, key, 110, 0.3, bank=bank), 0.7345)
    room = render.draw_room(np.random.default_rng(3))
    heard = np.abs(render.through(room, out))
    onset = int(np.argmax(heard > 0.2 * heard.max())) / SAMPLE_RATE
    assert abs(onset - 0.7345) < 0.010


def test_velocity_and_release(sampler: Sampler) -> None:
    loud, soft = sampler.play(0, 60, 120, 0.5), sampler.play(0, 60, 40, 0.5)
    assert 15.0 < 20.0 * np.log10(np.abs(loud).max() / np.abs(soft).max()) < 25.0  # 40 log10(120 / 40) = 19 dB
    assert len(loud) > 0.51 * SAMPLE_RATE
    assert abs(loud[-1]) < 1e-6


def test_a_looped_note_lasts_as_long_as_it_is_held(sampler: Sampler) -> None:
    wave = sampler.play(20, 60, 100, 4.0)
    early, late = wave[24_000:36_000], wave[80_000:92_000]
    assert abs(render.loudness(early) - render.loudness(late)) < 3.0


# the corpus as a whole


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes_for_one_and_two_workers(tmp_path: Path) -> None:
    for workers in (1, 2):
        synth(tmp_path / str(workers), hours=0.01, seed=3, workers=workers)
    synth(tmp_path / "other", hours=0.01, seed=4, workers=1)
    one, two, other = (digest(tmp_path / name) for name in ("1", "2", "other"))
    assert one == two
    assert "manifest.parquet" in one
    shared = [name for name in one if name.endswith(".flac") and name in other]
    assert len(shared) > 4 and all(one[name] != other[name] for name in shared)


def test_a_finished_corpus_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "corpus"
    synth(out, hours=0.005, seed=1, workers=1)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    synth(out, hours=0.005, seed=1, workers=1)
    assert "left as it is" in capsys.readouterr().err
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with pytest.raises(FileExistsError, match="another corpus"):
        synth(out, hours=0.005, seed=2, workers=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="other things"):
        synth(tmp_path / "full", hours=0.005)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r'pip install "groundbass\[synth\]"'):
        synth(tmp_path / "new", hours=0.005)


def test_a_stopped_run_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("groundbass.data.track.Manifest.write", fail)
        with pytest.raises(OSError, match="No space"):
            synth(tmp_path / "corpus", hours=0.005, workers=1)
    assert not (tmp_path / "corpus").exists()
    synth(tmp_path / "corpus", hours=0.005, workers=1)
    assert len(Manifest.open(tmp_path / "corpus" / "manifest.parquet")) == 3
    assert os.listdir(tmp_path) == ["corpus"]


@pytest.mark.parametrize(
    "wrong", [{"hours": 0.0}, {"hours": -1.0}, {"seed": -1}, {"workers": 0}, {"clip_seconds": 1.0}], ids=str
)
def test_impossible_requests_end_in_a_sentence(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        synth(tmp_path / "x", **wrong)
    assert not list(tmp_path.iterdir())


def test_every_clip_is_whole_and_sounds(corpus: Corpus) -> None:
    levels = []
    for track in corpus[1]:
        wave = sound(corpus, track)
        assert len(wave) == track.samples and track.sample_rate == SAMPLE_RATE
        assert np.abs(wave).max() < 0.98
        levels.append(render.loudness(wave))
        assert track.hash == hashlib.blake2b(corpus[0].path_of(track).read_bytes()).hexdigest()
    assert min(levels) > -40.0
    assert np.std(levels) > 2.0


def test_every_part_has_its_labels(corpus: Corpus) -> None:
    music = {"part", "style", "key", "chords", "tempo", "beats", "downbeats", "arousal", "valence", "tags"}
    for part, names in (
        ("music", music),
        ("note", {"part", "instrument", "pitch"}),
        ("technique", {"part", "instrument", "pitch", "technique", "rate"}),
    ):
        tracks = of_part(corpus, part)
        assert tracks
        assert all(set(track.labels) == names and track.split in SPLITS and track.artist for track in tracks)


def test_splits_are_disjoint_by_band_and_have_every_class() -> None:
    clips = plan.plan_clips(1.5, seed=0)
    split_of: dict[str, str] = {}
    for clip in clips:
        assert split_of.setdefault(clip.band, clip.split) == clip.split
    for split in SPLITS:
        for part, classes in (
            ("music", STYLE_NAMES),
            ("note", technique.FAMILIES),
            ("technique", technique.TECHNIQUES),
        ):
            here = [clip for clip in clips if clip.part == part and clip.split == split]
            found = Counter(clip.kind for clip in here)
            assert set(found) == set(classes)
            assert max(found.values()) - min(found.values()) <= 1
            if part == "music":
                keys = Counter(clip.choice for clip in here)
                assert len(keys) == 24
                assert max(keys.values()) - min(keys.values()) <= 1
    trained = {clip.instrument for clip in clips if clip.part == "note" and clip.split != "test"}
    tested = {clip.instrument for clip in clips if clip.part == "note" and clip.split == "test"}
    assert tested - trained and tested & trained  # programs never heard in training, and such as were


@pytest.mark.slow
def test_every_tag_is_in_every_split() -> None:
    found: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for clip in plan.plan_clips(1.5, seed=0):
        if clip.part == "music":
            style = STYLES[STYLE_NAMES.index(clip.kind)]
            band = score.draw_band(style, plan.rng_of(0, "band", clip.band))
            key = theory.KEYS[clip.choice]
            made = score.ScoreWriter(band, key, clip.seconds, plan.rng_of(0, clip.part, clip.index)).write()
            found[clip.split].update(labels.tags(style, key, made))
    for counts in found.values():
        assert set(counts) == set(labels.TAG_NAMES)


# music


def test_names_are_mir_evals(corpus: Corpus) -> None:
    assert len({key.name for key in theory.KEYS}) == 24
    for key in theory.KEYS:
        mir_eval.key.validate_key(key.name)
    for track in of_part(corpus, "music"):
        for segment in track.labels["chords"]:
            mir_eval.chord.validate_chord_label(segment["label"])
    for quality, steps in theory.QUALITIES.items():
        _, semitones, _ = mir_eval.chord.encode(f"C:{quality}")
        assert tuple(np.flatnonzero(semitones)) == tuple(sorted(steps))


def test_numerals() -> None:
    c, a = theory.Key(0, False), theory.Key(9, True)
    assert [made.label for made in theory.progression("ii7 V7 IM7 bVII", c)] == ["D:min7", "G:7", "C:maj7", "Bb:maj"]
    assert [made.label for made in theory.progression("i iih V7 VII", a)] == ["A:min", "B:hdim7", "E:7", "G:maj"]
    with pytest.raises(ValueError, match="'H7'"):
        theory.chord("H7", c)


def test_chords_cover_the_clip_without_a_gap(corpus: Corpus) -> None:
    for track in of_part(corpus, "music"):
        chords = track.labels["chords"]
        assert chords[0]["start"] == 0.0 and chords[-1]["end"] == pytest.approx(track.seconds, abs=1e-4)
        assert all(left["end"] == right["start"] for left, right in pairwise(chords))
        assert all(segment["end"] > segment["start"] for segment in chords)
        assert len({segment["label"] for segment in chords} - {"N"}) >= 2
        for segment in chords:
            if segment["label"] == "N":
                first = sound(corpus, track)[: int(segment["end"] * SAMPLE_RATE) - 360]
                assert not len(first) or np.abs(first).max() < 0.01  # silence, as far as the equaliser rings ahead


def test_tempo_beats_and_downbeats_agree(corpus: Corpus) -> None:
    for track in of_part(corpus, "music"):
        beats, downbeats = np.array(track.labels["beats"]), track.labels["downbeats"]
        assert 60.0 / np.median(np.diff(beats)) == pytest.approx(track.labels["tempo"], rel=1e-3)
        assert np.ptp(np.diff(beats)) < 1e-4
        assert 60.0 <= track.labels["tempo"] <= 180.0
        assert set(downbeats) <= set(track.labels["beats"])
        metre = STYLES[STYLE_NAMES.index(track.labels["style"])].beats
        at = [track.labels["beats"].index(beat) for beat in downbeats]
        assert at and all(step == metre for step in np.diff(at))
        assert beats[0] <= score.LONGEST_OFFSET and track.seconds - beats[-1] < 60.0 / track.labels["tempo"] + 0.06


def test_beats_lie_on_onsets(corpus: Corpus) -> None:
    ratios = []
    for track in of_part(corpus, "music"):
        strength = librosa.onset.onset_strength(y=sound(corpus, track), sr=SAMPLE_RATE, hop_length=240)  # 100 Hz

        def near(times: np.ndarray[Any, Any], strength: np.ndarray[Any, Any] = strength) -> float:
            at = np.clip(np.round(times * 100.0).astype(int), 2, len(strength) - 4)
            return float(np.mean([strength[k - 2 : k + 4].max() for k in at]))

        beats = np.array(track.labels["beats"])
        ratios.append(near(beats) / near(np.random.default_rng(0).uniform(beats[0], beats[-1], 200)))
    assert np.median(ratios) > 1.5
    assert min(ratios) > 1.0


def test_the_first_beat_is_the_first_sound(corpus: Corpus) -> None:
    late = []
    for track in of_part(corpus, "music"):
        wave = np.abs(sound(corpus, track))
        first = track.labels["beats"][0]
        peak = wave[: int((first + 0.3) * SAMPLE_RATE)].max()
        late.append(int(np.argmax(wave > 0.1 * peak)) / SAMPLE_RATE - first)
    assert abs(float(np.median(late))) < 0.015
    assert min(late) > -0.02


def test_the_key_can_be_heard(corpus: Corpus, chromagrams: dict[str, np.ndarray[Any, Any]]) -> None:
    """Krumhansl-Schmuckler on a chromagram that drums blur: chance is about 0.1 of mir_eval's points."""
    points = []
    for track in of_part(corpus, "music"):
        chroma = chromagrams[track.key].mean(1)
        fits = [
            np.corrcoef(np.roll(MINOR_PROFILE if key.minor else MAJOR_PROFILE, key.tonic), chroma)[0, 1]
            for key in theory.KEYS
        ]
        guess = theory.KEYS[int(np.argmax(fits))].name
        points.append(mir_eval.key.weighted_score(track.labels["key"], guess))
    assert np.mean(points) > 0.5


def test_chord_roots_can_be_heard(corpus: Corpus, chromagrams: dict[str, np.ndarray[Any, Any]]) -> None:
    right = []
    for track in of_part(corpus, "music"):
        for segment in track.labels["chords"]:
            if segment["label"] == "N" or segment["end"] - segment["start"] < 0.5:
                continue
            start, end = (int(segment[side] * CHROMA_RATE) for side in ("start", "end"))
            here = chromagrams[track.key][:, start + 1 : end].mean(1)
            templates = np.array([[np.roll(here, -root)[list(theory.QUALITIES[q])].sum() for q in ("maj", "min")]
                                  for root in range(12)])  # fmt: skip
            root = theory.PITCH_NAMES[int(np.argmax(templates.max(1)))]
            right.append(root == segment["label"].split(":")[0])
    assert np.mean(right) > 0.7


def test_arousal_and_valence_follow_what_they_are_made_of(corpus: Corpus) -> None:
    music = [track.labels for track in of_part(corpus, "music")]
    for name in ("arousal", "valence"):
        values = np.array([label[name] for label in music])
        assert values.min() >= -1.0 and values.max() <= 1.0 and values.std() > 0.15
    assert np.corrcoef([x["tempo"] for x in music], [x["arousal"] for x in music])[0, 1] > 0.5
    minor = np.array([x["key"].endswith("minor") for x in music])
    valence = np.array([x["valence"] for x in music])
    assert valence[~minor].mean() > valence[minor].mean() + 0.5
    assert labels.arousal(180.0, -12.0, 12.0) == 1.0 and labels.arousal(60.0, -32.0, 1.0) == -1.0
    assert labels.valence(False, 1.0, 180.0, 12.0) == 1.0 and labels.valence(True, 0.0, 60.0, 1.0) == -1.0
    assert all(("minor" in x["tags"]) == x["key"].endswith("minor") for x in music)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_scores_follow_their_style(style: Any) -> None:
    for seed in range(6):
        rng = np.random.default_rng(seed)
        key = theory.KEYS[int(rng.integers(24))]
        made = score.ScoreWriter(score.draw_band(style, rng), key, 8.0, rng).write()
        assert style.bpm[0] <= made.tempo <= style.bpm[1]
        played = [(player, note) for player in made.players for note in player.notes]
        assert all(0.0 <= note.time < 8.0 and note.seconds > 0.0 and 1 <= note.velocity <= 127 for _, note in played)
        for player in made.players:
            if player.role == "comp":  # what sounds belongs to the chord labelled there
                for note in player.notes:
                    names = [label for start, end, label in made.chords if start - 0.013 <= note.time < end + 0.013]
                    allowed = {
                        (theory.PITCH_NAMES.index(name.split(":")[0]) + step) % 12
                        for name in names if name != "N" for step in theory.QUALITIES[name.split(":")[1]]
                    }  # fmt: skip
                    assert note.key % 12 in allowed
        # every chord is struck within the beat where its label begins
        comp = np.array([note.time for player in made.players if player.role == "comp" for note in player.notes])
        for start, end, label in made.chords:
            if label != "N" and end - start > 0.6 * 60.0 / made.tempo and start < 7.9:
                assert np.any((comp > start - 0.02) & (comp < start + 1.3 * 60.0 / made.tempo)), (start, label)


# notes and techniques


def test_the_pitch_label_is_the_measured_pitch(corpus: Corpus) -> None:
    for track in of_part(corpus, "note"):
        wave = sound(corpus, track)
        onset = int(np.argmax(np.abs(wave) > 0.1 * np.abs(wave).max()))
        cents = pitch_curve(wave[onset + 1200 : onset + 12_000], track.labels["pitch"])
        assert abs(float(np.nanmedian(cents))) < 50.0, track.labels


def test_a_note_clip_sounds_alike_from_its_plan_alone(corpus: Corpus) -> None:
    clips: list[Clip] = plan.plan_clips(HOURS, SEED, CLIP_SECONDS)
    for track in corpus[1][:: len(corpus[1]) // 5]:
        (clip,) = [clip for clip in clips if clip.path == track.path]
        wave, made = make_clip(clip, SEED)
        assert np.abs(wave - sound(corpus, track)).max() < 1.0 / 32_000.0
        assert made.keys() == track.labels.keys()


@pytest.mark.parametrize("seed", range(3))
def test_vibrato_swings_at_its_rate(sampler: Sampler, seed: int) -> None:
    wave, rate = phrase(sampler, 71, 67, "vibrato", seed)
    cents = pitch_curve(wave, 67)[110:290]
    cents = cents[~np.isnan(cents)]
    spectrum = np.abs(np.fft.rfft((cents - cents.mean()) * np.hanning(len(cents)), 8192))
    found = np.fft.rfftfreq(8192, 0.005)[1:][np.argmax(spectrum[1:])]
    assert found == pytest.approx(rate, abs=0.5)
    assert np.ptp(cents) > 25.0


@pytest.mark.parametrize("seed", range(3))
def test_tremolo_beats_at_its_rate_and_keeps_its_pitch(sampler: Sampler, seed: int) -> None:
    wave, rate = phrase(sampler, 71, 67, "tremolo", seed)
    envelope = np.abs(hilbert(wave[2400:33_600]))
    spectrum = np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(len(envelope)), 1 << 18))
    frequencies = np.fft.rfftfreq(1 << 18, 1.0 / SAMPLE_RATE)
    inside = (frequencies > 2.0) & (frequencies < 12.0)
    assert frequencies[inside][np.argmax(spectrum[inside])] == pytest.approx(rate, abs=0.5)
    assert np.nanstd(pitch_curve(wave, 67)[20:250]) < 15.0


@pytest.mark.parametrize("seed", range(4))
def test_pitch_curves_go_where_they_say(sampler: Sampler, seed: int) -> None:
    def ends(name: str) -> tuple[float, float, float, float]:
        cents = pitch_curve(phrase(sampler, 71, 67, name, seed)[0], 67)
        cents = cents[: np.flatnonzero(~np.isnan(cents))[-1]]
        return (
            float(np.nanmedian(cents[4:12])), float(np.nanmedian(cents[-50:-10])),
            float(np.nanmax(cents[4:-6])), float(np.nanmin(cents[4:-6])),
        )  # fmt: skip

    start, end, _, _ = ends("slide")
    assert abs(start) > 250.0 and abs(end) < 25.0
    start, end, top, _ = ends("bend")
    assert abs(start) < 25.0 and abs(end) < 25.0 and 75.0 < top < 240.0
    start, end, _, low = ends("scoop")
    assert low < -80.0 and abs(end) < 25.0
    start, _, _, low = ends("fall")
    assert abs(start) < 25.0 and low < -300.0
    start, end, top, low = ends("sustain")
    assert max(abs(start), abs(end), abs(top), abs(low)) < 25.0


def onsets(wave: np.ndarray[Any, Any]) -> int:
    return len(librosa.onset.onset_detect(y=np.pad(wave, (2400, 0)), sr=SAMPLE_RATE, hop_length=240, delta=0.1))


@pytest.mark.parametrize("seed", range(2))
def test_articulations_are_notes(sampler: Sampler, seed: int) -> None:
    assert onsets(phrase(sampler, 26, 64, "sustain", seed)[0]) == 1
    for name in ("staccato", "repeat", "arpeggio"):
        assert onsets(phrase(sampler, 26, 64, name, seed)[0]) >= 3
    _, notes_a_second = phrase(sampler, 26, 64, "repeat", seed)
    assert 5.0 <= notes_a_second <= 9.0
    trill, rate = phrase(sampler, 71, 67, "trill", seed)
    cents = pitch_curve(trill, 67)
    assert 60.0 < np.nanpercentile(cents, 90) < 240.0 and abs(np.nanpercentile(cents, 15)) < 40.0
    assert 3.5 <= rate <= 5.5
    swell = phrase(sampler, 71, 67, "swell", seed)[0]
    assert render.loudness(swell[26_400:31_200]) > render.loudness(swell[2400:7200]) + 10.0


def test_the_soundfont_is_found() -> None:
    assert soundfont_path().name == "TimGM6mb.sf2"


def test_free_bands_keep_exact_labels() -> None:
    """A free band's drummer plays on the grid of the labelled beats, however the tempo wanders."""

    wandered = 0
    for number in range(24):
        rng = rng_of(3, "free", number)
        band = free_band(STYLES[number % len(STYLES)], rng)
        written = score.ScoreWriter(band, theory.KEYS[number], 20.0, rng).write()
        steps = np.diff(written.beats)
        wandered += float(steps.std() / steps.mean()) > 0.004
        assert set(written.downbeats) <= set(written.beats)
        assert "bass" in {p.role for p in written.players} or "bass" in band.silent
        drums = [p for p in written.players if p.role == "drums"]
        if not drums or band.style.swing != 0.5:
            continue
        inner = [n.time for n in drums[0].notes if written.beats[0] < n.time < written.beats[-1]]
        place = np.interp(inner, written.beats, np.arange(len(written.beats)))
        grid = band.style.steps / band.style.beats
        late = np.abs(place * grid - np.round(place * grid)) / grid * steps.mean()
        assert np.quantile(late, 0.9) < 0.02  # s: looseness, and a tempo that isn't quite steady within a beat
    assert wandered >= 5
    clip = plan.plan_clips(0.05, 1)[0]
    free, plain = make_clip(clip, 1, 1.0)[1], make_clip(clip, 1, 0.0)[1]
    assert "style" not in free and plain["style"] == clip.kind
