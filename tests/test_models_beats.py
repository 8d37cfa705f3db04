"""BEATs: the filter bank against torchaudio, buckets and gate re-derived, Microsoft's files, padding, kept tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from groundbass import load_encoder
from groundbass.models.beats import BeatsConfig, BeatsModel, relative_buckets
from groundbass.models.beats_file import load_beats_file
from groundbass.models.beats_tokenizer import (
    BeatsQuantizer,
    BeatsQuantizerConfig,
    RandomProjectionPatches,
    nearest,
    patches,
)
from groundbass.models.fbank import KaldiFbank
from groundbass.models.importers import import_checkpoint
from groundbass.models.published import write_encoder

CFG: dict[str, Any] = {
    "input_patch_size": 16, "embed_dim": 24, "conv_bias": False, "encoder_layers": 3, "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48, "encoder_attention_heads": 4, "activation_fn": "gelu", "layer_norm_first": False,
    "deep_norm": True, "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "dropout_input": 0.0,
    "encoder_layerdrop": 0.05, "conv_pos": 8, "conv_pos_groups": 4, "relative_position_embedding": True,
    "num_buckets": 32, "max_distance": 60, "gru_rel_pos": True, "layer_wise_gradient_decay_ratio": 0.6,
}  # fmt: skip


def microsoft(seed: int = 0, classes: int = 0, tokenizer: bool = False) -> dict[str, Tensor]:
    """Random weights under Microsoft's names."""
    draw = torch.Generator().manual_seed(seed)
    dim, inner = CFG["encoder_embed_dim"], CFG["encoder_ffn_embed_dim"]

    def rand(*shape: int, mean: float = 0.0) -> Tensor:
        return mean + 0.2 * torch.randn(*shape, generator=draw)

    found = {
        "patch_embedding.weight": rand(24, 1, 16, 16),
        "layer_norm.weight": rand(24, mean=1.0),
        "layer_norm.bias": rand(24),
        "post_extract_proj.weight": rand(dim, 24),
        "post_extract_proj.bias": rand(dim),
        "encoder.pos_conv.0.bias": rand(dim),
        "encoder.pos_conv.0.weight_g": rand(1, 1, 8, mean=1.0),
        "encoder.pos_conv.0.weight_v": rand(dim, dim // 4, 8),
        "encoder.layer_norm.weight": rand(dim, mean=1.0),
        "encoder.layer_norm.bias": rand(dim),
    }
    table = rand(32, 4)
    for layer in range(CFG["encoder_layers"]):
        at = f"encoder.layers.{layer}"
        for name in ("q", "k", "v", "out"):
            found[f"{at}.self_attn.{name}_proj.weight"] = rand(dim, dim)
            found[f"{at}.self_attn.{name}_proj.bias"] = rand(dim)
        found[f"{at}.self_attn.relative_attention_bias.weight"] = table
        found[f"{at}.self_attn.grep_linear.weight"] = rand(8, dim // 4)
        found[f"{at}.self_attn.grep_linear.bias"] = rand(8)
        found[f"{at}.self_attn.grep_a"] = rand(1, 4, 1, 1, mean=1.0)
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            found[f"{at}.{norm}.weight"], found[f"{at}.{norm}.bias"] = rand(dim, mean=1.0), rand(dim)
        found[f"{at}.fc1.weight"], found[f"{at}.fc1.bias"] = rand(inner, dim), rand(inner)
        found[f"{at}.fc2.weight"], found[f"{at}.fc2.bias"] = rand(dim, inner), rand(dim)
    if classes:
        found["predictor.weight"], found["predictor.bias"] = rand(classes, dim), rand(classes)
    if tokenizer:
        found["quantize_layer.0.weight"], found["quantize_layer.0.bias"] = rand(dim, dim), rand(dim)
        found["quantize_layer.2.weight"], found["quantize_layer.2.bias"] = rand(10, dim), rand(10)
        words = F.normalize(rand(20, 10), dim=-1)
        found["quantize.embedding.weight"], found["quantize.embedding.embed_avg"] = words, words.clone()
        found["quantize.embedding.cluster_size"], found["quantize.cluster_size"] = rand(20), rand(20)
        found["quantize.embedding.initted"] = torch.ones(1)
    return found


def bucket(distance: int) -> int:
    """One bucket, in scalars: 32 buckets, furthest distance 60."""
    base = 16 if distance > 0 else 0
    size = abs(distance)
    if size < 8:
        return base + size
    grown = 8 + int(math.log(size / 8) / math.log(60 / 8) * 8)
    return base + min(grown, 15)


def reference(weights: dict[str, Tensor], waveform: Tensor) -> Tensor:
    """The published computation for one clip [samples], head by head and query by query: [tokens, dim]."""
    w = {name: value.double() for name, value in weights.items()}
    mel = torchaudio.compliance.kaldi.fbank(waveform[None] * 2**15, num_mel_bins=128, sample_frequency=16000)
    mel = ((mel - 15.41663) / (2 * 6.55582)).double()
    rows = []
    for time in range(len(mel) // 16):
        for band in range(8):
            patch = mel[16 * time : 16 * time + 16, 16 * band : 16 * band + 16]
            rows.append((w["patch_embedding.weight"][:, 0] * patch).sum((1, 2)))
    x = F.layer_norm(torch.stack(rows), (24,), w["layer_norm.weight"], w["layer_norm.bias"])
    x = x @ w["post_extract_proj.weight"].T + w["post_extract_proj.bias"]
    v = w["encoder.pos_conv.0.weight_v"]
    kernel = v / v.square().sum((0, 1), keepdim=True).sqrt() * w["encoder.pos_conv.0.weight_g"]
    conv = F.conv1d(x.T[None], kernel, w["encoder.pos_conv.0.bias"], padding=4, groups=4)[0, :, :-1].T
    x = x + F.gelu(conv)
    x = F.layer_norm(x, (32,), w["encoder.layer_norm.weight"], w["encoder.layer_norm.bias"])
    n, alpha = len(x), (2 * 3) ** 0.25
    for layer in range(3):
        at = f"encoder.layers.{layer}"
        a = f"{at}.self_attn"
        q, k, value = (x @ w[f"{a}.{p}_proj.weight"].T + w[f"{a}.{p}_proj.bias"] for p in ("q", "k", "v"))
        mixed = torch.zeros_like(x)
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            for i in range(n):
                eight = w[f"{a}.grep_linear.weight"] @ q[i, part] + w[f"{a}.grep_linear.bias"]
                first, second = torch.sigmoid(eight[:4].sum()), torch.sigmoid(eight[4:].sum())
                gate = first * (second * w[f"{a}.grep_a"][0, head, 0, 0] - 1) + 2
                table = w[f"{a}.relative_attention_bias.weight"]
                bias = torch.stack([table[bucket(j - i), head] for j in range(n)])
                scores = k[:, part] @ q[i, part] / math.sqrt(8) + gate * bias
                mixed[i, part] = scores.softmax(0) @ value[:, part]
        x = x * alpha + mixed @ w[f"{a}.out_proj.weight"].T + w[f"{a}.out_proj.bias"]
        x = F.layer_norm(x, (32,), w[f"{at}.self_attn_layer_norm.weight"], w[f"{at}.self_attn_layer_norm.bias"])
        inner = F.gelu(x @ w[f"{at}.fc1.weight"].T + w[f"{at}.fc1.bias"])
        x = x * alpha + inner @ w[f"{at}.fc2.weight"].T + w[f"{at}.fc2.bias"]
        x = F.layer_norm(x, (32,), w[f"{at}.final_layer_norm.weight"], w[f"{at}.final_layer_norm.bias"])
    return x


def save(path: Path, weights: dict[str, Tensor], **extra: Any) -> Path:
    torch.save({"cfg": CFG, "model": weights} | extra, path)
    return path


def sound(clips: int, samples: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(clips, samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> BeatsModel:
    torch.manual_seed(0)
    config = BeatsConfig(
        patch_dim=16, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_pos=8,
        conv_pos_groups=4, num_buckets=32, max_distance=60,
    )  # fmt: skip
    return BeatsModel(config).eval()


@pytest.mark.parametrize("samples", [400, 401, 16_000, 23_457])
def test_filter_bank_equals_kaldi_clip_by_clip(samples: int) -> None:
    waveform = sound(3, samples)
    waveform[1] *= 1e-3
    waveform[2] = torch.sin(torch.arange(samples) * 2 * math.pi * 440 / 16_000)
    ours = KaldiFbank(16_000, 128, 25.0, 10.0, 20.0, 32768.0)(waveform)
    for clip, row in zip(waveform, ours):
        theirs = torchaudio.compliance.kaldi.fbank(clip[None] * 2**15, num_mel_bins=128, sample_frequency=16000)
        torch.testing.assert_close(row, theirs, atol=2e-3, rtol=0)


def test_silence_lies_on_kaldis_floor() -> None:
    ours = KaldiFbank(16_000, 128, 25.0, 10.0, 20.0, 32768.0)(torch.zeros(1, 1600))
    theirs = torchaudio.compliance.kaldi.fbank(torch.zeros(1, 1600), num_mel_bins=128, sample_frequency=16000)
    torch.testing.assert_close(ours[0], theirs)


def test_base_has_the_published_size_and_arithmetic() -> None:
    with torch.device("meta"):
        base = BeatsModel(BeatsConfig())
    assert sum(parameter.numel() for parameter in base.parameters()) == 90_311_792
    assert base.config.times(160_000) == 62  # 998 frames, 496 tokens
    assert int(base.valid_patches(torch.tensor([160_000]))[0]) == 496
    assert base.frame_rate == 6.25
    assert base.config.min_samples == 2800


def test_deep_norm_scales_the_initial_weights() -> None:
    torch.manual_seed(0)
    model = BeatsModel(BeatsConfig(num_hidden_layers=2, num_attention_heads=4, hidden_size=256, intermediate_size=512))
    block: Any = model.encoder.layers[0]
    gain = (8 * 2) ** -0.25
    assert block.alpha == pytest.approx((2 * 2) ** 0.25)
    assert block.self_attn.q_proj.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.03)
    assert block.self_attn.v_proj.weight.std().item() == pytest.approx(gain * (2 / 512) ** 0.5, rel=0.03)
    assert block.fc2.weight.std().item() == pytest.approx(gain * (2 / 768) ** 0.5, rel=0.03)


def test_buckets_equal_a_scalar_derivation() -> None:
    distance = torch.arange(-200, 201)
    assert relative_buckets(distance, 32, 60).tolist() == [bucket(int(d)) for d in distance]
    published = relative_buckets(torch.tensor([0, 1, 79, 80, 799, 800, 5000, -79, -5000]), 320, 800)
    assert published.tolist()[:4] == [0, 161, 239, 240]
    assert published.tolist()[5:] == [319, 319, 79, 159]


def test_microsofts_file_gives_the_published_computation(tmp_path: Path) -> None:
    weights = microsoft()
    loaded = load_beats_file(save(tmp_path / "beats.pt", weights))
    assert isinstance(loaded, BeatsModel)
    waveform = sound(2, 9_000)
    with torch.no_grad():
        found = loaded(waveform).last_hidden_state
    for clip, row in zip(waveform, found):
        torch.testing.assert_close(row.double(), reference(weights, clip), atol=1e-4, rtol=0)


def test_fine_tuned_file_keeps_its_head(tmp_path: Path) -> None:
    weights = microsoft(classes=7)
    path = save(tmp_path / "finetuned.pt", weights, label_dict={0: "/m/1", 1: "/m/2"})
    loaded = load_beats_file(path)
    assert isinstance(loaded, BeatsModel) and loaded.config.id2label[1] == "/m/2"
    waveform = sound(1, 9_000)
    with torch.no_grad():
        logits = loaded.logits(loaded(waveform).last_hidden_state)
    hidden = reference(weights, waveform[0])
    wanted = (hidden @ weights["predictor.weight"].double().T + weights["predictor.bias"].double()).mean(0)
    torch.testing.assert_close(logits[0].double(), wanted, atol=1e-4, rtol=0)


def test_tokenizer_file_gives_the_nearest_codeword(tmp_path: Path) -> None:
    weights = microsoft(tokenizer=True)
    loaded = load_beats_file(save(tmp_path / "tokenizer.pt", weights))
    assert isinstance(loaded, BeatsQuantizer)
    waveform = sound(1, 9_000)
    codes = loaded.codes(waveform)[0]
    hidden = reference({k: v for k, v in weights.items() if not k.startswith("quantize")}, waveform[0])
    w = {name: value.double() for name, value in weights.items()}
    latent = torch.tanh(hidden @ w["quantize_layer.0.weight"].T + w["quantize_layer.0.bias"])
    latent = latent @ w["quantize_layer.2.weight"].T + w["quantize_layer.2.bias"]
    latent = latent / latent.norm(dim=1, keepdim=True)
    distance = torch.cdist(latent, w["quantize.embedding.weight"])
    assert codes.tolist() == distance.argmin(1).tolist()


def test_beats_file_becomes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = microsoft()
    import_checkpoint(save(tmp_path / "whatever.bin", weights), tmp_path / "out")
    waveform = sound(1, 9_000)
    found = load_encoder(tmp_path / "out").hidden_states(waveform)[0, -1]
    wanted = reference(weights, waveform[0]).unflatten(0, (-1, 8)).mean(1)
    torch.testing.assert_close(found.double(), wanted, atol=1e-4, rtol=0)
    assert "BEATs" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="--force"):
        import_checkpoint(tmp_path / "whatever.bin", tmp_path / "out")
    import_checkpoint(save(tmp_path / "tokenizer.pt", microsoft(tokenizer=True)), tmp_path / "out", force=True)
    assert load_encoder(tmp_path / "out").dim == 10


def test_load_encoder_takes_the_file_and_averages_the_bands(tmp_path: Path) -> None:
    path = save(tmp_path / "beats.pt", microsoft())
    encoder = load_encoder(str(path))
    waveform = sound(2, 20_000)
    states = encoder.hidden_states(waveform)
    model: Any = load_beats_file(path)
    with torch.no_grad():
        tokens = model(waveform).last_hidden_state
    assert (encoder.frame_rate, encoder.layers, encoder.dim) == (6.25, 4, 32)
    assert states.shape == (2, 4, 7, 32)
    torch.testing.assert_close(states[:, -1, 3], tokens[:, 24:32].mean(1))


def test_a_written_folder_gives_the_same(tmp_path: Path, model: BeatsModel) -> None:
    waveform = sound(2, 9_000)
    write_encoder(model, tmp_path / "out")
    again = load_encoder(tmp_path / "out")
    with torch.no_grad():
        hidden = model(waveform).last_hidden_state
    torch.testing.assert_close(again.hidden_states(waveform)[:, -1], hidden.unflatten(1, (-1, 8)).mean(2))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["model"].pop("encoder.layers.1.fc1.bias"), "lacks weights: encoder.layers.1.fc1.bias"),
        (lambda c: c["model"].update(extra=torch.zeros(1)), "unexpected weights: extra"),
        (lambda c: c["model"].update({"layer_norm.bias": torch.zeros(3)}), "layer_norm.bias has the shape"),
        (lambda c: c["model"]["layer_norm.bias"].fill_(math.nan), "layer_norm.bias holds NaN"),
        (lambda c: c["cfg"].update(layer_norm_first=True), "layer_norm_first = True"),
        (lambda c: c["cfg"].update(encoder_layers=4), "lacks weights"),
        (lambda c: c.pop("cfg"), "expected the keys 'cfg' and 'model'"),
    ],
)
def test_a_wrong_file_is_a_sentence(tmp_path: Path, change: Any, sentence: str) -> None:
    content = {"cfg": dict(CFG), "model": microsoft()}
    change(content)
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=sentence):
        load_beats_file(tmp_path / "x.pt")


class Trap:
    """What a malicious file would hold: opening it unsafely would call `exec`."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('code ran')",))


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"cfg": Trap(), "model": {}}, tmp_path / "trap.pt")
    with pytest.raises(ValueError, match="could run code"):
        load_beats_file(tmp_path / "trap.pt")
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(ValueError, match="damaged"):
        load_beats_file(tmp_path / "cut.pt")


def test_padding_changes_no_valid_token(model: BeatsModel) -> None:
    waveform = sound(1, 9_000)
    padded = torch.cat([waveform, torch.full((1, 8_000), 0.7)], 1)
    mask = (torch.arange(17_000) < 9_000).long()[None]
    with torch.no_grad():
        alone, together = model(waveform).last_hidden_state, model(padded, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(together[:, : alone.shape[1]], alone, atol=1e-5, rtol=0)


def test_kept_tokens_at_their_places_equal_the_rest_masked_out(model: BeatsModel) -> None:
    tokens = model.embed_patches(model.fbank(sound(2, 20_000)))
    total = tokens.shape[1]
    order = torch.stack([torch.randperm(total, generator=torch.Generator().manual_seed(s)) for s in (1, 2)])
    kept = order[:, :14].sort(1).values
    some = tokens.gather(1, kept[..., None].expand(-1, -1, 32))
    with torch.no_grad():
        ours = model.encode(some, kept, total=total, keep_all=True)
        inside = torch.zeros(2, total, dtype=torch.bool).scatter(1, kept, True)
        everything = model.encode(tokens, mask=inside, keep_all=True)
        for few, all_ in zip(ours, everything):
            torch.testing.assert_close(few, all_.gather(1, kept[..., None].expand(-1, -1, 32)), atol=1e-5, rtol=0)
        padded = torch.cat([some, torch.ones(2, 3, 32)], 1)  # padding among the kept changes nothing either
        places = torch.cat([kept, kept[:, :3]], 1)
        mask = (torch.arange(17) < 14).expand(2, -1)
        torch.testing.assert_close(model.encode(padded, places, mask, total)[-1][:, :14], ours[-1], atol=1e-5, rtol=0)


def test_too_short_a_clip_is_a_sentence(model: BeatsModel) -> None:
    with pytest.raises(ValueError, match="2799 samples, but one row of patches needs 2800"):
        model(sound(1, 2_799))
    assert model(sound(1, 2_800)).last_hidden_state.shape == (1, 8, 32)
    assert model(sound(1, 5_359)).last_hidden_state.shape == (1, 8, 32)  # an unfinished row is dropped


def test_patches_are_time_major_and_match_the_convolution(model: BeatsModel) -> None:
    fbank = torch.randn(2, 50, 128)
    flat = patches(fbank, 16)
    assert flat.shape == (2, 24, 256)
    torch.testing.assert_close(flat[1, 8 * 2 + 5], fbank[1, 32:48, 80:96].flatten())
    convolved = model.patch_embedding(fbank[:, None]).flatten(2).transpose(1, 2)
    torch.testing.assert_close(flat @ model.patch_embedding.weight.flatten(1).T, convolved, atol=1e-4, rtol=0)


def test_nearest_equals_brute_force() -> None:
    points, words = torch.randn(50, 6), torch.randn(20, 6)
    brute = [min(range(20), key=lambda c: float((p - words[c]).square().sum())) for p in points]
    assert nearest(points, words).tolist() == brute


def test_random_projection_is_its_seeds() -> None:
    torch.manual_seed(5)
    first = RandomProjectionPatches(16, codes=64, dim=32, seed=3)
    torch.manual_seed(6)
    same = RandomProjectionPatches(16, codes=64, dim=32, seed=3)
    other = RandomProjectionPatches(16, codes=64, dim=32, seed=4)
    fbank = torch.randn(2, 64, 128)
    assert torch.equal(first.codes(fbank), same.codes(fbank))
    assert not torch.equal(first.codes(fbank), other.codes(fbank))
    assert not dict(first.named_parameters()) and not first.state_dict()
    flat = patches(fbank, 16)[1, 7] @ first.embed
    flat = (flat - flat.mean()) / (flat.var(correction=0) + 1e-5).sqrt() @ first.projection
    flat = flat - flat.mean()
    flat = flat / flat.norm()
    assert int(first.codes(fbank)[1, 7]) == int((flat - first.codewords).norm(dim=1).argmin())


def test_tokenizer_folder_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {
        "patch_dim": 16, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48,
        "conv_pos": 8, "conv_pos_groups": 4,
    }  # fmt: skip
    tokenizer = BeatsQuantizer(BeatsQuantizerConfig(encoder=shape, codes=12, code_dim=6)).eval()
    write_encoder(tokenizer, tmp_path / "t")
    again = BeatsQuantizer.from_pretrained(tmp_path / "t").eval()
    waveform = sound(2, 12_000)
    assert torch.equal(tokenizer.codes(waveform), again.codes(waveform))
    valid = torch.tensor([6_000, 12_000])
    count = int(tokenizer.beats.valid_patches(valid)[0])
    alone = tokenizer.codes(waveform[:1, :6_000])
    assert torch.equal(tokenizer.codes(waveform, valid)[0, :count], alone[0])
    assert load_encoder(tmp_path / "t").hidden_states(waveform).shape == (2, 1, 4, 6)
