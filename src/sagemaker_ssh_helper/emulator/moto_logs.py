"""
What of CloudWatch Logs is ours: FilterLogEvents by the beginning of a stream's name, which moto leaves out.
"""

import json
from typing import Any

from moto.logs.responses import LogsResponse


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
