"""What a rebuilt disk holds: all that is synchronised, and nothing that need not be there."""

from __future__ import annotations

import random
from pathlib import Path

from power_disk import PAGE_BYTES, SECTOR_BYTES, Disk
from power_trace import calls

FOLDER = Path("/data")


def hexed(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def on(name: str, descriptor: int = 7) -> str:
    path = f"/data/{name}" if name else "/data"
    return f"{descriptor}<{hexed(path.encode())}>"


def created(name: str) -> str:
    text = hexed(f"/data/{name}".encode())
    return f'1 openat(AT_FDCWD</>, "{text}", O_RDWR|O_CREAT, 0600) = {on(name)}'


def wrote(name: str, data: bytes, at: int = 0) -> str:
    return f'1 pwrite64({on(name)}, "{hexed(data)}", {len(data)}, {at}) = {len(data)}'


def synced(name: str) -> str:
    return f"1 fdatasync({on(name)})      = 0"


def cut(name: str, size: int) -> str:
    return f"1 ftruncate({on(name)}, {size}) = 0"


def renamed(old: str, new: str) -> str:
    old, new = hexed(f"/data/{old}".encode()), hexed(f"/data/{new}".encode())
    return f'1 rename("{old}", "{new}") = 0'


def removed(name: str) -> str:
    return f'1 unlink("{hexed(f"/data/{name}".encode())}") = 0'


def disk(*lines: str) -> Disk:
    found = Disk(FOLDER)
    found.feed(list(calls(lines)))
    return found


def left(into: Path, *lines: str, dice: random.Random | None = None) -> dict[str, bytes]:
    """The files after a loss of power behind the last line."""
    for path in into.iterdir():
        path.unlink()
    disk(*lines).rebuild(len(lines), into, dice)
    return {path.name: path.read_bytes() for path in into.iterdir()}


def test_only_what_is_synchronised_is_there(tmp_path):
    first, second = wrote("a", b"first"), wrote("a", b"second", 5)
    assert left(tmp_path, created("a"), first) == {}
    assert left(tmp_path, created("a"), first, synced("a"), second) == {"a": b"first"}
    assert left(tmp_path, created("a"), first, second, synced("a")) == {"a": b"firstsecond"}
    # The folder knows the name; nobody knows the data.
    assert left(tmp_path, created("a"), first, synced("")) == {"a": b""}
    # Of another file, or failed.
    assert left(tmp_path, created("a"), created("b"), first, synced("b")) == {"b": b""}
    failed = f"1 fdatasync({on('a')}) = -1 EIO (Input/output error)"
    assert left(tmp_path, created("a"), first, failed) == {}


def test_a_synchronisation_covers_what_had_ended_when_it_began(tmp_path):
    begin = [
        created("a"),
        synced(""),
        f"2 fdatasync({on('a')} <unfinished ...>",
        wrote("a", b"between"),
    ]
    end = "2 <... fdatasync resumed>) = 0"
    assert left(tmp_path, *begin, end) == {"a": b""}
    found = disk(*begin, end, synced("a"))
    for line, data in ((4, b""), (5, b"between")):
        found.rebuild(line, tmp_path)
        assert (tmp_path / "a").read_bytes() == data


def test_names_and_sizes(tmp_path):
    begin = [created("a"), wrote("a", b"data"), synced("a")]
    assert left(tmp_path, *begin, renamed("a", "b")) == {"a": b"data"}
    assert left(tmp_path, *begin, renamed("a", "b"), synced("")) == {"b": b"data"}
    assert left(tmp_path, *begin, renamed("a", "b"), synced("b")) == {"b": b"data"}
    assert left(tmp_path, *begin, removed("a")) == {"a": b"data"}
    assert left(tmp_path, *begin, removed("a"), synced("")) == {}
    assert left(tmp_path, *begin, cut("a", 1)) == {"a": b"data"}
    assert left(tmp_path, *begin, cut("a", 1), synced("a")) == {"a": b"d"}
    again = [removed("a"), created("a"), wrote("a", b"new")]
    assert left(tmp_path, *begin, *again) == {"a": b"data"}
    assert left(tmp_path, *begin, *again, synced("a")) == {"a": b"new"}


def test_of_the_rest_any_pieces_may_be_there(tmp_path):
    size = 2 * PAGE_BYTES
    lines = [created("a"), wrote("a", b"o" * size), synced("a"), wrote("a", b"n" * 6000, 700)]
    seen = set()
    for seed in range(60):
        (data,) = left(tmp_path, *lines, dice=random.Random(seed)).values()
        assert data[:700] == b"o" * 700
        assert data[6700:] == b"o" * (size - 6700)
        borders = [at for at in range(1, size) if data[at] != data[at - 1]]
        assert all(at in (700, 6700) or at % SECTOR_BYTES == 0 for at in borders)
        seen.add(data)
    assert len(seen) > 20
    assert b"o" * size in seen
    # A later piece without an earlier one.
    assert any(data[6699:6700] == b"n" and data[700:701] == b"o" for data in seen)


def test_a_call_that_the_end_cut_off_may_have_been_done(tmp_path):
    lines = [created("a"), synced(""), wrote("a", b"data").partition(")")[0] + " <unfinished ...>"]
    assert left(tmp_path, *lines) == {"a": b""}
    found = {left(tmp_path, *lines, dice=random.Random(seed))["a"] for seed in range(30)}
    assert found == {b"", b"data"}
