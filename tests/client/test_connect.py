"""From a name to a container that lets us in; and the ssh command line, word for word."""

from __future__ import annotations

import base64
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws_stub import AwsStub, Refusal
from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.client import connect, keys, launches, trust
from sagemaker_ssh_helper.client.connect import SshArguments, split_arguments
from sagemaker_ssh_helper.names import InstanceId, ResourceKind
from sagemaker_ssh_helper.targets import Target

NODE = InstanceId("mi-00000000000000001")
HOST = "job.training.sagemaker"
LAUNCH = "1" * 32
HOST_KEY = "ssh-ed25519 " + base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(range(32))).decode()
OWN = {"--profile": True, "--fresh": False}


def serve(stub: AwsStub, **tags: str) -> None:
    """One live node of ours that holds our key, unless ``tags`` say otherwise."""
    every = {
        "SSHResourceName": "job",
        "SSHHostKey": HOST_KEY,
        "SSHLaunchId": LAUNCH,
        "SSHOwner": "me",
        "SSHUser": "root",
        "SSHKeys": keys.ensure_key().public.fingerprint,
        **tags,
    }
    stub.answers["DescribeInstanceInformation"] = {
        "InstanceInformationList": [
            {"InstanceId": NODE, "PingStatus": "Online", "Name": f"algo-1.{HOST}"},
        ]
    }
    stub.answers["ListTagsForResource"] = {
        "TagList": [{"Key": name, "Value": value} for name, value in every.items()]
    }
    launches.save(ResourceKind.TRAINING, "job", LAUNCH)


def prepare(client: Client, host: str = HOST, **options: Any) -> connect.Prepared:
    return connect.prepare(client, Target.parse(host), host, **options)


def test_a_new_container_takes_two_calls_and_a_known_one_takes_one(stub: AwsStub, client: Client) -> None:
    serve(stub, SSHPort="2222")
    prepared = prepare(client)

    assert (prepared.instance.id, prepared.user, prepared.pin.port) == (NODE, "root", 2222)
    assert stub.operations == ["DescribeInstanceInformation", "ListTagsForResource"]
    stub.asked.clear()
    assert prepare(client).pin == prepared.pin
    assert stub.operations == ["DescribeInstanceInformation"]
    stub.asked.clear()
    prepare(client, fresh=True)
    assert stub.operations == ["DescribeInstanceInformation", "ListTagsForResource"]


def test_an_instance_resolved_a_moment_ago_takes_no_call(stub: AwsStub, client: Client) -> None:
    serve(stub)
    found = prepare(client).instance.id
    stub.asked.clear()
    assert prepare(client, instance_id=found).instance.id == found
    assert stub.operations == []


def test_an_instance_that_is_named_must_belong_to_the_name(stub: AwsStub, client: Client) -> None:
    serve(stub, SSHResourceName="other")
    with pytest.raises(errors.HostNotTrusted, match=f"{NODE} is no container of job"):
        prepare(client, instance_id=NODE)


def test_an_instance_that_is_named_is_known_in_any_letter_case(stub: AwsStub, client: Client) -> None:
    serve(stub)
    for fresh in (True, False):
        assert prepare(client, "JOB.training.sagemaker", instance_id=NODE, fresh=fresh).instance.name == "job"


def test_a_pin_of_a_minute_ago_is_no_proof_of_another_name(stub: AwsStub, client: Client) -> None:
    serve(stub)
    prepare(client)
    # Its tag was changed to a name that this machine launches; its own name says nothing.
    serve(stub, SSHResourceName="other", SSHResourceArn="arn:aws:sagemaker:eu-west-1:1:training-job/other")
    stub.answers["DescribeInstanceInformation"] = {
        "InstanceInformationList": [{"InstanceId": NODE, "PingStatus": "Online", "Name": ""}]
    }
    launches.save(ResourceKind.TRAINING, "other", "3" * 32)
    stub.answers["DescribeTrainingJob"] = Refusal("AccessDeniedException", "no")
    with pytest.raises(errors.HostNotTrusted, match="another activation"):
        prepare(client, "other.training.sagemaker")
    with pytest.raises(errors.HostNotTrusted, match=f"{NODE} is no container of nobody"):
        prepare(client, "nobody.training.sagemaker", instance_id=NODE)


def test_a_container_launched_elsewhere_is_proven_by_awss_description(stub: AwsStub, client: Client) -> None:
    serve(stub, SSHLaunchId="2" * 32)
    stub.answers["DescribeTrainingJob"] = {
        "TrainingJobName": "job",
        "TrainingJobStatus": "InProgress",
        "Environment": {"SSH_LAUNCH_ID": "2" * 32},
    }
    prepare(client)
    assert stub.operations[-1] == "DescribeTrainingJob"


def test_a_container_that_nothing_proves_is_refused(stub: AwsStub, client: Client) -> None:
    serve(stub, SSHLaunchId="2" * 32)
    stub.answers["DescribeTrainingJob"] = Refusal("AccessDeniedException", "no")
    with pytest.raises(errors.HostNotTrusted, match="another activation"):
        prepare(client)
    assert trust.load(NODE) is None


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (Refusal("AccessDeniedException", "no"), "no"),
        (Refusal("ValidationException", "1 validation error detected"), "1 validation error detected"),
        (Refusal("InternalFailure", "oh", status=500), "oh"),
        (Refusal("ThrottlingException", "Rate exceeded"), "Rate exceeded"),
    ],
)
def test_a_proof_that_cannot_be_looked_up_keeps_nobody_out_who_trusts_at_first_use(
    stub: AwsStub, client: Client, monkeypatch: pytest.MonkeyPatch, refusal: Refusal, said: str
) -> None:
    serve(stub)
    monkeypatch.setattr(launches, "load", lambda kind, name: None)
    stub.answers["DescribeTrainingJob"] = refusal
    told: list[str] = []
    with pytest.raises(errors.HostNotTrusted, match="nothing here proves it"):
        prepare(client, instance_id=NODE, tell=told.append)
    assert any("whose launch" in line and said in line for line in told)

    assert prepare(client, instance_id=NODE, trust_first_use=True).pin.instance_id == NODE


def test_a_container_that_lacks_our_key_gets_it_by_a_command(stub: AwsStub, client: Client) -> None:
    serve(stub, SSHKeys="")
    stub.answers["SendCommand"] = {"Command": {"CommandId": "c"}}
    stub.answers["GetCommandInvocation"] = {"Status": "Success", "ResponseCode": 0}
    told: list[str] = []
    prepare(client, tell=told.append)
    (sent,) = [asked.params for asked in stub.asked if asked.operation == "SendCommand"]
    (command,) = sent["Parameters"]["commands"]

    program, verb, token = command.split(" ")
    assert (program, verb) == ("sm-setup-ssh", "authorize")
    assert base64.b64decode(token).decode() == keys.ensure_key().public.line
    assert len(told) == 1
    # Once is enough.
    stub.asked.clear()
    prepare(client, fresh=True)
    assert "SendCommand" not in stub.operations


def test_a_container_that_does_not_take_our_key_is_told(stub: AwsStub, client: Client) -> None:
    serve(stub, SSHKeys="")
    stub.answers["SendCommand"] = {"Command": {"CommandId": "c"}}
    stub.answers["GetCommandInvocation"] = {
        "Status": "Failed",
        "ResponseCode": 127,
        "StandardErrorContent": "sm-setup-ssh: not found\n",
    }
    with pytest.raises(errors.KeyNotDelivered, match=r"exit code 127: sm-setup-ssh: not found"):
        prepare(client)


def test_somebody_elses_container_is_told_before_any_session(stub: AwsStub, client: Client) -> None:
    serve(stub, SSHKeys="", SSHOwner="AIDAOTHER")
    stub.answers["SendCommand"] = Refusal("AccessDeniedException", "no")
    stub.answers["GetCallerIdentity"] = lambda params: b"<UserId>AIDAME</UserId>"
    with pytest.raises(errors.NotOwner, match="its SSHOwner is AIDAOTHER, you are AIDAME"):
        prepare(client)


def test_a_wrong_login_name_is_answered_with_the_right_one(stub: AwsStub, client: Client) -> None:
    serve(stub, SSHUser="ubuntu")
    with pytest.raises(errors.WrongUser, match=rf"admits 'ubuntu' only, not 'root'.*ubuntu@{HOST}"):
        prepare(client, user="root")
    # ssh knows it from now on.
    assert f"Host {HOST}\n  User ubuntu\n" in trust.hosts_path().read_text()
    assert prepare(client, user="ubuntu").user == "ubuntu"
    assert prepare(client).user == "ubuntu"


def test_a_container_that_runs_as_root_may_admit_others(stub: AwsStub, client: Client) -> None:
    serve(stub)
    told: list[str] = []
    prepare(client, user="joe", tell=told.append)
    assert f"root@{HOST}" in told[0]


def arguments(*words: str) -> SshArguments:
    return split_arguments(words, OWN)


@pytest.mark.parametrize(
    ("words", "options", "user", "command"),
    [
        (["h"], [], None, []),
        (["me@h"], [], "me", []),
        (["-l", "me", "h"], [], "me", []),
        (["-lme", "h"], [], "me", []),
        (["-l", "me", "you@h"], [], "me", []),
        (["-v", "-L", "80:localhost:80", "h", "ls"], ["-v", "-L", "80:localhost:80"], None, ["ls"]),
        (["h", "-N", "-L80:x:80", "-o", "A=b"], ["-N", "-L80:x:80", "-o", "A=b"], None, []),
        (["-NfL", "80:x:80", "h"], ["-NfL", "80:x:80"], None, []),
        (["-vvvA", "h", "ls", "-l", "--color"], ["-vvvA"], None, ["ls", "-l", "--color"]),
        (["h", "--", "-x"], [], None, ["-x"]),
        (["--", "h", "-x"], [], None, ["-x"]),
        (["--profile", "p", "h"], [], None, []),
        (["h", "--fresh", "--profile=p", "ls"], [], None, ["ls"]),
        (["-i", "k", "-p2222", "-J", "j", "h"], ["-i", "k", "-p2222", "-J", "j"], None, []),
        (["h", ""], [], None, [""]),
    ],
)
def test_options_host_and_command_are_told_apart(
    words: list[str], options: list[str], user: str | None, command: list[str]
) -> None:
    split = split_arguments(words, OWN)
    assert (split.host, list(split.options), split.user, list(split.command)) == ("h", options, user, command)


def test_our_own_options_are_kept() -> None:
    assert arguments("--profile", "p", "--fresh", "h").own == {"--profile": "p", "--fresh": ""}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-L"], "-L of ssh needs a value"),
        (["-Z", "h"], "no option -Z"),
        (["--nope", "h"], "unknown option --nope"),
        (["h", "--profile"], "--profile needs a value"),
        (["-vl", "me", "h"], "give -l alone"),
        (["a b@h"], "no login name"),
        (["-l", "$(id)", "h"], "no login name"),
    ],
)
def test_what_makes_no_sense_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(errors.UsageError, match=said):
        split_arguments(words, OWN)


def test_the_table_of_options_is_sshs_own() -> None:
    # OpenSSH prints its synopsis for an option it does not know: a cluster of switches, then the others.
    usage = " ".join(
        subprocess.run(["ssh", "-?"], capture_output=True, text=True, check=False).stderr.split()
    )
    (switches,) = re.findall(r"usage: ssh \[-(\w+)\]", usage)
    valued = set(re.findall(r"\[-(\w) ", usage))

    assert set(switches) <= connect.SWITCHES
    assert valued <= connect.OPTIONS_WITH_VALUE
    assert not connect.SWITCHES & connect.OPTIONS_WITH_VALUE


@pytest.mark.parametrize("words", [[], ["-v"], ["--"]])
def test_no_host_is_left_to_the_caller(words: list[str]) -> None:
    assert split_arguments(words, OWN).host is None


def told_to_ssh(**settings: Any) -> connect.SshSettings:
    return connect.ssh_settings(HOST, **{"user": "root", "proxy": ["p"], **settings})


def test_the_command_line_keeps_the_check_of_the_host_key_before_the_users_options() -> None:
    argv = connect.ssh_command(
        HOST,
        told_to_ssh(proxy=["/bin/sm-ssh", "start-proxy", HOST]),
        options=["-o", "StrictHostKeyChecking=no"],
    )
    shown = subprocess.run(
        [argv[0], "-G", "-F", "none", *argv[1:]], capture_output=True, text=True, check=True
    )
    settings = dict(line.split(" ", 1) for line in shown.stdout.splitlines() if " " in line)

    assert settings["stricthostkeychecking"] == "true"
    assert settings["updatehostkeys"] == "false"
    assert settings["hostkeyalgorithms"] == "ssh-ed25519,ecdsa-sha2-nistp256"
    assert settings["hostkeyalias"] == HOST
    assert settings["userknownhostsfile"] == str(connect.known_hosts.path())
    assert settings["identityfile"] == str(keys.config_dir() / "key")
    assert settings["proxycommand"] == f"/bin/sm-ssh start-proxy {HOST}"
    assert settings["user"] == "root"


def test_a_host_key_is_learnt_only_when_asked() -> None:
    argv = connect.ssh_command(HOST, told_to_ssh(learn_host_key=True))
    assert "StrictHostKeyChecking=accept-new" in argv
    assert not any(word.startswith("HostKeyAlgorithms") for word in argv)


def test_without_ssh_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.LocalSetup, match="Install OpenSSH"):
        connect.ssh_command(HOST, told_to_ssh())


# Whatever a command line can hold.
words = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), min_size=2, max_size=5
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words)
def test_the_words_of_a_command_arrive_as_they_were_given(command: list[str]) -> None:
    argv = connect.ssh_command(HOST, told_to_ssh(), command=command)
    sent = " ".join(argv[argv.index(HOST) + 1 :])
    assert shlex.split(sent) == command


def test_one_word_is_a_line_for_the_remote_shell() -> None:
    argv = connect.ssh_command(HOST, told_to_ssh(), command=["cd /tmp && ls"])
    assert argv[-2:] == [HOST, "cd /tmp && ls"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(codec="ascii", exclude_characters="\0\n\r"), min_size=1, max_size=20))
def test_a_program_path_survives_ssh_and_the_shell(path: str) -> None:
    # The parts that begin a shell's own syntax after expansion are all inside quotes.
    value = connect.proxy_command(["/opt/" + path, "start-proxy", "%n"])
    shown = subprocess.run(
        ["ssh", "-G", "-F", "none", "-o", f"ProxyCommand={value}", "h"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in shown.stdout.split("\n") if line.startswith("proxycommand ")]
    expanded = line.removeprefix("proxycommand ").replace("%%", "\0").replace("%n", "h").replace("\0", "%")
    printed = subprocess.run(
        ["/bin/sh", "-c", f'set -- {expanded}; printf "%s\\n" "$@"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert printed.stdout == f"/opt/{path}\nstart-proxy\nh\n"


def test_a_path_with_the_end_of_a_line_is_refused() -> None:
    with pytest.raises(errors.LocalSetup, match="cannot stand in an ssh configuration"):
        connect.proxy_command(["/a\nb"])


@pytest.mark.parametrize("path", ["/a b/key", "/a%b/key", "/plain", "/it's/key", "/ü/key"])
def test_a_path_survives_as_the_value_of_an_option(path: str) -> None:
    value = connect.quote_value(path)
    shown = subprocess.run(
        ["ssh", "-G", "-F", "none", "-o", f"IdentityFile={value}", "h"],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("identityfile ")]
    assert line.removeprefix("identityfile ").replace("%%", "%") == path


@pytest.mark.parametrize("path", ["/a\nb", '/a"b', "/${HOME}/x", "/a\\b"])
def test_a_path_that_ssh_cannot_hold_is_refused(path: str) -> None:
    with pytest.raises(errors.LocalSetup):
        connect.quote_value(path)


def windows_arguments(line: str) -> list[str]:
    """A command line as a program of Windows takes it apart: blanks part it but for those in quotes."""
    return [word.replace('"', "") for word in re.findall(r'(?:"[^"]*"|[^\s"])+', line)]


@pytest.mark.parametrize(
    "program",
    [
        r"C:\Users\terry\venv\Scripts\sm-ssh.exe",
        r"C:\Users\Terry Jones\Scripts\sm-ssh.exe",
        r"C:\Program Files (x86)\Python & more\sm-ssh.exe",
        "C:\\Users\\J\u00fcrgen\\sm-ssh.exe",
        r"C:\it's 50%\sm-ssh.exe",
    ],
)
def test_a_program_of_windows_is_found_by_its_own_ssh_and_by_gits(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    with monkeypatch.context() as windows:
        windows.setattr(connect.sys, "platform", "win32")
        value = connect.proxy_command([program, "start-proxy", "--user", "%r", "%n"])
    shown = subprocess.run(
        ["ssh", "-G", "-F", "none", "-o", f"ProxyCommand={value}", "h"],
        capture_output=True,
        check=True,
    )
    lines = shown.stdout.decode().split("\n")
    (line,) = [line for line in lines if line.startswith("proxycommand ")]
    expanded = line.removeprefix("proxycommand ").replace("%%", "\0")
    expanded = expanded.replace("%n", "h").replace("%r", "root").replace("\0", "%")
    expected = [program.replace("\\", "/"), "start-proxy", "--user", "root", "h"]
    assert windows_arguments(expanded) == expected
    # Git's ssh.
    assert shlex.split(expanded) == expected
    if " " not in program:
        assert '"' not in expanded


def test_a_value_of_windows_has_slashes_and_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect.sys, "platform", "win32")
    assert connect.quote_value(r"C:\Users\A B\key") == '"C:/Users/A B/key"'


def test_on_windows_ctrl_c_is_for_ssh_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def call(argv: list[str]) -> int:
        seen.append((argv, signal.getsignal(signal.SIGINT)))
        return 7

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(connect.sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "call", call)
    try:
        assert connect.become(["ssh", "h"]) == 7
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [(["ssh", "h"], signal.SIG_IGN)]


def test_the_starter_that_pip_makes_on_windows_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "sm-ssh.exe"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "sm-ssh")])
    assert connect.program_words() == [str(program)]


def test_the_program_is_found_again_whatever_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bin" / "sm-ssh"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert connect.program_words() == [str(program)]
    monkeypatch.setattr(sys, "argv", ["sm-ssh"])
    monkeypatch.setenv("PATH", str(program.parent))
    assert connect.program_words() == [str(program)]
    monkeypatch.setattr(sys, "argv", ["/x/__main__.py"])
    monkeypatch.setattr(sys, "executable", str(program.parent / "python3"))
    assert connect.program_words() == [str(program)]
    program.unlink()
    assert connect.program_words() == [str(program.parent / "python3"), "-m", "sagemaker_ssh_helper"]
