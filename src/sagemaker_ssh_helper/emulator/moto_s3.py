"""
moto's S3 without its copies: large bodies stay in the files in which they arrived, and leave from there.

moto itself reads every body into memory, joins the parts of an upload there, and copies an object for each
range that is read of it; a model of a gigabyte would need three.
"""

import base64
import hashlib
import tempfile
from collections.abc import Iterable
from typing import IO, Any, cast

from moto.s3 import exceptions
from moto.s3.models import MultipartChecksumBuilder
from moto.s3.responses import S3Response
from moto.settings import S3_UPLOAD_PART_MIN_SIZE

from sagemaker_ssh_helper.emulator.aws_chunked import Crc32
from sagemaker_ssh_helper.emulator.http import BODY_MEMORY_BYTES, Body, Content, FileContent

BODY_KEY = "sagemaker_ssh_helper.body"
"""Where the request's environ has the Body that moto did not get to read."""

IN_MEMORY_BYTES = 4 * 1024 * 1024
"""Bodies and answers up to this are given to moto, or taken from it, as bytes."""

_COPY_BYTES = 1024 * 1024


class S3(S3Response):
    """moto's answers to S3's requests."""

    @property
    def backend(self) -> Any:
        return _Backend(super().backend, self.normalized_request.environ.get(BODY_KEY))

    def _get_key(self, validate_storage_class: bool = True) -> tuple[Any, bool]:
        key, not_modified = super()._get_key(validate_storage_class)
        return _Key(key), not_modified


class _Backend:
    """moto's S3 backend, with the three operations that take large bodies done otherwise."""

    def __init__(self, backend: Any, body: Body | None) -> None:
        self._backend = backend
        self._body = body

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def put_object(self, bucket_name: str, key_name: str, value: bytes, **options: Any) -> Any:
        if self._body is None:
            return self._backend.put_object(bucket_name, key_name, value, **options)
        etag = self._body.digest("md5").hex()
        key = self._backend.put_object(bucket_name, key_name, b"", **{**options, "etag": etag})
        _fill(key, self._body.detach(), self._body.size)
        return key

    def upload_part(self, bucket_name: str, multipart_id: str, part_id: int, value: bytes) -> Any:
        if self._body is None:
            return self._backend.upload_part(bucket_name, multipart_id, part_id, value)
        part = self._backend.upload_part(bucket_name, multipart_id, part_id, b"")
        part._etag = self._body.digest("md5").hex()
        _fill(part, self._body.detach(), self._body.size)
        return part

    def complete_multipart_upload(
        self, bucket_name: str, multipart_id: str, body: Iterable[tuple[int, str]]
    ) -> Any:
        multipart = self._backend.get_bucket(bucket_name).multiparts[multipart_id]
        whole = _Whole(multipart, body)
        multipart.complete = lambda _: (b"", whole.etag, whole.checksum)
        key = self._backend.complete_multipart_upload(bucket_name, multipart_id, body)
        del multipart.complete
        _fill(key, whole.file, whole.size)
        for part in multipart.parts.values():
            # Their sizes and hashes may still be asked for; their contents are the object's.
            part.dispose()
        return key


def _fill(key: Any, file: IO[bytes], size: int) -> None:
    key._value_buffer.close()
    key._value_buffer = file
    key.contentsize = size


class _Whole:
    """The parts of an upload as one file. Raises moto's exceptions for parts that do not make an object."""

    def __init__(self, multipart: Any, wanted: Iterable[tuple[int, str]]) -> None:
        parts: list[Any] = []
        for number, etag in wanted:
            part = multipart.parts.get(number)
            if part is None or part.etag.strip('"') != etag.strip('"'):
                raise exceptions.InvalidPart
            if parts and parts[-1].size < S3_UPLOAD_PART_MIN_SIZE:
                raise exceptions.EntityTooSmall
            parts.append(part)
        if not parts:
            raise exceptions.MalformedXML
        digests = b"".join(bytes.fromhex(part.etag.strip('"')) for part in parts)
        md5 = hashlib.md5(digests, usedforsecurity=False).hexdigest()
        self.etag = f"{md5}-{len(parts)}"
        self.size = sum(part.size for part in parts)
        self.checksum: tuple[str, str, int] | None = None
        algorithm = multipart.metadata.get("x-amz-checksum-algorithm")
        kind = multipart.metadata.get("x-amz-checksum-type")
        builder = MultipartChecksumBuilder(algorithm, kind) if algorithm else None
        crc = Crc32() if (algorithm, kind) == ("CRC32", "FULL_OBJECT") else None
        self.file = cast(IO[bytes], tempfile.SpooledTemporaryFile(BODY_MEMORY_BYTES))  # noqa: SIM115
        for part in parts:
            part._value_buffer.seek(0)
            while chunk := part._value_buffer.read(_COPY_BYTES):
                self.file.write(chunk)
                if crc is not None:
                    crc.update(chunk)
            if builder is not None and crc is None:
                builder.addPart(part.value)
        if crc is not None:
            self.checksum = ("FULL_OBJECT", base64.b64encode(crc.digest()).decode(), 1)
        elif builder is not None:
            self.checksum = builder.build()


class _Key:
    """One of moto's objects, with its contents left where they are."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._key, name)

    @property
    def value(self) -> "StoredBytes | bytes":
        if self._key.size <= IN_MEMORY_BYTES:
            contents: bytes = self._key.value
            return contents
        return StoredBytes(self._key, 0, self._key.size)


class StoredBytes:
    """A part of an object's contents: knows its length and can be cut, like bytes, without being read."""

    def __init__(self, key: Any, start: int, size: int) -> None:
        self._key = key
        self._start = start
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, cut: slice) -> "StoredBytes":
        start, stop, _ = cut.indices(self._size)
        return StoredBytes(self._key, self._start + start, max(stop - start, 0))

    def content(self) -> "Content | bytes":
        """For an answer. To be called while nobody changes the object; what it returns is safe afterwards."""
        buffer = self._key._value_buffer
        with self._key.lock:
            if self._size > IN_MEMORY_BYTES and buffer._rolled:
                buffer.flush()
                return FileContent(buffer.fileno(), self._start, self._size)
            buffer.seek(self._start)
            part: bytes = buffer.read(self._size)
            return part
