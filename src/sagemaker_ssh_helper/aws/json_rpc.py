"""
The few JSON calls we make, without building a boto client.

One keep-alive connection per service over botocore's own HTTP layer, so that certificates, proxies and their
settings work as they do for every other AWS tool. Whatever goes wrong leaves here as one of our errors.
"""

from __future__ import annotations

import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sagemaker_ssh_helper.aws import diagnosis
from sagemaker_ssh_helper.aws.session import SERVICES, Session, proxies_for
from sagemaker_ssh_helper.aws_errors import ErrorAnswer, Kind, hide_sent, read_error
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    AdvancedTierOff,
    ClockSkewed,
    CredentialsExpired,
    CredentialsInvalid,
    EndpointUnreachable,
    InstanceNotValid,
    NotConnected,
    ServiceError,
    SSHHelperError,
    Throttled,
    without_secrets,
)

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 3.1
"""Seconds; a little more than one lost SYN costs."""

READ_TIMEOUT = 20.0
"""Seconds."""

ATTEMPTS = 5
"""Tries of one call in all, when AWS throttles it or answers with a fault of its own."""

CONNECT_ATTEMPTS = 2
"""Tries when nothing answers: a user who waits wants to know soon."""

_FIRST_DELAY, _MAX_DELAY = 0.2, 5.0  # seconds; doubled at each try, and drawn from 0 to that

_REPEATABLE = ("Describe", "List", "Get", "Terminate", "Resume", "Generate")


class _Repeatable(Exception):
    """A failure after which the same request may be sent again; ``at_once`` when it will be another one."""

    def __init__(self, error: SSHHelperError, *, at_once: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.at_once = at_once


@dataclass(frozen=True)
class Caller:
    """Who calls: the account, the ARN and the ``aws:userid``."""

    account: str
    arn: str
    user_id: str


class Client:
    """
    Calls AWS for one session. Safe to use from several threads.

    ``calls`` counts the requests sent, repeated ones too.
    """

    def __init__(
        self,
        session: Session,
        *,
        connect_timeout: float = CONNECT_TIMEOUT,
        read_timeout: float = READ_TIMEOUT,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.session = session
        self.calls = 0
        self._timeouts = (connect_timeout, read_timeout)
        self._attempts = attempts
        self._sleep = sleep
        self._jitter = jitter
        self._http: dict[str, Any] = {}

    def call(self, service_name: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """
        The answer of one operation, as AWS's JSON has it.

        Raises AwsError of the matching kind; NotConnected or InstanceNotValid when AWS says that an
        instance is not connected.
        """
        service = SERVICES[service_name]
        headers = {
            "Content-Type": f"application/x-amz-json-{service.json_version}",
            "X-Amz-Target": f"{service.target_prefix}.{operation}",
        }
        body = self._post(service_name, operation, headers, json.dumps(parameters).encode())
        try:
            answer = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._no_answer(service_name, f"{operation} was answered with no JSON")
        return answer

    def forget_connections(self) -> None:
        """Make new ones from now on: the network has changed, and those there are may be dead."""
        self._http = {}

    def pages(
        self, service_name: str, operation: str, key: str, **parameters: Any
    ) -> Iterator[dict[str, Any]]:
        """Every item of a list operation, page after page. Raises as ``call`` does."""
        token: str | None = None
        while True:
            more = {"NextToken": token} if token else {}
            answer = self.call(service_name, operation, **parameters, **more)
            items = answer.get(key) or []
            if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
                raise self._no_answer(
                    service_name, f"{operation} was answered with something else than a list"
                )
            yield from items
            token = answer.get("NextToken")
            if not token:
                return

    def caller(self) -> Caller:
        """Who we are. Raises AwsError."""
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        body = self._post("sts", "GetCallerIdentity", headers, b"Action=GetCallerIdentity&Version=2011-06-15")
        found = {
            name: match[1].decode("utf-8", "replace")
            for name in ("Account", "Arn", "UserId")
            if (match := re.search(rb"<%b>([^<]+)</%b>" % (name.encode(), name.encode()), body))
        }
        if "UserId" not in found:
            raise self._no_answer("sts", "GetCallerIdentity was answered with no identity")
        return Caller(found.get("Account", ""), found.get("Arn", ""), found["UserId"])

    def caller_id(self) -> str | None:
        """Our own ``aws:userid``, which SSHOwner is compared with; None when STS does not say."""
        try:
            return self.caller().user_id
        except SSHHelperError as error:
            logger.debug("! GetCallerIdentity: %s", error)
            return None

    def _post(self, service_name: str, operation: str, headers: Mapping[str, str], body: bytes) -> bytes:
        attempt = 0
        is_renewed = False
        while True:
            attempt += 1
            try:
                return self._try(service_name, operation, headers, body)
            except (CredentialsExpired, CredentialsInvalid):
                # A long session outlives its credentials; there may be new ones by now.
                if is_renewed or not self.session.renew():
                    raise
                is_renewed = True
                continue
            except _Repeatable as failure:
                error = failure.error
                if failure.at_once and attempt < self._attempts:
                    continue
            limit = CONNECT_ATTEMPTS if isinstance(error, EndpointUnreachable) else self._attempts
            if attempt >= limit:
                raise error
            self._sleep(self._jitter() * min(_MAX_DELAY, _FIRST_DELAY * 2**attempt))

    def _try(self, service_name: str, operation: str, headers: Mapping[str, str], body: bytes) -> bytes:
        """The body of a good answer. Raises ours, inside _Repeatable when another try makes sense."""
        from botocore import awsrequest, exceptions

        url = self.session.endpoint_url(service_name) + "/"
        signed = self.session.signed_headers("POST", url, service_name, headers, body)
        repeatable = operation.startswith(_REPEATABLE)
        self.calls += 1
        started_at = time.monotonic()
        logger.debug("> %s %s %s", service_name, operation, without_secrets(url))
        try:
            request = awsrequest.AWSRequest(method="POST", url=url, headers=signed, data=body).prepare()
            response = self._http_for(url).send(request)
            content: bytes = response.content
        except (
            exceptions.HTTPClientError,
            exceptions.ConnectionError,
            exceptions.InvalidProxiesConfigError,
        ) as cause:
            unreachable = self._unreachable(service_name, url, cause)
            logger.debug("! %s %s: %s", service_name, operation, unreachable)
            if isinstance(cause, (exceptions.SSLError, exceptions.InvalidProxiesConfigError)):
                raise unreachable from cause
            # Sent, and perhaps carried out: only what does no harm twice is sent again.
            if (
                isinstance(cause, (exceptions.ReadTimeoutError, exceptions.ConnectionClosedError))
                and not repeatable
            ):
                raise unreachable from cause
            raise _Repeatable(unreachable) from cause
        logger.debug(
            "< %s %s %d in %.3f s",
            service_name,
            operation,
            response.status_code,
            time.monotonic() - started_at,
        )
        if response.status_code == 200:
            return content
        answer = read_error(response.status_code, response.headers, hide_sent(content, signed))
        error = error_of(self.session, service_name, operation, answer.code, answer.message)
        logger.debug("! %s %s: %s", service_name, operation, error)
        if self.session.clock.learn(answer):
            skew = self.session.clock.skew
            logger.info("= AWS's clock is %.0f s ahead: its time is signed from now on", skew)
            raise _Repeatable(error, at_once=True)
        if answer.kind is Kind.THROTTLED or (answer.kind is Kind.TRANSIENT and repeatable):
            raise _Repeatable(error)
        raise error

    def _http_for(self, url: str) -> Any:
        from botocore.httpsession import URLLib3Session

        http = self._http
        if url not in http:
            http[url] = URLLib3Session(
                verify=cast(Any, self.session.ca_bundle()),
                proxies=proxies_for(url),
                timeout=cast(Any, self._timeouts),
            )
        return http[url]

    def _unreachable(self, service_name: str, url: str, error: Exception) -> EndpointUnreachable:
        if type(error).__name__ == "SSLError":
            fix = "Set AWS_CA_BUNDLE to the file of certificates that your network's proxy uses"
        else:
            fix = (
                "Check the network, HTTPS_PROXY, and the region "
                f"({self.session.region}, from {self.session.region_origin})"
            )
        return EndpointUnreachable(
            f"{service_name} does not answer at {url.rstrip('/')}",
            evidence=diagnosis.network_reason(error),
            fix=fix,
        )

    def _no_answer(self, service_name: str, what: str) -> ServiceError:
        return ServiceError(
            what,
            evidence=self.session.endpoint_url(service_name),
            fix="Something else than AWS answers there",
        )


def error_of(session: Session, service_name: str, operation: str, code: str, message: str) -> SSHHelperError:
    """
    Ours for an error that AWS answered, with what a user can do about it.

    ``code`` is without its namespace, ``message`` is AWS's own text.
    """
    action = f"{service_name}:{operation}"
    of_profile = f" of profile {session.profile}" if session.profile else ""
    said = f"AWS says: {message}" if message else f"AWS says {code}"
    answer = ErrorAnswer(code, message)
    kind = answer.kind
    if kind is Kind.THROTTLED:
        return Throttled(f"AWS throttles {action}", evidence=said, fix="Wait a minute and try again")
    if kind is Kind.EXPIRED:
        login = f"aws sso login --profile {session.profile}" if session.profile else "aws sso login"
        return CredentialsExpired(
            f"the AWS credentials{of_profile} have expired",
            evidence=said,
            fix=f"Renew them ({login}, or new keys)",
        )
    if kind is Kind.SKEWED:
        return ClockSkewed(
            "this machine's clock is wrong", evidence=said, fix="Set the clock, then try again"
        )
    if kind is Kind.INVALID:
        return CredentialsInvalid(
            f"AWS does not accept the credentials{of_profile}",
            evidence=said,
            fix="Check AWS_ACCESS_KEY_ID and its secret, or sign in again, for the right account",
        )
    if kind is Kind.DENIED:
        return AccessDenied(
            f"AWS does not let you call {action}",
            evidence=said,
            fix=f"Ask an administrator to allow {action}, or use another profile (--profile)",
        )
    if answer.wants_advanced_tier:
        return AdvancedTierOff(
            "Session Manager refuses hybrid nodes until the advanced-instances tier is on in "
            + session.region,
            evidence=said,
            fix="An administrator turns it on once per region: aws ssm update-service-setting "
            "--setting-id /ssm/managed-instance/activation-tier --setting-value advanced "
            f"--region {session.region}",
        )
    if code == "TargetNotConnected":
        return NotConnected(
            "AWS grants no session: the instance is registered, but its agent is not connected",
            evidence=said,
            fix="The container may have ended or lost its network: sm-ssh list",
        )
    if code == "InvalidInstanceId":
        return InstanceNotValid(
            f"Systems Manager takes no {operation} for the instance: its agent does not answer",
            evidence=said,
            fix="The container may have ended or lost its network: sm-ssh list",
        )
    return ServiceError(f"{action} failed with {code}", code=code, evidence=said)
