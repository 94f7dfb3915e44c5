"""The commands.

SIGTERM and SIGHUP end a process that has no handler for them, and `isthmus run` has one only when
all is imported, which takes a second or more on a slow machine. So the system keeps these signals
for it from here on, before anything heavy is imported; see `isthmus.app.process`.
"""

import signal
import sys

if hasattr(signal, "pthread_sigmask"):
    # The demonstration has no file that SIGHUP could make it read again.
    _KEPT = {"run": {signal.SIGTERM, signal.SIGHUP}, "demo": {signal.SIGTERM}}
    signal.pthread_sigmask(signal.SIG_BLOCK, _KEPT.get("".join(sys.argv[1:2]), set()))
