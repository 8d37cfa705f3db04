"""Crops and the loader: what the file holds, the same whoever asks, each example on one rank."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from groundbass.data.audio import read as audio
from groundbass.data.batch import Batch, key_id
from groundbass.data.collections.scan import scan_folder
from groundbass.data.crops import CropConfig, Crops, permute
from groundbass.data.loader import loader
from groundbass.data.track import Manifest, Track

Sound = Callable[..., npt.NDArray[np.float32]]
RATE = 8000
SECONDS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, note: Sound) -> Manifest:
    """Seven tracks of 0.5 to 6 s, each of its own pitch."""
    folder = tmp_path_factory.mktemp("tracks")
    for n, seconds in enumerate(SECONDS):
        audio.write(folder / f"{n}.flac", note(60 + n, seconds, RATE), RATE)
    return scan_folder(folder, workers=1, progress=False)[0]


def config(**changes: object) -> CropConfig:
    return CropConfig(**{"sample_rate": RATE, "crop_samples": RATE, "views": 2, **changes})  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    tensors = all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("waveform", "valid", "starts", "index"))
    return tensors and a.keys == b.keys and a.sample_rate == b.sample_rate


def join(batches: list[Batch]) -> Batch:
    tensors = {n: torch.cat([getattr(b, n) for b in batches]) for n in ("waveform", "valid", "starts", "index")}
    return Batch(sample_rate=RATE, keys=[key for batch in batches for key in batch.keys], **tensors)


def test_crops_are_what_the_file_holds(manifest: Manifest) -> None:
    """Every crop is found in its track at `starts`, its tail beyond `valid` is zero."""
    crops = Crops(manifest, config(), seed=3)
    tracks = {track.key: audio.read(manifest.path_of(track)) for track in manifest}
    for position in range(len(crops)):
        example = crops[2, position]
        sound = tracks[example.key]
        for view in range(2):
            start, valid = int(example.starts[view]), int(example.valid[view])
            assert valid == min(RATE, len(sound))
            np.testing.assert_array_equal(example.waveform[view, :valid], sound[start : start + valid])
            assert not example.waveform[view, valid:].any()


def test_crops_at_another_rate(manifest: Manifest) -> None:
    crops = Crops(manifest, config(sample_rate=11025, crop_samples=5000), seed=0)
    for position in range(len(crops)):
        example = crops[0, position]
        sound = audio.resample(audio.read(manifest.root / example.key), RATE, 11025)
        for view, (start, valid) in enumerate(zip(example.starts, example.valid)):
            np.testing.assert_allclose(example.waveform[view, :valid], sound[start : start + valid], atol=2e-6)


def test_a_crop_is_a_function_of_seed_epoch_and_position(manifest: Manifest) -> None:
    once, again, other = (Crops(manifest, config(), seed=seed) for seed in (7, 7, 8))
    a, b = once[5, 3], again[5, 3]
    assert (a.key, a.index) == (b.key, b.index)
    np.testing.assert_array_equal(a.waveform, b.waveform)
    np.testing.assert_array_equal(a.starts, b.starts)
    assert not np.array_equal(once.order(0), other.order(0))
    assert not np.array_equal(once.order(0), once.order(1))
    starts = {tuple(once.example(epoch, p).starts) for epoch in range(8) for p in range(7)}
    assert len(starts) > 35  # 6 of 7 tracks are longer than a crop, one start repeats at 0


def test_views_start_apart_and_everywhere(manifest: Manifest) -> None:
    """Uniform starts: over 2,000 draws in 5 s of choice the mean is 2.5 s within 4 standard errors, ends included."""
    crops = Crops(manifest, config(), seed=1)
    starts = np.array([crops.starts(epoch, 0, 6 * RATE) for epoch in range(1000)])
    assert np.mean(starts[:, 0] == starts[:, 1]) < 0.01
    error = 5 * RATE / np.sqrt(12 * starts.size)
    assert abs(starts.mean() - 2.5 * RATE) < 4 * error
    assert starts.min() < 0.02 * RATE
    assert starts.max() > 4.98 * RATE
    assert starts.max() <= 5 * RATE


def test_starts_are_aligned(manifest: Manifest) -> None:
    crops = Crops(manifest, config(align=320), seed=0)
    starts = np.array([crops.starts(epoch, 0, 6 * RATE + 100) for epoch in range(500)])
    assert not (starts % 320).any()
    assert starts.max() == 5 * RATE  # the last multiple that leaves a whole crop


def test_an_epoch_hears_each_track_once(manifest: Manifest) -> None:
    crops = Crops(manifest, config(), seed=0)
    for epoch in range(5):
        assert sorted(crops.order(epoch)) == list(range(7))


def test_an_epoch_by_duration(manifest: Manifest) -> None:
    """21.5 s in crops of 1 s: 22 crops (Python rounds to even), every track its seconds' share, rounded up or down."""
    crops = Crops(manifest, config(epoch="duration"), seed=0)
    assert crops.epoch_length == 22
    counts = np.array([np.bincount(crops.order(epoch), minlength=7) for epoch in range(200)])
    shares = np.array(SECONDS) * 22 / sum(SECONDS)
    assert (counts.sum(axis=1) == 22).all()
    assert (np.abs(counts - shares) < 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), shares, atol=0.15)  # the half-second track is heard too


def test_short_tracks_can_be_left_out(manifest: Manifest) -> None:
    crops = Crops(manifest, config(min_seconds=1.5), seed=0)
    assert sorted(crops.order(0)) == [2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match=r"None of the 7 tracks has min_seconds=100.*longest has 6\.0 s"):
        Crops(manifest, config(min_seconds=100))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 17, 1000, 4097])
def test_permute_is_a_permutation(length: int) -> None:
    for key in range(3):
        assert sorted(permute(np.arange(length), length, key).tolist()) == list(range(length))


def test_permute_is_uniform() -> None:
    """1,200 keys on five places: chi-square over the 120 orders within 5 standard deviations."""
    orders = Counter(tuple(permute(np.arange(5), 5, key).tolist()) for key in range(1200))
    chi = sum((count - 10) ** 2 / 10 for count in orders.values()) + (120 - len(orders)) * 10
    assert abs(chi - 119) < 5 * np.sqrt(2 * 119)


def test_loader_is_the_same_for_any_number_of_workers(manifest: Manifest) -> None:
    crops = Crops(manifest, config(epoch="duration"), seed=0)
    runs = [list(islice(loader(crops, 5, workers=workers), 9)) for workers in (0, 1, 2)]
    for batches in zip(*runs, strict=True):
        assert same(batches[0], batches[1])
        assert same(batches[0], batches[2])


def test_batches_hold_the_examples_in_order(manifest: Manifest) -> None:
    """Batches of 5 over epochs of 7: no gap, no repetition, each item the example that `index` names."""
    crops = Crops(manifest, config(), seed=0)
    batch = join(list(islice(loader(crops, 5, workers=0), 7)))
    assert batch.index.tolist() == list(range(35))
    for item in range(35):
        example = crops[item // 7, item % 7]
        assert batch.keys[item] == example.key
        assert torch.equal(batch.waveform[item], torch.from_numpy(example.waveform))
        assert batch.valid[item].tolist() == example.valid.tolist()


def test_ranks_share_and_steps_resume(manifest: Manifest) -> None:
    """Two ranks side by side are one rank with the double batch, from any step on."""
    crops = Crops(manifest, config(), seed=0)
    joint = list(islice(loader(crops, 6, workers=0), 6))
    ranks = [list(islice(loader(crops, 3, rank=rank, ranks=2, workers=0), 6)) for rank in (0, 1)]
    later = list(islice(loader(crops, 6, workers=2, first_step=4), 2))
    for step, batch in enumerate(joint):
        assert same(batch, join([ranks[0][step], ranks[1][step]]))
    assert all(same(a, b) for a, b in zip(joint[4:], later, strict=True))


def test_loader_leaves_torch_alone(manifest: Manifest) -> None:
    """A resumed run draws the same dropout: making a loader draws nothing from the global state."""
    state = torch.get_rng_state()
    next(loader(Crops(manifest, config()), 2, workers=1))
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture
def damaged(manifest: Manifest, tmp_path: Path) -> Manifest:
    """Twenty copies; after the scan one loses its end, one becomes text, and one is deleted."""
    sound = audio.read(manifest.root / "6.flac")
    for n in range(20):
        audio.write(tmp_path / f"{n:02d}.flac", np.roll(sound, 10 * n), RATE)
    scanned = scan_folder(tmp_path, workers=1, progress=False)[0]
    audio.write(tmp_path / "03.flac", sound[:4000], RATE)
    (tmp_path / "07.flac").write_text("no sound")
    (tmp_path / "11.flac").unlink()
    return scanned


def test_unreadable_tracks_give_way(damaged: Manifest) -> None:
    crops = Crops(damaged, config(crop_samples=6 * RATE), seed=0)
    runs = []
    for workers in (0, 2):
        batches = loader(crops, 4, workers=workers, max_bad_share=0.2)
        runs.append(list(islice(batches, 10)))
        assert set(batches.bad) == {"03.flac", "07.flac", "11.flac"}
    assert all(same(a, b) for a, b in zip(*runs, strict=True))
    assert all(len(batch) == 4 for batch in runs[0])
    assert not {key for batch in runs[0] for key in batch.keys} & {"03.flac", "07.flac", "11.flac"}
    moved = [item for item, index in enumerate(join(runs[0]).index.tolist()) if index != item]
    assert len(moved) >= 6  # three tracks in each of two epochs, and only they
    good = [item for item in range(40) if crops.key_of(crops.rows_at(np.array([item]))[0]) not in batches.bad]
    assert not set(moved) & set(good)


def test_too_many_unreadable_tracks_stop_the_run(damaged: Manifest) -> None:
    batches = loader(Crops(damaged, config(), seed=0), 4, workers=0, max_bad_share=0.05)
    with pytest.raises(ValueError, match=r"of 20 tracks can't be read.*\.flac"):
        list(islice(batches, 10))


def test_lost_folder_stops_at_the_first_batch(tmp_path: Path) -> None:
    """Nothing there at all: no search through the whole epoch."""
    tracks = [Track(f"{n}", f"{n}.wav", 80000, RATE, 1, str(n)) for n in range(50_000)]
    batches = loader(Crops(Manifest.from_tracks(tracks, tmp_path), config(), seed=0), 4, workers=0, max_bad_share=0.0)
    with pytest.raises(ValueError, match="1 of 50000 tracks can't be read"):
        next(batches)


def test_nan_after_the_scan_is_caught(manifest: Manifest, tmp_path: Path) -> None:
    import soundfile as sf

    sound = np.ones(RATE, dtype=np.float32) * 0.1
    sf.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    crops = Crops(scan_folder(tmp_path, workers=1, progress=False)[0], config(), seed=0)
    sound[123] = np.nan
    sf.write(tmp_path / "a.wav", sound, RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav holds NaN or infinity"):
        crops[0, 0]


def test_memory_stays_flat_over_epochs(manifest: Manifest) -> None:
    """What Python holds after 40 epochs is what it held after 10, within 100 kB (a crop has 64 kB)."""
    batches = loader(Crops(manifest, config(), seed=0), 7, workers=0)
    held = []
    tracemalloc.start()
    for steps in (10, 30):
        for _ in range(steps):
            next(batches)
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert held[1] - held[0] < 100_000


def test_batch_moves_and_names_its_tracks(manifest: Manifest) -> None:
    batch = next(loader(Crops(manifest, config(), seed=0), 7, workers=0)).to("cpu")
    assert batch.waveform.shape == (7, 2, RATE)
    assert batch.waveform.dtype == torch.float32
    assert batch.valid.dtype == batch.starts.dtype == batch.index.dtype == torch.int64
    assert batch.key_ids().tolist() == [key_id(key) for key in batch.keys]
    assert len(set(batch.key_ids().tolist())) == 7
    assert key_id("a") == 2340832890917691671  # on any machine
    assert batch.seconds == pytest.approx(2 * (6 + 0.5))


def test_mistakes_are_sentences(manifest: Manifest) -> None:
    with pytest.raises(ValueError, match="views=0 must be at least 1"):
        config(views=0)
    with pytest.raises(ValueError, match='must be "track" or "duration"'):
        config(epoch="hour")
    crops = Crops(manifest, config())
    with pytest.raises(ValueError, match="rank=2 must be from 0 to ranks - 1 = 1"):
        loader(crops, 2, rank=2, ranks=2)
    with pytest.raises(ValueError, match="batch_size=0"):
        loader(crops, 0)
    with pytest.raises(IndexError):
        crops[0, 7]
