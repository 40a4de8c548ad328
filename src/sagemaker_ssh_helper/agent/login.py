"""
What an ssh login runs: the job's environment and folder first, then the shell, the command or sftp.

sshd starts it by ``ForceCommand``, from a copy in the node's folder::

    python -I -S login.py ENVIRONMENT_FILE SFTP_SERVER

No start-up file of a shell is read for a command, a copy or sftp: what one prints would be taken for theirs,
and one that ends its shell would end them. An interactive shell reads its own, bash and zsh by way of files
that :mod:`~sagemaker_ssh_helper.agent.environment` writes: one that ends the shell leaves one without them.

It stands alone and imports as little as it can, because every login waits for it. It prints nothing but the
reason when sftp cannot be served. Python 3.8.
"""

from __future__ import annotations  # typing would cost its import

# The signal module costs 10 ms more.
import _signal  # type: ignore[import-not-found]  # every CPython has it; no stubs know it
import os
import sys

# What sshd knows better than the job: everything that belongs to this one connection.
_FROM_SSHD = (
    b"SSH_CONNECTION",
    b"SSH_CLIENT",
    b"SSH_TTY",
    b"SSH_AUTH_SOCK",
    b"TERM",
    b"COLORTERM",
    b"DISPLAY",
    b"USER",
    b"LOGNAME",
    b"SHELL",
)
LANG = b"C.UTF-8"
"""When the job says nothing of languages: without it programs take all but ASCII for rubbish."""

TERM = b"xterm-256color"
"""The terminal that new ones behave like, whose own names images do not know, such as ``xterm-ghostty``."""

_TERMINFO = (
    b"/etc/terminfo",
    b"/lib/terminfo",
    b"/usr/share/terminfo",
    b"/usr/lib/terminfo",
    b"/usr/local/share/terminfo",
    b"/opt/conda/share/terminfo",
)
_SUBSYSTEM = b"internal-sftp"

WATCH_INTERVAL = 1.0
"""Seconds between looks, where the kernel does not tell that a process has ended."""

# What lets a shell run without its start-up files, by its program's name. Others read none for a command.
_BARE = {
    b"bash": b"--norc",
    b"csh": b"-f",
    b"fish": b"--no-config",
    b"rbash": b"--norc",
    b"tcsh": b"-f",
    b"zsh": b"-f",
}

BARE_FOLDER = "bare"
"""Beside the environment's file: the home, without any file, of the account's shell in which sshd runs us."""

QUIET_SHELL = {
    # The bash of an outermost ssh command reads its files; an inner one does not.
    "SHLVL": "1",
    "BASH_ENV": "",
    "HOME": BARE_FOLDER,
    "XDG_CONFIG_HOME": BARE_FOLDER,
    "ZDOTDIR": BARE_FOLDER,
}
"""What sshd gives that shell, the folder by its whole path: it should read as few files as it can."""


def login_environment(saved: bytes, session: dict[bytes, bytes]) -> tuple[dict[bytes, bytes], bytes]:
    """
    The environment of the login and the folder it starts in.

    Args:
        saved: the content of the file: NAME=VALUE, each ended by NUL; empty when it is gone.
        session: the environment sshd made.

    The job's HOME wins when that folder exists: tools look for their configuration where the job does.
    """
    environment: dict[bytes, bytes] = {}
    for entry in saved.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if name and equals:
            environment[name] = value
    if not environment:
        # Better a plain login than none.
        environment.update(session)
        environment.pop(b"SSH_ORIGINAL_COMMAND", None)
    home = environment.get(b"HOME")
    if not home or not os.path.isdir(home):
        environment[b"HOME"] = home = session.get(b"HOME") or _home()
    for name in _FROM_SSHD:
        if name in session:
            environment[name] = session[name]
    if not any(environment.get(name) for name in (b"LC_ALL", b"LC_CTYPE", b"LANG")):
        environment[b"LANG"] = LANG
    if environment.get(b"TERM"):
        environment[b"TERM"] = _known_terminal(environment)
    folder = environment.get(b"PWD", b"")
    if not os.path.isdir(folder) or not os.access(folder, os.X_OK):
        environment[b"PWD"] = folder = home if os.path.isdir(home) else b"/"
    return environment, folder


def _known_terminal(environment: dict[bytes, bytes]) -> bytes:
    """The login's terminal, or one like it that the programs of this container know."""
    asked = environment[b"TERM"]
    own = (environment.get(b"TERMINFO", b""), environment[b"HOME"] + b"/.terminfo")
    folders = (*own, *environment.get(b"TERMINFO_DIRS", b"").split(b":"), *_TERMINFO)
    for term in (asked, TERM, b"xterm"):
        # By its first letter, or that letter's number.
        for place in (term[:1], b"%x" % term[0]):
            if b"/" not in term and any(os.path.exists(b"/".join((at, place, term))) for at in folders if at):
                return term
    return asked


def _home() -> bytes:
    """The account's own."""
    import pwd

    try:
        return os.fsencode(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return b"/"


def shell_words(
    shell: bytes, command: bytes | None, environment: dict[bytes, bytes], start_up_files: str
) -> list[bytes]:
    """
    The words that run this command, or an interactive shell for none; ``environment`` is changed to suit.

    Without a terminal, a shell without a command reads a script from its input: that is no interactive one.
    """
    name = os.path.basename(shell)
    if command is None and os.isatty(0):
        # Not a login shell: those read /etc/profile, which resets PATH.
        return [name, *_guarded(name, environment, start_up_files)]
    # An inner bash of an ssh command reads ~/.bashrc unless it knows that it is an inner one.
    environment[b"SHLVL"] = b"1"
    option = _BARE.get(name)
    if name == b"fish" and not _takes(shell, b"--no-config"):
        option = None
    words = [name, option] if option else [name]
    if command is None:
        return words
    file = environment.get(b"BASH_ENV")
    if name in (b"bash", b"rbash") and file:
        # For the scripts that the command runs, as in the job; not for itself.
        del environment[b"BASH_ENV"]
        command = b"export BASH_ENV='" + file.replace(b"'", b"'\\''") + b"'; " + command
    return [*words, b"-c", command]


def _guarded(name: bytes, environment: dict[bytes, bytes], start_up_files: str) -> list[bytes]:
    """What makes an interactive shell read its files through ours, where we have one for it."""
    folder = os.fsencode(start_up_files)
    if name == b"bash" and os.path.isfile(folder + b"/bashrc"):
        if b"ENV" in environment:
            environment[b"SM_SSH_ENV"] = environment[b"ENV"]
        environment[b"ENV"] = folder + b"/bashrc"
        # In this mode it reads the file in ENV, and nothing before it.
        return [b"--posix"]
    if name == b"zsh" and os.path.isfile(folder + b"/.zshenv"):
        if b"ZDOTDIR" in environment:
            environment[b"SM_SSH_ZDOTDIR"] = environment[b"ZDOTDIR"]
        environment[b"ZDOTDIR"] = folder
    return []


def _takes(shell: bytes, option: bytes) -> bool:
    """Whether this shell knows an option that its older versions do not."""
    import subprocess

    tried = [os.fsdecode(shell), os.fsdecode(option), "-c", "exit 7"]
    try:
        return subprocess.call(tried, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 7
    except OSError:
        return False


def share_agent(path: bytes) -> None:
    """
    Let the container's ordinary user reach root's forwarded agent, so that it works after ``su`` too.

    That user is ``sagemaker-user``, else uid 1000; everybody else stays out. Without one nothing happens.
    """
    import pwd

    folder = os.path.dirname(path)
    try:
        try:
            group = pwd.getpwnam("sagemaker-user").pw_gid
        except KeyError:
            group = pwd.getpwuid(1000).pw_gid
        for name, mode in ((folder, 0o710), (path, 0o660)):
            os.chown(name, -1, group, follow_symlinks=False)
            os.chmod(name, mode)
    except (KeyError, OSError):
        pass


def hang_up(leader: int) -> None:
    """
    SIGHUP, as a terminal does it, to a command without one whose user has gone.

    What the command's shell started in the background goes on: without a terminal that has /dev/null for its
    input, as have servers that are meant to stay. What ``nohup`` and ``setsid`` started goes on anyway.
    """
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                group = int(file.read().rpartition(b")")[2].split()[2])
            if group != leader or (int(name) != leader and os.readlink(f"/proc/{name}/fd/0") == os.devnull):
                continue
            os.kill(int(name), _signal.SIGHUP)
            os.kill(int(name), _signal.SIGCONT)
        except (OSError, ValueError):
            # It ended, or is another user's.
            continue


def watch() -> None:
    """
    Hang up the command that this process is about to become, when sshd has gone and it has not.

    Nobody else would: a client that is killed takes sshd's process along, and without a terminal the command
    learns of that when it next writes something, if ever.
    """
    leader, server = os.getpid(), os.getppid()
    if os.getpgrp() != leader or not os.path.exists("/proc/self/stat"):
        return
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return
    try:
        # Nobody's child, so that the command waits for it never.
        os.setsid()
        if os.fork() == 0:
            for descriptor in os.listdir("/proc/self/fd"):
                try:
                    os.close(int(descriptor))
                except OSError:
                    pass
            if _first_to_end(leader, server) == server:
                hang_up(leader)
    finally:
        os._exit(0)


def _first_to_end(leader: int, server: int) -> int:
    """Wait for the first of two processes to end; the leader, where both have."""
    import select

    if hasattr(os, "pidfd_open"):
        try:
            watched = {os.pidfd_open(pid): pid for pid in (leader, server)}
            poll = select.poll()
            for descriptor in watched:
                poll.register(descriptor, select.POLLIN)
            ended = [watched[descriptor] for descriptor, _ in poll.poll()]
            return leader if leader in ended else server
        except OSError:
            # An old kernel, or one of them has ended already.
            pass
    began = {pid: _began(pid) for pid in (leader, server)}
    while True:
        for pid in (leader, server):
            if not began[pid] or _began(pid) != began[pid]:
                return pid
        select.select([], [], [], WATCH_INTERVAL)


def _began(pid: int) -> bytes:
    """What tells this process from a later one with its number; empty when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return b""
    return b"" if fields[0] == b"Z" else fields[19]


def main(arguments: list[str]) -> int:
    theirs = [os.fsencode(name) for name in QUIET_SHELL]
    session = {name: value for name, value in os.environb.items() if name not in theirs}
    if b"SSH_AUTH_SOCK" in session and os.geteuid() == 0:
        share_agent(session[b"SSH_AUTH_SOCK"])
    try:
        with open(arguments[0], "rb") as file:
            saved = file.read()
    except OSError:
        saved = b""
    environment, folder = login_environment(saved, session)
    try:
        os.chdir(folder)
    except OSError:
        pass
    # Python ignores these, and what is ignored stays so in the programs that follow: `yes | head` would fail.
    for name in ("SIGPIPE", "SIGXFSZ"):
        number = getattr(_signal, name, None)
        if number is not None:
            _signal.signal(number, _signal.SIG_DFL)

    shell = session.get(b"SHELL") or b"/bin/sh"
    command = session.get(b"SSH_ORIGINAL_COMMAND")
    if command == _SUBSYSTEM:
        program = os.fsencode(arguments[1]) if len(arguments) > 1 else b""
        words = [program]
        if not program:
            os.write(
                2,
                b"sftp is not served: this image has no sftp-server program. "
                b"Use scp -O, or install openssh-sftp-server in the image.\n",
            )
            return 1
    else:
        folder_of_ours = os.path.dirname(arguments[0])
        program = shell
        words = shell_words(shell, command, environment, os.path.join(folder_of_ours, "start-up"))
    if command is not None and command != _SUBSYSTEM and b"SSH_TTY" not in session:
        watch()
    try:
        os.execve(program, words, environment)
    except OSError as error:
        os.write(2, b"cannot run " + program + b": " + os.fsencode(error.strerror or "") + b"\n")
    return 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
