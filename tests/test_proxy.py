"""SSMProxy with programs in the place of ssh; real tunnels are in e2e."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, List

import boto3
import pytest

from sagemaker_ssh_helper.aws.instances import ONLINE, Instance
from sagemaker_ssh_helper.client import connect
from sagemaker_ssh_helper.client.trust import Pin
from sagemaker_ssh_helper.errors import ConnectionFailed, PortBusy, SshMissing, UsageError
from sagemaker_ssh_helper.names import InstanceId
from sagemaker_ssh_helper.proxy import SSMProxy

ID = "mi-0123456789abcdef0"


@pytest.fixture(autouse=True)
def a_container_that_admits_us(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No calls of AWS are made: the container was met, trusted, and holds our key."""
    instance = Instance(InstanceId(ID), ONLINE)
    pin = Pin(instance.id, "job", None, 11022, "root", None, frozenset(), checked_at=0, used_at=0)
    monkeypatch.setattr(connect, "prepare", lambda *args, **options: connect.Prepared(instance, pin))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def session() -> boto3.Session:
    return boto3.Session(
        aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key="secret", region_name="eu-west-1"
    )


def ssh_that(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a Python program named ssh in front of PATH; it writes its arguments down first."""
    program = folder / "ssh"
    program.write_text(
        f"#!{sys.executable} -S\nimport json, sys, time\n"
        # It is asked which settings it knows.
        "if '-G' in sys.argv: sys.exit()\n"
        f"print(json.dumps(sys.argv[1:]), file=open({str(folder / 'asked')!r}, 'a'))\n{code}\n"
    )
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def asked(folder: Path) -> List[Any]:
    return [json.loads(line) for line in (folder / "asked").read_text().splitlines()]


LISTENING = 'print("motd of a shell"); print("listening", flush=True); sys.stdin.read()'


def test_the_port_leads_to_the_ssh_server_of_the_container(
    session: boto3.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_that(LISTENING, tmp_path, monkeypatch)
    with SSMProxy(0, "-o 'Tag=a b' -R 12345:localhost:12345", session=session) as proxy:
        proxy.connect_to_ssm_instance(ID)
        assert proxy.ssh_listen_port > 0
    (words,) = asked(tmp_path)
    forward = words.index("-L")
    assert words[forward + 1] == f"127.0.0.1:{proxy.ssh_listen_port}:localhost:11022"
    assert words[forward + 2 :][:4] == ["-o", "Tag=a b", "-R", "12345:localhost:12345"]
    assert words[-3:] == ["--", ID, "exec cat"]
    assert any(f"--instance-id {ID}" in word for word in words if word.startswith("ProxyCommand="))


def test_connecting_again_closes_the_earlier_tunnel(
    session: boto3.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = tmp_path / "over"
    told = f'import signal; signal.signal(15, lambda *_: (open({str(over)!r}, "a").write("x"), sys.exit()))'
    ssh_that(f"{told}; {LISTENING}", tmp_path, monkeypatch)
    with SSMProxy(0, session=session) as proxy:
        proxy.connect_to_ssm_instance(ID)
        proxy.connect_to_ssm_instance(ID)
        assert over.read_text() == "x"
    assert over.read_text() == "xx"


def test_what_ssh_says_is_told_when_it_gives_up(
    session: boto3.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_that('sys.exit("Permission denied (publickey).")', tmp_path, monkeypatch)
    proxy = SSMProxy(0, session=session)
    with pytest.raises(ConnectionError, match=r"no tunnel to mi-.*Permission denied \(publickey\)") as caught:
        proxy.connect_to_ssm_instance(ID)
    assert isinstance(caught.value, ConnectionFailed)
    with pytest.raises(ConnectionFailed, match="there is no tunnel"):
        proxy.run_command("true")


def ssh_that_loses_its_connection(said: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command's ssh writes what was said, ends the tunnel's, and fails as ssh does."""
    monkeypatch.setattr("sagemaker_ssh_helper.proxy._LOST_TIMEOUT", 60)
    gone = folder / "gone"
    os.mkfifo(gone)
    ssh_that(
        f"if '-p' in sys.argv: print({said!r}, end=''); open({str(gone)!r}, 'w').write('x'); sys.exit(255)\n"
        f"print('listening', flush=True); open({str(gone)!r}).read(); sys.exit('Connection lost')",
        folder,
        monkeypatch,
    )


def test_a_connection_lost_in_a_command_is_no_failure_of_the_command(
    session: boto3.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_that_loses_its_connection("", tmp_path, monkeypatch)
    with SSMProxy(0, session=session) as proxy:
        proxy.connect_to_ssm_instance(ID)
        with pytest.raises(ConnectionFailed, match="there is no tunnel"):
            proxy.terminate_waiting_loop()


def test_a_job_that_ends_as_soon_as_it_may_go_on_was_let_go(
    session: boto3.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh_that_loses_its_connection("stopped 1 waiting\n", tmp_path, monkeypatch)
    with SSMProxy(0, session=session) as proxy:
        proxy.connect_to_ssm_instance(ID)
        proxy.terminate_waiting_loop()
        with pytest.raises(ConnectionFailed, match="there is no tunnel"):
            proxy.run_command("true")


def test_a_status_of_the_command_is_the_commands_own(
    session: boto3.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagemaker_ssh_helper.proxy._LOST_TIMEOUT", 0.01)
    ssh_that(f"if '-p' in sys.argv: print('so far'); sys.exit(255)\n{LISTENING}", tmp_path, monkeypatch)
    with SSMProxy(0, session=session) as proxy:
        proxy.connect_to_ssm_instance(ID)
        with pytest.raises(subprocess.CalledProcessError) as caught:
            proxy.run_command_with_output("exit 255")
        assert proxy.run_command("exit 255") == 255
        assert proxy.connected
        assert proxy.fetch_proxy_output() == "motd of a shell"
    assert (caught.value.returncode, caught.value.output) == (255, b"so far\n")
    assert not proxy.connected


def test_a_port_that_is_taken_is_told_before_ssh_runs(session: boto3.Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortBusy, match=f"port {port} .*Choose another one"):
            SSMProxy(port, session=session).connect_to_ssm_instance(ID)


def test_what_makes_no_sense_is_refused(session: boto3.Session) -> None:
    with pytest.raises(UsageError, match="65536 is no port"):
        SSMProxy(65536, session=session).connect_to_ssm_instance(ID)
    with pytest.raises(UsageError, match="are no options of ssh"):
        SSMProxy(0, "-L 'open", session=session).connect_to_ssm_instance(ID)
    with pytest.raises(UsageError, match="is no managed instance"):
        SSMProxy(0, session=session).connect_to_ssm_instance("my-job.training.sagemaker")


def test_a_machine_without_ssh_is_told(
    session: boto3.Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SshMissing, match="Install OpenSSH"):
        SSMProxy(0, session=session).connect_to_ssm_instance(ID)


def test_without_a_tunnel_there_is_nothing_to_disconnect_and_nothing_to_run_in(
    session: boto3.Session,
) -> None:
    with SSMProxy(0, session=session) as proxy:
        proxy.disconnect()
        with pytest.raises(ConnectionFailed, match=r"connect_to_ssm_instance"):
            proxy.terminate_waiting_loop()
