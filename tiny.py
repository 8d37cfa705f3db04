"""`groundbass tiny`: how `groundbass-tiny`, the encoder that ships with the package, is made, as one command.

Corpus → learning from its exact labels → encoder and heads as they ship → compared with what ships. No recording is
heard, so that every figure on recordings is one on music that the network never met.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from .reading import json_of

RECIPE = "labelled.synth_tiny"
CORPUS = "--hours 8 --seed 7 --clip-seconds 18 --variety 0.8 --music 0.85 --train 0.9"
TOLERANCE = 0.08
"""By how much accuracies on the corpus's test clips may differ from what ships: a few hundred clips, other rounding."""
WINDOW_SECONDS = 30.0


HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "key": ("key", {}),
    "chords": ("chords", {"name": "viterbi", "switch": 4.0}),
    "beats": ("beats+downbeats", {"name": "tracker", "usual": 0.5, "tightness": 300.0, "parts": 4, "bars": "chords"}),
}
"""The heads that ship, with the labels that they learned and the decoder of what varies over time."""


def tiny(
    folder: Annotated[Path, tyro.conf.Positional] = Path("groundbass-tiny"),
    *,
    steps: int | None = None,
    precision: Literal["no", "bf16", "fp16"] = "no",
    recordings: Path | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Make `groundbass-tiny` anew: corpus, training, encoder and heads; and compare them with what ships.

    With --recordings nothing is made: what ships is scored on them.

    Args:
        folder: everything is written here; the same folder goes on where it stopped.
        steps: train this many steps instead of the recipe's.
        precision: of the arithmetic; bf16 is faster where the CPU computes it.
        recordings: a folder with audio and labels.csv (path, key, name of a .beats file): score what ships beside key
            profiles and librosa's beats (needs librosa), and nothing else.
        device: cpu, cuda; a GPU where there is one: where it is trained. Of several, CUDA_VISIBLE_DEVICES chooses.
    """
    if recordings is not None:
        table = judge(recordings)
        print("\n".join(table))
        return {"recordings": recordings, "table": table}
    from .cli import main as groundbass

    corpus, run = folder / "corpus", folder / "run"
    budget = ["--precision", precision, *([] if steps is None else ["--steps", str(steps)])]
    budget += [] if device is None else ["--device", device]
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
    return {"out": out, "scores": scores}


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
    for name, (label, decoder) in HEADS.items():
        facts = HeadFacts(
            window_seconds=WINDOW_SECONDS, unit="frame" if decoder else "clip", decoder=decoder,
            aggregation="probabilities" if decoder else "moments", encoder="groundbass-tiny", encoder_hash=digest,
            task={"name": name, "question": f"{name} of the embedded corpus"},
            scores={f"corpus_{key}": value for key, value in scores.items() if key == name}, licence="apache-2.0",
        )  # fmt: skip
        write_head(out, name, heads[label], facts)
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
            facts = json_of(folder / f"{name}.json")["facts"]
            theirs = facts["scores"].get(f"corpus_{name}")
        said = "" if theirs is None else f"{theirs:9.3f}" + ("" if abs(theirs - value) <= TOLERANCE else "  differs")
        lines.append(f"  {name:36s} {value:6.3f}{said}")
    return "\n".join(lines)


def judge(folder: Path, classifier: str | Path | None = None) -> list[str]:
    """Score what ships (or another classifier with the heads key and beats) on recordings with truth, beside rivals.

    Rivals: Krumhansl's key profiles on the mean of the encoder's own log-CQT, and librosa's beat tracker.

    Args:
        folder: audio and labels.csv with the columns path, key (may be empty) and beats (name of a .beats file).
        classifier: a heads folder; None: what ships.

    Returns:
        Lines of a Markdown table.
    """
    import csv

    from .probe.apply.classify import load_classifier, shipped

    heads = load_classifier(classifier or shipped())
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for what, pair in _judged(heads, folder, row).items():
            found.setdefault(what, []).append(pair)
    head = "| | recordings | here | simple rival | difference |\n|---|---|---|---|---|"
    return [head, *(_line(what, np.array(pairs)) for what, pairs in found.items())]


def _judged(heads: Any, folder: Path, row: dict[str, str]) -> dict[str, tuple[float, float]]:
    """What is right of one recording, here and of the rival; NaN where there is no rival."""
    import mir_eval
    from librosa.beat import beat_track

    from .data.audio.read import read
    from .data.labels.kinds.beats import beat_scores

    file = folder / row["path"]
    said, model = heads.hear(file), heads.answering.encoder.model
    found: dict[str, tuple[float, float]] = {}
    if row.get("key"):
        sound = torch.from_numpy(read(file, heads.answering.rate))[None]
        key = " ".join(row["key"].split())
        score = mir_eval.key.weighted_score
        found["weighted key score"] = score(key, said["key"].label), score(key, template_key(model.pictures(sound)[0]))
    truth = np.array(
        [[float(word) for word in line.split()] for line in (folder / row["beats"]).read_text().splitlines()]
    )
    beats, positions = said["beats"].times, said["beats"].positions
    wave = read(file, 22_050)
    rival = beat_track(y=wave, sr=22_050, units="time")[1]
    times = truth[:, 0].tolist()
    found["beat F, 70 ms"] = beat_scores(times, beats)[0], beat_scores(times, rival)[0]
    if positions is not None and truth.shape[1] > 1 and (truth[:, 1] == 1).any():
        downbeats = truth[truth[:, 1] == 1, 0].tolist()
        found["downbeat F, 70 ms (rival: every fourth beat)"] = (
            beat_scores(downbeats, beats[positions == 1])[0], beat_scores(downbeats, rival[::4])[0],
        )  # fmt: skip
    found["tempo within 4 %, its double or half"] = _same_tempo(truth[:, 0], beats), _same_tempo(truth[:, 0], rival)
    return found


def template_key(cqt: torch.Tensor) -> str:
    """The key whose profile correlates best with the mean of each pitch class; cqt: [1, frames, bins], log-compressed.

    Roots of magnitudes: of these, magnitudes and their logarithms what hears most keys of recordings.
    """
    from .data.labels.kinds.key import KEYS, MAJOR, MINOR

    strength = torch.expm1(cqt[0]).clamp(min=0).sqrt().mean(0).reshape(-1, 12, 2).sum((0, 2))  # by semitones, from A on
    chroma = np.roll(strength.double().numpy(), -3)  # from C on
    profiles = {"major": np.array(MAJOR), "minor": np.array(MINOR)}
    names = {(name.split()[0], name.split()[1]): name for name in KEYS}
    tonics = [name.split()[0] for name in KEYS if name.endswith("major")]
    scores = {
        names[tonic, mode]: float(np.corrcoef(np.roll(profile, place), chroma)[0, 1])
        for mode, profile in profiles.items() for place, tonic in enumerate(tonics)
    }  # fmt: skip
    return max(scores, key=lambda name: scores[name])


def _same_tempo(truth: Any, beats: Any) -> float:
    """1 where the median distances of beats agree within 4 %, or after doubling or halving; else 0."""
    if len(beats) < 2 or len(truth) < 2:
        return 0.0
    ratio = float(np.median(np.diff(truth)) / np.median(np.diff(beats)))
    return float(any(abs(ratio / factor - 1) <= 0.04 for factor in (0.5, 1.0, 2.0)))


def _line(what: str, pairs: Any) -> str:
    from .probe.report import bootstrap

    counts, groups = bootstrap.draw(list(range(len(pairs))))
    weights = counts / counts.sum(1, keepdims=True)
    cells = []
    for values, lowest in ((pairs[:, 0], 0.0), (pairs[:, 1], 0.0), (pairs[:, 0] - pairs[:, 1], -1.0)):
        found = bootstrap.interval(float(values.mean()), weights @ values, groups)
        cells.append(f"{found.value:.3f} [{max(lowest, found.low):.3f}, {min(1.0, found.high):.3f}]")
    return f"| {what} | {len(pairs)} | {' | '.join(cells)} |"
