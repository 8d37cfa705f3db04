"""AudioSet and ESC-50: the published lists in miniature, the clips that are gone, and what is measured on them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from groundbass.data import corpora
from groundbass.data.corpora import audioset, esc50
from groundbass.data.labels.kinds.tags import KIND, d_prime
from groundbass.probe.tasks import esc50_sound

HEAD = "# Segments csv created Sun Mar  5 10:54:31 2017\n# num_ytids=2\n# YTID, start_seconds, end_seconds, labels\n"


def sound(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.3 * np.sin(2 * np.pi * (200 + 7 * number) * np.arange(4000) / 16_000)
    sf.write(path, tone.astype(np.float32), 16_000)


def audioset_lists(root: Path) -> None:
    """527 invented classes under made-up ids, one of whose names has a comma."""
    with (root / "class_labels_indices.csv").open("w") as file:
        file.write("index,mid,display_name\n")
        file.writelines(f'{i},/m/{i},"Sound {i}, loud"\n' for i in range(527))
    (root / "balanced_train_segments.csv").write_text(
        HEAD + '--PJHxphWEs, 30.000, 40.000, "/m/5,/m/2"\nYABCDEFGHIJ, 0.000, 10.000, "/m/526"\n'
    )
    (root / "eval_segments.csv").write_text(HEAD + '-_aaaaaaaaa, 1.000, 11.000, "/m/2"\nabcdefghijk, 2.5, 9, "/m/0"\n')


def test_audioset_by_its_lists(tmp_path: Path) -> None:
    audioset_lists(tmp_path)
    sound(tmp_path / "balanced_train_segments/Y--PJHxphWEs.wav", 1)
    sound(tmp_path / "elsewhere/YABCDEFGHIJ.flac", 2)  # a video whose name begins with Y
    sound(tmp_path / "eval/-_aaaaaaaaa_1.000.wav", 3)
    found = {track.key: track for track in audioset.tracks(tmp_path)}
    assert set(found) == {"--PJHxphWEs", "YABCDEFGHIJ", "-_aaaaaaaaa"}
    assert found["--PJHxphWEs"].labels["tags"] == ["Sound 2, loud", "Sound 5, loud"]
    assert {key: track.split for key, track in found.items()}["-_aaaaaaaaa"] == "test"
    said = corpora.shortfall("audioset", corpora.manifest("audioset", tmp_path, progress=False))
    assert "the test set has 1 of 20371 tracks" in " ".join(said)
    (tmp_path / "unbalanced_train_segments.csv").write_text(HEAD + 'zzzzzzzzzzz, 0, 10, "/m/1"\n')
    more = audioset.entries(tmp_path)[-1]
    assert more.split is None and more.labels["split_full"] == "train" and more.labels["part"] == "unbalanced"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('aaaaaaaaaaa, 0, 10, "/m/999"\n', "isn't among the 527"),
        ("aaaaaaaaaaa, 0, 10\n", "line 4, has 3 cells"),
        ('aaaaaaaaaaa, soon, 10, "/m/1"\n', "no time in s"),
        ('abcdefghijk, 0, 10, "/m/1"\n', "which another list or line has too"),
    ],
)
def test_broken_lists_are_sentences(tmp_path: Path, line: str, words: str) -> None:
    audioset_lists(tmp_path)
    (tmp_path / "balanced_train_segments.csv").write_text(HEAD + line)
    with pytest.raises(ValueError, match=words):
        audioset.entries(tmp_path)
    (tmp_path / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/0,A\n")
    with pytest.raises(ValueError, match="has 1 classes"):
        audioset.entries(tmp_path)


def test_esc50_in_its_folds(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    with (tmp_path / "meta/esc50.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "fold", "target", "category", "esc10", "src_file", "take"])
        for fold in range(1, 6):
            for target, name in enumerate(("dog", "rooster")):
                table.writerow([f"{fold}-1000{fold}-A-{target}.wav", fold, target, name, "True", f"1000{fold}", "A"])
                sound(tmp_path / f"audio/{fold}-1000{fold}-A-{target}.wav", 10 * fold + target)
    found = esc50.tracks(tmp_path)
    assert Counter(track.labels["sound"] for track in found) == {"dog": 5, "rooster": 5}
    task = esc50_sound.TASK.meet(corpora.manifest("esc50", tmp_path, progress=False), "esc50")
    assert len(task.folds) == 5 and all(len(fold.test) == 2 for fold in task.folds)
    assert [task.manifest[int(row)].labels["fold"] for row in task.folds[2].test] == [3, 3]
    text = (tmp_path / "meta/esc50.csv").read_text()
    (tmp_path / "meta/esc50.csv").write_text(text.replace("A-0.wav,1,", "A-0.wav,7,"))
    with pytest.raises(ValueError, match="fold '7'; there are 1 to 5"):
        esc50.entries(tmp_path)


def test_d_prime_is_that_of_the_mean_area() -> None:
    """The published pairs of PANNs and AST."""
    for area, expected in ((0.965, 2.562), (0.971, 2.681), (0.973, 2.725), (0.9786, 2.865)):
        assert d_prime(area) == pytest.approx(expected, abs=1e-3)
    truth = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
    guess = np.array([[0.9, 0.2], [0.8, 0.7], [0.3, 0.1], [0.1, 0.5]])
    found = KIND.measure(truth, guess, ["a", "b"])
    assert found["d_prime"] == pytest.approx(d_prime(found["roc_auc"]))
    assert "d_prime" not in KIND.measure(truth, truth.astype(float), ["a", "b"])  # infinite
