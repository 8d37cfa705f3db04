"""The memory that this process has held at its peak."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def own_peak() -> float:
    """MiB. On Linux getrusage counts what the parent held before exec, too, so the kernel's own account is read."""
    status = Path("/proc/self/status")
    if status.is_file():
        return float(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
