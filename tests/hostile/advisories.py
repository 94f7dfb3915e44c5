"""Every advisory and defect of MQTT software that is tried here: one row each, none left out.

`where` are tests: a function of this folder by its name, others by their file.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the list: its number, what the class is known by, what it attacks, the tests."""

    number: int
    ids: tuple[str, ...]
    what: str
    where: tuple[str, ...]
    choice: str = ""
    """What is done instead of what the list asks for, and why."""


BEFORE = "test_before_connect"
LATER = "test_in_an_open_session"
ANSWERS = "test_answers_to_connect"
FAR = "test_packets_of_a_far_side"
ANNOUNCED = "test_cve_2017_7651_lengths_that_are_only_announced"
CUT = "test_nanomq_1181_a_connect_that_is_cut_anywhere"
RANDOM = "test_amqtt_359_random_bytes"
CRAFTED = "test_cve_2024_48080_crafted_topics"
STEPS = "test_cve_2021_34431_connects_that_end_at_every_step_leave_nothing"
BLOAT = "test_cve_2021_33175_crafted_messages_do_not_pile_up"
DOLLAR = "test_cve_2018_12543_topics_that_begin_with_dollar"
NAMES = "test_cve_2017_7650_names_with_wildcards_get_nothing"
MAPPED = "test_mosquitto_3670_a_mapped_topic_is_looked_at_again"
CLIENT_IDS = "test_mosquitto_3672_a_client_id_in_a_mapped_topic"
NO_PASSWORD = "test_cve_2016_9877_no_password_is_a_wrong_password"
FOREIGN = "test_13_websocket_bad_origin_other_protocols_on_the_mqtt_port"
SLOW = "test_slowloris_a_connect_byte_by_byte"
HANDSHAKES = "test_cve_2026_39304_handshakes_that_go_nowhere"
FRAMES = "test_cve_2026_25627_everything_malformed_also_in_frames"
TOKENS = "test_forged_tokens"
REVOKED = "test_cve_2018_12546_what_a_revoked_writer_left"
SERVICE = "test_nanomq_2191_a_service_with_wrong_answers"
MEMORY = "test_cve_2021_41036_what_a_far_side_announces_takes_no_memory"

ROWS = (
    Row(1, ("CVE-2017-7651",), "a large length announced", (BEFORE, ANNOUNCED)),
    Row(2, ("CVE-2023-0809",), "a large first packet that is no CONNECT", (BEFORE, ANNOUNCED)),
    Row(3, ("hmq#177",), "80 ff ff ff 7f", (BEFORE, ANNOUNCED)),
    Row(4, ("CVE-2019-19307",), "arithmetic of the length", (BEFORE, LATER)),
    Row(5, ("CVE-2025-66168", "CVE-2026-40046"), "a length of five bytes", (BEFORE, LATER)),
    Row(
        6,
        ("CVE-2026-44248",),
        "properties one byte at a time",
        ("test_cve_2026_44248_properties_one_byte_at_a_time",),
    ),
    Row(7, ("CVE-2026-21888",), "a property length of five bytes", (BEFORE, LATER)),
    Row(
        8,
        ("CVE-2026-25627",),
        "a length beyond the WebSocket frame",
        (FRAMES, "test_cve_2026_25627_a_length_beyond_the_frame"),
    ),
    Row(9, ("nanomq#1169", "nanomq#1181"), "malformed CONNECT", (BEFORE, LATER, CUT)),
    Row(10, ("nanomq#2268", "mochi#501"), "SUBSCRIBE without its options", (LATER,)),
    Row(11, ("nanomq#2270",), "QoS above 0 without a packet id", (LATER,)),
    Row(12, ("CVE-2021-34432",), "PUBLISH with an empty topic", (LATER,)),
    Row(13, ("CVE-2021-28166",), "CONNACK from a client", (BEFORE, LATER, FAR)),
    Row(14, ("CVE-2021-34431",), "crafted CONNECT, leak", (BEFORE, STEPS)),
    Row(
        15,
        ("CVE-2021-41039",),
        "very many user properties",
        (
            "test_cve_2021_41039_very_many_user_properties",
            "test_cve_2021_41039_as_many_as_are_allowed",
        ),
    ),
    Row(
        16,
        ("CVE-2019-11778",),
        "will delay above the session expiry",
        ("test_cve_2019_11778_a_will_delay_above_the_session_expiry",),
    ),
    Row(
        17,
        ("CVE-2019-11779",),
        "65,535 slashes",
        (
            "test_cve_2019_11779_65535_slashes",
            "test_cve_2019_11779_where_65535_levels_are_allowed",
        ),
    ),
    Row(18, ("CVE-2023-3592",), "invalid will properties", (BEFORE, STEPS)),
    Row(
        19,
        ("CVE-2023-28366",),
        "one QoS 2 id, never released",
        ("test_cve_2023_28366_a_qos_2_id_that_is_never_released",),
    ),
    Row(
        20,
        ("CVE-2017-7654", "CVE-2017-7655", "CVE-2017-7653", "CVE-2017-7652"),
        "leak, null, ill-formed UTF-8, no descriptors",
        (
            BEFORE,
            LATER,
            DOLLAR,
            "test_cve_2017_7652_no_descriptors_left",
            "test_cve_2017_7652_a_reload_without_descriptors",
            "test_many_reloads_leave_nothing",
        ),
    ),
    Row(21, ("CVE-2018-12543",), "topics that begin with $", (DOLLAR,)),
    Row(
        22,
        ("CVE-2024-8376",),
        "shared and plain subscriptions mixed up",
        (
            LATER,
            "test_cve_2024_8376_shared_and_plain_are_two_subscriptions",
            "test_cve_2024_8376_groups_that_come_and_go",
        ),
    ),
    Row(23, ("mosquitto#2325",), "reserved packet types", (BEFORE, LATER)),
    Row(
        24,
        ("CVE-2020-13849",),
        "keep alive holds places",
        (
            "test_cve_2020_13849_silence_ends_a_connection",
            "test_cve_2020_13849_places_are_limited_and_come_back",
            "test_cve_2020_13849_the_longest_keep_alive_is_a_setting",
        ),
    ),
    Row(
        25,
        ("CVE-2023-5632",),
        "idle sockets that spin",
        ("test_cve_2023_5632_idle_sockets_cost_nothing",),
    ),
    Row(
        26,
        ("CVE-2021-33175", "CVE-2021-33176", "CVE-2021-22116"),
        "messages that bloat memory",
        (BLOAT,),
    ),
    Row(
        27,
        ("CVE-2016-10523", "mqtt-packet#83", "mqtt-packet#157"),
        "will of QoS 3, names and levels",
        (BEFORE,),
    ),
    Row(
        28,
        ("CVE-2024-48080", "CVE-2024-50948", "CVE-2024-42644", "FlashMQ#175"),
        "crafted topics, fuzzing, options at their ends (also CVE-2026-42209)",
        (CRAFTED, RANDOM, "test_flashmq_175_numbers_at_the_ends_of_their_range"),
    ),
    Row(
        29,
        ("sol#15", "sol#17"),
        "acknowledgements before CONNECT, a client id twice",
        (BEFORE, LATER, "test_sol_17_a_client_id_twice"),
    ),
    Row(
        30,
        ("tinyMQTT#16",),
        "PUBLISH behind CONNECT, lawful",
        ("test_tinymqtt_16_everything_behind_connect",),
    ),
    Row(31, ("amqtt#359",), "undisclosed, before any login", (CUT, RANDOM)),
    Row(32, ("CVE-2017-7650",), "wildcards in names", (NAMES,)),
    Row(33, ("nanomq#2344", "emqx-docs#3598"), "a void pattern means deny", (NAMES,)),
    Row(
        34,
        ("CVE-2026-44838",),
        "names as expressions",
        ("test_cve_2026_44838_names_are_no_expressions",),
    ),
    Row(
        35,
        ("CVE-2016-9877",),
        "no password",
        (NO_PASSWORD, "test_cve_2016_9877_a_password_without_a_user"),
    ),
    Row(
        36,
        ("CVE-2018-12550", "CVE-2018-12551"),
        "empty and garbled files",
        (
            "test_cve_2018_12550_an_empty_acl_file_denies",
            "test_cve_2018_12550_a_broken_acl_file",
            "test_cve_2018_12550_a_reload_of_a_broken_file",
            "test_cve_2018_12550_files_that_are_not_there",
            "test_cve_2018_12551_a_broken_password_file",
        ),
    ),
    Row(
        37,
        ("CVE-2018-20145",),
        "the ACL of a listener",
        (
            "test_cve_2018_20145_the_access_list_of_a_listener",
            "test_cve_2018_20145_nobody_comes_in_by_the_door_of_another",
        ),
    ),
    Row(38, ("CVE-2018-12546", "nanomq#1925"), "retained by a revoked writer", (REVOKED,)),
    Row(
        39,
        ("NATS-2026-26", "mochi#504"),
        "deny on all four paths",
        ("test_nats_2026_26_a_deny_rule_holds_on_all_four_paths",),
    ),
    Row(
        40,
        ("CVE-2026-33217",),
        "internal topics",
        ("test_cve_2026_33217_dollar_topics_are_closed",),
    ),
    Row(
        41,
        ("NATS-2026-18",),
        "a group escapes a deny",
        ("test_nats_2026_18_a_shared_subscription_does_not_escape_a_deny",),
    ),
    Row(
        42,
        ("emqx#8978", "mochi#503"),
        "a will on a forbidden topic",
        ("test_emqx_8978_a_will_on_a_forbidden_topic",),
    ),
    Row(
        43,
        ("CVE-2021-34434",),
        "a grant kept after a rule change",
        (
            "test_cve_2021_34434_a_subscription_that_was_granted_before",
            "test_cve_2021_34434_what_waited_for_a_group",
            "test_cve_2021_34434_what_waited_for_an_absent_reader",
            "test_cve_2021_34434_what_waited_behind_a_full_window",
            "test_cve_2021_34434_what_is_about_to_be_sent_again",
            "test_cve_2021_34434_a_will_that_was_granted_before",
            "test_cve_2021_34434_a_user_who_is_removed_while_it_logs_in",
        ),
    ),
    Row(
        44,
        ("mosquitto#3551", "emqx#3340", "CVE-2026-6564"),
        "take-over by another user (also mosquitto#3553, moquette#689)",
        ("test_mosquitto_3551_a_session_is_its_users",),
    ),
    Row(
        45,
        ("CVE-2026-8741",),
        "QoS 2 sent before its id is stored",
        ("test_cve_2026_8741_qos_2_that_is_sent_is_known_after_a_crash",),
    ),
    Row(
        46,
        ("mosquitto#3670", "mosquitto#3672"),
        "topics changed behind the check",
        (MAPPED, CLIENT_IDS, "test_mosquitto_3670_a_route_does_not_reach_the_brokers_own_topics"),
    ),
    Row(
        47,
        ("CVE-2024-3935",),
        "a crafted topic from the far side",
        (FAR, CLIENT_IDS, "test_cve_2024_3935_what_a_mapped_topic_can_become"),
    ),
    Row(48, ("nanomq#2145", "nanomq#2351"), "malformed CONNACK, PUBLISH instead", (ANSWERS,)),
    Row(
        49,
        ("paho.c#985", "paho.c#986", "CVE-2024-10525"),
        "properties of CONNACK, SUBACK without codes",
        (ANSWERS, FAR),
    ),
    Row(
        50,
        ("CVE-2021-41036", "CVE-2019-17210", "libcurl mqtt_decode_len"),
        "lengths that a server sends",
        (ANSWERS, FAR, MEMORY),
    ),
    Row(
        51,
        ("CVE-2019-11777",),
        "host names",
        (
            "test_cve_2019_11777_a_far_side_with_a_wrong_certificate",
            "test_cve_2019_11777_the_right_one_is_spoken_to",
            "tests/net/test_tls_link.py::test_a_self_signed_certificate_is_refused_unless_it_is_the_ca",
        ),
    ),
    Row(
        52,
        ("CVE-2026-39304",),
        "KeyUpdate, renegotiation, handshakes",
        (
            "test_cve_2026_39304_key_updates_without_end",
            "test_cve_2026_39304_renegotiation_is_refused",
            HANDSHAKES,
            "tests/net/test_listener.py::test_a_peer_that_says_nothing_has_until_the_handshake_deadline",
        ),
    ),
    Row(
        53,
        ("CVE-2026-33248",),
        "names in certificates",
        (
            "test_cve_2026_33248_names_that_look_like_another",
            "test_cve_2026_33248_a_subject_is_one_whole_name",
            "test_cve_2026_33248_names_with_nul",
        ),
    ),
    Row(
        54,
        ("nanomq#2191", "nanomq#1819"),
        "nobody, asked about: by %u, and at a web service",
        (
            "test_nanomq_2191_no_name_is_no_name",
            SERVICE,
            "test_nanomq_2191_a_service_that_is_slow",
            "test_nanomq_2191_nobody_is_asked_about_as_nobody",
        ),
    ),
    Row(
        55,
        ("CVE-2017-9868",),
        "files that all may read",
        (
            "test_cve_2017_9868_what_is_stored_is_for_its_owner_only",
            "test_cve_2017_9868_secrets_that_all_may_read_are_named",
        ),
        "A key or password file that all may read is a warning at the start, not a refusal: "
        "mounted secrets of containers have mode 0644, and nobody else is there to read them.",
    ),
    Row(
        56,
        ("mosquitto_passwd -b",),
        "a password by its place",
        ("test_mosquitto_passwd_b_no_command_takes_a_password_by_its_place",),
    ),
    Row(
        57,
        ("CVE-2017-10910",),
        "packet ids of a server",
        (FAR, "test_cve_2017_10910_packet_ids_again_and_of_nothing"),
    ),
    Row(
        58,
        ("rabbitmq#2941",),
        "a log flood of denied messages",
        ("test_rabbitmq_2941_a_flood_of_denied_messages_is_one_line",),
    ),
    Row(
        59,
        ("13-websocket-bad-origin",),
        "pages of other sites, an upgrade request on the plain port",
        (
            FOREIGN,
            "test_13_websocket_bad_origin",
            "test_13_websocket_bad_origin_a_name_that_was_turned_here",
        ),
    ),
    Row(
        60,
        ("slowloris",),
        "byte by byte",
        (
            SLOW,
            ANNOUNCED,
            "test_silent_tls_peers_cost_little",
            "test_slowloris_a_request_byte_by_byte",
            "test_slowloris_a_client_that_never_answers_auth",
        ),
    ),
    Row(61, ("DSA-3293", "CVE-2022-29217"), "HMAC with the public key", (TOKENS,)),
    Row(
        62,
        ("python-jose#274", "CVE-2024-33663", "CVE-2024-33664"),
        "alg of the key unchecked, encrypted and compressed",
        (TOKENS,),
    ),
    Row(63, ("CVE-2025-59420",), "unknown crit", (TOKENS,)),
    Row(
        64,
        ("gapbench jwt",),
        "alg none, kid as a path, embedded keys",
        (TOKENS, "test_gapbench_jwt_the_true_ones"),
    ),
    Row(
        65,
        ("hbmqtt #191",),
        "an unsafe YAML loader",
        ("test_hbmqtt_191_yaml_that_calls_functions",),
    ),
    Row(66, ("rmqtt#337",), "a port that is taken", ("test_rmqtt_337_a_port_that_is_taken",)),
    Row(
        67,
        ("EMQX #2494", "EMQX #12344"),
        "one slow subscriber, one payload of 90 MB",
        (
            "test_emqx_2494_a_subscriber_that_does_not_read",
            "test_emqx_12344_a_payload_of_90_mb",
        ),
    ),
    Row(
        68,
        ("CL 2.1.1",),
        "limits on another transport",
        (
            "test_cl_2_1_1_limits_hold_on_every_transport",
            "test_cl_2_1_1_strangers_who_send_much",
            "test_cl_2_1_1_a_subscriber_behind_websocket_that_does_not_read",
        ),
    ),
)
