"""The user that a process started by root becomes: `user`."""

from __future__ import annotations

import os

from isthmus.errors import ConfigError

ROOT = 0


def become(name: str | None) -> str:
    """Become user `name`, with its groups, for good; returns what to say about it, or "".

    Everything that the process opens or makes comes after this: log, data, keys, ports. None
    changes nothing. Only root can become another user.

    Raises:
        ConfigError: there is no such user, or the system does not let us.
    """
    if name is None or not hasattr(os, "geteuid"):
        return ""
    import pwd

    if os.geteuid() != ROOT:
        own = _own_name()
        return "" if name == own else f"user: stays {own}, as only root can become another"
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"user: there is no user '{name}' on this machine") from None
    if user.pw_uid == ROOT:
        return ""
    try:
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    except OSError as error:
        raise ConfigError(f"user: cannot become '{name}': {error.strerror}") from None
    return f"user: runs as {name}"


def _own_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
