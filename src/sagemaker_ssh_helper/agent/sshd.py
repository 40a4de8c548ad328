"""
The node's ssh server: the image's OpenSSH with a configuration, host key and authorized keys of our own.

Nothing below /etc/ssh is read or changed, and an sshd that the image runs is left alone. It runs as the
job's user, admits that user only, by public key only, and listens on 127.0.0.1 only: the agent in the same
container is its one way in.

Standard library only; Python 3.8.
"""

import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional

from sagemaker_ssh_helper.agent import environment, terminals
from sagemaker_ssh_helper.agent.login import BARE_FOLDER, QUIET_SHELL
from sagemaker_ssh_helper.agent.state import StateDir
from sagemaker_ssh_helper.errors import LocalSetup, UsageError
from sagemaker_ssh_helper.names import Env
from sagemaker_ssh_helper.public_keys import HOST_KEY_TYPES, KEY_MAKING, PublicKey, parse_host_key

SSH_PORT = 22
ADDRESS = "127.0.0.1"

_PROGRAM_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/sbin", "/usr/bin", "/usr/local/bin", "/bin")
_SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",  # Debian, Ubuntu
    "/usr/libexec/openssh/sftp-server",  # Amazon Linux, RHEL, Fedora
    "/usr/lib/ssh/sftp-server",  # Alpine, Arch, SUSE
    "/usr/libexec/sftp-server",  # macOS, BSD
    "/usr/lib/sftp-server",
    "/usr/local/libexec/sftp-server",
)
_START_TIMEOUT = 10.0
_POLL_INTERVAL = 0.002
# A lost race for a port, an option or two that an old version does not know: more attempts mean a loop.
_MAX_ATTEMPTS = 12
_FIRST_RESTART_DELAY = 1.0
_MAX_RESTART_DELAY = 60.0

_REFUSED_LINE = re.compile(r"line (\d+): (.*)")
_MISSING_FOLDER = re.compile(r"Missing privilege separation directory: (\S+)")
_MISSING_USER = re.compile(r"Privilege separation user (\S+) does not exist")
_PORT_TAKEN = re.compile(r"Cannot bind any address|Bind to port \d+ .*failed", re.IGNORECASE)

_INSTALL = "Install it in the image: RUN sm-setup-ssh configure, or install the package openssh-server"


@dataclass(frozen=True)
class Account:
    """Whom sshd admits: the user it runs as."""

    uid: int
    name: str
    shell: str

    @classmethod
    def own(cls) -> "Account":
        """Raises LocalSetup when sshd could not log that user in."""
        uid = os.geteuid()
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            raise LocalSetup(
                f"uid {uid} has no entry in /etc/passwd, so sshd can admit nobody",
                fix="Add one in the image: "
                f"RUN echo 'sagemaker:x:{uid}:{os.getegid()}::/tmp:/bin/sh' >> /etc/passwd",
            ) from None
        shell = entry.pw_shell or "/bin/sh"
        if not _is_login_shell(shell):
            raise LocalSetup(
                f"the user {entry.pw_name} has no shell to log in with ({shell})",
                fix=f"Give it one in the image: RUN usermod -s /bin/sh {entry.pw_name}",
            )
        return cls(uid, entry.pw_name, shell)

    @classmethod
    def unchecked(cls) -> "Account":
        """The same for a server that needs no account: `uidNUMBER` for a name, and a shell that there is."""
        uid = os.geteuid()
        try:
            entry = pwd.getpwuid(uid)
            name, shell = entry.pw_name, entry.pw_shell or "/bin/sh"
        except KeyError:
            name, shell = f"uid{uid}", ""
        if not _is_login_shell(shell):
            shell = "/bin/bash" if os.access("/bin/bash", os.X_OK) else "/bin/sh"
        return cls(uid, name, shell)


def _is_login_shell(path: str) -> bool:
    return os.path.basename(path) not in ("nologin", "false", "sync") and os.access(path, os.X_OK)


def find_program(name: str) -> Optional[str]:
    """A program of OpenSSH: the system's before one that a job's PATH names (conda has its own)."""
    return shutil.which(name, path=os.pathsep.join(_PROGRAM_FOLDERS)) or shutil.which(name)


def find_sftp_server() -> str:
    """The program that serves sftp, or an empty text."""
    return next((path for path in _SFTP_SERVERS if os.access(path, os.X_OK)), "")


def clean_environment() -> Dict[str, str]:
    """For the system's programs: without the job's libraries, which may hold an OpenSSL that breaks them."""
    kept = {name: os.environ[name] for name in ("LANG", "TZ", "TMPDIR") if name in os.environ}
    return {"PATH": os.pathsep.join(_PROGRAM_FOLDERS), **kept}


def make_folder() -> None:
    """
    Make the folder that sshd separates its privileges in, where the image has none; as root, else nothing.

    A package's service would make it at its start, which never comes in a container. When a node starts, the
    root file system may be read-only.
    """
    program, key_maker = find_program("sshd"), find_program("ssh-keygen")
    if not program or not key_maker or os.geteuid() != 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        key = os.path.join(folder, "key")
        for words in (
            [key_maker, "-q", *KEY_MAKING["ecdsa-sha2-nistp256"], "-N", "", "-f", key],
            [program, "-t", "-f", os.devnull, "-h", key],
        ):
            said = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_START_TIMEOUT
            ).stderr
    missing = _MISSING_FOLDER.search(said.decode("utf-8", "replace"))
    if missing:
        os.makedirs(missing.group(1), mode=0o755, exist_ok=True)


def read_authorized(state: StateDir) -> List[PublicKey]:
    """The keys that may log in. Lines that are none of ours are passed over."""
    found = []
    for line in (state.read(state.authorized_keys) or b"").decode("utf-8", "replace").splitlines():
        try:
            found.append(PublicKey.parse(line))
        except UsageError:
            continue
    return found


def authorize(state: StateDir, key: PublicKey) -> bool:
    """Let a key log in from now on; False when it may already. Raises OSError."""
    with state.lock("authorized_keys", wait=True):
        if key in read_authorized(state):
            return False
        held = state.read(state.authorized_keys) or b""
        if held and not held.endswith(b"\n"):
            held += b"\n"
        state.write(state.authorized_keys, held + key.line.encode("ascii") + b"\n")
    return True


def refuse_odd_path(state: StateDir) -> None:
    """Raise LocalSetup when the configuration could not name files in this folder."""
    if any(character in state.path for character in '"\\') or not state.path.isprintable():
        raise LocalSetup(
            f"sshd cannot name files in {state.path!r}", fix=f"Set {Env.STATE_DIR} to a plain path"
        )


def choose_port(*, leaves_ssh_port: bool = False) -> int:
    """22 when we may listen there and nobody does, else a free port; that, too, when 22 is to be left."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        # Some systems let a second listener bind beside one on all addresses: ask before taking its place.
        taken = probe.connect_ex((ADDRESS, SSH_PORT)) == 0
    for port in (0,) if taken or leaves_ssh_port else (SSH_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise LocalSetup("no free port for sshd", fix=f"Free one on {ADDRESS}")


class SshServer:
    """
    One sshd, found again by its files: the process that started it and the agent after it drive the same one.

    Get one from :meth:`prepare`, then :meth:`start` it; the agent gets the running one from :meth:`attach`.
    :mod:`~sagemaker_ssh_helper.agent.ssh_servers` chooses between this and another program.
    """

    KIND = "openssh"
    """As ``SSH_SSHD`` names it."""

    def __init__(self, state: StateDir, program: str, account: Account, port: int) -> None:
        self._state = state
        self._program = program
        self._account = account
        self._refused: List[str] = []
        self._restart_at = 0.0
        self._restart_delay = _FIRST_RESTART_DELAY
        self.port = port
        """The port; known once it was started."""
        self.address = ADDRESS
        """Where it listens."""
        self.leaves_ssh_port = False
        """Whether port 22 is the job's: programs of MPI start their sshd there later, on all addresses."""

    @classmethod
    def prepare(cls, state: StateDir) -> "SshServer":
        """
        Everything but the running server: programs found, user checked, host key made.

        Raises LocalSetup, with the change to make in the image.
        """
        program = find_program("sshd")
        if not program:
            raise LocalSetup("there is no OpenSSH server in this image", fix=_INSTALL)
        account = Account.own()
        refuse_odd_path(state)
        if not os.path.exists(state.host_key):
            _make_host_key(state)
        if not os.path.exists(state.authorized_keys):
            state.write(state.authorized_keys, b"")
        return cls(state, program, account, 0)

    @classmethod
    def attach(cls, state: StateDir) -> "SshServer":
        """The server that was started with these files. Raises LocalSetup when none was."""
        found = re.search(rb"^Port (\d+)$", state.read(state.sshd_config) or b"", re.MULTILINE)
        if not found:
            raise LocalSetup("no ssh server was set up here", evidence=state.path, fix=_INSTALL)
        server = cls.prepare(state)
        server.port = int(found.group(1))
        return server

    @property
    def user(self) -> str:
        """The only login name it admits."""
        return self._account.name

    @property
    def host_public_key(self) -> PublicKey:
        line = (self._state.read(f"{self._state.host_key}.pub") or b"").decode("ascii", "replace")
        return parse_host_key(line)

    @property
    def pid(self) -> Optional[int]:
        """The listening process, whether or not it still runs."""
        text = self._state.read(self._state.sshd_pid) or b""
        return int(text) if text.strip().isdigit() else None

    def alive(self) -> bool:
        """Whether the listening process runs. Connections it accepted earlier do not count."""
        pid = self.pid
        return pid is not None and self._runs(pid)

    def _runs(self, pid: int) -> bool:
        if _has_ended(pid):
            return False
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read()
            with open(f"/proc/{pid}/stat", "rb") as file:
                is_waited_for = file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
        except OSError:
            return not os.path.isdir("/proc/self")
        if is_waited_for:
            _has_ended(pid)
            return False
        # The number may be another process's by now. One about to end has no words, but its port still.
        return not words or os.fsencode(self._state.sshd_config) in words

    def start(self) -> None:
        """
        Start it and wait until it listens, some 20 ms. One that runs is ended first; its connections stay.

        Takes port 22 or a free one the first time, the same port later. Raises LocalSetup.
        """
        self.stop()
        fixed_port = self.port
        complaint = ""
        for _ in range(_MAX_ATTEMPTS):
            self.port = fixed_port or choose_port(leaves_ssh_port=self.leaves_ssh_port)
            complaint = self._try_start()
            if not complaint:
                return
            if not self._amend(complaint, port_is_fixed=bool(fixed_port)):
                break
        raise LocalSetup(
            "sshd does not start", evidence=complaint.splitlines()[-1], fix=f"See {self._state.sshd_log}"
        )

    def stop(self) -> None:
        """End the listening process; connections stay."""
        pid = self.pid
        if pid is not None and self._runs(pid):
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + _START_TIMEOUT
            # It removes the file with its number before it closes its port.
            while self._runs(pid) and time.monotonic() < deadline:
                time.sleep(_POLL_INTERVAL)

    def keep_alive(self, now: float) -> Optional[str]:
        """
        Start it again when it died. Call every few seconds; may block as long as :meth:`start`.

        Args:
            now: monotonic seconds.

        Returns a line for the log when something happened. Attempts that fail, or help for less than a
        minute, are made ever less often.
        """
        if self.alive():
            return None
        if now < self._restart_at:
            return None
        if now - self._restart_at > _MAX_RESTART_DELAY:
            self._restart_delay = _FIRST_RESTART_DELAY
        self._restart_at = now + self._restart_delay
        self._restart_delay = min(self._restart_delay * 2, _MAX_RESTART_DELAY)
        try:
            self.start()
        except (LocalSetup, OSError) as error:
            return f"sshd died, and did not start again: {error}"
        return f"sshd died, and was started again on port {self.port}"

    def _try_start(self) -> str:
        """Empty when it listens, else what it said."""
        state = self._state
        state.write(state.sshd_config, self._configuration().encode("utf-8", "surrogateescape"))
        try:
            os.unlink(state.sshd_pid)
        except FileNotFoundError:
            pass
        with open(state.sshd_log, "ab") as log:
            os.fchmod(log.fileno(), 0o600)
            said_before_bytes = log.tell()
            process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environment(),
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while process.poll() is None:
            # Written when it listens.
            if self.pid == process.pid:
                # It outlives this object, and is waited for by its number: see `alive`.
                process.returncode = 0
                return ""
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                return f"sshd was not ready after {_START_TIMEOUT:.0f} s"
            time.sleep(_POLL_INTERVAL)
        with open(state.sshd_log, "rb") as said:
            said.seek(said_before_bytes)
            text = said.read(1 << 16).decode("utf-8", "replace").strip()
        return text or f"it ended with status {process.returncode} and said nothing"

    def _environment(self) -> Dict[str, str]:
        """For the process that is started, which may be a Python program with libraries in an odd place."""
        found = clean_environment()
        if terminals.are_denied() and "LD_LIBRARY_PATH" in os.environ:
            found["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        return found

    def _command(self) -> List[str]:
        state = self._state
        words = [self._program, "-D", "-f", state.sshd_config, "-E", state.sshd_log]
        if terminals.are_denied():
            state.write(state.groups, terminals.groups_without_tty())
            words = [environment.interpreter(), "-IS", terminals.__file__, state.groups, *words]
        return words

    def _amend(self, complaint: str, *, port_is_fixed: bool) -> bool:
        """Change what sshd complained about; whether that may help."""
        missing = _MISSING_FOLDER.search(complaint)
        if missing:
            try:
                os.makedirs(missing.group(1), mode=0o755, exist_ok=True)
            except OSError as error:
                raise LocalSetup(
                    f"sshd needs the folder {missing.group(1)}, which cannot be made here",
                    evidence=error.strerror,
                    fix=f"Make it in the image: RUN mkdir -p {missing.group(1)}",
                ) from error
            return True
        user = _MISSING_USER.search(complaint)
        if user:
            raise LocalSetup(
                f"sshd needs a user {user.group(1)!r} that this image does not have",
                fix=f"Add it in the image: RUN useradd -r -d /run/sshd -s /usr/sbin/nologin {user.group(1)}",
            )
        if _PORT_TAKEN.search(complaint):
            return not port_is_fixed
        optional = self._optional_lines()
        written = self._configuration().splitlines()
        refused = [
            written[int(number) - 1]
            for number, _ in _REFUSED_LINE.findall(complaint)
            if 0 < int(number) <= len(written)
        ]
        new = [line for line in refused if line in optional and line not in self._refused]
        self._refused.extend(new)
        return bool(new)

    def _configuration(self) -> str:
        state, name = self._state, self._account.name
        keys = state.authorized_keys.replace("%", "%%")
        required = [
            f"# {self.KIND}",
            f"Port {self.port}",
            f"ListenAddress {self.address}",
            f'HostKey "{state.host_key}"',
            f'PidFile "{state.sshd_pid}"',
            f'AuthorizedKeysFile "{keys}"',
            # The state folder was checked by us; sshd would also refuse it for /tmp above it.
            "StrictModes no",
            f"AllowUsers {name}",
            "AuthenticationMethods publickey",
            "PubkeyAuthentication yes",
            "PasswordAuthentication no",
            "PermitRootLogin prohibit-password",
            f"ForceCommand exec /bin/sh {shlex.quote(state.login)}",
            # With ForceCommand this is only a word, which `login` knows.
            "Subsystem sftp internal-sftp",
        ]
        optional = [line for line in self._optional_lines() if line not in self._refused]
        return "\n".join([*required, *optional, ""])

    def _optional_lines(self) -> List[str]:
        """Lines that a version of sshd may refuse, and that it runs well enough without."""
        return [
            f"UsePAM {'yes' if _is_locked(self._account) else 'no'}",
            # The name of 7.x, and the one since 8.7.
            "ChallengeResponseAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitEmptyPasswords no",
            "PermitUserEnvironment no",
            "PermitUserRC no",
            "AllowTcpForwarding yes",
            "AllowStreamLocalForwarding yes",
            "AllowAgentForwarding yes",
            "StreamLocalBindUnlink yes",
            "GatewayPorts no",
            "PermitTunnel no",
            "X11Forwarding no",
            "PrintMotd no",
            "PrintLastLog no",
            "Banner none",
            "UseDNS no",
            "TCPKeepAlive yes",
            self._quiet_shell(),
            "AcceptEnv COLORTERM",
            "LoginGraceTime 60",
            # A ControlMaster of an IDE opens many sessions; agents with many keys try them all.
            "MaxSessions 200",
            "MaxStartups 100:30:300",
            "MaxAuthTries 30",
            "LogLevel INFO",
        ]

    def _quiet_shell(self) -> str:
        """
        sshd runs everything, ours too, in the account's shell: what keeps that from reading start-up files.

        OpenSSH knows it since 7.8.
        """
        folder = os.path.join(os.path.dirname(self._state.login), BARE_FOLDER)
        values = {name: folder if value == BARE_FOLDER else value for name, value in QUIET_SHELL.items()}
        return "SetEnv " + " ".join(f'"{name}={value}"' for name, value in values.items())


def _has_ended(pid: int) -> bool:
    """Whether there is no such process of ours; one that ended and is our child goes for good."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
    except ChildProcessError:
        # Started by another process of ours.
        pass
    try:
        os.kill(pid, 0)
    except OSError:
        return True
    return False


def host_key_types(environ: Mapping[str, str]) -> List[str]:
    """
    The types of host key to try, best first.

    Who launched the job with a key of another type may not be able to check the first.
    """
    types = list(HOST_KEY_TYPES)
    given = environ.get(Env.PUBLIC_KEY, "").split()
    return types if given[:1] in ([], types[:1]) else types[::-1]


def _make_host_key(state: StateDir) -> None:
    program = find_program("ssh-keygen")
    if not program:
        raise LocalSetup("there is no ssh-keygen in this image", fix=_INSTALL)
    temporary = f"{state.host_key}.{os.getpid()}.tmp"
    try:
        for key_type in host_key_types(os.environ):
            made = subprocess.run(
                [program, "-q", *KEY_MAKING[key_type], "-N", "", "-C", "", "-f", temporary],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=clean_environment(),
                timeout=_START_TIMEOUT,
            )
            if made.returncode == 0:
                break
        else:
            said = made.stdout.decode("utf-8", "replace")
            raise LocalSetup("no host key could be made", evidence=said[-200:])
        # The private part last: it says that both are there.
        os.replace(f"{temporary}.pub", f"{state.host_key}.pub")
        os.replace(temporary, state.host_key)
    except subprocess.TimeoutExpired as error:
        raise LocalSetup("no host key could be made", evidence="ssh-keygen did not end") from error
    except OSError as error:
        raise LocalSetup("no host key could be made", evidence=error.strerror) from error


def _is_locked(account: Account) -> bool:
    """
    Whether sshd takes the account for a locked one, by the mark in /etc/shadow that `passwd -l` makes.

    Some images ship root so. Without PAM sshd then refuses even a good key; PAM's account check does not.
    """
    if os.geteuid() != 0:
        # It cannot see the mark either.
        return False
    try:
        with open("/etc/shadow", encoding="utf-8", errors="replace") as file:
            return any(line.startswith(f"{account.name}:!") for line in file)
    except OSError:
        return False
