"""`isthmus test`: try a connection without moving data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isthmus.cli.options import FarOptions, with_options

if TYPE_CHECKING:
    from isthmus.connectors.probe import Trial

DEFAULT_FILE = Path("isthmus.yaml")

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ENDINGS = (".yaml", ".yml", ".toml", ".json")


@with_options(far=FarOptions)
def try_connector(
    far: FarOptions,
    connector: Annotated[
        str | None,
        typer.Argument(
            metavar="CONNECTOR",
            show_default=False,
            help="Name of a connector in FILE, or a URL such as mqtts://broker.example.com.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", show_default=False, help="Configuration.  [default: isthmus.yaml]"
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="Instead of the argument.")
    ] = None,
    debug: Annotated[
        bool, typer.Option("-d", "--debug", help="Tell on stderr what happens.")
    ] = False,
) -> None:
    """Try a connection without moving data.

    It connects with an own client id, so that a running Isthmus is not disturbed, subscribes and
    publishes nothing, and leaves no session behind. If that works it prints "connector available";
    else it says which step failed (name look-up, TCP, unix socket, proxy, TLS, WebSocket, CONNACK),
    why, and what to try. Of a connector with several addresses each one is tried,
    and of one with static client ids each id of this node, with its own login.

    \b
      isthmus test cloud isthmus.yaml
      isthmus test mqtts://broker.example.com -u edge-7 --password-file pw

    \b
    Exit status: 0 available, by every address and login; 1 not available; 2 wrong usage or
    configuration.
    """  # noqa: D301
    if connector is not None and connector.lower().endswith(_ENDINGS):
        raise typer.BadParameter("comes before the file", param_hint="CONNECTOR")
    if file is not None and config is not None:
        raise typer.BadParameter("give the configuration once: FILE or --config")
    from isthmus.cli.far_side import run_command
    from isthmus.cli.trial import try_out

    if connector is not None and _NAME.fullmatch(connector):
        if far != FarOptions():
            raise typer.BadParameter(
                "options for the connection go with a URL; "
                "a connector is tried as it stands in the file"
            )
        found = _configured(connector, file or config)
        by_options = False
    else:
        found = [_typed(connector, far, file or config)]
        by_options = True
    name = connector or str(found[0].settings.url)
    status = run_command(try_out(found, name, by_options=by_options), debug=debug)
    raise typer.Exit(status)


def _configured(name: str, file: Path | None) -> list[Trial]:
    """What tries a connector of a file; empty where this node has no client id."""
    from isthmus.app.settings import Settings
    from isthmus.config.loader import parse
    from isthmus.config.problems import did_you_mean
    from isthmus.connectors.client_ids import ClientIds
    from isthmus.connectors.probe import trials

    if file is None:
        file = DEFAULT_FILE
        if not file.exists():
            raise typer.BadParameter(
                f"there is no {file} here: name the file (isthmus test {name} FILE), "
                f"or write a URL (mqtt://{name})",
                param_hint="FILE",
            )
    configuration = parse(Settings, file)
    settings = configuration.connectors.get(name)
    if settings is None:
        known = list(configuration.connectors)
        there_are = f"there are {', '.join(known)}" if known else "it has none"
        raise typer.BadParameter(
            f"{file} has no connector '{name}', {there_are}{did_you_mean(name, known)}",
            param_hint="CONNECTOR",
        )
    found = trials(name, settings, ClientIds(configuration.broker.data), configuration.node)
    if not found:
        from isthmus.cli.far_side import FAILED, complain

        complain(
            f"{name}: 'static_client_ids' has no client id for node '{configuration.node}', so it "
            "opens no connection, and messages wait"
        )
        raise typer.Exit(FAILED)
    return found


def _typed(url: str | None, far: FarOptions, file: Path | None) -> Trial:
    from dataclasses import replace

    from isthmus.cli.far_side import connector_settings
    from isthmus.connectors.probe import Trial

    if file is not None:
        raise typer.BadParameter("has no meaning together with a URL", param_hint="FILE")
    if url is not None:
        if far.url is not None:
            raise typer.BadParameter("give the URL once", param_hint="--url")
        far = replace(far, url=url)
    elif not any((far.url, far.host, far.port, far.unix)):
        raise typer.BadParameter("name a connector or a URL", param_hint="CONNECTOR")
    return Trial(connector_settings(far), far.client_id)
