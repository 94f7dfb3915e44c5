"""What the load generators can do by themselves: publisher straight to the far end's stand-in.

Both on one core, as in every measurement. It is the proof that over plain TCP they are faster than
the brokers that they measure; beside one they cost more as far as it wakes them for single packets.
"""

from __future__ import annotations

from dataclasses import asdict

from bench import process
from bench.client import Target
from bench.process import Generator

MESSAGES = 500_000


def ceiling(qos: int) -> dict[str, float]:
    """Messages per second and CPU of both generators per message, 64-byte payloads, 100 topics."""
    far = Generator("far")
    publisher = None
    try:
        publisher = Generator(
            "publisher",
            target=asdict(Target(far.hello["port"])),
            qos=qos,
            window=100,
            payload=64,
            topics=100,
            properties=0,
            connections=1,
            prefix="bench",
            collect_s=0.0,
            progress="",
            burst=0,
            copies=1,
        )
        before = far.ask(do="status")["cpu_s"]
        sent = publisher.ask(60, total=MESSAGES, timeout=60)
        state = far.ask(60, do="wait", count=MESSAGES, timeout=60, stall=3)
    finally:
        for generator in (publisher, far):
            if generator is not None:
                generator.stop()
    if state["received"] != MESSAGES:
        raise RuntimeError(f"generators alone: {state['received']} of {MESSAGES} arrived")
    return {
        "messages_per_s": MESSAGES / sent["seconds"],
        "cpu_us": (sent["cpu_s"] + state["cpu_s"] - before) / MESSAGES * 1e6,
    }


def ceilings() -> dict[str, dict[str, float]]:
    """For QoS 0 and 1, by name."""
    process.pin(process.GENERATOR_CORE)
    return {f"qos{qos}": ceiling(qos) for qos in (0, 1)}
