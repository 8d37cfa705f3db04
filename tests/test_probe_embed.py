"""Embedding anyone's audio, and searching among it: against plain NumPy on an encoder whose answer is known."""

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from fuzz import within

import groundbass
from groundbass.models.encoder import Encoder, load_encoder, random_copy, weights_hash
from groundbass.probe.apply import embed as command
from groundbass.probe.apply import embedding
from groundbass.probe.apply.embed import embed, read_about
from groundbass.probe.apply.embedding import Embedding, chosen_layers, parts, pieces
from groundbass.probe.apply.similar import Index, Place, similar
from groundbass.probe.listen.features import identity

RATE, HOP = 16_000, 160
CODE = '''
import torch


class Bands:
    """Layer 0: loudness; layer 1: energy at two frequencies. Frames of 10 ms that hear nothing else."""

    sample_rate, frame_rate, dim, layers = 16_000, 100.0, 2, 2

    def valid_frames(self, valid):
        return (valid // 160).clamp(min=1)

    def hidden_states(self, waveform, valid=None, sample_rate=None):
        if waveform.shape[1] < 160:
            waveform = torch.nn.functional.pad(waveform, (0, 160 - waveform.shape[1]))
        frames = waveform.unfold(1, 160, 160)
        spectrum = torch.fft.rfft(frames).abs()
        loud = torch.stack([frames.abs().mean(-1), frames.square().mean(-1)], -1)
        return torch.stack([loud, spectrum[..., [3, 10]] / 80], 1)
'''


@pytest.fixture
def encoder(tmp_path):
    (tmp_path / "bands.py").write_text(CODE)
    return f"{tmp_path / 'bands.py'}:Bands"


def sound(seconds, seed=0):
    return (0.2 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def loudness(x):
    """The oracle for layer 0: [frames, 2]."""
    frames = x[: len(x) // HOP * HOP].reshape(-1, HOP).astype(np.float64)
    return np.stack([np.abs(frames).mean(1), (frames**2).mean(1)], 1)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "music"
    (place / "deep").mkdir(parents=True)
    for number, seconds in enumerate((3.0, 12.0, 1.0, 25.0)):
        sf.write(place / ("deep" if number % 2 else ".") / f"{number}.wav", sound(seconds, number), RATE, "FLOAT")
    return place


def column(table, name):
    return np.stack(table[name].to_pylist())


@pytest.mark.parametrize("overlap", [0.0, 1.0, 3.3])
def test_frames_of_windows_are_the_frames_of_the_whole(encoder, overlap):
    """Each moment once, in order, whatever the windows; windows of 10 ms multiples keep the frames on their grid."""
    x = sound(23.0)
    heard = groundbass.load_encoder(encoder)
    values, times = heard.embed(x, layers=[0], unit="frame", window_seconds=4.0, overlap_seconds=overlap, times=True)
    whole = loudness(x)
    centres = times.mean(1).numpy()
    assert np.all(np.diff(centres) > 0)
    near = np.abs(centres[:, None] - (np.arange(len(whole)) + 0.5)[None] * HOP / RATE).argmin(1)
    aligned = np.abs(centres - (near + 0.5) * HOP / RATE) < 1e-9
    assert aligned.mean() > 0.1 and abs(len(values) - len(whole)) <= 8
    np.testing.assert_allclose(values[aligned, 0], whole[near[aligned]], atol=1e-6)
    mean = heard.embed(x, layers=0, window_seconds=4.0, overlap_seconds=overlap)
    np.testing.assert_allclose(mean, whole.mean(0), rtol=0.02)


def test_windows_and_moments(encoder):
    x = sound(20.0)
    heard = groundbass.load_encoder(encoder)
    values, times = heard.embed(x, layers="all", unit="window", pooling="mean+std", window_seconds=5.0, times=True)
    assert values.shape == (4, 2, 4) and values.dtype == torch.float32
    np.testing.assert_allclose(times, [[0, 5], [5, 10], [10, 15], [15, 20]])
    for row, part in enumerate(np.split(loudness(x), 4)):
        np.testing.assert_allclose(values[row, 0], np.concatenate([part.mean(0), part.std(0)]), rtol=1e-5)
    track = heard.embed(x, layers=0, pooling="mean+std", window_seconds=5.0)
    np.testing.assert_allclose(track, np.concatenate([loudness(x).mean(0), loudness(x).std(0)]), rtol=1e-5)


@pytest.mark.parametrize(("rate", "channels"), [(8_000, 1), (44_100, 2), (96_000, 6), (192_000, 1)])
def test_any_rate_and_channels(encoder, tmp_path, rate, channels):
    """A low tone means the same at every rate; a file and its waveform give the same vector."""
    t = np.arange(rate * 2) / rate
    x = np.repeat(0.5 * np.sin(2 * np.pi * 300 * t)[:, None], channels, 1).astype(np.float32)
    sf.write(tmp_path / "x.wav", x, rate, "FLOAT")
    heard = groundbass.load_encoder(encoder)
    vector = heard.embed(tmp_path / "x.wav")
    assert vector.shape == (2,) and abs(float(vector[0]) - 0.5) < 0.01 and float(vector[1]) < 0.01
    torch.testing.assert_close(heard.embed(x.T, rate), vector, atol=1e-5, rtol=1e-4)


def test_our_own_models_have_it_too(tmp_path):
    from groundbass.models.published import write_encoder
    from groundbass.models.samplecnn import SampleCNNConfig, SampleCNNModel

    torch.manual_seed(0)
    config = SampleCNNConfig(sample_rate=RATE, strides=[3, 3, 3, 2], channels=[4, 4, 4, 8, 8, 8])
    write_encoder(SampleCNNModel(config).eval(), tmp_path / "e")
    heard = groundbass.load_encoder(tmp_path / "e")
    x = torch.from_numpy(sound(2.0))[None]
    expected = heard.hidden_states(x)[0, -1].mean(0)
    torch.testing.assert_close(heard.embed(x[0], window_seconds=30.0), expected, atol=1e-5, rtol=1e-4)
    plain = load_encoder(tmp_path / "e")
    assert not hasattr(plain, "embed")  # who embeds stands around the encoder, and changes nobody's class
    assert identity(heard) == identity(plain) and isinstance(heard, Encoder) and heard.model.dim == 8
    again = copy.deepcopy(heard).embed(x[0], window_seconds=30.0)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-4)
    assert weights_hash(random_copy(heard, 1)) == weights_hash(random_copy(plain, 1)) != weights_hash(heard)


def test_table_has_every_file_and_opens_elsewhere(encoder, folder, tmp_path, capsys):
    out = tmp_path / "x.parquet"
    embed(encoder, (folder,), out=out, layers="all", unit="window")
    table = pq.read_table(out)
    assert table.column_names == ["path", "start", "end", "layer_0", "layer_1"]
    assert table["path"].to_pylist() == [
        str(folder / name) for name in ("0.wav", "2.wav", "deep/1.wav", "deep/1.wav", *["deep/3.wav"] * 3)
    ]
    heard = loudness(sound(12.0, 1))
    np.testing.assert_allclose(column(table, "layer_0")[2], heard[:600].mean(0), rtol=1e-5)
    assert "7 rows from 4 tracks" in capsys.readouterr().out
    embed(encoder, (folder,), out=tmp_path / "x.npz", layers="all", unit="window")
    with np.load(tmp_path / "x.npz") as held:
        assert held["path"].tolist() == table["path"].to_pylist()
        for name in ("layer_0", "layer_1"):
            np.testing.assert_array_equal(held[name], column(table, name))
    assert not list(tmp_path.glob(".*.parts")), "parts are gone once they are joined"


def test_killed_and_resumed_gives_the_same_table(encoder, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "PART_SECONDS", 10.0)
    embed(encoder, (folder,), out=tmp_path / "whole.parquet", unit="frame")
    real, finished = command.written, []

    def dies(path, *, locked):
        if len(finished) == 2:
            raise KeyboardInterrupt
        finished.append(path)
        return real(path, locked=locked)

    monkeypatch.setattr(command, "written", dies)
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, (folder,), out=tmp_path / "x.parquet", unit="frame")
    assert not (tmp_path / "x.parquet").exists()
    heard = []

    def told(path, *, locked):
        heard.append(path.name)
        return real(path, locked=locked)

    monkeypatch.setattr(command, "written", told)
    embed(encoder, (folder,), out=tmp_path / "x.parquet", unit="frame")
    assert heard and "000000.parquet" not in heard, "the finished parts weren't made again"
    assert pq.read_table(tmp_path / "x.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    heard.clear()
    embed(encoder, (folder,), out=tmp_path / "x.parquet", unit="frame")
    assert not heard, "a finished table is left as it is"


def test_what_cannot_be_read_is_listed_and_the_rest_is_there(encoder, folder, tmp_path, capsys):
    (folder / "text.wav").write_text("no audio")
    bad = sound(2.0)
    bad[100] = np.nan
    sf.write(folder / "nan.wav", bad, RATE, "FLOAT")
    sf.write(folder / "cut.flac", sound(20.0), RATE)
    whole = (folder / "cut.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 3])
    out = tmp_path / "x.parquet"
    embed(encoder, (folder,), out=out)
    assert {Path(path).name for path in pq.read_table(out)["path"].to_pylist()} == {"0.wav", "1.wav", "2.wav", "3.wav"}
    with (tmp_path / "x.parquet.skipped.csv").open() as file:
        reasons = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"text.wav", "nan.wav", "cut.flac"}
    assert "NaN" in reasons["nan.wav"]
    captured = capsys.readouterr()
    assert "4 rows from 4 tracks" in captured.out and "3 tracks could not be read" in captured.err


def test_the_list_of_what_was_skipped_holds_no_formula(encoder, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    Path("=1+1.wav").write_bytes(b"no sound")
    embed(encoder, (Path("0.wav"), Path("=1+1.wav")), out=tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet.skipped.csv").read_text().splitlines()[1].startswith("'=1+1.wav,")


def test_what_isnt_sound_neither_hangs_nor_ends_embed_and_similar(encoder, folder, tmp_path, capsys):
    sf.write(folder / "huge.wav", sound(2.0) * 1e30, RATE, "FLOAT")
    os.mkfifo(folder / "pipe.wav")
    (folder / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    os.link(folder / "0.wav", os.fsencode(folder) + b"/caf\xe9.wav")
    out = tmp_path / "x.parquet"
    with within(60):
        embed(encoder, (folder,), out=out)
        with pytest.raises((ValueError, FileNotFoundError), match=r"pipe\.wav"):
            similar(out, (folder / "pipe.wav",), encoder=encoder)
    assert {Path(path).name for path in pq.read_table(out)["path"].to_pylist()} == {"0.wav", "1.wav", "2.wav", "3.wav"}
    with (tmp_path / "x.parquet.skipped.csv").open(errors="surrogateescape") as file:
        rows = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert len(rows) == 4 and "full scale" in rows["huge.wav"] and {"pipe.wav", "gone.wav"} < rows.keys()


def test_hours_are_cut_into_bounded_pieces(encoder):
    """Where tracks aren't pooled, pieces of long files are bounded, and so are parts."""
    from groundbass.data.track import Manifest, Track

    heard = groundbass.load_encoder(encoder)
    manifest = Manifest.from_tracks([Track("long.wav", "long.wav", 5 * 3600 * 44_100, 44_100, 2, "h")], ".")
    asked = Embedding((0,), "frame")
    cut = list(pieces(manifest, heard, asked))
    assert len(cut) == 5 * 3600 / 120
    assert sum(w.samples for piece in cut for w in piece.windows) == 5 * 3600 * RATE
    assert len(list(parts(manifest, heard, asked))) == 30


def test_bad_requests_say_what_is_wrong(encoder, folder, tmp_path):
    heard = groundbass.load_encoder(encoder)
    with pytest.raises(ValueError, match="layers 0 to 1"):
        chosen_layers(heard, (5,))
    assert chosen_layers(heard, (-1, 0, 1)) == (1, 0)
    with pytest.raises(ValueError, match="shorter than the window"):
        heard.embed(sound(1.0), overlap_seconds=10.0)
    with pytest.raises(ValueError, match="transpose"):
        heard.embed(np.zeros((1000, 2), np.float32), RATE)
    with pytest.raises(ValueError, match="floating point"):
        heard.embed(np.zeros(1000, np.int16), RATE)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.wav"):
        heard.embed(tmp_path / "nowhere.wav")
    with pytest.raises(ValueError, match="8000"):
        heard.embed(folder / "0.wav", 8000)
    with pytest.raises(ValueError, match="NaN"):
        heard.embed(np.full(RATE, np.nan, np.float32), RATE)
    with pytest.raises(ValueError, match=r"\.parquet or \.npz"):
        embed(encoder, (folder,), out=tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        embed(encoder, (folder,), out=tmp_path / "x.parquet")
    embed(encoder, (folder,), out=tmp_path / "x.parquet", force=True)
    with pytest.raises(ValueError, match=r"bands\.py is no sound.*\.flac"):
        embed(encoder, (tmp_path / "bands.py",), out=tmp_path / "y.parquet")


def tones(place, frequencies):
    place.mkdir()
    t = np.arange(3 * RATE) / RATE
    for number, frequency in enumerate(frequencies):
        noise = 0.01 * np.random.default_rng(number).standard_normal(len(t))
        sf.write(place / f"{number}_{frequency}.wav", 0.3 * np.sin(2 * np.pi * frequency * t) + noise, RATE, "FLOAT")


def test_the_nearest_are_those_of_a_plain_computation():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(60, 5)).astype(np.float32) * [1, 10, 0.1, 1, 1] + 3
    vectors[:, 4] = 7  # a constant dimension says nothing
    places = [Place(f"{row // 3}.wav", row % 3, row % 3 + 1) for row in range(60)]
    hits = Index(places, vectors).nearest(places[:3], vectors[:3], 4)
    z = (vectors - vectors.mean(0))[:, :4] / vectors.std(0)[:4]
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    best = sorted(((z[3 * k : 3 * k + 3] @ z[:3].T).max(), f"{k}.wav") for k in range(1, 20))[::-1][:4]
    assert [hit.found.path for hit in hits] == [name for _, name in best]
    np.testing.assert_allclose([hit.similarity for hit in hits], [score for score, _ in best], atol=1e-5)


def test_similar_finds_the_tone_in_and_outside_the_table(encoder, tmp_path, capsys):
    tones(tmp_path / "music", [300, 1000, 300, 1000, 300])
    tones(tmp_path / "asked", [1000])
    embed(encoder, (tmp_path / "music",), out=tmp_path / "x.parquet", unit="window", window_seconds=1.0)
    capsys.readouterr()
    similar(tmp_path / "x.parquet", (tmp_path / "music/0_300.wav",), k=2)
    found = capsys.readouterr().out
    assert "2_300" in found and "4_300" in found and "1_1000" not in found
    with pytest.raises(ValueError, match="say where the encoder lies with --encoder"):  # a table's word isn't run
        similar(tmp_path / "x.parquet", (tmp_path / "asked/0_1000.wav",), k=2)
    similar(tmp_path / "x.parquet", (tmp_path / "asked/0_1000.wav",), k=2, encoder=encoder)
    found = capsys.readouterr().out
    assert "1_1000" in found and "3_1000" in found
    text = (tmp_path / "bands.py").read_text()
    (tmp_path / "bands.py").write_text(text.replace("/ 80", "/ 81"))
    with pytest.raises(ValueError, match="isn't the encoder that made the table"):
        similar(tmp_path / "x.parquet", (tmp_path / "asked/0_1000.wav",), encoder=encoder)
    with pytest.raises(FileNotFoundError, match="groundbass embed"):
        similar(tmp_path / "y.parquet", (tmp_path / "asked/0_1000.wav",))
    with pytest.raises(ValueError, match="no table of embeddings"):
        similar(tmp_path / "asked/0_1000.wav", (tmp_path / "asked/0_1000.wav",))


def test_what_ships_hears_where_nobody_names_an_encoder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GROUNDBASS_CACHE", str(tmp_path / "cache"))
    tones(tmp_path / "music", [300, 1000, 300, 1000, 300])
    tones(tmp_path / "asked", [1000])
    told = embed(str(tmp_path / "music"), out=tmp_path / "x.parquet")
    assert told["tracks"] == 5 and read_about(tmp_path / "x.parquet")["encoder"] == "groundbass-tiny"
    asked = (tmp_path / "asked/0_1000.wav",)
    found = [similar(table, asked, k=2)[0][1] for table in (tmp_path / "x.parquet", tmp_path / "music")]
    assert found[0] == found[1] and {Path(hit.found.path).name for hit in found[0]} == {"1_1000.wav", "3_1000.wav"}
    tones(tmp_path / "music/more", [1000, 300])  # the folder has changed: its table is made anew
    assert any("more/0_1000.wav" in hit.found.path for hit in similar(tmp_path / "music", asked, k=3)[0][1])
    with pytest.raises(ValueError, match="Which sound shall groundbass-tiny hear"):
        embed("groundbass-tiny", out=tmp_path / "y.parquet")
    (tmp_path / "music/config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds a model, no table and no audio"):
        similar(tmp_path / "music", asked)


def browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


PLAY = """<img src="$url/wait"><script>
const first = document.querySelector("audio");
first.muted = true;
first.addEventListener("timeupdate", () => { if (first.currentTime > 0.3) new Image().src = "$url/plays"; });
first.play();
</script>"""


@pytest.fixture
def witness():
    """A server that a page tells when it plays (/plays), and that keeps it from being done before (/wait)."""
    plays = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/plays":
                plays.set()
            else:
                plays.wait(30)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", plays
    server.shutdown()


@pytest.mark.skipif(browser() is None, reason="no Chromium here")
def test_the_players_play_in_a_real_browser(encoder, witness, tmp_path):
    """Every player knows how long its recording is, one of a kind that browsers can't read too; and the first plays."""
    tones(tmp_path / "music & more", [300, 1000, 300])
    x, rate = sf.read(tmp_path / "music & more/0_300.wav")
    sf.write(tmp_path / "music & more/3 %.aiff", x, rate)
    embed(encoder, (tmp_path / "music & more",), out=tmp_path / "x.parquet")
    page = tmp_path / "pages" / "p.html"
    similar(tmp_path / "x.parquet", (tmp_path / "music & more/0_300.wav",), page=page)
    url, plays = witness
    page.write_text(page.read_text() + PLAY.replace("$url", url))
    command = [
        browser(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
        "--enable-logging=stderr", f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{page}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert plays.is_set(), done.stderr
    assert re.findall(r'data-seconds="(.*?)"', done.stdout) == ["3.0"] * 4
    assert "CONSOLE" not in done.stderr, done.stderr


def test_the_metadata_tell_where_vectors_come_from(encoder, folder, tmp_path):
    embed(encoder, (folder,), out=tmp_path / "x.parquet")
    about = json.loads(pq.read_schema(tmp_path / "x.parquet").metadata[b"groundbass"])
    assert about["identity"]["sample_rate"] == RATE and about["asked"]["layers"] == [1]
    assert about["encoder"].endswith("bands.py:Bands")
