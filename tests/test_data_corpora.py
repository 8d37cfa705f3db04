"""Readers of public corpora: every layout in miniature, with the faults of the published files; half-broken copies."""

import csv
import hashlib
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf

from groundbass.cli import main
from groundbass.data import corpora
from groundbass.data.collections import verify
from groundbass.data.corpora import (
    emomusic,
    fma,
    giantsteps_key,
    giantsteps_mtg_key,
    gtzan,
    gtzan_beats,
    magnatagatune,
    mtg_jamendo,
    nsynth,
    vocalset,
)  # fmt: skip

RATE = 16_000


def sound(path, number=0, seconds=0.3, rate=RATE):
    """A short tone, another for every number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.3 * np.sin(2 * np.pi * (200 + 7 * number) * np.arange(round(seconds * rate)) / rate)
    sf.write(path, tone.astype(np.float32), rate, format="WAV" if path.suffix == ".au" else None)


def text(path, content, newline="\n", encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.replace("\n", newline).encode(encoding))


def by_key(tracks):
    return {track.key: track for track in tracks}


# GTZAN


@pytest.mark.parametrize(
    "form", ["genres/{g}/{g}.{n}.wav", "Data/genres_original/{g}/{g}.{n}.wav", "genres/{g}/{g}.{n}.au"]
)
def test_gtzan_layouts(tmp_path, form):
    for number in (0, 29, 54):
        sound(tmp_path / form.format(g="jazz", n=f"{number:05d}"), number)
    sound(tmp_path / form.format(g="blues", n="00029"), 9)
    sound(tmp_path / "elsewhere" / "noise.wav")
    if form.endswith("au"):
        sound(tmp_path / "copies" / "blues.00029.wav", 9)  # there twice: wav counts
    found = by_key(gtzan.tracks(tmp_path))
    assert set(found) == {"jazz.00000", "jazz.00029", "jazz.00054", "blues.00029"}
    assert found["blues.00029"].labels == {"genre": "blues"} and found["blues.00029"].sample_rate == RATE
    entries = gtzan.entries(tmp_path)
    assert Counter(e.split for e in entries) == {"train": 443, "valid": 197, "test": 290, None: 70}
    assert Counter(e.labels["genre"] for e in entries if e.split == "test")["rock"] == 32


def test_gtzan_lists_in_the_root_are_used_and_must_be_whole(tmp_path):
    sound(tmp_path / "genres/pop/pop.00001.wav")
    lists = {"train": "blues/blues.00001.wav", "valid": "pop/pop.00001.wav", "test": "hip-hop/hip-hop.00002.wav"}
    for part, line in lists.items():
        text(tmp_path / f"{part}_filtered.txt", line + "\n\n", "\r\n")
    found = {e.key: e.split for e in gtzan.entries(tmp_path) if e.split}
    assert found == {"blues.00001": "train", "pop.00001": "valid", "hiphop.00002": "test"}
    text(tmp_path / "test_filtered.txt", "polka/polka.00001.wav\n")
    with pytest.raises(ValueError, match="polka"):
        gtzan.entries(tmp_path)
    (tmp_path / "test_filtered.txt").unlink()
    with pytest.raises(FileNotFoundError, match="some are missing"):
        gtzan.entries(tmp_path)


def test_an_unreadable_file_is_left_out_and_named(tmp_path, capsys):
    sound(tmp_path / "genres/jazz/jazz.00055.wav")
    text(tmp_path / "genres/jazz/jazz.00054.wav", "no audio at all")
    text(tmp_path / "genres/jazz/jazz.00056.wav", "")
    assert [t.key for t in gtzan.tracks(tmp_path)] == ["jazz.00055"]
    with pytest.raises(SystemExit) as left:
        main(["data", "verify", "gtzan", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert left.value.code == 1 and not found["ok"]
    assert set(found["unreadable"]) == {"genres/jazz/jazz.00054.wav", "genres/jazz/jazz.00056.wav"}
    assert found["sets"]["split"]["test"]["expected"] == 290 and len(found["missing"]) == 997


# GTZAN beats


def beats_corpus(root):
    text(root / "beats/gtzan_blues_00000.beats", "0.5\t1\n1.0\t2\n1.5\t3\n2.0\t4\n2.5\t1\n", "\r\n")
    text(root / "beats/gtzan_jazz_00003.beats", "0.25\n0.75\n1.25\n")
    text(root / "tempo/gtzan_blues_00000.bpm", "120.0\n")
    for name in ("blues/blues.00000", "jazz/jazz.00003"):
        sound(root / f"genres/{name}.wav", len(name))
    return root


def test_gtzan_beats_with_and_without_positions(tmp_path):
    found = by_key(gtzan_beats.tracks(beats_corpus(tmp_path / "gtzan_beats")))
    assert found["blues.00000"].labels["beats"] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert found["blues.00000"].labels["downbeats"] == [0.5, 2.5] and found["blues.00000"].labels["tempo"] == 120
    assert "downbeats" not in found["jazz.00003"].labels and len(found["jazz.00003"].labels["beats"]) == 3
    (tmp_path / "gtzan").mkdir()
    shutil.move(tmp_path / "gtzan_beats/genres", tmp_path / "gtzan")
    assert len(gtzan_beats.tracks(tmp_path / "gtzan_beats")) == 2  # the audio in a folder gtzan beside it


def test_gtzan_beats_as_jams(tmp_path):
    """The authors' archive: times of beats and of downbeats apart, told by the sandbox."""
    beats_corpus(tmp_path)
    expected = {track.key: track.labels for track in gtzan_beats.tracks(tmp_path)}
    shutil.rmtree(tmp_path / "beats")
    for name, beats, downbeats in (("blues.00000", [0.5, 1.0, 1.5, 2.0, 2.5], [0.5, 2.5]),
                                   ("jazz.00003", [0.25, 0.75, 1.25], [])):  # fmt: skip
        annotations = [
            {
                "namespace": "beat",
                "sandbox": {"annotation_type": kind},
                "data": [{"time": t, "value": 1} for t in times],
            }
            for kind, times in (("downbeat", downbeats), ("beat", beats))
        ]
        annotations.append({"namespace": "tempo", "sandbox": {}, "data": [{"time": 0, "value": 120}]})
        file = tmp_path / f"GTZAN-Rhythm_v2_ismir2015_lbd/jams/{name}.wav.jams"
        text(file, json.dumps({"annotations": annotations}))
    found = {track.key: track.labels for track in gtzan_beats.tracks(tmp_path)}
    assert found == {key: {k: v for k, v in labels.items() if k != "tempo"} for key, labels in expected.items()}
    for broken in ('{"annotations": [{"sandbox"', '{"annotations": [{"data": []}]}', '{"annotations": []}'):
        text(file, broken)
        with pytest.raises(ValueError, match=r"jazz\.00003\.wav\.jams"):
            gtzan_beats.entries(tmp_path)


@pytest.mark.parametrize("content", ["0.5\t1\n0.4\t2\n", "half\t1\n", ""])
def test_gtzan_beats_that_are_no_beats(tmp_path, content):
    beats_corpus(tmp_path)
    text(tmp_path / "beats/gtzan_blues_00000.beats", content)
    with pytest.raises(ValueError, match=r"gtzan_blues_00000\.beats"):
        gtzan_beats.entries(tmp_path)


# GiantSteps


MTG = (  # id, artists, key, confidence
    ("1", "Alpha", "C# minor", "2"), ("2", "Alpha, Beta", "B major ", "2"), ("3", "Gamma", "C minor / F# minor", "2"),
    ("4", "Delta", "d minor", "1"), ("5", "Epsilon", "Bb major", "2"), ("6", "Beta", "A minor", "2"),
)  # fmt: skip


def mtg_corpus(root, newline="\n"):
    lines = ["ID\tMANUAL KEY\tC", *(f"{i}\t{key}\t{c}" for i, _, key, c in MTG)]
    text(root / "annotations/annotations.txt", "\n".join(lines) + "\n", newline)
    head = "ID\tARTIST\tSONG TITLE\tMIX\tLABEL\tBP GENRE\tBP BPM\tBP KEY"
    lines = [head, *(f"{i}\t{artist}\tTitle\tMix\tLabel\ttechno\t126\tC min" for i, artist, _, _ in MTG)]
    text(root / "annotations/beatport_metadata.txt", "\n".join(lines) + "\n", newline)
    for number, _, _, _ in MTG:
        sound(root / f"audio/{number}.LOFI.mp3", int(number), 1.0)
    return root


def test_giantsteps_rule_is_the_published_one(tmp_path):
    """By hand: SHA-1 modulo 116, valid from 100; who works with a valid artist becomes valid."""
    names = {"Alpha", "Beta", "Gamma", "Delta", "Epsilon"}
    valid = {n for n in names if int(hashlib.sha1(n.lower().encode()).hexdigest(), 16) % 116 >= 100}
    listed = [(i, artists) for i, artists, _, _ in MTG]
    sets = giantsteps_mtg_key.artist_sets(listed)
    for track, artists in listed:
        if set(artists.split(", ")) & valid:
            assert sets[track] == "valid"
    forced = [("a", "Solo"), *((f"x{k}", f"Solo, Friend {k}") for k in range(200))]
    sets = giantsteps_mtg_key.artist_sets(forced)
    assert set(sets.values()) == {"valid"}  # one of 200 friends is valid, so the soloist, so all of them


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_giantsteps_mtg_keeps_sure_single_keys_in_flats(tmp_path, newline):
    found = by_key(giantsteps_mtg_key.tracks(mtg_corpus(tmp_path, newline)))
    assert {key.rpartition("/")[2]: t.labels["key"] for key, t in found.items()} == {
        "1": "Db minor", "2": "B major", "5": "Bb major", "6": "A minor",
    }  # fmt: skip
    assert len({found[f"giantsteps_mtg_key/{k}"].split for k in "126"}) == 1  # Alpha and Beta work together


def test_giantsteps_tests_on_one_set_and_trains_on_the_other(tmp_path, capsys):
    mtg_corpus(tmp_path / "giantsteps-mtg-key-dataset")
    test = tmp_path / "giantsteps-key-dataset"
    for number, key in ((77, "F minor"), (78, "Gb major")):
        text(test / f"annotations/key/{number}.LOFI.key", key)
        sound(test / f"audio/{number}.LOFI.mp3", number, 1.0)
        digest = hashlib.md5((test / f"audio/{number}.LOFI.mp3").read_bytes()).hexdigest()
        text(test / f"md5/{number}.LOFI.md5", f"{digest}  {number}.LOFI.mp3\n")
    found = by_key(giantsteps_key.tracks(tmp_path))
    assert len(found) == 6 and found["giantsteps_key/77"].split == "test"
    assert found["giantsteps_key/78"].labels == {"key": "Gb major"}
    assert by_key(giantsteps_key.tracks(test)).keys() == found.keys()  # side by side
    sound(test / "audio/78.LOFI.mp3", 5, 1.0)
    with pytest.raises(SystemExit):
        main(["data", "verify", "giantsteps_key", str(tmp_path), "--json"])
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert any("differ from their published checksum" in p and "78.LOFI.mp3" in p for p in problems)
    text(test / "annotations/key/77.LOFI.key", "H dur")
    with pytest.raises(ValueError, match="H dur"):
        giantsteps_key.entries(tmp_path)


# emoMusic


def emo_corpus(root):
    songs = "song_id,file_name,Artist,Song title,start of the segment (min.sec),end of the segment (min.sec),"
    songs += "Genre,Mediaeval 2013 set\n"
    emotions = "song_id, mean_arousal, std_arousal, mean_valence, std_valence\n"
    for number in range(1, 13):
        part = "evaluation" if number > 9 else "development"
        songs += (
            f'{number},\t"{number}.mp3",\t"Artist, the {number} \t",\t"Title" ,\t0.1,\t0.46,\t"Rock\t",\t"{part}"\n'
        )
        emotions += f"{number},\t{number / 2:.1f}, 1.0 , {9 - number / 2:.1f},1.0\n"
        sound(root / f"clips_45seconds/{number}.mp3", number, 1.0)
    text(root / "annotations/songs_info.csv", songs, "\r\n")
    text(root / "annotations/static_annotations.csv", emotions, "\r\n")
    return root


def test_emomusic_strips_its_padding(tmp_path):
    found = by_key(emomusic.tracks(emo_corpus(tmp_path)))
    assert len(found) == 12
    assert found["0003"].labels == {"arousal": 1.5, "valence": 7.5, "genre": "Rock"}
    assert found["0003"].artist == "Artist, the 3"
    assert [t.split for k, t in sorted(found.items())][9:] == ["test"] * 3
    plain = "artist the"  # digits and commas go, white space collapses
    expected = "train" if int(hashlib.sha1(plain.encode()).hexdigest(), 16) % 10 < 8 else "valid"
    assert found["0003"].split == expected == emomusic.artist_set("Artist,  the 7")


def test_emomusic_refuses_deam_and_changed_columns(tmp_path):
    emo_corpus(tmp_path)
    text(tmp_path / "annotations/deam/static_annotations_averaged_songs_1_2000.csv", "song_id\n")
    with pytest.raises(ValueError, match="DEAM is another data set"):
        emomusic.entries(tmp_path)
    shutil.rmtree(tmp_path / "annotations/deam")
    text(tmp_path / "annotations/static_annotations.csv", "song_id,arousal\n1,2\n")
    with pytest.raises(ValueError, match="no column 'mean_arousal'"):
        emomusic.entries(tmp_path)
    for deam in ("song_id,mean_arousal,mean_valence\n1999,2,3\n", "song_id, valence_mean, arousal_mean\n2,3,4\n"):
        text(tmp_path / "annotations/static_annotations.csv", deam)  # renamed
        with pytest.raises(ValueError, match="DEAM"):
            emomusic.entries(tmp_path)


@pytest.mark.parametrize(
    "form", ['{n},{n}.mp3,The "Dirty" Three,1,Rock,{p}', '{n},\t"{n}.mp3",\t"A, b",1,\tRock ,\t{p}']
)
def test_emomusic_tables_are_read_as_python_reads_them_where_that_works(tmp_path, form):
    """Quotes within a cell are letters; only where the cells don't fit is padding taken from before the quotes."""
    emo_corpus(tmp_path)
    lines = [form.format(n=n, p="development" if n < 10 else "evaluation") for n in range(1, 13)]
    text(tmp_path / "annotations/songs_info.csv", "\n".join(["song_id,file,Artist,t,Genre,Mediaeval 2013 set", *lines]))
    expected = next(csv.reader([form.replace("\t", "")]))[2].replace('"', '"')
    assert {entry.artist for entry in emomusic.entries(tmp_path)} == {expected}


# MagnaTagATune


def mtt_corpus(root, rows=12):
    tags = [f"tag{k:02d}" for k in range(60)]
    lines = ["\t".join(f'"{cell}"' for cell in ["clip_id", *tags, "mp3_path"])]
    info = ["\t".join(f'"{c}"' for c in ["clip_id", "track_number", "title", "artist", "album", "mp3_path"])]
    for number in range(rows):
        folder = "0123456789abcdef"[number % 16]
        path = f"{folder}/band-song-{number}-0-29.mp3"
        has = [int(k < 50 and (number + k) % 4 == 0 and number != 3) for k in range(60)]
        lines.append("\t".join(f'"{cell}"' for cell in [number + 1, *has, path]))
        info.append("\t".join(f'"{c}"' for c in [number + 1, 1, "song", f"band {number % 5}", "album", path]))
        sound(root / path, number, 0.5)
    bad = ["35644", *(["1"] * 60), "6/norine-x.mp3"]
    lines.append("\t".join(f'"{cell}"' for cell in bad))
    text(root / "annotations_final.csv", "\n".join(lines) + "\n")
    text(root / "clip_info_final.csv", "\n".join(info) + "\n", encoding="latin-1")
    return root


def test_magnatagatune_both_splits_and_its_three_bad_clips(tmp_path):
    found = by_key(magnatagatune.tracks(mtt_corpus(tmp_path, 16)))
    assert "35644" not in found and len(found) == 16
    splits = [found[str(k + 1)].split for k in range(16)]
    assert splits == ["train"] * 12 + ["valid"] + ["test"] * 3
    assert found["4"].labels == {"tags": []}  # kept, without a place in the filtered split
    assert found["1"].labels["split_filtered"] == "train" and found["1"].artist == "band 0"
    assert {tag for t in found.values() for tag in t.labels["tags"]} == {f"tag{k:02d}" for k in range(50)}
    text(tmp_path / "annotations_final.csv", '"clip_id"\t"guitar"\t"mp3_path"\n"1"\t"1"\n')
    with pytest.raises(ValueError, match="line 2, has 2 cells"):
        magnatagatune.entries(tmp_path)


def test_magnatagatune_ties_keep_the_columns_order(tmp_path):
    names = [f"t{k:02d}" for k in range(52)]  # all equally frequent: the first fifty columns stay
    rows = [["clip_id", *names, "mp3_path"], *([n, *([1] * 52), f"{n}/x-{n}.mp3"] for n in (1, 2))]
    text(tmp_path / "annotations_final.csv", "\n".join("\t".join(map(str, row)) for row in rows) + "\n")
    assert magnatagatune.entries(tmp_path)[0].labels["tags"] == names[:50]


# MTG-Jamendo


def jamendo_corpus(root, newline="\r\n"):
    head = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
    number = 0
    for subset, prefix in (("moodtheme", "mood/theme"), ("top50tags", "genre"), ("genre", "genre")):
        for part in ("train", "validation", "test"):
            lines = [head]
            for k in range(3):
                number = {"train": 0, "validation": 10, "test": 20}[part] + k
                tags = [f"{prefix}---a", f"{prefix}---b"][: 1 + k % 2]
                lines.append(
                    f"track_{number:07d}\tartist_{number:06d}\talbum_1\t{number:02d}/{number}.mp3\t200.1\t"
                    + "\t".join(tags)
                )
                sound(root / f"audio-low/{number:02d}/{number}.low.mp3", number, 0.5)
            text(root / f"data/splits/split-0/autotagging_{subset}-{part}.tsv", "\n".join(lines) + "\n", newline)
    return root


def test_jamendo_tags_have_no_line_ends_and_splits_are_labels(tmp_path):
    found = by_key(mtg_jamendo.tracks(jamendo_corpus(tmp_path)))
    assert len(found) == 9
    track = found["track_0000011"]
    assert track.labels["moodtheme"] == ["a", "b"] and track.labels["top50"] == ["genre---a", "genre---b"]
    assert track.split == track.labels["moodtheme_split_0"] == track.labels["genre_split_0"] == "valid"
    assert "instrument" not in track.labels
    (tmp_path / "data/splits/split-0/autotagging_genre-test.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"autotagging_genre-test\.tsv"):
        mtg_jamendo.entries(tmp_path)


def test_jamendo_cut_lines_and_moved_columns(tmp_path):
    jamendo_corpus(tmp_path)
    file = tmp_path / "data/splits/split-0/autotagging_genre-test.tsv"
    text(file, "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\ntrack_1\tartist\n")
    with pytest.raises(ValueError, match="line 2, breaks off"):
        mtg_jamendo.entries(tmp_path)
    text(file, "ARTIST_ID\tTRACK_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n")
    with pytest.raises(ValueError, match="order"):
        mtg_jamendo.entries(tmp_path)


# NSynth, VocalSet, FMA


def nsynth_corpus(root):
    for part, family in (("train", "synth_lead"), ("valid", "brass"), ("test", "brass")):
        notes = {}
        for pitch in (60, 61):
            name = f"{family}_acoustic_046-{pitch:03d}-100"
            notes[name] = {
                "note_str": name, "instrument_str": f"{family}_046", "instrument_family_str": family, "pitch": pitch,
                "velocity": 100, "instrument_source_str": "acoustic", "sample_rate": RATE, "qualities": [0] * 10,
            }  # fmt: skip
            sound(root / f"nsynth-{part}/audio/{name}.wav", pitch if part != "test" else 0)
        text(root / f"nsynth-{part}/examples.json", json.dumps(notes))
    return root


def test_nsynth(tmp_path):
    nsynth_corpus(tmp_path)
    with pytest.raises(ValueError, match="Two tracks have the key"):  # valid and test share these names
        corpora.manifest("nsynth", tmp_path, progress=False)
    shutil.rmtree(tmp_path / "nsynth-valid")
    found = corpora.manifest("nsynth", tmp_path, progress=False)
    assert [t.split for t in found] == ["train", "train", "test", "test"]
    assert found[0].labels["instrument"] == "synth_lead" and found[3].labels["pitch"] == 61
    text(tmp_path / "nsynth-test/examples.json", '{"a": {"pitch": 3')
    with pytest.raises(ValueError, match=r"is no JSON .*its download broke off"):
        nsynth.entries(tmp_path)


def vocal_files(root, version):
    for singer in ("female1", "female2", "male1", "male10"):
        for technique in ("lip_trill", "trill", "belt", "fast_piano"):
            name = f"{singer[0]}{singer[-1]}_scale_{technique}_a.wav"  # a malformed name: m0 is no singer
            number = hash_of(singer + technique)
            if version == "1.1":
                sound(root / f"FULL/{singer}/scales/{technique}/{name}", number)
                sound(root / f"__MACOSX/FULL/{singer}/scales/{technique}/._{name}", number)
            else:
                sound(root / f"data_by_singer/{singer}/scales/{technique}/{name}", number)
                sound(root / f"data_by_technique/{technique}/{name}", number)
                sound(root / f"data_by_vowel/a/{name}", number)
    return root


def hash_of(name):
    return int(hashlib.sha1(name.encode()).hexdigest(), 16) % 900


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_vocalset_believes_the_folders(tmp_path, version):
    found = vocalset.tracks(vocal_files(tmp_path, version))
    assert len(found) == 16
    assert {t.labels["singer"] for t in found} == {"female1", "female2", "male1", "male10"}
    technique = {(t.labels["singer"], t.labels["technique_17"]): t for t in found}
    assert technique["male1", "lip_trill"].labels["technique"] == "lip_trill"
    assert "technique" not in technique["male1", "fast_piano"].labels
    assert technique["male1", "fast_piano"].split is None
    assert {t.split for t in found if t.labels["singer"] in ("female2", "male10") and t.split} == {"test"}
    assert {t.split for t in found if t.labels["singer"] in ("female1", "male1") and t.split} <= {"train", "valid"}
    assert {t.labels["split_singer"] for t in found} <= {"train", "valid", "test"}


def test_vocalset_validation_singers_and_sizes_of_the_singer_split():
    assert len(vocalset.valid_singers()) == 3 and not set(vocalset.valid_singers()) & set(vocalset.TEST_SINGERS)
    counts = Counter(vocalset.singer_set(f"female1/scales/belt/{k}.wav") for k in range(2500))
    assert counts["train"] == pytest.approx(1200, abs=80) and counts["test"] == pytest.approx(500, abs=70)


def fma_corpus(root):
    (root / "fma_metadata").mkdir(parents=True)
    with (root / "fma_metadata/tracks.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["", "artist", "set", "set", "track"])
        table.writerow(["", "id", "split", "subset", "genre_top"])
        table.writerow(["track_id", "", "", "", ""])
        for number, part, subset, genre in (
            (2, "training", "small", "Hip-Hop"), (5, "validation", "small", "Folk"), (10, "test", "medium", "Pop"),
            (99134, "training", "small", "Rock"), (20, "test", "small", "Rock"), (30, "test", "large", ""),
        ):  # fmt: skip
            table.writerow([number, number * 7, part, subset, genre])
            sound(root / f"fma_small/{number // 1000:03d}/{number:06d}.mp3", number, 0.5)
    return root


def test_fma_subsets_and_its_empty_clips(tmp_path):
    found = by_key(fma.tracks(fma_corpus(tmp_path)))
    assert {k: (t.split, t.labels["genre"]) for k, t in found.items()} == {
        "000002": ("train", "Hip-Hop"), "000005": ("valid", "Folk"), "000020": ("test", "Rock"),
    }  # fmt: skip
    assert len(fma.entries(tmp_path, "medium")) == 4 and len(fma.entries(tmp_path, "large")) == 5
    with pytest.raises(ValueError, match="small, medium or large"):
        fma.entries(tmp_path, "huge")


# All of them


@pytest.mark.parametrize("name", corpora.names())
def test_wrong_roots_are_sentences(tmp_path, name):
    known = corpora.corpus(name)
    for root in (tmp_path, tmp_path / "lost"):
        with pytest.raises(FileNotFoundError, match=r"\.") as wrong:
            corpora.manifest(name, root, progress=False)
        assert str(root) in str(wrong.value) and len(str(wrong.value)) > 60
    assert known.source and known.licence and known.home.startswith("http")


def test_a_root_too_deep_or_a_renamed_folder_is_recognised(tmp_path):
    emo_corpus(tmp_path / "emo")
    with pytest.raises(FileNotFoundError, match=r"It is in .*emo: give that folder"):
        emomusic.entries(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"It is in .*emo: give that folder"):
        emomusic.entries(tmp_path / "emo" / "clips_45seconds")
    (tmp_path / "emo/annotations").rename(tmp_path / "emo/labels")
    with pytest.raises(FileNotFoundError, match="a folder has been renamed or moved"):
        emomusic.entries(tmp_path / "emo")


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(ValueError, match="gtzan"):
        corpora.corpus("gtzan_genre")


def small(name, expected, **more):
    return replace(
        corpora.corpus(name),
        expected={"split": expected},
        per_class={},
        labelled={},
        checksums=(),
        classes={},
        total=None,
        **more,
    )


def test_a_whole_copy_is_fit_and_every_loss_is_named(tmp_path, capsys):
    known = small("emomusic", {"train": 9, "test": 3})
    emo_corpus(tmp_path)
    counts = Counter(t.split for t in emomusic.tracks(tmp_path))
    known = replace(known, expected={"split": dict(counts)})
    found = verify.examine(known, tmp_path, progress=False)
    assert found.ok and not found.missing and not found.extra
    verify.show(known, found)
    assert "✓ The benchmark can be run" in capsys.readouterr().out
    clips = tmp_path / "clips_45seconds"
    (clips / "12.mp3").unlink()
    (clips / "11.mp3").write_bytes((clips / "1.mp3").read_bytes())  # the test set gets a training file
    (clips / "2.mp3").write_bytes((clips / "2.mp3").read_bytes()[:900])
    sound(clips / "999.mp3", 99)
    found = verify.examine(known, tmp_path, progress=False)
    assert not found.ok and found.missing == ["clips_45seconds/12.mp3"] and found.extra == ["clips_45seconds/999.mp3"]
    assert found.duplicates[0]["files"] == ["clips_45seconds/1.mp3", "clips_45seconds/11.mp3"]
    assert "clips_45seconds/2.mp3" in {**found.truncated, **found.unreadable}
    assert any("1 of 12 files" in p for p in found.problems) and any("test set has 2" in p for p in found.problems)
    assert any("same bytes are in several sets" in note for note in found.notes)


def test_a_known_bad_file_is_forgiven(tmp_path):
    for number in (0, 54):
        sound(tmp_path / f"genres/jazz/jazz.{number:05d}.wav", number)
    text(tmp_path / "genres/jazz/jazz.00054.wav", "damaged")
    entries = [e for e in gtzan.entries(tmp_path) if e.key in ("jazz.00000", "jazz.00054")]
    known = small("gtzan", {"train": 2}, read=lambda root: [replace(e, split="train") for e in entries])
    found = verify.examine(known, tmp_path, progress=False)
    assert found.ok and any("jazz.00054 is unreadable" in note for note in found.notes)


def test_classes_are_counted_beside_the_published_ones(tmp_path, capsys):
    """A class that is short is named, and shown as found of expected."""
    for number in (0, 1, 29):
        sound(tmp_path / f"genres/blues/blues.{number:05d}.wav", number)
    kept = ("blues.00000", "blues.00001", "blues.00029")
    entries = [replace(e, split="test") for e in gtzan.entries(tmp_path) if e.key in kept]
    known = replace(small("gtzan", {"test": 3}, read=lambda root: entries), per_class={"test": {"blues": 4, "rock": 1}})
    found = verify.examine(known, tmp_path, progress=False)
    assert found.classes["test"] == {"blues": {"found": 3, "expected": 4}, "rock": {"found": 0, "expected": 1}}
    assert found.problems == ["test: 3 tracks of blues, and 4 are published (2 classes differ)."]
    verify.show(known, found)
    said = capsys.readouterr().out
    assert "3 of 4" in said and "0 of 1" in said


def test_the_published_counts_of_classes_add_up():
    for name in corpora.names():
        known = corpora.corpus(name)
        sizes = known.expected.get("split", {})
        for part, counts in known.per_class.items():
            if len(counts) == known.classes.get(known.label) and part in sizes:
                assert sum(counts.values()) == sizes[part], (name, part)


def test_published_lists_of_checksums_are_compared(tmp_path):
    """FMA's archives hold a file `checksums`, MTG-Jamendo's repository lists of SHA-256."""
    fma_corpus(tmp_path)
    good = hashlib.sha1((tmp_path / "fma_small/000/000002.mp3").read_bytes()).hexdigest()
    text(
        tmp_path / "fma_small/checksums",
        f"{good}  000/000002.mp3\n{'0' * 40}  000/000005.mp3\n{good}  000/000999.mp3\n",
    )
    known = replace(corpora.corpus("fma_small"), total=None, classes={})
    found = verify.examine(known, tmp_path, progress=False)
    assert found.checksums["fma_small/000/000002.mp3"] == "as published"
    assert found.checksums["fma_small/000/000005.mp3"] == "differs"
    assert [p for p in found.problems if "published checksum" in p and "000005" in p]
    jamendo_corpus(tmp_path / "mtg")
    low = tmp_path / "mtg/audio-low/00/0.low.mp3"
    digest = hashlib.sha256(low.read_bytes()).hexdigest()
    text(tmp_path / "mtg/data/download/raw_30s_audio-low_sha256_tracks.txt", f"{digest} 00/0.low.mp3\n")
    found = verify.examine(corpora.corpus("mtg_jamendo"), tmp_path / "mtg", progress=False)
    assert found.checksums == {"audio-low/00/0.low.mp3": "as published"}


def test_half_of_a_corpus_whose_folders_are_the_annotations(tmp_path):
    """VocalSet lists nothing: only the count tells that files are missing."""
    found = verify.examine(corpora.corpus("vocalset"), vocal_files(tmp_path, "1.1"), progress=False)
    assert "16 recordings are listed, and about 3613 are published." in found.problems


def test_artists_in_two_sets_break_a_promise(tmp_path):
    jamendo_corpus(tmp_path)
    for file in (tmp_path / "data/splits/split-0").glob("*-test.tsv"):
        file.write_bytes(file.read_bytes().replace(b"artist_000020", b"artist_000000"))
    known = replace(corpora.corpus("mtg_jamendo"), expected={"moodtheme_split_0": {"train": 3, "valid": 3, "test": 3}})
    found = verify.examine(replace(known, classes={}), tmp_path, progress=False)
    assert "moodtheme_split_0: 1 artists are in several sets, artist_000000 for one." in found.problems


def test_headers_are_read_once(tmp_path, monkeypatch):
    emo_corpus(tmp_path)
    first = emomusic.tracks(tmp_path)
    monkeypatch.setattr("groundbass.data.corpora.recordings.look_at", None)
    assert emomusic.tracks(tmp_path) == first
    monkeypatch.undo()
    sound(tmp_path / "clips_45seconds/3.mp3", 77, 1.0)
    again = emomusic.tracks(tmp_path)
    assert [a.hash == b.hash for a, b in zip(first, again)].count(False) == 1


def test_a_short_corpus_says_so_beside_its_scores(tmp_path):
    emo_corpus(tmp_path)
    sentences = corpora.shortfall("emomusic", corpora.manifest("emomusic", tmp_path, progress=False))
    assert len(sentences) == 3 and "groundbass data verify emomusic" in sentences[0] and "504" in sentences[0]
