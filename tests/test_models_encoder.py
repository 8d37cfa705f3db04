"""Loading encoders from everywhere, listening through one door, and every way it can go wrong."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
import torch
import torchaudio
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    BertConfig,
    BertModel,
    ClapAudioConfig,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    EncodecConfig,
    EncodecFeatureExtractor,
    EncodecModel,
    HubertConfig,
    HubertForCTC,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from groundbass.models.encoder import (
    Encoder,
    HuggingFaceEncoder,
    ModelEncoder,
    calibrate_batch_norm,
    load_encoder,
    random_copy,
    weights_hash,
)
from groundbass.models.layers import convert_rate
from groundbass.models.published import write_encoder
from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel

TRANSFORMER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "conv_dim": (8, 8, 8),
    "conv_stride": (5, 4, 2),
    "conv_kernel": (10, 4, 2),
    "vocab_size": 8,
}


def samplecnn(seed: int = 0, **settings: Any) -> SampleCNNModel:
    """Windows of 162 samples at 1 kHz."""
    torch.manual_seed(seed)
    defaults: dict[str, Any] = {"sample_rate": 1000, "strides": [3, 3, 3, 2], "channels": [4, 4, 4, 8, 8, 8]}
    return SampleCNNModel(SampleCNNConfig(**(defaults | settings)))


def hubert(folder: Path, **extractor: Any) -> HubertModel:
    torch.manual_seed(0)
    model = HubertModel(HubertConfig(**TRANSFORMER)).eval()
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=16000, **extractor).save_pretrained(folder)
    return model


def wav2vec2(folder: Path) -> Wav2Vec2Model:
    torch.manual_seed(0)
    model = Wav2Vec2Model(Wav2Vec2Config(**TRANSFORMER, do_stable_layer_norm=True, feat_extract_norm="layer")).eval()
    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return model


def ast(folder: Path) -> ASTModel:
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_length=64, num_mel_bins=48
    )
    model = ASTModel(config).eval()
    model.save_pretrained(folder)
    ASTFeatureExtractor(max_length=64, num_mel_bins=48).save_pretrained(folder)
    return model


def clap(folder: Path) -> ClapModel:
    torch.manual_seed(0)
    config = ClapAudioConfig(
        spec_size=64,
        num_mel_bins=16,
        window_size=4,
        patch_embeds_hidden_size=8,
        depths=[1, 1],
        num_attention_heads=[1, 2],
        hidden_size=16,
        projection_dim=8,
    )
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
    both = ClapConfig(text_config=text, audio_config=config.to_dict(), projection_dim=8)
    model = ClapModel(both).eval()
    model.save_pretrained(folder)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, hop_length=128, max_length_s=1, fft_window_size=256, frequency_max=4000
    ).save_pretrained(folder)
    return model


def encodec(folder: Path) -> EncodecModel:
    torch.manual_seed(0)
    config = EncodecConfig(
        num_filters=4, hidden_size=16, upsampling_ratios=[4, 4], codebook_size=8, codebook_dim=16, num_lstm_layers=1
    )
    model = EncodecModel(config).eval()
    model.save_pretrained(folder)
    EncodecFeatureExtractor(sampling_rate=24000).save_pretrained(folder)
    return model


FOREIGN: dict[str, Callable[[Path], PreTrainedModel]] = {
    "hubert": hubert,
    "wav2vec2": wav2vec2,
    "ast": ast,
    "clap": clap,
    "encodec": encodec,
}
STRANGER = '''
import torch


class Loudness:
    """Energy of 100 ms frames."""

    sample_rate, frame_rate, dim, layers = 8000, 10.0, 1, 1

    def valid_frames(self, valid):
        return (valid // 800).clamp(min=1)

    def hidden_states(self, waveform, valid=None, sample_rate=None):
        return waveform.unfold(1, 800, 800).square().mean(-1)[:, None, :, None]


class Half:
    sample_rate = 8000


class Needy:
    def __init__(self, path):
        self.path = path
'''


def run_folder(tmp_path: Path) -> Path:
    write_encoder(samplecnn(), tmp_path / "run" / "encoder")
    (tmp_path / "run" / "recipe.json").write_text("{}")
    return tmp_path / "run"


# --- one door ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["samplecnn", *FOREIGN])
def test_contract_of_every_kind(kind: str, tmp_path: Path) -> None:
    """Shapes, float32, no gradient, even frame rate; a row alone equals the row in a padded batch."""
    if kind == "samplecnn":
        write_encoder(samplecnn(), tmp_path)
    else:
        FOREIGN[kind](tmp_path)
    encoder = load_encoder(tmp_path)
    assert isinstance(encoder, Encoder)
    assert isinstance(encoder, ModelEncoder if kind == "samplecnn" else HuggingFaceEncoder)
    rate = encoder.sample_rate
    samples = 3 * rate
    waveform = 0.1 * torch.randn(3, samples, generator=torch.Generator().manual_seed(0))
    valid = torch.tensor([samples, samples // 2 + 17, samples // 3])
    states = encoder.hidden_states(waveform, valid)
    frames = encoder.valid_frames(valid)
    assert states.dtype == torch.float32 and not states.requires_grad and torch.isfinite(states).all()
    assert states.shape == (3, encoder.layers, int(frames[0]), encoder.dim)
    assert int(frames[0]) == pytest.approx(
        3 * encoder.frame_rate, abs=2.5 if kind in ("ast", "hubert", "wav2vec2") else 1
    )
    for row, length in enumerate(valid.tolist()):
        alone = encoder.hidden_states(waveform[row : row + 1, :length])[0]
        count = int(frames[row])
        assert alone.shape[1] >= count
        torch.testing.assert_close(states[row, :, :count], alone[:, :count], atol=2e-5, rtol=1e-4)
    assert torch.equal(encoder.hidden_states(waveform), encoder.hidden_states(waveform, torch.full((3,), samples)))
    short = encoder.hidden_states(waveform[:, :7])
    assert short.shape[2] >= 1 and encoder.valid_frames(torch.tensor([7])).tolist() == [1]


@pytest.mark.parametrize("kind", ["ast", "clap", "encodec"])  # others hear the whole clip at once
def test_frames_stand_where_the_sound_is(kind: str, tmp_path: Path) -> None:
    """A change of the sound after t seconds leaves the frames before t alone, or nearly, and changes those after."""
    FOREIGN[kind](tmp_path)
    encoder = load_encoder(tmp_path)
    rate = encoder.sample_rate
    window = {"ast": 61 * 0.01, "clap": 1.0, "encodec": 1.0}[kind]  # within a window attention is global
    first = 0.1 * torch.randn(1, 4 * rate, generator=torch.Generator().manual_seed(0))
    second = first.clone()
    second[:, 2 * rate :] *= -0.3
    change = (encoder.hidden_states(first) - encoder.hidden_states(second)).abs().amax(dim=(0, 1, 3))
    moment = torch.arange(len(change)) / encoder.frame_rate
    assert change[moment < 2 - window].max() < 1e-5
    assert change[moment > 2 + 0.1].min() > 1e-5


def test_wav2vec2_hears_what_its_feature_extractor_prescribes(tmp_path: Path) -> None:
    model = wav2vec2(tmp_path)
    waveform = 0.3 + 0.02 * torch.randn(2, 4000)
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    inputs = extractor(list(waveform.numpy()), sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        expected = torch.stack(model(inputs.input_values, output_hidden_states=True).hidden_states, dim=1)
    torch.testing.assert_close(load_encoder(tmp_path).hidden_states(waveform), expected, atol=1e-5, rtol=1e-4)
    loud = load_encoder(tmp_path).hidden_states(7 * waveform)
    torch.testing.assert_close(loud, expected, atol=1e-3, rtol=1e-2)


def test_ast_averages_the_bands_of_a_time_step(tmp_path: Path) -> None:
    model = ast(tmp_path)
    encoder = load_encoder(tmp_path)
    waveform = 0.1 * torch.randn(1, 10_480)  # 64 frames of Kaldi's: one window
    inputs = ASTFeatureExtractor.from_pretrained(tmp_path)(
        waveform[0].numpy(), sampling_rate=16000, return_tensors="pt"
    )
    with torch.no_grad():
        states = model(inputs.input_values, output_hidden_states=True).hidden_states[1]
    rows, columns = 4, 5  # (48 - 16) / 10 + 1, (64 - 16) / 10 + 1
    assert states.shape[1] == 2 + rows * columns
    found = encoder.hidden_states(waveform)
    assert found.shape == (1, 3, columns, 16) and encoder.frame_rate == 10.0
    for column in range(columns):
        bands = [states[0, 2 + row * columns + column] for row in range(rows)]
        torch.testing.assert_close(found[0, 1, column], torch.stack(bands).mean(dim=0), atol=1e-5, rtol=1e-4)


def test_other_rates_are_resampled() -> None:
    encoder = ModelEncoder(samplecnn(sample_rate=16000))
    time = torch.arange(48_000) / 48_000
    tone = 0.5 * torch.sin(2 * torch.pi * 440 * time)[None]
    native = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(16_000) / 16_000)[None]
    found, expected = encoder.hidden_states(tone, sample_rate=48_000), encoder.hidden_states(native)
    assert found.shape == expected.shape
    torch.testing.assert_close(found[:, :, 3:-3], expected[:, :, 3:-3], atol=1e-4, rtol=1e-3)
    halved = encoder.hidden_states(tone, torch.tensor([24_000]), sample_rate=48_000)
    torch.testing.assert_close(halved[:, :, :40], found[:, :, :40])  # `valid` is scaled with the rate


@pytest.mark.parametrize(("source", "target"), [(44100, 24000), (44100, 16000), (16000, 24000), (22050, 8000)])
def test_resample_against_soxr_and_torchaudio(source: int, target: int) -> None:
    time = np.arange(source) / source
    sweep = (0.5 * np.sin(2 * np.pi * (100 * time + 0.5 * 2500 * time**2))).astype(np.float32)  # 100 to 2,600 Hz
    ours = convert_rate(torch.from_numpy(sweep)[None], source, target)[0]
    assert len(ours) == -(-len(sweep) * target // source)
    reference = soxr.resample(sweep, source, target, quality="VHQ")
    inner = slice(1000, -1000)
    assert np.abs(ours.numpy()[inner] - reference[inner]).max() < 1e-4
    noise = torch.randn(2, source // 2)
    peer = torchaudio.functional.resample(
        noise.double(),
        source,
        target,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    torch.testing.assert_close(convert_rate(noise, source, target), peer.float(), atol=1e-5, rtol=1e-4)


def test_resample_removes_what_would_alias() -> None:
    time = torch.arange(44_100, dtype=torch.float64) / 44_100
    tone = torch.sin(2 * torch.pi * 10_000 * time).float()  # above the 8 kHz that 16 kHz can hold
    assert convert_rate(tone, 44_100, 16_000)[500:-500].abs().max() < 1e-5
    assert convert_rate(tone, 44_100, 44_100) is tone


# --- from everywhere --------------------------------------------------------------------------------------------------


def test_runs_published_folders_and_strangers(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    waveform = torch.randn(2, 500)
    states = load_encoder(run).hidden_states(waveform)
    assert torch.equal(load_encoder(run / "encoder").hidden_states(waveform), states)
    assert torch.equal(load_encoder(str(run / "encoder")).hidden_states(waveform), states)
    ours = load_encoder(run)
    assert isinstance(ours, ModelEncoder) and type(ours.model) is SampleCNNModel  # ours, not the folder's copy
    file = tmp_path / "mine.py"
    file.write_text(STRANGER)
    loudness = load_encoder(f"{file}:Loudness")
    torch.testing.assert_close(
        loudness.hidden_states(torch.full((1, 1600), 0.5)), torch.full((1, 1, 2, 1), 0.25), atol=1e-6, rtol=0
    )


def test_the_folders_own_code_runs_where_the_model_is_not_ours(tmp_path: Path) -> None:
    """As a model of a later version, or of somebody who started from ours."""
    write_encoder(samplecnn(), tmp_path / "new")
    (tmp_path / "new" / "samplecnn.py").rename(tmp_path / "new" / "newcnn.py")
    text = (tmp_path / "new" / "newcnn.py").read_text()
    (tmp_path / "new" / "newcnn.py").write_text(text.replace("groundbass_samplecnn", "newcnn"))
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    config["model_type"] = "newcnn"
    config["auto_map"] = {key: value.replace("samplecnn.", "newcnn.") for key, value in config["auto_map"].items()}
    (tmp_path / "new" / "config.json").write_text(json.dumps(config))
    waveform = torch.randn(1, 400)
    with pytest.raises(ValueError, match=r"new .*brings its own Python code, and none of it was run.*--trust-remote-c"):
        load_encoder(tmp_path / "new")
    assert not any("newcnn" in name for name in sys.modules)
    encoder = load_encoder(tmp_path / "new", trust_remote_code=True)
    assert isinstance(encoder, ModelEncoder) and not isinstance(encoder.model, SampleCNNModel)
    torch.testing.assert_close(encoder.hidden_states(waveform), ModelEncoder(samplecnn()).hidden_states(waveform))


def test_a_head_on_a_foreign_checkpoint_is_dropped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = HubertForCTC(HubertConfig(**TRANSFORMER)).eval()
    model.save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=False).save_pretrained(tmp_path)
    waveform = torch.randn(1, 4000)
    with torch.no_grad():
        expected = model.hubert(waveform, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(load_encoder(tmp_path).hidden_states(waveform)[:, -1], expected)


def test_low_precision_still_answers_in_float32(tmp_path: Path) -> None:
    write_encoder(samplecnn(), tmp_path)
    waveform = torch.randn(1, 400)
    low, high = load_encoder(tmp_path, dtype="bfloat16"), load_encoder(tmp_path)
    assert low.hidden_states(waveform).dtype == torch.float32
    torch.testing.assert_close(low.hidden_states(waveform), high.hidden_states(waveform), atol=0.1, rtol=0.1)
    assert weights_hash(low) != weights_hash(high)


# --- random copies, batch norm, names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["samplecnn", *FOREIGN])
def test_random_copy_shares_nothing_and_follows_its_seed(kind: str, tmp_path: Path) -> None:
    if kind == "samplecnn":
        write_encoder(samplecnn(excitation=0.5), tmp_path)
    else:
        FOREIGN[kind](tmp_path)
    encoder: Any = load_encoder(tmp_path)
    with torch.no_grad():
        for value in encoder.model.parameters():  # trained: no weight is where an initialisation would put it
            value.add_(torch.randn_like(value) + 0.1)
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    global_state = torch.get_rng_state()
    copy: Any = random_copy(encoder, seed=1)
    assert torch.equal(torch.get_rng_state(), global_state)
    twin: Any = random_copy(encoder, seed=1)
    other: Any = random_copy(encoder, seed=2)
    state, repeated, differing = copy.model.state_dict(), twin.model.state_dict(), other.model.state_dict()
    assert state.keys() == before.keys()
    for name, _ in copy.model.named_parameters():
        assert not torch.allclose(state[name], before[name]), f"{name} was taken over"
        assert torch.equal(state[name], repeated[name]), f"{name} doesn't follow the seed"
    assert any(not torch.equal(state[name], differing[name]) for name in state)
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())
    assert copy.hidden_states(torch.randn(1, copy.sample_rate)).shape[1] == encoder.layers


def test_calibrated_batch_norm_holds_the_true_statistics() -> None:
    encoder = ModelEncoder(samplecnn())
    waveform = 0.3 * torch.randn(4, 162 * 5)
    encoder.model.sequential[0][1].momentum = 0.1
    calibrate_batch_norm(encoder, [waveform])
    with torch.no_grad():  # the oracle: layer by layer, each normalised by the statistics of its own input
        x = waveform.reshape(20, 1, 162)
        for block in encoder.model.sequential:
            x = block[0](x)
            norm = block[1]
            torch.testing.assert_close(norm.running_mean, x.mean(dim=(0, 2)), atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(norm.running_var, x.transpose(0, 1).flatten(1).var(dim=1), atol=1e-6, rtol=1e-4)
            assert norm.momentum == 0.1 and not norm.training
            mean, deviation = x.mean(dim=(0, 2), keepdim=True), x.var(dim=(0, 2), keepdim=True, correction=0).sqrt()
            x = (x - mean) / (deviation.square() + norm.eps).sqrt() * norm.weight[:, None] + norm.bias[:, None]
            for module in block[2:]:
                x = module(x)
    assert not encoder.model.training


def test_calibration_counts_every_batch_the_same_and_touches_no_weight() -> None:
    encoder = ModelEncoder(samplecnn())
    weights = {name: value.clone() for name, value in encoder.model.named_parameters()}
    batches = [torch.randn(2, 324), 3 + torch.randn(2, 324)]
    calibrate_batch_norm(encoder, iter(batches))
    first = encoder.model.sequential[0][0]
    with torch.no_grad():
        means = [first(batch.reshape(-1, 1, 162)).mean(dim=(0, 2)) for batch in batches]
    torch.testing.assert_close(encoder.model.sequential[0][1].running_mean, (means[0] + means[1]) / 2)
    assert all(torch.equal(value, weights[name]) for name, value in encoder.model.named_parameters())


def test_calibration_without_batch_norm_reads_nothing(tmp_path: Path) -> None:
    hubert(tmp_path)

    def never() -> Any:
        raise AssertionError("was read")
        yield

    calibrate_batch_norm(load_encoder(tmp_path), never())


def test_calibration_needs_audio() -> None:
    with pytest.raises(ValueError, match="without audio"):
        calibrate_batch_norm(ModelEncoder(samplecnn()), [])
    with pytest.raises(ValueError, match="single frame"):
        calibrate_batch_norm(ModelEncoder(samplecnn()), [torch.randn(1, 162)])


def test_weights_hash_names_the_content(tmp_path: Path) -> None:
    write_encoder(samplecnn(), tmp_path / "a")
    write_encoder(samplecnn(), tmp_path / "b")
    first, second = load_encoder(tmp_path / "a"), load_encoder(tmp_path / "b")
    assert weights_hash(first) == weights_hash(second) == weights_hash(ModelEncoder(samplecnn()))
    assert weights_hash(random_copy(first)) != weights_hash(first)
    seen = {weights_hash(first)}
    assert isinstance(second, ModelEncoder)
    for _, value in second.model.state_dict().items():  # any one number
        value.view(-1)[-1] += 1
        assert weights_hash(second) not in seen
        seen.add(weights_hash(second))
    other = samplecnn()
    other.config.sample_rate = 1001
    assert weights_hash(ModelEncoder(other)) not in seen


def test_weights_hash_of_a_stranger_follows_source_and_state(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(STRANGER)
    first = weights_hash(load_encoder(f"{file}:Loudness"))
    assert weights_hash(load_encoder(f"{file}:Loudness")) == first
    holder: Any = load_encoder(f"{file}:Loudness")
    holder.net = nn.Linear(2, 2)
    assert weights_hash(holder) != first
    file.write_text(STRANGER.replace(".square()", ".abs()"))
    assert weights_hash(load_encoder(f"{file}:Loudness")) != first
    with pytest.raises(ValueError, match=r"random_copy\(seed\)"):
        random_copy(holder)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waveform", "valid", "sentence"),
    [
        (torch.zeros(500), None, r"\[batch, samples\], not torch.float32 \[500\]"),
        (torch.zeros(1, 2, 500), None, r"not torch.float32 \[1, 2, 500\]"),
        (torch.zeros(1, 500, dtype=torch.int16), None, "floating point"),
        (np.zeros((1, 500), dtype=np.float32), None, "not ndarray"),
        (torch.zeros(1, 0), None, "empty"),
        (torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), None, r"NaN or infinity in row 1 \(1 of 2 rows\)"),
        (torch.zeros(2, 500), torch.tensor([500]), "2 whole numbers"),
        (torch.zeros(2, 500), torch.tensor([500, 501]), "between 0 and 500"),
        (torch.zeros(1, 500), torch.tensor([0.5]), "whole numbers"),
    ],
)
def test_wrong_waveforms_are_refused_in_a_sentence(waveform: Any, valid: Tensor | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ModelEncoder(samplecnn()).hidden_states(waveform, valid)


@pytest.mark.parametrize(("source", "target"), [(0, 16000), (-1, 16000), (22050.5, 16000), (44101, 16000)])
def test_impossible_rates_are_refused_in_a_sentence(source: Any, target: int) -> None:
    with pytest.raises(ValueError, match=r"positive whole rates|common rate"):
        convert_rate(torch.zeros(1, 500), source, target)


def damage_truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def damage_missing(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["sequential.2.0.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def damage_unexpected(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"sequential.9.0.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})


def damage_shape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["sequential.2.0.weight"] = torch.zeros(4, 4, 5)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def damage_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["sequential.2.0.bias"][1] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def damage_json(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def damage_weights_gone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (damage_truncated, "model.safetensors is truncated or damaged"),
        (damage_missing, r"lacks weights: sequential\.2\.0\.weight;"),
        (damage_unexpected, r"has unexpected weights: sequential\.9\.0\.weight;"),
        (damage_shape, r"sequential\.2\.0\.weight .* has shape \[4, 4, 5\], but config.json asks for \[4, 4, 3\]"),
        (damage_nan, r"sequential\.2\.0\.bias .* NaN"),
        (damage_json, "is no JSON"),
        (damage_weights_gone, "no weights"),
    ],
)
def test_damaged_folders_say_what_is_wrong(damage: Callable[[Path], None], sentence: str, tmp_path: Path) -> None:
    write_encoder(samplecnn(), tmp_path / "encoder")
    damage(tmp_path / "encoder")
    with pytest.raises((ValueError, OSError), match=sentence):
        load_encoder(tmp_path / "encoder")


def test_foreign_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    hubert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"unexpected weights: encoder\.layers\.1\."):
        load_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"lacks weights: encoder\.layers\.2\."):
        load_encoder(tmp_path)


def test_places_without_an_encoder_say_so(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds neither config\.json nor encoder/config\.json"):
        load_encoder(tmp_path / "run")
    (tmp_path / "run" / "recipe.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="no encoder yet"):
        load_encoder(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file"):
        load_encoder(tmp_path / "run" / "recipe.json")
    with pytest.raises(ValueError, match="no device"):
        load_encoder(run_folder(tmp_path), device="toaster")
    with pytest.raises(ValueError, match="no floating point type"):
        load_encoder(run_folder(tmp_path), dtype="int7")


def test_an_unknown_hub_name_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="no folder nobody/nothing here, and no model of that name"):
        load_encoder("nobody/nothing")


def test_unsupported_models_say_what_is_supported(tmp_path: Path) -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"type 'bert' is not supported.*file.py:Class"):
        load_encoder(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"model_type": "bach"}))
    with pytest.raises(ValueError, match="model type 'bach'"):
        load_encoder(tmp_path)


def test_a_foreign_model_without_sample_rate_says_so(tmp_path: Path) -> None:
    hubert(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="Nothing tells the sample rate"):
        load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("missing.py:Loudness", "There is no file"),
        ("mine.py:Quietness", "no class 'Quietness'; its classes are Loudness, Half, Needy"),
        ("mine.py:Half", "lacks frame_rate, dim, layers, hidden_states, valid_frames"),
        ("mine.py:Needy", "called without arguments, but it needs"),
        ("mine.py", "give the folder that holds config.json, or a class as"),
    ],
)
def test_strangers_that_are_no_encoder_say_why(name: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STRANGER)
    with pytest.raises((ValueError, OSError), match=sentence):
        load_encoder(f"{tmp_path}/{name}")
