"""Access lists: the format, the order of decision, and identities that try to widen a pattern."""

import pytest

from isthmus.auth.acl import AccessList
from isthmus.auth.principal import Principal
from isthmus.errors import ConfigError

ANNA = Principal("anna", "c1")
BERT = Principal("bert", "c2")
NOBODY = Principal(None, "c3")


def acl(*lines: str) -> AccessList:
    return AccessList.parse("\n".join(lines).encode())


def test_an_empty_file_denies_everything() -> None:
    for text in ("", "\n\n", "# nothing\n"):
        rights = acl(text)
        for who in (ANNA, NOBODY):
            assert not rights.may_read(who, b"a")
            assert not rights.may_write(who, b"a")
            assert not rights.may_subscribe(who, b"#")


def test_user_and_anonymous_lines() -> None:
    rights = acl("topic open/#", "user anna", "topic read r", "topic write w", "topic rw",
                 "user bert", "topic readwrite b/+", "user anna", "topic read more")  # fmt: skip
    assert rights.may_read(NOBODY, b"open/x")
    assert not rights.may_read(ANNA, b"open/x")
    assert rights.may_read(ANNA, b"r")
    assert not rights.may_write(ANNA, b"r")
    assert rights.may_write(ANNA, b"w")
    assert not rights.may_read(ANNA, b"w")
    assert rights.may_read(ANNA, b"rw")
    assert rights.may_write(ANNA, b"rw")
    assert rights.may_read(ANNA, b"more")
    assert rights.may_write(BERT, b"b/x")
    assert not rights.may_write(BERT, b"b/x/y")
    assert not rights.may_write(Principal("carl", "c"), b"open/x")


@pytest.mark.parametrize(
    ("wanted", "prefix"),
    [("a/b", b"a/b"), ("a/#", b"a"), ("a/+/#", b"a/"), ("#", b""), ("/#", b""), ("a%/b", b"a"),
     ("dev/%c/#", b"dev/"), ("a/+", b"a/")],
)  # fmt: skip
def test_the_fixed_beginning_of_a_line(wanted: str, prefix: bytes) -> None:
    assert acl(f"topic {wanted}")._anonymous[0].prefix == prefix


def test_deny_comes_first_wherever_it_stands() -> None:
    rights = acl("user anna", "topic a/#", "topic deny a/secret", "pattern a/#", "pattern p/#",
                 "pattern deny p/secret")  # fmt: skip
    assert rights.may_read(ANNA, b"a/x")
    assert not rights.may_read(ANNA, b"a/secret")
    assert rights.may_read(BERT, b"a/secret")
    assert rights.may_write(BERT, b"p/x")
    assert not rights.may_write(BERT, b"p/secret")


def test_patterns_put_in_names() -> None:
    rights = acl("pattern write dev/%c/up", "pattern read home/%u/#", "pattern x%c-%u%c")
    assert rights.may_write(NOBODY, b"dev/c3/up")
    assert not rights.may_write(NOBODY, b"dev/c1/up")
    assert rights.may_read(ANNA, b"home/anna/light")
    assert not rights.may_read(ANNA, b"home/bert/light")
    assert not rights.may_read(NOBODY, b"home//light")
    assert rights.may_read(ANNA, b"xc1-annac1")


@pytest.mark.parametrize("client_id", ["+", "#", "a+", "a/#", "+/+"])
def test_wildcards_in_a_name_get_nothing_from_patterns(client_id: str) -> None:
    rights = acl("user anna", "topic own", "pattern dev/%c/#", "pattern open/#")
    for who in (Principal("anna", client_id), Principal(client_id, "c1")):
        for topic in (b"dev/c2/x", b"open/x", b"dev/" + client_id.encode() + b"/x"):
            assert not rights.may_read(who, topic)
            assert not rights.may_write(who, topic)
        assert not rights.may_subscribe(who, b"dev/#")
    assert rights.may_read(Principal("anna", client_id), b"own")


def test_slashes_and_empty_names_move_no_levels() -> None:
    rights = acl("pattern %u/%c/x", "pattern open")
    assert not rights.may_read(Principal("anna", "bert/c2"), b"anna/bert/c2/x")
    assert not rights.may_read(Principal("anna/bert", "c2"), b"anna/bert/c2/x")
    assert not rights.may_read(Principal("", "c2"), b"/c2/x")
    assert not rights.may_read(Principal("anna", ""), b"anna//x")
    assert acl("pattern open").may_read(Principal("anna", "a/b"), b"open")


def test_names_are_put_in_once() -> None:
    rights = acl("pattern a/%c", "pattern b/%c%u")
    assert not rights.may_read(Principal("anna", "%u"), b"a/anna")
    assert rights.may_read(Principal("anna", "%u"), b"a/%u")
    assert rights.may_read(Principal("%c", "x"), b"b/x%c")


def test_dollar_topics_need_a_dollar_in_the_line() -> None:
    rights = acl("user anna", "topic #", "topic +/x", "pattern %c/#", "pattern deny $d/#",
                 "topic read $SYS/#", "topic $d/#")  # fmt: skip
    assert rights.may_read(ANNA, b"a/b")
    assert not rights.may_read(ANNA, b"$x/y")
    assert not rights.may_read(ANNA, b"$a/x")
    assert rights.may_read(ANNA, b"$SYS/broker/uptime")
    assert rights.may_read(ANNA, b"$d/x")
    wide = Principal("bert", "$SYS")
    assert not rights.may_read(wide, b"$SYS/broker/uptime")
    assert not rights.may_subscribe(wide, b"$SYS/#")
    assert not acl("topic #").may_subscribe(NOBODY, b"$SYS/#")


def test_sys_is_never_written_but_for_bridge_state() -> None:
    rights = acl("topic $SYS/#", "topic $share/g/#", "topic #")
    assert not rights.may_write(NOBODY, b"$SYS/broker/uptime")
    assert not rights.may_write(NOBODY, b"$share/g/t")
    assert rights.may_write(NOBODY, b"$SYS/broker/connection/edge/state")
    assert not acl("topic #").may_write(NOBODY, b"$SYS/broker/connection/edge/state")


@pytest.mark.parametrize(
    ("lines", "wanted", "allowed"),
    [
        (["topic read a/b"], "a/b", True),
        (["topic read a/b"], "#", True),
        (["topic read a/b"], "+/b", True),
        (["topic read a/b"], "a/+/c", False),
        (["topic read a/b"], "a/b/#", True),
        (["topic read a/#"], "a", True),
        (["topic read a/#"], "+", True),
        (["topic read a/+"], "+/b", True),
        (["topic read a/+/c"], "+/b", False),
        (["topic read a/+"], "a/b/#", True),
        (["topic read a/+/#"], "a", False),
        (["topic read a"], "b/#", False),
        (["topic write a/b"], "a/b", False),
        (["topic read a/b"], "$share/g/a/b", True),
        (["topic read a/b"], "$share/g/c", False),
        (["topic read a/#", "topic deny a/secret"], "a/secret", False),
        (["topic read a/#", "topic deny a/secret"], "a/+", True),
        (["pattern read dev/%c/#"], "dev/c3/x", True),
        (["pattern read dev/%c/#"], "dev/c1/x", False),
        (["pattern read %u/#"], "anna/#", False),
        (["topic read $SYS/#"], "#", False),
        (["topic read $SYS/#"], "$SYS/broker/+", True),
        (["topic read #"], "$SYS/#", False),
    ],
)
def test_subscriptions_that_can_deliver_nothing(
    lines: list[str], wanted: str, allowed: bool
) -> None:
    assert acl(*lines).may_subscribe(NOBODY, wanted.encode()) is allowed


def test_what_depends_on_the_client_id() -> None:
    assert acl("pattern read dev/%c").depends_on_client(ANNA)
    assert not acl("pattern read home/%u").depends_on_client(ANNA)
    assert not acl("topic read a", "user anna", "topic read b").depends_on_client(ANNA)
    # this one gets nothing from patterns, other than the same user elsewhere
    assert acl("pattern read home/%u").depends_on_client(Principal("anna", "+"))


def test_blanks_in_topics_and_names() -> None:
    rights = acl("  topic  read   with blanks/+  ", "user  anna smith ", "topic write x\r")
    assert rights.may_read(NOBODY, b"with blanks/x")
    assert rights.may_write(Principal("anna smith", "c"), b"x")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("topics a", "<acl>:2: 'topics' is unknown, use topic, user or pattern"),
        (" # indented", "<acl>:2: '#' is unknown"),
        ("topic", "<acl>:2: the topic is missing"),
        ("user", "<acl>:2: the user name is missing"),
        ("topic reed a", "<acl>:2: 'reed' is no access"),
        ("topic read a#", "<acl>:2: 'a#' is no topic filter"),
        ("topic read a # why", "a comment needs a line of its own"),
        ("topic a/+b", "<acl>:2: 'a/+b' is no topic filter"),
        ("pattern read %c#", "<acl>:2: '%c#' is no topic filter"),
        ("topic\tread a", "<acl>:2: blanks must be spaces, not tabs"),
        ("<allow>", "<acl>:2: '<allow>' is unknown"),
        (
            "ada:$7$101$c2FsdA==$aGFzaA==",
            "<acl>:2: is no rule; use topic, user or pattern",
        ),
    ],
)
def test_wrong_lines_are_refused_with_their_number(line: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        acl("topic ok", line)
    assert error in str(caught.value)


def test_all_wrong_lines_are_reported() -> None:
    with pytest.raises(ConfigError) as caught:
        acl("topic", "topic a", "nonsense")
    assert len(caught.value.problems) == 2


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(ConfigError, match=r"<acl>:1: .*no topic filter"):
        AccessList.parse(b"topic a/\xff")
    with pytest.raises(ConfigError, match="<acl>:1: the user name is not UTF-8"):
        AccessList.parse(b"user \xff")


def test_missing_file(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="cannot be read"):
        AccessList.load(tmp_path / "none")


def test_a_password_file_in_its_place_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        acl("ada:$7$101$c2FsdA==$aGFzaA==")
    assert "c2FsdA" not in str(caught.value)


def test_a_subscription_is_compared_with_lines_that_begin_alike() -> None:
    rights = acl("topic deny a/secret/#", "topic read a/+/x", "topic read b/#", "topic read +/c")
    for filter_, allowed in {
        b"a/1/x": True, b"a/1/y": False, b"a/#": True, b"a/secret/x": False, b"#": True,
        b"b": True, b"b/1": True, b"b/#": True, b"bb": False, b"+": True, b"z/c": True,
        b"z/+": True, b"z/d": False, b"+/1/x": True, b"a": False, b"/#": True, b"$SYS/#": False,
    }.items():  # fmt: skip
        assert rights.may_subscribe(NOBODY, filter_) == allowed, filter_
