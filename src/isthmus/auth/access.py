"""Everything that decides about the clients of one door: who they are and what they may do.

A door is one or more listeners with the same `auth` settings. Users of different doors are
different users even if they have the same name, so two listeners can have two password files and
two access lists.
"""

from __future__ import annotations

from isthmus.auth.authenticator import Authenticator
from isthmus.auth.guesses import Guesses
from isthmus.auth.rights import Rights
from isthmus.auth.sources import Sources


class Access:
    """The authenticator, its limits of wrong logins, and the rights of one door.

    `realm` tells its users from those of other doors; "" is the door of the root's `auth`.
    """

    __slots__ = ("authenticator", "guesses", "realm", "rights")

    def __init__(self, sources: Sources, topic_levels: int, realm: str = "") -> None:
        self.guesses = Guesses()
        self.authenticator = Authenticator(sources, self.guesses)
        self.rights = Rights(sources.access, topic_levels)
        self.realm = realm

    def replace(self, sources: Sources) -> None:
        """Take what was read again from files; the broker has to be told (`rights_changed`)."""
        self.rights.replace(sources.access)
        self.authenticator.replace(sources)

    def close(self) -> None:
        """End what runs in the background."""
        self.authenticator.close()
