"""How one client is let in: the login of its CONNECT, or an exchange of AUTH packets.

With a method of enhanced authentication (MQTT 5, 4.12) it lives as long as the connection, as the
client may authenticate again. That goes on beside the messages; failing closes the connection.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from isthmus import clock
from isthmus.auth.login import DENIED, Login, Verdict
from isthmus.auth.method import MAX_DATA_BYTES, MAX_STEPS, Step
from isthmus.errors import MQTTError, ProtocolViolation
from isthmus.mqtt.packets import Auth
from isthmus.mqtt.properties import Properties, PropertyId
from isthmus.mqtt.reasons import ReasonCode
from isthmus.net.peer import peer_network

if TYPE_CHECKING:
    from isthmus.auth.method import Conversation, Method
    from isthmus.broker.client import Client
    from isthmus.mqtt.packets import Connect
    from isthmus.net.timers import Timer

log = logging.getLogger("isthmus.broker")


class Admission:
    """Owns everything between CONNECT and the decision about it. `begin` is called once."""

    __slots__ = (
        "_client",
        "_conversation",
        "_login",
        "_method",
        "_packet",
        "_steps",
        "_task",
        "_timeout_s",
        "_timer",
    )

    def __init__(self, client: Client, packet: Connect, timeout_s: float) -> None:
        self._client = client
        self._packet: Connect | None = packet
        link = client.link
        self._login = Login(
            packet.client_id,
            packet.username,
            packet.password,
            peer_network(link.peername),
            link.peer_certificate,
        )
        self._timeout_s = timeout_s
        self._method: Method | None = None
        self._conversation: Conversation | None = None
        self._steps = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer | None = None

    def begin(self) -> None:
        """Decide at once where that is possible, else later."""
        packet = self._packet
        assert packet is not None
        name = packet.properties.get(PropertyId.AUTHENTICATION_METHOD)
        if name is not None:
            self._begin_method(name, packet)
            return
        verdict = self._client.access.authenticator.at_once(self._login)
        if verdict is not None:
            self._client.admit(packet, verdict)
            return
        # What has to be asked runs beside the loop, and what this client has sent behind its
        # CONNECT waits.
        self._client.hold()
        self._task = asyncio.get_running_loop().create_task(self._authenticate(packet))

    def auth(self, packet: Auth) -> None:
        """Take an AUTH packet, before or after the CONNACK."""
        name = packet.properties.get(PropertyId.AUTHENTICATION_METHOD)
        if name is not None and self._method is not None and name != self._method.name:
            raise ProtocolViolation(
                "another authentication method",
                ReasonCode.BAD_AUTHENTICATION_METHOD,
                "MQTT-4.12.1-1",
            )
        if self._task is not None:
            raise ProtocolViolation("AUTH before the answer to the one before")
        if packet.code == ReasonCode.RE_AUTHENTICATE and self._packet is None:
            if self._conversation is not None:
                raise ProtocolViolation("AUTH begins anew before the exchange is over")
            self._timer = self._client.link.reactor.wheel.at(
                clock.monotonic() + self._timeout_s, self._too_slow
            )
            self._converse(packet.properties)
        elif packet.code == ReasonCode.CONTINUE_AUTHENTICATION and self._conversation is not None:
            self._converse(packet.properties)
        else:
            raise ProtocolViolation(f"AUTH with code {packet.code:#04x} is not due")

    def end(self) -> None:
        """The connection has ended, or its login is decided."""
        for pending in (self._task, self._timer):
            if pending is not None:
                pending.cancel()
        self._task = self._timer = None

    # -- user name and password ------------------------------------------------------------------

    async def _authenticate(self, packet: Connect) -> None:
        client = self._client
        try:
            verdict = await client.access.authenticator.authenticate(self._login, client.gone)
        except MQTTError as error:
            client.fail(error)
            return
        finally:
            self._task = None
        if client.closed:
            return
        if not verdict.allowed and client.gone():
            client.link.abort("the client left before its login was checked")
            return
        client.admit(packet, verdict)
        client.unhold()

    # -- enhanced authentication -----------------------------------------------------------------

    def _begin_method(self, name: str, packet: Connect) -> None:
        self._method = self._client.access.authenticator.method(name)
        if self._method is None:
            raise ProtocolViolation(
                "the authentication method is not supported",
                ReasonCode.BAD_AUTHENTICATION_METHOD,
                "MQTT-4.12.0-1",
            )
        self._converse(packet.properties)

    def _converse(self, properties: Properties) -> None:
        """Have the method take the next step."""
        data = properties.get(PropertyId.AUTHENTICATION_DATA)
        self._steps += 1
        if self._steps > MAX_STEPS or (data is not None and len(data) > MAX_DATA_BYTES):
            raise ProtocolViolation(
                f"the authentication takes more than {MAX_STEPS} steps, "
                f"or {MAX_DATA_BYTES} bytes in one",
                ReasonCode.NOT_AUTHORIZED,
            )
        self._task = asyncio.get_running_loop().create_task(self._step(data))

    async def _step(self, data: bytes | None) -> None:
        method = self._method
        assert method is not None
        try:
            if self._conversation is None:
                self._conversation = method.begin(self._login)
            step = await self._conversation.step(data)
        except MQTTError as error:
            self._task = None
            self._client.fail(error)
            return
        except Exception:
            log.exception("the authentication method %s failed", method.name)
            step = Step(None, DENIED)
        self._task = None
        if self._client.closed:
            return
        if step.verdict is None:
            self._send(ReasonCode.CONTINUE_AUTHENTICATION, step.data)
            return
        self._conversation = None
        self._steps = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            verdict = self._judged(step.verdict)
        except MQTTError as error:
            self._client.fail(error)
        else:
            self._conclude(step, verdict)

    def _judged(self, verdict: Verdict) -> Verdict:
        """The verdict, with the certificate considered, and files that were replaced meanwhile."""
        assert self._method is not None
        authenticator = self._client.access.authenticator
        if not verdict.by:
            verdict = verdict._replace(by=self._method.name)
        verdict = authenticator.confirm(self._login, verdict, self._method)
        if verdict.allowed and authenticator.still_good(verdict):
            return verdict
        return DENIED._replace(username=verdict.username)  # the log says whom it was about

    def _conclude(self, step: Step, verdict: Verdict) -> None:
        client, packet = self._client, self._packet
        if packet is not None:
            self._packet = None
            # The password is not needed again, and is not kept.
            self._login = self._login._replace(password=None)
            client.admit(packet, verdict, self._properties(step.data))
        elif not verdict.allowed or not client.admit_again(verdict):
            client.close(ReasonCode.NOT_AUTHORIZED, "the client could not authenticate again")
        else:
            self._send(ReasonCode.SUCCESS, step.data)

    def _send(self, code: ReasonCode, data: bytes | None) -> None:
        try:
            self._client.respond(Auth(code, self._properties(data)))
        except MQTTError as error:  # it is too large for the client
            self._client.fail(error)

    def _properties(self, data: bytes | None) -> Properties:
        """MQTT-4.12.0-5: every AUTH, and the CONNACK, name the method."""
        assert self._method is not None
        properties: Properties = {PropertyId.AUTHENTICATION_METHOD: self._method.name}
        if data is not None:
            properties[PropertyId.AUTHENTICATION_DATA] = data
        return properties

    def _too_slow(self) -> None:
        self._timer = None
        self._client.close(ReasonCode.NOT_AUTHORIZED, "authenticating again took too long")
