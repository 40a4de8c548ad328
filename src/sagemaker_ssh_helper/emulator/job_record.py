"""
What every job has, of whatever kind: a request, the statuses it went through, how it ended. Pure.

What drives it: the runner (jobs.py) on the way to the right, a Stop… call and the time limit downwards::

    Starting ──> Downloading ──> Training ──> Uploading ──> Completed
       │              │             │             │   └───> Failed
       └──────────────┴─────────────┴──> Stopping ┴───────> Stopped, MaxRuntimeExceeded

Any of them may go to Failed at once, when SageMaker itself cannot go on. Only training jobs show these;
other kinds show the primary statuses.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, ClassVar

DEFAULT_MAX_RUNTIME_SECONDS = 86_400

FAILURE_REASON_CHARACTERS = 1024


class Status(enum.Enum):
    """
    Secondary statuses. Each has: its name, the primary status it belongs to, the message that goes with it.
    """

    STARTING = ("Starting", "InProgress", "Preparing the instances for training")
    DOWNLOADING = ("Downloading", "InProgress", "Downloading input data")
    TRAINING = ("Training", "InProgress", "Training image download completed. Training in progress.")
    STOPPING = ("Stopping", "Stopping", "Stopping the training job")
    UPLOADING = ("Uploading", "InProgress", "Uploading generated training model")
    COMPLETED = ("Completed", "Completed", "Training job completed")
    FAILED = ("Failed", "Failed", "Training job failed")
    STOPPED = ("Stopped", "Stopped", "Training job stopped")
    MAX_RUNTIME_EXCEEDED = (
        "MaxRuntimeExceeded",
        "Stopped",
        "Training job runtime exceeded MaxRuntimeInSeconds provided",
    )

    def __init__(self, text: str, primary: str, message: str) -> None:
        self.text = text
        self.primary = primary
        self.message = message

    @property
    def final(self) -> bool:
        return self in _FINAL


_FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.STOPPED, Status.MAX_RUNTIME_EXCEEDED})

_NEXT = {
    Status.STARTING: {Status.DOWNLOADING, Status.STOPPING},
    Status.DOWNLOADING: {Status.TRAINING, Status.STOPPING},
    Status.TRAINING: {Status.UPLOADING, Status.STOPPING},
    Status.STOPPING: {Status.UPLOADING, Status.STOPPED, Status.MAX_RUNTIME_EXCEEDED},
    Status.UPLOADING: {Status.COMPLETED, Status.STOPPING, Status.STOPPED, Status.MAX_RUNTIME_EXCEEDED},
}


@dataclass
class Transition:
    """One secondary status and its time."""

    status: Status
    started_at: datetime
    ended_at: datetime | None = None

    def describe(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "Status": self.status.text,
            "StartTime": self.started_at,
            "StatusMessage": self.status.message,
        }
        if self.ended_at is not None:
            shown["EndTime"] = self.ended_at
        return shown


@dataclass
class JobRecord:
    """
    One job.

    Args:
        request: the parameters of its Create… call.
        arn: of the job.
        created_at: aware time of the request.
    """

    name_member: ClassVar[str]
    """The member of the request that holds the name."""

    request: Mapping[str, Any]
    arn: str
    created_at: datetime
    tags: dict[str, str] = field(default_factory=dict)
    failure_reason: str | None = None
    transitions: list[Transition] = field(default_factory=list)
    stop_requested: bool = False

    def __post_init__(self) -> None:
        self.transitions.append(Transition(Status.STARTING, self.created_at))

    @property
    def name(self) -> str:
        return str(self.request[self.name_member])

    @property
    def status(self) -> Status:
        """The secondary status."""
        return self.transitions[-1].status

    @property
    def primary_status(self) -> str:
        """``InProgress``, ``Stopping``, ``Completed``, ``Failed`` or ``Stopped``."""
        if self.status is Status.UPLOADING and self._went_through(Status.STOPPING):
            return Status.STOPPING.primary
        return self.status.primary

    @property
    def modified_at(self) -> datetime:
        return self.transitions[-1].started_at

    @property
    def ended_at(self) -> datetime | None:
        return self.modified_at if self.status.final else None

    @property
    def max_runtime_seconds(self) -> int:
        condition = self.request.get("StoppingCondition", {})
        return int(condition.get("MaxRuntimeInSeconds", DEFAULT_MAX_RUNTIME_SECONDS))

    def change(self, status: Status, now: datetime) -> None:
        """The job enters a status. One that cannot follow the present one is our own mistake."""
        allowed = status in _NEXT.get(self.status, ()) or (status is Status.FAILED and not self.status.final)
        assert allowed, f"{self.status.text} cannot be followed by {status.text}"
        self.transitions[-1].ended_at = now
        self.transitions.append(Transition(status, now))

    def fail(self, reason: str, now: datetime) -> None:
        """The job ends as Failed, for this reason; cut to what the API can show."""
        self.failure_reason = reason[:FAILURE_REASON_CHARACTERS]
        self.change(Status.FAILED, now)

    @property
    def began_at(self) -> datetime | None:
        """When its first node was there; None before."""
        for transition in self.transitions:
            if transition.status is Status.DOWNLOADING:
                return transition.started_at
        return None

    def _went_through(self, status: Status) -> bool:
        return any(transition.status is status for transition in self.transitions)


def utc_now() -> datetime:
    """The time as the API shows it: aware, in whole milliseconds."""
    now = datetime.now(timezone.utc)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)
