"""Learning from labels: targets against truth known by hand, what is trained, what is heard, and that it learns."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mir_eval
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from groundbass.data.audio.read import write
from groundbass.data.batch import Batch
from groundbass.data.labels.kinds.chords import CHORDS, chord_class
from groundbass.data.labels.lookup import guess, kind_of
from groundbass.data.track import WEIGHT, Manifest, Track
from groundbass.models.classifier_files import open_classifier
from groundbass.models.encoder import load_encoder
from groundbass.models.head_files import HeadFacts
from groundbass.pretrain.objectives.labelled import (
    Labelled,
    LabelledConfig,
    Mixup,
    SpecAugment,
    depths,
    finetune_debug,
    hear,
    judged,
    spec_augment,
)
from groundbass.pretrain.objectives.parts.label_targets import (
    TARGETS,
    Clips,
    LabelTask,
    meet,
)
from groundbass.pretrain.objectives.parts.weight_averages import MeanOfWeights
from groundbass.pretrain.optim import build
from groundbass.pretrain.recipe import find
from groundbass.pretrain.train import train

RATE = 24_000


def clips(starts: list[float], frames: int = 10, rate: float = 10.0, **more: Any) -> Clips:
    valid = torch.full((len(starts),), frames)
    return Clips(torch.tensor(starts, dtype=torch.float64), frames, rate, more.pop("valid", valid), **more)


def test_beats_lie_in_the_frame_that_holds_them() -> None:
    """Ten frames a second from 2 s on: 2.05 s is in frame 0, 2.31 s in frame 3; twice as fast, 2.31 s is in frame 1."""
    task = LabelTask("beats", beside=0.0)
    answers = meet(task, {"beats": {"a": [0.5, 2.05, 2.31, 3.5]}})
    assert answers.kind.name == "beats"
    assert answers.targets(["a"], clips([2.0]))[0, :, 0].nonzero().flatten().tolist() == [0, 3]
    faster = clips([2.0], speed=torch.tensor([2.0]))
    assert answers.targets(["a"], faster)[0, :, 0].nonzero().flatten().tolist() == [0, 1, 7]
    padded = answers.targets(["a", "b"], clips([2.0, 0.0], valid=torch.tensor([3, 10])))[..., 0]
    assert torch.isnan(padded[0]).tolist() == [False] * 3 + [True] * 7 and torch.isnan(padded[1]).all()


def test_chords_are_those_of_the_frames_middles() -> None:
    """Against mir_eval's own sampling of the spans, and its majmin for what counts as which triad."""
    spans = [(0.0, 1.13, "C:maj7"), (1.13, 1.52, "Eb:min/5"), (1.52, 1.7, "G:sus4"), (1.7, 2.6, "N")]
    label = [{"start": a, "end": b, "label": name} for a, b, name in spans]
    found = meet(LabelTask("c", "chords"), {"c": {"a": label}}).targets(["a"], clips([0.9], frames=15))[0]
    times = 0.9 + (np.arange(15) + 0.5) / 10
    names = mir_eval.util.interpolate_intervals(np.array([s[:2] for s in spans]), [s[2] for s in spans], times, "N")
    assert found.tolist() == [chord_class(name) for name in names]
    for name in ("C:maj7", "Eb:min/5", "Bb:7", "F#:min7"):
        assert mir_eval.chord.majmin([name], [CHORDS[chord_class(name)]])[0] == 1
    assert chord_class("G:sus4") == -1 and mir_eval.chord.majmin(["G:sus4"], ["G:maj"])[0] == -1


def test_labels_move_with_the_pitch() -> None:
    up = clips([0.0], semitones=torch.tensor([3]))
    key = meet(LabelTask("key"), {"key": {"a": "B minor", "b": "A# major"}})
    assert key.names[int(key.targets(["a"], up))] == "D minor"
    assert key.names[int(key.targets(["b"], clips([0.0])))] == "Bb major"
    chord = meet(LabelTask("c", "chords"), {"c": {"a": [{"start": 0, "end": 9, "label": "A:min"}]}})
    assert CHORDS[int(chord.targets(["a"], up)[0, 0])] == "C:min"
    pitch = meet(LabelTask("p", "classes", semitones=True), {"p": {"a": 60, "b": 63, "c": 100}})
    assert pitch.names == ("60", "63", "100")
    assert pitch.targets(["a", "b", "x"], clips([0.0] * 3, semitones=torch.tensor([3, 3, 3]))).tolist() == [1, -1, -1]
    tempo = meet(LabelTask("t", "numbers", log2=True, tempo=True), {"t": {"a": 120.0, "b": float("nan")}})
    assert set(tempo.labels) == {"a"}
    moved = tempo.targets(["a"], clips([0.0], speed=torch.tensor([2.0])))
    assert 2 ** float(moved) == pytest.approx(240.0)


def test_kinds_are_guessed_from_what_labels_hold() -> None:
    chord = [{"start": 0.0, "end": 1.0, "label": "A:min"}]
    event = [{"start": 0.0, "end": 1.0, "label": "dog bark"}]
    told = (
        [chord],
        [event],
        [[0.1, 0.5]],
        [["a", "b"]],
        ["C major", "A minor"],
        ["x|y"],
        ["rock"],
        ["1.5", 2],
        [1, 2, 1],
    )
    kinds = ["chords", "events", "beats", "tags", "key", "tags", "classes", "numbers", "classes"]
    assert [guess(values).name for values in told] == kinds
    assert set(kinds) == set(TARGETS)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, labels_of: Callable[..., dict[str, Any]]) -> Path:
    """Twelve tracks: low tones are rock, middle ones jazz, high ones folk; three are kept for tests."""
    folder = tmp_path_factory.mktemp("genres")
    tracks = []
    for number in range(12):
        time = np.arange(4 * RATE) / RATE
        pitch = (200, 900, 3500)[number % 3] * (1 + 0.004 * number)
        sound = 0.2 * np.sin(2 * np.pi * pitch * time) + 0.02 * np.random.default_rng(number).standard_normal(len(time))
        write(folder / f"{number}.flac", sound.astype(np.float32), RATE)
        split = "test" if number in (0, 4, 8) else "train"
        labels = labels_of(number, 4.0)
        tracks.append(
            Track(f"{number}.flac", f"{number}.flac", len(sound), RATE, 1, f"{number:032x}", split, labels=labels)
        )
    Manifest.from_tracks(tracks, folder).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def test_labels_that_teach_nothing_and_numbers_that_are_none() -> None:
    """One class, an unknown kind, no label at all: a sentence. NaN is no label, nor is a class that training lacks."""
    with pytest.raises(ValueError, match=r"'g' has one class only \(rock\): there is nothing to tell apart"):
        meet(LabelTask("g", "classes"), {"g": {"a": "rock", "b": "rock"}})
    with pytest.raises(ValueError, match=r"g: .*colour"):
        meet(LabelTask("g", "colour"), {"g": {"a": "rock", "b": "jazz"}})
    with pytest.raises(ValueError, match="No track has the label 't'"):
        meet(LabelTask("t", "numbers"), {"t": {"a": float("nan"), "b": math.nan}})
    numbers = meet(LabelTask("t", "numbers"), {"t": {"a": 120.0, "b": math.nan, "c": 90.0}})
    assert set(numbers.labels) == {"a", "c"} and torch.isnan(numbers.targets(["b"], clips([0.0]))).all()
    genre = meet(LabelTask("g"), {"g": {"a": "rock", "b": "jazz"}})
    met = dataclasses.replace(genre, labels={**genre.labels, "test": "polka"})
    assert met.targets(["a", "test"], clips([0.0, 0.0])).tolist() == [1, -1]
    for wrong in (-0.1, 1.5):
        with pytest.raises(ValueError, match=f"A threshold is a probability from 0 to 1, not {wrong}"):
            HeadFacts(thresholds=(0.5, wrong))


def make(manifest: Path, **changes: Any) -> Labelled:
    torch.manual_seed(0)
    plain = {"validate_every": 0, "average": 0.0}
    objective = dataclasses.replace(finetune_debug().objective, **(plain | changes)).build()
    objective.train()
    objective.prepare(Manifest.open(manifest), manifest.parent)
    return objective


def batch(keys: list[str], seconds: float = 1.0, seed: int = 0) -> Batch:
    samples = int(seconds * RATE)
    sound = 0.1 * torch.randn(len(keys), 1, samples, generator=torch.Generator().manual_seed(seed))
    valid = torch.full((len(keys), 1), samples)
    return Batch(sound, RATE, valid, torch.zeros(len(keys), 1, dtype=torch.int64), keys, torch.arange(len(keys)))


def test_parts_of_a_batch_combine_exactly_whatever_is_missing(manifest: Path) -> None:
    """Track 3, 7 and 11 have a genre alone: mean over the weights of the parts is the whole."""
    objective = make(manifest)
    whole = batch([f"{number}.flac" for number in (1, 2, 3, 5, 7, 11)])
    objective.eval()
    with torch.no_grad():
        expected = objective(whole, 0)
        parts = []
        for one in (slice(0, 2), slice(2, 6)):
            part = dataclasses.replace(
                whole, waveform=whole.waveform[one], valid=whole.valid[one], starts=whole.starts[one],
                keys=whole.keys[one], index=whole.index[one],
            )  # fmt: skip
            parts.append(objective(part, 0))
    total = sum(float(p.value * p.weight) for p in parts) / sum(float(p.weight) for p in parts)
    assert total == pytest.approx(float(expected.value), rel=1e-5)
    assert float(expected.metrics["tempo/labelled"]) == pytest.approx(0.5)
    # nine tracks train, three of them without a tempo: a task's loss over that share is a mean over the labelled
    assert objective.shares == pytest.approx([1.0, 2 / 3, 2 / 3, 2 / 3])


def test_only_labelled_training_tracks_are_heard_and_rare_classes_more_often(manifest: Path) -> None:
    opened = Manifest.open(manifest)
    config = LabelledConfig(encoder="masked.bestrq_debug", labels=("tempo",), balance=False)
    heard = config.build().heard(opened)
    assert sorted(heard.column("key")) == ["1.flac", "10.flac", "2.flac", "5.flac", "6.flac", "9.flac"]
    balanced = LabelledConfig(encoder="masked.bestrq_debug", labels=("genre",), balance=True).build().heard(opened)
    genres, weights = np.array(balanced.labels("genre")), balanced.column(WEIGHT)
    sums = [weights[genres == name].sum() for name in ("rock", "jazz", "folk")]
    assert sums == pytest.approx([1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="has no label 'gnre': it has"):
        LabelledConfig(encoder="masked.bestrq_debug", labels=("gnre",)).build().heard(opened)
    with pytest.raises(ValueError, match="Nothing is asked"):
        LabelledConfig().build()


def test_labels_from_a_table(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("key,mood,level\n1.flac,calm,0.5\n2.flac,wild,nan\n5.flac,wild,\nlost.flac,calm,1\n")
    objective = make(manifest, tasks=(), labels=("mood", "level:number"), labels_csv=str(table))
    assert "1 of 4 rows of labels.csv (25.0%) match no audio." in capsys.readouterr().out
    assert [answers.names for answers in objective.answers] == [("calm", "wild"), ("level",)]
    assert set(objective.answers[1].labels) == {"1.flac"}
    table.write_text("key,mood\nlost.flac,calm\n")
    with pytest.raises(ValueError, match="None of the 1 rows"):
        make(manifest, tasks=(), labels=("mood",), labels_csv=str(table))


def test_labels_may_lie_in_annotation_files(manifest: Path) -> None:
    """The column names them, beside the sound; as scanned, or as `data degrade` leaves them."""
    sound = list(Manifest.open(manifest))
    names = ("rhythm", "bars")
    tracks = [dataclasses.replace(track, labels=dict.fromkeys(names, f"{track.key}.beats")) for track in sound]
    for number, track in enumerate(tracks):
        (manifest.parent / f"{track.key}.beats").write_text(f"0.5 4\n{1 + number / 10:g} 1\n")
    Manifest.from_tracks(tracks, manifest.parent).write(manifest.parent / "files.parquet")
    made = make(manifest.parent / "files.parquet", tasks=(LabelTask("rhythm+bars"),))
    (answers,) = made.answers
    assert answers.kind.name == "beats" and answers.labels["3.flac"] == [[0.5, 1.3], [1.3]]


def test_what_is_frozen_stays_and_rates_fall_with_depth(manifest: Path) -> None:
    objective = make(manifest, unfreeze=1)
    depth, blocks = depths(objective.encoder)
    assert blocks == 2 and {name.split(".")[2] for name in depth if depth[name] == 2} == {"1"}
    trained = {name for name, p in objective.encoder.named_parameters() if p.requires_grad}
    assert trained and all(depth[name] == 2 for name in trained)
    assert make(manifest, unfreeze=0).encoder.training is False
    assert not any(p.requires_grad for p in make(manifest, unfreeze=0).encoder.parameters())
    groups = build(finetune_debug().optim, make(manifest)).param_groups
    assert sorted({group.get("lr_scale", 1.0) for group in groups}) == [0.25, 0.5, 1.0, 2.0]
    low = make(manifest, tasks=(LabelTask("genre", layer=1),))
    assert {depth[n] for n, p in low.encoder.named_parameters() if p.requires_grad} == {0, 1}
    with pytest.raises(ValueError, match="has 2 blocks"):
        make(manifest, unfreeze=3)


def test_mixup_mixes_losses_and_bands_and_spans_are_cut_out(manifest: Path) -> None:
    objective = make(manifest, mixup=Mixup(probability=1.0), tasks=(LabelTask("genre"),))
    keys = [f"{number}.flac" for number in (1, 2, 3, 5)]
    _, partner, share = objective._mixed(batch(keys).waveform[:, 0], torch.arange(4))
    assert partner.tolist() == [3, 0, 1, 2] and ((share > 0) & (share < 1)).all()
    assert torch.equal(share, objective._mixed(batch(keys).waveform[:, 0], torch.arange(4))[2])
    assert objective.eval()._mixed(batch(keys).waveform[:, 0], torch.arange(4))[1] is None
    noise = torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([RATE])
    cut = spec_augment(noise, valid, RATE, SpecAugment(bands=1, width=0.5), torch.tensor([5]))
    before, after = torch.fft.rfft(noise)[0].abs(), torch.fft.rfft(cut)[0].abs()
    gone = after < 1e-2 * before
    edges = gone.nonzero().flatten()
    assert len(edges) > 100 and gone[edges[0] : edges[-1] + 1].float().mean() > 0.99, "one band, and nothing else"
    silent = spec_augment(noise, valid, RATE, SpecAugment(times=1, seconds=0.5), torch.tensor([5]))
    still = (silent == 0).sum()
    assert 0 < int(still) <= RATE // 2


def test_clips_are_degraded_as_data_degrade_does(manifest: Path, tmp_path: Path) -> None:
    """Twenty decibels down for a share of the clips, in training alone; silence behind a clip stays silent."""
    (tmp_path / "quiet.json").write_text('[{"name": "gain", "volume": -20}]')
    (tmp_path / "noisy.json").write_text('[{"name": "noise", "snr": 20}]')
    task = (LabelTask("genre"),)
    sound = 0.1 * torch.randn(40, 400, generator=torch.Generator().manual_seed(0))
    valid, index = torch.full((40,), 300), torch.arange(40)
    sound[:, 300:] = 0
    some = make(manifest, tasks=task, degrade=(str(tmp_path / "quiet.json"),)).train()
    changed, _ = some._changed(sound, valid, index)
    quiet = torch.isclose(changed, 0.1 * sound).all(1)
    assert 10 < int(quiet.sum()) < 30 and torch.equal(changed[~quiet], sound[~quiet])
    assert torch.equal(some._changed(sound[:3], valid[:3], index[:3])[0], changed[:3])
    assert torch.equal(some.eval()._changed(sound, valid, index)[0], sound)
    noisy = make(manifest, tasks=task, degrade=(str(tmp_path / "noisy.json"),), degrade_share=1.0).train()
    changed, _ = noisy._changed(sound, valid, index)
    assert (changed[:, :300] != sound[:, :300]).all(1).all() and not changed[:, 300:].any()
    assert make(manifest, tasks=task)._damage() == ()


@pytest.mark.parametrize(
    "task, chain, words",
    [
        (
            LabelTask("beats"),
            "radio",
            "moves what is heard in time, so the label 'beats' would be wrong: leave out speed",
        ),
        (LabelTask("chords"), "vinyl", "moves what is heard in time.* leave out wow_flutter"),
        (LabelTask("tempo", "numbers", tempo=True), "radio", "changes the tempo, so the label 'tempo'"),
        (LabelTask("chords"), "shift.json", "moves the pitch.* leave out pitch_shift"),
        (LabelTask("genre"), "radoi", "nearest: radio"),
    ],
)
def test_chains_that_make_labels_wrong_are_refused(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: LabelTask, chain: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shift.json").write_text('[{"name": "pitch_shift", "octaves": 0.25}]')
    with pytest.raises(ValueError, match=words):
        make(manifest, tasks=(task,), degrade=("phone", chain))
    if chain != "radoi":
        make(manifest, tasks=(LabelTask("genre"),), degrade=("phone", chain))
    make(manifest, tasks=(LabelTask("chords"), LabelTask("beats")), degrade=("phone", "live", "strong_mp3"))


@pytest.mark.slow
def test_the_best_is_kept_published_and_ends_the_run(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores rise to step 4, then fall: two more validations, and step 4 is published; resuming changes nothing."""
    scores = {2: 0.2, 4: 0.7, 6: 0.5, 8: 0.6, 10: 0.9}
    real, seen = Labelled.validate, []

    def told(self: Labelled, state: dict[str, torch.Tensor]) -> dict[str, float]:
        seen.append(len(seen))
        found = real(self, state)
        return found | {"score": scores[2 * len(seen)]}

    monkeypatch.setattr(Labelled, "validate", told)
    recipe = finetune_debug()
    objective = dataclasses.replace(recipe.objective, validate_every=2, patience=2, average=0.0)
    recipe = dataclasses.replace(recipe, objective=objective, keep_last=1)
    assert train(recipe, manifest, tmp_path) == 10, "an early end is an end"
    lines = [json.loads(line) for line in (tmp_path / "valid.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert {"genre/loss", "genre/metric", "tempo/metric", "chords/metric"} <= set(lines[0])
    state = load_file(tmp_path / "checkpoints/step_4/weights.safetensors")
    model = open_classifier(tmp_path / "classifier")
    assert torch.equal(model.heads[0].first.weight, state["heads.0.first.weight"])
    assert torch.equal(load_encoder(tmp_path).model.masked_spec_embed, state["encoder.masked_spec_embed"])  # type: ignore[attr-defined]
    before = (tmp_path / "classifier/model.safetensors").read_bytes()
    assert train(recipe, manifest, tmp_path) == 10 and len(seen) == 4
    assert (tmp_path / "classifier/model.safetensors").read_bytes() == before
    assert model.head_names == ["genre", "tempo", "beats+downbeats", "chords"]
    assert model.facts[2]["decoder"]["usual"] == pytest.approx(0.5, abs=0.11)


def test_averaged_weights_are_what_is_published(manifest: Path) -> None:
    objective = make(manifest, average=0.75)
    name = "heads.0.first.weight"
    begin = objective.state_dict()[name].clone()
    values = [begin.clone() + step for step in range(3)]
    for step, value in enumerate(values):
        with torch.no_grad():
            objective.heads[0].first.weight.copy_(value)
        objective.after_step(step)
    expected = 0.75 * (0.75 * values[0] + 0.25 * values[1]) + 0.25 * values[2]
    published = objective.published_state(objective.state_dict())
    assert torch.allclose(published[name], expected) and not any("averaged" in key for key in published)
    assert torch.allclose(objective.classifier().heads[0].first.weight, expected)


def test_the_plain_mean_of_epochs_is_what_is_published(manifest: Path) -> None:
    objective = make(manifest, average=0.0, mean=MeanOfWeights(every=2, first=3, last=7))
    name = "heads.0.first.weight"
    begin = objective.state_dict()[name].clone()
    for step in range(10):  # after step k the weights are begin + k + 1
        with torch.no_grad():
            objective.heads[0].first.weight.copy_(begin + step + 1)
        objective.after_step(step)
        counted = [taken for taken in (3, 5, 7) if taken <= step + 1] or [step + 1]
        published = objective.published_state(objective.state_dict())
        assert torch.allclose(published[name], begin + sum(counted) / len(counted), atol=1e-5)
    assert not any("averaged" in key for key in published)
    with pytest.raises(ValueError, match="one of them gets published"):
        make(manifest, average=0.5, mean=MeanOfWeights(every=2))
    with pytest.raises(ValueError, match="isn't before the first"):
        MeanOfWeights(every=1, first=5, last=4)


def test_metrics_of_validation_are_those_of_the_libraries() -> None:
    logits = [torch.tensor([[2.0, 1.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([[5.0, 1.0]])]
    assert judged(kind_of("classes"), logits, [torch.tensor([0]), torch.tensor([-1]), torch.tensor([1])]) == 0.5
    truth = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, torch.nan]])]
    assert judged(kind_of("tags"), logits, truth) == 1.0
    numbers = [torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.tensor([[4.0]])]
    assert judged(kind_of("numbers"), numbers, numbers) == 1.0
    mean = [torch.tensor([[7.0 / 3]])] * 3
    assert judged(kind_of("numbers"), mean, numbers) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.slow
def test_it_learns_what_three_pitches_are_called(manifest: Path, tmp_path: Path) -> None:
    recipe = finetune_debug()
    objective = dataclasses.replace(
        recipe.objective, tasks=(LabelTask("genre"),), layer_decay=1.0, validate_every=0, average=0.0
    )
    optim = dataclasses.replace(recipe.optim, lr=3e-3)
    recipe = dataclasses.replace(recipe, objective=objective, optim=optim, steps=60, batch_size=8, checkpoint_every=60)
    train(recipe, manifest, tmp_path / "run")
    classifier, opened = open_classifier(tmp_path / "run/classifier"), Manifest.open(manifest)
    for row in (0, 4, 8):
        logits = classifier(torch.from_numpy(opened.read(row, RATE))[None]).logits
        assert classifier.config.id2label[int(logits[0].argmax())] == opened[row].labels["genre"]


def test_low_rank_additions_alone_are_learned_and_merged_into_what_is_published(manifest: Path) -> None:
    """Against W + alpha / rank · B A by hand; the merged encoder is of the plain class and hears alike."""
    pytest.importorskip("peft")
    objective = make(manifest, lora_rank=2, lora_alpha=6.0, average=0.0, layer_decay=1.0)
    trained = {name for name, p in objective.encoder.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    batch_ = batch([f"{number}.flac" for number in range(4)])
    optimiser = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], 0.1)
    plain = make(manifest).encoder.state_dict()
    for step in range(2):  # B is zero at first, so that A moves in the second step
        objective(batch_, step).value.backward()
        optimiser.step()
    state = objective.state_dict()
    found = {name.removeprefix("encoder."): value for name, value in objective.published_state(state).items()}
    stem = "encoder.layers.1.feed_forward.intermediate_dense"
    up, down = (state[f"encoder.{stem}.lora_{letter}.default.weight"] for letter in "BA")
    assert up.abs().max() > 0
    expected = state[f"encoder.{stem}.base_layer.weight"] + 3.0 * up @ down
    torch.testing.assert_close(found[f"{stem}.weight"], expected)
    assert {name for name in found if not name.startswith("heads.")} == set(plain)
    objective.eval()
    model = objective.classifier()
    sound = batch_.waveform[:1, 0]
    with torch.no_grad():
        adapted = objective.encoder(sound).last_hidden_state
        torch.testing.assert_close(model.encoder(sound).last_hidden_state, adapted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="lora_rank is -1"):
        make(manifest, lora_rank=-1)


ADAPTED = {
    "latent.eat_debug": "a vision transformer", "tokens.beats_iter1_debug": "BEATs", "masked.muq_debug": "a conformer",
    "tagging.ast_tiny": "AST", "tagging.htsat_tiny": "HTS-AT", "labelled.synth_debug": "a log-CQT network",
}  # fmt: skip


@pytest.mark.parametrize("address", ADAPTED)
def test_low_rank_additions_are_heard_and_merged_in_every_family(manifest: Path, address: str) -> None:
    """Each addition that is learned changes what is heard, and the merged encoder hears as the adapted one does."""
    pytest.importorskip("peft")
    network = {"network": find(address).objective.network} if address.startswith("labelled.") else {}
    task = (LabelTask("genre", pooling="mean+std"),)
    objective = make(manifest, **({"encoder": address} | network), tasks=task, lora_rank=2, layer_decay=1.0)
    rate = int(objective.encoder.config.sample_rate)
    sound = 0.1 * torch.randn(2, 2 * rate, generator=torch.Generator().manual_seed(0))
    added = {name: p for name, p in objective.encoder.named_parameters() if "lora_B" in name and p.requires_grad}
    assert added
    with torch.no_grad():
        for value in added.values():
            value.normal_(0, 0.1)
    objective.eval()
    logits = objective.heads[0](*hear(objective.encoder, sound, torch.tensor([2 * rate, rate]), True))
    logits.square().sum().backward()
    silent = [name for name, value in added.items() if value.grad is None or not value.grad.abs().max() > 0]
    assert not silent, "an addition that nothing hears"
    with torch.no_grad():
        adapted = objective.encoder(sound).last_hidden_state
        model = objective.classifier().encoder
        torch.testing.assert_close(model(sound).last_hidden_state, adapted, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(plain_twin(model, objective, added)(sound).last_hidden_state, adapted, atol=1e-3)


def plain_twin(model: Any, objective: Labelled, added: dict[str, Any]) -> Any:
    """The encoder without its additions."""
    with torch.no_grad():
        for value in added.values():
            value.zero_()
        model.load_state_dict(objective.classifier().encoder.state_dict())
    return model


@pytest.mark.parametrize("address", ["contrastive.clmr_debug", "predictive.cpc_debug"])
def test_encoders_of_convolutions_have_nothing_that_low_rank_additions_fit(manifest: Path, address: str) -> None:
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match=r"encoder's blocks, and (SampleCNN|Cpc)Model has none"):
        make(manifest, encoder=address, tasks=(LabelTask("genre"),), lora_rank=2)


TAGGERS = [f"tagging.{name}_tiny" for name in ("musicnn", "attention", "hcnn", "short", "mtt", "cnn6", "ast", "htsat")]


@pytest.mark.parametrize("address", TAGGERS)
def test_what_a_tagger_answered_with_is_left_alone(manifest: Path, address: str) -> None:
    """Everything that trains is heard by the new head: ranks wait in vain for the gradient of what isn't."""
    objective = make(manifest, encoder=address, tasks=(LabelTask("genre"),))
    rate = int(objective.encoder.config.sample_rate)
    clip = 0.1 * torch.randn(2, 3 * rate, generator=torch.Generator().manual_seed(0))
    objective.heads[0](
        *hear(objective.encoder, clip, torch.tensor([3 * rate, 3 * rate]), False)
    ).square().sum().backward()
    assert [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None] == []
