"""`isthmus run` and `isthmus demo`: the process itself."""

from __future__ import annotations

import logging
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from isthmus.app.configuration import Loaded

log = logging.getLogger("isthmus.app")


def run(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="Configuration (.yaml, .toml, .json), or a mosquitto.conf (.conf).",
        ),
    ] = None,
    mosquitto: Annotated[
        Path | None,
        typer.Option(
            "-c",
            "--config-file",
            metavar="FILE",
            show_default=False,
            help="A mosquitto.conf of any name.",
        ),
    ] = None,
    ports: Annotated[
        list[int] | None,
        typer.Option(
            "-p",
            "--port",
            min=1,
            max=65_535,
            metavar="PORT",
            show_default=False,
            help="Port on this machine, where no file opens a listener; as often as you like.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Log everything, whatever the file says.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Log nothing.")] = False,
    test_config: Annotated[
        bool, typer.Option("--test-config", help="Check the configuration and end.")
    ] = False,
    daemon: Annotated[bool, typer.Option("-d", "--daemon", hidden=True)] = False,
) -> None:
    """Run the broker and the bridges of FILE.

    Without FILE it is a broker on 127.0.0.1:1883. SIGTERM and Ctrl-C let what is on its way arrive,
    then it ends; a second one ends it at once. SIGHUP and `isthmus reload` read FILE again.

    The options are those of mosquitto, so `mosquitto -c FILE -v` becomes `isthmus run -c FILE -v`.

    \b
    Exit status: 0 stopped; 1 an address cannot be listened on; 2 the configuration is wrong.
    """  # noqa: D301
    if daemon:
        raise ConfigError("-d: Isthmus stays in the foreground; let systemd start it, or write '&'")
    if file is not None and mosquitto is not None:
        raise ConfigError(f"-c: there are two configurations, {file} and {mosquitto}")
    read = partial(_settings, file, mosquitto, ports or [], verbose=verbose, quiet=quiet)
    loaded = read()
    try:
        _run(loaded, read, file or mosquitto, only_test=test_config)
    except ConfigError as error:
        raise loaded.placed(error) from error


def _run(loaded: Loaded, read: Callable[[], Loaded], file: Path | None, *, only_test: bool) -> None:
    from isthmus.app.event_loop import run_in_loop
    from isthmus.app.process import pid_file, serve
    from isthmus.app.user import become
    from isthmus.log import configure

    settings, notes = loaded.settings, loaded.notes
    if only_test:
        from isthmus.app.files import load_files

        load_files(settings)
        for note in notes:
            typer.echo(f"isthmus: {note}", err=True)
        return
    remark = become(settings.user)
    try:
        configure(**settings.log.model_dump())
    except OSError as error:
        raise ConfigError(f"log: {error.filename}: cannot be used: {error.strerror}") from None
    if remark:
        log.info("%s", remark)
    for note in notes:
        log.log(logging.WARNING if note.loud else logging.INFO, "%s", note)
    with pid_file(settings.pid_file):
        run_in_loop(serve([settings], read=read, file=file))


def _settings(
    file: Path | None, mosquitto: Path | None, ports: list[int], *, verbose: bool, quiet: bool
) -> Loaded:
    """The settings of whichever file there is; -p alone is a mosquitto without a file."""
    from isthmus.app.configuration import Loaded, is_mosquitto, read_configuration
    from isthmus.app.settings import Settings

    native = file is not None and not is_mosquitto(file)
    if mosquitto is not None or (not native and (file is not None or ports)):
        from isthmus.app.mosquitto.loading import load

        return load(mosquitto or file, ports=ports, verbose=verbose, quiet=quiet)
    if ports:
        raise ConfigError("-p: write the port into the file, as 'listeners: [{bind: ...}]'")
    loaded = Loaded(Settings(), []) if file is None else read_configuration(file)
    settings = loaded.settings
    changes: dict[str, object] = {"level": "debug"} if verbose else {}
    if quiet:
        changes = {"to": (), "file": None}
    written = settings.log.model_copy(update=changes)
    return loaded._replace(settings=settings.model_copy(update={"log": written}))


def demo() -> None:
    """Run a broker, a second one as its far side, and two routes between them.

    On ports 1883, 1884 and 8080 (HTTP) of this machine, or where they are taken on free ones.
    """
    from isthmus.app.demo import FAR, NEAR, TEXT, demonstration, elsewhere, free_address
    from isthmus.app.event_loop import run_in_loop
    from isthmus.app.process import serve
    from isthmus.log import configure
    from isthmus.web.settings import DEFAULT_HTTP_BIND

    configure("info", "text")
    wanted = NEAR, FAR, DEFAULT_HTTP_BIND
    near, far, http = map(free_address, wanted)
    moved = "".join(map(elsewhere, wanted, (near, far, http)))
    text = TEXT.format(near=near, far=far, http=http).replace("  isthmus ", f"  {_program()} ")
    text = f"{moved}\n{text}" if moved else text
    run_in_loop(serve(demonstration(near, far, http), ready=lambda: typer.echo(text)))


def _program() -> str:
    """What to type for `isthmus`: in an environment that is not activated it needs its folder."""
    if shutil.which("isthmus"):
        return "isthmus"
    called = Path(sys.argv[0])
    return str(called) if called.name == "isthmus" else f"{sys.executable} -m isthmus"
