"""Words for whatever shell a login has: read by the shells that are here."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys

import pytest

from sagemaker_ssh_helper.client.shell_words import quoted

SHELLS = {
    "sh": ["sh"], "bash": ["bash"], "dash": ["dash"], "zsh": ["zsh", "-f"], "fish": ["fish", "--no-config"],
    "tcsh": ["tcsh", "-f"], "busybox": ["busybox", "sh"],
}  # fmt: skip
WORDS = [
    "", " ", "plain", "it's", "'", "''", "\\", "\\\\", "a\\", "\\'", "a\\'b", "\\n", "!", "!!", "a!b", "hi!",
    "'!'",
    '"', '"$HOME"', "$HOME", "${x}", "$(id)", "`id`", "*", "?", "[a]", "{a,b}", "~", "~root", "#", "a#b",
    "a;b", "a&b",
    "a|b", "<a", ">b", "(a)", "%self", "%1", "=ls", "--x=1", "a=b", "^", "a b\tc", "-", "-n", "\u00fc \u20ac",
    "\x7f",
    "\\'!\"$`", "%%", "@", ":", "print('it\\'s')",
]  # fmt: skip
READ = "import sys; print(ascii(sys.argv[1:]))"


def read_by(shell: str, words: list[str]) -> list[str]:
    line = " ".join(map(quoted, [sys.executable, "-c", READ, *words]))
    done = subprocess.run([*SHELLS[shell], "-c", line], stdout=subprocess.PIPE, check=True, timeout=60)
    return list(ast.literal_eval(done.stdout.decode("ascii")))


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_reads_the_words_alike(shell: str) -> None:
    assert shutil.which(SHELLS[shell][0]), f"make system-for-tests installs {shell}"
    assert read_by(shell, WORDS) == WORDS


@pytest.mark.parametrize("shell", sorted(SHELLS.keys() - {"tcsh"}))
def test_line_ends_pass_but_for_csh(shell: str) -> None:
    words = ["a\nb", "\n", "it's\n\\'!"]
    assert read_by(shell, words) == words


def test_what_needs_no_quotes_has_none() -> None:
    assert [quoted(word) for word in ("nvidia-smi", "/opt/ml", "--query=a,b", "a:b@c")] == [
        "nvidia-smi", "/opt/ml", "--query=a,b", "a:b@c",
    ]  # fmt: skip
