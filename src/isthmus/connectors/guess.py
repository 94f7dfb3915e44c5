"""A guessed way to say CONNECT: is there not a better one?

A far side that closes without CONNACK may not know the version of MQTT, or the bridge bit. It may
also have crashed at this moment, or be a load balancer that found no server. The next way that
works is used then, and what was given up for it is tried again beside the open connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from isthmus.connectors.dialects import UNSUPPORTED_VERSION
from isthmus.connectors.knock import knock
from isthmus.errors import ConnectError

if TYPE_CHECKING:
    from isthmus.connectors.dialects import Dialect, DialectChoice
    from isthmus.connectors.member import Member

log = logging.getLogger("isthmus.connectors")

LOOK_AFTER_S = 10.0
LOOK_AFTER_MAX_S = 3600.0
"""The waits before the better way is tried: long enough for a service that has just started."""

SUFFIX = "-version"
"""Stands behind the client id of the one that tries: with the same id it would end the other."""


async def look(member: Member, choice: DialectChoice, used: Dialect) -> Dialect | None:
    """Try beside the connection of `member`, which speaks `used`, what would be better.

    Returns: what the far side speaks, None if `used` is the best. It takes as long as there is
    doubt.
    """
    wait_s = LOOK_AFTER_S
    while (better := choice.better(used)) is not None:
        await asyncio.sleep(wait_s)
        wait_s = min(2 * wait_s, LOOK_AFTER_MAX_S)
        client_id = member.client_id and f"{member.client_id}{SUFFIX}"
        try:
            await knock(
                member.connector,
                member.address,
                member.identity._replace(client_id=client_id),
                better,
            )
        except ConnectError as error:
            if error.step != "connack":
                continue
            if error.reason is None:
                choice.closed(better)
                continue
            if error.reason in UNSUPPORTED_VERSION:
                choice.refused(better)
                continue
            # It answers in this version, though it wants nobody with this client id.
        except Exception:
            log.exception("connector %s: a try to log in failed", member.connector.name)
            continue
        return better
    return None
