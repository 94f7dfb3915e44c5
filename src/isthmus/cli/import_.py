"""`isthmus import`: the configuration of another system, written as one of this."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isthmus.cli.output_file import OutputOption, result_file
from isthmus.errors import ConfigError

SOME_REFUSED = 1

importing = typer.Typer(
    name="import",
    help="Write the configuration of another system as commented YAML.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@importing.callback()
def options() -> None:
    """Write the configuration of another system as commented YAML."""


@importing.command("mosquitto")
def import_mosquitto(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A mosquitto.conf.")],
    output: OutputOption = None,
) -> None:
    """Write FILE, a mosquitto.conf, as YAML that does the same.

    Each line says in a comment which line it comes from; what is refused stands at the top. The
    text holds the passwords that FILE holds.

    \b
    Exit status: 0 done; 1 done, but something was refused; 2 FILE is wrong, or nothing could be
    written.
    """  # noqa: D301
    from isthmus.app.mosquitto.loading import in_order
    from isthmus.app.mosquitto.translation import translate
    from isthmus.app.mosquitto.yaml_text import yaml_text

    draft = translate(file)
    if draft.problems:
        raise ConfigError(*in_order(draft.problems))
    text = yaml_text(draft, str(file))
    with result_file(output) as result:
        result.write(text.encode(errors="surrogateescape"))
    for note in draft.refused:
        typer.echo(f"isthmus: {note} (refused)", err=True)
    if draft.refused:
        raise typer.Exit(SOME_REFUSED)
