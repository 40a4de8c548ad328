"""
Requests in the form that official agents give them: these headers signed and no others, through TLS.

Signed with the agent's own signer, which shares nothing with the one that checks.
"""

import http.client
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

import pytest

from emulator.cloud_process import TIMEOUT, CloudProcess
from emulator.gateway_peers import OFFICIAL_VERSION, Node, Peer
from sagemaker_ssh_helper.agent import sigv4
from sagemaker_ssh_helper.protocol.payloads import CreateChannelOutput, OpenControlChannelInput

GO = {"User-Agent": "Go-http-client/1.1", "Accept-Encoding": "gzip"}


@pytest.fixture(scope="module")
def tls_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    with CloudProcess(tmp_path_factory.mktemp("official"), "--tls") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def node(tls_cloud: CloudProcess) -> Node:
    return Node(tls_cloud)


class Agent:
    """Calls of an agent on one connection, which stays open, to one of the cloud's loopback names."""

    def __init__(self, node: Node, host: str) -> None:
        port = urlsplit(node.cloud.info["endpoint_url"]).port
        assert port is not None, "the cloud's address has a port"
        self._node = node
        self.address = f"{host}:{port}"
        self._connection = http.client.HTTPSConnection(
            host.strip("[]"), port, timeout=TIMEOUT, context=node.cloud.ssl_context
        )

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def sign(
        self, service: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> dict[str, str]:
        own = self._node.credentials
        credentials = sigv4.Credentials(own.access_key, own.secret_key, own.token)
        scope = sigv4.Scope(time.time(), self._node.cloud.region, service)
        url = f"https://{self.address}{path}"
        return {**headers, **sigv4.sign(credentials, scope, method, url, headers, body)}

    def post(self, service: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        signed = self.sign(service, "POST", path, headers, body)
        self._connection.request("POST", path, body, {**GO, **signed, "Host": self.address})
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def call(self, service: str, target: str, **params: object) -> tuple[int, object]:
        """A call as the SDK for Go makes it: the length of the body is signed as well."""
        body = json.dumps(params, separators=(",", ":")).encode()
        headers = {
            "Content-Length": str(len(body)),
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": target,
        }
        status, answer = self.post(service, "/", headers, body)
        return status, json.loads(answer)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_calls_of_the_start_on_one_connection(node: Node, host: str) -> None:
    with Agent(node, host) as agent:
        assert agent.call(
            "ssm",
            "AmazonSSM.UpdateInstanceInformation",
            AgentName="amazon-ssm-agent",
            AgentVersion=OFFICIAL_VERSION,
            InstanceId=node.id,
            PlatformType="Linux",
        ) == (200, {})
        listed = agent.call("ssm", "AmazonSSM.ListInstanceAssociations", InstanceId=node.id, MaxResults=20)
        assert listed == (200, {"Associations": []})
        status, answer = agent.call("ssm", "AmazonSSM.PutInventory", InstanceId=node.id)
        assert status == 400
        assert isinstance(answer, dict)
        assert answer["__type"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_control_channel(node: Node, host: str) -> None:
    path = f"/v1/control-channel/{node.id}"
    body = json.dumps(
        {"MessageSchemaVersion": "1.0", "RequestId": str(uuid.uuid4())}, separators=(",", ":")
    ).encode()
    with Agent(node, host) as agent:
        status, xml = agent.post("ssmmessages", path, {"Content-Type": "application/json"}, body)
        assert status == 201
        token = CreateChannelOutput.parse(xml).token
        query = f"{path}?role=subscribe&stream=input"
        signed = agent.sign("ssmmessages", "GET", query, {}, b"")
        with Peer(f"wss://{agent.address}{query}", signed, node.cloud.ssl_context) as peer:
            # The timer of the pings knows nothing of the opening.
            peer.ping(b"keepalive")
            assert peer.receive_pong() == b"keepalive"
            peer.send_text(OpenControlChannelInput(token, str(uuid.uuid4()), OFFICIAL_VERSION).serialize())
            peer.ping(b"keepalive")
            assert peer.receive_pong() == b"keepalive"
            status_of = node.cloud.client("ssm").get_connection_status
            assert status_of(Target=node.id)["Status"] == "connected"
