"""What an idle connection costs. The full measure, with 5,000 connections, is in `make bench`."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

SERVER = """
import asyncio, sys
from pathlib import Path
from isthmus.net.listener import listen
from isthmus.net.reactor import Reactor
from isthmus.net.settings import ListenerSettings, TLSServerSettings

class Handler:
    __slots__ = ("link",)

    def __init__(self, link):
        self.link = link
        link.on_data = self.data
        link.on_close = self.closed

    def data(self, data):
        self.link.write(data)

    def closed(self, reason):
        pass

async def main():
    tls = TLSServerSettings(certificate=Path(sys.argv[1])) if len(sys.argv) > 1 else None
    listener = listen(Reactor(), ListenerSettings(bind="127.0.0.1:0", tls=tls), Handler)
    print(listener.address[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def resident_kib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


@pytest.mark.parametrize(("kind", "count", "limit_kib"), [("tcp", 800, 2.5), ("tls", 150, 28)])
def test_resident_memory_of_an_idle_link(pki, kind, count, limit_kib):
    arguments = [pki.server] if kind == "tls" else []
    command = [sys.executable, "-c", SERVER, *arguments]
    with ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        stack.callback(server.kill)
        port = int(server.stdout.readline())
        context = ssl.create_default_context(cafile=pki.ca)

        def connect(number):
            for _ in range(number):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
                if kind == "tls":
                    sock = stack.enter_context(
                        context.wrap_socket(sock, server_hostname="localhost")
                    )
                sock.sendall(b"x" * 60)
                assert sock.recv(100)

        connect(20)  # imports, arenas and the like
        before = resident_kib(server.pid)
        connect(count)
        assert (resident_kib(server.pid) - before) / count < limit_kib
