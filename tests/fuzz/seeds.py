"""Where fuzzing starts: what the official peers sent, and what no mutation would guess."""

import base64
import json
from typing import Any, Callable, List, Sequence, Tuple

from protocol import vectors
from protocol.aead import ToyAead
from sagemaker_ssh_helper.protocol import websocket
from sagemaker_ssh_helper.protocol.encryption import (
    CHALLENGE_BYTES,
    CONTEXT_CHALLENGE_BYTES,
    DataKey,
    SessionCipher,
)
from sagemaker_ssh_helper.protocol.message import (
    AgentMessage,
    MessageType,
    PayloadType,
    format_message_id,
    new_message_id,
)
from sagemaker_ssh_helper.protocol.payloads import (
    AgentSessionState,
    AgentTaskAcknowledge,
    CreateChannelOutput,
    EncryptionChallenge,
    HandshakeComplete,
    HandshakeRequest,
    HandshakeResponse,
    KmsResult,
    ProcessedAction,
)

Seeds = Callable[[], List[bytes]]

OURS = {"v": 1, "max": 65536}
"""The marker by which two of our ends know each other."""

DATA_KEY = DataKey(bytes(range(64)), b"encrypted data key")

ANY_ID = format_message_id(new_message_id(bytes(16)))
"""Of every message, when all random numbers are 0."""

# More than one of each shape teaches nothing.
_OF_EACH = 2
_LONGEST = 4000


def _block(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _messages() -> List[AgentMessage]:
    """Recorded messages, a few of each type and payload type."""
    kept: List[AgentMessage] = []
    counts: dict[Any, int] = {}
    for line in vectors.recorded_messages():
        found = AgentMessage.parse(line.data)
        kind = (line.where.partition(":")[0], found.message_type, found.payload_type)
        counts[kind] = counts.get(kind, 0) + 1
        if counts[kind] <= _OF_EACH and len(line.data) < _LONGEST:
            kept.append(found)
    return kept


def messages() -> List[bytes]:
    return [found.serialize() for found in _messages()] + [frame.data for frame in vectors.FRAMES.values()]


def websocket_frames(masked: bool) -> Seeds:
    def seeds() -> List[bytes]:
        role = websocket.Role.CLIENT if masked else websocket.Role.SERVER
        found = []
        for size in (0, 1, 125, 126, 1000, 5000, 70000):
            socket = websocket.WebSocket(role, random_bytes=bytes)
            socket.send_message(websocket.Opcode.BINARY, bytes(size))
            socket.send_message(websocket.Opcode.TEXT, "gr\u00fc\u00dfe".encode())
            socket.send_ping(b"keepalive")
            socket.send_pong(b"keepalive")
            socket.send_close(1000, "bye")
            found.append(bytes([7]) + socket.data_to_send())
        mask = b"\0\0\0\0" if masked else b""
        bit = 0x80 if masked else 0
        for first, payload in (
            (0x02, b"frag"), (0x01, b"\xc3"), (0x80, b"ment"), (0x89, b"p"), (0x88, b""), (0x88, b"\x03"),
            (0x88, b"\x03\xe8\xff"), (0x88, b"\x03\xed"), (0x83, b""), (0xC2, b""), (0x09, b""), (0x00, b""),
        ):  # fmt: skip
            frame = bytes([first, bit | len(payload)]) + mask + payload
            found += [b"\1" + frame, b"\3" + frame]
            found.append(b"\xff" + bytes([0x02, bit | 4]) + mask + b"frag" + frame)
        found.append(b"\2" + bytes([0x82, bit | 126, 0, 5]) + mask)
        found.append(b"\2" + bytes([0x82, bit | 127]) + b"\xff" * 8 + mask)
        found.append(b"\2" + bytes([0x82, bit | 127]) + b"\0" * 7 + b"\5" + mask)
        found.append(b"\2" + bytes([0x89, bit | 126, 0, 200]) + mask + bytes(200))
        return found

    return seeds


def upgrade_responses() -> List[bytes]:
    good = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        b"Sec-WebSocket-Accept: ACCEPT\r\n\r\n"
    )
    return [
        b"\0" + good,
        b"\0" + good.replace(b"Sec-WebSocket-Accept", b"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Accept"),
        b"\0" + good.replace(b"ACCEPT", b"wrong"),
        b"\0" + good.replace(b"Upgrade\r\nSec", b"close\r\nSec"),
        b"\0" + good.replace(b": websocket", b": h2c"),
        b"\0HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nX: 1\r\nX: 2\r\n\r\nForbidden",
        b"\0HTTP/1.1 403 Forbidden\r\nContent-Length: 90\r\n\r\nForbidden",
        b"\1HTTP/1.1 500 Oops\r\n\r\n<html>no</html>",
        b"\1HTTP/1.1 101",
        b"\0SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"\0HTTP/1.1 200 OK\r\nbroken line\r\n\r\n",
        b"\0HTTP/1.1 200 OK\r\nLong: " + b"x" * 70000,
    ]


def upgrade_requests() -> List[bytes]:
    good = websocket.client_request(
        "host", "/v1/data-channel/a?role=publish", [("A", "b")], websocket.new_key(bytes(16))
    )
    return [
        good,
        good.replace(b"GET ", b"POST "),
        good.replace(b"Version: 13", b"Version: 8"),
        good.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        good.replace(b"Connection: Upgrade", b"Connection: close"),
        good.replace(b"Key: AAAA", b"Key: A\xff*A"),
        good[:60],
    ]


def _deep(depth: int) -> bytes:
    return b'{"a":' + b"[" * depth + b"]" * depth + b"}"


_JSON = [
    b'{"cols":-1,"rows":1}',
    b"{}", b"[]", b"", b"null", b"\xff", b'{"a":1e999}', b'{"a":NaN}', b'{"a":' + b"9" * 5000 + b"}",
    b'{"a":"\\ud800"}', b'{"A":null,"a":true}', _deep(5), _deep(300), _deep(3000),
]  # fmt: skip


def payloads(parsers: Sequence[Any]) -> Seeds:
    """Recorded payloads for each parser; a parser's number stands in front."""

    def seeds() -> List[bytes]:
        bodies = [found.payload for found in _messages() if found.payload[:1] == b"{"]
        bodies += [line.data for line in vectors.recorded() if line.kind == "ws" and line.opcode == 1][:6]
        bodies += [
            b"\0\0\0\1",
            b'{"cols":80,"rows":24}',
            CreateChannelOutput("token").serialize(),
            b"<a><TokenValue>t</TokenValue><b/>",
            b'<!DOCTYPE a [<!ENTITY b "c">]><a><TokenValue>&b;</TokenValue></a>',
            '<!DOCTYPE a [<!ENTITY b "c">]><a><TokenValue>&b;</TokenValue></a>'.encode("utf-16"),
            b'{"Challenge":"aGVsbG8="}',
            b'{"KMSCipherTextKey":"aGVsbG8=","ChallengeAcknowledgement":true}',
            *_JSON,
        ]
        long = json.dumps(
            {"runtimeStatus": {"p": {"standardOutput": "<" * 900, "output": "y" * 999}, "q": 7}}
        )
        bodies += [
            json.dumps({"jobId": "j", "topic": "t", "content": one}).encode() for one in (long, "{}", 7)
        ]
        unshortened = {"runtimeStatus": {"p": {"standardOutput": "y" * 999}}, "x": "y" * 3000}
        bodies += [json.dumps({"jobId": "j", "content": json.dumps(unshortened)}).encode()]
        actions = [
            {
                "ActionType": "SessionType",
                "ActionParameters": {"SessionType": "Port", "Properties": {"a": [1]}},
            },
            {"ActionType": "KMSEncryption", "ActionParameters": {"KMSKeyId": "k"}},
        ]
        bodies += [
            json.dumps({"AgentVersion": "3", "RequestedClientActions": actions, "SmSsh": {}}).encode(),
            b'{"ClientVersion":"1","ProcessedClientActions":[],"Errors":["no"],"SmSsh":{}}',
        ]
        found = [bytes([number]) + body for number in (253, 254, 255) for body in bodies]
        for number, parser in enumerate(parsers):
            found += [bytes([number]) + body for body in [*_understood(parser, bodies), *_JSON]]
        return found

    return seeds


def _understood(parser: Any, bodies: Sequence[bytes]) -> List[bytes]:
    """Those that a parser takes, and some of them with one value of another type."""
    taken = []
    for body in bodies:
        try:
            parser.parse(body)
        except ValueError:
            continue
        taken.append(body)
    changed = []
    for body in [one for one in taken if one[:1] == b"{" and one not in _JSON][-8:]:
        fields = json.loads(body)
        for key in fields:
            for value in (7, True, "x", ["x"], [7], [{}], {"x": 7}, None):
                changed.append(json.dumps({**fields, key: value}).encode())
    return taken[:20] + changed


def _stream(payload_type: int, payload: bytes) -> bytes:
    return bytes([1, payload_type]) + _block(payload)


def data_channels(types: Sequence[str]) -> Seeds:
    """Whole sessions, as the targets read them."""

    def seeds() -> List[bytes]:
        request = HandshakeRequest("3.3.1", "Port", {"portNumber": "22"}, sm_ssh=OURS)
        foreign = HandshakeRequest("3.3.1", "Port", {"portNumber": "22"})
        response = HandshakeResponse("1.2", (ProcessedAction("SessionType"),), sm_ssh=OURS)
        complete = _stream(PayloadType.HANDSHAKE_COMPLETE, HandshakeComplete(1, "hello").serialize())
        begun = [
            _stream(PayloadType.HANDSHAKE_REQUEST, request.serialize()) + complete,
            _stream(PayloadType.HANDSHAKE_REQUEST, foreign.serialize()) + complete + b"\x0f",
            _stream(PayloadType.HANDSHAKE_RESPONSE, response.serialize()),
            _stream(PayloadType.OUTPUT, b"first"),
        ]
        begun += [begun[3] + one for one in begun[:3]]
        closed = bytes([5, types.index(MessageType.CHANNEL_CLOSED)]) + _block(
            b'{"MessageType":"channel_closed","Output":"bye","CreatedDate":"now"}'
        )
        others = [bytes([5, number]) + _block(b"{}") for number in range(len(types))]
        rest = [
            _stream(1, b"data") + bytes([3, 9, 1]) + _block(b"ahead") + bytes([7, 1, 200, 6, 0, 2, 13, 40]),
            bytes([11])
            + _stream(1, b"held")
            + bytes([12])
            + _stream(11, b"error")
            + _stream(12, b"EXIT_CODE: 1"),
            bytes([14, 7, 0, 9, 14, 16, 13, 255]) + _stream(10, b"\0\0\0\2") + bytes([8, 1, 9, 80, 24, 10]),
            bytes([11]) + _stream(1, b"held") + closed + bytes([12, 15]),
            closed,
            bytes([17, 255]),
            b"".join(others),
            bytes([7, 11, 0, 7, 11, 0, 15, 15, 6, 0, 3, 15, 15, 14, 14]),
            # Held, and let go in parts.
            bytes([11]) + _stream(1, bytes(900)) * 3 + bytes([12, 15, 13, 1, 15, 13, 1, 15]),
            bytes([5, types.index(MessageType.AGENT_SESSION_STATE)])
            + _block(AgentSessionState(AgentSessionState.TERMINATING, "a-session").serialize()),
            _stream(13, bytes(40)) + bytes([0]) + _block(b"no message"),
        ]
        recorded = b"".join(
            bytes([1, found.payload_type]) + _block(found.payload)
            for found in _messages()
            if found.message_type == MessageType.OUTPUT_STREAM_DATA
        )
        # Of the payload size: taken, not taken, and lost with the connection.
        probes = [
            bytes([7, 0, 1, 17, 254, 7, 4, 0, 6, number % 2, number, 7, 4, 0, 14, 14]) for number in range(8)
        ]
        probes.append(bytes([17, 254, 7, 4, 0, 14, 14, 15, 15]))
        rest += probes
        found = [bytes([flags]) + one + other for flags in (0, 3, 24) for one in begun for other in rest]
        encrypted = [
            bytes([flags]) + one + other
            for flags in (0, 16, 48)
            for one in _keyed()
            for other in (*rest[:3], *probes)
        ]
        return [*found, *encrypted, b"\x10" + recorded[:_LONGEST], b"\x11" + rest[0]]

    return seeds


def _keyed() -> List[bytes]:
    """Encrypted sessions, good and bad. After each wish for a key a byte gives or refuses it."""
    agent, client = (
        SessionCipher(DATA_KEY.plain, is_agent=end, aead=ToyAead, random_bytes=bytes) for end in (True, False)
    )
    key_id, challenge = "a key", base64.b64encode(bytes(CONTEXT_CHALLENGE_BYTES)).decode()
    kinds: List[Tuple[str, Tuple[str, ...]]] = [("Port", ()), ("Something_New", ()), ("Port", ("Other",))]
    requests = [
        _stream(
            PayloadType.HANDSHAKE_REQUEST,
            HandshakeRequest("3.3.1", kind, None, key_id, text, OURS, others).serialize(),
        )
        for kind, others in kinds
        for text in (None, challenge)
    ]
    proof = EncryptionChallenge(agent.seal(b"prove it")).serialize()
    complete = agent.encrypt(PayloadType.HANDSHAKE_COMPLETE, HandshakeComplete(1, "hello").serialize())
    ready = _stream(PayloadType.ENC_CHALLENGE_REQUEST, proof) + _stream(
        PayloadType.HANDSHAKE_COMPLETE, complete
    )
    said = _stream(PayloadType.OUTPUT, agent.encrypt(PayloadType.OUTPUT, b"data"))
    found = [request + given for request in requests for given in (b"\5" + ready + said, b"\4" + ready)]
    found.append(
        requests[0] + b"\1" + ready + _stream(PayloadType.OUTPUT, b"not encrypted at all, but long enough")
    )
    found.append(requests[0][:-1] + b"\1" + ready)
    for acknowledged in (None, True, False):
        result = KmsResult(DATA_KEY.cipher_text, acknowledged).to_json()
        response = HandshakeResponse(
            "1.2",
            (ProcessedAction("SessionType"), ProcessedAction("KMSEncryption", result=result)),
            sm_ssh=OURS,
        )
        answered = _stream(PayloadType.HANDSHAKE_RESPONSE, response.serialize())
        for answer in (bytes(CHALLENGE_BYTES), b"wrong"):
            proven = EncryptionChallenge(client.seal(answer)).serialize()
            typed = client.encrypt(PayloadType.OUTPUT, b"typed")
            found.append(
                answered
                + b"\1"
                + _stream(PayloadType.ENC_CHALLENGE_RESPONSE, proven)
                + _stream(1, typed)
                + _stream(1, b"bad")
            )
        found.append(answered + b"\0")
    # A proof that was never asked for.
    plain = HandshakeRequest("3.3.1", "Port", {"portNumber": "22"}).serialize()
    return [
        *found,
        _stream(PayloadType.HANDSHAKE_REQUEST, plain) + _stream(PayloadType.ENC_CHALLENGE_REQUEST, proof),
    ]


def control_channels(types: Sequence[str]) -> Seeds:
    def seeds() -> List[bytes]:
        found = [bytes([0, 0]) + _block(message.serialize()) for message in _messages()]
        found += [
            bytes([1, types.index(message.message_type)]) + _block(message.payload)
            for message in _messages()
            if message.message_type in types
        ]
        taken = AgentTaskAcknowledge(ANY_ID).serialize()
        found.append(bytes([5, 1, types.index(MessageType.AGENT_TASK_ACKNOWLEDGE)]) + _block(taken))
        return [*found, bytes([5, 4, 1, 6, 4, 3, 7, 5]) + b"".join(found[:3])]

    return seeds


def _documents(message_type: str) -> List[bytes]:
    return [found.payload for found in _messages() if found.message_type == message_type]


def command_documents() -> List[bytes]:
    jobs = [json.loads(payload) for payload in _documents(MessageType.AGENT_JOB)]
    contents = [json.loads(job["JobContent"] if "JobContent" in job else job["Content"]) for job in jobs[:2]]
    inputs = {"runCommand": ["echo {{ a }}", ["{{ b }}"]], "timeoutSeconds": "60", "workingDirectory": "/tmp"}
    parameters = {
        "a": {"type": "String", "default": "x", "allowedPattern": "^x*$"},
        "b": {"type": "StringList"},
    }
    main = {
        "schemaVersion": "2.2",
        "parameters": parameters,
        "mainSteps": [
            {
                "name": "s",
                "action": "aws:runShellScript",
                "inputs": {**inputs, "onFailure": "exit"},
                "precondition": {"StringEquals": ["platformType", "Linux"]},
            }
        ],
    }
    old = {
        "schemaVersion": "1.2",
        "parameters": parameters,
        "runtimeConfig": {"aws:runShellScript": {"properties": [inputs]}},
    }
    (step,) = main["mainSteps"]
    others = [
        {**main, "schemaVersion": "2.0"},
        {**main, "mainSteps": [step, step]},
        {**main, "mainSteps": [{**step, "inputs": ["x"]}]},
        {**main, "mainSteps": [{**step, "precondition": {"StringEquals": ["Linux", 7]}}]},
        {**main, "mainSteps": [{**step, "precondition": {"StringEquals": ["platformType", "Windows"]}}]},
    ]
    made = [
        {"DocumentContent": document, "Parameters": values}
        for document in (main, old, *others)
        for values in ({"a": ["xx"], "b": ["1", "2"]}, {"a": "y", "b": "1"}, {"b": [[["{{ssm:p}}"]]]})
    ]
    deep = json.dumps(main).replace('"echo {{ a }}"', "[" * 450 + "]" * 450)
    return [
        *(json.dumps(content).encode() for content in [*contents, *made]),
        b'{"DocumentContent":' + deep.encode() + b"}",
        b'{"DocumentContent":' + json.dumps(main).replace("^x*$", "(").encode() + b"}",
        b'{"DocumentContent":' + json.dumps(main).replace("^x*$", "x{9999999999}").encode() + b"}",
        *_JSON,
    ]


def session_documents() -> List[bytes]:
    found = _documents(MessageType.INTERACTIVE_SHELL)
    commands = {"commands": "echo 'a b' {{ a }}", "separateOutputStream": True, "stdOutSeparatorPrefix": "o:"}
    for session_type in ("Port", "Standard_Stream", "InteractiveCommands", "NonInteractiveCommands"):
        for inputs, properties in (
            ({"runAsEnabled": True, "runAsDefaultUser": "me"}, {"portNumber": "{{ a }}", "linux": commands}),
            (
                {"kmsKeyId": "k", "shellProfile": {"linux": "x"}},
                {"portNumber": 22, "host": None, "linux": commands},
            ),
            ({"kmsKeyId": ["k"]}, {"portNumber": ["{{ a }}"], "linux": {"commands": "'"}}),
            ({"s3BucketName": "b"}, {}),
            ({"kmsKeyId": 7}, ["x"]),
        ):
            document = {
                "schemaVersion": "1.0",
                "sessionType": session_type,
                "inputs": inputs,
                "parameters": {"a": {"type": "String", "default": "1"}},
                "properties": properties,
            }
            content = {
                "DocumentContent": document,
                "SessionId": "s",
                "Parameters": {"a": ["22"]},
                "RunAsUser": "",
            }
            offer = {"Content": json.dumps(content), "TaskId": "t", "Topic": "x", "SchemaVersion": 1}
            found.append(json.dumps(offer).encode())
    content["DocumentContent"]["sessionType"] = "Port"
    for properties in ({"portNumber": "9" * 5000}, {"portNumber": json.loads("[" * 450 + "]" * 450)}):
        content["DocumentContent"]["properties"] = properties
        found.append(json.dumps({**offer, "Content": json.dumps(content)}).encode())
    return [*found, b"127.0.0.1", b"::ffff:169.254.169.254%eth0", b"64:ff9b::a9fe:a9fe", *_JSON]


def credential_answers() -> List[bytes]:
    good = {"AccessKeyId": "A", "SecretAccessKey": "s", "Token": "t", "Expiration": "2024-05-01T10:20:30.5Z"}
    times = ["2024-05-01T10:20:30Z\n", "2024-13-01T10:20:30Z", "0000-01-01T00:00:00Z", 7, ["2"], None]
    return [
        json.dumps(good).encode(),
        *(json.dumps({**good, "Expiration": time}).encode() for time in times),
        b"https://host/path",
        b"http://169.254.170.2/creds",
        b"http://127.0.0.1.evil/",
        b"http://[::1",
        b"ftp://host",
        *_JSON,
        b"[" * 100000,
    ]


def api_answers() -> List[bytes]:
    bodies = [
        b'{"ActivationId":"a","ActivationCode":"c"}',
        b'{"Plaintext":"aGVsbG8="}',
        b'{"Plaintext":"*"}',
        b'{"Plaintext":"\\u00e9"}',
        CreateChannelOutput("token").serialize(),
        b'{"SessionId":"s","StreamUrl":"wss://h/p","TokenValue":"t"}',
        b'{"InstanceInformationList":[{"InstanceId":"mi-1","PingStatus":"Online","Name":"algo-1.a.training.sagemaker",'
        b'"LastPingDateTime":1.7e9}],"NextToken":"n"}',
        b'{"InstanceInformationList":[{"InstanceId":"mi-1","Name":"algo-1.a.other.sagemaker"}]}',
        b'{"InstanceInformationList":[7]}',
        b'{"InstanceInformationList":7}',
        b'{"InstanceInformationList":[{}]}',
        b'{"TagList":[{"Key":"k","Value":"v"}]}',
        b'{"TagList":[{"Key":"k"}]}',
        b"<a><UserId>AROA:me</UserId></a>",
        b"<a><UserId>\xff\xfe</UserId></a>",
        b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>",
        b"<Error><Code>\xff</Code></Error>",
        b"Session is already terminated",
        b"<html>502</html>",
        *_JSON,
        b"[" * 60000,
    ]
    codes = [
        "ThrottlingException", "ExpiredTokenException", "AccessDeniedException", "TargetNotConnected",
        "InvalidInstanceId", "InvalidSignatureException", "UnrecognizedClientException",
        "RequestTimeTooSkewed", "ValidationException", "Signature expired", "x#y:z",
    ]  # fmt: skip
    bodies += [
        json.dumps({"__type": "ns#" + code, "message": "advanced-instances tier " + code}).encode()
        for code in codes
    ]
    bodies += [json.dumps({"code": code, "Message": code}).encode() for code in codes]
    found = []
    for operation in range(6):
        for flags in (0, 4, 8, 12, 16, 20):
            found += [
                bytes([operation, 0]) + _block(b"") + bytes([flags]) + _block(body) for body in bodies[:-1]
            ]
        for date in (b"Tue, 05 Nov 2024 10:00:00 GMT", b"yesterday", b"Tue, 05 Nov 99999 10:00:00 GMT"):
            skewed = bytes([11]) + b"RequestTimeTooSkewed" + _block(date) + _block(b"{}")
            found.append(bytes([operation]) + bytes([4]) + _block(b"{}") + skewed)
            found.append(bytes([operation]) + skewed + skewed)
    return found


def connect_answers() -> List[bytes]:
    return [
        b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n", b"HTTP/1.0 407 Auth\r\n\r\n", b"HTTP/1.1",
        b"HTTP/1.1 \xb2\xb3 odd\r\n\r\n", b"HTTP/1.1 " + b"9" * 5000 + b"\r\n\r\n", b"",
        b"wss://host:443/v1/data-channel/a?role=x", b"wss://host:99999/", b"wss://[::1]/", b"wss://[::1/", b"http://a",
        b"wss://\xe2\x84\x80/",
    ]  # fmt: skip


def tags() -> List[bytes]:
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + bytes(32)
    key = b"ssh-ed25519 " + base64.b64encode(blob)
    rsa = b"ssh-rsa " + base64.b64encode(b"\0\0\0\x07ssh-rsa" + bytes(200)) + b" a comment"
    keys = [
        key,
        rsa,
        key[:-8],
        key + b"\nother",
        b"ssh-dss AAAA",
        b"ssh-ed25519 A===",
        b"",
        key.replace(b"ed2", b"rsa"),
    ]
    others = [
        (b"22", b"root", b"A" * 16),
        (b"\xc2\xb2", b"a b", b"short"),
        (b"9" * 5000, b"-oProxyCommand=x", b""),
    ]
    found = [b"".join(map(_block, (one, *rest))) for one in keys for rest in others]
    return [*found, b""]
