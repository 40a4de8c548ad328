"""
The set-up as a job sees it: real processes, a real sshd, and AWS's first answers from a loopback endpoint.

What comes after the activation is the agent's, and tested with it.
"""

import contextlib
import errno
import json
import os
import pwd
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.http_server import Reply, ScriptedServer
from agent.job_script import SECRET, TIMEOUT, eventually, processes_of, status_of, words_of
from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.agent import bootstrap, sshd
from sagemaker_ssh_helper.agent.resource import Resource
from sagemaker_ssh_helper.agent.state import State, StateDir
from sagemaker_ssh_helper.agent.waiting import Waiter, list_all, stop_all
from sagemaker_ssh_helper.names import Line, ResourceKind
from sagemaker_ssh_helper.public_keys import PublicKey

pytestmark = pytest.mark.container

# --- jobs without ssh ---


@pytest.mark.parametrize("value", [None, "", "false", "1"])
def test_a_job_that_was_not_launched_with_ssh_is_left_alone(start, aws, value):
    job = start(START_SSH=value or "")
    job.goes_on()

    assert job.end() == ("", "")
    assert not os.path.exists(job.state_path)
    assert aws.calls == []


def test_a_node_that_is_left_out_says_so_and_sets_nothing_up(start, aws, tmp_path):
    config = tmp_path / "ml" / "input" / "config" / "resourceconfig.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps({"current_host": "algo-3", "hosts": ["algo-1", "algo-2", "algo-3"]}))

    job = start()
    job.goes_on()

    assert job.end()[1] == "sagemaker-ssh-helper: no ssh on algo-3: SSH_INSTANCE_COUNT leaves it out\n"
    assert not os.path.exists(job.state_path)


# --- the activation, and what is there by then ---


def test_the_activation_has_every_tag_and_sshd_answers_with_the_tagged_key(start, aws, environment, tmp_path):
    asked, go_on = threading.Event(), threading.Event()
    aws.before["CreateActivation"] = lambda: (asked.set(), go_on.wait(TIMEOUT))
    began_at = int(time.time())

    job = start()
    job.goes_on()
    assert asked.wait(TIMEOUT)
    (call,) = aws.parameters("CreateActivation")
    tags = {tag["Key"]: tag["Value"] for tag in call["Tags"]}
    (tmp_path / "known_hosts").write_text(f"job {tags['SSHHostKey']}\n")
    options = [f"UserKnownHostsFile={tmp_path}/known_hosts", "HostKeyAlias=job", "StrictHostKeyChecking=yes"]
    words = [
        "ssh",
        "-F",
        "/dev/null",
        "-i",
        str(tmp_path / "id"),
        "-p",
        tags["SSHPort"],
        "-l",
        tags["SSHUser"],
    ]
    words += [word for option in options for word in ("-o", option)]
    login = subprocess.run(
        [*words, "127.0.0.1", "echo $TRAINING_JOB_NAME $PASSWORD; pwd"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    go_on.set()

    assert login.stdout == f"my-job {SECRET}\n{tmp_path}\n"
    assert call["IamRole"] == "service-role/MyRole"
    assert call["DefaultInstanceName"] == "algo-1.my-job.training.sagemaker"
    assert call["RegistrationLimit"] == 1
    assert began_at + 3000 < call["ExpirationDate"] < began_at + 4000
    assert began_at <= int(tags.pop("SSHTimestamp")) <= time.time()
    assert tags == {
        "SSHOwner": "AIDAEXAMPLE:jane@example.com",
        "SSHCreator": "AROAEXAMPLE:SageMaker",
        "SSHResourceName": "my-job",
        "SSHResourceArn": environment["TRAINING_JOB_ARN"],
        "SSHHostKey": (Path(job.state_path) / "ssh_host_ed25519_key.pub").read_text().strip(),
        "SSHPort": tags["SSHPort"],
        "SSHUser": pwd.getpwuid(os.geteuid()).pw_name,
        "SSHNode": "algo-1",
        "SSHLaunchId": environment["SSH_LAUNCH_ID"],
        "SSHKeys": PublicKey.parse(environment["SSH_PUBLIC_KEY"]).fingerprint,
        "SSHVersion": __version__,
    }


def test_the_logins_ignore_no_signal_that_the_job_or_a_shell_ignores(start, aws):
    asked, go_on = threading.Event(), threading.Event()
    aws.before["CreateActivation"] = lambda: (asked.set(), go_on.wait(TIMEOUT))

    # The shell that starts the agent adds SIGINT and SIGQUIT.
    job = start("/bin/sh", "-c", 'trap "" HUP TERM USR1; exec "$@"', "sh")
    assert asked.wait(TIMEOUT)
    pid = (Path(job.state_path) / "sshd.pid").read_text().strip()
    (ignored,) = [
        line.split()[1] for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigIgn" in line
    ]
    go_on.set()

    # sshd itself wants to know when a connection is gone; what is no signal is the C library's own.
    known = {number for number in signal.valid_signals() if int(ignored, 16) >> (number - 1) & 1}
    assert known <= {signal.SIGPIPE}


def test_the_program_that_makes_the_key_is_no_zombie_for_the_agents_life(start, aws):
    asked, go_on = threading.Event(), threading.Event()
    aws.before["CreateActivation"] = lambda: (asked.set(), go_on.wait(TIMEOUT))
    job = start()
    assert asked.wait(TIMEOUT)

    agent = int((Path(job.state_path) / "agent.pid").read_text())
    eventually(lambda: (Path(job.state_path) / "agent_key.pem").exists())
    eventually(lambda: states_of_children(agent) == [])
    go_on.set()


def states_of_children(parent):
    """But for sshd, which belongs to nobody after its start."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if rest and int(rest.split()[1]) == parent and name != "sshd":
            found.append(rest.split()[0])
    return found


def test_the_containers_own_role_is_used_when_the_launch_names_none(start, aws):
    job = start(SSH_SSM_ROLE="")
    status_of(job)

    assert aws.parameters("CreateActivation")[0]["IamRole"] == "JobRole"


def test_a_public_key_that_is_none_is_not_used_and_said_in_the_log(start, aws):
    job = start(SSH_PUBLIC_KEY="ssh-ed25519 AAAA$(id)")
    status = status_of(job)

    tags = [tag["Key"] for tag in aws.parameters("CreateActivation")[0]["Tags"]]
    assert "SSHKeys" not in tags
    assert "SSH_PUBLIC_KEY is not used: that is no public key" in Path(status.log).read_text()
    assert (Path(job.state_path) / "authorized_keys").read_text() == ""


def test_no_value_of_the_environment_is_logged(start, aws):
    job = start(SSH_LOG_TO_STDOUT="true")
    job.goes_on()
    status = status_of(job)
    out, err = job.end()

    for text in (out, err, Path(status.log).read_text(), status.why):
        assert SECRET not in text
    assert SECRET in (Path(job.state_path) / "environment").read_text()


def test_the_log_goes_to_the_jobs_output_when_asked(start, aws):
    job = start(SSH_LOG_TO_STDOUT="true")
    job.goes_on()
    status_of(job)

    assert "= setting up algo-1.my-job.training.sagemaker in eu-west-1" in job.end()[0]


# --- failures: the job goes on, and one line says why ---


DENIED = (400, {"__type": "AccessDeniedException", "message": "User: x is not authorized to perform it"})
FAILURES = {
    "denied": (
        {"CreateActivation": DENIED},
        {},
        ["AccessDeniedException: User: x is not authorized", "iam:PassRole on the role service-role/MyRole"],
    ),
    "role without trust": (
        {
            "CreateActivation": (
                400,
                {
                    "__type": "ValidationException",
                    "message": "Nonexistent role or missing ssm service principal",
                },
            )
        },
        {},
        ["Nonexistent role", "Let ssm.amazonaws.com assume the role service-role/MyRole"],
    ),
    "no region": ({}, {"AWS_REGION": "", "TRAINING_JOB_ARN": ""}, ["region is not known", "Set AWS_REGION"]),
    "no role": ({"GetCallerIdentity": (403, "")}, {"SSH_SSM_ROLE": ""}, ["no IAM role", "Set SSH_SSM_ROLE"]),
    "long role name": ({}, {"SSH_SSM_ROLE": "r" * 65}, ["longer than the 64 characters"]),
    "no credentials": (
        {},
        {"AWS_ACCESS_KEY_ID": "", "AWS_EC2_METADATA_DISABLED": "true"},
        ["no AWS credentials in this container"],
    ),
    "registration refused": ({}, {}, ["InvalidActivation: enough"]),
    "registration limit": (
        {"RegisterManagedInstance": (400, {"__type": "RegistrationLimitExceeded", "message": "1000"})},
        {},
        ["RegistrationLimitExceeded: 1000", "sm-ssh-deregister-instances", "advanced-instances tier"],
    ),
}


@pytest.mark.parametrize("wait_time", ["0", "600"], ids=["not waiting", "waiting"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_line_and_the_job_goes_on(start, aws, failure, wait_time):
    answers, changes, said = FAILURES[failure]
    aws.answers.update(answers)

    job = start(SSH_WAIT_TIME_SECONDS=wait_time, **changes)
    job.goes_on()
    status = status_of(job)
    # The line is written after the state.
    eventually(lambda: not StateDir.open(job.state_path).has_agent())
    err = job.end()[1]

    lines = [line for line in err.splitlines() if "no ssh in this container" in line]
    assert len(lines) == 1, err
    for text in said:
        assert text in lines[0]
        assert text in status.why
    assert f"Log: {status.log}" in lines[0]
    # Nothing is left behind.
    eventually(lambda: not processes_of(job.state_path))


def test_a_name_that_is_not_known_is_told_with_what_the_network_needs(start, aws):
    job = start(AWS_ENDPOINT_URL="http://ssm.invalid:1", SSH_WAIT_TIME_SECONDS="600")
    job.goes_on()
    status = status_of(job)

    for text in (status.why, job.end()[1]):
        assert "ssm.invalid:1 cannot be reached (its name cannot be resolved). " in text
        assert "one in a VPC needs a NAT gateway, or endpoints for ssm and ssmmessages" in text


def test_a_proxy_that_wants_another_password_is_told_without_it(start, aws):
    with ScriptedServer(*[Reply(407)] * 9) as proxy:
        where = f"http://me:{SECRET}@127.0.0.1:{proxy.port}"
        job = start(AWS_ENDPOINT_URL="https://aws.example", HTTPS_PROXY=where, NO_PROXY="")
        status = status_of(job)
        eventually(lambda: not StateDir.open(job.state_path).has_agent())
        err = job.end()[1]

    for text in (status.why, err):
        assert f"aws.example cannot be reached through the proxy 127.0.0.1:{proxy.port}" in text
        assert "it answered 407" in text
        assert "Set HTTPS_PROXY to http://NAME:PASSWORD@HOST:PORT" in text
        assert SECRET not in text


def test_a_certificate_that_is_not_trusted_is_told_with_the_variable_to_set(start, aws, tmp_path):
    with tls_port(tmp_path) as port:
        status = status_of(start(AWS_ENDPOINT_URL=f"https://localhost:{port}"))

    assert "its certificate is not trusted" in status.why
    assert "Set AWS_CA_BUNDLE to a file with the certificate authority's certificate" in status.why


# With another program in the place of sshd, which is told to be the only ssh server.
OTHER_SSHD = 'mount --bind "$0" "$1" || exit 99; shift; exec "$@"'


def test_an_sshd_that_refuses_is_one_line_with_its_own_words(start, aws, tmp_path):
    refusing = tmp_path / "refusing-sshd"
    refusing.write_text("#!/bin/sh\necho 'sshd: no hostkeys available -- exiting.' >&2\nexit 1\n")
    refusing.chmod(0o755)
    words = ["unshare", "-Urm", "sh", "-c", OTHER_SSHD, str(refusing), sshd.find_program("sshd")]

    job = start(*words, SSH_SSHD="openssh")
    job.goes_on()
    status = status_of(job)
    eventually(lambda: not StateDir.open(job.state_path).has_agent())

    (line,) = [line for line in job.end()[1].splitlines() if "no ssh in this container" in line]
    assert "no hostkeys available" in line
    assert status.why in line
    assert aws.parameters("CreateActivation") == []


@contextlib.contextmanager
def tls_port(folder):
    """A port that shows a certificate nobody signed."""
    key, certificate = str(folder / "tls.key"), str(folder / "tls.pem")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-subj", "/CN=localhost", "-keyout", key, "-out", certificate]
    subprocess.run(words, check=True, capture_output=True, timeout=TIMEOUT)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def shake_hands():
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    try:
                        context.wrap_socket(peer, server_side=True).close()
                    except OSError:
                        # The client hung up, as it should.
                        pass

        thread = threading.Thread(target=shake_hands)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(TIMEOUT)


@pytest.mark.parametrize("signal_to", ["agent", "job"])
def test_a_start_that_is_told_to_end_says_so_and_leaves_nothing(start, aws, signal_to):
    asked, go_on = threading.Event(), threading.Event()
    aws.before["CreateActivation"] = lambda: (asked.set(), go_on.wait(TIMEOUT))
    job = start(SSH_WAIT_TIME_SECONDS="600")
    assert asked.wait(TIMEOUT)

    if signal_to == "job":
        # As it would end without us.
        job.process.terminate()
        assert job.process.wait(TIMEOUT) == -signal.SIGTERM
        go_on.set()
    else:
        words = b"sagemaker_ssh_helper.agent.keeper"
        for pid in processes_of(job.state_path):
            if words in words_of(pid):
                os.kill(pid, signal.SIGTERM)
        status = status_of(job)
        job.goes_on()
        go_on.set()

        assert status.why == "the set-up was told to end"
        assert "no ssh in this container: the set-up was told to end" in job.end()[1]
        eventually(lambda: not processes_of(job.state_path))


# In a file system of its own, with this much room left; the name of a disk is its folder.
FULL = """
mount -t tmpfs -o size=256k none "$0" && mkdir -m 700 "$0/node" &&
dd if=/dev/zero of="$0/filler" bs=1024 count="$1" 2>/dev/null; shift; exec "$@"
"""


@pytest.mark.parametrize("filled", [255, 252], ids=["no room at all", "room for the state alone"])
def test_a_full_disk_is_one_line_and_the_job_goes_on(tmp_path, environment, aws, filled):
    """The script prints what the state says: nobody outside sees that disk."""
    disk = tmp_path / "disk"
    disk.mkdir()
    environment.update(SSH_STATE_DIR=str(disk / "node"), SSH_WAIT_TIME_SECONDS="600", BIG="x" * 100_000)
    script = (
        "from sagemaker_ssh_helper import setup_and_start_ssh; setup_and_start_ssh(); import os; "
        "from sagemaker_ssh_helper.agent.state import StateDir; "
        "print('the job goes on', StateDir.open(os.environ['SSH_STATE_DIR']).read_status())"
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", FULL, str(disk), str(filled), sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )

    (line,) = [line for line in done.stderr.splitlines() if "no ssh in this container" in line]
    assert f"the node's files cannot be written to {disk}/node (No space left on device). Make room" in line
    assert done.stdout.startswith("the job goes on"), done.stderr
    if filled == 252:
        assert "FAILED" in done.stdout
        assert "No space left on device" in done.stdout
    assert aws.calls == []


def test_a_folder_that_cannot_be_used_is_told_at_once(start, tmp_path, aws):
    (tmp_path / "a file").write_text("")

    job = start(SSH_STATE_DIR=str(tmp_path / "a file"), SSH_WAIT_TIME_SECONDS="600")
    job.goes_on()

    assert job.end()[1].startswith("sagemaker-ssh-helper: no ssh in this container: no folder to keep")


def test_a_folder_that_another_container_uses_is_told(environment, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    state = StateDir.choose(environment)
    with state.try_agent_lock():
        state.begin("setting up")
        bootstrap.setup_and_start_ssh()
        assert capsys.readouterr().err == ""

        state.update_status(State.ONLINE, host="another-app")
        monkeypatch.setattr(bootstrap, "_BEGIN_TIMEOUT", 0.01)
        bootstrap.setup_and_start_ssh()

    assert capsys.readouterr().err == (
        "sagemaker-ssh-helper: no ssh in this container: another container, another-app, has its files in "
        f"{state.path}. Set SSH_STATE_DIR to a folder that this container has for itself\n"
    )
    assert state.read_status().state is State.ONLINE


@pytest.mark.parametrize("told", ["another-app", None])
def test_a_process_that_is_a_moment_early_takes_nobody_for_another_container(
    environment, monkeypatch, capsys, told
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    state = StateDir.choose(environment)
    if told:
        # Left by a container that had this home before.
        state.update_status(State.ONLINE, host=told)
    monkeypatch.setattr(bootstrap, "_BEGIN_TIMEOUT", TIMEOUT)
    monkeypatch.setattr(
        time, "sleep", lambda seconds: state.begin("setting up") if seconds == TIMEOUT else None
    )
    with state.try_agent_lock():
        bootstrap.setup_and_start_ssh()

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"PATH": "/nowhere"}, "there is no python3 program to run the agent with. Put python3 on the PATH"),
        ({}, "the agent's process cannot be started (Resource temporarily unavailable: '/bin/sh')"),
    ],
)
@pytest.mark.parametrize("wait_time", ["0", "600"])
def test_a_process_that_cannot_be_started_is_told_in_the_state_too(
    environment, monkeypatch, capsys, changes, why, wait_time
):
    for name, value in {**environment, **changes, "SSH_WAIT_TIME_SECONDS": wait_time}.items():
        monkeypatch.setenv(name, value)
    if "PATH" in changes:
        # A program with Python inside.
        monkeypatch.setattr(sys, "executable", "/usr/bin/embedding")
    else:
        # The container may have no more processes.
        def refuse(words, **options):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), words[0])

        monkeypatch.setattr(subprocess, "run", refuse)

    bootstrap.setup_and_start_ssh()

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sagemaker-ssh-helper: no ssh in this container: {why}")
    status = StateDir.open(environment["SSH_STATE_DIR"]).read_status()
    assert status.state is State.FAILED
    assert line.endswith(status.why)
    assert list_all(StateDir.open(environment["SSH_STATE_DIR"])) == []


def test_an_unreachable_aws_does_not_hold_a_job_up_that_waits_for_nothing(start):
    job = start(AWS_ENDPOINT_URL="http://127.0.0.1:9")
    job.goes_on()

    # The pipes end with the job, although the agent process goes on trying.
    assert job.end()[0] == ""
    assert processes_of(job.state_path)


def test_an_unreachable_aws_holds_a_job_up_no_longer_than_it_waits(start):
    began_at = time.monotonic()
    job = start(AWS_ENDPOINT_URL="http://127.0.0.1:9", SSH_WAIT_TIME_SECONDS="0.5")
    job.goes_on()

    assert time.monotonic() - began_at < 30.0
    assert "not online yet; it goes on in the background" in job.end()[1]


# --- several processes, and the end of the wait ---


def test_eight_processes_of_a_node_start_one_agent(start, aws):
    asked, go_on = threading.Event(), threading.Event()
    aws.before["CreateActivation"] = lambda: (asked.set(), go_on.wait(TIMEOUT))

    jobs = [start() for _ in range(8)]
    for job in jobs:
        job.goes_on()
    assert asked.wait(TIMEOUT)
    go_on.set()
    status_of(jobs[0])

    assert len(aws.parameters("CreateActivation")) == 1


def test_the_wait_can_be_ended_before_the_node_is_online(start, aws):
    asked, go_on = threading.Event(), threading.Event()
    aws.before["CreateActivation"] = lambda: (asked.set(), go_on.wait(TIMEOUT))

    job = start(SSH_WAIT_TIME_SECONDS="600")
    assert asked.wait(TIMEOUT)
    assert stop_all(StateDir.open(job.state_path)) == 1
    job.goes_on()
    go_on.set()

    assert "the wait was ended before the node was online" in job.end()[1]


class TestTheWait:
    """In this process, with a test in the agent's place."""

    HERE = Resource(ResourceKind.TRAINING, "my-job", "", 0)

    @pytest.fixture
    def state(self, tmp_path):
        state = StateDir.open(str(tmp_path / "node"), create=True)
        lock = state.try_agent_lock()
        yield state
        lock.release()

    def wait(self, state, seconds, here=HERE):
        with Waiter(state, "setup_and_start_ssh") as waiter:
            bootstrap._wait(state, waiter, here, seconds)

    def test_it_says_how_to_connect_and_ends_with_its_time(self, state, capsys):
        state.update_status(State.ONLINE, instance_id="mi-0123456789abcdef0")

        self.wait(state, 0.2)

        assert capsys.readouterr().err == (
            "sagemaker-ssh-helper: online as mi-0123456789abcdef0. Connect: ssh my-job.training.sagemaker\n"
            "sagemaker-ssh-helper: waiting 0 s for a connection; the job goes on then, or after: "
            "sm-wait stop\nsagemaker-ssh-helper: the wait is over\n"
        )

    def test_another_node_is_named(self, state, capsys):
        state.update_status(State.ONLINE)

        self.wait(state, 0.01, Resource(ResourceKind.PROCESSING, "p", "", 1))

        assert "Connect: ssh algo-2.p.processing.sagemaker\n" in capsys.readouterr().err

    def test_it_begins_when_the_node_is_online_and_ends_by_sm_wait_stop(self, state, capsys):
        state.update_status(State.STARTING)
        thread = threading.Thread(target=self.wait, args=(state, 600.0))
        thread.start()
        eventually(lambda: list_all(state))
        state.update_status(State.ONLINE, instance_id="mi-1")
        eventually(lambda: list_all(state)[0].until > time.time() + 500)

        stop_all(state)
        thread.join(TIMEOUT)

        assert not thread.is_alive()
        assert capsys.readouterr().err.endswith("the wait was ended\n")

    def test_an_agent_that_fails_later_ends_it(self, state, capsys):
        state.update_status(State.ONLINE)
        thread = threading.Thread(target=self.wait, args=(state, 600.0))
        thread.start()
        eventually(lambda: any(entry.until for entry in list_all(state)))

        state.update_status(State.FAILED, why="deregistered")
        thread.join(TIMEOUT)

        assert not thread.is_alive()


def test_a_number_of_seconds_that_is_none_is_said_and_taken_for_none(capsys):
    assert bootstrap._wait_time({"SSH_WAIT_TIME_SECONDS": "ten"}) == 0.0
    assert "'ten', which is no number of seconds" in capsys.readouterr().err
    assert bootstrap._wait_time({"SSH_WAIT_TIME_SECONDS": "-5"}) == 0.0
    assert bootstrap._wait_time({}) == 0.0


def test_the_line_others_search_for_is_one_of_the_shared_names():
    assert Line.REGISTERED.startswith("Successfully registered the instance with AWS SSM")
