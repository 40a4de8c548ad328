"""
Whether to connect again, and when. Only times and errors.
"""

import asyncio
import random
import ssl
from typing import Callable, Optional, Tuple

from sagemaker_ssh_helper.aws_errors import Kind, of_refused_upgrade
from sagemaker_ssh_helper.errors import (
    AccessDenied,
    ConnectionFailed,
    EndpointUnreachable,
    SSHHelperError,
    Throttled,
)

BRIEF = 1.0  # seconds; a connection that lasts no longer counts as a failed attempt
UNANSWERED_DELAY = 0.75  # seconds; see Attempts
PROVEN_AFTER = 5.0  # seconds, or one message: then the service really wanted us
MAX_REFUSALS = 3  # answers like 403 to a resumed connection before they are believed


class Attempts:
    """
    The attempts to connect one channel, from its beginning to its end.

    After each one tell what became of it: ``connected`` and later ``lost``, or ``failed``. Then ask
    ``next_delay``.

    Args:
        open_timeout: seconds of attempts before there was any connection; None without end.
        resume_timeout: seconds of attempts after a loss; None without end.
        delays: seconds between attempts. The second attempt comes at once, then the first of these is waited,
            doubled up to the second, give or take a quarter: thousands of agents must not come all at once.
        eager: a connection that was there is asked for again in less than a second, however long, as long as
            nobody answers: then it goes on within a second of the network's return. A service that answers,
            with an error, is asked as slowly as ``delays`` says.
        now: when it begins.
        chance: gives numbers from 0 to 1.
    """

    def __init__(
        self,
        open_timeout: Optional[float],
        resume_timeout: Optional[float],
        delays: Tuple[float, float],
        now: float,
        chance: Callable[[], float] = random.random,
        *,
        eager: bool = False,
    ) -> None:
        self.resume = False
        """There was a connection before: the next one continues it."""
        self.verdict: Optional[BaseException] = None
        """Why there will be no further attempt."""
        self._open_timeout = open_timeout
        self._resume_timeout = resume_timeout
        self._delays = delays
        self._chance = chance
        self._eager = eager
        self._unanswered = False
        self._lasted = 0.0
        self._since = now
        self._connected_at = now
        self._failures = 0
        self._refusals = 0
        self._last: Optional[BaseException] = None

    def connected(self, now: float) -> None:
        """There is a connection."""
        self._connected_at = now
        self._refusals = 0
        self.resume = True

    def lost(self, reason: str, proven: bool, now: float) -> None:
        """It is gone again. ``proven``: it brought messages, so the service really wanted us."""
        lasted = now - self._connected_at
        # A service that accepts connections only to drop them must not be asked fast, nor for ever.
        if proven or lasted >= PROVEN_AFTER:
            self._since = now
        if lasted >= BRIEF:
            self._failures = 0
        elif proven:
            # It was good for something: a network that cuts all the time still carries a stream.
            self._failures = min(self._failures + 1, 2)
        else:
            self._failures += 1
        self._unanswered = False
        self._last = ConnectionFailed("the connection was lost", evidence=reason)

    def failed(self, error: BaseException, now: float, lasted: float = 0.0) -> None:
        """There was none. ``lasted``: seconds that the attempt took."""
        self._lasted = lasted
        self._failures += 1
        self._unanswered = _is_silence(error)
        if _is_refusal(error):
            self._refusals += 1
        self._last = error
        if not self._may_pass(error):
            self.verdict = error

    def next_delay(self, now: float) -> float:
        """Seconds to wait before the next attempt; when ``verdict`` is set afterwards, there is none."""
        delay = 0.0
        if self._failures > 1:
            first, longest = self._delays
            eager = self._eager and self.resume and self._unanswered
            if eager:
                longest = min(longest, UNANSWERED_DELAY)
            delay = min(longest, first * 2.0 ** min(self._failures - 2, 16)) * (0.75 + self._chance() / 2)
            if eager:
                # The time in which nobody answered was waited for already.
                delay = max(0.0, delay - self._lasted)
        timeout = self._resume_timeout if self.resume else self._open_timeout
        if self.verdict is None and timeout is not None and now + delay - self._since > timeout:
            what = f"no connection in {timeout:g} s"
            if self.resume:
                what = f"the connection was lost and could not be regained in {timeout:g} s"
            self.verdict = ConnectionFailed(what, evidence=str(self._last))
            self.verdict.__cause__ = self._last
        return delay

    def _may_pass(self, error: BaseException) -> bool:
        """Whether another attempt may succeed."""
        if _is_refusal(error):
            return self.resume and self._refusals < MAX_REFUSALS
        if isinstance(error, ConnectionFailed):
            # At the start it is a fact about the set-up; later perhaps a hotel's network that wants a click.
            return self.resume or not isinstance(error.__cause__, ssl.SSLCertVerificationError)
        if isinstance(error, SSHHelperError):
            return isinstance(error, (EndpointUnreachable, Throttled))
        return isinstance(error, (OSError, asyncio.TimeoutError))


def _is_refusal(error: BaseException) -> bool:
    """An answer that will hardly change by asking again."""
    if isinstance(error, AccessDenied):
        return True
    answer = of_refused_upgrade(error)
    return answer is not None and answer.kind not in (Kind.THROTTLED, Kind.TRANSIENT)


def _is_silence(error: BaseException) -> bool:
    """Nobody answered: the network is away, or seems to be."""
    if isinstance(error, ConnectionFailed):
        return error.status is None
    return isinstance(error, (EndpointUnreachable, OSError, asyncio.TimeoutError))
