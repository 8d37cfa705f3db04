"""A recipe is plain data: everything that decides what a run learns. Its address is a file and a function.

`contrastive.clmr_tiny` is the function `clmr_tiny` in `pretrain/objectives/contrastive.py`, `my_recipes.py:tiny` one
in a file of the user's; installed packages offer others (see `plugins`).
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import importlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import plugins
from ..data.crops import CropConfig


@dataclass(frozen=True)
class Optim:
    """The optimiser and its learning rate over time."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    """adam and sgd add weight decay to the gradient, adamw takes it from the weights"""
    lr: float = 3e-4
    """the highest learning rate"""
    betas: tuple[float, float] = (0.9, 0.999)
    """decay of the running mean and of the running mean square"""
    momentum: float = 0.9
    """Nesterov's, of sgd alone"""
    eps: float = 1e-8
    """added to the root of the mean square"""
    amsgrad: bool = False
    """of adam and adamw: divide by the largest mean square so far (Reddi et al. 2018)"""
    weight_decay: float = 0.0
    """per step and learning rate; biases, norms and other vectors are left alone, but for decay_all"""
    decay_all: bool = False
    """vectors (biases, norms) decay too, as with fairseq's Adam"""
    warmup_steps: int = 0
    """steps from 0 to lr, in a straight line"""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """the way from lr at the end of the warm-up to 0 at decay_steps"""
    decay_steps: int | None = None
    """the step where the decay ends; None: the run's last (a longer run then decays later)"""
    factors: tuple[tuple[int, float], ...] = ()
    """(step, factor) in rising order: from each step on the rate is multiplied by its factor, 1 before the first"""
    clip: float | None = None
    """highest norm of the whole gradient; None: not clipped"""
    fused: bool = False
    """torch's fused kernel: faster on a GPU, equal to rounding"""


@dataclass(frozen=True)
class Phase:
    """A later part of a run: the best checkpoint so far by validation is loaded, and the optimiser is a new one."""

    begin: int
    """steps done when it begins; its warm-up and decay count from here to the next phase or the run's end"""
    optim: Optim
    """how the weights move from then on"""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run learns."""

    objective: Any
    """what is learned: a frozen dataclass with build() -> Objective"""
    crops: CropConfig
    """what is heard"""
    optim: Optim = field(default_factory=Optim)
    """how the weights move"""
    phases: tuple[Phase, ...] = ()
    """what changes that later, each time from the best checkpoint so far; none: `optim` holds to the end"""
    steps: int = 1000
    """steps of the optimiser"""
    batch_size: int = 32
    """crops per step, all ranks and micro-batches together"""
    micro_batch: int | None = None
    """crops per forward pass on one rank; None: the rank's whole share"""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """of the arithmetic; weights and optimiser stay float32"""
    tf32: bool = True
    """float32 products and convolutions on a GPU keep 10 bits of the mantissa (TF32); codecs never do"""
    compile: bool = False
    """torch.compile the encoder"""
    checkpoint_activations: bool = False
    """compute the encoder's activations again in the backward pass: less memory in blocks, a third more arithmetic"""
    init: str | None = None
    """begin with the weights of this encoder: a run, a published or an imported folder of the same shape"""
    seed: int = 0
    """of weights, crops, augmentation, masks and dropout"""
    nonfinite: Literal["stop", "skip"] = "stop"
    """when a loss or gradient is no number: stop the run, or skip the step and say so"""
    log_every: int = 10
    """steps between lines of loss.jsonl; the last step has one too"""
    checkpoint_every: int = 1000
    """steps between checkpoints; one is always written at the end"""
    keep_last: int = 2
    """newest checkpoints that are kept"""
    keep_every: int | None = None
    """also keep checkpoints whose step is a multiple of this"""
    probe_every: int = 0
    """steps between probes of the published encoder, in a process of its own; 0: none"""
    probe_tasks: tuple[str, ...] = ()
    """what those probes ask, as `groundbass probe` takes it: synth:PATH, folder:PATH, gtzan_genre, …"""
    workers: int = 2
    """processes that read audio, per rank"""
    bucket_mb: float = 25.0
    """MB of gradients that DDP sends at once: larger ones suit fast networks, smaller ones overlap earlier"""
    prefetch: bool = True
    """copy the next batch to the GPU while this one is trained on; a CPU has nothing to copy"""
    max_bad_share: float = 0.01
    """share of crops that may fail to read before the run stops"""
    trackers: tuple[str, ...] = ("tensorboard",)
    """names of Accelerate's trackers (tensorboard, wandb, …); loss.jsonl is always written"""

    def __post_init__(self) -> None:
        """Refuse what can't train, in a sentence."""
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least 1.")
        if self.workers < 0:
            raise ValueError(f"workers is {self.workers}, but it must be at least 0, where this process reads itself.")
        if not self.bucket_mb > 0:
            raise ValueError(f"bucket_mb is {self.bucket_mb}, but a bucket holds more than nothing: 25 is usual.")
        if self.probe_every < 0 or (self.probe_every and not self.probe_tasks):
            raise ValueError(
                f"probe_every is {self.probe_every}: it needs --probe-tasks, for example synth:CORPUS or gtzan_genre."
            )
        if self.keep_every is not None and self.keep_every < 1:
            raise ValueError(f"keep_every is {self.keep_every}, but it must be at least 1.")
        for optim in (self.optim, *(phase.optim for phase in self.phases)):
            if not (optim.lr >= 0 and math.isfinite(optim.lr)):
                raise ValueError(f"optim.lr is {optim.lr}, but a learning rate is a finite number of at least 0.")
        begins = [0, *(phase.begin for phase in self.phases)]
        if begins != sorted(set(begins)):
            raise ValueError(
                f"The phases begin after {', '.join(map(str, begins[1:]))} steps, but each begins later than the one "
                "before it, and the first after at least one step."
            )

    def phase_at(self, step: int) -> tuple[Optim, int, int]:
        """The optimiser of a step (0 is the first), the step that its phase begins with, and the one that it ends at.

        Phases that begin after the run's end are none of it.
        """
        settings, begin, end = self.optim, 0, self.steps
        for phase in self.phases:
            if phase.begin > step:
                return settings, begin, min(end, phase.begin)
            settings, begin = phase.optim, phase.begin
        return settings, begin, end

    @property
    def crop_seconds(self) -> float:
        """Length of a crop: crop_samples / sample_rate."""
        return self.crops.crop_samples / self.crops.sample_rate

    @property
    def seconds_per_step(self) -> float:
        """Audio that a step hears: batch_size · views · crop_seconds."""
        return self.batch_size * self.crops.views * self.crop_seconds

    @property
    def total_hours(self) -> float:
        """Audio that the run hears, repetitions counted: steps · seconds_per_step / 3600."""
        return self.steps * self.seconds_per_step / 3600

    def rank_batch(self, ranks: int = 1) -> int:
        """Crops per step on one rank: batch_size / ranks."""
        if self.batch_size % ranks:
            raise ValueError(
                f"batch_size is {self.batch_size}, which {ranks} ranks can't share evenly; take a multiple of {ranks}."
            )
        return self.batch_size // ranks

    def micro(self, ranks: int = 1) -> int:
        """Crops per forward pass on one rank: micro_batch, or the rank's whole share."""
        return self.micro_batch or self.rank_batch(ranks)

    def cautions(self, ranks: int) -> list[str]:
        """What the objective says of its settings; nothing where a stranger's config says none."""
        said = getattr(self.objective, "cautions", None)
        return [] if said is None else list(said(self.accumulation(ranks)))

    def accumulation(self, ranks: int = 1) -> int:
        """Micro-batches per step on one rank: batch_size / (ranks · micro_batch)."""
        share = self.rank_batch(ranks)
        micro = self.micro(ranks)
        if micro < 1 or share % micro:
            raise ValueError(
                f"A rank's share of the batch is {share} crops ({self.batch_size} / {ranks} ranks), which is no "
                f"multiple of micro_batch = {micro}; choose a micro_batch that divides {share}."
            )
        return share // micro


FREE = frozenset(
    {"steps", "log_every", "checkpoint_every", "keep_last", "keep_every", "workers", "trackers", "max_bad_share"}
    | {"probe_every", "probe_tasks", "prefetch", "checkpoint_activations", "bucket_mb"}
)
"""What may differ when a run folder goes on: how long, how it is logged, where it runs."""

_OBJECTIVES = Path(__file__).parent / "objectives"


def find(address: str) -> Recipe:
    """The recipe at `address`, e.g. ``contrastive.clmr_tiny``, `my_recipes.py:tiny`, or what a package offers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is none; the sentence names the nearest addresses.
    """
    if (own := plugins.named(address)) is not None:
        return _made(own.load(), address, own.file)
    file, _, name = address.rpartition(".")
    if name not in _recipes_in(file):
        offered = plugins.installed("recipes")
        if address in offered:
            return _made(plugins.load_installed("recipes", address), address)
        known = addresses()
        near = difflib.get_close_matches(address, [*known, *offered], n=3, cutoff=0.3) or list(known)[:3]
        raise ValueError(
            f"There is no recipe {address!r}. Nearest: {', '.join(near)}. `groundbass pretrain --list` shows all."
        )
    module = importlib.import_module(f"{__package__}.objectives.{file}")
    recipe: Recipe = getattr(module, name)()
    return recipe


def _made(function: Any, address: str, file: Path | None = None) -> Recipe:
    """What a recipe function from elsewhere returns.

    Raises:
        ValueError: it is none.
    """
    if not callable(function) or isinstance(function, type):
        raise ValueError(
            f"{address} is no recipe but a {type(function).__name__}: name a function that returns a Recipe."
        )
    recipe = plugins.made(function, address, file)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{address} returned a {type(recipe).__name__}, and a recipe function returns a Recipe.")
    return recipe


@functools.cache
def addresses() -> dict[str, str]:
    """Every recipe's address and the first line of its docstring, read from the sources without importing them."""
    files = sorted(_OBJECTIVES.glob("*.py"))
    return {f"{file.stem}.{name}": said for file in files for name, said in _recipes_in(file.stem).items()}


@functools.cache
def _recipes_in(objective: str) -> dict[str, str]:
    """The recipes in one file of objectives; {} where there is no such file."""
    file = _OBJECTIVES / f"{objective}.py"
    if not objective.isidentifier() or not file.is_file():
        return {}
    nodes = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    return {node.name: (ast.get_docstring(node) or "").partition("\n")[0] for node in nodes if _is_recipe(node)}


def _is_recipe(node: ast.FunctionDef) -> bool:
    takes_nothing = not (node.args.args or node.args.kwonlyargs or node.args.vararg or node.args.kwarg)
    returns_recipe = isinstance(node.returns, ast.Name) and node.returns.id == "Recipe"
    return takes_nothing and returns_recipe and not node.name.startswith("_")


def resolved(value: Any) -> Any:
    """A recipe (or any part) as plain JSON data; a dataclass tells its class under ``kind``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {item.name: resolved(getattr(value, item.name)) for item in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {str(key): resolved(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [resolved(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def filled(old: Any, value: Any) -> Any:
    """A resolved recipe of an earlier version, with the fields that it didn't know where `value` has their default."""
    if isinstance(old, dict) and dataclasses.is_dataclass(value) and not isinstance(value, type):
        known = dict(old)
        for item in dataclasses.fields(value):
            now = getattr(value, item.name)
            made = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
            if item.name in known:
                known[item.name] = filled(known[item.name], now)
            elif now == made:
                known[item.name] = resolved(now)
        return known
    return old


RENAMED = {"Contrastive": "ContrastiveConfig", "Mixture": "NoiseMixture"}
RENAMED |= {"Labelled": "LabelledConfig", "Tagging": "TaggingConfig"}
"""Classes that version 0.1 recorded by another name."""


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two resolved recipes differ, e.g. ``optim.lr: 0.0003 there, 0.001 here``; free fields are left out."""
    if path.rpartition(".")[2] == "kind":
        old = RENAMED.get(old, old)
    if isinstance(old, dict) and isinstance(new, dict):
        names = [name for name in {**old, **new} if path or name not in FREE]
        return [
            line
            for name in names
            for line in differences(old.get(name), new.get(name), f"{path}.{name}" if path else name)
        ]
    return [] if old == new else [f"{path}: {old!r} there, {new!r} here"]
