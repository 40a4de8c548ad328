"""
The job's environment, kept for logins and commands, and the programs that run in it.

An ssh login, a Run Command and ``sm-wait`` should see what the job's script sees: variables, PATH, working
folder. The environment is saved once, in a file that only the job's user can read, and is never printed.

Standard library only; Python 3.8.
"""

import os
import pwd
import shlex
import shutil
import sys
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from sagemaker_ssh_helper.agent.login import BARE_FOLDER
from sagemaker_ssh_helper.agent.state import StateDir, make_private
from sagemaker_ssh_helper.errors import LocalSetup
from sagemaker_ssh_helper.names import Env

LEFT_OUT = frozenset(
    name.encode()
    for name in (
        # They belong to one shell or one connection, not to the job.
        "_",
        Env.NODE_KEY,
        "OLDPWD",
        "SHLVL",
        "SSH_AUTH_SOCK",
        "SSH_CLIENT",
        "SSH_CONNECTION",
        "SSH_ORIGINAL_COMMAND",
        "SSH_TTY",
    )
)
"""Variables of the job that a login does not get. ``docs/reference/container.md`` lists them."""

PROGRAMS = {
    "sm-wait": "sagemaker_ssh_helper.agent.wait",
    "sm-setup-ssh": "sagemaker_ssh_helper.agent.setup",
}

_PACKAGE = "sagemaker_ssh_helper"
# sys.path begins with a folder that holds this package only: neither a job's own queue.py nor another helper
# in the image can take a module's place.
_RUN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from importlib import import_module; "
    "sys.exit(import_module(sys.argv.pop(1)).main(sys.argv[1:]))"
)


# Instead of bash's own files, which it then reads in their order. Whatever ends bash on the way, all but a
# signal and `exec`, leaves one without them. An interrupt ends the reading, as it always does.
_BASHRC = r"""# Written by sagemaker-ssh-helper: bash's start-up files cannot end the shell.
set +o posix
shopt -u inherit_errexit 2>/dev/null
unset ENV
[ -z "${SM_SSH_ENV+x}" ] || export ENV="$SM_SSH_ENV"
unset SM_SSH_ENV
[ "$HISTFILE" != "$HOME/.sh_history" ] || HISTFILE="$HOME/.bash_history"
_sm_ssh_ended() {
  trap - EXIT INT
  echo "sagemaker-ssh-helper: a start-up file of bash ended it; this shell has read none" >&2
  exec "$BASH" --norc -i
}
trap _sm_ssh_ended EXIT
trap 'trap - EXIT INT; kill -INT $$' INT
[ ! -r /etc/bash.bashrc ] || . /etc/bash.bashrc
[ ! -r /etc/bash/bashrc ] || . /etc/bash/bashrc
[ ! -r ~/.bashrc ] || . ~/.bashrc
[ "$(trap -p EXIT)" != "trap -- '_sm_ssh_ended' EXIT" ] || trap - EXIT
[ "$(trap -p INT)" != "trap -- 'trap - EXIT INT; kill -INT \$\$' SIGINT" ] || trap - INT
unset -f _sm_ssh_ended
"""
# zsh reads /etc/zshenv before this, and all its other files after it.
_ZSHENV = r"""# Written by sagemaker-ssh-helper: zsh's start-up files cannot end the shell.
_sm_ssh_ended() {
  [[ $ZSH_EVAL_CONTEXT == *file* && -o interactive ]] || return
  print -u2 "sagemaker-ssh-helper: a start-up file of zsh ended it; this shell has read none"
  exec zsh -f -i
}
trap _sm_ssh_ended EXIT
unset ZDOTDIR
[[ -z ${SM_SSH_ZDOTDIR+x} ]] || export ZDOTDIR=$SM_SSH_ZDOTDIR
unset SM_SSH_ZDOTDIR
[[ ! -r ${ZDOTDIR:-$HOME}/.zshenv ]] || . ${ZDOTDIR:-$HOME}/.zshenv
"""


MAX_VARIABLE_BYTES = 128 * 1024
"""Linux starts no program with a variable of more, its name and the byte at its end counted (execve(2))."""

_MAX_BYTES = 1_500_000
"""Of all together: Linux takes 2 MiB with the usual stack, words of the command and pointers included."""


def passable(environ: Mapping[bytes, bytes]) -> Tuple[Dict[bytes, bytes], List[bytes]]:
    """What of an environment a program can be started with, and the names of what is too large for that."""
    sizes = {name: len(name) + len(value) + 2 for name, value in environ.items()}
    left_out = [name for name, size in sizes.items() if size > MAX_VARIABLE_BYTES]
    total = sum(size for name, size in sizes.items() if name not in left_out)
    for name in sorted(sizes.keys() - set(left_out), key=lambda name: (-sizes[name], name)):
        if total <= _MAX_BYTES:
            break
        left_out.append(name)
        total -= sizes[name]
    return {name: value for name, value in environ.items() if name not in left_out}, left_out


def save(state: StateDir, environ: Mapping[bytes, bytes], folder: bytes) -> None:
    """
    Keep the job's environment, with our programs first on its PATH and ``PWD`` naming its folder.

    What no program could be started with is left out. Raises OSError when it cannot be written.
    """
    environ, _ = passable(environ)
    kept = {name: value for name, value in environ.items() if name not in LEFT_OUT}
    kept[b"PATH"] = os.fsencode(state.bin) + b":" + (kept.get(b"PATH") or os.fsencode(os.defpath))
    kept[b"PWD"] = folder
    state.write(state.environment, b"".join(name + b"=" + value + b"\0" for name, value in kept.items()))


def load(path: str) -> Dict[bytes, bytes]:
    """The environment that :func:`save` wrote to this file. Raises OSError."""
    with open(path, "rb") as file:
        entries = file.read().split(b"\0")
    found = {}
    for entry in entries:
        name, equals, value = entry.partition(b"=")
        if name and equals:
            found[name] = value
    return found


def interpreter() -> str:
    """
    The Python program that runs us, or one from PATH where that is another program with Python inside.

    Raises LocalSetup when there is none.
    """
    found: Optional[str] = sys.executable
    if not (found and os.path.basename(found).startswith(("python", "pypy")) and os.access(found, os.X_OK)):
        found = shutil.which("python3")
    if not found:
        raise LocalSetup("there is no python3 program to run the agent with", fix="Put python3 on the PATH")
    return found


def python_command(
    state: StateDir, module: str, arguments: Sequence[str] = (), *, bare: bool = False
) -> List[str]:
    """
    The words that call ``main(arguments)`` of a module of this package as a program.

    Args:
        bare: without the image's installed packages, which starts quicker.
    """
    return [interpreter(), "-IS" if bare else "-I", "-c", _RUN, state.lib, module, *arguments]


def link_package(state: StateDir) -> None:
    """Make the folder that :func:`python_command` imports this package from. Raises OSError."""
    os.makedirs(state.lib, mode=0o700, exist_ok=True)
    # Not a path through the link itself, by which the agent process knows this file.
    package = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    link = os.path.join(state.lib, _PACKAGE)
    if not os.path.islink(link) or os.readlink(link) != package:
        temporary = f"{link}.{os.getpid()}.tmp"
        os.symlink(package, temporary)
        os.replace(temporary, link)


def write_programs(state: StateDir, sftp_server: str = "") -> None:
    """
    Put the programs of the node into its folder: ``bin/sm-wait``, ``bin/sm-setup-ssh``, ``login``.

    Args:
        sftp_server: the program that serves sftp; empty when the image has none.

    They find this package, this folder and the interpreter's libraries by themselves, whatever the
    environment. Raises OSError, or LocalSetup when there is no Python program.
    """
    link_package(state)
    make_private(state.bin)
    for name, module in PROGRAMS.items():
        here = f"export {Env.STATE_DIR}={shlex.quote(state.path)}"
        words = _quoted(python_command(state, module, bare=True))
        write_script(state, name, [*_preamble(), here, f'exec {words} "$@"'])

    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "login.py"), "rb") as file:
        state.write(state.login_module, file.read())
    os.makedirs(os.path.join(state.path, BARE_FOLDER), mode=0o700, exist_ok=True)
    os.makedirs(state.start_up, mode=0o700, exist_ok=True)
    for name, text in (("bashrc", _BASHRC), (".zshenv", _ZSHENV)):
        state.write(os.path.join(state.start_up, name), text.encode("ascii"))
    python = interpreter()
    launcher = _quoted([python, "-I", "-S", state.login_module, state.environment, sftp_server])
    plain = f"export HOME={shlex.quote(_own_home())}; unset XDG_CONFIG_HOME ZDOTDIR BASH_ENV SHLVL; "
    plain += 'exec "${SHELL:-/bin/sh}" ${SSH_ORIGINAL_COMMAND:+-c "$SSH_ORIGINAL_COMMAND"}'
    lines = [
        # The job may have removed its Python; a login without the job's environment helps to see that.
        f"[ -x {shlex.quote(python)} ] || {{ {plain}; }}",
        *_preamble(),
        f"exec {launcher}",
    ]
    state.write(state.login, _script(lines), 0o700)


def write_script(state: StateDir, name: str, lines: Sequence[str]) -> None:
    """Put a program of these lines first on the PATH of logins and commands. Raises OSError."""
    state.write(os.path.join(state.bin, name), _script(lines), 0o700)


def _own_home() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_dir or "/"
    except KeyError:
        return os.environ.get("HOME") or "/"


def _preamble() -> List[str]:
    # An interpreter with libraries of its own in an odd place starts with this variable only.
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return [f"export LD_LIBRARY_PATH={shlex.quote(libraries)}"] if libraries else []


def _quoted(words: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _script(lines: Sequence[str]) -> bytes:
    return os.fsencode("\n".join(["#!/bin/sh", "# Written by sagemaker-ssh-helper.", *lines, ""]))
