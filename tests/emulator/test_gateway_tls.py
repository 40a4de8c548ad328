import os
from collections.abc import Callable, Iterator

import botocore.session
import pytest

from emulator.cloud_process import CloudProcess
from emulator.gateway_peers import Node, Peer, input_data, open_client, output_data
from sagemaker_ssh_helper import names
from sagemaker_ssh_helper.protocol.payloads import OpenDataChannelInput


@pytest.fixture(scope="module")
def tls_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    with CloudProcess(tmp_path_factory.mktemp("ssm_tls"), "--tls") as cloud:
        yield cloud


def test_session_over_tls(tls_process: CloudProcess) -> None:
    node = Node(tls_process, version=names.AGENT_VERSION)
    with node.open_control() as control:
        grant = tls_process.client("ssm").start_session(Target=node.id, DocumentName="AWS-StartSSHSession")
        control.receive_offer()
        context = tls_process.ssl_context
        with node.open_data(grant["SessionId"]) as agent, open_client(grant, ssl_context=context) as client:
            up = [input_data(os.urandom(1024), number) for number in range(300)]
            down = [output_data(os.urandom(1024), number) for number in range(300)]
            client.send(*up)
            agent.send(*down)

            assert [agent.receive() for _ in up] == up
            assert [client.receive() for _ in down] == down
    assert grant["StreamUrl"].startswith("wss://localhost:")


def test_stream_is_where_the_caller_called(tls_process: CloudProcess) -> None:
    """A peer that speaks plain HTTP only gets a plain WebSocket."""
    node = Node(tls_process, version=names.AGENT_VERSION)
    plain = tls_process.info["http_endpoint_url"]
    own = tls_process.user("admin")
    session = botocore.session.Session()
    ssm = session.create_client(
        "ssm",
        endpoint_url=plain,
        region_name=tls_process.region,
        aws_access_key_id=own["access_key_id"],
        aws_secret_access_key=own["secret_access_key"],
    )
    with node.open_control():
        grant = ssm.start_session(Target=node.id, DocumentName="AWS-StartSSHSession")
        ssm.close()
        with Peer(grant["StreamUrl"]) as client:
            client.send_text(OpenDataChannelInput(grant["TokenValue"], "r", "c").serialize())
            client.synchronize()
    assert grant["StreamUrl"].startswith(plain.replace("http://", "ws://"))


@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
def test_client_leaves_without_any_farewell(tls_process: CloudProcess, leave: Callable[[Peer], None]) -> None:
    """No Close frame and nothing of TLS's either: so do official peers end, killed or not."""
    tls_process.faults(kind="session-timing", foreign_resume=0)
    node = Node(tls_process)
    ssm = tls_process.client("ssm")
    with node.open_control() as control:
        grant = ssm.start_session(Target=node.id, DocumentName="AWS-StartSSHSession")
        control.receive_offer()
        with node.open_data(grant["SessionId"]) as agent:
            client = open_client(grant, ssl_context=tls_process.ssl_context)
            client.synchronize()
            leave(client)

            assert agent.receive_message().message_type == "pause_publication"
            assert agent.receive_message().message_type == "channel_closed"
    tls_process.clear_faults()
