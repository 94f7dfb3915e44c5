"""`isthmus check` and `isthmus schema`: the configuration, without starting anything."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from isthmus.app.configuration import Loaded


def check(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="Configuration (.yaml, .toml, .json, Mosquitto's .conf); - is YAML on stdin.",
        ),
    ],
) -> None:
    """Check FILE and say in words what it does; nothing is started.

    \b
    Exit status: 0 it can be used; 2 it cannot, with file, line and reason of every problem.
    """  # noqa: D301
    from isthmus.app.explanation import explain
    from isthmus.log import escape

    settings, notes, _ = loaded(file)
    for line in explain(settings):
        typer.echo(escape(line))
    for note in notes:
        typer.echo(escape(f"{'Warning' if note.loud else 'Note'}: {note}"))


def loaded(file: str) -> Loaded:
    """The configuration in FILE, with everything that it names, and what to know about it.

    Raises:
        ConfigError: it cannot be used, with every problem.
    """
    from isthmus.app.configuration import read_configuration, read_text
    from isthmus.app.files import load_files
    from isthmus.errors import ConfigError

    if file == "-":
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise ConfigError("<stdin>: is not UTF-8 text") from None
        found = read_text(text, "<stdin>")
    else:
        found = read_configuration(Path(file))
    try:
        load_files(found.settings)
    except ConfigError as error:
        raise found.placed(error) from error
    return found


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference page instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from isthmus.app.settings import Settings

    if markdown:
        from isthmus.config.reference import reference

        typer.echo(reference(Settings), nl=False)
        return
    import json

    found = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Settings.model_json_schema(),
    }
    typer.echo(json.dumps(found, indent=2))
