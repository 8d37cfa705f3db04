"""What `import groundbass` offers: a function for every step, from recordings to a published model.

The commands take the same ways; here their results are objects, which a notebook draws, and what commands print goes to
the logger "groundbass" (`logging.basicConfig(level="INFO")` shows it). Bars are switched off by GROUNDBASS_QUIET=1.
Everything heavy is imported on first use.
"""

from __future__ import annotations

import contextlib
import html
import io
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .reading import json_lines

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from .data.collections.overlap import Report as Overlap
    from .data.collections.scan import Skipped
    from .data.collections.verify import Findings
    from .data.track import Manifest
    from .models.encoder import Encoder
    from .pretrain.recipe import Recipe
    from .probe.apply.classify import Classifier
    from .probe.apply.embedding import LoadedEncoder
    from .probe.apply.similar import Hit
    from .probe.report.finetuned import Compared
    from .probe.report.result import Result
    from .probe.report.table import Table

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # this system's, which can be inherited from in Python 3.11 too

Paths = str | Path | Sequence[str | Path]
logger = logging.getLogger("groundbass")


class _Spoken(io.TextIOBase):
    """Lines that are printed, to the logger."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if line.strip():
                logger.info("%s", line.rstrip())
        return len(text)


@contextlib.contextmanager
def _spoken() -> Iterator[None]:
    """What is printed in here goes to the logger; of the whole process, as `contextlib.redirect_stdout` has it."""
    with contextlib.redirect_stdout(_Spoken()) as spoken:
        yield
        spoken.write("\n")


# ---- recordings


@dataclass(frozen=True)
class Scan:
    """A folder's recordings and what was left out, with reasons."""

    manifest: Manifest
    skipped: list[Skipped]


def scan(folder: str | Path, out: str | Path | None = None, *, workers: int | None = None) -> Scan:
    """Decode every recording below a folder and list those that can be used.

    Args:
        folder: audio at any depth, on a disk or behind a URL; a labels.csv in it (column `path`) gives labels.
        out: also write the manifest here (.parquet) and beside it what was left out (.skipped.csv), as `groundbass data
            scan` does.
        workers: processes that decode; one per core by default.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no sound that can be used, or OUT is no .parquet.
    """
    from .arguments import call
    from .data.collections import scan as scanning

    with _spoken():
        if out is not None:
            return Scan(*call(scanning.write_scan, folder, out, workers))
        manifest, skipped = call(scanning.scan_folder, folder, workers)
    if not len(manifest):
        raise ValueError(f"None of the {len(skipped)} audio files in {folder} can be used: {skipped[0]}.")
    return Scan(manifest, skipped)


def synth(out: str | Path, *, hours: float = 1.0, seed: int = 0, **options: Any) -> Manifest:
    """Render the embedded corpus, music with exact labels, and return its manifest; what is there already stays.

    Args:
        out: the folder to make.
        hours: of audio.
        seed: of everything.
        options: as `groundbass data synth` has them: workers, clip_seconds, variety, music, train.

    Raises:
        ValueError: an option is impossible, or the folder holds something else.
    """
    from .arguments import call
    from .data.synth.corpus import synth as make
    from .data.track import Manifest

    with _spoken(), contextlib.redirect_stderr(_Spoken()):
        call(make, out, hours=hours, seed=seed, **options)
    return Manifest.open(Path(out) / "manifest.parquet")


def verify(corpus: str, root: str | Path | None = None, *, workers: int | None = None) -> Findings:
    """Whether a benchmark can be run honestly on this copy of its corpus: `.ok`, `.problems`, counts beside published.

    Args:
        corpus: gtzan, nsynth, … or my_corpus.py:CORPUS.
        root: the folder that holds it; $GROUNDBASS_DATA/CORPUS by default.
        workers: processes that read headers.

    Raises:
        ValueError: an unknown corpus.
        FileNotFoundError: it isn't there.
    """
    from .arguments import call
    from .data import corpora
    from .data.collections.verify import examine

    known = corpora.corpus(corpus)
    place = Path(root) if root is not None else corpora.place_of(corpus)
    found: Findings = call(examine, known, place, workers=workers)
    return found


def overlap(a: str | Path, b: str | Path, *, workers: int | None = None) -> Overlap:
    """Which recordings of `a` are in `b` too, whatever was done to their files: `.hits`, best first.

    Args:
        a: a folder, a manifest, shards, CORPUS:ROOT, …: what is trained on.
        b: the same: what is tested on.
        workers: processes that decode.

    Raises:
        FileNotFoundError: there is no such sound.
    """
    from .arguments import call
    from .data.collections.overlap import find_overlap, opened

    first, second, refused = opened(a, b)
    found: Overlap = call(find_overlap, first, second, workers=workers, refused=refused)
    return found


# ---- training


@dataclass(frozen=True)
class Run:
    """A run's folder. steps: done so far."""

    folder: Path
    steps: int

    @property
    def losses(self) -> list[dict[str, Any]]:
        """The lines of RUN/loss.jsonl, one every `log_every` steps and one of the last: step, loss, what was logged."""
        file = self.folder / "loss.jsonl"
        return json_lines(file) if file.is_file() else []

    def to_pandas(self) -> pandas.DataFrame:
        """`losses` as a table."""
        import pandas

        return pandas.DataFrame(self.losses)

    def encoder(self, device: str = "cpu") -> LoadedEncoder:
        """The newest encoder of the run."""
        return load_encoder(self.folder, device)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return str(self.folder)


def train(
    recipe: str | Recipe,
    data: Paths,
    run: str | Path,
    *,
    avoid: Sequence[str] = (),
    splits: Sequence[str] = (),
    **overrides: Any,
) -> Run:
    """Pretrain, as `groundbass pretrain` does: the same run folder goes on where it stopped.

    Args:
        recipe: an address (masked.mert_tiny, my_recipes.py:tiny) or a Recipe.
        data: a folder, a manifest, shards, …; or several, MANIFEST=WEIGHT each.
        run: the run's folder.
        avoid: leave out recordings that these hold too, such as gtzan:ROOT.
        splits: hear only the tracks of these splits of the manifest.
        overrides: fields of the recipe, as keywords: `steps=100, batch_size=16, optim={"lr": 2e-4}`.

    Raises:
        ValueError: no such recipe or field, or the folder holds another run.
        FileNotFoundError: there is no such sound.
    """
    from .pretrain import command
    from .pretrain.distributed import to_an_end

    sources = (data,) if isinstance(data, (str, Path)) else data
    words = [*_words(overrides), "--data", *map(str, sources), "--run", str(run)]
    words += [word for place in avoid for word in ("--avoid", str(place))]
    words += ["--splits", *splits] if splits else []
    address, options = command.chosen(recipe, words)
    steps = 0

    def whole() -> int:
        nonlocal steps
        steps = command.pretrain(options, address, words)
        return 0

    with _spoken():
        to_an_end(whole)
    return Run(Path(run), steps)


def _words(overrides: Mapping[str, Any], path: str = "") -> list[str]:
    """{"optim": {"lr": 2e-4}, "compile": True} -> --optim.lr 0.0002 --compile."""
    words: list[str] = []
    for name, value in overrides.items():
        option = f"{path}{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            words += _words(value, f"{option}.")
        elif isinstance(value, bool):
            parent, _, leaf = option.rpartition(".")
            words.append(f"--{option}" if value else f"--{parent + '.' if parent else ''}no-{leaf}")
        else:
            several = value if isinstance(value, (list, tuple)) else [value]
            words += [f"--{option}", *map(str, several)]
    return words


@dataclass(frozen=True)
class Finetuned:
    """A classifier and how it compares with probing the encoder frozen, a line per task."""

    run: Run
    compared: list[Compared] = field(default_factory=list)

    def classifier(self, device: str = "cpu") -> Classifier:
        """What was learned, ready to listen."""
        return load_classifier(self.run.folder, device)

    def __str__(self) -> str:
        return "\n".join(one.told() for one in self.compared)


def finetune(
    encoder: str | Path | Run, data: str, run: str | Path, *, label: str | Sequence[str] = (), **options: Any
) -> Finetuned:
    """Train an encoder on labels, compared with its frozen probe on the same test tracks.

    Args:
        encoder: a run, or a published or imported folder.
        data: folder:PATH (with `label`), or a task or corpus such as gtzan_genre.
        run: the run's folder; the same one goes on.
        label: columns of labels.csv: "genre", ["genre", "bpm:number"].
        options: as `groundbass finetune --help` has them: steps, lr, unfreeze, lora, pooling, …

    Raises:
        ValueError: labels that can't be learned, or options that contradict each other.
    """
    from .arguments import call
    from .finetuning import finetune as command

    labels = (label,) if isinstance(label, str) else tuple(label)
    with _spoken():
        compared = call(command, encoder, data=data, run=run, label=labels, **options)
    return Finetuned(Run(Path(run), options.get("steps", 600)), compared)


def publish(run: str | Path | Run, out: str | Path, **options: Any) -> Path:
    """Turn a run into a Hugging Face folder with a model card, proven to load without groundbass; returns the folder.

    Args:
        run: a run, or a folder of heads.
        out: the folder to write.
        options: as `groundbass publish --help` has them: force, license, results, push, private, dry_run, …

    Raises:
        FileExistsError: OUT is in use.
        ValueError: the run's encoder is none of ours, or the reloaded model answers differently.
    """
    from .arguments import call
    from .publishing import publish as command

    with _spoken():
        call(command, run, out, **options)
    return Path(out)


# ---- measuring


class Page(_Path):
    """The path of a page that was written; a notebook shows the page."""

    def _repr_html_(self) -> str | None:
        if self.suffix != ".html":
            return None
        page = html.escape(self.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" sandbox="allow-scripts" width="100%" height="700"></iframe>'


@dataclass(frozen=True)
class Results:
    """What an encoder was asked, a `Result` per task, and the folder that keeps it."""

    folder: Path
    results: tuple[Result, ...]

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, task: str | int) -> Result:
        """By number or by the task's name."""
        if isinstance(task, int):
            return self.results[task]
        found = [one for one in self.results if one.task == task]
        if not found:
            raise KeyError(f"{task}: there are {', '.join(one.task for one in self.results)}")
        return found[0]

    def table(self) -> Table:
        """Scores beside the baselines, with intervals: shows itself in a notebook, as text, Markdown or LaTeX."""
        from .probe.report import tables

        return tables.scores(self.results)

    def to_pandas(self) -> pandas.DataFrame:
        """The long table: a row per figure."""
        from .probe.report import long_table

        return long_table.table(self.results).to_pandas()

    def report(self, path: str | Path | None = None, *others: str | Path) -> Page:
        """Write the page (.html), or .md, .tex; others: folders of results that stand beside. Returns its path, which a
        notebook shows as the page.
        """
        from .probe.report.command import report as command

        out = Path(path) if path is not None else self.folder / "report.html"
        with _spoken():
            command((self.folder, *map(Path, others)), out=out)
        return Page(out)

    def __str__(self) -> str:
        return self.table().markdown(aligned=True)

    def _repr_html_(self) -> str:
        return str(self.table().html())


def evaluate(
    encoder: str | Path | Run | Encoder,
    tasks: str | Sequence[str],
    *,
    label: str | Sequence[str] = (),
    out: str | Path | None = None,
    **options: Any,
) -> Results:
    """Ask a frozen encoder what it learned: heads on every layer, beside baselines, with 95 % intervals.

    Args:
        encoder: whatever `load_encoder` takes, a run, or an object that keeps the encoder's contract.
        tasks: synth:PATH, folder:PATH (with `label`), gtzan_genre, my_task.py:TASK:PATH, or several.
        label: columns of a folder's labels.csv: "genre", ["genre", "bpm:number"].
        out: where results are kept; what is there isn't asked again. RUN/probe, or probe/NAME.
        options: as `groundbass probe --help` has them: protocol, layers, random_seeds, few_shot, robustness, pooling, …

    Raises:
        ValueError: an unknown task, an encoder that breaks its contract, or options that contradict each other.
        FileNotFoundError: the encoder or a corpus isn't there.
    """
    from .arguments import call
    from .probe import command

    given = None if isinstance(encoder, (str, Path, Run)) else encoder
    name = str(encoder) if given is None else type(given).__name__
    addresses = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    labels = (label,) if isinstance(label, str) else tuple(label)
    place = Path(out) if out is not None else command.default_out(name)
    asked = call(command.Options, encoder=name, addresses=addresses, label=labels, out=place, **options)
    with _spoken():
        found = command.probe(asked, given)
    return Results(place, tuple(found))


# ---- listening


def load_encoder(
    name_or_path: str | Path, device: Any = "cpu", dtype: Any = None, *, trust_remote_code: bool = False
) -> LoadedEncoder:
    """Load an encoder from a run, a published folder, a Hub name, any Hugging Face audio model, `file.py:Class`, or
    one of Microsoft's BEATs files (`.pt`).

    It has `hidden_states(waveform, valid, sample_rate)`, `valid_frames`, `sample_rate`, `frame_rate`, `dim`, `layers`
    (see `groundbass.models.encoder.Encoder`), and `embed(path_or_waveform, sample_rate, layers=-1, unit="track", …)`
    for recordings of any length (see `groundbass.probe.apply.embedding.LoadedEncoder.embed`).

    Args:
        name_or_path: where it lives.
        device: where it shall compute.
        dtype: of the weights, as torch.dtype or its name; None for float32. Answers are float32 in any case.
        trust_remote_code: run the Python that a folder or Hub model brings. Our own models never need it.

    Raises:
        FileNotFoundError: no such folder, file or model, or a folder that lacks config or weights.
        ValueError: code that isn't trusted, weights that don't fit the config, broken files, an unsupported kind of
            model, no such device.
    """
    from .models import encoder as models
    from .probe.apply.embedding import LoadedEncoder

    return LoadedEncoder(models.load_encoder(name_or_path, device, dtype, trust_remote_code=trust_remote_code))


def load_classifier(
    name_or_path: str | Path, device: str = "cpu", *, encoder: str | Path | None = None, trust_remote_code: bool = False
) -> Classifier:
    """Load a heads folder that `groundbass probe` wrote, a run that learned from labels, a published classifier, a
    tagger, or any Hugging Face audio classifier: `load_classifier("…")("song.mp3", unit="window") -> Prediction`.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: no classifier in it, or heads of another encoder.
    """
    from .probe.apply.classify import load_classifier as load

    return load(name_or_path, device, encoder=encoder, trust_remote_code=trust_remote_code)


def predict(classifiers: Any = None, sound: Any = None, sample_rate: int | None = None) -> dict[str, Any]:
    """What classifiers say of a file or waveform, {head: Prediction}; of other sound, {recording: {head: Prediction}}.

    Args:
        classifiers: names, folders or loaded, one or several; None: what ships, with `key`, `chords` and `beats`.
        sound: a file, or a waveform with its `sample_rate`; or a folder, a manifest, shards, CORPUS:ROOT, a URL, or a
            list of paths: what of it can't be heard is left out with a warning.
        sample_rate: Hz of a waveform.

    Raises:
        FileNotFoundError: there is no such sound.
        ValueError: no classifier, or none of the sound can be heard.
    """
    from .probe.apply.predict import hear_all, hear_each, names_several

    if not names_several(sound):
        return hear_all(classifiers, sound, sample_rate)
    found, failed = hear_each(classifiers, sound)
    for name, reason in failed.items():
        logger.warning("%s is left out: %s", name, reason)
    return found


@dataclass(frozen=True)
class Vectors:
    """Vectors: a row per track, window or frame, with path, start and end in s, and a column per layer."""

    table: pyarrow.Table
    skipped: dict[str, str]

    def to_pandas(self) -> pandas.DataFrame:
        """The table."""
        return self.table.to_pandas()

    def numpy(self, layer: int | None = None) -> Any:
        """[rows, width] float32 of one layer; the last one of the table by default."""
        import numpy as np

        names = [name for name in self.table.column_names if name.startswith("layer_")]
        name = names[-1] if layer is None else f"layer_{layer}"
        if name not in names:
            raise ValueError(f"There is no layer {layer} in this table; it has {', '.join(n[6:] for n in names)}.")
        return np.array(self.table.column(name).to_pylist(), dtype=np.float32)


def embed(
    encoder: str | Path | Run, sound: Paths, *, out: str | Path | None = None, layers: Any = -1, **options: Any
) -> Vectors:
    """Turn recordings of any length into vectors.

    Args:
        encoder: whatever `load_encoder` takes, or a run.
        sound: files and folders, or one manifest, shards, CORPUS:ROOT.
        out: also keep the table here (.parquet), as `groundbass embed` does; `similar` searches in it.
        layers: one or several, 0 being the front end; negative numbers count from the end; "all".
        options: as `groundbass embed --help` has them: unit, pooling, window_seconds, device, …

    Raises:
        ValueError: no such layer, or no sound that can be read.
    """
    import csv

    import pyarrow.parquet as pq

    from .arguments import call
    from .probe.apply.embed import embed as command

    asked = (layers,) if isinstance(layers, int) else layers
    sources = (str(sound),) if isinstance(sound, (str, Path)) else tuple(map(str, sound))
    with tempfile.TemporaryDirectory() as folder, _spoken():
        place = Path(out) if out is not None else Path(folder) / "vectors.parquet"
        call(command, encoder, sources, out=place, layers=asked, **options)
        listed = place.with_name(f"{place.name}.skipped.csv")
        rows = list(csv.reader(listed.read_text().splitlines()))[1:] if listed.is_file() else []
        return Vectors(pq.read_table(place, memory_map=False), {row[0]: row[-1] for row in rows})


def similar(
    table: str | Path, files: Paths, *, k: int = 10, layer: int | None = None, **options: Any
) -> dict[str, list[Hit]]:
    """The recordings nearest to files, among those of a table that `embed` wrote: {file: hits, the nearest first}.

    Args:
        table: X.parquet or X.npz.
        files: one or several recordings, in the table or not.
        k: how many for each.
        layer: of the table; its last one by default.
        options: as `groundbass similar --help` has them: encoder, page, device, …

    Raises:
        ValueError: no such layer, or a table that says odd things of itself.
    """
    from .arguments import call
    from .probe.apply.similar import similar as command

    asked = (files,) if isinstance(files, (str, Path)) else files
    with _spoken():
        return {str(file): hits for file, hits in call(command, table, asked, k=k, layer=layer, **options)}
