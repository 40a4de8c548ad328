"""
The Session Manager wire protocol, pure: bytes and calls in, bytes and events out.

No sockets, no clock, no randomness of its own; standard library only, Python 3.8. Time is an argument
(``now``, monotonic seconds); only the wire's created date is wall clock, and it is handed in as well.

========================  =====================================================================
module                    what it holds
========================  =====================================================================
``websocket``             RFC 6455 framing, both sides
``message``               the binary message with its 120-byte header
``go_json``               JSON as the official peers write and read it
``payloads``              the JSON bodies: opening, handshake, acknowledge, offers, replies
``stream``                reliable ordered delivery over messages that may be lost
``encryption``            sessions with a KMS key: key halves, nonces, what is encrypted
``smux``                  many streams in one, for multiplexed port sessions
``versions``              what each end concludes from the other's version
``data_channel``          the machine of one session's channel, both sides
``control_channel``       the machine of an agent's control channel; the service's side of its messages
========================  =====================================================================

Importing the package loads none of them.
"""
