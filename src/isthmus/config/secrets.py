"""`${env:NAME}` and `${file:path}` in the values of a configuration, and values never to be shown.

A value that came from either may be a secret whatever its key is called, so it travels as
`Expanded`, whose repr shows nothing, and the loader removes it from every error text. Keys that
always hold secrets use `Secret` and are read with `.get_secret_value()`.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, SecretStr

HIDDEN = "**********"

MAX_SECRET_FILE_BYTES = 1 << 20
"""A secret is a password or a token; anything bigger is the wrong path, such as a device."""

_REFERENCE = re.compile(r"\$\$\{|\$\{([A-Za-z_]+):([^{}]*)\}")
_SHELL_STYLE = re.compile(r"\$\{[^{}]*\}")

_SHORTEST_HIDDEN = 4
"""Shorter values are no secrets, and hiding them would garble texts: `QOS=1`."""


class Expanded(str):
    """Text that holds a secret from outside the file. Behaves as text; its repr is hidden."""

    __slots__ = ()

    def __repr__(self) -> str:
        return HIDDEN


def shown(value: object) -> str:
    """Return a value for an error text: quoted, or hidden if it came from outside the file."""
    return HIDDEN if isinstance(value, Expanded) else f"'{value}'"


class SecretError(ValueError):
    """A reference cannot be expanded; the text says why and holds no secret."""


def expand(text: str, base: Path, found: set[str] | None = None) -> str:
    """Return `text` with its references expanded; `$${` stays as a literal `${`.

    Args:
        text: a value of the configuration.
        base: folder to which the paths of `${file:...}` are relative.
        found: gets every value that was put in, for hiding them later.

    Raises:
        SecretError: the variable is not set, the file cannot be read, or the kind is unknown.
    """
    if "${" not in text:
        return text
    used = False

    def replace(match: re.Match[str]) -> str:
        nonlocal used
        used = True
        if match[0] == "$${":
            return "${"
        value = _value(match[1], match[2], base)
        if found is not None:
            found.add(value)
        return value

    result = _REFERENCE.sub(replace, text)
    return Expanded(result) if used else result


def hide(text: str, secrets: set[str]) -> str:
    """Return `text` without the secrets, the longest first so that no rest of one stays."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _SHORTEST_HIDDEN:
            text = text.replace(secret, HIDDEN)
    return text


def _value(kind: str, name: str, base: Path) -> str:
    if kind == "env":
        value = os.environ.get(name)
        if value is None:
            raise SecretError(f"environment variable '{name}' is not set")
        return value
    if kind == "file":
        return _read(base / Path(name).expanduser())
    raise SecretError(
        f"'${{{kind}:...}}' is unknown, use ${{env:NAME}} or ${{file:path}}; "
        "write $${ for a literal ${"
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_FILE_BYTES + 1)
    except OSError as error:
        raise SecretError(f"cannot read '{path}': {error.strerror}") from None
    if len(data) > MAX_SECRET_FILE_BYTES:
        raise SecretError(f"'{path}' is too big for a secret")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise SecretError(f"'{path}' is not UTF-8 text") from None
    # Editors and `echo` end a file with one line break that is no part of the secret.
    return text.removesuffix("\n").removesuffix("\r")


def _no_shell_style(value: object) -> object:
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text; put it in quotes")
    if not isinstance(value, Expanded) and _SHELL_STYLE.search(value):
        raise ValueError(
            "holds a ${...} that is not expanded; write ${env:NAME} or ${file:path}, "
            "or $${ for a literal ${"
        )
    return str(value)


def _schema(schema: dict[str, Any]) -> None:
    schema.pop("format", None)
    schema.pop("writeOnly", None)
    schema["examples"] = ["${env:CLOUD_PASSWORD}", "${file:/run/secrets/cloud}"]
    schema["x-secret"] = True


Secret = Annotated[SecretStr, BeforeValidator(_no_shell_style), Field(json_schema_extra=_schema)]
"""Text that is never shown; best written as `${env:NAME}` or `${file:path}`."""
