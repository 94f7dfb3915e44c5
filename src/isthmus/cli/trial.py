"""Trying a connection: open it, say how that went, close it."""

from __future__ import annotations

import sys
from itertools import product
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.cli.far_side import FAILED, far_side, in_options
from isthmus.connectors.probe import STEPS, advice, cause, opened
from isthmus.errors import ConnectError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from isthmus.connectors.probe import Trial
    from isthmus.connectors.settings import ConnectorSettings


async def try_out(trials: Sequence[Trial], name: str, *, by_options: bool) -> int:
    """Connect once to each address with each login and print the results; the exit status.

    One after the other: they may be servers of one service, which would close the connection of a
    client id that is used twice. `by_options` says that the settings were typed, so advice is given
    in options.
    """
    addresses = trials[0].settings.addresses
    works: list[str] = []
    for (settings, configured_id), address in product(trials, addresses):
        one = settings.model_copy(update={"url": str(address)})
        try:
            works.append(await _try(one))
        except ConnectError as error:
            why, what = cause(error), advice(error, one, configured_id)
            if by_options:
                why, what = in_options(why), in_options(what)
            login = f" with the login of {configured_id}" if len(trials) > 1 else ""
            where = f" at {address}" if len(addresses) > 1 else ""
            report = (
                f"isthmus: {name}{login}{where} failed",
                f"  step:  {STEPS[error.step]}",
                f"  cause: {why}",
                f"  try:   {what}",
            )
            print("\n".join(report), file=sys.stderr)
    tried = len(trials) * len(addresses)
    everywhere = len(works) == tried
    if works:
        missing = f" at {len(works)} of {tried} addresses"
        if len(trials) > 1:
            missing = f" in {len(works)} of {tried} tries"
        print(f"connector available{'' if everywhere else missing}")
        print("\n".join(works))
    return 0 if everywhere else FAILED


async def _try(settings: ConnectorSettings) -> str:
    """What is known about the connection."""
    began = clock.monotonic()
    async with far_side("isthmus-test", settings) as connector:
        member = await opened(connector)
        took_ms = (clock.monotonic() - began) * 1000
        security = "TLS" if settings.use_tls else "not encrypted"
        return (
            f"  {settings.address}, {member.dialect}, {security}, "
            f"client id {member.client_id}, {took_ms:.0f} ms"
        )
