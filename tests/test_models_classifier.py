"""Classifiers: heads over windows by hand, folders that plain transformers opens, training by transformers' Trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from groundbass.models import reload
from groundbass.models.classifier import AudioClassifier, cut
from groundbass.models.classifier_files import make_classifier, open_classifier, write_classifier
from groundbass.models.encoder import load_encoder, weights_hash
from groundbass.models.head_files import HeadFacts
from groundbass.models.heads import HeadConfig, combined, moments, pooled
from groundbass.models.published import write_encoder
from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel
from groundbass.pretrain.recipe import find

RATE = 24_000


def noise(rows: int, seconds: float, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(rows, round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def encoder() -> Any:
    torch.manual_seed(0)
    return find("masked.bestrq_debug").objective.build().encoder.eval()


def a_head(kind: str, names: tuple[str, ...], dim: int = 32, **settings: Any) -> Any:
    torch.manual_seed(len(names))
    return HeadConfig(kind, names, dim, **settings).build().eval()


@pytest.fixture(scope="module")
def classifier(encoder: Any) -> AudioClassifier:
    """Genre over moments of 0.7-s windows, tags over logits, numbers, beats and chords."""
    return make_classifier(encoder, [
        ("genre", a_head("classes", ("rock", "jazz", "folk"), pooling="mean+std+change", layer=1),
         HeadFacts(window_seconds=0.7)),
        ("mood", a_head("tags", ("calm", "wild"), hidden=5),
         HeadFacts(window_seconds=0.7, stretch_seconds=1.0, aggregation="probabilities", thresholds=(0.3, 0.6))),
        ("tempo", a_head("numbers", ("bpm",)), HeadFacts(stretch_seconds=1.0, aggregation="logits")),
        ("beats", a_head("beats", ("beat",), mixed=2), HeadFacts(window_seconds=0.7)),
        ("chords", a_head("chords", ("C", "G", "N"), temperature=2.0), HeadFacts()),
    ])  # fmt: skip


def states(encoder: Any, sound: torch.Tensor) -> tuple[torch.Tensor, ...]:
    found: tuple[torch.Tensor, ...] = encoder(sound, output_hidden_states=True).hidden_states
    return found


@torch.no_grad()
def test_windows_are_heard_and_averaged_as_the_facts_say(encoder: Any, classifier: AudioClassifier) -> None:
    """Each way by hand: moments of all frames, mean probability of stretches, mean value; frames one after another."""
    sound = noise(1, 2.3)
    parts = [states(encoder, sound[:, at : at + size]) for at, size in cut(sound.shape[1], round(0.7 * RATE))]
    assert len(parts) == 4
    genre = classifier.heads[0]
    whole = combined([moments(part[1]) for part in parts])
    expected = genre.answer(pooled(whole, "mean+std+change"))
    assert torch.allclose(classifier(sound).logits, expected, atol=1e-5)

    mood: Any = classifier.heads[1]
    each = []
    for at, size in cut(sound.shape[1], RATE):
        stretch = sound[:, at : at + size]
        inner = [stretch[:, a : a + b] for a, b in cut(size, round(0.7 * RATE))]
        mean = combined([moments(states(encoder, part)[-1], change=False) for part in inner])
        each.append(torch.sigmoid(mood.answer(pooled(mean, "mean"))))
    found = torch.sigmoid(classifier(sound, head=1).logits)
    assert torch.allclose(found, torch.stack(each).mean(0), atol=1e-5)

    frames, valid = classifier.answer_frames(sound, head=3)
    beats: Any = classifier.heads[3]
    assert torch.allclose(frames[0], torch.cat([beats.answer(beats.select(part))[0] for part in parts]), atol=1e-5)
    assert valid.tolist() == [sum(part[0].shape[1] for part in parts)]
    tempered = classifier.frame_logits(sound, head=4)
    assert torch.allclose(2 * tempered, classifier.answer_frames(sound, head=4)[0])


@torch.no_grad()
def test_rows_and_padding_change_nothing(classifier: AudioClassifier) -> None:
    long, short = noise(1, 1.9), noise(1, 0.4, seed=1)
    batch = torch.zeros(2, long.shape[1])
    batch[0], batch[1, : short.shape[1]] = long[0], short[0]
    mask = (torch.arange(batch.shape[1]) < torch.tensor([[long.shape[1]], [short.shape[1]]])).long()
    for head in range(5):
        together = classifier(batch, attention_mask=mask, head=head).logits
        alone = torch.cat([classifier(long, head=head).logits, classifier(short, head=head).logits])
        assert torch.allclose(together, alone, atol=1e-4), classifier.head_names[head]
    assert torch.isfinite(classifier(noise(1, 0.01)).logits).all(), "shorter than a frame"


CLEAN = """
import json, sys
sys.path.insert(0, {tests!r})
from groundbass_reload import Narrow, hidden_packages
hidden = hidden_packages()
sys.meta_path[:] = [Narrow(finder, hidden) for finder in sys.meta_path]
import torch
from transformers import AutoModel, AutoModelForAudioClassification, pipeline
folder, source = sys.argv[1:]
sound = torch.load(source, weights_only=True)
model = AutoModelForAudioClassification.from_pretrained(folder, trust_remote_code=True).eval()
encoder = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
pipe = pipeline("audio-classification", folder, trust_remote_code=True)
with torch.no_grad():
    told = {{
        "logits": [model(sound, head=number).logits.tolist() for number in range(len(model.heads))],
        "frames": model.frame_logits(sound, head=len(model.heads) - 2).tolist(),
        "states": encoder(sound, output_hidden_states=True).hidden_states[-1].tolist(),
        "pipe": pipe({{"array": sound[0].numpy(), "sampling_rate": model.sample_rate}}),
    }}
print("JSON" + json.dumps(told))
"""


@pytest.mark.slow
def test_the_folder_opens_with_transformers_alone(encoder: Any, classifier: AudioClassifier, tmp_path: Path) -> None:
    write_classifier(classifier, tmp_path / "model")
    sound = noise(1, 1.5)
    torch.save(sound, tmp_path / "sound.pt")
    (tmp_path / "groundbass_reload.py").write_text(Path(reload.__file__).read_text())
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    script = tmp_path / "clean.py"
    script.write_text(CLEAN.format(tests=str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(tmp_path / "model"), str(tmp_path / "sound.pt")],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.partition("JSON")[2])
    with torch.no_grad():
        for number, logits in enumerate(told["logits"]):
            assert torch.allclose(torch.tensor(logits), classifier(sound, head=number).logits, atol=1e-5)
        assert torch.allclose(torch.tensor(told["frames"]), classifier.frame_logits(sound, head=3), atol=1e-5)
        assert torch.allclose(torch.tensor(told["states"]), states(encoder, sound)[-1], atol=1e-5)
        likely = torch.softmax(classifier(sound).logits, -1)[0]
    assert {entry["label"]: pytest.approx(entry["score"], abs=1e-5) for entry in told["pipe"]} == dict(
        zip(("rock", "jazz", "folk"), likely.tolist())
    )


def test_the_same_folder_is_the_encoder_exactly(encoder: Any, classifier: AudioClassifier, tmp_path: Path) -> None:
    write_classifier(classifier, tmp_path / "model")
    write_encoder(encoder, tmp_path / "encoder")
    one, other = load_encoder(tmp_path / "model"), load_encoder(tmp_path / "encoder")
    assert weights_hash(one) == weights_hash(other)
    again = open_classifier(tmp_path / "model")
    sound = noise(1, 1.1)
    with torch.no_grad():
        assert torch.equal(again(sound).logits, classifier(sound).logits)
    assert again.config.problem_type == "single_label_classification" and again.config.id2label[1] == "jazz"
    with pytest.raises(ValueError, match="no classifier of groundbass"):
        open_classifier(tmp_path / "encoder")
    with pytest.raises(ValueError, match="belongs to another encoder"):
        make_classifier(encoder, [("genre", a_head("classes", ("a", "b"), dim=7), HeadFacts())])


def test_an_encoder_of_windows_with_batch_norm(tmp_path: Path) -> None:
    """SampleCNN: frames are windows of 2.6 s, one layer, no mask embedding."""
    torch.manual_seed(0)
    encoder = SampleCNNModel(SampleCNNConfig(sample_rate=8000, width=0.03)).eval()
    head = a_head("tags", ("a", "b"), dim=encoder.dim)
    model = make_classifier(encoder, [("tags", head, HeadFacts(window_seconds=6.0))])
    write_classifier(model, tmp_path / "model")
    sound = noise(2, 1.0)
    with torch.no_grad():
        assert torch.equal(open_classifier(tmp_path / "model")(sound).logits, model(sound).logits)
    assert load_encoder(tmp_path / "model").dim == encoder.dim


def test_labels_give_a_loss_with_a_gradient_for_all(encoder: Any, classifier: AudioClassifier) -> None:
    sound = noise(2, 0.9)
    for head, labels in ((0, torch.tensor([1, -100])), (1, torch.tensor([[1.0, 0.0], [0.0, 1.0]])),
                         (2, torch.tensor([[120.0], [90.0]]))):  # fmt: skip
        answer = classifier(sound, labels=labels, head=head)
        assert answer.loss.shape == () and answer.loss.requires_grad
    by_hand = -torch.log_softmax(classifier(sound).logits, 1)[0, 1]
    assert classifier(sound, labels=torch.tensor([1, -100])).loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    classifier.zero_grad()
    classifier(sound, labels=torch.tensor([1, 2])).loss.backward()
    reached = {n for n, p in classifier.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any(name.startswith("mert.") for name in reached) and "heads.0.first.weight" in reached
    classifier.zero_grad()


@pytest.mark.slow
def test_the_trainer_of_transformers_trains_it(encoder: Any, tmp_path: Path) -> None:
    """Two pitches, two names: the loss falls, and what the Trainer saves opens again."""
    from transformers import Trainer, TrainingArguments

    model = make_classifier(encoder, [("pitch", a_head("classes", ("low", "high")), HeadFacts())])
    time = torch.arange(RATE // 2) / RATE
    rows = [
        {
            "input_values": 0.2 * torch.sin(2 * torch.pi * (200 + 1500 * (n % 2)) * (1 + 0.02 * n) * time),
            "labels": n % 2,
        }
        for n in range(8)
    ]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=25, per_device_train_batch_size=8, learning_rate=3e-3, report_to=[], logging_steps=25,
        save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    with torch.no_grad():
        batch = torch.stack([row["input_values"] for row in rows])
        truth = torch.tensor([n % 2 for n in range(8)])
        before = float(model(batch, labels=truth).loss)
    Trainer(model, arguments, train_dataset=rows).train()
    with torch.no_grad():
        assert float(model.eval()(batch, labels=truth).loss) < 0.5 * before
