"""
A job's data between S3 and its folders: what comes before it starts, what goes after it ended.

Blocking; every function takes a boto3 client of S3, with the rights of the job's role.
"""

from __future__ import annotations

import lzma
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError


class StorageError(Exception):
    """Data could not be moved. ``str`` is the reason as SageMaker words it, for the job's FailureReason."""


@dataclass(frozen=True)
class S3Uri:
    """A place in S3: ``s3://bucket/key``; the key may be empty or a prefix."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> S3Uri:
        """Raises ValueError for what is no ``s3://`` URI."""
        scheme, separator, rest = text.partition("://")
        bucket, _, key = rest.partition("/")
        if scheme != "s3" or not separator or not bucket:
            raise ValueError(f"{text!r} is not an S3 URI; it begins with s3://BUCKET")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> S3Uri:
        return S3Uri(self.bucket, f"{self.key.rstrip('/')}/{name}".lstrip("/"))


def download_prefix(
    s3: Any,
    uri: S3Uri,
    folder: Path,
    role_arn: str,
    *,
    may_be_empty: bool = False,
    share: tuple[int, int] = (0, 1),
) -> None:
    """
    Every object whose key begins so, below ``folder``; one object alone gets its own name.

    Args:
        share: (rank, count): of ``count`` nodes that share the objects out, the part of this one.

    Raises StorageError when there is none (unless there may be none), or one cannot be read or has a key that
    is no path.
    """
    found = False
    rank, count = share
    for number, key in enumerate(_keys(s3, uri, role_arn)):
        found = True
        if number % count != rank:
            continue
        place = folder / _relative_path(key, uri)
        try:
            if key.endswith("/"):
                place.mkdir(parents=True, exist_ok=True)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as file:
                _download(s3, uri.bucket, key, file)
        except OSError as error:
            raise StorageError(
                f"ClientError: Data download failed: s3://{uri.bucket}/{key} cannot be written as "
                f"{_relative_path(key, uri)}: {error.strerror}"
            ) from error
    if not found and not may_be_empty:
        raise StorageError(
            f'ClientError: No S3 objects found under S3 URL "{uri}" given in input data source. Please '
            "ensure that the bucket exists in the selected region, that objects exist under that S3 prefix, "
            f'and that the role "{role_arn}" has "s3:ListBucket" permissions on bucket "{uri.bucket}".'
        )


def list_objects(s3: Any, uri: S3Uri, role_arn: str) -> list[tuple[str, PurePosixPath]]:
    """
    The keys that begin so, folders left out, and the path of each below the prefix.

    Raises StorageError when there is none, or it cannot be listed.
    """
    found = [(key, _relative_path(key, uri)) for key in _keys(s3, uri, role_arn) if not key.endswith("/")]
    if not found:
        raise StorageError(f'ClientError: No S3 objects found under S3 URL "{uri}".')
    return found


def get_object(s3: Any, uri: S3Uri) -> bytes:
    """An object's content. Raises StorageError."""
    with tempfile.SpooledTemporaryFile() as file:
        _download(s3, uri.bucket, uri.key, file)
        file.seek(0)
        content: bytes = file.read()
        return content


def put_object(s3: Any, uri: S3Uri, content: bytes) -> None:
    """Make an object. Raises StorageError."""
    try:
        s3.put_object(Bucket=uri.bucket, Key=uri.key, Body=content)
    except (BotoCoreError, ClientError) as error:
        raise StorageError(_upload_message(error, uri)) from error


def download_archive(s3: Any, uri: S3Uri, folder: Path) -> None:
    """The files of a ``.tar.gz`` in S3, unpacked into ``folder``. Raises StorageError."""
    with tempfile.TemporaryFile() as file:
        _download(s3, uri.bucket, uri.key, file)
        file.seek(0)
        extract(file, folder, str(uri))


def extract(file: Any, folder: Path, name: str) -> None:
    """
    Unpack a tar archive, compressed or not, so that nothing lands outside ``folder``.

    Owners are not restored. Raises StorageError for a broken archive, and for members that are devices or
    would leave the folder by their name or by a link.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:*") as archive:
            for member in archive:
                _check_member(member, os.path.realpath(folder), name)
                member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
                member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o600)
                # Checked above, as the "data" filter would, which older Pythons do not have.
                options = {"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}
                archive.extract(member, folder, **options)  # type: ignore[arg-type]  # by name only
    # Hard links to what is not there are a KeyError, to themselves a RecursionError; broken bytes what the
    # decompressor says.
    except (
        tarfile.TarError, EOFError, OSError, KeyError, RecursionError, ValueError, zlib.error, lzma.LZMAError,
    ) as error:  # fmt: skip
        raise StorageError(f"ClientError: {name} is not an archive that can be unpacked: {error}") from error


def upload_archive(s3: Any, folders: Sequence[Path], uri: S3Uri, temporary: Path) -> None:
    """
    The content of ``folders`` as one ``.tar.gz`` at ``uri``; of files with one name the last
    wins. Raises StorageError.
    """
    try:
        with tempfile.TemporaryFile(dir=temporary) as file:
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=3) as archive:
                for folder in folders:
                    for path in sorted(folder.iterdir()):
                        archive.add(path, arcname=path.name, filter=_data_only)
            file.seek(0)
            s3.upload_fileobj(file, uri.bucket, uri.key, Config=_transfer_config())
    except OSError as error:
        raise StorageError(f"ClientError: Artifact upload failed: {error}") from error
    except (BotoCoreError, ClientError, _upload_failed()) as error:
        raise StorageError(_upload_message(error, uri)) from error


def upload_files(s3: Any, folder: Path, uri: S3Uri) -> None:
    """Every file below ``folder`` at ``uri``, by its path. Raises StorageError."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        target = uri / path.relative_to(folder).as_posix()
        try:
            with path.open("rb") as file:
                s3.upload_fileobj(file, target.bucket, target.key, Config=_transfer_config())
        except OSError as error:
            raise StorageError(f"ClientError: Artifact upload failed: {error}") from error
        except (BotoCoreError, ClientError, _upload_failed()) as error:
            raise StorageError(_upload_message(error, target)) from error


def _transfer_config() -> Any:
    from boto3.s3.transfer import TransferConfig

    # The caller is a worker thread already; threads of the transfer's own would outnumber the cloud's.
    return TransferConfig(use_threads=False)


def _upload_failed() -> type[Exception]:
    from boto3.exceptions import S3UploadFailedError

    failed: type[Exception] = S3UploadFailedError
    return failed


def _upload_message(error: Exception, uri: S3Uri) -> str:
    return f"ClientError: Artifact upload failed: {uri}: {error}"


def _keys(s3: Any, uri: S3Uri, role_arn: str) -> Iterator[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=uri.bucket, Prefix=uri.key)
    try:
        for page in pages:
            for item in page.get("Contents", ()):
                yield item["Key"]
    except (BotoCoreError, ClientError) as error:
        raise StorageError(
            f'ClientError: Data download failed: listing "{uri}" with the role "{role_arn}": {error}'
        ) from error


def _relative_path(key: str, uri: S3Uri) -> PurePosixPath:
    """Where an object of a prefix goes, below its channel's folder."""
    if key == uri.key and not key.endswith("/"):
        rest = key.rsplit("/", 1)[-1]
    elif not uri.key or uri.key.endswith("/") or key.startswith(uri.key + "/"):
        rest = key[len(uri.key) :]
    else:  # the prefix ends in the middle of a name
        rest = key[uri.key.rfind("/") + 1 :]
    parts = [part for part in rest.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in rest:
        raise StorageError(f"ClientError: Data download failed: the key {key!r} is not a path")
    return PurePosixPath(*parts)


def _download(s3: Any, bucket: str, key: str, file: Any) -> None:
    try:
        s3.download_fileobj(bucket, key, file, Config=_transfer_config())
    except (BotoCoreError, ClientError) as error:
        raise StorageError(f"ClientError: Data download failed: s3://{bucket}/{key}: {error}") from error


def _check_member(member: tarfile.TarInfo, folder: str, name: str) -> None:
    """
    Refuse a member that would lie, or point, outside ``folder``.

    Asked member by member with what was unpacked before in place: a name may lead through links.
    """

    def inside(path: str) -> bool:
        return os.path.commonpath([folder, os.path.realpath(path)]) == folder

    place = os.path.join(folder, member.name)
    good = not os.path.isabs(member.name) and inside(place)
    if member.issym():
        target = os.path.join(os.path.dirname(place), member.linkname)
        good = (
            good and not os.path.isabs(member.linkname) and inside(target) and inside(os.path.dirname(place))
        )
    elif member.islnk():
        good = good and inside(os.path.join(folder, member.linkname))
    else:
        good = good and (member.isfile() or member.isdir())
    if not good:
        raise StorageError(f"ClientError: {name} has a member that may not be unpacked: {member.name!r}")


def _data_only(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return member if member.isfile() or member.isdir() or member.issym() or member.islnk() else None
