"""
The key pair that logs us in: one per user and machine, made once, never leaving it.
"""

import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sagemaker_ssh_helper.client.files import config_dir, locked, private_dir, read_text, write_atomic
from sagemaker_ssh_helper.errors import LocalSetup, SshMissing, UsageError
from sagemaker_ssh_helper.node_keys import NodeKey
from sagemaker_ssh_helper.public_keys import HOST_KEY_TYPES, KEY_MAKING, PublicKey

_KEYGEN_TIMEOUT = 30.0  # seconds; it takes milliseconds unless the machine has no randomness


@dataclass(frozen=True)
class KeyPair:
    """The private key's path, for ``ssh -i``, and the public key."""

    path: Path
    public: PublicKey


def ensure_key() -> KeyPair:
    """
    Our key pair; made by ssh-keygen (no passphrase, 0600) when there is none: ed25519, or what policy allows.

    Safe to call from several processes at once. A private key whose permissions ssh would refuse is made
    0600. Raises SshMissing when there is no ssh-keygen, LocalSetup when the key on disk is unusable; a key is
    never overwritten.
    """
    folder = private_dir(config_dir())
    path = folder / "key"
    pair = _load(path)
    if pair is None:
        with locked(path):
            pair = _load(path) or _make(path)
    return pair


def load_key() -> KeyPair | None:
    """The key pair, or None when there is none yet. Raises LocalSetup when it is unusable."""
    return _load(config_dir() / "key")


def make_node_key() -> NodeKey:
    """A new key for the nodes of one job; nothing of it is kept here. Raises SshMissing, LocalSetup."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "key"
        _make_pair(made, HOST_KEY_TYPES)
        return NodeKey.from_openssh(made.read_text(encoding="ascii"))


def _load(path: Path) -> KeyPair | None:
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & 0o077:
            path.chmod(0o600)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LocalSetup(f"{path} cannot be used", evidence=error.strerror or str(error)) from error
    text = read_text(path.with_name("key.pub"))
    if text is None:
        text = _keygen("-y", "-P", "", "-f", str(path))
        write_atomic(path.with_name("key.pub"), text, 0o644)
    try:
        return KeyPair(path, PublicKey.parse(text))
    except UsageError as error:
        raise LocalSetup(
            f"{path}.pub holds no public key", fix=f"Restore it: ssh-keygen -y -f {path} > {path}.pub"
        ) from error


def _make(path: Path) -> KeyPair:
    # Made aside and moved, the public half first: whoever sees `key` also sees `key.pub`.
    with tempfile.TemporaryDirectory(prefix=".key.", dir=path.parent) as folder:
        made = Path(folder) / "key"
        _make_pair(made, KEY_MAKING)
        made.chmod(0o600)
        os.replace(made.with_name("key.pub"), path.with_name("key.pub"))
        os.replace(made, path)
    pair = _load(path)
    assert pair is not None, "the key was moved there a moment ago"
    return pair


def _make_pair(path: Path, types: Iterable[str]) -> None:
    """Of the first type that ssh-keygen makes and ssh uses here. Raises SshMissing, LocalSetup."""
    used = [name for name in types if _is_used(name)] or list(types)
    for name in used:
        try:
            _keygen("-q", *KEY_MAKING[name], "-N", "", "-C", "", "-f", str(path))
            return
        except LocalSetup:
            # FIPS 140, for one, knows no ed25519.
            if name == used[-1]:
                raise


@functools.lru_cache(maxsize=None)
def _accepted() -> str:
    """The signatures that ssh makes here for users' keys; empty when it does not say."""
    try:
        done = subprocess.run(
            ["ssh", "-G", "host.invalid"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_KEYGEN_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"^pubkeyaccepted(?:algorithms|keytypes) (.+)$", done.stdout, re.M)
    return found[1] if found else ""


def _is_used(name: str) -> bool:
    signatures = {"rsa-sha2-256", "rsa-sha2-512"} if name == "ssh-rsa" else {name}
    accepted = _accepted()
    return not accepted or not signatures.isdisjoint(accepted.split(","))


def _keygen(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_KEYGEN_TIMEOUT,
            check=True,
        )
    except FileNotFoundError as error:
        raise SshMissing(
            "ssh-keygen was not found", fix="Install OpenSSH's client (it brings ssh and ssh-keygen)"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise LocalSetup(f"ssh-keygen did not end in {_KEYGEN_TIMEOUT:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise LocalSetup("ssh-keygen failed", evidence=(error.stderr or error.stdout).strip()) from error
    return done.stdout
