"""
What a resource's containers wrote, from CloudWatch Logs.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.errors import AccessDenied, AwsError, ServiceError, WaitTimeout
from sagemaker_ssh_helper.names import InstanceId, Line, ResourceKind

_SETTLE = 15.0
"""Seconds back that every look goes again: events become visible late, and not in order."""

_REGISTERED = Line.REGISTERED.format(instance_id="")
_INSTANCE_ID = re.compile(re.escape(_REGISTERED) + r"(mi-[0-9a-f]{17})")

_QUERY_TIMEOUT = 30.0
_QUERY_INTERVALS = (0.1, 0.2, 0.4, 0.8, 1.5)  # seconds; the last one repeats
_QUERY_RUNS = ("Scheduled", "Running")
_QUERY_LIMIT = 100  # as many ids as one filter of DescribeInstanceInformation takes


@dataclass(frozen=True)
class Event:
    """One line. ``at`` is in seconds since the epoch; ``node`` is ``algo-N``, or the name of the stream."""

    id: str
    at: float
    node: str
    message: str


def events(
    client: Client,
    kind: ResourceKind,
    name: str,
    *,
    node: str | None = None,
    since: float = 0.0,
    pattern: str = "",
) -> Iterator[Event]:
    """
    The lines so far, in the order of time; none when nothing was written yet.

    ``pattern`` is a filter of CloudWatch Logs. Raises AwsError.
    """
    group = kind.log_group or ""
    prefix = f"{name}/{node}" if node else f"{name}/"
    wanted: dict[str, object] = {"logGroupName": group, "logStreamNamePrefix": prefix}
    if kind is ResourceKind.INFERENCE:
        wanted = {"logGroupName": f"{group}/{name}"}
    if since:
        wanted["startTime"] = int(since * 1000)
    if pattern:
        wanted["filterPattern"] = pattern
    token: str | None = None
    while True:
        try:
            answer = client.call(
                "logs", "FilterLogEvents", **wanted, **({"nextToken": token} if token else {})
            )
        except ServiceError as error:
            if error.code == "ResourceNotFoundException":
                return
            raise
        for event in answer.get("events") or ():
            stream = str(event.get("logStreamName", ""))
            if stream.endswith("/ssm"):
                # The service's agent wrote it, not the container's program.
                continue
            yield Event(
                id=str(event.get("eventId", "")),
                at=float(event.get("timestamp", 0)) / 1000,
                # algo-1-1700000000, or algo-2/2020-…
                node="-".join(stream.rpartition("/")[2].split("-")[:2]),
                message=str(event.get("message", "")),
            )
        token = answer.get("nextToken")
        if not token:
            return


def helper_failure(client: Client, kind: ResourceKind, name: str, node: str) -> str:
    """
    Why the helper in a container gave up, by the line it wrote; empty when there is none, or it may not be
    read. One call.
    """
    try:
        for event in events(client, kind, name, node=node, pattern=f'"{Line.NO_SSH.strip()}"'):
            return " ".join(event.message.partition(Line.NO_SSH)[2].split())[:500]
    except AwsError:
        pass
    return ""


def registered_in(
    client: Client,
    group: str,
    stream: str = "",
    *,
    pattern: str = "",
    since: float = 0,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[InstanceId]:
    """
    The managed instances that containers told in a log group since then, newest first: in all streams, or in
    those whose names begin with ``stream`` or match ``pattern``. An endpoint has a group of its own.

    One query of Logs Insights: two calls or more, a second or two. Empty when there is no such log, or it may
    not be searched. Raises AwsError, WaitTimeout.
    """
    query = f"fields @message | filter @message like '{_REGISTERED}'"
    pattern = pattern or (f"^{re.escape(stream)}" if stream else "")
    if pattern:
        # A slash would end the expression.
        query += f" and @logStream like /{pattern.replace('/', chr(92) + '/')}/"
    query += f" | sort @timestamp desc | limit {_QUERY_LIMIT}"
    try:
        started = client.call(
            "logs",
            "StartQuery",
            logGroupName=group,
            # Containers register once, and an endpoint lives long: 0 looks at all there is.
            startTime=int(since),
            endTime=int(time.time()) + 60,
            queryString=query,
        )
        deadline = monotonic() + _QUERY_TIMEOUT
        for pause in itertools.chain(_QUERY_INTERVALS, itertools.repeat(_QUERY_INTERVALS[-1])):
            answer = client.call("logs", "GetQueryResults", queryId=started.get("queryId"))
            status = str(answer.get("status", ""))
            if status not in _QUERY_RUNS:
                break
            if monotonic() + pause > deadline:
                raise WaitTimeout(
                    f"the log {group} was not searched in {_QUERY_TIMEOUT:.0f} s",
                    evidence=f"the query is {status}",
                )
            sleep(pause)
    except AccessDenied:
        return []
    except ServiceError as error:
        if error.code == "ResourceNotFoundException":
            return []
        raise
    values = [str(field.get("value", "")) for row in answer.get("results") or () for field in row]
    found = [match.group(1) for value in values for match in _INSTANCE_ID.finditer(value)]
    return [InstanceId(instance_id) for instance_id in dict.fromkeys(found)]


def of_helper(client: Client, kind: ResourceKind, name: str, node: str) -> list[Event]:
    """What the helper in a container wrote; nothing when it may not be read. One call."""
    try:
        found = list(events(client, kind, name, node=node, pattern=f'"{Line.OF_HELPER.strip()}"'))
    except AwsError:
        return []
    return [replace(event, message=event.message.partition(Line.OF_HELPER)[2]) for event in found]


def follow(
    client: Client,
    kind: ResourceKind,
    name: str,
    ended: Callable[[], bool],
    *,
    node: str | None = None,
    since: float = 0.0,
    pattern: str = "",
    interval: float = 2.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Event]:
    """
    The lines so far and those to come, until ``ended`` says so and no more came since.

    Raises AwsError.
    """
    seen: dict[str, float] = {}
    start = since
    last_look = False
    while True:
        new = 0
        for event in events(client, kind, name, node=node, since=start, pattern=pattern):
            if event.id not in seen:
                seen[event.id] = event.at
                new += 1
                yield event
        if seen:
            start = max(start, max(seen.values()) - _SETTLE)
            seen = {known: at for known, at in seen.items() if at >= start}
        if last_look and not new:
            return
        last_look = ended()
        sleep(interval)
