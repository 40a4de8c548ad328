"""Runners of encrypted sessions: who is asked for the data key, and what becomes of a refusal."""

import asyncio
from typing import Any, Awaitable, Callable, List

import pytest

from channels.party import Party, in_loop
from channels.relay import Relay
from channels.test_runner import channel_closed
from protocol.aead import ToyAead
from sagemaker_ssh_helper.channels import aes_gcm
from sagemaker_ssh_helper.errors import AccessDenied, LocalSetup
from sagemaker_ssh_helper.protocol.data_channel import DataKeyNeeded, Side
from sagemaker_ssh_helper.protocol.encryption import DataKey

pytestmark = pytest.mark.container

KEY = DataKey(bytes(range(64)), b"encrypted")


@pytest.fixture(autouse=True)
def toy_cipher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aes_gcm, "load", lambda: ToyAead)


async def give(needed: DataKeyNeeded) -> DataKey:
    return KEY


async def deny(needed: DataKeyNeeded) -> DataKey:
    raise AccessDenied("no key for you")


async def fail(needed: DataKeyNeeded) -> DataKey:
    raise ZeroDivisionError


def agent(relay: Relay, get_data_key: Callable[[DataKeyNeeded], Awaitable[DataKey]] = give) -> Party:
    party = Party(Side.AGENT, relay.url, session_type="Standard_Stream", get_data_key=get_data_key)
    party.runner.channel._kms_key_id = "alias/k"
    return party


def client(relay: Relay, **options: Any) -> Party:
    return Party(Side.CLIENT, relay.url, session_type="Standard_Stream", **options)


@in_loop
async def test_bytes_go_both_ways_encrypted_and_over_a_lost_link(relay: Relay) -> None:
    asked: List[DataKeyNeeded] = []

    async def get(needed: DataKeyNeeded) -> DataKey:
        asked.append(needed)
        return KEY

    async with agent(relay) as far, client(relay, get_data_key=get) as near:
        near.runner.channel._instance_id = "mi-1"
        await near.wait_for(lambda: near.ready)
        near.send(b"typed" * 1000)
        far.send(b"shown" * 1000)
        await far.wait_for(lambda: len(far.received) == 5000)
        await near.wait_for(lambda: len(near.received) == 5000)
        relay.cut(Side.CLIENT.value)
        near.send(b"again")
        await far.wait_for(lambda: len(far.received) == 5005)

    assert (far.received, near.received) == (b"typed" * 1000 + b"again", b"shown" * 1000)
    (needed,) = asked
    assert needed.key_id == "alias/k"


@in_loop
async def test_a_client_that_gets_no_key_says_why(relay: Relay) -> None:
    async with agent(relay) as far, client(relay, get_data_key=deny) as near:
        refused = await far.ended()
        relay.send(Side.CLIENT.value, [channel_closed("refused")])
        error = await near.ended()

    assert isinstance(error, AccessDenied)
    assert "the client refused KMSEncryption of the handshake (status 2 no key for you)" in str(refused)


@in_loop
async def test_an_owner_without_kms_refuses(relay: Relay) -> None:
    async with agent(relay) as far, client(relay) as near:
        await far.ended()
        relay.send(Side.CLIENT.value, [channel_closed("refused")])
        assert isinstance(await near.ended(), LocalSetup)


@in_loop
async def test_a_fault_of_the_owner_comes_out(relay: Relay) -> None:
    async with agent(relay, fail) as far, client(relay, get_data_key=give):
        with pytest.raises(ZeroDivisionError):
            await far.ended()


@in_loop
async def test_closing_does_not_wait_for_the_key(relay: Relay) -> None:
    asked = asyncio.Event()

    async def wait(needed: DataKeyNeeded) -> DataKey:
        asked.set()
        await asyncio.Event().wait()
        return KEY

    async with agent(relay), client(relay, get_data_key=wait) as near:
        await asked.wait()
        near.runner.close()
        assert await near.ended() is None
