"""Noisy student: where a track has no label, a teacher's answer about the untouched sound stands in for it.

Xie et al. 2020 (arXiv:1911.04252); for music M. Won, K. Choi, X. Serra 2021 (arXiv:2111.13457), where each batch is
half labelled and half not, the student hears both with noise, and the loss is the sum of both halves' means. The
trainer published with that paper calls a loss that it never defines; this is what the paper and the rest of it say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from ....data.draws import sent
from ....data.track import WEIGHT, Manifest
from ....models.classifier_files import open_classifier
from ....models.encoder import ModelEncoder, weights_hash
from ....models.folders import classifier_in
from ....models.transformer import time_mask

UNTRAINED = "untrained"


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier. model: hears [clips, samples] at `sample_rate` Hz; names: of its outputs."""

    model: Any
    names: tuple[str, ...]
    problem: str

    @torch.no_grad()
    def answers(self, waveform: Tensor, valid: Tensor) -> Tensor:
        """Probabilities (numbers: values) [clips, names], float32.

        waveform: [clips, samples]; valid: [clips] samples of sound, on the CPU: nothing waits to know what is padded.
        """
        padded = bool((valid < waveform.shape[1]).any())
        mask = time_mask(sent(valid, waveform.device), waveform.shape[1]).long() if padded else None
        if hasattr(self.model, "class_logits"):
            logits = self.model.class_logits(waveform, mask)
        else:
            logits = self.model(waveform, attention_mask=mask).logits
        return probabilities(logits.float(), self.problem)

    def hash(self) -> str:
        """Of its weights."""
        return weights_hash(ModelEncoder(getattr(self.model, "encoder", self.model)))


def probabilities(logits: Tensor, problem: str) -> Tensor:
    """Sigmoids of tags, softmax of classes, numbers as they are."""
    if problem == "multi_label_classification":
        return logits.sigmoid()
    return logits if problem == "regression" else logits.softmax(-1)


def load_teacher(place: str, sample_rate: int) -> Teacher:
    """The classifier of a run, or a published or imported one, frozen.

    Raises:
        ValueError: none is named, or it hears another rate than the student.
        FileNotFoundError: there is no such folder.
    """
    if not place:
        raise ValueError(
            "A student learns from a teacher: name it with --objective.teacher FOLDER (a run of tagging.*, a published "
            "or an imported classifier)."
        )
    folder = Path(place)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {place}, which should be the teacher.")
    model: Any = open_classifier(classifier_in(folder) or folder).requires_grad_(False)
    if model.sample_rate != sample_rate:
        raise ValueError(
            f"The teacher {place} hears {model.sample_rate} Hz, the student {sample_rate} Hz: both hear the same "
            "crops, so give them one rate."
        )
    names = tuple(str(model.config.id2label[number]) for number in range(len(model.config.id2label)))
    return Teacher(model, names, str(model.config.problem_type))


def check_names(teacher: Teacher, known: Sequence[str]) -> None:
    """Refuse labels that the teacher has no answer for.

    Raises:
        ValueError: the first of them is named.
    """
    strange = [name for name in known if name not in teacher.names]
    if strange:
        shown = ", ".join(teacher.names[:8]) + (", …" if len(teacher.names) > 8 else "")
        raise ValueError(
            f"The labels know {strange[0]!r}, of which the teacher says nothing: it answers {shown}. Take a teacher "
            "that was trained on these labels, or leave that label out."
        )


def with_unlabelled(
    manifest: Manifest, labelled: Manifest, unlabelled: npt.NDArray[np.bool_], share: float
) -> Manifest:
    """The labelled tracks (their weights among themselves stay) and the others, `share` of all crops being theirs.

    unlabelled: rows of `manifest`.
    """
    others = manifest.select(np.flatnonzero(unlabelled))
    given = WEIGHT in labelled.table.column_names
    first = np.asarray(labelled.column(WEIGHT) if given else np.ones(len(labelled)), dtype=np.float64)
    mass = np.asarray(others.column(WEIGHT) if WEIGHT in others.table.column_names else np.ones(len(others)))
    weights = [first * ((1 - share) / first.sum()), mass * (share / mass.sum())]
    tables = [
        part.table.drop_columns([WEIGHT] if WEIGHT in part.table.column_names else []).append_column(
            WEIGHT, pa.array(weight, pa.float64())
        )
        for part, weight in zip((labelled, others), weights, strict=True)
    ]
    return manifest.with_table(pa.concat_tables(tables))


def taught_losses(logits: Tensor, answers: Tensor, problem: str) -> Tensor:
    """How far each clip's answer is from the teacher's, [clips] float32: cross-entropies with soft targets, or squares.

    logits, answers: [clips, names], the latter as `Teacher.answers` gives them.
    """
    logits = logits.float()
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, answers, reduction="none").mean(-1)
    if problem == "regression":
        return (logits - answers).square().mean(-1)
    return F.cross_entropy(logits, answers, reduction="none")
