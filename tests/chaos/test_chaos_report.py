"""The crash test says what is wrong, and puts systems side by side."""

from __future__ import annotations

from collections import Counter

from chaos_course import Course, Result
from chaos_nine import NineCourse, NineResult, Tally
from chaos_report import failures, nine_failures, nine_rows
from chaos_subscriber import Account


def nine(**how) -> NineResult:
    good = {"acknowledged": 9000, "arrived": 9000, "back_s": [0.5, 0.7], "new_s": [0.6, 0.9]}
    return NineResult({"cut": Tally(**good), "kill -9": Tally(**{**good, **how})})


def test_what_is_good_passes():
    assert nine_failures(NineCourse(), nine(duplicates=20)) == []
    good = Result(Account(acknowledged=1, duplicates=600), faults=Counter(cut=2), new_s=[1.9])
    assert failures(Course(), good) == []


def test_each_fault_of_the_nine_is_said():
    assert "3 acknowledged messages lost" in nine_failures(NineCourse(), nine(lost=3))
    assert "1 first deliveries out of order" in nine_failures(NineCourse(), nine(disordered=1))
    assert nine_failures(NineCourse(), nine(duplicates=21)) == [
        "kill -9: 21 arrived again, 20 may",
    ]
    assert nine_failures(NineCourse(window=None), nine(duplicates=36)) == [
        "0.20 % arrived again, 0.14 % may",
    ]
    assert nine_failures(NineCourse(qos=2), nine(duplicates=1)) == [
        "1 messages of QoS 2 arrived again"
    ]
    assert "kill -9: back after 2.10 s, 2 s may pass" in nine_failures(
        NineCourse(), nine(back_s=[0.1, 2.1])
    )
    assert "kill -9: nothing arrived any more" in nine_failures(
        NineCourse(), nine(back_s=[0.1, -1.0])
    )


def test_each_fault_of_a_random_course_is_said():
    bad = Account(acknowledged=9, lost=1, lost_examples=[7], duplicates=2)
    found = failures(Course(qos=2), Result(bad, faults=Counter(cut=1), new_s=[0.1, 2.5]))
    assert found == [
        "1 acknowledged messages lost, such as [7]",
        "2 messages arrived again, 0 may",
        "back after 2.50 s, 2 s may pass",
    ]


def test_more_again_than_the_windows_is_said():
    account = Account(acknowledged=1, duplicates=301)
    found = failures(Course(), Result(account, faults=Counter(cut=1)))
    assert found == ["301 messages arrived again, 300 may"]


def test_systems_stand_side_by_side():
    head, body = nine_rows({"isthmus": nine(), "mosquitto": nine(lost=1600)})
    assert [row[0] for row in body] == ["cut", "kill -9", "all"]
    assert all(len(row) == len(head) for row in body)
    total = dict(zip(head[8:], body[-1][8:], strict=True))
    assert total["lost"] == "1,600"
