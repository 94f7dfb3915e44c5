"""What is wrong with a configuration, before a file and a line are known.

A validator that finds several things wrong at once raises `SettingsError`; the loader gives
every one of them its own position and line.
"""

import difflib
from collections.abc import Iterable
from typing import NamedTuple

Loc = tuple[str | int, ...]
"""Where in the configuration: keys and list indexes from the root."""


class Problem(NamedTuple):
    """One thing that is wrong. `loc` is relative to the model that raised it."""

    loc: Loc
    text: str


class SettingsError(ValueError):
    """Several problems found by one validator; a ValueError, as that is what pydantic collects."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{path_text(p.loc)}: {p.text}" for p in self.problems))


def raise_any(problems: Iterable[Problem]) -> None:
    """Raise `SettingsError` if there are any problems."""
    found = tuple(problems)
    if found:
        raise SettingsError(found)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known word, or an empty text."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def path_text(loc: Loc) -> str:
    """Return a path as people write it: `listeners[0].tls.key`."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    return text
