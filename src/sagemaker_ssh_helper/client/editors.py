"""
Editors that work in a container through ssh: how each is told where to go, and what it needs there.

They read the ssh configuration of the user, so the block of ``sm-ssh config-ssh`` has to be in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

# What VS Code's server asks of a Linux machine, by its documentation; its relatives are built from it.
_VSCODE_NEEDS = {"glibc": (2, 28), "libstdc++": (3, 4, 25)}
_MACHINES = frozenset(["x86_64", "amd64", "aarch64", "arm64", "armv7l"])
_GB = 1 << 30


@dataclass(frozen=True)
class Editor:
    """One editor, by the word for ``--app``."""

    name: str
    label: str
    programs: tuple[str, ...]
    """What it may be called on PATH."""
    mac_program: str = ""
    """Where macOS keeps the program of an application that is not on PATH, below its folder."""
    scheme: str = ""
    """Of links, for the family of VS Code."""
    libraries: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The oldest versions that its server runs with."""
    free_bytes: int = _GB
    """What its server takes in the login's home."""
    words: tuple[str, ...] = ("bash", "tar")
    """Programs that it runs in the container."""

    def link(self, user: str, host: str, folder: str) -> str:
        """A URL that the system opens with it."""
        if self.scheme:
            return f"{self.scheme}://vscode-remote/{_authority(host)}{quote(folder)}"
        if self.name == "zed":
            return f"zed://ssh/{user}@{host}{quote(folder)}"
        where = {"type": "ssh", "deploy": "true", "host": host, "port": "22", "user": user}
        return "jetbrains-gateway://connect#" + urlencode({**where, "projectPath": folder})

    def arguments(self, user: str, host: str, folder: str) -> list[str]:
        """What its program is given."""
        if self.scheme:
            return ["--folder-uri", f"vscode-remote://{_authority(host)}{quote(folder)}"]
        if self.name == "zed":
            return [f"ssh://{user}@{host}{quote(folder)}"]
        return [self.link(user, host, folder)]

    def find(self) -> str | None:
        """The path of its program, if there is one."""
        for program in self.programs:
            found = shutil.which(program)
            if found:
                return found
        if sys.platform == "darwin" and self.mac_program:
            for folder in (Path("/Applications"), Path.home() / "Applications"):
                if os.access(folder / self.mac_program, os.X_OK):
                    return str(folder / self.mac_program)
        return None


def _of_vscode(name: str, label: str, programs: Sequence[str], mac: str, scheme: str) -> Editor:
    inside = f"{mac}.app/Contents/Resources/app/bin/{programs[0]}"
    return Editor(name, label, tuple(programs), inside, scheme, _VSCODE_NEEDS)


EDITORS = {
    editor.name: editor
    for editor in (
        _of_vscode("vscode", "VS Code", ["code", "code-insiders"], "Visual Studio Code", "vscode"),
        _of_vscode("cursor", "Cursor", ["cursor"], "Cursor", "cursor"),
        _of_vscode("kiro", "Kiro", ["kiro"], "Kiro", "kiro"),
        _of_vscode("windsurf", "Windsurf", ["windsurf"], "Windsurf", "windsurf"),
        Editor("zed", "Zed", ("zed",), "Zed.app/Contents/MacOS/cli", words=("sh",)),
        Editor("gateway", "JetBrains Gateway", ("gateway",), free_bytes=5 * _GB),
        Editor("pycharm", "PyCharm, through JetBrains Gateway", ("gateway", "pycharm"), free_bytes=5 * _GB),
    )
}
"""In the order in which they are looked for."""


def _authority(host: str) -> str:
    # The editors fold the letters of a plain name; one in hexadecimal keeps them.
    if host != host.lower():
        host = json.dumps({"hostName": host}, separators=(",", ":")).encode().hex()
    return f"ssh-remote+{host}"


PROBE = r"""
folder=$1
[ -n "$folder" ] || { [ -d /opt/ml/code ] && folder=/opt/ml/code; } || folder=$HOME
cd "$HOME" 2>/dev/null
cd "$folder" 2>/dev/null && printf 'folder=%s\n' "$(pwd)"
printf 'machine=%s\n' "$(uname -m)"
printf 'ldd=%s\n' "$(ldd --version 2>&1 | head -n 1)"
for file in /lib*/libstdc++.so.6 /usr/lib*/libstdc++.so.6 /usr/lib/*/libstdc++.so.6 /lib/*/libstdc++.so.6; do
    [ -f "$file" ] && grep -a -o 'GLIBCXX_3\.4\.[0-9][0-9]*' "$file" | sed 's/^/libstdc++=/'
done
for program in sh bash tar curl wget; do
    command -v "$program" >/dev/null 2>&1 && printf 'program=%s\n' "$program"
done
df -Pk "$HOME" 2>/dev/null | tail -n 1 | sed 's/^/df=/'
[ -w "$HOME" ] && echo writable=yes
exit 0
"""
"""A script for ``sh -s FOLDER`` in the container; ``Container.parse`` reads what it prints."""


@dataclass(frozen=True)
class Container:
    """What the probe found. What it could not find out is None or empty."""

    folder: str
    """The folder to open; empty when it is not there."""
    machine: str
    libraries: Mapping[str, tuple[int, ...]]
    programs: frozenset[str]
    free_bytes: int | None
    home_writable: bool

    @classmethod
    def parse(cls, text: str) -> Container:
        """The answers of ``PROBE``."""
        values: dict[str, list[str]] = {}
        for line in text.splitlines():
            name, _, value = line.partition("=")
            values.setdefault(name, []).append(value)

        def last(name: str) -> str:
            return values.get(name, [""])[-1]

        libraries: dict[str, tuple[int, ...]] = {}
        glibc = re.search(r"([0-9]{1,4})\.([0-9]{1,4})\s*$", last("ldd"))
        if glibc and "musl" not in last("ldd"):
            libraries["glibc"] = (int(glibc[1]), int(glibc[2]))
        if "musl" in last("ldd"):
            libraries["glibc"] = (0,)
        versions = [_version(value.partition("_")[2]) for value in values.get("libstdc++", [])]
        if versions:
            libraries["libstdc++"] = max(versions)
        free = re.search(r"\s([0-9]{1,15})\s+[0-9]+%", last("df"))
        folder = last("folder")
        return cls(
            # It becomes an argument of a program here, and part of a link.
            folder=folder if folder.startswith("/") and folder.isprintable() else "",
            machine=last("machine"),
            libraries=libraries,
            programs=frozenset(values.get("program", [])),
            free_bytes=int(free[1]) * 1024 if free else None,
            home_writable=last("writable") == "yes",
        )

    def problems(self, editor: Editor) -> list[str]:
        """What keeps this editor's server from running here, or makes it slow to come; one clause each."""
        found = []
        if self.machine and self.machine not in _MACHINES:
            found.append(f"{editor.label} has no server for {self.machine}")
        for name, least in editor.libraries.items():
            have = self.libraries.get(name)
            if have == (0,):
                found.append(f"{editor.label} needs glibc, and this image has musl")
            elif have is not None and have < least:
                found.append(
                    f"{editor.label} needs {name} {_dotted(least)}, and this image has {_dotted(have)}"
                )
        missing = [word for word in editor.words if word not in self.programs]
        if missing:
            found.append(f"{editor.label} needs {' and '.join(missing)}, which this image lacks")
        if not self.home_writable:
            found.append("the login's home cannot be written, and the editor's server goes there")
        if self.free_bytes is not None and self.free_bytes < editor.free_bytes:
            found.append(
                f"{self.free_bytes / _GB:.1f} GB are free in the login's home, and {editor.label}'s server "
                f"takes {editor.free_bytes / _GB:.0f}"
            )
        if editor.scheme and not self.programs & {"curl", "wget"}:
            found.append(
                "the image has neither curl nor wget: let the editor upload its server from here "
                '("remote.SSH.localServerDownload": "always")'
            )
        return found


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if re.fullmatch("[0-9]{1,4}", part))


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
