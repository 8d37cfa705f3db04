"""`groundbass plan RECIPE --gpus N`: does it fit, how long does a step take, what does the run cost, by which formula?

FLOPs and memory of a crop are counted (`count`), the rest is arithmetic (`cost`) that is printed with its numbers.
Utilisation, network and the share of a card that tensors get are assumptions, and printed as such; `--like RUN` takes
the utilisation that a run measured, `--kernels` counts what a step launches and what each kernel needs.

Two published costs, at these counts: EAT base took 4 RTX 3090 for 58 hours, which is 29 TFLOP/s each, 0.41 of their 71
in fp16; an iteration of BEATs base took 16 V100 for 75 hours, 8 TFLOP/s each, half of their 15.7 in float32.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ... import arguments
from ...data.track import Manifest
from ...reading import json_in
from ..recipe import Recipe, find
from ..run.hardware import MEMORY_GB, PEAK_BF16
from ..run.record import asked_of
from ..targets.target import NOISE
from . import roofline
from .count import count
from .formulas import (
    GIB,
    HOST_GBS,
    PARTS,
    STRATEGIES,
    USABLE,
    Case,
    Strategy,
    Term,
    by_utilisation,
    host,
    largest_micro,
    memory,
    time,
    total,
)

UTILISATION = 0.4
MACHINE = 8  # GPUs in a machine, within which NVLink or PCIe connects them
NETWORK_GBS = 25.0  # between machines: a port of 200 Gbit/s per GPU
LINK_GBS = {"B200": 900.0, "H200": 450.0, "H100": 450.0, "A100": 300.0, "L40S": 32.0, "4090": 32.0, "A10": 32.0}
"""GB/s in one direction within a machine, by the data sheets: NVLink, or PCIe 4 × 16 for the last three."""
WATTS = {"B200": 1000, "H200": 700, "H100": 700, "A100": 400, "L40S": 350, "4090": 450, "A10": 150}
"""Highest board power by the data sheets; the SXM form of B200, H200, H100 and A100."""

Plan = dict[str, Any]

USAGE = """usage: groundbass plan RECIPE [--gpus 1] [--gpu H100] [--strategy ddp] [--like RUN | --utilisation 0.4]
                       [--network-gbs 25] [--kernels] [--steps 100000] … [--json]
       groundbass plan --like RUN         the recipe of a run, with the utilisation that it measured
       groundbass plan RECIPE --help      every option, among them every field of that recipe

`groundbass pretrain --list` shows the recipes."""


@dataclass(frozen=True)
class Options:
    """Say what a recipe needs: memory, step time, GPU-hours, and the formulas."""

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """what would be trained"""
    gpus: int = 1
    """how many GPUs share a step"""
    gpu: str = "H100"
    """which card"""
    strategy: Strategy = "ddp"
    """how weights, gradients and optimiser are divided: by the file of this name in pretrain/launch"""
    utilisation: float | None = None
    """share of the card's peak that a step reaches, communication apart; None: 0.4, an assumption, or with --kernels
    what they add up to"""
    from_run: Annotated[Path | None, tyro.conf.arg(name="like", metavar="RUN")] = None
    """a run whose measured utilisation is taken (RUN/timing.jsonl)"""
    network_gbs: float | None = None
    """GB/s that a GPU sends to the next one; None: the link's in a machine of 8 GPUs, else 25"""
    kernels: tyro.conf.FlagCreatePairsOff[bool] = False
    """count a step's kernels and waits too: how long the GPU needs for them and the host to launch them, and what
    bounds the step; as long again as the rest and, of a large recipe, twice the memory"""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """print JSON and nothing else"""


def main(argv: list[str]) -> int:
    """Run the command.

    Raises:
        ValueError: an option or a file is wrong, or a word isn't understood.
        OSError: a file can't be read.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    argv = _of_a_run(argv) if argv[0].startswith("-") else argv
    address = argv[0]
    options = arguments.read(Options, argv[1:], f"groundbass plan {address}", Options(find(address)))
    found = {"recipe": address, **plan(options)}
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        show(found, Console(width=None if sys.stdout.isatty() else 100, highlight=False))
    return 0


def _of_a_run(argv: list[str]) -> list[str]:
    """`--like RUN words` -> the recipe of that run with its overrides, and then the words (which win).

    Raises:
        FileNotFoundError: it is no run.
        ValueError: there is no --like, or the run's recipe was made in Python.
    """
    found = [
        word.removeprefix("--like=") if word.startswith("--like=") else "".join(argv[place + 1 : place + 2])
        for place, word in enumerate(argv)
        if word.partition("=")[0] == "--like"
    ]
    if not found:
        raise ValueError(
            f"What? Name a recipe before {argv[0]}, or a run by --like RUN; `groundbass pretrain --list` shows all."
        )
    record = asked_of(Path(found[-1]) / "recipe.json", "--like takes a run")
    return [record["address"], *record["overrides"], *argv]


def plan(options: Options) -> Plan:
    """Check the options, count the recipe, and put the formulas' results together as JSON-able data.

    Raises:
        ValueError: an option is impossible, or the GPUs can't share the batch.
    """
    recipe, gpus = options.recipe, options.gpus
    gpu = known_card(options.gpu)
    if gpus < 1:
        raise ValueError(f"--gpus is {gpus}, but at least one GPU trains.")
    micro, accumulation = recipe.micro(gpus), recipe.accumulation(gpus)
    utilisation, whence = utilisation_of(options)
    network, link = network_of(options, gpu)
    case = Case(count(recipe), recipe, gpus, gpu)
    compute, launched = by_utilisation(case, utilisation), None
    if options.kernels:
        launched = _launched(recipe, micro, accumulation, gpu)
        if options.utilisation is None and options.from_run is None:  # what is known of a step goes before an estimate
            compute, whence = _by_kernels(launched), f"the time of a kernel is that of its roofline: {_roofline(gpu)}"
    seconds = time(case, options.strategy, compute, network)
    step = seconds.step if launched is None else max(seconds.step, launched["host_seconds"])
    if launched is not None:
        parts = {"GPU": compute.value, "communication": seconds.communication.value, "host": launched["host_seconds"]}
        launched["bound"] = max(parts, key=lambda name: parts[name])
    hours = recipe.steps * step / 3600
    counted = case.count
    return {
        "gpus": gpus,
        "gpu": gpu,
        "strategy": options.strategy,
        "precision": recipe.precision,
        "parameters": {"encoder": counted.encoder, "trained": counted.trained, "frozen_state": counted.frozen},
        "frozen_teacher_bytes": counted.teachers,
        "step": {
            "crops": recipe.batch_size,
            "crops_per_gpu": recipe.rank_batch(gpus),
            "micro_batch": micro,
            "micro_batches": accumulation,
            "audio_seconds": recipe.seconds_per_step,
        },
        "steps": recipe.steps,
        "audio_hours": recipe.total_hours,
        "counted": {
            "flops_per_crop": counted.flops,
            "backward_share": counted.backward_share,
            "float32_activation_bytes_per_crop": counted.float32_activations,
            "kept_share": counted.kept_share,
            "activation_bytes_per_crop": counted.activations,
            "seconds": counted.seconds,
        },
        "usable_bytes": case.usable,
        "memory": {strategy: _memory(case, strategy, micro) for strategy in STRATEGIES},
        "host": _listed(host(case, options.strategy)),
        "time": {
            "terms": _listed([seconds.compute, seconds.communication, seconds.hidden, seconds.transfers]),
            "step_seconds": step,
            "audio_seconds_per_second": recipe.seconds_per_step / step,
            "wall_hours": hours,
            "gpu_hours": hours * gpus,
            "kwh_at_most": hours * gpus * WATTS[gpu] / 1000,
        },
        "kernels": launched,
        "assumptions": [whence, *link, *_assumptions(case, options)],
        "notes": [*counted.notes, *_notes(recipe, accumulation, options.kernels)],
    }


def _launched(recipe: Recipe, micro: int, accumulation: int, gpu: str) -> Plan:
    """Kernels and waits of a micro-batch, and the seconds of a step's: the GPU's by roofline, the host's to launch."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        config, _ = recipe.objective.stand_in(Path(folder), recipe.crops.crop_samples)
        small = replace(recipe, objective=config)
        kernels, waits = roofline.counted(small, micro, Manifest.from_tracks([NOISE], "."), Path(folder) / "run")
        kernels = roofline.fused(kernels) if recipe.compile else kernels
    found = roofline.estimate(small, kernels, waits, micro, gpu)
    return {
        "micro_batches": accumulation,
        "per_micro_batch": found.kernels,
        "waits": waits,
        "device_seconds": accumulation * found.device_seconds,
        "host_seconds": accumulation * found.host_seconds,
        "formula": f"{accumulation} · {found.kernels:,} kernels · {1e6 * roofline.LAUNCH:g} us",
    }


def _by_kernels(launched: Plan) -> Term:
    """The seconds that a step computes, kernel by kernel."""
    each = launched["device_seconds"] / launched["micro_batches"]
    formula = f"{launched['micro_batches']} · {each:.4g} s of {launched['per_micro_batch']:,} kernels by roofline"
    return Term("compute", launched["device_seconds"], formula)


def _roofline(gpu: str) -> str:
    """What it assumes of this card."""
    also = "" if gpu == roofline.CARD else f"; {gpu}: the same shares of its data sheet"
    return f"{roofline.ASSUMED}{also}"


def _memory(case: Case, strategy: Strategy, micro: int) -> Plan:
    terms = memory(case, strategy, micro)
    return {
        "terms": _listed(terms),
        "total_bytes": total(terms),
        "fits": total(terms) <= case.usable,
        "largest_micro_batch": largest_micro(case, strategy),
    }


def _listed(terms: list[Term]) -> list[Plan]:
    return [{"name": term.name, "value": term.value, "formula": term.formula} for term in terms if term.formula]


def known_card(name: str) -> str:
    """The card's name as the tables have it.

    Raises:
        ValueError: there is none of that name; the sentence names the known ones.
    """
    for known in PEAK_BF16:
        if known.lower() == name.lower():
            return known
    raise ValueError(f"--gpu {name} isn't known; known are {', '.join(PEAK_BF16)}.")


def utilisation_of(options: Options) -> tuple[float, str]:
    """Share of the peak, and a sentence that says whence."""
    if options.from_run is not None:
        if options.utilisation is not None:
            raise ValueError("--utilisation and --like both say how busy a GPU is: give one of them.")
        return measured(options.from_run)
    if options.utilisation is None:
        return UTILISATION, (
            f"utilisation {UTILISATION:g} is assumed, whatever bounds the step: --kernels counts kernels and waits "
            "in its place, a run of a few hundred steps measures it (--like RUN)"
        )
    if not 0 < options.utilisation <= 1:
        raise ValueError(f"--utilisation is {options.utilisation:g}, but a share of the peak lies between 0 and 1.")
    return options.utilisation, f"utilisation {options.utilisation:g} was given"


def measured(run: Path) -> tuple[float, str]:
    """The median utilisation of a run's timing.jsonl without its first line, where things warm up.

    Raises:
        ValueError: there is none.
    """
    file = run / "timing.jsonl"
    if not file.is_file():
        raise ValueError(f"There is no {file}: --like takes the folder of a run that has logged steps.")
    lines = [json_in(line, f"A line of {file}") for line in file.read_text(encoding="utf-8").splitlines()]
    values = [line["utilisation"] for line in lines if "utilisation" in line]
    if not values:
        raise ValueError(
            f"{file} says no utilisation: it is measured on a GPU whose peak is known, without --compile and DeepSpeed "
            "(the trial step counts the FLOPs). Give --utilisation."
        )
    found = median(values[1:] or values)
    return found, f"utilisation {found:.3f} is the median that {run} measured, its own communication included"


def network_of(options: Options, gpu: str) -> tuple[float, list[str]]:
    """GB/s from a GPU to the next, and where it comes from."""
    if options.network_gbs is not None:
        if options.network_gbs <= 0:
            raise ValueError(f"--network-gbs is {options.network_gbs:g}, but something has to come through.")
        return options.network_gbs, [f"network {options.network_gbs:g} GB/s per GPU was given"]
    if options.gpus == 1:
        return NETWORK_GBS, []
    if options.gpus <= MACHINE:
        return LINK_GBS[gpu], [f"network {LINK_GBS[gpu]:g} GB/s per GPU and direction: {gpu}'s link in one machine"]
    return NETWORK_GBS, [
        f"network {NETWORK_GBS:g} GB/s per GPU is assumed: machines of {MACHINE} GPUs, a port of 200 Gbit/s for each"
    ]


def _assumptions(case: Case, options: Options) -> list[str]:
    said = [
        f"peak {case.peak / 1e12:g} TFLOP/s: {case.gpu}'s dense {'bf16' if case.half else 'TF32'} by its data sheet",
        f"tensors get {USABLE:.0%} of the card's {MEMORY_GB[case.gpu]} GiB; the rest is CUDA's, NCCL's, fragments",
        f"kWh: GPUs alone, all the time at their highest board power ({WATTS[case.gpu]} W)",
    ]
    if options.strategy.endswith("offload"):
        said.append(f"{HOST_GBS:g} GB/s between GPU and machine; Adam's time on the CPU isn't counted")
    return said


def _notes(recipe: Recipe, accumulation: int, kernels: bool) -> list[str]:
    said = []
    if recipe.precision != "no" and recipe.checkpoint_activations:
        said.append("What 16 bits save was counted without --checkpoint-activations.")
    if recipe.compile:
        counted = (
            "counted in time by what it fuses, not in memory" if kernels else "not counted; it saves time and memory"
        )
        said.append(f"--compile is {counted}.")
    return said + recipe.objective.cautions(accumulation)


def show(found: Plan, console: Console) -> None:
    """Print the plan for people."""
    step, counted, strategy = found["step"], found["counted"], found["strategy"]
    sizes = found["parameters"]
    also = f", {sizes['frozen_state']:,} frozen state" if sizes["frozen_state"] else ""
    several = f" in {step['micro_batches']} micro-batches of {step['micro_batch']}" if step["micro_batches"] > 1 else ""
    share = f"{step['crops_per_gpu']} per GPU{several}"
    flops, activations = counted["flops_per_crop"] / 1e9, counted["activation_bytes_per_crop"] / 1e6
    console.print(
        f"[bold]{found['recipe']}[/bold] on {found['gpus']} × {found['gpu']}, {strategy}, {found['precision']}"
    )
    about = {
        "parameters": f"{sizes['encoder']:,} in the encoder, {sizes['trained']:,} trained{also}",
        "step": f"{step['crops']} crops = {step['audio_seconds']:,.1f} s of audio; {share}",
        "run": f"{found['steps']:,} steps = {found['audio_hours']:,.0f} h of audio",
        "a crop, counted": f"{flops:,.4g} GFLOP forward and backward; {activations:,.1f} MB of activations",
    }
    _rows(console, about)
    console.print(_memory_table(found))
    console.print(verdict(found))
    console.print(f"\n[bold]Memory under {strategy}[/bold]")
    held = {term["name"]: term for term in found["memory"][strategy]["terms"]}
    held |= {f"host: {term['name']}": term for term in found["host"]}
    _rows(console, {name: f"{term['formula']}; {_gib(term['value'])} GiB" for name, term in held.items()})
    console.print("\n[bold]Time[/bold]")
    _rows(console, _times(found))
    if found["kernels"] is not None:
        _rows(console, {"launching": _launching(found["kernels"])})
    for title in ("assumptions", "notes"):
        if found[title]:
            console.print(f"\n[bold]{title.capitalize()}[/bold]")
        for line in found[title]:
            _rows(console, {"·": line})


def _rows(console: Console, rows: dict[str, str]) -> None:
    """Names and values in two columns, long values wrapped."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in rows.items():
        grid.add_row(f"  {name}", escape(value))
    if rows:
        console.print(grid)


def _times(found: Plan) -> dict[str, str]:
    took = found["time"]
    rows = {term["name"]: f"{term['formula']}; {term['value']:.4g} s" for term in took["terms"]}
    parts = {"communication": " + communication − hidden", "transfers": " + transfers"}
    per_gpu = took["audio_seconds_per_second"] / found["gpus"]
    bound = found["kernels"] is not None and found["kernels"]["host_seconds"] == took["step_seconds"]
    said = "launching" if bound else f"compute{''.join(said for name, said in parts.items() if name in rows)}"
    rows["step"] = f"{said} = {took['step_seconds']:.4g} s"
    rows["speed"] = (
        f"{took['audio_seconds_per_second']:,.0f} s of audio per second; {per_gpu:,.0f} to read and decode per GPU"
    )
    rows["run"] = f"{found['steps']:,} · {took['step_seconds']:.4g} s = {_some(took['wall_hours'])} h"
    rows["cost"] = f"{_some(took['wall_hours'])} h · {found['gpus']} = {_some(took['gpu_hours'])} GPU-hours"
    rows["energy"] = f"at most {_some(took['kwh_at_most'])} kWh"
    return rows


def _launching(told: Plan) -> str:
    waits = f"{told['waits']} wait{'s' * (told['waits'] != 1)} in a micro-batch"
    who = told["bound"] if told["bound"] == "communication" else f"the {told['bound']}"
    return f"{told['formula']} = {told['host_seconds']:.4g} s of the host, {waits}; {who} bounds the step"


def _memory_table(found: Plan) -> Table:
    """GiB per GPU of all strategies side by side."""
    table = Table(box=box.SIMPLE_HEAD, title="GiB per GPU", title_justify="left", pad_edge=False)
    table.add_column("")
    chosen = found["strategy"]
    for strategy in STRATEGIES:
        table.add_column(strategy, justify="right", style="bold" if strategy == chosen else None)
    by_name = {s: {term["name"]: term["value"] for term in found["memory"][s]["terms"]} for s in STRATEGIES}
    for name in (part for part in PARTS if any(part in held for held in by_name.values())):
        table.add_row(name, *(_gib(by_name[s][name]) if name in by_name[s] else "" for s in STRATEGIES))
    table.add_section()
    table.add_row("sum", *(_gib(found["memory"][s]["total_bytes"]) for s in STRATEGIES))
    table.add_row("fits", *("yes" if found["memory"][s]["fits"] else "no" for s in STRATEGIES))
    table.add_row("largest micro-batch", *(str(found["memory"][s]["largest_micro_batch"] or "–") for s in STRATEGIES))
    return table


def verdict(found: Plan) -> str:
    """Whether it fits, and the cure, in a sentence."""
    chosen, step = found["memory"][found["strategy"]], found["step"]
    sizes = f"{_gib(chosen['total_bytes'])} of {_gib(found['usable_bytes'])} GiB"
    largest = chosen["largest_micro_batch"]
    if chosen["fits"]:
        more = f"; up to --micro-batch {largest} would" if largest > step["micro_batch"] else ""
        return f"It fits: {sizes}{more}."
    if largest is not None:
        return f"It does not fit, {sizes}: lower --micro-batch to {largest}."
    smaller = {s: found["memory"][s]["largest_micro_batch"] for s in STRATEGIES}
    offers = [f"--strategy {strategy} with --micro-batch {micro}" for strategy, micro in smaller.items() if micro]
    return f"Not even one crop fits, {sizes}: take {[*offers, 'a larger card, or --checkpoint-activations'][0]}."


def _gib(value: float) -> str:
    return f"{value / GIB:,.2f}" if value >= 0.005 * GIB else "<0.01"


def _some(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
