"""Where training computes: what --device says, as far as Accelerate can be told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from groundbass import cli
from groundbass.data.audio.read import write
from groundbass.models.encoder import usual_device
from groundbass.pretrain import distributed


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "masked.mert_debug", "--data", "music", "--run", "run"],
        ["iterate", "debug", "--data", "music", "--run", "run"],
        ["finetune", "groundbass-tiny", "--data", "folder:music", "--label", "height", "--run", "run"],
        ["efficiency", "groundbass-tiny", "--data", "folder:music", "--label", "height", "--out", "run"],
    ],
)
def test_training_takes_a_device_that_accelerate_can_be_told(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    rows = ["path,split,height"]
    Path("music").mkdir()
    for number in range(8):
        sound = 0.3 * np.sin(2 * np.pi * (200, 1500)[number % 2] * (1 + number / 50) * np.arange(16_000) / 8000)
        write(Path("music") / f"{number}.wav", sound.astype(np.float32), 8000)
        rows.append(f"{number}.wav,{('train', 'train', 'valid', 'test')[number // 2]},{('low', 'high')[number % 2]}")
    Path("music/labels.csv").write_text("\n".join(rows))
    seen: list[tuple[bool, str]] = []

    def trained(*_: object, **__: object) -> None:
        seen.append((distributed.told("CPU"), usual_device()))
        raise ValueError("It would train now.")

    for place in ("pretrain.command.train", "pretrain.iterate.train", "finetuning.finetune_on"):
        monkeypatch.setattr(f"groundbass.{place}", trained)
    monkeypatch.setattr("groundbass.efficiency._probed", trained)
    for device, sentence in (
        ("cpu", "It would train now."),
        ("cuda:1", "--device is cuda:1, but Accelerate places the processes of training: take cpu or cuda"),
        ("gpu", "--device is gpu, but Accelerate places"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*words, "--device", device])
        assert sentence in capsys.readouterr().err
    assert seen == [(True, "cpu")] and not distributed.told("CPU")


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="--device is cuda, but torch sees no GPU here"), distributed.placed("cuda"):
        pass
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(ValueError, match="but the launcher has taken CPUs"), distributed.placed("cuda"):
        pass
    with distributed.placed("cpu"):
        assert distributed.told("CPU")
    assert distributed.told("CPU")  # the launcher's word stays
