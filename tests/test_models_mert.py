"""MERT's encoder: equal to Hugging Face's HuBERT, exact about padding, strict about weights, publishable."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel

from groundbass.models.encoder import load_encoder
from groundbass.models.mert import MertConfig, MertModel
from groundbass.models.mert_folder import load_mert_folder
from groundbass.models.transformer import rotate, rotation

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": [24] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
VARIANTS = [
    {"frontend": frontend, "positions": positions, "norm_first": norm_first}
    for frontend in ("conv", "mel")
    for positions, norm_first in (("conv", False), ("conv", True), ("rotary", True))
]


def small(**changes: Any) -> MertModel:
    """A small model whose norms, biases and gains have left their initial values, in eval mode."""
    torch.manual_seed(0)
    return scramble(MertModel(MertConfig(**{**SMALL, "mel_channels": 4, **changes}))).eval()


def scramble(model: Any) -> Any:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or parameter.shape[:2] == (1, 1):
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def hubert(norm_first: bool, **changes: Any) -> HubertModel:
    torch.manual_seed(1)
    config = HubertConfig(**{**SMALL, "do_stable_layer_norm": norm_first, **changes})
    return scramble(HubertModel(config)).eval()


def clips(samples: int, *valid: int, seed: int = 0, offset: float = 0.1) -> tuple[Tensor, Tensor]:
    """Noise with an offset, [len(valid), samples], and its attention mask; the padding is zero."""
    noise = torch.randn(len(valid), samples, generator=torch.Generator().manual_seed(seed)) * 0.1 + offset
    mask = (torch.arange(samples) < torch.tensor(valid)[:, None]).long()
    return noise * mask, mask


def states(model: MertModel, *arguments: Any) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = model(*arguments, output_hidden_states=True).hidden_states
    assert found is not None
    return found


def encoded(
    model: MertModel, features: Tensor, frame_mask: Tensor | None = None, masked: Tensor | None = None
) -> tuple[Tensor, ...]:
    found = model.encode(features, frame_mask, masked, output_hidden_states=True).hidden_states
    assert found is not None
    return found


# --- the same function as Hugging Face's -----------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_equals_hubert_in_every_hidden_state(norm_first: bool, padded: bool) -> None:
    reference = hubert(norm_first)
    model = MertModel(MertConfig(**SMALL, norm_first=norm_first, norm_over_padding=True)).eval()
    model.load_state_dict(reference.state_dict(), strict=True)
    waveform, mask = clips(8000, 8000, 5000, 3000)
    attention_mask = mask if padded else None
    with torch.no_grad():
        theirs = reference(waveform, attention_mask, output_hidden_states=True)
    ours = states(model, waveform, attention_mask)
    assert len(ours) == len(theirs.hidden_states) == model.layers == 4
    valid = model.valid_frames(mask.sum(-1)) if padded else torch.full((3,), ours[0].shape[1])
    kept = torch.arange(ours[0].shape[1]) < valid[:, None]
    for mine, other in zip(ours[:-1], theirs.hidden_states[:-1], strict=True):
        torch.testing.assert_close(mine[kept], other[kept], atol=1e-5, rtol=1e-4)
    # our last entry is the encoder's output; for pre-LN some versions of transformers list it before the final norm
    torch.testing.assert_close(ours[-1][kept], theirs.last_hidden_state[kept], atol=1e-5, rtol=1e-4)


def test_pre_ln_normalises_the_last_hidden_state_only() -> None:
    """Intermediate states are the residual stream; the last has passed the final norm, whose output we know."""
    model = small(norm_first=True)
    with torch.no_grad():
        model.encoder.layer_norm.weight.fill_(1)
        model.encoder.layer_norm.bias.zero_()
    found = states(model, clips(8000, 8000)[0])
    torch.testing.assert_close(found[-1].std(-1, correction=0), torch.ones(1, 24), atol=1e-3, rtol=0)
    assert ((found[-2].std(-1) - 1).abs() > 0.01).all()


def test_norm_over_padding_is_hugging_faces_behaviour_and_not_the_default() -> None:
    reference = hubert(False)
    waveform, mask = clips(8000, 8000, 3000)
    with torch.no_grad():
        theirs = reference(waveform, mask).last_hidden_state[1, :9]
    model = MertModel(MertConfig(**SMALL)).eval()
    model.load_state_dict(reference.state_dict())
    assert (states(model, waveform, mask)[-1][1, :9] - theirs).abs().max() > 0.01


def test_full_sizes_have_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in MertModel(c).parameters()) for c in (MertConfig.base(), MertConfig.large())]
    assert counts == [94_371_712, 315_428_992]


def test_initial_weights_are_hubert_s() -> None:
    torch.manual_seed(0)
    model = MertModel(MertConfig(**{**SMALL, "hidden_size": 128, "conv_dim": [128] * 7}))
    for name, std in {
        "feature_extractor.conv_layers.3.conv.weight": (2 / (3 * 128)) ** 0.5,
        "encoder.layers.1.feed_forward.output_dense.weight": 0.02,
        "encoder.pos_conv_embed.conv.parametrizations.weight.original1": (4 / (16 * 128)) ** 0.5,
    }.items():
        assert model.state_dict()[name].std().item() == pytest.approx(std, rel=0.05), name
    weights = model.encoder.pos_conv_embed
    assert weights is not None
    torch.testing.assert_close(weights.conv.weight, weights.conv.parametrizations.weight.original1)
    assert 0 <= model.masked_spec_embed.min() and model.masked_spec_embed.max() <= 1
    assert model.masked_spec_embed.std().item() == pytest.approx((1 / 12) ** 0.5, rel=0.2)


# --- frames and padding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples, frames", [(120_000, 374), (122_880, 383), (72_000, 224), (80_000, 249), (400, 1)])
def test_frame_arithmetic_of_the_published_front_end(samples: int, frames: int) -> None:
    config = MertConfig()
    assert config.frames(samples) == frames
    assert config.valid_frames(torch.tensor([samples, 0])).tolist() == [frames, 0]
    assert config.frame_rate == 75.0 and config.min_samples == 400
    assert MertConfig(sample_rate=16_000).frame_rate == 50.0


@pytest.mark.parametrize("frontend", ["conv", "mel"])
def test_frames_are_what_the_model_gives_and_the_next_sample_makes_the_next_frame(frontend: str) -> None:
    model = small(frontend=frontend)
    least = model.config.min_samples
    for samples in (least, least + 1, 2999, 4800, 4801):
        assert states(model, torch.zeros(1, samples))[0].shape == (1, model.frames(samples), 32)
    assert model.frames(least) == 1 and model.frames(least - 1) == 0
    assert model.frames(least + model.config.hop_samples) == 2
    assert model.frames(2 * 96_000) == pytest.approx(2 * model.frames(96_000), abs=1)


@pytest.mark.parametrize("do_normalize", [False, True])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_padding_changes_no_valid_frame(variant: dict[str, Any], do_normalize: bool) -> None:
    """Neither silence nor garbage after a clip changes its frames, whatever the other clips of the batch are."""
    model = small(**variant, do_normalize=do_normalize)
    lengths = (9600, 6001, 2500, model.config.min_samples)
    waveform, mask = clips(9600, *lengths)
    garbage = torch.where(mask.bool(), waveform, 3.0)
    for batch in (waveform, garbage):
        together = states(model, batch, mask)
        for item, length in enumerate(lengths):
            frames = model.frames(length)
            for alone, padded in zip(states(model, waveform[item : item + 1, :length]), together, strict=True):
                assert alone.shape[1] == frames
                torch.testing.assert_close(padded[item, :frames], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("frontend", ["conv", "mel"])
def test_a_clip_without_a_valid_frame_is_finite_and_disturbs_no_other(frontend: str) -> None:
    model = small(frontend=frontend, do_normalize=True)
    waveform, mask = clips(4800, 4800, 4800, 0)
    model.train()  # the gradient must be finite too
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    output = model(waveform, mask).last_hidden_state
    assert output.isfinite().all()
    output.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_extract_gives_the_frame_mask() -> None:
    model = small()
    waveform, mask = clips(8000, 8000, 5000)
    features, frame_mask = model.extract(waveform, mask)
    assert features.shape == (2, 24, 24) and frame_mask is not None and frame_mask.dtype == torch.bool
    assert frame_mask.sum(-1).tolist() == [24, model.frames(5000)]
    assert model.extract(waveform)[1] is None


def test_normalised_input_forgets_gain_and_offset() -> None:
    model = small(do_normalize=True)
    waveform, mask = clips(8000, 8000, 5000)
    louder = (3 * waveform + 0.5) * mask
    torch.testing.assert_close(states(model, louder, mask)[-1], states(model, waveform, mask)[-1], atol=1e-4, rtol=1e-3)
    raw = small(do_normalize=False, frontend="mel")  # the group norm forgets gains, the mel front end doesn't
    assert (states(raw, louder, mask)[-1] - states(raw, waveform, mask)[-1]).abs().max() > 0.01


@pytest.mark.parametrize("frontend, least", [("conv", 400), ("mel", 960)])
def test_audio_shorter_than_a_frame_is_an_error_with_both_lengths(frontend: str, least: int) -> None:
    model = small(frontend=frontend)
    with pytest.raises(ValueError, match=f"has {least - 1} samples, but one frame needs {least}"):
        model(torch.zeros(1, least - 1))
    with pytest.raises(ValueError, match=r"expected \[batch, samples\]"):
        model(torch.zeros(1, 2, 8000))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"hidden_size": 30}, "4 heads"),
        ({"hidden_size": 36, "positions": "rotary"}, "even width"),
        ({"num_conv_pos_embedding_groups": 5}, "5 groups"),
        ({"conv_stride": [2]}, "7, 7 and 1"),
        ({"frontend": "cqt"}, "'cqt'"),
        ({"positions": "sine"}, "'sine'"),
    ],
)
def test_values_that_do_not_fit_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MertConfig(**{**SMALL, **changes})


# --- training --------------------------------------------------------------------------------------------------------


def test_the_mask_embedding_replaces_exactly_the_masked_frames() -> None:
    """Masked features don't matter, the others do; the frame holds the embedding where it enters the transformer."""
    model = small(positions="rotary", norm_first=True)  # nothing is added before the first block
    features, _ = model.extract(clips(8000, 8000, 8000)[0])
    masked = torch.zeros(2, 24, dtype=torch.bool)
    masked[0, 3:8] = masked[1, 20] = True
    with torch.no_grad():
        plain = encoded(model, features)[0]
        entered, *_, last = encoded(model, features, None, masked)
        again = encoded(model, features + 5 * masked[..., None], None, masked)[-1]
    assert (entered[masked] == model.masked_spec_embed).all()
    assert torch.equal(entered[~masked], plain[~masked])
    assert torch.equal(again, last)


def gradients(model: MertModel, seed: int = 0) -> dict[str, Tensor]:
    model.zero_grad()
    waveform, mask = clips(6000, 6000, 4000)
    masked = torch.zeros(2, model.frames(6000), dtype=torch.bool)
    masked[:, 1:4] = True
    torch.manual_seed(seed)
    features, frame_mask = model.extract(waveform, mask)
    encoded(model, features, frame_mask, masked)[-1].square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_the_gradient_reaches_every_parameter_and_checkpointing_changes_none(variant: dict[str, Any]) -> None:
    """Dropout and layer drop are on: the recomputed pass draws what the first one drew."""
    model = small(**variant, layerdrop=0.4).train()
    plain = gradients(model)
    assert plain.keys() == dict(model.named_parameters()).keys()
    model.gradient_checkpointing_enable()
    kept = gradients(model)
    for name, gradient in plain.items():
        torch.testing.assert_close(kept[name], gradient, atol=1e-7, rtol=1e-5, msg=name)


def test_the_front_end_s_gradient_is_scaled_and_nothing_else_is() -> None:
    whole, tenth, none = (gradients(small(feature_grad_mult=factor)) for factor in (1.0, 0.1, 0.0))
    for name, gradient in whole.items():
        if name.startswith("feature_extractor"):
            torch.testing.assert_close(tenth[name], 0.1 * gradient, atol=1e-9, rtol=1e-4)
            assert name not in none
        else:
            assert torch.equal(tenth[name], gradient) and torch.equal(none[name], gradient)


def test_layer_drop_skips_blocks_in_training_only_and_follows_the_seed() -> None:
    model = small(layerdrop=0.5, num_hidden_layers=8, hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0)
    waveform = clips(4000, 4000)[0]
    whole = states(model, waveform)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(whole))
    model.train()
    dropped = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(seed)
        found = states(model, waveform)
        dropped.append([torch.equal(a, b) for a, b in itertools.pairwise(found)])
    assert dropped[0] == dropped[1]
    assert len({tuple(row) for row in dropped}) > 2
    assert 0.25 < sum(map(sum, dropped[1:])) / 32 < 0.75


def test_bfloat16_keeps_the_statistics_and_filters_in_float32() -> None:
    """A large offset is removed by the group norm; in bfloat16 its mean would swallow the sound.

    oneDNN's bfloat16 convolution by AMX answers wrongly (by 100 %) for groups of 8 channels with an even kernel, so the
    positional convolution has groups of 16 here; no full-size model has groups of 8.
    """
    for frontend in ("conv", "mel"):
        model = small(frontend=frontend, num_conv_pos_embedding_groups=2)  # groups of 16 channels
        waveform = clips(4800, 4800, offset=0.5)[0]
        exact = states(model, waveform)[-1]
        rough = states(model.bfloat16(), waveform)[-1]
        assert rough.dtype == torch.bfloat16
        assert (rough.float() - exact).abs().max() < 0.15 * exact.abs().max()


# --- rotary positions ------------------------------------------------------------------------------------------------


def test_rotary_positions_equal_complex_rotations() -> None:
    vectors = torch.randn(2, 3, 50, 8, dtype=torch.float64)
    found = rotate(vectors, rotation(50, 8, 10_000.0, torch.device("cpu")))
    for frame in (0, 1, 49):
        for pair in range(4):
            number = torch.complex(vectors[:, :, frame, pair], vectors[:, :, frame, pair + 4])
            turned = number * torch.exp(torch.tensor(1j * frame * 10_000.0 ** (-2 * pair / 8)))
            torch.testing.assert_close(found[:, :, frame, pair], turned.real, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found[:, :, frame, pair + 4], turned.imag, atol=1e-5, rtol=1e-5)


def test_rotary_attention_sees_distances_not_places() -> None:
    """The same frames three places later give the same output; in reverse order they don't."""
    model = small(positions="rotary", norm_first=True)
    for name, parameter in model.named_parameters():
        if "_proj.weight" in name:
            nn.init.normal_(parameter, std=0.5)  # an attention that counts, so that places show
    features = torch.randn(1, 12, 24)
    later = torch.cat([torch.randn(1, 3, 24), features], dim=1)
    late_mask = torch.ones(1, 15, dtype=torch.bool)
    late_mask[:, :3] = False
    with torch.no_grad():
        first = encoded(model, features)[-1]
        second = encoded(model, later, late_mask)[-1][:, 3:]
        reversed_frames = encoded(model, features.flip(1))[-1].flip(1)
    torch.testing.assert_close(second, first, atol=1e-5, rtol=1e-4)
    assert (reversed_frames - first).abs().max() > 1e-2


# --- MERT's public folders -------------------------------------------------------------------------------------------


def write_mert_folder(
    folder: Path, norm_first: bool = False, old_names: bool = True, safe: bool = False
) -> HubertModel:
    """A folder laid out as m-a-p/MERT-v1-95M or -330M, with random weights; returns HuBERT with the same weights."""
    reference = hubert(norm_first)
    weights = {name: weight.contiguous() for name, weight in reference.state_dict().items()}
    if old_names:
        new = "encoder.pos_conv_embed.conv.parametrizations.weight.original"
        weights["encoder.pos_conv_embed.conv.weight_g"] = weights.pop(new + "0")
        weights["encoder.pos_conv_embed.conv.weight_v"] = weights.pop(new + "1")
    folder.mkdir(exist_ok=True)
    if safe:
        save_file(weights, folder / "model.safetensors")
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    published = {
        **SMALL,
        "model_type": "mert_model",
        "architectures": ["MERTModel"],
        "auto_map": {"AutoModel": "modeling_MERT.MERTModel"},
        "do_stable_layer_norm": norm_first,
        "attention_relax": 32.0 if norm_first else -1.0,
        "deepnorm": False,
        "feature_extractor_cqt": False,
        "feature_extractor_cqt_bins": 336,
        "feat_extract_norm": "group",
        "feat_extract_activation": "gelu",
        "feat_proj_layer_norm": True,
        "hidden_act": "gelu",
        "conv_bias": False,
        "mask_time_prob": 0.05,
        "mask_channel_length": 10,
        "ctc_loss_reduction": "sum",
        "layerdrop": 0.05,
        "sample_rate": 24_000,
        "torch_dtype": "float32",
        "vocab_size": 32,
    }
    (folder / "config.json").write_text(json.dumps(published))
    processor = {"do_normalize": True, "feature_size": 1, "padding_value": 0, "sampling_rate": 24_000}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return reference


@pytest.mark.parametrize(
    "norm_first, old_names, safe", [(False, True, False), (True, True, True), (True, False, False)]
)
def test_a_public_folder_gives_the_reference_s_output(
    tmp_path: Path, norm_first: bool, old_names: bool, safe: bool, recwarn: pytest.WarningsRecorder
) -> None:
    reference = write_mert_folder(tmp_path, norm_first, old_names, safe)
    model = load_mert_folder(tmp_path)
    assert not [w for w in recwarn if "MertModel" in str(w.message)]
    assert model.config.do_normalize and model.config.sample_rate == 24_000 and not model.training
    waveform = clips(8000, 8000)[0]
    normalised = (waveform - waveform.mean()) / (waveform.var(correction=0) + 1e-7).sqrt()
    with torch.no_grad():
        theirs = reference(normalised).last_hidden_state
    torch.testing.assert_close(states(model, waveform)[-1], theirs, atol=1e-5, rtol=1e-4)


def test_the_encoder_door_knows_a_public_folder(tmp_path: Path) -> None:
    """Also where the folder's own remote code is named but isn't there."""
    write_mert_folder(tmp_path)
    encoder = load_encoder(tmp_path)
    waveform = clips(8000, 8000)[0]
    found = encoder.hidden_states(waveform)
    with torch.no_grad():
        wanted = load_mert_folder(tmp_path)(waveform, output_hidden_states=True).hidden_states
    torch.testing.assert_close(found, torch.stack(wanted, dim=1))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_v0_has_the_rate_of_its_preprocessor(tmp_path: Path) -> None:
    write_mert_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["sample_rate"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    edit(tmp_path / "preprocessor_config.json", sampling_rate=16_000, do_normalize=False)
    model = load_mert_folder(tmp_path)
    assert model.frame_rate == 50.0 and not model.config.do_normalize
    edit(tmp_path / "config.json", sample_rate=24_000)
    with pytest.raises(ValueError, match=r"24000 Hz and preprocessor_config\.json 16000 Hz"):
        load_mert_folder(tmp_path)


def test_missing_unexpected_and_misshapen_weights_are_named(tmp_path: Path) -> None:
    write_mert_folder(tmp_path)
    path = tmp_path / "pytorch_model.bin"
    whole = torch.load(path, weights_only=True)

    torch.save({**whole, "final_proj.weight": torch.zeros(1)}, path)  # a training head is known by name
    load_mert_folder(tmp_path)

    torch.save({name: w for name, w in whole.items() if name != "encoder.layers.1.layer_norm.bias"}, path)
    with pytest.raises(ValueError, match=r"lacks weights: encoder\.layers\.1\.layer_norm\.bias;"):
        load_mert_folder(tmp_path)

    torch.save({**whole, "encoder.layers.3.layer_norm.bias": torch.zeros(32)}, path)
    with pytest.raises(ValueError, match=r"has unexpected weights: encoder\.layers\.3\.layer_norm\.bias;"):
        load_mert_folder(tmp_path)

    new = "encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    torch.save({**whole, new: whole["encoder.pos_conv_embed.conv.weight_g"]}, path)
    with pytest.raises(ValueError, match="original0 twice"):
        load_mert_folder(tmp_path)

    torch.save({**whole, "masked_spec_embed": torch.zeros(31)}, path)
    with pytest.raises(ValueError, match=r"masked_spec_embed has the shape \[31\], expected \[32\]"):
        load_mert_folder(tmp_path)

    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_mert_folder(tmp_path)


@pytest.mark.parametrize("field, value", [("deepnorm", True), ("feature_extractor_cqt", True), ("hidden_act", "relu")])
def test_another_architecture_is_refused_by_name(tmp_path: Path, field: str, value: Any) -> None:
    write_mert_folder(tmp_path)
    edit(tmp_path / "config.json", **{field: value})
    with pytest.raises(ValueError, match=f"{field} = {value!r}"):
        load_mert_folder(tmp_path)


def test_an_unknown_field_is_named_in_a_warning(tmp_path: Path) -> None:
    write_mert_folder(tmp_path)
    edit(tmp_path / "config.json", adapter_attn_dim=16)
    with pytest.warns(UserWarning, match="adapter_attn_dim"):
        load_mert_folder(tmp_path)


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    write_mert_folder(tmp_path)

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"masked_spec_embed": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could run code"):
        load_mert_folder(tmp_path)
    assert not (tmp_path / "ran").exists()


# --- publishing ------------------------------------------------------------------------------------------------------

STRANGER = """
import sys, torch
sys.modules["groundbass"] = None  # whoever imports it here, fails
from transformers import AutoModel
folder = sys.argv[1]
for kind in ("conv", "mel"):
    model = AutoModel.from_pretrained(f"{folder}/{kind}", trust_remote_code=True)
    assert "groundbass." not in type(model).__module__
    told = torch.load(f"{folder}/{kind}.pt", weights_only=True)
    with torch.no_grad():
        found = model(told["waveform"], told["mask"], output_hidden_states=True).hidden_states
    for mine, other in zip(found, told["states"], strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-6)
    assert model.frame_rate == told["frame_rate"], model.frame_rate
    half = AutoModel.from_pretrained(f"{folder}/{kind}", trust_remote_code=True, dtype=torch.bfloat16)
    assert half(told["waveform"]).last_hidden_state.isfinite().all()
    assert all(b.dtype == torch.float32 for n, b in half.named_buffers() if "log_mel" in n)
print("same")
"""


@pytest.mark.slow
def test_a_published_folder_loads_in_a_process_without_the_package(tmp_path: Path) -> None:
    for frontend, positions in (("conv", "conv"), ("mel", "rotary")):
        model = small(frontend=frontend, positions=positions, do_normalize=True)
        model.save_pretrained(tmp_path / frontend)
        waveform, mask = clips(8000, 8000, 5000)
        told = {"waveform": waveform, "mask": mask, "states": list(states(model, waveform, mask))}
        torch.save({**told, "frame_rate": model.frame_rate}, tmp_path / f"{frontend}.pt")
    result = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith("same")


def test_a_meta_model_that_gets_weights_computes_its_tables(tmp_path: Path) -> None:
    model = small(frontend="mel")
    with torch.device("meta"):
        empty = MertModel(model.config)
    filled = empty.to_empty(device="cpu").eval()
    filled.load_state_dict(model.state_dict(), strict=True)
    waveform = clips(8000, 8000)[0]
    assert torch.equal(states(filled, waveform)[-1], states(model, waveform)[-1])


@pytest.mark.slow
@pytest.mark.parametrize("frontend, positions", [("conv", "conv"), ("mel", "rotary")])
def test_a_training_step_is_one_graph(frontend: str, positions: str) -> None:
    """`torch.compile` finds nothing in forward that branches on data, layer drop and padding included."""
    model = small(frontend=frontend, positions=positions, layerdrop=0.3).train()
    waveform, mask = clips(8000, 8000, 5000)
    outputs = []
    for run in (model, torch.compile(model, backend="eager", fullgraph=True)):
        torch.manual_seed(0)
        outputs.append(run(waveform, mask).last_hidden_state)
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-5)
