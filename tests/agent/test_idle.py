"""Whether anybody needs a container: sessions, idleness, and what the profiler found."""

import os
import threading
from datetime import timedelta

import pytest

import sagemaker_ssh_helper
from agent.fake_aws import FakeAws
from sagemaker_ssh_helper.agent import idle, profiler_rules
from sagemaker_ssh_helper.agent.idle import Watch
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup

pytestmark = pytest.mark.container


class Machine:
    """Clocks that go on when they are told to, and a usage that is as it is told."""

    def __init__(self, tmp_path):
        self.now = 1000.0
        self.busy = ""
        self.state = StateDir.open(str(tmp_path / "node"), create=True)
        self.proc = tmp_path / "proc"

    def look(self):
        return self.busy

    def watch(self, state=True):
        clock = lambda: self.now  # noqa: E731
        return Watch(self.state if state else None, self, clock=clock, wall=clock, proc=str(self.proc))

    def sessions(self, count, monkeypatch):
        monkeypatch.setattr("time.time", lambda: self.now)
        self.state.write_sessions(["a session"] * count)
        monkeypatch.undo()

    def process(self, name):
        folder = self.proc / "42"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "comm").write_text(name + "\n")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_without_an_agent_the_time_counts_from_the_first_question(machine):
    watch = machine.watch(state=False)
    machine.now += 7
    assert watch.seconds_without_session() == 7


def test_the_time_counts_from_the_start_of_the_agent_then_from_the_last_end(machine, monkeypatch):
    watch = machine.watch()
    machine.now += 5
    machine.sessions(0, monkeypatch)
    machine.now += 10
    assert watch.seconds_without_session() == 10
    with machine.state.lock("agent", wait=True):
        machine.sessions(2, monkeypatch)
        machine.now += 100
        assert watch.seconds_without_session() is None
        machine.sessions(0, monkeypatch)
        machine.now += 3
        assert watch.seconds_without_session() == 3


def test_sessions_of_an_agent_that_died_are_over(machine, monkeypatch):
    watch = machine.watch()
    with machine.state.lock("agent", wait=True):
        machine.sessions(1, monkeypatch)
        machine.now += 50
        assert watch.seconds_without_session() is None
    machine.now += 4
    assert watch.seconds_without_session() == 4


def test_the_worker_of_an_official_agent_is_a_session(machine):
    watch = machine.watch()
    machine.process("ssm-agent-worke")
    machine.now += 10
    assert watch.seconds_without_session() == 10
    machine.process("ssm-session-wor")
    assert watch.seconds_without_session() is None
    machine.process("sh")
    machine.now += 6
    assert watch.seconds_without_session() == 6


def test_idle_is_the_time_since_it_was_last_busy(machine):
    watch = machine.watch()
    watch.begin()
    for _ in range(4):
        machine.now += 5
        watch.look()
    assert watch.seconds_idle() == 20
    machine.busy = "CPU 50 %"
    machine.now += 5
    watch.look()
    assert watch.seconds_idle() == 0
    machine.busy = ""
    machine.now += 5
    watch.look()
    assert watch.seconds_idle() == 5


def test_a_session_is_no_idleness(machine):
    watch = machine.watch()
    watch.begin()
    machine.now += 5
    machine.process("ssm-session-wor")
    watch.look()
    assert watch.seconds_idle() == 0


def test_time_in_which_nobody_looked_is_not_idle(machine):
    watch = machine.watch()
    watch.begin()
    machine.now += 61
    assert watch.seconds_idle() == 0
    watch.look()
    machine.now += 5
    watch.look()
    assert watch.seconds_idle() == 5


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """This process, as if nobody had asked yet."""
    monkeypatch.setenv("SSH_STATE_DIR", str(tmp_path / "node"))
    for name in ("_watch", "_looking"):
        monkeypatch.setattr(idle, name, None)
    monkeypatch.setattr(idle, "_said", set())


def test_a_new_container_is_not_timed_out_and_not_idle(fresh):
    assert not sagemaker_ssh_helper.is_last_session_timeout(timedelta(minutes=5))
    assert sagemaker_ssh_helper.is_last_session_timeout(timedelta(0))
    assert not sagemaker_ssh_helper.is_idle(timedelta(minutes=5))


def test_the_thread_looks(fresh, monkeypatch):
    looked = threading.Event()
    monkeypatch.setattr(Watch, "look", lambda watch: looked.set())
    sagemaker_ssh_helper.is_idle(timedelta(seconds=1))
    assert looked.wait(30)


def test_a_forked_process_looks_for_itself(fresh):
    sagemaker_ssh_helper.is_idle(timedelta(seconds=1))
    before = idle._watch
    idle._watch.pid = os.getpid() + 1  # as a child sees it
    sagemaker_ssh_helper.is_idle(timedelta(seconds=1))
    assert idle._watch is not before
    assert idle._looking is idle._watch


def test_a_damaged_file_is_told_once_and_is_no_timeout(fresh, capsys):
    state = StateDir.choose(os.environ)
    state.write(state.sessions_json, b"{")
    for _ in range(2):
        assert not sagemaker_ssh_helper.is_last_session_timeout(timedelta(0))
    assert capsys.readouterr().err.count("cannot see whether there are sessions") == 1


# --- the profiler ---


@pytest.fixture
def job(monkeypatch):
    """A training job whose description is ``answers``."""
    with FakeAws() as aws:
        for name, value in {
            "TRAINING_JOB_NAME": "my-job",
            "AWS_REGION": "eu-west-1",
            "AWS_ENDPOINT_URL": aws.url,
            "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(profiler_rules, "_said", "")
        yield aws


@pytest.mark.parametrize(
    ("statuses", "found"),
    [
        ([], False),
        (None, False),
        (["InProgress"], False),
        (["NoIssuesFound", "Error"], False),
        (["InProgress", "IssuesFound"], True),
    ],
)
def test_issues_of_one_rule_are_issues(job, statuses, found):
    rules = [{"RuleConfigurationName": "r", "RuleEvaluationStatus": status} for status in statuses or ()]
    description = {} if statuses is None else {"ProfilerRuleEvaluationStatuses": rules}
    # The debugger's are of another kind.
    description["DebugRuleEvaluationStatuses"] = [{"RuleEvaluationStatus": "IssuesFound"}]
    job.answers["DescribeTrainingJob"] = (200, description)
    assert sagemaker_ssh_helper.is_profiler_issues_found() is found
    assert job.parameters("DescribeTrainingJob") == [{"TrainingJobName": "my-job"}]


def test_a_missing_right_is_told_once_and_is_no_issue(job, capsys):
    refusal = {
        "__type": "AccessDeniedException",
        "message": "not authorized to perform: sagemaker:DescribeTrainingJob",
    }
    job.answers["DescribeTrainingJob"] = (400, refusal)
    for _ in range(2):
        assert not sagemaker_ssh_helper.is_profiler_issues_found()
    told = capsys.readouterr().err
    assert told.count("cannot see what the profiler found") == 1
    assert "sagemaker:DescribeTrainingJob" in told


def test_only_training_jobs_have_a_profiler(job, monkeypatch):
    monkeypatch.delenv("TRAINING_JOB_NAME")
    with pytest.raises(LocalSetup, match="this is not a training job"):
        sagemaker_ssh_helper.is_profiler_issues_found()
