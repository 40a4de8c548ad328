"""How long an agent waits for a client that is slow to start."""

import pytest

from sagemaker_ssh_helper.agent.session_base import handshake_timeout
from sagemaker_ssh_helper.protocol.data_channel import AGENT_HANDSHAKE_TIMEOUT, DataChannel, Side

pytestmark = pytest.mark.container


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 15), ("60", 60), (" 1 ", 1), ("3600", 3600), ("3601", 15), ("0", 15), ("-5", 15), ("1e3", 15),
     ("9" * 40, 15), ("\u0663", 15)],
)  # fmt: skip
def test_the_jobs_environment_says_how_long(text: str, seconds: float) -> None:
    assert AGENT_HANDSHAKE_TIMEOUT == 15
    assert handshake_timeout({"SSH_HANDSHAKE_TIMEOUT": text}) == seconds


def test_a_slow_client_has_as_long_as_that() -> None:
    channel = DataChannel(
        Side.AGENT, "s-1", random_bytes=bytes, created_ms=lambda: 0, version="3.3.1.0",
        session_type="Port", agent_handshake_timeout=60.0,
    )  # fmt: skip
    channel.open("token", 10.0)
    while channel.messages_to_send(10.0, 1 << 20):
        pass

    assert channel.handle_timer(69.9) == []
    assert len(channel.handle_timer(70.0)) == 1
