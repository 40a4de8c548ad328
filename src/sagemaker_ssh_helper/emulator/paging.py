"""
Pages of answers that list things, by position. For lists that change little while somebody reads them.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from sagemaker_ssh_helper.emulator.service import ApiError

Item = TypeVar("Item")


def encode_token(position: int) -> str:
    """A NextToken that hides a number."""
    return base64.urlsafe_b64encode(f"after:{position}".encode()).decode()


def decode_token(token: str) -> int:
    """The number in a NextToken. Raises ApiError ``InvalidNextToken``."""
    try:
        prefix, _, number = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
        if prefix == "after" and number.isdecimal():
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise ApiError("InvalidNextToken", "The specified token isn't valid.")


def position_page(
    items: Sequence[Item], size: int, next_token: str | None
) -> tuple[Sequence[Item], str | None]:
    """The next ``size`` items, and the token for those after; None after the last."""
    start = decode_token(next_token) if next_token else 0
    end = start + size
    return items[start:end], encode_token(end) if end < len(items) else None
