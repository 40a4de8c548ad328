"""
The signature of a managed instance's own requests: SigV4's layout, with RSA-PSS in place of the HMAC.

The two operations that use it are how an instance without credentials gets some.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from sagemaker_ssh_helper.emulator.service import ApiError, Call

# Numbers of the service, or as good.
MIN_PUBLIC_KEY_CHARS = 392  # the base64 of an RSA-2048 SubjectPublicKeyInfo
MAX_SKEW = 15 * 60.0  # seconds
_SALT_BYTES = 32

_CREDENTIAL = re.compile(r"(?P<instance>mi-[0-9a-f]{17})/(?P<scope>[0-9]{8}/[a-z0-9-]+/ssm/aws4_request)")
# The label says HMAC although the signature is RSA.
_ALGORITHM = "AWS4-HMAC-SHA256"
_REQUIRED_HEADERS = frozenset({"host", "x-amz-date", "x-amz-target"})


@dataclass(frozen=True)
class InstanceSignature:
    """What the Authorization header of such a request says."""

    instance_id: str
    scope: str
    signed_headers: str
    signature: bytes

    @classmethod
    def parse(cls, headers: Mapping[str, str]) -> "InstanceSignature":
        """The header's parts. Raises ApiError ``IncompleteSignatureException``."""
        algorithm, _, rest = headers.get("authorization", "").partition(" ")
        # A base64 signature may hold "=", so only the first one separates.
        parts = dict(part.strip().partition("=")[::2] for part in rest.split(","))
        credential = _CREDENTIAL.fullmatch(parts.get("Credential", ""))
        if algorithm != _ALGORITHM or credential is None:
            raise _incomplete("the Authorization header has no credential of a managed instance")
        signed_headers = parts.get("SignedHeaders", "")
        if _REQUIRED_HEADERS.difference(signed_headers.split(";")):
            raise _incomplete("host, x-amz-date and x-amz-target must be signed")
        try:
            signature = base64.b64decode(parts.get("Signature", ""), validate=True)
        except binascii.Error:
            raise _incomplete("the signature is not base64") from None
        if not signature:
            raise _incomplete("there is no signature")
        return cls(credential["instance"], credential["scope"], signed_headers, signature)


def verify_instance_signature(call: Call, signature: InstanceSignature, public_key: str, now: float) -> None:
    """
    Return when this key signed this request.

    Args:
        call: the request.
        signature: its Authorization header.
        public_key: base64 DER, as registered.
        now: seconds since the Unix epoch.

    Raises:
        ApiError: ``InvalidSignatureException`` for a wrong signature or a date that is 15 minutes off.
    """
    date = call.headers.get("x-amz-date", "")
    try:
        signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        raise _incomplete("x-amz-date is not a date") from None
    if abs(now - signed_at) > MAX_SKEW or not signature.scope.startswith(date[:8]):
        raise ApiError("InvalidSignatureException", f"Signature expired: {date} is too far from now.")
    try:
        parse_public_key(public_key).verify(
            signature.signature,
            string_to_sign(call, signature).encode(),
            padding.PSS(padding.MGF1(hashes.SHA256()), _SALT_BYTES),
            hashes.SHA256(),
        )
    except InvalidSignature:
        raise ApiError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        ) from None


def string_to_sign(call: Call, signature: InstanceSignature) -> str:
    """What the instance signed, by ordinary SigV4 rules over the headers it names."""
    names = signature.signed_headers.split(";")
    path, _, query = call.path.partition("?")
    canonical = "\n".join(
        [
            call.method,
            path,
            "&".join(sorted(query.split("&"))) if query else "",
            *(f"{name}:{' '.join(call.headers.get(name, '').split())}" for name in names),
            "",
            signature.signed_headers,
            hashlib.sha256(call.body).hexdigest(),
        ]
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return "\n".join([_ALGORITHM, call.headers["x-amz-date"], signature.scope, digest])


def parse_public_key(text: str) -> rsa.RSAPublicKey:
    """
    The key in the base64 of its DER SubjectPublicKeyInfo.

    Raises:
        ApiError: ``InvalidPublicKey`` unless it is RSA of 2048 bits or more.
    """
    try:
        if len(text) >= MIN_PUBLIC_KEY_CHARS:
            key = load_der_public_key(base64.b64decode(text, validate=True))
            if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
                return key
    except (binascii.Error, ValueError, TypeError):
        pass
    raise ApiError("InvalidPublicKey", "The public key is not an RSA key of at least 2048 bits.")


def _incomplete(why: str) -> ApiError:
    return ApiError("IncompleteSignatureException", f"The signature is incomplete: {why}.")
