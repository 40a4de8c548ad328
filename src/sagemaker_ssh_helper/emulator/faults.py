"""
Switches that make calls fail, wait or vanish, and the count of calls; all by action and user.

An administrator sets a switch with a signed ``POST /_local/faults`` and a JSON body::

    {"kind": "deny", "action": "ssm:StartSession", "user": "bob"}
    {"kind": "throttle", "action": "ssm:CreateActivation", "rate": 5}
    {"kind": "delay", "action": "*", "seconds": 0.05}
    {"kind": "error", "action": "ssm:ResumeSession", "code": "InternalServerError", "status": 500, "times": 2}
    {"kind": "unreachable", "action": "sagemaker:*"}

``action`` and ``user`` are names with ``*`` and ``?``; left out they mean every one. ``times`` counts the
calls that the switch takes before it is used up. Services add kinds of their own with ``register``.
"""

import asyncio
import fnmatch
import itertools
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sagemaker_ssh_helper.emulator.iam import AccessDenied
from sagemaker_ssh_helper.emulator.service import ApiError, Caller

Handler = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Carries out a switch of a registered kind; gets the whole body. Raises ApiError for one it cannot carry
out."""

_KINDS = ("deny", "throttle", "delay", "error", "unreachable")


class Unreachable(Exception):
    """The server closes the connection without an answer."""


@dataclass
class Fault:
    """One switch that is on."""

    id: str
    kind: str
    action: str = "*"
    user: str = "*"
    seconds: float = 0.0
    rate: float = 0.0
    """Calls a second that a throttle lets through; 0 lets none through."""
    code: str = "InternalServerError"
    message: str = "An internal error occurred."
    status: int = 500
    times: int | None = None
    calls: int = 0
    """How many calls it has taken."""
    _tokens: float = field(default=0.0, repr=False)
    _refilled_at: float = field(default=0.0, repr=False)

    def matches(self, action: str, user: str) -> bool:
        return (
            (self.times is None or self.calls < self.times)
            and fnmatch.fnmatchcase(action.lower(), self.action.lower())
            and fnmatch.fnmatchcase(user, self.user)
        )

    def take(self, now: float) -> bool:
        """Whether this call, at this monotonic time, is one that the switch changes."""
        if self.kind == "throttle" and self.rate > 0:
            # A bucket of one second's worth, full at the start.
            size = max(1.0, math.ceil(self.rate))
            refilled = (now - self._refilled_at) * self.rate if self._refilled_at else size
            self._tokens = min(size, self._tokens + refilled)
            self._refilled_at = now
            if self._tokens >= 1:
                self._tokens -= 1
                return False
        self.calls += 1
        return True

    def describe(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": self.id, "kind": self.kind, "action": self.action, "user": self.user}
        if self.kind == "delay":
            shown["seconds"] = self.seconds
        if self.kind == "throttle":
            shown["rate"] = self.rate
        if self.kind == "error":
            shown.update(code=self.code, message=self.message, status=self.status)
        if self.times is not None:
            shown["times"] = self.times
        return {**shown, "calls": self.calls}


class Faults:
    """All switches of one cloud, and its counters."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}
        self._ids = itertools.count(1)
        self._handlers: dict[str, tuple[Handler, Callable[[], Awaitable[None]] | None]] = {}
        self._describers: list[Callable[[], list[dict[str, Any]]]] = []
        self._requests: Counter[tuple[str, str]] = Counter()
        self._errors: Counter[tuple[str, str, str]] = Counter()

    def register(
        self,
        kind: str,
        handler: Handler,
        clear: Callable[[], Awaitable[None]] | None = None,
        describe: Callable[[], list[dict[str, Any]]] | None = None,
    ) -> None:
        """
        Serve a kind of switch.

        Args:
            handler: awaited with the body of each POST of this kind.
            clear: awaited when the administrator clears all switches.
            describe: what the administrator sees of them.
        """
        self._handlers[kind] = (handler, clear)
        if describe is not None:
            self._describers.append(describe)

    async def add(self, body: Mapping[str, Any]) -> str:
        """Turn a switch on; returns its id. Raises ApiError ``ValidationException`` for one that makes no
        sense."""
        kind = body.get("kind")
        if isinstance(kind, str) and kind in self._handlers:
            await self._handlers[kind][0](body)
            return f"{kind}-{next(self._ids)}"
        fault = Fault(id=f"fault-{next(self._ids)}", **_checked(body, self._handlers))
        self._faults[fault.id] = fault
        return fault.id

    async def clear(self, fault_id: str | None = None) -> None:
        """Turn one switch off, or all of them. Raises ApiError ``ResourceNotFoundException`` for an unknown
        id."""
        if fault_id is not None:
            if self._faults.pop(fault_id, None) is None:
                raise ApiError("ResourceNotFoundException", f"There is no switch {fault_id}.", 404)
            return
        self._faults.clear()
        for _, clear in self._handlers.values():
            if clear is not None:
                await clear()

    def describe(self) -> list[dict[str, Any]]:
        """The switches that are on, oldest first; then what services tell of theirs."""
        own = [fault.describe() for fault in self._faults.values()]
        return own + [row for describe in self._describers for row in describe()]

    async def before(self, action: str, caller: Caller | None) -> None:
        """
        Count a call and let the switches have it: return after the delays, or raise ApiError or Unreachable.

        Args:
            action: ``service:Operation``.
            caller: None for anonymous operations; a switch for "every user" takes those too.
        """
        user = user_of(caller)
        if caller is not None and caller.kind == "root":
            # The cloud's calls to itself are not anybody's; a switch on everything must not stop its
            # services.
            return
        self._requests[action, user] += 1
        now = time.monotonic()
        for fault in [fault for fault in self._faults.values() if fault.matches(action, user)]:
            if not fault.take(now):
                continue
            if fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            elif fault.kind == "throttle":
                raise ApiError("ThrottlingException", "Rate exceeded")
            elif fault.kind == "deny":
                who = caller.arn if caller else "anonymous"
                raise AccessDenied(
                    f"User: {who} is not authorized to perform: {action} on resource: * "
                    f"because no identity-based policy allows the {action} action"
                )
            elif fault.kind == "error":
                raise ApiError(fault.code, fault.message, fault.status)
            else:
                raise Unreachable

    def count_error(self, action: str, caller: Caller | None, code: str) -> None:
        """Count how a call ended, when it ended with an error."""
        self._errors[action, user_of(caller), code] += 1

    def requests(self) -> dict[str, Any]:
        """All calls so far by action and user: how many, and how many of them ended with which error."""
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for (action, user), count in sorted(self._requests.items()):
            rows[action, user] = {"action": action, "user": user, "count": count, "errors": {}}
        for (action, user, code), count in sorted(self._errors.items()):
            row = rows.setdefault((action, user), {"action": action, "user": user, "count": 0, "errors": {}})
            row["errors"][code] = count
        return {"total": sum(self._requests.values()), "requests": list(rows.values())}

    def reset_requests(self) -> None:
        self._requests.clear()
        self._errors.clear()


def user_of(caller: Caller | None) -> str:
    """How a caller is called in switches and counters: user name, role name, instance id or ``anonymous``."""
    if caller is None:
        return "anonymous"
    return caller.instance_id or caller.name


def _checked(body: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [*_KINDS, *more]
    if body.get("kind") not in kinds:
        raise ApiError("ValidationException", f"kind must be one of {', '.join(kinds)}.")
    types: dict[str, Any] = {
        "kind": str,
        "action": str,
        "user": str,
        "seconds": (int, float),
        "rate": (int, float),
        "code": str,
        "message": str,
        "status": int,
        "times": int,
    }
    for name, value in body.items():
        if name not in types or not isinstance(value, types[name]) or isinstance(value, bool):
            raise ApiError("ValidationException", f"{name} is not part of a switch, or has the wrong type.")
        if isinstance(value, (int, float)) and not 0 <= value < 1_000_000:
            raise ApiError("ValidationException", f"{name} is out of range.")
    if body["kind"] == "error" and "code" not in body:
        raise ApiError("ValidationException", "A switch of kind error needs a code.")
    if not 400 <= body.get("status", 500) <= 599:
        raise ApiError("ValidationException", "status must be between 400 and 599.")
    return dict(body)
