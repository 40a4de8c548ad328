"""Commands by way of ec2messages: what is taken, and what the service is told, in which order."""

import asyncio
import json

import pytest

from agent.fake_service import TIMEOUT
from sagemaker_ssh_helper.agent import message_delivery
from sagemaker_ssh_helper.agent.message_delivery import MessageDelivery
from sagemaker_ssh_helper.errors import AccessDenied, EndpointUnreachable, Throttled
from sagemaker_ssh_helper.protocol.payloads import AgentJobReply, JobAckStatus, JobTopic, TaskStatus

pytestmark = pytest.mark.container

MI = "mi-0123456789abcdef0"
JOB = f"aws.ssm.11111111-2222-3333-4444-555555555555.{MI}"


class Api:
    """What the service gives, and what it is told. Each entry of ``troubles`` is raised by one call."""

    def __init__(self, *polls):
        self.polls = list(polls)
        self.troubles = []
        self.told = []
        self.asked = 0
        self.payloads = []

    def get_messages(self, instance_id):
        assert instance_id == MI
        self.asked += 1
        found = self.polls.pop(0) if self.polls else []
        if isinstance(found, Exception):
            raise found
        return found

    def _tell(self, *words):
        if self.troubles:
            raise self.troubles.pop(0)
        self.told.append(words)

    def acknowledge_message(self, message_id):
        self._tell("acknowledge", message_id)

    def send_reply(self, message_id, payload):
        self.payloads.append(json.loads(payload))
        self._tell("reply", message_id, self.payloads[-1]["documentStatus"])

    def fail_message(self, message_id, failure_type):
        self._tell("fail", message_id, failure_type)


def message(topic="aws.ssm.sendCommand.x", payload='{"CommandId": "c"}', **changes):
    return {"MessageId": JOB, "Topic": topic, "Payload": payload, "Destination": MI, **changes}


def reply(status, topic=JobTopic.SEND_COMMAND):
    return AgentJobReply(JOB, {"additionalInfo": {"runId": ""}, "documentStatus": status}, topic)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(message_delivery, "_QUICK_PAUSE", (0.0, 0.0))
    monkeypatch.setattr(message_delivery, "_DELAYS", (0.01, 0.02))


def run(api, until, offered=lambda delivery, offer: None, connected=False):
    """Poll until something is so."""
    offers = []

    async def call(function, *arguments):
        await asyncio.sleep(0)
        try:
            return function(*arguments)
        finally:
            called.set()

    called = None

    async def main():
        nonlocal called
        called = asyncio.Event()

        def offer(job):
            offers.append(job)
            offered(delivery, job)

        delivery = MessageDelivery(MI, api, call, offer, is_connected=lambda: connected)
        polling = asyncio.ensure_future(delivery.poll())

        async def wait():
            while not until():
                called.clear()
                await called.wait()

        await asyncio.wait_for(wait(), TIMEOUT)
        polling.cancel()
        await delivery.close(TIMEOUT)
        return delivery

    delivery = asyncio.run(main())
    return delivery, offers


def take(delivery, offer):
    delivery.ack(offer.job.job_id, JobAckStatus.SUCCESSFUL)
    for status in ("InProgress", "Success"):
        delivery.reply(reply(status))


FLOW = [("reply", JOB, "InProgress"), ("acknowledge", JOB), ("reply", JOB, "Success")]


def test_a_command_is_told_before_it_is_acknowledged_as_official_agents_do_it():
    api = Api([message()])
    delivery, (offer,) = run(api, lambda: len(api.told) == 3, take)

    assert offer.job.content == {"CommandId": "c"}
    assert offer.job.topic == "aws.ssm.sendCommand.x"
    assert delivery.brought(JOB)
    assert not delivery.brought("another")
    assert api.told == FLOW


@pytest.mark.parametrize("connected", [False, True])
def test_replies_say_whether_the_gateway_can_be_reached(connected):
    api = Api([message()])
    run(api, lambda: len(api.told) == 3, take, connected)

    told = [payload["additionalInfo"] for payload in api.payloads]
    assert told == [{"runId": "", "ableToOpenMGSConnection": connected}] * 2


@pytest.mark.parametrize("trouble", [EndpointUnreachable("x"), Throttled("x")], ids=["silence", "throttled"])
def test_a_reply_that_is_not_taken_is_sent_again_in_its_place(trouble):
    api = Api([message()])
    api.troubles = [trouble, trouble]
    run(api, lambda: len(api.told) == 3, take)

    assert api.told == FLOW


def test_a_reply_that_is_refused_holds_no_other():
    api = Api([message()])
    api.troubles = [AccessDenied("x")]
    run(api, lambda: len(api.told) == 2, take)

    assert api.told == FLOW[1:]


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (JobAckStatus.DUPLICATE, [("acknowledge", JOB)]),
        (JobAckStatus.UNEXPECTED, [("fail", JOB, "InternalHandlerException")]),
        # They come again.
        (JobAckStatus.BUFFER_FULL, []),
        (JobAckStatus.CLOSED, []),
    ],
)
def test_a_command_that_is_not_run_is_answered_as_the_service_knows_it(status, told):
    api = Api([message()])
    run(api, lambda: api.asked > 1, lambda delivery, offer: delivery.ack(JOB, status))

    assert api.told == told


def test_a_topic_that_is_not_known_is_no_command():
    api = Api([message("aws.ssm.dance")])
    _, offers = run(api, lambda: bool(api.told))

    assert offers == []
    assert api.told == [("fail", JOB, "InternalHandlerException")]


def test_a_wish_to_cancel_that_cannot_be_used_fails():
    api = Api([message("aws.ssm.cancelCommand.x", "{")])

    def refuse(delivery, offer):
        assert offer.job.content is None
        delivery.ack(JOB, JobAckStatus.PARSE_ERROR)
        delivery.reply(reply(TaskStatus.FAILED, JobTopic.CANCEL_COMMAND))

    run(api, lambda: bool(api.told), refuse)

    assert api.told == [("fail", JOB, "InternalHandlerException")]


@pytest.mark.parametrize(
    "nothing", [{}, {"MessageId": ""}, {"MessageId": JOB, "Topic": 7}, {"MessageId": [], "Topic": "x"}]
)
def test_what_is_no_message_is_passed_over(nothing):
    api = Api([nothing, message()])
    _, offers = run(api, lambda: len(api.told) == 3, take)

    assert len(offers) == 1


@pytest.mark.parametrize("trouble", [EndpointUnreachable("x"), Throttled("x"), AccessDenied("x")])
def test_polling_goes_on_whatever_the_service_does(trouble):
    api = Api(trouble, trouble, [message()])
    run(api, lambda: len(api.told) == 3, take)

    assert api.told == FLOW
