"""TopicTree and TopicIndex against plain dicts and `topics.matches`."""

from __future__ import annotations

import time
from itertools import islice, product
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from mqtt_strategies import filters, names

from isthmus.mqtt.topic_tree import TopicIndex, TopicTree
from isthmus.mqtt.topics import is_wildcard, matches, shape

KEYS = st.sampled_from(["k1", "k2", "k3"])


class TreeMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tree: TopicTree[int] = TopicTree()
        self.naive: dict[tuple[bytes, str], int] = {}
        self.count = 0

    @rule(filter_=filters(shared=False) | names, key=KEYS)
    def add(self, filter_: bytes, key: str) -> None:
        self.count += 1
        new = (filter_, key) not in self.naive
        self.naive[filter_, key] = self.count
        assert self.tree.add(filter_, key, self.count) is new
        assert self.tree.get(filter_, key) == self.count

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        pairs = sorted(self.naive)
        pair = data.draw(st.sampled_from(pairs)) if pairs else (b"a/#", "k1")
        assert self.tree.remove(*pair) == self.naive.pop(pair, None)
        assert self.tree.remove(*pair) is None
        assert self.tree.get(*pair) is None

    @rule(topic=names)
    def match(self, topic: bytes) -> None:
        expected = [value for (filter_, _), value in self.naive.items() if matches(filter_, topic)]
        assert sorted(self.tree.match(topic)) == sorted(expected)

    @invariant()
    def same_content(self) -> None:
        assert len(self.tree) == len(self.naive)
        assert {(filter_, key): value for filter_, key, value in self.tree} == self.naive

    def teardown(self) -> None:
        for pair in self.naive:
            self.tree.remove(*pair)
        assert self.tree._root.empty()  # every branch is pruned


class Named(NamedTuple):
    topic: bytes
    number: int


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index: TopicIndex[Named] = TopicIndex()
        self.naive: dict[bytes, Named] = {}
        self.count = 0

    @rule(topic=names)
    def set(self, topic: bytes) -> None:
        self.count += 1
        value = self.naive[topic] = Named(topic, self.count)
        self.index.set(value)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        topics = sorted(self.naive)
        topic = data.draw(st.sampled_from(topics)) if topics else b"a"
        assert self.index.remove(topic) == self.naive.pop(topic, None)
        assert self.index.remove(topic) is None

    @rule(filter_=filters(shared=False) | names)
    def match(self, filter_: bytes) -> None:
        expected = [value for value in self.naive.values() if matches(filter_, value.topic)]
        assert sorted(self.index.match(filter_)) == sorted(expected)
        begin = filter_.partition(b"+")[0].partition(b"#")[0]
        begins = any(topic.startswith(begin) or topic + b"/" == begin for topic in self.naive)
        assert not expected or self.index.may_match(filter_)
        assert begins or not self.index.may_match(filter_)

    @invariant()
    def same_content(self) -> None:
        assert len(self.index) == len(self.naive)
        assert list(self.index) == list(self.naive.values())
        assert all(topic in self.index for topic in self.naive)
        assert all(self.index.get(topic) == value for topic, value in self.naive.items())

    def teardown(self) -> None:
        for topic in self.naive:
            self.index.remove(topic)
        assert not self.index._root.children


machines = settings(max_examples=25, stateful_step_count=25)
TestTree: Any = TreeMachine.TestCase
TestTree.settings = machines
TestIndex: Any = IndexMachine.TestCase
TestIndex.settings = machines


def test_65535_slashes_do_not_blow_the_stack() -> None:
    """CVE-2019-11779."""
    slashes = b"/" * 65_535
    tree: TopicTree[int] = TopicTree()
    tree.add(slashes, "a", 1)
    deep = b"+/" * 32_767
    tree.add(deep, "b", 2)
    tree.add(deep + b"#", "c", 3)
    assert sorted(tree.match(slashes)) == [1, 3]  # `#` takes the longer rest
    assert sorted(tree.match(b"/" * 32_767)) == [2, 3]
    tree.remove(deep, "b")
    tree.remove(deep + b"#", "c")
    tree.remove(slashes, "a")
    assert tree._root.empty()
    index: TopicIndex[Named] = TopicIndex()
    index.set(Named(slashes, 1))
    assert index.match(b"#") == [Named(slashes, 1)]
    assert index.match(b"+/#") == [Named(slashes, 1)]
    assert index.match(b"/" * 65_534 + b"+") == []
    index.remove(slashes)
    assert not index._root.children


@pytest.mark.alone
def test_a_miss_costs_little_among_many_filters() -> None:
    tree: TopicTree[int] = TopicTree()
    for number in range(20_000):
        tree.add(b"site/%d/+/state" % number, "k", number)
    start = time.process_time()
    for number in range(1000):
        assert tree.match(b"site/%d/x/state" % number) == [number]
    assert time.process_time() - start < 0.5


def test_overlapping_filters_of_one_key_all_count() -> None:
    tree: TopicTree[str] = TopicTree()
    for filter_ in (b"a/b", b"a/+", b"a/#", b"#", b"+/b"):
        tree.add(filter_, "key", filter_.decode())
    assert sorted(tree.match(b"a/b")) == sorted(["a/b", "a/+", "a/#", "#", "+/b"])


@given(st.sets(filters(shared=False), max_size=20), names)
def test_of_filters_with_one_shape_at_most_one_matches(many: set[bytes], topic: bytes) -> None:
    found = [shape(filter_) for filter_ in many if is_wildcard(filter_) and matches(filter_, topic)]
    assert len(found) == len(set(found))


def test_shapes() -> None:
    for filter_, expected in {
        b"a/b": b"/", b"a/+": b"/+", b"long name/+": b"/+", b"+/a": b"+/", b"#": b"#",
        b"a/#": b"/#", b"//+/": b"//+/", b"+/+/#": b"+/+/#",
    }.items():  # fmt: skip
        assert shape(filter_) == expected


@pytest.mark.alone
def test_a_match_costs_no_more_than_its_shapes_times_its_levels() -> None:
    """The worst that 100 sessions of 100 shapes each can do with 32 levels: under a second."""
    tree: TopicTree[int] = TopicTree()
    shapes = product([b"a", b"+"], repeat=14)
    for session in range(100):
        for levels in islice(shapes, 100):
            tree.add(b"/".join((*levels, *[b"a"] * 17, b"+")), session, session)
    began = time.perf_counter()
    assert len(tree.match(b"/".join([b"a"] * 32))) == 10_000
    assert time.perf_counter() - began < 1
