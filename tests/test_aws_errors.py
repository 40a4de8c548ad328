"""What AWS's error answers mean."""

import json
from email.utils import formatdate
from typing import Dict

import pytest

from sagemaker_ssh_helper.aws_errors import Clock, ErrorAnswer, Kind, kind_of, of_refused_upgrade, read_error
from sagemaker_ssh_helper.errors import ConnectionFailed

pytestmark = pytest.mark.container

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("code", "message", "status", "kind"),
    [
        ("ThrottlingException", "Rate exceeded", 400, Kind.THROTTLED),
        ("Throttling", "", 400, Kind.THROTTLED),
        ("SlowDown", "", 503, Kind.THROTTLED),
        ("TooManyUpdates", "", 400, Kind.THROTTLED),
        ("ValidationException", "Rate exceeded", 400, Kind.THROTTLED),
        ("HTTP 429", "", 429, Kind.THROTTLED),
        ("InternalServerError", "", 500, Kind.TRANSIENT),
        ("ServiceUnavailableException", "", 400, Kind.TRANSIENT),
        ("HTTP 502", "<html>", 502, Kind.TRANSIENT),
        ("HTTP 503", "", 0, Kind.TRANSIENT),
        ("HTTP 408", "", 408, Kind.TRANSIENT),
        ("SomethingNew", "", 500, Kind.TRANSIENT),
        ("ExpiredTokenException", "", 403, Kind.EXPIRED),
        ("Odd", "The security token included in the request is expired", 403, Kind.EXPIRED),
        ("RequestTimeTooSkewed", "", 403, Kind.SKEWED),
        ("InvalidSignatureException", "Signature expired: 2026 is now earlier", 400, Kind.SKEWED),
        ("SignatureDoesNotMatch", "Signature not yet current: 2027 is still later", 403, Kind.SKEWED),
        ("InvalidSignatureException", "does not match", 400, Kind.INVALID),
        ("UnrecognizedClientException", "", 400, Kind.INVALID),
        ("AccessDeniedException", "not authorized", 400, Kind.DENIED),
        ("ValidationException", "no such thing", 400, Kind.PERMANENT),
        ("HTTP 403", "", 403, Kind.PERMANENT),
        # A limit of how many there may be is not one of how often one may ask.
        ("RegistrationLimitExceeded", "", 400, Kind.PERMANENT),
        ("ResourceLimitExceeded", "", 400, Kind.PERMANENT),
    ],
)
def test_an_error_has_a_kind(code: str, message: str, status: int, kind: Kind) -> None:
    assert kind_of(code, message, status) is kind


@pytest.mark.parametrize(
    ("headers", "body", "code", "message"),
    [
        ({}, b'{"__type":"com.amazon#Throttling","message":"slow"}', "Throttling", "slow"),
        ({}, b'{"__type":"Throttling:http://x","Message":"slow"}', "Throttling", "slow"),
        ({}, b'{"code":"Throttling"}', "Throttling", ""),
        ({"x-amzn-errortype": "Throttling:http://x"}, b"{}", "Throttling", ""),
        ({"x-amzn-errortype": "Throttling"}, b"", "Throttling", ""),
        ({}, b"<E><Error><Code>SlowDown</Code><Message>m</Message></Error></E>", "SlowDown", "m"),
        # The message gateway.
        (
            {},
            b"<ThrottlingException><message>Rate exceeded</message></ThrottlingException>",
            "ThrottlingException",
            "Rate exceeded",
        ),
        ({}, b"<html>Bad Gateway</html>", "HTTP 418", "<html>Bad Gateway</html>"),
        ({}, b"", "HTTP 418", ""),
        ({}, b'{"__type":', "HTTP 418", '{"__type":'),
        ({}, b"[" * 100_000, "HTTP 418", "[" * 200),
        ({}, b'{"__type":7,"message":null}', "7", ""),
    ],
)
def test_an_answer_is_read_in_each_form(
    headers: Dict[str, str], body: bytes, code: str, message: str
) -> None:
    assert read_error(418, headers, body) == ErrorAnswer(code, message, 418)


def test_what_is_kept_of_an_answer_is_short() -> None:
    answer = read_error(400, {}, json.dumps({"__type": "x" * 9999, "message": "y" * 9999}).encode())

    assert (len(answer.code), len(answer.message)) == (100, 500)


def test_a_refused_upgrade_is_such_an_answer_too() -> None:
    refused = ConnectionFailed("no", status=400, body='{"code":"Throttling"}', headers={"date": "today"})

    assert of_refused_upgrade(refused) == ErrorAnswer("Throttling", "", 400, "today")
    assert of_refused_upgrade(ConnectionFailed("no", status=101)) is None
    assert of_refused_upgrade(ConnectionFailed("no")) is None
    assert of_refused_upgrade(OSError("no")) is None


def skewed(seconds: float, code: str = "InvalidSignatureException", message: str = "") -> ErrorAnswer:
    """The answer of a service whose clock is that far ahead of ours."""
    return ErrorAnswer(code, message, 400, formatdate(NOW + seconds, usegmt=True))


@pytest.mark.parametrize("seconds", [-7200.0, 7200.0])
def test_a_clock_takes_the_time_of_an_answer_that_refuses_ours(seconds: float) -> None:
    clock = Clock(lambda: NOW)

    assert clock.learn(skewed(seconds))
    assert clock.now() == NOW + seconds
    assert not clock.learn(skewed(seconds)), "it is no other time, so the signature was wrong otherwise"
    assert clock.learn(skewed(0.0)), "our clock was set right meanwhile"
    assert clock.now() == NOW


@pytest.mark.parametrize(
    "answer",
    [
        skewed(7200.0, "AccessDeniedException"),
        skewed(20.0),
        ErrorAnswer("RequestTimeTooSkewed", date=""),
        ErrorAnswer("RequestTimeTooSkewed", date="yesterday"),
        ErrorAnswer("RequestTimeTooSkewed", date="Mon, 01 Jan 99999999 00:00:00 GMT"),
    ],
)
def test_a_clock_learns_nothing_from_other_answers(answer: ErrorAnswer) -> None:
    clock = Clock(lambda: NOW)

    assert not clock.learn(answer)
    assert clock.now() == NOW


def test_a_clock_believes_a_text_without_a_code() -> None:
    clock = Clock(lambda: NOW)

    assert clock.learn(skewed(3600.0, "HTTP 403", "Signature expired: 20261201 is now earlier than"))
