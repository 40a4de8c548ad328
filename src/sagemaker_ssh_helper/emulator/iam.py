"""
Who may do what: the policies stored in moto's IAM, read and decided for each call.

There is no rule about SageMaker or ssh in here. Who reaches whose container is in the users' policy documents
(users.py), as it is on AWS.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from threading import RLock
from typing import Any

from sagemaker_ssh_helper.emulator import policies
from sagemaker_ssh_helper.emulator.identities import Credentials, Identity
from sagemaker_ssh_helper.emulator.policies import Context, Document, Verdict
from sagemaker_ssh_helper.emulator.service import ApiError, Caller

_request_context: ContextVar[Mapping[str, str] | None] = ContextVar("request_context", default=None)


@contextmanager
def request_context(context: Mapping[str, str]) -> Iterator[None]:
    """Condition keys that hold for one request whatever its action: ``aws:SourceIp``,
    ``aws:SecureTransport``…"""
    token = _request_context.set(context)
    try:
        yield
    finally:
        _request_context.reset(token)


class AccessDenied(ApiError):
    """A policy does not allow the call. The message is AWS's, with caller, action, resource and which
    kind."""

    def __init__(self, message: str) -> None:
        super().__init__("AccessDeniedException", message)


@dataclass(frozen=True)
class _Role:
    name: str
    arn: str
    role_id: str
    trust: Document
    tags: Mapping[str, str]
    max_session_seconds: int


class Iam:
    """
    The evaluator over the stored documents. Safe to use from several threads; answers in well under a
    millisecond.

    Args:
        account_id: the account of the cloud.
        lock: held by whoever changes moto's IAM.
    """

    def __init__(self, account_id: str, lock: RLock) -> None:
        self._account_id = account_id
        self._lock = lock

    def authorize(
        self, caller: Caller, action: str, resource: str = "*", context: Context | None = None
    ) -> None:
        """
        Return when the caller may do this, else raise AccessDenied.

        Args:
            action: ``service:Operation``, such as ``ssm:StartSession``.
            resource: ARN of what is acted on; ``*`` for actions that take no resource.
            context: condition keys that the service knows, such as ``ssm:resourceTag/SSHOwner``. The keys
            about
                the caller and the request (``aws:userid``, ``aws:SourceIp``…) are added here.
        """
        if caller.kind == "root":
            return
        verdict, because = self._decide(caller, action, resource, context or {})
        if verdict is Verdict.ALLOWED:
            return
        message = f"User: {caller.arn} is not authorized to perform: {action}"
        # S3 puts the resource in quotes; the others do not.
        message += f' on resource: "{resource}"' if action.startswith("s3:") else f" on resource: {resource}"
        raise AccessDenied(f"{message} {because}")

    def allows(
        self, caller: Caller, action: str, resource: str = "*", context: Context | None = None
    ) -> bool:
        """Whether ``authorize`` would return."""
        return (
            caller.kind == "root"
            or self._decide(caller, action, resource, context or {})[0] is Verdict.ALLOWED
        )

    def authorize_pass_role(self, caller: Caller, role: str, service: str) -> str:
        """
        The ARN of a role that the caller may hand to a service and that trusts the service.

        Args:
            role: ARN, or name with or without its path (``service-role/MyRole``).
            service: the principal, ``sagemaker.amazonaws.com`` or ``ssm.amazonaws.com``.

        Raises AccessDenied when iam:PassRole is not allowed, and ApiError ``ValidationException`` in that
        service's words when the role does not exist or does not trust the service.
        """
        found = self._find_role(role)
        arn = found.arn if found else self._role_arn(role)
        self.authorize(caller, "iam:PassRole", arn, {"iam:PassedToService": service})
        if found is None or not self._service_may_assume(found, service):
            if service == "ssm.amazonaws.com":
                raise ApiError(
                    "ValidationException",
                    f"Nonexistent role or missing ssm service principal in trust policy: {role}",
                )
            raise ApiError(
                "ValidationException",
                f"Could not assume role {arn}. Please ensure that the role exists and allows principal "
                f"'{service}' to assume the role.",
            )
        return arn

    def service_may_assume(self, role: str, service: str) -> bool:
        """Whether the role exists and its trust policy lets this service principal assume it."""
        found = self._find_role(role)
        return found is not None and self._service_may_assume(found, service)

    def role_caller(
        self,
        role: str,
        session_name: str,
        *,
        instance_id: str | None = None,
        session_policy: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Caller:
        """
        A session of a role, to be given keys with ``cloud.identities.issue``. No trust is checked here.

        Raises ApiError ``NoSuchEntity`` (404) when there is no such role.
        """
        found = self._find_role(role)
        if found is None:
            name = role.rsplit("/", 1)[-1]
            raise ApiError("NoSuchEntity", f"The role with name {name} cannot be found.", 404)
        return Caller(
            account_id=self._account_id,
            arn=f"arn:aws:sts::{self._account_id}:assumed-role/{found.name}/{session_name}",
            user_id=f"{found.role_id}:{session_name}",
            name=found.name,
            kind="instance" if instance_id else "role",
            role_arn=found.arn,
            instance_id=instance_id,
            session_policy=session_policy,
            tags={**found.tags, **(tags or {})},
        )

    def authorize_assume_role(self, caller: Caller, role: str, context: Context | None = None) -> int:
        """
        Return how many seconds a session of this role may last when the caller may assume it.

        Raises AccessDenied, for a role that does not exist too, as AWS does not tell them apart.
        """
        found = self._find_role(role)
        arn = found.arn if found else self._role_arn(role)
        denied = AccessDenied(
            f"User: {caller.arn} is not authorized to perform: sts:AssumeRole on resource: {arn}"
        )
        if found is None:
            raise denied
        account = f"arn:aws:iam::{self._account_id}:root"
        full = self._context(caller, context or {})
        delegated = policies.trusts(
            found.trust, [f"AWS:{account}", f"AWS:{self._account_id}"], "sts:AssumeRole", full
        )
        named = policies.trusts(
            found.trust,
            [f"AWS:{arn}" for arn in (caller.arn, caller.role_arn) if arn],
            "sts:AssumeRole",
            full,
        )
        if Verdict.DENIED in (delegated, named):
            raise denied
        identity, _ = (
            (Verdict.ALLOWED, "")
            if caller.kind == "root"
            else self._decide(caller, "sts:AssumeRole", arn, context or {})
        )
        # Within one account a trust policy that names the caller is enough; one that names the account leaves
        # the decision to the account's own policies.
        if identity is Verdict.DENIED or not (
            named is Verdict.ALLOWED or (delegated is Verdict.ALLOWED and identity is Verdict.ALLOWED)
        ):
            raise denied
        return found.max_session_seconds

    def user_caller(self, name: str) -> Caller:
        """The caller behind a user's own key. Raises ApiError ``NoSuchEntity`` (404)."""
        with self._lock:
            user = _moto_iam(self._account_id).users.get(name)
            if user is None:
                raise ApiError("NoSuchEntity", f"The user with name {name} cannot be found.", 404)
            return Caller(
                account_id=self._account_id,
                arn=user.arn,
                user_id=user.id,
                name=user.name,
                kind="user",
                tags=_tags(user.tags),
            )

    def identity_of(self, access_key_id: str) -> Identity | None:
        """The user's key that a client made with CreateAccessKey, while it is active; else None."""
        with self._lock:
            for user in _moto_iam(self._account_id).users.values():
                for key in user.access_keys:
                    if key.access_key_id == access_key_id and key.status == "Active":
                        caller = replace(self.user_caller(user.name), access_key_id=access_key_id)
                        return Identity(Credentials(access_key_id, key.secret_access_key), caller)
        return None

    def simulate(
        self, principal_arn: str, action: str, resource: str, context: Context, extra: list[Document]
    ) -> Verdict:
        """
        What SimulatePrincipalPolicy answers for one action and resource.

        ``context`` holds what the simulation was given; ``extra`` policies count as the principal's own.
        Raises ApiError ``NoSuchEntity`` for a principal that does not exist.
        """
        part = principal_arn.rsplit(":", 1)[-1]
        name = part.rsplit("/", 1)[-1]
        if part.startswith("user/"):
            caller = self.user_caller(name)
        elif part.startswith("role/"):
            caller = self.role_caller(name, "simulation")
        else:
            raise ApiError("InvalidInput", f"Invalid Entity Arn: {principal_arn}", 400)
        documents, boundary = self._documents(caller)
        full = self._context(caller, context)
        verdict = policies.evaluate([*documents, *extra], action, resource, full)
        if verdict is Verdict.ALLOWED and boundary is not None:
            verdict = policies.evaluate([boundary], action, resource, full)
        return verdict

    def _decide(self, caller: Caller, action: str, resource: str, context: Context) -> tuple[Verdict, str]:
        documents, boundary = self._documents(caller)
        layers: list[tuple[str, list[Document]]] = [("an identity-based policy", documents)]
        if boundary is not None:
            layers.append(("a permissions boundary", [boundary]))
        if caller.session_policy is not None:
            layers.append(("a session policy", [policies.parse(caller.session_policy)]))
        full = self._context(caller, context)
        verdicts = [(name, policies.evaluate(docs, action, resource, full)) for name, docs in layers]
        for name, verdict in verdicts:
            if verdict is Verdict.DENIED:
                return verdict, f"with an explicit deny in {name}"
        for name, verdict in verdicts:
            if verdict is Verdict.NOT_ALLOWED:
                kind = name.split(" ", 1)[1]
                return verdict, f"because no {kind} allows the {action} action"
        return Verdict.ALLOWED, ""

    def _context(self, caller: Caller, context: Context) -> Context:
        now = time.time()
        about: dict[str, Any] = {
            "aws:userid": caller.user_id,
            "aws:PrincipalArn": caller.role_arn or caller.arn,
            "aws:PrincipalAccount": caller.account_id,
            "aws:PrincipalType": "User" if caller.kind == "user" else "AssumedRole",
            "aws:CurrentTime": datetime.fromtimestamp(now, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "aws:EpochTime": str(int(now)),
        }
        if caller.kind == "user":
            about["aws:username"] = caller.name
        for key, value in caller.tags.items():
            about[f"aws:PrincipalTag/{key}"] = value
        return {**about, **(_request_context.get() or {}), **context}

    def _documents(self, caller: Caller) -> tuple[list[Document], Document | None]:
        """The policies of a caller, and its permissions boundary if it has one."""
        with self._lock:
            backend = _moto_iam(self._account_id)
            if caller.kind == "user":
                user = backend.users.get(caller.name)
                holders = [user, *backend.get_groups_for_user(caller.name)] if user else []
                boundary_arn = None
            else:
                role = backend.roles.get(_role_id(caller))
                holders = [role] if role else []
                boundary_arn = role.permissions_boundary_arn if role else None
            texts = [text for holder in holders for text in holder.policies.values()]
            managed = [policy for holder in holders for policy in holder.managed_policies.values()]
            texts += [_default_text(policy) for policy in managed]
            boundary = backend.managed_policies.get(boundary_arn) if boundary_arn else None
            boundary_text = _default_text(boundary) if boundary else None
        documents = [policies.parse(text) for text in texts]
        if boundary_text is not None:
            return documents, policies.parse(boundary_text)
        # A boundary that does not exist allows nothing.
        return documents, {} if boundary_arn else None

    def _find_role(self, role: str) -> _Role | None:
        name = role.rsplit("/", 1)[-1]
        with self._lock:
            for found in _moto_iam(self._account_id).roles.values():
                if found.name == name and (not role.startswith("arn:") or found.arn == role):
                    return _Role(
                        name=found.name,
                        arn=found.arn,
                        role_id=found.id,
                        trust=policies.parse(found.assume_role_policy_document),
                        tags=_tags(found.tags),
                        max_session_seconds=int(found.max_session_duration or 3600),
                    )
        return None

    def _role_arn(self, role: str) -> str:
        return role if role.startswith("arn:") else f"arn:aws:iam::{self._account_id}:role/{role}"

    def _service_may_assume(self, role: _Role, service: str) -> bool:
        context = {"aws:SourceAccount": self._account_id}
        verdict = policies.trusts(role.trust, [f"Service:{service}"], "sts:AssumeRole", context)
        return verdict is Verdict.ALLOWED


def _role_id(caller: Caller) -> str:
    return caller.user_id.split(":", 1)[0]


def _default_text(policy: Any) -> str:
    for version in policy.versions:
        if version.version_id == policy.default_version_id:
            return str(version.document)
    raise AssertionError(f"{policy.arn} has no default version")


def _tags(tags: Any) -> dict[str, str]:
    # moto keeps them as a list of pairs, or as a dict of pairs by key.
    pairs = tags.values() if isinstance(tags, Mapping) else tags or []
    return {pair["Key"]: pair["Value"] for pair in pairs}


def _moto_iam(account_id: str) -> Any:
    from moto.iam.models import iam_backends

    return iam_backends[account_id]["aws"]
