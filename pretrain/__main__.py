"""`accelerate launch -m groundbass.pretrain ADDRESS …`: the command without the rest of groundbass's."""

from __future__ import annotations

import os
import sys
import traceback

from accelerate import PartialState

from .command import main

FAULT = 78  # EX_CONFIG


def run() -> int:
    """Run the command; an error that the user can cure is a sentence on stderr and the exit code 2.

    Of several ranks a fault ends with FAULT, the highest of their codes: those that lost it end with 75, which asks for
    another start.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    try:
        return main(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"groundbass pretrain: {error}", file=sys.stderr)
        return FAULT if several else 2
    except Exception:
        if not several:
            raise
        traceback.print_exc()
        return FAULT
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
