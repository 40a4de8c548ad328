"""
``sm-ssh completion SHELL``: what makes the Tab key know commands and the names of containers.

The shell runs ``completion --candidates`` at each Tab, so that only reads a file; when that is old, a process
of its own makes a new one while the user types on.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from sagemaker_ssh_helper.client.terminal_text import escaped
from sagemaker_ssh_helper.errors import SSHHelperError, UsageError

FRESH = 60.0
"""Seconds for which the names are taken as they are."""

_HELP = """\
usage: sm-ssh completion bash|zsh|fish|powershell

Print the completion of sm-ssh for a shell: commands, and the names of what runs.

  bash         echo 'eval "$(sm-ssh completion bash)"' >> ~/.bashrc
  zsh          echo 'eval "$(sm-ssh completion zsh)"' >> ~/.zshrc, below compinit
  fish         sm-ssh completion fish > ~/.config/fish/completions/sm-ssh.fish
  powershell   sm-ssh completion powershell | Out-String | Invoke-Expression

Names are at most a minute old; they are read from a file, and asked for in the background.
"""

_SCRIPTS = {
    "bash": """\
_sm_ssh() {
    local IFS=$'\\n'
    COMPREPLY=($(sm-ssh completion --candidates "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _sm_ssh sm-ssh
""",
    "zsh": """\
_sm_ssh() {
    local -a found
    found=("${(@f)$(sm-ssh completion --candidates "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -a found
}
compdef _sm_ssh sm-ssh
""",
    "fish": """\
function __sm_ssh
    sm-ssh completion --candidates (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null
end
complete -c sm-ssh -f -a '(__sm_ssh)'
""",
    "powershell": """\
Register-ArgumentCompleter -Native -CommandName sm-ssh -ScriptBlock {
    param($word, $tree, $position)
    $words = @($tree.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
    if ($word -eq '') { $words += '""' }
    sm-ssh completion --candidates @words 2>$null | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_)
    }
}
""",
}

# Commands whose words are names.
_TAKE_TARGETS = frozenset(
    ["connect", "ssh", "exec", "cp", "forward", "session", "status", "wait", "logs", "continue", "stop",
     "enable", "disable", "ide", "doctor", "list", "ls", "known-hosts", "start-proxy"]
)  # fmt: skip


def run_words(words: list[str]) -> int:
    """Read by hand: this answers the Tab key."""
    if words[:1] == ["--candidates"]:
        for candidate in candidates(words[1:]):
            print(candidate)
        return 0
    if words == ["--refresh"]:
        refresh()
        return 0
    if words in (["-h"], ["--help"]):
        print(_HELP, end="")
        return 0
    if len(words) != 1 or words[0] not in _SCRIPTS:
        raise UsageError(
            f"completion takes one of {', '.join(_SCRIPTS)}", fix="See: sm-ssh completion --help"
        )
    print(_SCRIPTS[words[0]], end="")
    return 0


def candidates(words: list[str]) -> list[str]:
    """What the last of these words, perhaps empty, can become; the command's own name is not among them."""
    from sagemaker_ssh_helper.cli.main import COMMANDS

    *before, last = words or [""]
    last = last.strip("\"'")
    if "--" in before:
        return []
    command = next((word for word in before if not word.startswith("-")), None)
    known: list[str] = []
    if command is None:
        known = [*COMMANDS, *_names()]
    elif command == "completion":
        known = list(_SCRIPTS)
    elif command == "explain":
        from sagemaker_ssh_helper.cli.catalogue import CATALOGUE

        known = list(CATALOGUE)
    elif command == "help":
        known = list(COMMANDS)
    elif command in _TAKE_TARGETS:
        known = [*_names(), "@last"]
        if command == "cp":
            known = [f"{name}:" for name in known]
    return [word for word in known if word.lower().startswith(last.lower())]


def refresh() -> None:
    """Ask for the names of what runs, and keep them. What cannot be asked is left out."""
    from concurrent.futures import ThreadPoolExecutor

    from sagemaker_ssh_helper.aws import resources
    from sagemaker_ssh_helper.aws.json_rpc import Client
    from sagemaker_ssh_helper.client.files import private_dir, write_atomic
    from sagemaker_ssh_helper.client.settings import open_session
    from sagemaker_ssh_helper.names import ResourceKind
    from sagemaker_ssh_helper.targets import Target

    client = Client(open_session(), attempts=1)

    def hosts(kind: ResourceKind) -> list[str]:
        try:
            hosts = [Target(kind=kind, name=found.name).fqdn for found in resources.alive(client, kind)]
        except SSHHelperError:
            return []
        # A shell reads them: what cannot be the name of a host is none.
        return [host for host in hosts if escaped(host) == host and " " not in host]

    with ThreadPoolExecutor(len(ResourceKind)) as pool:
        names = [host for some in pool.map(hosts, ResourceKind) for host in some]
    path = _path()
    private_dir(path.parent)
    write_atomic(path, json.dumps({"at": time.time(), "for": _caller(), "names": names}) + "\n")


def _names() -> list[str]:
    """The names on file; one that is old is renewed beside us, for the next time."""
    try:
        kept = json.loads(_path().read_text(encoding="utf-8"))
        names, at = [str(name) for name in kept["names"]], float(kept["at"])
        mine = kept["for"] == _caller()
    except (OSError, ValueError, KeyError, TypeError, SSHHelperError):
        names, at, mine = [], 0.0, False
    if not mine or not 0 <= time.time() - at < FRESH:
        _refresh_beside()
    return names if mine else []


def _refresh_beside() -> None:
    import subprocess

    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "sagemaker_ssh_helper", "completion", "--refresh"]
    try:
        subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    except OSError:
        # No names, then; the Tab key has no way to say why.
        return


def _caller() -> list[str]:
    """What names are of: another profile or region has others."""
    return [os.environ.get(name, "") for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION")]


def _path() -> Path:
    from sagemaker_ssh_helper.client.files import cache_dir

    return cache_dir() / "names.json"
