"""Every option that Mosquitto has ever documented, up to 2.1, changes something or is answered.

The list is typed in here from Mosquitto's manual and source, and knows nothing of the table in the
code: an option that is missing there, or that is read and then forgotten, fails here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from isthmus.app.mosquitto.translation import translate

L = "listener 1884 127.0.0.1\n"
WS = f"{L}protocol websockets\n"
TLS = f"{L}certfile /c.pem\nkeyfile /k.pem\ncafile /ca.pem\n"
B = "connection far\naddress far.example\ntopic # both 1\n"
BTLS = f"{B}bridge_cafile /ca.pem\n"
LAZY = f"{B}start_type lazy\n"
TWO = "connection far\naddress far.example other.example\ntopic # both 1\n"

# option and value: what must stand above it
LINES = {
    # identity, addresses, life cycle of bridges
    "connection far\naddress far.example\ntopic #": "",
    "address far.example:1884": "connection far\ntopic #\n",
    "addresses far.example:1884": "connection far\ntopic #\n",
    "round_robin true": TWO,
    "start_type lazy": B,
    "start_type once": B,
    "threshold 5": LAZY,
    "idle_timeout 5": LAZY,
    "restart_timeout 7": B,
    "restart_timeout 7 70": B,
    "restart_timeout 7 70 9": f"{B}restart_timeout 7 70\n",
    "keepalive_interval 30": B,
    "bridge_bind_address 127.0.0.1": B,
    "bridge_tcp_keepalive 9 8 7": B,
    "bridge_tcp_user_timeout 1000": B,
    "bridge_reload_type immediate": B,
    # protocol, session, login of bridges
    "bridge_protocol_version mqttv50": B,
    "bridge_protocol_version mqttv31": B,
    "try_private false": B,
    "cleansession true": B,
    "local_cleansession true": B,
    "bridge_session_expiry_interval 60": B,
    "bridge_receive_maximum 5": B,
    "bridge_max_topic_alias 5": B,
    "bridge_max_packet_size 5000": B,
    "bridge_outgoing_retain false": B,
    "bridge_attempt_unsubscribe false": f"{B}topic b out\n",
    "remote_clientid x": B,
    "clientid x": B,
    "remote_username x": B,
    "username x": B,
    "remote_password x": B,
    "password x": B,
    "local_clientid x": B,
    "local_username x": B,
    "local_password x": B,
    "topic b in 2": "connection far\naddress far.example\n",
    # notifications
    "notifications false": B,
    "notification_topic x": B,
    "notifications_local_only true": B,
    # TLS of bridges
    "bridge_cafile /x": B,
    "bridge_capath /x": B,
    "bridge_tls_use_os_certs true": B,
    "bridge_certfile /x": BTLS,
    "bridge_keyfile /x": BTLS,
    "bridge_insecure true": BTLS,
    "bridge_alpn x": BTLS,
    "bridge_tls_version tlsv1.3": BTLS,
    "bridge_ciphers x": BTLS,
    "bridge_ciphers_tls1.3 x": BTLS,
    "bridge_require_ocsp true": BTLS,
    "bridge_identity x": B,
    "bridge_psk 00": B,
    # the same without TLS
    "bridge_certfile /y": B,
    "bridge_keyfile /y": B,
    "bridge_insecure 1": B,
    "bridge_alpn y": B,
    "bridge_tls_version tlsv1.2": B,
    "bridge_ciphers y": B,
    "bridge_require_ocsp 1": B,
    # listeners
    "listener 1885": "",
    "listener 0 /run/mosquitto.sock": "",
    "port 1885": "",
    "bind_address 127.0.0.1": "",
    "bind_interface lo": L,
    "socket_domain ipv4": "listener 1884\n",
    "protocol websockets": L,
    "protocol http_api": L,
    "mount_point x/": L,
    "max_connections 5": L,
    "max_qos 1": L,
    "maximum_qos 1": L,
    "max_topic_alias 5": L,
    "max_topic_alias_broker 5": L,
    "accept_protocol_versions 5": L,
    "use_username_as_clientid true": L,
    "enable_proxy_protocol 2": L,
    "proxy_protocol_v2_require_tls true": L,
    "websockets_origin http://x": WS,
    "websockets_origin http://y": L,
    "http_dir /x": WS,
    "websockets_headers_size 5": "",
    "websockets_log_level 5": "",
    "packet_buffer_size 5": "",
    # TLS of listeners
    "cafile /x": f"{L}certfile /c.pem\nkeyfile /k.pem\n",
    "capath /x": f"{L}certfile /c.pem\nkeyfile /k.pem\n",
    "certfile /x": f"{L}keyfile /k.pem\n",
    "keyfile /x": f"{L}certfile /c.pem\n",
    "crlfile /x": TLS,
    "ciphers x": TLS,
    "ciphers_tls1.3 x": TLS,
    "tls_version tlsv1.3": TLS,
    "dhparamfile /x": TLS,
    "require_certificate true": TLS,
    "use_identity_as_username true": TLS,
    "use_subject_as_username true": TLS,
    "disable_client_cert_date_checks true": TLS,
    "psk_hint x": L,
    "psk_file /x": "",
    "tls_engine x": TLS,
    "tls_engine_kpass_sha1 x": TLS,
    "tls_keyform engine": TLS,
    # the same without TLS
    "crlfile /y": L,
    "ciphers y": L,
    "tls_version tlsv1.2": L,
    "require_certificate 1": L,
    "use_identity_as_username 1": L,
    # users and rights
    "allow_anonymous true": L,
    "listener_allow_anonymous true": L,
    "password_file /x": L,
    "acl_file /x": L,
    "allow_zero_length_clientid false": L,
    "auto_id_prefix x": L,
    "listener_auto_id_prefix x": L,
    "clientid_prefixes x": L,
    "plugin /x.so": L,
    "auth_plugin /x.so": L,
    "plugin mosquitto_acl_file.so\nplugin_opt_acl_file /x": L,
    "auth_plugin mosquitto_password_file.so\nauth_opt_password_file /x": L,
    "global_plugin /x.so": L,
    "plugin_load a /x.so": L,
    "plugin_use a": f"plugin_load a mosquitto_acl_file.so\nplugin_opt_acl_file /x\n{L}",
    "plugin_opt_x y": "plugin mosquitto_acl_file.so\nplugin_opt_acl_file /x\n",
    "auth_opt_x y": "plugin mosquitto_acl_file.so\nplugin_opt_acl_file /x\n",
    "auth_plugin_deny_special_chars true": "plugin mosquitto_acl_file.so\nplugin_opt_acl_file /x\n",
    # limits
    "global_max_clients 5": "",
    "global_max_connections 5": "",
    "max_keepalive 60": "",
    "max_packet_size 5000": "",
    "message_size_limit 5000": "",
    "max_inflight_messages 5": "",
    "max_inflight_bytes 5000": "",
    "max_queued_messages 5": "",
    "max_queued_bytes 5000": "",
    "queue_qos0_messages true": "",
    "upgrade_outgoing_qos true": "",
    "memory_limit 5000": "",
    # retained messages, persistence
    "retain_available false": "",
    "retain_expiry_interval 5": "",
    "check_retain_source false": "",
    "persistence true": "",
    "retained_persistence true": "",
    "persistence_location /x/": "persistence true\n",
    "persistence_location /y/": "",
    "persistence_file x": "",
    "autosave_interval 5": "",
    "autosave_on_changes true": "",
    "persistent_client_expiration 14d": "",
    # log, process
    "sys_interval 5": "",
    "log_dest stdout": "",
    "log_dest stderr": "",
    "log_dest syslog": "",
    "log_dest topic": "",
    "log_dest file /x": "",
    "log_dest none": "",
    "log_dest dlt": "",
    "log_dest android": "",
    "log_type error": "",
    "log_type all": "",
    "log_timestamp false": "",
    "log_timestamp_format %s": "",
    "log_facility 3": "",
    "connection_messages false": "",
    "pid_file /x": "",
    "user x": "",
    "set_tcp_nodelay false": "",
    "allow_duplicate_messages true": "",
    "enable_control_api true": "",
    "retry_interval 5": "",
}


class Answer(NamedTuple):
    """What becomes of a file: the settings, and the lines that something is said about."""

    data: dict[str, Any]
    said: list[str]


def answer(folder: Path, text: str) -> Answer:
    file = folder / "mosquitto.conf"
    file.write_text(text)
    draft = translate(file)
    notes = [str(note) for note in (*draft.notes, *draft.refused)]
    return Answer(draft.data, [*draft.problems, *notes])


@pytest.mark.parametrize("line", LINES)
def test_it_changes_something_or_something_is_said_about_its_line(
    tmp_path: Path, line: str
) -> None:
    above = LINES[line]
    number = above.count("\n") + 1
    without, with_it = answer(tmp_path, above), answer(tmp_path, f"{above}{line}\n")
    about = [
        text for text in with_it.said if text.startswith(f"{tmp_path}/mosquitto.conf:{number}:")
    ]
    assert with_it.data != without.data or about
    assert not any("there is no option" in text for text in with_it.said)


def test_users_and_rights_of_each_listener(tmp_path: Path) -> None:
    """It stands above everything that it is about."""
    text = f"{L}allow_anonymous true\nlistener 1885 127.0.0.1\n"
    without, with_it = (
        answer(tmp_path, text),
        answer(tmp_path, f"per_listener_settings true\n{text}"),
    )
    assert with_it.data != without.data


def test_a_folder_of_files_is_read(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "a.conf").write_text("sys_interval 7\n")
    found = answer(tmp_path, f"include_dir {tmp_path}/conf.d\n")
    assert found.data["broker"]["sys_interval"] == "7s"
