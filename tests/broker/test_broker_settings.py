"""What each setting of the `broker` section does, as `docs/broker.md` says it."""

from __future__ import annotations

import asyncio

import pytest

from raw import CONNACK, DISCONNECT, Raw, connect_packet


async def refused(port: int, client_id: str = "x", version: int = 5, **how) -> int:
    """The code of the CONNACK to a CONNECT that is not accepted."""
    raw = await Raw.open(port, version)
    raw.send(connect_packet(client_id, version, **how))
    answer = await raw.expect(CONNACK)
    assert answer.code
    return answer.code


# -- messages --------------------------------------------------------------------------------------


async def test_a_payload_above_the_maximum_is_refused_with_0x95(isthmus) -> None:
    near = await isthmus({"broker": {"max_payload": 10}})
    raw = await near.client("x")
    assert await raw.published("a", "0123456789", 1) == 0
    raw.publish("a", "0123456789+", 1)
    assert (await raw.expect(DISCONNECT)).code == 0x95


async def test_subscriptions_are_granted_no_more_than_the_maximum_qos(isthmus) -> None:
    near = await isthmus({"broker": {"max_qos": 1}})
    raw = await near.client("x")
    assert raw.hello.properties["maximum_qos"] == 1
    assert await raw.subscribe("a", qos=2) == [1]


@pytest.mark.parametrize("expiry", [{}, {"expiry": 3600}])
async def test_retained_messages_end_with_retain_expiry(isthmus, expiry: dict[str, int]) -> None:
    near = await isthmus({"broker": {"retain_expiry": "1s"}})
    raw = await near.client("x")
    await raw.published("a", "kept", 1, retain=True, **expiry)
    early = await near.client("early")
    await early.subscribe("a")
    assert (await early.message()).payload == b"kept"
    await asyncio.sleep(1.1)
    late = await near.client("late")
    await late.subscribe("a")
    await late.nothing()


@pytest.mark.parametrize("checked", [True, False])
async def test_a_retained_message_needs_its_publishers_right(isthmus, tmp_path, checked) -> None:
    """When rights are taken away, what was retained by them is not delivered any more."""
    users, rights = tmp_path / "users", tmp_path / "acl"
    users.write_text("")
    rights.write_text("topic readwrite a\n")
    near = await isthmus({
        "broker": {"check_retain_source": checked}, "auth": {"acl_file": str(rights)},
    })  # fmt: skip
    writer = await near.client("writer")
    assert await writer.published("a", "kept", 1, retain=True) == 0
    rights.write_text("topic read a\n")
    await near.app.reload(near.app.settings)
    late = await near.client("late")
    await late.subscribe("a")
    if checked:
        await late.nothing()
    else:
        assert (await late.message()).payload == b"kept"


@pytest.mark.parametrize("queued", [True, False])
async def test_qos_0_waits_for_clients_that_are_away_where_asked(isthmus, queued: bool) -> None:
    near = await isthmus({"broker": {"queue_qos0": queued}})
    raw = await near.client("x", clean=False, session_expiry=60)
    await raw.subscribe("a")
    raw.close()
    publisher = await near.client("publisher")
    await asyncio.sleep(0.1)
    publisher.publish("a", "missed", 0)
    await publisher.nothing()
    again = await near.client("x", clean=False, session_expiry=60)
    if queued:
        assert (await again.message()).payload == b"missed"
    else:
        await again.nothing()


@pytest.mark.parametrize(("upgrade", "qos"), [(True, 1), (False, 0)])
async def test_outgoing_qos_is_raised_where_asked(isthmus, upgrade: bool, qos: int) -> None:
    near = await isthmus({"broker": {"upgrade_outgoing_qos": upgrade}})
    raw = await near.client("x")
    await raw.subscribe("a", qos=1)
    raw.publish("a", "x", 0)
    assert (await raw.message()).qos == qos


# -- clients ---------------------------------------------------------------------------------------


async def test_a_longer_keep_alive_is_refused_to_mqtt_3(isthmus) -> None:
    near = await isthmus({"broker": {"max_keepalive": "30s"}})
    assert await refused(near.port, version=4, keep_alive=31) == 2
    assert await refused(near.port, version=4, keep_alive=0) == 2
    await near.client("fits", 4, keep_alive=30)
    told = (await near.client("new", keep_alive=0)).hello.properties
    assert told["server_keep_alive"] == 30


async def test_client_ids_must_have_a_prefix(isthmus) -> None:
    near = await isthmus({"broker": {"client_id_prefixes": ["sensor-", "panel-"]}})
    await near.client("panel-1")
    assert await refused(near.port, "other") == 0x85
    assert await refused(near.port, "other", 4) == 2


async def test_clients_need_an_id_where_empty_ones_are_not_allowed(isthmus) -> None:
    near = await isthmus({"broker": {"allow_empty_client_id": False}})
    await near.client("x")
    assert await refused(near.port, "") == 0x85
    assert await refused(near.port, "", 4) == 2


async def test_ids_that_the_broker_makes_begin_with_the_prefix(isthmus) -> None:
    near = await isthmus({"broker": {"auto_id_prefix": "guest-"}})
    found = (await near.client("")).hello.properties["assigned_id"]
    assert found.startswith("guest-")
    assert len(found) == len("guest-") + 16


async def test_the_user_name_is_the_client_id_where_asked(isthmus) -> None:
    near = await isthmus({"broker": {"username_as_client_id": True}})
    found = await near.client("mine", username="anna", password="x")
    assert found.hello.properties["assigned_id"] == "anna"
    assert list(near.app.broker.sessions) == ["anna"]
    assert await refused(near.port, "x") == 0x85


async def test_response_information_names_the_client(isthmus) -> None:
    near = await isthmus({"broker": {"response_information": "replies/${clientid}/"}})
    told = (await near.client("x", request_response=1)).hello.properties
    assert told["response_information"] == "replies/x/"
