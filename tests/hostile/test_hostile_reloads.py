"""Rights and users that are taken away while clients are there, and files that cannot be read."""

from __future__ import annotations

import gc
import os
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from victim import GROWTH_KIB, rss_kib

from isthmus.auth.passwords import create_entry
from isthmus.errors import ConfigError
from raw import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Raw,
    ack_packet,
    connect_packet,
    until,
)

ENTRIES = {
    name: create_entry(name, b"pw", iterations=2) for name in ("anna", "bert", "boss", "good")
}

ALWAYS = "user good\ntopic good/#\nuser boss\ntopic data/#\n"
BOTH = ALWAYS + "user anna\ntopic data/#\nuser bert\ntopic data/#\n"
NO_SECRET = ALWAYS + "user anna\ntopic deny data/secret/#\ntopic data/#\nuser bert\ntopic data/#\n"

KEPT = {"clean": False, "session_expiry": 60}


class Files:
    """A broker whose files of users and rights a test writes anew, and its good client."""

    def __init__(self, isthmus, folder):
        self._isthmus = isthmus
        self.users, self.access = folder / "users", folder / "access"

    async def start(self, access: str = BOTH, **broker):
        self.write(self.users, "\n".join(ENTRIES.values()) + "\n")
        self.write(self.access, access)
        self.near = await self._isthmus(
            {
                "auth": {"password_file": str(self.users), "acl_file": str(self.access)},
                "broker": {"sys_interval": 0, **broker},
            }
        )
        self.good = await self.login("good")
        await self.good.subscribe("good/#")
        await self.served()
        self.rss_kib = rss_kib(os.getpid())

    @staticmethod
    def write(path: Path, content: str) -> None:
        path.write_text(content)
        path.chmod(0o600)

    async def reload(self, access: str = BOTH) -> None:
        self.write(self.access, access)
        await self.near.app.reload(self.near.app.settings)

    async def login(self, user: str, client_id: str = "", version: int = 5, **how) -> Raw:
        if version == 4:
            how.pop("session_expiry", None)
        return await self.near.client(client_id, version, username=user, password="pw", **how)

    async def served(self) -> None:
        """The good client is served."""
        self.good.publish("good/x", "hello")
        assert (await self.good.message()).payload == b"hello"
        await self.good.nothing()


@pytest_asyncio.fixture
async def files(isthmus, tmp_path):
    """After each test the good client is served, and memory is as it was."""
    found = Files(isthmus, tmp_path)
    yield found
    await found.served()
    assert rss_kib(os.getpid()) - found.rss_kib < GROWTH_KIB // 4  # they are small attacks


async def drained(raw: Raw, found: list) -> list:
    """What has come and what follows it, acknowledged to the end."""
    got = []
    while found:
        got += found
        for one in found:
            if one.kind == PUBLISH:
                raw.send(ack_packet(PUBACK if one.qos == 1 else PUBREC, one.packet_id))
            else:
                assert one.kind == PUBREL
                raw.send(ack_packet(PUBCOMP, one.packet_id))
        found = await raw.arrived()
    return got


def topics(found) -> list[str]:
    return [one.topic for one in found if one.kind == PUBLISH]


# -- what a reader had ---------------------------------------------------------------------------


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2021_34434_a_subscription_that_was_granted_before(files, version):
    """CVE-2021-34434: the old grant gives nothing more: live, retained, shared, by wildcard."""
    await files.start()
    boss = await files.login("boss")
    anna = await files.login("anna", "anna", version)
    codes = await anna.subscribe("data/secret/x", "#", "data/+/x", "$share/g/data/secret/#", qos=1)
    assert codes == [1] * 4
    bert = await files.login("bert")
    await bert.subscribe("$share/g/data/secret/#", qos=1)
    await files.reload(NO_SECRET)
    for _ in range(4):
        assert await boss.published("data/secret/x", "secret", 1, retain=True) == 0
        assert (await bert.message()).topic == "data/secret/x"  # every turn is the other's now
    await anna.nothing()
    assert await anna.subscribe("data/secret/x") == [0x87 if version == 5 else 0x80]
    assert await anna.published("data/secret/x", "mine", 1) == (0x87 if version == 5 else 0)
    await anna.subscribe("data/#")  # and with it what is retained
    assert topics(await anna.arrived()) == []
    await boss.published("data/open/x", "open", 1)
    assert topics(await anna.arrived()) == ["data/open/x"]


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2021_34434_what_waited_for_an_absent_reader(files, version):
    """CVE-2021-34434: queued, and what had been sent and would be sent again; the rest comes."""
    await files.start(max_inflight=4)
    boss = await files.login("boss")
    anna = await files.login("anna", "anna", version, **KEPT)
    await anna.subscribe("data/#", qos=2)
    for qos in (1, 2):
        for topic in ("data/secret/sent", "data/open/sent"):
            assert await boss.published(topic, str(qos), qos) == 0
    sent = await anna.arrived()
    assert len(sent) == 4
    anna.reset()
    await until(lambda: files.near.app.broker.sessions["anna"].client is None)
    for topic in ("data/secret/queued", "data/open/queued") * 3:
        assert await boss.published(topic, "3", 1) == 0
    await files.reload(NO_SECRET)
    counts = files.near.app.broker.drops.counts
    assert counts["denied"] == 5
    anna = await files.login("anna", "anna", version, **KEPT)
    found = await anna.arrived()
    secret = next(one for one in sent if one.qos == 2 and "secret" in one.topic)
    assert (found[0].kind, found[0].packet_id) == (PUBREL, secret.packet_id)
    got = topics(await drained(anna, found))
    assert got == ["data/open/sent"] * 2 + ["data/open/queued"] * 3
    lane = files.near.app.broker.sessions["anna"].lane
    assert (lane.queued, lane.inflight) == (0, 0)  # every packet identifier can be used again
    for number in range(6):
        await boss.published("data/open/x", str(number), 2)
        assert (await anna.message()).payload == str(number).encode()


@pytest.mark.parametrize("version", [5, 4])
async def test_cve_2021_34434_what_waited_behind_a_full_window(files, version):
    """CVE-2021-34434: a reader that does not acknowledge, connected all the time."""
    await files.start(max_inflight=1)
    boss = await files.login("boss")
    anna = await files.login("anna", "anna", version)
    await anna.subscribe("data/#", qos=1)
    for topic in ("data/secret/sent", "data/secret/queued", "data/open/queued"):
        assert await boss.published(topic, "x", 1) == 0
    first = await anna.expect(PUBLISH)
    assert first.topic == "data/secret/sent"  # before the right was taken
    await files.reload(NO_SECRET)
    await anna.nothing()
    anna.send(ack_packet(PUBACK, first.packet_id))
    assert (await anna.message()).topic == "data/open/queued"
    await anna.nothing()
    await files.reload()
    assert await boss.published("data/secret/x", "x", 1) == 0
    assert (await anna.message()).topic == "data/secret/x"


async def test_cve_2021_34434_what_is_about_to_be_sent_again(files):
    """CVE-2021-34434: on a connection that takes little at once, so that some of it waits."""
    await files.start()
    boss = await files.login("boss")
    anna = await files.login("anna", "anna", **KEPT)
    await anna.subscribe("data/#", qos=2)
    for number, topic in enumerate(("open/1", "secret/2", "secret/3", "open/4")):
        assert await boss.published(f"data/{topic}", "x", 2 if number == 2 else 1) == 0
    await anna.arrived()
    anna.reset()
    await until(lambda: files.near.app.broker.sessions["anna"].client is None)
    anna = await files.login("anna", "anna", receive_maximum=1, **KEPT)
    found = await anna.arrived()
    assert topics(found) == ["data/open/1"]
    await files.reload(NO_SECRET)
    found += await anna.arrived()
    assert [one.kind for one in found] == [PUBLISH, PUBREL]
    assert topics(await drained(anna, found)) == ["data/open/1", "data/open/4"]
    assert files.near.app.broker.sessions["anna"].lane.inflight == 0


async def test_cve_2021_34434_what_waited_for_a_group(files):
    """CVE-2021-34434: a shared subscription gives it to who may still read it, or to nobody."""
    await files.start()
    boss = await files.login("boss")
    anna = await files.login("anna", "anna", **KEPT)
    await anna.subscribe("$share/g/data/#", qos=1)
    anna.reset()
    await until(lambda: files.near.app.broker.sessions["anna"].client is None)
    for topic in ("data/secret/x", "data/open/x"):
        assert await boss.published(topic, "x", 1) == 0
    await files.reload(NO_SECRET)
    anna = await files.login("anna", "anna", **KEPT)
    assert topics(await anna.arrived()) == ["data/open/x"]


async def test_cve_2021_34434_a_will_that_was_granted_before(files):
    """CVE-2021-34434: the right is asked for again when the will is published."""
    await files.start()
    boss = await files.login("boss")
    await boss.subscribe("data/#")
    for name, topic in (("w1", "data/secret/x"), ("w2", "data/open/x")):
        raw = await files.login("anna", name, will=(topic, "will", 0, True))
        if name == "w2":
            await files.reload(NO_SECRET)
            raw.reset()
        else:
            first = raw
    first.reset()
    assert (await boss.message()).topic == "data/open/x"
    await until(lambda: files.near.app.broker.drops.counts.get("denied"))
    await boss.nothing()


# -- what a writer left --------------------------------------------------------------------------


@pytest.mark.parametrize("check", [True, False])
async def test_cve_2018_12546_what_a_revoked_writer_left(files, check):
    """CVE-2018-12546, nanomq#1925: retained, and unreadable until its writer has the right again.

    Unless `check_retain_source` says that what is retained belongs to nobody.
    """
    await files.start(check_retain_source=check)
    anna, boss = await files.login("anna"), await files.login("boss")
    for raw, topic in ((anna, "data/secret/a"), (anna, "data/open/a"), (boss, "data/secret/b")):
        assert await raw.published(topic, "x", 1, retain=True) == 0
    left = ["data/open/a", "data/secret/b"] + ([] if check else ["data/secret/a"])
    await files.reload(NO_SECRET)
    for version in (5, 4):
        reader = await files.login("bert", f"reader{version}", version)
        await reader.subscribe("data/#")
        assert sorted(topics(await reader.arrived())) == sorted(left)
    files.write(files.users, "\n".join(ENTRIES[name] for name in ("bert", "boss", "good")) + "\n")
    await files.reload(ALWAYS + "user bert\ntopic data/#\n")  # there is no anna any more
    assert (await anna.expect(DISCONNECT)).code == 0x87
    await reader.subscribe("data/#")
    left = ["data/secret/b"] if check else left
    assert sorted(topics(await reader.arrived())) == sorted(left)
    await files.reload()
    await reader.subscribe("data/#")
    assert len(topics(await reader.arrived())) == 3


# -- files ---------------------------------------------------------------------------------------


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Nothing can be opened in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd")) + 1  # noqa: PTH208
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, before[1]))
    try:
        while True:
            try:
                taken.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken:
            os.close(descriptor)


async def test_cve_2017_7652_a_reload_without_descriptors(files):
    """CVE-2017-7652: it fails, says which file, and the rights are those of before."""
    await files.start(NO_SECRET)
    anna = await files.login("anna")
    files.write(files.access, BOTH)
    with no_descriptors(), pytest.raises(ConfigError, match=f"{files.users}.*Too many open files"):
        await files.near.app.reload(files.near.app.settings)
    assert await anna.published("data/secret/x", "x", 1) == 0x87
    assert await anna.published("data/open/x", "x", 1) == 0
    await files.login("bert")
    await files.served()
    await files.reload()
    assert await anna.published("data/secret/x", "x", 1) == 0


@pytest.mark.parametrize("content", ["", "\0", "user anna\ntopic maybe data/#\n", "topic\n"])
async def test_cve_2018_12550_a_reload_of_a_broken_file(files, content):
    """CVE-2018-12550: neither everything nor nothing is allowed by it: it is not taken."""
    await files.start(NO_SECRET)
    anna = await files.login("anna")
    if content:
        with pytest.raises(ConfigError, match=str(files.access)):
            await files.reload(content)
        assert await anna.published("data/open/x", "x", 1) == 0
    else:
        await files.reload(content)  # an empty list is a list, and allows nothing
        assert await anna.published("data/open/x", "x", 1) == 0x87
    assert await anna.published("data/secret/x", "x", 1) == 0x87
    files.write(files.users, "anna\n")
    with pytest.raises(ConfigError, match=str(files.users)):
        await files.reload(BOTH)
    assert await anna.published("data/secret/x", "x", 1) == 0x87
    files.write(files.users, "\n".join(ENTRIES.values()) + "\n")
    await files.reload()  # what is whole again is taken
    assert await anna.published("data/secret/x", "x", 1) == 0


async def test_many_reloads_leave_nothing(files):
    """CVE-2017-7652: descriptors and memory are as before after 200 of them, under live clients."""
    await files.start()
    anna = await files.login("anna")
    await anna.subscribe("data/#")

    async def reloads(count: int) -> None:
        for number in range(count):
            await files.reload(NO_SECRET if number % 2 else BOTH)
            anna.publish("data/secret/x")
            await anna.arrived()

    await reloads(20)
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    tracemalloc.start()
    try:
        await reloads(4)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await reloads(200)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 100 << 10
    finally:
        tracemalloc.stop()
    assert len(os.listdir("/proc/self/fd")) == descriptors  # noqa: PTH208


async def test_cve_2021_34434_a_user_who_is_removed_while_it_logs_in(files):
    """CVE-2021-34434: a password that was checked with the old file is checked again."""
    await files.start()
    slow = create_entry("anna", b"pw", iterations=400_000)
    files.write(files.users, "\n".join([slow, ENTRIES["good"]]) + "\n")
    await files.reload()
    raw = await Raw.open(files.near.port)
    raw.send(connect_packet("late", username="anna", password="pw"))
    await until(lambda: any(one._admission for one in files.near.app.broker.unnamed))
    files.write(files.users, ENTRIES["good"] + "\n")
    await files.reload()
    assert (await raw.expect(CONNACK)).code == 0x86
