"""`groundbass publish`: a run as a Hugging Face folder, whose card says what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro


def publish(
    run: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    *,
    force: bool = False,
    license: Annotated[str | None, tyro.conf.arg(metavar="SPDX")] = None,
    results: Path | None = None,
    push: Annotated[str | None, tyro.conf.arg(metavar="ORG/NAME")] = None,
    private: bool = False,
    shard_size: str = "5GB",
    dry_run: bool = False,
) -> dict[str, Any]:
    """Turn a run into a Hugging Face folder with a model card, and prove that it loads without this package.

    A run that learned from labels, and a heads folder, become a classifier.

    Args:
        run: a run folder (or its encoder folder), or a heads folder.
        out: the folder to write.
        force: replace OUT where it already holds a model.
        license: of the weights, for the card; by default apache-2.0, and an imported encoder keeps its own.
        results: folder of probe results for the card; by default RUN/probe, or the folder that holds the heads folder.
        push: also upload it to this name on the Hugging Face Hub; what broke off goes on with the same command.
        private: a repository that is made for it is private.
        shard_size: larger weights are split into files of at most this size.
        dry_run: list the files and their sizes; nothing is written or uploaded.

    Raises:
        FileExistsError: OUT is in use.
        OSError: OUT can't be written.
        ValueError: the run's encoder is none of ours, or the reloaded model answers differently.
    """
    from .models.published import publish as write

    difference = write(
        run, out, force=force, license=license, measured=Measurements(run, results), push=push, private=private,
        shard_size=shard_size, dry_run=dry_run,
    )  # fmt: skip
    return {"out": out, "pushed": None if dry_run else push, "largest_difference": difference}


class Measurements:
    """What was measured of a run, for its card; see `models.card.Measured`."""

    def __init__(self, run: Path, results: Path | None = None) -> None:
        self.run, self.results = run, results

    def probed(self, records: Path, weights: str) -> str:
        """What the probes say of these weights."""
        from .probe.report.card import probed

        return probed(self.results or records / "probe", weights)

    def classified(self, heads: Mapping[str, Mapping[str, Any]], picture: str | None) -> str:
        """What fine-tuning measured, what `groundbass probe` did, and what the heads' own files say."""
        from .probe.report.classifier_card import classified

        return classified(self._measured(heads), picture)

    def draw_confusion(self, heads: Mapping[str, Mapping[str, Any]], picture: Path) -> bool:
        """The confusions of the tasks of classes."""
        from .probe.report.classifier_card import draw_confusion

        return draw_confusion(self._measured(heads), picture)

    def _measured(self, heads: Mapping[str, Mapping[str, Any]]) -> list[Any]:
        from .probe.report.classifier_card import measured
        from .probe.report.finetuned import read

        return measured(read(self.run), heads, self.results or self.run.resolve().parent)
