"""
The library as it travels to a container: one folder, alone or inside a job's source archive; or one file.
"""

import hashlib
import io
import os
import shlex
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO, Iterator

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.errors import LaunchRefused

PACKAGE = "sagemaker_ssh_helper"

LAUNCHER = "sagemaker_ssh_start.py"
"""The entry point put before the job's own: it starts ssh, then becomes the job's own program."""

STARTER = "start.pyz"
"""The library as one file that is a program: it starts ssh, then becomes the command in its arguments."""

_STARTER_TEXT = '''\
"""Starts ssh in this container, then becomes the command given to it. Written by sagemaker-ssh-helper."""

import os
import sys
import tempfile
import zipfile

try:
    folder = tempfile.mkdtemp(prefix="sagemaker-ssh-helper-")
    with zipfile.ZipFile(sys.argv[0]) as archive:
        archive.extractall(folder)
    sys.path[0] = folder
    # The job's own program may import the library, too.
    own = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = folder if not own else own + os.pathsep + folder
    import sagemaker_ssh_helper

    sagemaker_ssh_helper.setup_and_start_ssh()
except Exception as error:
    why = getattr(error, "strerror", None) or type(error).__name__
    if isinstance(error, ImportError):
        why = "there is no module %s, or not all of it" % error.name
    sys.stderr.write("sagemaker-ssh-helper: no ssh in this container: %s\\n" % why)
sys.stdout.flush()
sys.stderr.flush()
os.execvp(sys.argv[1], sys.argv[1:])
'''

SHIPPED = (
    "VERSION",
    "__init__.py",
    "agent",
    "aws_errors.py",
    "channels",
    "env.py",
    "errors.py",
    "names.py",
    "node_keys.py",
    "plain_logs.py",
    "protocol",
    "proxy_variables.py",
    "public_keys.py",
    "py.typed",
    "whole_library.py",
)
"""What a container runs. All else stays on the user's machine; ``whole_library`` answers for it."""

_LAUNCHER_TEXT = '''\
"""Starts ssh in this container, then becomes the job's own program. Written by sagemaker-ssh-helper."""

import os
import sys

import sagemaker_ssh_helper

COMMAND = {command!r}

if __name__ == "__main__":
    sagemaker_ssh_helper.setup_and_start_ssh()
    command = [sys.executable if word == "python" else word for word in COMMAND] + sys.argv[1:]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvp(command[0], command)
'''


def _package_files() -> Iterator[Path]:
    root = Path(__file__).resolve().parent
    for top in SHIPPED:
        if (root / top).is_file():
            yield Path(top)
        for folder, folders, files in os.walk(root / top):
            # Tools leave folders of theirs.
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__pycache__")))
            for name in sorted(files):
                if not name.endswith((".pyc", ".pyo")):
                    yield Path(folder, name).relative_to(root)


def dependency_dir() -> str:
    """
    A folder named ``sagemaker_ssh_helper`` that holds what a container needs, less than 1 MB.

    Give it to an estimator: ``dependencies=[dependency_dir()]``. It is a copy in the user's cache, made once
    for each state of the installed package, and stays valid after this process ends.
    """
    root = Path(__file__).resolve().parent
    digest = hashlib.sha256()
    files = list(_package_files())
    for name in files:
        digest.update(f"{name}\0".encode() + hashlib.sha256((root / name).read_bytes()).digest())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sm-ssh", "dependency")
    home = cache / f"{__version__}-{digest.hexdigest()[:16]}"
    package = home / PACKAGE
    if package.is_dir():
        return str(package)
    cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=cache))
    for name in files:
        target = made / PACKAGE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
    try:
        # Whoever comes first wins; the folders are the same.
        made.rename(home)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
    return str(package)


def launcher_text(program: str) -> str:
    """
    The text of LAUNCHER for a job whose entry point is ``program``, a path inside its source archive.

    Python files run in the interpreter the launcher runs in, shell scripts in ``/bin/sh``; a folder name is a
    Python package. These are the rules of SageMaker's training toolkit.
    """
    if program.endswith(".py"):
        command = ["python", "-u", program]
    elif program.endswith(".sh"):
        # The toolkit sources the script text after `/bin/sh -c`; the arguments follow the program.
        command = ["/bin/sh", "-c", f'./{shlex.quote(program)} "$@"', program]
    else:
        command = ["python", "-u", "-m", program]
    return _LAUNCHER_TEXT.format(command=command)


def add_library(source: BinaryIO, target: BinaryIO, program: str) -> None:
    """
    Write to ``target`` the gzipped tar archive ``source`` with the library and LAUNCHER added.

    Members of the same names are replaced. Raises LaunchRefused when ``source`` is no gzipped tar archive, or
    does not hold ``program``.
    """
    ours = {LAUNCHER, PACKAGE}
    found = False
    try:
        with tarfile.open(fileobj=source, mode="r:gz") as old, tarfile.open(
            fileobj=target, mode="w:gz"
        ) as new:
            for member in old:
                name = os.path.normpath(member.name)
                if name.split(os.sep)[0] in ours:
                    continue
                found = found or name == program or name.startswith(program + os.sep)
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
            if not found:
                raise LaunchRefused(
                    f"the source archive holds no entry point {program!r}",
                    fix="Name a file of the archive in the hyperparameter sagemaker_program",
                )
            root = Path(__file__).resolve().parent
            for path in _package_files():
                new.add(root / path, arcname=f"{PACKAGE}/{path.as_posix()}", filter=_anonymous)
            text = launcher_text(program).encode()
            info = tarfile.TarInfo(LAUNCHER)
            info.size, info.mode = len(text), 0o644
            new.addfile(info, io.BytesIO(text))
    except (tarfile.TarError, EOFError, OSError) as error:
        raise LaunchRefused(
            f"the source archive is no gzipped tar file: {error}",
            fix="Upload the code as sourcedir.tar.gz, made with: tar -czf sourcedir.tar.gz -C DIR .",
        ) from error


def starter() -> bytes:
    """The bytes of STARTER: run it as ``python start.pyz COMMAND…``, with Python 3.8 or later."""
    buffer = io.BytesIO()
    root = Path(__file__).resolve().parent
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for path in _package_files():
            made.writestr(_zipped(f"{PACKAGE}/{path.as_posix()}"), (root / path).read_bytes())
        made.writestr(_zipped("__main__.py"), _STARTER_TEXT)
    return buffer.getvalue()


def _zipped(name: str) -> zipfile.ZipInfo:
    # When it was made is nobody's business in the container, and the same library gives the same bytes.
    info = zipfile.ZipInfo(name)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    # Who made the archive, and when, is nobody's business in the container.
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    info.mtime = 0
    info.mode = 0o644
    return info
