"""A configuration file of any kind that `isthmus run` takes, told apart by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from isthmus.app.settings import Settings
from isthmus.config.loader import parse

if TYPE_CHECKING:
    from isthmus.app.mosquitto.draft import Note

MOSQUITTO_SUFFIX = ".conf"
"""How the name of a file ends that is Mosquitto's."""


class Loaded(NamedTuple):
    """Settings, and what their reader should know."""

    settings: Settings
    notes: list[Note]


def is_mosquitto(path: Path) -> bool:
    """Whether a file is Mosquitto's by its name."""
    return path.suffix.lower() == MOSQUITTO_SUFFIX


def read_configuration(path: Path) -> Loaded:
    """Return the settings of a file, and what its reader should know.

    Raises:
        ConfigError: with one text for everything that is wrong.
    """
    if is_mosquitto(path):
        from isthmus.app.mosquitto.loading import load  # only who has such a file pays for it

        return load(path)
    return Loaded(parse(Settings, path), [])
