"""Codes of a learned Mel-RVQ, MuQ's or the small one: the default, which needs no download.

Where a recipe names no tokenizer, one is trained first, into the run.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ....data.crops import CropConfig
from ....models.folders import encoder_in
from ....models.quantizers import MelQuantizer, MuqQuantizer
from ...distributed import STOPPED, main_first, ranks
from ...recipe import Optim, Recipe
from ...targets.codes import CodeHead, CodeHeadSettings
from ...targets.target import FrameGrid, Target
from ...train import train
from ..tokenizer import MelRVQConfig, MuqRVQConfig

if TYPE_CHECKING:
    from ....data.track import Manifest


@dataclass(frozen=True)
class RVQSettings:
    """The Mel-RVQ target of a recipe."""

    weight: float = 0.0
    """Weight of the summed cross entropy; 0 turns the target off."""
    path: str | None = None
    """Folder of a trained tokenizer: a published one, or the run of `tokenizer.mel_rvq` or `tokenizer.muq_rvq`. None:
    trained into the run."""
    kind: Literal["small", "muq"] = "small"
    """Which one is trained here: codebooks that follow by averages, or MuQ's."""
    stack: int = 4
    """Log-mel frames per code, where one is trained here."""
    mels: int = 128
    window: int = 2048
    """Samples of the mel spectrum's window."""
    latent: int = 64
    codebooks: int = 8
    codebook_size: int = 1024
    steps: int = 1000
    """Training steps of a tokenizer that is trained here."""
    lr: float = 1e-3
    """Highest learning rate of that training."""
    revive_after: int = 100
    """Steps without a choice after which MuQ's kind moves a codeword onto the data."""
    batch_size: int = 32
    """Five-second crops per step of that training."""
    workers: int = 2
    """Loader processes of that training."""
    seed: int = 0
    """Of that training."""
    head: CodeHeadSettings = field(default_factory=CodeHeadSettings)

    def build(self, grid: FrameGrid, dim: int) -> RVQTarget:
        """Build the target for an encoder's frame grid and width."""
        return RVQTarget(self, grid, dim)


class RVQTarget(Target):
    """Predict the codes of a frozen Mel-RVQ. Before `prepare`, its codebooks are random: codes, but poor ones."""

    def __init__(self, settings: RVQSettings, grid: FrameGrid, dim: int) -> None:
        super().__init__()
        self.name, self.weight, self.settings, self.grid = "rvq", settings.weight, settings, grid
        if settings.path is not None:
            teacher = load_tokenizer(settings.path, grid)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                teacher = self._config().build().encoder.eval().requires_grad_(False)
        self._teacher = (teacher,)  # in a tuple, out of parameters and state_dict
        sizes = (teacher.config.codebook_size,) * teacher.config.codebooks
        self.head = CodeHead(dim, sizes, settings.head, self.name)

    def _config(self) -> MelRVQConfig | MuqRVQConfig:
        names = ("stack", "mels", "window", "latent", "codebooks", "codebook_size")
        shape = {name: getattr(self.settings, name) for name in names}
        if self.settings.kind == "muq":
            shape["revive_after"] = self.settings.revive_after
            return MuqRVQConfig(sample_rate=self.grid.sample_rate, hop=self.grid.hop, **shape)
        return MelRVQConfig(sample_rate=self.grid.sample_rate, hop=self.grid.hop, **shape)

    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Train a tokenizer in RUN/tokenizer, all ranks together, unless it is there already; load it."""
        if self.settings.path is not None:
            return
        folder = run / "tokenizer"
        recipe = self.recipe()
        if not (folder / "done").exists() or encoder_in(folder) is None:
            with main_first():
                if not (folder / "manifest.parquet").exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    manifest.write(folder / "manifest.parquet")
            if train(recipe, folder / "manifest.parquet", folder) < recipe.steps:
                raise SystemExit(STOPPED)  # a SIGTERM came: the same command goes on
        self._teacher = (load_tokenizer(str(folder), self.grid),)
        with main_first():
            (folder / "done").touch()  # only what could be loaded is done

    def recipe(self) -> Recipe:
        """Return the recipe of the tokenizer that is trained where none is named."""
        settings = self.settings
        return Recipe(
            objective=self._config(),
            crops=CropConfig(sample_rate=self.grid.sample_rate, crop_samples=5 * self.grid.sample_rate),
            optim=self._optim(),
            steps=settings.steps,
            batch_size=math.ceil(settings.batch_size / ranks()) * ranks(),
            checkpoint_every=max(100, settings.steps // 4),
            keep_last=1,
            seed=settings.seed,
            workers=settings.workers,
            trackers=(),
        )

    def _optim(self) -> Optim:
        """MuQ's: Adam at one rate; the small one's rises and falls."""
        settings = self.settings
        if settings.kind == "muq":
            return Optim(name="adam", lr=settings.lr)
        return Optim(name="adamw", lr=settings.lr, warmup_steps=min(20, settings.steps // 10), decay="cosine")

    def targets(self, waveform: Tensor, starts: Tensor, keys: list[str]) -> Tensor:
        """Tokenise clean sound: int64 [batch, samples // hop, codebooks]."""
        return self._teacher[0].codes(waveform)

    def place(self, device: torch.device) -> None:
        """Move the teacher."""
        self._teacher[0].to(device)  # type: ignore[arg-type]

    def provenance(self) -> dict[str, Any]:
        """Hash of the teacher's weights, short."""
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in sorted(self._teacher[0].state_dict().items()):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return {"mel_rvq": digest.hexdigest()}


def load_tokenizer(path: str, grid: FrameGrid) -> MelQuantizer | MuqQuantizer:
    """Load a frozen Mel-RVQ from a published folder, or from the run that trained it.

    Raises:
        ValueError: there is none, or it counts time differently than the encoder.

    """
    folder = encoder_in(Path(path))
    if folder is None:
        raise ValueError(
            f"There is no Mel-RVQ tokenizer in {path}: name the folder of one, or leave rvq.path empty to train one."
        )
    kind = MelQuantizer.config_class.get_config_dict(folder)[0].get("model_type")
    found = MuqQuantizer if kind == MuqQuantizer.config_class.model_type else MelQuantizer
    model: MelQuantizer | MuqQuantizer = found.from_pretrained(folder)
    if (model.config.sample_rate, model.config.hop) != (grid.sample_rate, grid.hop):
        raise ValueError(
            f"The tokenizer in {path} has a code every {model.config.hop} samples at {model.config.sample_rate} Hz, "
            f"the encoder a frame every {grid.hop} at {grid.sample_rate} Hz: train one for this encoder."
        )
    return model.eval().requires_grad_(False)
