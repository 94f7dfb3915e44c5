"""Every option of the table, and what it becomes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from isthmus.app.mosquitto.draft import Draft
from isthmus.app.mosquitto.option import Answer
from isthmus.app.mosquitto.options import OPTIONS
from isthmus.app.mosquitto.translation import translate

L = "listener 1884 127.0.0.1\n"
C = "connection far\naddress far.example\ntopic # out 1\n"
TLS = f"{L}certfile /c.pem\nkeyfile /k.pem\n"
BTLS = f"{C}bridge_cafile /ca.pem\n"

HONOURED: list[tuple[str, str, str, Any]] = [
    # broker
    ("max_inflight_messages", "max_inflight_messages 7\n", "broker.max_inflight", 7),
    ("max_inflight_messages", "max_inflight_messages 7\n", "broker.receive_maximum", 7),
    ("max_inflight_messages", "max_inflight_messages 0\n", "broker.max_inflight", 65_535),
    ("max_inflight_messages", f"max_inflight_messages 7\n{C}", "connectors.far.max_inflight", 7),
    ("max_queued_messages", "max_queued_messages 5\n", "broker.limits.queued_messages", 5),
    ("max_queued_messages", "max_queued_messages 0\n", "broker.limits.queued_messages", 10**9),
    ("max_queued_bytes", "max_queued_bytes 9999\n", "broker.limits.queued_bytes", 9999),
    ("max_packet_size", "max_packet_size 4096\n", "broker.max_packet_size", 4096),
    ("max_packet_size", f"max_packet_size 4096\n{C}", "connectors.far.max_packet_size", 4096),
    ("message_size_limit", "message_size_limit 99\n", "broker.max_payload", 99),
    ("max_keepalive", "max_keepalive 90\n", "broker.max_keepalive", "90s"),
    ("global_max_clients", "global_max_clients 9\n", "broker.limits.sessions", 9),
    ("global_max_connections", "global_max_connections 9\n", "broker.limits.connections", 9),
    ("queue_qos0_messages", "queue_qos0_messages true\n", "broker.queue_qos0", True),
    ("queue_qos0_messages", f"queue_qos0_messages true\n{C}", "routes.far-1.queue_qos0", True),
    ("upgrade_outgoing_qos", "upgrade_outgoing_qos true\n", "broker.upgrade_outgoing_qos", True),
    ("upgrade_outgoing_qos", f"upgrade_outgoing_qos true\n{C}", "routes.far-1.qos", 1),
    ("retain_available", "retain_available false\n", "broker.retain_available", False),
    ("retain_expiry_interval", "retain_expiry_interval 5\n", "broker.retain_expiry", "5m"),
    ("check_retain_source", "check_retain_source false\n", "broker.check_retain_source", False),
    ("clientid_prefixes", "clientid_prefixes secure-\n", "broker.client_id_prefixes", ["secure-"]),
    ("persistent_client_expiration", "persistent_client_expiration 2m\n",
     "broker.max_session_expiry", "5184000s"),
    ("persistence", "persistence true\npersistence_location /var/lib/m/\n", "broker.data",
     "/var/lib/m"),
    ("retained_persistence", "retained_persistence true\n", "broker.data", str(Path.cwd())),
    ("persistence_location", "persistence true\npersistence_location d\n", "broker.data",
     str(Path("d").absolute())),
    ("sys_interval", "sys_interval 0\n", "broker.sys_interval", "0s"),
    ("log_dest", "log_dest stdout\nlog_dest syslog\n", "log.to", ["stdout", "syslog"]),
    ("log_dest", "log_dest file /var/log/m.log\n", "log",
     {"file": "/var/log/m.log", "to": [], "clients": "all"}),
    ("log_dest", "log_dest stderr\nlog_dest none\n", "log.to", []),
    ("log_dest", "log_dest topic\n", "log.to", ["topic"]),
    ("log_type", "log_type error\nlog_type warning\n", "log.level", "warning"),
    ("log_type", "log_type all\n", "log.level", "debug"),
    ("log_type", "log_type none\n", "log.to", []),
    ("log_facility", "log_facility 3\n", "log.syslog_facility", "local3"),
    ("pid_file", "pid_file /run/m.pid\n", "pid_file", "/run/m.pid"),
    # users and rights
    ("allow_anonymous", "allow_anonymous false\n", "auth.allow_anonymous", False),
    ("allow_anonymous", "", "auth.allow_anonymous", True),
    ("allow_anonymous", L, "auth.allow_anonymous", False),
    ("allow_anonymous", "listener 1883\nallow_anonymous true\n", "auth.insecure_public_anonymous",
     True),
    ("allow_anonymous", f"{L}allow_anonymous true\n", "auth", {"allow_anonymous": True}),
    ("per_listener_settings",
     f"per_listener_settings true\n{L}allow_anonymous true\nlistener 1885 ::1\npassword_file /p\n",
     "listeners", [
         {"bind": "127.0.0.1:1884", "auth": {"allow_anonymous": True}},
         {"bind": "[::1]:1885", "auth": {"allow_anonymous": False, "password_file": "/p"}},
     ]),
    ("password_file", "password_file /p\n", "auth.password_file", "/p"),
    ("acl_file", "acl_file a\n", "auth.acl_file", str(Path("a").absolute())),
    ("allow_zero_length_clientid", "allow_zero_length_clientid false\n",
     "broker.allow_empty_client_id", False),
    ("auto_id_prefix", "auto_id_prefix x-\n", "broker.auto_id_prefix", "x-"),
    ("listener_auto_id_prefix", f"{L}listener_auto_id_prefix y-\n", "listeners.0.auto_id_prefix",
     "y-"),
    ("allow_zero_length_clientid",
     f"per_listener_settings true\n{L}listener 1885 ::1\nallow_zero_length_clientid false\n",
     "listeners", [
         {"bind": "127.0.0.1:1884", "auth": {"allow_anonymous": False}},
         {"bind": "[::1]:1885", "auth": {"allow_anonymous": False},
          "allow_empty_client_id": False},
     ]),
    ("auto_id_prefix", f"per_listener_settings true\n{L}auto_id_prefix x-\n",
     "listeners.0.auto_id_prefix", "x-"),
    ("listener_allow_anonymous",
     f"password_file /p\n{L}listener_allow_anonymous true\n", "listeners.0.auth",
     {"allow_anonymous": True, "password_file": "/p"}),
    ("plugin", "plugin /usr/lib/mosquitto_password_file.so\nplugin_opt_password_file /p\n",
     "auth.password_file", "/p"),
    ("auth_plugin", "auth_plugin mosquitto_acl_file.so\nauth_opt_acl_file /a\n",
     "auth.acl_file", "/a"),
    ("auth_opt_*", "auth_plugin mosquitto_acl_file.so\nauth_opt_acl_file /a\n",
     "auth.acl_file", "/a"),
    ("plugin_opt_*", "global_plugin mosquitto_acl_file.so\nplugin_opt_acl_file /a\n",
     "auth.acl_file", "/a"),
    ("global_plugin", "global_plugin mosquitto_acl_file.so\nplugin_opt_acl_file /a\n",
     "auth.acl_file", "/a"),
    ("plugin_load", (f"plugin_load x mosquitto_acl_file.so\nplugin_opt_acl_file /a\n{L}"
     "plugin_use x\n"), "listeners.0.auth.acl_file", "/a"),
    ("plugin_use", (f"plugin_load x mosquitto_acl_file.so\nplugin_opt_acl_file /a\n{L}"
     "plugin_use x\n"), "listeners.0.auth.acl_file", "/a"),
    # listeners
    ("listener", "", "listeners", [{"bind": "localhost:1883"}]),
    ("listener", "listener 1885\n", "listeners.0.bind", "*:1885"),
    ("listener", "listener 1885 fe80::1\n", "listeners.0.bind", "[fe80::1]:1885"),
    ("listener", "listener 1885 # all\n", "listeners.0.bind", "*:1885"),
    ("listener", "listener 0 /run/m.sock\n", "listeners.0.bind", "unix:/run/m.sock"),
    ("port", "port 1885\n", "listeners.0.bind", "*:1885"),
    ("bind_address", "bind_address 127.0.0.1\n", "listeners.0.bind", "127.0.0.1:1883"),
    ("bind_address", "port 1885\nbind_address ::1\n", "listeners.0.bind", "[::1]:1885"),
    ("protocol", f"{L}protocol websockets\n", "listeners.0.transport", "websocket"),
    ("protocol", f"{L}protocol websockets\n", "listeners.0.path", "*"),
    ("protocol", f"{L}protocol websockets\n", "listeners.0.origins", ["*"]),
    ("protocol", f"{L}listener 1885\nprotocol http_api\n", "listeners",
     [{"bind": "127.0.0.1:1884"}]),
    ("socket_domain", "listener 1885\nsocket_domain ipv4\n", "listeners.0.bind", "0.0.0.0:1885"),
    ("socket_domain", "listener 1885\nsocket_domain ipv6\n", "listeners.0.bind", "[::]:1885"),
    ("bind_interface", f"{L}bind_interface eth0\n", "listeners.0",
     {"bind": "127.0.0.1:1884", "interface": "eth0"}),
    ("bind_interface", "listener 0 /run/m.sock\nbind_interface eth0\n", "listeners.0",
     {"bind": "unix:/run/m.sock"}),
    ("mount_point", f"{L}mount_point m/\n", "listeners.0.mount_point", "m/"),
    ("max_connections", f"{L}max_connections 8\n", "listeners.0.max_connections", 8),
    ("max_connections", f"{L}max_connections -1\n", "listeners", [{"bind": "127.0.0.1:1884"}]),
    ("max_qos", f"{L}max_qos 1\n", "listeners.0.max_qos", 1),
    ("maximum_qos", f"{L}maximum_qos 0\n", "listeners.0.max_qos", 0),
    ("max_topic_alias", f"{L}max_topic_alias 50\nlistener 1885 ::1\n", "listeners",
     [{"bind": "127.0.0.1:1884", "topic_alias_maximum": 50}, {"bind": "[::1]:1885"}]),
    ("accept_protocol_versions", f"{L}accept_protocol_versions 4, 5\n", "listeners.0.versions",
     ["3.1.1", "5"]),
    ("use_username_as_clientid", f"{L}listener 1885 ::1\nuse_username_as_clientid true\n",
     "listeners",
     [{"bind": "127.0.0.1:1884"}, {"bind": "[::1]:1885", "username_as_client_id": True}]),
    ("certfile", TLS, "listeners.0.tls", {"certificate": "/c.pem", "key": "/k.pem"}),
    ("keyfile", TLS, "listeners.0.tls.key", "/k.pem"),
    ("cafile", f"{TLS}cafile /ca.pem\n", "listeners.0.tls.client_ca", "/ca.pem"),
    ("capath", f"{TLS}capath /cas\n", "listeners.0.tls.client_ca", "/cas"),
    ("crlfile", f"{TLS}crlfile /crl.pem\n", "listeners.0.tls.crl", "/crl.pem"),
    ("ciphers", f"{TLS}ciphers HIGH:!aNULL\n", "listeners.0.tls.ciphers", "HIGH:!aNULL"),
    ("tls_version", f"{TLS}tls_version tlsv1.3\n", "listeners.0.tls.min_version", "1.3"),
    ("require_certificate", f"{TLS}require_certificate true\n",
     "listeners.0.tls.require_client_certificate", True),
    ("disable_client_cert_date_checks",
     f"{TLS}cafile /ca.pem\ndisable_client_cert_date_checks true\n",
     "listeners.0.tls.verify_client_dates", False),
    ("disable_client_cert_date_checks",
     f"{TLS}cafile /ca.pem\ndisable_client_cert_date_checks false\n", "listeners.0.tls",
     {"certificate": "/c.pem", "key": "/k.pem", "client_ca": "/ca.pem"}),
    ("use_identity_as_username", (f"listener 1883 ::1\n{TLS}cafile /ca\n"
     "use_identity_as_username true\n"), "auth.identity", "common_name"),
    ("use_subject_as_username", f"{TLS}capath /ca\nuse_subject_as_username true\n",
     "auth.identity", "subject"),
    ("use_subject_as_username", (f"password_file /p\n{TLS}cafile /ca\n"
     f"use_subject_as_username true\n{TLS.replace('1884', '1885')}cafile /ca\n"),
     "listeners.0.auth",
     {"allow_anonymous": False, "identity": "subject", "password_file": "/p"}),
    ("tls_keyform", f"{TLS}tls_keyform pem\n", "listeners.0.tls.key", "/k.pem"),
    ("websockets_origin", (f"{L}protocol websockets\nwebsockets_origin http://a\n"
     "websockets_origin http://b\n"), "listeners.0.origins", ["http://a", "http://b"]),
    ("enable_proxy_protocol", f"{L}enable_proxy_protocol 2\n", "listeners.0.proxy_protocol", "v2"),
    ("max_topic_alias_broker", (f"{L}max_topic_alias_broker 7\nlistener 1885 ::1\n"
     "max_topic_alias_broker 3\n"), "listeners", [
         {"bind": "127.0.0.1:1884", "topic_aliases_out": 7},
         {"bind": "[::1]:1885", "topic_aliases_out": 3},
     ]),
    ("log_timestamp", "log_timestamp false\n", "log.timestamp", False),
    ("log_timestamp_format", "log_timestamp_format %Y-%m-%dT%H:%M:%S\n", "log.timestamp_format",
     "%Y-%m-%dT%H:%M:%S"),
    ("connection_messages", "connection_messages false\n", "log.clients", "none"),
    ("connection_messages", "connection_messages true\n", "log.clients", "all"),
    ("user", "user mosquitto\n", "user", "mosquitto"),
    # bridges
    ("connection", "connection a.b\naddress x\ntopic #\n", "connectors.a-b.url", "mqtt://x:1883"),
    ("connection", "connection local\naddress x\ntopic #\n", "connectors.local-2.url",
     "mqtt://x:1883"),
    ("address", "connection a\naddress x:1 y ::1:2\ntopic #\n", "connectors.a.url",
     ["mqtt://x:1", "mqtt://y:1883", "mqtt://[::1]:2"]),
    ("addresses", "connection a\naddresses x # one\ntopic #\n", "connectors.a.url",
     "mqtt://x:1883"),
    ("topic", C, "routes.far-1.topics", ["#"]),
    ("topic", C, "connectors.far.join_filters", False),
    ("bridge_protocol_version", C, "connectors.far.version", "3.1.1"),
    ("bridge_protocol_version", f"{C}bridge_protocol_version mqttv50\n", "connectors.far.version",
     "5"),
    ("remote_clientid", C, "connectors.far.client_id", f"{socket.gethostname()}.far"),
    ("remote_clientid", f"{C}remote_clientid me\n", "connectors.far.client_id", "me"),
    ("clientid", f"{C}clientid me\n", "connectors.far.client_id", "me"),
    ("remote_username", f"{C}remote_username me\n", "connectors.far.username", "me"),
    ("username", f"{C}username me\n", "connectors.far.username", "me"),
    ("remote_password", f"{C}remote_password me\n", "connectors.far.password", "me"),
    ("password", f"{C}password me\n", "connectors.far.password", "me"),
    ("local_clientid", f"{C}local_clientid me\n", "connectors.far.local_client_id", "me"),
    ("local_clientid", f"{C}remote_clientid me\n", "connectors.far.local_client_id", "local.me"),
    ("cleansession", f"{C}cleansession true\n", "connectors.far.clean_start", True),
    ("cleansession", f"{C}cleansession true\n", "connectors.far.session_expiry", "0s"),
    ("cleansession", C, "connectors.far.session_expiry", "never"),
    ("bridge_session_expiry_interval", f"{C}bridge_session_expiry_interval 60\n",
     "connectors.far.session_expiry", "60s"),
    ("bridge_receive_maximum", C, "connectors.far.receive_maximum", 20),
    ("bridge_receive_maximum", f"{C}bridge_receive_maximum 5\n", "connectors.far.receive_maximum",
     5),
    ("bridge_max_topic_alias", f"{C}bridge_max_topic_alias 0\n",
     "connectors.far.topic_alias_maximum", 0),
    ("bridge_max_topic_alias", C, "connectors.far.topic_aliases_out", 10),
    ("bridge_max_packet_size", f"{C}bridge_max_packet_size 1000\n",
     "connectors.far.max_packet_size_out", 1000),
    ("bridge_outgoing_retain", f"{C}bridge_outgoing_retain false\n", "routes.far-1.retain",
     "clear"),
    ("bridge_attempt_unsubscribe",
     f"{C}topic a out 1 l/ r/\ntopic b in\ntopic b out\ntopic c both\n",
     "connectors.far.unsubscribe_out", ["#", "r/a"]),
    ("try_private", f"{C}try_private false\n", "connectors.far.bridge_bit", False),
    ("keepalive_interval", C, "connectors.far.keepalive", "60s"),
    ("keepalive_interval", f"{C}keepalive_interval 2\n", "connectors.far.keepalive", "5s"),
    ("restart_timeout", C, "connectors.far.reconnect", {"min": "5s", "max": "30s"}),
    ("restart_timeout", f"{C}restart_timeout 20\n", "connectors.far.reconnect",
     {"min": "20s", "max": "20s"}),
    ("restart_timeout", f"{C}restart_timeout 0 9000 7\n", "connectors.far.reconnect",
     {"min": "1s", "max": "7200s", "stable": "7s"}),
    ("start_type", f"{C}start_type once\n", "connectors.far.start", "once"),
    ("threshold", f"{C}start_type lazy\nthreshold 0\n", "connectors.far.lazy",
     {"threshold": 1, "idle_timeout": "60s"}),
    ("idle_timeout", f"{C}start_type lazy\nidle_timeout 9\n", "connectors.far.lazy",
     {"threshold": 10, "idle_timeout": "9s"}),
    ("round_robin", "connection far\naddress x y\ntopic #\nround_robin true\n",
     "connectors.far.round_robin", True),
    ("bridge_bind_address", f"{C}bridge_bind_address 10.0.0.7\n", "connectors.far.bind_address",
     "10.0.0.7"),
    ("bridge_tcp_keepalive", f"{C}bridge_tcp_keepalive 9 8 7\n", "connectors.far.tcp_keepalive",
     {"idle": "9s", "interval": "8s", "count": 7}),
    ("bridge_tcp_user_timeout", f"{C}bridge_tcp_user_timeout 1500\n",
     "connectors.far.tcp_user_timeout", "1500ms"),
    ("notifications", f"{C}notifications false\n", "connectors.far.notifications",
     {"enabled": False}),
    ("notification_topic", f"{C}remote_clientid me\n", "connectors.far.notifications",
     {"enabled": True, "topic": "$SYS/broker/connection/me/state"}),
    ("notification_topic", f"{C}notification_topic a/b\n", "connectors.far.notifications.topic",
     "a/b"),
    ("notifications_local_only", f"{C}notifications_local_only true\n",
     "connectors.far.notifications.local_only", True),
    ("bridge_cafile", BTLS, "connectors.far.tls", {"ca": "/ca.pem"}),
    ("bridge_cafile", BTLS, "connectors.far.url", "mqtts://far.example:1883"),
    ("bridge_capath", f"{C}bridge_capath /cas\n", "connectors.far.tls", {"ca": "/cas"}),
    ("bridge_tls_use_os_certs", f"{C}bridge_tls_use_os_certs true\n", "connectors.far.tls", {}),
    ("bridge_certfile", f"{BTLS}bridge_certfile /c.pem\n", "connectors.far.tls.certificate",
     "/c.pem"),
    ("bridge_keyfile", f"{BTLS}bridge_keyfile /k.pem\n", "connectors.far.tls.key", "/k.pem"),
    ("bridge_insecure", f"{BTLS}bridge_insecure true\n", "connectors.far.tls.verify_hostname",
     False),
    ("bridge_alpn", f"{BTLS}bridge_alpn mqtt\n", "connectors.far.tls.alpn", ["mqtt"]),
    ("bridge_tls_version", f"{BTLS}bridge_tls_version tlsv1.2\n",
     "connectors.far.tls.min_version", "1.2"),
    ("bridge_ciphers", f"{BTLS}bridge_ciphers HIGH\n", "connectors.far.tls.ciphers", "HIGH"),
]  # fmt: skip

NOTED = {
    "persistence_file": "persistence_file x.db\n",
    "autosave_interval": "autosave_interval 5\n",
    "autosave_on_changes": "autosave_on_changes true\n",
    "set_tcp_nodelay": "set_tcp_nodelay false\n",
    "allow_duplicate_messages": "allow_duplicate_messages true\n",
    "retry_interval": "retry_interval 20\n",
    "websockets_log_level": "websockets_log_level 7\n",
    "packet_buffer_size": "packet_buffer_size 1000\n",
    "websockets_headers_size": "websockets_headers_size 1000\n",
    "auth_plugin_deny_special_chars": "plugin mosquitto_acl_file.so\nplugin_opt_acl_file /a\n"
    "auth_plugin_deny_special_chars true\n",
    "dhparamfile": f"{L}dhparamfile x\n",
    "local_username": f"{C}local_username x\n",
    "local_password": f"{C}local_password x\n",
    "local_cleansession": f"{C}local_cleansession true\n",
    "bridge_reload_type": f"{C}bridge_reload_type immediate\n",
}

REFUSED = {
    "max_inflight_bytes": "max_inflight_bytes 5\n",
    "memory_limit": "memory_limit 5\n",
    "enable_control_api": "enable_control_api true\n",
    "http_dir": f"{L}http_dir x\n",
    "psk_file": "psk_file x\n",
    "psk_hint": f"{L}psk_hint x\n",
    "plugin": "plugin /usr/lib/dynsec.so\n",
    "ciphers_tls1.3": f"{L}ciphers_tls1.3 x\n",
    "tls_engine": f"{L}tls_engine x\n",
    "tls_engine_kpass_sha1": f"{L}tls_engine_kpass_sha1 x\n",
    "tls_keyform": f"{L}tls_keyform engine\n",
    "proxy_protocol_v2_require_tls": f"{L}proxy_protocol_v2_require_tls true\n",
    "bridge_ciphers_tls1.3": f"{C}bridge_ciphers_tls1.3 x\n",
    "bridge_require_ocsp": f"{C}bridge_require_ocsp true\n",
    "bridge_identity": f"{C}bridge_identity x\n",
    "bridge_psk": f"{C}bridge_psk 00\n",
}


def drafted(folder: Path, text: str, **how: Any) -> Draft:
    file = folder / "mosquitto.conf"
    file.write_text(text)
    draft = translate(file, **how)
    assert draft.problems == []
    return draft


def at(data: Any, path: str) -> Any:
    for part in path.split("."):
        data = data[int(part)] if isinstance(data, list) else data[part]
    return data


@pytest.mark.parametrize(
    ("name", "text", "path", "value"), HONOURED, ids=[f"{row[0]}: {row[2]}" for row in HONOURED]
)
def test_it_becomes_a_setting(
    tmp_path: Path, name: str, text: str, path: str, value: object
) -> None:
    del name
    draft = drafted(tmp_path, text)
    assert at(draft.data, path) == value
    assert draft.refused == []


@pytest.mark.parametrize("name", NOTED)
def test_what_has_no_effect_is_said_with_its_line(tmp_path: Path, name: str) -> None:
    text = NOTED[name]
    draft = drafted(tmp_path, text)
    line = next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith(f"{name} "))
    assert any(
        str(note).startswith(f"{tmp_path}/mosquitto.conf:{line}: {name}: ") for note in draft.notes
    )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said_with_its_line_and_why(tmp_path: Path, name: str) -> None:
    text = REFUSED[name]
    (note,) = drafted(tmp_path, text).refused
    line = len(text.splitlines())
    assert str(note).startswith(f"{tmp_path}/mosquitto.conf:{line}: {name}: ")
    assert len(note.text) > 20


def test_every_option_of_the_table_is_here() -> None:
    tested = {row[0] for row in HONOURED} | set(NOTED) | set(REFUSED) | {"include_dir"}
    assert tested == set(OPTIONS)
    kinds = {name: option.answer for name, option in OPTIONS.items()}
    noted = {name for name, answer in kinds.items() if answer is Answer.NO_EFFECT}
    assert noted == set(NOTED)
    assert {name for name, answer in kinds.items() if answer is Answer.REFUSED} >= set(REFUSED)


def test_an_empty_file_has_the_defaults_of_mosquitto(tmp_path: Path) -> None:
    assert drafted(tmp_path, "").data == {
        "listeners": [{"bind": "localhost:1883"}],
        "auth": {"allow_anonymous": True},
        "broker": {
            "max_inflight": 20,
            "receive_maximum": 20,
            "max_packet_size": 2_000_000,
            "sys_interval": "10s",
            "limits": {
                "topic_levels": 200,
                "client_id_bytes": 65_535,
                "login_bytes": "1MiB",
                "will_bytes": "1MiB",
                "subscriptions_per_session": 10**9,
                "filters_per_packet": 10_000,
                "wildcard_shapes": 1000,
                "queued_messages": 1000,
            },
            "auto_id_prefix": "auto-",
            "topic_alias_maximum": 10,
            "topic_aliases_out": 10,
        },
        "log": {"clients": "all"},
        "http": None,
    }


def test_ports_of_the_command_line_count_only_without_listeners(tmp_path: Path) -> None:
    draft = drafted(tmp_path, "allow_anonymous false\n", ports=[1, 2])
    assert draft.data["listeners"] == [{"bind": "localhost:1"}, {"bind": "localhost:2"}]
    draft = drafted(tmp_path, L, ports=[1])
    assert draft.data["listeners"] == [{"bind": "127.0.0.1:1884"}]
    assert "-p has no effect" in draft.notes[0].text


@pytest.mark.parametrize(
    "text",
    ["listener 1883\nallow_anonymous true\n", "port 1883\nallow_anonymous true\n",
     "per_listener_settings true\nlistener 1883\nallow_anonymous true\n",
     "listener 1883\nlistener_allow_anonymous true\n"],
)  # fmt: skip
def test_anonymous_access_from_everywhere_is_one_loud_warning(tmp_path: Path, text: str) -> None:
    draft = drafted(tmp_path, text)
    loud = [note for note in draft.notes if note.loud]
    assert len(loud) == 1
    assert "everybody who reaches" in loud[0].text
    auth = draft.data.get("auth", {}) | draft.data["listeners"][0].get("auth", {})
    assert auth["insecure_public_anonymous"]


def test_an_option_above_every_listener_opens_1883_and_says_so(tmp_path: Path) -> None:
    """As Mosquitto does; few who write this want it."""
    draft = drafted(tmp_path, f"max_connections 5\n{L}")
    assert draft.data["listeners"] == [
        {"bind": "*:1883", "max_connections": 5},
        {"bind": "127.0.0.1:1884"},
    ]
    assert draft.notes[0].loud
    assert "opens port 1883" in draft.notes[0].text


@pytest.mark.parametrize(
    "line",
    ["allow_zero_length_clientid false", "password_file /p", "psk_file /p", "plugin /x.so"],
)
def test_users_above_every_listener_open_1883_where_each_has_its_own(
    tmp_path: Path, line: str
) -> None:
    """As Mosquitto does, which calls it the default listener."""
    draft = drafted(tmp_path, f"per_listener_settings true\n{line}\n{L}")
    assert [listener["bind"] for listener in draft.data["listeners"]] == [
        "*:1883",
        "127.0.0.1:1884",
    ]
    assert "opens port 1883" in draft.notes[0].text
    # Where a line gives it another port, it opens that one.
    draft = drafted(tmp_path, f"per_listener_settings true\n{line}\nport 1885\n{L}")
    assert draft.data["listeners"][0]["bind"] == "*:1885"
    assert not any("opens port" in note.text for note in draft.notes)


@pytest.mark.parametrize("line", ["allow_anonymous true", "acl_file /a", "auto_id_prefix x-"])
def test_users_of_a_listener_that_nothing_opens_are_said(tmp_path: Path, line: str) -> None:
    draft = drafted(tmp_path, f"per_listener_settings true\n{line}\n{L}")
    (listener,) = draft.data["listeners"]
    assert listener == {"bind": "127.0.0.1:1884", "auth": {"allow_anonymous": False}}
    (note,) = draft.notes
    assert note.loud
    assert str(note).startswith(f"{tmp_path}/mosquitto.conf:2: {line.split()[0]}: no effect")


@pytest.mark.parametrize(
    "lines",
    ["plugin /x.so\n", "auth_plugin /x.so\n", "global_plugin /x.so\n", "plugin_load a /x.so\n",
     f"plugin_load a /x.so\n{L}plugin_use a\n"],
)  # fmt: skip
def test_every_way_to_a_plugin_is_refused_with_the_reason(tmp_path: Path, lines: str) -> None:
    (note,) = drafted(tmp_path, lines).refused
    assert str(note).startswith(f"{tmp_path}/mosquitto.conf:1: {lines.split()[0]}: ")
    assert "all other plugins are C code for Mosquitto" in note.text


@pytest.mark.parametrize(
    ("lines", "where"),
    [
        ("cleansession true\n", [4]),
        ("local_cleansession true\n", [4]),
        ("cleansession true\nlocal_cleansession true\n", [5]),
        ("cleansession true\nlocal_cleansession false\n", []),
        ("cleansession false\n", []),
    ],
)
def test_messages_wait_though_the_session_is_clean_and_that_is_said(
    tmp_path: Path, lines: str, where: list[int]
) -> None:
    draft = drafted(tmp_path, f"{C}{lines}")
    said = [note for note in map(str, draft.notes) if "messages of QoS 1 and 2 wait" in note]
    assert [int(note.split(":")[1]) for note in said] == where


def test_nothing_is_unsubscribed_where_that_is_switched_off(tmp_path: Path) -> None:
    draft = drafted(tmp_path, f"{C}bridge_attempt_unsubscribe false\n")
    assert "unsubscribe_out" not in draft.data["connectors"]["far"]


@pytest.mark.parametrize(
    ("above", "loud", "words"),
    [(f"{TLS}cafile /ca.pem\n", True, "good for ever"), (TLS, False, "no effect: without 'cafile'"),
     (L, True, "no effect without certfile and keyfile")],
)  # fmt: skip
def test_certificates_that_are_good_for_ever_are_said(
    tmp_path: Path, above: str, loud: bool, words: str
) -> None:
    draft = drafted(tmp_path, f"{above}disable_client_cert_date_checks true\n")
    (note,) = draft.notes
    assert note.loud == loud
    assert words in note.text


def test_certificates_without_tls_are_a_loud_note(tmp_path: Path) -> None:
    draft = drafted(tmp_path, f"{C}bridge_certfile /c.pem\n")
    assert draft.notes[0].loud
    assert "not encrypted" in draft.notes[0].text
    assert draft.data["connectors"]["far"]["url"].startswith("mqtt://")


def test_a_dollar_is_a_dollar(tmp_path: Path) -> None:
    """Nothing in a mosquitto.conf is a reference to a secret or a template."""
    text = f"{C}remote_password ${{env:HOME}}\ntopic x out 1 ${{a}}/ ${{topic}}/\n"
    found = drafted(tmp_path, text).data
    assert str(found["connectors"]["far"]["password"]) == "${env:HOME}"
    assert found["routes"]["far-2"]["prepend"] == "${topic}/"
