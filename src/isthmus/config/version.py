"""Versions of MQTT as people write them: `3.1`, `3.1.1`, `5`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

LEVELS = {"3.1": 3, "3.1.1": 4, "5": 5}
"""The protocol level that stands for each version in a CONNECT."""


def _as_text(value: object) -> object:
    """YAML and TOML read an unquoted 5 or 3.1 as a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return value


Version = Annotated[Literal["3.1", "3.1.1", "5"], BeforeValidator(_as_text)]
