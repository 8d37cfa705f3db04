"""What goes wrong slowly, in words: alarms on the lines of the logs, so that nobody finds out after a week."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from statistics import median

LEAST_RANK, LEAST_USE, LEAST_SPREAD = 2.0, 0.1, 0.1
MOST_MAJORITY = 0.9
MOST_FIRST, LEAST_FIRST, FIRST_LINES = 0.97, 0.05, 50
MOST_SHARE = 0.8
GRADIENT_JUMP, LOSS_RISE = 20.0, 1.25
MOST_WAIT = {"cuda": 0.02}
MOST_WAIT_ELSEWHERE = 0.05
MOST_MEMORY = 0.95
QUIET_LINES = 100  # between two alarms of one kind


class Watch:
    """Looks at every logged line. device: "cuda", "cpu"."""

    def __init__(self, device: str) -> None:
        self._wait = MOST_WAIT.get(device, MOST_WAIT_ELSEWHERE)
        self._lines = 0
        self._gradients: deque[float] = deque(maxlen=50)
        self._losses: deque[float] = deque(maxlen=20)
        self._best = float("inf")
        self._said: dict[str, int] = {}

    def look(self, line: Mapping[str, float], timing: Mapping[str, float]) -> list[str]:
        """Sentences about this line; one kind of alarm is repeated after a hundred lines at the earliest."""
        self._lines += 1
        found = {**self._about_learning(line), **self._about_machine(timing)}
        fresh = [kind for kind in found if self._lines - self._said.get(kind, -QUIET_LINES) >= QUIET_LINES]
        self._said |= dict.fromkeys(fresh, self._lines)
        return [found[kind] for kind in fresh]

    def _about_learning(self, line: Mapping[str, float]) -> dict[str, str]:
        found = {}
        for name, value in line.items():
            last = name.rpartition("/")[2]
            if last == "effective_rank" and value < LEAST_RANK:
                found[name] = (
                    f"embeddings use {value:.2f} directions ({name}), expected at least {LEAST_RANK:g}: they collapse. "
                    "Lower --optim.lr, enlarge the batch, or raise the temperature."
                )
            elif last.partition("_")[0] == "use" and value < LEAST_USE:
                found[name] = (
                    f"only {value:.1%} of the codes are in use ({name}), expected {LEAST_USE:.0%}: the codebook "
                    "collapses, and targets carry little. Revive codes oftener, or begin with more first crops."
                )
            elif last.partition("_")[0] == "majority" and value > MOST_MAJORITY:
                found[name] = (
                    f"{value:.0%} of the labels are one code ({name}): there is nothing to learn. Look at the audio "
                    "(silence?) and at the targets."
                )
            elif last == "first_place" and value > MOST_FIRST:
                found[name] = (
                    f"{value:.0%} of the crops find their partner at once ({name}): the contrast is too easy, level or "
                    "timbre give a track away. Take out both (--objective.flat), hear less (--objective.kept), or "
                    "compare more tracks (--batch-size)."
                )
            elif last == "first_place" and value < LEAST_FIRST and self._lines > FIRST_LINES:
                found[name] = (
                    f"only {value:.1%} of the crops find their partner ({name}) after {self._lines} lines: the "
                    "contrast teaches nothing yet. Raise --optim.lr or --batch-size, or augment less."
                )
            elif last == "gradient_share" and value > MOST_SHARE:
                found[name] = (
                    f"{value:.0%} of the gradient is one term's ({name}), expected at most {MOST_SHARE:.0%}: the "
                    "others teach next to nothing. Lower its weight."
                )
            elif last == "spread" and value < LEAST_SPREAD:
                found[name] = (
                    f"the teacher says nearly the same everywhere (deviation {value:.3f}, {name}): it collapses. Lower "
                    "--optim.lr or raise ema_start."
                )
        norm, loss = line["gradient_norm"], line["loss"]
        if len(self._gradients) >= 10 and norm > GRADIENT_JUMP * median(self._gradients):
            found["gradient"] = (
                f"the gradient's norm is {norm:.3g}, usually {median(self._gradients):.3g}: a track, or a learning "
                "rate that is too high. --optim.clip bounds what one step can do."
            )
        self._gradients.append(norm)
        self._losses.append(loss)
        if len(self._losses) == self._losses.maxlen:
            level = median(self._losses)
            if self._best > 0 and level > LOSS_RISE * self._best:
                found["loss"] = f"the loss has risen to {level:.4g} from its best {self._best:.4g}: lower --optim.lr."
            self._best = min(self._best, level)
        return found

    def _about_machine(self, timing: Mapping[str, float]) -> dict[str, str]:
        found = {}
        wait, memory = timing.get("data_wait_share", 0.0), timing.get("memory_share", 0.0)
        if self._lines > 2 and wait > self._wait:  # the first lines hold the loader's start
            found["wait"] = (
                f"{wait:.0%} of the time goes into waiting for data, expected at most {self._wait:.0%}: raise "
                "--workers, store the audio at the recipe's rate, or pack it: groundbass data shard."
            )
        if memory > MOST_MEMORY:
            found["memory"] = (
                f"{memory:.0%} of the device's memory is in use: a longer batch will fail. Lower --micro-batch, or "
                "--checkpoint-activations."
            )
        return found
