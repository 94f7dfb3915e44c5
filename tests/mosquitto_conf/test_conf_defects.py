"""Every defect of Mosquitto that docs/mosquitto.md says is not here has a test that shows it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isthmus.app.mosquitto.translation import translate

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "mosquitto.md").read_text()

SHOWN = {
    "acknowledges a message and drops it": [
        "connectors/test_promise.py::test_puback_waits_for_the_far_sides_puback",
        "delivery/test_lanes.py::test_a_connectors_queue_says_when_it_is_full_and_when_it_is_not",
    ],
    "waits for ever when a far side loses": [
        "connectors/test_far_side.py::test_a_far_side_that_never_acknowledges_is_left_and_gets_it_again",
    ],
    "2.0 sends more than an MQTT 5 peer's": [
        "interop/test_receive_maximum.py::test_it_sends_its_whole_queue_after_a_burst",
        "interop/test_receive_maximum.py::test_a_far_side_may_exceed_it_up_to_ten_times",
    ],
    "MQTT 5 with `cleansession false`": [
        "interop/test_outages.py::test_what_is_published_while_the_network_is_away_arrives_once",
    ],
    "retained messages are sent again": [
        "interop/test_outages.py::test_retained_messages_are_the_same_on_both_sides_after_an_outage",
    ],
    "retained messages that are deleted": [
        "interop/test_outages.py::test_retained_messages_are_the_same_on_both_sides_after_an_outage",
    ],
    "`topic # out 0 a/b/ r/` makes": [
        "mosquitto_conf/test_conf_run.py::test_prefixes_go_both_ways",
    ],
    "two `topic` lines that match": [
        "mosquitto_conf/test_conf_run.py::test_prefixes_go_both_ways",
    ],
    "2.1 skips a `topic` line": [
        "mosquitto_conf/test_conf_defects.py::test_lines_that_differ_only_in_a_prefix_both_count",
    ],
    "a line that only sends unsubscribes": [
        "mosquitto_conf/test_conf_options.py::test_it_becomes_a_setting",
    ],
    "refused subscriptions": [
        "connectors/test_bridge_to_mosquitto.py::test_refused_subscriptions_are_shown",
        "connectors/test_subscribing.py::test_a_refused_filter_is_asked_for_again",
    ],
    "returning bridges wait": ["net/test_backoff.py::test_the_ceiling_doubles_up_to_the_maximum"],
    "a backup address is left": [
        "connectors/test_addresses.py::test_an_open_port_without_connack_is_no_reason_to_leave",
    ],
    "`start_type lazy`": [
        "connectors/test_start_types.py::test_the_threshold_opens_it_for_any_qos",
        "connectors/test_start_types.py::test_an_old_message_opens_it_alone_and_silence_closes_it",
        "connectors/test_start_types.py::test_a_full_queue_opens_it_too",
    ],
    "a name that cannot be looked up": [
        "net/test_resolve.py::test_a_name_service_that_does_not_answer_holds_nobody_up",
    ],
    "`set_tcp_nodelay`": ["net/test_dial.py::test_a_dialled_link_works"],
    "rings of `topic # both`": [
        "app/test_loops.py::test_a_ring_delivers_each_message_once",
        "app/test_loops.py::test_a_ring_over_mqtt_3_without_a_guard_is_noticed",
    ],
    "drops answers such as UNSUBACK": [
        "broker/test_sessions.py::test_a_reader_that_stops_loses_messages_and_never_an_answer",
    ],
    "a message of QoS 2 gets no PUBREL": [
        "connectors/test_promise.py::test_mqtt_4_4_0_1_in_flight_messages_come_again_with_the_same_ids",
        "connectors/test_promise.py::test_qos_2_from_the_far_side_arrives_exactly_once_over_resets",
    ],
    "a bridge whose name cannot be looked up": [
        "connectors/test_far_side.py::test_a_name_that_cannot_be_looked_up_at_the_start_is_tried_until_it_can",
    ],
    "a link that is silently gone": [
        "connectors/test_far_side.py::test_keep_alive_finds_a_black_hole",
        "connectors/test_notifications.py::test_a_link_that_is_silently_gone_shows_0",
    ],
    "messages of QoS 0 that come while a bridge connects": [
        "connectors/test_far_side.py::test_qos_0_of_a_time_without_a_link_is_neither_kept_nor_sent_late",
    ],
    "after an outage all that waited": [
        "connectors/test_rate_limit.py::test_messages_above_the_rate_wait_in_order",
        "connectors/test_rate_limit.py::test_what_waits_for_the_rate_outlives_the_connection",
        "connectors/test_promise.py::test_mqtt_3_3_4_7_the_far_sides_receive_maximum_holds",
    ],
    "the state of a bridge is 0": [
        "connectors/test_notifications.py::test_after_a_reconnect_it_is_1_and_no_late_0_follows",
        "connectors/test_notifications.py::test_a_real_mosquitto_shows_the_state",
        "app/test_status_topics.py::test_the_status_follows_the_far_side",
        "app/test_status_topics.py::test_what_waits_and_how_old_it_is",
    ],
    "of two addresses the first is tried": [
        "connectors/test_addresses.py::test_every_address_is_named_when_none_answers",
        "connectors/test_addresses.py::test_real_brokers_primary_down_and_up_again",
    ],
    "`persistence` is a snapshot": [
        "broker/test_retained_on_disk.py::test_what_was_acknowledged_outlives_a_kill",
        "power/test_kill_between_steps.py::test_nothing_is_lost_wherever_the_process_is_killed",
    ],
    "bridges have all rights": [
        "routing/test_tables.py::test_a_route_keeps_the_rights_of_a_user",
    ],
    "a new certificate or a new token": [
        "net/test_tls_files.py::test_a_connector_uses_renewed_files_and_keeps_old_ones_instead_of_broken_ones",
        "app/test_reload.py::test_a_new_token_is_used_without_a_restart_and_nothing_is_lost",
    ],
}
"""How a row begins, and where it is shown."""

ELSEWHERE = {"a reload drops what bridges had queued"}
"""Shown by the tests of reloading."""


def rows() -> list[str]:
    section = PAGE.partition("## Defects of Mosquitto that are not here\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (.+?) \| .+ \|$", section, re.MULTILINE)
    return [row for row in found if row not in ("Mosquitto", *ELSEWHERE)]


def test_every_row_of_the_page_is_shown() -> None:
    assert len(rows()) == len(SHOWN)
    assert [row for row in rows() if not any(row.startswith(begin) for begin in SHOWN)] == []


@pytest.mark.parametrize("place", sorted({place for places in SHOWN.values() for place in places}))
def test_the_test_is_there(place: str) -> None:
    file, _, name = place.partition("::")
    assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE)


def test_lines_that_differ_only_in_a_prefix_both_count(tmp_path: Path) -> None:
    """`a` is taken by the line with a prefix, as in 2.0; the other one is named."""
    file = tmp_path / "mosquitto.conf"
    lines = 'topic a/b out 0 "" r/\ntopic a/b out 0 l/ ""\ntopic a/# out 0\n'
    file.write_text(f"connection far\naddress far.example\n{lines}")
    routes = translate(file).data["routes"]
    assert [route["topics"] for route in routes.values()] == [
        ["a/b"],
        ["l/a/b"],
        ["a/#", "!a/b"],
    ]
    file.write_text('connection far\naddress x\ntopic a out 0\ntopic a out 0 "" r/\n')
    draft = translate(file)
    assert [route["prepend"] for route in draft.data["routes"].values()] == ["r/"]
    assert str(draft.notes[0]) == (f"{file}:3: topic: out: every message takes {file}:4 instead")
