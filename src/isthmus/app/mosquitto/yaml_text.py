"""A draft as commented YAML: each line says which line of the other file it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from isthmus.app.mosquitto.draft import SECRET_OPTIONS, Draft
from isthmus.app.mosquitto.grammar import Statement
from isthmus.config.problems import Loc
from isthmus.log import escape

_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./:@-]*|[0-9]+(ms|s|m)")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "never"}
_INDENT = "  "

HEAD = "# Written by `isthmus import mosquitto` from {name}.\n"
OWN_FOLDER = "# Paths were relative to the folder in which that ran, and are absolute here.\n"
DEFAULT = "Mosquitto's default"
LIMIT = "Mosquitto's default, or as near as is safe"


def yaml_text(draft: Draft, name: str) -> str:
    """Return the file; `name` is the one that it was made from."""
    lines = [HEAD.format(name=escape(name)).rstrip("\n"), OWN_FOLDER.rstrip("\n")]
    lines += [f"# REFUSED {escape(str(note))}" for note in draft.refused]
    lines += [f"# {'WARNING ' if note.loud else ''}{escape(str(note))}" for note in draft.notes]
    lines.append("")
    lines += _mapping(draft, draft.data, (), "")
    return "\n".join(lines) + "\n"


def _mapping(draft: Draft, data: dict[str, Any], loc: Loc, indent: str) -> Iterator[str]:
    for key, value in data.items():
        here = (*loc, key)
        comment = _comment(draft, here)
        if isinstance(value, dict) and value:
            yield f"{indent}{_scalar(key)}:{comment}"
            yield from _mapping(draft, value, here, indent + _INDENT)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield f"{indent}{_scalar(key)}:{comment}"
            for index, item in enumerate(value):
                yield from _item(draft, item, (*here, index), indent + _INDENT)
        else:
            yield f"{indent}{_scalar(key)}: {_flow(value)}{comment}"


def _item(draft: Draft, item: dict[str, Any], loc: Loc, indent: str) -> Iterator[str]:
    """The lines of one entry of a list, the first with the dash."""
    for number, line in enumerate(_mapping(draft, item, loc, indent + _INDENT)):
        yield line if number else f"{indent}- {line.lstrip(' ')}"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return f"[{', '.join(_flow(item) for item in value)}]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A single value; text is quoted where YAML or `${...}` would read it as something else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return str(value)
    text = str.__str__(value).replace("${", "$${")
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS and not text.endswith(":"):
        return text
    # Every JSON string is a YAML string; non-ASCII letters need no escapes.
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _comment(draft: Draft, loc: Loc) -> str:
    if loc not in draft.origins:
        return ""
    origin = draft.origins[loc]
    if origin is None:
        return f"  # {LIMIT if loc[:2] == ('broker', 'limits') else DEFAULT}"
    return f"  # {escape(_shown(origin))}"


def _shown(statement: Statement) -> str:
    """A line as a comment shows it, without its secret."""
    rest = "..." if statement.name in SECRET_OPTIONS else statement.rest.strip()
    return f"{statement.where}: {statement.name} {rest}"
