"""Our reader of frames beside the one of the `websockets` library, on the same bytes."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State

from isthmus.net.websocket_frames import (
    MAX_SENT,
    Closing,
    FrameReader,
    control_frame,
    put_in_frames,
)

LIMIT = 1000


def library(data: bytes, *, masked: bool) -> tuple[bytes, int | None]:
    """Payload and close code (to be answered with) of the library."""
    side = Side.SERVER if masked else Side.CLIENT
    protocol = Protocol(side, state=State.OPEN, max_size=(None, LIMIT))
    protocol.receive_data(data)
    events = protocol.events_received()
    payload = b"".join(
        bytes(event.data)
        for event in events
        if isinstance(event, Frame) and event.opcode in (Opcode.BINARY, Opcode.CONT)
    )
    sent = protocol.close_sent
    return payload, sent.code if sent is not None else None


def ours(pieces: list[bytes], *, masked: bool) -> tuple[bytes, int | None]:
    reader = FrameReader(LIMIT, masked=masked)
    payload = b"".join(b"".join(reader.read(piece)) for piece in pieces)
    return payload, reader.end.code if reader.end is not None else None


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]


@st.composite
def good_frames(draw: st.DrawFn, masked: bool) -> bytes:
    """Messages in one or several frames, with pings and pongs between."""
    data = b""
    for _ in range(draw(st.integers(0, 5))):
        parts = draw(st.lists(st.binary(max_size=200), min_size=1, max_size=4))
        for number, part in enumerate(parts):
            kind = Opcode.BINARY if number == 0 else Opcode.CONT
            frame = Frame(kind, part, fin=number == len(parts) - 1)
            data += frame.serialize(mask=masked)
            if draw(st.booleans()):
                control = draw(st.sampled_from([Opcode.PING, Opcode.PONG]))
                data += Frame(control, draw(st.binary(max_size=125))).serialize(mask=masked)
    return data


@pytest.mark.parametrize("masked", [True, False])
@given(draw=st.data())
def test_good_frames_in_any_pieces(masked: bool, draw: st.DataObject) -> None:
    data = draw.draw(good_frames(masked))
    pieces = cut(data, draw.draw(st.lists(st.integers(0, 5000), max_size=6)))
    assert ours(pieces, masked=masked) == library(data, masked=masked)


@pytest.mark.parametrize("masked", [True, False])
@given(draw=st.data())
def test_any_bytes_are_judged_as_the_library_does(masked: bool, draw: st.DataObject) -> None:
    head = st.tuples(
        st.sampled_from([0x00, 0x02, 0x80, 0x82, 0x88, 0x89, 0x8A, 0x83, 0xC2, 0x09, 0x92]),
        st.sampled_from([0x00, 0x80]),
        st.sampled_from([0, 1, 2, 5, 125, 126, 127]),
    ).map(lambda parts: bytes((parts[0], parts[1] | parts[2])))
    piece = st.one_of(
        st.binary(max_size=20),
        head.flatmap(lambda start: st.binary(max_size=12).map(lambda rest: start + rest)),
    )
    data = draw.draw(good_frames(masked)) + b"".join(draw.draw(st.lists(piece, max_size=4)))
    pieces = cut(data, draw.draw(st.lists(st.integers(0, 5000), max_size=4)))
    payload, code = ours(pieces, masked=masked)
    their_payload, their_code = library(data, masked=masked)
    shorter, longer = sorted((payload, their_payload), key=len)
    assert longer.startswith(shorter)
    # What they refuse we refuse. We refuse more: text, and a bad header before its frame is there.
    # Where both refuse, the codes may differ when a frame breaks several rules.
    if code is None:
        assert their_code is None
    if code == their_code:
        assert payload == their_payload


def test_a_text_frame_is_unsupported_data() -> None:
    reader = FrameReader(LIMIT, masked=True)
    assert reader.read(Frame(Opcode.TEXT, b"hello").serialize(mask=True)) == []
    assert reader.end is not None
    assert (reader.end.code, "binary" in reader.failure) == (1003, True)


def test_a_frame_above_the_limit_is_refused_before_it_comes() -> None:
    for size in (LIMIT + 1, 70_000, (1 << 63) + 5):
        reader = FrameReader(LIMIT, masked=False)
        head = (
            b"\x82\x7e" + size.to_bytes(2, "big")
            if size < 65_536
            else b"\x82\x7f" + size.to_bytes(8, "big")
        )
        reader.read(head)
        assert reader.end is not None
        assert reader.end.code == 1009


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", 1005),
        (b"\x03\xe8", 1000),
        (b"\x03\xe8bye", 1000),
        (b"\x0f\xa0", 4000),
        (b"\x03", 1002),
        (b"\x03\xed", 1002),
        (b"\xff\xff", 1002),
        (b"\x03\xe8\xff", 1007),
    ],
)
def test_close_frames(payload: bytes, code: int) -> None:
    reader = FrameReader(LIMIT, masked=False)
    data = control_frame(8, payload, masked=False)
    assert reader.read(data + b"\x82\x01x") == []
    assert reader.end is not None
    assert reader.end.code == code
    assert reader.read(b"\x82\x01x") == []
    assert library(data, masked=False)[1] == code


def test_only_the_last_ping_is_answered() -> None:
    reader = FrameReader(LIMIT, masked=False)
    pings = b"".join(control_frame(9, b"%d" % n, masked=False) for n in range(5))
    assert reader.read(pings) == []
    assert reader.ping == b"4"


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 200_000])
def test_what_we_frame_is_read_by_the_library(masked: bool, size: int) -> None:
    data = os.urandom(size)
    chunks = [data[at : at + 7001] for at in range(0, size, 7001)]
    count = len(chunks)
    put_in_frames(chunks, masked=masked)
    if size <= MAX_SENT and not masked:
        assert len(chunks) == count + 1  # the payload is not copied
    side = Side.SERVER if masked else Side.CLIENT
    protocol = Protocol(side, state=State.OPEN, max_size=MAX_SENT)
    protocol.receive_data(b"".join(chunks))
    frames = protocol.events_received()
    assert b"".join(bytes(frame.data) for frame in frames) == data
    assert len(frames) == max(-(-size // MAX_SENT), 0 if masked else 1)


def test_the_reason_of_a_close_frame_is_cut_at_a_character() -> None:
    reader = FrameReader(LIMIT, masked=False)
    reader.read(Closing(1002, "ü" * 100).frame(masked=False))
    assert reader.end is not None
    assert reader.end.reason == "ü" * 61


def test_of_a_stranger_little_is_kept() -> None:
    """A frame as large as is allowed, but not from somebody who is not known yet."""
    data = Frame(Opcode.BINARY, b"x" * 1000).serialize(mask=True)
    reader = FrameReader(LIMIT, masked=True)
    reader.kept = 100
    assert reader.read(data) == [b"x" * 1000]  # nothing has to be kept of it
    assert reader.read(data[:60]) == reader.read(data[60:100]) == []
    assert reader.end is None
    assert reader.read(data[100:101]) == []
    assert reader.end is not None
    assert reader.end.code == 1009
    reader = FrameReader(LIMIT, masked=True)
    assert reader.read(data[:60]) == reader.read(data[60:999]) == []
    assert reader.read(data[999:]) == [b"x" * 1000]


@pytest.mark.parametrize("head", [b"\x03\x7e", b"\x83\x7f", b"\x81\x7e", b"\x89\x7e", b"\xc2\x7f"])
def test_a_frame_that_may_not_come_is_refused_before_its_whole_length_is_there(head: bytes) -> None:
    reader = FrameReader(LIMIT, masked=False)
    assert reader.read(head) == []
    assert reader.end is not None
