"""What a disk costs everybody: a process that only writes and synchronises, as an outbox has to.

Beside a broker it shows how much of a delay is the machine's, and not the broker's.
"""

from __future__ import annotations

import os
import time
from typing import Any

from bench import process

FILE_BYTES = 4 << 20  # written over and over, as a write-ahead log is


def handle(options: dict[str, Any]) -> None:
    size, interval_s = options["size"], 1 / options["rate"]
    data = os.urandom(size)
    file = os.open(options["file"], os.O_CREAT | os.O_WRONLY)
    os.posix_fallocate(file, 0, FILE_BYTES + size)
    process.reply(ready=True)
    for order in process.requests():
        count = int(order["seconds"] / interval_s)
        began = time.monotonic()
        for number in range(count):
            os.pwrite(file, data, number * size % FILE_BYTES)
            os.fdatasync(file)
            time.sleep(max(0.0, began + (number + 1) * interval_s - time.monotonic()))
        process.reply(seconds=time.monotonic() - began)
    os.close(file)


if __name__ == "__main__":
    process.serve(handle)
