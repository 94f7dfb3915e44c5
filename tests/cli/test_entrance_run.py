"""`isthmus run` with a mounted and limited listener beside an open one, and real clients."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from mosquitto import Listening, command, free_port, listens
from raw import CONNACK, Raw, connect_packet, until

CONFIGURATION = """\
listeners:
  - bind: 127.0.0.1:{open}
  - bind: 127.0.0.1:{tenant}
    mount_point: tenant-a/
    max_connections: 2
    max_qos: 1
    versions: [3.1.1, 5]
broker:
  sys_interval: 0
http: null
"""


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[int, int]]:
    """The ports of the open and the mounted listener of a process of its own."""
    ports = free_port(), free_port()
    path = folder / "isthmus.yaml"
    path.write_text(CONFIGURATION.format(open=ports[0], tenant=ports[1]))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "isthmus", "run", str(path), stderr=subprocess.DEVNULL
    )
    try:
        await until(lambda: all(map(listens, ports)), 15)
        yield ports
    finally:
        if process.returncode is None:
            process.terminate()
        assert await process.wait() == 0


async def test_one_process_with_an_open_and_a_mounted_listener(tmp_path: Path) -> None:
    async with running(tmp_path) as (everybody, tenant), contextlib.AsyncExitStack() as stack:

        async def listening(port: int, *arguments: str) -> Listening:
            found = await Listening.start("-p", str(port), "-v", *arguments)
            stack.push_async_callback(found.stop)
            return found

        outside = await listening(everybody, "-t", "#")
        inside = await listening(tenant, "-t", "sensor/#", "-q", "2")
        to_tenant = ("mosquitto_pub", "-p", str(tenant), "-V", "mqttv5", "-q", "1")
        assert (await command(*to_tenant, "-t", "sensor/1", "-m", "20"))[0] == 0
        assert await outside.line() == "tenant-a/sensor/1 20"
        assert await inside.line() == "sensor/1 20"
        to_all = ("mosquitto_pub", "-p", str(everybody), "-q", "2")
        assert (await command(*to_all, "-t", "tenant-a/sensor/2", "-m", "21", "-r"))[0] == 0
        assert await inside.line() == "sensor/2 21"
        late = await listening(tenant, "-t", "sensor/+")
        assert await late.line() == "sensor/2 21"
        for version, code in ((5, 0x97), (4, 3), (3, 1)):
            raw = await Raw.open(tenant, version)
            raw.send(connect_packet("third", version))
            assert (await raw.expect(CONNACK)).code == code
            raw.close()
        await late.stop()
        raw = await Raw.client(tenant, "third")
        stack.callback(raw.close)
        assert raw.hello.properties["maximum_qos"] == 1
