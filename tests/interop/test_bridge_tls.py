"""TLS of bridges: the `bridge_...` lines of `mosquitto.conf` towards a real Mosquitto, and the same
lines of a real Mosquitto towards Isthmus.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bridge_kinds import mosquitto

from isthmus.app.mosquitto.loading import load
from mosquitto import free_port
from raw import until

BRIDGE = "connection cloud\naddress localhost:{port}\ntopic a/# both 1\nrestart_timeout 1\n"

LINES = {
    "authority": "bridge_cafile {ca}\n",
    "folder": "bridge_capath {folder}\n",
    "any name": "bridge_cafile {ca}\nbridge_insecure true\n",
    "TLS 1.3": "bridge_cafile {ca}\nbridge_tls_version tlsv1.3\n",
    "protocol": "bridge_cafile {ca}\nbridge_alpn mqtt\n",
}
REFUSED = {
    "no certificate": ("bridge_cafile {ca}\n", "requires a certificate"),
    "unknown authority": ("bridge_cafile {stranger_ca}\n{login}", "authority that is not trusted"),
    "wrong name": ("bridge_cafile {ca}\n{login}", "for another host name"),
    "certificate of a stranger": (
        "bridge_cafile {ca}\nbridge_certfile {stranger}\nbridge_keyfile {stranger}\n",
        "does not trust the authority of our certificate",
    ),
}
"""The lines, and what the status says."""


@pytest.fixture
def files(certificates: SimpleNamespace, tmp_path: Path) -> dict[str, str]:
    """What the lines are filled in with; `folder` holds the authority under its hash."""
    folder = tmp_path / "authorities"
    folder.mkdir()
    shutil.copy(certificates.ca, folder / "ca.pem")
    subprocess.run(["openssl", "rehash", str(folder)], check=True)
    found = {key: str(value) for key, value in vars(certificates).items()}
    login = f"bridge_certfile {certificates.client}\nbridge_keyfile {certificates.client}\n"
    return found | {"folder": str(folder), "login": login}


def listener(files: dict[str, str], certificate: str = "server") -> list[str]:
    """The lines of a listener that wants certificates and takes the user name from them."""
    return [
        f"cafile {files['ca']}",
        f"certfile {files[certificate]}",
        f"keyfile {files[certificate]}",
        "require_certificate true",
        "use_identity_as_username true",
        "allow_anonymous false",
    ]


@pytest.mark.parametrize("name", LINES)
async def test_a_real_mosquitto_takes_the_bridge_and_its_certificate(
    name: str, files: dict[str, str], isthmus: Any, peers: Any, tmp_path: Path
) -> None:
    certificate = "elsewhere" if name == "any name" else "server"
    far = await mosquitto(peers, tmp_path, *listener(files, certificate))
    text = (BRIDGE + LINES[name] + "{login}").format(port=far.port, **files)
    (tmp_path / "isthmus.conf").write_text(text)
    near = await isthmus(load(tmp_path / "isthmus.conf", ports=[free_port()]).settings)
    await near.connected()
    await until(lambda: "u'edge-7'" in far.log.read_text())


@pytest.mark.parametrize("name", REFUSED)
async def test_nothing_is_said_to_the_wrong_one(
    name: str, files: dict[str, str], isthmus: Any, peers: Any, tmp_path: Path
) -> None:
    certificate = "elsewhere" if name == "wrong name" else "server"
    far = await mosquitto(peers, tmp_path, *listener(files, certificate))
    lines, reason = REFUSED[name]
    text = (BRIDGE + lines).format(port=far.port, **files)
    (tmp_path / "isthmus.conf").write_text(text)
    near = await isthmus(load(tmp_path / "isthmus.conf", ports=[free_port()]).settings)
    await until(lambda: near.status()["state"] == "waiting")
    assert reason in near.status()["reason"]
    assert "New client connected" not in far.log.read_text()


@pytest.mark.parametrize("name", LINES)
async def test_a_bridge_of_mosquitto_is_taken_with_its_certificate(
    name: str, files: dict[str, str], isthmus: Any, peers: Any, tmp_path: Path
) -> None:
    port = free_port()
    certificate = "elsewhere" if name == "any name" else "server"
    text = "\n".join([f"listener {port} 127.0.0.1", *listener(files, certificate)])
    (tmp_path / "isthmus.conf").write_text(text)
    far = await isthmus(load(tmp_path / "isthmus.conf").settings)
    lines = (BRIDGE + "remote_clientid edge\n" + LINES[name] + "{login}").format(port=port, **files)
    await mosquitto(peers, tmp_path, *lines.splitlines())
    sessions = far.app.broker.sessions
    await until(lambda: "edge" in sessions and sessions["edge"].subscriptions)
    assert sessions["edge"].principal.username == "edge-7"
