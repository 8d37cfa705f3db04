"""Audio fingerprints: landmarks, pairs of spectral peaks (Wang 2003, An Industrial-Strength Audio Search Algorithm).

A hash says (frequency of a peak, frequency of a later peak, frames between them): it survives gain, codecs, resampling
and cutting. Two recordings are the same where many hashes agree on one offset in time; how many chance alone would give
is estimated from the hashes themselves (see `Index.search`), so that the threshold grows with the index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage, stats

VERSION = 1
RATE = 8000  # Hz; codecs of low rate keep what is below 4 kHz
WINDOW, HOP = 512, 256  # 64 ms and 32 ms
LOWEST, HIGHEST = 12, 240  # bins of 15.6 Hz: 190 Hz to 3.7 kHz
AROUND = (21, 15)  # bins and frames in which a peak is the largest
DENSITY = 24  # peaks per second, the most prominent
FAN = 5  # later peaks that a peak is paired with
FARTHEST, WIDEST = 63, 63  # frames and bins between the two
HASHES = 256 << 13  # different ones: 8 bits of frequency, 7 of rise, 6 of gap
SHIFTS = (0, 64, 128, 192)  # samples by which a query is moved, since its cut falls between two frames
# What the same recording must reach. Between 400 different songs, electronic ones made from the same loops reached
# 1e-31 and a share of 0.34, never both beyond the limits; 10 s of a song, at a fifth of its level as MP3 or Vorbis of
# 16 to 32 kbit/s, reached at least 64 votes and a share of 0.35.
FALSE_HITS = 1e-32  # accidents expected in a whole comparison, if hashes were independent
LEAST_SHARE = 0.2  # of the query's anchors in the stretch that both have
LEAST_VOTES = 8
LEAST_SPREAD = 4  # half seconds that have votes
FOLLOWED = 8  # places in the index per hash of a query that are looked at first: all of what lies in up to 8 places
LIKELY = 8  # tracks that are then compared in full, and those with half the votes of the first
COLLISION, PRIOR = 1e-5, 20_000  # chance that two hashes of music agree (measured: 6e-6), and how many hashes say so
Sound = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Prints:
    """hashes: [hashes] uint32; frames: [hashes] int32, when each begins, in frames of 32 ms."""

    hashes: npt.NDArray[np.uint32]
    frames: npt.NDArray[np.int32]


def fingerprint(sound: Sound, shifts: Sequence[int] = (0,)) -> Prints:
    """sound: [samples] at 8 kHz. shifts: the prints of the sound moved by each, together. Silence has no prints."""
    parts = [_landmarks(*peaks(sound[shift:])) for shift in shifts]
    return Prints(np.concatenate([p.hashes for p in parts]), np.concatenate([p.frames for p in parts]))


def peaks(sound: Sound) -> tuple[Ints, Ints]:
    """Frames and bins of the spectral peaks, in order of time: local maxima that stand out most in each second."""
    count = (len(sound) - WINDOW) // HOP + 1
    if count < 2 or not np.abs(sound).max() > 1e-4:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    frames = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(WINDOW).astype(np.float32), axis=1))
    floor = 1e-5 * spectrum.max()  # -100 dB: below it is rounding
    level = np.log(np.maximum(spectrum[:, LOWEST:HIGHEST], floor)).astype(np.float32)
    stands_out = level - ndimage.uniform_filter(level, (AROUND[1] * 2 + 1, AROUND[0] * 2 + 1))
    largest = ndimage.maximum_filter(level, (AROUND[1], AROUND[0])) == level
    time, frequency = np.nonzero(largest & (stands_out > 0.5))
    height = stands_out[time, frequency]
    second = time * HOP // RATE
    order = np.lexsort((-height, second))
    first = np.searchsorted(second[order], second[order], "left")
    kept = np.sort(order[np.arange(len(order)) - first < DENSITY])
    return time[kept], frequency[kept] + LOWEST


def _landmarks(time: Ints, frequency: Ints) -> Prints:
    """Each peak with the next `FAN` peaks that are near enough."""
    hashes, frames = [], []
    for step in range(1, 4 * FAN + 1):
        if len(time) <= step:
            break
        gap, rise = time[step:] - time[:-step], frequency[step:] - frequency[:-step]
        near = (gap > 0) & (gap <= FARTHEST) & (np.abs(rise) <= WIDEST)
        anchor = np.flatnonzero(near)
        hashes.append((frequency[anchor] << 13) | ((rise[anchor] + WIDEST) << 6) | gap[anchor])
        frames.append(np.stack([time[anchor], anchor]))
    if not hashes:
        return Prints(np.empty(0, np.uint32), np.empty(0, np.int32))
    codes, when = np.concatenate(hashes), np.concatenate(frames, 1)
    order = np.argsort(when[1], kind="stable")  # of each anchor the nearest peaks first
    anchors = when[1][order]
    kept = order[np.arange(len(order)) - np.searchsorted(anchors, anchors, "left") < FAN]
    return Prints(codes[kept].astype(np.uint32), when[0][kept].astype(np.int32))


def _key(hashes: Any, track: Any) -> npt.NDArray[np.uint64]:
    """What an index is sorted by."""
    return np.asarray(hashes, dtype=np.uint64) << np.uint64(32) | np.asarray(track, dtype=np.uint64)


@dataclass(frozen=True)
class Match:
    """track: number in the index; offset: s, where the query begins in it (negative: the track begins later).

    votes: anchors of the query that agree; share: of all its anchors in the stretch that both have; chance: how many
    tracks would agree so well by accident, in the whole index.
    """

    track: int
    offset: float
    votes: int
    share: float
    chance: float


class Index:
    """The prints of many tracks, sorted by hash, then by track.

    keys: [prints] hash × 2³² + track; frames: [prints] in that order; begins: [hashes + 1] where each hash begins.
    sizes: [tracks] prints; ends: [tracks] last frame.
    """

    def __init__(self, prints: Sequence[Prints]) -> None:
        self.sizes = np.array([len(p.hashes) for p in prints], dtype=np.int64)
        self.ends = np.array([int(p.frames.max(initial=0)) for p in prints], dtype=np.int64)
        keys = np.concatenate([np.empty(0, np.uint64), *(_key(p.hashes, n) for n, p in enumerate(prints))])
        frames = np.concatenate([np.empty(0, np.int32), *(p.frames for p in prints)])
        order = np.argsort(keys, kind="stable")
        self.keys, self.frames = keys[order], frames[order]
        self.begins = np.searchsorted(self.keys, _key(np.arange(HASHES + 1), 0))

    def __len__(self) -> int:
        return len(self.sizes)

    def search(self, query: Prints, comparisons: int = 1) -> list[Match]:
        """The tracks that share a stretch with the query, best first.

        Votes are distinct anchor frames of the query, so that a held tone, whose hashes repeat, votes once per moment.
        How many hashes of a track meet the query by chance is learned from all other tracks, and from `COLLISION` where
        these are few; spread over all offsets, it gives the votes of one offset, which are then Poisson. A match needs
        fewer than `FALSE_HITS` expected accidents in `comparisons` searches over all tracks and offsets, so that the
        limit rises with the index; music repeats itself, which is why that number is so small. Its votes must be a
        `LEAST_SHARE` of the anchors and spread over `LEAST_SPREAD` half seconds: about 4 s of the same sound is found.

        The work hardly grows with the index: in a large one only the query's rarest hashes are followed (`FOLLOWED`
        places for each of its hashes), and the few tracks on which most of them agree are then compared in full.
        """
        total, track, offset, anchor = self._met(query)
        if not total:
            return []
        moments = np.unique(query.frames)
        span = int(moments[-1]) + 1
        order, names, begin, end, fullest = _grouped(track, offset)
        by_chance = total - (end - begin) + COLLISION * len(query.hashes) * PRIOR
        expected = by_chance / (len(self.keys) - self.sizes[names] + PRIOR)  # hits per hash of each track
        log_chance = self._log_chance(names, fullest, expected, span, comparisons)  # of the most votes it can have
        found = []
        for n in np.flatnonzero((fullest >= LEAST_VOTES) & (log_chance <= np.log(FALSE_HITS))):
            own = order[begin[n] : end[n]]
            found.append(self._best(int(names[n]), anchor[own], offset[own], moments, expected[n], comparisons))
        return sorted(filter(None, found), key=lambda match: (match.chance, -match.votes))

    def _met(self, query: Prints) -> tuple[int, Ints, Ints, Ints]:
        """How many places hold one of the query's hashes; track, offset and anchor of those that matter."""
        number = self.begins[query.hashes + 1] - self.begins[query.hashes]
        ascending = np.argsort(query.hashes, kind="stable")  # neighbours in the index one after the other
        asked = ascending[number[ascending] > 0]
        query, number = Prints(query.hashes[asked], query.frames[asked]), number[asked]
        total, most = int(number.sum()), FOLLOWED * len(ascending)
        if total <= most:
            return total, *self._hits(query, self.begins[query.hashes], number)
        rarest = np.argsort(number, kind="stable")
        followed = np.sort(rarest[np.cumsum(number[rarest]) - number[rarest] < most])
        rare = Prints(query.hashes[followed], query.frames[followed])
        track, offset, _ = self._hits(rare, self.begins[rare.hashes], number[followed])
        return total, *self._hits_of(query, _likely(track, offset))

    def _hits(self, query: Prints, first: Ints, number: Ints) -> tuple[Ints, Ints, Ints]:
        """Track, offset and anchor of the `number` places from `first` on, for each of the query's prints."""
        place = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number - first, number)
        anchor = np.repeat(query.frames, number).astype(np.int64)
        track = (self.keys[place] & np.uint64(2**32 - 1)).astype(np.int64)
        return track, self.frames[place].astype(np.int64) - anchor, anchor

    def _hits_of(self, query: Prints, tracks: Ints) -> tuple[Ints, Ints, Ints]:
        """All places of the query's hashes in some tracks. Hashes and tracks ascend."""
        asked = np.repeat(np.arange(len(query.hashes)), len(tracks))
        keys = _key(query.hashes[asked], np.tile(tracks, len(query.hashes)))
        first = np.searchsorted(self.keys, keys, "left")
        met = self.keys[np.minimum(first, len(self.keys) - 1)] == keys
        first, keys, asked = first[met], keys[met], asked[met]
        there = Prints(query.hashes[asked], query.frames[asked])
        return self._hits(there, first, np.searchsorted(self.keys, keys, "right") - first)

    def _log_chance(self, track: Any, votes: Any, expected: Any, span: int, comparisons: int) -> Any:
        """Log of how often an offset of a track with so many votes is expected, over all tracks and comparisons."""
        # 3 offsets of all that are possible; hashes of one track repeat, which doubles the rate (measured)
        places = self.ends[track] + span
        rate = 2 * 3 * expected * self.sizes[track] / np.maximum(1, places)
        return stats.poisson.logsf(votes - 1, rate) + np.log(max(1, comparisons) * len(self) * places)

    def _best(
        self, track: int, anchor: Ints, offset: Ints, moments: npt.NDArray[np.int32], expected: float, comparisons: int
    ) -> Match | None:
        span = int(moments[-1]) + 1
        if len(anchor) < LEAST_VOTES:
            return None
        low = int(offset.min())
        counts = np.bincount(offset - low, minlength=3)
        around = np.convolve(counts, [1, 1, 1], "same")
        for peak in np.argsort(around)[::-1][:3]:  # the fullest offsets; repeated hashes may deceive one of them
            if around[peak] < LEAST_VOTES:
                return None
            agree = np.abs(offset - low - peak) <= 1
            voters = np.unique(anchor[agree])
            if len(voters) < LEAST_VOTES or len(np.unique(voters * HOP * 2 // RATE)) < LEAST_SPREAD:
                continue
            log_chance = float(self._log_chance(track, len(voters), expected, span, comparisons))
            if log_chance > np.log(FALSE_HITS):
                continue
            start = float(np.average(offset[agree]))
            both = (moments >= -start - 1) & (moments <= self.ends[track] - start + 1)
            share = len(voters) / max(1, int(both.sum()))
            if share < LEAST_SHARE:
                continue
            return Match(track, start * HOP / RATE, len(voters), share, float(np.exp(max(log_chance, -700.0))))
        return None


def _likely(track: Ints, offset: Ints) -> Ints:
    """The tracks with the most hits at one offset: `LIKELY`, and all that have half as many as the first."""
    _, names, _, _, fullest = _grouped(track, offset)
    best = np.argsort(-fullest, kind="stable")
    return np.sort(names[best[(np.arange(len(best)) < LIKELY) | (fullest[best] * 2 >= fullest[best[0]])]])


def _grouped(track: Ints, offset: Ints) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """An order by track; its tracks; where each begins and ends in it; the most hits in three neighbouring offsets."""
    together = track * (1 << 32) + offset  # offsets are far below 2³¹ on either side
    order = np.argsort(together)
    together = together[order]
    names, first = np.unique(track[order], return_index=True)
    holds = np.searchsorted(together, together + 2, "right") - np.arange(len(together))
    return order, names, first, np.append(first[1:], len(order)), np.maximum.reduceat(holds, first)
