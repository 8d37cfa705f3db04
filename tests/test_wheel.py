"""What a user installs: the wheel, outside the clone, in an empty folder; and what is declared of dependencies."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import groundbass

ROOT = Path(groundbass.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_one() -> None:
    assert PROJECT["version"] == groundbass.__version__
    assert f"\nversion: {groundbass.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(
        rf"^## \[{re.escape(groundbass.__version__)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M
    )


def test_torchaudio_is_used_in_one_file() -> None:
    """Its last release is 2.11: what leans on it is easy to find. Benchmarks compare with it."""
    folders = ("data", "models", "pretrain", "probe")
    files = [*ROOT.glob("*.py"), *(path for name in folders for path in (ROOT / name).rglob("*.py"))]
    using = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if re.search(r"^(import|from) torchaudio", path.read_text(), re.M) and "bench" not in path.parts
    }
    assert using == {"probe/baselines/hand_crafted.py"}


def test_the_extra_all_has_every_extra_of_users() -> None:
    extras = PROJECT["optional-dependencies"]
    [everything] = extras["all"]
    assert set(re.findall(r"[a-z]+", everything.partition("[")[2])) == set(extras) - {"all", "dev", "docs"}


@pytest.mark.soak
def test_the_wheel_works_outside_the_clone(tmp_path: Path) -> None:
    source = tmp_path / "source"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    run = [sys.executable, "-m"]
    subprocess.run([*run, "build", "--wheel", "--outdir", str(tmp_path), str(source)], check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    target, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    subprocess.run([*run, "pip", "install", "-q", "--no-deps", "--target", str(target), str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(target)}

    def said(*words: str) -> str:
        done = subprocess.run(
            [*run, "groundbass.cli", *words], cwd=empty, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = Path(said("launch", "--where").strip())
    assert place.is_relative_to(target) and (place / "slurm.sh").is_file()
    assert "zero3_offload" in said("launch", "--list")
    assert "groundbass-tiny" in said("models")
    said("data", "synth", "corpus", "--hours", "0.03")
    said("new", "objective", "mine")
    said("pretrain", "mine.py:debug", "--data", "corpus/manifest.parquet", "--run", "run")
    said("embed", "run", "corpus/audio", "--out", "v.parquet")
    said("predict", "corpus/audio", "--out", "p.json", "--quiet")
    assert (empty / "v.parquet").is_file() and (empty / "p.json").is_file()
