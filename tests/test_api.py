"""The public functions: quick to import, named like nothing else, and each as its command."""

from __future__ import annotations

import io
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import groundbass
from groundbass import api, cli, progress
from groundbass.data.audio.read import write

ROOT = Path(groundbass.__file__).parent
FUNCTIONS = [name for name in groundbass.__all__ if name[0].islower()]


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, groundbass; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [heavy for heavy in ("torch", "numpy", "pyarrow", "tyro", "groundbass.api") if f"'{heavy}'" in loaded]


def test_no_function_is_called_like_a_package_or_file_and_each_explains_itself() -> None:
    taken = {path.stem for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not taken & set(FUNCTIONS)
    for name in FUNCTIONS:
        assert len(getattr(groundbass, name).__doc__) > 80, name
        assert getattr(groundbass, name) is getattr(api, name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = groundbass.nothing


def test_overrides_become_the_words_of_the_command() -> None:
    words = api._words({"steps": 3, "optim": {"lr": 2e-4, "fused": False}, "crops.crop_samples": 8, "compile": True})
    assert words == [
        "--steps", "3", "--optim.lr", "0.0002", "--optim.no-fused", "--crops.crop-samples", "8", "--compile",
    ]  # fmt: skip
    assert api._words({"probe_tasks": ("a", "b")}) == ["--probe-tasks", "a", "b"]


def test_what_is_printed_goes_to_the_logger(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "groundbass"), api._spoken():
        print("one", end="")
        print(" line\nand another", end="")
    assert [record.message for record in caplog.records] == ["one line", "and another"]
    assert capsys.readouterr().out == ""


def test_bars_are_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one a minute: the clock is moved by hand."""
    monkeypatch.delenv("GROUNDBASS_QUIET", raising=False)
    place, now = io.StringIO(), [1000.0]
    bar = progress.tqdm(total=300, file=place)
    monkeypatch.setattr(bar, "_time", lambda: now[0])
    bar.last_print_t = bar.start_t = now[0]
    for _ in range(300):  # five minutes
        now[0] += 1.0
        bar.update()
    bar.close()
    lines = place.getvalue().splitlines()
    assert "\r" not in place.getvalue()
    assert 5 <= len(lines) <= 8
    assert "300/300" in lines[-1]


def test_quiet_has_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    place = io.StringIO()
    with progress.quietly():
        list(progress.tqdm(range(3), file=place))
    monkeypatch.setenv("GROUNDBASS_QUIET", "0")
    assert not progress.is_quiet()
    assert place.getvalue() == ""


def test_the_command_line_says_quiet_before_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars are off while the command runs, before or behind which the word may stand, and as they were afterwards."""
    monkeypatch.setenv("GROUNDBASS_QUIET", "0")
    seen: list[bool] = []
    monkeypatch.setattr(cli, "_called", lambda name, words: seen.append(progress.is_quiet()) or 0)
    for line in (["--quiet", "pretrain", "--list"], ["pretrain", "--list", "--quiet"], ["pretrain", "--list"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(line)
        assert stop.value.code == 0 and not progress.is_quiet()
    assert seen == [True, True, False]


def test_help_answers_at_once() -> None:
    """0.15 s of this machine's time, which may be shared: of processor time, the best of three."""
    import resource

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "groundbass.cli", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.15


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty notes, high or low, one of them silent."""
    folder = tmp_path_factory.mktemp("music")
    lines = ["path,height,split"]
    for number in range(20):
        clock = np.arange(16_000) / 8000
        sound = 0.3 * np.sin(2 * np.pi * (200 if number % 2 else 1500) * 1.01**number * clock)
        write(folder / f"{number}.wav", sound.astype(np.float32) * (number != 19), 8000)
        part = "train" if number < 10 else "valid" if number < 14 else "test"
        lines.append(f"{number}.wav,{'low' if number % 2 else 'high'},{part}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def test_scanning_tells_what_was_left_out(music: Path, tmp_path: Path) -> None:
    found = groundbass.scan(music, tmp_path / "music.parquet", workers=1)
    assert len(found.manifest) == 19
    assert [(one.path, one.reason) for one in found.skipped] == [("19.wav", "silent")]
    assert (tmp_path / "music.parquet").is_file()
    assert (tmp_path / "music.skipped.csv").read_text().splitlines()[1].startswith("19.wav,silent")
    with pytest.raises(ValueError, match=r"\.parquet"):
        groundbass.scan(music, tmp_path / "music.csv", workers=1)
    assert not (tmp_path / "music.csv").exists()
    with pytest.raises(ValueError, match="workers is 0, but it must be at least 1"):
        groundbass.scan(music, workers=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"protocol": "nosuch"}, "protocol is 'nosuch', but it must be one of linear, marble"),
        ({"baselines": ("nosuch",)}, "baselines is .*, but it must be several, each one of random"),
        ({"random_seeds": "x"}, "random_seeds is 'x', but it must be several, each a whole number"),
        ({"random_seeds": [-1]}, "random_seeds is -1, but it must be at least 0"),
        ({"bogus": 1}, "There is no option 'bogus'"),
    ],
)
def test_evaluating_checks_what_it_is_asked(options: dict[str, Any], sentence: str, music: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        groundbass.evaluate("groundbass-tiny", f"folder:{music}", label="height", **options)


def test_embedding_and_searching_check_what_they_are_asked(music: Path, tmp_path: Path) -> None:
    for options, sentence in (
        ({"unit": "year"}, "unit is 'year', but it must be one of"),
        ({"threads": 0}, "threads is 0, but it must be at least 1"),
        ({"bogus": 1}, "There is no option 'bogus'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            groundbass.embed("groundbass-tiny", music, out=tmp_path / "v.parquet", **options)
    with pytest.raises(ValueError, match="k is 'x', but it must be a whole number"):
        groundbass.similar("v.parquet", music / "2.wav", k="x")  # type: ignore[arg-type]


def test_predicting_takes_sound_of_every_kind(music: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "music"
    folder.mkdir()
    for name in ("2.wav", "19.wav"):
        (folder / name).write_bytes((music / name).read_bytes())
    alone = groundbass.predict("groundbass-tiny", folder / "2.wav")
    found = groundbass.predict("groundbass-tiny", folder)
    assert list(found) == [str(folder / "2.wav")] and set(found[str(folder / "2.wav")]) == set(alone)
    assert "19.wav is left out: It is silent" in caplog.text
    listed = groundbass.predict("groundbass-tiny", [folder / "2.wav"])
    assert listed[str(folder / "2.wav")]["key"].label == alone["key"].label
    with pytest.raises(FileNotFoundError, match="There is no nowhere: sound is"):
        groundbass.predict("groundbass-tiny", "nowhere")


@pytest.mark.slow
def test_from_recordings_to_a_published_encoder(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    manifest = tmp_path / "music.parquet"
    groundbass.scan(music, manifest, workers=1)
    run = groundbass.train("predictive.cpc_debug", manifest, "run", steps=4, optim={"lr": 1e-3})
    assert run.steps == 4 and len(run.losses) == 4
    assert list(run.to_pandas()["step"]) == [1, 2, 3, 4]
    short = groundbass.train("predictive.cpc_debug", manifest, "short", steps=4, optim={"lr": 1e-3}, log_every=10)
    assert short.losses == run.losses[-1:]  # of a run shorter than that, the last step
    with pytest.raises(ValueError, match="Unrecognized options: --stepz"):
        groundbass.train("predictive.cpc_debug", manifest, "other", stepz=3)
    results = groundbass.evaluate(
        run, f"folder:{music}", label="height", random_seeds=[0], baselines=["constant"], pooling="mean", threads=1
    )
    assert len(results) == 1 and results[0].score.value == 1.0  # 200 or 1500 Hz
    assert results.folder == Path("run/probe")
    assert "height" in str(results) and "<table" in results._repr_html_()
    assert (results.to_pandas()["value"] == 1.0).any()
    page = results.report()
    assert page.read_text().startswith("<!") and "<iframe srcdoc" in (page._repr_html_() or "")
    assert results.report("scores.md")._repr_html_() is None
    vectors = groundbass.embed(run, music, out="v.parquet", layers="all", threads=1)
    assert vectors.numpy().shape == (20, 12) and list(vectors.to_pandas()["path"])
    near = groundbass.similar("v.parquet", music / "2.wav", k=3)
    [hits] = near.values()
    assert len(hits) == 3 and all(not hit.found.path.endswith("/2.wav") for hit in hits)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)
    assert (groundbass.publish(run, "published") / "README.md").is_file()
    assert groundbass.load_encoder("published").dim == 12
    assert not capsys.readouterr().out  # it goes to the logger


def test_time_is_not_lost_on_import() -> None:
    """The figure itself, in processor time of the import alone."""
    code = "import time; a = time.process_time(); import groundbass; print(time.process_time() - a)"
    best = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(2)
    )
    assert best < 0.2


def complete(*words: str) -> list[str]:
    """What bash would offer after these words."""
    typed = " ".join(f"'{word}'" for word in words)
    asked = f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _groundbass; echo ${{COMPREPLY[@]}}"
    script = f"{cli.completion('bash')}\n{asked}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_shells_complete_commands_and_recipes(tmp_path: Path) -> None:
    assert set(complete("groundbass", "pre")) == {"pretrain", "predict"}
    assert set(complete("groundbass", "data", "s")) == {"synth", "scan", "shard"}
    assert "masked.mert_tiny" in complete("groundbass", "pretrain", "masked.mert_")
    assert complete("groundbass", "embed", f"{tmp_path.parent}/{tmp_path.name[:-1]}")[0].startswith(
        str(tmp_path.parent)
    )
    with pytest.raises(ValueError, match="no completion for tcsh; take one of bash, fish, zsh"):
        cli.completion("tcsh")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("scan", "data scan"),
        ("verfy", "data verify"),
        ("pretain", "pretrain"),
        ("synth", "data synth"),
        ("dta scna", "data scan"),
        ("scan data", "data scan"),
        ("data scann", "data scan"),
        ("hear", "bridge hear"),
        ("bridge heer", "bridge hear"),
    ],
)
def test_the_nearest_name_is_looked_for_in_both_words(typed: str, meant: str) -> None:
    assert meant in cli.nearest(typed.split())
    with pytest.raises(ValueError, match=f"`{meant}`"):
        cli.resolve(typed.split())


def test_launch_starts_the_files_of_the_package() -> None:
    from groundbass.pretrain.launch.start import command

    words = command(["fsdp2", "--gpus", "4", "--", "pretrain", "masked.mert_95m", "--data", "x", "--", "y"])
    assert Path(words[words.index("--config_file") + 1]).is_file()
    assert words[words.index("--num_processes") + 1] == "4"
    assert words[-6:] == ["groundbass.pretrain", "masked.mert_95m", "--data", "x", "--", "y"]
    two = command(["ddp", "--machines", "2", "--machine-rank", "1", "--main", "a:29500", "--", "pretrain", "x"])
    assert two[two.index("--main_process_ip") + 1] == "a" and two[two.index("--main_process_port") + 1] == "29500"
    for wrong, sentence in (
        (["dpp", "--", "pretrain", "x"], "no strategy 'dpp'"),
        (["ddp"], "What shall be launched"),
        (["ddp", "--machines", "2", "--", "pretrain", "x"], "need --main HOST:PORT"),
        (["ddp", "--machines", "2", "--main", "a:b", "--", "pretrain", "x"], "--main is a:b, but a port is a number"),
        (["ddp", "--machines", "2", "--machine-rank", "4", "--main", "a:1", "--", "pretrain", "x"], "from 0 to 1"),
        (["ddp", "--machine-rank", "1", "--", "pretrain", "x"], "--machine-rank is 1, but --machines is 1"),
        (["ddp", "--machine-rank", "-1", "--", "pretrain", "x"], "--machine-rank is -1, but it must be at least 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            command(wrong)


def test_models_lists_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    from groundbass.models.listing import models

    models()
    said = capsys.readouterr().out
    assert "groundbass-tiny" in said and "heads beats, chords, key" in said and "apache-2.0" in said
    assert "cc-by-nc-4.0" in said  # MERT's
    shipped, *others = said.split("\ngroundbass import")[0].split("\nCLMR")
    assert "accuracy chords 0.91" in shipped and re.search(r"beat F, 70 ms 0\.\d+ \[.*; downbeat F", shipped)
    assert "key score, 43 recordings 0." in shipped and "rival" not in shipped
    assert said.count("scores: ") == said.count("licence ") and "scores: not published here" in others[0]


def test_old_options_go_on_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.renamed("probe", ["x", "--seeds", "0", "--out", "y"]) == ["x", "--random-seeds", "0", "--out", "y"]
    said = capsys.readouterr().err
    assert "--seeds of `probe` is called --random-seeds now" in said
    assert cli.renamed("plan", ["x", "--from=run"]) == ["x", "--like=run"]
    assert cli.renamed("pretrain", ["--from", "x"]) == ["--from", "x"]
    for (command, old), new in cli.RENAMED.items():
        with pytest.raises(SystemExit):
            cli.main([command, *(["masked.mert_tiny"] if command == "plan" else []), "--help"])
        page = capsys.readouterr().out
        assert new in page and f"{old} " not in page


@pytest.mark.parametrize("name", [name for name, command in cli.COMMANDS.items() if not command.argv])
def test_positional_arguments_are_shown_by_their_names(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([*name.split(), "--help"])
    usage = capsys.readouterr().out.partition("\n\n")[0]
    for kind in ("PATH", "STR", "INT"):
        assert not re.search(rf"\b{kind}\b", usage.partition("[OPTIONS]")[2]), usage
