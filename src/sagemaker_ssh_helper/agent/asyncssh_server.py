"""
The ssh server of a container that cannot use OpenSSH's: asyncssh, run in sshd's place.

Run as a program, as sshd would be::

    main([STATE_FOLDER, SSHD_CONFIG])

It takes the port, the user and the files from that configuration, writes its number when it listens, and logs
in as :mod:`~sagemaker_ssh_helper.agent.login` says: the job's environment and folder. It needs no account and
no root. asyncssh is an optional package; :func:`find` tells whether it is here.

Python 3.8.
"""

import asyncio
import importlib.util
import os
import re
import signal
import site
import sys
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from sagemaker_ssh_helper import plain_logs
from sagemaker_ssh_helper.agent import environment, launcher, login, sshd
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.agent.terminal import Terminal
from sagemaker_ssh_helper.errors import LocalSetup, UsageError, reason_of
from sagemaker_ssh_helper.public_keys import PublicKey

_PACKAGE = "asyncssh"
_READ_BYTES = 65536
# After the program ended on a terminal, for what it printed last. A process left behind may keep it open.
_LAST_WORDS_TIMEOUT = 1.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "")


def find(state: StateDir) -> Optional[str]:
    """
    Where asyncssh is: a folder to add to ``sys.path``, empty when none need be; None when it is not here.

    The job's own way of finding packages counts: its PYTHONPATH, and packages installed by a user.
    """
    found = importlib.util.find_spec(_PACKAGE)
    # A folder of that name that holds no package has no origin.
    if found is not None and found.origin is not None:
        return ""
    folders = [site.getusersitepackages()]
    try:
        paths = environment.load(state.environment).get(b"PYTHONPATH", b"")
        folders.extend(os.fsdecode(path) for path in paths.split(b":") if path)
    except OSError:
        # There is no environment yet.
        pass
    return next(
        (path for path in folders if os.path.isfile(os.path.join(path, _PACKAGE, "__init__.py"))), None
    )


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Serve until SIGTERM; connections then go on in this process until they end. Returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 2:
        raise UsageError("the ssh server is started by setup_and_start_ssh() only")
    state = StateDir.open(words[0])
    folder = find(state)
    if folder is None:
        sys.stderr.write("asyncssh is not installed\n")
        return 1
    if folder:
        sys.path.append(folder)
    try:
        return plain_logs.run(_serve(state))
    except OSError as error:
        sys.stderr.write(f"Cannot bind any address: {error}\n")
        return 1


async def _serve(state: StateDir) -> int:
    import asyncssh

    # At the next level it tells the text of commands.
    asyncssh.set_log_level("WARNING")
    config = (state.read(state.sshd_config) or b"").decode("utf-8", "replace")
    port, user = (_setting(name, config) for name in ("Port", "AllowUsers"))
    _make_host_key(state, asyncssh)
    _go_to_job_folder(state)
    connections: Set[Any] = set()

    class Server(asyncssh.SSHServer):  # type: ignore[misc]  # an optional package, not looked into
        """Admits one user by the keys in the file, and forwards what is asked for on this machine."""

        def connection_made(self, conn: Any) -> None:
            self._connection = conn
            connections.add(conn)

        def connection_lost(self, exc: Optional[Exception]) -> None:
            connections.discard(self._connection)

        def begin_auth(self, username: str) -> bool:
            return True

        def public_key_auth_supported(self) -> bool:
            return True

        def validate_public_key(self, username: str, key: Any) -> bool:
            try:
                offered = PublicKey.parse(key.export_public_key("openssh").decode("ascii"))
            except (UsageError, ValueError):
                return False
            return username == user and offered in sshd.read_authorized(state)

        def connection_requested(self, *_: object) -> bool:
            return True

        def unix_connection_requested(self, *_: object) -> bool:
            return True

        def server_requested(self, listen_host: str, listen_port: int) -> bool:
            # As sshd without GatewayPorts: nothing of ours listens to the world.
            return listen_host in _LOOPBACK

        def unix_server_requested(self, *_: object) -> bool:
            return True

    class Files(asyncssh.SFTPServer):  # type: ignore[misc]  # as above
        """Ends with a status: without one, scp takes every copy for a failure."""

        def exit(self) -> None:
            self.channel.exit(0)

    shell = sshd.Account.unchecked().shell
    listener = await asyncssh.listen(
        sshd.ADDRESS,
        int(port),
        server_factory=Server,
        server_host_keys=[state.host_key],
        process_factory=lambda process: _Login(state, process, user, shell).run(),
        sftp_factory=Files,
        allow_scp=True,
        agent_forwarding=True,
        encoding=None,
        line_editor=False,
        login_timeout=60,
        keepalive_interval=0,
        reuse_address=True,
    )
    sys.stderr.write(f"Server listening on {sshd.ADDRESS} port {port}.\n")
    sys.stderr.flush()
    state.write(state.sshd_pid, f"{os.getpid()}\n".encode("ascii"))
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    listener.close()
    _unlink(state.sshd_pid)
    for connection in list(connections):
        await connection.wait_closed()
    return 0


def _setting(name: str, config: str) -> str:
    found = re.search(rf"^{name} (\S+)$", config, re.MULTILINE)
    if found is None:
        raise UsageError(f"the configuration of the ssh server has no {name}")
    return found.group(1)


def _make_host_key(state: StateDir, asyncssh: Any) -> None:
    if os.path.exists(state.host_key):
        return
    for key_type in sshd.host_key_types(os.environ):
        try:
            key = asyncssh.generate_private_key(key_type)
            break
        except Exception as error:  # of its own, or of the library below
            why = reason_of(error)
    else:
        raise LocalSetup("no host key could be made", evidence=why)
    state.write(f"{state.host_key}.pub", key.export_public_key("openssh"))
    # The private part last: it says that both are there.
    state.write(state.host_key, key.export_private_key("openssh"))


def _go_to_job_folder(state: StateDir) -> None:
    """Where files without a folder are copied to."""
    try:
        os.chdir(environment.load(state.environment).get(b"PWD", b"/"))
    except OSError:
        os.chdir("/")


class _Login:
    """One shell or command of a connection, from its start to its exit status."""

    def __init__(self, state: StateDir, process: Any, user: str, shell: str) -> None:
        self._state = state
        self._process = process
        self._session = self._environment(user, shell)

    def _environment(self, user: str, shell: str) -> Dict[bytes, bytes]:
        """What sshd would give to a login."""
        process = self._process
        peer: Tuple[str, int] = process.get_extra_info("peername")[:2]
        here: Tuple[str, int] = process.get_extra_info("sockname")[:2]
        session = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.environ.get("HOME", "/"),
            "USER": user,
            "LOGNAME": user,
            "SHELL": shell,
            "SSH_CLIENT": f"{peer[0]} {peer[1]} {here[1]}",
            "SSH_CONNECTION": f"{peer[0]} {peer[1]} {here[0]} {here[1]}",
        }
        if "LD_LIBRARY_PATH" in os.environ:
            # For the Python that begins the login; what follows has the job's own.
            session["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        agent = process.channel.get_agent_path()
        if agent:
            session["SSH_AUTH_SOCK"] = agent
        if process.command is not None:
            session["SSH_ORIGINAL_COMMAND"] = process.command
        if process.term_type is not None:
            session["TERM"] = process.term_type
        color = process.env.get("COLORTERM")
        if color:
            session["COLORTERM"] = color
        return {os.fsencode(name): os.fsencode(value) for name, value in session.items()}

    async def run(self) -> None:
        """Raises nothing: a client that went away has nobody to be told."""
        try:
            code = await (self._on_pipes() if self._process.term_type is None else self._on_terminal())
        except OSError as error:
            self._process.stderr.write(os.fsencode(f"the login cannot be started: {error.strerror}\n"))
            code = 126
        if code < 0:
            self._process.exit_with_signal(signal.Signals(-code).name[len("SIG") :])
        else:
            self._process.exit(code)

    async def _start(
        self, terminal: bool, stdin: int, stdout: int, stderr: int
    ) -> asyncio.subprocess.Process:
        words = [environment.interpreter(), "-I", "-S", launcher.__file__, "1" if terminal else "0", ""]
        return await asyncio.create_subprocess_exec(
            *words,
            "/bin/sh",
            self._state.login,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=self._session,
            start_new_session=True,
        )

    async def _on_pipes(self) -> int:
        pipe = asyncio.subprocess.PIPE
        child = await self._start(False, pipe, pipe, pipe)
        assert child.stdin is not None, "it was asked for"
        typing = asyncio.ensure_future(self._feed_pipe(child))
        copying = [
            asyncio.ensure_future(_copy(child.stdout, self._process.stdout)),
            asyncio.ensure_future(_copy(child.stderr, self._process.stderr)),
        ]
        try:
            await self._until_gone(asyncio.gather(*copying))
            if self._process.is_closing():
                # The client has gone. The login itself sees only that OpenSSH's process goes with it.
                login.hang_up(child.pid)
                return 0
            return await child.wait()
        finally:
            await _end([typing, *copying])
            child.stdin.close()

    async def _feed_pipe(self, child: asyncio.subprocess.Process) -> None:
        assert child.stdin is not None, "it was asked for"
        async for data in self._typed(child, None):
            child.stdin.write(data)
            try:
                await child.stdin.drain()
            except ConnectionError:
                # The program reads no more.
                return
        child.stdin.close()

    async def _on_terminal(self) -> int:
        room = asyncio.Event()
        room.set()
        output: List[asyncio.Future[None]] = []

        async def flushed() -> None:
            await self._process.stdout.drain()
            terminal.reader.resume()

        def printed(data: bytes) -> None:
            self._process.stdout.write(data)
            terminal.reader.pause()
            output[:] = [asyncio.ensure_future(_quietly(flushed()))]

        terminal = Terminal(printed, on_full=room.clear, on_room=room.set)
        tasks: List[asyncio.Future[Any]] = []
        try:
            terminal.resize(*self._process.term_size[:2])
            self._session[b"SSH_TTY"] = os.fsencode(os.ttyname(terminal.replica))
            end = terminal.replica
            child = await self._start(True, end, end, end)
            terminal.close_replica()
            terminal.reader.resume()
            tasks = [asyncio.ensure_future(self._feed_terminal(child, terminal, room))]
            ended = asyncio.ensure_future(child.wait())
            await self._until_gone(ended)
            if not ended.done():
                # Closing the terminal hangs the program up.
                ended.cancel()
                return 0
            await asyncio.wait([terminal.reader.ended], timeout=_LAST_WORDS_TIMEOUT)
            return ended.result()
        finally:
            terminal.close()
            await _end([*tasks, *output])

    async def _feed_terminal(
        self, child: asyncio.subprocess.Process, terminal: Terminal, room: asyncio.Event
    ) -> None:
        async for data in self._typed(child, terminal):
            terminal.write(data)
            await room.wait()

    async def _typed(self, child: asyncio.subprocess.Process, terminal: Optional[Terminal]) -> Any:
        """What the user sends, until it ends; sizes and signals are carried out on the way."""
        import asyncssh

        while True:
            try:
                data = await self._process.stdin.read(_READ_BYTES)
            except asyncssh.TerminalSizeChanged as change:
                if terminal is not None:
                    terminal.resize(change.width, change.height)
                continue
            except asyncssh.SignalReceived as received:
                number = getattr(signal, f"SIG{received.signal}", None)
                if number is not None and child.returncode is None:
                    os.killpg(child.pid, number)
                continue
            except asyncssh.BreakReceived:
                continue
            except (asyncssh.Error, OSError):
                return
            if not data:
                return
            yield data

    async def _until_gone(self, done: "asyncio.Future[Any]") -> None:
        """Until this is done, or the client has closed the channel."""
        closed = asyncio.ensure_future(self._process.wait_closed())
        try:
            await asyncio.wait([done, closed], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _end([closed])


async def _copy(source: Optional[asyncio.StreamReader], target: Any) -> None:
    # Not asyncssh's redirect: it loses data when the reader is slow.
    assert source is not None, "it was asked for"
    try:
        while True:
            data = await source.read(_READ_BYTES)
            if not data:
                return
            target.write(data)
            await target.drain()
    except OSError:
        # The client has gone.
        return


async def _quietly(work: Any) -> None:
    try:
        await work
    except OSError:
        pass


async def _end(tasks: "Sequence[asyncio.Future[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())
