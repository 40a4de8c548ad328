"""
A company's proxy: it wants a password, ends TLS by certificates of an authority of its own, and passes on
what is inside. A process of its own, which ends with its starter.
"""

import asyncio
import base64
import os
import secrets
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Optional, Set
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
        self._target_url = target_url
        self._asked = folder / "asked"
        self._asked.touch()
        self.password = secrets.token_hex(8)
        self.ca_file = folder / "ca.pem"
        self._key = folder / "key.pem"
        words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        words += ["-nodes", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
        words += ["-keyout", str(self._key), "-out", str(self.ca_file)]
        subprocess.run(words, check=True, capture_output=True, timeout=TIMEOUT)
        self.url = ""
        """With the name and the password, as HTTPS_PROXY has it."""
        self._process: Optional[subprocess.Popen[str]] = None

    @property
    def asked(self) -> Set[str]:
        """The paths of the connections' first requests; of channels what stands before their names."""
        return set(self._asked.read_text().splitlines())

    def __enter__(self) -> "InspectingProxy":
        words = [sys.executable, __file__, self._target_url, str(self.ca_file), str(self._key)]
        words += [str(self._asked), self.password]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout
        self.url = f"http://me:{self.password}@127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process
        self._process.communicate(timeout=TIMEOUT)


class _Proxy:
    def __init__(self, target_url: str, ca_file: str, key: str, asked: str, password: str) -> None:
        target = urlsplit(target_url)
        self._target = (target.hostname, target.port)
        self._asked = Path(asked)
        self._credentials = base64.b64encode(f"me:{password}".encode()).decode()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(ca_file, key)

    async def run(self) -> None:
        outer = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        inner = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._tls)
        self._inner_port = inner.sockets[0].getsockname()[1]
        print(outer.sockets[0].getsockname()[1], flush=True)
        # Nothing is ever written there: it can be read when the starter is gone.
        asyncio.get_running_loop().add_reader(sys.stdin, os._exit, 0)
        await outer.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if f"proxy-authorization: basic {self._credentials}".lower() not in head.lower():
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        assert head.startswith(f"CONNECT {HOST}:443 "), head
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _join(reader, writer, *await asyncio.open_connection("127.0.0.1", self._inner_port))

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self._note(head.decode().split(" ")[1])
        there, back = await asyncio.open_connection(*self._target)
        back.write(head)
        await _join(reader, writer, there, back)

    def _note(self, path: str) -> None:
        with self._asked.open("a") as asked:
            print("/".join(path.split("/")[:3]), file=asked)


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


if __name__ == "__main__":
    asyncio.run(_Proxy(*sys.argv[1:]).run())
