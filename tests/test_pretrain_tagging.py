"""Taggers learning by their own heads: outputs from labels, stripes, mixed targets, refusals, and that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional

from groundbass.data.audio.read import write
from groundbass.data.batch import Batch
from groundbass.data.track import Manifest, Track
from groundbass.models.classifier_files import make_classifier, open_classifier, write_classifier
from groundbass.models.encoder import load_encoder
from groundbass.models.published import write_encoder
from groundbass.pretrain.objectives.labelled import Mixup
from groundbass.pretrain.objectives.parts.noisy_student import taught_losses
from groundbass.pretrain.objectives.tagging import Stripes, Tagging, TaggingConfig, musicnn_tiny, stages, striped
from groundbass.pretrain.optim import schedule
from groundbass.pretrain.recipe import addresses, find
from groundbass.pretrain.run.init_weights import start_from
from groundbass.pretrain.train import train

RATE = 16_000
PITCHES = {"low": 200, "middle": 900, "high": 3500}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve tones in three registers, with tags too."""
    folder = tmp_path_factory.mktemp("tones")
    tracks = []
    for number in range(12):
        name = list(PITCHES)[number % 3]
        time = np.arange(RATE) / RATE
        sound = 0.2 * np.sin(2 * np.pi * PITCHES[name] * (1 + 0.03 * number) * time)
        sound += 0.02 * np.random.default_rng(number).standard_normal(len(time))
        write(folder / f"{number}.flac", sound.astype(np.float32), RATE)
        labels = {"register": name, "tags": [name, "tone"] if number % 2 else [name]}
        tracks.append(
            Track(f"{number}", f"{number}.flac", len(sound), RATE, 1, f"{number:032x}", "train", labels=labels)
        )
    Manifest.from_tracks(tracks, folder).write(folder / "manifest.parquet")
    return folder / "manifest.parquet"


def objective(manifest: Path, **changes: Any) -> Tagging:
    settings = {"network": "musicnn", "width": 0.05, "window_samples": RATE, "labels": ("register",)} | changes
    torch.manual_seed(0)
    made = TaggingConfig(**settings).build()
    made.prepare(Manifest.open(manifest), manifest.parent)
    return made


@pytest.mark.parametrize(
    "network", ["musicnn", "fcn", "crnn", "sample", "hcnn", "short", "mtt", "Cnn6", "ast", "htsat"]
)
def test_what_compile_compiles_is_called(network: str) -> None:
    """Each network is made of stages, and hears through every one of them."""
    width = 1 / 12 if network == "ast" else 0.25 if network == "htsat" else 0.05
    made = TaggingConfig(network=network, width=width, window_samples=RATE * 3, labels=("register",)).draw(3).network
    called: set[int] = set()
    parts = stages(made)
    for part in parts:
        part.register_forward_hook(lambda part, *_: called.add(id(part)))
    made.hear(made.features(torch.randn(2, RATE * 3), torch.full((2,), RATE * 3)))
    assert parts and called == {id(part) for part in parts}


def batch(rows: int = 4) -> Batch:
    sound = 0.1 * torch.randn(rows, 1, RATE, generator=torch.Generator().manual_seed(0))
    valid = torch.full((rows, 1), RATE)
    return Batch(sound, RATE, valid, torch.zeros_like(valid), [str(i) for i in range(rows)], torch.arange(rows))


def test_the_network_has_the_labels_outputs(manifest: Path) -> None:
    made = objective(manifest)
    assert made.encoder.config.id2label == {0: "high", 1: "low", 2: "middle"}
    assert made.encoder.config.problem_type == "single_label_classification"
    made.train()
    loss = made(batch(), 0)
    loss.value.backward()
    assert all(weight.grad is not None for weight in made.parameters())
    again = objective(manifest)
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.state_dict().values(), again.state_dict().values())
        if a.is_floating_point() and a.dim() > 1
    )


def test_mixed_tags_are_mixed_targets(manifest: Path) -> None:
    """Against binary cross-entropy with the mixed targets, computed apart."""
    made = objective(manifest, labels=("tags:tags",), mixup=Mixup(1.0, 1.0))
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]])
    share, partner = torch.tensor([0.9, 0.5, 0.2, 1.0]), torch.tensor([3, 0, 1, 2])
    found = made._judged(logits, targets, partner, share)
    mixed = share[:, None] * targets + (1 - share[:, None]) * targets[partner]
    torch.testing.assert_close(found.value, functional.binary_cross_entropy_with_logits(logits, mixed))


def test_clips_are_mixed_two_by_two(manifest: Path) -> None:
    """Five clips make three, the last one alone; the loss is that of the mixed targets, computed apart."""
    made = objective(manifest, labels=("tags:tags",), mixup=Mixup(1.0, 1.0), mixed="pairs").train()
    features = torch.randn(5, 1, 3, 2, generator=torch.Generator().manual_seed(2))
    mixed, own, partner, share = made._paired(features, torch.arange(5))
    assert own is not None and partner is not None
    assert own.tolist() == [0, 2, 4] and partner.tolist() == [1, 3, 4] and 0 < share.min() < share.max() < 1
    for row, (a, b) in enumerate(((0, 1), (2, 3))):
        torch.testing.assert_close(mixed[row], share[row] * features[a] + (1 - share[row]) * features[b])
    torch.testing.assert_close(mixed[2], features[4])
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.eye(5)[:, :4]
    wanted = share[:, None] * targets[own] + (1 - share[:, None]) * targets[partner]
    found = made._judged(logits, targets, partner, share, None, own)
    torch.testing.assert_close(found.value, functional.binary_cross_entropy_with_logits(logits, wanted))
    assert float(found.weight) == 3


def test_stripes_are_zero_and_each_clips_own() -> None:
    features = torch.rand(3, 1, 40, 100) + 1  # [clips, 1, bins, steps]
    seeds = torch.tensor([5, 6, 5])
    found = striped(features, (3, 2), Stripes(2, 30, 1, 10), seeds)
    gone = found == 0
    assert torch.equal(found[~gone], features[~gone])
    assert torch.equal(gone[0], gone[2]) and not torch.equal(gone[0], gone[1])
    steps, bins = gone[0, 0].all(0), gone[0, 0].all(1)
    assert torch.equal(gone[0, 0], steps[None] | bins[:, None]) and 0 < steps.sum() <= 60 and bins.sum() < 10
    assert striped(features, None, Stripes(2), seeds) is features


def test_what_is_refused(manifest: Path) -> None:
    with pytest.raises(ValueError, match="answers one question, and register, tags is asked"):
        objective(manifest, labels=("register", "tags"))
    with pytest.raises(ValueError, match="There is no network 'resnet'; there is fcn"):
        objective(manifest, network="resnet")
    made = objective(manifest, window_samples=8000)
    with pytest.raises(
        ValueError, match=r"hears 8000 at 16000 Hz: set --crops.sample-rate 16000 --crops.crop-samples 8000"
    ):
        made(batch(), 0)


def test_every_recipe_builds_a_network_for_its_crops() -> None:
    small = [address for address in addresses() if address.startswith("tagging.") and address.endswith("_tiny")]
    assert len(small) == 14
    for address in small:
        recipe = find(address)
        network = recipe.objective.draw(3)
        assert network.config.window_samples == recipe.crops.crop_samples, address
        with torch.no_grad():
            assert network.eval().window_logits(torch.zeros(1, recipe.crops.crop_samples)).shape == (1, 3), address


@pytest.mark.slow
def test_a_run_tells_registers_apart_and_its_folder_answers(manifest: Path, tmp_path: Path) -> None:
    recipe = musicnn_tiny()
    small = dataclasses.replace(
        recipe.objective, labels=("register",), width=0.05, window_samples=RATE, validate_every=15
    )
    crops = dataclasses.replace(recipe.crops, crop_samples=RATE)
    recipe = dataclasses.replace(recipe, objective=small, crops=crops, steps=30, batch_size=6, workers=0, trackers=())
    train(recipe, manifest, tmp_path / "run")
    model: Any = load_encoder(tmp_path / "run").model  # type: ignore[attr-defined]
    time = torch.arange(RATE) / RATE
    for name, pitch in PITCHES.items():
        with torch.no_grad():
            tone = 0.2 * torch.sin(2 * torch.pi * pitch * 1.1 * time) + 0.02 * torch.randn(RATE)
            answer = model.class_logits(tone[None])
            assert torch.equal(open_classifier(tmp_path / "run" / "classifier")(tone[None]).logits, answer)
        assert model.config.id2label[int(answer.argmax())] == name


def half_labelled(manifest: Path, folder: Path) -> Path:
    """The twelve tones, of which the odd ones lost their labels."""
    opened = Manifest.open(manifest)
    tracks = [dataclasses.replace(track, labels={} if row % 2 else track.labels) for row, track in enumerate(opened)]
    opened.relabelled(range(12), tracks).write(folder / "half.parquet")
    return folder / "half.parquet"


def teacher(folder: Path, names: tuple[str, ...] = ("tone", "middle", "low", "high"), rate: int = RATE) -> Path:
    """An untrained classifier with outputs in another order than the alphabet's, and one more than there are labels."""
    torch.manual_seed(3)
    config = TaggingConfig(labels=("tags:tags",), network="fcn", width=0.1, sample_rate=rate)
    model = config.draw(len(names))
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    write_classifier(make_classifier(model.eval(), []), folder / "teacher")
    return folder / "teacher"


def student(manifest: Path, folder: Path, **changes: Any) -> Tagging:
    named = changes.pop("teacher") if "teacher" in changes else str(teacher(folder))
    settings = {"labels": ("tags:tags",), "teacher": named, "unlabelled": 0.25} | changes
    return objective(half_labelled(manifest, folder), **settings)


def test_the_recipes_for_esc50_are_the_published_ones() -> None:
    """Parameters as counted on the original code, without its two unused heads of 1,000 classes."""
    ast, htsat = find("tagging.ast_esc50"), find("tagging.htsat_esc50")
    with torch.device("meta"):
        network = ast.objective.draw(50)
    assert sum(weight.numel() for weight in network.parameters()) == 87_295_234 - 1_538_000
    assert (network.config.spectra, network.config.mean, network.config.std) == (512, -6.6268077, 5.358466)
    found = [schedule(ast.optim, step, ast.steps) for step in (0, 5 * 34 - 1, 5 * 34, 6 * 34, 25 * 34 - 1)]
    assert found == pytest.approx([1e-5, 1e-5, 0.85e-5, 0.85**2 * 1e-5, 0.85**20 * 1e-5])
    assert (ast.steps, ast.batch_size, htsat.steps, htsat.batch_size) == (25 * 34, 48, 2500, 64)
    assert htsat.crops.crop_samples * 2 == htsat.objective.window_samples == 320_000 and htsat.objective.repeat_short


@pytest.mark.parametrize("network", ["ast", "htsat"])
def test_a_tagger_begins_with_one_of_other_labels_and_another_window(
    manifest: Path, tmp_path: Path, network: str
) -> None:
    """Everything but the head is the other's; AST's positions are cut, HTS-AT hears the clip twice."""
    torch.manual_seed(1)
    small = {"network": network, "width": 1 / 12 if network == "ast" else 0.25, "labels": ("register",)}
    small |= {"depth": 1} if network == "ast" else {}
    theirs = TaggingConfig(window_samples=4 * RATE, **small).draw(7)
    write_encoder(theirs, tmp_path / "theirs")
    more = {} if network == "ast" else {"repeat_short": True}
    config = TaggingConfig(window_samples=2 * RATE, **small, **more)
    torch.manual_seed(0)
    made = config.build()
    start_from(made.encoder, str(tmp_path / "theirs"))
    made.prepare(Manifest.open(manifest), manifest.parent)
    ours, other = made.encoder.state_dict(), theirs.state_dict()
    head = {"ast": "network.mlp_head.1.", "htsat": "network.tscam_conv."}[network]
    differ = {
        name for name in ours if ours[name].shape != other[name].shape or not torch.equal(ours[name], other[name])
    }
    assert {name for name in differ if not name.startswith(head)} == ({"network.v.pos_embed"} & set(ours))
    assert len(ours[f"{head}weight"]) == 3
    heard: list[torch.Tensor] = []
    made.encoder.network.features = lambda sound, valid, real=made.encoder.network.features: (
        heard.append(sound) or real(sound, valid)
    )
    sound = batch()
    assert torch.isfinite(made.train()(sound, 0).value)
    silence = torch.zeros_like(sound.waveform[:, 0])
    second = sound.waveform[:, 0] if network == "htsat" else silence
    assert torch.equal(heard[0], torch.cat([sound.waveform[:, 0], second], dim=1))


def test_taggers_hear_degraded_clips(manifest: Path) -> None:
    made = objective(manifest, degrade=("phone", "strong_mp3"), degrade_share=1.0).train()
    heard: list[torch.Tensor] = []
    made.encoder.network.features = lambda sound, valid, real=made.encoder.network.features: (
        heard.append(sound) or real(sound, valid)
    )
    sound = batch()
    loss = made(sound, 0)
    loss.value.backward()
    assert torch.isfinite(loss.value) and (heard[0] != sound.waveform[:, 0]).any(1).all()
    with torch.no_grad():
        made.eval()(sound, 0)
    assert torch.equal(heard[1], sound.waveform[:, 0])


def test_half_of_the_loss_is_the_teachers_by_hand(manifest: Path, tmp_path: Path) -> None:
    """Binary cross-entropy with labels over labelled clips, with the teacher's sigmoids over the others, summed."""
    made = student(manifest, tmp_path)
    assert made.encoder.config.id2label == {0: "tone", 1: "middle", 2: "low", 3: "high"}  # the teacher's order
    made.eval()  # no dropout, no augmentation: what is compared is arithmetic
    heard = batch(6)  # keys 0, 2 and 4 are labelled
    with torch.no_grad():
        found = made(heard, 0)
        sound = heard.waveform[:, 0]
        logits = made.encoder.window_logits(sound)
        soft = open_classifier(tmp_path / "teacher")(sound).logits.sigmoid()
    hard = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0]])  # low, high, middle: even ones have one tag
    rows, others = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    of_labels = functional.binary_cross_entropy_with_logits(logits[rows], hard)
    of_teacher = functional.binary_cross_entropy_with_logits(logits[others], soft[others])
    # half of these six clips are labelled, three quarters of all crops are: each half's sum over its share of all
    torch.testing.assert_close(found.value, of_labels * 0.5 / 0.75 + of_teacher * 0.5 / 0.25)
    torch.testing.assert_close(found.metrics["tags/taught"], of_teacher)
    assert float(found.metrics["tags/labelled"]) == 0.5


def test_crops_are_drawn_by_halves(manifest: Path, tmp_path: Path) -> None:
    made = student(manifest, tmp_path)
    kept = made.heard(Manifest.open(tmp_path / "half.parquet"))
    weights = dict(zip(kept.column("key"), kept.column("weight"), strict=True))
    assert len(weights) == 12 and sum(weights[str(number)] for number in range(1, 12, 2)) == pytest.approx(0.25)
    assert sum(weights.values()) == pytest.approx(1.0) and made.shares == [pytest.approx(0.75)]
    whole = Manifest.open(tmp_path / "half.parquet")
    splits = ["train" if int(key) % 2 == 0 else None for key in whole.column("key")]  # no split of the unlabelled ones
    place = whole.table.column_names.index("split")
    apart = whole.with_table(whole.table.set_column(place, "split", pa.array(splits, pa.string())))
    assert len(made.heard(apart)) == 12


def test_the_teacher_hears_the_untouched_sound(manifest: Path, tmp_path: Path) -> None:
    """The student's crop is turned upside down and filtered by CLMR's chain; what it shall say stays."""
    made = student(manifest, tmp_path, augment="clmr").train()
    heard: list[torch.Tensor] = []
    network = made._teacher[0].model
    network.register_forward_pre_hook(lambda _, given: heard.append(given[0].clone()))
    sound = batch(6)
    made(sound, 0)
    torch.testing.assert_close(heard[0], sound.waveform[[1, 3, 5], 0], rtol=0, atol=0)
    assert all(weight.grad is None for weight in network.parameters()) and not network.training


def test_classes_are_learned_from_softmaxes() -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]])
    soft = torch.tensor([[0.2, 0.3, 0.5]])
    expected = -(soft * logits.log_softmax(-1)).sum()
    torch.testing.assert_close(taught_losses(logits, soft, "single_label_classification")[0], expected)
    torch.testing.assert_close(taught_losses(logits, soft, "regression")[0], (logits - soft).square().mean())


def test_a_students_refusals(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every one has one: add tracks"):
        objective(manifest, labels=("tags:tags",), teacher=str(teacher(tmp_path)))
    with pytest.raises(ValueError, match="name it with"):
        student(manifest, tmp_path, teacher="")
    with pytest.raises(ValueError, match="The labels know 'middle', of which the teacher says nothing"):
        student(manifest, tmp_path, teacher=str(teacher(tmp_path, ("high", "low", "tone"))))
    with pytest.raises(ValueError, match="hears 22050 Hz, the student 16000 Hz"):
        student(manifest, tmp_path, teacher=str(teacher(tmp_path, rate=22_050)))
    with pytest.raises(ValueError, match=r"problem is multi_label_classification, and register is classes"):
        student(manifest, tmp_path, labels=("register",), teacher=str(teacher(tmp_path)))
    with pytest.raises(FileNotFoundError, match="should be the teacher"):
        student(manifest, tmp_path, teacher=str(tmp_path / "nobody"))


def test_the_published_sizes_of_teacher_and_student() -> None:
    for address, weights in (("tagging.mtt_msd", 4_567_732), ("tagging.mtt_student_msd", 1_108_852)):
        network = find(address).objective.draw(50)
        assert sum(parameter.numel() for parameter in network.parameters()) == weights
    stood, said = find("tagging.mtt_student_msd").objective.stand_in(Path(), 220_500)
    assert stood.teacher == "untrained" and "stands in for its teacher" in said


def test_published_rates_by_epoch() -> None:
    """HTS-AT's factors per epoch, and AST's halving from the third epoch on."""
    for address, epoch_steps, wanted in (
        (
            "tagging.htsat_audioset",
            15_100,
            {0: 2e-5, 1: 5e-5, 2: 1e-4, 9: 1e-4, 10: 5e-5, 20: 2e-5, 30: 3e-5, 99: 3e-5},
        ),
        ("tagging.ast_audioset", 161_200, {1: 1e-5, 2: 5e-6, 3: 2.5e-6, 4: 1.25e-6}),
    ):
        recipe = find(address)
        for epoch, rate in wanted.items():
            found = schedule(recipe.optim, epoch * epoch_steps, recipe.steps)
            assert found == pytest.approx(rate), (address, epoch)
    assert find("tagging.cnn14_audioset").optim.amsgrad


def test_names_are_drawn_before_tracks(manifest: Path) -> None:
    """PANNs' and HTS-AT's sampler: a class, then one of its clips; a clip's expectation is the sum over its classes."""
    made = objective(manifest, labels=("tags:tags",), balance=True, balance_by="each")
    kept = made.heard(Manifest.open(manifest))
    weights = dict(zip(kept.column("key"), kept.column("weight"), strict=True))
    assert weights["0"] == pytest.approx(1 / 4) and weights["1"] == pytest.approx(1 / 4 + 1 / 6)


def test_a_clip_may_keep_its_label_though_its_sound_is_mixed(manifest: Path) -> None:
    made = objective(manifest, labels=("tags:tags",), mixup=Mixup(1.0, 0.5, labels=False))
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 1]])
    found = made._judged(logits, targets, torch.tensor([3, 0, 1, 2]), torch.full((4,), 0.3))
    torch.testing.assert_close(found.value, functional.binary_cross_entropy_with_logits(logits, targets))
