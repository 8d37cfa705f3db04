"""Pictures that are changed alike: transposition, speed and colour do what they say, each clip by its own seed."""

import math

import pytest
import torch
from torch import Tensor

from groundbass.data.labels.kinds.key import TONICS
from groundbass.models.cqt import MAX_SHIFT
from groundbass.pretrain.objectives.labelled import LabelledConfig
from groundbass.pretrain.objectives.parts.cqt_shape import CqtShape
from groundbass.pretrain.objectives.parts.label_targets import Clips, LabelTask, meet
from groundbass.pretrain.objectives.parts.picture_augment import Changed, PictureAugment, change

HERTZ = torch.linspace(40.0, 10_900.0, 81)
SEEDS = torch.arange(8)


RATE, HOP = 24_000, 960


def pictures(frames: int = 100) -> tuple[Tensor, Tensor]:
    generator = torch.manual_seed(0)
    return 3 * torch.rand(8, frames, 192, generator=generator), 2 * torch.rand(8, 2 * frames, 81, generator=generator)


def test_nothing_asked_changes_nothing() -> None:
    cqt, mel = pictures()
    valid = torch.tensor([100] * 7 + [60])
    same = change(cqt, mel, valid, SEEDS, PictureAugment(), HERTZ)
    assert same.cqt[:7].equal(cqt[:7])
    assert same.mel is not None and same.mel[7, :120].equal(mel[7, :120])
    assert not same.cqt[7, 60:].any() and not same.mel[7, 120:].any()
    assert same.semitones.tolist() == [0] * 8 and same.speed.tolist() == [1.0] * 8


def test_a_faster_clip_has_its_events_earlier() -> None:
    cqt, mel = torch.zeros(8, 200, 192), torch.zeros(8, 400, 81)
    cqt[:, 60:62], mel[:, 120:124] = 1.0, 1.0  # at 61 frames
    changed = change(cqt, mel, torch.full((8,), 200), SEEDS, PictureAugment(speed=0.3), HERTZ)
    assert changed.mel is not None
    assert changed.speed.min() < 0.95 and changed.speed.max() > 1.05
    for item, speed in enumerate(changed.speed.tolist()):
        for picture, rate in ((changed.cqt, 1), (changed.mel, 2)):
            loud = picture[item].mean(1)
            centre = float(((torch.arange(len(loud)) + 0.5) * loud).sum() / loud.sum()) / rate
            assert abs(centre - 61 / speed) < 0.6
        assert int(changed.valid[item]) == min(200, int(200 / speed))


def test_out_of_tune_is_a_part_of_a_row() -> None:
    """A note in row 100 moves by less than a row, some clips up and some down; what there is of it stays."""
    cqt, mel = torch.zeros(8, 40, 192), torch.zeros(8, 80, 81)
    cqt[:, :, 100] = 1.0
    changed = change(cqt, mel, torch.full((8,), 40), SEEDS, PictureAugment(cents=50.0), HERTZ)
    centre = (changed.cqt[:, 0] * torch.arange(192)).sum(1) - 100
    assert centre.min() < -0.1 and centre.max() > 0.1 and centre.abs().max() <= 1.0
    torch.testing.assert_close(changed.cqt.sum(2), torch.ones(8, 40))
    assert changed.mel is not None and changed.mel.equal(mel) and changed.semitones.tolist() == [0] * 8
    with pytest.raises(ValueError, match="cents is 60"):
        PictureAugment(cents=60)


def test_colour_is_a_recording_chain() -> None:
    cqt, mel = pictures()
    quiet = PictureAugment(semitones=6, colour=1.0)
    torch.manual_seed(1)
    whole = change(cqt, mel, torch.full((8,), 100), SEEDS, quiet, HERTZ)
    torch.manual_seed(1)
    again = change(cqt, mel, torch.full((8,), 100), SEEDS, quiet, HERTZ)
    assert whole.cqt.equal(again.cqt) and whole.semitones.equal(again.semitones)
    assert len(set(whole.semitones.tolist())) > 3 and int(whole.semitones.abs().max()) <= 6
    assert whole.mel is not None and bool(whole.cqt.isfinite().all()) and float(whole.mel.min()) >= 0.0
    # clips are coloured differently, but each alike over time: what was loud stays loud
    ratio = torch.expm1(whole.cqt).mean((1, 2)) / torch.expm1(cqt).mean((1, 2))
    assert float(ratio.log().std()) > 0.2
    alike = [torch.corrcoef(torch.stack([whole.cqt[k].mean(0), cqt[k].mean(0)]))[0, 1] for k in range(8)]
    assert all(torch.isfinite(torch.stack(alike)))


def test_beats_and_key_follow_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clicks and a tone through the objective itself: targets lie where the changed pictures are loud."""
    times = [0.5, 1.1, 1.7, 2.3, 2.9]
    sound = 0.05 * torch.sin(2 * math.pi * 220.0 * torch.arange(4 * RATE) / RATE)
    for time in times:
        sound[round(time * RATE) : round(time * RATE) + 40] += 0.9
    network = CqtShape(hidden_size=16, num_hidden_layers=1, tonal_channels=(2, 2, 2, 2), rhythm_channels=(2, 2, 2))
    config = LabelledConfig(labels=("key",), network=network, pictures=PictureAugment(semitones=5, speed=0.3))
    objective = config.build().train()
    seen: list[tuple[Tensor, Tensor]] = []
    model = objective.encoder
    encode = model.encode

    def listen(cqt: Tensor, mel: Tensor, inside: Tensor, shift: Tensor, **options: bool) -> object:
        seen.append((model.crop(cqt, shift), mel))
        return encode(cqt, mel, inside, shift, **options)

    monkeypatch.setattr(model, "encode", listen)
    _, frames, changed = objective._hear(sound.repeat(6, 1), torch.full((6,), 4 * RATE), torch.arange(6), False)
    assert isinstance(changed, Changed)
    starts = torch.zeros(6, dtype=torch.float64)
    clips = Clips(starts, 100, RATE / HOP, frames, changed.semitones, changed.speed)
    beats = meet(LabelTask("beats", "beats"), {"beats": {"a": times}}).targets(["a"] * 6, clips)
    keys = meet(LabelTask("key"), {"key": {"a": "A major"}})
    cqt, mel = seen[0]
    for item in range(6):
        loud = mel[item].mean(1).unflatten(0, (-1, 2)).mean(1)
        hits = (beats[item, :, 0] == 1).nonzero().flatten().tolist()
        assert hits and all(
            abs(hit - (int(loud[max(0, hit - 5) : hit + 6].argmax()) + max(0, hit - 5))) <= 1 for hit in hits
        )
        row = int(cqt[item, hits[0] + 6].argmax())
        tonic = keys.names[int(keys.targets(["a"] * 6, clips)[item])].split()[0]
        semitone = round((row + MAX_SHIFT) / 2) + 21  # MIDI
        assert TONICS[semitone % 12] == tonic
