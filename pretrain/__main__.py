"""`accelerate launch -m groundbass.pretrain ADDRESS …`: the command without the rest of groundbass's."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import torch.distributed as dist

from .command import main
from .distributed import among_others

FAULT = 78  # EX_CONFIG


def run(command: Callable[[list[str]], int] = main) -> int:
    """Run the command; an error that the user can cure is a sentence on stderr and the exit code 2.

    Of several ranks a fault ends with FAULT, the highest of their codes: those that lost it end with 75, which asks for
    another start.
    """
    several = among_others()
    try:
        return command(sys.argv[1:])
    except (ValueError, OSError) as error:
        print(f"groundbass: error: {error}", file=sys.stderr)
        return FAULT if several else 2
    except Exception:
        if not several:
            raise
        traceback.print_exc()
        return FAULT
    finally:
        if dist.is_initialized() and dist.get_backend() != "gloo":  # gloo's threads can abort while they are ended
            dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End the process; among ranks at once, since threads of gloo and DeepSpeed can abort Python's own end."""
    if "deepspeed" in sys.modules or among_others():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(run())
