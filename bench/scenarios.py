"""What is measured, with which load, and the bars that Isthmus has to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal[
    "out",
    "in",
    "latency",
    "latency-in",
    "idle",
    "footprint",
    "churn",
    "fanout",
    "light",
    "subscribe",
    "outbox",
    "start",
    "beside",
]


@dataclass(frozen=True, slots=True)
class Bar:
    """A limit on one figure of Isthmus.

    `ratio`: at most `value` times Mosquitto's median; `baseline`: at most `value` times the own
    median of the scenario named in `of`; `most` and `least`: an absolute limit.
    """

    figure: str
    kind: Literal["ratio", "baseline", "most", "least"]
    value: float
    of: str = ""

    def __str__(self) -> str:
        if self.kind == "ratio":
            return f"<= {self.value:g} x Mosquitto"
        if self.kind == "baseline":
            return f"<= {self.value:g} x {self.of}"
        return f"{'<=' if self.kind == 'most' else '>='} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    title: str
    kind: Kind
    messages: int
    qos: int = 0
    window: int = 100
    payload: int = 64
    topics: int = 100
    version: int = 4
    properties: int = 0
    connections: int = 1
    tls: bool = False
    rate: int = 0  # messages per second; 0: as fast as possible
    changes: float = 0  # subscription changes per second
    subscribers: int = 0
    shared: bool = False  # the subscribers take turns
    websocket: bool = False  # of the publisher
    far_websocket: bool = False
    routes: int = 1
    routes_are: Literal["different", "alike", "copies"] = "different"  # see systems.other_route
    pool: int = 1  # connections of the bridge
    hops: bool = True  # the loop guard of MQTT 5
    bars: tuple[Bar, ...] = ()
    durability: Literal["", "disk", "memory"] = ""  # of the route; see systems.Task
    ack_delay_ms: float = 0.0  # of the far end
    far_down: bool = False
    steady: bool = False  # another route has the same load, and its far end is always up
    syncs: int = 0  # of another process, per second
    beside: str = ""  # measured in turns with that one, and shown against it
    relay: bool = False  # the lower limit is measured too
    alone: bool = False  # Mosquitto cannot do it, or nothing is learned from it
    once: bool = False  # one run is enough, and takes long
    times: int = 1  # runs for each run of others: short ones with a bar vary most

    @property
    def baseline(self) -> str:
        """The scenario that this one is compared with, "" for none."""
        return self.beside or next((bar.of for bar in self.bars if bar.kind == "baseline"), "")

    @property
    def copies(self) -> int:
        """How many messages arrive for each one that is published."""
        if self.kind == "fanout":
            return 1 if self.shared else self.subscribers
        return self.routes if self.routes_are == "copies" else 1

    def quick(self) -> Scenario:
        """The same in seconds: a tenth of the messages, figures with little weight."""
        least = {"idle": 500, "light": 100, "footprint": 3}.get(self.kind, 1000)
        if self.kind.startswith("latency"):
            least = 500
        if self.kind == "subscribe":
            least = self.messages  # it is short, and its bar an absolute one
        return replace(self, messages=max(self.messages // 10, least // self.copies))


def cpu_ratio(value: float) -> tuple[Bar, ...]:
    return (Bar("cpu_us", "ratio", value),)


_CHURN = Scenario(
    "churn-0",
    "10,000 live topics, QoS 0 at 100,000 messages/s, no subscription changes",
    "churn",
    600_000,
    topics=10_000,
    rate=100_000,
    times=2,
)

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("qos0", "QoS 0", "out", 600_000, bars=cpu_ratio(0.25), relay=True, times=2),
    Scenario(
        "qos1", "QoS 1, window 100", "out", 300_000, qos=1, bars=cpu_ratio(0.2), relay=True, times=2
    ),
    Scenario(
        "qos1-500x1",
        "500 publishers, one QoS 1 message in flight each",
        "out",
        150_000,
        qos=1,
        window=1,
        connections=500,
        bars=cpu_ratio(0.85),
        times=2,
        relay=True,
    ),
    Scenario(
        "latency",
        "one QoS 1 message at a time",
        "latency",
        5_000,
        qos=1,
        bars=(Bar("arrival_p50_us", "ratio", 1.3), Bar("puback_p50_us", "ratio", 1.7)),
        times=4,
    ),
    Scenario("in-qos0", "inbound, QoS 0", "in", 600_000, bars=cpu_ratio(0.25), times=2),
    Scenario(
        "in-qos1", "inbound, QoS 1, window 100", "in", 300_000, qos=1, bars=cpu_ratio(0.2), times=2
    ),
    Scenario(
        "in-qos1-500x1",
        "inbound, QoS 1, 500 subscribers, one message in flight each",
        "in",
        150_000,
        qos=1,
        window=500,
        topics=500,
        connections=500,
        bars=cpu_ratio(0.85),
        times=2,
    ),
    Scenario(
        "in-latency",
        "inbound, one QoS 1 message at a time",
        "latency-in",
        5_000,
        qos=1,
        bars=(Bar("arrival_p50_us", "ratio", 1.3), Bar("puback_p50_us", "ratio", 1.7)),
        times=4,
    ),
    Scenario(
        "footprint",
        "one idle bridge for 10 s",
        "footprint",
        10,
        bars=(
            Bar("rss_mib", "most", 48),
            Bar("ready_s", "most", 1),
            Bar("idle_cpu_percent", "most", 0.5),
        ),
    ),
    Scenario(
        "idle-tcp",
        "5,000 idle TCP connections",
        "idle",
        5_000,
        bars=(Bar("kib_per_connection", "most", 6), Bar("connects_per_s", "least", 3000)),
    ),
    Scenario(
        "idle-tls",
        "5,000 idle TLS connections",
        "idle",
        5_000,
        tls=True,
        bars=(Bar("kib_per_connection", "most", 28),),
    ),
    _CHURN,
    replace(
        _CHURN,
        name="churn-50",
        title="the same with 50 subscription changes/s",
        changes=50,
        bars=(Bar("cpu_us", "baseline", 1.2, "churn-0"),),
    ),
    replace(
        _CHURN,
        name="churn-1500",
        title="the same with 1,500 subscription changes/s",
        changes=1500,
        bars=(Bar("cpu_us", "baseline", 2.0, "churn-0"),),
    ),
    Scenario(
        "light",
        "a light QoS 1 client beside a QoS 0 flood",
        "light",
        500,
        bars=(Bar("puback_p99_us", "most", 50_000),),
        times=2,
    ),
    Scenario("qos2", "QoS 2, window 100", "out", 100_000, qos=2),
    Scenario("qos0-1k", "QoS 0, 1 KiB", "out", 200_000, payload=1024),
    Scenario("qos1-1k", "QoS 1, window 100, 1 KiB", "out", 150_000, qos=1, payload=1024),
    Scenario("qos0-64k", "QoS 0, 64 KiB", "out", 8_000, payload=65536),
    Scenario("qos1-64k", "QoS 1, window 20, 64 KiB", "out", 8_000, qos=1, window=20, payload=65536),
    Scenario(
        "v5-qos0", "MQTT 5, five user properties, QoS 0", "out", 300_000, version=5, properties=5
    ),
    Scenario(
        "v5-qos1",
        "MQTT 5, five user properties, QoS 1, window 100",
        "out",
        200_000,
        qos=1,
        version=5,
        properties=5,
    ),
    Scenario(
        "fanout",
        "QoS 1 in, QoS 0 to 100 subscribers (per delivery)",
        "fanout",
        20_000,
        qos=1,
        subscribers=100,
    ),
    Scenario(
        "shared",
        "QoS 1 to a shared subscription of 10 subscribers, MQTT 5",
        "fanout",
        100_000,
        qos=1,
        version=5,
        subscribers=10,
        shared=True,
    ),
    Scenario("tls-qos1", "TLS publisher, QoS 1, window 100", "out", 200_000, qos=1, tls=True),
    Scenario(
        "ws-qos1", "WebSocket publisher, QoS 1, window 100", "out", 200_000, qos=1, websocket=True
    ),
    Scenario(
        "ws-far-qos1",
        "bridge over WebSocket, QoS 1, window 100 (Mosquitto's bridge has none)",
        "out",
        200_000,
        qos=1,
        far_websocket=True,
        alone=True,
    ),
    Scenario(
        "routes-different",
        "1,000 routes with different filters of which one matches, QoS 1",
        "out",
        300_000,
        qos=1,
        routes=1_000,
        alone=True,
        bars=(Bar("cpu_us", "baseline", 1.2, "qos1"),),
    ),
    Scenario(
        "routes-alike",
        "1,000 routes under one wildcard source filter with one result, QoS 1",
        "out",
        300_000,
        qos=1,
        routes=1_000,
        routes_are="alike",
        alone=True,
        bars=(Bar("cpu_us", "baseline", 1.2, "qos1"),),
    ),
    Scenario(
        "routes-copies",
        "1,000 routes under one wildcard source filter with 1,000 results, QoS 0 (per delivery)",
        "out",
        1_000,
        routes=1_000,
        routes_are="copies",
        topics=10,
        alone=True,
        bars=(Bar("cpu_us", "baseline", 1.2, "qos0"),),
    ),
    Scenario(
        "subscribe",
        "16 connections subscribe 2,000 filters each; 20 ms for a SUBACK, one after the other",
        "subscribe",
        32_000,
        pool=16,
        alone=True,
        bars=(Bar("subscribe_s", "most", 5),),
    ),
    Scenario(
        "hops-off",
        "MQTT 5, QoS 1, window 100, no loop guard",
        "out",
        200_000,
        qos=1,
        version=5,
        hops=False,
    ),
    Scenario(
        "hops-on",
        "the same with the loop guard, as it is by default",
        "out",
        200_000,
        qos=1,
        version=5,
        beside="hops-off",
        alone=True,
    ),
    Scenario(
        "memory-qos1",
        "QoS 1, window 100, durability: memory",
        "out",
        300_000,
        qos=1,
        durability="memory",
        alone=True,
        times=2,
    ),
    Scenario(
        "disk-qos1",
        "the same with durability: disk and a data folder, the far side keeps up",
        "out",
        300_000,
        qos=1,
        durability="disk",
        alone=True,
        bars=(
            Bar("cpu_us", "baseline", 1.25, "memory-qos1"),
            Bar("written_kib", "most", 0),
        ),
        times=2,
    ),
    Scenario(
        "disk-qos1-60ms",
        "the same, the far side acknowledges after 60 ms",
        "out",
        100_000,
        qos=1,
        durability="disk",
        ack_delay_ms=60,
        window=1000,
        alone=True,
        beside="memory-qos1",
    ),
    Scenario(
        "outbox",
        "QoS 1, window 1000, durability: disk, the far side is down; then it is there",
        "outbox",
        1_000_000,
        qos=1,
        window=1000,
        durability="disk",
        alone=True,
        bars=(
            Bar("cpu_us", "most", 3),
            Bar("stored_per_s", "least", 200_000),
            Bar("drained_per_s", "least", 150_000),
        ),
    ),
    Scenario(
        "outbox-20",
        "the same, window 20, which publishers often have",
        "outbox",
        200_000,
        qos=1,
        window=20,
        durability="disk",
        alone=True,
    ),
    Scenario(
        "beside-up",
        "a client whose messages go nowhere else, beside QoS 1 at 5,000/s over each of two routes",
        "beside",
        1_000,
        qos=1,
        window=1000,
        rate=5_000,
        durability="disk",
        steady=True,
        alone=True,
        times=4,
    ),
    Scenario(
        "beside-disk",
        "the same, and another process writes 40 kB to the disk, 50 times a second",
        "beside",
        1_000,
        qos=1,
        window=1000,
        rate=5_000,
        durability="disk",
        steady=True,
        syncs=50,
        alone=True,
        beside="beside-up",
        times=4,
    ),
    Scenario(
        "beside-down",
        "the same without that process, the far side of one route is down",
        "beside",
        1_000,
        qos=1,
        window=1000,
        rate=5_000,
        durability="disk",
        far_down=True,
        steady=True,
        alone=True,
        bars=(Bar("puback_p99_us", "baseline", 1.2, "beside-up"),),
        times=4,
    ),
    Scenario(
        "beside-only",
        "the same, and there is no other route",
        "beside",
        1_000,
        qos=1,
        window=1000,
        rate=5_000,
        durability="disk",
        far_down=True,
        alone=True,
        beside="beside-up",
        times=4,
    ),
    Scenario(
        "beside-up-1000",
        "beside-up with 1,000/s over each of the routes",
        "beside",
        1_000,
        qos=1,
        window=1000,
        rate=1_000,
        durability="disk",
        steady=True,
        alone=True,
        times=4,
    ),
    Scenario(
        "beside-down-1000",
        "the same, the far side of one route is down",
        "beside",
        1_000,
        qos=1,
        window=1000,
        rate=1_000,
        durability="disk",
        far_down=True,
        steady=True,
        alone=True,
        bars=(Bar("puback_p99_us", "baseline", 1.2, "beside-up-1000"),),
        times=4,
    ),
    Scenario(
        "start",
        "a start with 5,000,000 messages on disk",
        "start",
        5_000_000,
        qos=1,
        window=1000,
        durability="disk",
        alone=True,
        once=True,
        bars=(
            Bar("ready_s", "most", 2),
            Bar("killed_ready_s", "most", 2),
            Bar("rss_mib", "most", 200),
        ),
    ),
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
