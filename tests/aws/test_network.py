"""Certificates and proxies: as every AWS tool treats them."""

from __future__ import annotations

import datetime
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aws_stub import AwsStub
from sagemaker_ssh_helper import errors
from sagemaker_ssh_helper.aws.json_rpc import Client
from sagemaker_ssh_helper.aws.session import Session, proxies_for


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for localhost that nobody else vouches for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls_url(certificate: Path) -> Iterator[str]:
    """A server that answers every call with an empty object, over TLS."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """A client that does not trust us is expected."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_certificate_that_nobody_vouches_for_is_told_once(
    tls_url: str, stub: AwsStub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    client = Client(Session.open(environ=stub.environment(AWS_ENDPOINT_URL=tls_url)), sleep=sleeps.append)
    with pytest.raises(errors.EndpointUnreachable, match=r"(?i)certificate.*Set AWS_CA_BUNDLE"):
        client.call("ssm", "ListTagsForResource")
    assert sleeps == []


def test_the_file_of_certificates_is_honoured(tls_url: str, stub: AwsStub, certificate: Path) -> None:
    environment = stub.environment(AWS_ENDPOINT_URL=tls_url, AWS_CA_BUNDLE=str(certificate))
    assert Client(Session.open(environ=environment)).call("ssm", "ListTagsForResource") == {}


def test_a_proxy_of_the_environment_carries_the_calls(stub: AwsStub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", stub.url)
    stub.answers["ListTagsForResource"] = {"through": "the proxy"}
    environment = stub.environment(AWS_ENDPOINT_URL="http://ssm.nowhere.invalid")
    client = Client(Session.open(environ=environment))

    assert client.call("ssm", "ListTagsForResource") == {"through": "the proxy"}
    assert stub.asked[0].headers["Host"] == "ssm.nowhere.invalid"


def test_a_proxy_that_is_not_there_is_told(
    stub: AwsStub, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    environment = stub.environment(AWS_ENDPOINT_URL="http://ssm.nowhere.invalid")
    with pytest.raises(errors.EndpointUnreachable, match="HTTPS_PROXY"):
        Client(Session.open(environ=environment), sleep=sleeps.append).call("ssm", "ListTagsForResource")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://me:hunter2@[::1", "ALL_PROXY is not a valid URL of a proxy"),
        ("socks5h://me:hunter2@p:1080", "ALL_PROXY names a proxy that cannot be used"),
        ("http://me:hunter2%C3%A9@p:1080", "the name or password in ALL_PROXY is not in ASCII"),
    ],
)
def test_a_proxy_that_calls_cannot_use_is_named(
    stub: AwsStub, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ALL_PROXY", url)
    session = Session.open(environ=stub.environment(AWS_ENDPOINT_URL="http://ssm.nowhere.invalid"))
    with pytest.raises(errors.LocalSetup, match=said) as failure:
        Client(session).call("ssm", "ListTagsForResource")
    assert "hunter2" not in str(failure.value)


def test_the_proxy_of_calls_is_that_of_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("all_proxy", "p:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8,.internal")
    assert proxies_for("https://ssm.eu-west-1.amazonaws.com/") == {"https": "http://p:3128"}
    assert proxies_for("https://10.1.2.3:8443/") == {}
    assert proxies_for("https://vpce.internal/") == {}


def test_a_file_without_certificates_is_told(tls_url: str, stub: AwsStub, tmp_path: Path) -> None:
    path = tmp_path / "none.pem"
    path.write_text("hunter2")
    environment = stub.environment(AWS_ENDPOINT_URL=tls_url, AWS_CA_BUNDLE=str(path))
    with pytest.raises(errors.EndpointUnreachable, match=r"Set AWS_CA_BUNDLE") as failure:
        Client(Session.open(environ=environment), sleep=lambda _: None).call("ssm", "ListTagsForResource")
    assert "hunter2" not in str(failure.value)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("url", ["http://me:hunter2@[::1", "http://me:hunter2@p:port"])
def test_a_broken_proxy_is_named_where_the_credentials_need_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, url: str
) -> None:
    for other in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(other, raising=False)
    config = tmp_path / "config"
    config.write_text(
        "[profile r]\nrole_arn = arn:aws:iam::111122223333:role/r\nsource_profile = base\n"
        "[profile base]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "https://127.0.0.2:9")
    monkeypatch.setenv(name, url)
    with pytest.raises(errors.LocalSetup, match=f"{name} is not a valid URL of a proxy") as failure:
        Session.open("r", "eu-west-1").credentials()
    assert "hunter2" not in str(failure.value)
