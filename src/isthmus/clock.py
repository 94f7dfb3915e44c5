"""The two clocks. Everything below `net/` takes time as an argument instead."""

import time

monotonic = time.monotonic
"""Seconds that only go forward: deadlines, ages, back-off."""

wall = time.time
"""Seconds since the epoch: time stamps that people or other machines read."""
