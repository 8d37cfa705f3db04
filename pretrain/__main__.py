"""`accelerate launch -m groundbass.pretrain ADDRESS …`: the command without the rest of groundbass's."""

from __future__ import annotations

import os
import sys

from accelerate import PartialState

from .command import main


def run() -> int:
    """Run the command; an error that the user can cure is a sentence on stderr and the exit code 2."""
    try:
        return main(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"groundbass pretrain: {error}", file=sys.stderr)
        return 2
    finally:
        if PartialState._shared_state:
            PartialState().destroy_process_group()


if __name__ == "__main__":
    code = run()
    if "deepspeed" in sys.modules:  # its threads can abort Python's own end after all is done and written
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
