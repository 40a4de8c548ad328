"""
The tokens that open WebSockets: bearer secrets, good once and for a short time.
"""

import secrets
from dataclasses import dataclass

# Numbers we chose. A client that cannot reach the gateway dials again with the same token for some seconds.
TOKEN_LIFETIME = 60.0  # seconds
_TOKEN_BYTES = 48  # 64 characters; the API allows 300


@dataclass(frozen=True)
class Token:
    """What a token is good for: one channel, one side of it, until a time."""

    channel_id: str
    side: str
    expires_at: float


class Tokens:
    """
    Every token given out and not yet used. Times are monotonic seconds.

    A token is looked up before it is spent, so that a wrong channel does not use up somebody's token.
    """

    def __init__(self, lifetime: float = TOKEN_LIFETIME) -> None:
        self.lifetime = lifetime
        self._tokens: dict[str, Token] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def issue(self, channel_id: str, side: str, now: float) -> str:
        """A new token. Those of the same channel and side that were not used yet stay good."""
        self._forget_expired(now)
        value = secrets.token_urlsafe(_TOKEN_BYTES)
        self._tokens[value] = Token(channel_id, side, now + self.lifetime)
        return value

    def redeem(self, value: str, channel_id: str, side: str, now: float) -> bool:
        """Spend a token. False when it is unknown, spent, expired, or for something else."""
        token = self._tokens.get(value)
        if token is None or (token.channel_id, token.side) != (channel_id, side):
            return False
        del self._tokens[value]
        return now < token.expires_at

    def revoke(self, channel_id: str) -> None:
        """Forget the tokens of a channel that is no more."""
        for value in [value for value, token in self._tokens.items() if token.channel_id == channel_id]:
            del self._tokens[value]

    def _forget_expired(self, now: float) -> None:
        # Tokens live equally long, so the oldest are the first.
        while self._tokens:
            value, token = next(iter(self._tokens.items()))
            if now < token.expires_at:
                break
            del self._tokens[value]
