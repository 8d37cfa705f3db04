"""From an encoder to a report: an oracle and a constant bracket every kind of task; a second run does nothing."""

import json
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from groundbass.data.audio import read as audio
from groundbass.data.track import Manifest, Track
from groundbass.probe import command, evaluation
from groundbass.probe.addresses import questions
from groundbass.probe.baselines.simple import LogMelBaseline, constant
from groundbass.probe.contract import problems
from groundbass.probe.evaluation import Settings
from groundbass.probe.fit import fit
from groundbass.probe.listen.features import FeatureStore, identity
from groundbass.probe.report import result
from groundbass.probe.report.bootstrap import Interval
from groundbass.probe.report.command import report
from groundbass.probe.report.sections import collect
from groundbass.probe.report.tables import markdown, verdict
from groundbass.probe.session import Session

RATE = 8000
QUICK = Settings(baselines=("random", "log_mel", "mfcc", "constant"))
TASKS = ("synth_style", "synth_key", "synth_tags", "synth_emotion")
STYLES = ("blues", "rock", "waltz")
CHORDS = ("C:maj", "A:min7", "N")
KEYS = ("C major", "A minor", "F# minor")


def labels(number):
    """A track's labels. Its number is written into its sound, as the level, so that an oracle can know them."""
    style = [0, 0, 1, 2][number % 4]
    return {
        "part": "music",
        "style": STYLES[style],
        "key": KEYS[[0, 1, 0, 2][number // 3 % 4]],
        "tags": [tag for tag, bit in (("fast", 1), ("loud", 2), ("sad", 4)) if number * 7 // 3 & bit],
        "arousal": float(np.sin(number)),
        "valence": float(np.cos(2 * number)),
        "beats": (0.1 + 0.03 * (number % 5) + np.arange(0, 1.8, 0.25 + 0.05 * (number % 4))).tolist(),
        "chords": [
            {"start": 0.0, "end": 1.0, "label": CHORDS[number % 3]},
            {"start": 1.0, "end": 2.0, "label": CHORDS[number // 3 % 3]},
        ],
    }


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("bands")
    tracks = []
    for number in range(120):
        sound = np.full(2 * RATE, (number + 1) / 250, np.float32)
        for beat in labels(number)["beats"]:
            sound[int(beat * RATE) : int(beat * RATE) + 80] += 0.4
        path = f"{number}.flac"
        audio.write(root / path, sound, RATE)
        part = ("train", "train", "train", "valid", "test")[number // 4 % 5]
        tracks.append(
            Track(path, path, len(sound), RATE, 1, f"hash{number}", part, f"band {number // 4}", labels(number))
        )
    return Manifest.from_tracks(tracks, root)


def test_an_encoder_in_bf16_hears_the_same_and_is_stored_apart(corpus, tmp_path):
    exact, fast = (command._load(command.Options("groundbass-tiny", dtype=one), "cpu") for one in ("fp32", "bf16"))
    assert identity(fast)["weights"] != identity(exact)["weights"]
    store = FeatureStore(tmp_path, quiet=True)
    ours, theirs = (store.clips(encoder, corpus[:6]) for encoder in (fast, exact))
    assert np.isfinite(ours).all() and 0 < np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()


class Oracle:
    """Layer 0 knows nothing. Layer 1 knows the track's labels, and where the sound is loud."""

    sample_rate, frame_rate, dim, layers = RATE, 100.0, 24, 2

    def __init__(self, knows=True):
        self.knows, self.calls = torch.tensor([float(knows)]), 0

    def valid_frames(self, valid):
        return valid // 80

    def hidden_states(self, waveform, valid=None, sample_rate=None):
        self.calls += 1
        frames = waveform.unflatten(1, (-1, 80))
        hidden = torch.zeros(len(waveform), 2, frames.shape[1], 24)
        for item, track in enumerate((waveform.median(1).values * 250).round().int().tolist()):
            truth = labels(track - 1)
            known = [truth["style"] == s for s in STYLES] + [truth["key"] == k for k in KEYS]
            known += [tag in truth["tags"] for tag in ("fast", "loud", "sad")] + [truth["arousal"], truth["valence"]]
            hidden[item, 1, :, : len(known)] = torch.tensor([float(value) for value in known])
            for half, chord in enumerate(truth["chords"]):
                hidden[item, 1, 100 * half : 100 * half + 100, 13 + CHORDS.index(chord["label"])] = 1
        hidden[:, 1, :, 12] = (frames.mean(-1) > waveform.median(1).values[:, None] + 0.1).float()
        return hidden * self.knows

    def random_copy(self, seed):
        return Oracle(knows=False)


def tasks(corpus, names=TASKS):
    known = questions()
    return [known[name].meet(corpus, f"{name}:corpus") for name in names]


def store(root):
    return FeatureStore(root / "store", window_seconds=2.0, quiet=True)


@pytest.fixture(scope="module")
def probed(corpus, tmp_path_factory):
    """The oracle's results on all kinds of tasks, and the folder they are in."""
    root = tmp_path_factory.mktemp("probe")
    encoder = Oracle()
    asked = tasks(corpus) + tasks(corpus[::3], ("synth_beat", "synth_chord"))
    records = Session(encoder, "oracle", root / "out", store(root), QUICK).run(asked)
    assert encoder.calls > 0
    return records, root


def test_oracle_reaches_one_and_a_constant_the_constant_baseline(probed, corpus):
    records, _ = probed
    for record in records:
        assert record.score.value == pytest.approx(1.0, abs=1e-4), record.task
        assert record.layer == 1
        assert record.baselines["random"].difference.low > 0  # its random copy hears nothing
    chords = records[5].metrics
    assert chords["majmin"] == 1 and chords["root"] == 1 and "Viterbi" in records[5].decoder
    assert set(records[4].metrics) == {"f_measure", "cmlc", "cmlt", "amlc", "amlt"}
    for record in records[4:]:  # a metronome; the commonest chord
        value = {name: beside.score.value for name, beside in record.baselines.items()}
        assert 0 < value["constant"] < 1 and value["random"] == pytest.approx(value["constant"], abs=0.01)
        assert {"log_mel", "mfcc"} < set(value)
    for task, record in zip(tasks(corpus), records):
        nothing = fit(task, np.full((1, len(corpus), 5), 3.0, np.float32))
        value = {name: beside.score.value for name, beside in record.baselines.items()}
        if task.kind == "key":  # the constant knows the metric and may do better than the commonest key
            assert value["random"] <= value["constant"]
        elif task.kind == "tags":
            assert value["constant"] == value["random"] == 0.5
        else:
            assert value["constant"] == pytest.approx(value["random"], abs=1e-9)
        np.testing.assert_allclose(nothing.guess[0], nothing.guess[-1])
        if task.kind == "numbers":
            np.testing.assert_allclose(nothing.guess, constant(task).guess, atol=1e-9)


def test_a_wrong_join_of_labels_shows(corpus, tmp_path):
    """The oracle on labels that belong to other tracks is no oracle."""
    task = tasks(corpus, ("synth_style",))[0]
    features = np.array(store(tmp_path).clips(Oracle(), corpus))
    assert (fit(task, features).guess.argmax(1) == fit(task, features).truth).all()
    mixed = fit(task, features[:, np.random.default_rng(0).permutation(len(corpus))])
    assert (mixed.guess.argmax(1) == mixed.truth).mean() < 0.9


def test_second_probe_does_nothing_and_another_encoder_is_probed_anew(probed, corpus, capsys):
    records, root = probed
    again = Oracle()
    assert Session(again, "oracle", root / "out", store(root), QUICK).run(tasks(corpus)) == records[:4]
    assert again.calls == 0 and capsys.readouterr().err.count("already done") == 4
    (root / "out" / "synth_key.json").unlink()  # lost results come back from the features, without a call
    restored = Session(again, "oracle", root / "out", store(root), QUICK).run(tasks(corpus))
    assert again.calls == 0 and restored[1].score == records[1].score
    other = Oracle(knows=False)
    changed = Session(other, "deaf", root / "deaf", store(root), QUICK).run(tasks(corpus, ("synth_style",)))
    assert changed[0].weights_hash != records[0].weights_hash
    assert changed[0].baselines["random"].difference.value == 0


def test_result_file(probed):
    _, root = probed
    content = json.loads((root / "out" / "synth_key.json").read_text())
    assert content["schema"] == result.SCHEMA and content["classes"][:2] == ["C major", "Db major"]
    assert content["counts"] == {"train": 72, "valid": 24, "test": 24, "folds": 1}
    assert content["groups"] == {"number": 6, "of": "artist"}
    assert {"constant", "log_mel", "mfcc", "random"} == set(content["baselines"])
    assert {"value", "low", "high", "difference"} <= set(content["baselines"]["random"])
    assert np.sum(content["confusion"]["counts"]) == 24 and len(content["layers"]) == 2
    table = pq.read_table(root / "out" / "synth_key.predictions.parquet").to_pydict()
    assert [json.loads(truth) for truth in table["truth"]] == table["encoder"]
    assert [[np.argmax(guess)] for guess in table["guess.0"]] == table["target"]


def test_frames_of_the_layers_that_do_best_where_not_all_fit(corpus, tmp_path, monkeypatch):
    """A few training and validation tracks choose the layer; test tracks are first encoded for the chosen one."""
    asked = tasks(corpus[::3], ("synth_beat",))
    size = 40 * 2 * Oracle.frame_rate * Oracle.dim * 4
    monkeypatch.setattr(evaluation, "FRAME_BYTES", size)
    keep, heard = store(tmp_path), []
    frames = FeatureStore.frames

    def spy(self, encoder, manifest, rows, layers, name, change=None):
        heard.append((list(layers), set(rows)))
        return frames(self, encoder, manifest, rows, layers, name, change)

    monkeypatch.setattr(FeatureStore, "frames", spy)
    quick = replace(QUICK, baselines=("constant",), few_shot=(1, 5))
    (record,) = Session(Oracle(), "oracle", tmp_path / "out", keep, quick).run(asked)
    assert [layers for layers, _ in heard] == [[0, 1], [1]]
    assert not heard[0][1] & set(asked[0].folds[0].test.tolist()) and len(heard[0][1]) == 16
    assert np.isnan(record.layers[0]) and record.score.value == pytest.approx(1)
    assert any("layers [1] alone" in note for note in record.notes)
    one, five = record.few_shot
    assert (one.clips, five.clips) == (1, 5) and five.value == pytest.approx(1, abs=0.05)


def test_a_second_run_of_frames_with_few_shots_does_nothing(probed, corpus, tmp_path, capsys):
    asked = tasks(corpus[::3], ("synth_chord",))
    quick = replace(QUICK, baselines=("constant",), few_shot=(2,))
    first = Session(Oracle(), "oracle", tmp_path / "out", store(tmp_path), quick).run(asked)
    again = Oracle()
    assert Session(again, "oracle", tmp_path / "out", store(tmp_path), quick).run(asked) == first
    assert again.calls == 0 and "already done" in capsys.readouterr().err


def test_a_failing_task_is_told_after_the_others_are_done(corpus, tmp_path, capsys):
    class Breaking(Oracle):
        def hidden_states(self, waveform, valid=None, sample_rate=None):
            hidden = super().hidden_states(waveform, valid, sample_rate)
            return hidden / (waveform.median(1).values < 0.4)[:, None, None, None]  # not finite for the last tracks

    short, long = tasks(corpus[:60], ("synth_style",)) + tasks(corpus, ("synth_tags",))
    with pytest.raises(ValueError, match=r"1 of 2 tasks could not be probed:\nsynth_tags: .* aren't finite"):
        Session(Breaking(), "x", tmp_path / "out", store(tmp_path), replace(QUICK, baselines=("constant",))).run(
            [long, short]
        )
    assert (tmp_path / "out/synth_style.json").is_file() and not (tmp_path / "out/synth_tags.json").exists()


def test_several_random_copies_are_averaged_and_none_is_allowed(corpus, tmp_path):
    task = tasks(corpus, ("synth_style",))
    two = Session(Oracle(), "oracle", tmp_path / "two", store(tmp_path), replace(QUICK, seeds=(0, 1))).run(task)
    assert len(two[0].baselines["random"].values) == 2
    none = Session(Oracle(), "oracle", tmp_path / "none", store(tmp_path), replace(QUICK, seeds=())).run(task)
    assert "random" not in none[0].baselines and "| ? |" in markdown(none)
    assert "none was probed" in verdict(none)


def test_report_is_one_file_that_says_it_plainly(probed, capsys):
    _, root = probed
    report((root / "out",))
    page = (root / "out" / "report.html").read_text()
    assert "above its random copy" in page and "On 6 of 6 tasks" in page and page.count("<svg") == 5
    assert not re.search(r'(src|href)="(?!#|data:)', page)  # nothing is loaded from elsewhere
    assert "1.000" in capsys.readouterr().out
    lines = markdown(collect(root / "out").results).splitlines()
    assert len(lines) == 8 and len({line.count("|") for line in lines}) == 1
    with pytest.raises(FileNotFoundError, match="no probe results"):
        report((root / "store",))


def test_report_of_a_run_shows_its_loss(probed, tmp_path):
    _, root = probed
    run = tmp_path / "run"
    (run / "probe").mkdir(parents=True)
    for path in (root / "out").glob("*.json"):
        (run / "probe" / path.name).write_text(path.read_text())
    (run / "recipe.json").write_text(json.dumps({"address": "contrastive.clmr_tiny"}))
    lines = [{"step": s, "loss": 4 - s / 100, "chance_loss": 4.5} for s in range(100)]
    (run / "loss.jsonl").write_text("\n".join(map(json.dumps, lines)))
    report((run,))
    page = (run / "report.html").read_text()
    assert 'aria-label="Training loss"' in page and "groundbass pretrain contrastive.clmr_tiny" in page


def test_verdict_hides_nothing(probed):
    below, unsure = Interval(-0.1, -0.2, -0.05), Interval(0.1, -0.2, 0.3)
    records = [
        replace(one, baselines={**one.baselines, "random": replace(one.baselines["random"], difference=found)})
        for one, found in zip(probed[0], (below, unsure, probed[0][2].difference))
    ]
    text = verdict(records)
    assert "On 1 of 3 tasks the encoder is above" in text
    assert "On 1 no difference can be shown (synth_key)" in text and "below its random copy (synth_style)" in text


class Keeper:
    """An encoder that keeps every promise: energies of 20 ms frames."""

    sample_rate, frame_rate, dim, layers = 16000, 50.0, 1, 1

    def valid_frames(self, valid):
        return (valid // 320).clamp_min(1)

    def hidden_states(self, waveform, valid=None, sample_rate=None):
        if sample_rate not in (None, self.sample_rate):
            waveform = torch.from_numpy(audio.resample(waveform.numpy(), sample_rate, self.sample_rate))
        waveform = waveform[:, : waveform.shape[1] // 320 * 320]
        return waveform.unflatten(1, (-1, 320)).square().mean(-1)[:, None, :, None]


def broken(**changes):
    return type("Broken", (Keeper,), changes)()


def layers_last(self, waveform, valid=None, sample_rate=None):
    return Keeper().hidden_states(waveform, valid, sample_rate).permute(0, 2, 1, 3).repeat(1, 1, 3, 1)


def dropping(self, waveform, valid=None, sample_rate=None):
    return torch.dropout(Keeper().hidden_states(waveform, valid, sample_rate), 0.5, True)


def whole_clip(self, waveform, valid=None, sample_rate=None):
    hidden = Keeper().hidden_states(waveform, valid, sample_rate)
    return hidden / hidden.mean(2, keepdim=True)


def deaf_to_rates(self, waveform, valid=None, sample_rate=None):
    return Keeper().hidden_states(waveform)


@pytest.mark.parametrize(
    ("encoder", "complaint"),
    [
        (broken(hidden_states=layers_last), "batch first, then layers"),
        (broken(hidden_states=dropping), "call .eval()"),
        (broken(hidden_states=whole_clip), "mask the padding"),
        (broken(frame_rate=75.0), "frame_rate is frames per second"),
        (broken(valid_frames=lambda self, valid: valid), "never more than there are"),
        (broken(dim="1"), "dim is a positive number"),
        (broken(hidden_states=deaf_to_rates), "another rate is resampled"),
        (broken(hidden_states=lambda self, x: 1 / 0), "ZeroDivisionError"),
        (broken(hidden_states=lambda self, *x: Keeper().hidden_states(*x) * float("nan")), "finite on finite sound"),
        (broken(hidden_states=lambda self, *x: Keeper().hidden_states(*x).half()), "return .float()"),
        (broken(hidden_states=lambda self, *x: Keeper().hidden_states(*x).requires_grad_()), "torch.no_grad()"),
        (broken(hidden_states=lambda self, *x: Keeper().hidden_states(*x).mean(2)), "[batch, layers, frames, dim]"),
    ],
)  # fmt: skip
def test_check_explains_what_is_wrong(encoder, complaint):
    assert not problems(Keeper()).failed
    failed = problems(encoder).failed
    assert any(complaint in sentence for sentence in failed), failed


def test_log_mel_keeps_the_contract_except_the_rate():
    assert [line for line in problems(LogMelBaseline()).failed if "24000 Hz" not in line] == []


def test_command_line_words(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom groundbass.probe.baselines.simple import LogMelBaseline\n"
        "class Mine(LogMelBaseline):\n    fingerprint = None\n"
    )
    with pytest.raises(ValueError, match="Which task"):
        command.main([f"{file}:Mine"])
    with pytest.raises(ValueError, match="breaks the encoder's contract"):
        command.main(["check", f"{file}:Mine"])  # it doesn't resample
    with pytest.raises(FileNotFoundError, match="lost"):
        command.main([f"{file}:Mine", f"folder:{tmp_path}/lost", "--label", "a", "--label", "b:tags"])
    (tmp_path / "odd.py").write_text(file.read_text() + "    sample_rate = 16000.5\n")
    with pytest.raises(ValueError, match=r"contract: sample_rate is a positive number: it is 16000.5"):
        command.main([f"{tmp_path}/odd.py:Mine", f"folder:{tmp_path}", "--label", "a"])
    with pytest.raises(ValueError, match="layers 0 to 0"):
        command.probe(command.Options(f"{file}:Mine", ("synth_key",), layers=(3,), store=tmp_path))
    with pytest.raises(ValueError, match="Near or known"):
        command.probe(command.Options(f"{file}:Mine", ("synth_kee",), store=tmp_path))
    (tmp_path / "run" / "encoder").mkdir(parents=True)
    assert command.default_out(str(tmp_path / "run")) == tmp_path / "run" / "probe"
    assert str(command.default_out("m-a-p/MERT-v1-95M")) == "probe/m-a-p_MERT-v1-95M"
    assert result.read(file) is None


def test_all_probes_what_lies_there_and_names_the_rest(corpus, tmp_path, monkeypatch, capsys):
    (tmp_path / "data/synth").mkdir(parents=True)
    manifest = corpus[::2]
    manifest.write(tmp_path / "data/synth/manifest.parquet")
    file = tmp_path / "mine.py"
    file.write_text(
        "from groundbass.probe.baselines.simple import LogMelBaseline\nclass Mine(LogMelBaseline):\n    pass\n"
    )
    monkeypatch.setenv("GROUNDBASS_DATA", str(tmp_path / "data"))
    (tmp_path / "data/gtzan").mkdir()  # there, but empty: told, and no reason to leave out the others
    known = {name: questions()[name] for name in ("synth_style", "gtzan_genre", "nsynth_pitch")}
    monkeypatch.setattr("groundbass.probe.addresses.questions", lambda: known)
    out = tmp_path / "out"
    words = [f"{file}:Mine", "--tasks", "all", "--out", str(out), "--store", str(tmp_path), "--baselines", "constant"]
    command.main([*words, "--few-shot", "1", "2"])
    said = capsys.readouterr().err
    assert "not probed: nsynth isn't in" in said and re.search("not probed: gtzan: .*no readable audio", said)
    assert (out / "synth_style.json").is_file()
    assert [point["shots"] for point in json.loads((out / "synth_style.json").read_text())["few_shot"]] == [1, 2]
    command.main([*words, "--robustness", "gain"])  # the curve that is there stays
    record = json.loads((out / "synth_style.json").read_text())
    assert [point["shots"] for point in record["few_shot"]] == [1, 2]
    assert set(record["robustness"]["kinds"]) == {"gain"} and len(record["robustness"]["kinds"]["gain"]["values"]) == 5
    command.main([*words, "--robustness", "gain", "--few-shot", "2"])
    assert "already done" in capsys.readouterr().err
    with pytest.raises(ValueError, match="at least 1"):
        command.main([*words, "--few-shot", "0"])
    monkeypatch.setenv("GROUNDBASS_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no corpus to probe with"):
        command.main(words)


def test_two_folders_of_one_name_have_two_results(tmp_path):
    """`folder:A/test folder:B/test`: neither is written over the other, in one start or in two."""
    for place, level in (("a", 0.1), ("b", 0.4)):
        folder = tmp_path / place / "test"
        rows = ["path,kind"]
        for number in range(12):
            t = np.arange(RATE) / RATE
            sound = level * np.sin(2 * np.pi * (300 + 900 * (number % 2)) * t + number).astype(np.float32)
            audio.write(folder.mkdir(parents=True, exist_ok=True) or folder / f"{number}.wav", sound, RATE)
            rows.append(f"{number}.wav,{'xy'[number % 2]}")
        (folder / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "mine.py").write_text(
        "from groundbass.probe.baselines.simple import LogMelBaseline\nclass Mine(LogMelBaseline): pass\n"
    )
    words = [f"{tmp_path / 'mine.py'}:Mine", "--label", "kind", "--baselines", "constant"]
    words += ["--store", str(tmp_path / "store"), "--out"]
    one, other = (f"folder:{tmp_path / place / 'test'}" for place in "ab")
    assert command.main([words[0], one, other, *words[1:], f"{tmp_path / 'once'}"]) == 0
    for address in (one, other, one):
        assert command.main([words[0], address, *words[1:], f"{tmp_path / 'twice'}"]) == 0
    for out in ("once", "twice"):
        found = {
            path.stem: json.loads(path.read_text())["address"] for path in (tmp_path / out).glob("*test_kind.json")
        }
        assert {name: address.split(" --")[0] for name, address in found.items()} == {
            "test_kind": one,
            "b_test_kind": other,
        }
