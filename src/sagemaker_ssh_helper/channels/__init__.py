"""
The asyncio shell around the protocol machines: sockets, TLS, proxies, time, keepalive, reconnects,
backpressure.

``DataChannelRunner`` and ``ControlChannelRunner`` keep one machine connected from its beginning to its
end, through as many WebSockets as that takes. Both run the same loop: feed what arrived, hand out events,
send what is pending, re-arm one timer.

=================  ============================================================
module             what it holds
=================  ============================================================
``certificates``   what TLS trusts
``dialing``        a TCP connection through a network that may be away
``proxy``          addresses, and the way through an HTTP proxy
``connection``     one open WebSocket, as an asyncio protocol
``attempts``       whether to connect again, and when; only times
``keepalive``      when to ping, when to give up; only times
``runner``         connect, and again after a loss; the loop and its timer
``data``           the runner of a data channel
``multiplexer``    the connections of a multiplexed port session
``aes_gcm``        the cipher of sessions that are encrypted with a KMS key
``control``        the runner of a control channel
=================  ============================================================

Imports the standard library and the protocol only; Python 3.8. ``aes_gcm`` alone needs a package,
``cryptography``, when it is asked for the cipher.
"""

from sagemaker_ssh_helper.channels.certificates import default_ssl_context
from sagemaker_ssh_helper.channels.connection import Listener, WebSocketProtocol, connect_websocket
from sagemaker_ssh_helper.channels.control import ControlChannelRunner
from sagemaker_ssh_helper.channels.data import DataChannelRunner
from sagemaker_ssh_helper.channels.runner import Grant, Link

__all__ = [
    "ControlChannelRunner",
    "DataChannelRunner",
    "Grant",
    "Link",
    "Listener",
    "WebSocketProtocol",
    "connect_websocket",
    "default_ssl_context",
]
