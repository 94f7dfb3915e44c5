"""The demonstration: a broker, a far side in the same process, and two routes between them."""

from __future__ import annotations

import socket

from isthmus.app.settings import Settings
from isthmus.web.settings import DEFAULT_HTTP_BIND

NEAR = "127.0.0.1:1883"
FAR = "127.0.0.1:1884"

TEXT = """\
Isthmus is running: a broker on {near}, and a far side on {far} that it is bridged to.

Try it, each line in a terminal of its own:

  isthmus sub -v --url {far} 'site-7/sensor/#'        # listen at the far side
  isthmus pub --url {near} sensor/1/temperature 37.5  # arrives there, below site-7/

  isthmus sub -v --url {near} 'control/#'             # listen here
  isthmus pub --url {far} control/valve/1 open        # arrives here

  isthmus status                                # what the near broker does
  isthmus top                                   # the same, live

Any MQTT client will do. What it counts, for Prometheus or a browser, is at

  http://{http}/metrics

Ctrl-C stops it.
"""


def elsewhere(wanted: str, found: str) -> str:
    """A line that says where a part of the demonstration went; empty if nothing was in its way."""
    return "" if wanted == found else f"{wanted} is taken, so it is {found} here.\n"


def free_address(wanted: str) -> str:
    """`wanted`, or the same host with a free port if something listens there already."""
    host, _, port = wanted.rpartition(":")
    with socket.socket() as probe:
        # As a listener does it, so that ports of connections that ended a moment ago count as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def demonstration(
    near: str = NEAR, far: str = FAR, http: str = DEFAULT_HTTP_BIND
) -> tuple[Settings, Settings]:
    """The far side's settings and the near side's, in the order in which they must start.

    The near side has the HTTP port.
    """
    far_side = Settings.model_validate({"node": "far", "listeners": [{"bind": far}], "http": None})
    near_side = Settings.model_validate(
        {
            "node": "site-7",
            "listeners": [{"bind": near}],
            "http": {"bind": http},
            "connectors": {"cloud": {"url": far}},
            "routes": {
                "telemetry": {
                    "from": "local",
                    "topics": ["sensor/#"],
                    "to": "cloud",
                    "topic": "${node}/${topic}",
                },
                "control": {"from": "cloud", "topics": ["control/#"], "to": "local"},
            },
        }
    )
    return far_side, near_side
