"""The table: every option of `mosquitto.conf` up to 2.1, and what becomes of it.

The parser takes from here which options there are, where they may stand and how their values are
read; `docs/mosquitto.md` shows the same rows. What an honoured option does stands in `broker`,
`listeners` and `bridges`. The file is long because the table is.
"""

from __future__ import annotations

from isthmus.app.mosquitto.option import Answer, Kind, Option, Scope

_GENERAL, _SECURITY, _LISTENER = Scope.GENERAL, Scope.SECURITY, Scope.LISTENER
_OWN, _BRIDGE, _PLUGIN = Scope.OWN_LISTENER, Scope.BRIDGE, Scope.PLUGIN
_TEXT, _SWITCH, _NUMBER, _WORDS = Kind.TEXT, Kind.SWITCH, Kind.NUMBER, Kind.WORDS
_HONOURED, _MAPPED = Answer.HONOURED, Answer.MAPPED
_NO_EFFECT, _REFUSED = Answer.NO_EFFECT, Answer.REFUSED

_NO_PSK = (
    "Isthmus has no pre-shared keys: it runs on Python 3.11 too, whose TLS has none; use "
    "certificates"
)
_NO_ENGINE = "Python's TLS has no OpenSSL engines; put the key into a file"
_NO_TLS13_CIPHERS = "Python's TLS cannot choose among the ciphers of TLS 1.3; remove the line"
_PLUGINS = (
    "`mosquitto_password_file.so` and `mosquitto_acl_file.so` are `auth.password_file` and "
    "`auth.acl_file`; all other plugins are C code for Mosquitto; see [security](security.md)"
)

GENERAL = (
    Option("include_dir", _GENERAL, _TEXT, _HONOURED,
           "reads the `*.conf` of the folder here", many=True),
    Option("per_listener_settings", _GENERAL, _SWITCH, _HONOURED,
           "`auth`, `allow_empty_client_id` and `auto_id_prefix` of each listener instead of "
           "one for all", many=True),
    Option("port", _GENERAL, _NUMBER, _HONOURED,
           "`listeners[*].bind` of the default listener", low=1, high=65_535, many=True),
    Option("bind_address", _GENERAL, _TEXT, _HONOURED,
           "`listeners[*].bind` of the default listener"),
    Option("max_inflight_messages", _GENERAL, _NUMBER, _HONOURED,
           "`broker.max_inflight` and `broker.receive_maximum`, and the same of every connector; "
           "20 if not set, 0 is 65535", high=65_535, many=True),
    Option("max_inflight_bytes", _GENERAL, _NUMBER, _REFUSED,
           "0 is fine; what is on its way is bounded by number, not by bytes: set "
           "max_inflight_messages, and max_packet_size for how big each may be", many=True),
    Option("max_queued_messages", _GENERAL, _NUMBER, _HONOURED,
           "`broker.limits.queued_messages`; 1000 if not set, 0 leaves "
           "`broker.limits.queued_bytes` as the only bound. The queue of a bridge is "
           "`routes.*.queue`: when it is full, publishers wait", many=True),
    Option("max_queued_bytes", _GENERAL, _NUMBER, _HONOURED,
           "`broker.limits.queued_bytes`; 0 is its default, as memory is always bounded",
           many=True),
    Option("max_packet_size", _GENERAL, _NUMBER, _HONOURED,
           "`broker.max_packet_size` and `connectors.*.max_packet_size`; 2000000 if not set, as "
           "in 2.1", low=20, many=True),
    Option("message_size_limit", _GENERAL, _NUMBER, _HONOURED,
           "`broker.max_payload`; 0 is no limit", low=0, high=268_435_455, many=True),
    Option("max_keepalive", _GENERAL, _NUMBER, _HONOURED,
           "`broker.max_keepalive`; 0 is no limit", low=0, high=65_535, many=True),
    Option("global_max_clients", _GENERAL, _NUMBER, _HONOURED,
           "`broker.limits.sessions`; -1 is its default", many=True),
    Option("global_max_connections", _GENERAL, _NUMBER, _HONOURED,
           "`broker.limits.connections`; -1 is its default", many=True),
    Option("queue_qos0_messages", _GENERAL, _SWITCH, _HONOURED,
           "`broker.queue_qos0`, and `routes.*.queue_qos0` for what leaves over bridges",
           many=True),
    Option("upgrade_outgoing_qos", _GENERAL, _SWITCH, _HONOURED,
           "`broker.upgrade_outgoing_qos`, and `routes.*.qos` instead of `routes.*.max_qos` for "
           "what leaves over bridges", many=True),
    Option("retain_available", _GENERAL, _SWITCH, _HONOURED, "`broker.retain_available`",
           many=True),
    Option("retain_expiry_interval", _GENERAL, _NUMBER, _HONOURED,
           "`broker.retain_expiry`, in minutes", low=1, many=True),
    Option("check_retain_source", _GENERAL, _SWITCH, _HONOURED, "`broker.check_retain_source`",
           many=True),
    Option("clientid_prefixes", _GENERAL, _TEXT, _HONOURED, "`broker.client_id_prefixes`"),
    Option("persistent_client_expiration", _GENERAL, _WORDS, _HONOURED,
           "`broker.max_session_expiry`; units s, h, d, w, m (30 days), y", many=True),
    Option("persistence", _GENERAL, _SWITCH, _MAPPED,
           "`broker.data` is `persistence_location`, else the working folder. Sessions, what waits "
           "for them and retained messages are written there at once, not in intervals",
           aliases=("retained_persistence",), many=True),
    Option("persistence_location", _GENERAL, _TEXT, _HONOURED, "`broker.data`"),
    Option("persistence_file", _GENERAL, _TEXT, _NO_EFFECT,
           "the content of a `mosquitto.db` is not imported"),
    Option("autosave_interval", _GENERAL, _NUMBER, _NO_EFFECT,
           "there is no save in intervals; see `persistence`", many=True),
    Option("autosave_on_changes", _GENERAL, _SWITCH, _NO_EFFECT,
           "there is no save in intervals; see `persistence`", many=True),
    Option("sys_interval", _GENERAL, _NUMBER, _HONOURED, "`broker.sys_interval`",
           low=0, high=65_535, many=True),
    Option("set_tcp_nodelay", _GENERAL, _SWITCH, _NO_EFFECT,
           "always on, for bridges too; writes are joined here", many=True),
    Option("log_dest", _GENERAL, _WORDS, _HONOURED,
           "`log.to` and `log.file`; `dlt` and `android` are errors, as in most builds of "
           "Mosquitto", many=True),
    Option("log_type", _GENERAL, _WORDS, _MAPPED,
           "`log.level`: the least severe type that is named; `none` empties `log.to`", many=True),
    Option("log_facility", _GENERAL, _NUMBER, _HONOURED, "`log.syslog_facility`",
           low=0, high=7, many=True),
    Option("log_timestamp", _GENERAL, _SWITCH, _HONOURED, "`log.timestamp`", many=True),
    Option("log_timestamp_format", _GENERAL, _TEXT, _HONOURED,
           "`log.timestamp_format`; not set, the time is that of ISO 8601, in UTC"),
    Option("connection_messages", _GENERAL, _SWITCH, _HONOURED,
           "`log.clients`: `all` if it is true or not set, else `none`", many=True),
    Option("pid_file", _GENERAL, _TEXT, _HONOURED, "`pid_file`"),
    Option("user", _GENERAL, _TEXT, _HONOURED,
           "`user`, if root starts it; not set, it stays who starts it"),
    Option("allow_duplicate_messages", _GENERAL, _SWITCH, _NO_EFFECT,
           "a client gets one copy of a message however many of its subscriptions match, and a "
           "far side one, by the first `topic` line that matches", many=True),
    Option("memory_limit", _GENERAL, _NUMBER, _REFUSED,
           "0 is fine; here each thing that takes memory has its own limit, so that what one "
           "client takes is refused to it and not to all: see [limits](limits.md), and "
           "`MemoryMax=` in the unit of systemd for the whole process", many=True),
    Option("retry_interval", _GENERAL, _WORDS, _NO_EFFECT, "Mosquitto ignores it as well",
           many=True),
    Option("websockets_log_level", _GENERAL, _NUMBER, _NO_EFFECT,
           "WebSocket is no other library here", many=True),
    Option("packet_buffer_size", _GENERAL, _NUMBER, _NO_EFFECT, "buffers grow as needed",
           aliases=("websockets_headers_size",), low=0, high=65_535, many=True),
    Option("enable_control_api", _GENERAL, _SWITCH, _REFUSED,
           "false is fine; there is no `$CONTROL`: use `isthmus reload` and `isthmus status`",
           many=True),
)  # fmt: skip

SECURITY = (
    Option("allow_anonymous", _SECURITY, _SWITCH, _HONOURED,
           "`auth.allow_anonymous`, and on public addresses `auth.insecure_public_anonymous` with "
           "a warning; not set, it is true without any listener and else false", many=True),
    Option("password_file", _SECURITY, _TEXT, _HONOURED, "`auth.password_file`"),
    Option("acl_file", _SECURITY, _TEXT, _HONOURED, "`auth.acl_file`"),
    Option("psk_file", _SECURITY, _TEXT, _REFUSED, _NO_PSK),
    Option("allow_zero_length_clientid", _SECURITY, _SWITCH, _HONOURED,
           "`broker.allow_empty_client_id`, or that of `listeners[*]`", many=True),
    Option("auto_id_prefix", _SECURITY, _TEXT, _HONOURED,
           "`broker.auto_id_prefix`, or that of `listeners[*]`; `auto-` if not set"),
    Option("plugin", _SECURITY, _WORDS, _REFUSED, _PLUGINS, aliases=("auth_plugin",), many=True),
    Option("global_plugin", _GENERAL, _WORDS, _REFUSED, _PLUGINS, many=True),
    Option("plugin_load", _GENERAL, _WORDS, _REFUSED, _PLUGINS, many=True),
    Option("plugin_use", _OWN, _TEXT, _HONOURED,
           "the `listeners[*].auth` that the plugin with this name stands for; one that is refused "
           "is refused at its `plugin_load`", many=True),
    Option("plugin_opt_*", _PLUGIN, _TEXT, _HONOURED,
           "`plugin_opt_password_file` and `plugin_opt_acl_file` of the two plugins above",
           aliases=("auth_opt_*",), many=True),
    Option("auth_plugin_deny_special_chars", _PLUGIN, _SWITCH, _NO_EFFECT,
           "names with `+` or `#` never widen a pattern", many=True),
)  # fmt: skip

LISTENER = (
    Option("listener", _GENERAL, _WORDS, _HONOURED,
           "`listeners[*].bind`; port 0 and a path is a Unix socket", many=True),
    Option("protocol", _LISTENER, _WORDS, _HONOURED,
           "`listeners[*].transport`; `websockets` with any path. A listener with `http_api` is "
           "left out, with a warning", many=True),
    Option("socket_domain", _LISTENER, _WORDS, _HONOURED,
           "`listeners[*].bind` to all addresses of the family", many=True),
    Option("bind_interface", _LISTENER, _TEXT, _HONOURED,
           "`listeners[*].interface`; a client on this machine comes through `lo`, whatever "
           "address it connects to"),
    Option("mount_point", _LISTENER, _TEXT, _HONOURED, "`listeners[*].mount_point`"),
    Option("max_connections", _LISTENER, _NUMBER, _HONOURED,
           "`listeners[*].max_connections`; -1 is no limit", many=True),
    Option("max_qos", _LISTENER, _NUMBER, _HONOURED, "`listeners[*].max_qos`",
           aliases=("maximum_qos",), low=0, high=2, many=True),
    Option("max_topic_alias", _OWN, _NUMBER, _HONOURED,
           "`listeners[*].topic_alias_maximum`; 10 if not set",
           low=0, high=65_535, many=True),
    Option("max_topic_alias_broker", _OWN, _NUMBER, _HONOURED,
           "`listeners[*].topic_aliases_out`; 10 if not set",
           low=0, high=65_535, many=True),
    Option("accept_protocol_versions", _OWN, _WORDS, _HONOURED,
           "`listeners[*].versions`: 3 is 3.1, 4 is 3.1.1, 5 is 5", many=True),
    Option("use_username_as_clientid", _LISTENER, _SWITCH, _HONOURED,
           "`listeners[*].username_as_client_id`", many=True),
    Option("listener_allow_anonymous", _OWN, _SWITCH, _HONOURED,
           "`listeners[*].auth` with this `allow_anonymous`", many=True),
    Option("listener_auto_id_prefix", _OWN, _TEXT, _HONOURED,
           "`listeners[*].auto_id_prefix`"),
    Option("certfile", _LISTENER, _TEXT, _HONOURED, "`listeners[*].tls.certificate`"),
    Option("keyfile", _LISTENER, _TEXT, _HONOURED, "`listeners[*].tls.key`"),
    Option("cafile", _LISTENER, _TEXT, _HONOURED, "`listeners[*].tls.client_ca`"),
    Option("capath", _LISTENER, _TEXT, _HONOURED,
           "`listeners[*].tls.client_ca`, where no `cafile` is"),
    Option("crlfile", _LISTENER, _TEXT, _HONOURED, "`listeners[*].tls.crl`"),
    Option("ciphers", _LISTENER, _TEXT, _HONOURED, "`listeners[*].tls.ciphers`"),
    Option("ciphers_tls1.3", _LISTENER, _TEXT, _REFUSED, _NO_TLS13_CIPHERS),
    Option("tls_version", _LISTENER, _TEXT, _HONOURED,
           "`listeners[*].tls.min_version`; below 1.2 it is 1.2, with a note"),
    Option("require_certificate", _LISTENER, _SWITCH, _HONOURED,
           "`listeners[*].tls.require_client_certificate`", many=True),
    Option("use_identity_as_username", _LISTENER, _SWITCH, _HONOURED,
           "`auth.identity: common_name`", many=True),
    Option("use_subject_as_username", _LISTENER, _SWITCH, _HONOURED,
           "`auth.identity: subject`", many=True),
    Option("disable_client_cert_date_checks", _OWN, _SWITCH, _HONOURED,
           "true is `listeners[*].tls.verify_client_dates: false`, with a warning", many=True),
    Option("dhparamfile", _LISTENER, _TEXT, _NO_EFFECT, "Mosquitto 2.1 needs it no more either",
           many=True),
    Option("psk_hint", _LISTENER, _TEXT, _REFUSED, _NO_PSK),
    Option("tls_engine", _LISTENER, _TEXT, _REFUSED, _NO_ENGINE),
    Option("tls_engine_kpass_sha1", _LISTENER, _TEXT, _REFUSED, _NO_ENGINE),
    Option("tls_keyform", _LISTENER, _TEXT, _REFUSED, f"`pem` is fine; `engine`: {_NO_ENGINE}"),
    Option("websockets_origin", _OWN, _TEXT, _HONOURED,
           "`listeners[*].origins`; not set it is every site, with a warning", many=True),
    Option("http_dir", _OWN, _TEXT, _REFUSED, "files are not served; use a web server"),
    Option("enable_proxy_protocol", _OWN, _NUMBER, _HONOURED,
           "`listeners[*].proxy_protocol`, and on public addresses `listeners[*].trusted_proxies` "
           "with a warning",
           low=1, high=2, many=True),
    Option("proxy_protocol_v2_require_tls", _OWN, _SWITCH, _REFUSED,
           "what a proxy says about its own TLS is not looked at", many=True),
)  # fmt: skip

BRIDGE = (
    Option("connection", _GENERAL, _WORDS, _HONOURED,
           "a connector of this name, with `-` for what a name may not hold", many=True),
    Option("address", _BRIDGE, _WORDS, _HONOURED,
           "`connectors.*.url`, several as a list; with TLS it is mqtts://",
           aliases=("addresses",)),
    Option("topic", _BRIDGE, _WORDS, _HONOURED,
           "a route for each direction; see [Topic lines](#topic-lines)", many=True),
    Option("bridge_protocol_version", _BRIDGE, _TEXT, _HONOURED,
           "`connectors.*.version`; 3.1.1 if not set", many=True),
    Option("remote_clientid", _BRIDGE, _TEXT, _HONOURED,
           "`connectors.*.client_id`; `hostname.connection` if not set", aliases=("clientid",)),
    Option("remote_username", _BRIDGE, _TEXT, _HONOURED, "`connectors.*.username`",
           aliases=("username",)),
    Option("remote_password", _BRIDGE, _TEXT, _HONOURED, "`connectors.*.password`",
           aliases=("password",)),
    Option("local_clientid", _BRIDGE, _TEXT, _HONOURED,
           "`connectors.*.local_client_id`; `local.` and the remote one if not set"),
    Option("local_username", _BRIDGE, _TEXT, _NO_EFFECT,
           "Mosquitto checks no rights of bridges either; `routes.*.check_as` can"),
    Option("local_password", _BRIDGE, _TEXT, _NO_EFFECT, "Mosquitto never uses it"),
    Option("cleansession", _BRIDGE, _SWITCH, _HONOURED,
           "`connectors.*.clean_start`; false if not set, and then with MQTT 5 the session never "
           "expires. It is about the session at the far side: messages that leave wait while the "
           "link is down also where it is true, with a note; see `local_cleansession`", many=True),
    Option("local_cleansession", _BRIDGE, _SWITCH, _NO_EFFECT,
           "false is what is done; with true too, and if `cleansession true` stands for it, "
           "messages of QoS 1 and 2 wait while the link is down: nothing is thrown away that was "
           "acknowledged", many=True),
    Option("bridge_session_expiry_interval", _BRIDGE, _NUMBER, _HONOURED,
           "`connectors.*.session_expiry`", low=0, many=True),
    Option("bridge_receive_maximum", _BRIDGE, _NUMBER, _HONOURED,
           "`connectors.*.receive_maximum`; `max_inflight_messages` if not set",
           low=1, high=65_535, many=True),
    Option("bridge_max_topic_alias", _BRIDGE, _NUMBER, _HONOURED,
           "`connectors.*.topic_alias_maximum` and `connectors.*.topic_aliases_out`; 10 if not "
           "set", low=0, high=65_535, many=True),
    Option("bridge_max_packet_size", _BRIDGE, _NUMBER, _HONOURED,
           "`connectors.*.max_packet_size_out`; 0 is no limit but that of the far side", low=0,
           many=True),
    Option("bridge_outgoing_retain", _BRIDGE, _SWITCH, _HONOURED,
           "false is `routes.*.retain: clear`", many=True),
    Option("bridge_attempt_unsubscribe", _BRIDGE, _SWITCH, _HONOURED,
           "`connectors.*.unsubscribe_out`, with the far filters of lines that only send; true if "
           "not set", many=True),
    Option("try_private", _BRIDGE, _SWITCH, _HONOURED,
           "`connectors.*.bridge_bit`; true if not set", many=True),
    Option("keepalive_interval", _BRIDGE, _NUMBER, _HONOURED,
           "`connectors.*.keepalive`; 60 if not set, at least 5", high=65_535, many=True),
    Option("restart_timeout", _BRIDGE, _WORDS, _MAPPED,
           "`connectors.*.reconnect`; 5 and 30 if not set. Every wait is random up to its bound, "
           "so that bridges do not return together. A third number is "
           "`connectors.*.reconnect.stable`", many=True),
    Option("start_type", _BRIDGE, _WORDS, _HONOURED,
           "`connectors.*.start`; `manual` is an error in Mosquitto too", many=True),
    Option("threshold", _BRIDGE, _NUMBER, _HONOURED,
           "`connectors.*.lazy.threshold`; 10 if not set, at least 1", many=True),
    Option("idle_timeout", _BRIDGE, _NUMBER, _HONOURED,
           "`connectors.*.lazy.idle_timeout`; 60 if not set, at least 1", many=True),
    Option("round_robin", _BRIDGE, _SWITCH, _HONOURED, "`connectors.*.round_robin`", many=True),
    Option("bridge_bind_address", _BRIDGE, _TEXT, _HONOURED, "`connectors.*.bind_address`"),
    Option("bridge_tcp_keepalive", _BRIDGE, _WORDS, _HONOURED, "`connectors.*.tcp_keepalive`",
           many=True),
    Option("bridge_tcp_user_timeout", _BRIDGE, _NUMBER, _HONOURED,
           "`connectors.*.tcp_user_timeout`, in milliseconds", low=0, many=True),
    Option("bridge_reload_type", _BRIDGE, _WORDS, _NO_EFFECT,
           "a reload takes effect at once and touches only what changed", many=True),
    Option("notifications", _BRIDGE, _SWITCH, _HONOURED, "`connectors.*.notifications.enabled`; "
           "true if not set", many=True),
    Option("notifications_local_only", _BRIDGE, _SWITCH, _HONOURED,
           "`connectors.*.notifications.local_only`", many=True),
    Option("notification_topic", _BRIDGE, _TEXT, _HONOURED,
           "`connectors.*.notifications.topic`; `$SYS/broker/connection/CLIENTID/state` if not "
           "set"),
    Option("bridge_cafile", _BRIDGE, _TEXT, _HONOURED, "`connectors.*.tls.ca`; TLS is on"),
    Option("bridge_capath", _BRIDGE, _TEXT, _HONOURED,
           "`connectors.*.tls.ca`, where no `bridge_cafile` is; TLS is on"),
    Option("bridge_tls_use_os_certs", _BRIDGE, _SWITCH, _HONOURED,
           "TLS is on, with the authorities of the system", many=True),
    Option("bridge_certfile", _BRIDGE, _TEXT, _HONOURED, "`connectors.*.tls.certificate`"),
    Option("bridge_keyfile", _BRIDGE, _TEXT, _HONOURED, "`connectors.*.tls.key`"),
    Option("bridge_insecure", _BRIDGE, _SWITCH, _HONOURED,
           "true is `connectors.*.tls.verify_hostname: false`, with a warning", many=True),
    Option("bridge_alpn", _BRIDGE, _TEXT, _HONOURED, "`connectors.*.tls.alpn`"),
    Option("bridge_tls_version", _BRIDGE, _TEXT, _HONOURED,
           "`connectors.*.tls.min_version`; below 1.2 it is 1.2, with a note"),
    Option("bridge_ciphers", _BRIDGE, _TEXT, _HONOURED, "`connectors.*.tls.ciphers`"),
    Option("bridge_ciphers_tls1.3", _BRIDGE, _TEXT, _REFUSED, _NO_TLS13_CIPHERS),
    Option("bridge_require_ocsp", _BRIDGE, _SWITCH, _REFUSED,
           "Python's TLS does not look at stapled OCSP answers; remove the line", many=True),
    Option("bridge_identity", _BRIDGE, _TEXT, _REFUSED, _NO_PSK),
    Option("bridge_psk", _BRIDGE, _TEXT, _REFUSED, _NO_PSK),
)  # fmt: skip

SECTIONS = {
    "Broker": GENERAL,
    "Users and rights": SECURITY,
    "Listeners": LISTENER,
    "Bridges": BRIDGE,
}
"""The table as the documentation shows it."""

OPTIONS: dict[str, Option] = {
    name: option
    for rows in SECTIONS.values()
    for option in rows
    for name in (option.name, *option.aliases)
}
"""Every name, aliases too. Names that end with `*` stand for all with that beginning."""


def find(name: str) -> Option | None:
    """The option with this name, if there is one."""
    for beginning in ("plugin_opt_", "auth_opt_"):
        if name.startswith(beginning) and len(name) > len(beginning):
            return OPTIONS[f"{beginning}*"]
    return None if name.endswith("*") else OPTIONS.get(name)


def table(section: str) -> str:
    """The rows of a section as Markdown."""
    lines = ["| option | what is done | here |", "|---|---|---|"]
    for option in SECTIONS[section]:
        names = ", ".join(f"`{name}`" for name in (option.name, *option.aliases))
        lines.append(f"| {names} | {option.answer.value} | {option.becomes} |")
    return "\n".join(lines) + "\n"
