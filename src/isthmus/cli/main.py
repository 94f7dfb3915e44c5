"""The command line: `isthmus COMMAND`.

Each command is a function in a file of this package, which is imported when the command is called.
They import what they use as late: `isthmus run` must not pay for what `isthmus schema` needs, nor
the other way round.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Annotated

import typer

from isthmus import __version__
from isthmus.errors import ConfigError, IsthmusError, ListenError

# What looks for plugins in every installed package takes 30 ms and 1 MiB, and there are none.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
if sys.platform == "linux":
    # Else `zoneinfo`, which pydantic imports, reads all that Python was built with, to find what
    # it nearly always is: 0.7 MiB.
    os.environ.setdefault(
        "PYTHONTZPATH",
        "/usr/share/zoneinfo:/usr/lib/zoneinfo:/usr/share/lib/zoneinfo:/etc/zoneinfo",
    )

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130

COMMANDS = {
    "run": "run.run",
    "reload": "reload.reload",
    "status": "status.status",
    "top": "top.top",
    "check": "check.check",
    "explain": "explain.explain",
    "pub": "pub.pub",
    "sub": "sub.sub",
    "request": "request.request",
    "test": "test.try_connector",
    "import": "import_.importing",
    "passwd": "passwd.passwd",
    "store": "store.store",
    "dlq": "dlq.dlq",
    "schema": "check.schema",
    "demo": "run.demo",
}
"""Where each command is: module and name in this package."""

PROPERTY_COMMANDS = frozenset({"pub", "sub", "request"})
"""Those with the option -D."""


def make_app(only: str = "") -> typer.Typer:
    """The command line; if `only` is a command, with this one alone.

    To make the options of all commands takes as long as to connect and publish a message.
    """
    app = typer.Typer(
        name="isthmus",
        help="An MQTT broker and bridge: an acknowledged message has reached its target.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich costs more time and memory than the rest of it
    )
    app.callback()(options)
    for name in [only] if only in COMMANDS else COMMANDS:
        module, _, attribute = COMMANDS[name].partition(".")
        found = getattr(import_module(f"isthmus.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found)
        elif name in PROPERTY_COMMANDS:
            from isthmus.cli.property_option import PropertyCommand

            app.command(name, cls=PropertyCommand)(found)
        else:
            app.command(name)(found)
    return app


def _version(show: bool) -> None:
    if show:
        typer.echo(f"isthmus {__version__}")
        raise typer.Exit


def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Options of every command."""
    del version


def _complain(text: str) -> None:
    """Say what is wrong; names of files and keys may hold what a terminal obeys."""
    from isthmus.log import escape

    lines = [escape(line) for line in text.split("\n")]
    print("isthmus: " + "\n".join(lines), file=sys.stderr)


def main() -> None:
    """Run the command line; expected errors are lines on standard error, without a traceback."""
    try:
        make_app(sys.argv[1] if len(sys.argv) > 1 else "")(prog_name="isthmus")
    except ConfigError as error:
        for problem in error.problems:
            _complain(problem)
        sys.exit(FAILED if isinstance(error, ListenError) else USAGE_ERROR)
    except IsthmusError as error:
        _complain(str(error))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
