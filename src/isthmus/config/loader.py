"""From a file to typed settings, or to one `ConfigError` that lists everything that is wrong.

The way of a value: text -> plain data with positions -> secrets expanded, paths made absolute ->
model. Errors read `file:line: path.to.key: what is wrong; did you mean 'x'?`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from isthmus.config.document import Document, DocumentError, Position, nearest_line
from isthmus.config.fields import is_path, model_of, step
from isthmus.config.messages import problems_of, unknown_key
from isthmus.config.model import SettingsModel
from isthmus.config.problems import Loc, Problem, path_text
from isthmus.config.secrets import Expanded, SecretError, expand, hide
from isthmus.errors import ConfigError

Format = Literal["yaml", "toml", "json"]

FORMATS: dict[str, Format] = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}
"""Formats by the ending of the file name."""

Model = TypeVar("Model", bound=SettingsModel)


class Loaded(NamedTuple):
    """Plain data of a file, secrets not expanded, and the position of every path in it."""

    data: dict[str, Any]
    positions: dict[Loc, Position]


def load(path: Path) -> Loaded:
    """Return what a file says.

    Raises:
        ConfigError: it cannot be read, is malformed, or has a key twice.
    """
    return load_text(_text(path), str(path), format=_format(path))


def load_text(
    text: str,
    name: str,
    *,
    format: Format = "yaml",  # noqa: A002 - what it is called everywhere else
) -> Loaded:
    """Return what a text says; see `load`. `name` stands for the file in errors."""
    document = _read(text, format, name)
    if document.problems:
        raise _config_error(document.problems, document, name, set())
    return Loaded(document.data, document.positions)


def parse(model: type[Model], path: Path) -> Model:
    """Return the settings of a file; relative paths in it are relative to its folder.

    Raises:
        ConfigError: with one problem for everything that is wrong.
    """
    base = path.parent.absolute()
    return parse_text(model, _text(path), format=_format(path), name=str(path), base=base)


def parse_text(
    model: type[Model],
    text: str,
    *,
    format: Format = "yaml",  # noqa: A002 - what it is called everywhere else
    name: str = "<text>",
    base: Path | None = None,
) -> Model:
    """Return the settings of a text; see `parse`. `name` stands for the file in errors."""
    document = _read(text, format, name)
    preparation = _Preparation(model, (base or Path()).absolute())
    data = preparation.prepare(document.data, model, ())
    problems = document.problems + preparation.problems
    settings: Model | None = None
    try:
        settings = model.model_validate(data)
    except ValidationError as error:
        for found in (problems_of(error, model, data), model.problems_in(data)):
            known = {problem.loc for problem in problems}
            problems += [problem for problem in found if problem.loc not in known]
    if settings is None or problems:
        raise _config_error(problems, document, name, preparation.secrets)
    return settings


class _Preparation:
    """Expands secrets and makes paths absolute, guided by the annotations of the models."""

    def __init__(self, root: type[BaseModel], base: Path) -> None:
        self.problems: list[Problem] = []
        self.secrets: set[str] = set()
        self._root = root
        self._base = base

    def prepare(self, data: Any, annotation: Any, loc: Loc) -> Any:
        if isinstance(data, dict):
            self._refuse_field_names(data, annotation, loc)
            return {
                key: self.prepare(value, step(annotation, key), (*loc, key))
                for key, value in data.items()
            }
        if isinstance(data, list):
            inner = step(annotation, 0)
            return [self.prepare(item, inner, (*loc, i)) for i, item in enumerate(data)]
        if isinstance(data, str):
            return self._text(data, annotation, loc)
        return data

    def _text(self, text: str, annotation: Any, loc: Loc) -> str:
        try:
            text = expand(text, self._base, self.secrets)
        except SecretError as problem:
            self.problems.append(Problem(loc, str(problem)))
            return text
        if text and is_path(annotation):
            try:
                absolute = str(self._base / Path(text).expanduser())
            except RuntimeError:
                self.problems.append(Problem(loc, "has a '~' that stands for no home folder"))
                return text
            return Expanded(absolute) if isinstance(text, Expanded) else absolute
        return text

    def _refuse_field_names(self, data: dict[str, Any], annotation: Any, loc: Loc) -> None:
        """A field with an alias has a second name in Python, which is no key of the file."""
        model = model_of(annotation)
        for name, field in model.model_fields.items() if model else ():
            if field.alias and field.alias != name and name in data:
                problem = unknown_key(self._root, (*loc, name)).partition(";")[0]
                text = f"{problem}; did you mean '{field.alias}'?"
                self.problems.append(Problem((*loc, name), text))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8 text") from None


def _format(path: Path) -> Format:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(FORMATS)
        raise ConfigError(f"{path}: the file name must end in one of {known}") from None


def _reader(kind: Format) -> Callable[[str], Document]:
    """What reads a format; the others are not loaded."""
    if kind == "toml":
        from isthmus.config.toml_source import read_toml as read
    elif kind == "json":
        from isthmus.config.json_source import read_json as read
    else:
        from isthmus.config.yaml_source import read_yaml as read
    return read


def _read(text: str, kind: Format, name: str) -> Document:
    try:
        document = _reader(kind)(text)
    except DocumentError as problem:
        raise ConfigError(f"{name}:{problem.line}: {problem}") from None
    if document.data is None:
        document.data = {}
    if not isinstance(document.data, dict):
        raise ConfigError(f"{name}:1: must be a mapping of keys, such as 'broker:'")
    return document


def _config_error(
    problems: list[Problem], document: Document, name: str, secrets: set[str]
) -> ConfigError:
    lines = sorted(
        (nearest_line(document.positions, problem.loc), index, problem)
        for index, problem in enumerate(problems)
    )
    return ConfigError(
        *(f"{name}:{line}: {hide(_sentence(problem), secrets)}" for line, _, problem in lines)
    )


def _sentence(problem: Problem) -> str:
    return f"{path_text(problem.loc)}: {problem.text}" if problem.loc else problem.text
