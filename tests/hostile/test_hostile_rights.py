"""Who is not who they say, and who wants more than is theirs: at every place where rights count."""

from __future__ import annotations

import pytest

from isthmus.auth.passwords import create_entry
from raw import (
    PUBACK,
    PUBLISH,
    SUBACK,
    Raw,
    connect_packet,
    packet,
    publish_packet,
    text,
    until,
)

PASSWORD = "right"
STRANGE = ["#", "+", "a/#", "a/+", "+/+", "/", "a/b", "%u", "%c"]
"""Names that mean more than themselves in a filter."""

USERS = ["good", "anna", "bert", "boss", "wide", ".*", "a|anna", "anna$", *STRANGE[1:], "x#"]

ACCESS = """
topic read public/#
user good
topic readwrite good/#
topic readwrite map/#
user anna
topic readwrite data/#
topic deny data/secret/#
topic readwrite map/#
user bert
topic read data/open/#
user boss
topic readwrite data/#
topic readwrite own/#
topic readwrite dev/#
topic readwrite map/#
topic readwrite from/#
user wide
topic readwrite #
pattern readwrite own/%u/#
pattern readwrite dev/%c/#
"""

GOOD = {"username": "good", "password": PASSWORD}


def configuration(folder):
    users = (create_entry(name, PASSWORD.encode(), iterations=101) for name in USERS)
    (folder / "users").write_text("\n".join(users) + "\n")
    (folder / "access").write_text(ACCESS)
    return {
        "auth": {
            "password_file": str(folder / "users"),
            "acl_file": str(folder / "access"),
            "allow_anonymous": True,
        },
        "broker": {"limits": {"connect_timeout": "2s"}},
        "routes": {
            "map": {"from": "local", "topics": ["map/#"], "to": "local", "strip": "map/"},
            "name": {
                "from": "local",
                "topics": ["data/named"],
                "to": "local",
                "topic": "from/${clientid}/x",
            },
        },
    }


async def login(victim, user, version=5, client_id="", **how) -> Raw:
    how = {"username": user, "password": PASSWORD, **how} if user else how
    return await Raw.client(victim.port, client_id, version, **how)


async def refused(victim, version, data) -> int:
    """The code of the CONNACK that refuses `data`; 0 if it is closed without one."""
    raw = await Raw.open(victim.port, version)
    raw.send(data)
    answer = await raw.closed()
    raw.close()
    return answer[3] if answer else 0


# -- who ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "code"), [(5, 0x86), (4, 4)])
@pytest.mark.parametrize(
    "password", [None, "", "\0", PASSWORD + "\0", PASSWORD[:-1], "right " * 50]
)
@pytest.mark.parametrize("user", ["anna", "nobody", "", "Anna", "anna "])
async def test_cve_2016_9877_no_password_is_a_wrong_password(victim, version, code, password, user):
    """CVE-2016-9877, CVE-2018-12551: the same answer whether the user exists or not."""
    data = connect_packet("x", version, username=user, password=password)
    assert await refused(victim, version, data) == code


async def test_cve_2016_9877_a_password_without_a_user(victim):
    """CVE-2016-9877: MQTT 5 allows it (0x87 here), 3.1.1 does not (MQTT-3.1.2-22)."""
    assert await refused(victim, 5, connect_packet("x", 5, password=PASSWORD)) == 0x87
    assert await refused(victim, 4, connect_packet("x", 4, password=PASSWORD)) == 0


@pytest.mark.parametrize("version", [5, 4])
async def test_nanomq_2191_no_name_is_no_name(victim, version):
    """nanomq#2191, nanomq#1819: %u of an anonymous client is nobody, not "null" and not ""."""
    raw = await login(victim, None, version, "none")
    refusal = 0x87 if version == 5 else 0x80
    for topic in ("own/", "own//x", "own/null/x", "own/None/x", "own/anonymous/x"):
        assert await raw.published(topic, "x", 1) == (0x87 if version == 5 else 0)
        assert await raw.subscribe(topic) == [refusal]
    assert await raw.subscribe("public/x") == [0]
    assert await raw.subscribe("dev/none/x") == [0]


# -- names in patterns --------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 4])
@pytest.mark.parametrize("name", STRANGE)
async def test_cve_2017_7650_names_with_wildcards_get_nothing(victim, version, name):
    """CVE-2017-7650, nanomq#2344, emqx-docs#3598: as user and as client id; void means denied."""
    boss = await login(victim, "boss", client_id="boss")
    user = "x#" if name == "#" else name  # a line of a password file that begins so is a comment
    raw = await login(victim, user, version, name)
    refusal = 0x87 if version == 5 else 0x80
    wanted = [f"own/{name}", "own/anna/x", f"dev/{name}", "dev/boss/x", "own/a/b/x", "dev/a/b/x"]
    if name in ("%u", "%c"):  # a name like any other, and not put in twice
        wanted = ["own/anna/x", "dev/boss/x", "own/%c%u/x"]
        assert await raw.subscribe(f"own/{name}/#", f"dev/{name}/#") == [0, 0]
    assert set(await raw.subscribe(*wanted)) == {refusal}
    await raw.subscribe("own/#", "dev/#", "#", "+/+/+")
    for topic in ("own/anna/x", "own/a/b/x", "dev/boss/x", "dev/a/x", "own/a/x"):
        assert await boss.published(topic, "private", 1) in (0, 0x10)
        assert await raw.published(topic, "forged", 1) == (0x87 if version == 5 else 0)
    await raw.nothing()


@pytest.mark.parametrize("version", [5, 4])
@pytest.mark.parametrize("name", [".*", "a|anna", "anna$"])
async def test_cve_2026_44838_names_are_no_expressions(victim, version, name):
    """CVE-2026-44838: such a name is that name and no other."""
    raw = await login(victim, name, version, name)
    refusal = 0x87 if version == 5 else 0x80
    assert await raw.subscribe(f"own/{name}/x", f"dev/{name}/x") == [0, 0]
    assert await raw.subscribe("own/anna/x", "dev/boss/x", "own/a/x") == [refusal] * 3
    boss = await login(victim, "boss", client_id="boss")
    for topic in ("own/anna/x", "own/a/x", "dev/boss/x"):
        assert await boss.published(topic, "private", 1) in (0, 0x10)
    await raw.nothing()


# -- at every place -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 4])
async def test_nats_2026_26_a_deny_rule_holds_on_all_four_paths(victim, version):
    """NATS-2026-26, mochi#504: live, retained, what waited for the session, what is sent again."""
    boss = await login(victim, "boss")

    async def publish(word: str) -> None:
        for topic in ("data/secret/x", "data/open/x"):
            assert await boss.published(topic, word, 1, retain=True) in (0, 0x10)

    how = {"clean": False, **({"session_expiry": 60} if version == 5 else {})}
    await publish("retained")
    raw = await login(victim, "anna", version, f"paths{version}", **how)
    assert await raw.subscribe("data/#", "data/secret/#", "+/secret/x", qos=1) == [
        1, 0x87 if version == 5 else 0x80, 1
    ]  # fmt: skip
    found = await raw.arrived()
    assert [one.topic for one in found if one.kind == PUBLISH] == ["data/open/x"]
    await publish("live")  # and not acknowledged
    found = await raw.arrived()
    assert [one.payload for one in found if one.kind == PUBLISH] == [b"live"]
    raw.reset()
    await publish("waited")
    raw = await login(victim, "anna", version, f"paths{version}", **how)
    found = [one for one in await raw.arrived() if one.kind == PUBLISH]
    assert [one.payload for one in found] == [b"retained", b"live", b"waited"]
    assert {one.topic for one in found} == {"data/open/x"}
    assert found[0].dup
    raw.close()
    last = await login(victim, "anna", version, f"paths{version}")
    last.send(packet(0xE0))
    await last.closed()
    for topic in ("data/secret/x", "data/open/x"):
        await boss.published(topic, "", 1, retain=True)


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2026_33217_dollar_topics_are_closed(victim, version):
    """CVE-2026-33217: `#` in a rule does not reach them, and nobody writes those of the broker."""
    wide = await login(victim, "wide", version)
    denied, refusal = (0x87, 0x87) if version == 5 else (0, 0x80)
    for topic in ("$SYS/broker/version", "$SYS/x", "$CONTROL/x", "$MQTT/x", "$SYS", "$share/g/x"):
        assert await wide.published(topic, "forged", 1, retain=True) == denied
    assert await wide.subscribe("$SYS/#", "$CONTROL/#", "$MQTT/#") == [refusal] * 3
    assert await wide.subscribe("#", "+/broker/version") == [0, 0]
    assert not [one for one in await wide.arrived() if one.topic.startswith("$")]


@pytest.mark.parametrize("version", [5, 4])
async def test_nats_2026_18_a_shared_subscription_does_not_escape_a_deny(victim, version):
    """NATS-2026-18: the filter behind the group is what counts."""
    boss = await login(victim, "boss")
    raw = await login(victim, "anna", version)
    refusal = 0x87 if version == 5 else 0x80
    filters = ["data/secret/#", "data/secret/x", "data/#", "own/+/x"]
    for prefix in ("", "$share/g/"):
        codes = await raw.subscribe(*(prefix + filter_ for filter_ in filters))
        assert codes == [refusal, refusal, 0, 0]  # of the last two, what may be read comes
    for qos in range(3):
        for topic in ("data/secret/x", "own/bert/x"):
            assert await boss.published(topic, "secret", qos) in (0, 0x10)
    await raw.nothing()
    boss.publish("data/open/x", "open")
    assert [one.topic for one in await raw.arrived()] == ["data/open/x"] * 2


@pytest.mark.parametrize(("version", "code"), [(5, 0x87), (4, 5)])
@pytest.mark.parametrize("topic", ["data/secret/x", "$CONTROL/x", "$SYS/broker/version", "own/b/x"])
async def test_emqx_8978_a_will_on_a_forbidden_topic(victim, version, code, topic):
    """emqx#8978, mochi#503: the right is asked for at CONNECT, and nothing is published."""
    boss = await login(victim, "boss")
    await boss.subscribe("data/#", "own/#")
    data = connect_packet(
        "w", version, username="anna", password=PASSWORD, will=(topic, "will", 1, True)
    )
    assert await refused(victim, version, data) == code
    await boss.nothing()


@pytest.mark.parametrize(("version", "code"), [(5, 0x87), (4, 5)])
@pytest.mark.parametrize("other", ["bert", None])
async def test_mosquitto_3551_a_session_is_its_users(victim, version, code, other):
    """mosquitto#3551, emqx#3340, CVE-2026-6564: another user neither takes nor wipes it."""
    client_id = f"owned-{version}-{other}"
    keep = {"clean": False, "session_expiry": 60}
    anna = await login(victim, "anna", client_id=client_id, **keep)
    await anna.subscribe("data/open/#", qos=1)
    credentials = {"username": other, "password": PASSWORD} if other else {}
    for clean in (False, True):
        data = connect_packet(client_id, version, clean=clean, **credentials)
        assert await refused(victim, version, data) == code
    await anna.nothing()  # still connected
    anna.reset()
    boss = await login(victim, "boss")
    await boss.published("data/open/x", "for anna", 1)
    for clean in (False, True):
        data = connect_packet(client_id, version, clean=clean, **credentials)
        assert await refused(victim, version, data) == code
    anna = await login(victim, "anna", client_id=client_id, clean=False)
    assert anna.hello.session_present
    assert (await anna.message()).payload == b"for anna"


# -- routes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 4])
async def test_mosquitto_3670_a_mapped_topic_is_looked_at_again(victim, version):
    """mosquitto#3670, mosquitto#3672: what a route makes of a topic is no way round the rights."""
    reader = await login(victim, "anna", version)
    await reader.subscribe("data/#", "map/#")
    boss = await login(victim, "boss")
    assert await boss.published("map/data/secret/x", "secret", 1) in (0, 0x10)
    assert await boss.published("map/data/open/x", "open", 1) in (0, 0x10)
    found = [one.topic for one in await reader.arrived()]
    assert sorted(found) == ["data/open/x", "map/data/open/x", "map/data/secret/x"]


@pytest.mark.parametrize("name", ["a/b", "+", "#", "../x"])
async def test_mosquitto_3672_a_client_id_in_a_mapped_topic(victim, name):
    """mosquitto#3672, CVE-2024-3935: a name that would move levels is not put in (0x90)."""
    boss = await login(victim, "boss")
    await boss.subscribe("from/#")
    raw = await login(victim, "anna", client_id=name)
    assert await raw.published("data/named", "x", 1) == 0x90
    await boss.nothing()


async def test_mosquitto_3670_a_route_does_not_reach_the_brokers_own_topics(victim):
    """mosquitto#3670: `map/$SYS/...` without its prefix would be a figure of the broker."""
    raw = await login(victim, "anna")
    assert await raw.published("map/$SYS/broker/version", "forged", 1, retain=True) >= 0x80
    assert await raw.published("map/$SYS/broker/version", "forged", 0, retain=True) == 0


# -- the log ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 4])
async def test_rabbitmq_2941_a_flood_of_denied_messages_is_one_line(victim, version):
    """rabbitmq#2941: counted, answered, and logged once a minute."""
    raw = await login(victim, "bert", version, "denied")
    before = len(victim.log)
    for start in range(1, 2000, 200):
        raw.send(*(publish_packet("data/x", "", 1, start + n, version=version) for n in range(200)))
        for _ in range(200):
            assert (await raw.expect(PUBACK)).code == (0x87 if version == 5 else 0)
    for number in range(100):
        body = (number + 1).to_bytes(2, "big") + (b"\0" if version == 5 else b"")
        raw.send(packet(0x82, body + text("data/secret") + b"\0"))
        assert (await raw.expect(SUBACK)).codes == [0x87 if version == 5 else 0x80]
    assert len(victim.log[before:].splitlines()) <= 2


async def test_wrong_logins_are_few_lines_and_show_no_password(victim):
    """Section 4, secrets: a password that was tried stands nowhere."""
    before = len(victim.log)
    for _ in range(100):
        data = connect_packet("x", username="anna", password="c4n4ry-secret")
        assert await refused(victim, 5, data) == 0x86
    await until(lambda: "user name or password is wrong" in victim.log)
    assert "c4n4ry" not in victim.log
    assert len(victim.log[before:].splitlines()) <= 2
