"""Shells and commands: an agent between a fake service, whose client they have, and real programs."""

import logging
import os
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest

from agent.agent_thread import AgentThread
from agent.fake_service import FakeService, SessionClient
from sagemaker_ssh_helper.protocol.message import Flag, PayloadType
from sagemaker_ssh_helper.protocol.payloads import AgentTaskComplete, ChannelClosed

pytestmark = pytest.mark.container

SHELL: Dict[str, Any] = {
    "schemaVersion": "1.0",
    "sessionType": "Standard_Stream",
    "inputs": {"s3BucketName": "", "kmsKeyId": "", "runAsEnabled": False, "shellProfile": {"linux": ""}},
}


def command_document(session_type: str, **properties: Any) -> Dict[str, Any]:
    values = {"commands": "{{ command }}", "runAsElevated": True, **properties}
    return {
        "schemaVersion": "1.0",
        "sessionType": session_type,
        "parameters": {"command": {"type": "String", "default": ""}},
        "properties": {"linux": values, "macos": values, "windows": values},
    }


INTERACTIVE = command_document("InteractiveCommands")
PLAIN = command_document("NonInteractiveCommands")
APART = command_document("NonInteractiveCommands", separateOutputStream="True")


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


@pytest.fixture
def agent(service: FakeService, tmp_path: Path) -> Iterator[AgentThread]:
    environ = tmp_path / "environ"
    environ.write_bytes(
        b"PATH=" + os.environb[b"PATH"] + b"\0JOB_NAME=my-job\0PS1=$ \0PWD=/tmp\0HOME=/nowhere\0"
    )
    with AgentThread(service, tmp_path / "state", environ_path=str(environ)) as running:
        yield running


def run(
    service: FakeService, document: Dict[str, Any], command: str
) -> Tuple[AgentTaskComplete, SessionClient]:
    client = service.offer_session(document=document, parameters={"command": command})
    return service.result(client), client


def outcome(result: AgentTaskComplete) -> Tuple[str, str]:
    return result.final_status, result.output


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        # Nobody in a container may be there to reap it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def pid_in(data: bytes) -> int:
    found = re.search(rb"pid (\d+)\r\n", data)
    assert found is not None, data
    return int(found.group(1))


# --- a shell ---------------------------------------------------------------------------------------


def test_shell_echoes_what_is_typed_and_ends_with_exit(service: FakeService, agent: AgentThread) -> None:
    client = service.offer_session(document=SHELL).wait_ready()
    client.send(b"echo $((6 * 7))\r")
    client.wait_until(b"42\r\n")
    client.send(b"exit\r")

    assert outcome(service.result(client)) == ("Success", "")
    assert client.by_type.keys() == {PayloadType.OUTPUT}
    assert b"echo $((6 * 7))\r\n" in client.received
    assert client.states == ["Connected", "Terminating"]


def test_shell_has_the_environment_and_the_folder_of_the_job(
    service: FakeService, agent: AgentThread
) -> None:
    client = service.offer_session(document=SHELL).wait_ready()
    client.send(b"echo :$JOB_NAME:$TERM:$LANG:$PWD:; test -d $HOME && echo home\\ is\\ there\r")

    assert b":my-job:xterm-256color:C.UTF-8:/tmp:\r\n" in client.wait_until(b"home is there\r\n")


def test_end_of_input_ends_the_shell(service: FakeService, agent: AgentThread) -> None:
    client = service.offer_session(document=SHELL).wait_ready()
    client.send(b"\x04")

    assert outcome(service.result(client)) == ("Success", "")


def test_size_of_the_terminal_follows_the_client(service: FakeService, agent: AgentThread) -> None:
    client = service.offer_session(document=SHELL).wait_ready()
    client.send(b"stty size\r")
    client.wait_until(b"24 80\r\n")
    client.send_size(211, 47)
    client.send_size(0, 47)
    client.send_size(1 << 20, 47)
    client.send(b"stty size\r")

    assert client.wait_until(b"47 211\r\n")


def test_program_is_told_that_the_size_changed(service: FakeService, agent: AgentThread) -> None:
    command = "trap 'stty size; exit' WINCH; echo waiting; while :; do read x; done"
    client = service.offer_session(document=INTERACTIVE, parameters={"command": command}).wait_ready()
    client.wait_until(b"waiting")
    client.send_size(120, 40)

    assert client.wait_until(b"40 120\r\n")


def test_interrupt_ends_the_command_and_not_the_shell(service: FakeService, agent: AgentThread) -> None:
    client = service.offer_session(document=SHELL).wait_ready()
    client.send(b"sh -c 'echo pid $$; exec sleep 1000'\r")
    sleeping = _sleeping(client)
    client.send(b"\x03")
    client.send(b"echo alive: $?\r")

    assert client.wait_until(b"alive: 130\r\n")
    assert is_gone(sleeping)


def test_profile_is_run_first(service: FakeService, agent: AgentThread) -> None:
    inputs = {"shellProfile": {"linux": "cd /usr; HELLO=there", "windows": "no"}}
    client = service.offer_session(document={**SHELL, "inputs": inputs}).wait_ready()
    client.send(b"echo :$HELLO:$(pwd):\r")

    assert client.wait_until(b":there:/usr:\r\n")


def test_a_thousand_characters_are_not_divided_between_payloads(
    service: FakeService, agent: AgentThread
) -> None:
    text = "€\N{REPLACEMENT CHARACTER}\N{GRINNING FACE}é" * 500
    command = (
        f"{shlex.quote(sys.executable)} -c 'print(chr(0x20ac)+chr(0xfffd)+chr(0x1f600)+chr(0xe9), end=\"\")'"
    )
    loop = f"i=0; x=$({command}); while [ $i -lt 500 ]; do printf %s $x; i=$((i+1)); done"
    result, client = run(service, INTERACTIVE, f"export PYTHONIOENCODING=utf-8; {loop}")

    assert outcome(result) == ("Success", "")
    assert bytes(client.received).decode() == text


def test_bytes_that_are_no_character_arrive_and_the_last_ones_too(
    service: FakeService, agent: AgentThread
) -> None:
    result, client = run(service, INTERACTIVE, r"printf 'a\377b\303'")

    assert bytes(client.received) == b"a\xffb\xc3"
    assert result.final_status == "Success"


# --- the end of a shell ----------------------------------------------------------------------------


def _sleeping(client: SessionClient) -> int:
    client._service.wait(lambda: re.search(rb"\npid \d+\r\n", client.received) is not None, "a process id")
    return pid_in(bytes(client.received))


@pytest.mark.parametrize("way", ["data channel", "control channel", "flag", "agent"])
def test_end_of_the_session_ends_what_runs_in_it(service: FakeService, agent: AgentThread, way: str) -> None:
    client = service.offer_session(document=SHELL).wait_ready()
    client.send(b"sh -c 'echo pid $$; exec sleep 1000'\r")
    sleeping = _sleeping(client)
    if way == "data channel":
        client.close()
    elif way == "control channel":
        service.send_control(ChannelClosed(client.session_id, created_date="now"))
    elif way == "flag":
        client.send_flag(Flag.TERMINATE_SESSION)
    else:
        agent.stop()

    status = service.result(client).final_status

    assert status == ("Cancelled" if way == "agent" else "Success")
    service.wait(lambda: is_gone(sleeping), "the end of sleep", 5)


def test_what_ignores_the_hang_up_is_killed(service: FakeService, agent: AgentThread) -> None:
    command = "trap '' HUP INT TERM; echo; echo pid $$; while :; do sleep 100; done"
    client = service.offer_session(document=INTERACTIVE, parameters={"command": command}).wait_ready()
    stubborn = _sleeping(client)
    client.close()
    service.result(client)

    service.wait(lambda: is_gone(stubborn), "the end of the program", 5)


def test_process_that_the_shell_left_does_not_keep_the_session(
    service: FakeService, agent: AgentThread
) -> None:
    result, client = run(service, APART, "sh -c 'sleep 1000 & echo pid $!; exit 3'")
    left = int(client.by_type[PayloadType.OUTPUT].split()[1])
    alive = not is_gone(left)
    os.kill(left, signal.SIGKILL)

    assert outcome(result) == ("Success", "")
    assert client.by_type[PayloadType.EXIT_CODE] == b"EXIT_CODE: 3"
    assert alive


# --- a command on a terminal -----------------------------------------------------------------------


def test_command_reads_what_is_typed(service: FakeService, agent: AgentThread) -> None:
    command = "echo ready; read x; echo got $x"
    client = service.offer_session(document=INTERACTIVE, parameters={"command": command}).wait_ready()
    client.wait_until(b"ready\r\n")
    client.send(b"abc def\r")

    assert outcome(service.result(client)) == ("Success", "")
    assert bytes(client.received) == b"ready\r\nabc def\r\ngot abc def\r\n"


def test_command_that_is_silent_can_be_typed_to(service: FakeService, agent: AgentThread) -> None:
    client = service.offer_session(document=INTERACTIVE, parameters={"command": "read x; echo got $x"})
    client.wait_ready()
    client.send(b"it\r")

    assert client.wait_until(b"got it\r\n")


def test_command_that_never_says_anything_ends_well(service: FakeService, agent: AgentThread) -> None:
    result, client = run(service, INTERACTIVE, "true")

    assert outcome(result) == ("Success", "")
    assert client.wait_ready().failed is None
    assert bytes(client.received) == b""


# --- a command without a terminal ------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 127, 254])
def test_exit_code_is_told(service: FakeService, agent: AgentThread, code: int) -> None:
    result, client = run(service, APART, f"sh -c 'exit {code}'")

    assert outcome(result) == ("Success", "")
    assert client.by_type == {PayloadType.EXIT_CODE: b"EXIT_CODE: %d" % code}
    assert client.states == ["Connected", "Terminating"]


def test_error_output_comes_apart(service: FakeService, agent: AgentThread) -> None:
    _, client = run(service, APART, "sh -c 'echo out; echo err >&2; tty <&0; exit 0'")

    assert client.by_type == {
        PayloadType.OUTPUT: b"out\nnot a tty\n",
        PayloadType.STDERR: b"err\n",
        PayloadType.EXIT_CODE: b"EXIT_CODE: 0",
    }


def test_prefixes_stand_before_what_begins_a_line(service: FakeService, agent: AgentThread) -> None:
    document = command_document(
        "NonInteractiveCommands",
        separateOutputStream=True,
        stdOutSeparatorPrefix="O:",
        stdErrSeparatorPrefix="E:",
    )
    _, client = run(service, document, "sh -c 'printf 1; sleep 0.3; echo 2; sleep 0.3; echo 3; echo 4 >&2'")

    assert client.by_type[PayloadType.OUTPUT] == b"O:12\nO:3\n"
    assert client.by_type[PayloadType.STDERR] == b"E:4\n"


def test_words_are_split_as_a_shell_does_and_no_shell_reads_them(
    service: FakeService, agent: AgentThread
) -> None:
    _, client = run(service, APART, """printf '%s|' "a  b" $HOME '*' c\\ d ';' ls""")

    assert client.by_type[PayloadType.OUTPUT] == b"a  b|$HOME|*|c d|;|ls|"


def test_output_that_is_not_separated_comes_after_the_end(service: FakeService, agent: AgentThread) -> None:
    result, client = run(service, PLAIN, "sh -c 'echo one; echo two >&2; exit 3'")

    assert outcome(result) == ("Success", "")
    assert client.by_type == {PayloadType.OUTPUT: b"one\ntwo\n"}


@pytest.mark.parametrize(("key", "code"), [(b"\x03", 130), (b"\x1c", 131)])
def test_keys_that_end_programs_reach_a_command(
    service: FakeService, agent: AgentThread, key: bytes, code: int
) -> None:
    command = "sh -c 'echo started; exec sleep 1000'"
    client = service.offer_session(document=APART, parameters={"command": command}).wait_ready()
    client.wait_until(b"started")
    client.send(b"nothing " + key)

    assert outcome(service.result(client)) == ("Success", "")
    assert client.by_type[PayloadType.EXIT_CODE] == b"EXIT_CODE: %d" % code


def test_command_that_is_not_there_is_told(service: FakeService, agent: AgentThread) -> None:
    result, _ = run(service, APART, "no-such-program --secret")

    assert outcome(result) == (
        "Failed",
        "the session's program cannot be started: there is no such command here",
    )


# --- backpressure ----------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [INTERACTIVE, PLAIN, APART], ids=["terminal", "collected", "apart"])
def test_slow_reader_gets_all_of_a_big_output_and_the_agent_holds_little(
    service: FakeService, agent: AgentThread, document: Dict[str, Any]
) -> None:
    size = 12 << 20
    code = f"import sys; [sys.stdout.write('x' * 1023 + chr(10)) for _ in range({size >> 10})]"
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    client = service.offer_session(document=document, parameters={"command": command})
    client.hold()
    client.wait_ready()
    agent_session = next(iter(agent.control.sessions._live.values())) if agent.control else None
    assert agent_session is not None
    enough = 1 << 19
    service.wait(
        lambda: agent_session._sent_bytes > enough and not agent_session._writable.is_set(), "a full window"
    )
    # What came before the hold was acknowledged.
    sent_while_held = agent_session._sent_bytes - len(client.received)
    client.release()
    result = service.result(client)

    # One window.
    assert sent_while_held < 9 << 20
    assert result.final_status == "Success"
    assert client.by_type[PayloadType.OUTPUT].replace(b"\r", b"") == (b"x" * 1023 + b"\n") * (size >> 10)


def test_program_that_does_not_read_holds_the_client_and_loses_nothing(
    service: FakeService, agent: AgentThread, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    command = (
        f"stty raw -echo; echo ready; while [ ! -e {go} ]; do sleep 0.05; done; head -c 12000000 | cksum"
    )
    client = service.offer_session(document=INTERACTIVE, parameters={"command": command}).wait_ready()
    client.wait_until(b"ready")
    client.send(b"0123456789" * 1_200_000)
    held = client.wait_settled(lambda: client.unacknowledged)
    go.touch()
    result = service.result(client)

    assert held > 1000
    assert b" 12000000" in client.received, result


LAST_WORDS = "echo ready; while [ ! -e {go} ]; do sleep 0.05; done; echo the-''end"


def test_what_a_program_says_last_waits_for_a_client_that_is_cut_off(
    service: FakeService, agent: AgentThread, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    command = LAST_WORDS.format(go=go)
    client = service.offer_session(document=INTERACTIVE, parameters={"command": command}).wait_ready()
    client.wait_until(b"ready")

    # With the pauses in between some five seconds.
    good = (201, b"<R><TokenValue>t</TokenValue></R>")
    service.answers["/v1/data-channel"] = [(503, b"<ServiceUnavailableException>away")] * 9 + [good]
    client.cut()
    go.touch()
    result = service.result(client)

    assert b"the-end" in client.received, result
    assert result.final_status == "Success"


@pytest.mark.parametrize("way", ["data channel", "control channel", "flag", "end of the agent"])
def test_a_client_that_takes_nothing_is_waited_for_until_somebody_ends_the_session(
    service: FakeService,
    agent: AgentThread,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    caplog.set_level(logging.INFO)
    go = tmp_path / "go"
    command = LAST_WORDS.format(go=go)
    client = service.offer_session(document=INTERACTIVE, parameters={"command": command}).wait_ready()
    client.wait_until(b"ready")
    client.hold()
    go.touch()
    service.wait(lambda: f"session {client.session_id}: its program ended" in caplog.text, "its end")

    if way == "data channel":
        client.close()
    elif way == "control channel":
        service.send_control(ChannelClosed(client.session_id, created_date="now"))
    elif way == "flag":
        client.send_flag(Flag.TERMINATE_SESSION)
    else:
        agent.stop()
    service.result(client)

    assert b"the-end" not in client.received


# --- who it runs as, and what is refused ------------------------------------------------------------


def test_user_that_is_missing_is_told(service: FakeService, agent: AgentThread) -> None:
    inputs = {"runAsEnabled": "true", "runAsDefaultUser": "nobody-of-that-name"}
    client = service.offer_session(document={**SHELL, "inputs": inputs})

    assert outcome(service.result(client)) == (
        "Failed",
        "the session is to run as 'nobody-of-that-name', a user that does not exist here",
    )
    assert not any("data-channel" in name for name in service.operations())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"inputs": {"s3BucketName": "b"}}, "wants the session logged (s3BucketName)"),
        ({"inputs": {"runAsEnabled": True}}, "runAsEnabled), but none is named"),
        ({"schemaVersion": "1.2"}, "schema version '1.2' is not supported"),
        ({"properties": {"linux": {"commands": 7}}}, "commands is no text"),
        ({"properties": {"linux": {}}, "sessionType": "InteractiveCommands"}, "has no commands for linux"),
        ({"properties": {"linux": {"commands": "''"}}, "sessionType": "NonInteractiveCommands"}, ""),
        (
            {"properties": {"linux": {"commands": "'"}}, "sessionType": "NonInteractiveCommands"},
            "split into words",
        ),
        (
            {
                "properties": {"linux": {"commands": "ls", "stdOutSeparatorPrefix": "<>"}},
                "sessionType": "NonInteractiveCommands",
            },
            "stdOutSeparatorPrefix has more than 30 characters, or others",
        ),
    ],
)
def test_documents_that_cannot_be_done_are_refused(
    service: FakeService, agent: AgentThread, change: Dict[str, Any], reason: str
) -> None:
    status, output = outcome(service.result(service.offer_session(document={**SHELL, **change})))

    assert status == "Failed"
    assert reason in output


def test_session_runs_as_the_user_that_the_service_names(service: FakeService, agent: AgentThread) -> None:
    inputs = {"runAsEnabled": True, "runAsDefaultUser": "nobody-of-that-name"}
    document = {**INTERACTIVE, "inputs": inputs}
    client = service.offer_session(
        document=document,
        parameters={"command": "id -un; test -w $(tty) && echo :$JOB_NAME:"},
        run_as_user="nobody",
    )
    result = service.result(client)

    if os.geteuid() == 0:
        assert outcome(result) == ("Success", "")
        assert bytes(client.received) == b"nobody\r\n::\r\n"
    else:
        assert result.final_status == "Failed"
        assert "and is not root" in result.output
