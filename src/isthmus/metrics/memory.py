"""How much memory this process takes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_STATM = Path("/proc/self/statm")
_RSS_FIELD = 1


def resident_bytes() -> int:
    """Resident memory now; the highest until now where the system tells only that."""
    try:
        return int(_STATM.read_text().split()[_RSS_FIELD]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return highest_resident_bytes()


def highest_resident_bytes() -> int:
    """The most resident memory until now; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
