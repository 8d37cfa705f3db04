"""CLMR's chain of augmentations (Spijkervet & Burgoyne 2021), batched, on the device of the waveform.

Probabilities and ranges are those of CLMR v2: the config of github.com/Spijkervet/CLMR (423414d) with the parameters
of github.com/Spijkervet/torchaudio-augmentations (891b3b6). Each item draws from its own seed by a counter and an
integer hash, so its result depends neither on its neighbours in the batch nor on the device (but for rounding); only
the items that an augmentation applies to are computed.

Three differences from the published code: the pitch shift is a phase vocoder (`pitch.py`), not sox's overlap-add;
nothing is clipped to ±1 (sox does, after pitch shift and reverb); and the reverb is one filter bank, where sox makes a
stereo pair of them that CLMR averages.
"""

import math
import zlib
from collections import Counter
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ..draws import Draws, sent
from .pitch import shift_pitch
from .reverb import reverberate


class Augmentation(nn.Module):
    """Changes each item with probability p. To write one: draw the parameters from `draws` in `change`."""

    def __init__(self, p: float) -> None:
        """p: probability in [0, 1].

        Raises: ValueError for another p.
        """
        super().__init__()
        self.p = check_number("p", p, 0, 1)

    @torch.no_grad()
    def forward(self, waveform: Tensor, seeds: Tensor) -> Tensor:
        """Augment a batch.

        Args:
            waveform: [batch, samples] float32 in [-1, 1]; never written to.
            seeds: int64 [batch], on the CPU: from a GPU they are read back. The same seed and waveform give the same
                result, whatever else is in the batch.

        Returns: [batch, samples] float32; the waveform itself where no item was changed.
        Raises: ValueError for other shapes or types and for a waveform with NaN or infinity.
        """
        check_batch(waveform, seeds)
        return self.augment(waveform, seeds.cpu())

    def augment(self, waveform: Tensor, seeds: Tensor) -> Tensor:
        """`forward` without the checks."""
        draws = Draws(seeds, zlib.crc32(type(self).__name__.encode()), waveform.device)
        chosen = draws.uniform(here=True) < self.p
        if self.p == 1:
            return self.change(waveform, draws)
        index = chosen.nonzero()[:, 0]
        if len(index) == 0:
            return waveform
        rows = sent(index, waveform.device)
        return waveform.index_copy(0, rows, self.change(waveform[rows], draws[index]))

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        """The augmented items [batch, samples], all of them changed."""
        raise NotImplementedError


class Polarity(Augmentation):
    """Turns the waveform upside down."""

    def __init__(self, p: float = 0.8) -> None:
        super().__init__(p)

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        return -waveform


class Noise(Augmentation):
    """Adds white Gaussian noise, its standard deviation a share of the item's own, uniform in `ratio`."""

    def __init__(self, p: float = 0.01, ratio: tuple[float, float] = (1e-4, 1e-2)) -> None:
        super().__init__(p)
        self.ratio = check_range("ratio", ratio, 0, math.inf)

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        deviation = draws.uniform(*self.ratio) * waveform.std(1, correction=0)
        return waveform + draws.normal(waveform.shape[1]) * deviation[:, None]


class Gain(Augmentation):
    """Makes it quieter by a number of decibels, uniform in `decibels`."""

    def __init__(self, p: float = 0.3, decibels: tuple[float, float] = (-20.0, -1.0)) -> None:
        super().__init__(p)
        self.decibels = check_range("decibels", decibels, -200, 200)

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        return waveform * 10 ** (draws.uniform(*self.decibels) / 20)[:, None]


class HighLowPass(Augmentation):
    """A high pass with its cut-off uniform in `high_pass`, or as likely a low pass with its in `low_pass` (Hz).

    No phase shift; the windowed sinc of julius: 6 dB down at the cut-off, 40 dB down from 1.3 times the cut-off on
    (high pass: below 0.7 times).
    """

    def __init__(
        self,
        sample_rate: int,
        p: float = 0.8,
        high_pass: tuple[float, float] = (200.0, 1200.0),
        low_pass: tuple[float, float] = (2200.0, 4000.0),
    ) -> None:
        super().__init__(p)
        self.sample_rate = check_rate(sample_rate)
        # From 10 Hz: the filter's length is 8 periods of the cut-off.
        self.high_pass = check_range("high_pass", high_pass, 10, sample_rate / 2)
        self.low_pass = check_range("low_pass", low_pass, 10, sample_rate / 2)

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        high = draws.uniform() < 0.5
        place = draws.uniform()
        hertz = torch.where(high, _between(place, self.high_pass), _between(place, self.low_pass))
        kernel = low_pass_kernel(hertz / self.sample_rate, min(self.high_pass[0], self.low_pass[0]) / self.sample_rate)
        delta = functional.pad(kernel.new_ones(1), (kernel.shape[1] // 2,) * 2)
        return filter_symmetric(waveform, torch.where(high[:, None], delta - kernel, kernel))


def low_pass_kernel(cutoff: Tensor, least: float) -> Tensor:
    """[batch, taps], symmetric: sinc in a Hann window of 8 zero crossings (julius `LowPassFilters`), its sum 1.

    cutoff: [batch] cycles per sample. least: no cut-off is below it; it fixes the number of taps (0 at the edges).
    """
    half = int(4 / least) + 1
    time = torch.arange(-half, half + 1, device=cutoff.device)
    cutoff = cutoff[:, None]
    width = torch.floor(4 / cutoff)
    window = torch.cos(time * (math.pi / 2) / width).square() * (time.abs() <= width)
    kernel = window * torch.sinc(2 * cutoff * time)
    return kernel / kernel.sum(1, keepdim=True)


def filter_symmetric(waveform: Tensor, kernel: Tensor) -> Tensor:
    """Each item [batch, samples] through its own filter [batch, odd taps], centred; beyond the ends the edges go on.

    Overlap-save: FFTs of a few thousand samples stay in the cache.
    """
    samples = waveform.shape[1]
    taps = kernel.shape[1]
    size = 2 ** math.ceil(math.log2(4 * taps))
    step = size - taps + 1
    count = math.ceil(samples / step)
    before = waveform[:, :1].expand(-1, taps // 2)
    after = waveform[:, -1:].expand(-1, count * step - samples + taps // 2)
    blocks = torch.cat([before, waveform, after], 1).unfold(1, size, step)
    spectrum = torch.fft.rfft(blocks) * torch.fft.rfft(kernel, size)[:, None]
    filtered = torch.fft.irfft(spectrum, size)[..., taps - 1 :]
    return rearrange(filtered, "batch blocks step -> batch (blocks step)")[:, :samples]


class Delay(Augmentation):
    """Adds an echo: the mean of the waveform and `wet` times itself, one of `milliseconds` later (all as likely)."""

    def __init__(
        self,
        sample_rate: int,
        p: float = 0.3,
        milliseconds: Sequence[float] = (200, 250, 300, 350, 400, 450),
        wet: float = 0.5,
    ) -> None:
        super().__init__(p)
        self.sample_rate = check_rate(sample_rate)
        if not milliseconds:
            raise ValueError("milliseconds is empty: give at least one delay.")
        self.milliseconds = tuple(check_number("milliseconds", ms, 0, 1e6) for ms in milliseconds)
        self.wet = check_number("wet", wet, -1, 1)

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        samples = [int(ms * self.sample_rate / 1000) for ms in self.milliseconds]  # 350 ms truncates, as CLMR's
        chosen = draws.integer(0, len(samples) - 1, here=True)
        offset = sent(torch.tensor(samples)[chosen], waveform.device)
        source = torch.arange(waveform.shape[1], device=waveform.device) - offset[:, None]
        echo = waveform.gather(1, source.clamp(min=0)).masked_fill_(source < 0, 0)
        return (waveform + echo * self.wet) / 2


class PitchShift(Augmentation):
    """Moves the pitch by a whole number of cents, all in `cents` as likely; the duration stays (`shift_pitch`)."""

    def __init__(self, sample_rate: int, p: float = 0.6, cents: tuple[int, int] = (-700, 700)) -> None:
        super().__init__(p)
        self.sample_rate = check_rate(sample_rate)
        self.cents = _whole("cents", check_range("cents", cents, -1200, 1200))

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        return shift_pitch(waveform, draws.integer(*self.cents, here=True), self.sample_rate)


class Reverb(Augmentation):
    """Adds reverberation, each parameter a whole number, all as likely, on sox's scales of 0 to 100 (`reverberate`)."""

    def __init__(
        self,
        sample_rate: int,
        p: float = 0.6,
        reverberance: tuple[int, int] = (0, 99),
        damping: tuple[int, int] = (0, 99),
        room: tuple[int, int] = (0, 99),
        wet: float = 1.0,
    ) -> None:
        super().__init__(p)
        self.sample_rate = check_rate(sample_rate)
        self.reverberance = _whole("reverberance", check_range("reverberance", reverberance, 0, 100))
        self.damping = _whole("damping", check_range("damping", damping, 0, 100))
        self.room = _whole("room", check_range("room", room, 0, 100))
        self.wet = check_number("wet", wet, 0, 100)

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        reverberance, damping = draws.integer(*self.reverberance), draws.integer(*self.damping)
        room = draws.integer(*self.room)
        return reverberate(waveform, self.sample_rate, reverberance, damping, room, self.wet)


class Chain(Augmentation):
    """Augmentations one after the other. Two of the same class draw different numbers."""

    def __init__(self, *augmentations: Augmentation, p: float = 1.0) -> None:
        """p: probability that an item goes through the chain at all."""
        super().__init__(p)
        self.augmentations = nn.ModuleList(augmentations)

    def change(self, waveform: Tensor, draws: Draws) -> Tensor:
        seen: Counter[type[nn.Module]] = Counter()
        for augmentation in self.augmentations:
            assert isinstance(augmentation, Augmentation)
            repeat = seen[type(augmentation)]
            seen[type(augmentation)] += 1
            waveform = augmentation.augment(waveform, draws.again(repeat))
        return waveform


def clmr_chain(sample_rate: int, pitch: bool = True) -> Chain:
    """The published chain: polarity, noise, gain, high or low pass, delay, pitch shift, reverb.

    Args:
        sample_rate: Hz; CLMR's is 22,050.
        pitch: False leaves the pitch shift out, which teaches an encoder to ignore pitch and key; the other
            augmentations draw the same numbers.
    """
    shift = [PitchShift(sample_rate)] if pitch else []
    before = (Polarity(), Noise(), Gain(), HighLowPass(sample_rate), Delay(sample_rate))
    return Chain(*before, *shift, Reverb(sample_rate))


def check_batch(waveform: Tensor, seeds: Tensor) -> None:
    """Raise ValueError unless waveform is finite float32 [batch, samples] and seeds int64 [batch]."""
    if waveform.ndim != 2 or waveform.shape[1] == 0 or waveform.dtype != torch.float32:
        got = f"{waveform.dtype} {list(waveform.shape)}"
        raise ValueError(f"The waveform is {got}: give float32 [batch, samples] with at least one sample.")
    if seeds.dtype != torch.int64 or seeds.shape != waveform.shape[:1]:
        got = f"{seeds.dtype} {list(seeds.shape)}"
        raise ValueError(f"The seeds are {got}: give int64 [{waveform.shape[0]}], one for each item.")
    total = waveform.sum(1)  # NaN and infinity survive a sum
    if not bool(torch.isfinite(total).all()):
        item = int((~torch.isfinite(total)).nonzero()[0])
        value = float(waveform[item][~torch.isfinite(waveform[item])][0])
        raise ValueError(f"The waveform of item {item} holds {value}: give finite samples.")


def check_number(name: str, value: float, least: float, greatest: float) -> float:
    """The value as a float, after checking least <= value <= greatest (which NaN fails)."""
    if not least <= value <= greatest:
        raise ValueError(f"{name} is {value:g}: give a number from {least:g} to {greatest:g}.")
    return float(value)


def check_range(name: str, limits: tuple[float, float], least: float, greatest: float) -> tuple[float, float]:
    """`limits` as floats, after checking least <= limits[0] <= limits[1] <= greatest (which NaN fails)."""
    low, high = (float(limit) for limit in limits)
    if not least <= low <= high <= greatest:
        numbers = f"two numbers from {least:g} to {greatest:g}, the lower one first"
        raise ValueError(f"{name} is {low:g} to {high:g}: give {numbers}.")
    return low, high


def check_rate(sample_rate: int) -> int:
    """The sample rate in Hz, after checking that it is one."""
    return int(check_number("sample_rate", sample_rate, 1000, 1e6))


def _whole(name: str, limits: tuple[float, float]) -> tuple[int, int]:
    if any(limit % 1 for limit in limits):
        raise ValueError(f"{name} is {limits[0]:g} to {limits[1]:g}: give whole numbers.")
    return int(limits[0]), int(limits[1])


def _between(place: Tensor, limits: tuple[float, float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * place
