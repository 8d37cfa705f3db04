"""`python -m groundbass.pretrain.launch NAME`: a configuration as lines for a shell."""

from __future__ import annotations

import shlex
import sys

from . import environment, names


def main(argv: list[str]) -> int:
    """Print `export VARIABLE=value` lines; 2 where the name is unknown."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print(f"usage: python -m groundbass.pretrain.launch {'|'.join(names())}", file=sys.stderr)
        return 2
    try:
        told = environment(argv[0])
    except ValueError as error:
        print(f"groundbass: error: {error}", file=sys.stderr)
        return 2
    for name, value in told.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
