"""Payloads that begin and end between characters."""

import os
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_ssh_helper.agent.utf8 import Cutter

pytestmark = pytest.mark.container

TEXT = "naïve € \N{REPLACEMENT CHARACTER} \N{GRINNING FACE} 日本"


def feed_all(parts: List[bytes], limit: int) -> List[bytes]:
    cutter = Cutter()
    pieces = [piece for part in parts for piece in cutter.feed(part, limit)]
    return [*pieces, cutter.flush()]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("limit", [4, 5, 1024])
def test_each_payload_is_whole_characters(size: int, limit: int) -> None:
    data = TEXT.encode() * 40
    pieces = feed_all([data[start : start + size] for start in range(0, len(data), size)], limit)

    assert "".join(piece.decode() for piece in pieces) == TEXT * 40
    assert max(map(len, pieces)) <= limit
    assert pieces[-1] == b""


@pytest.mark.parametrize("tail", [b"\xe2", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc3"])
def test_unfinished_character_waits_and_is_not_lost_at_the_end(tail: bytes) -> None:
    cutter = Cutter()

    assert cutter.feed(b"a" + tail, 10) == [b"a"]
    assert cutter.flush() == tail
    assert cutter.flush() == b""


@pytest.mark.parametrize(
    "data", [b"\x80\x80\x80\x80\x80", b"\xff", b"\xf8\x88", b"a\xc0", b"\xf5\x80", b"x\xc1\x80"]
)
def test_what_can_be_no_character_waits_for_nothing(data: bytes) -> None:
    assert Cutter().feed(data, 100) == [data]


@given(st.lists(st.binary(max_size=40), max_size=10), st.integers(4, 20))
def test_any_bytes_pass_unchanged(parts: List[bytes], limit: int) -> None:
    pieces = feed_all(parts, limit)

    assert b"".join(pieces) == b"".join(parts)
    assert all(0 < len(piece) <= limit for piece in pieces[:-1])


def test_random_bytes_are_cut_into_full_payloads() -> None:
    pieces = Cutter().feed(os.urandom(100_000), 1024)

    assert all(1020 < len(piece) <= 1024 for piece in pieces[:-1])
