"""What the doctor says of owners and of this machine; the rest is tests/e2e/test_doctor.py."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from sagemaker_ssh_helper.cli import doctor
from sagemaker_ssh_helper.cli.doctor import OK, WARNING, Examination, whose

ME = "AROAEXAMPLE:terry"


@pytest.mark.parametrize(
    ("owner", "me", "status", "said", "fix"),
    [
        (ME, ME, OK, "you", None),
        ("AIDAEXAMPLE", "AIDAEXAMPLE", OK, "you", None),
        (
            "AROAEXAMPLE:SageMaker",
            "AROAEXAMPLE:SageMaker",
            WARNING,
            "and everybody else",
            "role_session_name",
        ),
        ("AROAEXAMPLE:botocore-session-1", ME, WARNING, "the same role", "keep one name"),
        ("AROAOTHER:maria", ME, WARNING, "its SSHOwner is AROAOTHER:maria", "Launch your own job"),
        ("AIDAOTHER", "AIDAEXAMPLE", WARNING, "you are AIDAEXAMPLE", "Launch your own job"),
        ("", ME, WARNING, "is not set", "Launch your own job"),
    ],
)
def test_an_owner_is_told_from_whoever_shares_its_name(
    owner: str, me: str, status: str, said: str, fix: str | None
) -> None:
    result = whose(owner, me)
    assert result.status == status
    assert said in result.text
    assert (fix is None) == (result.fix is None)
    assert (fix or "") in (result.fix or "")


def test_an_ssh_that_editors_do_not_find_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for program in ("ssh", "ssh-keygen"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / program).symlink_to(found)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    assert next(Examination(None, None, None, fix=False).results()).status == OK
    monkeypatch.setattr(doctor, "DESKTOP_PATH", (str(tmp_path / "none"),))
    result = next(Examination(None, None, None, fix=False).results())
    assert result.status == WARNING
    assert f"{tmp_path / 'ssh'}, where editors" in result.text
