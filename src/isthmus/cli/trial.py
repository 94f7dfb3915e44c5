"""Trying a connection: open it, say how that went, close it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.cli.far_side import FAILED, far_side, in_options
from isthmus.connectors.probe import STEPS, advice, cause, opened
from isthmus.errors import ConnectError

if TYPE_CHECKING:
    from isthmus.connectors.settings import ConnectorSettings


async def try_out(
    settings: ConnectorSettings, name: str, configured_id: str | None, *, by_options: bool
) -> int:
    """Connect once and print the result; the exit status.

    `by_options` says that the settings were typed, so advice is given in options.
    """
    began = clock.monotonic()
    async with far_side("isthmus-test", settings) as connector:
        try:
            member = await opened(connector)
        except ConnectError as error:
            why, what = cause(error), advice(error, settings, configured_id)
            if by_options:
                why, what = in_options(why), in_options(what)
            report = (
                f"isthmus: {name} failed",
                f"  step:  {STEPS[error.step]}",
                f"  cause: {why}",
                f"  try:   {what}",
            )
            print("\n".join(report), file=sys.stderr)
            return FAILED
        took_ms = (clock.monotonic() - began) * 1000
        security = "TLS" if settings.use_tls else "not encrypted"
        print("connector available")
        print(
            f"  {settings.address}, {member.dialect}, {security}, "
            f"client id {member.client_id}, {took_ms:.0f} ms"
        )
    return 0
