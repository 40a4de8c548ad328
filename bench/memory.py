"""What processes hold: an idle start-proxy, an agent with ten sessions, and an agent after many."""

import socketserver
import threading
from contextlib import ExitStack, contextmanager
from typing import Dict, Iterator

from bench.site import Site, rss_bytes, tell

SESSIONS_AT_ONCE = 10


def memory(site: Site) -> Dict[str, float]:
    """Resident sizes, and by how much the agent's grows with a session that has come and gone."""
    agent = site.pids["agent"]
    figures: Dict[str, float] = {}
    with ExitStack() as stack:
        for number in range(SESSIONS_AT_ONCE):
            process = stack.enter_context(site.proxy("sagemaker_ssh_helper", "start-proxy", site.job.host))
            assert process.stdout is not None
            assert process.stdout.read(4) == b"SSH-"
            if not number:
                figures["proxy_rss_mb"] = tell("proxy_rss_mb", rss_bytes(process.pid) / 1e6)
        figures["agent_rss_mb"] = tell("agent_rss_mb", rss_bytes(agent) / 1e6)
    # The first ones fill caches and pools.
    come_and_go(site, max(20, site.effort.sessions // 3))
    before = rss_bytes(agent)
    come_and_go(site, site.effort.sessions)
    slope = (rss_bytes(agent) - before) / 1e3 / site.effort.sessions
    figures["rss_slope_kb_per_session"] = tell("rss_slope_kb_per_session", slope)
    return figures


def come_and_go(site: Site, count: int) -> None:
    """Open and end that many sessions, one after another, in one process."""
    with greeter() as port, site.proxy(
        "bench.many_sessions", site.instance_id(), str(port), str(count)
    ) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        assert process.wait() == 0, "a session could not be opened"
        assert int(told) == count


@contextmanager
def greeter() -> Iterator[int]:
    """
    A port that says a word to each connection, and then waits for its end.

    An ssh server would refuse so many that never log in.
    """

    class Greeting(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"r")
            self.request.recv(1)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeting) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
