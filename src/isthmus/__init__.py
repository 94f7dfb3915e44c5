"""Isthmus: an MQTT broker and bridge: an acknowledged message has reached its target."""

from isthmus.compilation import choose

__version__ = "0.1.0"

INTERPRETED_BECAUSE = choose()
"""Why the hot files run interpreted; "" where they run compiled."""
