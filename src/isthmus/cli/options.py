"""The options that name a far side, the same for every command that connects to one.

They have the letters of mosquitto_pub, mosquitto_sub and MQTTX, so that fingers need not learn.
`with_options` gives the fields of such a record to a command.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

_FILE = {"exists": True, "dir_okay": False, "readable": True}


@dataclass(frozen=True, kw_only=True)
class FarOptions:
    """How to reach a far side and who to be there, as typed; nothing is checked yet."""

    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="mqtt://host:port, mqtts:// (TLS), ws://host:port/path, wss://, unix:/path, host "
            "or host:port. Or the environment variable ISTHMUS_URL.",
        ),
    ] = None
    host: Annotated[
        str | None,
        typer.Option(
            "-h", "--host", metavar="HOST", help="Instead of --url.  [default: 127.0.0.1]"
        ),
    ] = None
    port: Annotated[
        int | None,
        typer.Option(
            "-p",
            "--port",
            min=1,
            max=65_535,
            metavar="PORT",
            help="Port of -h.  [default: 1883, with TLS 8883]",
        ),
    ] = None
    unix: Annotated[
        str | None, typer.Option(metavar="PATH", help="Unix socket, instead of --url.")
    ] = None
    bind_address: Annotated[
        str | None,
        typer.Option(
            "-A", "--bind-address", metavar="ADDRESS", help="Local address to connect from."
        ),
    ] = None
    proxy: Annotated[
        str | None,
        typer.Option(metavar="URL", help="http://host:port or socks5://host:port to go through."),
    ] = field(default=None, repr=False)
    client_id: Annotated[
        str | None,
        typer.Option("-i", "--id", metavar="ID", help="Client id.  [default: a new one]"),
    ] = None
    id_prefix: Annotated[
        str | None,
        typer.Option(
            "-I", "--id-prefix", metavar="PREFIX", help="Client id: this and the process id."
        ),
    ] = None
    username: Annotated[
        str | None,
        typer.Option(
            "-u",
            "--username",
            metavar="NAME",
            help="User name. Or ISTHMUS_USERNAME, where no other host is named than by "
            "ISTHMUS_URL.",
        ),
    ] = None
    password: Annotated[
        str | None,
        typer.Option(
            "-P",
            "--pw",
            "--password",
            metavar="PASSWORD",
            help="Password. Every user of this machine can see it in the list of processes: "
            "prefer --password-file, --ask-password, or the environment variable "
            "ISTHMUS_PASSWORD, which is used together with a user name.",
        ),
    ] = field(default=None, repr=False)
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the password alone.", **_FILE)
    ] = None
    ask_password: Annotated[
        bool, typer.Option("--ask-password", help="Ask for the password at the terminal.")
    ] = False
    version: Annotated[
        str,
        typer.Option(
            "-V",
            "--mqtt-version",
            metavar="VERSION",
            help="5 (or 3.1.1 if that is refused), 3.1.1, 3.1.",
        ),
    ] = "5"
    keepalive: Annotated[
        str,
        typer.Option("-k", "--keepalive", metavar="SECONDS", help="Longest silence before a ping."),
    ] = "60"
    tls: Annotated[
        bool,
        typer.Option(
            "--tls",
            "--tls-use-os-certs",
            help="Encrypt; trust the authorities of the system.",
        ),
    ] = False
    cafile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Encrypt; trust the authorities in this PEM file.", **_FILE
        ),
    ] = None
    capath: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Encrypt; trust the authorities in this folder.",
            exists=True,
            file_okay=False,
        ),
    ] = None
    cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Encrypt; show this PEM certificate.", **_FILE),
    ] = None
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Its private key, if it is in another file.", **_FILE),
    ] = None
    key_password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the password of that key.", **_FILE),
    ] = None
    server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the server's certificate.  [default: the host]"),
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Take a certificate for any name. Its issuer is still checked; who can get one "
            "from that issuer can listen.",
        ),
    ] = False
    tls_version: Annotated[
        str | None, typer.Option(metavar="1.2|1.3", help="The only TLS version to use.")
    ] = None
    alpn: Annotated[
        str | None,
        typer.Option("--alpn", "--tls-alpn", metavar="NAME", help="Application protocol of TLS."),
    ] = None
    ciphers: Annotated[
        str | None, typer.Option(metavar="LIST", help="Ciphers of TLS 1.2, as OpenSSL names them.")
    ] = None


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    """Annotations as types. Several commands have the same records, and each costs milliseconds."""
    return get_type_hints(record, include_extras=True)


def with_options(**records: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take the options that are fields of dataclasses.

    Each keyword is an argument of the command, which gets an instance of that class.
    """

    def wrap(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in own.parameters.items()
            if name not in records
        ]
        for record in records.values():
            hints = _hints(record)
            parameters += [
                inspect.Parameter(
                    option.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=option.default,
                    annotation=hints[option.name],
                )
                for option in fields(record)
            ]

        @functools.wraps(command)
        def combined(**values: Any) -> None:
            found = {
                name: record(**{one.name: values.pop(one.name) for one in fields(record)})
                for name, record in records.items()
            }
            command(**found, **values)

        combined.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        combined.__annotations__ = {one.name: one.annotation for one in parameters}
        return combined

    return wrap
