"""Addresses, and the way through an HTTP proxy."""

import asyncio
import base64
from typing import List

import pytest

from channels.party import in_loop
from channels.relay import Relay
from sagemaker_ssh_helper.channels import connect_websocket
from sagemaker_ssh_helper.channels.proxy import Address
from sagemaker_ssh_helper.errors import ConnectionFailed
from stream_server import StreamServer

pytestmark = pytest.mark.container

PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# -- addresses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("wss://a.example/p?q=1&r=2", Address(True, "a.example", 443, "a.example", "/p?q=1&r=2")),
        ("ws://a.example:8080", Address(False, "a.example", 8080, "a.example:8080", "/")),
        ("ws://[::1]:81/x", Address(False, "::1", 81, "[::1]:81", "/x")),
    ],
)
def test_a_url_is_taken_apart(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize("url", ["https://a.example/", "wss:///path", "", "wss://a.example:port/"])
def test_what_is_no_websocket_url_is_refused(url: str) -> None:
    with pytest.raises(ConnectionFailed, match="no WebSocket URL"):
        Address.parse(url)


def test_the_query_is_in_no_error_and_no_name() -> None:
    """It may hold a signature."""
    with pytest.raises(ConnectionFailed) as failure:
        Address.parse("https://a.example/x?signature=secret")
    assert "secret" not in str(failure.value)
    assert str(Address.parse("wss://a.example/x?signature=secret")) == "a.example:443"


# -- through it -------------------------------------------------------------------------------------


class Proxy:
    """
    An HTTP proxy that leads every CONNECT to one port of this machine, when name and password are right.
    """

    def __init__(self, port: int, authorization: str = "") -> None:
        self.port = port
        self.authorization = authorization
        self.heads: List[str] = []
        self.answer = b"HTTP/1.1 200 Connection established\r\nVia: me\r\n\r\n"
        self._server = StreamServer(self._serve)

    async def __aenter__(self) -> "Proxy":
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.__aexit__(*exception)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        if self.authorization and f"Proxy-Authorization: {self.authorization}\r\n" not in head:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(self.answer)
        if b" 200 " in self.answer:
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            data = await reader.read(65536)
            if not data:
                break
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()


@in_loop
async def test_a_websocket_goes_through_a_proxy_with_a_password(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorization = "Basic " + base64.b64encode(b"me:s e:cret").decode()
    async with Proxy(relay.port, authorization) as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:s%20e%3Acret@{proxy.address}")

        protocol = await connect_websocket("ws://gateway.example:8443/v1?x=1", timeout=5.0)

        protocol.abort("enough")
        await protocol.wait_closed()

    assert proxy.heads[0].startswith(
        "CONNECT gateway.example:8443 HTTP/1.1\r\nHost: gateway.example:8443\r\n"
    )
    assert relay.requests[0].headers["host"] == "gateway.example:8443"
    assert "proxy-authorization" not in relay.requests[0].headers


@in_loop
async def test_a_proxy_that_wants_a_password_is_told_apart(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy(relay.port, "Basic x") as proxy:
        monkeypatch.setenv("http_proxy", f"http://me:wrong@{proxy.address}")

        with pytest.raises(ConnectionFailed) as failure:
            await connect_websocket("ws://gateway.example/", timeout=5.0)

        assert failure.value.status == 407
        assert str(failure.value) == (
            f"the proxy {proxy.address} refused to connect to gateway.example:80"
            " (HTTP/1.1 407 Proxy Authentication Required)."
            " Check the name and password in http_proxy"
        )


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"", b"x" * 20000]
)
@in_loop
async def test_a_proxy_that_does_not_let_us_through(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    async with Proxy(relay.port) as proxy:
        proxy.answer = answer
        monkeypatch.setenv("ALL_PROXY", f"http://{proxy.address}")

        with pytest.raises(ConnectionFailed, match=f"the proxy {proxy.address}"):
            await connect_websocket("ws://gateway.example/", timeout=5.0)

    assert relay.requests == []


@in_loop
async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Proxy(0) as proxy:
        address = proxy.address
    monkeypatch.setenv("ALL_PROXY", f"http://{address}")

    with pytest.raises(ConnectionFailed, match=r"cannot reach gateway.example:80 through the proxy"):
        await connect_websocket("ws://gateway.example/", timeout=5.0)
