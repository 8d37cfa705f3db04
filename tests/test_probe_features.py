"""The feature store: what enters a mean, what names a store, what survives a kill."""

import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from groundbass.data.audio import read as audio
from groundbass.data.collections.mixed import Part, mixed
from groundbass.data.track import Manifest, Track, file_hash
from groundbass.probe.listen.features import FeatureStore, forget
from groundbass.probe.listen.windows import cut, jobs, window_rows

RATE = 8000


class Ruler:
    """Frames of 100 samples: layer 0 is their mean, layer 1 their energy, and a weight multiplies both.

    Frames beyond the valid ones are poisoned, so that a mean that takes one is wrong at once.
    """

    sample_rate, frame_rate, dim, layers = RATE, 80.0, 1, 2

    def __init__(self, weight=1.0, die_after=None, nan=False):
        self.weight = torch.tensor([weight])
        self.die_after, self.nan, self.calls, self.heard = die_after, nan, 0, 0

    def valid_frames(self, valid):
        return valid // 100

    def hidden_states(self, waveform, valid=None, sample_rate=None):
        self.calls += 1
        self.heard += len(waveform)
        if self.die_after is not None and self.calls > self.die_after:
            raise KeyboardInterrupt
        frames = waveform[:, : waveform.shape[1] // 100 * 100].unflatten(1, (-1, 100))
        hidden = torch.stack([frames.mean(-1), frames.square().mean(-1)], 1)[..., None] * self.weight
        if valid is not None:
            late = torch.arange(hidden.shape[2]) >= self.valid_frames(valid)[:, None]
            hidden = hidden.masked_fill(late[:, None, :, None], 1e9)
        return hidden * float("nan") if self.nan else hidden


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve tracks of 0.5 to 4 s of noise around a level of their own, as a manifest and as what the files hold."""
    root = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)
    tracks, sounds = [], []
    for number in range(12):
        samples = int(generator.integers(RATE // 2, 4 * RATE))
        path = f"{number}.flac"
        audio.write(
            root / path,
            (0.3 * generator.normal(size=samples) * 0.2 + 0.05 * number).clip(-1, 1).astype(np.float32),
            RATE,
        )
        sounds.append(audio.read(root / path))
        tracks.append(Track(path, path, samples, RATE, 1, f"hash{number}"))
    return Manifest.from_tracks(tracks, root), sounds


def store(root, **settings):
    return FeatureStore(Path(root), window_seconds=1.0, batch_seconds=5.0, quiet=True, **settings)


def test_means_are_over_valid_frames_and_windows_weigh_by_them(corpus, tmp_path):
    manifest, sounds = corpus
    found = store(tmp_path).clips(Ruler(), manifest, "mean+std")
    assert found.shape == (2, 12, 2)
    for row, sound in enumerate(sounds):
        frames = [
            sound[start : start + size][: size // 100 * 100].reshape(-1, 100) for start, size in cut(len(sound), RATE)
        ]
        means = np.concatenate([frame.mean(1) for frame in frames])
        energies = np.concatenate([np.square(frame).mean(1) for frame in frames])
        expected = [[means.mean(), means.std()], [energies.mean(), energies.std()]]
        np.testing.assert_allclose(found[:, row], expected, rtol=2e-4, atol=1e-6)


def test_windows_are_equal_and_cover_the_track():
    assert cut(1000, 300) == [(0, 250), (250, 250), (500, 250), (750, 250)]
    assert cut(100, 300) == [(0, 100)]
    pieces = cut(1001, 300)
    assert sum(size for _, size in pieces) == 1001 and max(s for _, s in pieces) - min(s for _, s in pieces) <= 1


def test_jobs_hold_every_window_once_and_stay_small(corpus):
    plans = window_rows(corpus[0], range(12), RATE, RATE // 3)
    work = jobs(plans, RATE, 120 * RATE, most=4)
    together = sorted((w.row, w.start) for job in work for read in job for w in read)
    assert together == sorted((w.row, w.start) for windows in plans for w in windows)
    for job in work:
        windows = [w for read in job for w in read]
        assert len(windows) <= 4 and (len(windows) == 1 or len(windows) * max(w.samples for w in windows) <= RATE + 4)


def test_second_run_makes_no_call_and_one_weight_changes_the_key(corpus, tmp_path):
    first, second = Ruler(), Ruler()
    a = store(tmp_path).clips(first, corpus[0])
    again = store(tmp_path)
    np.testing.assert_array_equal(a, again.clips(second, corpus[0]))
    assert first.calls > 0 and second.calls == 0 and again.calls == 0
    other = Ruler(weight=2.0)
    b = again.clips(other, corpus[0])
    assert other.calls == first.calls
    np.testing.assert_allclose(b, 2 * a, rtol=1e-6)
    for e in (Ruler(), other):
        for m in (corpus[0], corpus[0][:5]):
            for p in ("mean", "mean+std"):
                again.clips(e, m, p)
    assert again.calls == other.calls  # moments serve every pooling
    assert len(list(tmp_path.glob("*/*/meta.json"))) == 4 and len(list(tmp_path.glob("*"))) == 2


def test_killed_extraction_leaves_no_store_and_goes_on(corpus, tmp_path):
    whole = np.array(store(tmp_path / "whole").clips(Ruler(), corpus[0]))
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "killed").clips(Ruler(die_after=3), corpus[0])
    assert not list((tmp_path / "killed").glob("*/*/meta.json"))
    rest = Ruler()
    np.testing.assert_array_equal(store(tmp_path / "killed").clips(rest, corpus[0]), whole)
    complete = Ruler()
    store(tmp_path / "third").clips(complete, corpus[0])
    assert 0 < rest.heard < complete.heard
    (meta,) = (tmp_path / "killed").glob("*/*/meta.json")
    assert json.loads(meta.read_text())["shape"] == [2, 12, 4]
    assert not list((tmp_path / "killed").glob("*/*.partial"))


VICTIM = """
import sys, time
sys.path.insert(0, {tests!r})
from test_probe_features import Manifest, Ruler, store
listen = Ruler.hidden_states
def slowly(self, *given):
    time.sleep(0.2 * self.calls)
    return listen(self, *given)
Ruler.hidden_states = slowly
store({root!r}).clips(Ruler(), Manifest.open({manifest!r}))
"""


def test_a_killed_process_leaves_what_it_had_and_its_lock_is_free(corpus, tmp_path):
    """SIGKILL in the middle, while the lock is held: the next process goes on at once, with what is missing."""
    manifest = corpus[0]
    manifest.write(tmp_path / "m.parquet")
    words = {"tests": str(Path(__file__).parent), "root": str(tmp_path / "s"), "manifest": str(tmp_path / "m.parquet")}
    process = subprocess.Popen([sys.executable, "-c", VICTIM.format(**words)])
    marks = []
    while process.poll() is None and not (marks and 0 < np.load(marks[0]).sum()):
        time.sleep(0.05)
        marks = list((tmp_path / "s").glob("*/*.partial/done.npy"))
    process.kill()
    process.wait()
    done = int(np.load(marks[0]).sum())
    assert 0 < done < 12 and not list((tmp_path / "s").glob("*/*/meta.json"))
    rest, whole = Ruler(), Ruler()
    found = store(tmp_path / "s").clips(rest, manifest)
    np.testing.assert_array_equal(found, store(tmp_path / "whole").clips(whole, manifest))
    assert rest.heard < whole.heard


def test_a_lock_that_a_kill_left_beside_a_finished_store_goes(corpus, tmp_path):
    found = store(tmp_path).clips(Ruler(), corpus[0])
    (meta,) = tmp_path.glob("*/*/meta.json")
    lock = meta.parent.with_name(f"{meta.parent.name}.lock")
    assert not lock.exists()
    lock.touch()
    np.testing.assert_array_equal(store(tmp_path).clips(Ruler(), corpus[0]), found)
    assert not lock.exists()


def test_a_manifest_without_hashes_is_not_taken_for_another(tmp_path):
    """A stranger's manifest may leave them empty: then the files' own count, in stores, tables and mixtures."""
    made = []
    for number, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        level = np.full(RATE, 0.1 + 0.2 * number, np.float32)
        audio.write(tmp_path / name / "0.flac", level, RATE)
        made.append(Manifest.from_tracks([Track("0", "0.flac", RATE, RATE, 1, "")], tmp_path / name))
        made[-1].write(tmp_path / f"{name}.parquet")
    levels = [float(store(tmp_path / "s").clips(Ruler(), manifest)[0, 0, 0]) for manifest in made]
    assert levels == pytest.approx([0.1, 0.3], abs=1e-3)
    assert made[0].hashes() == [file_hash(tmp_path / "a" / "0.flac")] != made[1].hashes()
    together, left_out = mixed([Part(tmp_path / "a.parquet"), Part(tmp_path / "b.parquet")])
    assert len(together) == 2 and set(left_out.values()) == {0}


def test_nan_names_the_track_and_wrong_shapes_are_told(corpus, tmp_path):
    with pytest.raises(ValueError, match=r"\.flac aren't finite"):
        store(tmp_path).clips(Ruler(nan=True), corpus[0])
    wrong = Ruler()
    wrong.layers = 3
    with pytest.raises(ValueError, match=r"expected \[batch, layers, frames, dim\]"):
        store(tmp_path).clips(wrong, corpus[0])
    wrong = Ruler()
    wrong.frame_rate = 50.0
    with pytest.raises(ValueError, match=r"made 77 frames of 0.97 s; its frame_rate of 50 Hz says about 48.7"):
        store(tmp_path).clips(wrong, corpus[0])
    wrong = Ruler()
    wrong.valid_frames = lambda valid: valid // 50
    with pytest.raises(ValueError, match="its valid_frames 15"):
        store(tmp_path).clips(wrong, corpus[0])


def resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="needs Linux's /proc")
def test_large_stores_are_not_kept_in_memory(corpus, tmp_path, monkeypatch):
    """What was written and read is let go of, and nothing is lost by it."""
    wanted = store(tmp_path / "a").clips(Ruler(), corpus[0])
    monkeypatch.setattr("groundbass.probe.listen.features.LARGE_BYTES", 0)
    np.testing.assert_array_equal(store(tmp_path / "b").clips(Ruler(), corpus[0]), wanted)
    array = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (16, 2**20))
    array[:] = 3
    before = resident()
    array.flush()
    forget(array)
    assert before - resident() > 50 * 2**20 and (array[:, ::1000] == 3).all()


def test_other_rates_are_resampled(corpus, tmp_path):
    fast = Ruler()
    fast.sample_rate, fast.frame_rate = 16000, 160.0
    np.testing.assert_allclose(
        store(tmp_path).clips(fast, corpus[0])[0, 3:], store(tmp_path).clips(Ruler(), corpus[0])[0, 3:], rtol=0.02
    )


def test_frames_are_layer_major_with_their_times(corpus, tmp_path):
    manifest, sounds = corpus
    found = store(tmp_path).frames(Ruler(), manifest, [2, 7], [1], "ruler")
    first, end = found.spans[7]
    assert found.array.shape == (1, found.spans[7][1], 1) and len(found.times) == found.array.shape[1]
    for start, size in cut(len(sounds[7]), RATE):
        here = np.flatnonzero(
            (found.times[first:end] >= start / RATE) & (found.times[first:end] < (start + size) / RATE)
        )
        frames = sounds[7][start : start + size][: size // 100 * 100].reshape(-1, 100)
        np.testing.assert_allclose(found.array[0, first:end, 0][here], np.square(frames).mean(1), rtol=1e-3, atol=1e-7)


def test_clips_come_from_frames_that_are_there_already(corpus, tmp_path):
    """The same vectors, for encoders that were called for a frame task before: no clip is encoded twice."""
    manifest, _ = corpus
    wanted = store(tmp_path / "a").clips(Ruler(), manifest, "mean+std")
    encoder, keep = Ruler(), store(tmp_path / "b")
    keep.frames(encoder, manifest, range(12), range(2), "x")
    encoder.calls = 0
    found = keep.clips(encoder, manifest, "mean+std")
    assert encoder.calls == 0
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_stores_of_one_family_share_their_tracks(corpus, tmp_path):
    """Another task's tracks: only those that no other store has are heard; a store of two is their union."""
    manifest, _ = corpus
    keep = store(tmp_path)
    first, second, third = Ruler(), Ruler(), Ruler()
    keep.clips(first, manifest[:5])
    keep.clips(second, manifest.select([11, 3, 7, 0]))
    found = keep.clips(third, manifest.select([7, 4, 11, 0, 2]))
    assert first.heard > second.heard > 0 and third.calls == 0
    np.testing.assert_array_equal(found, store(tmp_path / "x").clips(Ruler(), manifest)[:, [7, 4, 11, 0, 2]])


def test_windows_are_stretches_of_their_tracks(corpus, tmp_path):
    manifest, sounds = corpus
    found = store(tmp_path).windows(Ruler(), manifest, 0.7)
    owners, place = [], 0
    for row, sound in enumerate(sounds):
        for start, size in cut(len(sound), round(0.7 * RATE)):
            frames = sound[start : start + size][: size // 100 * 100].reshape(-1, 100)
            np.testing.assert_allclose(found.array[0, place, 0], frames.mean(), rtol=2e-4, atol=1e-6)
            owners.append(row)
            place += 1
    assert found.owner.tolist() == owners and found.array.shape == (2, len(owners), 1)
    again = Ruler()
    store(tmp_path).windows(again, manifest[2:4], 0.7)
    assert again.calls == 0


class Louder:
    name = "twice as loud"

    def __call__(self, waveform, sample_rate, seed):
        return 2 * waveform


def test_changed_sound_has_a_store_of_its_own(corpus, tmp_path):
    clean = store(tmp_path).clips(Ruler(), corpus[0])
    changed = store(tmp_path).clips(Ruler(), corpus[0], change=Louder())
    np.testing.assert_allclose(changed[0], 2 * clean[0], rtol=1e-5)
    again = Ruler()
    np.testing.assert_array_equal(store(tmp_path).clips(again, corpus[0]), clean)
    np.testing.assert_array_equal(store(tmp_path).clips(again, corpus[0], change=Louder()), changed)
    assert again.calls == 0


def test_two_processes_that_want_one_store_fill_it_once(corpus, tmp_path):
    """The second waits for the first and then finds the store made."""
    encoders = [Ruler() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda encoder: np.array(store(tmp_path).clips(encoder, corpus[0])), encoders))
    assert sum(encoder.calls > 0 for encoder in encoders) == 1
    assert all((array == found[0]).all() for array in found)


def test_changes_are_differences_within_windows_and_narrower_poolings_are_their_beginning(corpus, tmp_path):
    manifest, sounds = corpus
    kept = store(tmp_path)
    mean = np.array(kept.clips(Ruler(), manifest, "mean"))
    calls = kept.calls
    wide = kept.clips(Ruler(), manifest, "mean+std+change")
    np.testing.assert_array_equal(mean, wide[..., :1])
    for pooling, width in (("mean", 1), ("mean+std", 2)):
        np.testing.assert_array_equal(kept.clips(Ruler(), manifest, pooling), wide[..., :width])
    assert kept.calls == calls  # nothing is heard twice
    for row, sound in enumerate(sounds):
        windows = [sound[start : start + size].astype(np.float64) for start, size in cut(len(sound), RATE)]
        frames = [window[: len(window) // 100 * 100].reshape(-1, 100).mean(1) for window in windows]
        for column, step in ((2, 1), (3, 4)):
            changes = np.concatenate([part[step:] - part[:-step] for part in frames])
            np.testing.assert_allclose(wide[0, row, column], changes.std(), rtol=1e-3, atol=1e-6)
