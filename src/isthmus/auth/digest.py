"""What stands for names and passwords in memory: short, and telling nothing about them."""

from __future__ import annotations

import hmac
import secrets


class Digest:
    """Makes keys of texts, with a secret of its own: nobody can tell or guess what they were."""

    __slots__ = ("_secret",)

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def __call__(self, *parts: str | bytes | None) -> bytes:
        """Return the key of these parts, in this order."""
        digest = hmac.new(self._secret, digestmod="sha256")
        for part in parts:
            data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
            digest.update(b"-" if data is None else b"%d:%b" % (len(data), data))
        return digest.digest()
