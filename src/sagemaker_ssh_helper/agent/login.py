"""
What an ssh login runs: the job's environment and folder first, then the shell, the command or sftp.

sshd starts it by ``ForceCommand``, from a copy in the node's folder::

    python -I -S login.py ENVIRONMENT_FILE SFTP_SERVER

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
_SUBSYSTEM = b"internal-sftp"


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
        environment[b"HOME"] = home = session.get(b"HOME", b"/")
    for name in _FROM_SSHD:
        if name in session:
            environment[name] = session[name]
    folder = environment.get(b"PWD", b"")
    if not os.path.isdir(folder) or not os.access(folder, os.X_OK):
        environment[b"PWD"] = folder = home if os.path.isdir(home) else b"/"
    return environment, folder


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


def main(arguments: list[str]) -> int:
    session = dict(os.environb)
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
    if command is None:
        # Not a login shell: those read /etc/profile, which resets PATH.
        program, words = shell, [os.path.basename(shell)]
    elif command == _SUBSYSTEM:
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
        program, words = shell, [os.path.basename(shell), b"-c", command]
    if not os.isatty(0):
        # bash as the outermost shell of an ssh command reads ~/.bashrc; the environment is the job's here.
        environment[b"SHLVL"] = b"1"
    try:
        os.execve(program, words, environment)
    except OSError as error:
        os.write(2, b"cannot run " + program + b": " + os.fsencode(error.strerror or "") + b"\n")
    return 126


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
