"""Clips through chains of `groundbass data degrade` while labels are learned from them, where the labels stay true."""

from __future__ import annotations

from collections.abc import Sequence

from ....data.augment.degradations import DegradationChain, Degrade
from .label_targets import Answers


def damage_for(chains: Sequence[str], share: float | None, sample_rate: int, answers: Sequence[Answers]) -> Degrade:
    """What sends a share of the clips (None: a half) through one of the chains.

    Raises:
        ValueError: no such chain, or one under which what is asked would no longer be so.
        FileNotFoundError: its file isn't there.
    """
    damage = Degrade(sample_rate, chains, 0.5 if share is None else share)
    for chain, asked in zip(damage.chains, chains, strict=True):
        for answer in answers:
            if why := _untrue(chain, answer):
                raise ValueError(
                    f"--objective.degrade {asked} {why}, so the label {answer.task.label!r} would be wrong: leave out "
                    f"{', '.join(_steps(chain, answer))}, or take another chain."
                )
    return damage


def _untrue(chain: DegradationChain, answer: Answers) -> str:
    """What the chain changes that the label is about; nothing where the label stays true."""
    if chain.moves and answer.kind.over_time:
        return "moves what is heard in time"
    if chain.moves and answer.task.tempo:
        return "changes the tempo"
    if chain.shifts and (answer.kind.pitched or answer.task.semitones):
        return "moves the pitch"
    return ""


def _steps(chain: DegradationChain, answer: Answers) -> list[str]:
    timed = answer.kind.over_time or answer.task.tempo
    return [step.NAME for step in chain.steps if (step.MOVES if timed and chain.moves else step.SHIFTS)]
