"""The systems that are measured: Isthmus, Mosquitto and the relay, each started with the same task.

Both brokers get the same password file and the same ACL file, and anonymous access is off.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import process, wire
from bench.client import PASSWORD, USERNAME, Target

ACL = f"user {USERNAME}\ntopic readwrite bench/#\ntopic readwrite t/#\ntopic read in/#\n"
READY_S = 15.0
SETTLE_S = 0.3  # from the bridge's CONNECT to its being in service


@dataclass(frozen=True, slots=True)
class Task:
    """What a system has to do in a run."""

    far_port: int = 0  # 0: no bridge
    steady_port: int = 0  # of another far end, which gets what is below STEADY; 0: none
    direction: str = "out"  # of the bridge: out | in
    qos: int = 1  # highest of the route
    version: int = 4  # of clients and bridge
    tls: bool = False  # a listener for the load that does TLS
    websocket: bool = False  # a listener for the load that does WebSocket
    far_websocket: bool = False
    packet_bytes: int = 0  # the relay has to be told
    topics: str = "bench"  # first level that goes out
    routes: int = 1
    routes_are: str = "different"  # see other_route
    pool: int = 1
    filters: int = 0  # that the bridge takes in, of its own
    hops: bool = True  # the loop guard of MQTT 5
    durability: str = ""  # of the route: disk (with a data folder) | memory | "" (as it is)
    pinned: bool = True  # to one core


STEADY = "t/steady"
"""The topics of a route beside that which is looked at."""


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def run_tool(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


class Files:
    """Temporary folder of one invocation: passwords, ACL, certificate, configurations, logs."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="isthmus-bench-"))
        atexit.register(self.remove)
        self.passwords = self.path / "passwords"
        self.acl = self.path / "acl"
        self.certificate, self.key = self.path / "server.pem", self.path / "server.key"
        self.acl.write_text(ACL)
        run_tool("mosquitto_passwd", "-b", "-c", str(self.passwords), USERNAME, PASSWORD)
        for file in (self.acl, self.passwords):
            file.chmod(0o644)

    def make_certificate(self) -> None:
        if self.certificate.exists():
            return
        names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
        run_tool(
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", names),
            *("-keyout", str(self.key), "-out", str(self.certificate)),
        )
        self.key.chmod(0o644)

    @property
    def data(self) -> Path:
        """The data folder of the process under test."""
        return self.path / "data"

    def remove_data(self) -> None:
        shutil.rmtree(self.data, ignore_errors=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class System:
    """A process under test, running."""

    name = ""
    goodbye = b"\xe0\0"  # DISCONNECT of the client that asks whether it is ready

    def __init__(self, files: Files, task: Task) -> None:
        self.files, self.task = files, task
        self.port = free_port()
        self.load_port = free_port() if task.tls or task.websocket else 0
        if task.tls:
            files.make_certificate()
        self.log = files.path / f"{self.name}.log"
        core = process.SUBJECT_CORE if task.pinned else None
        self.child = process.start(self.command(), core=core, log=self.log)
        try:
            self.wait_ready()
        except BaseException:
            process.stop(self.child)
            raise

    def command(self) -> list[str]:
        """Write the configuration; return the command line."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def target(self) -> Target:
        """What generators connect to."""
        task = self.task
        port = self.load_port or self.port
        return Target(port, task.version, tls=task.tls, websocket=task.websocket)

    def failure(self) -> str:
        """The last line that the process printed."""
        lines = (
            self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        )
        return lines[-1][-200:] if lines else "no output"

    def wait_ready(self) -> None:
        """Until a CONNECT with credentials is accepted."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise RuntimeError(
                    f"{self.name} ended with {self.child.returncode}: {self.failure()}"
                )
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=2) as sock:
                    sock.sendall(wire.connect("bench-ready", username=USERNAME, password=PASSWORD))
                    answer = sock.recv(4)
                    sock.sendall(self.goodbye)
                if answer == b"\x20\x02\0\0":
                    return
                raise RuntimeError(f"{self.name} refused CONNECT: {answer.hex()}: {self.failure()}")
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"{self.name} not ready in {READY_S:.0f} s: {self.failure()}")

    def stop(self) -> None:
        process.stop(self.child)


class Mosquitto(System):
    name = "mosquitto"
    program = (
        shutil.which("mosquitto", path=f"/usr/sbin:{os.environ.get('PATH', '')}") or "mosquitto"
    )

    def command(self) -> list[str]:
        task = self.task
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous false",
            f"password_file {self.files.passwords}",
            f"acl_file {self.files.acl}",
            "max_inflight_messages 1000",
            "max_queued_messages 0",
            "persistence false",
            "log_dest none",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # else it changes to a user that cannot read the files
        if self.load_port:
            lines.append(f"listener {self.load_port} 127.0.0.1")
        if task.websocket:
            lines.append("protocol websockets")
        if task.tls:
            lines += [f"certfile {self.files.certificate}", f"keyfile {self.files.key}"]
        if task.far_port:
            topic = f"topic # out {task.qos} {task.topics}/ fwd/{task.topics}/"
            if task.direction == "in":
                topic = f"topic # in {task.qos} in/ far/in/"
            lines += [
                "connection far",
                f"address 127.0.0.1:{task.far_port}",
                topic,
                "cleansession true",
                "notifications false",
                "restart_timeout 1",
                "remote_clientid bench-bridge",
                f"bridge_protocol_version {'mqttv50' if task.version == 5 else 'mqttv311'}",
            ]
        file = self.files.path / "mosquitto.conf"
        file.write_text("\n".join(lines) + "\n")
        return [self.program, "-c", str(file)]


class Isthmus(System):
    name = "isthmus"
    python = sys.executable

    def command(self) -> list[str]:
        task = self.task
        listeners: list[dict[str, Any]] = [{"bind": f"127.0.0.1:{self.port}"}]
        if self.load_port:
            own: dict[str, Any] = {"bind": f"127.0.0.1:{self.load_port}"}
            if task.tls:
                own["tls"] = {
                    "certificate": str(self.files.certificate),
                    "key": str(self.files.key),
                }
            if task.websocket:
                own["transport"] = "websocket"
            listeners.append(own)
        settings: dict[str, Any] = {
            "node": "bench",
            "listeners": listeners,
            "broker": {"max_inflight": 1000},  # as Mosquitto's max_inflight_messages
            "auth": {
                "allow_anonymous": False,
                "password_file": str(self.files.passwords),
                "acl_file": str(self.files.acl),
            },
            "http": None,
        }
        if task.durability == "disk":
            settings["broker"]["data"] = str(self.files.data)
        if task.far_port:
            scheme = "ws" if task.far_websocket else "mqtt"
            settings["connectors"] = {
                "far": {
                    "url": f"{scheme}://127.0.0.1:{task.far_port}",
                    "version": "5" if task.version == 5 else "3.1.1",
                    "username": "bridge",
                    "password": "bridge",
                    "reconnect": {"max": "1s"},  # as Mosquitto's restart_timeout
                }
                | ({"pool": task.pool} if task.pool > 1 else {"client_id": "bench-bridge"})
            }
            settings["routes"] = self.routes()
        if task.steady_port:
            far = settings["connectors"]["far"]
            url = f"mqtt://127.0.0.1:{task.steady_port}"
            settings["connectors"]["steady"] = {**far, "url": url, "client_id": "bench-steady"}
            route = settings["routes"]["bench"]
            settings["routes"]["steady"] = {**route, "to": "steady", "topics": [f"{STEADY}/#"]}
        file = self.files.path / "isthmus.yaml"
        file.write_text(json.dumps(settings, indent=1))  # JSON is YAML
        return [self.python, "-m", "isthmus", "run", str(file)]

    def routes(self) -> dict[str, Any]:
        """The route of the load, and those beside it."""
        task = self.task
        route: dict[str, Any] = {"from": "local", "to": "far", "prepend": "fwd/"}
        route["topics"] = [f"{task.topics}/#"]
        if task.direction == "in":
            topics = [f"far/in/{i:05}/+" for i in range(task.filters)] or ["far/in/#"]
            route = {"from": "far", "to": "local", "topics": topics, "strip": "far/"}
        if task.durability:
            route |= {"durability": task.durability, "queue": {"max_bytes": "4GiB"}}
        if not task.hops:
            route["loop_guard"] = {"hops": False}
        others = {
            f"other-{i}": other_route(route, task.routes_are, i) for i in range(1, task.routes)
        }
        # in the middle: the load's route is neither the first nor the last that is looked at
        names = sorted(others)
        half = len(names) // 2
        return (
            {name: others[name] for name in names[:half]}
            | {"bench": route}
            | {name: others[name] for name in names[half:]}
        )


def other_route(route: dict[str, Any], kind: str, number: int) -> dict[str, Any]:
    """One of the routes beside that of the load.

    `different`: a filter of its own that matches nothing of the load, with wildcards on the levels
    of the load's topics; `alike`: the same filter and the same result, so that a message still goes
    out once; `copies`: the same filter and another prefix, so that a message goes out by each.
    """
    match kind:
        case "different":
            filters = ("bench/x{}/#", "bench/+/x{}", "+/x{}/+", "plant/{}/state")
            return route | {"topics": [filters[number % len(filters)].format(number)]}
        case "alike":
            return dict(route)
        case "copies":
            return route | {"prepend": f"copy-{number:03}/"}
    raise ValueError(kind)


class Relay(System):
    name = "relay"
    goodbye = b""  # it would be relayed

    def command(self) -> list[str]:
        task = self.task
        words = (self.port, task.far_port, task.packet_bytes, task.qos)
        return [sys.executable, "-m", "bench.relay", *map(str, words)]


SYSTEMS: dict[str, type[System]] = {system.name: system for system in (Isthmus, Mosquitto, Relay)}
