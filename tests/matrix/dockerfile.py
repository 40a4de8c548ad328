"""
The few words of a Dockerfile that the example images use, run on a root file system in a folder.

FROM, ENV, USER, COPY and RUN in their plainest forms. Whatever else a Dockerfile may hold is refused, since a
step that is passed over proves nothing.
"""

import glob
import pwd
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Mapping, Optional

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_KNOWN = ("FROM", "ENV", "USER", "COPY", "RUN")
_DIRECTIVE = re.compile(r"#\s*(syntax|escape|check)\s*=", re.IGNORECASE)
# Variables and quotes in COPY, USER and FROM, and the JSON form of any.
_NOT_PLAIN = re.compile(r"[$\"'\\\[\]{}]")

# In namespaces of its own, so that nothing outlives the step. Its last words are the command.
_STEP = r"""
set -e
mount -t proc proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
if [ -n "$WHEELS" ]; then mount --bind "$WHEELS" "$ROOT/mnt"; fi
if [ -n "$SHARED" ]; then mount --bind "$SHARED" "$ROOT/media"; fi
exec chroot --userspec="$OWNER" --groups= "$ROOT" /usr/bin/env -i "$@"
"""


class Refused(ValueError):
    """The Dockerfile holds something that this interpreter does not know; names the line."""


@dataclass(frozen=True)
class Step:
    line: int
    word: str
    """One of FROM, ENV, USER, COPY and RUN."""
    text: str
    """What follows the word, its lines joined."""


def parse(text: str) -> List[Step]:
    """The steps of a Dockerfile. Raises Refused for what is not known here."""
    steps: List[Step] = []
    began_at, whole = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if _DIRECTIVE.match(line):
            raise Refused(f"line {number}: parser directives are not known here")
        if line.lstrip().startswith("#") or (not line.strip() and not whole):
            continue
        began_at = began_at if whole else number
        if line.endswith("\\"):
            whole += line[:-1]
            continue
        steps.append(_step(began_at, whole + line))
        whole = ""
    if whole:
        raise Refused(f"line {began_at}: the step does not end")
    if [step.word for step in steps].count("FROM") != 1 or steps[0].word != "FROM":
        raise Refused("exactly one FROM, in the first step, is known here")
    return steps


def _step(number: int, text: str) -> Step:
    word, _, rest = text.strip().partition(" ")
    rest = rest.strip()
    if word not in _KNOWN:
        raise Refused(f"line {number}: {word} is not known here")
    if not rest:
        raise Refused(f"line {number}: {word} of nothing")
    if rest.startswith(("--", "[")) or "<<" in rest:
        raise Refused(f"line {number}: options, lists and documents in {word} are not known here")
    words = rest.split()
    if word in ("FROM", "USER", "COPY") and _NOT_PLAIN.search(rest):
        raise Refused(f"line {number}: variables and quotes in {word} are not known here")
    if word in ("FROM", "USER") and (len(words) != 1 or (word == "USER" and ":" in rest)):
        raise Refused(f"line {number}: one name in {word} is known here")
    if word == "COPY" and (len(words) < 2 or not words[-1].startswith("/") or not words[-1].endswith("/")):
        raise Refused(f"line {number}: COPY to a folder, with a / at both ends, is known here")
    if word == "ENV" and ("$" in rest or not all("=" in entry for entry in shlex.split(rest))):
        raise Refused(f"line {number}: ENV of NAME=VALUE without variables is known here")
    return Step(number, word, rest)


@dataclass
class RootFileSystem:
    """A folder that is run as an image, with what the image says of its containers."""

    root: Path
    environ: Dict[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    user: str = "root"

    def account(self) -> pwd.struct_passwd:
        """The image's user, as its own /etc/passwd has it. Raises Refused when it does not."""
        for line in (self.root / "etc" / "passwd").read_text().splitlines():
            name, password, uid, gid, about, home, shell = line.split(":")
            if name == self.user:
                return pwd.struct_passwd((name, password, int(uid), int(gid), about, home, shell))
        raise Refused(f"there is no user {self.user} in the image")

    def run(
        self,
        command: str,
        *,
        network: bool,
        wheels: Optional[Path] = None,
        shared: Optional[Path] = None,
    ) -> None:
        """
        Run a shell's command in it, as its user.

        Args:
            network: whether it has this machine's, or none at all.
            wheels: a folder that stands for the package index of pip.
            shared: a folder to work in, which is left as the command leaves it.

        Raises CalledProcessError.
        """
        account = self.account()
        variables = {**self.environ, "HOME": account.pw_dir}
        if wheels is not None:
            variables.update(PIP_NO_INDEX="1", PIP_FIND_LINKS="/mnt")
        if shared is not None:
            command = f"cd /media && {command}"
        settings = {
            "PATH": DEFAULT_PATH,
            "ROOT": str(self.root),
            "OWNER": f"{account.pw_uid}:{account.pw_gid}",
            "WHEELS": str(wheels or ""),
            "SHARED": str(shared or ""),
        }
        if network:
            shutil.copyfile("/etc/resolv.conf", self.root / "etc" / "resolv.conf")
        namespaces = ["--mount", "--pid", "--fork", "--kill-child", *([] if network else ["--net"])]
        words = [f"{name}={value}" for name, value in variables.items()]
        done = subprocess.run(
            ["unshare", *namespaces, "sh", "-c", _STEP, "sh", *words, "/bin/sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=settings,
        )
        if done.returncode != 0:
            said = done.stdout.decode("utf-8", "replace")[-4000:]
            raise subprocess.CalledProcessError(done.returncode, f"{command}\n{said}")

    def take(self, step: Step, context: Path, *, network: bool, wheels: Optional[Path]) -> None:
        """Do one step but FROM. Raises Refused and CalledProcessError."""
        if step.word == "ENV":
            self.environ.update(entry.split("=", 1) for entry in shlex.split(step.text))
        elif step.word == "USER":
            self.user = step.text
            self.account()
        elif step.word == "COPY":
            *patterns, folder = step.text.split()
            self._copy(patterns, self.root / folder.strip("/"), context)
        elif step.word == "RUN":
            self.run(step.text, network=network, wheels=wheels)
        else:
            raise Refused(f"line {step.line}: {step.word} begins an image")

    def _copy(self, patterns: List[str], folder: Path, context: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in patterns:
            sources = [Path(found) for found in glob.glob(str(context / pattern))]
            if not sources:
                raise Refused(f"COPY finds no {pattern}")
            for source in sources:
                if not source.is_file():
                    raise Refused(f"COPY of {pattern}: only files are known here")
                shutil.copy(source, folder)


def build(
    dockerfile: Path,
    context: Path,
    bases: Mapping[str, RootFileSystem],
    folder: Path,
    *,
    network: bool,
    wheels: Optional[Path],
) -> RootFileSystem:
    """
    The image of a Dockerfile, in ``folder``, which there is not yet.

    Args:
        bases: what stands for the images that FROM may name; they are copied, not changed.
        network, wheels: of the steps, as in :meth:`RootFileSystem.run`.

    Raises Refused and CalledProcessError.
    """
    first, *steps = parse(dockerfile.read_text())
    if first.text not in bases:
        raise Refused(f"nothing here stands for the image {first.text}")
    image = copy(bases[first.text], folder)
    for step in steps:
        image.take(step, context, network=network, wheels=wheels)
    return image


def copy(image: RootFileSystem, folder: Path) -> RootFileSystem:
    """The same image in a folder of its own."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(image.root), str(folder)], check=True)
    return RootFileSystem(folder, dict(image.environ), image.user)
