"""Messages are counted by route: each once, whoever takes them and however often they come."""

from __future__ import annotations

from typing import Any

from raw import PUBACK, PUBLISH, ack_packet, grant, publish_packet, until
from running import back, bridge, out


def counts(near: Any) -> dict[str, int]:
    return {name: route.messages for name, route in near.app.routes.items()}


async def test_messages_of_all_qos_are_counted_by_the_routes_that_took_them(
    isthmus: Any, far: Any
) -> None:
    near = await isthmus(
        bridge(
            far.port,
            routes={
                "out": out("a/#"),
                "same": out("a/b"),  # agrees with the one before: one message, of both
                "other": out("a/b", prepend="x/"),
                "in": back("in/#"),
                "here": {"from": "local", "topics": ["a/#"], "to": "local", "prepend": "copy/"},
            },
        )
    )
    there, _ = await far.client()
    await grant(there)
    reader = await near.client("reader")
    await reader.subscribe("copy/#")
    here = await near.client("here")
    for qos in (0, 1):
        here.publish("a/b", "p", qos)
        for _ in range(2):
            found = await there.expect(PUBLISH)
            if qos:
                there.send(ack_packet(PUBACK, found.packet_id))
    await here.expect(PUBACK)
    here.publish("a/c", "p")
    here.publish("elsewhere", "p")
    await there.expect(PUBLISH)
    # Nobody has subscribed to it here, and it counts all the same.
    there.send(publish_packet("in/x", "p"), publish_packet("in/x", "p"))
    await until(lambda: counts(near)["in"] == 2)
    assert counts(near) == {"out": 3, "same": 2, "other": 2, "in": 2, "here": 3}
    assert len([one for one in await reader.arrived() if one.kind == PUBLISH]) == 3
    status = near.app.status.read()["routes"]
    assert {one["name"]: one["messages"] for one in status} == counts(near)


async def test_what_does_not_go_back_is_not_counted(isthmus: Any, far: Any) -> None:
    near = await isthmus(bridge(far.port, routes={"both": out("b/#", direction="both")}))
    there, _ = await far.client()
    await grant(there)
    there.send(publish_packet("b/x", "p"))
    await until(lambda: counts(near)["both.back"] == 1)
    assert counts(near) == {"both": 0, "both.back": 1}
