"""From the options of a command to a connection: settings, opening, closing, complaints."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from pydantic import SecretStr, ValidationError

from isthmus import clock
from isthmus.app.event_loop import run_in_loop
from isthmus.config.messages import problems_of
from isthmus.connectors.probe import STEPS, advice, cause, once
from isthmus.connectors.settings import MAX_PACKET_SIZE_BYTES, ConnectorSettings
from isthmus.errors import ConnectError, IsthmusError
from isthmus.net.reactor import Reactor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from isthmus.cli.client import Client, Dialer
    from isthmus.cli.greeting import Greeting
    from isthmus.cli.options import FarOptions
    from isthmus.connectors.connector import Connector

FAILED = 1
"""Exit status: could not connect, was refused, or something was lost."""

TIMED_OUT = 27
"""Exit status: the time of -W is over; that of mosquitto_sub."""

GOODBYE_S = 1.5
"""How long the end of a command waits until its connection is closed properly."""

LOOK_S = 0.002

URL_VARIABLE = "ISTHMUS_URL"
USERNAME_VARIABLE = "ISTHMUS_USERNAME"
PASSWORD_VARIABLE = "ISTHMUS_PASSWORD"  # noqa: S105 - its name

_VERSIONS = {
    **dict.fromkeys(("5", "5.0", "mqttv5"), "5"),
    **dict.fromkeys(("3.1.1", "311", "4", "mqttv311"), "3.1.1"),
    **dict.fromkeys(("3.1", "31", "3", "mqttv31"), "3.1"),
}

# What texts about a connector name, and what stands for it on the command line.
_OPTIONS = {
    "the far side": "the broker",
    "'client_id' or 'client_id_prefix'": "-i",
    "'client_id'": "-i",
    "'username' and 'password' of the connector": "-u and -P",
    "'username'": "-u",
    "'password'": "-P",
    "'version'": "-V",
    "'url'": "--url",
    "'max_packet_size'": "--max-packet-size",
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
    "proxy": "--proxy",
    "bind_address": "-A",
    "tls": "--url",
    "tls.alpn": "--alpn",
    "tls.ciphers": "--ciphers",
}

_TLS_VERSIONS = {"1.2": "1.2", "1.3": "1.3", "tlsv1.2": "1.2", "tlsv1.3": "1.3"}


class CommandError(IsthmusError):
    """A command could not do what it was asked to; the text says why.

    `status` is the exit status.
    """

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


def connector_settings(far: FarOptions) -> ConnectorSettings:
    """The settings of a client for one command: no session that outlives it, no bridge.

    Raises:
        typer.BadParameter: options contradict each other, or a value is wrong.
    """
    version = version_of(far)
    if version is None:
        raise typer.BadParameter("must be 5, 3.1.1 or 3.1", param_hint="-V")
    url = _url(far)
    username = _username(far)
    data: dict[str, Any] = {
        "url": url,
        "version": version,
        "client_id": far.client_id,
        "username": username,
        "password": _password(far, username),
        "keepalive": far.keepalive,
        "clean_start": True,
        "session_expiry": 0,
        "max_packet_size": MAX_PACKET_SIZE_BYTES,
        "bridge_bit": False,
        "proxy": far.proxy,
        "bind_address": far.bind_address,
    }
    if tls := _tls(far):
        data["tls"] = tls
    try:
        settings = ConnectorSettings.model_validate(data)
    except ValidationError as error:
        problem = next(problems_of(error, ConnectorSettings, data))
        key = ".".join(str(part) for part in problem.loc[:2])
        key = key if key in _OPTION_OF_KEY else key.partition(".")[0]
        raise typer.BadParameter(
            in_options(problem.text), param_hint=_OPTION_OF_KEY.get(key, key) or None
        ) from None
    return settings.model_copy(update={"reconnect": once(settings.reconnect)})


def _url(far: FarOptions) -> str:
    if far.key is not None and far.cert is None:
        raise typer.BadParameter("needs --cert", param_hint="--key")
    encrypted = far.tls or bool(far.cafile or far.capath or far.cert)
    scheme = "mqtts" if encrypted else "mqtt"
    by_parts = far.host is not None or far.port is not None
    if by_parts and far.unix is not None:
        raise typer.BadParameter("cannot be combined with -h and -p", param_hint="--unix")
    if far.unix is not None:
        by_parts = True
    url = far.url
    if url is not None and by_parts:
        raise typer.BadParameter("cannot be combined with -h, -p and --unix", param_hint="--url")
    if url is None and not by_parts:
        url = os.environ.get(URL_VARIABLE) or None
    if url is not None:
        if "://" not in url and not url.startswith("unix:"):
            return f"{scheme}://{url}"
        if far.tls and not url.lower().startswith(("mqtts:", "wss:")):
            raise typer.BadParameter(
                "must begin with mqtts:// or wss:// for --tls", param_hint="--url"
            )
        return url
    if far.unix is not None:
        return f"unix:{Path(far.unix).absolute()}"
    host = far.host or "127.0.0.1"
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{scheme}://{host}" + (f":{far.port}" if far.port is not None else "")


def _tls(far: FarOptions) -> dict[str, Any]:
    if far.cafile is not None and far.capath is not None:
        raise typer.BadParameter("cannot be combined with --cafile", param_hint="--capath")
    tls: dict[str, Any] = {
        "ca": far.cafile or far.capath,
        "certificate": far.cert,
        "key": far.key,
        "key_password": _secret(far.key_password_file, "--key-password-file"),
        "server_name": far.server_name,
        "verify_hostname": False if far.insecure else None,
        "alpn": None if far.alpn is None else [far.alpn],
        "ciphers": far.ciphers,
    }
    if far.tls_version is not None:
        version = _TLS_VERSIONS.get(far.tls_version.lower())
        if version is None:
            raise typer.BadParameter(
                "must be 1.2 or 1.3; older ones are not safe", param_hint="--tls-version"
            )
        tls["min_version"] = tls["max_version"] = version
    return {key: value for key, value in tls.items() if value is not None}


def _username(far: FarOptions) -> str | None:
    """The user name; that of the environment only for the address of the environment."""
    if far.username is not None or any((far.url, far.host, far.port, far.unix)):
        return far.username
    return os.environ.get(USERNAME_VARIABLE) or None


def _password(far: FarOptions, username: str | None) -> SecretStr | None:
    ways = (far.password is not None, far.password_file is not None, far.ask_password)
    if sum(ways) > 1:
        raise typer.BadParameter(
            "give the password once: -P, --password-file or --ask-password", param_hint="-P"
        )
    if far.password_file is not None:
        return _secret(far.password_file, "--password-file")
    if far.password is not None:
        return SecretStr(far.password)
    if far.ask_password:
        from getpass import getpass

        # At the terminal itself, as standard input may be what is to be published.
        return SecretStr(getpass("Password: "))
    # Only for a user that is named, or the password would go to whatever broker is asked next.
    found = os.environ.get(PASSWORD_VARIABLE) if username else None
    return None if found is None else SecretStr(found)


def _secret(file: Path | None, option: str) -> SecretStr | None:
    if file is None:
        return None
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        raise typer.BadParameter("is no readable text", param_hint=option) from None
    return SecretStr(text.removesuffix("\n").removesuffix("\r"))


def in_options(text: str) -> str:
    """A text about a connector, in the words of the command line."""
    for key, option in _OPTIONS.items():
        text = text.replace(key, option)
    return text


@asynccontextmanager
async def reacting() -> AsyncIterator[Reactor]:
    """A reactor; at the end, what still says goodbye has a moment to do so."""
    reactor = Reactor()
    try:
        yield reactor
    finally:
        deadline = clock.monotonic() + GOODBYE_S
        while reactor.statistics().links and clock.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_S)
        reactor.close()


async def opened(dialer: Dialer, greeting: Greeting) -> Client:
    """The first connection of a command.

    Raises:
        CommandError: it cannot be made; the text says why, and what to try.
    """
    try:
        return await dialer.open()
    except ConnectError as error:
        raise cannot_connect(error, greeting.settings) from None


def cannot_connect(error: ConnectError, settings: ConnectorSettings) -> CommandError:
    """A failed connection as the end of a command, with what to try."""
    hint = in_options(advice(error, settings, settings.client_id))
    what = f"cannot connect: {STEPS[error.step]}: {in_options(cause(error))}"
    return CommandError(f"{what}\n  try: {hint}")


def version_of(far: FarOptions) -> str | None:
    """The version of MQTT that was asked for, as settings call it; None if there is none such."""
    return _VERSIONS.get(far.version.lower())


@asynccontextmanager
async def far_side(name: str, settings: ConnectorSettings) -> AsyncIterator[Connector]:
    """A connector that is not started yet; at the end it says goodbye and is gone."""
    # Only `isthmus test` needs one: the others need not wait until it is imported.
    from isthmus.connectors.client_ids import ClientIds
    from isthmus.connectors.connector import Connector

    async with reacting() as reactor:
        connector = Connector(name, settings, reactor, ClientIds(None))
        try:
            yield connector
        finally:
            connector.watcher = None
            await connector.stop()


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
        return error.status


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
