"""The command `groundbass`: a table of commands, each imported only when it is called.

A command is a typed function that tyro turns into a command line, or a `main(argv) -> int` (marked `argv`) where the
arguments depend on one another, as those of `pretrain` depend on the recipe. Errors that a user can cure are
`ValueError` and `OSError`: they end in their sentence and exit code 2. Everything else is a fault of ours and keeps
its traceback; GROUNDBASS_TRACEBACK=1 shows it for both.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """Where a command lives (`module:function`), what it does in one line, and how it takes its arguments."""

    where: str
    summary: str
    argv: bool = False

    def load(self) -> Any:
        """Import the module now, and no earlier."""
        module, function = self.where.split(":")
        return getattr(importlib.import_module(f"groundbass.{module}"), function)


COMMANDS = {
    "quickstart": Command("quickstart:quickstart", "embedded corpus → pretrain → probe → publish → report.html"),
    "tiny": Command("tiny:tiny", "make the encoder that ships, groundbass-tiny, anew and compare"),
    "data synth": Command("data.synth.corpus:synth", "write the embedded corpus: music with exact labels"),
    "data scan": Command("data.collections.scan:scan", "list a folder of audio in a Parquet manifest"),
    "data shard": Command("data.storage.sharding:shard", "pack a manifest's audio into Parquet shards, for clusters"),
    "data verify": Command(
        "data.collections.verify:verify", "is this copy of a public corpus complete, and what it should be?"
    ),
    "data overlap": Command(
        "data.collections.overlap:overlap", "which recordings of A are in B too? (test audio in training audio)"
    ),
    "data degrade": Command("data.augment.degrade:degrade", "damage recordings by a chain; labels move with the sound"),
    "data codes": Command("pretrain.targets.codec:codes", "store a neural codec's codes of every track"),
    "data kmeans": Command("pretrain.targets.kmeans:kmeans", "fit the k-means teachers (log-mel and chroma)"),
    "pretrain": Command("pretrain.command:main", "train an encoder by a recipe, e.g. masked.mert_tiny", argv=True),
    "plan": Command("pretrain.cost.plan:main", "memory, step time and GPU-hours of a recipe, with formulas", argv=True),
    "iterate": Command("pretrain.iterate:main", "BEATs: encoder, tokenizer, encoder, … in one command", argv=True),
    "new": Command("plugins:new", "begin an objective, task or corpus of your own: a file that works as it stands"),
    "probe": Command("probe.command:main", "freeze an encoder and measure what it learned", argv=True),
    "finetune": Command("finetuning:finetune", "train an encoder on labels, compared with its frozen probe"),
    "efficiency": Command("efficiency:efficiency", "scores over the number of labelled recordings: how many it saves"),
    "predict": Command("probe.apply.predict:predict", "what classifiers hear in recordings: tables, files, a page"),
    "report": Command("probe.report.command:report", "tables and one HTML page from probe results"),
    "import": Command(
        "models.importers:import_checkpoint", "official weights of CLMR, MERT, BEATs or a tagger → a published folder"
    ),
    "publish": Command("publishing:publish", "turn a run into a Hugging Face folder with a model card"),
    "embed": Command("probe.apply.embed:embed", "audio of any length → a table of vectors (Parquet or .npz)"),
    "similar": Command(
        "probe.apply.similar:similar", "the recordings nearest to a file, as a table and a page with players"
    ),
    "bridge hear": Command("probe.apply.hear:bridge", "a module with HEAR's interface to an encoder"),
    "export": Command("models.export:export", "an encoder as torch.export or ONNX, checked to answer equally"),
    "bench": Command("cli:bench", "speed figures, as ratios against a reference in the same run"),
    "launch": Command("pretrain.launch.start:main", "start `pretrain` on several GPUs or machines", argv=True),
    "models": Command("models.listing:models", "encoders that ship, that packages offer, and that can be read"),
    "doctor": Command("doctor:doctor", "versions, devices, decoders; what is missing, and the cure"),
}

SHARED = {"embed": "--part", "predict": "--part", "data codes": "--part", "probe": "inside", "similar": "inside"}
"""Commands that several processes launched together do in shares: by --part, or by a division of their own."""

EXAMPLES = """\
examples:
  groundbass quickstart
  groundbass data scan ~/Music music.parquet
  groundbass pretrain masked.mert_tiny --data music.parquet --run runs/first
  groundbass probe runs/first folder:~/labelled --label genre
  groundbass publish runs/first my-encoder

`groundbass COMMAND --help` explains a command; --json prints its figures alone, --quiet draws no bars.
`groundbass --completion bash|zsh|fish` completes them."""


def help_text() -> str:
    """Return the page that `groundbass --help` prints."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    about = "groundbass: pretrain music foundation models, measure what they learned, publish them."
    return f"{about}\n\nusage: groundbass COMMAND … [--json] [--quiet]\n\ncommands:\n{rows}\n\n{EXAMPLES}"


def resolve(argv: list[str]) -> tuple[str, list[str]]:
    """Split the arguments into the longest known command name and the rest.

    Raises:
        ValueError: no such command; the sentence names the nearest ones.
    """
    for words in (2, 1):
        name = " ".join(argv[:words])
        if len(argv) >= words and name in COMMANDS:
            return name, argv[words:]
    group = [name for name in COMMANDS if name.startswith(argv[0] + " ")]
    if group:
        second = difflib.get_close_matches(argv[1], [name.split()[1] for name in group], 1) if len(argv) > 1 else []
        near = [f"{argv[0]} {word}" for word in second]
        asked = f"`{' '.join(argv[:2])}` is no command" if len(argv) > 1 else f"`{argv[0]}` is a group of commands"
        hint = f"; did you mean `{near[0]}`? The group" if near else ": it"
        raise ValueError(f"{asked}{hint} has {', '.join(f'`{name}`' for name in group)}.")
    near = nearest(argv)
    hint = f"did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else "see the list."
    raise ValueError(f"`{argv[0]}` is no command of groundbass; {hint} `groundbass --help` lists them all.")


def nearest(words: list[str]) -> list[str]:
    """Up to three commands that words may have meant: `scan`, `dta scan` and `scan data` -> data scan."""

    def alike(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one, other).ratio()

    def likeness(name: str) -> float:
        both = max(alike(" ".join(words[:2]), name), alike(" ".join(reversed(words[:2])), name))
        return max(both, *(0.9 * alike(words[0], part) for part in name.split()))

    likely = sorted((name for name in COMMANDS if likeness(name) >= 0.6), key=lambda name: -likeness(name))
    return likely[:3]


SHELLS = {
    "bash": """\
_groundbass() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} words=
  case "$COMP_CWORD ${{COMP_WORDS[1]}}" in
    1*) words="{first}" ;;
    "2 data") words="{data}" ;;
    "2 bridge") words="hear" ;;
    "2 pretrain" | "2 plan") words="{recipes}" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  [ -n "$words" ] || COMPREPLY=($(compgen -f -- "$cur"))
}}
complete -o filenames -F _groundbass groundbass
""",
    "fish": """\
complete -c groundbass -n __fish_is_first_token -f -a "{first}"
complete -c groundbass -n "__fish_seen_subcommand_from data" -a "{data}"
complete -c groundbass -n "__fish_seen_subcommand_from pretrain plan" -a "{recipes}"
""",
}
SHELLS["zsh"] = "autoload -U +X bashcompinit && bashcompinit\n" + SHELLS["bash"]


def completion(shell: str) -> str:
    """A script that completes commands, recipes and files: `eval "$(groundbass --completion bash)"` in ~/.bashrc.

    Raises:
        ValueError: another shell.
    """
    if shell not in SHELLS:
        raise ValueError(f"There is no completion for {shell or 'no shell'}; take one of {', '.join(sorted(SHELLS))}.")
    from .pretrain.recipe import addresses

    first = dict.fromkeys(name.split()[0] for name in COMMANDS)
    data = (name.split()[1] for name in COMMANDS if name.startswith("data "))
    return SHELLS[shell].format(first=" ".join(first), data=" ".join(data), recipes=" ".join(addresses()))


RENAMED = {
    ("probe", "--seeds"): "--random-seeds",
    ("probe", "--workers"): "--threads",
    ("embed", "--workers"): "--threads",
    ("predict", "--workers"): "--threads",
    ("predict", "--window"): "--window-seconds",
    ("efficiency", "--train"): "--finetune",
    ("efficiency", "--no-train"): "--no-finetune",
    ("plan", "--from"): "--like",
}
"""Options of before 0.2 by what they are called now; they go on until 0.4."""


def renamed(command: str, words: list[str]) -> list[str]:
    """The words with today's options, and a warning on stderr for each old one."""
    found = []
    for word in words:
        option, equals, value = word.partition("=")
        new = RENAMED.get((command, option))
        if new is not None:
            print(
                f"groundbass: {option} of `{command}` is called {new} now; the old name goes until 0.4.",
                file=sys.stderr,
            )
        found.append(f"{new or option}{equals}{value}")
    return found


def quieted(command: str, words: list[str]) -> tuple[list[str], bool]:
    """The words without --quiet, which every command takes (some have it themselves, and say less too), and whether it
    was there: bars are off then.
    """
    own = words[: words.index("--")] if "--" in words else words
    if "--quiet" not in own:
        return words, False
    left = words if command in SILENT else [word for word in own if word != "--quiet"] + words[len(own) :]
    return left, True


def leading(words: list[str]) -> tuple[list[str], bool]:
    """The words without --quiet before the command, and whether it was there; --json there goes behind the command."""
    count = next((place for place, word in enumerate(words) if word not in ("--quiet", "--json")), len(words))
    first, rest = words[:count], words[count:]
    asks = rest and not rest[0].startswith("-") and "--json" in first
    return [*rest, "--json"] if asks else rest, "--quiet" in first


SILENT = ("data degrade", "predict")


def run(argv: list[str]) -> int:
    """Run one command and return its exit code; errors fly."""
    if argv[0] in COMMANDS or len(argv) < 2 or argv[1] not in ("-h", "--help"):
        name, rest = resolve(argv)
    else:  # `groundbass data --help`
        rows = [f"  {name}  {command.summary}" for name, command in COMMANDS.items() if name.startswith(argv[0] + " ")]
        if not rows:
            resolve(argv)
        print("\n".join([f"usage: groundbass {argv[0]} COMMAND …", "", *rows]))
        return 0
    from .progress import quietly

    rest, quiet = quieted(name, renamed(name, rest))
    with quietly(quiet):
        if name in SHARED and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from .data import parallel

            parallel.begin()
            share = parallel.in_parts if SHARED[name] == "--part" else parallel.by_the_first
            return share(lambda words: _called(name, words), rest)
        return _called(name, rest)


def _called(name: str, words: list[str]) -> int:
    command = COMMANDS[name]
    if command.argv:
        return int(command.load()(words))
    from . import arguments

    result = arguments.run(command.load(), words, f"groundbass {name}")
    return result if isinstance(result, int) else 0


def main(argv: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # a terminal may know fewer letters than a file's name has
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    argv, quiet = leading(argv)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        raise SystemExit(0)
    if argv[0] in ("-V", "--version"):
        from groundbass import __version__

        print(f"groundbass {__version__}")
        raise SystemExit(0)
    try:
        if argv[:1] == ["--completion"]:
            print(completion(argv[1] if len(argv) > 1 else ""))
            raise SystemExit(0)
        from .progress import quietly

        with quietly(quiet):
            code = run(argv)
        _leave_others(code)
        raise SystemExit(code)
    except (ValueError, OSError) as error:
        if os.environ.get("GROUNDBASS_TRACEBACK"):
            raise
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()
            raise SystemExit(0) from None
        print(f"groundbass: error: {error}", file=sys.stderr)
        _leave_others(2)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "\ngroundbass: stopped; what was finished and saved is kept, and the same command goes on from it.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def _leave_others(code: int) -> None:
    """End at once where other processes were launched with this one: threads of gloo can abort Python's own end."""
    if "groundbass.data.parallel" in sys.modules:
        sys.modules["groundbass.data.parallel"].leave(code)


def bench(names: list[str] | None = None, /, *, json: bool = False, rehearse: bool = False) -> None:
    """Print speed figures as ratios against a reference measured in the same run.

    Args:
        names: which benchmarks; none lists them.
        json: print JSON lines and nothing else.
        rehearse: with `gpu`, run its code on a CPU, in miniature.
    """
    from .benchmarks import run_benchmarks

    run_benchmarks(names or [], json, rehearse)


if __name__ == "__main__":
    main()
