"""
The official agent's place is taken by a strict stand-in, at that program's paths, in a system of its own.

Nothing here says that the real program does the same.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent import official_stand_in
from agent.fake_aws import ACTIVATION
from agent.job_script import TIMEOUT, eventually, processes_of, status_of
from sagemaker_ssh_helper.agent import daemon, official, packages
from sagemaker_ssh_helper.agent.state import AgentConfig, State, StateDir
from sagemaker_ssh_helper.channels import certificates
from sagemaker_ssh_helper.errors import LocalSetup

pytestmark = pytest.mark.container

# As root of its own, with writable layers over the folders of the program. What is in $1 is installed.
SYSTEM = """
mount -t tmpfs none "$0" || exit 99
for folder in usr/bin etc var/lib; do
    over="$0/$folder"
    mkdir -p "$over/upper" "$over/work"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$over/upper,workdir=$over/work" none "/$folder" || exit 99
done
rm -f /usr/bin/amazon-ssm-agent /usr/bin/dnf /usr/bin/yum /usr/bin/microdnf
cp -a "$1/." /usr/bin/ || exit 99
mkdir -p /etc/amazon/ssm && { [ -z "$2" ] || printf %s "$2" > /etc/amazon/ssm/amazon-ssm-agent.json; }
shift 2
exec "$@"
"""
GATEWAY = "https://gateway.example:8443"
INSTANCE = official_stand_in.INSTANCE


class System:
    """A container's programs, in which jobs can be started."""

    def __init__(self, folder):
        self.layers = folder / "layers"
        self.programs = folder / "programs"
        self.notes = folder / "notes"
        for path in (self.layers, self.programs, self.notes):
            path.mkdir()

    def install(self, name="amazon-ssm-agent", text=None):
        path = self.programs / name
        path.write_text(text or f"#!{sys.executable} -IS\n" + Path(official_stand_in.__file__).read_text())
        path.chmod(0o755)

    def words(self, config=""):
        """What begins a command in it, as its root."""
        return ["unshare", "-Urm", "sh", "-c", SYSTEM, str(self.layers), str(self.programs), config]

    def order(self, *orders):
        (self.notes / "orders").write_text("\n".join(orders))

    @property
    def starts(self):
        path = self.notes / "starts"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def system(tmp_path):
    system = System(tmp_path)
    system.install("ssm-agent-worker", "#!/bin/sh\nexec 9<&0; while :; do sleep 0.1; done\n")
    return system


@pytest.fixture
def launch(start, system):
    def launch(agent="official", config="", **changes):
        changes = {"AWS_ENDPOINT_URL_SSMMESSAGES": GATEWAY, "STAND_IN": str(system.notes), **changes}
        return start(*system.words(config), SSH_AGENT=agent, **changes)

    return launch


def reached(job, wanted):
    state = eventually(lambda: os.path.exists(job.state_path) and StateDir.open(job.state_path))

    def status():
        found = state.read_status()
        return found if found and found.state in (wanted, State.FAILED) else None

    found = eventually(status)
    assert found.state is wanted, found.why
    return found


def agent_process(job):
    """The process that set this node up, and looks after its agent."""
    return int(Path(job.state_path, "agent.pid").read_text())


def test_it_is_configured_registered_and_started_and_its_end_is_orderly(launch, system, aws):
    system.install()
    job = launch(
        config='{"Mds": {"CommandWorkersLimit": 7}, "Agent": {"ContainerMode": true}}',
        AWS_SHARED_CREDENTIALS_FILE="/the job's own",
        AWS_PROFILE="the $job's",
        SSL_CERT_FILE="/certificates",
    )
    status = reached(job, State.ONLINE)
    os.kill(agent_process(job), signal.SIGTERM)
    ended = status_of(job)
    eventually(lambda: not processes_of(job.state_path))

    registered, ran, end = system.starts
    script = json.loads((system.notes / "script").read_text())
    activation = ["-code", ACTIVATION["ActivationCode"], "-id", ACTIVATION["ActivationId"]]
    assert registered["words"] == ["-register", "-y", "-region", "eu-west-1", *activation]
    assert ran["words"] == []
    assert end == {"ended": "by SIGTERM"}
    assert registered["config"] == {
        "Mds": {"CommandWorkersLimit": 7, "Endpoint": aws.url},
        "Agent": {"ContainerMode": False, "Region": "eu-west-1"},
        "Identity": {"ConsumptionOrder": ["OnPrem"]},
        "Ssm": {"Endpoint": aws.url},
        "Mgs": {"Endpoint": GATEWAY},
        "Kms": {"Endpoint": aws.url},
    }
    # The job's own credentials stay what they are, for what the program starts, too, and commands find ours.
    environ = ran["environ"]
    assert environ["AWS_SHARED_CREDENTIALS_FILE"].startswith(job.state_path)
    assert environ["PATH"].startswith(f"{official.SHELL_FOLDER}:{job.state_path}/bin:")
    assert "AWS_PROFILE" not in environ
    assert script["AWS_SHARED_CREDENTIALS_FILE"] == "/the job's own"
    assert script["AWS_PROFILE"] == "the $job's"
    assert script["SSL_CERT_FILE"] == "/certificates"
    assert "AWS_EC2_METADATA_DISABLED" not in script
    assert script["PATH"].startswith(job.state_path + "/bin:")
    assert script["SSH_STATE_DIR"] == job.state_path
    assert status.instance_id == INSTANCE
    assert ended.why == "the agent was told to end"
    line = f"Successfully registered the instance with AWS SSM using Managed instance-id: {INSTANCE}"
    assert line in job.end()[1]
    log = Path(status.log).read_text()
    assert "the official agent is used, version 3.3.987.0" in log
    assert ACTIVATION["ActivationCode"] not in log
    assert aws.parameters("DeregisterManagedInstance") == [{"InstanceId": INSTANCE}]


def test_one_that_dies_is_started_again(launch, system):
    system.install()
    system.order("", "", "")
    job = launch()
    reached(job, State.ONLINE)
    (worker,) = official._processes(
        lambda pid: (
            b"ssm-agent-worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            and str(system.notes).encode() in Path(f"/proc/{pid}/environ").read_bytes()
        )
    )
    os.kill(worker, signal.SIGKILL)

    eventually(lambda: len([entry for entry in system.starts if entry.get("words") == []]) == 2)
    reached(job, State.ONLINE)


def test_an_agent_that_is_started_again_takes_over_what_was_registered(launch, system, aws):
    system.install()
    job = launch()
    reached(job, State.ONLINE)
    first = agent_process(job)
    os.kill(first, signal.SIGKILL)

    eventually(lambda: len([entry for entry in system.starts if entry.get("words") == []]) == 2)
    reached(job, State.ONLINE)
    assert [entry["words"][:1] for entry in system.starts if "words" in entry] == [["-register"], [], []]
    assert agent_process(job) != first
    assert len(aws.parameters("CreateActivation")) == 1


def test_a_program_whose_agent_died_is_ended(tmp_path, monkeypatch):
    """Two would end each other's workers."""
    program = tmp_path / "amazon-ssm-agent"
    shutil.copy(shutil.which("sleep"), program)
    registration = tmp_path / "registration"
    registration.write_text(json.dumps({"ManagedInstanceID": INSTANCE}))
    monkeypatch.setattr(official, "PROGRAM", str(program))
    monkeypatch.setattr(official, "REGISTRATION", str(registration))
    state = StateDir.open(str(tmp_path / "node"), create=True)
    state.update_status(State.ONLINE, instance_id="mi-00000000000000043")
    agent = official.OfficialAgent(state, AgentConfig("eu-west-1", "", "", "algo-1", 22, ""))
    left = subprocess.Popen([str(program), "600"])

    try:
        # The file is of another registration.
        assert agent.take_over() is None
        assert left.poll() is None
        state.update_status(instance_id=INSTANCE)
        assert agent.take_over() == INSTANCE
        assert left.wait(TIMEOUT) == -signal.SIGKILL
    finally:
        left.kill()
        left.wait()


def test_a_service_with_too_much_to_do_is_asked_again(launch, system):
    system.install()
    system.order("ThrottlingException: Rate exceeded")
    job = launch()
    reached(job, State.ONLINE)

    assert [entry["words"][:1] for entry in system.starts] == [["-register"], ["-register"], []]


FAILURES = {
    "none is installed": ([], {}, ["there is no official agent in this image", "Install amazon-ssm-agent"]),
    "another program": (
        ["#!/bin/sh\necho what; exit 3\n"],
        {},
        [
            "does not tell its version (exit status 3: what)",
            "Install amazon-ssm-agent for this kind of machine",
        ],
    ),
    "a program of another machine": (
        ["\x7fELF and nothing more"],
        {},
        ["does not tell its version", "Install amazon-ssm-agent for this kind of machine"],
    ),
    "a gateway without TLS": (
        [None],
        {"AWS_ENDPOINT_URL_SSMMESSAGES": "http://127.0.0.1:1"},
        ["by TLS only (the endpoint is http://127.0.0.1:1)", "Start the local cloud with --tls"],
    ),
    "settings that are none": (
        [None],
        {"config": "{"},
        ["does not start with /etc/amazon/ssm/amazon-ssm-agent.json", "Mend or remove that file"],
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_wrong_or_missing_one_is_one_line_with_the_fix_and_uses_no_activation_up(
    launch, system, aws, failure
):
    programs, changes, said = FAILURES[failure]
    for text in programs:
        system.install(text=text)
    job = launch(**changes)
    job.goes_on()
    status = status_of(job)
    eventually(lambda: not StateDir.open(job.state_path).has_agent())

    (line,) = [line for line in job.end()[1].splitlines() if "no ssh in this container" in line]
    for text in [*said, "set SSH_AGENT=embedded"]:
        assert text in line
        assert text in status.why
    assert aws.parameters("CreateActivation") == []


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        (
            ["InvalidActivation: it is used up"],
            ["could not register this node (exit status 1: ", "InvalidActivation: it is used up"],
        ),
        (["RegistrationLimitExceeded"], ["RegistrationLimitExceeded", "sm-ssh-deregister-instances"]),
    ],
    ids=["refused", "limit"],
)
def test_a_refused_registration_is_told_without_the_activation(launch, system, orders, said):
    system.install()
    system.order(*orders)
    job = launch()
    status = status_of(job)
    eventually(lambda: not StateDir.open(job.state_path).has_agent())
    err = job.end()[1]

    for text in said:
        assert text in status.why
        assert text in err
    for text in (status.why, err, Path(status.log).read_text()):
        assert ACTIVATION["ActivationCode"] not in text


def test_one_that_keeps_ending_is_told_with_its_last_words(launch, system):
    system.install()
    system.order("", *["crash"] * 9)
    job = launch()
    status = status_of(job)

    assert "the official agent ended 5 times soon after its start" in status.why
    assert "exit status 2: Error occurred when starting amazon-ssm-agent: no luck" in status.why
    assert "set SSH_AGENT=embedded" in status.why
    eventually(lambda: not StateDir.open(job.state_path).has_agent())
    assert status.why in job.end()[1]


def test_auto_takes_one_that_is_installed(launch, system):
    system.install()

    assert reached(launch("auto"), State.ONLINE).instance_id == INSTANCE


@pytest.mark.parametrize("why_not", ["missing", "broken"])
def test_auto_takes_ours_where_there_is_none_that_works(launch, system, aws, why_not):
    if why_not == "broken":
        system.install(text="#!/bin/sh\nexit 1\n")
    status = status_of(launch("auto"))

    # Ours came as far as this AWS lets a node come.
    assert "InvalidActivation: enough" in status.why
    assert "our own agent is used: " in Path(status.log).read_text()
    assert len(aws.parameters("RegisterManagedInstance")) == 1


def test_a_word_that_names_no_agent_is_told_and_taken_for_auto(launch, system):
    status = status_of(launch("oficial"))

    said = "SSH_AGENT is 'oficial': not one of auto, embedded, official"
    assert said in Path(status.log).read_text()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program that stays, in the place of the agent's, and root's view of it."""
    copy = tmp_path / "amazon-ssm-agent"
    shutil.copy(shutil.which("cat"), copy)
    monkeypatch.setattr(official, "PROGRAM", str(copy))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return str(copy)


def test_a_running_one_is_left_alone(program):
    """Two of them would end each other's workers."""
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running:
        said = rf"runs here already, as process {running.pid}.*Leave it to setup_and_start_ssh"
        with pytest.raises(LocalSetup, match=said):
            official.find()
        running.communicate()


def test_a_call_that_ends_by_itself_is_no_running_agent(program):
    """As anybody's question for the version is."""
    with subprocess.Popen([program, "-u"], stdin=subprocess.PIPE) as asking:
        # `cat` does not tell a version.
        with pytest.raises(LocalSetup, match="is no official agent that works"):
            official.find()
        asking.communicate()


def test_an_ordinary_user_is_told_that_it_needs_root(monkeypatch):
    monkeypatch.setattr(official, "PROGRAM", "/bin/sh")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(LocalSetup, match=r"runs as root only, and this is uid 1000.*set SSH_AGENT=embedded"):
        official.find()


def test_settings_are_replaced_whole_and_readable(tmp_path, monkeypatch):
    path = tmp_path / "etc" / "agent.json"
    monkeypatch.setattr(official, "CONFIG", str(path))

    official.configure("eu-west-1", {"AWS_ENDPOINT_URL_SSMMESSAGES": "https://gateway.example"})

    # A gateway without its port would be no gateway to that program.
    assert json.loads(path.read_text())["Mgs"] == {"Endpoint": "https://gateway.example:443"}
    assert os.listdir(path.parent) == ["agent.json"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o022 == 0


# --- the watchdog: ours does not come online, and the official one can be had ---

REFUSED = (400, {"__type": "AccessDeniedException", "message": "no agent of yours"})
DNF = """#!/bin/sh
[ "$*" = "install -y amazon-ssm-agent" ] && cp /usr/bin/kept /usr/bin/amazon-ssm-agent
"""


@pytest.mark.soak
def test_auto_installs_the_official_one_when_ours_stays_offline_and_never_runs_both(launch, system, aws):
    """It waits for the minute that ours is given."""
    answers = {
        "RegisterManagedInstance": (200, {"InstanceId": "mi-00000000000000001"}),
        "RequestManagedInstanceRoleToken": REFUSED,
        "DeregisterManagedInstance": (200, {}),
    }
    aws.answers.update(answers)
    system.install("kept")
    system.install("dnf", DNF)
    job = launch("auto")
    reached(job, State.REGISTERED)
    aws.answers["CreateActivation"] = (200, {**ACTIVATION, "ActivationCode": "B" * 20})
    state = StateDir.open(job.state_path)

    def has_changed():
        status = state.read_status()
        return status.state is State.ONLINE and status.instance_id == INSTANCE

    eventually(has_changed, daemon.WATCHDOG_TIMEOUT + TIMEOUT)

    operations = [name for name, _ in aws.calls]
    ends = operations.index("DeregisterManagedInstance")
    assert operations.index("RegisterManagedInstance") < ends
    assert operations[ends:].count("CreateActivation") == 1
    assert "B" * 20 in system.starts[0]["words"]
    log = Path(state.read_status().log).read_text()
    assert "! not online after 60 s: RequestManagedInstanceRoleToken failed" in log
    assert "there is no official agent; running: dnf install -y amazon-ssm-agent" in log


class TestTheOfficialPackage:
    @pytest.mark.parametrize(
        ("manager", "words"), [("yum", "install -y"), ("microdnf", "install -y"), ("apk", "add --no-cache")]
    )
    def test_it_comes_from_the_distribution(self, tmp_path, monkeypatch, manager, words):
        ran = tmp_path / "ran"
        (tmp_path / manager).write_text(f'#!/bin/sh\necho "$@" > {ran}\n')
        (tmp_path / manager).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}")
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(official, "find", lambda: "3.3.987.0")
        said = []

        packages.install_official_agent(said.append)

        assert ran.read_text() == f"{words} amazon-ssm-agent\n"
        assert said == [f"there is no official agent; running: {manager} {words} amazon-ssm-agent"]

    @pytest.mark.parametrize(
        ("script", "uid", "said"),
        [
            ("", 0, "no package manager that has it"),
            ("exit 0", 1000, "installing needs root"),
            ("exit 7", 0, "yum install -y amazon-ssm-agent ended with status 7"),
        ],
    )
    def test_what_keeps_it_away_is_told(self, tmp_path, monkeypatch, script, uid, said):
        if script:
            (tmp_path / "yum").write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "yum").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(os, "geteuid", lambda: uid)

        with pytest.raises(LocalSetup, match=said):
            packages.install_official_agent(lambda text: None)


def test_without_certificates_of_the_system_it_is_given_the_bundled_ones(monkeypatch, tmp_path):
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    state = StateDir.open(str(tmp_path / "state"), create=True)
    config = AgentConfig("eu-west-1", "", "", "algo-1", 22, "")
    monkeypatch.setattr(official.certificates, "system_has_certificates", lambda: False)
    assert official._environment(state, config)["SSL_CERT_FILE"] == certificates.BUNDLED_CA
    monkeypatch.setattr(official.certificates, "system_has_certificates", lambda: True)
    assert "SSL_CERT_FILE" not in official._environment(state, config)
