"""A login that is only tried: CONNECT, CONNACK, goodbye. Nothing is subscribed or sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.connectors.hello import hello
from isthmus.errors import ConnectError, MQTTError
from isthmus.mqtt.connection import Connection
from isthmus.mqtt.packet_type import Role
from isthmus.mqtt.packets import Connack, Disconnect
from isthmus.mqtt.reasons import describe

if TYPE_CHECKING:
    from isthmus.connectors.address import Address
    from isthmus.connectors.connector import Connector
    from isthmus.connectors.dialects import Dialect
    from isthmus.connectors.identity import Identity


async def knock(
    connector: Connector,
    address: Address,
    identity: Identity,
    dialect: Dialect,
    *,
    clean_start: bool = True,
    session_expiry_s: int = 0,
) -> None:
    """Log in at `address` of `connector` as `identity`, beside its connections, and leave.

    Not `clean_start`, a session that the far side keeps for `identity` is left as it is.

    Raises:
        ConnectError: at which step it failed, and why.
    """
    settings = connector.settings
    deadline = clock.monotonic() + settings.connect_timeout
    link = await connector.dial(address, identity)
    connection = Connection(Role.CLIENT, now=clock.monotonic(), out=link.out)
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def received(data: bytes) -> None:
        for event in connection.receive(data, clock.monotonic()):
            if not done.done() and isinstance(event, Connack):
                done.set_result(event.code)
            elif not done.done() and isinstance(event, MQTTError):
                done.set_exception(ConnectError("connack", str(event)))

    def closed(reason: str) -> None:
        if not done.done():
            text = f"the connection was closed before CONNACK: {reason}"
            done.set_exception(ConnectError("connack", text))

    link.on_close = closed
    link.on_data = received
    link.touch()
    connection.send(
        hello(
            settings,
            identity,
            dialect,
            clean_start=clean_start,
            session_expiry_s=session_expiry_s,
        )
    )
    try:
        async with asyncio.timeout(max(0.1, deadline - clock.monotonic())):
            code = await done
    except TimeoutError:
        link.abort("no CONNACK in time")
        raise ConnectError("timeout", "no CONNACK in time") from None
    except BaseException:
        link.abort("given up")
        raise
    if code:
        link.close("refused")
        raise ConnectError("connack", describe(code, dialect.version), reason=code)
    if not link.out:
        link.touch()
    connection.send(Disconnect(0))
    link.close("done")
