"""The two best-known scenarios, from the files in examples/, against a real Mosquitto.

Only addresses and credentials are replaced.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.app.settings import Settings
from isthmus.config.loader import parse
from mosquitto import Listening, Mosquitto, command, free_port, listens
from raw import until

EXAMPLES = Path(__file__).parents[2] / "examples"


def placed(example: str, folder: Path, near: int, far: int) -> Path:
    """A copy of the example with our ports and far credentials."""
    changed = (EXAMPLES / example).read_text()
    for old, new in (
        ("bind: 127.0.0.1:1883", f"bind: 127.0.0.1:{near}"),
        ("mqtt://broker.emqx.io:1883", f"mqtt://127.0.0.1:{far}"),
        ("mqtt://cloud.example.com:1883", f"mqtt://127.0.0.1:{far}"),
        ("password: public ", "password: ${env:FAR_PASSWORD} "),
    ):
        changed = changed.replace(old, new)
    path = folder / example
    path.write_text(changed)
    return path


class Running:
    """`isthmus run FILE` as its own process."""

    def __init__(self, path: Path, near: int, **environment: str) -> None:
        self.near = near
        self.process = subprocess.Popen(
            [sys.executable, "-m", "isthmus", "run", str(path)],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
        )

    async def ready(self, far: Mosquitto, client_id: str, *filters: str) -> None:
        """Wait until it listens and the far side has granted its subscriptions."""
        answer = f"Sending SUBACK to {client_id}"
        await until(
            lambda: (
                self.process.poll() is not None
                or (listens(self.near) and answer in far.log.read_text())
            )
        )
        assert self.process.poll() is None
        log = far.log.read_text()
        for filter_ in filters:
            assert f"{filter_} (QoS" in log

    async def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(self.process.communicate, timeout=10)
        return self.process.returncode, errors.decode()


async def guarded(mosquitto, tmp_path: Path, user: str, password: str) -> Mosquitto:
    """A Mosquitto that lets nobody in but this user."""
    users = tmp_path / "far-users"
    users.touch()
    code, _, errors = await command("mosquitto_passwd", "-b", str(users), user, password)
    assert code == 0, errors
    return await mosquitto("allow_anonymous false", f"password_file {users}")


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_every_example_is_a_valid_configuration(example, monkeypatch):
    monkeypatch.setenv("CLOUD_PASSWORD", "secret")
    assert parse(Settings, EXAMPLES / example).routes


async def test_sensor_goes_out_and_control_comes_in(mosquitto, tmp_path):
    far = await guarded(mosquitto, tmp_path, "emqx_u", "far-secret")
    near = free_port()
    path = placed("sensors-to-cloud.yaml", tmp_path, near, far.port)
    running = Running(path, near, FAR_PASSWORD="far-secret")
    there = ["-p", str(far.port), "-u", "emqx_u", "-P", "far-secret", "-q", "1"]
    try:
        await running.ready(far, "emqx_c", "control/#")
        assert "as emqx_c (p5, c0, k60, u'emqx_u')" in far.log.read_text()
        listening = await Listening.start(*there, "-t", "sensor/#", "-v")
        publish = ["-p", str(near), "-q", "1", "-t", "sensor/1/temperature", "-m", "37.5"]
        assert (await command("mosquitto_pub", *publish))[0] == 0
        assert await listening.line() == "sensor/1/temperature 37.5"
        await listening.stop()

        listening = await Listening.start("-p", str(near), "-q", "1", "-t", "control/#", "-v")
        publish = [*there, "-t", "control/t/1", "-m", "I'm EMQX"]
        assert (await command("mosquitto_pub", *publish))[0] == 0
        assert await listening.line() == "control/t/1 I'm EMQX"
        await listening.stop()
    finally:
        code, errors = await running.stop()
    assert code == 0, errors
    assert "far-secret" not in errors
    await until(lambda: "Received DISCONNECT from emqx_c" in far.log.read_text())


async def test_hello_world_goes_to_the_cloud_and_the_response_comes_back(mosquitto, tmp_path):
    far = await guarded(mosquitto, tmp_path, "core", "cloud-secret")
    near = free_port()
    path = placed("hello-world-cloud.yaml", tmp_path, near, far.port)
    running = Running(path, near, CLOUD_PASSWORD="cloud-secret")
    there = ["-p", str(far.port), "-u", "core", "-P", "cloud-secret", "-q", "1"]
    here = ["-p", str(near)]
    response = "clients/device-1/hello/world/event/response"
    try:
        await running.ready(far, "core-device-1", "clients/+/hello/world/event/response")
        cloud = await Listening.start(*there, "-t", "#", "-F", "%t %q %p")
        device = await Listening.start(*here, "-q", "1", "-t", response, "-F", "%t %p")
        # What no route names stays here, and a QoS 0 message goes up with QoS 1.
        for topic, qos in (
            ("clients/device-1/private", "1"),
            ("clients/device-1/hello/world", "0"),
            ("clients/device-1/hello/world/event", "1"),
        ):
            publish = [*here, "-q", qos, "-i", "device-1-out", "-t", topic, "-m", "hello"]
            assert (await command("mosquitto_pub", *publish))[0] == 0
        assert await cloud.line() == "clients/device-1/hello/world 1 hello"
        assert await cloud.line() == "clients/device-1/hello/world/event 1 hello"
        assert (await command("mosquitto_pub", *there, "-t", response, "-m", "welcome"))[0] == 0
        assert await device.line() == f"{response} welcome"
        # The cloud's own publication is the next that it sees: nothing was sent back up.
        assert await cloud.line() == f"{response} 1 welcome"
        await cloud.stop()
        await device.stop()
    finally:
        code, errors = await running.stop()
    assert code == 0, errors
