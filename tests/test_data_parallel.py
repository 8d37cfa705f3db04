"""Work in several processes: in order, bounded, and nobody left behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from groundbass.data.parallel import AHEAD, in_order


def square(number):
    if number == 13:
        raise ValueError("thirteen")
    return number * number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("at_once", [1, 4])
def test_results_come_in_order_and_errors_fly(workers, at_once):
    assert list(in_order(square, range(12), workers, at_once)) == [n * n for n in range(12)]
    found = in_order(square, iter([1, 2, 13, 4]), workers, at_once)
    with pytest.raises(ValueError, match="thirteen"):
        list(found)
    assert list(in_order(square, [], workers)) == []


def test_items_are_taken_as_results_are():
    """A million items, or results that are large, don't pile up."""
    taken = []
    found = in_order(square, (taken.append(n) or 1 for n in range(10**6)), 2)
    next(found)
    assert len(taken) <= AHEAD * 2 + 1
    found.close()


def test_a_killed_process_is_a_sentence():
    with pytest.raises(OSError, match="lower --workers"):
        list(in_order(die, range(3), 2))


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_processes_end_with_the_one_that_made_them(tmp_path, start):
    """kill -9 leaves no process that waits for work forever."""
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, os, time\n"
        "from groundbass.data import parallel\n"
        "def pid(_):\n"
        "    time.sleep(0.01)\n"
        "    return os.getpid()\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method({start!r})\n"
        "    found = parallel.in_order(pid, range(100), 2)\n"
        "    print(*{next(found) for _ in range(20)}, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        workers = [int(word) for word in run.stdout.readline().split()]
        run.kill()
    assert workers
    for _ in range(600):
        if not any(running(worker) for worker in workers):
            return
        time.sleep(0.05)
    pytest.fail(f"{workers} still run")


def running(process):
    try:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
