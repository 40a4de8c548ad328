"""
AWS's time in the signatures that botocore makes by itself: for S3, IAM, and STS on its way to a role's keys.
"""

from __future__ import annotations

import calendar
import time
from typing import Any

from sagemaker_ssh_helper.aws_errors import Clock, ErrorAnswer

_FORM = "%Y%m%dT%H%M%SZ"


def follow(events: Any, clock: Clock) -> None:
    """
    Have clients sign by ``clock``, and try once more when an answer says that it is wrong.

    ``events`` are those of a client of botocore's, or of a session for clients that it makes from now on.
    """

    def before_sign(request: Any, **_: object) -> None:
        if clock.skew:
            request.context = _Context(request.context, clock.skew)

    def needs_retry(response: Any, **_: object) -> float | None:
        if response is None:
            return None
        http, parsed = response
        said = parsed.get("Error", {}) if http.status_code >= 300 else {}
        code, message = str(said.get("Code", "")), str(said.get("Message", ""))
        answer = ErrorAnswer(code, message, http.status_code, http.headers.get("date") or "")
        return 0.0 if said and clock.learn(answer) else None

    # The signer asks this machine's clock, right or wrong, and says in the request's context what it said.
    events.register("before-sign", before_sign)
    events.register_first("needs-retry", needs_retry)


class _Context(dict[str, Any]):
    """The context of a request whose signer is told AWS's time."""

    def __init__(self, context: dict[str, Any], skew: float) -> None:
        super().__init__(context)
        self._skew = skew

    def __setitem__(self, key: str, value: Any) -> None:
        if key == "timestamp":
            at = calendar.timegm(time.strptime(value, _FORM)) + self._skew
            value = time.strftime(_FORM, time.gmtime(at))
        super().__setitem__(key, value)
