"""The algorithms that the signature of a token may have, by the kind of the key."""

from __future__ import annotations

HMAC = (("HS256", 32), ("HS384", 48), ("HS512", 64))
"""Algorithm and the bytes that its secret must have (RFC 7518, 3.2)."""

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

ALGORITHMS = (*(name for name, _ in HMAC), *RSA, *CURVES.values(), "EdDSA")
