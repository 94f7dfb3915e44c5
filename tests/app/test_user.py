"""`user`: root becomes another user, for good."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

BECOME = """
import os
from isthmus.app.user import become
print(become("nobody"))
print(os.getresuid(), os.getresgid(), os.getgroups())
try:
    os.setuid(0)
except OSError:
    print("for good")
"""


def test_it_has_the_ids_and_groups_of_that_user_and_no_others() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BECOME], capture_output=True, text=True, check=True
    )
    said, ids, last = done.stdout.splitlines()
    assert last == "for good"
    if os.geteuid():
        assert said.endswith("as only root can become another")
        assert ids.startswith(str(os.getresuid()))
    else:
        import pwd

        nobody = pwd.getpwnam("nobody")
        uid, gid = nobody.pw_uid, nobody.pw_gid
        assert said == "user: runs as nobody"
        assert ids == f"{(uid,) * 3} {(gid,) * 3} {os.getgrouplist('nobody', gid)}"


@pytest.mark.parametrize("name", [None, "root"])
def test_nothing_changes_for_nobody_in_particular(name: str | None) -> None:
    from isthmus.app.user import become

    before = os.getresuid()
    become(name)
    assert os.getresuid() == before
