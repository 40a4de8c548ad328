"""An agent that is killed in the middle of a job comes back as the same instance."""

from typing import Callable, List

import pytest

from e2e.laptop import Laptop, running, until
from local_cloud import LocalCloud

SLEEP = "import time; time.sleep(600)"

# Later, so that the session that says so can end.
KILL = 'nohup sh -c "sleep 0.3; kill -9 $(cat $SSH_STATE_DIR/agent.pid)" >/dev/null 2>&1 &'

LOOK = "cat $SSH_STATE_DIR/agent.pid; echo; cat $SSH_STATE_DIR/sshd.pid; sm-wait status"


@pytest.fixture
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


def inside(alice: Laptop, host: str, command: str) -> List[str]:
    """The lines that the command prints in the container."""
    done = alice.ssh(host, command)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def test_a_killed_agent_comes_back_as_the_same_instance(alice: Laptop, e2e_cloud: LocalCloud) -> None:
    with running(alice, SLEEP, wait=0) as job:
        (instance,) = job.instances()

        def is_connected() -> bool:
            answer = alice.client("ssm").get_connection_status(Target=instance["InstanceId"])
            return bool(answer["Status"] == "connected")

        agent, sshd, *_ = inside(alice, job.host, LOOK)
        inside(alice, job.host, KILL)
        until(lambda: not is_connected(), "the agent to be gone")
        until(is_connected, "the agent to be back")

        again, same_sshd, *status = inside(alice, job.host, LOOK)
        assert again != agent
        assert same_sshd == sshd
        assert "state:     online" in status
        assert [found["InstanceId"] for found in job.instances()] == [instance["InstanceId"]]
        log = inside(alice, job.host, "cat $(sm-wait status | sed -n 's/^agent log: *//p')")
        assert any("the agent died (signal 9) and will be started again" in line for line in log)


def test_an_agent_goes_on_without_its_keeper(alice: Laptop) -> None:
    with running(alice, SLEEP, wait=0) as job:
        agent, *_ = inside(alice, job.host, LOOK)
        found = inside(alice, job.host, 'pgrep -f "agent[.]keeper $SSH_STATE_DIR"')
        (keeper,) = [pid for pid in found if pid != agent]
        inside(alice, job.host, f"kill -9 {keeper}")

        still, _, *status = inside(alice, job.host, LOOK)
        assert still == agent
        assert "state:     online" in status
        job.stop()
        assert job.wait_ended()["TrainingJobStatus"] == "Stopped"
