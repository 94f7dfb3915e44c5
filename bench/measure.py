"""One run of one scenario against one system: start all processes, load, read the counters, stop
all.

A run in which not everything arrived that had to is an error (`RunError`), not a figure.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from bench import progress, wire
from bench.process import CORES, Generator, cpu_seconds, rss_kib, written_kib
from bench.scenarios import Scenario
from bench.systems import SETTLE_S, STEADY, Files, System, Task, free_port

Figures = dict[str, float]
TIMEOUT_S = 120.0
COLLECT_S = 0.0002  # generators look at their sockets that often; see stream.Loop
STALL_S = 3.0  # without a message: nothing more will come
BURST_BYTES = 2 << 20  # of a QoS 0 load under way; see progress.py
BURST_LEAST = 50  # messages, of big ones
SUBACK_S = 0.02  # of a far end that takes its time
SETTLE_IDLE_S = 2.0
SYNCED_BYTES = 40_000  # what a commit of 100 messages of 64 bytes writes, about


class RunError(Exception):
    """A run that does not count."""


class Bench:
    """The processes of one run; closing it ends them."""

    def __init__(self, files: Files, system: type[System], scenario: Scenario) -> None:
        self.files, self.kind, self.scenario = files, system, scenario
        files.remove_data()
        self.generators: list[Generator] = []
        self.subject: System | None = None
        # Nothing tells a QoS 0 publisher how fast it may be: with this both sides deliver all.
        self.arrivals, self.burst = "", 0
        if scenario.qos == 0:
            self.arrivals = progress.make(files.path / "progress")
            size = message_bytes(scenario) * scenario.copies
            self.burst = max(BURST_BYTES // size, BURST_LEAST) * scenario.copies

    def generator(self, module: str, **options: Any) -> Generator:
        generator = Generator(module, **options)
        self.generators.append(generator)
        return generator

    def far(self, port: int = 0) -> Generator:
        """The far end of a load that goes out or in."""
        scenario = self.scenario
        return self.generator(
            "far",
            collect_s=COLLECT_S,
            over_websocket=scenario.far_websocket,
            progress="" if scenario.kind == "in" else self.arrivals,
            port=port,
            ack_delay_s=scenario.ack_delay_ms / 1000,
        )

    def start(self, far_port: int = 0, *, direction: str = "out", steady_port: int = 0) -> System:
        scenario = self.scenario
        task = Task(
            far_port=far_port,
            steady_port=steady_port,
            direction=direction,
            qos=max(scenario.qos, 1) if self.kind.name != "relay" else scenario.qos,
            version=scenario.version,
            tls=scenario.tls,
            websocket=scenario.websocket,
            far_websocket=scenario.far_websocket,
            packet_bytes=message_bytes(scenario),
            routes=scenario.routes,
            routes_are=scenario.routes_are,
            pool=scenario.pool,
            filters=scenario.messages if scenario.kind == "subscribe" else 0,
            hops=scenario.hops,
            durability=scenario.durability,
            pinned=scenario.kind != "beside",
        )
        self.subject = self.kind(self.files, task)
        return self.subject

    def publisher(self, **changes: Any) -> Generator:
        assert self.subject is not None
        scenario = self.scenario
        options = {
            "target": asdict(self.subject.target),
            "qos": scenario.qos,
            "window": scenario.window,
            "payload": scenario.payload,
            "topics": scenario.topics,
            "properties": scenario.properties,
            "connections": scenario.connections,
            "prefix": "bench",
            "collect_s": COLLECT_S,
            "progress": self.arrivals,
            "burst": self.burst,
            "copies": scenario.copies,
        }
        return self.generator("publisher", **(options | changes))

    def subscriber(
        self,
        topic_filter: str,
        *,
        qos: int,
        connections: int = 1,
        own_topics: bool = False,
        collect_s: float = COLLECT_S,
    ) -> Generator:
        assert self.subject is not None
        return self.generator(
            "subscriber",
            target=asdict(self.subject.target),
            filter=topic_filter,
            qos=qos,
            connections=connections,
            own_topics=own_topics,
            collect_s=collect_s,
            progress=self.arrivals if self.scenario.kind == "in" else "",
        )

    def close(self) -> None:
        for generator in self.generators:
            generator.stop()
        if self.subject is not None:
            self.subject.stop()


def message_bytes(scenario: Scenario) -> int:
    """Size of one PUBLISH of the load on the wire."""
    topic = wire.topics(b"bench", 1)[0]
    properties = wire.user_properties(scenario.properties)
    return len(
        wire.publish(
            topic,
            bytes(scenario.payload),
            qos=scenario.qos,
            packet_id=1,
            version=scenario.version,
            properties=properties,
        )
    )


@contextmanager
def opened(files: Files, system: type[System], scenario: Scenario) -> Iterator[Bench]:
    bench = Bench(files, system, scenario)
    try:
        yield bench
    finally:
        bench.close()


def wait_for_bridge(far: Generator, *, subscribed: bool) -> None:
    """Until the bridge has connected (inbound: subscribed) and had a moment to settle."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        state = far.ask(do="status")
        if state["filters"] if subscribed else state["connects"]:
            time.sleep(SETTLE_S)
            return
        time.sleep(0.05)
    raise RunError("the bridge did not connect to the far end in 20 s")


def figures(
    wanted: int, delivered: int, *, cpu_s: float, seconds: float, generators_s: float
) -> Figures:
    """Per message that arrived; RunError when fewer or more arrived than had to."""
    if delivered != wanted:
        raise RunError(f"{delivered:,} messages arrived, {wanted:,} had to")
    return {
        "cpu_us": cpu_s / delivered * 1e6,
        "messages_per_s": delivered / seconds,
        "load": cpu_s / seconds,
        "generator_us": generators_s / delivered * 1e6,
        "delivered": delivered,
    }


def outward(bench: Bench) -> Figures:
    """Publishers -> broker -> route with a prefix -> far end."""
    scenario = bench.scenario
    far = bench.far()
    subject = bench.start(far.hello["port"])
    wait_for_bridge(far, subscribed=False)
    publisher = bench.publisher()
    received = 0

    def load(total: int) -> Figures:
        nonlocal received
        arriving = total * scenario.copies
        wanted = received + arriving
        far_cpu = far.ask(do="status")["cpu_s"]
        cpu, start = cpu_seconds(subject.pid), time.monotonic()
        written = written_kib(subject.pid)
        far.send(do="wait", count=wanted, timeout=TIMEOUT_S, stall=STALL_S)
        sent = publisher.ask(TIMEOUT_S, total=total, timeout=TIMEOUT_S, rate=scenario.rate)
        state = far.answer(TIMEOUT_S)
        cpu, seconds = cpu_seconds(subject.pid) - cpu, time.monotonic() - start
        delivered = state["received"] - received
        received = state["received"]
        generators_s = sent["cpu_s"] + state["cpu_s"] - far_cpu
        found = figures(arriving, delivered, cpu_s=cpu, seconds=seconds, generators_s=generators_s)
        if scenario.durability == "disk":
            found["written_kib"] = written_kib(subject.pid) - written
        return found

    # warm-up: caches, buffers, congestion windows
    load(max(scenario.messages // 10, scenario.connections))
    return load(scenario.messages)


def inward(bench: Bench) -> Figures:
    """Far broker -> bridge -> local subscriber."""
    scenario = bench.scenario
    far = bench.far()
    subject = bench.start(far.hello["port"], direction="in")
    if scenario.connections == 1:
        subscriber = bench.subscriber("in/#", qos=scenario.qos)
    else:
        count = scenario.connections
        subscriber = bench.subscriber("in", qos=scenario.qos, connections=count, own_topics=True)
    wait_for_bridge(far, subscribed=True)

    received = 0

    def load(total: int) -> Figures:
        nonlocal received
        cpu, start = cpu_seconds(subject.pid), time.monotonic()
        subscriber.send(do="wait", count=received + total, timeout=TIMEOUT_S, stall=STALL_S)
        sent = far.ask(
            TIMEOUT_S,
            do="publish",
            total=total,
            qos=scenario.qos,
            window=scenario.window,
            payload=scenario.payload,
            topics=scenario.topics,
            properties=scenario.properties,
            prefix="far/in",
            timeout=TIMEOUT_S,
            burst=bench.burst,
            progress=bench.arrivals,
        )
        got = subscriber.answer(TIMEOUT_S)
        cpu, seconds = cpu_seconds(subject.pid) - cpu, time.monotonic() - start
        delivered = got["received"] - received
        received = got["received"]
        generators_s = sent["order_cpu_s"] + got["cpu_s"]
        return figures(total, delivered, cpu_s=cpu, seconds=seconds, generators_s=generators_s)

    load(scenario.messages // 10)
    return load(scenario.messages)


def churn(bench: Bench) -> Figures:
    """A paced load over many topics beside a client that subscribes and unsubscribes."""
    scenario = bench.scenario
    far = bench.far()
    subject = bench.start(far.hello["port"])
    wait_for_bridge(far, subscribed=False)
    publisher = bench.publisher()
    churner = bench.subscriber("bench/reply/none", qos=0, collect_s=0.0)
    publisher.ask(TIMEOUT_S, total=2 * scenario.topics, timeout=TIMEOUT_S, rate=scenario.rate)
    warm = far.ask(TIMEOUT_S, do="wait", count=2 * scenario.topics, timeout=20, stall=STALL_S)
    seconds = scenario.messages / scenario.rate
    cpu, start = cpu_seconds(subject.pid), time.monotonic()
    churner.send(do="churn", rate=scenario.changes, seconds=seconds)
    sent = publisher.ask(TIMEOUT_S, total=scenario.messages, timeout=TIMEOUT_S, rate=scenario.rate)
    changes = churner.answer(TIMEOUT_S)
    wanted = warm["received"] + scenario.messages
    state = far.ask(TIMEOUT_S, do="wait", count=wanted, timeout=TIMEOUT_S, stall=STALL_S)
    cpu, taken = cpu_seconds(subject.pid) - cpu, time.monotonic() - start
    delivered = state["received"] - warm["received"]
    generators_s = sent["cpu_s"] + changes["cpu_s"] + state["cpu_s"] - warm["cpu_s"]
    found = figures(
        scenario.messages, delivered, cpu_s=cpu, seconds=taken, generators_s=generators_s
    )
    return found | {"changes_per_s": changes["changes"] / taken}


def fanout(bench: Bench) -> Figures:
    """One publisher, many subscribers on this broker, no bridge; figures are per delivery."""
    scenario = bench.scenario
    subject = bench.start()
    shared = scenario.shared
    topic_filter = "$share/bench/bench/#" if shared else "bench/#"
    subscribers = bench.subscriber(
        topic_filter, qos=1 if shared else 0, connections=scenario.subscribers
    )
    publisher = bench.publisher()
    received = 0

    def load(total: int) -> Figures:
        nonlocal received
        arriving = total * scenario.copies
        wanted = received + arriving
        cpu, start = cpu_seconds(subject.pid), time.monotonic()
        subscribers.send(do="wait", count=wanted, timeout=TIMEOUT_S, stall=STALL_S)
        sent = publisher.ask(TIMEOUT_S, total=total, timeout=TIMEOUT_S)
        got = subscribers.answer(TIMEOUT_S)
        cpu, seconds = cpu_seconds(subject.pid) - cpu, time.monotonic() - start
        delivered = got["received"] - received
        received = got["received"]
        generators_s = sent["cpu_s"] + got["cpu_s"]
        found = figures(arriving, delivered, cpu_s=cpu, seconds=seconds, generators_s=generators_s)
        if shared:
            fair = received / scenario.subscribers
            found["least_share"] = min(got["each"]) / fair
            found["largest_share"] = max(got["each"]) / fair
        return found

    load(scenario.messages // 10)
    return load(scenario.messages)


def idle(bench: Bench) -> Figures:
    """Memory and connect rate of idle connections."""
    subject = bench.start()
    time.sleep(0.5)
    clients = bench.generator("idle", target=asdict(subject.target))
    clients.ask(TIMEOUT_S, count=20)  # what the first connection loads is not a price of each
    time.sleep(0.5)
    before, cpu = rss_kib(subject.pid), cpu_seconds(subject.pid)
    count = bench.scenario.messages
    opened_all = clients.ask(TIMEOUT_S * 2, count=count)
    cpu = cpu_seconds(subject.pid) - cpu
    time.sleep(SETTLE_IDLE_S)
    kib = rss_kib(subject.pid) - before
    start_cpu, start = cpu_seconds(subject.pid), time.monotonic()
    time.sleep(1)
    idle_cpu = (cpu_seconds(subject.pid) - start_cpu) / (time.monotonic() - start)
    return {
        "kib_per_connection": kib / count,
        "connects_per_s": count / opened_all["seconds"],
        "connect_cpu_us": cpu / count * 1e6,
        "idle_cpu_percent": idle_cpu * 100,
    }


def footprint(bench: Bench) -> Figures:
    """What one bridge costs that has nothing to do."""
    far = bench.generator("far")
    start = time.monotonic()
    subject = bench.start(far.hello["port"])
    ready_s = time.monotonic() - start
    wait_for_bridge(far, subscribed=False)
    time.sleep(SETTLE_IDLE_S)
    cpu, start = cpu_seconds(subject.pid), time.monotonic()
    time.sleep(bench.scenario.messages)
    share = (cpu_seconds(subject.pid) - cpu) / (time.monotonic() - start)
    return {
        "rss_mib": rss_kib(subject.pid) / 1024,
        "ready_s": ready_s,
        "idle_cpu_percent": share * 100,
    }


def percentile(values: list[int], share: float) -> float:
    """In microseconds, of nanoseconds."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] / 1000


def latency(bench: Bench) -> Figures:
    """One message at a time from one end to the other."""
    inward = bench.scenario.kind == "latency-in"
    both = bench.generator(
        "latency", payload=bench.scenario.payload, spin=len(CORES) > 1, inward=inward
    )
    subject = bench.start(both.hello["port"], direction="in" if inward else "out")
    both.ask(30, do="open", target=asdict(subject.target), bridge=True)
    time.sleep(SETTLE_S)
    both.ask(TIMEOUT_S, do="one", count=max(bench.scenario.messages // 10, 100))
    times = both.ask(TIMEOUT_S, do="one", count=bench.scenario.messages)
    found = {}
    for name, key in (("arrival", "arrivals"), ("puback", "pubacks")):
        found[f"{name}_p50_us"] = percentile(times[key], 0.5)
        found[f"{name}_p99_us"] = percentile(times[key], 0.99)
    return found


def light(bench: Bench) -> Figures:
    """A quiet QoS 1 client on the same route as another client's flood of QoS 0."""
    scenario = bench.scenario
    interval_s = 0.01
    far = bench.far()
    subject = bench.start(far.hello["port"])
    wait_for_bridge(far, subscribed=False)
    flood = bench.publisher(qos=0)
    quiet = bench.generator("latency", payload=scenario.payload, spin=False, inward=False)
    quiet.ask(30, do="open", target=asdict(subject.target), bridge=False)
    seconds = scenario.messages * interval_s * 1.5 + 1
    cpu, start = cpu_seconds(subject.pid), time.monotonic()
    flood.send(total=1 << 40, timeout=TIMEOUT_S, seconds=seconds)
    time.sleep(0.5)
    # the flood goes on until the last light message; half its time is room for latencies
    times = quiet.ask(TIMEOUT_S, do="light", count=scenario.messages, interval_s=interval_s)
    light_s = time.monotonic() - start
    sent = flood.answer(TIMEOUT_S)
    wanted = sent["sent"] + scenario.messages
    state = far.ask(TIMEOUT_S, do="wait", count=wanted, timeout=30, stall=2)
    cpu = cpu_seconds(subject.pid) - cpu
    if state["received"] != wanted:
        raise RunError(f"{state['received']:,} messages arrived, {wanted:,} had to")
    return {
        "puback_p50_us": percentile(times["pubacks"], 0.5),
        "puback_p99_us": percentile(times["pubacks"], 0.99),
        "puback_max_us": percentile(times["pubacks"], 1.0),
        "messages_per_s": sent["sent"] / sent["seconds"],
        "cpu_us": cpu / wanted * 1e6,
        "delivered": wanted,
        "flooded_share": min(sent["seconds"] / light_s, 1.0),
    }


def subscribe(bench: Bench) -> Figures:
    """How long a pool with many filters takes until all are granted."""
    scenario = bench.scenario
    far = bench.generator("far")
    far.ask(do="slow_subacks", suback_s=SUBACK_S)
    subject = bench.start(far.hello["port"], direction="in")
    state = far.ask(TIMEOUT_S, do="wait_granted", count=scenario.messages, timeout=60)
    found = (state["links"], state["different_filters"], state["filters"])
    wanted = (scenario.pool, scenario.messages, scenario.messages)
    if found != wanted:
        raise RunError(f"connections, filters, of that granted: {found}, not {wanted}")
    return {
        "subscribe_s": state["granted_at"] - state["connected_at"],
        "subscribes": state["subscribes"],
        "most_filters": state["most_filters"],
        "cpu_s": cpu_seconds(subject.pid),  # the start included
    }


def outbox(bench: Bench) -> Figures:
    """A load for a far end that is down, and then that far end. Each PUBACK is after its commit."""
    scenario = bench.scenario
    port = free_port()
    subject = bench.start(port)
    publisher = bench.publisher()
    warm = scenario.messages // 10
    publisher.ask(TIMEOUT_S, total=warm, timeout=TIMEOUT_S)
    cpu = cpu_seconds(subject.pid)
    sent = publisher.ask(TIMEOUT_S, total=scenario.messages, timeout=TIMEOUT_S)
    cpu = cpu_seconds(subject.pid) - cpu
    total = warm + scenario.messages
    drain_cpu, start = cpu_seconds(subject.pid), time.monotonic()
    far = bench.far(port)
    # The connector finds it within the longest wait between two tries, which is not counted.
    state = far.ask(TIMEOUT_S, do="wait", count=1, timeout=TIMEOUT_S, stall=20)
    first, already = time.monotonic(), state["received"]
    state = far.ask(TIMEOUT_S, do="wait", count=total, timeout=TIMEOUT_S, stall=STALL_S)
    drained_s = time.monotonic() - first
    drain_cpu = cpu_seconds(subject.pid) - drain_cpu
    if state["received"] != total:
        took = time.monotonic() - start
        raise RunError(f"{state['received']:,} messages of {total:,} arrived in {took:.0f} s")
    return {
        "cpu_us": cpu / scenario.messages * 1e6,
        "stored_per_s": scenario.messages / sent["seconds"],
        "drain_cpu_us": drain_cpu / total * 1e6,
        "drained_per_s": (total - already) / drained_s,
        "rss_mib": rss_kib(subject.pid) / 1024,
    }


def start_stored(bench: Bench) -> Figures:
    """A start with messages on disk, after SIGKILL and after a stop."""
    port = free_port()
    subject = bench.start(port)
    bench.publisher().ask(TIMEOUT_S, total=bench.scenario.messages, timeout=TIMEOUT_S)
    os.kill(subject.pid, signal.SIGKILL)
    subject.stop()
    found: Figures = {}
    for name in ("killed_ready_s", "ready_s"):
        start = time.monotonic()
        subject = bench.start(port)
        found[name] = time.monotonic() - start
        time.sleep(SETTLE_S)
        found["rss_mib"] = max(found.get("rss_mib", 0.0), rss_kib(subject.pid) / 1024)
        if name == "killed_ready_s":
            subject.stop()
    return found


def beside(bench: Bench) -> Figures:
    """A quiet QoS 1 client of this broker alone, beside a paced load over a route.

    The process may use every core, as everywhere: which thread is in whose way is the question.
    """
    scenario = bench.scenario
    interval_s = 0.005
    far = None if scenario.far_down else bench.far()
    steady = bench.far() if scenario.steady else None
    bench.start(
        free_port() if far is None else far.hello["port"],
        steady_port=0 if steady is None else steady.hello["port"],
    )
    for each in (far, steady):
        if each is not None:
            wait_for_bridge(each, subscribed=False)
    time.sleep(SETTLE_S)
    assert bench.subject is not None
    loads = [bench.publisher()]
    if steady is not None:
        loads.append(bench.publisher(prefix=STEADY))
    quiet = bench.generator(
        "latency", payload=scenario.payload, spin=False, inward=False, topic="t/quiet"
    )
    quiet.ask(30, do="open", target=asdict(bench.subject.target), bridge=False)
    seconds = scenario.messages * interval_s * 1.5 + 1
    if scenario.syncs:
        file = str(bench.files.path / "synced")
        disk = bench.generator("disk", rate=scenario.syncs, size=SYNCED_BYTES, file=file)
        disk.send(seconds=seconds)
    for load in loads:
        load.send(total=int(seconds * scenario.rate), timeout=TIMEOUT_S, rate=scenario.rate)
    time.sleep(1.0)
    times = quiet.ask(TIMEOUT_S, do="light", count=scenario.messages, interval_s=interval_s)
    for load in loads:
        load.answer(TIMEOUT_S)
    if scenario.syncs and disk.answer(TIMEOUT_S)["seconds"] > 1.1 * seconds:
        raise RunError(f"the disk cannot be synchronised {scenario.syncs} times a second")
    return {
        "puback_p50_us": percentile(times["pubacks"], 0.5),
        "puback_p99_us": percentile(times["pubacks"], 0.99),
    }


KINDS: dict[str, Callable[[Bench], Figures]] = {
    "out": outward,
    "in": inward,
    "churn": churn,
    "fanout": fanout,
    "idle": idle,
    "footprint": footprint,
    "latency": latency,
    "latency-in": latency,
    "light": light,
    "subscribe": subscribe,
    "outbox": outbox,
    "start": start_stored,
    "beside": beside,
}


def measure(files: Files, system: type[System], scenario: Scenario) -> Figures:
    """One run; RunError when it does not count."""
    try:
        with opened(files, system, scenario) as bench:
            try:
                return KINDS[scenario.kind](bench)
            except (RuntimeError, OSError, RunError) as error:
                subject = bench.subject
                if subject is None or subject.child.poll() is None:
                    raise
                raise RunError(f"{subject.name} ended: {subject.failure()}; {error}") from error
    except (RuntimeError, OSError) as error:
        raise RunError(str(error) or type(error).__name__) from error
