"""What is typed into a shell to start the relay, and what is read of its answers."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.agent import relay, relay_loader
from sagemaker_ssh_helper.client import relay as client_relay
from sagemaker_ssh_helper.client.relay import Lines, typed_line


def test_both_ends_use_the_same_words() -> None:
    assert relay_loader.MARK.encode() == client_relay.MARK
    assert relay.END == client_relay._END


def test_the_typed_line_fits_into_a_terminal_and_is_no_answer() -> None:
    line = typed_line("0" * 32)
    assert len(line) < 4095
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert client_relay.MARK not in line
    assert line.isascii()


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_shell_without_python_says_so(shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_relay, "_PYTHONS", ("python3", "python"))
    done = subprocess.run(
        [shell], input=typed_line("0" * 32), env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert client_relay.MARK + b"no-python " in done.stdout.splitlines()


def test_a_python_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_relay, "_PYTHONS", ("python3",))
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o700)
    done = subprocess.run(
        ["/bin/sh"], input=typed_line("0" * 32), env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert client_relay.MARK + b"no-python " in done.stdout.splitlines()


KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)).decode()


def test_a_relay_tells_its_host_key_and_its_login_name() -> None:
    host_key, user = client_relay.told(json.dumps({"host_key": KEY, "user": "sagemaker-user"}).encode())
    assert (host_key.line, user) == (KEY, "sagemaker-user")


@pytest.mark.parametrize(
    "told",
    [
        {"host_key": KEY, "user": "root\nHost *\n  ProxyCommand touch /tmp/x"},
        {"host_key": KEY, "user": "root\r"},
        {"host_key": KEY, "user": "-oProxyCommand=x"},
        {"host_key": KEY, "user": ["root"]},
        {"host_key": KEY, "user": None},
        {"host_key": KEY},
        {"host_key": f"{KEY}\nHost *", "user": "root"},
        {"host_key": 7, "user": "root"},
        ["host_key", "user"],
        "x" * 5000,
        7,
    ],
)
def test_a_relay_that_tells_something_else_is_refused(told: object) -> None:
    with pytest.raises(errors.HandshakeFailed, match="Do not log in"):
        client_relay.told(json.dumps(told).encode())


@given(
    st.binary(max_size=200)
    | st.text(max_size=60).map(lambda user: json.dumps({"host_key": KEY, "user": user}).encode())
)
def test_whatever_a_relay_tells_is_a_word_or_refused(text: bytes) -> None:
    try:
        _, user = client_relay.told(text)
    except errors.HandshakeFailed:
        return
    assert user.isascii()
    assert not set(user) & set(" \t\r\n\"'\\%*?!,#=;`$(") - {"$"}


@given(st.lists(st.binary(max_size=40).map(base64.b64encode), max_size=10), st.data())
def test_lines_are_cut_wherever_the_stream_was(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + data.draw(st.sampled_from([b"\n", b"\r\n"])) for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    cutter, found = Lines(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += cutter.feed(stream[begin:end])
    assert found == lines


def test_a_line_without_end_is_no_relay() -> None:
    with pytest.raises(errors.SessionLost):
        Lines().feed(b"x" * (2 << 20))
