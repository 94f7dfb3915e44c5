"""Listeners of `mosquitto.conf`, and who may connect to them."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from isthmus.app.mosquitto.blocks import Block, Configuration, ListenerBlock, PluginBlock, Setting
from isthmus.app.mosquitto.bridges import take_authorities, take_path, take_tls_version
from isthmus.app.mosquitto.draft import Draft, literal
from isthmus.app.mosquitto.option import Scope
from isthmus.config.problems import Loc
from isthmus.net.settings import ANY_PATH

DEFAULT_PORT = 1883
ANY_SITE = "*"
LONGEST_AUTO_ID_PREFIX = 50

VERSIONS = {"3": "3.1", "4": "3.1.1", "5": "5"}

_PLUGIN_FILES = {
    "mosquitto_password_file.so": "password_file",
    "mosquitto_acl_file.so": "acl_file",
}
_IDENTITIES = {
    "use_identity_as_username": "common_name",
    "use_subject_as_username": "subject",
}
_ANY_ADDRESS = {"ipv4": "0.0.0.0", "ipv6": "[::]"}  # noqa: S104 - what the user asks for


def write_listeners(configuration: Configuration, draft: Draft, ports: Sequence[int]) -> None:
    """Write `listeners` and `auth`.

    Args:
        configuration: what the file says.
        draft: gets it.
        ports: `-p` of the command line, which counts only where the file opens no listener.
    """
    if configuration.local_only:
        _plugins(configuration, draft)
        for port in ports or [DEFAULT_PORT]:
            index = len(draft.data.get("listeners", []))
            draft.put(("listeners", index, "bind"), f"localhost:{port}")
        shared_security = configuration.shared_security
        assert shared_security is not None
        _auth(configuration, shared_security, ("auth",), draft, public=None)
        return
    if ports:
        draft.note(None, "-p has no effect, as the file opens its own listeners")
    _plugins(configuration, draft)
    _not_opened(configuration, draft)
    public: list[Setting] = []
    shared = _shared_identity(configuration)
    index = 0
    for block in configuration.listeners:
        assert block.opened is not None
        protocol = block.last("protocol")
        if protocol is not None and protocol.statement.words[0] == "http_api":
            draft.note(protocol, "there is no such HTTP API: this listener is left out", loud=True)
            continue
        loc: Loc = ("listeners", index)
        index += 1
        draft.put((*loc, "bind"), literal(_bind(block, draft)), block.opened)
        _details(block, loc, draft)
        opened = block.opened if _is_public(block) else None
        named = block.last("port") or block.last("bind_address")
        if block.opened.option.scope is not Scope.GENERAL and not named:
            text = (
                f"opens port {DEFAULT_PORT} on all addresses, as in Mosquitto, because no "
                "'listener' stands above it"
            )
            draft.note(block.opened, text, loud=True)
        if configuration.per_listener:
            take_client_ids(block.security, loc, draft)
        _take_prefix(block, "listener_auto_id_prefix", loc, draft)
        if configuration.per_listener:
            _auth(configuration, block.security, (*loc, "auth"), draft, opened, block)
        elif (
            block.last("listener_allow_anonymous")
            or block.plugins
            or (shared is None and _identity(block))
        ):
            _auth(configuration, configuration.security, (*loc, "auth"), draft, opened, block)
        elif opened is not None:
            public.append(opened)
    if not configuration.per_listener:
        first = public[0] if public else None
        _auth(configuration, configuration.security, ("auth",), draft, first)
        if shared is not None:
            draft.put(("auth", "identity"), _IDENTITIES[shared.option.name], shared)
    if "listeners" not in draft.data:
        draft.put(("listeners",), [])


def take_client_ids(security: Block, loc: Loc, draft: Draft) -> None:
    """Write whether clients may leave their id out, and which they get, for all or a listener."""
    draft.take(security, "allow_zero_length_clientid", (*loc, "allow_empty_client_id"))
    _take_prefix(security, "auto_id_prefix", loc, draft)


def _take_prefix(block: Block, option: str, loc: Loc, draft: Draft) -> None:
    found = draft.take(block, option, (*loc, "auto_id_prefix"))
    if found is not None and len(str(found.value).encode()) > LONGEST_AUTO_ID_PREFIX:
        draft.problem(found, f"must not be longer than {LONGEST_AUTO_ID_PREFIX} bytes")


def _bind(block: ListenerBlock, draft: Draft) -> str:
    """`address:port`, or `unix:path`."""
    assert block.opened is not None
    host = _host(block)
    if block.opened.option.name == "listener":
        port = block.opened.statement.number()
        if port == 0:
            return f"unix:{Path(host).absolute()}"
    else:
        found = block.last("port")
        port = found.value if found and isinstance(found.value, int) else DEFAULT_PORT
    if host:
        return f"[{host.strip('[]')}]:{port}" if ":" in host else f"{host}:{port}"
    family = block.last("socket_domain")
    if family is None:
        return f"*:{port}"
    if family.statement.words[0] not in _ANY_ADDRESS:
        draft.problem(family, "must be ipv4 or ipv6")
    return f"{_ANY_ADDRESS.get(family.statement.words[0], '*')}:{port}"


def _host(block: ListenerBlock) -> str:
    assert block.opened is not None
    if block.opened.option.name == "listener":
        words = block.opened.statement.words
        return words[1] if len(words) > 1 and not words[1].startswith("#") else ""
    found = block.last("bind_address")
    return str(found.value) if found else ""


def _is_unix(block: ListenerBlock) -> bool:
    assert block.opened is not None
    return block.opened.option.name == "listener" and block.opened.statement.number() == 0


def _is_public(block: ListenerBlock) -> bool:
    """Whether others than this machine can connect."""
    host = _host(block).strip("[]")
    if _is_unix(block) or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _details(block: ListenerBlock, loc: Loc, draft: Draft) -> None:
    protocol = block.last("protocol")
    if protocol is not None:
        kind = protocol.statement.words[0]
        if kind == "websockets":
            draft.put((*loc, "transport"), "websocket", protocol)
            draft.put((*loc, "path"), ANY_PATH, protocol)
            if not block.all("websockets_origin"):
                draft.put((*loc, "origins"), [ANY_SITE], protocol)
                text = "pages of every web site may connect; name those that may: websockets_origin"
                draft.note(protocol, text, loud=True)
        elif kind not in ("mqtt", "http_api"):
            draft.problem(protocol, "must be mqtt or websockets")
    found = block.last("max_connections")
    if found is not None and isinstance(found.value, int) and found.value > 0:
        draft.put((*loc, "max_connections"), found.value, found)
    found = block.last("bind_interface")
    if found is not None and _is_unix(block):
        draft.note(found, "no effect: clients of a Unix socket come through no interface")
    else:
        draft.take(block, "bind_interface", (*loc, "interface"))
    for option, key in (
        ("max_qos", "max_qos"),
        ("use_username_as_clientid", "username_as_client_id"),
        ("max_topic_alias", "topic_alias_maximum"),
        ("max_topic_alias_broker", "topic_aliases_out"),
    ):
        draft.take(block, option, (*loc, key))
    found = draft.take(block, "mount_point", (*loc, "mount_point"))
    if found is not None and set(str(found.value)) & {"+", "#"}:
        draft.problem(found, "must not hold the wildcards + and #")
    _versions(block, loc, draft)
    _proxy(block, loc, draft)
    origins = block.all("websockets_origin")
    if origins and protocol is not None and protocol.statement.words[0] == "websockets":
        values = [literal(origin.value) for origin in origins]
        draft.put((*loc, "origins"), values, origins[0])
    elif origins:
        draft.note(origins[0], "no effect: this listener has no 'protocol websockets'")
    _tls(block, (*loc, "tls"), draft)
    found = block.last("dhparamfile")
    if found is not None:
        draft.note(found, f"no effect: {found.option.becomes}")


def _identity(block: ListenerBlock) -> Setting | None:
    """The line that takes the user name from certificates."""
    return next((block.last(option) for option in _IDENTITIES if block.is_on(option)), None)


def _shared_identity(configuration: Configuration) -> Setting | None:
    """That line, if every listener that knows client certificates has the same.

    The others are not concerned: without a certificate a client logs in as ever.
    """
    if configuration.per_listener:
        return None
    asking = [
        block for block in configuration.listeners if block.last("cafile") or block.last("capath")
    ]
    lines = [_identity(block) for block in asking]
    names = {line.option.name if line else "" for line in lines}
    return lines[0] if len(names) == 1 else None


def _proxy(block: ListenerBlock, loc: Loc, draft: Draft) -> None:
    found = block.last("enable_proxy_protocol")
    if found is None:
        return
    draft.put((*loc, "proxy_protocol"), f"v{found.value}", found)
    if block.opened is not None and _is_public(block):
        draft.put((*loc, "trusted_proxies"), ["0.0.0.0/0", "::/0"], found)
        text = "whoever reaches this listener can claim any address; name 'trusted_proxies'"
        draft.note(found, text, loud=True)


def _versions(block: Block, loc: Loc, draft: Draft) -> None:
    found = block.last("accept_protocol_versions")
    if found is None:
        return
    words = found.statement.rest.replace(",", " ").replace("\t", " ").split()
    versions = [VERSIONS[word] for word in words if word in VERSIONS]
    if not versions:
        draft.problem(found, "must name some of 3, 4 and 5")
        return
    draft.put((*loc, "versions"), versions, found)


def _tls(block: ListenerBlock, loc: Loc, draft: Draft) -> None:
    certificate, key = block.last("certfile"), block.last("keyfile")
    lone = certificate or key
    if lone is not None and (certificate is None or key is None):
        draft.problem(lone, "needs both 'certfile' and 'keyfile'")
        return
    if certificate is None:
        for option in ("cafile", "capath"):
            found = block.last(option)
            if found is not None:
                draft.problem(found, "needs 'certfile' and 'keyfile' beside it")
        for option in (
            "require_certificate",
            "disable_client_cert_date_checks",
            "crlfile",
            "tls_version",
            "ciphers",
        ):
            found = block.last(option)
            if found is not None and found.value is not False:
                text = "has no effect without certfile and keyfile: nothing is encrypted"
                draft.note(found, text, loud=True)
        return
    for option, name in (("certfile", "certificate"), ("keyfile", "key"), ("crlfile", "crl")):
        take_path(block, option, (*loc, name), draft)
    take_authorities(block, "cafile", "capath", (*loc, "client_ca"), draft)
    draft.take(block, "ciphers", (*loc, "ciphers"))
    draft.take(block, "require_certificate", (*loc, "require_client_certificate"))
    take_tls_version(block, "tls_version", (*loc, "min_version"), draft)
    if block.is_on("disable_client_cert_date_checks"):
        found = block.last("disable_client_cert_date_checks")
        if block.last("cafile") or block.last("capath"):
            draft.put((*loc, "verify_client_dates"), False, found)
            draft.note(found, "certificates of clients are good for ever", loud=True)
        else:
            draft.note(found, "no effect: without 'cafile' no client shows a certificate")


def _auth(
    configuration: Configuration,
    security: Block,
    loc: Loc,
    draft: Draft,
    public: Setting | None,
    listener: ListenerBlock | None = None,
) -> None:
    """Write who may connect; `public` is the line of a listener that others can reach."""
    found = security.last("allow_anonymous")
    if listener is not None:
        found = listener.last("listener_allow_anonymous") or found
    allowed = found.value if found else configuration.local_only
    draft.put((*loc, "allow_anonymous"), allowed, found)
    identity = _identity(listener) if listener is not None else None
    if identity is not None:
        draft.put((*loc, "identity"), _IDENTITIES[identity.option.name], identity)
    if allowed and public is not None:
        draft.put((*loc, "insecure_public_anonymous"), True, found)
        text = (
            f"everybody who reaches {public.statement.where} "
            f"({public.statement.name} {public.statement.rest.strip()}) can read and write "
            "without a password"
        )
        draft.note(found, text, loud=True)
    files: dict[str, Setting] = {}
    for option in ("password_file", "acl_file"):
        setting = security.last(option)
        if setting is not None:
            files[option] = setting
    for plugin in [*configuration.plugins, *(listener.plugins if listener else [])]:
        files |= _plugin_file(plugin, draft)
    for option, setting in files.items():
        draft.put((*loc, option), literal(str(Path(str(setting.value)).absolute())), setting)


def _not_opened(configuration: Configuration, draft: Draft) -> None:
    """Say what is about the default listener, where nothing opens that."""
    if configuration.default in configuration.listeners:
        return
    for lines in configuration.default.security.lines.values():
        for line in lines:
            text = (
                "no effect, as in Mosquitto: with 'per_listener_settings true' it has to stand "
                "below a 'listener'"
            )
            draft.note(line, text, loud=True)


def _plugins(configuration: Configuration, draft: Draft) -> None:
    """Say what is not read of plugins: options that they do not have, and plugins without use."""
    used = [*configuration.plugins]
    for block in (configuration.default, *configuration.listeners):
        used += block.plugins
    for plugin in configuration.loaded_plugins.values():
        if plugin not in used and _plugin_file(plugin, draft) and plugin.opened is not None:
            draft.note(plugin.opened, "no effect: no 'plugin_use' names it")
    for plugin in (*configuration.plugins, *configuration.loaded_plugins.values()):
        key = _PLUGIN_FILES.get(Path(plugin.path).name)
        for setting in plugin.all("plugin_opt_*"):
            if key is not None and setting.statement.name.partition("_opt_")[2] != key:
                draft.note(setting, f"no effect: the only option of this plugin is '{key}'")


def _plugin_file(plugin: PluginBlock, draft: Draft) -> dict[str, Setting]:
    """The file that one of the two known plugins reads; others are refused."""
    assert plugin.opened is not None
    key = _PLUGIN_FILES.get(Path(plugin.path).name)
    if key is None:
        if all(note.statement is not plugin.opened.statement for note in draft.refused):
            draft.refuse(plugin.opened, plugin.opened.option.becomes)
        return {}
    found = {
        setting.statement.name.partition("_opt_")[2]: setting
        for setting in plugin.all("plugin_opt_*")
    }
    if key not in found:
        draft.problem(plugin.opened, f"needs a 'plugin_opt_{key}' below it")
        return {}
    return {key: found[key]}
