"""Targets against oracles: nnAudio for the CQT, loops for quantisers, librosa for chroma, a small EnCodec."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from nnAudio.features.cqt import CQT1992v2
from torch.nn import functional
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel

from groundbass.data.audio import read as audio
from groundbass.data.collections.scan import scan_folder
from groundbass.data.track import Manifest
from groundbass.models.quantizers import MelQuantizer, MelQuantizerConfig, ResidualQuantizer
from groundbass.pretrain.objective import TrainingStopped
from groundbass.pretrain.objectives.parts.rvq_target import load_tokenizer
from groundbass.pretrain.targets.codec import Codec, CodecSettings, CodeStore, codes
from groundbass.pretrain.targets.codes import CodeHead, CodeHeadSettings, LabelCounts
from groundbass.pretrain.targets.cqt import CQT, CQTSettings
from groundbass.pretrain.targets.kmeans import KMeansSettings, chroma_filters, kmeans
from groundbass.pretrain.targets.random_projection import RandomProjectionSettings, RandomProjector
from groundbass.pretrain.targets.target import FrameGrid

Waveform = np.ndarray


# --- constant Q ---------------------------------------------------------------------------------------------------


def oracle_cqt(waveform: torch.Tensor, rate: int, hop: int, bins: int, per_octave: int, lowest: float) -> torch.Tensor:
    layer = CQT1992v2(
        sr=rate, hop_length=hop, fmin=lowest, n_bins=bins, bins_per_octave=per_octave, norm=1, window="hann",
        center=True, pad_mode="constant", verbose=False,
    )  # fmt: skip
    return layer(waveform).transpose(1, 2)


@pytest.mark.parametrize(
    "rate, hop, samples, bins, per_octave, lowest",
    [(24000, 320, 24000, 336, 48, 32.7), (24000, 960, 30000, 288, 48, 65.4), (16000, 320, 16100, 84, 12, 65.4)],
)
def test_cqt_equals_nnaudio(rate: int, hop: int, samples: int, bins: int, per_octave: int, lowest: float) -> None:
    """Within 5e-4 of a clip's largest magnitude: noise, a click at the edge, two tones of which one sets in late."""
    time = torch.arange(samples) / rate
    waveform = torch.zeros(3, samples)
    waveform[0] = 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(0))
    waveform[1, 10] = 1.0
    waveform[2] = 0.5 * torch.sin(2 * np.pi * 440 * time) + 0.3 * torch.sin(2 * np.pi * 70 * time) * (time > 0.4)
    ours = CQT(rate, hop, bins, per_octave, lowest)(waveform)
    theirs = oracle_cqt(waveform, rate, hop, bins, per_octave, lowest)
    assert ours.shape == theirs.shape == (3, 1 + samples // hop, bins)
    error = (ours - theirs).abs().amax((1, 2)) / theirs.amax((1, 2))
    assert (error < 5e-4).all(), error


def test_both_back_ends_of_the_cqt_target_answer_alike() -> None:
    """To 1e-4 of a clip's largest magnitude; nnAudio's long kernels are no part of what a checkpoint holds."""
    time = torch.arange(12_000) / 16_000
    waveform = torch.stack([0.4 * torch.sin(2 * np.pi * f * time) + 0.2 * torch.sin(9 * f * time) for f in (220, 1500)])
    settings = CQTSettings(bins=84, bins_per_octave=12, lowest=65.4)
    found = {}
    for backend in ("own", "nnaudio"):
        target = dataclasses.replace(settings, backend=backend).build(FrameGrid(16_000, 320), 8)
        assert set(target.state_dict()) == {"head.projection.weight", "head.projection.bias"}
        found[backend] = target.targets(waveform, torch.zeros(2), ["a", "b"])
    assert found["own"].shape == found["nnaudio"].shape == (2, 38, 84)
    largest = found["nnaudio"].amax((1, 2))
    assert ((found["own"] - found["nnaudio"]).abs().amax((1, 2)) < 1e-4 * largest).all() and float(largest.min()) > 1


def test_cqt_peaks_at_the_note(note: Callable[..., Waveform]) -> None:
    waveform = torch.from_numpy(note(69, seconds=1.5, sample_rate=24000, harmonics=1))[None]
    magnitude = CQT(24000, 960)(waveform)[0, 10:-10].mean(0)
    assert int(magnitude.argmax()) == round(48 * np.log2(440 / 32.7))


def test_cqt_target_trims_scales_and_refuses() -> None:
    grid = FrameGrid(24000, 320)
    waveform = 0.1 * torch.randn(2, 24000)
    raw = CQTSettings().build(grid, 8).targets(waveform, torch.zeros(2), ["a", "b"])
    log = CQTSettings(scale="log").build(grid, 8).targets(waveform, torch.zeros(2), ["a", "b"])
    standard = CQTSettings(scale="standard").build(grid, 8).targets(waveform, torch.zeros(2), ["a", "b"])
    torch.testing.assert_close(log, torch.log1p(100 * raw))
    assert float(standard.mean().abs()) < 1e-4 and float(standard[0].std()) == pytest.approx(1, abs=1e-3)
    silent = CQTSettings(scale="standard").build(grid, 8).targets(torch.zeros(1, 24000), torch.zeros(1), ["a"])
    assert torch.isfinite(silent).all()
    with pytest.raises(ValueError, match="above half the sample rate"):
        CQT(8000, 320)


def test_folded_cqt_shows_the_pitch_class_in_every_octave(note: Callable[..., np.ndarray]) -> None:
    """A3, A4 and A5 peak in one bin of the octave, an E4 elsewhere; the CQT itself stays as it is."""
    settings = CQTSettings(scale="log", chroma=2.0)
    target = settings.build(FrameGrid(24_000, 960), 8)
    sound = torch.stack([torch.from_numpy(note(midi, 2.0, 24_000)).float() for midi in (57, 69, 81, 64)])
    found = target.targets(sound, torch.zeros(4), ["a", "b", "c", "d"])
    assert found.shape[2] == 336 + 48
    plain = CQTSettings(scale="log").build(FrameGrid(24_000, 960), 8).targets(sound, torch.zeros(4), ["a"] * 4)
    torch.testing.assert_close(found[:, :, :336], plain)
    peaks = found[:, 10:-10, 336:].mean(1).argmax(-1)
    assert peaks.tolist() == [36, 36, 36, 16]
    with pytest.raises(ValueError, match="whole octaves"):
        CQTSettings(bins=100, chroma=1.0)


# --- code head ----------------------------------------------------------------------------------------------------


def test_code_head_is_a_cross_entropy_of_cosines() -> None:
    torch.manual_seed(0)
    head = CodeHead(16, (7, 5), CodeHeadSettings(dim=4), "test")
    hidden, targets = torch.randn(11, 16), torch.stack([torch.randint(7, (11,)), torch.randint(5, (11,))], 1)
    value, metrics = head(hidden, targets)
    expected, right = torch.zeros(()), 0.0
    projected = head.projection(hidden)
    for frame in range(11):
        for book, size in enumerate((7, 5)):
            query = projected[frame, 4 * book : 4 * book + 4]
            logits = functional.cosine_similarity(query[None], head.labels[book, :size]) / 0.1
            expected = expected + functional.cross_entropy(logits[None], targets[frame, book][None])
            right += float(logits.argmax() == targets[frame, book])
    torch.testing.assert_close(value, expected / 11)
    assert float(metrics["accuracy"]) == pytest.approx(right / 22)
    assert float(head.labels.detach().min()) >= 0 and float(head.labels.detach().max()) < 1  # as published


def test_code_head_without_frames_is_zero_and_differentiable() -> None:
    head = CodeHead(16, (7, 5), CodeHeadSettings(dim=4), "test")
    value, metrics = head(torch.zeros(0, 16, requires_grad=True), torch.zeros(0, 2, dtype=torch.int64))
    value.backward()
    assert value.item() == 0 and all(np.isfinite(float(entry)) for entry in metrics.values())


def test_label_counts_know_entropy_use_and_majority() -> None:
    counts = LabelCounts((8, 8), window=10, least_entropy=2.0, name="test")
    labels = torch.stack([torch.arange(800) % 8, torch.arange(800) % 2], 1)
    counts.observe(labels[:400])
    counts.observe(labels[400:])  # two micro-batches of one step
    found = {name: float(value) for name, value in counts.statistics().items()}
    assert found["entropy_0"] == pytest.approx(3) and found["entropy_1"] == pytest.approx(1)
    assert found["use_0"] == 1 and found["use_1"] == 0.25 and found["majority_0"] == pytest.approx(1 / 8)
    before = counts.statistics()["entropy"]
    counts.follow(0)
    assert counts.statistics()["entropy"] == before and float(counts.counts.sum()) == 1600
    with pytest.raises(TrainingStopped, match=r"'test', codebook 1, carry 1\.00 bits over the last 10 steps"):
        counts.follow(9)


def test_statistics_of_micro_batches_become_those_of_the_step() -> None:
    counts = LabelCounts((8,), window=10, least_entropy=1.0, name="test")
    told = []
    for labels in (torch.zeros(60, 1), torch.arange(20)[:, None] % 4):
        counts.observe(labels.long())
        told.append(counts.statistics())
    assert float(told[0]["entropy"]) == 0
    counts.follow(0)
    share = np.array([65, 5, 5, 5]) / 80
    entropy = -(share * np.log2(share)).sum()
    for found in told:
        assert float(found["entropy"]) == pytest.approx(entropy) == float(found["entropy_0"])
        assert float(found["perplexity"]) == pytest.approx(2**entropy)
        assert float(found["majority"]) == pytest.approx(65 / 80) and float(found["use_0"]) == 0.5
    counts.observe(torch.full((1000, 1), 7))
    counts.follow(1)
    assert float(told[0]["entropy"]) == pytest.approx(entropy)  # another step's


# --- quantisers ---------------------------------------------------------------------------------------------------


def test_residual_quantizer_equals_a_loop() -> None:
    torch.manual_seed(0)
    quantizer = ResidualQuantizer(3, 10, 4)
    points = torch.randn(20, 4)
    found, quantised, residuals = quantizer.quantize(points)
    for point, row, total in zip(points, found, quantised):
        rest = point.clone()
        for book in range(3):
            distances = [float((rest - word).square().sum()) for word in quantizer.codebooks[book]]
            assert int(row[book]) == int(np.argmin(distances))
            rest = rest - quantizer.codebooks[book, int(row[book])]
        torch.testing.assert_close(total, point - rest)
    torch.testing.assert_close(residuals[0], points)
    assert {name for name, _ in quantizer.named_buffers()} == {"codebooks"} and not list(quantizer.parameters())


def test_mel_quantizer_stacks_frames_and_survives_saving(tmp_path: Path, note: Callable[..., Waveform]) -> None:
    config = MelQuantizerConfig(hop=960, stack=4, mels=40, window=1024, latent=8, codebooks=2, codebook_size=16)
    model = MelQuantizer(config).eval()
    waveform = torch.from_numpy(note(60, seconds=1.01, sample_rate=24000))[None]
    frames = model.features(waveform)
    assert frames.shape == (1, 25, 160)
    mel = (model.features.decibels(waveform) - model.features.mean) / model.features.deviation
    torch.testing.assert_close(frames[0, 7], mel[0, 28:32].flatten())
    model.save_pretrained(tmp_path)
    again = load_tokenizer(str(tmp_path), FrameGrid(24000, 960))
    assert torch.equal(model.codes(waveform), again.codes(waveform))
    torch.testing.assert_close(again(waveform).last_hidden_state, model(waveform).last_hidden_state)
    with pytest.raises(ValueError, match="a code every 960 samples at 24000 Hz, the encoder a frame every 320"):
        load_tokenizer(str(tmp_path), FrameGrid(24000, 320))
    with pytest.raises(ValueError, match="There is no Mel-RVQ tokenizer"):
        load_tokenizer(str(tmp_path / "nowhere"), FrameGrid(24000, 960))


def test_random_projection_is_the_nearest_codeword_and_ignores_the_global_seed() -> None:
    settings = RandomProjectionSettings(codebooks=2, codebook_size=32, dim=8, mels=40, window=1024)
    grid = FrameGrid(24000, 960)
    torch.manual_seed(1)
    first = RandomProjector(settings, grid)
    torch.manual_seed(2)
    second = RandomProjector(settings, grid)
    waveform = 0.1 * torch.randn(2, 24000)
    found = first(waveform)
    assert torch.equal(found, second(waveform)) and found.shape == (2, 25, 2)
    frames = first.inputs["mel"](waveform)
    for book in range(2):
        projected = functional.normalize(frames @ first.projections_mel[book], dim=-1)
        distance = torch.cdist(projected, first.codewords_mel[book].expand(2, -1, -1))
        assert torch.equal(found[..., book], distance.argmin(-1))


# --- k-means ------------------------------------------------------------------------------------------------------


def test_chroma_filters_equal_librosas() -> None:
    theirs = librosa.filters.chroma(sr=24000, n_fft=2048, n_chroma=24, tuning=0.0)
    np.testing.assert_allclose(chroma_filters(24000, 2048, 24).numpy(), theirs, atol=1e-5)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Four noisy melodies of 4 s at 24 kHz, and one of 1.01 s."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    for number in range(5):
        seconds = 4.0 if number < 4 else 1.01
        time = np.arange(round(seconds * 24000)) / 24000
        pitch = 220 * 2 ** (draw.integers(0, 24, 20)[(time * 4).astype(int)] / 12)
        sound = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / 24000) + 0.02 * draw.standard_normal(len(time))
        audio.write(folder / f"track{number}.wav", sound.astype(np.float32), 24000)
    manifest, _ = scan_folder(folder, workers=1, progress=False)
    path = folder / "manifest.parquet"
    manifest.write(path)
    return path, Manifest.open(path)


def test_kmeans_fits_and_assigns_the_nearest_centre(corpus: tuple[Path, Manifest], tmp_path: Path) -> None:
    out = tmp_path / "centres.safetensors"
    kmeans(corpus[0], out, hop=960, mel_clusters=12, chroma_clusters=6, steps=3, batch_size=5)
    target = KMeansSettings(weight=1.0, path=str(out)).build(FrameGrid(24000, 960), 8)
    waveform = torch.from_numpy(audio.read(corpus[0].parent / "track0.wav", 24000))[None]
    found = target.targets(waveform, torch.zeros(1), ["a"])
    assert found.shape == (1, 100, 2)
    mel, chroma = target._features[0](waveform)
    tables = target._tables
    standard = (mel[0] - tables["mean"]) / tables["deviation"]
    assert torch.equal(found[0, :, 0], torch.cdist(standard, tables["mel"]).argmin(-1))
    assert torch.equal(found[0, :, 1], torch.cdist(chroma[0], tables["chroma"]).argmin(-1))
    assert len(found[..., 0].unique()) > 3
    with pytest.raises(ValueError, match="were fitted for"):
        KMeansSettings(weight=1.0, path=str(out)).build(FrameGrid(24000, 320), 8)
    with pytest.raises(ValueError, match="needs fitted centres"):
        KMeansSettings(weight=1.0).build(FrameGrid(24000, 320), 8)


# --- codec --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encodec(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small EnCodec (24 kHz, hop 320, 75 Hz) with random weights and codewords."""
    torch.manual_seed(0)
    config = EncodecConfig(num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64, num_lstm_layers=1,
                           target_bandwidths=[0.9, 1.8], upsampling_ratios=[8, 5, 4, 2])  # fmt: skip
    model = EncodecModel(config)
    folder = tmp_path_factory.mktemp("encodec")
    with torch.no_grad():
        embedded = model.encoder(0.2 * torch.randn(4, 1, 24000)).transpose(1, 2).flatten(0, 1)
        for layer in model.quantizer.layers:  # codewords of the size of what they quantise
            layer.codebook.embed.copy_(embedded[torch.randperm(len(embedded))[:64]])
            embedded = embedded - layer.decode(layer.encode(embedded[None].transpose(1, 2))).transpose(1, 2)[0]
    model.save_pretrained(folder)
    return str(folder)


def settings(name: str, **changes: object) -> CodecSettings:
    return CodecSettings(weight=1.0, name=name, codebooks=2, codebook_size=64, **changes)  # type: ignore[arg-type]


def test_stored_codes_equal_codes_on_the_fly_inside_a_crop(
    encodec: str, corpus: tuple[Path, Manifest], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, manifest = corpus
    codes(path, tmp_path, codec=encodec, codebooks=2)
    codes(path, tmp_path, codec=encodec, codebooks=2)  # again: nothing is left to do
    assert "5 tracks, 0 of them new" in capsys.readouterr().out
    grid = FrameGrid(24000, 320)
    live, stored = settings(encodec).build(grid, 8), settings(encodec, store=str(tmp_path)).build(grid, 8)
    stored.prepare(manifest, tmp_path)
    key = manifest[0].key
    whole = torch.from_numpy(audio.read(manifest.path_of(manifest[0]), 24000))
    start = 320 * 60
    crop = whole[None, start : start + 48000]
    near = stored.targets(crop, torch.tensor([start]), [key])
    far = live.targets(crop, torch.tensor([start]), [key])
    assert near.shape == far.shape == (1, 150, 2)
    assert len(near[..., 0].unique()) > 8
    agreement = (near == far)[0].float()
    assert float(agreement[25:-2, 0].mean()) > 0.98  # the tolerance that codec.py states
    # a start at 0 has the same past in both, and only the right edge may differ
    first = stored.targets(whole[None, :48000], torch.tensor([0]), [key])
    assert float((first == live.targets(whole[None, :48000], torch.tensor([0]), [key]))[0, :-2].float().mean()) > 0.99


def test_chunks_side_by_side_have_the_codes_of_chunks_in_a_row(encodec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last chunk is cut, or its context is."""
    codec, heard = Codec(encodec, 2), []
    monkeypatch.setattr("groundbass.pretrain.targets.codec.CHUNK_SECONDS", 0.5)
    monkeypatch.setattr("groundbass.pretrain.targets.codec.CONTEXT_SECONDS", 0.2)
    encode = codec.encode
    monkeypatch.setattr(codec, "encode", lambda sound: heard.append(len(sound)) or encode(sound))
    rate = codec.identity.sample_rate
    for seconds in (0.3, 1.0, 2.9, 3.01):
        sound = 0.3 * np.random.default_rng(0).standard_normal(int(seconds * rate)).astype(np.float32)
        monkeypatch.setattr("groundbass.pretrain.targets.codec.CHUNKS_AT_ONCE", (1, 8))
        expected = codec.encode_track(sound)
        assert set(heard) == {1} and len(expected) == -(-len(sound) // codec.identity.hop)
        monkeypatch.setattr("groundbass.pretrain.targets.codec.CHUNKS_AT_ONCE", (3, 8))
        np.testing.assert_array_equal(codec.encode_track(sound), expected)
        assert max(heard) == (3 if seconds > 2 else 1)
        heard.clear()


def test_stored_codes_of_padding_are_zeros(encodec: str, corpus: tuple[Path, Manifest], tmp_path: Path) -> None:
    path, manifest = corpus
    codes(path, tmp_path, codec=encodec, codebooks=2)
    track = min(manifest, key=lambda track: track.samples)
    found = CodeStore(tmp_path).read(track.key, 0, 150)
    assert found.shape == (150, 2) and (found[76:] == 0).all() and found[:75].any()


def test_an_interrupted_store_goes_on(encodec: str, corpus: tuple[Path, Manifest], tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    path, _ = corpus
    monkeypatch.setattr("groundbass.pretrain.targets.codec.TRACKS_PER_PART", 2)
    original, encoded = Codec.encode_track, []

    def dies(self: Codec, waveform: Waveform) -> Waveform:
        encoded.append(len(waveform))
        if len(encoded) == 4:
            raise KeyboardInterrupt
        return original(self, waveform)

    monkeypatch.setattr(Codec, "encode_track", dies)
    with pytest.raises(KeyboardInterrupt):
        codes(path, tmp_path, codec=encodec, codebooks=2)
    assert len(CodeStore(tmp_path).hashes) == 2
    codes(path, tmp_path, codec=encodec, codebooks=2)
    assert len(encoded) == 4 + 3 and len(CodeStore(tmp_path).hashes) == 5


def test_wrong_codes_are_a_sentence(encodec: str, corpus: tuple[Path, Manifest], tmp_path: Path) -> None:
    path, manifest = corpus
    store = tmp_path / "store"
    codes(path, store, codec=encodec, codebooks=2)
    grid = FrameGrid(24000, 320)
    other = EncodecModel.from_pretrained(encodec)
    with torch.no_grad():
        next(other.encoder.parameters()).add_(0.1)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="not by"):
        settings(str(tmp_path / "other"), store=str(store)).build(grid, 8).teacher()
    with pytest.raises(ValueError, match="choose another folder"):
        codes(path, store, codec=str(tmp_path / "other"), codebooks=2)
    with pytest.raises(ValueError, match="There are no codes in"):
        settings(encodec, store=str(tmp_path / "empty")).build(grid, 8).teacher()
    with pytest.raises(ValueError, match="between two codes of 320 samples: set crops"):
        CodeStore(store).read(manifest[0].key, 100, 10)
    with pytest.raises(ValueError, match="no codes for the track 'stranger'"):
        CodeStore(store).read("stranger", 0, 10)
    with pytest.raises(ValueError, match="24000 Hz, the encoder at 16000 Hz"):
        settings(encodec).build(FrameGrid(16000, 320), 8).teacher()
    with pytest.raises(ValueError, match="a code every 320 samples, the encoder a frame every 960"):
        settings(encodec).build(FrameGrid(24000, 960), 8).teacher()
    with pytest.raises(ValueError, match="2 × 64, the recipe asks for 2 × 1024"):
        CodecSettings(name=encodec, codebooks=2).build(grid, 8).teacher()
    stored = settings(encodec, store=str(store)).build(grid, 8)
    stored.prepare(manifest, tmp_path)
    for change, sentence in (({"key": "new"}, "no codes for"), ({"hash": "0"}, "codes of other audio than now for")):
        changed = Manifest.from_tracks([dataclasses.replace(manifest[0], **change)], manifest.root)
        with pytest.raises(ValueError, match=sentence):
            stored.prepare(changed, tmp_path)


def test_the_codec_is_no_state(encodec: str) -> None:
    target = settings(encodec).build(FrameGrid(24000, 320), 8)
    target.teacher()
    target.place(torch.device("cpu"))
    assert {name.split(".")[0] for name in target.state_dict()} == {"head"}
    assert all(name.startswith("head.") for name, _ in target.named_parameters())
    assert target.provenance()["codec"]["hop"] == 320


def test_dac_gives_codes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = DacConfig(encoder_hidden_size=4, decoder_hidden_size=16, downsampling_ratios=[2, 4, 5, 8], n_codebooks=3,
                       codebook_size=64, codebook_dim=4, sampling_rate=24000)  # fmt: skip
    DacModel(config).save_pretrained(tmp_path)
    codec = Codec(str(tmp_path), 2)
    found = codec.encode(0.1 * torch.randn(2, 24000))
    assert found.shape[0] == 2 and found.shape[1] >= 74 and found.shape[2] == 2
    assert codec.identity.hop == 320 and int(found.max()) < 64
    with pytest.raises(ValueError, match="3 codebooks, fewer than the 8"):
        Codec(str(tmp_path), 8)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/recipe.json").write_text("{}")
    with pytest.raises(ValueError, match=r"run is no codec that can be read \(.*\): name a folder or Hub model of EnC"):
        Codec(str(tmp_path / "run"), 2)
