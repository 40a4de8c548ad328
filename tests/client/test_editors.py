"""What the probe of a container is read as, and what is said of it."""

from __future__ import annotations

import pytest

from sagemaker_ssh_helper.client.editors import EDITORS, Container

GOOD = """\
folder=/opt/ml/code
machine=x86_64
ldd=ldd (Debian GLIBC 2.36-9+deb12u4) 2.36
libstdc++=GLIBCXX_3.4.9
libstdc++=GLIBCXX_3.4.30
program=sh
program=bash
program=tar
program=wget
df=/dev/nvme0n1 123456789 1000 99999999 1% /
writable=yes
"""


def test_a_container_that_has_everything() -> None:
    found = Container.parse(GOOD)
    assert found.folder == "/opt/ml/code"
    assert found.libraries == {"glibc": (2, 36), "libstdc++": (3, 4, 30)}
    assert found.free_bytes == 99999999 * 1024
    assert [found.problems(editor) for editor in EDITORS.values()] == [[]] * len(EDITORS)


@pytest.mark.parametrize(
    ("was", "instead", "said"),
    [
        ("x86_64", "ppc64le", "no server for ppc64le"),
        ("2.36-9+deb12u4) 2.36", "x) 2.17", "needs glibc 2.28, and this image has 2.17"),
        (
            "ldd (Debian GLIBC 2.36-9+deb12u4) 2.36",
            "musl libc (x86_64)",
            "needs glibc, and this image has musl",
        ),
        ("GLIBCXX_3.4.30", "GLIBCXX_3.4.19", "needs libstdc++ 3.4.25, and this image has 3.4.19"),
        ("program=tar\n", "", "needs tar, which this image lacks"),
        ("program=wget\n", "", "neither curl nor wget"),
        ("writable=yes", "", "cannot be written"),
        (" 99999999 1%", " 512000 99%", "0.5 GB are free"),
    ],
)
def test_what_is_missing_is_one_clause(was: str, instead: str, said: str) -> None:
    assert was in GOOD
    (problem,) = Container.parse(GOOD.replace(was, instead)).problems(EDITORS["vscode"])
    assert said in problem


def test_a_probe_that_said_nothing_is_no_reason_to_complain_of_libraries() -> None:
    problems = Container.parse("").problems(EDITORS["vscode"])
    assert not any("glibc" in problem or "libstdc" in problem for problem in problems)


def test_a_name_without_capitals_is_written_as_it_is() -> None:
    link = EDITORS["kiro"].link("root", "my-job.training.sagemaker", "/a b")
    assert link == "kiro://vscode-remote/ssh-remote+my-job.training.sagemaker/a%20b"
