"""Change what a `CqtModel` sees rather than what it hears: exact transposition and speed, and a colour per clip.

The log-CQT and the log-mel picture of a clip are changed alike, in magnitude, as a recording chain would do it: level,
equaliser, band limits, a missing band, reverberation, compression, a noise floor, and something else that plays along
quietly in its own time (another clip of the batch, hissing consonants). Transposing is another crop of the log-CQT's
rows, playing faster another sampling of both pictures' columns, so labels of pitch and time follow exactly and no sound
is resampled. What makes a network trained on rendered music hold on recordings is mostly this.

Draws of a clip depend on its seed alone, but for the noise, which torch's generator draws as it does for dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from ....data.draws import normal, sent, uniform
from ....models.cqt import MAX_SHIFT

OCTAVES = 8.7  # from 27.5 Hz to 11.4 kHz: the equaliser's axis
LOWEST = 27.5
CENTS = 50.0  # a row of the log-CQT
HALVED = "batch (columns pair) -> batch columns"
KNOTS = 14  # of the equaliser's curve


@dataclass(frozen=True)
class PictureAugment:
    """How far clips are changed; all zero leaves them as they are."""

    semitones: int = 0
    """transposed by up to so many semitones, at most 6"""
    cents: float = 0.0
    """out of tune by up to so many cents, at most 50; labels stay"""
    speed: float = 0.0
    """played faster or slower by up to a factor exp(speed)"""
    colour: float = 0.0
    """share of the full strength of level, equaliser, band limits, reverberation, compression and noise"""

    def __post_init__(self) -> None:
        """Refuse what the pictures have no room for."""
        if not 0 <= self.semitones <= MAX_SHIFT // 2:
            raise ValueError(f"semitones is {self.semitones}: the pictures have room for 0 to {MAX_SHIFT // 2}.")
        if not 0.0 <= self.cents <= 50.0:
            raise ValueError(f"cents is {self.cents}: 0 to 50, half a semitone.")
        if not 0.0 <= self.speed <= 0.5:
            raise ValueError(f"speed is {self.speed}: 0 to 0.5, a factor of up to exp(0.5).")
        if not 0.0 <= self.colour <= 2.0:
            raise ValueError(f"colour is {self.colour}: 0 (none) to 2 (twice the usual strength).")

    @property
    def on(self) -> bool:
        """Whether anything is changed."""
        return bool(self.semitones or self.cents or self.speed or self.colour)


class Changed(NamedTuple):
    """What `change` made: pictures, valid frames [batch], semitones up [batch] int64, speed [batch] float64."""

    cqt: Tensor
    mel: Tensor | None
    valid: Tensor
    semitones: Tensor
    speed: Tensor


def change(
    cqt: Tensor, mel: Tensor | None, valid: Tensor, seeds: Tensor, config: PictureAugment, mel_hertz: Tensor
) -> Changed:
    """Change a batch of pictures as `config` says.

    Args:
        cqt: [batch, frames, rows], log(1 + 100 m), 24 rows per octave from 27.5 Hz.
        mel: [batch, 2 · frames, bins], log(1 + m), or None.
        valid: [batch] int64 frames of sound.
        seeds: int64 [batch], one per clip.
        config: how far.
        mel_hertz: [bins] the middle of each mel band in Hz.

    Returns:
        Pictures of the same shape; frames beyond `valid` are zeros. The semitones are to be given to the model's
        `encode` as twice as many bins of shift.
    """
    draws = uniform(seeds, 32).float()
    semitones, speed = _moves(draws, config)
    if config.speed:
        cqt, mel = _played(cqt, speed, 1), None if mel is None else _played(mel, speed, 2)
        valid = played(valid, speed, cqt.shape[1])
    if config.cents:
        cqt = _detuned(cqt, (2 * draws[:, 31] - 1) * (config.cents / CENTS))
    if config.colour:
        cqt, mel = _coloured(cqt, mel, draws[:, 2:], normal(seeds + 1, KNOTS + 4), config.colour, mel_hertz)
    inside = torch.arange(cqt.shape[1], device=cqt.device) < valid[:, None]
    cqt = cqt.masked_fill(~inside[..., None], 0.0)
    mel = None if mel is None else mel.masked_fill(~inside.repeat_interleave(2, 1)[..., None], 0.0)
    return Changed(cqt, mel, valid, semitones, speed)


def moves(seeds: Tensor, config: PictureAugment) -> tuple[Tensor, Tensor]:
    """What `change` does to pitch and time under these seeds int64 [batch]: semitones int64, speed float64, [batch]."""
    return _moves(uniform(seeds, 32).float(), config)


def _moves(draws: Tensor, config: PictureAugment) -> tuple[Tensor, Tensor]:
    semitones = (draws[:, 0] * (2 * config.semitones + 1)).long() - config.semitones
    return semitones, torch.exp((2 * draws[:, 1] - 1) * config.speed).double()


def played(valid: Tensor, speed: Tensor, total: int) -> Tensor:
    """Frames of sound [batch] that are left at another speed, of `total`."""
    return torch.minimum((valid / speed).floor().long().clamp(min=1), torch.full_like(valid, total))


def _played(picture: Tensor, speed: Tensor, columns: int) -> Tensor:
    """[batch, n, rows] at another speed: column k says what was between columns around (k + 1/2) · speed − 1/2."""
    n = picture.shape[1]
    where = (torch.arange(n, device=picture.device) + 0.5) * speed[:, None] - 0.5
    below = where.floor().clamp(0, n - 2)
    share = (where - below).clamp(0, 1).to(picture.dtype)[..., None]
    below = below.long()[..., None].expand(-1, -1, picture.shape[2])
    first, second = picture.gather(1, below), picture.gather(1, below + 1)
    return torch.lerp(first, second, share)


def _detuned(picture: Tensor, rows: Tensor) -> Tensor:
    """[batch, frames, rows] moved up by a part of a row, [batch] in [-1, 1]: a row says what lay between two rows."""
    up, down = rows.clamp(min=0)[:, None, None], (-rows).clamp(min=0)[:, None, None]
    below = torch.cat([picture[..., :1], picture[..., :-1]], -1)
    above = torch.cat([picture[..., 1:], picture[..., -1:]], -1)
    return (1 - up - down) * picture + up * below + down * above


def _coloured(
    cqt: Tensor, mel: Tensor | None, draws: Tensor, normals: Tensor, strength: float, mel_hertz: Tensor
) -> tuple[Tensor, Tensor | None]:
    rows = torch.arange(cqt.shape[2], device=cqt.device) / 24.0  # octaves above 27.5 Hz
    pictures = [(torch.expm1(cqt), rows, 1)]
    if mel is not None:
        pictures.append((torch.expm1(mel), torch.log2(mel_hertz.to(cqt.device) / LOWEST), 2))
    curve = _curve(draws, normals, strength)
    shares = sent(torch.tensor([0.5, 0.5, 0.6, 0.3, 0.2]) * min(strength, 1.0), cqt.device)
    chosen = (draws[:, 10:15] < shares).float()
    loud = pictures[-1][0].square().mean(2).sqrt()  # [batch, columns] of the finer picture
    gain = _compression(loud, draws[:, 15] * chosen[:, 1])
    found = []
    rate = torch.exp(_bursts(loud.shape[1], draws))
    for picture, octaves, columns in pictures:
        picture = _accompanied(picture, draws)
        bands = torch.exp(_at(curve, octaves) + _limits(octaves, draws, chosen) + _notch(octaves, draws))
        level = gain if columns == pictures[-1][2] else reduce(gain, HALVED, "mean", pair=2)
        picture = _reverberated(picture, draws[:, 16], draws[:, 17] * chosen[:, 0], columns)
        picture = picture * bands[:, None] * level[..., None]
        hiss = rate if columns == pictures[-1][2] else reduce(rate, HALVED, "mean", pair=2)
        picture = _hissing(picture, octaves, hiss, draws)
        found.append(torch.log1p(_noisy(picture, octaves, draws, normals, chosen[:, 2])))
    return found[0], found[1] if mel is not None else None


def _curve(draws: Tensor, normals: Tensor, strength: float) -> Tensor:
    """The equaliser, log gain at KNOTS places of the axis, [batch, KNOTS]: level, tilt, a smooth random walk."""
    walk = (0.35 * normals[:, :KNOTS]).cumsum(1)
    walk = walk - walk.mean(1, keepdim=True)
    tilt = torch.linspace(-1, 1, KNOTS, device=draws.device) * 0.6 * normals[:, KNOTS, None]
    return strength * (walk + tilt + 0.6 * normals[:, KNOTS + 1, None])


def _at(curve: Tensor, octaves: Tensor) -> Tensor:
    """The curve [batch, KNOTS] at places of the axis: [batch, bins]."""
    where = (octaves / OCTAVES).clamp(0, 1) * (KNOTS - 1)
    below = where.floor().long().clamp(max=KNOTS - 2)
    return torch.lerp(curve[:, below], curve[:, below + 1], (where - below).to(curve.dtype))


def _limits(octaves: Tensor, draws: Tensor, chosen: Tensor) -> Tensor:
    """Log gain of a low pass from 1.5 to 8 kHz and of a high pass from 40 to 250 Hz, [batch, bins]; about 24 dB/oct."""
    top, bottom = 5.8 + 2.4 * draws[:, 18, None], 0.5 + 2.7 * draws[:, 19, None]
    low_pass = F.softplus(8.0 * (octaves - top)) / 8.0
    high_pass = F.softplus(8.0 * (bottom - octaves)) / 8.0
    return -2.8 * (chosen[:, 3, None] * low_pass + chosen[:, 4, None] * high_pass)


def _notch(octaves: Tensor, draws: Tensor) -> Tensor:
    """Log gain of a band of half an octave to two octaves that is missing in a quarter of the clips, [batch, bins]."""
    centre, width = 0.5 + 7.5 * draws[:, 21, None], 0.25 + 0.75 * draws[:, 22, None]
    deep = 3.5 * (draws[:, 23, None] < 0.25).float()
    return -deep * torch.exp(-(((octaves - centre) / width) ** 4))


def _accompanied(picture: Tensor, draws: Tensor) -> Tensor:
    """Another clip of the batch under a third of the clips, 6 to 20 dB below: what isn't on this clip's beat or key."""
    level = torch.exp(-0.7 - 1.6 * draws[:, 24]) * (draws[:, 25] < 0.35).float()
    other = torch.roll(picture, 1, 0)
    scale = level * picture.mean((1, 2)) / other.mean((1, 2)).clamp(min=1e-6)
    return torch.sqrt(picture.square() + (scale[:, None, None] * other).square())


def _bursts(columns: int, draws: Tensor) -> Tensor:
    """Log level over time of something that comes and goes a few times a second without metre, [batch, columns]."""
    noise = torch.rand(len(draws), 1, columns, device=draws.device)
    smooth = F.avg_pool1d(noise, 7, 1, 3, count_include_pad=False)[:, 0]
    return 18.0 * (smooth - 0.62)


def _hissing(picture: Tensor, octaves: Tensor, rate: Tensor, draws: Tensor) -> Tensor:
    """Bursts of noise around 1.5 to 7 kHz, as of consonants, in a third of the clips."""
    level = picture.mean((1, 2)) * torch.exp(1.2 - 2.5 * draws[:, 26]) * (draws[:, 27] < 0.35).float()
    shape = torch.exp(-(((octaves - (5.7 + 2.3 * draws[:, 28, None])) / 0.8) ** 2))
    noise = -2.0 * torch.rand_like(picture).clamp(min=1e-6).log()
    power = (level[:, None, None] * rate.clamp(max=3.0)[..., None] * shape[:, None]).square() * noise
    return torch.sqrt(picture.square() + power)


def _compression(loud: Tensor, amount: Tensor) -> Tensor:
    """Gain [batch, columns] that lifts what is quiet for a second; amount: [batch], 0 for none."""
    reach = 25
    smooth = F.avg_pool1d(loud[:, None], 2 * reach + 1, 1, reach, count_include_pad=False)[:, 0] + 1e-3
    return (smooth / smooth.mean(1, keepdim=True)) ** (-0.8 * amount[:, None])


def _reverberated(picture: Tensor, length: Tensor, wet: Tensor, columns: int) -> Tensor:
    """Energy that rings on: a geometric tail over 16 columns by doubling; wet: [batch], 0 for none."""
    decay = ((0.3 + 0.55 * length) ** (1 / columns))[:, None, None]
    power = picture.square()
    tail = power
    for step in (1, 2, 4, 8):
        tail = tail + decay**step * F.pad(tail[:, :-step], (0, 0, step, 0))
    tail = (tail - power) * (1 - decay) / decay
    return torch.sqrt(power + 0.9 * wet[:, None, None] * tail)


def _noisy(picture: Tensor, octaves: Tensor, draws: Tensor, normals: Tensor, chosen: Tensor) -> Tensor:
    """A noise floor of random colour, 6 to 40 dB below the picture's mean, added as power."""
    colour = torch.exp(0.8 * normals[:, KNOTS + 2, None] * (octaves / OCTAVES - 0.5))
    level = picture.mean((1, 2)) * torch.exp(-0.7 - 3.8 * draws[:, 20]) * chosen
    shape = (level[:, None] * colour)[:, None]
    noise = -2.0 * torch.rand_like(picture).clamp(min=1e-6).log()  # Rayleigh's square
    return torch.sqrt(picture.square() + shape.square() * noise)
