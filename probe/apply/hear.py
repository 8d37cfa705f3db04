"""HEAR's interface (Turian et al. 2022, HEAR: holistic evaluation of audio representations) to any encoder.

`groundbass bridge hear ENCODER --out adapter.py` writes the module that its tools import: `load_model`,
`get_scene_embeddings`, `get_timestamp_embeddings`, as https://hearbenchmark.com/hear-api.html says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from ...data.writing import write_text
from ...models.encoder import Encoder, load_encoder
from .embedding import chosen_layers

RATES = (16_000, 22_050, 44_100, 48_000)  # Hz that HEAR's tools offer
LONGEST = 30.0  # s that are heard at once
SHORTEST = 1.0  # s, to which shorter sounds are padded
Layers = tuple[int, ...] | Literal["all"]


class HearModel(nn.Module):
    """An encoder with the attributes that HEAR asks for.

    sample_rate: Hz of what it is given, one of `RATES`: the encoder's own, or the next higher one, resampled inside.
    scene_embedding_size, timestamp_embedding_size: width of the chosen layers together.
    """

    def __init__(self, encoder: Encoder, layers: Layers = (-1,)) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = chosen_layers(encoder, layers)
        if isinstance(network := getattr(encoder, "model", encoder), nn.Module):
            self.network = network  # so that `to(device)` moves it
        self.sample_rate = next((rate for rate in RATES if rate >= encoder.sample_rate), RATES[-1])
        self.scene_embedding_size = self.timestamp_embedding_size = encoder.dim * len(self.layers)

    @classmethod
    def load(cls, name: str, layers: Layers = (-1,)) -> HearModel:
        """The encoder of this name, in evaluation mode."""
        return cls(load_encoder(name), layers).eval()

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """[sounds, samples] at `sample_rate` -> [sounds, frames, width] float32, what lies in each sound alone."""
        if audio.ndim != 2:
            raise ValueError(f"HEAR gives sounds as [sounds, samples], and this is {list(audio.shape)}.")
        rate, length = self.sample_rate, audio.shape[1]
        parts = []
        for start in range(0, max(length, 1), round(LONGEST * rate)):
            piece = audio[:, start : start + round(LONGEST * rate)]
            samples = piece.shape[1]
            piece = nn.functional.pad(piece, (0, max(0, round(SHORTEST * rate) - samples)))
            valid = torch.full((len(piece),), samples, device=piece.device)
            states = self.encoder.hidden_states(piece, valid, rate)[:, list(self.layers)]
            heard = max(1, min(states.shape[2], round(samples / rate * self.encoder.frame_rate)))
            parts.append(states[:, :, :heard].permute(0, 2, 1, 3).flatten(2))
        return torch.cat(parts, 1).float()


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Vectors over time.

    Args:
        audio: [sounds, samples] in [-1, 1] at model.sample_rate.
        model: as `load_model` gave it.

    Returns:
        [sounds, frames, width] float32, and the middle of each frame in ms, [sounds, frames].
    """
    states = model(audio)
    middles = (torch.arange(states.shape[1], device=states.device) + 0.5) * (1000.0 / model.encoder.frame_rate)
    return states, middles.expand(len(states), -1).contiguous()


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """[sounds, samples] -> [sounds, width]: the mean over time."""
    return model(audio).mean(1)


ADAPTER = '''\
"""HEAR's interface to {encoder}; `python -m heareval.embeddings.runner {module} --tasks-dir tasks`."""

from groundbass.probe.apply.hear import HearModel, get_scene_embeddings, get_timestamp_embeddings

__all__ = ["get_scene_embeddings", "get_timestamp_embeddings", "load_model"]


def load_model(model_file_path: str = "") -> HearModel:
    """The encoder; model_file_path names another one."""
    return HearModel.load(model_file_path or {encoder!r}, layers={layers})
'''


def bridge(
    encoder: tyro.conf.Positional[str],
    *,
    out: Path = Path("adapter.py"),
    layers: Layers = (-1,),
    force: bool = False,
) -> dict[str, Any]:
    """Write a Python module with HEAR's interface to an encoder, for its tools.

    It holds load_model, get_scene_embeddings and get_timestamp_embeddings.

    Args:
        encoder: a run, a published folder, a Hub name, any Hugging Face audio model, or file.py:Class.
        out: the module to write.
        layers: which layers' frames are given, side by side, 0 being the front end; negative numbers count from the
            end; all.
        force: replace OUT where it is there.

    Raises:
        FileExistsError: OUT is there.
        ValueError: OUT is no Python file, or no such layer.
    """
    if out.suffix != ".py" or not out.stem.isidentifier():
        raise ValueError(f"--out {out}: a module, so its name is one word and ends in .py.")
    if out.exists() and not force:
        raise FileExistsError(f"{out} is there already; choose another --out, or --force to replace it.")
    model = HearModel.load(encoder, layers)
    name = str(Path(encoder).resolve()) if Path(encoder).exists() else encoder
    write_text(out, ADAPTER.format(encoder=name, module=out.stem, layers=model.layers))
    width = model.scene_embedding_size
    print(f"{out}: load_model() hears {model.sample_rate} Hz and gives {width} numbers per scene and per frame.")
    return {"out": out, "sample_rate": model.sample_rate, "numbers": width}
