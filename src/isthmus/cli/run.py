"""`isthmus run` and `isthmus demo`: the process itself."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer


def run(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", show_default=False, help="Configuration (.yaml, .toml, .json)."
        ),
    ] = None,
) -> None:
    """Run the broker and the bridges of FILE.

    Without FILE it is a broker on 127.0.0.1:1883. SIGTERM and Ctrl-C let what is on its way arrive,
    then it ends; a second one ends it at once.

    \b
    Exit status: 0 stopped; 1 an address cannot be listened on; 2 the configuration is wrong.
    """  # noqa: D301
    from isthmus.app.event_loop import run_in_loop
    from isthmus.app.process import serve
    from isthmus.app.settings import Settings
    from isthmus.config.loader import parse
    from isthmus.log import configure

    settings = Settings() if file is None else parse(Settings, file)
    configure(settings.log.level, settings.log.format)
    run_in_loop(serve([settings]))


def demo() -> None:
    """Run a broker, a second one as its far side, and two routes between them.

    On ports 1883 and 1884 of this machine, or where they are taken on free ones.
    """
    from isthmus.app.demo import FAR, NEAR, TEXT, demonstration, free_address
    from isthmus.app.event_loop import run_in_loop
    from isthmus.app.process import serve
    from isthmus.log import configure

    configure("info", "text")
    near, far = free_address(NEAR), free_address(FAR)
    text = TEXT.format(near=near, far=far).replace("  isthmus ", f"  {_program()} ")
    run_in_loop(serve(demonstration(near, far), ready=lambda: typer.echo(text)))


def _program() -> str:
    """What to type for `isthmus`: in an environment that is not activated it needs its folder."""
    if shutil.which("isthmus"):
        return "isthmus"
    called = Path(sys.argv[0])
    return str(called) if called.name == "isthmus" else f"{sys.executable} -m isthmus"
