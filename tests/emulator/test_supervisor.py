"""
Nothing that a supervised command starts survives it, its stopping, or the death of whoever started it.

That a process has gone is seen at a pipe: its read end reports the end of file when the last holder of the
write end has ended, whoever that was.
"""

import asyncio
import os
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.supervised import SUPERVISOR, Supervised

ENV = {"PATH": os.environ["PATH"]}

# Two generations away, in its own session, deaf to every signal it can ignore.
ESCAPING = """
    import os, signal, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.write(1, b"escaped\\n")
            time.sleep(600)
        os._exit(0)
    os.wait()
"""


def python(source: str, *arguments: str) -> list[str]:
    """The command that runs this source, quickly."""
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(source), *arguments]


class Output:
    """A pipe that a command and all its descendants write to."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.read_fd)
        self.close_write()

    def close_write(self) -> None:
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def read_until(self, found: Callable[[bytes], bool], timeout: float = 20.0) -> bytes:
        """What was written, once ``found`` says it is enough or the last writer has gone."""
        self.close_write()
        data = b""
        end_at = time.monotonic() + timeout
        while not found(data):
            readable, _, _ = select.select([self.read_fd], [], [], max(0.0, end_at - time.monotonic()))
            assert readable, f"somebody still holds the pipe after {timeout} s; written: {data!r}"
            chunk = os.read(self.read_fd, 65536)
            if not chunk:
                break
            data += chunk
        return data

    def read_all(self, timeout: float = 20.0) -> bytes:
        """All of it, once the last writer has gone."""
        return self.read_until(lambda _: False, timeout)


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(work(), 60))


def status_of(command: list[str]) -> int:
    async def work() -> int:
        process = await Supervised.start(command, env=ENV)
        return await process.wait()

    result = run(work)
    assert isinstance(result, int)
    return result


def test_exit_status_is_told() -> None:
    assert status_of(["true"]) == 0
    assert status_of(python("raise SystemExit(3)")) == 3


def test_end_by_a_signal_is_told_as_its_negative_number() -> None:
    assert status_of(python("import os; os.kill(os.getpid(), 11)")) == -signal.SIGSEGV


@pytest.mark.parametrize(
    ("program", "error"), [("/does/not/exist", FileNotFoundError), (os.sep, PermissionError)]
)
def test_command_that_cannot_start_is_an_os_error(program: str, error: type[OSError]) -> None:
    with pytest.raises(error) as caught:
        status_of([program])

    assert caught.value.filename == program


def test_pid_is_that_of_the_command() -> None:
    with Output() as output:

        async def work() -> int:
            command = python("import os; print(os.getpid())")
            process = await Supervised.start(command, env=ENV, stdout=output.write_fd)
            await process.wait()
            return process.pid

        pid = run(work)
        assert output.read_all() == b"%d\n" % pid


def test_environment_is_the_given_one_alone() -> None:
    with Output() as output:

        async def work() -> int:
            process = await Supervised.start(
                python("import os; print(sorted(os.environ))"),
                env={"PATH": ENV["PATH"], "ONLY": "this"},
                stdout=output.write_fd,
            )
            return await process.wait()

        assert run(work) == 0
        names = output.read_all().decode()
    # LC_CTYPE is Python's own doing when no locale is set.
    assert names in ("['ONLY', 'PATH']\n", "['LC_CTYPE', 'ONLY', 'PATH']\n")


def test_command_gets_default_signal_handling_and_no_socket() -> None:
    with Output() as output:

        async def work() -> int:
            source = """
                import os, signal
                print([signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGHUP)])
                print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
                print([fd for fd in range(3, 256) if os.path.exists(f"/dev/fd/{fd}")])
            """
            return await (await Supervised.start(python(source), env=ENV, stdout=output.write_fd)).wait()

        assert run(work) == 0
        assert output.read_all().splitlines() == [b"[True, True]", b"set()", b"[]"]


def test_descendant_that_escaped_ends_with_the_main_process() -> None:
    with Output() as output:

        async def work() -> tuple[int, bool]:
            source = textwrap.dedent(ESCAPING) + "\nos.read(0, 1); raise SystemExit(4)\n"
            stdin_read, stdin_write = os.pipe()
            process = await Supervised.start(
                python(source), env=ENV, stdin=stdin_read, stdout=output.write_fd
            )
            os.close(stdin_read)
            await asyncio.to_thread(output.read_until, lambda data: b"escaped" in data)
            os.close(stdin_write)  # from now on the main process may end
            return await process.wait(), process.complete

        assert run(work) == (4, True)
        assert output.read_all() == b""


def test_descendants_that_keep_forking_and_dying_are_caught() -> None:
    source = """
        import os, time
        if os.fork() == 0:
            while os.fork() == 0:
                pass  # the child goes on as the next generation, the parent ends
            os._exit(0)
        time.sleep(0.05)
    """
    with Output() as output:

        async def work() -> int:
            process = await Supervised.start(python(source), env=ENV, stdout=output.write_fd)
            return await process.wait()

        assert run(work) == 0
        assert output.read_all() == b""


def test_stop_lets_the_command_say_goodbye() -> None:
    source = """
        import os, signal
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        os.write(1, b"ready\\n")
        while True: signal.pause()
    """
    with Output() as output:

        async def work() -> int:
            process = await Supervised.start(python(source), env=ENV, stdout=output.write_fd)
            await asyncio.to_thread(output.read_until, lambda data: b"ready" in data)
            process.stop(grace=30)
            return await process.wait()

        assert run(work) == 7
        assert output.read_all() == b""


def test_stop_ends_a_deaf_command_after_the_grace() -> None:
    with Output() as output:

        async def work() -> tuple[int, float]:
            source = textwrap.dedent(ESCAPING) + "\nsignal.signal(15, signal.SIG_IGN); os.write(1, b'deaf')"
            process = await Supervised.start(
                python(source + "\ntime.sleep(600)"), env=ENV, stdout=output.write_fd
            )
            await asyncio.to_thread(output.read_until, lambda data: b"escaped" in data and b"deaf" in data)
            started_at = time.monotonic()
            process.stop(grace=0.3)
            return await process.wait(), time.monotonic() - started_at

        status, seconds = run(work)
        assert status == -signal.SIGKILL
        assert 0.3 <= seconds < 10
        assert output.read_all() == b""


def test_kill_ends_everything_at_once() -> None:
    with Output() as output:

        async def work() -> int:
            source = textwrap.dedent(ESCAPING) + "\ntime.sleep(600)"
            process = await Supervised.start(python(source), env=ENV, stdout=output.write_fd)
            await asyncio.to_thread(output.read_until, lambda data: b"escaped" in data)
            process.kill()
            return await process.wait()

        assert run(work) == -signal.SIGKILL
        assert output.read_all() == b""


HOLDER = """
    import asyncio, subprocess, sys
    from sagemaker_ssh_helper.emulator.supervised import Supervised

    async def main():
        process = await Supervised.start(
            sys.argv[2:], env={"PATH": "/usr/bin:/bin"}, remove=sys.argv[1]
        )
        await process.wait()

    asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_everything_ends_when_its_holder_is_killed(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "of the holder"
    (folder / "deep").mkdir(parents=True)
    with Output() as output:
        command = python(textwrap.dedent(ESCAPING) + "\ntime.sleep(600)")
        holder = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(HOLDER), str(folder), *command],
            stdout=output.write_fd,
            stderr=subprocess.DEVNULL,
        )
        output.read_until(lambda data: b"escaped" in data)

        holder.send_signal(number)
        holder.wait(20)

        assert output.read_all() == b""
    assert not folder.exists()


def test_folder_stays_when_the_holder_lives(tmp_path: Path) -> None:
    async def work() -> int:
        process = await Supervised.start(["true"], env=ENV, remove=tmp_path)
        return await process.wait()

    assert run(work) == 0
    assert tmp_path.is_dir()


def test_main_process_ends_when_its_supervisor_is_killed() -> None:
    with Output() as output:

        async def work() -> int:
            source = "import os, time; os.write(1, b'%d\\n' % os.getppid()); time.sleep(600)"
            process = await Supervised.start(python(source), env=ENV, stdout=output.write_fd)
            line = await asyncio.to_thread(output.read_until, lambda data: data.endswith(b"\n"))
            os.kill(int(line), signal.SIGKILL)
            return await process.wait()

        assert run(work) == -signal.SIGKILL
        assert output.read_all() == b""


def program(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-I", "-S", str(SUPERVISOR), *arguments], **options)


def test_program_without_a_socket_gives_its_commands_status() -> None:
    for source, status in (("raise SystemExit(5)", 5), ("import os; os.kill(os.getpid(), 9)", 128 + 9)):
        assert program("--", *python(source)).wait(20) == status


def test_program_passes_sigterm_on_and_ends_all_after_its_grace() -> None:
    with Output() as output:
        source = textwrap.dedent(ESCAPING) + "\nsignal.signal(15, signal.SIG_IGN); os.write(1, b'deaf')"
        command = python(source + "\ntime.sleep(600)")
        process = program("--grace", "0.2", "--", *command, stdout=output.write_fd)
        output.read_until(lambda data: b"escaped" in data and b"deaf" in data)

        process.terminate()

        assert process.wait(20) == 128 + signal.SIGKILL
        assert output.read_all() == b""


def test_program_in_the_foreground_keeps_the_session() -> None:
    source = "import os; print(os.getsid(0) == os.getsid(os.getppid()))"
    answers = [
        subprocess.run(
            [sys.executable, "-I", "-S", str(SUPERVISOR), *options, "--", *python(source)],
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        for options in (["--foreground"], [])
    ]

    assert answers == [b"True\n", b"False\n"]


@pytest.mark.parametrize("arguments", [[], ["--"], ["--grace"], ["--unknown", "--", "true"]])
def test_program_explains_its_arguments(arguments: list[str]) -> None:
    process = program(*arguments, stderr=subprocess.PIPE)
    _, stderr = process.communicate(timeout=20)

    assert process.returncode == 2
    assert stderr.startswith(b"usage: supervisor ")
