"""Listening from a command: subscriptions, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.cli.client import Dialer, take_none
from isthmus.cli.far_side import (
    FAILED,
    TIMED_OUT,
    CommandError,
    cannot_connect,
    complain,
    in_options,
    opened,
    reacting,
)
from isthmus.cli.printer import Printer
from isthmus.connectors.probe import REFUSED_FOR_GOOD, STEPS, cause
from isthmus.errors import ConnectError, LinkClosed, LocalProtocolError
from isthmus.log import escape
from isthmus.mqtt.packets import Publish
from isthmus.mqtt.reasons import describe
from isthmus.mqtt.topics import matches
from isthmus.net.backoff import Backoff

if TYPE_CHECKING:
    from isthmus.cli.client import Client, Received
    from isthmus.cli.greeting import Greeting
    from isthmus.cli.layout import Layout
    from isthmus.mqtt.packets import SubscribeOptions
    from isthmus.mqtt.properties import Properties

log = logging.getLogger("isthmus.cli")

RETRY_MIN_S = 0.5
RETRY_MAX_S = 30.0
"""The waits before a lost connection is made again."""

STEADY_S = 10.0
"""How long a connection has to last before the waits begin again with the shortest."""

NEVER_SUBSCRIBED = frozenset({0x81, 0x82, 0x87, 0x8F, 0x95, 0x97, 0x9E, 0xA1, 0xA2})
"""Codes of a DISCONNECT in answer to SUBSCRIBE that come again whenever it is sent again."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to listen to, and which messages of it to print.

    `subscribe` and `unsubscribe` are the properties of these packets. With `only_subscribe` it ends
    once the broker has answered. `cleared` are the topics that were cleared since they last had a
    payload.
    """

    filters: list[tuple[bytes, SubscribeOptions]]
    unsubscribe_from: list[bytes] = field(default_factory=list)
    subscribe: Properties = field(default_factory=dict)
    unsubscribe: Properties = field(default_factory=dict)
    without: list[bytes] = field(default_factory=list)
    fresh_only: bool = False
    retained_only: bool = False
    remove_retained: bool = False
    only_subscribe: bool = False
    cleared: set[bytes] = field(default_factory=set)

    def prints(self, message: Received) -> bool:
        """Whether a message is printed; what comes back of our own clearing is not."""
        if not message.payload and message.topic in self.cleared:
            return False
        if self.fresh_only and message.retain:
            return False
        return not any(matches(filter_, message.topic) for filter_ in self.without)

    def ends(self, message: Received) -> bool:
        """Whether a message shows that there are no more of the wanted kind."""
        return self.retained_only and not message.retain


async def listen(
    greeting: Greeting,
    wanted: Wanted,
    layout: Layout,
    *,
    end: bytes,
    count: int | None,
    timeout_s: float | None,
) -> int:
    """Subscribe, and print until `count` messages came or `timeout_s` is over; the exit status.

    Raises:
        CommandError: no connection, or the broker refuses every filter.
    """
    printer = Printer(layout, end, count, wanted.prints, wanted.ends)
    try:
        async with asyncio.timeout(timeout_s), reacting() as reactor:
            listener = Listener(greeting, wanted, printer)
            dialer = Dialer(
                reactor,
                greeting,
                deliver=take_none if wanted.only_subscribe else listener.deliver,
                subscription_ids=True,
            )
            return await listener.run(dialer)
    except TimeoutError:
        complain(f"{printer.printed} message(s) within {timeout_s:g} s")
        return TIMED_OUT


class Listener:
    """Keeps subscriptions over lost connections."""

    def __init__(self, greeting: Greeting, wanted: Wanted, printer: Printer) -> None:
        self._greeting = greeting
        self._wanted = wanted
        self._printer = printer
        self._client: Client | None = None

    def deliver(self, messages: list[Received]) -> int:
        """Print messages, and clear retained ones where that is asked for."""
        taken = self._printer.deliver(messages)
        if self._wanted.remove_retained and self._client is not None:
            for message in messages[:taken]:
                if message.payload:
                    self._wanted.cleared.discard(message.topic)
                if message.retain and self._wanted.prints(message):
                    self._wanted.cleared.add(message.topic)
                    self._client.publish(Publish(message.topic, b"", 0, retain=True))
        return taken

    async def run(self, dialer: Dialer) -> int:
        """Listen until there is no more to print; the exit status."""
        client = await opened(dialer, self._greeting)
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S)
        done = self._printer.done
        try:
            while True:
                self._client = client
                since = clock.monotonic()
                status = await self._listen(client)
                if status is not None:
                    return status
                complain(
                    f"the connection was lost: {escape(client.ended.result())}; connecting again"
                )
                if clock.monotonic() - since >= STEADY_S:
                    backoff.reset()
                client = await self._again(dialer, backoff)
                kept = client.opened.result().session_present
                complain(
                    "connected again"
                    + ("" if kept else "; what was published meanwhile is missing here")
                )
        finally:
            if not done.done():
                done.cancel()
            client.disconnect(self._greeting.goodbye, self._greeting.goodbye_code)

    async def _again(self, dialer: Dialer, backoff: Backoff) -> Client:
        """The next connection.

        Raises:
            CommandError: the broker refuses it, and will refuse it again.
        """
        told = ""
        while True:
            await asyncio.sleep(backoff.next(clock.monotonic()))
            try:
                return await dialer.open()
            except ConnectError as error:
                if error.step == "connack" and error.reason in REFUSED_FOR_GOOD:
                    raise cannot_connect(error, self._greeting.settings) from None
                text = f"{STEPS[error.step]}: {in_options(cause(error))}"
                if text != told:
                    complain(f"cannot connect yet: {text}")
                told = text

    async def _listen(self, client: Client) -> int | None:
        """The exit status, or None when the connection was lost."""
        done = self._printer.done
        if done.done():
            return done.result()  # what a session held came with the CONNACK
        try:
            status = await self._ask(client)
        except LinkClosed as error:
            if done.done():
                return done.result()
            if client.goodbye_code in NEVER_SUBSCRIBED:
                raise CommandError(f"cannot subscribe: {error}") from None
            return None
        if status is not None:
            return status
        either: set[asyncio.Future[Any]] = {done, client.ended}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return done.result() if done.done() else None

    async def _ask(self, client: Client) -> int | None:
        """Subscribe; an exit status if there is nothing to wait for.

        Refusals are shown; if nothing is left to wait for, the command ends.
        """
        wanted = self._wanted
        try:
            if wanted.unsubscribe_from:
                codes = await client.unsubscribe(wanted.unsubscribe_from, wanted.unsubscribe)
                for filter_, code in zip(wanted.unsubscribe_from, codes, strict=False):
                    if code >= 0x80:
                        complain(f"the broker refused to unsubscribe {_shown(filter_, code)}")
            if not wanted.filters:
                return 0 if wanted.only_subscribe else None
            codes = await client.subscribe(wanted.filters, wanted.subscribe)
        except LocalProtocolError as error:
            raise CommandError(f"cannot subscribe: {error}") from None
        if len(codes) != len(wanted.filters):
            raise CommandError("the broker answered another number of subscriptions")
        for (filter_, _), code in zip(wanted.filters, codes, strict=True):
            if code < 0x80:
                log.info("subscribed to %s with QoS %d", filter_.decode(), code)
            else:
                complain(f"the broker refused to subscribe {_shown(filter_, code)}")
        refused = [code for code in codes if code >= 0x80]
        if len(refused) == len(codes):
            return FAILED
        if wanted.only_subscribe:
            return FAILED if refused else 0
        return None


def _shown(filter_: bytes, code: int) -> str:
    return f"{escape(filter_.decode())}: {describe(code)}"
