"""BEATs' pretraining: hear a quarter of a clip's patches, predict the codes of the others.

Chen et al. 2022, arXiv:2212.09058. An acoustic tokenizer gives each 16 × 16 patch of the filter bank a code; a random
projection in iteration 1, one that was distilled from the last encoder afterwards (`tokenizer.beats_*`). The encoder
hears only the patches that aren't hidden, at their true places; a small label predictor sees its output, a learned
embedding where a patch is hidden, and says which code is there. The pretraining was never released: what the paper
leaves open is named in `TokensConfig`.

    groundbass pretrain tokens.beats_iter1_tiny --data MANIFEST --run RUN
    groundbass iterate tiny --data MANIFEST --run RUN          iteration 1, tokenizer, iteration 2, …
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...data.crops import CropConfig
from ...data.draws import draw_seeds, sent, uniform
from ...models.beats import BeatsConfig, BeatsFields, BeatsModel, BeatsTransformer, init_weights
from ...models.beats_file import load_beats_file
from ...models.beats_tokenizer import BeatsQuantizer, BeatsQuantizerConfig, RandomProjectionPatches
from ...models.encoder import ModelEncoder, weights_hash
from ...models.folders import encoder_in
from ...models.transformer import time_mask
from ..clock import section
from ..objective import Loss, Objective, ObjectiveConfig
from ..recipe import Optim, Recipe
from ..targets.codes import LabelCounts
from .parts.masking import taken, true_places

if TYPE_CHECKING:
    from ...data.batch import Batch
    from ...data.track import Manifest

HIDE = 111  # stream of draws
RANDOM = "random"


@dataclass
class BeatsShape(BeatsFields):
    """BEATs's encoder."""

    def config(self) -> BeatsConfig:
        """Make the model's configuration."""
        return BeatsConfig(**dataclasses.asdict(self))


@dataclass(frozen=True)
class TokensConfig(ObjectiveConfig):
    """What is hidden, whose codes are predicted, and by what."""

    encoder: BeatsShape = field(default_factory=BeatsShape)
    tokenizer: str = RANDOM
    """random: the random projection of iteration 1. Else a published tokenizer's folder, the run of
    `tokenizer.beats_*`, or Microsoft's file (.pt)."""
    hidden: float = 0.75
    """Share of a clip's patches that is hidden, one by one, no spans."""
    positions: Literal["true", "compacted"] = "true"
    """true: kept patches keep their places in relative bias and positional convolution; compacted: they move together,
    as in ESPnet's rebuild. What the authors did isn't known."""
    predictor_layers: int = 3
    label_smoothing: float = 0.1
    codes: int = 1024
    code_dim: int = 256
    """Width of the random projection and its codewords."""
    code_seed: int = 0
    """Of the random projection and its codewords."""
    least_entropy: float = 3.0
    """Bits: labels that stay below this stop the run."""
    window: int = 100
    """Steps over which labels are counted."""

    def __post_init__(self) -> None:
        """Refuse what can't be learned."""
        if not 0 < self.hidden < 1:
            raise ValueError(f"hidden is {self.hidden}: the share of hidden patches lies between 0 and 1.")

    def stand_in(self, folder: Path, crop_samples: int) -> tuple[TokensConfig, str]:
        """A tokenizer, where none is named."""
        if self.tokenizer:
            return self, ""
        shape = BeatsQuantizerConfig(encoder=asdict(self.encoder), codes=self.codes, code_dim=self.code_dim)
        BeatsQuantizer(shape).save_pretrained(folder)
        said = "A tokenizer of the encoder's shape with random weights stands in for --objective.tokenizer."
        return replace(self, tokenizer=str(folder)), said

    def build(self) -> Tokens:
        """Build the objective."""
        return Tokens(self)


class LabelPredictor(nn.Module):
    """A few blocks over all patches, then the codes' logits.

    Args:
        config: the encoder's; blocks and relative bias are like its own, without a positional convolution.
        layers: blocks.
        codes: classes.
    """

    def __init__(self, config: BeatsConfig, layers: int, codes: int) -> None:
        super().__init__()
        self.project = nn.Linear(config.hidden_size, config.hidden_size)
        self.hidden_embedding = nn.Parameter(torch.randn(config.hidden_size) * 0.02)
        self.transformer = BeatsTransformer(config, layers, conv_pos=0)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.logits = nn.Linear(config.hidden_size, codes)
        self.apply(init_weights)

    def forward(self, kept: Tensor, positions: Tensor, mask: Tensor, inside: Tensor, whole: bool = False) -> Tensor:
        """What the blocks say of every patch, [batch, tokens, dim]; `logits` follows where it is needed.

        Args:
            kept: [batch, kept, dim] of the encoder.
            positions: int64 [batch, kept], their places.
            mask: bool [batch, kept], False where a row has fewer kept patches than the longest.
            inside: bool [batch, tokens], the patches that are sound.
            whole: all are: attention needs no mask.
        """
        batch, total = inside.shape
        projected = self.project(kept)
        grid = self.hidden_embedding.to(projected.dtype).expand(batch, total + 1, -1)
        where = positions.masked_fill(~mask, total)[..., None].expand_as(projected)  # padding goes behind the end
        grid = grid.scatter(1, where, projected)[:, :total]
        found: Tensor = self.norm(self.transformer(grid, mask=None if whole else inside)[-1])
        return found


class Tokens(Objective):
    """Cross entropy of the hidden patches' codes; its weight is their number."""

    encoder: BeatsModel

    def __init__(self, config: TokensConfig) -> None:
        super().__init__()
        self.config = config
        shape = config.encoder.config()
        # the random projection draws from a seed of its own, before the weights are drawn
        teacher = RandomProjectionPatches(shape.patch_size, config.codes, config.code_dim, config.code_seed)
        # in a tuple, out of parameters and state_dict
        self._teacher: tuple[RandomProjectionPatches | BeatsQuantizer, ...] = (teacher,)
        self.encoder = BeatsModel(shape)
        self.predictor = LabelPredictor(shape, config.predictor_layers, config.codes)
        self.counts = LabelCounts((config.codes,), config.window, config.least_entropy, "tokens")

    def forward(self, batch: Batch, step: int) -> Loss:
        """Hide, hear, predict.

        Raises:
            ValueError: the audio has another sample rate, or crops are shorter than a row of patches.
        """
        check_rate(batch, self.encoder.config.sample_rate)
        waveform, valid = batch.by_view()
        with torch.no_grad(), section("targets"):
            fbank = self.encoder.fbank(waveform)
            whole = bool((batch.on_host().valid == waveform.shape[1]).all())
            labels = self.labels(waveform, fbank, None if whole else valid)
        total, device = labels.shape[1], labels.device
        host_valid, numbers = batch.on_host().by_view()
        sound = time_mask(self.encoder.valid_patches(host_valid), total)
        kept = split(sound, 1 - self.config.hidden, draw_seeds(self.seed, numbers, HIDE), device)
        positions, mask, inside = kept.positions, kept.mask, time_mask(self.encoder.valid_patches(valid), total)
        if self.training:
            self.counts.observe(taken(labels, sent(true_places(sound), device))[:, None])
        tokens = take(self.encoder.embed_patches(fbank), positions)
        heard = self.encode_kept(tokens, positions, None if kept.even else mask, total)
        predicted = self.predictor(heard, positions, mask, inside, bool(sound.all()))
        logits = self.predictor.logits(taken(predicted, kept.hidden)).float()
        wanted = taken(labels, kept.hidden)
        count = torch.full((), len(kept.hidden), device=device)
        loss = functional.cross_entropy(logits, wanted, reduction="sum", label_smoothing=self.config.label_smoothing)
        value = loss / count.clamp(min=1)
        accuracy = (logits.argmax(-1) == wanted).sum() / count.clamp(min=1)
        metrics = {"accuracy": accuracy, "kept": mask.sum() / inside.sum().clamp(min=1)}
        return Loss(value, count, metrics | label_metrics(self.counts))

    def encode_kept(self, tokens: Tensor, positions: Tensor, mask: Tensor | None, total: int) -> Tensor:
        """What the encoder makes of the kept patches [batch, kept, dim] at `positions` of `total`; mask: None: all."""
        places = positions if self.config.positions == "true" else None
        return self.encoder.encode(tokens, places, mask, total)[-1]

    @torch.no_grad()
    def labels(self, waveform: Tensor, fbank: Tensor, valid: Tensor | None) -> Tensor:
        """The tokenizer's codes int64 [batch, tokens] of clean sound; valid: None where all of it is sound."""
        teacher = self._teacher[0]
        if isinstance(teacher, RandomProjectionPatches):
            return teacher.codes(fbank)
        return teacher.codes(waveform, valid)

    def prepare(self, manifest: Manifest, run: Path) -> None:
        """Load the tokenizer that the recipe names.

        Raises:
            ValueError: it names none, or one with other codes or another front end.
        """
        self.prepare_for_counting()

    def prepare_for_counting(self) -> None:
        """Load the tokenizer: nothing is fitted to data."""
        if self.config.tokenizer != RANDOM:
            self._teacher = (_tokenizer(self.config, self.encoder.config),)

    def place(self, device: torch.device) -> None:
        """Move the tokenizer."""
        self._teacher[0].to(device)  # type: ignore[arg-type]

    def after_step(self, step: int) -> None:
        """Count the labels; raise TrainingStopped where they carry no information."""
        self.counts.follow(step)

    def compiled_parts(self) -> list[nn.Module]:
        """The blocks of encoder and predictor, which `encode` calls."""
        return [*self.encoder.encoder.layers, *self.predictor.transformer.layers]

    @property
    def leaves_unused(self) -> bool:
        """False: a dropped block is computed and gets a gradient of 0."""
        return False

    def provenance(self) -> dict[str, Any]:
        """Hash of the tokenizer's weights; the random projection is its seed, in the recipe."""
        teacher = self._teacher[0]
        return (
            {} if isinstance(teacher, RandomProjectionPatches) else {"tokenizer": weights_hash(ModelEncoder(teacher))}
        )


def kept_number(counts: Tensor, share: float) -> Tensor:
    """Patches that are kept of counts int64 [batch]: round(share · patches), at least one, and one is hidden."""
    return torch.minimum((counts * share).round().long().clamp(min=1), (counts - 1).clamp(min=0))


def draw_kept(inside: Tensor, share: float, seeds: Tensor) -> tuple[Tensor, Tensor]:
    """Choose which patches are heard: round(share × sound patches) of each row, at least one where there are two.

    Args:
        inside: bool [batch, tokens], the patches that are sound.
        share: of them that is kept.
        seeds: int64 [batch], one per row.

    Returns:
        Positions int64 [batch, kept] in rising order, and bool [batch, kept], False behind a row's last.
    """
    number = kept_number(inside.sum(1), share)
    total = inside.shape[1]
    order = uniform(seeds, total).masked_fill(~inside, 2.0).argsort(1)
    most = max(1, int(number.max()))
    mask = torch.arange(most, device=inside.device) < number[:, None]
    chosen = order[:, :most].masked_fill(~mask, total).sort(1).values
    return chosen.clamp(max=total - 1), mask


@dataclass(frozen=True)
class Split:
    """What is heard and what is hidden, on the device; `draw_kept` and `hidden_patches` say what each is."""

    positions: Tensor
    mask: Tensor
    hidden: Tensor
    """`true_places` of the hidden patches, int64 [n]."""
    even: bool
    """Whether all rows keep as many, so that `mask` is True everywhere."""


def split(inside: Tensor, share: float, seeds: Tensor, device: torch.device) -> Split:
    """Choose by `draw_kept` on the CPU, where counts are known without waiting; the arguments lie there, too."""
    positions, mask = draw_kept(inside, share, seeds)
    hidden = true_places(hidden_patches(inside, positions, mask))
    return Split(sent(positions, device), sent(mask, device), sent(hidden, device), bool(mask.all()))


def hidden_patches(inside: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """Bool [batch, tokens]: sound patches that aren't among the kept ones of `draw_kept`."""
    batch, total = inside.shape
    kept = torch.zeros(batch, total + 1, dtype=torch.bool, device=inside.device)
    kept.scatter_(1, positions.masked_fill(~mask, total), True)
    return inside & ~kept[:, :total]


def take(tokens: Tensor, positions: Tensor) -> Tensor:
    """Tokens [batch, n, dim] at positions int64 [batch, kept]: [batch, kept, dim]."""
    return tokens.gather(1, positions[..., None].expand(-1, -1, tokens.shape[2]))


def check_rate(batch: Batch, expected: int) -> None:
    """Refuse audio of another rate than the encoder's."""
    if batch.sample_rate != expected:
        raise ValueError(
            f"The crops have {batch.sample_rate} Hz, the encoder expects {expected} Hz: set crops.sample_rate to it."
        )


def label_metrics(counts: LabelCounts) -> dict[str, Tensor | float]:
    """Entropy (bits), perplexity, share of codes in use, share of the most frequent code."""
    found = counts.statistics()
    return {name: found[name] for name in ("entropy", "use", "majority", "perplexity")}


def _tokenizer(config: TokensConfig, shape: BeatsConfig) -> BeatsQuantizer:
    if not config.tokenizer:
        raise ValueError(
            "This recipe predicts the codes of a distilled tokenizer: name it with --objective.tokenizer FOLDER (the "
            "run of `groundbass pretrain tokenizer.beats_… --objective.teacher ENCODER`)."
        )
    teacher = load_quantizer(config.tokenizer)
    if teacher.config.codes != config.codes:
        raise ValueError(
            f"The tokenizer {config.tokenizer} has {teacher.config.codes} codes, the recipe {config.codes}: set "
            f"objective.codes to {teacher.config.codes}."
        )
    check_front_ends(config.tokenizer, teacher.beats.config, shape)
    return teacher


FRONT_END = ("sample_rate", "mel_bins", "frame_length", "frame_shift", "patch_size")


def check_front_ends(name: str, theirs: BeatsConfig, ours: BeatsConfig) -> None:
    """Refuse a teacher that cuts sound into other patches than the encoder.

    Raises:
        ValueError: naming the first field that differs.
    """
    for part in FRONT_END:
        if getattr(theirs, part) != getattr(ours, part):
            raise ValueError(
                f"{name} has {part} = {getattr(theirs, part)}, the recipe's encoder {getattr(ours, part)}: teacher and "
                "encoder have to cut sound into the same patches."
            )


def find_published(name: str) -> Path:
    """The folder itself, or the encoder that a run keeps.

    Raises:
        ValueError: there is neither.
    """
    folder = encoder_in(Path(name))
    if folder is None:
        raise ValueError(f"There is no published model in {name}: give a run, or a folder with config.json.")
    return folder


def load_quantizer(name: str) -> BeatsQuantizer:
    """A frozen tokenizer from a published folder, a run, or Microsoft's file.

    Raises:
        ValueError: it isn't one.
    """
    if Path(name).is_file():
        loaded = load_beats_file(name)
    else:
        folder = find_published(name)
        if BeatsQuantizer.config_class.get_config_dict(folder)[0].get("model_type") != _kind(BeatsQuantizer):
            raise ValueError(f"{name} is no BEATs tokenizer: train one with `groundbass pretrain tokenizer.beats_…`.")
        loaded = BeatsQuantizer.from_pretrained(folder)
    if not isinstance(loaded, BeatsQuantizer):
        raise ValueError(f"{name} is a BEATs encoder, no tokenizer: distil one from it with `tokenizer.beats_…`.")
    return loaded.eval().requires_grad_(False)


def _kind(model: Any) -> str:
    return str(model.config_class.model_type)


def _published_optim(lr: float, warmup: int, eps: float = 1e-8) -> Optim:
    """AdamW as published: betas 0.9 and 0.98, weight decay 0.01, linear decay after the warm-up."""
    return Optim(
        lr=lr, betas=(0.9, 0.98), eps=eps, weight_decay=0.01, warmup_steps=warmup, decay="linear", clip=1.0, fused=True
    )


def beats_iter1() -> Recipe:
    """BEATs base, iteration 1: random-projection codes, 10-second crops, 5,600 s of audio per step.

    groundbass pretrain tokens.beats_iter1 --data MANIFEST --run RUN · published: 16 V100 for about 75 hours, AudioSet,
    400,000 steps, learning rate 5e-4
    """
    return Recipe(
        objective=TokensConfig(),
        crops=CropConfig(sample_rate=16_000, crop_samples=160_000),
        optim=_published_optim(lr=5e-4, warmup=32_000),
        steps=400_000,
        batch_size=560,
        micro_batch=35,
        precision="bf16",
        log_every=50,
        checkpoint_every=5000,
        workers=8,
    )


def beats_iter2() -> Recipe:
    """BEATs base, iteration 2 and later: the same with codes of a distilled tokenizer (--objective.tokenizer FOLDER).

    groundbass pretrain tokens.beats_iter2 --objective.tokenizer FOLDER --data MANIFEST --run RUN · as iteration 1
    """
    return _with_tokenizer(beats_iter1())


def beats_iter1_small() -> Recipe:
    """BEATs with 8 blocks of 512, iteration 1: one GPU for hours.

    groundbass pretrain tokens.beats_iter1_small --data MANIFEST --run RUN · one GPU · hours
    """
    shape = BeatsShape(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=2048)
    return dataclasses.replace(
        beats_iter1(),
        objective=TokensConfig(encoder=shape),
        optim=_published_optim(lr=5e-4, warmup=2000),
        steps=50_000,
        batch_size=128,
        micro_batch=128,
    )


def beats_iter2_small() -> Recipe:
    """`beats_iter1_small` with codes of a distilled tokenizer (--objective.tokenizer FOLDER).

    groundbass pretrain tokens.beats_iter2_small --objective.tokenizer FOLDER --data MANIFEST --run RUN · one GPU
    """
    return _with_tokenizer(beats_iter1_small())


TINY = BeatsShape(
    hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768, patch_dim=192,
    hidden_dropout=0.0, attention_dropout=0.0, conv_pos=64,
)  # fmt: skip


def beats_iter1_tiny() -> Recipe:
    """BEATs with 4 blocks of 192, iteration 1, 256 codes, 5-second crops: two CPU cores for minutes.

    groundbass pretrain tokens.beats_iter1_tiny --data MANIFEST --run RUN · 2 CPU cores · minutes
    """
    return Recipe(
        objective=TokensConfig(encoder=TINY, codes=256, predictor_layers=2, label_smoothing=0.0, least_entropy=2.0),
        crops=CropConfig(sample_rate=16_000, crop_samples=80_000),
        optim=Optim(lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01, warmup_steps=40, decay="cosine", clip=1.0),
        steps=600,
        batch_size=16,
        log_every=10,
        checkpoint_every=200,
    )


def beats_iter2_tiny() -> Recipe:
    """`beats_iter1_tiny` with codes of a distilled tokenizer (--objective.tokenizer FOLDER).

    groundbass pretrain tokens.beats_iter2_tiny --objective.tokenizer FOLDER --data MANIFEST --run RUN · 2 CPU cores
    """
    return _with_tokenizer(beats_iter1_tiny())


DEBUG = BeatsShape(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, patch_dim=16,
    hidden_dropout=0.0, attention_dropout=0.0, conv_pos=8, conv_pos_groups=4, num_buckets=32, max_distance=64,
)  # fmt: skip


def beats_iter1_debug() -> Recipe:
    """BEATs in miniature: two blocks of 32, 32 random-projection codes.

    groundbass pretrain tokens.beats_iter1_debug --data MANIFEST --run RUN · any CPU · seconds
    """
    return Recipe(
        objective=TokensConfig(encoder=DEBUG, codes=32, code_dim=16, predictor_layers=1, least_entropy=1.0),
        crops=CropConfig(sample_rate=16_000, crop_samples=20_000),
        optim=Optim(lr=1e-3, warmup_steps=2, clip=1.0),
        steps=10,
        batch_size=4,
        log_every=1,
        checkpoint_every=5,
        workers=0,
        trackers=(),
    )


def beats_iter2_debug() -> Recipe:
    """`beats_iter1_debug` with codes of a distilled tokenizer (--objective.tokenizer FOLDER).

    groundbass pretrain tokens.beats_iter2_debug --objective.tokenizer FOLDER --data MANIFEST --run RUN · any CPU
    """
    return _with_tokenizer(beats_iter1_debug())


def _with_tokenizer(recipe: Recipe) -> Recipe:
    """The same recipe, which asks for a tokenizer."""
    return dataclasses.replace(recipe, objective=dataclasses.replace(recipe.objective, tokenizer=""))
