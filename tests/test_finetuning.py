"""The story: a labelled folder → finetune → predict; the frozen probe beside it, paired; what is refused."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from groundbass import efficiency, finetuning
from groundbass.data.audio.read import write
from groundbass.data.track import Manifest
from groundbass.finetuning import finetune, label_of, labelled_manifest
from groundbass.models import reload
from groundbass.models.encoder import load_encoder
from groundbass.models.head_files import HeadFacts, write_head
from groundbass.models.heads import HeadConfig
from groundbass.models.published import write_encoder
from groundbass.pretrain.recipe import find
from groundbass.probe.addresses import find_tasks
from groundbass.probe.apply.classify import load_classifier, what_to_hear
from groundbass.probe.evaluation import Settings, TaskProbe
from groundbass.probe.listen.features import FeatureStore
from groundbass.publishing import publish

RATE = 24_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty clips of three pitches, by six artists, with a level as a number; and a small untrained encoder."""
    place = tmp_path_factory.mktemp("labelled")
    (place / "music").mkdir()
    rows = ["path,genre,level,split"]
    for number in range(30):
        time = np.arange(2 * RATE) / RATE
        level = 0.05 + 0.3 * (number % 7) / 7
        sound = level * np.sin(2 * np.pi * (300, 1100, 4000)[number % 3] * (1 + 0.002 * number) * time)
        write(place / "music" / f"{number}.flac", sound.astype(np.float32), RATE)
        split = "test" if number >= 24 else "valid" if number >= 18 else "train"
        rows.append(f"{number}.flac,{('rock', 'jazz', 'folk')[number % 3]},{level:.4f},{split}")
    (place / "music" / "labels.csv").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    write_encoder(find("masked.bestrq_debug").objective.build().encoder, place / "encoder")
    return place


def test_a_task_becomes_a_manifest_that_says_who_trains(folder: Path) -> None:
    tasks = find_tasks(f"folder:{folder / 'music'}", ("genre", "level:number"), None)
    manifest = labelled_manifest(tasks)
    assert isinstance(manifest, Manifest) and len(manifest) == 30
    sides = manifest.column("split").tolist()
    assert (sides.count("train"), sides.count("valid"), sides.count("test")) == (18, 6, 6)
    by_key = {track.key: track.labels for track in manifest}
    assert [by_key[f"{number}.flac"]["music_genre"] for number in range(3)] == ["rock", "jazz", "folk"]
    assert label_of(tasks[1]) == "music_level.0" and by_key["0.flac"]["music_level.0"] == pytest.approx(0.05)


def test_a_run_that_was_begun_on_other_labels_says_so(folder: Path, tmp_path: Path) -> None:
    music, run = f"folder:{folder / 'music'}", tmp_path / "run"
    run.mkdir()
    labelled_manifest(find_tasks(music, ("genre",), None)).write(run / "labelled.parquet")
    with pytest.raises(ValueError, match=r"begun on the labels music_genre, and now music_level\.0 are asked"):
        finetune(str(folder / "encoder"), data=music, run=run, label=("level:number",), steps=1, workers=0)


@pytest.mark.slow
def test_it_begins_as_the_frozen_probe_and_ends_as_it_where_training_ruins(folder: Path, tmp_path: Path) -> None:
    """A learning rate that destroys everything: what is published answers as the probe, of every task, everywhere."""
    music, run = f"folder:{folder / 'music'}", tmp_path / "run"
    found = finetune(
        str(folder / "encoder"), data=music, run=run, label=("genre", "level:number"), steps=1, batch_size=4,
        crop_seconds=1.0, lr=1e3, validate_every=1, workers=0, seed=1,
    )  # fmt: skip
    lines = [json.loads(line) for line in (run / "valid.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1] and lines[0]["score"] > lines[1]["score"]
    assert [one.difference.value for one in found] == pytest.approx([0.0, 0.0], abs=1e-4)
    trained, probed = load_classifier(run), load_classifier(run / "probe")
    for number in (0, 7, 29):
        ours, frozen = (one.hear(*what(folder, number)) for one in (trained, probed))
        np.testing.assert_allclose(ours["music_genre"].probabilities, frozen["music_genre"].probabilities, atol=1e-5)
        level = "music_level.0"
        np.testing.assert_allclose(ours[level].values, frozen[level].values, atol=1e-5)


def what(folder: Path, number: int) -> Any:
    """A clip as classifiers hear it."""
    manifest = find_tasks(f"folder:{folder / 'music'}", ("genre",), None)[0].manifest
    return what_to_hear(manifest, [track.key for track in manifest].index(f"{number}.flac"))


@pytest.mark.parametrize(("blocks", "start", "rates"), [
    (2, True, (1e-3, 1.0, 1.0)), (2, False, (1e-3, 1.0, 3.0)),
    (12, True, (3e-4, 0.75, 1.0)), (12, False, (3e-4, 0.75, 10.0)),
])  # fmt: skip
def test_rates_follow_the_depth(blocks: int, start: bool, rates: tuple[float, ...]) -> None:
    frozen: Any = SimpleNamespace(encoder=SimpleNamespace(layers=blocks + 1))
    assert finetuning._rates(frozen, finetuning.Way(), start) == rates
    assert finetuning._rates(frozen, finetuning.Way(lr=0.5, head_lr=0.0), start) == (0.5, rates[1], 0.0)
    assert finetuning._rates(frozen, finetuning.Way(scratch=True), False) == (rates[0], 1.0, 1.0)


@pytest.mark.slow
def test_finetune_compares_with_the_frozen_probe_and_predict_hears(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    music = f"folder:{folder / 'music'}"
    found = finetune(
        str(folder / "encoder"), data=music, run=tmp_path / "run", label=("genre", "level:number"), start="fresh",
        steps=120, batch_size=9, crop_seconds=1.0, lr=3e-3, layer_decay=1.0, head_lr=3.0, validate_every=30, workers=0,
    )  # fmt: skip
    genre, level = found
    assert genre.metric == "accuracy" and genre.tracks == 6 and genre.finetuned.value >= 5 / 6
    assert level.metric == "r2" and level.probe is not None
    assert genre.difference.value == pytest.approx(genre.finetuned.value - genre.probe.value)
    probed = TaskProbe(
        find_tasks(music, ("level:number",), None)[0], load_encoder(str(folder / "encoder")),
        FeatureStore(tmp_path / "features"), Settings(baselines=()),
    ).evaluate().trained  # fmt: skip
    assert level.probe.value == pytest.approx(r2_score(probed.truth[:, 0], probed.guess[:, 0])), "as `groundbass probe`"
    out = capsys.readouterr().out
    assert "frozen probe" in out and "difference" in out
    told = json.loads((tmp_path / "run" / "finetune.json").read_text())
    assert [entry["task"] for entry in told] == ["music_genre", "music_level"]
    classifier = load_classifier(tmp_path / "run")
    right = 0
    for number in range(24, 30):
        said = classifier(folder / "music" / f"{number}.flac")
        right += said.label == ("rock", "jazz", "folk")[number % 3]
    assert right / 6 == pytest.approx(genre.finetuned.value), "what was scored is what predict says"
    with pytest.raises(ValueError, match="fold is 3"):
        finetune(
            str(folder / "encoder"), data=f"folder:{folder / 'music'}", run=tmp_path / "other", label=("genre",), fold=3
        )


@pytest.mark.slow
def test_what_was_finetuned_is_published_and_answers_alike(folder: Path, tmp_path: Path) -> None:
    """A run, and heads on an encoder: `publish` proves that transformers alone answers alike; scores, a picture."""
    run = tmp_path / "run"
    finetune(
        str(folder / "encoder"), data=f"folder:{folder / 'music'}", run=run, label=("genre",), steps=4, batch_size=4,
        crop_seconds=1.0, validate_every=4, workers=0, probe=False,
    )  # fmt: skip
    publish(run, tmp_path / "model", license="cc-by-4.0")
    card = (tmp_path / "model" / "README.md").read_text()
    told = json.loads((run / "finetune.json").read_text())[0]
    rock = next(one for one in told["classes"] if one["name"] == "rock")
    recall = rock["scores"]["recall"]
    assert rock["tracks"] == 2 and recall["low"] <= recall["value"] <= recall["high"]
    assert f"| rock | {recall['value']:.2f} [{recall['low']:.2f}, {recall['high']:.2f}] |" in card
    assert f"| music_genre | accuracy | {told['finetuned']['value']:.3f}" in card
    assert "pipeline_tag: audio-classification" in card and "license: cc-by-4.0" in card
    assert (tmp_path / "model" / "confusion.png").stat().st_size > 1000 and "| rock |" in card
    said = load_classifier(tmp_path / "model")(folder / "music" / "0.flac")
    assert said.label == load_classifier(run)(folder / "music" / "0.flac").label
    with pytest.raises(FileExistsError, match="--force"):
        publish(run, tmp_path / "model")
    encoder, answers = run_card(tmp_path / "model")
    noise = 0.1 * np.random.RandomState(7).randn(5 * RATE)
    ours = load_classifier(tmp_path / "model").hear(noise.astype(np.float32), RATE)["music_genre"]
    assert encoder == "MertModel" and {one["label"] for one in answers} == {"rock", "jazz", "folk"}
    expected = dict(zip(ours.names, ours.probabilities[0].tolist(), strict=True))
    assert {one["label"]: one["score"] for one in answers} == pytest.approx(expected, abs=1e-4)

    head = HeadConfig("tags", ("a", "b"), 32).build()
    facts = HeadFacts(encoder=str(folder / "encoder"), thresholds=(0.25, 0.5), scores={"ours": 0.75})  # no probe's
    write_head(tmp_path / "heads", "mood", head, facts)
    publish(tmp_path / "heads", tmp_path / "second")
    card = (tmp_path / "second" / "README.md").read_text()
    assert "thresholds 0.25, 0.50" in card and "| mood | ours | 0.750 |" in card


@pytest.mark.slow
def test_beats_are_compared_with_their_probe_and_begin_fresh(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels over time have scores per track: the frozen probe's mean is what `groundbass probe` says."""
    music = tmp_path / "clicks"
    music.mkdir()
    rows = ["path,beats,split"]
    for number in range(6):
        times = np.arange(0.2, 2.0, 0.3 + 0.02 * number)
        sound = np.zeros(2 * RATE, np.float32)
        for time in times:
            sound[round(time * RATE) :][:400] = 0.5
        write(music / f"{number}.wav", sound, RATE)
        (music / f"{number}.beats").write_text("".join(f"{time:.3f}\n" for time in times))
        rows.append(f"{number}.wav,{number}.beats,{('train', 'train', 'train', 'valid', 'test', 'test')[number]}")
    (music / "labels.csv").write_text("\n".join(rows) + "\n")
    (found,) = finetune(
        str(folder / "encoder"), data=f"folder:{music}", run=tmp_path / "run", label=("beats:beats",), steps=2,
        batch_size=2, crop_seconds=1.0, validate_every=2, workers=0,
    )  # fmt: skip
    task = find_tasks(f"folder:{music}", ("beats:beats",), None)[0]
    settings = Settings(baselines=(), seeds=())
    probed = TaskProbe(task, load_encoder(str(folder / "encoder")), FeatureStore(tmp_path / "f"), settings).evaluate()
    assert found.probe.value == pytest.approx(float(probed.trained.guess[:, 0].mean()))
    assert found.difference.value == pytest.approx(found.finetuned.value - found.probe.value)
    heard = load_classifier(tmp_path / "run")(music / "4.wav")
    kind, first = task.label_kind, finetuning.heard(task, 0, tmp_path / "run")[0]
    assert first == pytest.approx(kind.score(task.labels[4], heard.times)), "what was scored is what predict says"
    assert "had fresh heads" in capsys.readouterr().out


def run_card(model: Path) -> tuple[str, Any]:
    """The Python of a published README.md, as it is printed, in a process that finds torch and transformers alone.

    Returns the class of the encoder that the card's sentence opens, and what its example prints.
    """
    card = (model / "README.md").read_text()
    example, sentence = (
        found.group(1) for found in (re.search(pattern, card, re.DOTALL) for pattern in
                                     (r"```python\n(.*?)```", r"`(AutoModel\.from_pretrained\([^`]*\))`")) if found
    )  # fmt: skip
    (model.parent / "narrow.py").write_text(Path(reload.__file__).read_text())
    script = f"""
import sys
sys.path.insert(0, {str(model.parent)!r})
from narrow import Narrow, hidden_packages
hidden = hidden_packages()
sys.meta_path[:] = [Narrow(finder, hidden) for finder in sys.meta_path]
import numpy
numpy.random.seed(7)
from transformers import AutoModel
print(type({sentence}).__name__)
{example}"""
    environment = os.environ | {"HF_MODULES_CACHE": str(model.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=model.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *_, encoder, answers = done.stdout.splitlines()
    return encoder, ast.literal_eval(answers)


@pytest.mark.slow
def test_the_curve_over_the_number_of_labels(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each number of labels teaches four methods on the same recordings; what was answered isn't asked again."""
    music, encoder = f"folder:{folder / 'music'}", str(folder / "encoder")
    task = find_tasks(music, ("genre",), None)[0]
    few = efficiency.fewer(task, 2, seed=0)
    assert np.bincount(few.targets[few.folds[0].train]).tolist() == [2, 2, 2]
    assert set(few.folds[0].train) < set(task.folds[0].train) and few.folds[0].test is task.folds[0].test
    asked: dict[str, Any] = {"data": music, "label": ("genre",), "per_class": (2,), "baselines": ("mfcc",)}
    asked |= {"steps": 2, "batch_size": 4, "crop_seconds": 1.0, "workers": 0, "out": tmp_path / "curve"}
    with monkeypatch.context() as patched:
        patched.setattr(finetuning, "finetune_on", lambda *_: False)  # SIGTERM came
        with pytest.raises(SystemExit, match="goes on from there"):
            efficiency.efficiency(encoder, **asked)
    kept = [path.name for path in (tmp_path / "curve" / "answers").glob("*.json")]
    assert kept == ["frozen_2.json"], "nothing half-trained"
    points = efficiency.efficiency(encoder, **asked)
    methods = ["frozen", "mfcc", "fine-tuned", "from scratch"]
    assert [(p.method, p.shots, p.clips) for p in points] == [
        *((method, 2, 6) for method in methods), *((method, None, 18) for method in methods)
    ]  # fmt: skip
    assert all(p.low <= p.value <= p.high for p in points)
    monkeypatch.setattr(finetuning, "finetune_on", lambda *_: pytest.fail("it was trained before"))
    drawn = efficiency.efficiency(encoder, **(asked | {"draws": 2, "finetune": False}))
    assert [(p.method, p.shots, p.draws) for p in drawn] == [
        ("frozen", 2, 2), ("mfcc", 2, 2), ("frozen", None, 1), ("mfcc", None, 1)
    ]  # fmt: skip
    assert drawn[2:] == points[4:6]
    assert efficiency.efficiency(encoder, **asked) == points
    assert not list((tmp_path / "curve" / "runs").iterdir()), "runs are not kept"
    monkeypatch.setattr("groundbass.models.encoder.weights_hash", lambda encoder: "another")
    with pytest.raises(pytest.fail.Exception, match="trained before"):  # other weights in the same folder
        efficiency.efficiency(encoder, **(asked | {"baselines": ()}))
    monkeypatch.undo()
    table = (tmp_path / "curve" / "efficiency.csv").read_text().splitlines()
    assert len(table) == 9 and (tmp_path / "curve" / "efficiency.png").stat().st_size > 10_000
    assert "2 per class (6 recordings)" in capsys.readouterr().out
    rows = task.folds[0].test
    truth = np.eye(3)[task.targets[rows]]
    right = efficiency.scored(task, None, "oracle", [(rows, truth)])
    assert right.value == right.high == 1.0 and right.draws == 1
    half = efficiency.scored(task, None, "oracle and its contrary", [(rows, truth), (rows, 1 - truth)])
    assert half.value == pytest.approx((1.0 + np.mean((1 - truth).argmax(1) == task.targets[rows])) / 2)
    assert half.draws == 2
    with pytest.raises(ValueError, match="at least one recording per class"):
        efficiency.efficiency(encoder, **(asked | {"per_class": (0,)}))
    with pytest.raises(ValueError, match="give --label"):
        efficiency.efficiency(encoder, **(asked | {"label": ("genre", "level:number")}))
