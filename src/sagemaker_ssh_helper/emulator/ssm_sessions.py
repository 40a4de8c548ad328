"""
Systems Manager operations: sessions.
"""

import base64
import hashlib
import time
from collections.abc import Mapping
from typing import Any

from sagemaker_ssh_helper.emulator import documents, native_targets
from sagemaker_ssh_helper.emulator.documents import DEFAULT_SESSION_DOCUMENT
from sagemaker_ssh_helper.emulator.paging import position_page
from sagemaker_ssh_helper.emulator.service import ApiError, Call, Operation
from sagemaker_ssh_helper.emulator.sessions import Session, new_session_id
from sagemaker_ssh_helper.emulator.ssm_documents import authorize_document
from sagemaker_ssh_helper.emulator.ssm_state import State, moment
from sagemaker_ssh_helper.names import Document

TIER_ERROR = "Enable advanced-instances tier to use Session Manager with your on-premises instances"

NATIVE_DOCUMENTS = (DEFAULT_SESSION_DOCUMENT, Document.START_PORT_FORWARDING)
"""Those that are known to work on a native target; whether others do is not documented."""

_DEFAULT_PAGE = 50


class SessionOperations:
    """The operations, for one local cloud."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.operations: Mapping[str, Operation] = {
            "StartSession": self.start_session,
            "ResumeSession": self.resume_session,
            "TerminateSession": self.terminate_session,
            "DescribeSessions": self.describe_sessions,
        }

    async def start_session(self, call: Call) -> Mapping[str, Any]:
        """Needs the right for the target and, when it is named, for the document."""
        state, params = self._state, call.params
        target = params["Target"]
        named = params.get("DocumentName")
        is_native = native_targets.is_native(target)
        if is_native:
            state.authorize_native(call, target)
            exists = target in state.cloud.native_targets
        else:
            exists = state.authorize_instance(call, target) is not None
        if named is not None:
            authorize_document(state, call, named)
        document = state.documents.find(named or DEFAULT_SESSION_DOCUMENT, "Session")
        arguments = document.arguments(params.get("Parameters", {}))
        if is_native:
            _check_native_document(document.name)
        if exists and not is_native and state.tier != "advanced":
            raise ApiError("BadRequest", TIER_ERROR)
        if not exists:
            raise _not_connected(target)
        return self._begin(call, target, document, arguments)

    def start_shell(self, call: Call, target: str) -> Mapping[str, Any]:
        """What an allowed call for a shell at a native target is answered. Raises ApiError."""
        document = self._state.documents.find(DEFAULT_SESSION_DOCUMENT, "Session")
        return self._begin(call, target, document, document.arguments({}))

    def _begin(
        self, call: Call, target: str, document: documents.Document, arguments: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        state, params = self._state, call.params
        if not state.gateway.is_connected(target):
            raise _not_connected(target)
        session = Session(
            id=new_session_id(call.principal),
            target=target,
            owner_arn=call.principal.arn,
            owner_id=call.principal.user_id,
            document=state.documents.with_preferences(document),
            arguments=arguments,
            reason=params.get("Reason", ""),
            started_at=time.time(),
            limits=state.documents.limits(document),
        )
        state.sessions.add(session)
        return self._grant(call, session, state.gateway.start_session(session))

    async def resume_session(self, call: Call) -> Mapping[str, Any]:
        """An ended session is answered without a token, which the official client takes for "too late"."""
        session = self._own_session(call)
        return self._grant(call, session, self._state.gateway.resume_session(session))

    async def terminate_session(self, call: Call) -> Mapping[str, Any]:
        session = self._own_session(call)
        self._state.gateway.terminate_session(session)
        return {"SessionId": session.id}

    async def describe_sessions(self, call: Call) -> Mapping[str, Any]:
        self._state.authorize(call.principal, call.operation, "*")
        params = call.params
        found = self._state.sessions.select(params["State"], params.get("Filters", ()))
        selected, token = position_page(
            found, params.get("MaxResults", _DEFAULT_PAGE), params.get("NextToken")
        )
        return {"Sessions": [_describe(session) for session in selected], "NextToken": token}

    # -- within --

    def _own_session(self, call: Call) -> Session:
        """The session of a call. Its id and its tags are what policies tell sessions apart by."""
        session_id = call.params["SessionId"]
        session = self._state.sessions.get(session_id)
        resource, context = f"session/{session_id}", {}
        if session is not None:
            owned_by = self._state.sessions.owned_by
            resource = owned_by.resource(session)
            context = {**owned_by.context(session), native_targets.TARGET_ID_KEY: session.target}
        self._state.authorize(call.principal, call.operation, resource, context)
        if session is None:
            raise ApiError("DoesNotExistException", f"Session {session_id} does not exist.")
        return session

    def _grant(self, call: Call, session: Session, token: str | None) -> Mapping[str, Any]:
        # The scheme and host the caller reached us by, "http" being "ws": it can reach the gateway there too.
        address = call.endpoint.replace("http", "ws", 1)
        grant = {
            "SessionId": session.id,
            "StreamUrl": f"{address}/v1/data-channel/{session.id}?role=publish_subscribe"
            f"&cell-number={_cell_number(session)}",
        }
        if token is not None:
            grant["TokenValue"] = token
        return grant


def _cell_number(session: Session) -> str:
    """Like the end of a real session's URL: base64 as it is, with ``+``, ``/`` and ``=``; always the same."""
    return base64.b64encode(b"\xfb\xff\xbf" + hashlib.sha256(session.id.encode()).digest()).decode("ascii")


def _not_connected(target: str) -> ApiError:
    return ApiError("TargetNotConnected", f"{target} is not connected.")


def _check_native_document(name: str) -> None:
    if name not in NATIVE_DOCUMENTS:
        raise ApiError(
            "InvalidDocument",
            f"The local cloud opens native targets with {' or '.join(NATIVE_DOCUMENTS)} only, not {name}.",
        )


def _describe(session: Session) -> Mapping[str, Any]:
    described: dict[str, Any] = {
        "SessionId": session.id,
        "Target": session.target,
        "Status": session.status,
        "StartDate": moment(session.started_at),
        "DocumentName": session.document.name,
        "Owner": session.owner_arn,
        "Reason": session.reason or None,
        "Details": session.details or None,
        "AccessType": "Standard",
        "MaxSessionDuration": str(session.limits.duration or "") or None,
    }
    if session.ended_at is not None:
        described["EndDate"] = moment(session.ended_at)
    return {key: value for key, value in described.items() if value is not None}
