"""
The node's folder: where the container side keeps what it knows, and how its processes tell each other.

One folder per node, mode 0700, holding the files that ``docs/reference/container.md`` lists. Three kinds of
process meet here: the one that sets up (``bootstrap``), the agent (``daemon``), and commands such as
``sm-wait``. Files are replaced whole, so a reader sees the old content or the new one, never half of it.

Standard library only; Python 3.8.
"""

import dataclasses
import enum
import errno
import fcntl
import hashlib
import json
import os
import signal
import stat
import time
from dataclasses import dataclass, field
from typing import IO, Any, Callable, Dict, List, Mapping, Optional, Sequence, Type, TypeVar

from sagemaker_ssh_helper.errors import LocalSetup, reason_of
from sagemaker_ssh_helper.names import AGENT_LOG_PATH, Env

_T = TypeVar("_T")

SYSTEM_PATH = "/var/lib/sagemaker-ssh-helper"
"""The folder when we may write there, which is as root."""


# Whoever asks whether there is an agent holds its lock for an instant.
_LOCK_ATTEMPTS = 5
_LOCK_RETRY_DELAY = 0.02


_END_LOOK_INTERVAL = 0.02

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_STATUS_BYTES = 2048


class State(str, enum.Enum):
    """What the node is up to, as ``sm-wait status`` prints it."""

    STARTING = "starting"
    REGISTERED = "registered"
    ONLINE = "online"
    FAILED = "failed"


class AgentKind(str, enum.Enum):
    """Which program is the node's agent: the values of ``SSH_AGENT``."""

    AUTO = "auto"
    """An installed official one, else ours until it turns out that ours does not come online."""
    EMBEDDED = "embedded"
    OFFICIAL = "official"


@dataclass(frozen=True)
class Status:
    """The content of ``status.json``. Fields that are not known yet are empty, or 0."""

    state: State
    why: str = ""
    """For ``failed`` the cause and the fix in one line; else a word on what is awaited."""
    instance_id: str = ""
    sshd_port: int = 0
    log: str = ""
    """The agent's log file."""
    user: str = ""
    """The only login name sshd admits."""
    host: str = ""
    """The name of the container that this is about; others may see the folder, too."""
    updated_at: float = 0.0
    """Seconds since the epoch."""


@dataclass(frozen=True)
class AgentConfig:
    """
    The content of ``agent.json``: what the set-up hands to the agent process.

    Endpoints, proxies and credentials are not in it: the agent runs in the job's environment and reads them
    there.
    """

    region: str
    activation_id: str
    activation_code: str = field(repr=False)
    instance_name: str
    """``algo-N.NAME.TYPE.sagemaker``, for logs."""
    sshd_port: int
    """Where our sshd listens on 127.0.0.1. Sessions for port 22 go there when nothing listens on 22."""
    log_path: str
    log_to_stdout: bool = False
    """Also write the log to the job's standard output (``SSH_LOG_TO_STDOUT``)."""
    environ_path: str = ""
    """The job's environment, NUL separated, for Run Command; empty when there is none."""
    bin_path: str = ""
    """The folder with sm-wait and sm-setup-ssh, to be first on the PATH of Run Command."""
    agent: str = AgentKind.EMBEDDED.value
    """One of AgentKind."""


@dataclass(frozen=True)
class OpenSessions:
    """The content of ``sessions.json``: what the agent says of its sessions."""

    open: int
    changed_at: float
    """When one began or ended last, or the agent started; seconds since the epoch."""
    ids: List[str] = field(default_factory=list)
    """Which: an agent that is started again tells the service that they are gone."""


class StateDir:
    """
    The folder, checked: ours, closed to others.

    Get one from :meth:`choose` (set-up and commands) or :meth:`open` (a path handed down by the set-up).
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.agent_json = os.path.join(path, "agent.json")
        self.registration_json = os.path.join(path, "registration.json")
        self.status_json = os.path.join(path, "status.json")
        self.sessions_json = os.path.join(path, "sessions.json")
        self.environment = os.path.join(path, "environment")
        self.authorized_keys = os.path.join(path, "authorized_keys")
        self.host_key = os.path.join(path, "ssh_host_ed25519_key")
        self.sshd_config = os.path.join(path, "sshd_config")
        self.sshd_pid = os.path.join(path, "sshd.pid")
        self.groups = os.path.join(path, "group")
        self.sshd_log = os.path.join(path, "sshd.log")
        self.agent_pid = os.path.join(path, "agent.pid")
        self.agent_key = os.path.join(path, "agent_key.pem")
        self.waiting = os.path.join(path, "waiting")
        self.bin = programs_folder(path)
        self.lib = os.path.join(path, "lib")
        self.login = os.path.join(path, "login")
        self.start_up = os.path.join(path, "start-up")
        self.login_module = os.path.join(path, "login.py")

    def __repr__(self) -> str:
        return f"StateDir({self.path!r})"

    @classmethod
    def choose(cls, environ: Mapping[str, str]) -> "StateDir":
        """
        The folder of this node, made when it is missing.

        ``SSH_STATE_DIR`` when set, and then no other; else the first usable of the system's place, the
        user's home and the temporary folder. The choice depends on the environment and the user id only, so
        that a command finds the folder that the set-up made. Raises LocalSetup when none can be used.
        """
        refusals: List[str] = []
        for path in candidates(environ):
            try:
                return cls.open(path, create=True)
            except LocalSetup as error:
                refusals.append(error.what)
            except OSError as error:
                refusals.append(f"{path}: {error.strerror or error}")
        raise LocalSetup(
            "no folder to keep the node's files in",
            evidence="; ".join(refusals),
            fix=f"Set {Env.STATE_DIR} to a folder that only uid {os.geteuid()} can write",
        )

    @classmethod
    def open(cls, path: str, *, create: bool = False) -> "StateDir":
        """
        The folder at ``path``. Raises LocalSetup when another user could have planted it or can write in it,
        OSError when it is not there or cannot be made.
        """
        path = os.path.abspath(path)
        if create:
            _make(path)
        _refuse_unsafe(path)
        return cls(os.path.realpath(path))

    @property
    def agent_log(self) -> str:
        """Where the agent's log goes: the official agent's path when we may write there, else our folder."""
        folder = os.path.dirname(AGENT_LOG_PATH)
        try:
            os.makedirs(folder, mode=0o755, exist_ok=True)
        except OSError:
            pass
        name = AGENT_LOG_PATH if os.access(AGENT_LOG_PATH, os.F_OK) else folder
        if os.access(name, os.W_OK):
            return AGENT_LOG_PATH
        return os.path.join(self.path, os.path.basename(AGENT_LOG_PATH))

    def write(self, path: str, data: bytes, mode: int = 0o600) -> None:
        """Replace the file whole. Raises OSError, and then the old content stays."""
        temporary = f"{path}.{os.getpid()}.tmp"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(temporary, flags, mode)
        except FileExistsError:
            # Left by a process of the same number that died while it wrote.
            os.unlink(temporary)
            descriptor = os.open(temporary, flags, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                # The umask may have taken bits away.
                os.fchmod(file.fileno(), mode)
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            _unlink(temporary)
            raise

    def read(self, path: str) -> Optional[bytes]:
        """The file's content, or None when it is not there."""
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def read_status(self) -> Optional[Status]:
        """
        What the node last said about itself; None when nothing was set up here.

        Raises LocalSetup when the file is no such thing.
        """
        return _from_json(Status, self.read(self.status_json))

    def update_status(self, state: Optional[State] = None, **changes: Any) -> Status:
        """
        Change ``status.json`` and return its new content.

        A new ``state`` empties ``why`` unless one is given; other fields stay as they are. Safe from several
        processes at once. Raises OSError when the disk is full or read-only.
        """
        with self.lock("status", wait=True):
            try:
                status = self.read_status() or Status(State.STARTING)
            except LocalSetup:
                status = Status(State.STARTING)
            if state is not None:
                changes = {"state": state, "why": "", **changes}
            status = dataclasses.replace(status, updated_at=time.time(), **changes)
            try:
                self.write(self.status_json, _to_json(status))
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._overwrite(self.status_json, _to_json(status))
        return status

    def _overwrite(self, path: str, data: bytes) -> None:
        """The file's new content in its old place: on a full disk there is no other. Raises OSError."""
        descriptor = os.open(path, os.O_WRONLY)
        try:
            # With one write, so that a reader sees the whole of it; JSON may end with blanks.
            os.write(descriptor, data.ljust(os.fstat(descriptor).st_size))
        finally:
            os.close(descriptor)

    def begin(self, why: str) -> None:
        """Forget what an earlier set-up left here, and be ``starting``. Raises OSError."""
        for path in (
            self.agent_json,
            self.registration_json,
            self.agent_key,
            self.agent_pid,
            self.sessions_json,
        ):
            _unlink(path)
        with self.lock("status", wait=True):
            status = Status(State.STARTING, why, host=os.uname().nodename, updated_at=time.time())
            data = _to_json(status)
            # Long enough for every reason that may follow, should the disk be full then.
            self.write(self.status_json, data.ljust(_STATUS_BYTES))

    def forget_registration(self) -> None:
        """It came to its end."""
        _unlink(self.registration_json)

    def read_config(self) -> Optional[AgentConfig]:
        """What the set-up handed to the agent; None before that."""
        return _from_json(AgentConfig, self.read(self.agent_json))

    def write_config(self, config: AgentConfig) -> None:
        self.write(self.agent_json, _to_json(config))

    def read_sessions(self) -> Optional[OpenSessions]:
        """What the agent last said of its sessions; None when it never did. Raises LocalSetup."""
        return _from_json(OpenSessions, self.read(self.sessions_json))

    def write_sessions(self, ids: Sequence[str]) -> None:
        """These are open now. Raises OSError."""
        self.write(self.sessions_json, _to_json(OpenSessions(len(ids), time.time(), list(ids))))

    def lock(self, name: str, *, wait: bool) -> "Lock":
        """
        Hold the lock called ``name`` of this node until it is released, or every process that got it is gone.

        Raises BlockingIOError when another one holds it and ``wait`` is false.
        """
        return Lock(os.path.join(self.path, f"{name}.lock"), wait=wait)

    def try_agent_lock(self) -> Optional["Lock"]:
        """
        The lock that says that this node has an agent, from the set-up's beginning until its process ends.

        None when another process has it.
        """
        for attempt in range(_LOCK_ATTEMPTS):
            if attempt:
                time.sleep(_LOCK_RETRY_DELAY)
            try:
                return self.lock("agent", wait=False)
            except BlockingIOError:
                continue
        return None

    def end_agent(self, timeout: float) -> None:
        """Tell the node's agent to end, and wait for that, seconds at most. Nothing when there is none."""
        deadline = time.monotonic() + timeout
        try:
            pid = int(self.read(self.agent_pid) or 0)
            if not pid or not self.has_agent():
                return
            os.kill(pid, signal.SIGTERM)
        except (OSError, ValueError):
            return
        while self.has_agent() and time.monotonic() < deadline:
            time.sleep(_END_LOOK_INTERVAL)

    def has_agent(self) -> bool:
        """Whether some process holds that lock."""
        try:
            self.lock("agent", wait=False).release()
        except BlockingIOError:
            return True
        return False


class Lock:
    """A lock on a file, held by a descriptor: it ends with the last process that has it open."""

    def __init__(self, path: str, *, wait: bool) -> None:
        self._file: IO[bytes] = open(path, "ab")  # noqa: SIM115 (the lock lives as long as the file is open)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self._file.close()
            raise

    @property
    def fileno(self) -> int:
        return self._file.fileno()

    def release(self) -> None:
        """Close our descriptor: processes that inherited it keep the lock."""
        self._file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()


def explained_os_error(error: OSError, path: str) -> LocalSetup:
    """The error with what to do about it, for what happened while the folder ``path`` was filled."""
    fix = f"See whether uid {os.geteuid()} may write there, or set {Env.STATE_DIR} to another folder"
    if error.errno in _NO_ROOM:
        fix = f"Make room there, or set {Env.STATE_DIR} to a folder on another disk"
    return LocalSetup(f"the node's files cannot be written to {path}", evidence=error.strerror, fix=fix)


def candidates(environ: Mapping[str, str]) -> List[str]:
    """The folders to try, best first. Pure but for the user id."""
    chosen = environ.get(Env.STATE_DIR)
    if chosen:
        return [chosen]
    paths = [SYSTEM_PATH]
    home = environ.get("HOME", "")
    if os.path.isabs(home) and home != "/":
        paths.append(os.path.join(home, ".sagemaker-ssh-helper"))
    paths.append(f"/tmp/sagemaker-ssh-helper-{os.geteuid()}")
    return paths


_OTHER_PLACES = ("/run", "/var/tmp", "/tmp", "/dev/shm")


def programs_folder(path: str, is_noexec: Optional[Callable[[str], bool]] = None) -> str:
    """
    Where the programs of the node with the folder ``path`` are: below it, unless nothing can be run there.

    Then it is the first other place where something can; the same for each process, as it depends on the
    mounts alone. Where there is none, it is below ``path`` all the same.
    """
    is_noexec = is_noexec or _is_noexec
    own = os.path.join(path, "bin")
    if not is_noexec(path):
        return own
    name = f"sagemaker-ssh-helper-{os.geteuid()}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}"
    for place in _OTHER_PLACES:
        if os.access(place, os.W_OK | os.X_OK) and not is_noexec(place):
            return os.path.join(place, name)
    return own


def make_private(path: str) -> None:
    """
    Make a folder that only we can change. Raises LocalSetup when it is there and another user could have made
    it, OSError when it cannot be made.
    """
    _make(path)
    _refuse_unsafe(path)


def _is_noexec(path: str) -> bool:
    try:
        return bool(os.statvfs(path).f_flag & getattr(os, "ST_NOEXEC", 0))
    except OSError:
        # It is not there yet: what is above it will have it.
        parent = os.path.dirname(path)
        return parent != path and _is_noexec(parent)


def _make(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise LocalSetup(f"{path} lies below a file") from None
        raise


def _refuse_unsafe(path: str) -> None:
    """Raise LocalSetup unless only we can change what is in ``path``. Closes it when it is ours but open."""
    ours = (os.geteuid(),)
    link = os.lstat(path)
    if stat.S_ISLNK(link.st_mode) and link.st_uid not in ours:
        raise LocalSetup(f"{path} is a symbolic link made by uid {link.st_uid}")
    found = os.stat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise LocalSetup(f"{path} is no folder")
    if found.st_uid not in ours:
        raise LocalSetup(f"{path} belongs to uid {found.st_uid}")
    if found.st_mode & 0o077:
        os.chmod(path, 0o700)
    parent = os.stat(os.path.dirname(os.path.realpath(path)))
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        raise LocalSetup(f"{path} could be replaced by anyone: the folder above is open to all")
    if not os.access(path, os.W_OK | os.X_OK):
        raise LocalSetup(f"{path} is on a read-only file system")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _to_json(value: Any) -> bytes:
    return json.dumps(dataclasses.asdict(value), indent=1).encode("utf-8") + b"\n"


def _from_json(kind: Type[_T], data: Optional[bytes]) -> Optional[_T]:
    """Unknown fields are ignored, so that a newer writer and an older reader get along."""
    if data is None:
        return None
    try:
        found: Dict[str, Any] = json.loads(data.decode("utf-8"))
        known = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]  # always a dataclass
        values = {name: value for name, value in found.items() if name in known}
        if kind is Status:
            values["state"] = State(values.get("state"))
        return kind(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise LocalSetup(
            f"a file of the node is damaged: no {kind.__name__}", evidence=reason_of(error)
        ) from error
