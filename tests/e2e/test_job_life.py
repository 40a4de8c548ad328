"""A job from its start to its end, by name: waiting, status, log, going on, stopping."""

import json
import os
import pty
import signal
import subprocess
import time
from typing import Callable, Iterator, List

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, end, launch, running, until
from local_cloud import LocalCloud


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice, "print('line one'); print('line two')", name="life-of-a-job") as job:
        yield job


def test_a_job_that_is_still_starting_is_waited_for_stage_by_stage(alice: Laptop) -> None:
    starting = launch(alice, name="starting-up")
    try:
        done = alice.sm_ssh("exec", starting.host, "--", "echo in")
        assert (done.returncode, done.stdout) == (0, b"in\n"), done.stderr.decode()
        told = done.stderr.decode().splitlines()
        # A very quick start leaves nothing to wait for.
        if told:
            assert told[0].startswith(f"sm-ssh: {starting.host} is still starting, submitted 0:0")
            assert told[0].endswith(" ago; Ctrl-C stops waiting, the job goes on")
            assert told[-1].startswith("sm-ssh: starting-up: helper started and online after 0:")
            known = json.loads((alice.home / ".local/state/sm-ssh/timings.json").read_text())
            assert known["training ml.m5.large"]["helper"]
    finally:
        starting.stop()


LATE = """
    import os, time
    time.sleep(float(os.environ["LATE"]))
    import sagemaker_ssh_helper
    sagemaker_ssh_helper.setup_and_start_ssh()
"""


def one_ssh_from_the_first_moment(alice: Laptop, cloud: LocalCloud, late: float, silent: float) -> None:
    """
    The container registers after ``late`` seconds and takes sessions ``silent`` seconds later; in between it
    is lost twice. One ssh, begun at once, logs in.
    """
    config = alice.configure_ssh()
    admin = cloud.client("ssm", user="admin")
    refused = {
        "kind": "error",
        "action": "ssm:StartSession",
        "user": "alice",
        "code": "TargetNotConnected",
        "message": "mi-0 is not connected.",
    }
    cloud.faults(**refused)
    cloud.faults(kind="ping-status", grace=0)
    cloud.reset_requests()
    began_at = time.monotonic()
    late_one = launch(alice, LATE, wait=600, keep_program=True, Environment={"LATE": str(late)})

    def status() -> List[str]:
        return [node["PingStatus"] for node in late_one.instances()]

    ssh = alice.popen(*config, late_one.host, "echo in", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until(late_one.instances, "the container to register", late + 60)
        for _ in range(2):
            time.sleep(silent / 4)
            cloud.faults(kind="gateway", action="stop")
            until(lambda: status() == ["ConnectionLost"], "the agent to be lost")
            time.sleep(silent / 4)
            cloud.faults(kind="gateway", action="start")
            until(lambda: status() == ["Online"], "the agent to come back", 60)
        assert admin.describe_sessions(State="Active")["Sessions"] == []
        cloud.clear_faults()
        healed_at = time.monotonic()
        out, told = ssh.communicate(timeout=60)
    finally:
        cloud.clear_faults()
        end(ssh)
        late_one.stop()
    assert (ssh.returncode, out) == (0, b"in\n"), told.decode()
    now = time.monotonic()
    # A busy machine may be late; a try comes every four seconds.
    assert now - healed_at < 30
    lines = told.decode().splitlines()
    assert "is still starting" in lines[0]
    assert all(line.startswith("sm-ssh: ") for line in lines)
    assert len(lines) >= (now - began_at) // 20, lines
    asked = [row for row in cloud.requests() if row["user"] == "alice"]
    # Beside those of the test itself.
    ours = {"sagemaker:DescribeTrainingJob", "ssm:StartSession", "logs:FilterLogEvents"}
    calls = sum(row["count"] for row in asked if row["action"] in ours)
    assert calls <= (now - began_at) / 2 + 10, asked


def test_one_ssh_from_the_first_moment_logs_in(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    one_ssh_from_the_first_moment(alice, e2e_cloud, late=3, silent=8)


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_one_ssh_waits_for_minutes(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    one_ssh_from_the_first_moment(alice, e2e_cloud, late=40, silent=90)


def test_ssh_that_leaves_while_it_waits_leaves_no_proxy(alice: Laptop) -> None:
    waiting = launch(alice, "import time; time.sleep(600)", keep_program=True)
    try:
        with alice.popen(*alice.configure_ssh(), waiting.host, "true", stderr=subprocess.PIPE) as ssh:
            assert ssh.stderr is not None
            assert b"still starting" in ssh.stderr.readline()
            ssh.kill()
            # The proxy holds the other end, too.
            ssh.stderr.read()
    finally:
        waiting.stop()


def test_a_job_that_has_just_ended_has_ended(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    with running(alice, "import time; time.sleep(600)", wait=0) as ending:
        assert alice.sm_ssh("exec", ending.host, "--", "true").returncode == 0
        with e2e_cloud.fault(kind="ping-status", grace=600):
            ending.stop()
            ending.wait_ended()
            # Its agent's last ping is a moment ago, so AWS still calls it Online.
            assert [node["PingStatus"] for node in ending.instances()] == ["Online"]
            done = alice.sm_ssh("exec", ending.host, "--", "true")
    assert done.returncode == 255
    assert f"error[target-ended]: {ending.name} has ended: Stopped" in done.stderr.decode()


def test_every_node_of_a_starting_job_is_waited_for(alice: Laptop) -> None:
    two = {"InstanceType": "ml.m5.large", "InstanceCount": 2, "VolumeSizeInGB": 10}
    starting = launch(alice, LATE, keep_program=True, Environment={"LATE": "2"}, ResourceConfig=two)
    try:
        done = alice.sm_ssh("exec", "--all", starting.host, "--", "echo in")
    finally:
        starting.stop()
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(done.stdout.decode().splitlines()) == ["algo-1 | in", "algo-2 | in"]
    assert done.stderr.decode().splitlines()[-1] == "sm-ssh: 2 nodes, 2 ok"


def test_leaving_the_wait_leaves_the_job_alone(alice: Laptop) -> None:
    # Its helper never starts: it was told that it would, and the program does not call it.
    waiting = launch(alice, "import time; time.sleep(600)", keep_program=True, name="never-ready")
    try:
        process = alice.popen(*SM_SSH, "connect", waiting.host, stderr=subprocess.PIPE)
        assert process.stderr is not None
        assert b"still starting" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 130
        assert b"Traceback" not in rest
        assert waiting.describe()["TrainingJobStatus"] == "InProgress"
        done = alice.sm_ssh("wait", waiting.host, "--timeout", "3s", "--json")
        assert done.returncode == 6
        assert json.loads(done.stdout)["state"] == "timeout"
        assert alice.sm_ssh("connect", "--no-wait", waiting.host).returncode == 5
        assert alice.sm_ssh("wait", waiting.host, "--for", "running").returncode == 0
    finally:
        waiting.stop()


def test_what_can_never_come_ends_the_wait_at_once(alice: Laptop) -> None:
    ended = launch(alice, "raise SystemExit(3)", wait=0, name="came-to-nothing")
    ended.wait_ended()
    done = alice.sm_ssh("wait", ended.host, "--json")
    assert done.returncode == 7
    shown = json.loads(done.stdout)
    assert (shown["schema"], shown["state"], shown["error"], shown["exit"]) == (1, "ended", "target-ended", 7)
    assert alice.sm_ssh("wait", ended.host, "--for", "ended").returncode == 0
    assert alice.sm_ssh("wait", ended.host, "--for", "running").returncode == 7
    assert alice.sm_ssh("stop", "--yes", ended.host).returncode == 7


PLACEHOLDER = """
import time
from datetime import timedelta
import sagemaker_ssh_helper as helper
helper.setup_and_start_ssh()
while not (helper.is_last_session_timeout(timedelta(seconds=1)) and helper.is_profiler_issues_found()):
    time.sleep(0.2)
print("nobody needs this any more")
"""

ASK = (
    "python -c 'import sagemaker_ssh_helper as helper; from datetime import timedelta; "
    "print(helper.is_last_session_timeout(timedelta(0)), helper.is_profiler_issues_found())'"
)


def test_a_placeholder_ends_when_nobody_is_there_and_the_profiler_found_issues(
    alice: Laptop, e2e_cloud: LocalCloud
) -> None:
    rule = {"RuleConfigurationName": "LowGPUUtilization", "RuleEvaluatorImage": "local/rules:1"}
    with running(
        alice,
        PLACEHOLDER,
        keep_program=True,
        wait=0,
        ProfilerRuleConfigurations=[rule],
        ProfilerConfig={"S3OutputPath": "s3://bucket/profiler"},
    ) as job:
        assert alice.sm_ssh("exec", job.host, "--", ASK).stdout == b"False False\n"
        shell = alice.popen(*SM_SSH, "exec", job.host, "--", f"cat; {ASK}", stdin=-1, stdout=-1)
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(b"in\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == b"in\n"
        assert job.describe()["TrainingJobStatus"] == "InProgress"
        with e2e_cloud.fault(
            kind="rule-status",
            training_job=job.name,
            rule=rule["RuleConfigurationName"],
            status="IssuesFound",
        ):
            # It is kept as long as somebody is there.
            assert shell.communicate(timeout=60)[0] == b"False True\n"
            assert job.wait_ended()["TrainingJobStatus"] == "Completed"
        assert "nobody needs this any more" in job.log()


def test_a_shell_ends_with_its_job(alice: Laptop) -> None:
    ending = launch(alice, "import time; time.sleep(600)", name="ends-with-its-job")
    ending.wait_online()
    with alice.popen(
        *alice.configure_ssh(), "-o", "ServerAliveInterval=1", ending.host, "echo in; exec sleep 600",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as shell:  # fmt: skip
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"in\n"
        ending.stop()
        _, told = shell.communicate(timeout=60)
    assert shell.returncode == 255
    assert f"error[session-lost]: {ending.host} has ended" in told.decode()
    assert "SageMaker tells its status Stopped" in told.decode()


def test_the_status_says_what_it_is_and_that_it_can_be_reached(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("status", "life-of")
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert lines[0] == f"{job.host}  {alice.info['region']}"
    text = done.stdout.decode()
    for part in (
        "InProgress",
        "1 x ml.m5.large",
        "stops at",
        "algo-1",
        "Online",
        job.instances()[0]["InstanceId"],
    ):
        assert part in text
    assert lines[-1] == "  reachable  yes"


def test_the_status_in_json_has_a_schema(alice: Laptop, job: Job) -> None:
    shown = json.loads(alice.sm_ssh("status", "--json", job.host).stdout)
    assert set(shown) == {
        "schema", "host", "region", "status", "secondary_status", "failure_reason", "instance_type",
        "instance_count", "created_at", "ended_at", "stops_at", "reachable", "problem", "nodes",
    }  # fmt: skip
    assert shown["reachable"] is True
    assert [node["node"] for node in shown["nodes"]] == ["algo-1"]
    by_id = json.loads(alice.sm_ssh("status", "--json", shown["nodes"][0]["instance_id"]).stdout)
    assert by_id["host"] == job.host


def test_the_status_of_what_ended_says_why_it_cannot_be_reached(alice: Laptop) -> None:
    ended = launch(alice, "raise SystemExit(3)", wait=0, name="ended-badly")
    ended.wait_ended()
    done = alice.sm_ssh("status", ended.host)
    assert done.returncode == 0
    assert "reason" in done.stdout.decode()
    assert "reachable  no: ended-badly has ended: Failed" in done.stdout.decode()
    assert alice.sm_ssh("status", "no-such-job.training.sagemaker").returncode == 3


def test_the_list_can_be_of_mine_and_of_the_last_hours(
    alice: Laptop, job: Job, laptop: Callable[[str], Laptop]
) -> None:
    def hosts(of: Laptop, *words: str) -> "list[str]":
        done = of.sm_ssh("list", "training", *words)
        assert done.returncode == 0, done.stderr.decode()
        return [line.split()[-1] for line in done.stdout.decode().splitlines()]

    assert job.host in hosts(alice, "--mine")
    assert job.host in hosts(alice, "--mine", "--since", "1h")
    assert job.host not in hosts(alice, "--since", "0s")
    assert job.host not in hosts(laptop("bob"), "--mine")
    assert job.host in [
        line.split()[-1] for line in alice.sm_ssh("list", "--mine", job.host).stdout.decode().splitlines()
    ]
    assert alice.sm_ssh("list", "--since", "soon").returncode == 2


def test_a_watched_list_is_printed_until_it_is_left(alice: Laptop, job: Job) -> None:
    process = alice.popen(
        *SM_SSH, "list", "--watch", job.host, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline().decode().split()[-1] == job.host
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in told


def test_a_question_comes_before_a_stop(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("stop", job.host)
    assert done.returncode == 2
    assert b"--yes" in done.stderr
    ours, theirs = pty.openpty()
    process = alice.popen(*SM_SSH, "stop", job.host, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, b"n\n")
    assert process.wait(timeout=60) == 1
    os.close(ours)
    assert job.describe()["TrainingJobStatus"] == "InProgress"


def test_a_job_is_followed_to_its_end_after_it_was_let_go_on(alice: Laptop) -> None:
    with running(alice, "print('line one'); print('line two')", name="goes-on") as job:
        logs = alice.popen(*SM_SSH, "logs", "-f", job.host, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        done = alice.sm_ssh("continue", "goes-o")
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout == b"algo-1 | stopped 1 waiting\n"
        output, told = logs.communicate(timeout=90)
        assert logs.returncode == 0, told.decode()
        lines = output.decode().splitlines()
        assert [line for line in lines if line.startswith("line ")] == ["line one", "line two"]
        again = alice.sm_ssh("logs", job.host, "--grep", '"line two"', "--since", "1h")
        assert again.stdout == b"line two\n"
        assert alice.sm_ssh("logs", "no-such-job.training.sagemaker").returncode == 3


def test_a_job_is_stopped(alice: Laptop) -> None:
    with running(alice, name="to-be-stopped") as job:
        done = alice.sm_ssh("stop", "--yes", job.host)
        assert done.returncode == 0, done.stderr.decode()
        assert alice.sm_ssh("wait", "--for", "ended", job.host).returncode == 0
        until(lambda: job.describe()["TrainingJobStatus"] == "Stopped", "the job to be stopped")


def test_stopping_a_stopped_job_that_uploads_is_nothing_new(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    def reaches(status: str) -> None:
        until(lambda: job.describe()["SecondaryStatus"] == status, f"the job to be {status}")

    job = launch(alice, "import time; time.sleep(600)", ssh=False)
    reaches("Training")
    with e2e_cloud.fault(kind="delay", action="s3:PutObject", seconds=3):
        job.stop()
        reaches("Uploading")
        job.stop()
        described = job.wait_ended()

    statuses = [transition["Status"] for transition in described["SecondaryStatusTransitions"]]
    assert statuses == ["Starting", "Downloading", "Training", "Stopping", "Uploading", "Stopped"]
