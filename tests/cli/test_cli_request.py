"""`isthmus request`: a message and the response to it."""

from __future__ import annotations

import asyncio

from commands import isthmus_command

from mosquitto import command
from raw import DISCONNECT, PUBLISH, grant, publish_packet


async def test_mosquitto_rr_and_request_understand_each_other(mosquitto, start, listening) -> None:
    far = await mosquitto()
    port = str(far.port)
    # A responder of two commands: it reads one request and answers it.
    served = await listening(far.port, "service", "-F", "%R %D %p", "-C", "1")
    asking = await start("request", "-p", port, "-q", "1", "service", "what?",
                         "--correlation", "c1")  # fmt: skip
    topic, correlation, question = (await served.end()).text.split()
    assert topic.startswith("isthmus/response/isthmus-request-")
    assert (correlation, question) == ("c1", "what?")
    answered = await isthmus_command("pub", "-p", port, topic, "that", "--correlation", "c1")
    assert answered.status == 0
    assert (await asking.end())[:2] == (0, b"that\n")

    served = await listening(far.port, "service", "-F", "%R", "-C", "1")
    theirs = asyncio.ensure_future(
        command("mosquitto_rr", "-p", port, "-t", "service", "-e", "re/1", "-m", "q", "-W", "8")
    )
    assert (await served.end()).out == b"re/1\n"
    await isthmus_command("pub", "-p", port, "re/1", "well")
    assert (await theirs)[:2] == (0, "well\n")


async def test_only_the_response_is_printed(far, start) -> None:
    asking = await start("request", "-p", str(far.port), "-t", "q", "-m", "?", "-v", "-C", "2")
    peer, hello = await far.client(response_information="own/7/")
    assert hello.properties["request_response"] == 1
    [(topic, _)] = await grant(peer)
    assert topic == f"own/7/{hello.client_id}"
    message = await peer.expect(PUBLISH)
    assert (message.topic, message.payload) == ("q", b"?")
    assert message.properties["response_topic"] == topic
    mine = message.properties["correlation"]
    assert len(mine) == 8
    peer.send(
        publish_packet(topic, "retained", retain=True, correlation=mine),
        publish_packet(topic, "another's", correlation=b"x"),
        publish_packet(topic, "first", correlation=mine),
        publish_packet(topic, "second"),
    )
    await peer.expect(DISCONNECT)
    assert (await asking.end())[:2] == (0, f"{topic} first\n{topic} second\n".encode())


async def test_no_response_in_time_and_refusals(mosquitto, far, start) -> None:
    broker = await mosquitto()
    late = await isthmus_command("request", "-p", str(broker.port), "q", "?", "-q1", "-W", "1.5")
    assert (late.status, late.out) == (27, b"")
    assert "nobody is subscribed to q now" in late.errors
    assert "0 response(s) within 1.5 s" in late.errors
    refused = await start("request", "-p", str(far.port), "q", "?", "-e", "re")
    peer, _ = await far.client()
    await grant(peer, 0x87)
    ended = await refused.end()
    assert ended.status == 1
    assert "refused to subscribe re: 0x87 not authorized; name another" in ended.errors
    cut = await start("request", "-p", str(far.port), "q", "?", "-e", "re")
    peer, _ = await far.client()
    await grant(peer)
    await peer.expect(PUBLISH)
    peer.close()
    ended = await cut.end()
    assert ended.status == 1
    assert "the connection was lost" in ended.errors


async def test_with_mqtt_3_the_topic_has_to_do(far, start) -> None:
    how = ("-p", str(far.port), "-V", "3.1.1", "-e", "re")
    asking = await start("request", *how, "q", "?")
    peer, hello = await far.client()
    assert hello.version == 4
    await grant(peer)
    await peer.expect(PUBLISH)
    peer.send(publish_packet("re", "yes", version=4))
    assert (await asking.end())[:2] == (0, b"yes\n")
