"""The options that name a far side, the same for every command that connects to one.

They have the letters of mosquitto_pub, mosquitto_sub and MQTTX, so that fingers need not learn.
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
            metavar="URL", help="mqtt://host:port, mqtts://host:port (TLS), host or host:port."
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
    client_id: Annotated[
        str | None,
        typer.Option("-i", "--id", metavar="ID", help="Client id.  [default: a new one]"),
    ] = None
    username: Annotated[
        str | None, typer.Option("-u", "--username", metavar="NAME", help="User name.")
    ] = None
    password: Annotated[
        str | None,
        typer.Option(
            "-P",
            "--pw",
            "--password",
            metavar="PASSWORD",
            help="Password. Every user of this machine can see it in the list of processes: "
            "prefer --password-file, or the environment variable ISTHMUS_PASSWORD, "
            "which is used together with -u.",
        ),
    ] = field(default=None, repr=False)
    password_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the password alone.", **_FILE)
    ] = None
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
        bool, typer.Option("--tls", help="Encrypt; trust the authorities of the system.")
    ] = False
    cafile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Encrypt; trust the authorities in this PEM file.", **_FILE
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
    server_name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in the server's certificate.  [default: the host]"),
    ] = None


def with_far_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take the options of `FarOptions`; it gets them as its argument `far`."""
    names = [option.name for option in fields(FarOptions)]
    defaults = {option.name: option.default for option in fields(FarOptions)}
    hints = get_type_hints(FarOptions, include_extras=True)
    own = inspect.signature(command, eval_str=True)
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hints[name]
        )
        for name in names
    ]

    @functools.wraps(command)
    def combined(**values: Any) -> None:
        far = FarOptions(**{name: values.pop(name) for name in names})
        command(far=far, **values)

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in own.parameters.items()
        if name != "far"
    ]
    signature = inspect.Signature([*parameters, *options])
    combined.__signature__ = signature  # type: ignore[attr-defined]
    combined.__annotations__ = {
        parameter.name: parameter.annotation for parameter in signature.parameters.values()
    }
    return combined
