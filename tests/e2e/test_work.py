"""Work in containers by name: commands on many nodes, copies, forwarded ports. Real ssh, sftp and jobs."""

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import threading
import urllib.request
from pathlib import Path
from typing import Callable, Iterator

import pytest

from e2e.laptop import SM_SSH, Job, Laptop, end, running


@pytest.fixture(scope="module")
def alice(laptop: Callable[[str], Laptop]) -> Laptop:
    return laptop("alice")


@pytest.fixture(scope="module")
def job(alice: Laptop) -> Iterator[Job]:
    with running(alice, name="work-first") as job:
        yield job


@pytest.fixture(scope="module")
def other(alice: Laptop) -> Iterator[Job]:
    with running(alice, name="work-second") as job:
        yield job


def test_a_command_gets_input_and_gives_back_output_and_status(alice: Laptop, job: Job) -> None:
    data = os.urandom(300_000)
    done = alice.sm_ssh("exec", "work-f", "--", "cat; echo talk >&2; exit 7", stdin=data)
    assert done.returncode == 7
    assert done.stdout == data
    assert b"talk" in done.stderr


def test_the_words_of_a_command_arrive_as_they_are(alice: Laptop, job: Job) -> None:
    words = ["a b", "it's", '"', "$HOME", "--", "-x", "line\nend", ""]
    done = alice.sm_ssh("exec", job.host, "--", "printf", "[%s]", *words)
    assert done.stdout.decode() == "".join(f"[{word}]" for word in words)


def test_every_container_runs_it_and_says_who_it_is(alice: Laptop, job: Job, other: Job) -> None:
    done = alice.sm_ssh("exec", "--all", job.host, "work-sec", "--", "echo one; echo two; echo bad >&2")
    assert done.returncode == 0, done.stderr.decode()
    names = ["algo-1.work-first", "algo-1.work-second"]
    assert sorted(done.stdout.decode().splitlines()) == [
        f"{name} | {word}" for name in names for word in ("one", "two")
    ]
    told = done.stderr.decode().splitlines()
    assert {f"{name} | bad" for name in names} <= set(told)
    assert told[-1] == "sm-ssh: 2 nodes, 2 ok"


def test_the_nodes_of_one_job_are_told_apart_by_their_rank(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("exec", "--all", job.host, "--", "echo here")
    assert done.stdout == b"algo-1 | here\n"
    assert done.stderr.decode().splitlines()[-1] == "sm-ssh: 1 node, 1 ok"


def test_the_highest_status_is_returned_and_each_is_told(alice: Laptop, job: Job, other: Job) -> None:
    command = "echo out; case $TRAINING_JOB_NAME in work-second) exit 4;; esac"
    done = alice.sm_ssh("exec", "--json", job.host, other.host, "--", command)
    shown = json.loads(done.stdout)
    assert shown["schema"] == 1
    assert [
        (entry["host"], entry["status"], entry["stdout"], entry["error"]) for entry in shown["containers"]
    ] == [(job.host, 0, "out\n", None), (other.host, 4, "out\n", None)], done
    assert done.returncode == 4
    assert done.stderr.decode().splitlines()[-1] == f"sm-ssh: 2 nodes, 1 ok; {other.host}: 4"


def test_a_node_that_cannot_be_reached_does_not_stop_the_others(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("exec", job.host, f"algo-9.{job.host}", "--", "echo here")
    assert done.returncode == 255
    assert done.stdout.decode() == f"{job.host} | here\n"
    assert f"algo-9.{job.host}: error[target-not-found]" in done.stderr.decode()


def test_a_command_left_out_is_a_usage_error(alice: Laptop) -> None:
    for words in (["job.training.sagemaker"], ["job.training.sagemaker", "--"], []):
        done = alice.sm_ssh("exec", *words)
        assert done.returncode == 2
        assert b"no command is given" in done.stderr


def test_files_and_folders_arrive_whole_under_any_name(alice: Laptop, job: Job, tmp_path: Path) -> None:
    odd = 'x*y [1] "q" b\\s it\'s $HOME.bin'
    folder = alice.home / "up"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / odd).write_bytes(os.urandom(100_000))
    (folder / "deep" / "er" / "empty").touch()
    done = alice.sm_ssh("cp", "-r", "up", f"{job.host}:{tmp_path}/there")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr.decode()
    one = alice.sm_ssh("cp", f"{job.host}:{tmp_path}/there/{odd}", "back.bin")
    assert one.returncode == 0, one.stderr.decode()
    assert (alice.home / "back.bin").read_bytes() == (folder / odd).read_bytes()
    tree = alice.sm_ssh("cp", "-r", f"work-f:{tmp_path}/there", "again")
    assert tree.returncode == 0, tree.stderr.decode()
    assert contents(alice.home / "again") == contents(folder)


def contents(folder: Path) -> "dict[str, bytes]":
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_copy_that_was_cut_goes_on_where_it_ended(alice: Laptop, job: Job, tmp_path: Path) -> None:
    data = os.urandom(500_000)
    (alice.home / "whole").write_bytes(data)
    # What is there already is another content: only what follows may have been copied now.
    alice.sm_ssh("exec", job.host, "--", f"head -c 200000 /dev/zero > {tmp_path}/part")
    assert alice.sm_ssh("cp", "--resume", "whole", f"{job.host}:{tmp_path}/part").returncode == 0
    (alice.home / "part").write_bytes(b"\1" * 100_000)
    done = alice.sm_ssh("cp", "--resume", f"{job.host}:{tmp_path}/part", "part")
    assert done.returncode == 0, done.stderr.decode()
    assert (alice.home / "part").read_bytes() == b"\1" * 100_000 + bytes(100_000) + data[200_000:]


def test_a_file_that_is_not_there_is_an_error(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("cp", f"{job.host}:/tmp/no-such-file", "x")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("sm-ssh: error[copy-failed]: not everything was copied (")
    assert "no-such-file" in line
    assert line.endswith(f"sm-ssh cp --resume {job.host}:/tmp/no-such-file x")
    assert not (alice.home / "x").exists()


def test_a_copy_without_a_terminal_says_nothing(alice: Laptop, job: Job, tmp_path: Path) -> None:
    (alice.home / "quiet" / "er").mkdir(parents=True)
    for words in (["quiet", f"{job.host}:{tmp_path}/q"], [f"{job.host}:{tmp_path}/q", "loud"]):
        done = alice.sm_ssh("cp", "-r", *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_full_disk_in_the_container_is_named(alice: Laptop, job: Job) -> None:
    (alice.home / "big").write_bytes(b"x")
    done = alice.sm_ssh("cp", "big", f"{job.host}:/dev/full")
    assert done.returncode == 1
    assert b'error[copy-failed]: not everything was copied (write remote "/dev/full": Failure' in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["one"],
        ["one", "two"],
        ["a:x", "b:y"],
        ["missing", "a.training.sagemaker:"],
        ["a:x", "b:x", "."],
        [".", "a.training.sagemaker:"],
        ["a:x", "a:y", "no-such-folder"],
        ["a:x\ny", "z"],
    ],
)
def test_copies_that_make_no_sense_are_refused_before_anything_is_asked(
    alice: Laptop, words: "list[str]"
) -> None:
    done = alice.sm_ssh("cp", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(b"sm-ssh: error[usage]: ")
    assert b"Traceback" not in done.stderr


SERVE = (
    "import http.server, socketserver; s = socketserver.TCPServer(('127.0.0.1', 0),"
    " http.server.SimpleHTTPRequestHandler); print(s.server_address[1], flush=True); s.serve_forever()"
)


def test_ports_are_brought_here_on_loopback_and_a_taken_one_is_replaced(alice: Laptop, job: Job) -> None:
    server = alice.popen(
        *SM_SSH,
        "exec",
        job.host,
        "--",
        "python3",
        "-c",
        SERVE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    forward = None
    try:
        assert server.stdout is not None
        far = int(server.stdout.readline())
        near = taken.getsockname()[1]
        forward = alice.popen(
            *SM_SSH,
            "forward",
            job.host,
            f"{near}:{far},:{far}",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert forward.stdout is not None
        lines = [forward.stdout.readline().decode().strip() for _ in range(2)]
        ports = [
            int(found[1]) for line in lines if (found := re.match(r"http://127\.0\.0\.1:(\d+) -> ", line))
        ]
        assert len(ports) == 2
        assert near not in ports
        assert lines[0].endswith(f" -> algo-1:{far}")
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                assert answer.status == 200
        forward.send_signal(signal.SIGINT)
        _, told = forward.communicate(timeout=30)
        assert forward.returncode == 130
        assert f"local port {near} is taken; using {ports[0]}".encode() in told
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0]), timeout=5)
    finally:
        taken.close()
        for process in (server, forward):
            if process is not None:
                end(process)
                for stream in (process.stdout, process.stderr):
                    if stream is not None:
                        stream.close()


@pytest.mark.parametrize(("words", "number"), [
    (["forward", "work-first", "9"], signal.SIGTERM),
    (["forward", "work-first", "9"], signal.SIGHUP),
    (["exec", "--all", "work-first", "--", "echo it runs; exec sleep 60"], signal.SIGTERM),
    (["exec", "--all", "work-first", "--", "echo it runs; exec sleep 60"], signal.SIGINT),
])  # fmt: skip
def test_a_signal_ends_what_was_started_and_is_the_status(
    alice: Laptop, job: Job, words: "list[str]", number: int
) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = alice.popen(*SM_SSH, *words, **pipes)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        children += [
            child
            for task in Path(f"/proc/{process.pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        assert children
        process.send_signal(number)
        process.communicate(timeout=30)
    finally:
        end(process)
    assert process.returncode == 128 + number
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def test_a_port_of_this_machine_is_reached_from_the_container(alice: Laptop, job: Job) -> None:
    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from the laptop")

        def log_message(self, *args: object) -> None:
            """Keep quiet."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Hello)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        there = probe.getsockname()[1]
    forward = alice.popen(
        *SM_SSH,
        "forward",
        job.host,
        "--reverse",
        f"{there}:{server.server_address[1]}",
        stdout=subprocess.PIPE,
    )
    try:
        assert forward.stdout is not None
        assert f"algo-1:{there} -> ".encode() in forward.stdout.readline()
        read = "import urllib.request as u,sys; print(u.urlopen(sys.argv[1], timeout=20).read().decode())"
        done = alice.sm_ssh("exec", job.host, "--", "python3", "-c", read, f"http://127.0.0.1:{there}")
        assert done.stdout == b"from the laptop\n", done.stderr.decode()
    finally:
        end(forward)
        forward.stdout.close()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "ports", [[], ["0"], ["65536"], ["9-8"], ["a"], ["1:2:3:4"], ["70000:1"], ["5:h:1-2"]]
)
def test_ports_that_are_none_are_refused_before_anything_is_asked(alice: Laptop, ports: "list[str]") -> None:
    done = alice.sm_ssh("forward", "x.training.sagemaker", *ports)
    assert done.returncode == 2
    assert done.stderr.startswith(b"sm-ssh: error[usage]: ")


def test_an_address_that_is_not_of_this_machine_is_refused(alice: Laptop, job: Job) -> None:
    done = alice.sm_ssh("forward", "--bind", "192.0.2.1", job.host, "8080")
    assert done.returncode == 2
    assert b"192.0.2.1" in done.stderr


def test_last_is_where_we_were(alice: Laptop, job: Job) -> None:
    assert alice.sm_ssh("exec", f"algo-1.{job.host}", "--", "true").returncode == 0
    done = alice.sm_ssh("exec", "@last", "--", "echo", "again")
    assert done.stdout == b"again\n"
    assert f"@last: algo-1.{job.host}".encode() in done.stderr
