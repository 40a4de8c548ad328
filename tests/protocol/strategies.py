"""Every Hypothesis strategy for the wire protocol."""

import hashlib
from typing import Any, Callable, Dict, List, Tuple, Type

from hypothesis import strategies as st

from sagemaker_ssh_helper.protocol import payloads
from sagemaker_ssh_helper.protocol.message import AgentMessage, MessageType, PayloadType

MESSAGE_TYPES = sorted(name for field, name in vars(MessageType).items() if not field.startswith("_"))

# -- values --

# What UTF-8 can hold: no halves of surrogate pairs.
texts = st.text(st.characters(blacklist_categories=("Cs",)), max_size=40)
names = st.text("abcdefghijklmnopqrstuvwxyz-_0123456789", min_size=1, max_size=40)
tokens = st.text("ABCDEFabcdef0123456789+/=-_<&>", min_size=1, max_size=60)
message_ids = st.binary(min_size=16, max_size=16)
uuids = st.uuids(version=4).map(str)
versions = st.lists(st.integers(0, 9999), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))
flags_64 = st.integers(0, (1 << 64) - 1)
counts = st.integers(0, (1 << 63) - 1)

json_scalars = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | texts
json_values = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(texts, json_values, max_size=5)

# -- messages --

other_types = names.filter(lambda name: len(name) <= 32)
message_types = st.sampled_from(MESSAGE_TYPES) | other_types

messages = st.builds(
    AgentMessage,
    message_type=message_types,
    payload=st.binary(max_size=300),
    sequence_number=st.integers(-(1 << 63), (1 << 63) - 1),
    flags=flags_64,
    payload_type=st.sampled_from([int(item) for item in PayloadType]) | st.integers(0, (1 << 32) - 1),
    message_id=message_ids,
    created_ms=st.integers(1, (1 << 64) - 1),
    schema_version=st.integers(0, (1 << 32) - 1),
)

# -- payloads --

sm_ssh = st.none() | st.fixed_dictionaries({"v": st.just(1), "max": st.integers(1, 1 << 20)})
optional_texts = st.none() | texts
processed_actions = st.builds(
    payloads.ProcessedAction,
    action_type=texts,
    status=st.integers(0, 5),
    result=json_values,
    error=texts,
)
job_contents = st.none() | json_objects

PAYLOADS: Dict[Type[Any], st.SearchStrategy[Any]] = {
    payloads.OpenDataChannelInput: st.builds(
        payloads.OpenDataChannelInput,
        token=texts,
        request_id=uuids,
        client_id=texts,
        client_version=optional_texts,
        client_instance_id=optional_texts,
    ),
    payloads.OpenControlChannelInput: st.builds(
        payloads.OpenControlChannelInput,
        token=texts,
        request_id=uuids,
        agent_version=versions,
        platform_type=names,
    ),
    payloads.CreateChannelInput: st.builds(
        payloads.CreateChannelInput, request_id=uuids, client_id=optional_texts
    ),
    payloads.CreateChannelOutput: st.builds(
        payloads.CreateChannelOutput,
        token=tokens,
        root=st.sampled_from(["CreateControlChannelResponse", "CreateDataChannelResponse"]),
    ),
    payloads.Acknowledge: st.builds(
        payloads.Acknowledge,
        message_type=message_types,
        message_id=uuids | texts,
        sequence_number=counts,
        is_sequential=st.booleans(),
    ),
    payloads.ChannelClosed: st.builds(
        payloads.ChannelClosed,
        session_id=texts,
        destination_id=texts,
        output=texts,
        message_id=texts,
        created_date=texts,
    ),
    payloads.AgentSessionState: st.builds(payloads.AgentSessionState, state=texts, session_id=texts),
    payloads.Size: st.builds(
        payloads.Size, cols=st.integers(0, (1 << 32) - 1), rows=st.integers(0, (1 << 32) - 1)
    ),
    payloads.HandshakeRequest: st.builds(
        payloads.HandshakeRequest,
        agent_version=texts,
        session_type=names,
        properties=st.none() | json_objects,
        kms_key_id=st.none(),
        sm_ssh=sm_ssh,
        other_actions=st.lists(
            names.filter(lambda name: name not in ("SessionType", "KMSEncryption")), max_size=3
        ).map(tuple),
    )
    | st.builds(
        payloads.HandshakeRequest,
        agent_version=texts,
        session_type=names,
        properties=st.none() | json_objects,
        kms_key_id=texts,
        challenge=optional_texts,
        sm_ssh=sm_ssh,
    ),
    payloads.HandshakeResponse: st.builds(
        payloads.HandshakeResponse,
        client_version=texts,
        processed_actions=st.lists(processed_actions, max_size=3).map(tuple),
        errors=st.none() | st.lists(texts, max_size=3).map(tuple),
        sm_ssh=sm_ssh,
    ),
    payloads.HandshakeComplete: st.builds(payloads.HandshakeComplete, time_ns=counts, customer_message=texts),
    payloads.EncryptionChallenge: st.builds(payloads.EncryptionChallenge, challenge=st.binary(max_size=100)),
    payloads.InteractiveShell: st.builds(
        payloads.InteractiveShell,
        session_id=names,
        document_name=texts,
        document_content=json_objects,
        parameters=json_objects,
        run_as_user=texts,
        task_id=texts,
        topic=texts,
        session_owner=texts,
    ),
    payloads.AgentTaskComplete: st.builds(
        payloads.AgentTaskComplete,
        task_id=texts,
        final_status=texts,
        instance_id=texts,
        output=texts,
        retry_number=st.integers(0, 9),
        is_routing_failure=st.booleans(),
        aws_account_id=texts,
        s3_bucket=texts,
        s3_url_suffix=texts,
        cwl_group=texts,
        cwl_stream=texts,
    ),
    payloads.AgentTaskAcknowledge: st.builds(
        payloads.AgentTaskAcknowledge, message_id=uuids, task_id=texts, topic=texts
    ),
    payloads.AgentJob: st.builds(payloads.AgentJob, job_id=texts, topic=texts, content=job_contents),
    payloads.AgentJobAck: st.builds(
        payloads.AgentJobAck,
        job_id=texts,
        acknowledged_message_id=uuids,
        created_date=texts,
        status_code=texts,
        error_message=texts,
    ),
    payloads.AgentJobReply: st.builds(
        payloads.AgentJobReply, job_id=texts, content=json_objects, topic=texts
    ),
    payloads.AgentJobReplyAck: st.builds(
        payloads.AgentJobReplyAck, job_id=texts, acknowledged_message_id=uuids
    ),
}

any_payload = st.one_of(*PAYLOADS.values())

# -- byte streams --


def splits(data: bytes) -> st.SearchStrategy[List[bytes]]:
    """``data`` in pieces, cut anywhere, some of them empty."""
    return st.lists(st.integers(0, len(data)), max_size=12).map(lambda cuts: _cut(data, sorted(cuts)))


def _cut(data: bytes, cuts: List[int]) -> List[bytes]:
    edges = [0, *cuts, len(data)]
    return [data[begin:end] for begin, end in zip(edges, edges[1:])]


def one_byte_changes(data: bytes) -> st.SearchStrategy[bytes]:
    """``data`` with one byte changed."""
    return st.tuples(st.integers(0, len(data) - 1), st.integers(1, 255)).map(
        lambda change: data[: change[0]] + bytes([data[change[0]] ^ change[1]]) + data[change[0] + 1 :]
    )


# What a well-behaved peer does on a WebSocket: the name of a method of the oracle in test_websocket, and its
# arguments.
frame_payloads = st.binary(max_size=130) | st.sampled_from([126, 65535, 65536]).map(bytes)
control_payloads = st.binary(max_size=125)
Script = List[Tuple[str, Any]]
scripts: st.SearchStrategy[Script] = st.lists(
    st.tuples(st.just("binary"), frame_payloads)
    | st.tuples(st.just("text"), texts.map(lambda text: text.encode("utf-8")))
    | st.tuples(st.just("ping"), control_payloads)
    | st.tuples(st.just("pong"), control_payloads)
    | st.tuples(st.just("fragments"), st.lists(st.binary(max_size=40), min_size=2, max_size=5)),
    max_size=8,
)

# -- machines --


def counter_bytes() -> Callable[[int], bytes]:
    """A source of "random" bytes, the same in every run."""
    count = 0

    def take(size: int) -> bytes:
        nonlocal count
        taken = b""
        while len(taken) < size:
            count += 1
            taken += hashlib.sha256(count.to_bytes(8, "big")).digest()
        return taken[:size]

    return take


# What a peer may send and Python's json would take: none of it is JSON, or none of it is text.
HOSTILE_JSON = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"1",
    b"\xff",
    b'\xef\xbb\xbf{"SessionId":"s"}',
    b'{"a":NaN}',
    b'{"a":-Infinity}',
    b'{"a":1e999}',
    b'{"a":' + b"9" * 100000 + b"}",
    b'{"a":' + b"[" * 100000,
    b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b"{} {}",
]
