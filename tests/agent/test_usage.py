"""How busy a container is, by files laid out as the kernel does."""

import os

import pytest

from sagemaker_ssh_helper.agent.usage import Usage

pytestmark = pytest.mark.container

NET = """Inter-|   Receive                         |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo: 999999999 1 0 0 0 0 0 0 999999999 1 0 0 0 0 0 0
  eth0: {received} 1 0 0 0 0 0 0 {sent} 1 0 0 0 0 0 0
"""


class Container:
    """A container whose counters are files here, and whose clock is ours."""

    def __init__(self, root):
        self.root = root
        self.now = 0.0
        self.cpu(0)
        self.network(0, 0)
        self.usage = Usage(str(root), lambda: self.now)

    def put(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def cpu(self, seconds):
        self.put("sys/fs/cgroup/cpu.stat", f"usage_usec {int(seconds * 1e6)}\nuser_usec 1\n")

    def network(self, received, sent):
        self.put("proc/net/dev", NET.format(received=received, sent=sent))

    def look_after(self, seconds):
        self.now += seconds
        return self.usage.look()


@pytest.fixture
def container(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    return Container(tmp_path)


def test_nothing_is_known_before_the_second_look(container):
    assert container.look_after(0) == "nothing is known yet"
    assert container.look_after(10) == ""


@pytest.mark.parametrize(("seconds", "idle"), [(3.9, True), (4.0, False)])
def test_a_tenth_of_all_processors_is_busy(container, seconds, idle):
    container.look_after(0)
    container.cpu(seconds)
    assert (container.look_after(10) == "") is idle


def test_a_quota_counts_as_fewer_processors(container):
    container.put("sys/fs/cgroup/cpu.max", "100000 100000\n")
    container.look_after(0)
    container.cpu(1.5)
    assert container.look_after(10) == "CPU 15 %"
    container.put("sys/fs/cgroup/cpu.max", "max 100000\n")
    container.cpu(3.0)
    assert container.look_after(10) == ""


@pytest.mark.parametrize(("cpuacct", "cpu"), [("cpuacct", "cpu"), ("cpu,cpuacct", "cpu,cpuacct")])
def test_the_older_control_groups(container, cpuacct, cpu):
    groups = "sys/fs/cgroup"
    (container.root / groups / "cpu.stat").unlink()
    container.put(f"{groups}/{cpu}/cpu.cfs_quota_us", "200000\n")
    container.put(f"{groups}/{cpu}/cpu.cfs_period_us", "100000\n")
    container.put(f"{groups}/{cpuacct}/cpuacct.usage", "0\n")
    container.look_after(0)
    container.put(f"{groups}/{cpuacct}/cpuacct.usage", f"{3 * 10**9}\n")
    assert container.look_after(10) == "CPU 15 %"


def test_without_control_groups_the_machine_counts(container):
    (container.root / "sys/fs/cgroup/cpu.stat").unlink()
    ticks = os.sysconf("SC_CLK_TCK")
    container.put("proc/stat", "cpu  0 0 0 5 5 0 0 0 0 0\ncpu0 1\n")
    container.look_after(0)
    container.put("proc/stat", f"cpu  {4 * ticks} {2 * ticks} {ticks} 900000 9 {ticks} 0 0 0 0\ncpu0 1\n")
    assert container.look_after(10) == "CPU 20 %"


@pytest.mark.parametrize(("received", "sent", "idle"), [(50_000, 49_000, True), (50_000, 50_000, False)])
def test_traffic_both_ways_counts_and_loopback_does_not(container, received, sent, idle):
    container.look_after(0)
    container.network(received, sent)
    assert (container.look_after(10) == "") is idle


def test_counters_that_begin_anew_are_no_rest(container):
    container.cpu(100)
    container.look_after(0)
    container.cpu(1)
    assert container.look_after(10) == "the counters of CPU began anew"


def nvidia_smi(tmp_path, monkeypatch, script):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("script", "busy"),
    [
        ("printf '0\\n4\\n'", ""),
        ("printf '0\\n5\\n'", "GPU 5 %"),
        ("echo '[N/A]'", "nvidia-smi says '[N/A]', which is no number"),
        ("exit 9", "nvidia-smi failed: CalledProcessError"),
        ("exit 0", "nvidia-smi shows no GPU"),
    ],
)
def test_the_busiest_gpu_counts_and_so_does_a_failing_probe(container, tmp_path, monkeypatch, script, busy):
    container.put("dev/nvidia0", "")
    nvidia_smi(tmp_path, monkeypatch, script)
    container.look_after(0)
    container.now = 10.0
    if "probe" not in busy:
        container.usage.look()
    assert container.look_after(10) == busy


def test_gpus_without_their_program_are_busy(container, monkeypatch):
    container.put("dev/nvidia0", "")
    monkeypatch.setenv("PATH", "/nowhere")
    assert container.look_after(0) == "there are GPUs, and no nvidia-smi"


def test_devices_that_cannot_be_measured_are_busy(container):
    container.put("dev/neuron0", "")
    assert "Neuron" in container.look_after(10)


@pytest.mark.parametrize("path", ["proc/net/dev", "sys/fs/cgroup/cpu.stat"])
def test_what_cannot_be_read_counts_as_busy_until_it_can(container, path):
    file = container.root / path
    text = file.read_text()
    container.look_after(0)
    file.unlink()
    assert "there is no count of" in container.look_after(10)
    file.write_text(text)
    assert container.look_after(10) == "nothing is known yet"
    assert container.look_after(10) == ""


def test_this_container_can_be_measured():
    usage = Usage()
    usage.look()
    assert "no count" not in usage.look()
