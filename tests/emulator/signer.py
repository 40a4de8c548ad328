"""
Signature Version 4, written from its description and not from botocore, so that two can disagree; and
requests sent byte for byte as they were signed, or not quite.
"""

import hashlib
import hmac
import http.client
import json
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Keys:
    """Who signs."""

    access_key_id: str
    secret: str
    token: str | None = None

    @classmethod
    def of(cls, user: Mapping[str, str]) -> "Keys":
        return cls(user["access_key_id"], user["secret_access_key"])


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The error's code, in whatever protocol."""
        if self.body.startswith(b"{"):
            return str(json.loads(self.body)["__type"])
        return self._text("Code")

    @property
    def message(self) -> str:
        if self.body.startswith(b"{"):
            return str(json.loads(self.body)["message"])
        return self._text("Message")

    def _text(self, name: str) -> str:
        for element in ElementTree.fromstring(self.body).iter():
            if element.tag.rpartition("}")[2] == name:
                return element.text or ""
        raise AssertionError(f"no {name} in {self.body!r}")


@dataclass
class Sender:
    """
    Requests to one cloud.

    ``host`` is what is signed and sent as Host; the connection goes to the endpoint in any case.
    """

    endpoint_url: str
    keys: Keys | None
    service: str
    region: str = "us-east-1"
    offset_seconds: float = 0
    """How much the sender's clock is ahead."""
    host: str = ""
    signing_key: bytes = field(default=b"", repr=False)
    signature: str = ""
    """Of the last request, with what came before it in the chunks' chain."""

    def __post_init__(self) -> None:
        self.host = self.host or urlsplit(self.endpoint_url).netloc

    @property
    def timestamp(self) -> str:
        return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + self.offset_seconds))

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        query: str = "",
        payload: str | None = None,
        sent: Mapping[str, Any] | None = None,
    ) -> Answer:
        """
        Sign and send.

        Args:
            payload: what stands for the body in the signature, its SHA-256 by default.
            sent: what is sent instead of what was signed: ``method``, ``path``, ``query``, ``body``,
            ``headers``.
        """
        given = {name.lower(): value for name, value in (headers or {}).items()}
        given["host"] = self.host
        given["x-amz-date"] = self.timestamp
        if payload is None:
            payload = hashlib.sha256(body).hexdigest()
        if self.service == "s3":
            given["x-amz-content-sha256"] = payload
        if self.keys is not None:
            if self.keys.token is not None:
                given["x-amz-security-token"] = self.keys.token
            given["authorization"] = self._authorization(method, path, query, given, payload)
        changed = dict(sent or {})
        given.update(changed.get("headers", {}))
        return self.exchange(
            changed.get("method", method),
            changed.get("path", path),
            changed.get("query", query),
            given,
            changed.get("body", body),
        )

    def exchange(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """One request as it stands."""
        url = urlsplit(self.endpoint_url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port or 0, timeout=30)
        try:
            connection.putrequest(
                method, f"{path}?{query}" if query else path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in headers.items():
                connection.putheader(name, value)
            if body and "content-length" not in headers:
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def presigned_query(
        self, method: str, path: str, expires: int, extra: Mapping[str, str] | None = None
    ) -> str:
        """The query of a presigned URL of S3."""
        assert self.keys is not None
        timestamp = self.timestamp
        scope = f"{timestamp[:8]}/{self.region}/{self.service}/aws4_request"
        pairs = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"{self.keys.access_key_id}/{scope}",
            "X-Amz-Date": timestamp,
            "X-Amz-Expires": str(expires),
            "X-Amz-SignedHeaders": "host",
            **(extra or {}),
        }
        query = "&".join(f"{_encode(name)}={_encode(value)}" for name, value in sorted(pairs.items()))
        canonical = "\n".join([method, path, query, f"host:{self.host}\n", "host", "UNSIGNED-PAYLOAD"])
        signature = self._sign(timestamp, scope, canonical)
        return f"{query}&X-Amz-Signature={signature}"

    def _authorization(
        self, method: str, path: str, query: str, headers: dict[str, str], payload: str
    ) -> str:
        assert self.keys is not None
        timestamp = headers["x-amz-date"]
        scope = f"{timestamp[:8]}/{self.region}/{self.service}/aws4_request"
        names = ";".join(sorted(headers))
        canonical_path = path if self.service == "s3" else quote(path, safe="/-_.~")
        pairs = [pair.partition("=") for pair in query.split("&")] if query else []
        canonical = "\n".join(
            [
                method,
                canonical_path,
                "&".join(sorted(f"{name}={value}" for name, _, value in pairs)),
                "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(headers)),
                names,
                payload,
            ]
        )
        signature = self._sign(timestamp, scope, canonical)
        credential = f"{self.keys.access_key_id}/{scope}"
        return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"

    def _sign(self, timestamp: str, scope: str, canonical: str) -> str:
        assert self.keys is not None
        key = f"AWS4{self.keys.secret}".encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{digest}"
        self.signing_key, self.scope, self.signed_at = key, scope, timestamp
        self.signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        return self.signature

    def put_chunks(
        self,
        path: str,
        chunks: list[bytes],
        trailers: Mapping[str, str] | None = None,
        tamper: Any = lambda body: body,
        decoded_bytes: int | None = None,
    ) -> Answer:
        """PUT a body in signed chunks. ``tamper`` changes the body after it was signed."""
        mode = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailers else "")
        size = sum(map(len, chunks)) if decoded_bytes is None else decoded_bytes
        headers = {
            "host": self.host,
            "x-amz-date": self.timestamp,
            "x-amz-content-sha256": mode,
            "content-encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(size),
        }
        if trailers:
            headers["x-amz-trailer"] = ",".join(trailers)
        headers["authorization"] = self._authorization("PUT", path, "", headers, mode)
        body = b""
        for chunk in [*chunks, b""]:
            digest = hashlib.sha256(chunk).hexdigest()
            signature = self._chain("PAYLOAD", EMPTY, digest)
            body += f"{len(chunk):x};chunk-signature={signature}\r\n".encode() + chunk
            if chunk or not trailers:
                body += b"\r\n"
        if trailers:
            text = "".join(f"{name}:{value}\n" for name, value in sorted(trailers.items()))
            body += "".join(f"{name}:{value}\r\n" for name, value in trailers.items()).encode()
            signature = self._chain("TRAILER", hashlib.sha256(text.encode()).hexdigest())
            body += f"x-amz-trailer-signature:{signature}\r\n\r\n".encode()
        return self.exchange("PUT", path, "", headers, tamper(body))

    def _chain(self, kind: str, *hashes: str) -> str:
        lines: tuple[str, ...] = (
            f"AWS4-HMAC-SHA256-{kind}",
            self.signed_at,
            self.scope,
            self.signature,
            *hashes,
        )
        self.signature = hmac.new(self.signing_key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
        return self.signature


def _encode(text: str) -> str:
    return quote(text, safe="-_.~")
