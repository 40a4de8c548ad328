"""
The agent's own calls of AWS: Systems Manager, its message gateway and KMS, without any package.

Methods block, and may be called from several threads. They return plain values; what AWS answers otherwise is
raised as one of our errors, after the retries that make sense for it.
"""

import base64
import hashlib
import json
import logging
import os
import random
import re
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Type, Union
from urllib.parse import quote, urlsplit

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.agent import sigv4
from sagemaker_ssh_helper.agent.rsa import PrivateKey, sign_pss
from sagemaker_ssh_helper.agent.sigv4 import Credentials, Scope
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.aws_errors import Clock, ErrorAnswer, Kind, read_error
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AdvancedTierOff,
    AwsError,
    CredentialsExpired,
    EndpointUnreachable,
    LocalSetup,
    MalformedMessage,
    ServiceError,
    Throttled,
    shown_url,
)
from sagemaker_ssh_helper.names import AGENT_NAME, AGENT_VERSION, PRODUCT, InstanceId
from sagemaker_ssh_helper.protocol.payloads import CreateChannelInput, CreateChannelOutput

SESSION_TERMINATED = "Session is already terminated"
"""The gateway's word, in a refusal, that a session is over: its channel cannot be opened again."""

_USER_AGENT = f"{PRODUCT}/{__version__} {AGENT_NAME}/{AGENT_VERSION}"
_JSON = "application/x-amz-json-1.1"
_REGISTRATION_TIMEOUT = 60.0
_GATEWAY_TIMEOUT = 15.0
_CALL_TIMEOUT = 20.0
_IDENTITY_TIMEOUT = 5.0
_MAX_THROTTLED_DELAY = 32.0

SIGNATURES = 3
"""Of one request at most: as it comes, by AWS's time, with newer credentials."""

_ERRORS: Mapping[Kind, Type[AwsError]] = {
    Kind.THROTTLED: Throttled,
    Kind.EXPIRED: CredentialsExpired,
    Kind.DENIED: AccessDenied,
}

_logger = logging.getLogger(__name__)


class ServerFault(ServiceError):
    """AWS had trouble of its own, and still has after the retries."""


PLACE_INTERVAL = 0.23
"""Seconds between the places in a line: CreateActivation is allowed five times a second; some come late."""


@dataclass(frozen=True)
class Retry:
    """
    How often a call is tried, and the pauses between (seconds): a random part of a limit that doubles.

    ``throttled_delay`` is the first limit after AWS said that too many called; others then wait, too.
    ``place`` is how long the first of those pauses is at least: this caller's place in a line whose other
    members know theirs.
    """

    attempts: int = 4
    delay: float = 0.25
    throttled_delay: float = 1.0
    max_delay: float = 8.0
    throttled_attempts: int = 0
    """When AWS says that too many called; 0: as often as otherwise. The pauses may then grow, too."""
    place: float = 0.0

    def is_enough(self, attempts: int, error: AwsError) -> bool:
        """Whether that many attempts are all that are made, when this is what the last one gave."""
        longest = self.throttled_attempts if isinstance(error, Throttled) else 0
        return attempts >= max(longest, self.attempts)

    def pause(self, attempt: int, error: AwsError, part: float) -> float:
        """The pause after attempt ``attempt`` (from 0); ``part`` is random, 0 to 1."""
        first = self.throttled_delay if isinstance(error, Throttled) else self.delay
        limit = self.max_delay
        if self.throttled_attempts and isinstance(error, Throttled):
            limit = _MAX_THROTTLED_DELAY
        random_part = min(limit, first * float(2**attempt)) * part
        if self.place and attempt == 0 and isinstance(error, Throttled):
            # A line is kept only when nobody in it wanders far.
            return self.place + random_part * PLACE_INTERVAL
        return random_part


@dataclass(frozen=True)
class Identity:
    """Who the container is to AWS: ``aws:userid`` and the ARN of the role's session."""

    user_id: str
    arn: str


@dataclass(frozen=True)
class Activation:
    """What CreateActivation gives. The code is a secret until it is used."""

    activation_id: str
    activation_code: str = field(repr=False)


@dataclass(frozen=True)
class RoleToken:
    """What RequestManagedInstanceRoleToken gives. ``update_key_pair``: a new key is wanted now."""

    credentials: Credentials
    update_key_pair: bool


@dataclass(frozen=True)
class Upgrade:
    """A WebSocket to open: its URL, and the headers that sign the request."""

    url: str
    headers: Mapping[str, str] = field(repr=False)


def dns_suffix(region: str) -> str:
    """The domain of AWS's endpoints in this region."""
    for prefix, suffix in (
        ("cn-", "amazonaws.com.cn"),
        ("us-iso-", "c2s.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
        ("us-isof-", "csp.hci.ic.gov"),
        ("eusc-", "amazonaws.eu"),
    ):
        if region.startswith(prefix):
            return suffix
    return "amazonaws.com"


def endpoint_url(service: str, region: str, environ: Mapping[str, str], *, label: str = "") -> str:
    """
    ``https://SERVICE.REGION.SUFFIX``, unless AWS_ENDPOINT_URL_SERVICE or AWS_ENDPOINT_URL is set. A host that
    begins with another ``label`` than the service's name has it in that place.

    Without a slash at its end, and without a port that goes without saying: what is signed is what is sent.
    Raises LocalSetup, which names the variable, for what is not a URL.
    """
    names = (f"AWS_ENDPOINT_URL_{service.upper()}", "AWS_ENDPOINT_URL")
    name = next((name for name in names if environ.get(name)), None)
    if name is None:
        return f"https://{label or service}.{region}.{dns_suffix(region)}"
    chosen = environ[name]
    try:
        parts = urlsplit(chosen.rstrip("/"))
        host = sigv4.host_of(chosen)
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError
    except ValueError:
        raise LocalSetup(
            f"{name} is not a valid URL",
            evidence=repr(shown_url(chosen)),
            fix="Write it like https://HOST in the job's environment",
        ) from None
    return parts._replace(netloc=host).geturl()


class AwsApi:
    """
    The calls, in one region.

    Args:
        credentials: called for each signed call; the container's role before the registration, the managed
            instance's afterwards. None when only unsigned and RSA signed calls will be made.
        renew: called when AWS does not take the credentials any more; whether there are others now.
        clock: AWS's; None for one of its own, by ``now``.
        now: seconds since the epoch.
        sleep: takes seconds.
        chance: gives a random number, 0 to 1.
    """

    def __init__(
        self,
        region: str,
        credentials: Optional[Callable[[], Credentials]] = None,
        *,
        environ: Optional[Mapping[str, str]] = None,
        renew: Callable[[], bool] = lambda: False,
        clock: Optional[Clock] = None,
        transport: Optional[Transport] = None,
        retry: Optional[Retry] = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], object] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        environ = os.environ if environ is None else environ
        self.region = region
        self._credentials = credentials
        self._transport = transport or Transport(environ)
        self._retry = retry or Retry()
        self.clock = clock or Clock(now)
        self._renew = renew
        self._sleep = sleep
        self._chance = chance
        self.ssm_url = endpoint_url("ssm", region, environ) + "/"
        self.kms_url = endpoint_url("kms", region, environ) + "/"
        self._sagemaker_url = endpoint_url("sagemaker", region, environ, label="api.sagemaker") + "/"
        self._sts_url = endpoint_url("sts", region, environ) + "/"
        self._delivery_url = endpoint_url("ec2messages", region, environ) + "/"
        self.gateway_url = endpoint_url("ssmmessages", region, environ)

    def now(self) -> float:
        """Seconds since the epoch by AWS's clock, as far as it is known to differ from ours."""
        return self.clock.now()

    # --- the container ---------------------------------------------------------------------------

    def caller_identity(self) -> Identity:
        """Who the credentials are, by STS's word. Once, or again by AWS's clock; at most some seconds."""
        body = b"Action=GetCallerIdentity&Version=2011-06-15"
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        for _ in range(2):
            signed = sigv4.sign(
                self._current_credentials(), self._scope("sts"), "POST", self._sts_url, headers, body
            )
            answer = self._transport.request(
                "POST", self._sts_url, {**headers, **signed}, body, timeout=_IDENTITY_TIMEOUT
            )
            text = answer.body.decode("utf-8", "replace")
            user_id, arn = _element("UserId", text), _element("Arn", text)
            if answer.status == 200 and user_id and arn:
                return Identity(user_id, arn)
            refusal = read_error(answer.status, answer.headers, answer.body)
            if not self._learn_skew(refusal):
                break
        raise ServiceError("GetCallerIdentity failed", code=refusal.code)

    # --- Systems Manager -------------------------------------------------------------------------

    def create_activation(
        self,
        iam_role: str,
        instance_name: str,
        tags: Mapping[str, str],
        *,
        lifetime: Optional[float] = None,
        retry: Optional[Retry] = None,
    ) -> Activation:
        """
        An activation for one registration.

        Args:
            iam_role: the name of the role the managed instance will have.
            tags: given to the managed instance.
            lifetime: seconds, by AWS's clock, in which it can be used; None: AWS's default, a day.
        """

        def parameters() -> Mapping[str, Any]:
            found: Dict[str, Any] = {
                "IamRole": iam_role,
                "DefaultInstanceName": instance_name,
                "Description": instance_name,
                "RegistrationLimit": 1,
                "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
            }
            if lifetime is not None:
                found["ExpirationDate"] = int(self.now() + lifetime)
            return found

        operation = "CreateActivation"
        answer = self._call(operation, parameters, self._signed, retry=retry)
        return Activation(
            _text(answer, operation, "ActivationId"), _text(answer, operation, "ActivationCode")
        )

    def register_managed_instance(
        self, activation: Activation, fingerprint: str, public_key: str, *, retry: Optional[Retry] = None
    ) -> InstanceId:
        """Use an activation up; ``public_key`` is ``PrivateKey.public_key``. Needs no credentials."""
        parameters = {
            "ActivationCode": activation.activation_code,
            "ActivationId": activation.activation_id,
            "Fingerprint": fingerprint,
            "PublicKey": public_key,
            "PublicKeyType": "Rsa",
        }
        operation = "RegisterManagedInstance"
        answer = self._call(operation, parameters, _unsigned, retry=retry)
        return InstanceId(_text(answer, operation, "InstanceId"))

    def request_role_token(self, instance_id: InstanceId, fingerprint: str, key: PrivateKey) -> RoleToken:
        """Credentials of the managed instance's role. Signed with its key."""
        operation = "RequestManagedInstanceRoleToken"
        signer = self._rsa_signed(instance_id, key)
        answer = self._call(operation, {"Fingerprint": fingerprint}, signer, chunked=True)
        expires_at = answer.get("TokenExpirationDate")
        if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)):
            raise ServiceError(f"{operation} gave no TokenExpirationDate")
        credentials = Credentials(
            _text(answer, operation, "AccessKeyId"),
            _text(answer, operation, "SecretAccessKey"),
            _text(answer, operation, "SessionToken"),
            float(expires_at),
        ).checked("AccessKeyId", "SecretAccessKey", "SessionToken")
        return RoleToken(credentials, answer.get("UpdateKeyPair") is True)

    def update_public_key(self, instance_id: InstanceId, key: PrivateKey, new_public_key: str) -> None:
        """Replace the managed instance's key. Signed with the one it still has."""
        parameters = {"NewPublicKey": new_public_key, "NewPublicKeyType": "Rsa"}
        signer = self._rsa_signed(instance_id, key)
        self._call("UpdateManagedInstancePublicKey", parameters, signer, chunked=True)

    def update_instance_information(
        self, instance_id: InstanceId, details: Optional[Mapping[str, str]] = None
    ) -> None:
        """
        The heartbeat.

        Args:
            details: the rest of the full form; None: the short form, the first of a start.
        """
        parameters = {
            "AgentName": AGENT_NAME,
            "AgentVersion": AGENT_VERSION,
            "InstanceId": instance_id,
            "PlatformType": "Linux",
            **(details or {}),
        }
        self._call("UpdateInstanceInformation", parameters, self._signed)

    def deregister_managed_instance(self, instance_id: InstanceId) -> None:
        """Remove the managed instance."""
        self._call("DeregisterManagedInstance", {"InstanceId": instance_id}, self._signed)

    # --- the message delivery service ------------------------------------------------------------

    def get_messages(self, instance_id: InstanceId) -> List[Mapping[str, Any]]:
        """Commands for this managed instance: a long poll, of which silence is one end. Not retried."""
        parameters = {
            "Destination": instance_id,
            "MessagesRequestId": str(uuid.uuid4()),
            "VisibilityTimeoutInSeconds": 10,
        }
        found = self._delivery_call("GetMessages", parameters, retry=Retry(1)).get("Messages")
        return [message for message in found if isinstance(message, dict)] if isinstance(found, list) else []

    def acknowledge_message(self, message_id: str) -> None:
        """It is not to be delivered again."""
        self._delivery_call("AcknowledgeMessage", {"MessageId": message_id})

    def send_reply(self, message_id: str, payload: str) -> None:
        """How the command is getting on; ``payload`` is the JSON of a reply."""
        parameters = {"MessageId": message_id, "Payload": payload, "ReplyId": str(uuid.uuid4())}
        self._delivery_call("SendReply", parameters)

    def fail_message(self, message_id: str, failure_type: str) -> None:
        """It cannot be handled."""
        self._delivery_call("FailMessage", {"MessageId": message_id, "FailureType": failure_type})

    def _delivery_call(
        self, operation: str, parameters: Mapping[str, Any], *, retry: Optional[Retry] = None
    ) -> Dict[str, Any]:
        target = _Target("ec2messages", "EC2WindowsMessageDeliveryService", self._delivery_url)
        return self._call(operation, parameters, self._signed_for(target), target=target, retry=retry)

    # --- KMS -------------------------------------------------------------------------------------

    def decrypt(self, key_id: str, cipher_text: bytes, context: Mapping[str, str]) -> bytes:
        """
        What was encrypted with a KMS key for this encryption context.

        Args:
            key_id: the key's id, alias or ARN.
        """
        parameters = {
            "CiphertextBlob": base64.b64encode(cipher_text).decode("ascii"),
            "EncryptionContext": dict(context),
            "KeyId": key_id,
        }
        operation = "Decrypt"
        target = _Target("kms", "TrentService", self.kms_url)
        answer = self._call(operation, parameters, self._signed_for(target), target=target)
        try:
            return base64.b64decode(_text(answer, operation, "Plaintext"), validate=True)
        except ValueError:
            raise ServiceError(f"{operation} gave no base64") from None

    # --- SageMaker -------------------------------------------------------------------------------

    def describe_training_job(self, name: str) -> Dict[str, Any]:
        """What SageMaker says of the training job; the role needs ``sagemaker:DescribeTrainingJob``."""
        target = _Target("sagemaker", "SageMaker", self._sagemaker_url)
        parameters = {"TrainingJobName": name}
        return self._call("DescribeTrainingJob", parameters, self._signed_for(target), target=target)

    # --- the message gateway ---------------------------------------------------------------------

    def create_control_channel(self, instance_id: InstanceId) -> str:
        """A token for one opening of the control channel. Not retried: the channel's owner does that."""
        body = CreateChannelInput(str(uuid.uuid4())).serialize()
        return self._create_channel(f"control-channel/{quote(instance_id, safe='')}", body)

    def create_data_channel(self, session_id: str) -> str:
        """
        A token for one opening of a session's data channel. Not retried.

        A refusal whose evidence holds SESSION_TERMINATED is final.
        """
        body = CreateChannelInput(str(uuid.uuid4()), client_id="").serialize()
        return self._create_channel(f"data-channel/{quote(session_id, safe='')}", body)

    def control_channel_upgrade(self, instance_id: InstanceId) -> Upgrade:
        """How to open the control channel's WebSocket now."""
        return self._upgrade(f"control-channel/{quote(instance_id, safe='')}?role=subscribe&stream=input")

    def data_channel_upgrade(self, session_id: str) -> Upgrade:
        """How to open a session's WebSocket now."""
        return self._upgrade(f"data-channel/{quote(session_id, safe='')}?role=publish_subscribe")

    def _create_channel(self, path: str, body: bytes) -> str:
        url = f"{self.gateway_url}/v1/{path}"
        headers = {"Content-Type": "application/json"}
        signatures = 0
        while True:
            signed = self._gateway_signed("POST", url, headers, body)
            answer = self._transport.request(
                "POST", url, {**headers, **signed, "User-Agent": _USER_AGENT}, body, timeout=_GATEWAY_TIMEOUT
            )
            if answer.status == CreateChannelOutput.STATUS:
                break
            signatures += 1
            refusal = read_error(answer.status, answer.headers, answer.body)
            if signatures == SIGNATURES or not self.sign_differently(refusal):
                raise _error(f"the message gateway refused a {path.partition('/')[0]}", refusal)
        try:
            return CreateChannelOutput.parse(answer.body).token
        except MalformedMessage as error:
            raise ServiceError(f"the message gateway gave no token: {error}") from error

    def _upgrade(self, path: str) -> Upgrade:
        url = "ws" + f"{self.gateway_url}/v1/{path}"[len("http") :]
        signed = self._gateway_signed("GET", url, {}, b"")
        return Upgrade(url, {**signed, "User-Agent": _USER_AGENT})

    # --- signing and sending ---------------------------------------------------------------------

    def _current_credentials(self) -> Credentials:
        assert self._credentials is not None, "a signed call needs credentials"
        return self._credentials()

    def _scope(self, service: str) -> Scope:
        return Scope(self.now(), self.region, service)

    def _gateway_signed(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> Dict[str, str]:
        scope = self._scope("ssmmessages")
        return sigv4.sign(self._current_credentials(), scope, method, url, headers, body)

    def _signed(self, headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
        return self._signed_for(self._ssm)(headers, body)

    def _signed_for(self, target: "_Target") -> "_Signer":
        def sign(headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
            scope = self._scope(target.service)
            return sigv4.sign(self._current_credentials(), scope, "POST", target.url, headers, body)

        return sign

    @property
    def _ssm(self) -> "_Target":
        return _Target("ssm", "AmazonSSM", self.ssm_url)

    def _rsa_signed(self, instance_id: InstanceId, key: PrivateKey) -> "_Signer":
        """Signature Version 4's layout, with the instance's id for the access key and RSA for the HMAC."""

        def sign(headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
            scope = self._scope("ssm")
            date = {"X-Amz-Date": scope.amz_date}
            signed = {"Host": sigv4.host_of(self.ssm_url), **headers, **date}
            text = sigv4.string_to_sign(scope, "POST", self.ssm_url, signed, body)
            signature = base64.b64encode(sign_pss(key, text.encode("utf-8"))).decode("ascii")
            return {
                **date,
                "Authorization": sigv4.authorization(instance_id, scope, signed, signature),
                # Not signed, as the official agent sends it: it holds what the signature covers anyway.
                "X-Amz-Content-Sha256": hashlib.sha256(body).hexdigest(),
            }

        return sign

    def _call(
        self,
        operation: str,
        parameters: Union[Mapping[str, Any], Callable[[], Mapping[str, Any]]],
        signer: "_Signer",
        *,
        retry: Optional[Retry] = None,
        chunked: bool = False,
        target: "Optional[_Target]" = None,
    ) -> Dict[str, Any]:
        """
        One call, of Systems Manager unless told otherwise, with its retries: on throttling, server errors,
        and when there is no answer.

        Args:
            parameters: a function, when they depend on the time: it is called for each attempt.

        Raises AwsError.
        """
        retry = retry or self._retry
        target = target or self._ssm
        headers = {"Content-Type": _JSON, "X-Amz-Target": f"{target.prefix}.{operation}"}
        attempt, signatures = 0, 0
        while True:
            try:
                now = parameters() if callable(parameters) else parameters
                body = json.dumps(now, separators=(",", ":")).encode("utf-8")
                # Signed anew each time: a pause may have made the signature too old.
                signed = {**headers, **signer(headers, body), "User-Agent": _USER_AGENT}
                timeout = _REGISTRATION_TIMEOUT if signer is _unsigned else _CALL_TIMEOUT
                answer = self._transport.request(
                    "POST", target.url, signed, body, timeout=timeout, chunked=chunked
                )
                if answer.status == 200:
                    return _object(operation, answer.body)
                refusal = read_error(answer.status, answer.headers, answer.body)
                error = _error(f"{operation} failed", refusal)
                signatures += 1
                if signatures < SIGNATURES and signer is not _unsigned and self.sign_differently(refusal):
                    continue
                if refusal.kind not in (Kind.THROTTLED, Kind.TRANSIENT):
                    raise error
            except EndpointUnreachable as unreachable:
                # A certificate that is not trusted now will not be in a second.
                if unreachable.fix is not None:
                    raise
                error = unreachable
            attempt += 1
            if retry.is_enough(attempt, error):
                raise error
            pause = retry.pause(attempt - 1, error, self._chance())
            _logger.info("! %s again in %.2f s: %s", operation, pause, error)
            self._sleep(pause)

    def sign_differently(self, refusal: ErrorAnswer) -> bool:
        """
        After a refusal: whether another signature of the same request may be taken, by AWS's time or with
        newer credentials. Blocks while those are fetched.
        """
        if self._learn_skew(refusal):
            return True
        return refusal.kind in (Kind.EXPIRED, Kind.INVALID) and self._renew()

    def _learn_skew(self, refusal: ErrorAnswer) -> bool:
        """Take AWS's clock when it says that ours is wrong; whether that changed anything."""
        if not self.clock.learn(refusal):
            return False
        skew = self.clock.skew
        _logger.warning("the clock of this container is %.0f s off; AWS's time is used for signatures", -skew)
        return True


@dataclass(frozen=True)
class _Target:
    """A service that speaks AWS's JSON: its signing name, what its operations begin with, where it is."""

    service: str
    prefix: str
    url: str


_Signer = Callable[[Mapping[str, str], bytes], Mapping[str, str]]


def _unsigned(headers: Mapping[str, str], body: bytes) -> Mapping[str, str]:
    return {}


def _object(operation: str, body: bytes) -> Dict[str, Any]:
    try:
        answer = json.loads(body.decode("utf-8")) if body else {}
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        # The text is not quoted: an answer can hold credentials.
        raise ServiceError(f"{operation} answered with something else than a JSON object")
    return answer


def _text(answer: Mapping[str, Any], operation: str, name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str) or not value:
        raise ServiceError(f"{operation} gave no {name}")
    return value


def _element(name: str, text: str) -> str:
    """The text of the first element of this name in XML; empty when there is none."""
    found = re.search(f"<{name}>([^<]+)</{name}>", text)
    return found.group(1) if found else ""


def _error(what: str, answer: ErrorAnswer) -> AwsError:
    """Our error for AWS's; its evidence is ``CODE: message``, as others look for it in logs."""
    evidence = f"{answer.code}: {answer.message}" if answer.message else answer.code
    kind: Optional[Type[AwsError]] = _ERRORS.get(answer.kind)
    if kind is None and answer.wants_advanced_tier:
        kind = AdvancedTierOff
    if kind is not None:
        return kind(what, evidence=evidence)
    return (ServerFault if answer.kind is Kind.TRANSIENT else ServiceError)(
        what, code=answer.code, evidence=evidence
    )
