"""`python -m bench.soak`: nothing is lost while both ends live.

Numbered QoS 1 messages go through a bridge whose far end is slow for the first third, then is
stopped (SIGSTOP) for five seconds, then has its connections reset every second until all is
acknowledged. In the end every acknowledged message must have arrived, none may be invented, first
deliveries must be in order per topic, and the memory of the process under test must have stayed
within a bound. Exit code 0 says so. The result is a file under bench/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine, process, report
from bench.process import Generator, peak_rss_kib, rss_kib
from bench.runner import use_python
from bench.systems import SETTLE_S, SYSTEMS, Files, System, Task

SHOWN = {
    "acknowledged": "messages acknowledged to the publishers",
    "arrived": "different messages that arrived",
    "lost": "acknowledged and lost",
    "invented": "invented",
    "disordered": "order violations per topic, first deliveries",
    "acks_out_of_order": "PUBACKs out of order",
    "duplicates": "delivered again after a reset (allowed)",
    "example": "example",
    "why": "what the publisher reported",
    "resets": "connections reset",
    "seconds": "seconds",
    "peak_rss_mib": "peak RSS, MiB",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What the soak does; all times in seconds."""

    messages: int
    topics: int
    connections: int
    window: int
    rate: int  # of the slow far end, messages per second
    ack_delay_s: float
    stop_s: float
    reset_every_s: float
    resets: int  # at least that many
    timeout_s: float
    max_rss_mib: int
    version: int


def parse() -> tuple[argparse.Namespace, Plan]:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    add = parser.add_argument
    add("--system", choices=["isthmus", "mosquitto"], default="isthmus")
    add("--python", default=sys.executable, help="interpreter that has isthmus")
    add("--messages", type=int, default=1_000_000)
    add("--quick", action="store_true", help="40,000 messages and a short stop, for CI")
    add("--topics", type=int, default=100)
    add("--connections", type=int, default=4, help="publishers; a divisor of --topics")
    add("--window", type=int, default=200, help="unacknowledged messages of each publisher")
    add("--rate", type=int, default=40_000, help="messages/s that the far end reads")
    add(
        "--ack-delay",
        type=float,
        default=0.005,
        metavar="S",
        help="before each PUBACK of the far end",
    )
    add("--stop", type=float, default=5.0, metavar="S", help="how long the far end is stopped")
    add("--reset-every", type=float, default=1.0, metavar="S")
    add("--timeout", type=float, default=600.0, metavar="S")
    add("--max-rss", type=int, default=160, metavar="MIB", help="bound on the peak RSS")
    add("--mqtt", choices=["3.1.1", "5"], default="3.1.1")
    add("--json", action="store_true", help="print JSON instead of words")
    add("--results", type=Path, default=report.RESULTS, metavar="FOLDER", help="where to save")
    add("--no-save", action="store_true", help="write no file")
    options = parser.parse_args()
    quick = options.quick
    plan = Plan(
        messages=40_000 if quick else options.messages,
        topics=options.topics,
        connections=options.connections,
        window=options.window,
        rate=10_000 if quick else options.rate,
        ack_delay_s=options.ack_delay,
        stop_s=1.5 if quick else options.stop,
        reset_every_s=options.reset_every,
        resets=2 if quick else 5,
        timeout_s=min(options.timeout, 90) if quick else options.timeout,
        max_rss_mib=options.max_rss,
        version=5 if options.mqtt == "5" else 4,
    )
    return options, plan


class Soak:
    """The processes and the course of events."""

    def __init__(self, files: Files, system: type[System], plan: Plan) -> None:
        self.plan = plan
        self.far = Generator("far")
        self.far.ask(do="ledger", total=plan.messages, topics=plan.topics, prefix="fwd/")
        task = Task(far_port=self.far.hello["port"], version=plan.version, topics="t")
        self.subject = system(files, task)
        self.publisher = Generator(
            "numbered",
            target=asdict(self.subject.target),
            total=plan.messages,
            topics=plan.topics,
            connections=plan.connections,
            window=plan.window,
            timeout=plan.timeout_s,
        )
        self.deadline = time.monotonic() + plan.timeout_s
        self.answer: dict[str, Any] | None = None

    def say(self, text: str) -> None:
        rss = rss_kib(self.subject.pid) / 1024
        print(f"{time.strftime('%H:%M:%S')} {text}; RSS {rss:.0f} MiB", file=sys.stderr, flush=True)

    def publisher_done(self) -> bool:
        """Whether the publisher has given its account."""
        if self.answer is None:
            try:
                self.answer = self.publisher.answer(0.05)
            except TimeoutError:
                return False
        return True

    def until(self, unique: int) -> int:
        """Wait for that many different messages at the far end, or the end of the publisher."""
        while True:
            state = self.far.ask(do="status")
            found: int = state["unique"]
            if found >= unique or self.publisher_done() or time.monotonic() > self.deadline:
                return found
            if self.subject.child.poll() is not None:
                raise RuntimeError(f"the process under test ended: {self.subject.failure()}")
            time.sleep(0.1)

    def run(self) -> dict[str, Any]:
        plan, far = self.plan, self.far
        while not far.ask(do="status")["connects"]:
            if time.monotonic() > self.deadline:
                raise RuntimeError("the bridge did not connect")
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        far.ask(do="slow", rate=plan.rate, ack_delay_s=plan.ack_delay_s)
        self.publisher.send(do="start")
        self.say(f"slow far end: {plan.rate:,} messages/s")
        found = self.until(plan.messages // 3)
        self.say(f"{found:,} arrived; far end stopped for {plan.stop_s:g} s")
        os.kill(far.pid, signal.SIGSTOP)
        time.sleep(plan.stop_s)
        os.kill(far.pid, signal.SIGCONT)
        found = self.until(min(found + plan.messages // 20, plan.messages))
        self.say(f"{found:,} arrived; resets every {plan.reset_every_s:g} s from now on")
        far.ask(do="reset_every", seconds=plan.reset_every_s)
        shown = found
        while not self.publisher_done() or far.ask(do="status")["resets"] < plan.resets:
            found = self.until(min(shown + plan.messages // 5, plan.messages))
            if found > shown:
                self.say(f"{found:,} arrived, {far.ask(do='status')['resets']} resets")
                shown = found
            if time.monotonic() > self.deadline + 10:
                break
            time.sleep(0.1)
        far.ask(do="reset_every", seconds=0)
        far.ask(do="slow", rate=0, ack_delay_s=0)
        return self.account()

    def account(self) -> dict[str, Any]:
        """Let what is under way arrive, then compare the books."""
        account = self.answer or self.publisher.answer(self.plan.timeout_s)
        last, since = -1, time.monotonic()
        while time.monotonic() - since < 5:
            found = self.far.ask(do="status")["unique"]
            if found != last:
                last, since = found, time.monotonic()
            if found >= sum(account["acked"]):
                break
            time.sleep(0.2)
        state = self.far.ask(do="status")
        verdict = self.far.ask(do="judge", acked=account["acked"])
        return {
            "arrived": verdict.pop("unique"),
            **verdict,
            "acknowledged": sum(account["acked"]),
            "sent": sum(account["sent"]),
            "acks_out_of_order": account["unordered"],
            "why": account["why"],
            "seconds": round(account["seconds"], 1),
            "resets": state["resets"],
            "connects": state["connects"],
            "peak_rss_mib": round(peak_rss_kib(self.subject.pid) / 1024, 1),
        }

    def close(self) -> None:
        for generator in (self.publisher, self.far):
            generator.stop()
        self.subject.stop()


def failures(result: dict[str, Any], plan: Plan) -> list[str]:
    """What is wrong with the result, in words."""
    found = []
    for key, text in (
        ("lost", "acknowledged messages lost"),
        ("invented", "messages invented"),
        ("disordered", "first deliveries out of order"),
        ("acks_out_of_order", "PUBACKs out of order"),
    ):
        if result[key]:
            found.append(f"{result[key]:,} {text}")
    if result["acknowledged"] < plan.messages:
        found.append(f"only {result['acknowledged']:,} acknowledged: {result['why']}")
    if result["peak_rss_mib"] > plan.max_rss_mib:
        found.append(f"peak RSS {result['peak_rss_mib']} MiB above {plan.max_rss_mib} MiB")
    return found


def markdown(
    system: str, plan: Plan, where: dict[str, Any], result: dict[str, Any], wrong: list[str]
) -> str:
    """The result for readers."""
    body = [
        [title, f"{result[key]:,}" if isinstance(result[key], int) else str(result[key])]
        for key, title in SHOWN.items()
        if result[key] != ""
    ]
    course = (
        f"{plan.messages:,} QoS 1 messages (MQTT {'5' if plan.version == 5 else '3.1.1'}) of "
        f"{plan.connections} publishers, {plan.topics} topics, through a bridge whose far end "
        f"reads {plan.rate:,} messages/s and acknowledges after {plan.ack_delay_s * 1000:g} ms, is "
        f"stopped for {plan.stop_s:g} s, then resets its connections every "
        f"{plan.reset_every_s:g} s. Bound on the peak RSS: {plan.max_rss_mib} MiB."
    )
    return "\n".join(
        [
            f"# Soak of {system}: {'FAIL' if wrong else 'pass'}",
            "",
            *report.where(where),
            "",
            course,
            "",
            *report.table(["", "result"], body),
            *(["", "Wrong: " + "; ".join(wrong)] if wrong else []),
        ]
    )


def interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options, plan = parse()
    use_python(options.python)
    signal.signal(signal.SIGTERM, interrupted)
    where = machine.describe()
    process.pin(process.GENERATOR_CORE)
    files = Files()
    try:
        soak = Soak(files, SYSTEMS[options.system], plan)
        result = soak.run()
        soak.close()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (RuntimeError, OSError) as error:
        print(f"FAIL: {error}")
        return 1
    finally:
        process.stop_all()
        files.remove()
    wrong = failures(result, plan)
    data = {"machine": where, "system": options.system, "plan": asdict(plan), "result": result}
    text = json.dumps(data | {"failures": wrong}, indent=1)
    if options.json:
        print(text)
    else:
        for key, value in result.items():
            print(f"{key:18} {value:,}" if isinstance(value, int) else f"{key:18} {value}")
        print("FAIL: " + "; ".join(wrong) if wrong else "pass")
    if not options.no_save:
        name = f"soak-{options.system}" + ("-quick" if options.quick else "")
        words = markdown(options.system, plan, where, result, wrong)
        for path in report.write(text, words, where, kind=name, folder=options.results):
            print(path, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
