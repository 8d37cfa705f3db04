"""The labelled networks: second implementations, and what every tagger promises (the originals: *_tagger_files.py)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor
from transformers import ASTConfig, ASTForAudioClassification, ClapAudioConfig, ClapAudioModel

from groundbass.models.adapters import ModelEncoder
from groundbass.models.encoder import load_encoder, random_copy
from groundbass.models.fbank import KaldiFbank
from groundbass.models.htsat import HtsatConfig, HtsatModel
from groundbass.models.music_taggers import SIZES, MusicTaggerConfig, MusicTaggerModel, uniform
from groundbass.models.panns import PannsConfig, PannsModel
from groundbass.models.published import verify, write_encoder
from groundbass.models.spectrogram_transformer import SpectrogramTransformerConfig, SpectrogramTransformerModel
from groundbass.models.tagger import DecibelMel, average, spread, starts
from groundbass.models.tagging_transformer import TaggingTransformerConfig, TaggingTransformerModel


def test_the_class_token_of_numpys_seed_0() -> None:
    expected = np.random.RandomState(0).rand(256).astype(np.float32)
    np.testing.assert_array_equal(uniform(0, 256).numpy(), expected)


def test_front_ends_equal_torchaudios() -> None:
    sound = 0.1 * torch.randn(1, 16_000, generator=torch.Generator().manual_seed(0))
    htk = torchaudio.transforms.MelSpectrogram(16_000, 512, n_mels=96)(sound)
    expected = torchaudio.transforms.AmplitudeToDB(top_db=None)(htk).transpose(1, 2)
    torch.testing.assert_close(DecibelMel(16_000, 512, 256, 96)(sound), expected, atol=1e-3, rtol=1e-4)
    librosas = torchaudio.transforms.MelSpectrogram(
        32_000, 1024, hop_length=320, f_min=50, f_max=14_000, n_mels=64, norm="slaney", mel_scale="slaney"
    )
    slaney = 10 * librosas(sound)[0].clamp(min=1e-10).log10().T
    ours = DecibelMel(32_000, 1024, 320, 64, 50.0, 14_000.0, "slaney", True)(sound)[0]
    torch.testing.assert_close(ours, slaney, atol=1e-3, rtol=1e-4)
    kaldi = torchaudio.compliance.kaldi.fbank(
        sound, sample_frequency=16_000, window_type="hanning", num_mel_bins=128, dither=0.0, htk_compat=True
    )
    found = KaldiFbank(16_000, 128, 25.0, 10.0, 20.0, 1.0, povey=False)(sound)[0]
    torch.testing.assert_close(found, kaldi, atol=2e-3, rtol=1e-4)


@torch.no_grad()
def test_ast_equals_that_of_transformers() -> None:
    """Small, with random weights and an eps of 1e-6; the padded part of short sound is that of its extractor."""
    config = SpectrogramTransformerConfig(
        classes=7, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, spectra=128
    )
    model = SpectrogramTransformerModel(config).eval()
    theirs = ASTForAudioClassification(
        ASTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, max_length=128,
            layer_norm_eps=1e-6, num_labels=7,
        )
    ).eval()  # fmt: skip
    theirs.classifier.layernorm.eps = 1e-5
    v, trunk = model.network.v, theirs.audio_spectrogram_transformer
    trunk.embeddings.cls_token.copy_(v.cls_token)
    trunk.embeddings.distillation_token.copy_(v.dist_token)
    trunk.embeddings.position_embeddings.copy_(v.pos_embed)
    pairs = [(trunk.embeddings.patch_embeddings.projection, v.patch_embed["proj"]), (trunk.layernorm, v.norm)]
    pairs += [
        (theirs.classifier.layernorm, model.network.mlp_head[0]),
        (theirs.classifier.dense, model.network.mlp_head[1]),
    ]
    for layer, block in zip(trunk.layers, v.blocks):
        pairs += [(layer.layernorm_before, block.norm1), (layer.layernorm_after, block.norm2)]
        pairs += [
            (layer.attention.o_proj, block.attn.proj),
            (layer.mlp.fc1, block.mlp.fc1),
            (layer.mlp.fc2, block.mlp.fc2),
        ]
        for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
            part = getattr(layer.attention, name)
            part.weight.copy_(block.attn.qkv.weight.chunk(3)[i])
            part.bias.copy_(block.attn.qkv.bias.chunk(3)[i])
    for target, source in pairs:
        target.load_state_dict(source.state_dict())
    sound = 0.1 * torch.randn(2, 16_000, generator=torch.Generator().manual_seed(1)) + 0.01
    centred = sound - sound.mean(-1, keepdim=True)
    energies = torch.stack([torchaudio.compliance.kaldi.fbank(row[None], window_type="hanning", num_mel_bins=128,
                            sample_frequency=16_000) for row in centred])  # fmt: skip
    padded = torch.nn.functional.pad(energies, (0, 0, 0, 128 - energies.shape[1]))
    features = (padded + 4.2677393) / (2 * 4.5689974)
    torch.testing.assert_close(model.network.features(sound), features, atol=1e-3, rtol=1e-3)
    expected = theirs(features, output_hidden_states=True)
    torch.testing.assert_close(model.class_logits(sound), expected.logits, atol=1e-4, rtol=1e-4)


CLAP_NAMES = (
    ("batch_norm.", "bn0."),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("intermediate.dense", "mlp.fc1"),
    ("attention.output.dense", "attn.proj"),
    ("output.dense", "mlp.fc2"),
    ("attention.self.", "attn."),
)


@torch.no_grad()
def test_htsat_equals_claps_audio_tower() -> None:
    """Small, with random weights, shifted windows and biases that aren't zero."""
    depths, heads = (2, 2, 2, 1), (2, 2, 4, 4)
    model = HtsatModel(HtsatConfig(classes=5, hidden_size=8, depths=depths, heads=heads, drop_path=0.0)).eval()
    theirs = ClapAudioModel(
        ClapAudioConfig(patch_embeds_hidden_size=8, depths=depths, num_attention_heads=heads, hidden_size=64)
    ).eval()
    weights = {}
    for name, value in theirs.audio_encoder.state_dict().items():
        weights[name] = value if "relative_position_index" in name else 0.3 * torch.randn(value.shape)
        if name.endswith("running_var"):
            weights[name] = weights[name].abs() + 0.5
        if name.endswith("num_batches_tracked"):
            weights[name] = value
    theirs.audio_encoder.load_state_dict(weights)
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        for old, new in CLAP_NAMES:
            name = name.replace(old, new)
        if "relative_position_index" not in name:
            renamed[name] = value
    for name in [name for name in renamed if ".query." in name]:
        parts = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        renamed[name.replace("query", "qkv")] = torch.cat(parts)
    renamed |= {name: value for name, value in model.network.state_dict().items() if name.startswith("tscam_conv")}
    model.network.load_state_dict(renamed)
    sound = 0.1 * torch.randn(2, 320_000, generator=torch.Generator().manual_seed(2))
    expected = theirs(model.network.spectrum(sound)[:, None])
    heard = model.network.hear(model.network.features(sound))
    states = expected.last_hidden_state.mean(dim=2)
    torch.testing.assert_close(heard.states[-1], states, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.embedding(sound), expected.pooler_output, atol=1e-4, rtol=1e-4)


def tiny(name: str) -> Any:
    """Every network, narrow, with random statistics in its batch norms, so that nothing is standardised by chance."""
    torch.manual_seed(0)
    if name in SIZES:
        model: Any = MusicTaggerModel(MusicTaggerConfig(network=name, classes=6, width=0.05, back_end=8, hidden=8))
    elif name == "mtt":
        model = TaggingTransformerModel(
            TaggingTransformerConfig(classes=6, hidden_size=16, channels=4, num_hidden_layers=1, num_attention_heads=4)
        )
    elif name == "ast":
        model = SpectrogramTransformerModel(
            SpectrogramTransformerConfig(
                classes=6, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, spectra=128
            )
        )
    elif name == "htsat":
        model = HtsatModel(HtsatConfig(classes=6, hidden_size=8, depths=(1, 2, 1, 1), heads=(2, 2, 2, 2)))
    else:
        model = PannsModel(PannsConfig.at_16k(network=name, classes=6, width=0.05, window_samples=48_000))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


TINY = [*SIZES, "mtt", "ast", "htsat", "Cnn6", "Cnn14", *(f"Cnn14_DecisionLevel{how}" for how in ("Max", "Avg", "Att"))]


@pytest.mark.parametrize("name", TINY)
def test_every_tagger_is_an_encoder_and_a_classifier(name: str, tmp_path: Path) -> None:
    """Padding changes nothing, twice the sound is twice the frames, a folder gives the same again."""
    encoder = ModelEncoder(tiny(name))
    window = encoder.model.config.window_samples
    length = window + window // 3
    noise = 0.1 * torch.randn(2, 2 * window, generator=torch.Generator().manual_seed(3))
    alone = encoder.hidden_states(noise[:1, :length])
    assert alone.shape == (1, encoder.layers, int(encoder.valid_frames(torch.tensor([length]))), encoder.dim)
    padded = noise.clone()
    padded[0, length:] = 7.0
    valid = torch.tensor([length, 2 * window])
    together = encoder.hidden_states(padded, valid)
    assert together.shape[2] == 2 * encoder.model.config.window_frames
    torch.testing.assert_close(together[0, :, : alone.shape[2]], alone[0], atol=1e-4, rtol=1e-4)

    mask = (torch.arange(2 * window) < valid[:, None]).long()
    with torch.no_grad():
        answer = encoder.model.class_logits(padded, mask)
        torch.testing.assert_close(answer[:1], encoder.model.class_logits(noise[:1, :length]), atol=1e-4, rtol=1e-4)
        assert answer.shape == (2, 6) and not torch.allclose(answer[0], answer[1])
        if encoder.model.frame_wise:
            assert encoder.model.frame_logits(padded, mask).shape == (2, together.shape[2], 6)
        else:
            with pytest.raises(ValueError, match="take class_logits"):
                encoder.model.frame_logits(noise)

    write_encoder(encoder.model, tmp_path / name)
    again = load_encoder(tmp_path / name)
    torch.testing.assert_close(again.hidden_states(padded, valid), together, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(random_copy(again).hidden_states(padded, valid), together)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attention", "htsat"])
def test_a_published_tagger_opens_without_this_package(name: str, tmp_path: Path) -> None:
    encoder = ModelEncoder(tiny(name))
    write_encoder(encoder.model, tmp_path / name)
    assert verify(encoder, tmp_path / name) < 1e-5


def test_a_step_of_training_reaches_every_weight() -> None:
    """Every parameter has a gradient (a network that leaves some unused breaks training on several GPUs)."""
    for name in TINY:
        model = tiny(name).train()
        sound = 0.1 * torch.randn(2, model.config.window_samples, generator=torch.Generator().manual_seed(4))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model.window_logits(sound), torch.ones(2, 6))
        loss.backward()
        lacking = [key for key, weight in model.named_parameters() if weight.grad is None]
        assert not lacking, f"{name}: {lacking}"


def test_a_short_clip_is_repeated_where_the_config_says_so() -> None:
    """A clip of 0.4 s in windows of a second is the answer about 0.4 + 0.4 + 0.2 s of it."""
    torch.manual_seed(0)
    model = HtsatModel(
        HtsatConfig(classes=3, hidden_size=4, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window_samples=32_000)
    ).eval()
    clip = 0.1 * torch.randn(2, 12_800)
    whole = torch.cat([clip, clip, clip[:, :6400]], dim=1)
    with torch.no_grad():
        silent = model.class_logits(clip)
        model.config.repeat_short = True
        torch.testing.assert_close(model.class_logits(clip), model.class_logits(whole))
        assert not torch.allclose(model.class_logits(clip), silent)


def test_an_asts_positions_fit_another_window() -> None:
    """Cut from the middle as published (101 columns to 50: the 26th to the 75th), stretched where they are fewer."""
    sizes: dict[str, Any] = {"classes": 3, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1}
    wide, narrow = (
        SpectrogramTransformerModel(SpectrogramTransformerConfig(spectra=spectra, **sizes)) for spectra in (1024, 512)
    )
    name = "network.v.pos_embed"
    state = dict(wide.state_dict())
    numbers = torch.arange(12 * 101).view(12, 101)
    state[name] = torch.cat([torch.tensor([-2, -1]), numbers.flatten()]).float().view(1, -1, 1).repeat(1, 1, 4)
    found = narrow.fitted(state)[name][0, :, 2]
    assert torch.equal(found, torch.cat([torch.tensor([-2, -1]), numbers[:, 25:75].flatten()]).float())
    assert torch.equal(wide.fitted(state)[name], state[name])
    back = wide.fitted(narrow.fitted(state))[name][0, 2:, 0].view(12, 101)
    assert torch.equal(back[:, 0], numbers[:, 25].float()) and (back.diff(dim=1) >= 0).all()


def test_windows_of_a_track_as_published() -> None:
    assert starts(464_000, 464_000, "even", 16) == [0]
    assert starts(480_000, 48_000, "even", 16) == [i * 27_000 for i in range(16)]  # the end is never reached
    assert starts(25, 10, "row", 16) == [0, 10, 15]
    assert starts(20, 10, "row", 16) == [0, 10]
    assert starts(25, 10, "whole", 16) == [0, 10] and starts(25, 10, "first", 16) == [0]


HOW = {  # published ways: windows, number, what is averaged, circular shifts
    "sixteen chunks": ("even", 16, "probabilities", 1), "eight chunks": ("even", 8, "probabilities", 1),
    "marble": ("row", 16, "logits", 1), "segments without the rest": ("whole", 16, "probabilities", 1),
    "cut": ("first", 16, "probabilities", 1), "ten shifts": ("first", 16, "probabilities", 10),
}  # fmt: skip


@pytest.mark.parametrize("how", HOW)
@torch.no_grad()
def test_a_track_is_aggregated_as_each_system_does_it(how: str) -> None:
    """By hand from the network's answers about windows cut here, HTS-AT's shifts by cumulative rolls."""
    windows, count, aggregation, shifts = HOW[how]
    model = tiny("htsat" if shifts > 1 else "musicnn")
    size = 16_000 if shifts == 1 else model.config.window_samples
    model.config.window_samples = size
    model.config.windows, model.config.window_count = windows, count
    model.config.aggregation, model.config.shifts = aggregation, shifts
    sound = 0.1 * torch.randn(1, 3 * size + size // 3, generator=torch.Generator().manual_seed(5))
    if windows == "even":
        hop = (sound.shape[1] - size) // count
        cuts = [sound[:, i * hop : i * hop + size] for i in range(count)]
    else:
        cuts = [sound[:, i * size : (i + 1) * size] for i in range(3 if windows != "first" else 1)]
        cuts += [sound[:, -size:]] if windows == "row" else []
    for turn in range(1, shifts):
        cuts.append(torch.roll(cuts[-1], 100 * turn, 1))
    each = torch.cat([model.network.hear(model.network.features(cut)).logits for cut in cuts])
    expected = each.mean(0) if aggregation == "logits" else each.sigmoid().mean(0).logit()
    assert len(each) == {"row": 4, "whole": 3, "even": count, "first": shifts}[windows]
    torch.testing.assert_close(model.class_logits(sound)[0], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_htsat_is_sigmoid_of_mean_logits_over_time() -> None:
    model = tiny("htsat")
    sound = 0.1 * torch.randn(1, model.config.window_samples, generator=torch.Generator().manual_seed(6))
    steps = model.frame_logits(sound)
    torch.testing.assert_close(model.class_logits(sound).sigmoid(), steps.mean(1).sigmoid(), atol=1e-5, rtol=1e-5)


def test_windows_are_averaged_as_probabilities_or_logits() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.0, -3.0]]])
    torch.testing.assert_close(average(logits, "logits", None), torch.tensor([[1.0, -2.0]]))
    sigmoid = average(logits, "probabilities", "multi_label_classification").sigmoid()
    torch.testing.assert_close(sigmoid, logits.sigmoid().mean(1))
    softmax = average(logits, "probabilities", "single_label_classification").softmax(-1)
    torch.testing.assert_close(softmax, logits.softmax(-1).mean(1))


def test_layers_are_brought_to_one_rate() -> None:
    state = torch.arange(6.0)[None, None]
    torch.testing.assert_close(spread(state, 3), torch.tensor([[[0.5, 2.5, 4.5]]]))
    torch.testing.assert_close(spread(state, 12), state.repeat_interleave(2, -1))
    torch.testing.assert_close(spread(state, 4), torch.nn.functional.adaptive_avg_pool1d(state, 4))


def test_what_is_refused() -> None:
    for make, words in (
        (lambda: MusicTaggerConfig(network="resnet"), "no tagger 'resnet' here: choose one of fcn"),
        (lambda: MusicTaggerConfig(network="fcn", classes=0), "at least one"),
        (lambda: MusicTaggerConfig(network="fcn", aggregation="vote"), "probabilities"),
        (lambda: PannsConfig(network="Cnn14", window_samples=9000), "needs 9920 samples"),
        (lambda: HtsatConfig(window_samples=640_000), "the square takes 1024"),
        (lambda: HtsatConfig(hidden_size=90), "don't divide"),
        (lambda: TaggingTransformerConfig(window_samples=3_000_000), "positions for 512"),
        (lambda: SpectrogramTransformerConfig(window_samples=320_000), "shorten window_samples"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    with pytest.raises(ValueError, match="mix the channels"):
        tiny("fcn")(torch.zeros(1, 2, 16_000))
    with pytest.raises(ValueError, match="longer than the network's 48000"):
        tiny("musicnn").window_logits(torch.zeros(1, 50_000))


@pytest.mark.parametrize(
    "module", ["htsat", "music_taggers", "panns", "spectrogram_transformer", "tagging_transformer"]
)
def test_a_config_keeps_the_problem_that_it_was_given(module: str) -> None:
    """Fine-tuned on classes, a tagger answers about classes after it was written and read, too."""
    file = importlib.import_module(f"groundbass.models.{module}")
    config = next(
        kind for name, kind in vars(file).items() if name.endswith("Config") and kind.__module__ == file.__name__
    )
    assert config().problem_type == "multi_label_classification"
    single = config(problem_type="single_label_classification")
    assert config.from_dict(single.to_dict()).problem_type == single.problem_type == "single_label_classification"
