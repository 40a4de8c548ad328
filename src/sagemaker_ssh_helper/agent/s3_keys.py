"""
Public keys from S3: one object, or every one below a prefix, with our own signed requests.

Standard library only; Python 3.8.
"""

import hashlib
import re
import time
from typing import List, Mapping
from urllib.parse import quote
from xml.sax.saxutils import unescape

from sagemaker_ssh_helper.agent import aws_api, sigv4
from sagemaker_ssh_helper.agent.transport import Answer, Transport
from sagemaker_ssh_helper.aws_errors import Clock, ErrorAnswer, Kind, read_error
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    EndpointUnreachable,
    LocalSetup,
    ServiceError,
    UsageError,
)
from sagemaker_ssh_helper.public_keys import PublicKey

MAX_KEYS = 100
"""Objects below a prefix that are read, at most."""

_TIMEOUT = 10.0
_PAUSES = (1.0, 0.5, 0.25)
"""Seconds between the tries of one object that S3 throttles, the last one first."""
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
# RSA-16384 has some 2,800 characters.
_MAX_KEY_BYTES = 8192
_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^\x00-\x1f]*))?")


class KeyStore:
    """
    The keys at ``s3://BUCKET/KEY``, or at ``s3://BUCKET/PREFIX/``.

    Raises UsageError for any other text, LocalSetup without a region.
    """

    def __init__(
        self, uri: str, region: str, credentials: sigv4.Credentials, environ: Mapping[str, str], now: float
    ) -> None:
        """``now`` is seconds since the epoch."""
        found = _URI.fullmatch(uri.strip())
        if found is None:
            raise UsageError(
                "that is no place in S3", fix="It has the form s3://BUCKET/KEY, or s3://BUCKET/PREFIX/"
            )
        if not region:
            raise LocalSetup("the AWS region is not known", fix="Set AWS_REGION in the job's environment")
        self._bucket, self._key = found.group(1), found.group(2) or ""
        self._credentials = credentials
        self._region = region
        self._clock = Clock(lambda: now)
        self._transport = Transport(environ)
        chosen = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
        host = f"s3.{region}.{aws_api.dns_suffix(region)}"
        if chosen:
            self._url = f"{aws_api.endpoint_url('s3', region, environ)}/{self._bucket}/"
        elif "." in self._bucket:
            # A certificate for *.s3 does not cover such a name.
            self._url = f"https://{host}/{self._bucket}/"
        else:
            self._url = f"https://{self._bucket}.{host}/"

    def fetch(self) -> List[PublicKey]:
        """
        The keys that are there. Objects below a prefix that hold no public key are passed over.

        Blocks, at most some seconds for each object. Raises AwsError or LocalSetup with what to change;
        UsageError when the one object that was named is no public key.
        """
        if self._key and not self._key.endswith("/"):
            return [self._read(self._key)]
        found = []
        for name in self._list():
            try:
                found.append(self._read(name))
            except UsageError:
                continue
        return found

    def _read(self, name: str) -> PublicKey:
        answer = self._get(
            quote(name, safe="/-_.~"), "", f"s3:GetObject on arn:aws:s3:::{self._bucket}/{name}"
        )
        text = answer.body[: _MAX_KEY_BYTES + 1].decode("utf-8", "replace")
        return PublicKey.parse(text.strip())

    def _list(self) -> List[str]:
        query = f"list-type=2&max-keys={MAX_KEYS}&prefix={quote(self._key, safe='')}"
        answer = self._get("", query, f"s3:ListBucket on arn:aws:s3:::{self._bucket}")
        text = answer.body.decode("utf-8", "replace")
        names = [
            unescape(name, {"&quot;": '"', "&apos;": "'"}) for name in re.findall("<Key>([^<]+)</Key>", text)
        ]
        return [name for name in names if not name.endswith("/")]

    def _get(self, path: str, query: str, right: str) -> Answer:
        url = self._url + path + (f"?{query}" if query else "")
        headers = {"X-Amz-Content-SHA256": _EMPTY_SHA256}
        pauses = list(_PAUSES)
        while True:
            scope = sigv4.Scope(self._clock.now(), self._region, "s3")
            signed = sigv4.sign(self._credentials, scope, "GET", url, headers)
            try:
                answer = self._transport.request("GET", url, {**headers, **signed}, timeout=_TIMEOUT)
            except EndpointUnreachable as error:
                error.fix = error.fix or "A container in a VPC needs an endpoint for S3, or a NAT gateway"
                raise
            if answer.status == 200:
                return answer
            refusal = read_error(answer.status, answer.headers, answer.body)
            if self._clock.learn(refusal):
                continue
            if not pauses or refusal.kind not in (Kind.THROTTLED, Kind.TRANSIENT):
                raise self._explained(refusal, _region(answer), right)
            time.sleep(pauses.pop())

    def _explained(self, answer: ErrorAnswer, region: str, right: str) -> Exception:
        evidence = code = answer.code
        if region and region != self._region:
            return LocalSetup(
                f"the bucket {self._bucket} is in {region}, this container in {self._region}",
                evidence=evidence,
                fix="Use a bucket of the container's own region: it may reach no other region's endpoints",
            )
        if code == "NoSuchBucket":
            return LocalSetup(
                f"there is no bucket {self._bucket}",
                evidence=evidence,
                fix="Set SSH_AUTHORIZED_KEYS_PATH to a bucket of yours",
            )
        if answer.status == 404:
            return LocalSetup(f"there is no s3://{self._bucket}/{self._key}", evidence=evidence)
        if answer.kind is Kind.DENIED or code == "HTTP 403":
            # Other codes speak of the credentials, which no policy mends.
            return AccessDenied(
                f"the container may not read s3://{self._bucket}/{self._key}",
                evidence=evidence,
                fix=f"Let the job's role call {right}",
            )
        return ServiceError(f"s3://{self._bucket}/{self._key} cannot be read", code=code, evidence=evidence)


def _region(answer: Answer) -> str:
    """The region that S3 names; empty when it names none."""
    region = re.search("<Region>([^<]+)</Region>", answer.body[:4096].decode("utf-8", "replace"))
    return answer.headers.get("x-amz-bucket-region") or (region.group(1) if region else "")
