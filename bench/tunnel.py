"""
A session from end to end: client, gateway and agent, each a process of its own, on loopback.

    python -m bench.tunnel [--megabytes N] [--payload BYTES] [--tls] [--round-trip SECONDS]

The client and the agent are our own runners; the gateway is the relay of the tests, which takes masks off and
forwards. Printed are the medians of five runs: throughput each way, processor time for each message at
each end, and how long one byte takes there and back.

Absolute figures are those of loopback and of this machine.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

from channels.relay import Relay  # noqa: E402  (the path is set above)
from sagemaker_ssh_helper.channels import DataChannelRunner, Grant  # noqa: E402
from sagemaker_ssh_helper.protocol.data_channel import (  # noqa: E402
    DataChannel,
    Event,
    Ready,
    Side,
    StreamData,
)

RUNS = 5
ECHOES = 2000
CHUNK = 65536


class DelayingRelay(Relay):
    """A relay at a distance."""

    delay = 0.0

    def send(self, side: str, messages: List[bytes]) -> None:
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, super().send, side, messages)
        else:
            super().send(side, messages)


class Party:
    """One end: sends, counts and echoes what it is told to."""

    def __init__(self, side: Side, url: str, payload_bytes: int, ssl_file: Optional[str]) -> None:
        channel = DataChannel(
            side,
            "bench",
            random_bytes=os.urandom,
            created_ms=lambda: int(time.time() * 1000),
            client_id="client",
            instance_id="mi-1" if side is Side.AGENT else "",
            version="3.3.1000.0",
            max_payload_bytes=payload_bytes,
        )
        if ssl_file:
            os.environ["AWS_CA_BUNDLE"] = ssl_file
        self.url = url
        self.ready = asyncio.Event()
        self.arrived = asyncio.Event()
        self.wanted = 0
        self.got = 0
        self.to_send = 0
        self.echoes = False
        self.data = os.urandom(CHUNK)
        self.runner = DataChannelRunner(channel, self.grant, on_event=self.on_event, on_writable=self.pump)

    async def grant(self, resume: bool) -> Grant:
        return Grant(self.url, "token")

    def pump(self) -> None:
        """Send one piece a turn of the loop, as a reader of a pipe or a socket would."""
        if self.to_send > 0 and self.runner.writable:
            size = min(CHUNK, self.to_send)
            self.to_send -= size
            self.runner.send_data(self.data[:size])
            asyncio.get_running_loop().call_soon(self.pump)

    def on_event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.ready.set()
        elif isinstance(event, StreamData):
            self.on_data(event.data)

    def on_data(self, data: bytes) -> None:
        self.got += len(data)
        if self.got >= self.wanted:
            self.arrived.set()

    async def receive(self, size: int) -> None:
        self.wanted = self.got + size
        self.arrived.clear()
        await self.arrived.wait()


class Agent(Party):
    """
    Does what 16 bytes tell: ``u`` take that many bytes, then answer with one; ``d`` send them; ``e``
    echo.
    """

    def on_data(self, data: bytes) -> None:
        while data:
            if self.echoes:
                self.runner.send_data(data)
                return
            if self.wanted:
                size = min(len(data), self.wanted)
                self.wanted -= size
                data = data[size:]
                if not self.wanted:
                    self.runner.send_data(b"!")
                continue
            order, data = data[:16], data[16:]
            size = int(order[1:])
            if order[:1] == b"u":
                self.wanted = size
            elif order[:1] == b"d":
                self.to_send = size
                self.pump()
            else:
                self.echoes = True


def processor_seconds(pid: int) -> float:
    """What a process has used so far; 0 where /proc is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def client(options: argparse.Namespace) -> None:
    party = Party(Side.CLIENT, options.url, options.payload, options.ca)
    task = asyncio.ensure_future(party.runner.run())
    ready = asyncio.ensure_future(party.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        sys.exit(f"no session: {task.result()}")
    size = options.megabytes * 1_000_000
    pids = {"client": os.getpid(), **json.loads(options.pids)}
    results: Dict[str, Any] = {}
    for name, order in (("upload", b"u"), ("download", b"d")):
        runs: List[Tuple[float, Dict[str, float]]] = []
        for _ in range(RUNS):
            before = {who: processor_seconds(pid) for who, pid in pids.items()}
            began = time.perf_counter()
            party.runner.send_data(order + b"%015d" % size)
            if order == b"u":
                party.to_send = size
                party.pump()
            await party.receive(1 if order == b"u" else size)
            took = time.perf_counter() - began
            messages = size / options.payload
            used = {who: (processor_seconds(pid) - before[who]) / messages * 1e6 for who, pid in pids.items()}
            runs.append((size / took / 1e6, used))
        results[name] = {
            "MB/s": round(statistics.median(rate for rate, _ in runs), 1),
            "us/message": {who: round(statistics.median(used[who] for _, used in runs), 1) for who in pids},
        }
    results["resent"] = party.runner.channel.resent
    await party.runner.drain(10.0)
    party.runner.send_data(b"e" + b"%015d" % 0)
    times = []
    for _ in range(ECHOES if options.round_trip == 0 else 20):
        began = time.perf_counter()
        party.runner.send_data(b"k")
        await party.receive(1)
        times.append(time.perf_counter() - began)
    times.sort()
    results["echo ms"] = {
        "p50": round(times[len(times) // 2] * 1e3, 2),
        "p99": round(times[len(times) * 99 // 100] * 1e3, 2),
    }
    party.runner.close()
    await task
    print(json.dumps(results))


async def agent(options: argparse.Namespace) -> None:
    party = Agent(Side.AGENT, options.url, options.payload, options.ca)
    print("ready", flush=True)
    await party.runner.run()


async def gateway(options: argparse.Namespace) -> None:
    context = None
    if options.ca:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.ca)
    relay = DelayingRelay()
    relay.delay = options.round_trip / 2
    await relay.start(context)
    print(relay.url, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def certificate(folder: str) -> str:
    """A file with a key and a certificate of its own for 127.0.0.1, made by the openssl program."""
    path = os.path.join(folder, "both.pem")
    key, cert = os.path.join(folder, "key.pem"), os.path.join(folder, "cert.pem")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench"
    )
    command += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    Path(path).write_text(Path(key).read_text() + Path(cert).read_text())
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput and latency of a session, from end to end.")
    parser.add_argument("--megabytes", type=int, default=30)
    parser.add_argument("--payload", type=int, default=1024, help="bytes in a message")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds the gateway adds")
    for name in ("role", "url", "ca", "pids"):
        parser.add_argument("--" + name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        asyncio.run({"client": client, "agent": agent, "gateway": gateway}[options.role](options))
        return
    with tempfile.TemporaryDirectory() as folder:
        same = ["--megabytes", str(options.megabytes), "--payload", str(options.payload)]
        same += ["--round-trip", str(options.round_trip)]
        if options.tls:
            same += ["--ca", certificate(folder)]

        def start(role: str, *more: str) -> "subprocess.Popen[str]":
            command = [sys.executable, "-m", "bench.tunnel", "--role", role, *same, *more]
            return subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )

        children = [start("gateway")]
        try:
            assert children[0].stdout is not None
            url = children[0].stdout.readline().strip()
            children.append(start("agent", "--url", url))
            assert children[1].stdout is not None
            children[1].stdout.readline()
            pids = json.dumps({"gateway": children[0].pid, "agent": children[1].pid})
            children.append(start("client", "--url", url, "--pids", pids))
            output, _ = children[2].communicate(timeout=600)
        finally:
            for child in children:
                child.kill()
                child.communicate()
    results = json.loads(output)
    for name in ("upload", "download"):
        used = ", ".join(f"{who} {value}" for who, value in results[name]["us/message"].items())
        print(f"{name:9}{results[name]['MB/s']:7.1f} MB/s   processor us/message: {used}")
    echo = results["echo ms"]
    print(f"echo     p50 {echo['p50']} ms, p99 {echo['p99']} ms   resent {results['resent']} messages")


if __name__ == "__main__":
    main()
