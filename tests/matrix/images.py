"""
The example images, built on a Debian in a folder, with this tree's wheel in place of the released one.

Two root file systems stand for the images that they begin with: Debian with Python where the real ones have
it, with their user, and without OpenSSH.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List

from matrix.dockerfile import DEFAULT_PATH, RootFileSystem, build, copy, parse

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "images"


@dataclass(frozen=True)
class Base:
    """What an image that we cannot have here looks like, as far as it matters."""

    python: str
    """The version."""
    prefix: str
    """Where Python is installed."""
    user: str = "root"


_STUDIO_USER = "sagemaker-user"
_ACCOUNT = f"{_STUDIO_USER}:x:1000:100::/home/{_STUDIO_USER}:/bin/bash\n"

BASES = {
    "python:3.12-slim": Base("3.12", "/usr/local"),
    "public.ecr.aws/sagemaker/sagemaker-distribution:latest-cpu": Base("3.11", "/opt/conda", _STUDIO_USER),
}

# As Docker's Debian images have it: nothing that is installed is started.
_NO_SERVICES = "#!/bin/sh\nexit 101\n"


@dataclass(frozen=True)
class BuiltImage:
    """One of the examples, built."""

    name: str
    """Its folder's."""
    files: RootFileSystem

    @property
    def is_studio(self) -> bool:
        return self.name.startswith("studio")


def build_all(debian: Path, find_python: Callable[[str], str], folder: Path) -> List[BuiltImage]:
    """
    Every example image, in ``folder``. Those without internet are built with no network at all, of what the
    script for that purpose fetched.

    Args:
        debian: the folder of a Debian with OpenSSH, which is copied.
        find_python: gives the folder of an installation of the version given.

    Raises Refused and CalledProcessError.
    """
    context = folder / "context"
    shutil.copytree(EXAMPLES, context)
    wheels: Dict[str, Path] = {}
    bases: Dict[str, RootFileSystem] = {}
    for number, (name, base) in enumerate(BASES.items()):
        python = find_python(base.python)
        wheels[name] = _wheels(python, folder / f"wheels-{base.python}")
        # What the guide has one make in the folder of the source.
        for wheel in wheels[name].glob("sagemaker_ssh_helper-*.whl"):
            shutil.copy(wheel, context)
        bases[name] = _stand_in(base, debian, python, folder / f"base-{number}")
    return [
        BuiltImage(path.parent.name, _build(path, context, bases, wheels, folder))
        for path in sorted(context.glob("*/Dockerfile"))
    ]


def _build(
    path: Path, context: Path, bases: Dict[str, RootFileSystem], wheels: Dict[str, Path], folder: Path
) -> RootFileSystem:
    base, name = parse(path.read_text())[0].text, path.parent.name
    if not name.endswith("-offline"):
        return build(path, context, bases, folder / name, network=True, wheels=wheels[base])
    fetching = copy(bases[base], folder / f"{name}-fetching")
    fetching.user = "root"
    fetching.run(f"cd {name} && ../fetch-packages", network=True, wheels=wheels[base], shared=context)
    shutil.rmtree(fetching.root)
    return build(path, context, bases, folder / name, network=False, wheels=None)


def _wheels(python: str, folder: Path) -> Path:
    """This tree's wheel and those that it needs. The tree is copied first: a build leaves files in it."""
    tree = folder.with_name(f"{folder.name}-tree")
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    shutil.copytree(
        ROOT / "src" / "sagemaker_ssh_helper",
        tree / "src" / "sagemaker_ssh_helper",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    words = ["-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--wheel-dir", str(folder), str(tree)]
    subprocess.run([f"{python}/bin/python3", *words], check=True, stdout=subprocess.DEVNULL)
    return folder


def _stand_in(base: Base, debian: Path, python: str, folder: Path) -> RootFileSystem:
    files = copy(RootFileSystem(debian), folder)
    services = folder / "usr" / "sbin" / "policy-rc.d"
    services.write_text(_NO_SERVICES)
    services.chmod(0o755)
    prefix = folder / base.prefix.strip("/")
    (prefix / "bin").mkdir(parents=True, exist_ok=True)
    for program in Path(python, "bin").glob("python3*"):
        shutil.copy(program, prefix / "bin", follow_symlinks=False)
    shutil.copytree(
        Path(python, "lib"),
        prefix / "lib",
        symlinks=True,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("test", "site-packages", "__pycache__", "config-*", "*.a"),
    )
    (folder / "etc" / "ld.so.conf.d" / "python.conf").write_text(f"{base.prefix}/lib\n")
    if base.user != "root":
        with (folder / "etc" / "passwd").open("a") as accounts:
            accounts.write(_ACCOUNT)
        (folder / "home" / base.user).mkdir()
    files.environ["PATH"] = f"{base.prefix}/bin:{DEFAULT_PATH}"
    files.run(
        # Slim images have no manuals either, and there is less to copy.
        "rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/locale/*"
        " && ldconfig && python3 -m ensurepip --default-pip"
        " && dpkg --purge openssh-server openssh-sftp-server openssh-client && apt-get clean",
        network=False,
    )
    files.user = base.user
    return files
