"""What came lately: bounded, and the latest are there."""

from isthmus.net.recent import Recent


def test_the_latest_are_there_and_memory_is_bounded() -> None:
    recent: Recent[int] = Recent(10)
    for number in range(1000):
        recent.put(str(number), number)
        assert len(recent) <= 20
        latest = range(max(0, number - 9), number + 1)
        assert [recent.get(str(one)) for one in latest] == list(latest)
    assert recent.get("0") is None


def test_what_is_put_again_is_there_once_and_stays() -> None:
    recent: Recent[int] = Recent(10)
    for number in range(100):
        recent.put("x", number)
        recent.put(str(number), number)
        assert recent.get("x") == number
    recent.put("x", 7)
    recent.put("x", 8)
    assert [*recent.young, *recent.old].count("x") == 1
    recent.clear()
    assert len(recent) == 0
