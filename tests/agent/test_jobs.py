"""Run Command, from an offer on the control channel to the last reply, with real scripts."""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

import pytest

from agent.agent_thread import AgentThread
from agent.fake_service import MI, RUN_SHELL_SCRIPT, FakeService
from sagemaker_ssh_helper.agent.scripts import Outcome, cut, script_environ
from sagemaker_ssh_helper.protocol.payloads import AgentJob

pytestmark = pytest.mark.container


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


@pytest.fixture
def agent(service: FakeService, tmp_path: Path) -> Iterator[AgentThread]:
    job = b"JOB_VARIABLE=it's a \xc3\xa9\nday\0PATH=" + os.fsencode(os.environ["PATH"]) + b"\0"
    folder = tmp_path / "state"
    folder.mkdir(0o700)
    (folder / "environment").write_bytes(job)
    config = {"environ_path": str(folder / "environment"), "bin_path": str(folder / "bin")}
    with AgentThread(service, folder, **config) as running:
        yield running


def plugin(content: Mapping[str, Any], key: str = "aws:runShellScript") -> Mapping[str, Any]:
    found: Mapping[str, Any] = content["runtimeStatus"][key]
    return found


def run(service: FakeService, *commands: str, **parameters: Any) -> Mapping[str, Any]:
    """The result of the only step of a command."""
    return plugin(service.final_reply(service.send_command(*commands, **parameters)))


# --- what is told --------------------------------------------------------------------------------


def test_command_is_acknowledged_begun_reported_and_ended(service: FakeService, agent: AgentThread) -> None:
    command_id = service.send_command("echo hello; echo oops >&2; exit 3")
    service.final_reply(command_id)

    contents = [reply.content for reply in service.replies(command_id)]
    (ack,) = service.job_acks
    assert (ack.status_code, ack.error_message) == ("200", "Successful")
    assert ack.job_id == f"aws.ssm.{command_id}.{MI}"
    assert [content["documentStatus"] for content in contents] == ["InProgress", "InProgress", "Failed"]
    assert contents[0]["runtimeStatus"] is None
    assert contents[0]["additionalInfo"]["runtimeStatusCounts"] is None
    assert contents[1]["runtimeStatus"] == contents[2]["runtimeStatus"]
    assert contents[2]["additionalInfo"]["runtimeStatusCounts"] == {"Failed": 1}
    result = dict(plugin(contents[2]))
    assert result.pop("startDateTime") <= result.pop("endDateTime")
    assert result == {
        "status": "Failed",
        "code": 3,
        "name": "aws:runShellScript",
        "output": "hello\n\n----------ERROR-------\noops\nfailed to run commands: exit status 3",
        "outputS3BucketName": "",
        "outputS3KeyPrefix": "",
        "stepName": "",
        "standardOutput": "hello\n",
        "standardError": "oops\nfailed to run commands: exit status 3",
    }


def test_reply_has_the_form_of_the_official_agents(service: FakeService, agent: AgentThread) -> None:
    """Names and their order, as recorded; see tests/captures/03-send-command.jsonl."""
    recorded = []
    for line in (Path(__file__).parents[1] / "captures" / "03-send-command.jsonl").read_text().splitlines():
        decoded = json.loads(line).get("decoded") or {}
        if decoded.get("MessageType") == "agent_job_reply":
            recorded.append(json.loads(decoded["PayloadJson"]["content"]))
    command_id = service.send_command("exit 3")
    service.final_reply(command_id)

    ours = [reply.content for reply in service.replies(command_id)]

    assert [_shape(content) for content in ours] == [_shape(content) for content in recorded]


def _shape(value: Any) -> Any:
    """The names in a JSON value, in their order."""
    if isinstance(value, dict):
        return [(name, _shape(item)) for name, item in value.items()]
    return type(value).__name__ if value is None else ""


def test_success_has_no_error_part(service: FakeService, agent: AgentThread) -> None:
    result = run(service, "echo one", "echo two")

    assert (result["status"], result["code"], result["output"]) == ("Success", 0, "one\ntwo\n")
    assert result["standardError"] == ""


def test_outputs_are_cut_and_marked(service: FakeService, agent: AgentThread) -> None:
    result = run(
        service,
        "i=0; while [ $i -lt 2000 ]; do echo 0123456789012345; echo 9876543210987654 >&2; i=$((i+1)); done",
    )

    for name in ("standardOutput", "standardError"):
        assert len(result[name]) == 24000
        assert result[name].endswith("--output truncated--")
    assert len(result["output"]) <= 2500
    assert result["output"].count("--output truncated--") == 2
    assert "----------ERROR-------" in result["output"]


def test_endless_output_does_not_fill_the_memory(service: FakeService, agent: AgentThread) -> None:
    result = run(service, "head -c 200000000 /dev/zero | tr '\\0' x; echo >&2 done")

    assert len(result["standardOutput"]) == 24000
    assert result["standardError"] == "done\n"


def test_bytes_that_are_no_text_are_shown_as_such(service: FakeService, agent: AgentThread) -> None:
    assert run(service, r"printf 'a\377b'")["standardOutput"] == "a\ufffdb"


def test_combined_output_prefers_neither_part() -> None:
    short = Outcome("Failed", 1, "out", "err")
    long_output = Outcome("Failed", 1, "o" * 24000, "err")
    long_both = Outcome("Failed", 1, "o" * 24000, "e" * 24000)

    assert short.combined == "out\n----------ERROR-------\nerr"
    assert long_output.combined.endswith("--output truncated--\n----------ERROR-------\nerr")
    assert [len(outcome.combined) for outcome in (long_output, long_both)] == [2500, 2500]


def test_cut_keeps_whole_characters() -> None:
    assert cut("é" * 20, 40) == "é" * 20
    assert cut("é" * 20 + "x", 40) == "é" * 10 + "--output truncated--"
    assert cut("xé" * 20, 42).encode().endswith(b"--output truncated--")


# --- how it runs ---------------------------------------------------------------------------------


def test_script_has_the_jobs_environment_and_ours(service: FakeService, agent: AgentThread) -> None:
    result = run(
        service,
        'printf "%s|" "$JOB_VARIABLE" "${PATH%%:*}" "$SSH_STATE_DIR" "$AWS_SSM_INSTANCE_ID" '
        '"$AWS_SSM_REGION_NAME" "$PWD"; [ -n "$SSM_COMMAND_ID" ]',
    )

    state = agent.state.path
    assert result["standardOutput"] == f"it's a é\nday|{state}/bin|{state}|{MI}|eu-west-1|{state}|"
    assert result["status"] == "Success"


def test_environment_without_a_jobs_file_is_our_own() -> None:
    environ = script_environ(None, bin_path="/b", state_path="/s", extra={"X": "y"})

    assert environ["PATH"] == f"/b:{os.environ['PATH']}"
    assert (environ["SSH_STATE_DIR"], environ["X"]) == ("/s", "y")
    assert environ["HOME"] == os.environ["HOME"]


def test_programs_that_are_first_on_the_jobs_path_are_not_put_there_again() -> None:
    job = b"PATH=/s/bin:/usr/bin\0"

    assert script_environ(job, bin_path="/s/bin", state_path="/s", extra={})["PATH"] == "/s/bin:/usr/bin"
    assert script_environ(b"A=b\0", bin_path="", state_path="/s", extra={})["PATH"] == os.defpath


def test_path_of_the_job_need_not_have_a_shell(service: FakeService, agent: AgentThread) -> None:
    Path(agent.state.path, "environment").write_bytes(b"PATH=/nonexistent\0")

    assert run(service, "echo fine")["standardOutput"] == "fine\n"


def test_working_directory_is_honoured(service: FakeService, agent: AgentThread, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()

    assert run(service, "pwd", workingDirectory=str(elsewhere))["standardOutput"] == f"{elsewhere}\n"
    assert run(service, "pwd", workingDirectory="relative")["standardOutput"] == f"{agent.state.path}\n"


def test_working_directory_that_is_missing_is_said(service: FakeService, agent: AgentThread) -> None:
    result = run(service, "pwd", workingDirectory="/no/such/folder")

    assert result["status"] == "Failed"
    assert "/no/such/folder" in result["standardError"]


def test_first_line_of_a_script_decides_what_runs_it(service: FakeService, agent: AgentThread) -> None:
    result = run(service, f"#!{sys.executable}", "print(6 * 7)")

    assert result["standardOutput"] == "42\n"


def test_folder_that_allows_no_execution_is_no_obstacle(
    service: FakeService, agent: AgentThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = os.statvfs_result([0] * 8 + [os.ST_NOEXEC, 255])
    monkeypatch.setattr("sagemaker_ssh_helper.agent.scripts.os.statvfs", lambda _: flags)

    assert run(service, f"#!{sys.executable} -s", "print(6 * 7)")["standardOutput"] == "42\n"
    assert run(service, 'echo "$0"')["standardOutput"].startswith(agent.state.path)


def test_full_disk_is_no_obstacle(
    service: FakeService, agent: AgentThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: Any, *arguments: Any, **options: Any) -> int:
        if "command-" in str(path):
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **options)

    monkeypatch.setattr("sagemaker_ssh_helper.agent.scripts.os.open", full)

    assert run(service, "echo no file")["standardOutput"] == "no file\n"


def test_script_files_are_private_and_removed(service: FakeService, agent: AgentThread) -> None:
    result = run(service, 'ls -l "$0"')

    assert result["standardOutput"].startswith("-rwx------")
    assert [name for name in os.listdir(agent.state.path) if name.startswith("command-")] == []


def test_script_reads_nothing(service: FakeService, agent: AgentThread) -> None:
    assert run(service, "cat; echo end")["standardOutput"] == "end\n"


def test_process_left_behind_does_not_hold_the_command(
    service: FakeService, agent: AgentThread, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    result = run(service, f"sleep 60 & echo $! > {pid_file}; echo begun")
    pid = int(pid_file.read_text())
    try:
        assert result["status"] == "Success"
        assert result["standardOutput"] == "begun\n"
        assert _alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


def test_signal_counts_as_its_exit_code(service: FakeService, agent: AgentThread) -> None:
    assert run(service, "kill -TERM $$")["code"] == 143


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that ended and that nobody waits for is still in the list.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        # It ended this moment.
        return False


def _wait_gone(pid: int) -> None:
    until = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < until, f"process {pid} is still there"
        time.sleep(0.01)


# --- how it is ended -----------------------------------------------------------------------------


def test_timeout_kills_all_processes_of_the_script(
    service: FakeService, agent: AgentThread, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    document = json.loads(json.dumps(RUN_SHELL_SCRIPT))
    result = run(
        service,
        f"echo begun; sleep 60 & echo $! > {pid_file}; wait",
        executionTimeout="5",
        document=document,
    )

    assert (result["status"], result["code"]) == ("TimedOut", 137)
    assert result["standardOutput"] == "begun\n"
    _wait_gone(int(pid_file.read_text()))


def test_cancelled_command_says_so_in_the_official_agents_order(
    service: FakeService, agent: AgentThread, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    command_id = service.send_command(f"echo begun; echo $$ > {pid_file}; sleep 60; echo not reached")
    service.wait(lambda: pid_file.exists() and pid_file.read_text() != "", "the script")
    cancel_job = service.cancel_command(command_id)
    final = service.final_reply(command_id)

    replies = [reply for reply in service.job_replies if reply.job_id == cancel_job]
    assert final["documentStatus"] == "Cancelled"
    assert (plugin(final)["status"], plugin(final)["code"]) == ("Cancelled", 137)
    assert plugin(final)["standardOutput"] == "begun\n"
    assert [(reply.topic, reply.content["documentStatus"]) for reply in replies] == [
        ("aws.ssm.cancelCommand", "InProgress")
    ]
    assert [ack.status_code for ack in service.job_acks] == ["200", "200"]
    _wait_gone(int(pid_file.read_text()))


def test_cancel_of_a_waiting_command_keeps_it_from_starting(
    service: FakeService, agent: AgentThread, tmp_path: Path
) -> None:
    gate, mark = tmp_path / "gate", tmp_path / "mark"
    running = [service.send_command(f"until [ -e {gate} ]; do sleep 0.05; done") for _ in range(5)]
    waiting = service.send_command(f"touch {mark}")
    service.cancel_command(waiting)
    gate.touch()

    assert service.final_reply(waiting)["documentStatus"] == "Cancelled"
    assert [service.final_reply(command)["documentStatus"] for command in running] == ["Success"] * 5
    assert not mark.exists()


def test_cancel_of_an_unknown_command_is_acknowledged(service: FakeService, agent: AgentThread) -> None:
    job_id = service.cancel_command("00000000-0000-0000-0000-000000000000")
    service.wait(lambda: bool(service.job_replies), "a reply")

    assert [ack.status_code for ack in service.job_acks] == ["200"]
    assert [(reply.job_id, reply.content["documentStatus"]) for reply in service.job_replies] == [
        (job_id, "InProgress")
    ]


def test_stopped_agent_cancels_its_commands(service: FakeService, agent: AgentThread) -> None:
    command_id = service.send_command("sleep 60")
    service.wait(lambda: len(service.replies(command_id)) == 1, "the command")
    agent.stop()

    assert service.final_reply(command_id)["documentStatus"] == "Cancelled"


# --- how many, and again -------------------------------------------------------------------------


def test_five_run_five_wait_and_the_eleventh_is_refused(
    service: FakeService, agent: AgentThread, tmp_path: Path
) -> None:
    gate, started = tmp_path / "gate", tmp_path / "started"
    started.mkdir()
    script = f"touch {started}/$$; until [ -e {gate} ]; do sleep 0.05; done"
    commands = [service.send_command(script) for _ in range(11)]
    service.wait(lambda: len(service.job_acks) == 11, "eleven acknowledges")
    service.wait(lambda: len(os.listdir(started)) >= 5, "five scripts")
    running = len(os.listdir(started))
    gate.touch()
    for command in commands[:10]:
        service.final_reply(command)

    assert running == 5
    assert [ack.status_code for ack in service.job_acks] == ["200"] * 10 + ["51402"]
    assert service.replies(commands[10]) == []


def test_refused_command_runs_when_it_is_offered_again(
    service: FakeService, agent: AgentThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("sagemaker_ssh_helper.agent.jobs.MAX_RUNNING", 0)
        patch.setattr("sagemaker_ssh_helper.agent.jobs.MAX_QUEUED", 0)
        command_id = service.send_command("echo at last")
        service.wait(lambda: len(service.job_acks) == 1, "a refusal")
    service.send_command("echo at last", command_id=command_id)

    assert plugin(service.final_reply(command_id))["standardOutput"] == "at last\n"
    assert [ack.status_code for ack in service.job_acks] == ["51402", "200"]


def test_same_command_is_not_run_twice(service: FakeService, agent: AgentThread, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    command_id = service.send_command(f"echo ran >> {marks}")
    service.final_reply(command_id)
    service.send_command(f"echo ran >> {marks}", command_id=command_id)
    service.wait(lambda: len(service.job_acks) == 2, "two acknowledges")

    assert [ack.status_code for ack in service.job_acks] == ["200", "51405"]
    assert run(service, f"cat {marks}")["standardOutput"] == "ran\n"


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job_id", "topic", "content", "code"),
    [
        (f"aws.ssm.c.{MI}", "aws.ssm.sendCommand", None, "51408"),
        (f"aws.ssm.c.{MI}", "aws.ssm.sendCommand", {}, "51408"),
        (f"aws.ssm.c.{MI}", "aws.ssm.sendCommand", {"DocumentContent": {"schemaVersion": "3"}}, "51408"),
        (f"aws.ssm.c.{MI}", "aws.ssm.cancelCommand", {"CancelMessageId": 3}, "51408"),
        (f"aws.ssm.c.{MI}", "aws.ssm.fly", {}, "51408"),
        ("nonsense", "aws.ssm.sendCommand", {"DocumentContent": RUN_SHELL_SCRIPT}, "51406"),
    ],
)
def test_jobs_that_cannot_be_read_are_refused_and_failed(
    service: FakeService, agent: AgentThread, job_id: str, topic: str, content: Any, code: str
) -> None:
    service.send_control(AgentJob(job_id, topic, content))
    service.wait(lambda: bool(service.job_replies), "a reply")

    (reply,) = service.job_replies
    assert [ack.status_code for ack in service.job_acks] == [code]
    assert (reply.job_id, reply.content["documentStatus"]) == (job_id, "Failed")
    assert reply.content["runtimeStatus"] is None
    assert reply.content["documentTraceOutput"] != ""


def test_unknown_plugin_fails_with_its_name(service: FakeService, agent: AgentThread) -> None:
    document = {
        "schemaVersion": "2.2",
        "mainSteps": [{"action": "aws:runPowerShellScript", "name": "one", "inputs": {}}],
    }
    final = service.final_reply(service.send_command("x", document=document))

    assert final["documentStatus"] == "Failed"
    assert "aws:runPowerShellScript is not supported" in plugin(final, "one")["standardError"]
    assert [ack.status_code for ack in service.job_acks] == ["200"]


def test_upload_that_was_asked_for_is_said_not_to_happen(service: FakeService, agent: AgentThread) -> None:
    command_id = "5c0d5d5e-0000-4000-8000-000000000001"
    content = {
        "DocumentContent": RUN_SHELL_SCRIPT,
        "Parameters": {"commands": ["true"]},
        "OutputS3BucketName": "bucket",
    }
    service.send_control(AgentJob(f"aws.ssm.{command_id}.{MI}", "aws.ssm.sendCommand", content))

    assert "does not upload" in service.final_reply(command_id)["documentTraceOutput"]


# --- several steps -------------------------------------------------------------------------------


def steps(*inputs: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "schemaVersion": "2.2",
        "mainSteps": [
            {
                "action": "aws:runShellScript",
                "name": f"step{number}",
                "inputs": {key: value for key, value in fields.items() if key != "precondition"},
                "precondition": fields.get("precondition", {}),
            }
            for number, fields in enumerate(inputs, 1)
        ],
    }


def statuses(service: FakeService, document: Dict[str, Any]) -> List[str]:
    """The document's status, then each step's, added up from the replies."""
    command_id = service.send_command("unused", document=document)
    final = service.final_reply(command_id)
    found: Dict[str, str] = {}
    for reply in service.replies(command_id):
        for key, value in (reply.content["runtimeStatus"] or {}).items():
            found[key] = value["status"]
    return [final["documentStatus"], *(found[key] for key in sorted(found))]


def test_steps_go_on_after_a_failure_unless_they_say_otherwise(
    service: FakeService, agent: AgentThread
) -> None:
    bad, good = {"runCommand": ["exit 1"]}, {"runCommand": ["true"]}

    assert statuses(service, steps(bad, good)) == ["Failed", "Failed", "Success"]
    assert statuses(service, steps({**bad, "onFailure": "exit"}, good)) == ["Failed", "Failed", "Skipped"]
    assert statuses(service, steps({**bad, "onFailure": "successAndExit"}, good)) == [
        "Success",
        "Success",
        "Skipped",
    ]


def test_exit_codes_168_and_169_end_the_command(service: FakeService, agent: AgentThread) -> None:
    good = {"runCommand": ["true"]}

    assert statuses(service, steps({"runCommand": ["exit 168"]}, good)) == ["Success", "Success", "Skipped"]
    assert statuses(service, steps({"runCommand": ["exit 169"]}, good)) == ["Failed", "Failed", "Skipped"]


def test_step_for_another_platform_is_skipped(service: FakeService, agent: AgentThread) -> None:
    windows = {"runCommand": ["exit 1"], "precondition": {"StringEquals": ["platformType", "Windows"]}}
    odd = {"runCommand": ["true"], "precondition": {"NumberEquals": ["1", "1"]}}

    assert statuses(service, steps(windows, {"runCommand": ["true"]})) == ["Success", "Skipped", "Success"]
    assert statuses(service, steps(odd)) == ["Failed", "Failed"]


def test_last_reply_of_several_steps_repeats_none(service: FakeService, agent: AgentThread) -> None:
    final = service.final_reply(
        service.send_command("x", document=steps({"runCommand": ["true"]}, {"runCommand": ["true"]}))
    )

    assert final["runtimeStatus"] == {}
    assert final["additionalInfo"]["runtimeStatusCounts"] == {"Success": 2}


def test_reboot_is_refused_in_words(service: FakeService, agent: AgentThread) -> None:
    result = run(service, "exit 194")

    assert (result["status"], result["code"]) == ("Failed", 194)
    assert "cannot be rebooted" in result["standardError"]


# --- and that is not logged ----------------------------------------------------------------------


def test_commands_and_their_output_are_not_logged(
    service: FakeService, agent: AgentThread, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        run(service, "echo pass''word; exit 1")

    assert "pass''word" not in caplog.text
    assert "password" not in caplog.text
    assert "Failed" in caplog.text


def test_fault_of_the_agent_fails_that_command_only(
    service: FakeService, agent: AgentThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as patch:
        patch.setattr("sagemaker_ssh_helper.agent.jobs.script_environ", broken)
        final = service.final_reply(service.send_command("true"))

    assert final["documentStatus"] == "Failed"
    assert "the agent failed" in final["documentTraceOutput"]
    assert run(service, "echo fine")["standardOutput"] == "fine\n"
