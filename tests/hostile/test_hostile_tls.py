"""TLS: peers that are not who they say, and peers that make us work."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import socket
import ssl
from types import SimpleNamespace

import pytest
import trustme
from victim import flat

from mosquitto import free_port
from raw import CONNECT, FarSide, Raw, until, within

TLS_PORT = free_port()

YESTERDAY = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)

NAME = "example.com"
"""Whom the connectors want to speak to."""

FAR = {
    "good": (free_port(), {}),
    "misnamed": (free_port(), {"names": ["elsewhere.test"]}),
    "expired": (free_port(), {"not_after": YESTERDAY}),
    "untrusted": (free_port(), {}),
    "topstar": (free_port(), {"names": ["*.com"]}),
    "innername": (free_port(), {"names": ["example.com.evil.test"]}),
    "commonname": (free_port(), {"names": ["elsewhere.test"], "common_name": NAME}),
}
"""Connectors: the port of their far side, and what its certificate is like."""

PKI = SimpleNamespace(folder=None)


def configuration(folder):
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, (_, how) in FAR.items():
        how = dict(how)
        by = stranger if name == "untrusted" else authority
        names = how.pop("names", [NAME])
        certificate = by.issue_cert(*names, **how)
        certificate.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{name}.pem"))
    server = authority.issue_cert("localhost", "127.0.0.1")
    server.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    PKI.folder = folder
    return {
        "listeners": [
            {"bind": f"127.0.0.1:{free_port()}"},
            {"bind": f"127.0.0.1:{TLS_PORT}", "tls": {"certificate": str(folder / "server.pem")}},
        ],
        "connectors": {
            name: {
                "url": f"mqtts://127.0.0.1:{port}",
                "tls": {"ca": str(folder / "ca.pem"), "server_name": NAME},
                "reconnect": {"min": "20ms", "max": "100ms"},
            }
            for name, (port, _) in FAR.items()
        },
        "routes": {
            name: {"from": "local", "topics": ["out/#"], "to": name} for name in FAR
        },
    }  # fmt: skip


class Shop:
    """A TLS server; `hellos` are the first bytes behind each handshake that both sides liked."""

    def __init__(self, name: str) -> None:
        self.tried = 0
        self.hellos: list[bytes] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(PKI.folder / f"{name}.pem")

    async def serve(self, port: int, seconds: float) -> None:
        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.tried += 1
            try:
                await writer.start_tls(self.context)
                self.hellos.append(await reader.read(100))
            except (OSError, ssl.SSLError):
                pass
            finally:
                writer.close()

        async with await asyncio.start_server(plain, "127.0.0.1", port):
            await until(lambda: self.tried >= 3, seconds)


@pytest.mark.parametrize("name", [name for name in FAR if name != "good"])
async def test_cve_2019_11777_a_far_side_with_a_wrong_certificate(victim, name):
    """CVE-2019-11777: wrong name, expired, another authority, `*.com`, a name in the CN only."""
    shop = Shop(name)
    await shop.serve(FAR[name][0], 8)
    assert not any(shop.hellos), "a CONNECT, and with it the password, went to a stranger"
    await until(lambda: f"connector {name}" in victim.log and "tls" in victim.log)


async def test_cve_2019_11777_the_right_one_is_spoken_to(victim):
    """CVE-2019-11777: the others were refused for what they are, and not because nothing works."""
    side = FarSide()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PKI.folder / "good.pem")
    server = await asyncio.start_server(side._accept, "127.0.0.1", FAR["good"][0], ssl=context)
    there = await side.accept()
    assert (await there.expect(CONNECT)).kind == CONNECT
    server.close()
    await side.stop()


async def s_client(*arguments: str) -> asyncio.subprocess.Process:
    """`openssl s_client` with a handshake done."""
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-connect", f"127.0.0.1:{TLS_PORT}", *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    await within(process.stdout.readuntil(b"Verify return code"))
    return process


async def test_cve_2026_39304_key_updates_without_end(victim, served):
    """CVE-2026-39304: a flood of TLS 1.3 KeyUpdate, each asking for one back."""

    async def attack() -> None:
        process = await s_client("-tls1_3")
        for _ in range(150):
            process.stdin.write(b"K\n")
            await process.stdin.drain()
            await asyncio.sleep(0.001)
        assert served() < 1
        process.stdin.write(b"Q\n")
        out = await within(process.stdout.read())
        await process.wait()
        assert out.count(b"KEYUPDATE") > 20

    await flat(victim, attack, times=2)


async def test_cve_2026_39304_renegotiation_is_refused(victim, served):
    """CVE-2026-39304: with TLS 1.2 a client could ask for one handshake after another."""
    process = await s_client("-tls1_2")
    process.stdin.write(b"R\n")
    out = await within(process.stdout.read())
    assert b"no renegotiation" in out
    await process.wait()
    assert served() < 1


async def test_cve_2026_39304_handshakes_that_go_nowhere(victim, served):
    """CVE-2026-39304: begun and left, garbage, half a record; closed, or left to their deadline.

    The deadline is tested in tests/net/test_listener.py.
    """
    context = ssl.create_default_context(cafile=PKI.folder / "ca.pem")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    first = outgoing.read()

    async def attack() -> None:
        for data in (first, first[:20], first + os.urandom(3000), b"\x16\x03\x01\xff\xff" * 100):
            raw = await Raw.open(TLS_PORT)
            raw.send(data)
            raw.send(b"\x15\x03\x03\x00\x02\x02\x28")
            await raw.writer.drain()
            raw.reset()

    await flat(victim, attack)
    assert served() < 1


async def test_silent_tls_peers_cost_little(victim):
    """slowloris: 200 connections to the TLS port that say nothing."""
    before = victim.rss_kib
    idle = [socket.create_connection(("127.0.0.1", TLS_PORT)) for _ in range(200)]
    await asyncio.sleep(0.3)
    start = victim.cpu_s
    await asyncio.sleep(0.5)
    # Eight connectors look for their far sides meanwhile.
    assert victim.cpu_s - start < 0.15
    assert victim.rss_kib - before < 2 * 1024
    for sock in idle:
        sock.close()
