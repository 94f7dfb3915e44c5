"""`connection: ${clientid}` with `static_client_ids`: the example of docs/routes.md, running."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import pytest_asyncio

from isthmus.app.settings import Settings
from isthmus.config.loader import parse_text
from mosquitto import command
from raw import PUBACK, PUBREC, Raw, until

PAGE = (Path(__file__).parents[2] / "docs" / "routes.md").read_text()
EXAMPLE = next(
    block
    for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    if "connection: ${clientid}" in block
)
PASSWORDS = {"press-4": "secret-4", "press-5": "secret-5"}


@pytest_asyncio.fixture
async def far(mosquitto, tmp_path):
    """A Mosquitto where each user has one client id, and may write below it."""
    users = tmp_path / "users"
    users.touch(0o600)
    for name, password in {**PASSWORDS, "watcher": "w"}.items():
        status, _, errors = await command("mosquitto_passwd", "-b", str(users), name, password)
        assert status == 0, errors
    rights = tmp_path / "rights"
    rights.write_text("user watcher\ntopic read #\npattern write from/%c/%u/#\n")
    rights.chmod(0o600)
    return await mosquitto("allow_anonymous false", f"password_file {users}", f"acl_file {rights}")


@pytest.fixture
def configuration(far, monkeypatch):
    """The example, with the address of `far` and a topic that says by which connection."""
    for name, password in PASSWORDS.items():
        monkeypatch.setenv(f"PASSWORD_{name[-1]}", password)
    url = "url: mqtts://broker.example.com"
    line = "connection: ${clientid}\n"
    assert EXAMPLE.count(url) == EXAMPLE.count(line) == 1
    text = EXAMPLE.replace(url, f"url: mqtt://127.0.0.1:{far.port}")
    # The far side refuses it unless the id of the connection is that of the publisher.
    text = text.replace(
        line, f"{line}    topic: from/${{clientid}}/${{connection.client_id}}/${{topic}}\n"
    )
    return parse_text(Settings, f"{text}listeners: [{{bind: '127.0.0.1:0'}}]\n")


def arrived(far):
    """What the far side got: connection, QoS, topic."""
    line = re.compile(r"Received PUBLISH from (\S+) \(d0, q(\d), r0, m\d+, '([^']+)'")
    return [(name, int(qos), topic) for name, qos, topic in line.findall(far.log.read_text())]


async def test_each_client_sends_by_the_connection_of_its_id(isthmus, far, configuration):
    near = await isthmus(configuration)
    await near.connected()
    watcher = await Raw.client(far.port, "watcher", username="watcher", password="w")
    await watcher.subscribe("#", qos=2)
    expected = []
    clients = {name: await near.client(name) for name in PASSWORDS}
    for number in range(4):  # topics that a pool would spread
        for qos in range(3):
            for name, client in clients.items():
                assert await client.published(f"press/{number}", "x", qos) == 0
                expected.append((name, qos, f"from/{name}/{name}/press/{number}"))
    got = [(await watcher.message()).topic for _ in expected]
    assert sorted(got) == sorted(topic for _, _, topic in expected)
    # Each kept its order, and came by its own connection.
    for name in PASSWORDS:
        assert [one for one in arrived(far) if one[0] == name] == [
            one for one in expected if one[0] == name
        ]


@pytest.mark.parametrize("version", [4, 5])
async def test_a_client_whose_id_has_no_connection_is_refused(isthmus, far, configuration, version):
    near = await isthmus(configuration)
    await near.connected()
    here = await near.client("press-6", version)
    if version == 5:
        assert await here.published("press/1", "x", 1) == 0x83
        assert await here.published("press/1", "x", 2) == 0x83
    else:
        here.publish("press/1", "x", 1)
        here.publish("press/1", "x", 2)
        assert not {one.kind for one in await here.arrived()} & {PUBACK, PUBREC}
    await here.published("press/1", "x", 0)
    assert near.cloud.drops.counts == {"no_such_connection": 3}
    known = await near.client("press-4")
    assert await known.published("press/1", "x", 1) == 0
    await until(lambda: arrived(far))
    assert [name for name, _, _ in arrived(far)] == ["press-4"]
