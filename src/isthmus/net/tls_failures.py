"""What a failed TLS handshake means, in words that name the cause and what to try."""

from __future__ import annotations

import ssl

# OpenSSL's X509_V_ERR_* numbers: (what is wrong, what to try).
_VERIFICATION = {
    3: ("there is no revocation list of the authority of the certificate", "see tls.crl"),
    9: ("the certificate is not valid yet", "check the clock of this machine"),
    10: ("the certificate has expired", "have it renewed, or check the clock of this machine"),
    12: ("the revocation list has expired", "have tls.crl renewed, or check the clock"),
    18: ("the certificate is self-signed", "set tls.ca to that certificate to trust it"),
    19: ("the certificate chain ends in an authority that is not trusted", "set tls.ca"),
    20: ("the certificate is from an authority that is not trusted", "set tls.ca"),
    21: ("the certificate is from an authority that is not trusted", "set tls.ca"),
    23: ("the certificate was revoked", "have a new one issued"),
    62: ("the certificate is for another host name", "set tls.server_name to a name in it"),
    64: ("the certificate is for another IP address", "set tls.server_name to a name in it"),
}

# Fragments of OpenSSL's reason names. Alerts are what the peer told us.
_REASONS = {
    "ALERT_CERTIFICATE_REQUIRED": ("the peer requires a certificate", "set tls.certificate"),
    "NO_CERTIFICATE_RETURNED": ("the peer showed no certificate, which is required", ""),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("the peer showed no certificate, which is required", ""),
    "ALERT_UNKNOWN_CA": ("the peer does not trust the authority of our certificate", ""),
    "ALERT_BAD_CERTIFICATE": ("the peer refuses our certificate", ""),
    "ALERT_CERTIFICATE_UNKNOWN": ("the peer refuses our certificate", ""),
    "ALERT_CERTIFICATE_EXPIRED": ("the peer says that our certificate has expired", ""),
    "ALERT_CERTIFICATE_REVOKED": ("the peer says that our certificate was revoked", ""),
    "ALERT_PROTOCOL_VERSION": ("the peer speaks no TLS version that is allowed here", ""),
    "UNSUPPORTED_PROTOCOL": ("the peer speaks no TLS version that is allowed here", ""),
    "WRONG_SSL_VERSION": ("the peer speaks no TLS version that is allowed here", ""),
    "NO_PROTOCOLS_AVAILABLE": ("no TLS version is allowed", ""),
    "NO_SHARED_CIPHER": ("there is no cipher that both sides allow", ""),
    "ALERT_NO_APPLICATION_PROTOCOL": ("the peer accepts none of the ALPN names", "see tls.alpn"),
    "HANDSHAKE_FAILURE": (
        "the peer refused the handshake",
        "it may want a client certificate (tls.certificate) or another cipher",
    ),
    "UNRECOGNIZED_NAME": ("the peer does not know the server name", "see tls.server_name"),
    "WRONG_VERSION_NUMBER": ("the peer does not speak TLS", "is it the port without TLS?"),
    "KEY_TOO_SMALL": ("the key is shorter than OpenSSL allows on this system", ""),
    "HTTP_REQUEST": ("the peer sent an HTTP request", ""),
}


def explain(error: Exception) -> tuple[str, str]:
    """Return what went wrong and a hint (or "") for an exception of `ssl`."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text, hint = _VERIFICATION.get(
            error.verify_code, (f"the certificate cannot be verified: {error.verify_message}", "")
        )
        return text, hint
    reason = getattr(error, "reason", None) or ""
    for fragment, explanation in _REASONS.items():
        if fragment in reason:
            return explanation
    return reason.lower().replace("_", " ") or str(error), ""
