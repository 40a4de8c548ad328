"""Who a session's program runs as, and what it finds."""

import os
import pwd
from pathlib import Path

import pytest

from sagemaker_ssh_helper.agent import accounts
from sagemaker_ssh_helper.agent.accounts import Account, find_account, session_environment
from sagemaker_ssh_helper.agent.documents import DocumentRefused

pytestmark = pytest.mark.container

NOBODY = pwd.getpwnam("nobody")


def test_no_name_is_the_agents_own_user() -> None:
    own = find_account("")

    assert (own.uid, own.ids) == (os.geteuid(), "")
    assert find_account(own.name) == own


def test_uid_without_an_entry_has_a_name_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 987654321)
    monkeypatch.setenv("HOME", "/somewhere")

    assert find_account("") == Account("987654321", "/somewhere", "/bin/sh", 987654321)


def test_root_may_become_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    found = find_account("nobody")
    uid, gid, groups = found.ids.split(":")

    assert (int(uid), int(gid)) == (NOBODY.pw_uid, NOBODY.pw_gid)
    assert str(NOBODY.pw_gid) in groups.split(",")


def test_others_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 987654321)

    with pytest.raises(
        DocumentRefused, match="as 'nobody', but the agent runs as '987654321' and is not root"
    ):
        find_account("nobody")


@pytest.mark.parametrize("name", ["no-such-user-here", "a\0b"])
def test_user_that_is_missing_is_refused(name: str) -> None:
    with pytest.raises(DocumentRefused, match="a user that does not exist here"):
        find_account(name)


def test_own_user_gets_the_environment_of_the_job(tmp_path: Path) -> None:
    saved = tmp_path / "environ"
    saved.write_bytes(b"JOB=1\0LANG=de_DE.UTF-8\0HOME=" + os.fsencode(tmp_path) + b"\0PWD=/usr\0TERM=dumb\0")
    environ, folder = session_environment(find_account(""), str(saved))

    assert folder == b"/usr"
    assert environ[b"JOB"] == b"1"
    assert environ[b"LANG"] == b"de_DE.UTF-8"
    assert environ[b"TERM"] == b"xterm-256color"
    assert environ[b"HOME"] == os.fsencode(tmp_path)


def test_without_a_saved_one_it_is_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_AGENT", "yes")
    monkeypatch.delenv("LANG", raising=False)
    environ, _ = session_environment(find_account(""), "")

    assert environ[b"OF_THE_AGENT"] == b"yes"
    assert environ[b"LANG"] == accounts.LANG


@pytest.mark.parametrize("home", ["/", "/no/such/home"])
def test_another_user_gets_nothing_of_the_job(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://secret")
    environ, folder = session_environment(Account("other", home, "/bin/sh", 99, "99:99:99"), "")

    assert set(environ) == {b"PATH", b"LANG", b"PWD", b"TERM", b"HOME", b"USER", b"LOGNAME", b"SHELL"}
    assert folder == b"/"
