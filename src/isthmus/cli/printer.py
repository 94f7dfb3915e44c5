"""Printing from a command: a subscriber of a connector whose outlets write to standard output."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from isthmus.cli.far_side import FAILED, CommandError, complain, complaint, far_side
from isthmus.connectors.probe import STEPS, Opening, cause
from isthmus.delivery.outlet import Outlet
from isthmus.errors import ConnectError
from isthmus.mqtt.reasons import describe

if TYPE_CHECKING:
    from isthmus.connectors.connector import Connector
    from isthmus.connectors.member import Member
    from isthmus.connectors.settings import ConnectorSettings
    from isthmus.delivery.endpoint import Origin
    from isthmus.delivery.plan import Plan
    from isthmus.delivery.receipt import Receipt

log = logging.getLogger("isthmus.cli")


async def print_messages(
    settings: ConnectorSettings,
    filters: list[bytes],
    *,
    qos: int,
    verbose: bool,
    end: bytes,
    count: int | None,
    timeout_s: float | None,
) -> int:
    """Subscribe, and print until `count` messages came or `timeout_s` is over; the exit status.

    Raises:
        CommandError: no connection, or the far side refuses every filter.
    """
    printer = Printer(verbose=verbose, end=end, count=count)
    try:
        async with asyncio.timeout(timeout_s), far_side("isthmus-sub", settings) as connector:
            watcher = Listening(connector, printer.done)
            connector.watcher = watcher
            for filter_ in filters:
                connector.subscribe(filter_, printer, qos)
            connector.start()
            try:
                await watcher.wait()
            except ConnectError as error:
                raise CommandError(complaint(error, settings)) from None
            return await printer.done
    except TimeoutError:
        complain(f"{printer.printed} message(s) within {timeout_s:g} s")
        return FAILED


class Printer:
    """A subscriber that prints. `done` becomes the exit status when there is no more to print."""

    def __init__(self, *, verbose: bool, end: bytes, count: int | None) -> None:
        self.printed = 0
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._verbose = verbose
        self._end = end
        self._count = count
        self._out = sys.stdout.buffer

    def resolve(self, topic: bytes, options: list[Any], plan: Plan, origin: Origin | None) -> None:
        """Print what has this topic, once however many filters match."""
        del options, origin
        plan.add(PrintingOutlet(self, topic + b" " if self._verbose else b""))

    def print(self, prefix: bytes, payload: bytes) -> None:
        """Write one message and flush it: who reads may be waiting for just this one."""
        if self.done.done():
            return
        try:
            self._out.write(prefix + payload + self._end)
            self._out.flush()
        except OSError as error:
            # Whoever read is gone, as `head` after its last line. Nothing may be written at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(error, BrokenPipeError):
                complain(f"cannot write: {error.strerror}")
            self.done.set_result(FAILED)
            return
        self.printed += 1
        if self.printed == self._count:
            self.done.set_result(0)


class PrintingOutlet(Outlet):
    """Standard output as the way out for one topic. What is printed is safe: it holds nothing."""

    __slots__ = ("_prefix", "_printer")

    def __init__(self, printer: Printer, prefix: bytes) -> None:
        super().__init__()
        self._printer = printer
        self._prefix = prefix

    def send(self, flags: int, properties: bytes, payload: bytes, receipt: Receipt | None) -> None:
        """Print one message."""
        del flags, properties, receipt
        self._printer.print(self._prefix, payload)


class Listening(Opening):
    """Watches the connection of a command that listens: refusals, and what is lost and found."""

    def __init__(self, connector: Connector, done: asyncio.Future[int]) -> None:
        super().__init__(connector)
        self._subscriptions = connector.subscriptions
        self._done_printing = done
        self._away = False

    def connected(self, member: Member) -> None:
        """Connected, or connected again."""
        super().connected(member)
        if self._away:
            self._away = False
            complain("connected again; what was published meanwhile is missing here")

    def lost(self, member: Member, reason: str) -> None:
        """The connector makes a new connection."""
        del member
        self._away = True
        complain(f"the connection was lost: {reason}; connecting again")

    def failed(self, member: Member, error: ConnectError) -> None:
        """The first connection could not be made, or a new one not yet."""
        super().failed(member, error)
        log.info("%s: %s", STEPS[error.step], cause(error))

    def granted(self, answers: dict[bytes, int]) -> None:
        """Refusals are shown; if nothing is left to wait for, the command ends."""
        for filter_, code in answers.items():
            text = filter_.decode()
            if code < 0x80:
                log.info("subscribed to %s with QoS %d", text, code)
            else:
                complain(f"the far side refused to subscribe {text}: {describe(code)}")
        known = self._subscriptions.answers
        refused = self._subscriptions.refused
        all_refused = len(known) == len(refused) == len(self._subscriptions.cover())
        if all_refused and not self._done_printing.done():
            self._done_printing.set_result(FAILED)
