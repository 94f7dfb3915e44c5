"""The state machine of a connection: two of them talk, and each is told what it may not do."""

from __future__ import annotations

from typing import Any

import pytest

from isthmus.errors import LocalProtocolError, MalformedPacket, MQTTError, ProtocolViolation
from isthmus.mqtt import connection
from isthmus.mqtt.connection import BY_CLIENT, BY_SERVER, Connection, State
from isthmus.mqtt.packet_type import PacketType, Role
from isthmus.mqtt.packets import (
    Auth,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Pubrec,
    Suback,
    Subscribe,
    SubscribeOptions,
)
from isthmus.mqtt.properties import PropertyId

P = PropertyId


class Pair:
    """A client and a server with a wire between them."""

    def __init__(self, version: int = 5, **server: Any) -> None:
        self.version = version
        self.client = Connection(Role.CLIENT, now=0.0, topic_alias_maximum=5)
        self.server = Connection(Role.SERVER, now=0.0, **server)

    def to_server(self, now: float = 0.0) -> list[Any]:
        return self.server.receive(b"".join(self.client.take()), now)

    def to_client(self, now: float = 0.0) -> list[Any]:
        return self.client.receive(b"".join(self.server.take()), now)

    def open(
        self,
        connect: dict[PropertyId, Any] | None = None,
        connack: dict[PropertyId, Any] | None = None,
        keep_alive: int = 0,
    ) -> Pair:
        self.client.send(
            Connect("c", self.version, keep_alive=keep_alive, properties=connect or {})
        )
        (event,) = self.to_server()
        assert isinstance(event, Connect)
        self.server.send(Connack(False, 0, connack or {}))
        assert len(self.to_client()) == 1
        assert self.client.state is self.server.state is State.CONNECTED
        return self


@pytest.fixture(params=[3, 4, 5])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param).open()


def test_a_conversation(pair: Pair) -> None:
    client, server = pair.client, pair.server
    client.send(Subscribe(1, [(b"a/#", SubscribeOptions(1))]))
    client.send(Publish(b"a/b", b"x", 1, packet_id=2))
    client.send(Pingreq())
    subscribe, publish, ping = pair.to_server()
    assert isinstance(subscribe, Subscribe)
    assert publish == (2, b"a/b", b"\0\2", b"", b"x")
    assert ping == Pingreq()
    for packet in (Suback(1, [1]), Puback(2), Pingresp()):
        server.send(packet)
    assert pair.to_client() == [Suback(1, [1]), [b"\0\2"], Pingresp()]
    client.send(Disconnect())
    assert client.state is State.CLOSED
    assert pair.to_server() == [Disconnect()]
    assert server.state is State.CLOSED
    assert server.receive(b"\xc0\0", 0.0) == []
    for one in (client, server):
        with pytest.raises(LocalProtocolError):
            one.send(Publish(b"a"))


def test_every_packet_is_in_a_table() -> None:
    """Both tables together let every packet type through in some state."""
    kinds = {kind for _, kind in BY_CLIENT} | {kind for _, kind in BY_SERVER}
    assert kinds == set(PacketType)
    assert not any(state is State.CLOSED for state, _ in [*BY_CLIENT, *BY_SERVER])


@pytest.mark.parametrize(
    "packet", [Publish(b"a"), Pingreq(), Disconnect(), Auth(0x18, {P.AUTHENTICATION_METHOD: "m"})]
)
def test_mqtt_3_1_0_1_nothing_before_connect(packet: Any) -> None:
    client = Connection(Role.CLIENT, now=0.0)
    with pytest.raises(LocalProtocolError):
        client.send(packet)
    assert client.out == []


@pytest.mark.parametrize("packet", [Publish(b"a"), Suback(1, [0]), Disconnect(0x89), Pingresp()])
def test_mqtt_3_2_0_1_a_server_sends_connack_first(packet: Any) -> None:
    pair = Pair()
    pair.client.send(Connect("c"))
    pair.to_server()
    with pytest.raises(LocalProtocolError):
        pair.server.send(packet)


def test_a_server_may_not_send_what_clients_send(pair: Pair) -> None:
    for packet in (Pingreq(), Subscribe(1, [(b"a", SubscribeOptions())]), Connect("c")):
        with pytest.raises(LocalProtocolError):
            pair.server.send(packet)


def test_mqtt_3_2_0_2_one_connack(pair: Pair) -> None:
    with pytest.raises(LocalProtocolError):
        pair.server.send(Connack())


def test_mqtt_3_1_0_2_one_connect(pair: Pair) -> None:
    with pytest.raises(LocalProtocolError):
        pair.client.send(Connect("c", pair.version))


def test_disconnect_from_a_server_needs_mqtt_5() -> None:
    with pytest.raises(LocalProtocolError):
        Pair(4).open().server.send(Disconnect(0x8B))
    pair = Pair(5).open()
    pair.server.send(Disconnect(0x8B))
    assert pair.to_client() == [Disconnect(0x8B)]
    assert pair.client.state is State.CLOSED


def test_mqtt_3_2_2_7_a_refusal_closes() -> None:
    pair = Pair()
    pair.client.send(Connect("c"))
    pair.to_server()
    pair.server.send(Connack(False, 0x87, {P.SERVER_REFERENCE: "there"}))
    assert pair.server.state is State.CLOSED
    (connack,) = pair.to_client()
    assert connack.code == 0x87
    assert pair.client.state is State.CLOSED
    assert pair.client.peer.server_reference == "there"


def test_limits_are_learnt() -> None:
    pair = Pair(topic_alias_maximum=3, topic_aliases_out=9).open(
        {P.RECEIVE_MAXIMUM: 7, P.TOPIC_ALIAS_MAXIMUM: 5, P.REQUEST_PROBLEM_INFORMATION: 0},
        {
            P.RECEIVE_MAXIMUM: 9,
            P.MAXIMUM_QOS: 1,
            P.RETAIN_AVAILABLE: 0,
            P.MAXIMUM_PACKET_SIZE: 50,
            P.SERVER_KEEP_ALIVE: 33,
            P.ASSIGNED_CLIENT_IDENTIFIER: "given",
            P.WILDCARD_SUBSCRIPTION_AVAILABLE: 0,
            P.SHARED_SUBSCRIPTION_AVAILABLE: 0,
            P.SUBSCRIPTION_IDENTIFIER_AVAILABLE: 0,
        },
    )
    at_server, at_client = pair.server.peer, pair.client.peer
    assert (at_server.receive_maximum, at_server.request_problem_information) == (7, False)
    assert pair.server.aliases is not None
    assert pair.server.aliases.maximum == 5
    assert pair.client.aliases is None
    assert (at_client.receive_maximum, at_client.maximum_qos) == (9, 1)
    assert at_client.assigned_client_identifier == "given"
    assert at_client.retain_available is False
    send = pair.client.send
    for packet, reason in (
        (Publish(b"a", qos=2, packet_id=1), 0x9B),
        (Publish(b"a", retain=True), 0x9A),
        (Publish(b"a", b"x" * 60), 0x95),
        (Subscribe(1, [(b"a/#", SubscribeOptions())]), 0xA2),
        (Subscribe(1, [(b"$share/g/a", SubscribeOptions())]), 0x9E),
        (Subscribe(1, [(b"a", SubscribeOptions())], {P.SUBSCRIPTION_IDENTIFIER: [1]}), 0xA1),
    ):
        with pytest.raises(LocalProtocolError) as caught:
            send(packet)  # type: ignore[arg-type]
        assert caught.value.reason == reason
    assert pair.client.out == []


def test_mqtt_3_4_2_2_explanations_yield_to_the_packet_size() -> None:
    why = {P.REASON_STRING: "x" * 100, P.USER_PROPERTY: [("a", "b")]}
    pair = Pair().open({P.MAXIMUM_PACKET_SIZE: 50})
    pair.server.send(Pubrec(1, 0x97, why))
    assert pair.to_client() == [Pubrec(1, 0x97)]
    assert P.REASON_STRING in why
    pair.server.send(Pubrec(1, 0x97, {P.REASON_STRING: "short"}))
    assert pair.to_client() == [Pubrec(1, 0x97, {P.REASON_STRING: "short"})]


def test_mqtt_3_1_2_29_no_problem_information() -> None:
    pair = Pair().open({P.REQUEST_PROBLEM_INFORMATION: 0})
    why = {P.REASON_STRING: "short"}
    pair.server.send(Suback(1, [0x87], why))
    pair.server.send(Disconnect(0x8B, why))
    assert pair.to_client() == [Suback(1, [0x87]), Disconnect(0x8B, why)]


def test_aliases_work_in_both_directions() -> None:
    pair = Pair(topic_alias_maximum=3).open({P.TOPIC_ALIAS_MAXIMUM: 5}, {P.TOPIC_ALIAS_MAXIMUM: 3})
    for sender, deliver in ((pair.client, pair.to_server), (pair.server, pair.to_client)):
        sender.send(Publish(b"topic", properties=b"\x23\0\3"))
        sender.send(Publish(b"", properties=b"\x23\0\3"))
        assert [event[1] for event in deliver()] == [b"topic"] * 2


def test_mqtt_3_1_2_22_server_keep_alive() -> None:
    pair = Pair().open(keep_alive=10)
    server = pair.server
    assert server.deadline() == 15.0
    assert server.tick(14.9) is None
    server.receive(b"\xc0", 12.0)  # half a packet is no packet
    assert server.deadline() == 15.0
    server.receive(b"\0", 13.0)
    assert server.deadline() == 28.0
    error = server.tick(28.0)
    assert error is not None
    server.answer(error)
    (disconnect,) = pair.to_client(28.0)
    assert disconnect.code == 0x8D
    assert server.deadline() is None


def test_keep_alive_0_is_off() -> None:
    pair = Pair().open()
    assert pair.server.deadline() is pair.client.deadline() is None
    assert pair.server.tick(1e9) is pair.client.tick(1e9) is None


def test_mqtt_3_1_2_21_server_keep_alive_rules() -> None:
    pair = Pair().open(None, {P.SERVER_KEEP_ALIVE: 4}, keep_alive=10)
    assert pair.client.deadline() == 4.0
    assert pair.server.deadline() == 6.0


def test_mqtt_3_1_2_20_client_pings() -> None:
    pair = Pair().open(keep_alive=10)
    client = pair.client
    assert client.tick(9.9) is None
    assert client.out == []
    assert client.tick(10.0) is None
    assert client.take() == [b"\xc0\0"]
    client.sent_at = 12.0  # we go on sending
    assert client.deadline() == 20.0
    client.receive(b"\xd0\0", 13.0)
    assert client.deadline() == 22.0
    assert client.tick(22.0) is None
    assert client.take() == [b"\xc0\0"]
    assert client.deadline() == 32.0
    error = client.tick(32.0)
    assert error is not None
    client.answer(error)
    assert client.state is State.CLOSED


def test_a_client_that_only_sends_finds_a_dead_peer() -> None:
    client = Pair().open(keep_alive=10).client
    client.sent_at = 9.0
    assert client.tick(10.0) is None
    assert client.take() == [b"\xc0\0"]


ANSWERS: list[tuple[int | None, MQTTError, str]] = [
    (5, MalformedPacket("bad"), "20 81"),
    (5, ProtocolViolation("bad", 0x85), "20 85"),
    (5, ProtocolViolation("a code that CONNACK has not", 0x94), "20 80"),
    (4, ProtocolViolation("bad", 0x85), "20 02"),
    (4, ProtocolViolation("bad", 0x87), "20 05"),
    (4, MalformedPacket("bad"), ""),  # MQTT-3.1.4-1: close without a CONNACK
    (4, ProtocolViolation("bad", 0x95), ""),
    (None, MalformedPacket("nobody knows what it is"), ""),
]


@pytest.mark.parametrize(("version", "error", "expected"), ANSWERS)
def test_answers_before_the_session_is_open(
    version: int | None, error: MQTTError, expected: str
) -> None:
    server = Connection(Role.SERVER, now=0.0)
    if version is not None:
        client = Connection(Role.CLIENT, now=0.0)
        client.send(Connect("c", version))
        server.receive(b"".join(client.take()), 0.0)
    server.answer(error)
    assert server.state is State.CLOSED
    sent = b"".join(server.take())
    code = sent[3:4]
    assert (sent[:1] + code).hex(" ") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10 0d 0004 4d515454 06 02 0000 0001 61", "20 03 00 84"),  # newer: in the words of 5
        ("10 0d 0004 4d515454 02 02 0000 0001 61", "20 02 00 01"),  # MQTT-3.1.2-2
        ("10 0d 0004 48545450 04 02 0000 0001 61", ""),  # not MQTT at all
        ("10 0e 0004 4d515454 05 03 0000 00 0001 61", "20 03 00 81"),
        ("10 0d 0004 4d515454 04 00 0000 0000", ""),
        ("16 03 01 02 00", ""),
    ],
)
def test_unknown_protocols(text: str, expected: str) -> None:
    server = Connection(Role.SERVER, now=0.0)
    events = server.receive(bytes.fromhex(text.replace(" ", "")), 0.0)
    error = events[-1] if events else None
    if error is None:  # the client id is still to come
        return
    assert isinstance(error, MQTTError)
    server.answer(error)
    sent = b"".join(server.take())
    shape = sent[:1] + (b"\3" if len(sent) > 4 else sent[1:2]) + sent[2:4]
    assert shape.hex(" ") == expected


def test_answers_on_an_open_session() -> None:
    for version, expected in ((4, b""), (5, b"\xe0")):
        pair = Pair(version).open()
        (error,) = pair.server.receive(b"\x36\x05\0\1a\0\1", 0.0)
        assert isinstance(error, MalformedPacket)
        pair.server.answer(error)
        sent = b"".join(pair.server.out)
        assert sent[:1] == expected
        assert pair.server.state is State.CLOSED
        assert pair.server.receive(b"\xc0\0", 0.0) == []


def test_an_answer_that_does_not_fit_is_not_sent() -> None:
    pair = Pair().open()
    pair.server.peer.maximum_packet_size = 2
    pair.server.answer(ProtocolViolation("bad"))
    assert pair.server.out == []


def test_publish_before_connack_is_lawful_but_not_during_authentication() -> None:
    pair = Pair()
    pair.client.send(Connect("c"))
    pair.client.send(Publish(b"a"))
    assert len(pair.to_server()) == 2
    pair = Pair()
    pair.client.send(Connect("c", properties={P.AUTHENTICATION_METHOD: "m"}))
    pair.client.send(Publish(b"a"))
    connect, error = pair.to_server()
    assert isinstance(connect, Connect)
    assert error.clause == "MQTT-3.1.2-30"


def test_mqtt_4_12_enhanced_authentication() -> None:
    pair = Pair()
    method = {P.AUTHENTICATION_METHOD: "m"}
    pair.client.send(Connect("c", properties=method))
    pair.to_server()
    pair.server.send(Auth(0x18, method))
    assert pair.to_client() == [Auth(0x18, method)]
    pair.client.send(Auth(0x18, method))
    assert pair.to_server() == [Auth(0x18, method)]
    pair.server.send(Connack(properties=method))
    assert len(pair.to_client()) == 1
    pair.client.send(Auth(0x19, method))  # again, on the open session
    assert pair.to_server() == [Auth(0x19, method)]


def test_mqtt_4_12_0_6_no_auth_without_a_method(pair: Pair) -> None:
    for side in (pair.client, pair.server):
        with pytest.raises(LocalProtocolError):
            side.send(Auth(0x18, {P.AUTHENTICATION_METHOD: "m"}))


def test_mqtt_4_12_0_5_another_method() -> None:
    pair = Pair()
    pair.client.send(Connect("c", properties={P.AUTHENTICATION_METHOD: "m"}))
    pair.to_server()
    pair.client.send(Auth(0x18, {P.AUTHENTICATION_METHOD: "other"}))
    (error,) = pair.to_server()
    assert isinstance(error, ProtocolViolation)


def test_session_expiry_cannot_be_set_at_disconnect_after_0() -> None:
    pair = Pair().open()
    pair.client.send(Disconnect(0, {P.SESSION_EXPIRY_INTERVAL: 5}))
    (error,) = pair.to_server()
    assert isinstance(error, ProtocolViolation)
    pair = Pair().open({P.SESSION_EXPIRY_INTERVAL: 1})
    pair.client.send(Disconnect(0, {P.SESSION_EXPIRY_INTERVAL: 5}))
    assert isinstance(pair.to_server()[0], Disconnect)


def test_the_out_list_may_be_shared() -> None:
    out: list[bytes] = []
    client = Connection(Role.CLIENT, now=0.0, out=out)
    client.send(Connect("c", 4))
    assert out[0][0] == 0x10
    assert len(client.take()) == 1
    assert out == []
    assert client.out is out


def test_connack_and_publish_in_one_read() -> None:
    client = Connection(Role.CLIENT, now=0.0)
    client.send(Connect("c", 4))
    events = client.receive(b"\x20\2\0\0\x30\3\0\1a", 0.0)
    assert events == [Connack(), (0, b"a", b"", b"", b"")]
    assert client.state is State.CONNECTED


def test_a_refused_client_takes_nothing_more() -> None:
    client = Connection(Role.CLIENT, now=0.0)
    client.send(Connect("c", 4))
    connack, error = client.receive(b"\x20\2\0\5\x30\3\0\1a", 0.0)
    assert isinstance(connack, Connack)
    assert isinstance(error, ProtocolViolation)


def test_close() -> None:
    pair = Pair().open()
    pair.client.close()
    assert pair.client.state is State.CLOSED
    assert connection.PINGRESP == b"\xd0\0"
