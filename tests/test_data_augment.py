"""CLMR's augmentations, by physics on synthesised sound and against direct recursions."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from groundbass.data.augment.chain import (
    Augmentation,
    Chain,
    Delay,
    Draws,
    Gain,
    HighLowPass,
    Noise,
    PitchShift,
    Polarity,
    Reverb,
    clmr_chain,
    filter_symmetric,
    low_pass_kernel,
)
from groundbass.data.augment.pitch import shift_pitch
from groundbass.data.augment.reverb import ALL_PASSES, COMBS, reverberate

RATE = 22050
SAMPLES = 59049


def tone(hertz: float, samples: int = SAMPLES, rate: int = RATE, partials: int = 1, level: float = 0.3) -> Tensor:
    """[samples] with partials that fall as 1 / n, each at its own phase."""
    time = torch.arange(samples, dtype=torch.float64) / rate
    waves = [torch.sin(2 * math.pi * (n * hertz * time + 0.3 * n * n)) / n for n in range(1, partials + 1)]
    return (level * torch.stack(waves).sum(0)).float()


def noise(batch: int, samples: int = SAMPLES, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(seed))


def seeds(batch: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + batch)


def peak_hertz(waveform: Tensor, near: float, rate: int = RATE, cents: float = 60) -> float:
    """Frequency of the greatest peak within some cents of `near`: FFT with a parabola through three log magnitudes."""
    size = 2**18
    magnitude = torch.fft.rfft(waveform.double() * torch.hann_window(len(waveform), dtype=torch.float64), size).abs()
    low, high = (int(near * 2 ** (side * cents / 1200) * size / rate) for side in (-1, 1))
    k = low + int(magnitude[low : high + 1].argmax())
    a, b, c = magnitude[k - 1 : k + 2].log().tolist()
    return (k + (a - c) / (2 * (a - 2 * b + c))) * rate / size


def decibels(ratio: Tensor | float) -> float:
    return 20 * math.log10(float(ratio))


def augmentations() -> list[Augmentation]:
    """Each of the seven, always applied."""
    return [
        Polarity(p=1),
        Noise(p=1),
        Gain(p=1),
        HighLowPass(RATE, p=1),
        Delay(RATE, p=1),
        PitchShift(RATE, p=1),
        Reverb(RATE, p=1),
    ]


def name(value: object) -> str:
    return type(value).__name__


each = pytest.mark.parametrize("augment", augmentations(), ids=name)


class TestDraws:
    def test_uniform_is_uniform_and_independent_over_seeds_draws_and_salts(self) -> None:
        draws = Draws(seeds(20000), salt=1)
        a, b, c = draws.uniform(), draws.uniform(), Draws(seeds(20000), salt=2).uniform()
        assert a.min() >= 0 and a.max() < 1
        counts = torch.histc(a, 20, 0, 1)
        assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi squared, 19 degrees of freedom: p = 0.0007
        correlations = torch.corrcoef(torch.stack([a[:-1], a[1:], b[1:], c[1:]])) - torch.eye(4)
        assert correlations.abs().max() < 0.03

    def test_integer_reaches_both_ends_evenly(self) -> None:
        drawn = Draws(seeds(7000), salt=3).integer(-3, 3)
        assert sorted(set(drawn.tolist())) == [-3, -2, -1, 0, 1, 2, 3]
        assert torch.bincount(drawn + 3).min() > 850

    def test_normal_has_the_moments_of_a_normal_and_is_white(self) -> None:
        x = Draws(seeds(4), salt=4).normal(50000).double()
        assert x.mean().abs() < 0.01 and abs(x.std() - 1) < 0.01
        assert abs((x**4).mean() - 3) < 0.1
        assert (x[:, 1:] * x[:, :-1]).mean().abs() < 0.01
        assert torch.corrcoef(x).fill_diagonal_(0).abs().max() < 0.02

    def test_matches_splitmix64(self) -> None:
        """The published first outputs of SplitMix64 from seed 1234567."""
        expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
        draws = Draws(torch.tensor([0]), salt=0)
        draws.keys = torch.tensor([1234567])
        assert [int(draws._next()) % 2**64 for _ in range(4)] == expected


class TestContract:
    @each
    def test_shape_type_and_input_untouched(self, augment: Augmentation) -> None:
        waveform = noise(3, 20000)
        before = waveform.clone()
        out = augment(waveform, seeds(3))
        assert out.shape == waveform.shape and out.dtype == torch.float32
        assert torch.isfinite(out).all() and torch.equal(waveform, before)
        assert (out != before).any(1).all()

    @each
    def test_item_depends_on_its_seed_alone(self, augment: Augmentation) -> None:
        waveform = noise(8, 30000)
        together = augment(waveform, seeds(8))
        alone = torch.cat([augment(waveform[k : k + 1], seeds(1, k)) for k in range(8)])
        # Fourier transforms of another batch size round differently on some processors
        assert torch.allclose(together, alone, atol=1e-4)
        assert torch.equal(together, augment(waveform, seeds(8)))

    def test_chain_item_depends_on_its_seed_alone(self) -> None:
        chain, waveform = clmr_chain(RATE), noise(8)
        waveform[4:] = torch.stack([tone(220 * k, partials=5) for k in range(1, 5)])
        together = chain(waveform, seeds(8))
        order = torch.tensor([5, 0, 7, 2, 1, 6, 3, 4])
        alone = torch.cat([chain(waveform[k : k + 1], seeds(1, k)) for k in range(8)])
        # rounding (see above), which the pitch shift of noise enlarges: 3e-4 was seen
        assert torch.allclose(together, alone, atol=2e-3)
        assert torch.allclose(together[order], chain(waveform[order], seeds(8)[order]), atol=2e-3)
        assert not torch.allclose(together, chain(waveform, seeds(8, 100)), atol=5e-2)

    @each
    @pytest.mark.parametrize("samples", [1, 7, 1000, 5000])
    def test_short_crops(self, augment: Augmentation, samples: int) -> None:
        out = augment(noise(2, samples), seeds(2))
        assert out.shape == (2, samples) and torch.isfinite(out).all()

    @each
    def test_silence_stays_silent(self, augment: Augmentation) -> None:
        assert torch.equal(augment(torch.zeros(2, 20000), seeds(2)).abs(), torch.zeros(2, 20000))

    @pytest.mark.parametrize("p", [0.0, 0.3, 0.8])
    def test_probability(self, p: float) -> None:
        waveform = torch.ones(4000, 1)
        share = (Polarity(p)(waveform, seeds(4000)) < 0).float().mean()
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / 4000)

    def test_chain_skips_what_it_should(self) -> None:
        """Over many seeds, the published share of items with a sign turned, and with a gain."""
        chain = Chain(Polarity(), Gain())
        out = chain(torch.ones(4000, 2), seeds(4000))[:, 0]
        assert abs((out < 0).float().mean() - 0.8) < 0.03
        assert abs((out.abs() < 1).float().mean() - 0.3) < 0.03
        both = ((out < 0) & (out.abs() < 1)).float().mean()
        assert abs(both - 0.24) < 0.03  # independent

    def test_two_of_a_kind_draw_apart(self) -> None:
        out = Chain(Polarity(0.5), Polarity(0.5))(torch.ones(2000, 1), seeds(2000))
        assert abs((out < 0).float().mean() - 0.5) < 0.05

    def test_leaving_pitch_out_keeps_the_other_draws(self) -> None:
        waveform = noise(16, 8000)
        unshifted = (PitchShift(RATE)(waveform, seeds(16)) == waveform).all(1)
        full, without = clmr_chain(RATE)(waveform, seeds(16)), clmr_chain(RATE, pitch=False)(waveform, seeds(16))
        assert 0 < unshifted.sum() < 16
        assert torch.allclose(full[unshifted], without[unshifted], atol=1e-6)
        assert (full[~unshifted] - without[~unshifted]).abs().amax(1).min() > 1e-3

    def test_published_order_and_probabilities(self) -> None:
        steps = [(name(step), step.p) for step in clmr_chain(RATE).augmentations]  # type: ignore[union-attr]
        assert steps == [
            ("Polarity", 0.8),
            ("Noise", 0.01),
            ("Gain", 0.3),
            ("HighLowPass", 0.8),
            ("Delay", 0.3),
            ("PitchShift", 0.6),
            ("Reverb", 0.6),
        ]

    def test_no_gradient_and_no_state(self) -> None:
        chain = clmr_chain(RATE)
        out = chain(noise(4, 8000).requires_grad_(), seeds(4))
        assert not out.requires_grad
        assert not chain.state_dict() and not list(chain.parameters())

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self) -> None:
        chain, waveform = clmr_chain(RATE), noise(16)
        waveform[8:] = torch.stack([tone(110 * k, partials=5) for k in range(1, 9)])
        difference = chain(waveform.cuda(), seeds(16).cuda()).cpu() - chain(waveform, seeds(16))
        assert difference.std(1).max() < 2e-3 * waveform.std()


class TestBadInput:
    @pytest.mark.parametrize("p", [-0.1, 1.5, math.nan])
    def test_probability(self, p: float) -> None:
        with pytest.raises(ValueError, match=f"p is {p:g}"):
            Gain(p)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Gain(decibels=(-1, -20)), "decibels is -1 to -20"),
            (lambda: Noise(ratio=(math.nan, 1)), "ratio is nan to 1"),
            (lambda: PitchShift(RATE, cents=(-7000, 700)), "cents is -7000 to 700"),
            (lambda: PitchShift(RATE, cents=(-0.5, 700)), "whole"),  # type: ignore[arg-type]
            (lambda: PitchShift(0), "sample_rate is 0"),
            (lambda: HighLowPass(6000), "low_pass is 2200 to 4000"),
            (lambda: Delay(RATE, milliseconds=()), "milliseconds is empty"),
            (lambda: Delay(RATE, milliseconds=(-5,)), "milliseconds is -5"),
            (lambda: Reverb(RATE, room=(0, 101)), "room is 0 to 101"),
            (lambda: Reverb(RATE, wet=-1), "wet is -1"),
        ],
    )
    def test_parameters(self, make: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make()  # type: ignore[operator]

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_waveform_names_item_and_value(self, bad: float) -> None:
        waveform = noise(4, 100)
        waveform[2, 50] = bad
        with pytest.raises(ValueError, match=f"item 2 holds {bad}"):
            clmr_chain(RATE)(waveform, seeds(4))

    def test_shapes_and_types(self) -> None:
        for waveform in (torch.zeros(10), torch.zeros(2, 1, 10), torch.zeros(2, 0), torch.zeros(2, 10).double()):
            with pytest.raises(ValueError, match="give float32"):
                Gain()(waveform, seeds(2))
        for wrong in (seeds(3), torch.zeros(2)):
            with pytest.raises(ValueError, match="give int64"):
                Gain()(torch.zeros(2, 10), wrong)


class TestLevels:
    def test_polarity_negates_exactly(self) -> None:
        waveform = noise(3, 100)
        assert torch.equal(Polarity(p=1)(waveform, seeds(3)), -waveform)

    def test_gain_covers_its_decibels(self) -> None:
        waveform = noise(500, 64)
        out = Gain(p=1)(waveform, seeds(500))
        levels = 20 * torch.log10(out.std(1) / waveform.std(1))
        assert levels.min() >= -20.01 and levels.max() <= -0.99
        assert levels.min() < -19.5 and levels.max() > -1.5 and abs(levels.mean() + 10.5) < 1
        assert torch.allclose(out / waveform, (out / waveform)[:, :1].expand(-1, 64), rtol=1e-4)

    def test_noise_is_a_share_of_the_item_s_own_level(self) -> None:
        level = torch.tensor([[1.0], [0.01]]).repeat(100, 1)
        waveform = level * tone(440, 4000, level=math.sqrt(2))
        share = (Noise(p=1)(waveform, seeds(200)) - waveform).std(1) / level[:, 0]
        assert share.min() > 0.9e-4 and share.max() < 1.05e-2
        for half in (share[::2], share[1::2]):
            assert abs(half.mean() - 5.05e-3) < 9e-4

    def test_fixed_noise_level(self) -> None:
        waveform = tone(440, 20000)[None]
        added = Noise(p=1, ratio=(0.1, 0.1))(waveform, seeds(1)) - waveform
        assert abs(added.std() / waveform.std() / 0.1 - 1) < 0.02
        spectrum = torch.fft.rfft(added[0]).abs()[1:-1].square().view(-1, 909).mean(1)
        assert spectrum.max() / spectrum.min() < 1.5  # white


class TestHighLowPass:
    @pytest.mark.parametrize("cutoff", [200.0, 1200.0, 2200.0, 4000.0])
    def test_pass_band_cut_off_and_stop_band(self, cutoff: float) -> None:
        kernel = low_pass_kernel(torch.tensor([cutoff / RATE]), 200 / RATE)
        delta = torch.zeros_like(kernel)
        delta[0, kernel.shape[1] // 2] = 1
        for kernel_, sign in ((kernel, 1), (delta - kernel, -1)):
            for octaves, least, greatest in ((-1, -1, 1), (-0.5, -1, 1), (0, -7, -5), (0.5, -200, -35), (1, -200, -40)):
                hertz = cutoff * 2 ** (sign * octaves)
                waveform = tone(hertz)[None]
                out = filter_symmetric(waveform, kernel_)
                level = decibels(out[0, 5000:-5000].std() / waveform[0, 5000:-5000].std())
                assert least < level < greatest, (hertz, level)

    def test_kernel_is_julius_formula(self) -> None:
        for cutoff in (201.3 / RATE, 777.7 / RATE, 3999 / RATE):
            half = int(8 / cutoff / 2)
            time = torch.arange(-half, half + 1).double()
            window = torch.hann_window(2 * half + 1, periodic=False, dtype=torch.float64)
            expected = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
            expected /= expected.sum()
            kernel = low_pass_kernel(torch.tensor([cutoff]), 200 / RATE)[0]
            middle = len(kernel) // 2
            assert torch.allclose(kernel[middle - half : middle + half + 1].double(), expected, atol=1e-6)
            assert kernel[: middle - half].abs().sum() == 0

    @pytest.mark.parametrize("samples", [1, 500, 3214, 3215, 10000])
    def test_filter_is_a_convolution_with_the_edges_going_on(self, samples: int) -> None:
        waveform, kernel = noise(2, samples), low_pass_kernel(torch.tensor([0.02, 0.1]), 0.01)
        half = kernel.shape[1] // 2
        padded = torch.nn.functional.pad(waveform[:, None], (half, half), mode="replicate")
        expected = torch.cat([torch.nn.functional.conv1d(padded[k : k + 1], kernel[k][None, None]) for k in (0, 1)])
        assert torch.allclose(filter_symmetric(waveform, kernel), expected[:, 0], atol=1e-6)

    def test_half_of_the_items_are_high_passed_in_the_published_ranges(self) -> None:
        """A click's spectrum is the filter's: where it is 6 dB down is the cut-off, and 0 Hz tells which kind it is."""
        click = torch.zeros(400, 4096)
        click[:, 2048] = 1
        gain = torch.fft.rfft(HighLowPass(RATE, p=1)(click, seeds(400))).abs()
        high = gain[:, 0] < 0.5
        assert abs(high.float().mean() - 0.5) < 0.1
        crossing = torch.where(high[:, None], gain > 0.5, gain < 0.5).float().argmax(1) * RATE / 4096
        assert 190 < crossing[high].min() < 260 and 1140 < crossing[high].max() < 1210
        assert 2190 < crossing[~high].min() < 2300 and 3900 < crossing[~high].max() < 4010


class TestDelay:
    def test_echo_at_the_delay(self) -> None:
        click = torch.zeros(300, 12000)
        click[:, 100] = 1
        out = Delay(RATE, p=1)(click, seeds(300))
        assert torch.equal(out[:, 100], torch.full((300,), 0.5))
        assert torch.equal(out.topk(2, 1).values[:, 1], torch.full((300,), 0.25))
        assert (out != 0).sum() == 600
        offsets = set((out.topk(2, 1).indices[:, 1] - 100).tolist())
        assert offsets == {int(ms * RATE / 1000) for ms in range(200, 451, 50)}  # 350 ms: 7,717 samples, as published

    def test_autocorrelation_of_noise_peaks_at_the_delay(self) -> None:
        out = Delay(RATE, p=1, milliseconds=(250,))(noise(1), seeds(1))[0]
        correlation = torch.fft.irfft(torch.fft.rfft(out, 2 * SAMPLES).abs().square())[1000:20000]
        assert int(correlation.argmax()) + 1000 == round(0.25 * RATE)


GRID = [-700, -613, -350, -101, -50, -7, 0, 1, 13, 99, 250, 333, 517, 700]


class TestPitch:
    @pytest.mark.parametrize("hertz", [82.4, 220.0, 659.3, 2093.0, 5000.0])
    def test_sine_moves_by_the_cents(self, hertz: float) -> None:
        out = shift_pitch(tone(hertz).expand(len(GRID), -1), torch.tensor(GRID), RATE)
        for cents, shifted in zip(GRID, out, strict=True):
            expected = hertz * 2 ** (cents / 1200)
            assert abs(1200 * math.log2(peak_hertz(shifted, expected) / expected)) < 2, cents
            assert abs(decibels(shifted.std() / tone(hertz).std())) < 0.5, cents

    @pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100])
    def test_other_rates(self, rate: int) -> None:
        for cents in (-700, 123, 700):
            out = shift_pitch(tone(330, 2 * rate, rate, partials=4)[None], torch.tensor([cents]), rate)[0]
            expected = 330 * 2 ** (cents / 1200)
            assert abs(1200 * math.log2(peak_hertz(out, expected, rate) / expected)) < 3

    @pytest.mark.parametrize("chord", [(130.8, 155.6, 196.0), (130.8, 164.8, 196.0, 233.1), (65.4, 98.0, 329.6)])
    def test_each_note_of_a_chord_moves_by_the_cents(self, chord: tuple[float, ...]) -> None:
        waveform = torch.stack([tone(hertz, partials=6, level=0.1) for hertz in chord]).sum(0)
        grid = [-700, -345, 57, 400, 700]
        for cents, shifted in zip(grid, shift_pitch(waveform.expand(5, -1), torch.tensor(grid), RATE), strict=True):
            for hertz in chord:
                expected = hertz * 2 ** (cents / 1200)
                assert abs(1200 * math.log2(peak_hertz(shifted, expected) / expected)) < 5, (cents, hertz)
            assert abs(decibels(shifted.std() / waveform.std())) < 0.5

    def test_spectrum_stays_clean(self) -> None:
        """What a shifted tone has away from its frequency is 50 dB down: no images, no phase jumps."""
        window = torch.hann_window(50000)
        for cents in (-700, -33, 450, 700):
            out = shift_pitch(tone(1500)[None], torch.tensor([cents]), RATE)[0, 4500:54500]
            power = torch.fft.rfft(out.double() * window).abs().square()
            peak = int(power.argmax())
            away = torch.cat([power[: peak - 40], power[peak + 41 :]]).sum()
            assert 10 * math.log10(away / power.sum()) < -50

    def test_what_would_alias_is_removed(self) -> None:
        out = shift_pitch(tone(9500)[None], torch.tensor([700]), RATE)[0]
        assert decibels(out[5000:-5000].std() / tone(9500).std()) < -40

    @pytest.mark.parametrize("cents", [-700, -200, 300, 700])
    def test_clicks_keep_their_spacing(self, cents: int) -> None:
        places = torch.arange(4000, 56000, 8000)
        clicks = torch.zeros(1, SAMPLES)
        clicks[0, places] = 1
        out = shift_pitch(clicks, torch.tensor([cents]), RATE)[0]
        found = torch.tensor([int(out[k - 2000 : k + 2000].abs().argmax()) + k - 2000 for k in places.tolist()])
        assert (found - places).abs().max() < 0.028 * RATE  # an attack smears by a part of the window
        slope = (found - found.float().mean()) @ (places - places.float().mean())
        slope /= (places - places.float().mean()).square().sum()
        assert abs(slope - 1) < 0.01  # the tempo stays

    def test_no_gap_at_the_ends_and_level_of_noise(self) -> None:
        out = shift_pitch(noise(1).expand(5, -1), torch.tensor([-700, -350, 5, 350, 700]), RATE)
        assert (20 * torch.log10(out.std(1) / noise(1).std())).abs().max() < 3
        whole = shift_pitch(tone(300, partials=8).expand(5, -1), torch.tensor([-700, -350, 5, 350, 700]), RATE)
        for end in (whole[:, :1000], whole[:, -1000:]):
            assert (20 * torch.log10(end.std(1) / tone(300, partials=8).std())).abs().max() < 2

    def test_zero_cents_changes_nothing_below_the_filter(self) -> None:
        waveform = tone(440, partials=10)[None]
        changed = shift_pitch(waveform, torch.tensor([0]), RATE) - waveform
        assert changed[0, 500:-500].abs().max() < 5e-4  # the filter rings at the cut ends

    def test_sound_after_digital_silence(self) -> None:
        waveform = tone(440, partials=4)[None].clone()
        waveform[:, :30000] = 0
        out = shift_pitch(waveform, torch.tensor([500]), RATE)[0]
        expected = 440 * 2 ** (500 / 1200)
        assert out[:26000].abs().max() < 1e-4
        assert abs(1200 * math.log2(peak_hertz(out[32000:], expected) / expected)) < 3
        assert abs(decibels(out[33000:].std() / waveform[0, 33000:].std())) < 1

    def test_level_of_the_input_does_not_matter(self) -> None:
        waveform = tone(440, 20000, partials=5)[None] + noise(1, 20000)
        loud = shift_pitch(waveform, torch.tensor([300]), RATE)
        assert torch.allclose(shift_pitch(waveform * 1e-3, torch.tensor([300]), RATE) * 1e3, loud, atol=1e-4)

    def test_augmentation_draws_whole_cents_over_the_range(self) -> None:
        waveform = tone(1000, 16384).expand(24, -1)
        out = PitchShift(RATE, p=1)(waveform, seeds(24))
        cents = torch.tensor([1200 * math.log2(peak_hertz(item, 1000, cents=800) / 1000) for item in out])
        assert cents.abs().max() < 702 and cents.min() < -450 and cents.max() > 450
        assert (cents - cents.round()).abs().max() < 0.3


def recursion(waveform: list[float], reverberance: float, damping: float, room: float) -> list[float]:
    """Freeverb sample by sample, as in sox's reverb.c: what the room adds, before the wet gain."""
    a = -1 / math.log(0.7)
    b = 100 / (math.log(0.02) * a + 1)
    keep, pole = 1 - math.exp((reverberance - b) / (a * b)), damping * 0.003 + 0.2
    total = [0.0] * len(waveform)
    for comb in COMBS:
        line, place, store = [0.0] * int((room * 0.009 + 0.1) * RATE / 44100 * comb + 0.5), 0, 0.0
        for n, x in enumerate(waveform):
            out = line[place]
            store = out + (store - out) * pole
            line[place] = x + store * keep
            place = (place + 1) % len(line)
            total[n] += out
    for all_pass in ALL_PASSES:
        line, place = [0.0] * int(RATE / 44100 * all_pass + 0.5), 0
        for n, x in enumerate(total):
            out = line[place]
            line[place] = x + out * 0.5
            place = (place + 1) % len(line)
            total[n] = out - x
    return total


def impulse_response(reverberance: float, damping: float, room: float, samples: int = SAMPLES) -> Tensor:
    click = torch.zeros(1, samples)
    click[0, 0] = 1
    scales = (torch.tensor([value]) for value in (reverberance, damping, room))
    return reverberate(click, RATE, *scales)[0] - click[0]


def decay_seconds(response: Tensor) -> float:
    """Time over which all but a thousandth of the energy has passed."""
    energy = response.double().square().cumsum(0)
    return int((energy > 0.999 * energy[-1]).float().argmax()) / RATE


class TestReverb:
    @pytest.mark.parametrize("scales", [(0, 0, 0), (50, 50, 50), (80, 10, 30), (99, 99, 99)])
    def test_equals_the_recursion(self, scales: tuple[float, float, float]) -> None:
        waveform = noise(1, 6000)
        expected = torch.tensor(recursion(waveform[0].tolist(), *scales)) * 0.015
        out = reverberate(waveform, RATE, *(torch.tensor([value]) for value in scales)) - waveform
        assert (out[0] - expected).abs().max() < 2e-3 * expected.abs().max()

    def test_response_is_causal(self) -> None:
        click = torch.zeros(1, SAMPLES)
        click[0, 30000] = 1
        out = reverberate(click, RATE, torch.tensor([99]), torch.tensor([0]), torch.tensor([99]))[0]
        assert out[:30000].abs().max() < 1e-3 * (out[30001:]).abs().max()
        first = int(1116 / 2 * (99 * 0.009 + 0.1))
        assert out[30001 : 30000 + first - 2].abs().max() < 1e-3 * out[30001:].abs().max()

    def test_decay_grows_with_reverberance_and_room(self) -> None:
        by_reverberance = [decay_seconds(impulse_response(value, 50, 50)) for value in (0, 30, 60, 90)]
        by_room = [decay_seconds(impulse_response(50, 50, value)) for value in (0, 30, 60, 99)]
        for times in (by_reverberance, by_room):
            assert all(later > 1.2 * sooner for sooner, later in pairwise(times)), times

    def test_damping_makes_the_tail_dull(self) -> None:
        tails = [torch.fft.rfft(impulse_response(70, value, 50)[1000:4000]).abs().square() for value in (0, 50, 99)]
        treble = [float(tail[400:].sum() / tail[:100].sum()) for tail in tails]
        assert treble[0] > 1.2 * treble[1] > 1.44 * treble[2], treble

    def test_wet_zero_is_dry_and_wet_scales(self) -> None:
        waveform = noise(2, 8000)
        assert torch.equal(Reverb(RATE, p=1, wet=0)(waveform, seeds(2)), waveform)
        half, full = (Reverb(RATE, p=1, wet=wet)(waveform, seeds(2)) - waveform for wet in (0.5, 1))
        assert torch.allclose(2 * half, full, atol=1e-6)

    def test_level_stays_moderate(self) -> None:
        waveform = noise(32, 30000)
        out = Reverb(RATE, p=1)(waveform, seeds(32))
        levels = 20 * torch.log10(out.std(1) / waveform.std(1))
        assert levels.min() > -0.5 and levels.max() < 6
