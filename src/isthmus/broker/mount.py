"""Mount points: topics of the clients of one listener, and what they are called in the broker.

Everything in the broker (subscriptions, retained messages, wills, rights, routes) knows topics with
their mount point. A client knows them without: it is put in front of what the client says, and
taken off what the client is told.
"""

from __future__ import annotations

from isthmus.mqtt.topics import split_shared


def mounted(mount: bytes, filter_: bytes) -> bytes:
    """What a client's filter is called in the broker; a share group keeps its name.

    An empty `mount` changes nothing.
    """
    group, bare = split_shared(filter_)
    return mount + bare if group is None else b"$share/%b/%b%b" % (group, mount, bare)


def stripped(mount: bytes, topic: bytes) -> bytes:
    """What a client calls `topic`; empty where it has no name for it.

    So it is with `m` where `mount` is `m/`, although the client's `#` is `m/#`, which matches it.
    """
    return topic[len(mount) :] if topic.startswith(mount) else b""


def is_open(filter_: bytes) -> bool:
    """Whether a client's filter begins with a wildcard, a share group left aside."""
    return split_shared(filter_)[1][:1] in (b"+", b"#")
