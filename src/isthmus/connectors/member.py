"""One member of a connector's pool: a client id, its lane, and the loop that keeps it connected.

Over 600 lines, as all of it is about one loop: what a connection was like decides on the next one.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from isthmus import clock
from isthmus.connectors.dialects import Dialect, DialectChoice
from isthmus.connectors.far_client import MOST_IN_FLIGHT, FarClient
from isthmus.connectors.guess import look
from isthmus.connectors.hello import WillChoice, configured_will
from isthmus.connectors.queued_lane import QueuedLane
from isthmus.connectors.rival import Rival
from isthmus.connectors.suspicion import Suspicion
from isthmus.delivery.lane import PUBREL
from isthmus.errors import ConnectError
from isthmus.mqtt.properties import PropertyId
from isthmus.net.backoff import Backoff
from isthmus.net.peer import CLOSES

if TYPE_CHECKING:
    from collections.abc import Collection

    from isthmus.connectors.address import Address
    from isthmus.connectors.connector import Connector
    from isthmus.connectors.identity import Identity
    from isthmus.delivery.lane import Lane
    from isthmus.delivery.received_ids import Incoming, ReceivedIds
    from isthmus.mqtt.packets import Connack, Will
    from isthmus.net.timers import Timer

log = logging.getLogger("isthmus.connectors")

UNSTABLE_EXPIRY_S = 3600.0
"""How long an MQTT 5 service keeps the session of a client id that a restart would change."""

ASK_AGAIN_MIN_S = 10.0
ASK_AGAIN_MAX_S = 300.0
"""The waits before a refused subscription is asked for again: rights are often given late."""

LASTING_REFUSALS = frozenset({0x8F, 0x9E, 0xA1, 0xA2})
"""SUBACK codes that say "never here": they are asked for again at the next connection only."""

RETURNING = "going back to the first address"
IDLE = "nothing to do"
BETTER = "the far side speaks another version after all"
RENEWED = "its settings have changed"
STOPPED = "stopped"

SETTLE_S = 2.0
"""How long a connection that is made anew waits for the acknowledgements of what is in flight.

What has none by then is sent again, and may arrive twice.
"""

SETTLE_STEP_S = 0.01


class Member:
    """One client of a far service.

    `state` is one of "connecting", "connected", "waiting" (for the next try), "refused" (by the far
    side; tried again), "idle" (a lazy one with nothing to do), "stopped"; `reason` says why, and
    `changed_at` is the monotonic time of the last change. `place` is the index of the address in
    use. `received_qos2` are the incoming QoS 2 messages of the session at each address, by its text
    as shown, so that a reload may reorder them; `received_ids` their identifiers on disk, where the
    sessions outlive this process. `in_doubt` are the filters that the session at each address may
    have, though nobody wants them there.
    One that is `leaving` belongs to the pool no more: it gives up what it has, `parting` is what it
    was subscribed to, and it connects no more. `rival` knows of another client with the same client
    id, `suspicion` of a message at which the far side closes.
    """

    def __init__(self, connector: Connector, index: int, identity: Identity, lane: Lane) -> None:
        self.connector = connector
        self.index = index
        self.identity = identity
        self.lane = lane
        self.received_qos2: dict[str, dict[bytes, Incoming] | None] = {}
        self.received_ids: dict[str, ReceivedIds] = {}
        self.in_doubt: dict[str, set[bytes]] = {}
        self._received = 0
        self.client: FarClient | None = None
        self.state = "connecting"
        self.reason = ""
        self.changed_at = clock.monotonic()
        self.attempts = 0
        self.connects = 0
        self.dialect: Dialect | None = None
        self.place = 0
        self.retain_handling = 1
        self.leaving = False
        self.parting: list[bytes] = []
        self._last = ""  # the address of the last connection
        # The QoS 2 identifiers that the session at an address may hold since it was left.
        self._held: dict[str, list[bytes]] = {}
        self.addresses: tuple[Address, ...] = ()
        self._take_addresses()
        self._tried = 0
        self._opened_at = 0.0
        self._task: asyncio.Task[None] | None = None
        self._fresh = True
        self._ask_again_s = ASK_AGAIN_MIN_S
        self._ask_again: Timer | None = None
        self._look: asyncio.Task[None] | None = None
        self.rival = Rival()
        self.suspicion = Suspicion(self.lane, connector.reactor.wheel)

    @property
    def number(self) -> int:
        """Its number in the pool, counted from 1."""
        return self.index + 1

    @property
    def client_id(self) -> str:
        """Its client id; empty only until the far side has given it one."""
        return self.identity.client_id

    @property
    def received(self) -> int:
        """Messages that came over all of its connections."""
        return self._received + (0 if self.client is None else self.client.received)

    @property
    def address(self) -> Address:
        """The address that is used or tried."""
        return self.addresses[self.place]

    @property
    def on_backup(self) -> bool:
        """Whether that is another than the first, which is preferred."""
        return self.place > 0 and not self.connector.settings.round_robin

    @property
    def session_expiry_s(self) -> int:
        """The session expiry interval to ask an MQTT 5 service for, in seconds.

        An id that is new after each start leaves an orphan behind, so its session is kept only for
        the length of an outage.
        """
        settings = self.connector.settings
        if settings.clean_start:
            return 0
        if not self.connector.ids_stable:
            return int(min(settings.session_expiry, UNSTABLE_EXPIRY_S))
        return int(settings.session_expiry)

    def _clean_start(self, dialect: Dialect) -> bool:
        """Whether to begin with an empty session: by setting, or because the id is not kept."""
        if self.connector.settings.clean_start:
            return True
        return not self.connector.ids_stable and (self._fresh or dialect.version < 5)

    @property
    def starts_clean(self) -> bool:
        """Whether the connection that is open, or the next one, begins with an empty session."""
        return self.dialect is None or self._clean_start(self.dialect)

    @property
    def exchanging(self) -> bool:
        """Whether a QoS 2 message is on its way: by another member it could arrive twice."""
        return any(packet[0] & 4 for packet, *_ in self.lane.entries.values())

    def _will(self) -> Will | None:
        connector = self.connector
        will = connector.notifications.will(self.client_id)
        return configured_will(connector.settings.will) if will is None else will

    def _take_addresses(self) -> None:
        """Take the addresses of the settings, and what was learned about them anew."""
        settings = self.connector.settings
        if self.addresses != settings.addresses:
            self.addresses = settings.addresses
            self._forget_sessions({self._last, *(address.shown for address in self.addresses)})
        self._choices = [DialectChoice(settings) for _ in self.addresses]
        self._will_choices = [WillChoice() for _ in self.addresses]
        self.place = 0

    def _forget_sessions(self, but: Collection[str]) -> None:
        known: dict[str, Any]
        for known in (self.received_qos2, self.received_ids, self.in_doubt, self._held):
            for address in known.keys() - but:
                del known[address]

    def start(self) -> None:
        """Connect, and stay connected."""
        self.connector.notifications.down(self.client_id)
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"connector {self.connector.name}:{self.number}"
        )

    async def stop(self, *, for_good: bool = False) -> None:
        """Disconnect and stay so; `for_good` ends the session at the far side too."""
        await self._end(STOPPED, for_good=for_good)
        self._set_state("stopped", "")

    async def _end(self, reason: str, *, back: bool = False, for_good: bool = False) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self.client is not None:
            self.client.disconnect(reason, back=back, for_good=for_good)
            self._left(self.client)
            self.client = None
        self.suspicion.forget()

    async def renew(self, identity: Identity) -> None:
        """Connect anew, as `identity` and with the settings that there are now.

        First what is in flight settles, so that nothing arrives twice. The client id is the same:
        who has another one is another member.
        """
        await self._rest()
        await self._end(RENEWED, back=True)
        self.identity = identity
        self._take_addresses()
        self._set_state("connecting", RENEWED)
        self.connector.renew_lane(self)
        self.start()

    async def _rest(self) -> None:
        """Let what is in flight settle. What comes meanwhile waits, with QoS 0 too."""
        lane = self.lane
        lane.keeps_qos0 = True
        lane.rest()
        deadline = clock.monotonic() + SETTLE_S
        while self.state == "connected" and lane.inflight and clock.monotonic() < deadline:  # noqa: ASYNC110 - no message pays for being watched
            await asyncio.sleep(SETTLE_STEP_S)

    def ids(self, address: str) -> ReceivedIds | None:
        """The identifiers of QoS 2 messages from an address on disk, None if they are not."""
        connector = self.connector
        if connector.received is None or self.session_expiry_s == 0 or not connector.ids_stable:
            return None
        found = self.received_ids.get(address)
        if found is None:
            owner = f"connector/{connector.name}/{self.client_id}/{address}"
            found = self.received_ids[address] = connector.received.of(owner.encode())
            self.received_qos2[address] = found.received
        return found

    async def return_to_first(self) -> None:
        """Leave a backup for the first address; its session stays there, with what it holds.

        First what is in flight settles, so that it is not at both.
        """
        client = self.client
        if client is not None and self.place:
            try:
                await self._rest()
            finally:  # also where it is cut short: a lane that rests sends nothing here any more
                if client is self.client:
                    connector = self.connector
                    client.disconnect(
                        RETURNING, back=not connector.stopping, for_good=connector.for_good
                    )

    # -- the loop --------------------------------------------------------------------------------

    async def _run(self) -> None:
        settings = self.connector.settings
        backoff = Backoff(settings.reconnect.min, settings.reconnect.max)
        failures = 0
        while not self.leaving:
            settings = self.connector.settings
            backoff.min_s, backoff.max_s = settings.reconnect.min, settings.reconnect.max
            if settings.start == "lazy":
                await self._something_to_do()
            wait = True
            try:
                client = await self._connect_or_fail()
            except ConnectError as error:
                failures += 1
                self.rival.failed()
                another_way = self._failed(error)
                wait = another_way or not self._tried % len(self.addresses)
                if self.connector.watcher is not None:
                    self.connector.watcher.failed(self, error)
                if settings.reconnect.attempts != "forever" and (
                    failures >= settings.reconnect.attempts
                ):
                    self._set_state("stopped", f"gave up after {failures} attempts: {error}")
                    return
                if settings.start == "once" and wait and not another_way:
                    self._set_state("stopped", f"'start: once' tries once: {error}")
                    return
            else:
                reason = await self._end_of(client)
                self._left(client)
                settings = self.connector.settings
                lived_s = clock.monotonic() - self._opened_at
                if reason == BETTER:
                    pass  # at the same address
                elif lived_s >= settings.reconnect.stable:
                    backoff.reset()
                    failures = 0
                    self._tried = 0
                    if not settings.round_robin:
                        self.place = 0
                else:
                    self._next_address()
                wait = self._lost(client, reason, lived_s)
                if self.connector.watcher is not None:
                    self.connector.watcher.lost(self, reason)
                if settings.start == "once" and reason != BETTER:
                    self._set_state("stopped", f"'start: once' connects once; lost: {reason}")
                    return
            self.client = None
            if wait:
                wait_s = backoff.next(clock.monotonic())
                await asyncio.sleep(max(wait_s, self.rival.wait_s))

    async def _something_to_do(self) -> None:
        """Wait until a lazy connection is worth opening."""
        lane = self.lane
        assert isinstance(lane, QueuedLane)
        if lane.inflight:
            return  # it was open, and what was on its way is not done
        lazy = self.connector.settings.lazy
        if self.state == "connecting":
            self._set_state("idle", IDLE)
        woken = asyncio.Event()
        lane.on_waiting = woken.set
        try:
            while not lane.queued:
                woken.clear()
                await woken.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(lazy.after):
                    while lane.queued < lazy.threshold and not lane.full:
                        woken.clear()
                        await woken.wait()
        finally:
            lane.on_waiting = None

    async def _end_of(self, client: FarClient) -> str:
        """Wait for the end of a connection; a lazy one is ended when nothing passes any more."""
        if self.connector.settings.start != "lazy":
            return await asyncio.shield(client.ended)
        lane = self.lane
        passed, since = -1, 0.0
        while not client.ended.done():
            lazy = self.connector.settings.lazy
            now = clock.monotonic()
            if lane.sent + client.received != passed or self._unsettled(client):
                passed, since = lane.sent + client.received, now
            elif now - since >= lazy.idle_timeout:
                client.disconnect(IDLE, back=True)
                break
            await asyncio.wait({client.ended}, timeout=lazy.idle_timeout / 4)
        return client.ended.result()

    def _unsettled(self, client: FarClient) -> bool:
        return bool(self.lane.queued or self.lane.inflight or client.unacked)

    async def _connect_or_fail(self) -> FarClient:
        """Connect; whatever goes wrong is a failure of this attempt and not the end of all."""
        try:
            return await self._connect()
        except ConnectError:
            raise
        except Exception as error:
            log.exception("connector %s: an attempt to connect failed", self.connector.name)
            raise ConnectError("tcp", f"internal error: {error}") from error

    async def _connect(self) -> FarClient:
        timeout_s = self.connector.settings.connect_timeout
        self.attempts += 1
        if self.state in ("stopped", "idle"):
            self._set_state("connecting", "")
        deadline = clock.monotonic() + timeout_s
        link = await self.connector.dial(self.address, self.identity)
        dialect = self.dialect = self._choices[self.place].first
        client = self.client = FarClient(self, link, self.address.shown)
        client.connect(
            dialect,
            clean_start=self._clean_start(dialect),
            session_expiry_s=self.session_expiry_s,
            will=self._will_choices[self.place].will(self._will(), dialect),
        )
        try:
            async with asyncio.timeout(max(0.1, deadline - clock.monotonic())):
                await asyncio.shield(client.opened)
        except TimeoutError:
            client.leave("no CONNACK in time")
            raise ConnectError("timeout", f"no CONNACK within {timeout_s:g} s") from None
        return client

    # -- what becomes of a connection ------------------------------------------------------------

    def attach(self, client: FarClient, connack: Connack) -> None:
        """The far side accepted `client`: subscribe what is missing, then send what waits."""
        present = connack.session_present
        moved = self._last not in ("", client.address)
        if moved:
            held = [*self._not_freed(self._last), *self.lane.maybe_held()]
            self._held[self._last] = list(dict.fromkeys(held))
        outboxes = self.connector.outboxes
        if outboxes is not None:
            moved = outboxes.connected(self.lane, client.address) or moved
        self._free_held(client, present=present, moved=moved)
        self.retain_handling = 0 if self._fresh and present else 1
        self._fresh = False
        self._last = client.address
        self._opened_at = clock.monotonic()
        self.connects += 1
        self._learned(client)
        self.connector.crowding.succeeded(self)
        if client.ids is not None:
            if not present:
                client.ids.clear()
        elif not present:
            self.received_qos2[client.address] = client.received_qos2 = None
        assigned = connack.properties.get(PropertyId.ASSIGNED_CLIENT_IDENTIFIER)
        if not self.client_id and isinstance(assigned, str):
            self.identity = self.identity._replace(client_id=assigned)
            self.connector.renamed()
        peer = client.connection.peer
        largest = peer.maximum_packet_size
        if self.connector.settings.max_packet_size_out is not None:
            largest = min(largest, self.connector.settings.max_packet_size_out)
        noticed = self.connector.notifications.up(client, self.client_id)
        self._ask_again_s = ASK_AGAIN_MIN_S
        self.connector.attached(self, client, session_present=present, moved=moved)
        self.lane.attach(
            client.link,
            v5=client.v5,
            session_present=present,
            # What is in flight was sent to another service: here these are new publications. An
            # old session here may still hold packet identifiers of QoS 2, which are freed first.
            moved=moved,
            receive_maximum=self.suspicion.first_room(
                self.lane, min(peer.receive_maximum - noticed, MOST_IN_FLIGHT)
            ),
            max_packet=largest,
            max_qos=peer.maximum_qos,
            retain=peer.retain_available,
            aliases=client.connection.aliases,
        )
        self.lane.keeps_qos0 = self.connector.settings.start == "lazy"
        self._set_state("connected", "")
        self.connector.retained_sync.session(self, new=moved or not present)
        if self.connector.watcher is not None:
            self.connector.watcher.connected(self)

    def _not_freed(self, address: str) -> list[bytes]:
        """Those of `_held` that the session in use, which is at `address`, has not let go of."""
        freed = self.lane.freed or ()
        return [packet_id for packet_id in self._held.get(address, ()) if packet_id not in freed]

    def _free_held(self, client: FarClient, *, present: bool, moved: bool) -> None:
        """Free what the session holds since its address was left: on each connection anew.

        Until PUBCOMP is here, nobody knows whether PUBREL has arrived.
        """
        address = client.address
        # Of a session that is used again after another one, `lane.freed` does not speak yet.
        held = self._held.get(address, []) if moved else self._not_freed(address)
        self._held.pop(address, None)
        if present and held:
            self._held[address] = held
            for packet_id in held:
                client.link.write(PUBREL + packet_id)

    def _learned(self, client: FarClient) -> None:
        """A way to say CONNECT works; look for a better one where it was only guessed."""
        choice, used = self._choices[self.place], self.dialect
        assert used is not None
        choice.worked(used)
        if choice.better(used) is not None:
            self._look = asyncio.get_running_loop().create_task(
                self._look_for_better(client, choice, used),
                name=f"connector {self.connector.name}:{self.number} version",
            )

    async def _look_for_better(
        self, client: FarClient, choice: DialectChoice, used: Dialect
    ) -> None:
        better = await look(self, choice, used)
        if better is not None:
            log.info(
                "connector %s, connection %d (%s): the far side closed on %s, and speaks it now",
                self.connector.name,
                self.number,
                self.client_id,
                better,
            )
            client.disconnect(BETTER, back=True)

    def granted(self, answers: dict[bytes, tuple[int, int]]) -> None:
        """The far side answered SUBSCRIBE: filter -> (asked QoS, code)."""
        self.connector.granted(self, answers)
        codes = [code for _, code in answers.values()]
        if self._ask_again is None and any(
            code >= 0x80 and code not in LASTING_REFUSALS for code in codes
        ):
            at = clock.monotonic() + self._ask_again_s
            self._ask_again = self.connector.reactor.wheel.at(at, self._subscribe_again)
            self._ask_again_s = min(2 * self._ask_again_s, ASK_AGAIN_MAX_S)

    def _subscribe_again(self) -> None:
        self._ask_again = None
        self.connector.subscribe_refused(self)

    def goodbye(self, client: FarClient) -> None:
        """`client` is about to say DISCONNECT."""
        self.connector.notifications.goodbye(client, self.client_id)

    def _left(self, client: FarClient) -> None:
        """A connection that was open has ended."""
        self._received += client.received
        client.received = 0  # they are counted here now
        if self._ask_again is not None:
            self._ask_again.cancel()
            self._ask_again = None
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self.connector.notifications.down(self.client_id)

    def _lost(self, client: FarClient, reason: str, lived_s: float) -> bool:
        """Say that a connection has ended; whether to wait before the next one."""
        closed, rival = reason in CLOSES and client.told is None, ""
        if not closed or not self.suspicion.paused:  # else it is about a message
            rival = self.rival.ended(
                lived_s, code=client.told, closed=closed, now=clock.monotonic()
            )
        self.suspicion.ended(closed=closed)
        if reason not in (RETURNING, IDLE, BETTER):
            more = f"; {rival}: give one of the two another client id" if rival else ""
            if self.rival.wait_s:
                more += f"; next try in {self.rival.wait_s:.0f} s"
            self._set_state("waiting", f"connection lost: {reason}{more}")
            return True
        if reason == RETURNING:
            self.place = 0
        self._set_state("idle" if reason == IDLE else "connecting", reason)
        return False

    def _failed(self, error: ConnectError) -> bool:
        """Learn from a failed attempt; whether the same address is to be tried in another way."""
        dialect, place = self.dialect, self.place
        self.lane.keeps_qos0 = self.connector.settings.start == "lazy"
        another_way = False
        if error.step == "connack" and dialect is not None:
            another_way = self._choices[place].failed(error)
            if self._will_choices[place].refused(error.reason, self._will()):
                another_way = True
                log.warning(
                    "connector %s: the far side refuses the will (%s); tried with less of it",
                    self.connector.name,
                    error,
                )
            elif another_way and error.reason is not None:
                log.info(
                    "connector %s: the far side does not speak %s", self.connector.name, dialect
                )
        if not another_way:
            self._next_address()
        from isthmus.connectors.probe import login_advice  # only who fails pays for it

        where = f"{self.addresses[place].shown}: " if len(self.addresses) > 1 else ""
        hints = "; ".join(filter(None, (error.hint, login_advice(error))))
        detail = f" ({hints})" if hints else ""
        refused = error.step == "connack" and error.reason is not None
        self._set_state(
            "refused" if refused else "waiting", f"{where}{error.step}: {error}{detail}"
        )
        self.connector.crowding.failed(self, error)
        return another_way

    def _next_address(self) -> None:
        self._tried += 1
        self.place = (self.place + 1) % len(self.addresses)

    def _set_state(self, state: str, reason: str) -> None:
        level = logging.WARNING if state in ("waiting", "refused") else logging.INFO
        if state == "stopped" and reason:
            level = logging.ERROR
        if level > logging.INFO:
            self.connector.figures.failed(reason)
        if state == self.state and reason == self.reason:
            return
        self.state = state
        self.reason = reason
        self.changed_at = clock.monotonic()
        backup = ""
        if state == "connected" and len(self.addresses) > 1:
            backup = f" to {self.address.shown}"
        log.log(
            level,
            "connector %s, connection %d (%s): %s%s%s",
            self.connector.name,
            self.number,
            self.client_id,
            state,
            backup,
            f": {reason}" if reason else "",
        )
        self.connector.member_changed()
