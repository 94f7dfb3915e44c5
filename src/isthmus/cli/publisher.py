"""Publishing from a command: one connection, and an end that is certain."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.cli.client import Dialer
from isthmus.cli.far_side import FAILED, TIMED_OUT, CommandError, complain, opened, reacting
from isthmus.errors import LocalProtocolError
from isthmus.mqtt.properties import BLOCKS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from isthmus.cli.client import Client
    from isthmus.cli.greeting import Greeting
    from isthmus.mqtt.packets import Publish

LOOK_S = 0.02
"""How often what gives no sign is looked at: bytes that leave."""

MAX_INFLIGHT = 1000
"""Messages of QoS 1 and 2 on their way, unless the broker takes fewer."""

TOO_LARGE = 0x95


async def publish(
    greeting: Greeting,
    messages: AsyncIterator[list[Publish]],
    *,
    interval_s: float,
    timeout_s: float,
) -> int:
    """Publish all messages, at most one per `interval_s`, and return the exit status.

    Raises:
        CommandError: no connection, it was lost, or no progress for `timeout_s`.
    """
    async with reacting() as reactor:
        client = await opened(Dialer(reactor, greeting, max_inflight=MAX_INFLIGHT), greeting)
        publisher = Publisher(client, timeout_s)
        try:
            await publisher.guard(publisher.publish_all(messages, interval_s))
            return publisher.report()
        finally:
            client.disconnect(greeting.goodbye, greeting.goodbye_code)


class Publisher:
    """Sends messages over one connection and follows them until they are safe."""

    def __init__(self, client: Client, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._published = 0
        self._too_large = 0
        self._changed = asyncio.Event()
        client.on_settled = self._changed.set

    async def guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` as long as the connection lives.

        Trying again could publish twice without anybody knowing, so a lost connection is the end.

        Raises:
            CommandError: the connection was lost.
        """
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self._client.ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                reason = self._client.ended.result()
                raise CommandError(f"the connection was lost: {reason}{self._unknown()}")
            task.result()
        finally:
            task.cancel()

    async def publish_all(
        self, messages: AsyncIterator[list[Publish]], interval_s: float = 0.0
    ) -> None:
        """Publish in order, not faster than the broker and `interval_s` allow; wait for the end.

        The times are those of a clock that does not slip: what was late does not delay the rest.
        """
        due = clock.monotonic()
        async for batch in messages:
            for message in batch:
                if interval_s:
                    wait_s = due - clock.monotonic()
                    if wait_s > 0:
                        await asyncio.sleep(wait_s)
                        due += interval_s
                    else:
                        due = clock.monotonic() + interval_s
                await self.publish(message)
        await self._until(lambda: self._client.idle)

    async def publish(self, message: Publish) -> None:
        """Send one message as soon as there is room for it."""
        client = self._client
        self._check(message)
        if client.link.blocked or (message.qos and client.room <= 0):
            await self._until(
                lambda: not client.link.blocked and (not message.qos or client.room > 0)
            )
        self._published += 1
        try:
            client.publish(message)
        except LocalProtocolError as error:
            if error.reason != TOO_LARGE:
                raise CommandError(f"cannot publish: {error}") from None
            self._too_large += 1

    def _check(self, message: Publish) -> None:
        """Say in words what the broker does not take."""
        peer = self._client.connection.peer
        if message.qos > peer.maximum_qos:
            raise CommandError(f"the broker takes messages with QoS {peer.maximum_qos} at most")
        if message.retain and not peer.retain_available:
            raise CommandError("the broker does not retain messages")
        if not message.properties:
            return
        if not self._client.v5:
            raise CommandError("the broker does not speak MQTT 5, which properties need")
        if BLOCKS.look(message.properties).alias > peer.topic_alias_maximum:
            raise CommandError(f"the broker takes topic aliases up to {peer.topic_alias_maximum}")

    def report(self) -> int:
        """Say what was not taken; the exit status."""
        lost = dict(self._client.refused)
        if self._too_large:
            lost["larger than the broker takes"] = self._too_large
        for text, count in lost.items():
            number = "the message was" if self._published == 1 else f"{count} message(s) were"
            complain(f"{number} not delivered: {text}")
        return FAILED if lost else 0

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition as long as something moves."""
        before: object = None
        deadline = 0.0
        while not condition():
            moved = (self._client.settled, self._client.link.bytes_out)
            if moved != before:
                before = moved
                deadline = clock.monotonic() + self._timeout_s
            elif clock.monotonic() >= deadline:
                text = f"no progress for {self._timeout_s:g} s{self._unknown()}"
                raise CommandError(text, TIMED_OUT)
            self._changed.clear()
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _unknown(self) -> str:
        left = len(self._client.window)
        return f"; {left} message(s) were not acknowledged" if left else ""
