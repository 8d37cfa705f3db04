"""Published folders: written whole or not at all, loaded by strangers, described truthfully."""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor
from transformers.pipelines import get_supported_tasks

import groundbass
from groundbass.models import published
from groundbass.models.adapters import ModelEncoder
from groundbass.models.beats import BeatsConfig, BeatsModel
from groundbass.models.beats_tokenizer import BeatsQuantizer, BeatsQuantizerConfig
from groundbass.models.card import write_card
from groundbass.models.encoder import load_encoder, weights_hash
from groundbass.models.mert import MertConfig, MertModel
from groundbass.models.published import verify, write_encoder
from groundbass.models.quantizers import MelQuantizer, MelQuantizerConfig
from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel
from groundbass.probe.report.bootstrap import Interval
from groundbass.probe.report.result import Baseline, Counts, EncoderFacts, Result
from groundbass.publishing import publish

RELOAD = Path(groundbass.__file__).parent / "models" / "reload.py"


def samplecnn(seed: int = 0) -> SampleCNNModel:
    """Windows of 162 samples at 1 kHz, with statistics as after training."""
    torch.manual_seed(seed)
    config = SampleCNNConfig(sample_rate=1000, strides=[3, 3, 3, 2], channels=[4, 4, 4, 8, 8, 8], excitation=0.5)
    model = SampleCNNModel(config)
    model.train()(torch.randn(8, 162 * 2))
    return model.eval()


def interval(value: float, half: float = 0.05) -> Interval:
    return Interval(value, value - half, value + half)


UNKNOWN = Interval.from_json(None)


def run_folder(path: Path) -> Path:
    """A run as the trainer and the probe leave it."""
    model = samplecnn()
    write_encoder(model, path / "encoder")
    record = {
        "schema": 1,
        "address": "contrastive.clmr_tiny",
        "overrides": ["--optim.lr", "1e-3"],
        "recipe": {"kind": "Recipe", "steps": 400, "batch_size": 32},
        "manifest": {"path": "/home/somebody/private/m.parquet", "hash": "abc123", "tracks": 80, "hours": 1.25},
        "versions": {"python": "3.11.9", "groundbass": "0.1.0", "torch": "2.11.0"},
        "hardware": "8 × NVIDIA H100",
        "git": "0123abcd",
    }
    (path / "recipe.json").write_text(json.dumps(record))
    lines = [{"step": 10, "loss": 3.5}, {"step": 400, "loss": 1.2345}]
    (path / "loss.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 41')
    (path / "probe").mkdir()
    common: dict[str, Any] = {
        "address": "synth:corpus", "kind": "classes", "encoder": "run", "metric": "accuracy", "unit": "clip",
        "metric_name": "accuracy", "protocol": "linear", "fingerprint": "f", "counts": Counts(60, 20, 37), "layer": 0,
        "about": EncoderFacts("ModelEncoder", "", 1000, 6.0, 8, 1), "versions": {"groundbass": "0.1.0"},
        "layers": (0.6,),
    }  # fmt: skip
    beside = {"constant": interval(0.125, 0.02), "log_mel": interval(0.6), "chroma": interval(0.4)}
    baselines = {name: Baseline(score, UNKNOWN) for name, score in beside.items()}
    baselines["random"] = Baseline(interval(0.5), interval(0.2, 0.1))
    weights = weights_hash(ModelEncoder(model))
    for made in (
        Result(task="synth_style", weights_hash=weights, score=interval(0.7), baselines=baselines, **common),
        Result(task="synth_key", weights_hash="another", score=interval(0.1, 0.02), **common),
    ):
        (path / "probe" / f"{made.task}.json").write_text(json.dumps(made.to_json()))
    return path


def test_a_folder_holds_what_a_stranger_needs(tmp_path: Path) -> None:
    write_encoder(samplecnn(), tmp_path / "new" / "encoder")
    folder = tmp_path / "new" / "encoder"
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocessor_config.json", "samplecnn.py"}
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {"AutoConfig": "samplecnn.SampleCNNConfig", "AutoModel": "samplecnn.SampleCNNModel"}
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    assert (extractor.sampling_rate, extractor.do_normalize) == (1000, False)
    assert os.listdir(tmp_path / "new") == ["encoder"]
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # who may read one may read all


def test_an_older_folder_is_replaced_whole(tmp_path: Path) -> None:
    write_encoder(samplecnn(0), tmp_path / "encoder", card="old")
    write_encoder(samplecnn(1), tmp_path / "encoder")
    assert not (tmp_path / "encoder" / "README.md").exists()
    expected = samplecnn(1).state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in load_file(tmp_path / "encoder" / "model.safetensors").items())
    assert os.listdir(tmp_path) == ["encoder"]


def test_a_writer_that_dies_leaves_the_older_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_encoder(samplecnn(0), tmp_path / "encoder")
    before = (tmp_path / "encoder" / "model.safetensors").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SampleCNNModel, "save_pretrained", full)
        with pytest.raises(OSError, match="No space"):
            write_encoder(samplecnn(1), tmp_path / "encoder")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda self, target: full() if ".part" in self.name else os.rename(self, target))
        with pytest.raises(OSError, match="No space"):
            write_encoder(samplecnn(1), tmp_path / "encoder")
    assert (tmp_path / "encoder" / "model.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["encoder"]


def test_what_a_killed_writer_left_is_put_in_order(tmp_path: Path) -> None:
    write_encoder(samplecnn(0), tmp_path / "encoder")
    before = (tmp_path / "encoder" / "model.safetensors").read_bytes()
    (tmp_path / "encoder").rename(tmp_path / ".encoder.old")  # killed between the two renamings
    (tmp_path / ".encoder.part").mkdir()
    model = samplecnn(1)
    model.save_pretrained = None  # type: ignore[assignment]  # this one fails too
    with pytest.raises(TypeError):
        write_encoder(model, tmp_path / "encoder")
    assert (tmp_path / "encoder" / "model.safetensors").read_bytes() == before
    assert os.listdir(tmp_path) == ["encoder"]


def test_published_reloaded_and_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = run_folder(tmp_path / "run"), tmp_path / "my-encoder"
    publish(run, out)
    assert "differs by at most" in capsys.readouterr().out
    waveform = torch.randn(2, 500)
    assert torch.equal(load_encoder(out).hidden_states(waveform), load_encoder(run).hidden_states(waveform))
    card = (out / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines() if ": " in line)
    assert fields == {"license": "apache-2.0", "library_name": "transformers"}, "feature-extraction is a text pipeline"
    assert "- samplecnn\n" in front and not set(get_supported_tasks()) & set(front.replace("- ", "").split())
    for fact in (
        "groundbass pretrain contrastive.clmr_tiny --optim.lr 1e-3",
        "1.25 hours in 80 tracks",
        "1.234 at step 400",
        "400 steps of 32 crops",
        "torch 2.11.0",
        "0123abcd",
        "1000 Hz",
        "hardware: 8 × NVIDIA H100",
        "![Loss per step](loss.png)",
        "1 layer of frames with 8 dimensions, 6.173 per second",
    ):
        assert fact in body, fact
    rows = {cells[0]: cells for line in body.splitlines() if (cells := [c.strip() for c in line.split("|")[1:-1]])}
    assert rows["synth_style"] == [
        "synth_style",
        "accuracy",
        "0.700 [0.650, 0.750]",
        "0.500 [0.450, 0.550]",
        "0.200 [0.100, 0.300]",
        "0.600 [0.550, 0.650] log-mel",
        "0.125 [0.105, 0.145]",
        "0",
        "37",
    ]
    assert rows["synth_key †"][3] == "–" and "not on the published ones" in body
    assert "better on 1 of 2 tasks, worse on 0" in body
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "somebody" not in card and str(tmp_path) not in card  # paths are nobody's business
    assert "$" not in card


@pytest.mark.slow
def test_the_cards_example_runs(tmp_path: Path) -> None:
    """In the folder above the published one, in a process without groundbass."""
    publish(run_folder(tmp_path / "run"), tmp_path / "my-encoder")
    example = re.search(r"```python\n(.*?)```", (tmp_path / "my-encoder" / "README.md").read_text(), re.DOTALL)
    assert example is not None
    script = "import sys; sys.modules['groundbass'] = None\n" + example.group(1)
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"torch.Size([1, {5000 // 162}, 8])", "1"]


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
# One group of 16 channels: bfloat16 convolutions by AMX answer wrongly for groups of 8 with an even kernel.
CONV = SMALL | {"conv_dim": (8,) * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 1}
TOKENS = SMALL | {"patch_dim": 8, "conv_pos": 8, "conv_pos_groups": 1}


def every_kind() -> dict[str, Any]:
    """One small model of each class and front end."""
    torch.manual_seed(0)
    models = {
        "cnn": samplecnn(),
        "classifier": SampleCNNModel(SampleCNNConfig(sample_rate=1000, strides=[3] * 4, channels=[4] * 6, classes=3)),
        "conv": MertModel(MertConfig(do_normalize=True, **CONV)),
        "mel": MertModel(MertConfig(frontend="mel", positions="rotary", norm_first=True, **SMALL)),
        "patches": BeatsModel(BeatsConfig(classes=3, **TOKENS)),
        "patch_codes": BeatsQuantizer(BeatsQuantizerConfig(encoder=TOKENS, codes=8, code_dim=4)),
        "mel_codes": MelQuantizer(MelQuantizerConfig(mels=16, window=1024, latent=4, codebooks=2, codebook_size=8)),
    }
    return {name: model.eval() for name, model in models.items()}


@pytest.mark.slow
def test_no_room_for_temporary_files_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full $TMPDIR, and none that can be used at all: nothing is published, nothing is left."""

    def no_room(_self: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(OSError, match=r"can't be written \(No space left.*Name another folder .* with TMPDIR"):
        publish(run_folder(tmp_path / "run"), tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match="nowhere"):
        publish(tmp_path / "run", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


@pytest.mark.slow
def test_every_kind_of_card_has_an_example_that_runs(tmp_path: Path) -> None:
    """In one process without groundbass; what it prints is what the encoder answers."""
    script, expected = "import sys; sys.modules['groundbass'] = None\n", []
    for name, model in every_kind().items():
        encoder = ModelEncoder(model)
        write_encoder(model, tmp_path / name, write_card(encoder, None, license="mit", name=name))
        example = re.search(r"```python\n(.*?)```", (tmp_path / name / "README.md").read_text(), re.DOTALL)
        assert example is not None
        script += example.group(1)
        waveform = torch.zeros(1, 5 * encoder.sample_rate)
        tokens = encoder.hidden_states(waveform).shape[2] * getattr(model, "bands", 1)
        expected += [f"torch.Size([1, {tokens}, {encoder.dim}])", str(encoder.layers)]
        if "codes" in name:
            expected.append(f"torch.Size([1, {tokens}{', 2' if name == 'mel_codes' else ''}])")
        if getattr(model.config, "classes", 0):
            expected.append("torch.Size([1, 3])")
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == expected


def test_every_kind_listens_in_bfloat16_too(tmp_path: Path) -> None:
    """Float32 waveform in, float32 states out, near the exact ones; codes of coarse weights may differ."""
    for name, model in every_kind().items():
        write_encoder(model, tmp_path / name)
        exact, coarse = load_encoder(tmp_path / name), load_encoder(tmp_path / name, dtype="bfloat16")
        waveform = 0.1 * torch.randn(2, exact.sample_rate)
        found, wanted = coarse.hidden_states(waveform), exact.hidden_states(waveform)
        assert found.dtype == torch.float32 and found.shape == wanted.shape
        if "codes" not in name:
            assert (found - wanted).norm() < 0.03 * wanted.norm(), name


@pytest.mark.slow
def test_the_clean_process_has_nothing_but_torch_and_transformers(tmp_path: Path) -> None:
    script = f"""
import runpy, sys
clean = runpy.run_path({str(RELOAD)!r})
hidden = clean["hidden_packages"]()
sys.meta_path[:] = [clean["Narrow"](finder, hidden) for finder in sys.meta_path]
import torch, transformers, safetensors, numpy
for name in ("groundbass", "soundfile", "soxr", "torchaudio", "tyro", "sklearn", "pyarrow"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(name + " could be imported")
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_verification_notices_other_weights_and_other_code(tmp_path: Path) -> None:
    encoder = ModelEncoder(samplecnn())
    write_encoder(encoder.model, tmp_path / "encoder")
    assert verify(encoder, tmp_path / "encoder") <= 1e-5
    file = tmp_path / "encoder" / "model.safetensors"
    weights = load_file(file)
    changed = weights | {"sequential.5.1.bias": weights["sequential.5.1.bias"] + 1e-3}
    save_file(changed, file, {"format": "pt"})
    with pytest.raises(ValueError, match="answers differently"):
        verify(encoder, tmp_path / "encoder")
    save_file(weights, file, {"format": "pt"})
    source = tmp_path / "encoder" / "samplecnn.py"
    source.write_text("import groundbass\n" + source.read_text().replace("from __future__ import annotations", ""))
    with pytest.raises(ValueError, match=r"doesn't load with torch and transformers alone: .*groundbass"):
        verify(encoder, tmp_path / "encoder")


def test_a_failed_verification_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = run_folder(tmp_path / "run"), tmp_path / "out"

    def differs(*_: Any) -> float:
        raise ValueError("the published model answers differently")

    monkeypatch.setattr(published, "verify", differs)
    with pytest.raises(ValueError, match="answers differently"):
        publish(run, out)
    assert os.listdir(tmp_path) == ["run"]


def test_a_bare_encoder_has_an_honest_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "verify", lambda *_: 0.0)
    write_encoder(samplecnn(), tmp_path / "bare")
    publish(tmp_path / "bare", tmp_path / "out", license="cc-by-nc-4.0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It hasn't been probed" in card and "No record of the run" in card and "license: cc-by-nc-4.0" in card
    publish(tmp_path / "bare", tmp_path / "probed", results=run_folder(tmp_path / "run") / "probe")
    assert "| synth_style | accuracy | 0.700 [0.650, 0.750] |" in (tmp_path / "probed" / "README.md").read_text()


def test_out_is_never_overwritten_by_accident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "verify", lambda *_: 0.0)
    run, out = run_folder(tmp_path / "run"), tmp_path / "out"
    out.mkdir()
    publish(run, out)  # an empty folder is free
    with pytest.raises(FileExistsError, match="--force"):
        publish(run, out)
    publish(run, out, force=True)
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("meow")
    with pytest.raises(FileExistsError, match="even --force leaves it"):
        publish(run, photos, force=True)
    with pytest.raises(FileExistsError, match="is a file"):
        publish(run, photos / "cat.jpg", force=True)
    with pytest.raises(OSError, match="can't be written"):
        publish(run, photos / "cat.jpg" / "out")
    assert (photos / "cat.jpg").read_text() == "meow"


def test_a_foreign_model_is_not_published_as_ours(tmp_path: Path) -> None:
    config = HubertConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        conv_dim=(4,),
        conv_stride=(5,),
        conv_kernel=(10,),
    )
    HubertModel(config).save_pretrained(tmp_path / "hubert")
    Wav2Vec2FeatureExtractor(sampling_rate=16000).save_pretrained(tmp_path / "hubert")
    with pytest.raises(ValueError, match="HubertModel, which is no model of groundbass"):
        publish(tmp_path / "hubert", tmp_path / "out")


def test_damaged_records_say_which(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    (run / "probe" / "synth_key.json").write_text("{")
    with pytest.raises(ValueError, match=r"synth_key\.json is no JSON"):
        publish(run, tmp_path / "out")


def test_an_upload_that_fails_keeps_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "verify", lambda *_: 0.0)
    monkeypatch.setattr(published.hub, "check_push", lambda *_, **__: "org")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("this machine is offline")

    monkeypatch.setattr(published.hub.HfApi, "repo_info", offline)
    with pytest.raises(OSError, match=r"is complete, but uploading it to org/name failed: .*offline"):
        publish(run_folder(tmp_path / "run"), tmp_path / "out", push="org/name")
    assert 'from_pretrained("org/name"' in (tmp_path / "out" / "README.md").read_text()
