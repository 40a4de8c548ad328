"""
The runner of an agent's control channel.
"""

import ssl
from typing import Awaitable, Callable, List, Optional, Tuple

from sagemaker_ssh_helper.channels.connection import CONNECT_TIMEOUT
from sagemaker_ssh_helper.channels.runner import KEEPALIVE_INTERVAL, Grant, Link, Runner
from sagemaker_ssh_helper.protocol.control_channel import ControlChannel, ControlEvent, JobOffered
from sagemaker_ssh_helper.protocol.payloads import AgentJobReply, AgentTaskComplete, JobAckStatus
from sagemaker_ssh_helper.protocol.websocket import DEFAULT_MAX_MESSAGE_BYTES

DELAYS = (0.5, 60.0)  # seconds between attempts, the first and the longest; there may be thousands of agents


class ControlChannelRunner(Runner[ControlChannel]):
    """
    An agent's control channel, for as long as the agent lives: it never gives up by itself.

    Args:
        channel: a fresh machine.
        grant: as for DataChannelRunner.
        on_event: told everything the service offers.
        on_link: told when the connection is up, and when it is lost and why.
    """

    what = "control channel"

    def __init__(
        self,
        channel: ControlChannel,
        grant: Callable[[bool], Awaitable[Grant]],
        *,
        on_event: Callable[[ControlEvent], None],
        keepalive_interval: float = KEEPALIVE_INTERVAL,
        connect_timeout: float = CONNECT_TIMEOUT,
        ssl_context: Optional[ssl.SSLContext] = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        on_link: Optional[Callable[[Link, str], None]] = None,
        delays: Tuple[float, float] = DELAYS,
    ) -> None:
        super().__init__(
            channel,
            grant,
            keepalive_interval=keepalive_interval,
            open_timeout=None,
            resume_timeout=None,
            connect_timeout=connect_timeout,
            ssl_context=ssl_context,
            max_message_bytes=max_message_bytes,
            on_link=on_link,
            delays=delays,
        )
        self.channel = channel
        self._on_event = on_event

    def task_complete(self, result: AgentTaskComplete) -> str:
        """Tell how a session ended. Returns the message id that TaskAcknowledged will name."""
        now = self._now()
        message_id = self.channel.task_complete(result, now)
        self._settle(now)
        return message_id

    def job_ack(self, offered: JobOffered, status: Tuple[str, str] = JobAckStatus.SUCCESSFUL) -> None:
        """Answer a command."""
        self.channel.job_ack(offered, status)
        self._settle(self._now())

    def job_reply(self, reply: AgentJobReply) -> str:
        """Tell how a command is getting on. Returns the message id that JobReplyAcknowledged will name."""
        now = self._now()
        message_id = self.channel.job_reply(reply, now)
        self._settle(now)
        return message_id

    # -- within --

    def _now(self) -> float:
        assert self._loop is not None, "the runner is not running"
        return self._loop.time()

    def _receive(self, messages: List[bytes], now: float) -> None:
        for message in messages:
            for event in self.channel.receive_message(message, now):
                self._on_event(event)

    def _tick(self, now: float) -> None:
        for event in self.channel.handle_timer(now):
            self._on_event(event)

    def _take(self, now: float, max_bytes: int) -> List[bytes]:
        return self.channel.messages_to_send()
