"""
What of CloudWatch Logs is ours, because moto leaves it out: FilterLogEvents by the beginning of a stream's
name, and the filters of Insights queries.
"""

import json
from typing import Any

from moto.core.exceptions import JsonRESTError
from moto.logs.responses import LogsResponse

from sagemaker_ssh_helper.emulator import insights


class Logs(LogsResponse):
    """moto's CloudWatch Logs."""

    def filter_log_events(self) -> str:
        prefix = self._get_param("logStreamNamePrefix")
        group = self.logs_backend.groups.get(self._get_param("logGroupName"))
        if not prefix or group is None:
            return super().filter_log_events()
        names = [name for name in group.streams if name.startswith(prefix)]
        events: list[dict[str, Any]] = []
        searched: list[dict[str, Any]] = []
        token: str | None = None
        # No names mean all streams to moto.
        if names:
            events, token, searched = self.logs_backend.filter_log_events(
                self._get_param("logGroupName"),
                names,
                self._get_param("startTime"),
                self._get_param("endTime"),
                self._get_param("limit"),
                self._get_param("nextToken"),
                self._get_param("filterPattern"),
                self._get_param("interleaved", False),
            )
        return json.dumps({"events": events, "nextToken": token, "searchedLogStreams": searched})

    def start_query(self) -> str:
        text = self._get_param("queryString")
        try:
            query = insights.Query.parse(text)
        except insights.MalformedQuery as error:
            raise JsonRESTError("MalformedQueryException", str(error)) from error
        names = self._get_param("logGroupNames") or [self._get_param("logGroupName")]
        first, last = self._get_int_param("startTime"), self._get_int_param("endTime")
        # moto would stumble over what it does not know, so it gets a query of its own.
        query_id = self.logs_backend.start_query(names, first, last, "fields @message")
        record = self.logs_backend.queries[query_id]
        record.query = text
        record.results = query.run(
            {
                "@ptr": event.event_id,
                "@timestamp": event.timestamp,
                "@ingestionTime": event.ingestion_time,
                "@message": event.message,
                "@logStream": stream.log_stream_name,
                "@log": f"{self.current_account}:{name}",
            }
            for name in names
            for stream in self.logs_backend.groups[name].streams.values()
            for event in stream.events
            if first * 1000 <= event.timestamp <= last * 1000
        )
        return json.dumps({"queryId": query_id})
