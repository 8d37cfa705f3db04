"""Sound to labels: the engine against the model, units and windows, beats and bars by construction, what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import groundbass
from groundbass.data.audio.read import write
from groundbass.data.labels.decoding import bar_positions, harmony_change
from groundbass.data.labels.kind import FrameAnswers
from groundbass.data.labels.lookup import kind_of
from groundbass.models.classifier_files import make_classifier, write_classifier
from groundbass.models.encoder import ModelEncoder, weights_hash
from groundbass.models.head_files import HeadFacts, write_head
from groundbass.models.heads import HeadConfig
from groundbass.models.music_taggers import MusicTaggerConfig, MusicTaggerModel
from groundbass.models.panns import PannsConfig, PannsModel
from groundbass.models.published import write_encoder
from groundbass.pretrain.recipe import find
from groundbass.probe.apply import classify
from groundbass.probe.apply.classify import Answer, Classifier, OnEncoder, Said, load_classifier
from groundbass.probe.apply.predict_page import lanes
from groundbass.probe.apply.verdicts import compare

RATE = 24_000
HEADS: dict[str, tuple[dict[str, Any], HeadFacts]] = {
    "genre": ({"kind": "classes", "names": ("rock", "jazz", "folk"), "pooling": "mean+std+change", "layer": 1},
              HeadFacts(window_seconds=2.0)),
    "mood": ({"kind": "tags", "names": ("calm", "wild"), "hidden": 4},
             HeadFacts(window_seconds=2.0, stretch_seconds=3.0, aggregation="probabilities", thresholds=(0.0, 1.0))),
    "level": ({"kind": "numbers", "names": ("dB",), "pooling": "attention"},
              HeadFacts(window_seconds=2.0, aggregation="logits")),
    "beats": ({"kind": "beats", "names": ("beat", "downbeat")},
              HeadFacts(window_seconds=2.0, unit="frame", decoder={"name": "tracker", "usual": 0.5})),
    "chords": ({"kind": "chords", "names": ("C:maj", "N")}, HeadFacts(unit="frame", decoder={"name": "viterbi"})),
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, a folder of heads on it, and both as a classifier."""
    folder = tmp_path_factory.mktemp("classify")
    torch.manual_seed(0)
    encoder = find("masked.bestrq_debug").objective.build().encoder.eval()
    write_encoder(encoder, folder / "encoder")
    named = []
    for name, (settings, facts) in HEADS.items():
        head = HeadConfig(dim=32, **settings).build().eval()
        named.append((name, head, facts))
        told = {
            **facts.__dict__,
            "encoder": str(folder / "encoder"),
            "encoder_hash": weights_hash(ModelEncoder(encoder)),
        }
        write_head(folder / "heads", name, head, HeadFacts(**told))
    write_classifier(make_classifier(encoder, named), folder / "classifier")
    return folder


def noise(seconds: float, seed: int = 0) -> np.ndarray[Any, Any]:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def test_it_says_what_the_model_says(place: Path) -> None:
    """A heads folder and a classifier's folder, through this engine, and the model that transformers would run."""
    sound = noise(7.3)
    model = classify.open_classifier(place / "classifier")
    loaded, heads = load_classifier(place / "classifier"), load_classifier(place / "heads")
    one, other = loaded.hear(sound), heads.hear(sound)
    assert set(one) == set(other) == set(HEADS)
    with torch.no_grad():
        for number, name in enumerate(model.head_names):
            logits = model(torch.from_numpy(sound)[None], head=number).logits
            expected = model.probabilities(logits, number)[0].numpy()
            for found in (one[name], other[name]):
                values = found.values if name == "level" else found.probabilities
                assert values is not None
                np.testing.assert_allclose(values[0], expected, atol=2e-5, err_msg=name)
    assert one["genre"].start.tolist() == [0.0] and one["genre"].end[0] == pytest.approx(7.3)
    assert one["mood"].ranked()[0][0] == "calm" and len(one["mood"].ranked()) == 1, "by its thresholds"
    assert loaded(sound).kind == "classes"


def test_heads_on_one_encoder_share_a_pass(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = ModelEncoder.hidden_states
    monkeypatch.setattr(
        ModelEncoder, "hidden_states", lambda self, *rest: (calls.append(rest[0].shape), real(self, *rest))[1]
    )
    one = classify.together([load_classifier(place / "heads"), load_classifier(place / "classifier")])
    assert len(one) == 1
    found = one[0].hear(noise(4.0))
    assert len(found) == 10 and "classifier/genre" in found
    np.testing.assert_allclose(found["genre"].probabilities, found["classifier/genre"].probabilities)  # type: ignore[arg-type]
    assert len(calls) == 3, "2-s windows of the track, those of 3-s stretches, and the chords' of 10 s"


def test_units_are_tracks_windows_and_frames(place: Path, tmp_path: Path) -> None:
    write(tmp_path / "song.flac", noise(5.0), RATE)
    loaded = load_classifier(place / "classifier")
    windows = loaded.hear(tmp_path / "song.flac", unit="window")["genre"]
    assert windows.probabilities is not None and windows.probabilities.shape == (3, 3)
    np.testing.assert_allclose(windows.end[:-1], windows.start[1:])
    assert windows.end[-1] == pytest.approx(5.0)
    frames = loaded.hear(noise(5.0), unit="frame")["chords"]
    assert frames.probabilities is not None and frames.probabilities.shape[0] == 125 == len(frames.start)
    assert frames.segments is not None and frames.segments[0][0] == 0.0
    assert frames.segments[-1][1] == pytest.approx(5.0, abs=0.05)
    each = windows.probabilities
    for how, by_hand in (("mean", each.mean(0)), ("max", each.max(0)), ("median", np.median(each, 0))):
        said = loaded.hear(noise(5.0), aggregate=how)["genre"].probabilities  # type: ignore[arg-type]
        np.testing.assert_allclose(said[0], by_hand, atol=1e-3)  # type: ignore[index]
    vote = loaded.hear(noise(5.0), aggregate="vote")["genre"].probabilities
    assert vote is not None and sorted(vote[0].tolist())[-1] in (1 / 3, 2 / 3, 1.0)


def test_beats_and_bars_of_what_is_plain(clicks: Callable[..., Any]) -> None:
    """Probabilities with a peak every 0.5 s, every third of them a downbeat from the second on."""
    times = (np.arange(1000) + 0.5) / 50
    beats = np.arange(0.31, 19.9, 0.5)
    likely = np.full((1000, 2), 0.02)
    for number, beat in enumerate(beats):
        likely[int(beat * 50), 0] = 0.9
        likely[int(beat * 50), 1] = 0.8 if number % 3 == 1 else 0.1
    way = {"name": "tracker", "usual": 0.6, "tightness": 100.0}
    heard = kind_of("beats").heard(FrameAnswers(likely, times, 20.0, ("beat", "downbeat")), way)
    assert heard.times is not None and heard.positions is not None and heard.segments is None
    np.testing.assert_allclose(heard.times, beats, atol=0.02)
    assert heard.positions.tolist()[:5] == [3, 1, 2, 3, 1]
    assert bar_positions(np.zeros(0), likely[:, 1], times).tolist() == []
    four = bar_positions(beats, np.where(np.isin(np.arange(1000), (beats[2::4] * 50).astype(int)), 0.9, 0.0), times)
    assert four.tolist()[:4] == [3, 4, 1, 2]


def test_bars_begin_where_the_harmony_changes() -> None:
    """Downbeats that say nothing, chords that change on every fourth beat from the second on; then a waltz."""
    times = (np.arange(1000) + 0.5) / 50
    beats = np.arange(0.31, 19.9, 0.5)
    likely = np.full((1000, 2), 0.02)
    likely[(beats * 50).astype(int), 0] = 0.9
    way = {"name": "tracker", "usual": 0.5, "tightness": 100.0, "bars": "chords"}
    kind = kind_of("beats")
    for meter in (3, 4):
        bar = np.searchsorted(beats[1::meter], times, side="right")
        chords = np.eye(5)[bar % 5] * 0.8 + 0.04
        heard = kind.heard(FrameAnswers(likely, times, 20.0, ("beat", "downbeat"), {"chords": chords}), way)
        assert heard.positions is not None
        assert heard.positions.tolist()[:6] == [(place - 1) % meter + 1 for place in range(6)]
        other = kind.heard(FrameAnswers(likely, times, 20.0, ("beat", "downbeat"), {"key": chords}), way)
        alone = kind.heard(FrameAnswers(likely, times, 20.0, ("beat", "downbeat")), {**way, "bars": ""})
        np.testing.assert_array_equal(other.positions, alone.positions)  # type: ignore[arg-type]
    change = harmony_change(beats[:3], np.eye(2)[(times > beats[1]).astype(int)], times)
    np.testing.assert_allclose(change, [0.0, 1.0, 0.0], atol=0.05)  # one frame of 25 says the chord before


def test_a_vote_is_the_share_of_windows_that_say_it() -> None:
    """Tags have a vote each, above their own thresholds; classes one among them; numbers have their median."""
    logits = torch.tensor([[2.0, 2.0, -2.0], [1.0, 2.0, -2.0], [-1.0, 2.0, -2.0], [2.0, 2.0, 3.0]])
    answer = Answer(logits.mean(0), [(float(n), n + 1.0, row) for n, row in enumerate(logits)])
    names = ("calm", "wild", "slow")

    def voted(kind: str, likely: Any) -> Any:
        answering = SimpleNamespace(probabilities=lambda member, logits: likely(logits))
        facts = HeadFacts(thresholds=(0.5, 0.9, 0.05) if kind == "tags" else ())
        return Said(answering, 0, "x", kind, names, facts).prediction(answer, 4.0, "track", "vote")

    tags = voted("tags", torch.sigmoid)
    assert tags.probabilities.tolist() == [[0.75, 0.0, 1.0]] and tags.windows.probabilities.shape == (4, 3)
    assert tags.ranked() == [("slow", 1.0), ("calm", 0.75)], "what half of the windows say holds"
    assert voted("classes", lambda logits: torch.softmax(logits, -1)).probabilities.tolist() == [[0.25, 0.5, 0.25]]
    assert voted("numbers", lambda logits: logits).values.tolist() == [[1.5, 2.0, -2.0]]


def test_what_is_refused_is_named(place: Path, tmp_path: Path) -> None:
    loaded = load_classifier(place / "classifier")
    with pytest.raises(ValueError, match="NaN or infinity"):
        loaded(np.full(RATE, np.nan, np.float32))
    with pytest.raises(ValueError, match="not empty"):
        loaded(np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="track, window or frame"):
        loaded(noise(1.0), unit="song")  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="is silent"):
        assert np.isfinite(loaded(np.zeros(RATE, np.float32)).probabilities).all()  # type: ignore[arg-type, type-var]
    with pytest.raises(ValueError, match="longer than 0 s"):
        loaded.hear(noise(1.0), window=float("nan"))
    assert np.isfinite(loaded(noise(0.005)).probabilities).all(), "shorter than a frame"  # type: ignore[arg-type, type-var]
    with pytest.raises(ValueError, match="holds no classifier: it is an encoder"):
        load_classifier(place / "encoder")
    shutil.copytree(place / "heads", tmp_path / "heads")
    torch.manual_seed(1)
    write_encoder(find("masked.bestrq_debug").objective.build().encoder, tmp_path / "other")
    with pytest.raises(ValueError, match="fitted on another encoder"):
        load_classifier(tmp_path / "heads", encoder=tmp_path / "other")
    with pytest.raises(ValueError, match="belongs to another"):
        OnEncoder(load_classifier(place / "heads").answering.encoder, [
            ("x", HeadConfig("classes", ("a", "b"), 9).build(), HeadFacts())])  # fmt: skip


def test_the_public_doors(place: Path) -> None:
    found = groundbass.predict([place / "heads"], noise(3.0))
    assert isinstance(groundbass.load_classifier(place / "heads"), Classifier)
    assert found["genre"].label in ("rock", "jazz", "folk")
    low = groundbass.load_classifier(place / "heads")(noise(3.0)[::3], sample_rate=8000)
    assert low.end[0] == pytest.approx(3.0, abs=1e-3)


@pytest.mark.slow
def test_a_classifier_of_hugging_face(tmp_path: Path) -> None:
    """A wav2vec2 classifier with random weights: the mean probability of its windows."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=(8, 8),
        conv_kernel=(10, 8), conv_stride=(160, 2), num_feat_extract_layers=2, num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2, classifier_proj_size=8, num_labels=3, id2label={0: "a", 1: "b", 2: "c"},
    )  # fmt: skip
    model = Wav2Vec2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=16_000, do_normalize=True)
    extractor.save_pretrained(tmp_path)
    sound = (0.1 * np.random.default_rng(0).standard_normal(16_000 * 3)).astype(np.float32)
    said = load_classifier(tmp_path).hear(sound, window=1.5)[tmp_path.name]
    each = []
    with torch.no_grad():
        for half in (sound[:24_000], sound[24_000:]):
            logits = model(**extractor(half, sampling_rate=16_000, return_tensors="pt")).logits
            each.append(torch.softmax(logits, -1)[0])
    np.testing.assert_allclose(said.probabilities[0], torch.stack(each).mean(0).numpy(), atol=1e-5)  # type: ignore[index]
    assert said.names == ("a", "b", "c")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MusiCNN of one second with random weights, sixteen windows spread evenly over a track."""
    torch.manual_seed(0)
    model = MusicTaggerModel(MusicTaggerConfig(network="musicnn", classes=3, width=0.05, window_samples=16_000))
    model.config.id2label = {0: "low", 1: "middle", 2: "high"}
    model.config.label2id = {"low": 0, "middle": 1, "high": 2}
    folder = tmp_path_factory.mktemp("tagger") / "musicnn"
    write_classifier(make_classifier(model.eval(), []), folder)
    return folder


def test_a_taggers_track_is_what_its_config_says(tagger: Path) -> None:
    """Sixteen windows with the published hop, their sigmoids' mean; and each of them by itself."""
    sound = (0.1 * np.random.default_rng(0).standard_normal(56_000)).astype(np.float32)
    loaded = load_classifier(tagger)
    said = loaded.hear(sound, 16_000)["musicnn"]
    model = classify.open_classifier(tagger)
    hop = (56_000 - 16_000) // 16
    cuts = torch.stack([torch.from_numpy(sound[i * hop : i * hop + 16_000]) for i in range(16)])
    with torch.no_grad():
        each = model.encoder.window_logits(cuts).sigmoid().numpy()
        whole = model(torch.from_numpy(sound)[None]).logits.sigmoid()[0].numpy()
    assert said.probabilities is not None and said.windows is not None and said.windows.probabilities is not None
    np.testing.assert_allclose(said.windows.probabilities, each, atol=1e-5)
    np.testing.assert_allclose(said.probabilities[0], each.mean(0), atol=1e-5)
    np.testing.assert_allclose(said.probabilities[0], whole, atol=1e-5)
    np.testing.assert_allclose(said.windows.start, np.arange(16) * hop / 16_000)
    instance = loaded.hear(sound, 16_000, unit="window")["musicnn"]
    np.testing.assert_allclose(instance.probabilities, said.windows.probabilities)  # type: ignore[arg-type]


def test_songs_and_instances_are_scored_from_one_model(tagger: Path) -> None:
    """`predict --labels`: the recording's answer, and every window against its recording's label."""
    loaded = load_classifier(tagger)
    sounds = {str(k): (0.1 * np.random.default_rng(k).standard_normal(40_000)).astype(np.float32) for k in range(4)}
    results = {name: loaded.hear(sound, 16_000) for name, sound in sounds.items()}
    truth = {name: {"musicnn": "low" if name in "01" else "high"} for name in sounds}
    song, window = compare(results, truth).verdicts
    assert (song.tracks, window.tracks) == (4, 4) and window.head == "musicnn, each of 64 windows"
    right = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0, 0, 1]])
    for verdict, copies, likely in (
        (song, 1, np.stack([results[name]["musicnn"].probabilities[0] for name in sounds])),  # type: ignore[index]
        (window, 16, np.concatenate([results[name]["musicnn"].windows.probabilities for name in sounds])),  # type: ignore[union-attr]
    ):
        expected = roc_auc_score(np.repeat(right, copies, 0)[:, [0, 2]], likely[:, [0, 2]])
        assert verdict.scores["ROC-AUC, macro"].value == pytest.approx(expected)


def test_what_a_network_hears_over_time_goes_onto_the_page() -> None:
    torch.manual_seed(0)
    model = PannsModel(
        PannsConfig.at_16k(network="Cnn14_DecisionLevelAtt", classes=2, width=0.01, window_samples=32_000)
    )
    model.config.id2label = {0: "hum", 1: "hiss"}
    loaded = Classifier(classify.Whole("panns", model, None, "cpu"), "panns")
    sound = (0.1 * np.random.default_rng(0).standard_normal(80_000)).astype(np.float32)
    said = loaded.hear(sound, 16_000)["panns"]
    assert said.windows is not None and said.windows.probabilities is not None and len(said.start) == 1
    with torch.no_grad():
        steps = model.frame_logits(torch.from_numpy(sound)[None])[0].sigmoid().numpy()
        clip = model.class_logits(torch.from_numpy(sound)[None]).sigmoid()[0].numpy()
    np.testing.assert_allclose(said.windows.probabilities, steps, atol=1e-5)
    np.testing.assert_allclose(said.probabilities[0], clip, atol=1e-5)  # type: ignore[index]
    drawn = lanes(said)
    assert {lane.name for lane in drawn} == {"hum", "hiss"} and all(len(lane.spans) == len(steps) for lane in drawn)
    long = replace(said, windows=replace(said.windows, start=np.arange(5000.0), end=np.arange(1.0, 5001.0),
                   probabilities=np.eye(2)[np.arange(5000) // 4999]))  # fmt: skip
    spans = next(lane for lane in lanes(long) if lane.name == "hiss").spans
    assert len(spans) == 600 and spans[-1].end == 5000.0 and spans[-1].dark == 1.0 and spans[-2].dark == 0.0
