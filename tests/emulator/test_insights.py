"""Queries of CloudWatch Logs Insights: what they select, and what is refused."""

import re
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local_cloud import LocalCloud
from sagemaker_ssh_helper.emulator.insights import MalformedQuery, Query

EVENTS = [
    {"@ptr": "1", "@timestamp": 1_000, "@message": "started", "@logStream": "a/algo-1"},
    {"@ptr": "2", "@timestamp": 3_000, "@message": "Successfully registered mi-1", "@logStream": "a/algo-2"},
    {"@ptr": "3", "@timestamp": 2_000, "@message": 'say "no" to | and /', "@logStream": "b/algo-1"},
]


def selected(text: str) -> list[str]:
    return [row["@ptr"] for row in Query.parse(text).run(EVENTS)]


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("fields @message", ["2", "3", "1"]),
        ("fields @message | sort @timestamp asc", ["1", "3", "2"]),
        ("fields @message | sort @timestamp desc | limit 1", ["2"]),
        ("fields @message | filter @message like /registered/", ["2"]),
        ("fields @message | filter @message like /REGISTERED/i", ["2"]),
        ("fields @message | filter @message like /a|s/ | limit 2", ["2", "3"]),
        ("filter @message like 'registered' and @logStream like /^a/", ["2"]),
        ('filter @message = "started" or @logStream = "b/algo-1"', ["3", "1"]),
        ("filter @message not like /start/ and not (@logStream like 'b')", ["2"]),
        ('filter @message like "say \\"no\\" to | and /"', ["3"]),
        ("filter @message =~ /to \\| and \\//", ["3"]),
        ("filter @logStream != 'a/algo-1' | filter @message like 'mi-'", ["2"]),
        ("# a comment\nfields @timestamp, @message\n| filter @absent like /./", []),
    ],
)
def test_a_query_selects(query: str, rows: list[str]) -> None:
    assert selected(query) == rows


def test_fields_come_in_the_order_asked_for() -> None:
    (row,) = Query.parse("fields @logStream, @timestamp, @absent | limit 1").run(EVENTS)
    assert list(row.items()) == [
        ("@logStream", "a/algo-2"),
        ("@timestamp", "1970-01-01 00:00:03.000"),
        ("@ptr", "2"),
    ]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "fields",
        "stats count(*) by @logStream",
        "fields @message |",
        "filter @message like /(/",
        "filter @message like",
        "filter (@message like 'a'",
        "filter @message < 3",
        "filter @message like 'a' 'b'",
        "limit many",
        "fields 'unclosed",
    ],
)
def test_what_is_no_query_or_not_understood_is_refused(query: str) -> None:
    with pytest.raises(MalformedQuery):
        Query.parse(query)


def test_the_service_filters(cloud: LocalCloud) -> None:
    logs = cloud.client("logs", user="admin")
    group = "/aws/sagemaker/Insights"
    logs.create_log_group(logGroupName=group)
    logs.create_log_stream(logGroupName=group, logStreamName="one")
    now = int(time.time())
    logs.put_log_events(
        logGroupName=group,
        logStreamName="one",
        logEvents=[{"timestamp": now * 1000, "message": f"line {number}"} for number in range(4)],
    )

    def query(text: str) -> Any:
        asked = {"logGroupNames": [group], "startTime": now - 60, "endTime": now + 60}
        logs = cloud.client("logs", user="alice")
        return logs.get_query_results(queryId=logs.start_query(**asked, queryString=text)["queryId"])

    answer = query("fields @message, @logStream | filter @message like /line 2/")
    assert answer["status"] == "Complete"
    (row,) = answer["results"]
    assert [(each["field"], each["value"]) for each in row][:2] == [
        ("@message", "line 2"),
        ("@logStream", "one"),
    ]
    with pytest.raises(ClientError, match="MalformedQueryException"):
        query("stats count(*)")
    with pytest.raises(ClientError, match="AccessDenied"):
        cloud.client("logs", user="alice").start_query(
            logGroupNames=[group, "/another"], startTime=0, endTime=1, queryString="fields @message"
        )
    with pytest.raises(ClientError, match=re.escape("ResourceNotFoundException")):
        logs.start_query(logGroupName="none", startTime=0, endTime=1, queryString="fields @message")
