"""What of an archive may be unpacked, and where an object of a prefix goes."""

import io
import os
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from sagemaker_ssh_helper.emulator.job_storage import S3Uri, StorageError, _relative_path, extract


def tar(*members: tuple[str, Any]) -> io.BytesIO:
    """An archive of these: name and content, or name and what makes a TarInfo something other than a file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.uid = member.gid = 4711
            if isinstance(content, bytes):
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            else:
                for key, value in content.items():
                    setattr(member, key, value)
                archive.addfile(member)
    buffer.seek(0)
    return buffer


def link(target: str) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


def hard_link(target: str) -> dict[str, Any]:
    return {"type": tarfile.LNKTYPE, "linkname": target}


FOLDER = {"type": tarfile.DIRTYPE, "mode": 0o000}


def test_files_folders_and_links_inside_are_unpacked(tmp_path: Path) -> None:
    extract(
        tar(
            ("train.py", b"one"),
            ("./deep", FOLDER),
            ("deep/file", b"two"),
            ("deep/up", link("../train.py")),
            ("same", hard_link("train.py")),
            ("run.sh", {"mode": 0o4755}),
        ),
        tmp_path,
        "archive",
    )

    assert (tmp_path / "deep" / "file").read_bytes() == b"two"
    assert (tmp_path / "deep" / "up").read_bytes() == b"one"
    assert (tmp_path / "same").read_bytes() == b"one"
    assert (tmp_path / "run.sh").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "train.py").stat().st_uid == os.geteuid()


@pytest.mark.parametrize(
    "members",
    [
        [("../evil", b"x")],
        [("a/../../evil", b"x")],
        [("{outside}/evil", b"x")],
        [("up", link("..")), ("up/evil", b"x")],
        [("abs", link("{outside}")), ("abs/evil", b"x")],
        [("evil", link("../evil"))],
        [("evil", hard_link("../victim"))],
        [("evil", {"type": tarfile.CHRTYPE})],
        [("evil", {"type": tarfile.FIFOTYPE})],
        # Each link is harmless by its text; together they lead out.
        [
            ("a", FOLDER),
            ("a/b", FOLDER),
            ("a/b/c", link("../..")),
            ("a/b/c/up", link("../../..")),
            ("up/evil", b""),
        ],
        [("d", FOLDER), ("d/e", link("..")), ("d/e/f", link("..")), ("f/evil", b"x")],
    ],
)
def test_nothing_lands_outside(tmp_path: Path, members: list[tuple[str, Any]]) -> None:
    outside = tmp_path / "outside"
    folder = outside / "folder"
    folder.mkdir(parents=True)
    (outside / "victim").write_text("untouched")

    def filled(text: Any) -> Any:
        return text.replace("{outside}", str(outside)) if isinstance(text, str) else text

    archive = tar(
        *(
            (
                filled(name),
                {k: filled(v) for k, v in content.items()} if isinstance(content, dict) else content,
            )
            for name, content in members
        )
    )

    with pytest.raises(StorageError, match="has a member that may not be unpacked"):
        extract(archive, folder, "archive")

    assert sorted(path.name for path in outside.iterdir()) == ["folder", "victim"]
    assert (outside / "victim").read_text() == "untouched"


@pytest.mark.parametrize("data", [b"", b"no archive", tar(("a", b"x" * 100_000)).getvalue()[:-40]])
def test_broken_archive_is_told(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(StorageError, match="ClientError: archive is not an archive that can be unpacked"):
        extract(io.BytesIO(data), tmp_path, "archive")


@pytest.mark.parametrize(
    ("prefix", "key", "path"),
    [
        ("data/train", "data/train/a.csv", "a.csv"),
        ("data/train/", "data/train/deep/a.csv", "deep/a.csv"),
        ("data/train", "data/train2/a.csv", "train2/a.csv"),
        ("data/a.csv", "data/a.csv", "a.csv"),
        ("", "data/a.csv", "data/a.csv"),
        ("data/", "data//a//b.csv", "a/b.csv"),
        ("data/", "data/./b.csv", "b.csv"),
    ],
)
def test_object_goes_below_its_channel(prefix: str, key: str, path: str) -> None:
    assert _relative_path(key, S3Uri("bucket", prefix)) == PurePosixPath(path)


@pytest.mark.parametrize("key", ["data/../evil", "data/a/../../evil", "data/a\0b"])
def test_key_that_is_no_path_is_refused(key: str) -> None:
    with pytest.raises(StorageError, match="is not a path"):
        _relative_path(key, S3Uri("bucket", "data/"))


@pytest.mark.parametrize("text", ["", "bucket/key", "s3:/bucket", "s3:///key", "https://bucket/key", "s3://"])
def test_other_uris_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an S3 URI"):
        S3Uri.parse(text)


def test_uri_is_written_as_it_was_read() -> None:
    for text in ("s3://bucket/", "s3://bucket/a/b", "s3://bucket/a/"):
        assert str(S3Uri.parse(text)) == text
    assert str(S3Uri.parse("s3://bucket") / "job" / "output") == "s3://bucket/job/output"
    assert str(S3Uri.parse("s3://bucket/a/") / "job") == "s3://bucket/a/job"
