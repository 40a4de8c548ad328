"""
How large the payloads to another of our ends may be: found out by probes, never assumed.

Official peers send 1024 bytes at most, and what the service takes beyond that is not known. So a message of
padding goes first, and user bytes follow in its size when the peer has acknowledged exactly that message.

Numbers, ids and sizes; no messages, no time. The rules and why: docs/explanation/the-stream.md.
"""

from sagemaker_ssh_helper.protocol.message import HEADER_BYTES

PAYLOAD_BYTES = 1024  # what the public peers send, and what is used until a probe says more

# What we chose. A message with its header is a power of two, because limits tend to be ones.
PROBE_SIZES = tuple((1 << bits) - HEADER_BYTES for bits in range(11, 17))
MAX_PAYLOAD_BYTES = 65536  # what we tell another of our ends that we accept
STRIDE = 2  # of PROBE_SIZES; so the largest takes three round trips
TRIES = 2  # probes that vanish before their size is given up: a link may lose any message
PROBE_AFTER_BYTES = 64 << 10  # of user bytes; a session that only types never takes a risk
# In flight meanwhile: what is queued before a probe is cut small, and a probe waits behind it.
SPAN_BYTES = 1 << 20


class PayloadSize:
    """
    The size in use, and the probe under way.

    The peer says by its acknowledge whether the probe itself arrived (it names the probe's id) or only the
    single byte that was sent in its place. A vanished probe makes its size too large after TRIES; a
    connection that broke while a probe was under way may have been broken by it, so then this is all.

    Args:
        max_bytes: what both ends accept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.payload_bytes = PAYLOAD_BYTES
        """User bytes may be sent in payloads of this size."""
        self.probe_number = -1
        """The sequence number of the probe that is not acknowledged; -1: none is under way."""
        self._probe_id = ""
        self._sizes = [size for size in PROBE_SIZES if size <= max_bytes]
        self._proven = -1  # an index, as the next two
        self._too_large = len(self._sizes)
        self._probed = -1
        self._vanished = 0
        self._user_bytes = 0

    @property
    def is_found(self) -> bool:
        """No probe is under way, and none will be."""
        return self.probe_number < 0 and self._next <= self._proven

    @property
    def _next(self) -> int:
        return min(self._proven + STRIDE, self._too_large - 1)

    def next_probe(self, user_bytes: int) -> int:
        """
        How many bytes of padding to send now; 0 for no probe.

        Args:
            user_bytes: that are about to be sent.
        """
        self._user_bytes += user_bytes
        if self.probe_number >= 0 or self._user_bytes < PROBE_AFTER_BYTES or self._next <= self._proven:
            return 0
        return self._sizes[self._next]

    def sent(self, number: int, message_id: str) -> None:
        """The probe that ``next_probe`` asked for has this number and this id."""
        self._probed = self._next
        self.probe_number = number
        self._probe_id = message_id

    def acknowledged(self, message_id: str) -> None:
        """The peer has something with the probe's number: the probe, if this is its id."""
        assert self.probe_number >= 0, "no probe is under way"
        self.probe_number = -1
        if message_id.lower() == self._probe_id:
            self._proven = self._probed
            self.payload_bytes = self._sizes[self._proven]
            self._vanished = 0
            return
        self._vanished += 1
        if self._vanished >= TRIES:
            self._too_large = self._probed
            self._vanished = 0

    def broken_off(self) -> None:
        """The connection was lost, and the probe with it."""
        self.probe_number = -1
        self._too_large = self._proven + 1
