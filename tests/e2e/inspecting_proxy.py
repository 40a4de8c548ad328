"""
A company's proxy: it wants a password, ends TLS by certificates of an authority of its own, and passes on
what is inside.
"""

import asyncio
import base64
import secrets
import ssl
import subprocess
import threading
from pathlib import Path
from typing import Set
from urllib.parse import urlsplit

HOST = "aws.localhost"  # the local cloud answers to loopback names alone
TIMEOUT = 60


class InspectingProxy:
    """
    Every CONNECT to ``endpoint_url`` leads to the cloud at ``target_url``, which speaks plain http. Use it as
    a context manager.

    Args:
        target_url: where the cloud is.
        folder: for the certificates.
    """

    endpoint_url = f"https://{HOST}"

    def __init__(self, target_url: str, folder: Path) -> None:
        target = urlsplit(target_url)
        self._target = (target.hostname, target.port)
        self.password = secrets.token_hex(8)
        self.ca_file = folder / "ca.pem"
        key = folder / "key.pem"
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        words += ["-nodes", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
        words += ["-keyout", str(key), "-out", str(self.ca_file)]
        subprocess.run(words, check=True, capture_output=True, timeout=TIMEOUT)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.ca_file, key)
        self.asked: Set[str] = set()
        """The paths of the connections' first requests; of channels what stands before their names."""
        self.url = ""
        """With the name and the password, as HTTPS_PROXY has it."""
        self._loop = asyncio.new_event_loop()
        self._is_ready, self._is_over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> "InspectingProxy":
        self._thread.start()
        assert self._is_ready.wait(TIMEOUT)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join(TIMEOUT)
        self._loop.close()

    async def _run(self) -> None:
        outer = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        inner = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._tls)
        self._inner_port = inner.sockets[0].getsockname()[1]
        self.url = f"http://me:{self.password}@127.0.0.1:{outer.sockets[0].getsockname()[1]}"
        self._is_ready.set()
        await self._is_over.wait()
        outer.close()
        inner.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        expected = base64.b64encode(f"me:{self.password}".encode()).decode()
        if f"proxy-authorization: basic {expected}".lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        assert head.startswith(f"CONNECT {HOST}:443 "), head
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _join(reader, writer, *await asyncio.open_connection("127.0.0.1", self._inner_port))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.asked.add("/".join(head.decode().split(" ")[1].split("/")[:3]))
        there, back = await asyncio.open_connection(*self._target)
        back.write(head)
        await _join(reader, writer, there, back)


async def _join(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    there: asyncio.StreamReader,
    back: asyncio.StreamWriter,
) -> None:
    await asyncio.gather(_copy(reader, back), _copy(there, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            data = await reader.read(65536)
            if not data:
                break
            writer.write(data)
            await writer.drain()
    except OSError:
        # One of them is gone.
        pass
    finally:
        writer.close()
