"""The commands.

SIGHUP ends a process that has no handler for it, and `isthmus run` has one only when all is
imported and started, which takes a second or more on a slow machine. So the system keeps the signal
for it from here on, before anything heavy is imported; see `isthmus.app.process`.
"""

import signal
import sys

if sys.argv[1:2] == ["run"] and hasattr(signal, "pthread_sigmask"):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
