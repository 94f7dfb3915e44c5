"""The reference page of the configuration, made from the settings models.

One section per model, in the order of the file; every key with its type, default and meaning.
"""

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from isthmus.config.fields import alternatives, item_of, keys, model_below, model_of, unit_in, walk
from isthmus.config.model import format_default

_HEAD = """# Configuration reference

*Made from the settings models; change them, not this page.*

A file is YAML (`.yaml`, `.yml`), TOML (`.toml`) or JSON (`.json`). Every key may be left out unless
it is marked as required, and an empty file is valid. A key that is not listed here is an error.
Durations are written `20ms`, `45s`, `10m`, `2h`, `7d` (a plain number is seconds), sizes `512B`,
`64KiB`, `5MiB`, `1GiB` (a plain number is bytes). `${env:NAME}` and `${file:path}` in any text
stand for an environment variable and the content of a file; `$${` is a literal `${`. Relative paths
are relative to the folder of the configuration file.
"""

_KINDS: dict[Any, str] = {
    str: "text",
    int: "number",
    float: "number",
    bool: "true or false",
    Path: "path",
    SecretStr: "secret text",
}


def reference(root: type[BaseModel]) -> str:
    """Return the reference page of a root model, in Markdown."""
    parts = [_HEAD]
    for prefix, model in _sections(root):
        title = f"`{prefix}`" if prefix else "Top level"
        parts.append(f"## {title}\n\n{_summary(model)}\n\n{_table(prefix, model)}")
    return "\n".join(parts)


def _sections(root: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    seen = set()
    for path, model, key, _ in walk(root):
        prefix = path.removesuffix(key).removesuffix(".")
        if prefix not in seen:
            seen.add(prefix)
            yield prefix, model


def _summary(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")


def _table(prefix: str, model: type[BaseModel]) -> str:
    properties = model.model_json_schema()
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, field in keys(model):
        schema = _resolve(properties["properties"][key], properties)
        cells = (
            f"`{key}`",
            _kind(field, schema),
            _default(field, schema),
            _meaning(prefix, key, field, schema),
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference, keeping what stands beside it."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return {**root.get("$defs", {}).get(name, {}), **schema}


def _kind(field: FieldInfo, schema: dict[str, Any]) -> str:
    if unit := unit_in(schema):
        return unit
    kinds = [_kind_of(kind) for kind in alternatives(field.annotation)]
    return " or ".join(dict.fromkeys(kinds)) or "null"


def _kind_of(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if item := item_of(kind, dict):
        return f"mapping of {_plural(item)}"
    if item := item_of(kind, list) or item_of(kind, tuple):
        return f"list of {_plural(item)}"
    if model_of(kind):
        return "mapping"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(f"`{member.value}`" for member in kind)
    return _KINDS.get(kind, getattr(kind, "__name__", str(kind)).lower())


def _plural(item: Any) -> str:
    return " or ".join(_plural_of(kind) for kind in alternatives(item))


def _plural_of(kind: Any) -> str:
    if item_of(kind, list) or item_of(kind, tuple):
        return _kind_of(kind).replace("list", "lists", 1)
    return f"{_kind_of(kind)}s"


def _default(field: FieldInfo, schema: dict[str, Any]) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined or isinstance(field.default, BaseModel):
        default = schema.get("default", PydanticUndefined)
        if default is PydanticUndefined or isinstance(default, dict):
            return ""
    else:
        default = format_default(field.default, unit_in(schema))
    if default is None:
        return "not set"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if isinstance(default, str | int | float) else f"`{_flow(default)}`"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    return str(value)


def _meaning(prefix: str, key: str, field: FieldInfo, schema: dict[str, Any]) -> str:
    text = " ".join((field.description or "").split())
    low, high = _bounds(field)
    if (low is not None or high is not None) and not unit_in(schema):
        text += f" From {low} to {high}." if high is not None else f" At least {low}."
    examples = field.examples or []
    if examples:
        text += " Example: " + ", ".join(f"`{_flow(example)}`" for example in examples) + "."
    inner = model_below(field.annotation)
    if inner is not None:
        text += f" See `{f'{prefix}.' if prefix else ''}{key}{inner[0]}`."
    return text


def _bounds(field: FieldInfo) -> tuple[Any, Any]:
    low = high = None
    for rule in field.metadata:
        low = getattr(rule, "ge", low)
        high = getattr(rule, "le", high)
    return low, high
