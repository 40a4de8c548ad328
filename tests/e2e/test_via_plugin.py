"""
Sessions that are handed to AWS's own client program. It cannot run here: a stand-in of its name takes the
arguments that it documents, and carries the session with our own channel.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, running, until
from local_cloud import LocalCloud

VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"

STAND_IN = """\
#!{python}
import json, os, signal, sys
sys.path[:0] = {path!r}

if sys.argv[1:] == ["--version"]:
    print("{version}")
    sys.exit()
with open({seen!r}, "w") as file:
    json.dump({{"argv": sys.argv, "pid": os.getpid(), "variable": os.environ.get("{variable}")}}, file)
{body}
"""

CARRY = """\
import asyncio
from sagemaker_ssh_helper.aws.instances import Instance
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.client.pipes import Output
from sagemaker_ssh_helper.client.proxy_command import Started
from sagemaker_ssh_helper.client.tunnel import Tunnel

response, region, operation, profile, request, endpoint = sys.argv[1:]
assert (operation, profile) == ("StartSession", "")
if response.startswith("AWS_SSM_START_SESSION_RESPONSE"):
    response = os.environ.pop(response)
answer = json.loads(response)
grant = SessionGrant(answer["SessionId"], answer["StreamUrl"], answer["TokenValue"])

async def carry():
    stop = asyncio.Event()
    stdout = Output(1, on_broken=stop.set)
    started = Started(grant, Instance(json.loads(request)["Target"], "Online"), 22)
    await Tunnel(Client(Session.open(None, region)), started, stdout, stop, print).run()
    stdout.close()

asyncio.run(carry())
"""

WAIT = """\
print("carrying", flush=True)
signal.pause()
"""

STAY = """\
signal.signal(signal.SIGTERM, lambda *_: None)
print("carrying", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice) as job:
        yield job


class Plugin:
    """The stand-in on a PATH of its own."""

    def __init__(self, folder: Path, laptop: Laptop) -> None:
        self._folder = folder
        self._seen = folder / "seen.json"
        self.env = {**laptop.env, "PATH": f"{folder}:{laptop.env['PATH']}"}

    def install(self, body: str = CARRY, version: str = "1.2.650.0") -> None:
        program = self._folder / "session-manager-plugin"
        text = STAND_IN.format(
            python=sys.executable,
            path=[word for word in sys.path if word],
            version=version,
            seen=str(self._seen),
            variable=VARIABLE,
            body=body,
        )
        program.write_text(text)
        program.chmod(0o755)

    @property
    def seen(self) -> Dict[str, Any]:
        found: Dict[str, Any] = json.loads(self._seen.read_text())
        return found

    @property
    def was_run(self) -> bool:
        return self._seen.exists()


@pytest.fixture
def plugin(tmp_path: Path, alice: Laptop) -> Plugin:
    return Plugin(tmp_path, alice)


@pytest.fixture(autouse=True)
def sessions_are_ended(e2e_cloud: LocalCloud, job: Job) -> Iterator[None]:
    before = active(e2e_cloud)
    yield
    until(lambda: active(e2e_cloud) <= before, "the sessions to be over", 10)


def active(cloud: LocalCloud) -> "set[str]":
    listed = cloud.client("ssm", user="admin").describe_sessions(State="Active")["Sessions"]
    return {str(session["SessionId"]) for session in listed}


def run(laptop: Laptop, plugin: Plugin, *words: str) -> "subprocess.CompletedProcess[bytes]":
    return laptop.run(*words, env=plugin.env)


def test_plain_ssh_goes_through_it_when_the_configuration_says_so(
    alice: Laptop, job: Job, plugin: Plugin, tmp_path: Path
) -> None:
    plugin.install()
    config = str(tmp_path / "config")
    alice.sm_ssh("config-ssh", "--via", "plugin", "--ssh-config-file", config)
    done = run(alice, plugin, "ssh", "-F", config, "-o", "BatchMode=yes", job.host, "echo in; exit 3")

    assert (done.returncode, done.stdout, done.stderr) == (3, b"in\n", b"")
    program, response, region, operation, profile, request, endpoint = plugin.seen["argv"]
    assert Path(program).name == "session-manager-plugin"
    assert response == VARIABLE
    answer = json.loads(plugin.seen["variable"])
    assert sorted(answer) == ["SessionId", "StreamUrl", "TokenValue"]
    assert (region, operation, profile) == (alice.info["region"], "StartSession", "")
    assert json.loads(request) == {"Target": job.instances()[0]["InstanceId"]}
    assert endpoint == alice.info["endpoint_url"].rstrip("/")
    assert answer["TokenValue"] not in " ".join(plugin.seen["argv"])


def test_an_old_one_gets_the_answer_as_it_knows_it_and_that_is_told(
    alice: Laptop, job: Job, plugin: Plugin
) -> None:
    plugin.install(version="1.2.463.0")
    words = ["connect", "--via=plugin", "-o", "BatchMode=yes", job.host, "echo in"]
    done = run(alice, plugin, *SM_SSH, *words)

    assert (done.returncode, done.stdout) == (0, b"in\n")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(
        "sm-ssh: session-manager-plugin 1.2.463.0 takes the session's token on its command"
    )
    assert sorted(json.loads(plugin.seen["argv"][1])) == ["SessionId", "StreamUrl", "TokenValue"]
    assert plugin.seen["variable"] is None


@pytest.mark.parametrize(
    ("words", "status"),
    [(["connect", "--via", "plugin"], 9), (["start-proxy", "--via", "plugin"], 255),
     (["session", "--via", "plugin"], 255)],
)  # fmt: skip
def test_one_that_is_not_there_is_told_before_anything_is_started(
    alice: Laptop, job: Job, e2e_cloud: LocalCloud, words: List[str], status: int
) -> None:
    started = e2e_cloud.count("ssm:StartSession")
    done = alice.sm_ssh(*words, job.host)
    assert (done.returncode, done.stdout) == (status, b"")
    assert done.stderr.decode() == (
        "sm-ssh: error[local-setup]: session-manager-plugin was not found on PATH. "
        "Install AWS's Session Manager plugin, or go without it: leave out --via plugin\n"
    )
    assert e2e_cloud.count("ssm:StartSession") == started


@pytest.mark.parametrize("command", ["connect", "start-proxy"])
def test_another_way_is_a_mistake(alice: Laptop, job: Job, command: str) -> None:
    done = alice.sm_ssh(command, "--via", "pigeon", job.host)
    assert done.returncode in (2, 255)
    assert b"error[usage]: --via takes direct or plugin (not 'pigeon')" in done.stderr


def test_one_that_only_connects_to_aws_is_refused_here(alice: Laptop, job: Job, plugin: Plugin) -> None:
    plugin.install(version="1.2.896.0")
    done = run(alice, plugin, *SM_SSH, "start-proxy", "--via", "plugin", job.host)
    assert (done.returncode, done.stdout, plugin.was_run) == (255, b"", False)
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(
        "sm-ssh: error[local-setup]: session-manager-plugin 1.2.896.0 connects to AWS's own endpoints only"
    )
    assert line.endswith("Leave out --via plugin, or use version 1.2.835.0")


def test_one_that_fails_ends_the_session(alice: Laptop, job: Job, plugin: Plugin) -> None:
    plugin.install("sys.exit(7)")
    done = run(alice, plugin, *SM_SSH, "start-proxy", "--via", "plugin", job.host)
    assert (done.returncode, done.stdout) == (255, b"")
    assert done.stderr.decode() == (
        "sm-ssh: error[connection-failed]: session-manager-plugin failed (status 7). "
        "Try without it: leave out --via plugin\n"
    )


def test_one_that_cannot_be_run_is_told(alice: Laptop, job: Job, plugin: Plugin, tmp_path: Path) -> None:
    program = tmp_path / "session-manager-plugin"
    program.write_text("#!/nonexistent/interpreter\n")
    program.chmod(0o755)
    done = run(alice, plugin, *SM_SSH, "session", "--via", "plugin", job.host)
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"error[local-setup]: " in done.stderr
    assert b"cannot be run (No such file or directory)" in done.stderr


@pytest.mark.parametrize("command", ["start-proxy", "session"])
@pytest.mark.parametrize("body", [WAIT, STAY], ids=["obeys", "does not"])
def test_a_signal_ends_it_and_the_session(
    alice: Laptop, job: Job, plugin: Plugin, command: str, body: str
) -> None:
    plugin.install(body)
    process = subprocess.Popen(
        [*SM_SSH, command, "--via", "plugin", job.host],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=plugin.env, cwd=alice.home,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"carrying\n"
    process.send_signal(signal.SIGTERM)
    out, told = process.communicate(timeout=30)
    assert (process.returncode, out, told) == (128 + signal.SIGTERM, b"", b"")
    with pytest.raises(ProcessLookupError):
        os.kill(plugin.seen["pid"], 0)


def test_a_session_of_any_document_is_handed_over(alice: Laptop, job: Job, plugin: Plugin) -> None:
    plugin.install("print('carried', sys.stdin.read())")
    done = alice.run(
        *SM_SSH, "session", "--via", "plugin", job.host, "--document", "AWS-StartPortForwardingSession",
        "--parameter", "portNumber=80", stdin=b"there", env=plugin.env,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, b"carried there\n", b"")
