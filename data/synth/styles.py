"""Twelve styles: tempo, metre, harmony, rhythm and orchestration.

Patterns are strings of steps, `steps` to a bar ('.' rests).
Drums: `x` hit, `X` accent, `o` ghost note.
Bass: `R` root, `5` fifth, `3` third, `8` octave, `a` a semitone from the next root, `w` a step towards it.
Comping: `x` short, `X` long (until the next hit), digits name chord voices from below (an arpeggio).
Melody: `x` a note, held until the next hit; `-` ends it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Style:
    """What a band of this style plays; a band draws its programs and habits once, a clip draws patterns among them."""

    name: str
    bpm: tuple[int, int]
    beats: int  # to a bar
    steps: int  # to a bar
    swing: float  # share of a beat at which the off-beat eighth sounds: 0.5 is straight
    major: tuple[str, ...]  # progressions, one numeral per chord
    minor: tuple[str, ...]
    drums: tuple[dict[str, str], ...]  # piece -> steps; () for a style without
    bass: tuple[str, ...]
    comp: tuple[str, ...]
    melody: tuple[str, ...]
    bass_programs: tuple[int, ...]
    comp_programs: tuple[int, ...]
    lead_programs: tuple[int, ...]
    pad_programs: tuple[int, ...] = ()
    kits: tuple[int, ...] = (0,)
    energy: float = 0.5  # 0 quiet .. 1 loud: centre of a clip's level
    melody_share: float = 0.8  # of clips that have a melody
    voices: int = 3
    comp_centre: int = 60
    lead_centre: int = 74


_POP_MAJOR = ("I V vi IV", "vi IV I V", "I IV vi V", "I vi IV V", "I iii IV V")
_POP_MINOR = ("i VI III VII", "i iv VII III", "i VII VI V", "i VI iv V", "i iv i V")
_JAZZ_MAJOR = ("ii7 V7 IM7 vi7", "IM7 vi7 ii7 V7", "iii7 vi7 ii7 V7", "IM7 IVM7 ii7 V7", "I6 ii7 iii7 V7")
_JAZZ_MINOR = ("iih V7 i6 i6", "i6 iv7 iih V7", "i7 VIM7 iih V7", "iv7 VII7 IIIM7 V7", "i6 VI7 iih V7")

STYLES: tuple[Style, ...] = (
    Style(
        "rock", (100, 160), 4, 16, 0.5,
        ("I bVII IV I", "I IV V IV", "I V IV V", "I V vi IV"),
        ("i VII VI VII", "i VI VII i", "i III VII IV", "i iv VI V"),
        ({"kick": "X.......X.x.....", "snare": "....X.......X...", "hat": "x.x.x.x.x.x.x.x."},
         {"kick": "X..x....X.......", "snare": "....X.......X..o", "hat": "X.x.X.x.X.x.X.x."},
         {"kick": "X.....x.X.....x.", "snare": "....X.......X...", "ride": "x...x...x...x..."}),
        ("R.R.R.R.R.R.R.R.", "R..RR.R.R..R5.8.", "R...R...R...R.5."),
        ("X.......X.......", "x.x.x.x.x.x.x.x.", "X..X..X.X..X..X.", "X.....X...X....."),
        ("x...x.x.x.......", "..x.x.x.x...x...", "x.....x.x.x.x..."),
        (33, 34), (29, 30, 27), (30, 29, 81, 65), (18, 16), (0, 16), 0.85, 0.6, 3, 55, 72,
    ),
    Style(
        "ballad", (60, 88), 4, 16, 0.5, _POP_MAJOR + ("I iii vi IV",), _POP_MINOR,
        ({"kick": "X.......X.......", "snare": "....x.......x...", "hat": "x...x...x...x..."},
         {"kick": "X.....x...x.....", "stick": "....x.......x...", "hat": "x.x.x.x.x.x.x.x."},
         {}),
        ("R.......5.......", "R.....R.5.......", "R..............."),
        ("0.1.2.1.0.1.2.1.", "X.......X.......", "0.2.1.2.0.2.1.2.", "X...X...X...X..."),
        ("x...x...x.......", "x.....x.x...x...", "....x.x.x...x..."),
        (32, 33, 35), (0, 1, 4, 5, 24), (73, 65, 71, 40, 53), (48, 49, 50, 89), (0,), 0.3, 0.85, 3, 60, 74,
    ),
    Style(
        "swing", (110, 180), 4, 8, 0.66, _JAZZ_MAJOR, _JAZZ_MINOR,
        ({"ride": "x.xxx.xx", "foot": "..x...x.", "kick": "o...o..."},
         {"ride": "x.xxx.x.", "foot": "..x...x.", "snare": "...o...o", "kick": "x......."},
         {"hat": "x.xxx.xx", "kick": "x...x...", "snare": "..o...o."}),
        ("R.w.5.a.", "R.3.5.a.", "8.5.3.a."),
        ("x..x....", "..x..x..", "x.....x.", ".x....x.", "x..x..x."),
        ("x.xxx.x.", "x.xxxxxx", ".xx.xxx.", "x..xx-..", "xxx.x.xx"),
        (32,), (0, 26, 4), (65, 66, 56, 59, 71, 11), (), (32, 40), 0.55, 0.85, 4, 62, 73,
    ),
    Style(
        "bossa", (105, 150), 4, 16, 0.5, _JAZZ_MAJOR, _JAZZ_MINOR,
        ({"kick": "x.....xxx.....x.", "stick": "x.....x.....x...", "hat": "xxxxxxxxxxxxxxxx"},
         {"kick": "x.....x.x.....x.", "stick": "..x.....x..x....", "shaker": "x.xxx.xxx.xxx.xx"}),
        ("R.....5.5.....R.", "R.....5.R.....5."),
        ("x...x..x..x...x.", "x..x..x...x..x..", "..x...x.x..x..x."),
        ("x...x..x..x.....", "..x..x..x...x...", "x..x..x.....x..."),
        (32, 35), (24, 26, 0), (73, 66, 65, 11, 71), (), (0, 40), 0.4, 0.8, 4, 60, 73,
    ),
    Style(
        "waltz", (90, 170), 3, 12, 0.5, ("I V7 V7 I", "I IV V7 I", "I vi ii V7", "I ii7 V7 I"),
        ("i V7 V7 i", "i iv V7 i", "i VI iv V7", "i VII III V7"),
        ({}, {"kick": "x...........", "snare": "....o...o...", "hat": "....x...x..."}, {}),
        ("R...........", "R...........", "R.......5..."),
        ("....x...x...", "....X...X...", "....x.x.x..."),
        ("x...x...x...", "x.......x...", "x...x.x.x.x.", "x.....x.x..."),
        (32, 43, 58), (21, 0, 48, 24), (40, 71, 73, 21, 68), (48,), (0,), 0.45, 0.95, 3, 60, 76,
    ),
    Style(
        "reggae", (65, 95), 4, 16, 0.5, ("I IV I V", "I V vi IV", "I ii IV I", "I IV V IV"),
        ("i VII i VII", "i iv i v", "i VI VII i", "i iv VI V"),
        ({"kick": "........X.......", "stick": "........X.......", "hat": "..x...x...x...x."},
         {"kick": "X.......X.......", "snare": "........X.......", "hat": "x.xxx.xxx.xxx.xx"},
         {"kick": "X...X...X...X...", "stick": "........X.......", "hat": "..x...x...x...x."}),
        ("R..R..5.....R.3.", "....R.R.5..3R...", "R...3.5.....5.R."),
        ("..x...x...x...x.", "..xx..xx..xx..xx", "....x.......x..."),
        ("x..x..x.........", "....x..xx..x....", "x...x...x..x...."),
        (33, 35), (27, 16, 18, 0), (22, 56, 57, 65), (17,), (0, 8), 0.55, 0.6, 3, 64, 72,
    ),
    Style(
        "house", (118, 138), 4, 16, 0.5, ("I V vi IV", "IM7 iii7 vi7 IV", "IV V vi I", "I IV ii V"),
        ("i VI VII i", "i7 iv7 VI VII", "i III VII iv", "i VII VI VII"),
        ({"kick": "X...X...X...X...", "clap": "....X.......X...", "openhat": "..x...x...x...x."},
         {"kick": "X...X...X...X...", "clap": "....X.......X...", "hat": "xx.xxx.xxx.xxx.x",
          "openhat": "..x...x...x...x."},
         {"kick": "X...X...X...X..x", "snare": "....x..o....x...", "hat": "xxxxxxxxxxxxxxxx"}),
        ("..R...R...R...R.", "R.RR.R.RR.RR.R.R", "R..R..R.R..R..8."),
        ("x..x..x...x..x..", "..x...x...x...x.", "X.....X.....X...", "0120120120120120"),
        ("x..x..x..x..x.x.", "x.x.x..x........", "..x..x..x..x..x."),
        (38, 39), (90, 81, 4, 62, 80), (80, 81, 87, 85), (89, 50, 95), (24, 25), 0.8, 0.5, 3, 60, 76,
    ),
    Style(
        "chamber", (66, 132), 4, 16, 0.5,
        ("I V vi iii IV I IV V", "I ii V I", "I IV V7 I", "I vi ii V7", "I V7 I IV ii V7"),
        ("i iv V7 i", "i VI iio V7", "i VII III VI iio V7", "i V7 i iv"),
        (),
        ("R...3...5...3...", "R.......5.......", "R...R...R...R..."),
        ("0.1.2.1.0.1.2.1.", "0.2.1.2.0.2.1.2.", "X.......X.......", "..x...x...x...x."),
        ("x...x...x.x.x...", "x...x.x.x.x.x.x.", "x.....x.x...x...", "x.x.x...x.x.x..."),
        (42, 43, 70), (41, 42, 60, 71, 46, 6), (40, 73, 68, 40, 71), (48,), (0,), 0.3, 1.0, 3, 58, 76,
    ),
    Style(
        "funk", (92, 118), 4, 16, 0.54, ("I7 IV7 I7 IV7", "I7 bVII I7 IV7", "IM7 ii7 IM7 IV", "vi7 ii7 V7 I"),
        ("i7 IV7 i7 IV7", "i7 VII i7 VII", "i7 iv7 i7 v7", "i7 VIM7 iv7 v7"),
        ({"kick": "X.x....x..x..x..", "snare": "....X..o.o..X..o", "hat": "x.x.x.x.x.x.x.x."},
         {"kick": "X.....x..x.....x", "snare": "....X..o....X...", "hat": "xxxxxxxxxxxxxxxx"},
         {"kick": "X..x..x...x.....", "snare": "....X.o..o..X.o.", "hat": "x.xxx.xxx.xxx.xx"}),
        ("R..R..8R..5.R.a.", "R.....R8..R..R.a", "R.RR....8.R.5.R."),
        ("..xx..x...xx..x.", "x..x..x..x..x...", ".x..x..x.x..x..x", "x.xx..xx.xx..xxx"),
        ("x..x.x..x.......", "..xx..x.x..x....", "x.x..x.x..x....."),
        (36, 37, 33), (28, 27, 7, 4, 16), (56, 65, 61, 62), (61,), (0, 16), 0.75, 0.6, 3, 62, 73,
    ),
    Style(
        "country", (96, 144), 4, 16, 0.5, ("I IV I V", "I V IV I", "I IV V I", "I I IV V", "vi IV I V"),
        ("i VII i V", "i VII VI V", "i iv V i", "i III VII i"),
        ({"kick": "x.......x.......", "snare": "....o.......o...", "hat": "..x...x...x...x."},
         {"kick": "x.......x.......", "snare": "..o.X.o...o.X.o."},
         {"kick": "x.......x.......", "brush": "x.xxX.xxx.xxX.xx"}),
        ("R.......5.......", "R.......5...3.a.", "R...R...5...5..."),
        ("....x.......x...", "0.2.1.2.0.2.1.2.", "..x.X.x...x.X.x.", "0121012101210121"),
        ("x...x.x.x...x...", "x.x.x.x.x.......", "..x.x...x.x.x..."),
        (32, 33), (25, 105, 24), (110, 22, 25, 105, 40), (), (0, 40), 0.5, 0.8, 3, 58, 74,
    ),
    Style(
        "march", (100, 126), 2, 8, 0.5, ("I I V7 V7 V7 V7 I I", "I IV V7 I", "I vi ii V7", "I V I V7"),
        ("i V7 i V7", "i iv V7 i", "i VI iv V7", "i III VII V7"),
        ({"kick": "X...X...", "snare": "..x.x.xx", "crash": "x......."},
         {"kick": "x...x...", "snare": "x.xxx.xx"},
         {"kick": "X...X...", "snare": "..X...X.", "hat": "x...x..."}),
        ("R...5...", "R...5..."),
        ("..x...x.", "..x...xx"),
        ("x...x.x.", "x..xx.x.", "x...x...", "x.x.x.x."),
        (58, 58, 70), (60, 61, 57), (56, 72, 71, 61), (61,), (0, 48), 0.8, 1.0, 3, 58, 75,
    ),
    Style(
        "blues", (70, 130), 4, 8, 0.66, ("I7 IV7 I7 V7", "I7 I7 IV7 I7 V7 IV7 I7 V7", "I7 IV7 V7 I7"),
        ("i7 iv7 i7 V7", "i7 i7 iv7 i7 VI7 V7 i7 V7", "i7 iv7 V7 i7"),
        ({"kick": "X...x...", "snare": "..X...X.", "hat": "x.xxx.xx"},
         {"kick": "X..xx...", "snare": "..X...X.", "ride": "xxxxxxxx"}),
        ("R.3.5.3.", "RR55RR55", "R.5.8.5.", "RR33558a"),
        ("xxxxxxxx", "x..xx..x", "..x...x.", ".x.x.x.x"),
        ("x.xxx...", "..xxx.x.", "xx.xx-..", "x..x..xx"),
        (33, 32), (16, 0, 26, 29), (29, 22, 66, 27), (18,), (0, 16), 0.6, 0.8, 3, 59, 72,
    ),
)  # fmt: skip

STYLE_NAMES = tuple(style.name for style in STYLES)


def style_named(name: str) -> Style:
    """The style of that name; ValueError lists them."""
    for style in STYLES:
        if style.name == name:
            return style
    raise ValueError(f"There is no style '{name}'; choose one of {', '.join(STYLE_NAMES)}.")
