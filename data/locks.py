"""One writer at a time: a lock file that the system frees when its holder ends, however it ends.

Where the file system knows no locks (some of clusters), nothing is locked and nothing is refused.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..reading import json_in

_UNKNOWN = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class InUse(OSError):
    """Another process writes here."""


@contextmanager
def alone(lock: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the file `lock` while the block runs; it is made, with its folder, and removed afterwards.

    what: is written, for the sentence. wait: until the other process has done, instead of refusing.

    Raises:
        InUse: another process holds it; the sentence names it.
    """
    file = _taken(lock, what, wait)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: who waits for it finds that it is gone, and takes a new one
        os.close(file)


def _taken(lock: Path, what: str, wait: bool) -> int:
    lock.parent.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        file = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if told else fcntl.LOCK_NB))  # freed with us: children don't hold it
        except (BlockingIOError, PermissionError):
            sentence = f"{what} is being written by another process, {_holder(file)}"
            os.close(file)
            if not wait:
                raise InUse(
                    f"{sentence}. Wait for it or end it, or choose another place; the lock goes when it ends."
                ) from None
            print(f"{sentence}; waiting for it", file=sys.stderr)
            told = True
            continue
        except OSError as error:
            if error.errno not in _UNKNOWN:
                os.close(file)
                raise
        if _is_still(lock, file):
            _sign(file)
            return file
        os.close(file)  # its holder has removed it meanwhile


def _is_still(lock: Path, file: int) -> bool:
    try:
        return os.path.samestat(os.stat(lock), os.fstat(file))
    except FileNotFoundError:
        return False


def _sign(file: int) -> None:
    """Say who holds it, for others' sentences."""
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command[:200],
        "since": time.strftime("%F %T"),
    }
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(about, ensure_ascii=True).encode(), 0)


def _holder(file: int) -> str:
    """Its number, machine, command and start, as far as the lock file tells."""
    try:
        about: dict[str, Any] = json_in(os.pread(file, 4096, 0), "The lock")
        return f"{about['pid']} on {about['host']} since {about['since']} ({about['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "which has just begun"
