"""What pydantic found, in words for the person who wrote the file.

No text repeats a value of the file: it may be a password on the wrong line.
"""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from isthmus.config.fields import keys, model_at, paths_to, unit_at
from isthmus.config.model import format_default
from isthmus.config.problems import Loc, Problem, SettingsError, did_you_mean
from isthmus.config.secrets import Expanded

_TEXTS = {
    "missing": "is required",
    "string_type": "must be text; put it in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of names",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "path_type": "must be the path of a file or folder",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "none_required": "must be null",
}
_MISSPELT = re.compile(r"unknown key; did you mean '([^']*)'\?")
_WORD = re.compile(r"'([^']*)'|(\d+)")


def problems_of(error: ValidationError, root: type[BaseModel], data: Any) -> Iterator[Problem]:
    """Yield one problem per place; the alternatives of a union are one problem.

    A key that is missing where a misspelt one was taken for it is none of its own.
    """
    found = list(_problems_of(error, root, data))
    meant = {
        (*problem.loc[:-1], known[1])
        for problem in found
        if (known := _MISSPELT.fullmatch(problem.text))
    }
    for problem in found:
        if problem.text != _TEXTS["missing"] or problem.loc not in meant:
            yield problem


def _problems_of(error: ValidationError, root: type[BaseModel], data: Any) -> Iterator[Problem]:
    merged: dict[Loc, list[str]] = {}
    places: list[Loc] = []
    for found in error.errors(include_url=False, include_input=False):
        loc = _navigate(found["loc"], data, missing=found["type"] == "missing")
        several = found.get("ctx", {}).get("error")
        if isinstance(several, SettingsError):
            places += (loc + inner.loc for inner in several.problems)
            yield from (Problem(loc + inner.loc, inner.text) for inner in several.problems)
            continue
        places.append(loc)
        merged.setdefault(loc, []).append(_text(found, loc, root, data))
    for loc, texts in merged.items():
        # A mapping that was taken as one, and is wrong inside, need not be the text of a union.
        inside = any(len(place) > len(loc) and place[: len(loc)] == loc for place in places)
        if inside and texts == [_TEXTS["string_type"]]:
            continue
        yield Problem(loc, _join(texts))


def unknown_key(root: type[BaseModel], loc: Loc) -> str:
    """Say that a key is unknown, and which one may have been meant."""
    model = model_at(root, loc[:-1])
    name = str(loc[-1])
    hint = did_you_mean(name, [key for key, _ in keys(model)]) if model else ""
    if not hint:
        elsewhere = next(paths_to(root, name), None)
        hint = f"; did you mean '{elsewhere}'?" if elsewhere else ""
    return f"unknown key{hint}"


def _text(found: Any, loc: Loc, root: type[BaseModel], data: Any) -> str:
    kind, context = found["type"], found.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(root, loc)
    if kind == "literal_error":
        words = [word or number for word, number in _WORD.findall(context["expected"])]
        value = _value(data, loc)
        hint = did_you_mean(value, words) if type(value) is str else ""
        return f"must be {context['expected']}{hint}"
    if kind == "too_short":
        return "must not be empty"
    if kind == "value_error":
        return str(context["error"])
    if kind in _TEXTS:
        unit = unit_at(root, loc)
        limits = {key: format_default(_number(value), unit) for key, value in context.items()}
        return _TEXTS[kind].format_map(limits)
    text: str = found["msg"]
    return text.replace("Input should be", "must be").replace("Value should", "must")


def _join(texts: list[str]) -> str:
    texts = list(dict.fromkeys(texts))
    if len(texts) > 1 and all(text.startswith("must be ") for text in texts):
        return texts[0] + "".join(f" or {text.removeprefix('must be ')}" for text in texts[1:])
    return "; ".join(texts)


def _navigate(loc: Loc, data: Any, *, missing: bool) -> Loc:
    """Leave out what pydantic adds to a path: names of union members and validators."""
    path: Loc = ()
    for index, part in enumerate(loc):
        in_mapping = isinstance(data, dict) and part in data
        if in_mapping or (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            data = data[part]
        elif not (missing and index == len(loc) - 1):
            continue
        path = (*path, part)
    return path


def _value(data: Any, loc: Loc) -> Any:
    for part in loc:
        data = data[part]
    return None if isinstance(data, Expanded) else data


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value == int(value) else value
