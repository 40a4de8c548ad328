"""Terminals where the container gives them to another group than sshd expects."""

import grp
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sagemaker_ssh_helper.agent import terminals

pytestmark = pytest.mark.container


@pytest.fixture
def ordinary(monkeypatch):
    """We are no root, and the group tty is one that no terminal here has."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [1000])
    monkeypatch.setattr(grp, "getgrnam", lambda name: SimpleNamespace(gr_gid=54321))


def test_a_terminal_of_another_group_cannot_be_handed_over(ordinary):
    assert terminals.are_denied()


def test_root_hands_any_terminal_over(ordinary, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert not terminals.are_denied()


def test_a_member_of_the_group_hands_terminals_over(ordinary, monkeypatch):
    monkeypatch.setattr(os, "getgroups", lambda: [1000, 54321])

    assert not terminals.are_denied()


def test_without_the_group_terminals_stay_as_they_are(ordinary, monkeypatch):
    def missing(name):
        raise KeyError(name)

    monkeypatch.setattr(grp, "getgrnam", missing)

    assert not terminals.are_denied()


def test_the_view_has_every_group_but_tty():
    lines = terminals.groups_without_tty().splitlines()

    names = {line.split(b":")[0].decode() for line in lines}
    assert names == {entry.gr_name for entry in grp.getgrall()} - {"tty"}


def test_a_program_runs_although_its_view_cannot_be_made(tmp_path):
    words = [sys.executable, "-IS", terminals.__file__, str(tmp_path / "gone"), "/bin/echo", "it", "runs"]

    done = subprocess.run(words, stdout=subprocess.PIPE, timeout=60, check=True)

    assert done.stdout == b"it runs\n"


def test_a_python_that_was_built_without_ctypes_goes_without_the_view(tmp_path):
    script = (
        "import sys; sys.modules['ctypes'] = None; "
        "from sagemaker_ssh_helper.agent import daemon, node, setup, terminals; "
        "terminals.main(sys.argv[1:])"
    )
    words = [sys.executable, "-c", script, str(tmp_path / "gone"), "/bin/echo", "it", "runs"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, "it runs\n", "")
