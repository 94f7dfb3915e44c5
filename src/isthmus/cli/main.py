"""The command line: `isthmus COMMAND`.

Each command is a function in a file of this package. They import what they use when they are
called: `isthmus run` must not pay for what `isthmus schema` needs, nor the other way round.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from isthmus import __version__
from isthmus.cli.check import check, schema
from isthmus.cli.explain import explain
from isthmus.cli.import_ import importing
from isthmus.cli.passwd import passwd
from isthmus.cli.pub import pub
from isthmus.cli.run import demo, run
from isthmus.cli.sub import sub
from isthmus.cli.test import try_connector
from isthmus.errors import ConfigError, IsthmusError, ListenError

# What looks for plugins in every installed package takes 30 ms and 1 MiB, and there are none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130

app = typer.Typer(
    name="isthmus",
    help="An MQTT broker and bridge: an acknowledged message has reached its target.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich costs more time and memory than the rest of the command line
)


def _version(show: bool) -> None:
    if show:
        typer.echo(f"isthmus {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Options of every command."""
    del version


for command in (run, check, explain, pub, sub):
    app.command()(command)
app.command("test")(try_connector)
app.add_typer(importing)
for command in (passwd, schema, demo):
    app.command()(command)


def main() -> None:
    """Run the command line; expected errors are lines on standard error, without a traceback."""
    try:
        app(prog_name="isthmus")
    except ConfigError as error:
        for problem in error.problems:
            print(f"isthmus: {problem}", file=sys.stderr)
        sys.exit(FAILED if isinstance(error, ListenError) else USAGE_ERROR)
    except IsthmusError as error:
        print(f"isthmus: {error}", file=sys.stderr)
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
