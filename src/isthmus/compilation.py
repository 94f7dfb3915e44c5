"""Whether the hot files run compiled or interpreted.

Both ways run the same source. Python prefers a compiled module that lies beside it, so this decides
before any of them is imported: interpreted when ISTHMUS_INTERPRETED is set, and when a source file
is newer than what was compiled from it, as it is while somebody works on it.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, SourceFileLoader
from pathlib import Path

VARIABLE = "ISTHMUS_INTERPRETED"
ROOT = Path(__file__).parent
IN_CHECKOUT = (ROOT.parents[1] / "pyproject.toml").exists()


def hot_files() -> list[Path]:
    """The sources that may be compiled: those with a `.pxd` beside them."""
    beside = [path.with_suffix(".py") for path in sorted(ROOT.rglob("*.pxd"))]
    return [path for path in beside if path.exists()]


def compiled(source: Path) -> Path | None:
    """The compiled module of `source` for this Python, if there is one."""
    for suffix in EXTENSION_SUFFIXES:
        module = source.with_suffix(suffix)
        if module.exists():
            return module
    return None


def newest(source: Path) -> float:
    """When `source` or its types changed last."""
    return max(source.stat().st_mtime, source.with_suffix(".pxd").stat().st_mtime)


def why_interpreted() -> str:
    """Why the hot files run interpreted, or "" if they run compiled."""
    if os.environ.get(VARIABLE):
        return f"{VARIABLE} is set"
    files = hot_files()
    for source in files:
        module = compiled(source)
        if module is None:
            return f"{source.name} is not compiled"
        # An installed package does not change, and its files have the times of their unpacking.
        if IN_CHECKOUT and newest(source) > module.stat().st_mtime:
            return f"{source.name} has changed since it was compiled"
    return "" if files else "there is nothing to compile"


def choose() -> str:
    """Have the hot files imported one way or the other, all alike; returns `why_interpreted`."""
    reason = why_interpreted()
    if reason:
        # They share C structures, so a mixture cannot work.
        for folder in {source.parent for source in hot_files()}:
            finder = FileFinder(str(folder), (SourceFileLoader, SOURCE_SUFFIXES))
            sys.path_importer_cache[str(folder)] = finder
    return reason
