"""`groundbass quickstart`: the whole story on a machine without data: corpus → pretrain → probe → publish → report.

Each stage is the command that a user would give for their own audio; it is printed before it runs. A stage that is
done is not done again, so an interrupted quickstart goes on where it stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import tyro

RECIPE = "descriptors.music_tiny"
HOURS = 1.5
SEED = 0


def quickstart(
    folder: Annotated[Path, tyro.conf.Positional] = Path("quickstart"),
    *,
    recipe: str = RECIPE,
    steps: int | None = None,
    hours: float = HOURS,
    seed: int = SEED,
    device: str | None = None,
) -> dict[str, Any]:
    """Make the embedded corpus, pretrain on it, probe, publish, and draw report.html.

    Args:
        folder: everything is written here; the same folder goes on where it stopped.
        recipe: what to train; `groundbass pretrain --list` names all.
        steps: train this many steps instead of the recipe's.
        hours: hours of music, notes and playing techniques to synthesise.
        seed: of the corpus; the same seed gives the same bytes.
        device: cpu, cuda; a GPU where there is one. Of several, CUDA_VISIBLE_DEVICES chooses.
    """
    from .cli import main as groundbass

    corpus, run, encoder = folder / "corpus", folder / "run", folder / "encoder"
    manifest = corpus / "manifest.parquet"
    budget = [] if steps is None else ["--steps", str(steps)]
    where = [] if device is None else ["--device", device]
    # the test tracks of what is probed then are heard by nobody before
    pretraining = ["pretrain", recipe, "--data", f"{manifest}", "--splits", "train", "valid", "--run", f"{run}"]
    stages = {
        "1  a corpus to learn from": ["data", "synth", f"{corpus}", "--hours", f"{hours}", "--seed", f"{seed}"],
        "2  pretraining": [*pretraining, *budget, *where],
        "3  what did it learn?": ["probe", f"{run}", f"synth:{corpus}", *where],
        "4  publishing": ["publish", f"{run}", f"{encoder}", "--force"],
        "5  the report": ["report", f"{run}", "--out", f"{folder / 'report.html'}"],
    }
    began, minutes = time.monotonic(), {}
    for title, argv in stages.items():
        print(f"\n── {title}\n$ groundbass {' '.join(argv)}", flush=True)
        try:
            groundbass(argv)
        except SystemExit as stop:
            if stop.code:
                raise
        minutes[title.split(maxsplit=1)[1]] = (time.monotonic() - began) / 60
        print(f"   ({minutes[title.split(maxsplit=1)[1]]:.1f} minutes so far)", flush=True)
    print(f"\nThe page to look at: {folder / 'report.html'}")
    print("The encoder, for anyone with transformers:")
    print(f'  AutoModel.from_pretrained("{encoder}", trust_remote_code=True)')
    return {
        "report": folder / "report.html",
        "encoder": encoder,
        "results": run / "probe" / "results.json",
        "minutes_until": minutes,
    }
