"""The first command of the README."""

from pathlib import Path

import pytest


@pytest.mark.slow
def test_quickstart_tells_the_whole_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stage, small: corpus, two steps, all tasks, the published folder, the page; again, nothing is redone."""
    from groundbass.quickstart import quickstart

    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    quickstart(tmp_path / "demo", recipe="masked.mert_debug", steps=2, hours=0.12)
    demo = tmp_path / "demo"
    assert (demo / "corpus" / "manifest.parquet").is_file()
    assert (demo / "encoder" / "model.safetensors").is_file()
    assert len(list((demo / "run" / "probe").glob("*.json"))) >= 8
    page = (demo / "report.html").read_text()
    assert "synth_key" in page
    assert 'src="http' not in page
    before = (demo / "run" / "loss.jsonl").read_bytes()
    quickstart(demo, recipe="masked.mert_debug", steps=2, hours=0.12)
    assert (demo / "run" / "loss.jsonl").read_bytes() == before
