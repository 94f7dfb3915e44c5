"""Who a connection is at the far side: client id, credentials, certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from isthmus.net.tls_settings import KeySettings, TLSClientSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import SecretStr

    from isthmus.connectors.client_ids import ClientIds
    from isthmus.connectors.connection_settings import StaticClientSettings
    from isthmus.connectors.settings import ConnectorSettings


class Identity(NamedTuple):
    """What one connection logs in with. `tls` is for encrypted addresses."""

    client_id: str
    username: str | None
    password: SecretStr | None
    tls: TLSClientSettings


def identities(
    name: str, settings: ConnectorSettings, client_ids: ClientIds, node: str
) -> list[Identity]:
    """The identities of the connections of connector `name` in the process `node`.

    Empty where `static_client_ids` has none for this node.

    Raises:
        ConfigError: new client ids cannot be written to the data folder.
    """
    if not settings.static_client_ids:
        tls = settings.tls or TLSClientSettings()
        username, password = settings.username, settings.password
        fixed, prefix = settings.client_id, settings.client_id_prefix
        ids = [
            client_ids.client_id(name, prefix, number) if fixed is None else fixed
            for number in range(1, settings.pool + 1)
        ]
        return [Identity(client_id, username, password, tls) for client_id in ids]
    return static_identities(settings, node)


def static_identities(settings: ConnectorSettings, node: str) -> list[Identity]:
    """Those of `static_client_ids` for the process `node`; empty where there are none."""
    tls = settings.tls or TLSClientSettings()
    username, password = settings.username, settings.password
    found = []
    for entry in settings.static_client_ids.get(node, ()):
        if isinstance(entry, str):
            found.append(Identity(entry, username, password, tls))
            continue
        own_tls = _with_certificate(tls, entry)
        own = entry.username is not None or entry.password is not None
        found.append(
            Identity(
                entry.client_id,
                entry.username if entry.username is not None else username,
                entry.password if own else password,
                own_tls,
            )
        )
    return found


def tls_of(settings: ConnectorSettings) -> Iterator[tuple[str, TLSClientSettings]]:
    """The TLS settings of a connector and of its static client ids, each with its key."""
    if settings.tls is not None:
        yield "tls", settings.tls
    for node, entries in settings.static_client_ids.items():
        for index, entry in enumerate(entries):
            if not isinstance(entry, str) and _has_certificate(entry):
                tls = _with_certificate(settings.tls or TLSClientSettings(), entry)
                yield f"static_client_ids.{node}[{index}]", tls


def _has_certificate(entry: StaticClientSettings) -> bool:
    return entry.certificate is not None or entry.store is not None


def _with_certificate(tls: TLSClientSettings, entry: StaticClientSettings) -> TLSClientSettings:
    if not _has_certificate(entry):
        return tls
    # None of the connector's stays: it belongs to another certificate.
    own = {name: getattr(entry, name) for name in ("certificate", *KeySettings.model_fields)}
    return tls.model_copy(update=own)
