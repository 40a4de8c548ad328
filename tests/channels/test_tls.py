"""TLS: what is trusted, and how it is said when it is not."""

import asyncio
import datetime
import ipaddress
import os
import runpy
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from channels.party import LIMIT, Party
from channels.relay import Relay
from sagemaker_ssh_helper.channels import certificates, connect_websocket, default_ssl_context
from sagemaker_ssh_helper.errors import ConnectionFailed, LocalSetup
from sagemaker_ssh_helper.protocol.data_channel import Side
from stream_server import StreamServer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for 127.0.0.1 that vouches for itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + built.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture(autouse=True)
def _no_certificates_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def serving(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("name", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_session_over_tls_with_certificates_of_our_own(
    name: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(certificate))
    data = os.urandom(1_000_000)

    async def scenario() -> None:
        relay = await Relay().start(serving(certificate))
        async with Party(Side.AGENT, relay.url) as agent, Party(Side.CLIENT, relay.url) as client:
            client.send(data)
            agent.send(data)
            await agent.wait_for(lambda: len(agent.received) == len(data))
            await client.wait_for(lambda: len(client.received) == len(data))
            await relay.cut_and_wait("client")
            client.send(b"again")
            await agent.wait_for(lambda: len(agent.received) == len(data) + 5)
        assert agent.received == data + b"again"
        assert client.received == data
        await relay.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT))


def test_a_certificate_nobody_vouches_for_is_refused_at_once_and_named(certificate: Path) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        # The server's side of the refusal is logged by asyncio.
        loop.set_exception_handler(lambda loop, context: None)
        relay = await Relay().start(serving(certificate))
        async with Party(Side.CLIENT, relay.url) as client:
            error = await client.ended()
        assert isinstance(error, ConnectionFailed)
        assert error.what == f"the certificate of 127.0.0.1:{relay.port} is not trusted"
        assert error.fix is not None
        assert "AWS_CA_BUNDLE" in error.fix
        assert client.resumed == [False]
        await relay.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT))


def test_a_server_that_speaks_no_tls_is_an_error() -> None:
    async def answer_in_plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async def scenario() -> None:
        async with StreamServer(answer_in_plain) as server:
            with pytest.raises(ConnectionFailed, match=f"cannot reach 127.0.0.1:{server.port}"):
                await connect_websocket(f"wss://127.0.0.1:{server.port}/", timeout=5.0)

    asyncio.run(asyncio.wait_for(scenario(), LIMIT))


def test_aws_ca_bundle_wins(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/at/all")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))

    assert default_ssl_context().cert_store_stats()["x509_ca"] == 1


def test_a_folder_of_certificates_will_do(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.parent))

    context = default_ssl_context()

    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_a_system_without_certificates_uses_the_bundled_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    (tmp_path / "README").write_text("no certificate")
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)

    assert not certificates.system_has_certificates()
    context = default_ssl_context()

    assert context.cert_store_stats()["x509_ca"] > 100
    assert context.verify_mode is ssl.CERT_REQUIRED
    (tmp_path / "0123abcd.0").touch()
    assert certificates.system_has_certificates()
    assert default_ssl_context().cert_store_stats()["x509_ca"] == 0


def test_the_bundled_certificates_have_those_of_aws_and_a_date() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cafile=certificates.BUNDLED_CA)
    names = [str(authority["subject"]) for authority in context.get_ca_certs()]
    aws = [f"Amazon Root CA {number}" for number in (1, 2, 3, 4)] + ["Starfield Services Root Certificate"]
    assert [name for name in aws if not any(name in there for there in names)] == []
    assert datetime.date.fromisoformat(certificates.bundled_date()) >= datetime.date(2026, 10, 19)
    assert "Mozilla Public License" in Path(certificates.BUNDLED_CA).read_text()[:400]


def test_the_bundle_is_refreshed_from_certifi_s_text() -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "refresh_certificates.py"))
    pem = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"
    made = script["bundle"](f"# Issuer: one\n{pem}\n# Issuer: another\n{pem}", "2030.01.02")
    assert made.startswith("# certifi 2030.01.02\n")
    assert made.endswith(pem + pem)
    assert "Issuer" not in made
    assert Path(certificates.BUNDLED_CA).samefile(script["BUNDLE"])


@pytest.mark.parametrize("text", [None, "no certificate"])
def test_a_variable_that_names_no_certificates_is_an_error_that_names_it(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))

    with pytest.raises(LocalSetup, match="AWS_CA_BUNDLE names no usable file of certificates"):
        default_ssl_context()
