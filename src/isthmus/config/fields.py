"""The tree of settings models as a tree of keys: what may stand where in a file."""

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from isthmus.config.problems import Loc


def keys(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the keys that a file may use for a model, with their declarations."""
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def alternatives(annotation: Any) -> list[Any]:
    """Return what an annotation allows, without Annotated, unions and None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [kind for part in get_args(annotation) for kind in alternatives(part)]
    return [] if annotation is type(None) else [annotation]


def model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model that an annotation allows, if any."""
    for kind in alternatives(annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def item_of(annotation: Any, container: type) -> Any:
    """Return what the values of a mapping, or the entries of a list or tuple are, or None."""
    for kind in alternatives(annotation):
        arguments = get_args(kind)
        origin = get_origin(kind)
        if isinstance(origin, type) and issubclass(origin, container) and arguments:
            return arguments[1] if issubclass(origin, Mapping) else arguments[0]
    return None


def step(annotation: Any, key: str | int) -> Any:
    """Return the annotation of what stands under a key or index, or None."""
    if isinstance(key, int):
        return item_of(annotation, list) or item_of(annotation, tuple)
    model = model_of(annotation)
    if model is not None:
        return next((field.annotation for name, field in keys(model) if name == key), None)
    return item_of(annotation, Mapping)


def model_below(annotation: Any) -> tuple[str, type[BaseModel]] | None:
    """Return the nearest model that an annotation holds, and how to get there: `.*[*]`."""
    if model := model_of(annotation):
        return "", model
    for suffix, item in (
        (".*", item_of(annotation, Mapping)),
        ("[*]", item_of(annotation, list) or item_of(annotation, tuple)),
    ):
        found = None if item is None else model_below(item)
        if found is not None:
            return suffix + found[0], found[1]
    return None


def model_at(root: type[BaseModel], loc: Loc) -> type[BaseModel] | None:
    """Return the model whose keys stand at a path, if it is one."""
    annotation: Any = root
    for part in loc:
        annotation = step(annotation, part)
        if annotation is None:
            return None
    return model_of(annotation)


def unit_at(root: type[BaseModel], loc: Loc) -> str | None:
    """Return what a value at a path is, if it is written with a unit: duration, size or rate."""
    model = model_at(root, loc[:-1]) if loc else None
    if model is None:
        return None
    return unit_in(model.model_json_schema()["properties"].get(loc[-1], {}))


def unit_in(schema: dict[str, Any]) -> str | None:
    """Return what a value with this JSON Schema is, if it is written with a unit."""
    found: str | None = schema.get("x-unit")
    for part in schema.get("anyOf", ()):
        found = found or part.get("x-unit")
    return found


def is_path(annotation: Any) -> bool:
    """Whether an annotation is a file or folder."""
    return any(
        isinstance(kind, type) and issubclass(kind, Path) for kind in alternatives(annotation)
    )


def paths_to(root: type[BaseModel], key: str) -> Iterator[str]:
    """Yield the paths of every key with this name, `*` standing for a name or index."""
    for path, _, name, _ in walk(root):
        if name == key:
            yield path


def walk(
    root: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[str, type[BaseModel], str, FieldInfo]]:
    """Yield (path, model, key, declaration) of every key, a model's own before deeper ones."""
    deeper: list[tuple[str, type[BaseModel]]] = []
    for name, field in keys(root):
        path = f"{prefix}{name}"
        yield path, root, name, field
        if inner := model_below(field.annotation):
            deeper.append((f"{path}{inner[0]}.", inner[1]))
    for path, model in deeper:
        yield from walk(model, path)
