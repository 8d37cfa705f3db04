"""The training loop, from a recipe and a manifest to a run folder, in the order in which things happen.

RUN/recipe.json        what is trained, on what, with which versions
RUN/loss.jsonl         deterministic: the same recipe and data give the same bytes on the same machine, resumed or not
RUN/timing.jsonl       what depends on the machine: seconds per step, seconds of audio per second, memory
RUN/checkpoints/       where the run goes on when it is started again
RUN/classifier/        the same with heads, where something is learned from labels
RUN/valid.jsonl        validations, where there are any; a phase begins with the best one, RUN/encoder ends as it
RUN/encoder/           the newest encoder in published form: what `groundbass.load_encoder(RUN)` finds
RUN/alarms.jsonl       what went wrong slowly, in words (see `watch`)
RUN/probes/            what `--probe-every` measured on the way
RUN/trackers/          TensorBoard, Weights & Biases (offline with WANDB_MODE=offline)
"""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    ProjectConfiguration,
    broadcast_object_list,
)
from torch import Tensor
from transformers.integrations import unset_hf_deepspeed_config

from ..data.batch import Batch
from ..data.crops import Crops
from ..data.draws import draw_seed
from ..data.loader import loader
from ..data.open import open_sound
from ..data.track import Manifest
from ..models.published import holds, write_encoder
from ..models.writing import remove_leftovers
from . import distributed, optim
from .distributed import DEEPSPEED_BUCKET
from .objective import Objective
from .recipe import Recipe
from .run import checkpoint, phases
from .run.hardware import choose_arithmetic
from .run.heard import kept_manifest
from .run.init_weights import start_from
from .run.judge import Judge
from .run.log import Log
from .run.prefetch import on_device
from .run.probing import Prober
from .run.record import check_checkpoint, check_same, check_teachers, describe, write_json
from .run.sharded import refuse_code
from .run.trial_step import trial_step
from .step import Training, train_step


def train(
    recipe: Recipe,
    data: Path | str,
    run: Path,
    *,
    root: str | Path | None = None,
    address: str | None = None,
    overrides: Sequence[str] = (),
) -> int:
    """Train `recipe` on the sound `data` (see `open_sound`) in the folder `run`; a run that is there already goes on.

    root: where the manifest's paths begin, if not where the manifest says.
    address, overrides: how the recipe was named on the command line, for recipe.json.
    Returns the steps done: fewer than recipe.steps where SIGTERM or Ctrl-C came. A run that its validations end early
    counts as done.

    Raises:
        ValueError: the folder holds another run or the recipe doesn't fit the machine.
        TrainingStopped: going on would be a waste.
        OSError: another process trains there.
    """
    distributed.join()
    with distributed.alone(run):
        return _train(recipe, data, run, root, address, overrides)


def _train(
    recipe: Recipe, data: Path | str, run: Path, root: str | Path | None, address: str | None, overrides: Sequence[str]
) -> int:
    # 1. Who trains: this process and those that were launched with it.
    processes = distributed.join()
    say = print if processes.is_main_process else _silent
    recipe.accumulation(processes.num_processes)  # refuses a batch that they can't share

    # 2. What is heard.
    data = kept_manifest(data, run)
    manifest = open_sound(data, root)
    if not len(manifest):
        raise ValueError(
            f"The manifest {data} holds no track; scan a folder with audio: groundbass data scan FOLDER OUT."
        )

    # 3. What must be learned, and from which of the tracks. All ranks draw the same weights.
    torch.manual_seed(draw_seed(recipe.seed, 0x1417))
    objective: Objective = recipe.objective.build()
    objective.seed = recipe.seed
    objective.train()
    heard = objective.heard(manifest)
    crops = Crops(heard, recipe.crops, recipe.seed)
    begun = any((run / "checkpoints").glob("step_*"))
    init = None
    if recipe.init is not None and not begun:
        init = start_from(objective.encoder, recipe.init)
        objective.encoder_loaded()

    # 4. The run folder: a new one, or this run's.
    record = describe(recipe, address, overrides, manifest, data, heard)
    known = check_same(run, record, recipe)
    with distributed.main_first():
        run.mkdir(parents=True, exist_ok=True)
    objective.prepare(manifest, run)
    if begun and known is not None:
        init = known.get("init")
    record |= {"ranks": processes.num_processes, "objective": objective.provenance(), "init": init}
    if known is not None:
        check_teachers(run, known, record)
    if processes.is_main_process and (known is None or known["recipe"] != record["recipe"]):  # new, or longer
        write_json(run / "recipe.json", record)

    # 5. The machine: devices, precision, wrappers.
    accelerator = _accelerator(recipe, run, objective)
    if accelerator.num_processes > 1:
        distributed.synchronise_batch_norm(objective.to(accelerator.device))
    objective.place(accelerator.device)
    if recipe.checkpoint_activations:
        _checkpoint_activations(objective)
    if recipe.compile:
        objective.compile_encoder()
        if not objective.compiled_parts():
            say("--compile does nothing here: what this objective computes is a few large kernels already.")
    _tell_deepspeed(accelerator, recipe)
    model, optimizer = accelerator.prepare(objective, optim.build(recipe.optim, objective))
    training = Training(recipe, accelerator, objective, model, optimizer)
    arithmetic = choose_arithmetic(accelerator.device, recipe.tf32)
    phases.check(training)
    say(_announcement(recipe, address, manifest, crops, training, run) + arithmetic)

    # 6. Where to go on; the published encoder is that of the checkpoint, wherever the run was killed.
    first = _resume(training, run, say)
    if objective.validates_start and not any((run / "checkpoints").glob("step_*")):
        _save(training, run, 0)
    judge = Judge(run, objective, first, recipe, processes.is_main_process, say)
    if processes.is_main_process:  # killed between a checkpoint and the removal of older ones
        checkpoint.prune(run / "checkpoints", first, recipe.keep_last, recipe.keep_every, judge.best_before(first))
    prober = Prober(run, recipe.probe_every if processes.is_main_process else 0, recipe.probe_tasks, say)
    if first >= recipe.steps or judge.finished():
        _publish_best(training, judge, run, say)
        prober.catch_up(first)
        prober.finish(first)
        if judge.finished():
            return recipe.steps
        say(f"The run has done its {recipe.steps} steps already; --steps N makes it longer.")
        return first

    # 7. One step on noise, on a snapshot.
    trial_step(training, manifest)

    # 8. The steps.
    prober.catch_up(first)
    starts = {phase.begin for phase in recipe.phases}
    with (
        _batches(training, crops, first) as (batches, bad),
        Log(training, run, first) as log,
        _asked_to_stop() as asked,
    ):
        for step in range(first, recipe.steps):
            if step in starts:
                with distributed.all_or_none(f"while a phase begins after step {step}"):
                    phases.begin(training, judge, step, say)
            with distributed.all_or_none(f"in step {step + 1}"):
                result = train_step(training, batches, step, asked.is_set())
            log.write(step + 1, result, bad)
            done = step + 1 == recipe.steps or result.stop_asked
            judging = judge.due(step + 1)
            probing = recipe.probe_every > 0 and (step + 1) % recipe.probe_every == 0
            if done or probing or judging or (step + 1) % recipe.checkpoint_every == 0:
                with distributed.all_or_none(f"while step {step + 1} is saved"):
                    log.saved(_save(training, run, step + 1, judge.best))
                prober.after(step + 1)
            if judging:
                with distributed.all_or_none(f"while step {step + 1} is validated"):
                    judge.after(step + 1)
            if done or judge.finished():
                break
    judge.close()
    if step + 1 == recipe.steps or judge.finished():
        prober.finish(step + 1)
        _publish_best(training, judge, run, say)

    # 9. Where things are.
    if judge.finished():
        say(f"Ended after step {step + 1}: {objective.patience} validations brought nothing better.")
        return recipe.steps
    if result.stop_asked and step + 1 < recipe.steps:
        say(f"Stopped as asked after step {step + 1}, with a checkpoint; the same command goes on from there.")
    return step + 1


def _accelerator(recipe: Recipe, run: Path, objective: Objective) -> Accelerator:
    """Accelerate's view of the machine, nothing kept of an earlier run in this process."""
    for name in recipe.trackers:
        if name not in [str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()]:
            raise ValueError(
                f"The tracker {name!r} isn't known or its package isn't installed; drop it from --trackers."
            )
    distributed.forget_strategy()
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        find_unused_parameters=objective.leaves_unused,
        gradient_as_bucket_view=True,  # gradients lie where they are sent from: no second copy
        bucket_cap_mb=recipe.bucket_mb,
        static_graph=_same_graph(recipe, objective),
    )
    sharded = distributed.told("DEEPSPEED") or distributed.told("FSDP")
    if sharded and recipe.precision == "fp16":
        raise ValueError(
            "precision is fp16, which isn't offered under DeepSpeed and FSDP; take bf16, or launch by ddp."
        )
    accelerator = Accelerator(
        # their own mixed precision would cast weights, EMA teachers and codebooks: the step autocasts instead
        mixed_precision="no" if sharded else recipe.precision,
        log_with=list(recipe.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(run), logging_dir=str(run / "trackers")),
        kwargs_handlers=[ddp],
    )
    if accelerator.state.deepspeed_plugin is not None:
        # else transformers shards every model that it loads from now on, frozen teachers among them
        unset_hf_deepspeed_config()
    return accelerator


def _same_graph(recipe: Recipe, objective: Objective) -> bool:
    """Whether every step's backward pass meets the same parameters in the same order: DDP needn't look then.

    Not with several micro-batches, the first of which isn't sent: DDP learns the order from the first backward pass.
    """
    ranks = distributed.ranks()
    return recipe.accumulation(ranks) == 1 and len(recipe.phases) <= 1 and not objective.leaves_unused


def _checkpoint_activations(objective: Objective) -> None:
    if not objective.encoder.supports_gradient_checkpointing:
        raise ValueError(
            f"{type(objective.encoder).__name__} can't compute its activations again; drop --checkpoint-activations "
            "and lower --micro-batch."
        )
    objective.encoder.gradient_checkpointing_enable({"use_reentrant": False})


def _tell_deepspeed(accelerator: Accelerator, recipe: Recipe) -> None:
    """Give DeepSpeed's configuration what Accelerate would have read from its own loader; nothing without DeepSpeed."""
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.micro(accelerator.num_processes)
        plugin.deepspeed_config["gradient_clipping"] = recipe.optim.clip or 0.0
        plugin.deepspeed_config["zero_allow_untested_optimizer"] = True
        zero = plugin.deepspeed_config["zero_optimization"]
        zero |= {"reduce_bucket_size": DEEPSPEED_BUCKET, "allgather_bucket_size": DEEPSPEED_BUCKET}
        if recipe.precision == "bf16":
            # the engine ignores other autocasts; no module is "safe": gradients are summed in float32, as under DDP
            autocast = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
            plugin.deepspeed_config["torch_autocast"] = autocast
        if plugin.zero_stage == 3:  # the published encoder needs whole weights
            zero["stage3_gather_16bit_weights_on_model_save"] = True


@contextmanager
def _batches(training: Training, crops: Crops, first: int) -> Iterator[tuple[Iterator[Batch], dict[str, str]]]:
    """The micro-batches from step `first` on, on the device, and what turned out unreadable: {key: reason}.

    Closed whatever happens, or Python waits for workers.
    """
    recipe, accelerator = training.recipe, training.accelerator
    ranks = accelerator.num_processes
    batches = loader(
        crops, recipe.micro(ranks), rank=accelerator.process_index, ranks=ranks,
        first_step=first * recipe.accumulation(ranks), workers=recipe.workers,
        pin=accelerator.device.type == "cuda", max_bad_share=recipe.max_bad_share,
    )  # fmt: skip
    try:
        yield on_device(batches, accelerator.device, recipe.prefetch, training.objective.ahead), batches.bad
    finally:
        batches.close()


def _resume(training: Training, run: Path, say: Any) -> int:
    """Load the newest whole checkpoint; returns the steps it has done, 0 where there is none."""
    found = [checkpoint.newest(run, say) if training.accelerator.is_main_process else None]
    saved = broadcast_object_list(found)[0]  # one decides for all
    if saved is None:
        return 0
    if (saved.folder / "recipe.json").is_file():
        check_checkpoint(saved.folder, training.recipe)
    if saved.sharded != training.sharded:
        how = "under" if saved.sharded else "without"
        raise ValueError(
            f"{saved.folder} was written {how} DeepSpeed or FSDP: launch as before, or begin a new run from its "
            f"encoder with --init {run / 'encoder'}."
        )
    if training.sharded:
        deepspeed = training.accelerator.distributed_type == DistributedType.DEEPSPEED
        if deepspeed and saved.ranks != distributed.ranks():
            raise ValueError(
                f"{saved.folder} was written by {saved.ranks} ranks under DeepSpeed and can't be loaded by "
                f"{distributed.ranks()}: launch as many as before, or begin a new run from its encoder with "
                f"--init {run / 'encoder'}."
            )
        refuse_code(saved.folder / "sharded")
        training.accelerator.load_state(str(saved.folder / "sharded"))
    else:
        _restore(training, saved)
    with distributed.main_first():
        if training.accelerator.is_main_process:
            _publish(training.objective, saved.weights(), run)
    say(f"Going on from {saved.folder}.")
    return saved.step


def _restore(training: Training, saved: checkpoint.Checkpoint) -> None:
    """Load weights, optimiser and scaler of a checkpoint that isn't sharded."""
    state = saved.optimizer()
    try:
        training.objective.load_state_dict(saved.weights())
        if phases.resume(training, saved.step) and saved.step:  # at step 0 nothing is gathered yet
            optim.restore(training.optimizer, state["optimizer"])
        if training.accelerator.scaler is not None:
            training.accelerator.scaler.load_state_dict(state["scaler"])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise checkpoint.misfit(saved.folder, " ".join(str(error).split())[:300].rstrip(".")) from error


def _publish_best(training: Training, judge: Judge, run: Path, say: Any) -> None:
    """Make what is published that of the best checkpoint, where there were validations."""
    if judge.best is not None and training.accelerator.is_main_process:
        weights = judge.best_weights()
        assert weights is not None
        _publish(training.objective, weights, run)
        what = f"Step {judge.best}" if judge.best else "What training began with"
        say(f"{what} validated best: it is what {run} publishes.")
    training.accelerator.wait_for_everyone()


def _publish(objective: Objective, state: dict[str, Tensor], run: Path) -> None:
    """Make RUN/encoder that of the objective's `state`, whole and on the CPU; it is left alone where it is already."""
    encoder, state = objective.encoder, objective.published_state(state)
    objective.publish_more(state, run)
    weights = {name[8:]: value for name, value in state.items() if name.startswith("encoder.")}
    if holds(run / "encoder", weights, encoder.config):
        remove_leftovers(run / "encoder")
        return
    with torch.random.fork_rng(devices=[]):
        copy = type(encoder)(encoder.config)
    copy.load_state_dict(weights)
    write_encoder(copy, run / "encoder")


def _save(training: Training, run: Path, step: int, best: int | None = None) -> float:
    """Write a checkpoint and the published encoder; every rank takes part, rank 0 writes. Returns the seconds.

    best: the step whose checkpoint must stay.
    """
    began = time.perf_counter()
    accelerator, objective = training.accelerator, training.objective
    part = checkpoint.begin(run, step) if accelerator.is_main_process else run / "checkpoints" / f".step_{step}.part"
    accelerator.wait_for_everyone()
    encoder = objective.encoder
    if training.sharded:
        with checkpoint.complete(part, step):
            accelerator.save_state(str(part / "sharded"))
        state = accelerator.get_state_dict(training.model)
        accelerator.wait_for_everyone()  # each rank has written its files
    else:
        state = objective.state_dict()
    if accelerator.is_main_process:
        with checkpoint.complete(part, step):
            shutil.copy(run / "recipe.json", part)
            checkpoint.write_weights(part, state)
            if not training.sharded:
                scaler = {} if accelerator.scaler is None else accelerator.scaler.state_dict()
                checkpoint.write_optimizer(part, {"optimizer": training.optimizer.state_dict(), "scaler": scaler})
            checkpoint.finish(
                part, step, distributed.ranks(), training.recipe.keep_last, training.recipe.keep_every, best
            )
            if training.sharded or objective.published_state(state) is not state:
                _publish(objective, state, run)
            else:
                write_encoder(encoder, run / "encoder")
                objective.publish_more(state, run)
    accelerator.wait_for_everyone()
    return time.perf_counter() - began


def _announcement(
    recipe: Recipe, address: str | None, manifest: Manifest, crops: Crops, training: Training, run: Path
) -> str:
    """What will be done, in a few lines."""
    ranks = training.accelerator.num_processes
    trained = sum(distributed.numbers(part) for part in training.objective.parameters() if part.requires_grad)
    encoder = sum(map(distributed.numbers, training.objective.encoder.parameters()))
    hours = float(manifest.seconds().sum()) / 3600
    cautions = [f"  note    {said}" for said in recipe.cautions(ranks)]
    return "\n".join(
        [
            f"{address or type(recipe.objective).__name__} -> {run}",
            f"  data    {len(manifest)} tracks, {hours:.2f} h; an epoch is {crops.epoch_length} crops of "
            f"{recipe.crop_seconds:.2f} s with {recipe.crops.views} view(s)",
            f"  run     {recipe.steps} steps of {recipe.batch_size} crops ({recipe.total_hours:.1f} h of audio, "
            f"{recipe.steps * recipe.batch_size / crops.epoch_length:.1f} epochs)",
            f"  model   {encoder:,} parameters in the encoder, {trained:,} trained",
            f"  machine {ranks} process(es) on {training.accelerator.device.type}, {recipe.accumulation(ranks)} "
            f"micro-batch(es) per step, precision {recipe.precision}{_strategy(training)}",
            *cautions,
        ]
    )


def _strategy(training: Training) -> str:
    """How parameters and gradients are divided, where there is more than one rank."""
    plugin = training.accelerator.state.deepspeed_plugin
    if plugin is not None:
        return f", ZeRO-{plugin.zero_stage}"
    kind = training.accelerator.distributed_type
    return ", FSDP2" if kind == DistributedType.FSDP else ", DDP" if training.accelerator.num_processes > 1 else ""


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM or a first Ctrl-C sets: the step in progress and a checkpoint are finished.

    A second Ctrl-C ends the process at once.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if asked.is_set():
                raise KeyboardInterrupt
            print("\nFinishing this step and a checkpoint; Ctrl-C once more stops at once.", file=sys.stderr)
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _silent(*_: object) -> None:
    """Only rank 0 speaks."""
