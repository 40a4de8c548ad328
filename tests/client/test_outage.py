"""What the user is told about a lost link."""

import asyncio

import pytest

from sagemaker_ssh_helper.client import tunnel
from sagemaker_ssh_helper.client.tunnel import Outage


async def told_after(lost: float, monkeypatch: pytest.MonkeyPatch) -> "list[str]":
    """The lines of a link that is lost for so many seconds, when 0.05 are worth a word."""
    monkeypatch.setattr(tunnel, "TELL_AFTER", 0.05)
    lines: list[str] = []
    told = asyncio.Event()

    def tell(line: str) -> None:
        lines.append(line)
        told.set()

    outage = Outage(tell)
    outage.end()  # the first connection
    outage.begin()
    if lost > 0.05:
        await asyncio.wait_for(told.wait(), 10)
        # Another attempt that fails is the same loss.
        outage.begin()
    outage.end()
    return lines


def test_a_short_loss_is_nobodys_business(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(told_after(0.0, monkeypatch)) == []


def test_a_long_loss_is_told_once_and_its_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asyncio.run(told_after(0.1, monkeypatch)) == ["link lost, resuming…", "link resumed after 0 s"]


def test_nothing_is_told_about_a_link_that_is_given_up() -> None:
    lines: list[str] = []

    async def give_up() -> None:
        outage = Outage(lines.append)
        outage.begin()
        outage.close()
        outage.end()

    asyncio.run(give_up())
    assert lines == []
