"""
How a session's WebSocket is asked for, and what else is tried when the service refuses it.
"""

from __future__ import annotations

import asyncio
import logging

from sagemaker_ssh_helper import __version__
from sagemaker_ssh_helper.aws.session import Session, UpgradeForm
from sagemaker_ssh_helper.aws.sessions import SessionGrant
from sagemaker_ssh_helper.aws_errors import Kind, of_refused_upgrade
from sagemaker_ssh_helper.channels import Grant
from sagemaker_ssh_helper.channels.dialing import in_thread
from sagemaker_ssh_helper.errors import ConnectionFailed, SSHHelperError
from sagemaker_ssh_helper.names import PRODUCT

logger = logging.getLogger(__name__)

_USER_AGENT = f"{PRODUCT}/{__version__}"

_PASSING = (Kind.THROTTLED, Kind.TRANSIENT)
_REFUSED = (400, 401, 403)


class Upgrades:
    """
    The upgrades of one session, over all its connections.

    One attempt to connect goes through all the forms of a signature, if need be. Newer credentials, or AWS's
    time, are tried with the same form, once each.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._best = UpgradeForm.GO
        self._attempt = _Attempt(session)

    async def grant(self, granted: SessionGrant) -> Grant:
        """How to connect now. Raises AwsError when there are no credentials to sign with."""
        self._attempt = _Attempt(self._session)
        return await self._attempt.grant(granted, self._best)

    def accepted(self) -> None:
        """The last attempt led to a connection: the next one begins in the same way."""
        self._best = self._attempt.form


class _Attempt:
    """One attempt to connect; ``form`` is how it asked last."""

    def __init__(self, session: Session) -> None:
        self.form = UpgradeForm.GO
        self._session = session
        self._first: ConnectionFailed | None = None
        self._is_renewed = False

    async def grant(self, granted: SessionGrant, form: UpgradeForm) -> Grant:
        url = self._session.stream_url(granted.url)
        signature = await asyncio.wrap_future(in_thread(lambda: self._session.upgrade_headers(url, form)))
        self.form = form if signature else UpgradeForm.UNSIGNED

        async def refused(error: ConnectionFailed) -> Grant | None:
            otherwise = await self._next(error)
            return None if otherwise is None else await self.grant(granted, otherwise)

        return Grant(url, granted.token, {"User-Agent": _USER_AGENT, **signature}, refused)

    async def _next(self, error: ConnectionFailed) -> UpgradeForm | None:
        """
        How to ask for the same once more; None when that is no help.

        Raises what the first way was refused with when all were.
        """
        answer = of_refused_upgrade(error)
        if answer is None or answer.status not in _REFUSED or answer.kind in _PASSING:
            return None
        self._first = self._first or error
        if self._session.clock.learn(answer):
            logger.info("! the upgrade was refused (%s): AWS's clock is another", error)
            return self.form
        if answer.kind in (Kind.EXPIRED, Kind.INVALID) and not self._is_renewed:
            self._is_renewed = True
            if await self._renewed():
                logger.info("! the upgrade was refused (%s): there are newer credentials", error)
                return self.form
        # A signature that was understood is not to be written differently.
        is_read = answer.kind in (Kind.DENIED, Kind.EXPIRED)
        form = UpgradeForm.UNSIGNED if is_read else self.form.next()
        if form is None or form is self.form:
            raise self._first
        logger.info("! the upgrade was refused %s (%s); next %s", self.form.value, error, form.value)
        return form

    async def _renewed(self) -> bool:
        try:
            return await asyncio.wrap_future(in_thread(self._session.renew))
        except SSHHelperError as error:
            logger.info("! no newer credentials: %s", error)
            return False
