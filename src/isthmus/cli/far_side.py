"""From the options of a command to a connection: settings, opening, closing, complaints."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import typer
from pydantic import SecretStr, ValidationError

from isthmus import clock
from isthmus.app.event_loop import run_in_loop
from isthmus.config.messages import problems_of
from isthmus.connectors.client_ids import ClientIds
from isthmus.connectors.connector import Connector
from isthmus.connectors.probe import STEPS, advice, cause, once
from isthmus.connectors.settings import MAX_PACKET_SIZE_BYTES, ConnectorSettings
from isthmus.errors import ConnectError, IsthmusError
from isthmus.net.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from isthmus.cli.options import FarOptions

FAILED = 1
"""Exit status: could not connect, was refused, or took too long."""

GOODBYE_S = 1.5
"""How long the end of a command waits until its connection is closed properly."""

LOOK_S = 0.002

PASSWORD_VARIABLE = "ISTHMUS_PASSWORD"  # noqa: S105 - its name

_VERSIONS = {
    **dict.fromkeys(("5", "5.0", "mqttv5"), "5"),
    **dict.fromkeys(("3.1.1", "311", "4", "mqttv311"), "3.1.1"),
    **dict.fromkeys(("3.1", "31", "3", "mqttv31"), "3.1"),
}

# Keys of a connector's settings, as the texts about them name them, and the options instead.
_OPTIONS = {
    "'client_id' or 'client_id_prefix'": "-i",
    "'client_id'": "-i",
    "'username' and 'password' of the connector": "-u and -P",
    "'username'": "-u",
    "'password'": "-P",
    "'version'": "-V",
    "'url'": "--url",
    "tls.server_name": "--server-name",
    "tls.certificate": "--cert",
    "tls.ca": "--cafile",
    "the tls settings": "--cafile, --cert and --key",
}
_OPTION_OF_KEY = {
    "url": "--url",
    "username": "-u",
    "password": "-P",
    "client_id": "-i",
    "keepalive": "-k",
    "tls": "--url",
}


class CommandError(IsthmusError):
    """A command could not do what it was asked to; the text says why."""


def connector_settings(far: FarOptions) -> ConnectorSettings:
    """The settings of a client for one command: no session that outlives it, no bridge.

    Raises:
        typer.BadParameter: options contradict each other, or a value is wrong.
    """
    version = _VERSIONS.get(far.version.lower())
    if version is None:
        raise typer.BadParameter("must be 5, 3.1.1 or 3.1", param_hint="-V")
    data: dict[str, Any] = {
        "url": _url(far),
        "version": version,
        "client_id": far.client_id,
        "username": far.username,
        "password": _password(far),
        "keepalive": far.keepalive,
        "clean_start": True,
        "session_expiry": 0,
        "max_packet_size": MAX_PACKET_SIZE_BYTES,
        "bridge_bit": False,
    }
    files = {"ca": far.cafile, "certificate": far.cert, "key": far.key}
    names = {**files, "server_name": far.server_name}
    tls = {key: value for key, value in names.items() if value is not None}
    if tls:
        data["tls"] = tls
    try:
        settings = ConnectorSettings.model_validate(data)
    except ValidationError as error:
        problem = next(problems_of(error, ConnectorSettings, data))
        key = str(problem.loc[0]) if problem.loc else ""
        raise typer.BadParameter(
            in_options(problem.text), param_hint=_OPTION_OF_KEY.get(key, key) or None
        ) from None
    return settings.model_copy(update={"reconnect": once(settings.reconnect)})


def _url(far: FarOptions) -> str:
    if far.key is not None and far.cert is None:
        raise typer.BadParameter("needs --cert", param_hint="--key")
    encrypted = far.tls or far.cafile is not None or far.cert is not None
    scheme = "mqtts" if encrypted else "mqtt"
    if far.url is not None:
        if far.host is not None or far.port is not None:
            raise typer.BadParameter("cannot be combined with -h and -p", param_hint="--url")
        if "://" not in far.url:
            return f"{scheme}://{far.url}"
        if far.tls and not far.url.lower().startswith(("mqtts:", "wss:")):
            raise typer.BadParameter(
                "must begin with mqtts:// or wss:// for --tls", param_hint="--url"
            )
        return far.url
    host = far.host or "127.0.0.1"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{scheme}://{host}" + (f":{far.port}" if far.port is not None else "")


def _password(far: FarOptions) -> SecretStr | None:
    if far.password_file is not None:
        if far.password is not None:
            raise typer.BadParameter("cannot be combined with -P", param_hint="--password-file")
        try:
            text = far.password_file.read_text()
        except (OSError, UnicodeDecodeError):
            raise typer.BadParameter("is no readable text", param_hint="--password-file") from None
        return SecretStr(text.removesuffix("\n").removesuffix("\r"))
    if far.password is not None:
        return SecretStr(far.password)
    # Only for a user that is named, or the password would go to whatever broker is asked next.
    found = os.environ.get(PASSWORD_VARIABLE) if far.username else None
    return None if found is None else SecretStr(found)


def in_options(text: str) -> str:
    """A text about a connector's settings, in the words of the command line."""
    for key, option in _OPTIONS.items():
        text = text.replace(key, option)
    return text


def complaint(error: ConnectError, settings: ConnectorSettings) -> str:
    """Why a command could not connect, and what to try."""
    hint = in_options(advice(error, settings, settings.client_id))
    return f"cannot connect: {STEPS[error.step]}: {in_options(cause(error))}\n  try: {hint}"


@asynccontextmanager
async def far_side(name: str, settings: ConnectorSettings) -> AsyncIterator[Connector]:
    """A connector that is not started yet; at the end it says goodbye and is gone."""
    reactor = Reactor()
    connector = Connector(name, settings, reactor, ClientIds(None))
    try:
        yield connector
    finally:
        connector.watcher = None
        await connector.stop()
        deadline = clock.monotonic() + GOODBYE_S
        while reactor.statistics().links and clock.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        reactor.close()


def run_command(main: Coroutine[Any, Any, int], *, debug: bool = False) -> int:
    """Run a command to its end and return its exit status; 128 and the signal if it was stopped.

    Without `debug`, what the parts log is not shown: the command says itself what matters.
    """
    if debug:
        from isthmus.log import configure

        configure("debug", "text")
    else:
        logger = logging.getLogger("isthmus")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    try:
        return run_in_loop(_until_signal(main))
    except CommandError as error:
        complain(str(error))
        return FAILED


async def _until_signal(main: Coroutine[Any, Any, int]) -> int:
    task = asyncio.ensure_future(main)
    stopped_by = 0

    def stop(number: int) -> None:
        nonlocal stopped_by
        stopped_by = number
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):
            loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not stopped_by:
            raise
        return 128 + stopped_by


def complain(text: str) -> None:
    """Say on standard error what is wrong."""
    print(f"isthmus: {text}", file=sys.stderr, flush=True)
