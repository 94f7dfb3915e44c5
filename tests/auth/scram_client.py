"""What a client of SCRAM-SHA-256 answers; written from RFC 5802, apart from the code under test."""

from __future__ import annotations

import base64
import hashlib
import hmac


def final(first: str, challenge: str, password: str) -> str:
    """The client-final-message to a challenge."""
    fields = dict(part.split("=", 1) for part in challenge.split(","))
    salted = hashlib.pbkdf2_hmac(
        "sha256", password.encode(), base64.b64decode(fields["s"]), int(fields["i"])
    )
    client_key = hmac.new(salted, b"Client Key", "sha256").digest()
    without = f"c=biws,r={fields['r']}"
    message = ",".join([first.removeprefix("n,,"), challenge, without]).encode()
    signature = hmac.new(hashlib.sha256(client_key).digest(), message, "sha256").digest()
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return f"{without},p={base64.b64encode(proof).decode()}"
