"""Requests over loopback: bodies, kept connections, proxies, and what is said when there is no answer."""

import base64
import gc
import socket
import ssl
import threading

import pytest

from agent.http_server import Reply, ScriptedServer, unused_port
from sagemaker_ssh_helper.agent.transport import Transport
from sagemaker_ssh_helper.errors import EndpointUnreachable

pytestmark = pytest.mark.container


def test_answer_has_status_headers_and_body() -> None:
    with ScriptedServer(Reply(418, b"short and stout", {"X-Kind": "teapot"})) as server:
        answer = Transport({}).request("GET", server.url + "/pot?size=2", {"X-Want": "tea"})

    assert (answer.status, answer.headers["x-kind"], answer.body) == (418, "teapot", b"short and stout")
    assert server.requests[0].path == "/pot?size=2"
    assert server.requests[0].headers["x-want"] == "tea"
    assert server.requests[0].headers["host"] == f"127.0.0.1:{server.port}"


@pytest.mark.parametrize(("chunked", "header"), [(False, "content-length"), (True, "transfer-encoding")])
def test_body_is_sent_with_its_length_or_in_chunks(chunked: bool, header: str) -> None:
    with ScriptedServer() as server:
        Transport({}).request("POST", server.url, {}, b"body", chunked=chunked)

    lengths = {"content-length", "transfer-encoding"} & set(server.requests[0].headers)
    assert server.requests[0].body == b"body"
    assert lengths == {header}


def test_connection_is_kept_between_requests() -> None:
    transport = Transport({})
    with ScriptedServer() as server:
        for _ in range(3):
            transport.request("POST", server.url, {}, b"x")
        transport.request("POST", server.url, {}, b"x", direct=True)
        transport.close()

    assert [request.connection for request in server.requests] == [0, 0, 0, 1]


def test_connection_given_up_by_the_server_is_replaced() -> None:
    transport = Transport({})
    with ScriptedServer(Reply(), Reply(hang_up=True), Reply(201)) as server:
        transport.request("POST", server.url, {}, b"x")
        answer = transport.request("POST", server.url, {}, b"x")
        transport.close()

    assert answer.status == 201
    assert [request.connection for request in server.requests] == [0, 0, 1]


def test_fresh_connection_that_is_closed_is_not_tried_again() -> None:
    deaf = ScriptedServer(Reply(hang_up=True))
    with deaf as server, pytest.raises(EndpointUnreachable, match="RemoteDisconnected"):
        Transport({}).request("POST", server.url, {}, b"x")

    assert len(server.requests) == 1


def test_refused_connection_is_said() -> None:
    port = unused_port()

    with pytest.raises(EndpointUnreachable) as caught:
        Transport({}).request("GET", f"http://127.0.0.1:{port}/", {})

    assert caught.value.what == f"127.0.0.1:{port} cannot be reached"
    assert "refused" in str(caught.value)


def test_silent_server_is_given_up_after_the_timeout() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        with pytest.raises(EndpointUnreachable, match="no answer in time"):
            Transport({}).request("GET", url, {}, timeout=0.1)


@pytest.mark.parametrize("url", ["ftp://host/", "host", "https:///path", "file:///etc/passwd", "http://[::1", "http://h:x"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(EndpointUnreachable, match="not a valid http or https URL"):
        Transport({}).request("GET", url, {})


def test_certificate_that_is_not_trusted_is_said_with_the_fix() -> None:
    """The server speaks no TLS at all here; what counts is the text made from ssl's error."""
    error = ssl.SSLCertVerificationError(1, "verify failed")
    error.verify_message = "self-signed certificate"

    def refuse() -> ssl.SSLContext:
        raise error

    with pytest.raises(EndpointUnreachable) as caught:
        Transport({}, refuse).request("GET", "https://127.0.0.1:1/", {})

    assert str(caught.value) == (
        "127.0.0.1:1 cannot be reached (its certificate is not trusted: self-signed certificate). "
        "Set AWS_CA_BUNDLE to a file with the certificate authority's certificate"
    )


def test_plain_request_goes_through_the_proxy_with_its_password() -> None:
    with ScriptedServer(Reply(200, b"from the proxy")) as proxy:
        environ = {"http_proxy": f"http://user:p%40ss@127.0.0.1:{proxy.port}"}
        answer = Transport(environ).request("GET", "http://ssm.example.com/path", {})

    expected = "Basic " + base64.b64encode(b"user:p@ss").decode()
    assert answer.body == b"from the proxy"
    assert proxy.requests[0].path == "http://ssm.example.com/path"
    assert proxy.requests[0].headers["proxy-authorization"] == expected
    assert proxy.requests[0].headers["host"] == "ssm.example.com"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_https_asks_the_proxy_to_connect_and_tells_its_refusal_without_the_password() -> None:
    with ScriptedServer(Reply(407)) as proxy:
        environ = {"HTTPS_PROXY": f"http://user:secret@127.0.0.1:{proxy.port}"}
        transport = Transport(environ, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        with pytest.raises(EndpointUnreachable) as caught:
            transport.request("GET", "https://ssm.example.com/path", {})

    assert (proxy.requests[0].method, proxy.requests[0].path) == ("CONNECT", "ssm.example.com:443")
    assert proxy.requests[0].headers["proxy-authorization"].startswith("Basic ")
    assert f"ssm.example.com cannot be reached through the proxy 127.0.0.1:{proxy.port}" in str(caught.value)
    assert "407" in str(caught.value)
    assert "secret" not in str(caught.value)
    # The http.client of Python 3.8 leaves a refused CONNECT to the garbage collector, which would warn later.
    del caught
    gc.collect()


def test_threads_share_a_transport() -> None:
    transport = Transport({})
    statuses = []

    def work() -> None:
        for _ in range(20):
            statuses.append(transport.request("POST", server.url, {}, b"x" * 100).status)

    with ScriptedServer() as server:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        transport.close()

    assert statuses == [200] * 80
