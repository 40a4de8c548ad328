"""The user's limit for payloads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from local_cloud import clean_environment
from sagemaker_ssh_helper.client.proxy_command import max_payload_bytes
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.names import Env


@pytest.mark.parametrize(("text", "size"), [(None, 65536), ("", 65536), ("1024", 1024), ("65536", 65536)])
def test_what_the_user_allows(monkeypatch: pytest.MonkeyPatch, text: str | None, size: int) -> None:
    monkeypatch.delenv(Env.MAX_PAYLOAD, raising=False)
    if text is not None:
        monkeypatch.setenv(Env.MAX_PAYLOAD, text)
    assert max_payload_bytes() == size


@pytest.mark.parametrize("text", ["1023", "65537", "-1", "64K", "1e4", " 2048", "٢٠٤٨", "9" * 5000])
def test_what_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(Env.MAX_PAYLOAD, text)
    with pytest.raises(LocalSetup, match="is not a number of bytes from 1024 to 65536"):
        max_payload_bytes()


@pytest.mark.parametrize("command", ["start-proxy", "session"])
def test_it_is_refused_before_anything_is_asked_of_aws(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sagemaker_ssh_helper", command, "job.training.sagemaker"],
        env={**clean_environment(tmp_path), Env.MAX_PAYLOAD: "much"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.startswith("sm-ssh: error[local-setup]: SM_SSH_MAX_PAYLOAD is not a number of bytes")
    assert done.stdout == ""
    assert done.returncode != 0
