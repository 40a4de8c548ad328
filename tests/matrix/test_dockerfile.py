"""The interpreter of the example images' Dockerfiles: what it reads, and that it refuses the rest."""

import re
from pathlib import Path
from typing import List

import pytest

from matrix.dockerfile import Refused, RootFileSystem, Step, parse
from matrix.images import BASES, EXAMPLES, ROOT

EXAMPLE_FILES = sorted(EXAMPLES.glob("*/Dockerfile"))


def test_steps_are_read_with_their_continuation_and_without_comments() -> None:
    text = """# an image
FROM base:1

RUN one \\
    # why
    && two
ENV A=1 B='2 3'
USER root
COPY a b* /c/
"""

    assert parse(text) == [
        Step(2, "FROM", "base:1"),
        Step(4, "RUN", "one     && two"),
        Step(7, "ENV", "A=1 B='2 3'"),
        Step(8, "USER", "root"),
        Step(9, "COPY", "a b* /c/"),
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["# syntax=docker/dockerfile:1", "FROM base"],
        ["RUN true"],
        ["FROM base", "FROM other"],
        ["FROM base AS stage"],
        ["FROM --platform=linux/arm64 base"],
        ["FROM $BASE"],
        ["FROM base", "ARG A=1"],
        ["FROM base", "WORKDIR /opt"],
        ["FROM base", "CMD train"],
        ["FROM base", "run true"],
        ["FROM base", "RUN"],
        ["FROM base", 'RUN ["true"]'],
        ["FROM base", "RUN --mount=type=cache,target=/c true"],
        ["FROM base", "RUN <<EOF", "true", "EOF"],
        ["FROM base", "RUN true \\"],
        ["FROM base", "COPY --chown=1000 a /b/"],
        ["FROM base", "COPY a /b"],
        ["FROM base", "COPY a b/"],
        ["FROM base", "COPY $A /b/"],
        ["FROM base", "USER 1000:1000"],
        ["FROM base", "USER $NAME"],
        ["FROM base", "ENV A 1"],
        ["FROM base", "ENV PATH=/a:$PATH"],
    ],
)
def test_what_is_not_known_is_refused(lines: List[str]) -> None:
    with pytest.raises(Refused):
        parse("\n".join(lines) + "\n")


def test_files_are_copied_and_missing_ones_refused(tmp_path: Path) -> None:
    context, image = tmp_path / "context", RootFileSystem(tmp_path / "root")
    context.mkdir()
    for name in ("one.whl", "two.whl", "other"):
        (context / name).write_text(name)
    (context / "one.whl").chmod(0o755)

    image.take(Step(1, "COPY", "*.whl /opt/a/"), context, network=False, wheels=None)

    copied = tmp_path / "root" / "opt" / "a"
    assert {path.name: path.read_text() for path in copied.iterdir()} == {
        "one.whl": "one.whl",
        "two.whl": "two.whl",
    }
    assert (copied / "one.whl").stat().st_mode & 0o777 == 0o755
    with pytest.raises(Refused, match=r"no \*\.deb"):
        image.take(Step(1, "COPY", "*.deb /opt/a/"), context, network=False, wheels=None)


def test_variables_and_users_are_the_containers(tmp_path: Path) -> None:
    image = RootFileSystem(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\njob:x:1000:100::/home/job:/bin/sh\n"
    )

    image.take(Step(1, "ENV", "A=1 B='2 3'"), tmp_path, network=False, wheels=None)
    image.take(Step(2, "USER", "job"), tmp_path, network=False, wheels=None)

    assert image.environ["A"] == "1"
    assert image.environ["B"] == "2 3"
    assert (image.account().pw_uid, image.account().pw_gid) == (1000, 100)
    with pytest.raises(Refused, match="no user nobody"):
        image.take(Step(3, "USER", "nobody"), tmp_path, network=False, wheels=None)


@pytest.mark.parametrize("path", EXAMPLE_FILES, ids=lambda path: path.parent.name)
def test_example_images_hold_nothing_that_is_refused(path: Path) -> None:
    assert parse(path.read_text())[0].text in BASES


def test_there_are_a_training_and_a_studio_image_with_and_without_internet() -> None:
    names = [path.parent.name for path in EXAMPLE_FILES]

    assert names == ["studio", "studio-offline", "training", "training-offline"]


def test_the_how_to_fetches_packages_in_the_base_image() -> None:
    how_to = (ROOT / "docs" / "how-to" / "prepare-an-image.md").read_text()
    found = re.findall(r"-w /images/(\S+) (\S+) \.\./fetch-packages", how_to)

    assert found
    for name, base in found:
        assert parse((EXAMPLES / name / "Dockerfile").read_text())[0].text == base
