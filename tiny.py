"""`groundbass tiny`: how `groundbass-tiny`, the encoder that ships with the package, is made, as one command.

Corpus → learning from its exact labels → encoder and heads as they ship → compared with what ships. No recording is
heard, so that every figure on recordings is one on music that the network never met.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

RECIPE = "labelled.synth_tiny"
CORPUS = "--hours 8 --seed 7 --clip-seconds 18 --variety 0.8 --music 0.85 --train 0.9"
TOLERANCE = 0.08
"""By how much accuracies on the corpus's test clips may differ from what ships: a few hundred clips, other rounding."""
WINDOW_SECONDS = 30.0


HEADS: dict[str, dict[str, Any]] = {
    "key": {},
    "chords": {"name": "viterbi", "switch": 4.0},
    "beats": {"name": "tracker", "usual": 0.5, "tightness": 100.0},
}
"""The heads that ship, each with the decoder of what varies over time; others lose to their rivals so far."""


def tiny(
    folder: Annotated[Path, tyro.conf.Positional] = Path("groundbass-tiny"),
    *,
    steps: int | None = None,
    precision: str = "no",
) -> None:
    """Make `groundbass-tiny` anew: corpus, training, encoder and heads; and compare them with what ships.

    Args:
        folder: everything is written here; the same folder goes on where it stopped.
        steps: train this many steps instead of the recipe's.
        precision: of the arithmetic; bf16 is faster where the CPU computes it.
    """
    from .cli import main as groundbass

    corpus, run = folder / "corpus", folder / "run"
    budget = ["--precision", precision, *([] if steps is None else ["--steps", str(steps)])]
    for argv in (
        ["data", "synth", f"{corpus}", *CORPUS.split()],
        ["pretrain", RECIPE, "--data", f"{corpus / 'manifest.parquet'}", "--run", f"{run}", *budget],
    ):
        print(f"$ groundbass {' '.join(argv)}", flush=True)
        try:
            groundbass(argv)
        except SystemExit as stop:
            if stop.code:
                raise
    out = folder / "groundbass_tiny"
    scores = write_tiny(run, corpus / "manifest.parquet", out)
    print(compared(scores))
    print(f"{out}: encoder and {len(HEADS)} heads.")


def write_tiny(run: Path, manifest: Path, out: Path) -> dict[str, float]:
    """Encoder (float16) and heads of a run, as they ship; accuracies of heads on the corpus's test clips."""
    from .data.track import Manifest
    from .models.encoder import load_encoder, weights_hash
    from .models.head_files import HeadFacts, write_head

    clips = Manifest.open(manifest)
    objective = trained(run, clips)
    write_encoder_alone(objective.encoder, out)
    encoder = load_encoder(out)
    scores = accuracies(objective, clips)
    digest = weights_hash(encoder)
    heads = dict(zip((answers.task.label for answers in objective.answers), objective.heads, strict=True))
    for name, decoder in HEADS.items():
        facts = HeadFacts(
            window_seconds=WINDOW_SECONDS, unit="frame" if decoder else "clip", decoder=decoder,
            aggregation="probabilities" if decoder else "moments", encoder="groundbass-tiny", encoder_hash=digest,
            task={"name": name, "question": f"{name} of the embedded corpus"},
            scores={f"corpus_{key}": value for key, value in scores.items() if key == name}, licence="apache-2.0",
        )  # fmt: skip
        write_head(out, name, heads[name], facts)
    return scores


def trained(run: Path, clips: Any) -> Any:
    """The run's objective with its newest weights (their averages, where it keeps them), in evaluation mode."""
    from .pretrain.recipe import find
    from .pretrain.run.checkpoint import newest

    found = newest(run)
    if found is None:
        raise FileNotFoundError(f"The run {run} has no checkpoint yet: train it further.")
    objective = find(RECIPE).objective.build()
    objective.prepare(clips, run)
    weights = found.weights()
    objective.load_state_dict(weights | objective.published_state(weights))
    return objective.eval()


def write_encoder_alone(encoder: Any, out: Path) -> None:
    """config.json and weights in float16, without source: the package's own class opens it."""
    from .models.published import write_encoder

    write_encoder(copy.deepcopy(encoder).half(), out)
    for source in out.glob("*.py"):
        source.unlink()


def heard_clips(clips: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Key and waveform [1, samples] of the corpus's test clips."""
    for row, track in enumerate(clips):
        if track.split == "test":
            yield track.key, torch.from_numpy(clips.read_all(row, 24_000, track.seconds))[None]


@torch.no_grad()
def accuracies(objective: Any, clips: Any) -> dict[str, float]:
    """Accuracy of key, chords (frames), style and instrument; share of tempi within 4 %."""
    from .pretrain.objectives.parts.label_targets import Clips

    right: dict[str, list[float]] = {}
    columns = objective._columns(clips)
    for key, sound in heard_clips(clips):
        states = objective.encoder(sound, output_hidden_states=True).hidden_states
        frames = states[-1].shape[1]
        place = Clips(torch.zeros(1, dtype=torch.float64), frames, objective.encoder.frame_rate, torch.tensor([frames]))
        for head, answers in zip(objective.heads, objective.answers, strict=True):
            label = columns.get(answers.task.columns[0], {}).get(key)
            if label is None or (answers.kind.nominal and not answers.kind.exclusive):
                continue
            known = type(answers)(answers.task, answers.kind, answers.names, {key: _converted(answers, label)})
            target, said = known.targets([key], place)[0], head(states)[0]
            if not answers.kind.nominal:
                hit = [float((said - target).abs().max() < 0.057)]  # log2(1.04)
            else:
                hit = (said.argmax(-1) == target)[target >= 0].float().flatten().tolist()
            right.setdefault(answers.task.label, []).extend(hit)
    return {name: sum(hits) / len(hits) for name, hits in right.items() if hits}


def _converted(answers: Any, label: Any) -> Any:
    from .pretrain.objectives.parts.label_targets import targets_of

    return targets_of(answers.kind).convert([label], answers.task)


def compared(scores: dict[str, float]) -> str:
    """The accuracies beside those of what ships, and whether they agree within TOLERANCE."""
    from .models.loading import shipped

    folder = shipped("groundbass-tiny")
    lines = ["accuracy on the corpus's test clips     here  shipped"]
    for name, value in scores.items():
        theirs = None
        if folder is not None and (folder / f"{name}.json").is_file():
            facts = json.loads((folder / f"{name}.json").read_text())["facts"]
            theirs = facts["scores"].get(f"corpus_{name}")
        said = "" if theirs is None else f"{theirs:9.3f}" + ("" if abs(theirs - value) <= TOLERANCE else "  differs")
        lines.append(f"  {name:36s} {value:6.3f}{said}")
    return "\n".join(lines)
