"""Running an application as a process: signals, a clean end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from isthmus.app.app import App
from isthmus.app.control import Control
from isthmus.app.dead_letter_desk import DeadLetterDesk
from isthmus.app.requests import Requests
from isthmus.app.rereading import Rereading
from isthmus.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from isthmus.app.configuration import Loaded
    from isthmus.app.settings import Settings

log = logging.getLogger("isthmus.app")


@contextmanager
def pid_file(path: Path | None) -> Iterator[None]:
    """Write the number of this process to a file, and remove it at the end.

    Raises:
        ConfigError: the file cannot be written.
    """
    if path is None:
        yield
        return
    try:
        path.write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise ConfigError(f"pid_file: {path}: cannot be written: {error.strerror}") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def serve(
    configurations: Sequence[Settings],
    *,
    ready: Callable[[], None] = lambda: None,
    read: Callable[[], Loaded] | None = None,
    file: Path | None = None,
) -> None:
    """Run one application per configuration until SIGTERM or SIGINT, then drain and stop.

    They start in order and stop in the opposite one. `ready` is called when all of them run. A
    signal that comes before counts then; a second one stops without waiting for messages. `read`
    reads the one configuration again, on SIGHUP and for `isthmus reload`; `file` is where it
    stands. `isthmus status` and `isthmus dlq` are answered for the last one.

    Raises:
        ConfigError: one of them cannot start; none is left running.
    """
    stopping = asyncio.Event()
    hurry = asyncio.Event()

    def on_signal() -> None:
        (hurry if stopping.is_set() else stopping).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, on_signal)
        except NotImplementedError:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
    if hasattr(signal, "pthread_sigmask"):
        # One that came before there was a handler was kept (`isthmus.cli`), and is delivered now:
        # what is started below is stopped again as soon as it runs.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    apps: list[App] = []
    control: Control | None = None
    try:
        for settings in configurations:
            app = App(settings)
            await app.start()
            apps.append(app)
        last = apps[-1]
        last.status.file = file
        handlers = {"status": last.status.answer, "dlq": DeadLetterDesk(last).answer}
        if read is not None:
            rereading = Rereading(last, read, file)
            if hasattr(signal, "SIGHUP"):
                loop.add_signal_handler(signal.SIGHUP, rereading.soon)
                # One that came while this process was starting was kept, and is delivered now.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            handlers["reload"] = rereading.answer
        control = Control(Requests(handlers).answer)
        await control.open(last.settings.broker.data, file)
        ready()
        await stopping.wait()
        log.info("stopping")
    finally:
        if control is not None:
            await control.close()
        for app in reversed(apps):
            stop = asyncio.ensure_future(app.stop())
            hurried = asyncio.ensure_future(hurry.wait())
            await asyncio.wait({stop, hurried}, return_when=asyncio.FIRST_COMPLETED)
            hurried.cancel()
            if not stop.done():
                stop.cancel()
                await asyncio.wait({stop})
                await app.close()
            else:
                stop.result()
    log.info("stopped")
