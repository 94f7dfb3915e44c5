"""The subscriber of the crash test: a foreign client (paho-mqtt) that notes what arrives."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import paho.mqtt.client as paho
from chaos_publisher import Publisher
from chaos_trace import TOPICS, Trace
from paho.mqtt.enums import CallbackAPIVersion

EXAMPLES = 10
"""Numbers that are named in a result, of each thing that is wrong."""

HEAL_LIMIT_S = 30.0
"""After this without a new message nothing comes any more."""

SILENCE_S = 60.0
"""At the end: what is under way arrives, and nothing has come for so long when it does not.

A busy machine can stop for a quarter of a minute; what is late is not lost.
"""


@dataclass(slots=True)
class Account:
    """What the books say at the end.

    `disordered` counts messages that arrived for the first time after a younger one of their topic;
    the examples name both. `refused` are those that the first hop refused with a reason code.
    """

    acknowledged: int = 0
    refused: int = 0
    arrived: int = 0
    lost: int = 0
    duplicates: int = 0
    invented: int = 0
    disordered: int = 0
    lost_examples: list[int] = field(default_factory=list)
    disordered_examples: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Back:
    """How long it took after a fault, in seconds from the moment at which nothing was in the way.

    `first_s` until the first message arrived that was sent by the last sender after that moment,
    `new_s` until `new` did, which was not even published before: until what waited was there too.
    """

    first_s: float
    new_s: float
    new: int


class Subscriber:
    """Notes every message that arrives. Its own connection is never disturbed."""

    def __init__(self, port: int, topic_filter: str, *, qos: int) -> None:
        self.seen: dict[int, int] = {}
        self.arrivals: list[tuple[float, int]] = []
        """When each number arrived for the first time (monotonic, in seconds), in order."""
        self.duplicates = self.invented = 0
        self.connected = threading.Event()
        self._disordered: list[tuple[int, int]] = []
        self._last = [-1] * TOPICS
        self._filter = topic_filter
        self._qos = qos
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, "chaos-subscriber", clean_session=False
        )
        self._client.on_connect = self._connect
        self._client.on_subscribe = lambda *_: self.connected.set()
        self._client.on_message = self._message
        self._client.connect_async("127.0.0.1", port, keepalive=30)
        self._client.loop_start()

    def _connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe(self._filter, self._qos)

    def _message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        number = int(message.payload) if message.payload.isdigit() else -1
        topic = message.topic.rpartition("/")[2]
        if number < 0 or topic != str(number % TOPICS):
            self.invented += 1
            return
        if number in self.seen:
            self.seen[number] += 1
            self.duplicates += 1
            return
        self.seen[number] = 1
        self.arrivals.append((time.monotonic(), number))
        place = number % TOPICS
        if number < self._last[place]:
            self._disordered.append((number, self._last[place]))
        else:
            self._last[place] = number

    @property
    def disordered(self) -> int:
        """How many arrived for the first time after a younger one of their topic."""
        return len(self._disordered)

    async def back(
        self, publishers: Sequence[Publisher], sender: Trace, since: float
    ) -> Back | None:
        """Wait until messages arrive again, and until one has arrived that is new.

        Args:
            publishers: all whose messages arrive here.
            sender: the last one on the way.
            since: the moment from which on nothing is in the way any more (monotonic).

        Returns: how long that took; None if nothing comes.
        """
        wanted = {one.sent % one.of: one.sent for one in publishers}
        at, first_s = 0, None
        # A thread fills the book of what arrived.
        while time.monotonic() - since < HEAL_LIMIT_S:
            while first_s is None and at < len(self.arrivals):
                arrived, number = self.arrivals[at]
                at += 1
                # What was sent before may still be on its way.
                if arrived >= since and sender.latest.get(number, 0.0) >= since:
                    first_s = arrived - since
            for place, number in wanted.items():
                newest = max(self._last[place :: len(wanted)])
                if first_s is not None and newest >= number:
                    return Back(first_s, time.monotonic() - since, newest)
            await asyncio.sleep(0.005)
        return None

    async def settled(self, publishers: Sequence[Publisher]) -> None:
        """Wait until all that was acknowledged is here, or until nothing comes any more."""
        acked = set().union(*(one.acked for one in publishers))
        count, since = len(self.seen), time.monotonic()
        while acked - self.seen.keys() and time.monotonic() - since < SILENCE_S:
            await asyncio.sleep(0.1)
            if len(self.seen) > count:
                count, since = len(self.seen), time.monotonic()
        await asyncio.sleep(1)  # for what should not come

    def judge(self, publishers: Sequence[Publisher]) -> Account:
        """Compare the books."""
        acked = set().union(*(one.acked for one in publishers))
        lost = sorted(acked - self.seen.keys())
        ends = {one.sent % one.of: one.sent for one in publishers}
        invented = [n for n in self.seen if n >= ends[n % len(ends)]]
        return Account(
            acknowledged=len(acked),
            refused=sum(one.refused for one in publishers),
            arrived=len(self.seen),
            lost=len(lost),
            duplicates=self.duplicates,
            invented=self.invented + len(invented),
            disordered=len(self._disordered),
            lost_examples=lost[:EXAMPLES],
            disordered_examples=self._disordered[:EXAMPLES],
        )

    def close(self) -> None:
        """Leave."""
        self._client.disconnect()
        self._client.loop_stop()
