"""
AWS's protocols as a server speaks them: what is asked, and how answers and errors are written.

Three families: JSON 1.1 (ssm, sagemaker, logs, kms), query with XML answers (sts, iam, sns), and S3's own
XML. The message gateway has a small XML dialect of its own, and SageMaker's runtime takes and gives bodies as
they are.
"""

import base64
import enum
import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from sagemaker_ssh_helper.emulator.http import Response
from sagemaker_ssh_helper.emulator.service import ApiError


class Family(enum.Enum):
    """Which protocol a request speaks, and so how its errors are written."""

    JSON = "json"
    QUERY = "query"
    S3 = "rest-xml"
    GATEWAY = "gateway"
    RUNTIME = "rest-json"


_ERRORS: Mapping[Family, Mapping[str, tuple[str, int]]] = {
    # The same refusals have other codes and statuses in the older protocols.
    Family.QUERY: {
        "AccessDeniedException": ("AccessDenied", 403),
        "InternalFailure": ("InternalFailure", 500),
        "NotImplementedException": ("NotImplemented", 400),
        "SerializationException": ("MalformedInput", 400),
        "ThrottlingException": ("Throttling", 400),
        "UnknownOperationException": ("InvalidAction", 400),
        "ValidationException": ("ValidationError", 400),
    },
    Family.S3: {
        "AccessDeniedException": ("AccessDenied", 403),
        "InternalFailure": ("InternalError", 500),
        "NotImplementedException": ("NotImplemented", 400),
        "ThrottlingException": ("SlowDown", 503),
        "UnknownOperationException": ("MethodNotAllowed", 405),
        "ValidationException": ("InvalidRequest", 400),
    },
    Family.GATEWAY: {"AccessDeniedException": ("AccessDeniedException", 403)},
}


def request_id() -> str:
    return str(uuid.uuid4())


def error_code(error: ApiError, family: Family) -> str:
    """The error's code as this family writes it."""
    return _ERRORS.get(family, {}).get(error.code, (error.code, 0))[0]


def write_error(error: ApiError, family: Family, metadata: Mapping[str, Any] | None = None) -> Response:
    """
    An error as an answer.

    Args:
        metadata: of the service's model: its namespace, and whether it is compatible with the query protocol.
    """
    metadata = metadata or {}
    code, status = _ERRORS.get(family, {}).get(error.code, (error.code, error.status))
    if error.code == "InternalFailure":
        status = 500
    asked = request_id()
    if family is Family.JSON:
        headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-RequestId", asked)]
        if metadata.get("awsQueryCompatible"):
            headers.append(("x-amzn-query-error", f"{code};{'Sender' if status < 500 else 'Receiver'}"))
        text = json.dumps({"__type": code, "message": error.message, **_plain(error.fields)})
        return Response(status, headers, text.encode())
    if family is Family.QUERY:
        namespace = escape(metadata.get("xmlNamespace", ""), {'"': "&quot;"})
        text = (
            f'<ErrorResponse xmlns="{namespace}"><Error>'
            f"<Type>{'Sender' if status < 500 else 'Receiver'}</Type><Code>{escape(code)}</Code>"
            f"<Message>{escape(error.message)}</Message></Error><RequestId>{asked}</RequestId></ErrorResponse>"
        )
        return Response(status, [("Content-Type", "text/xml"), ("x-amzn-RequestId", asked)], text.encode())
    if family is Family.S3:
        extra = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in error.fields.items())
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(code)}</Code>'
            f"<Message>{escape(error.message)}</Message>{extra}<RequestId>{asked}</RequestId></Error>"
        )
        return Response(
            status, [("Content-Type", "application/xml"), ("x-amz-request-id", asked)], text.encode()
        )
    if family is Family.RUNTIME:
        headers = [
            ("Content-Type", "application/json"),
            ("x-amzn-RequestId", asked),
            ("x-amzn-ErrorType", code),
        ]
        text = json.dumps({"Message": error.message, **_plain(error.fields)})
        return Response(status, headers, text.encode())
    text = f"<{code}><message>{escape(error.message)}</message></{code}>"
    return Response(status, [("Content-Type", "application/xml"), ("x-amzn-RequestId", asked)], text.encode())


def parse_json(body: bytes) -> Any:
    """The JSON of a request; an empty body is an empty object. Raises ApiError ``SerializationException``."""
    if not body:
        return {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError("SerializationException", "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise ApiError("SerializationException", "Start of structure or map found where not expected.")
    return value


def write_json(value: Mapping[str, Any], shape: Any) -> Response:
    """
    The answer of a JSON operation.

    Args:
        shape: botocore's output shape; None for operations outside the model.

    Raises AssertionError for a member that the shape does not have.
    """
    if shape is not None:
        _check_members(value, shape, shape.name)
    headers = [("Content-Type", "application/x-amz-json-1.1"), ("x-amzn-RequestId", request_id())]
    return Response(200, headers, json.dumps(_plain(value)).encode())


def _check_members(value: Any, shape: Any, path: str) -> None:
    if shape.type_name == "structure" and isinstance(value, Mapping):
        for name, member in value.items():
            assert name in shape.members, f"{path} has no member {name}"
            _check_members(member, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list" and isinstance(value, (list, tuple)):
        for item in value:
            _check_members(item, shape.member, f"{path}[]")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        # Milliseconds, as the services send them.
        return round(value.timestamp(), 3)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return value


def parse_form(query: str, body: bytes) -> dict[str, str]:
    """The flat parameters of a query call, from its body or else its URL."""
    text = body.decode("utf-8", "replace") if body else query
    return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=5000))


def parse_query(shape: Any, form: Mapping[str, str], prefix: str = "") -> Any:
    """
    The parameters that a flat form stands for (``Tags.member.1.Key=…``), as ``validate`` takes them.

    None for what the form does not hold. Raises ApiError ``SerializationException`` for a number that is
    none.
    """
    kind = shape.type_name
    if kind == "structure":
        members = {}
        for name, member in shape.members.items():
            key = member.serialization.get("name", name)
            if member.type_name == "list" and member.serialization.get("flattened"):
                key = member.member.serialization.get("name", key)
            value = parse_query(member, form, f"{prefix}.{key}" if prefix else key)
            if value is not None:
                members[member.serialization.get("name", name)] = value
        return members if members or not prefix else None
    if kind == "list":
        between = "" if shape.serialization.get("flattened") else "." + _member_name(shape)
        return _numbered(lambda at: parse_query(shape.member, form, at), form, f"{prefix}{between}")
    if kind == "map":
        between = "" if shape.serialization.get("flattened") else ".entry"
        key_name = shape.key.serialization.get("name", "key")
        value_name = shape.value.serialization.get("name", "value")
        pairs = _numbered(
            lambda at: (form.get(f"{at}.{key_name}"), parse_query(shape.value, form, f"{at}.{value_name}")),
            form,
            f"{prefix}{between}",
        )
        return None if pairs is None else {key: value for key, value in pairs if key is not None}
    text = form.get(prefix)
    if text is None:
        return None
    return _scalar(kind, text)


def _member_name(shape: Any) -> str:
    return str(shape.member.serialization.get("name", "member"))


def _numbered(parse: Any, form: Mapping[str, str], prefix: str) -> list[Any] | None:
    items = []
    for index in range(1, 1001):
        at = f"{prefix}.{index}"
        if not any(name == at or name.startswith(f"{at}.") for name in form):
            break
        items.append(parse(at))
    return items or None


def _scalar(kind: str, text: str) -> Any:
    try:
        if kind in ("integer", "long"):
            return int(text)
        if kind in ("float", "double"):
            return float(text)
    except ValueError:
        raise ApiError("SerializationException", f"{text!r} is not a number.") from None
    if kind == "boolean":
        return text.lower() == "true"
    return text


def write_query(operation: Any, value: Mapping[str, Any]) -> Response:
    """The answer of a query operation, by botocore's model of it."""
    shape = operation.output_shape
    namespace = operation.service_model.metadata["xmlNamespace"]
    asked = request_id()
    result = ""
    if shape is not None:
        wrapper = shape.serialization.get("resultWrapper", f"{operation.name}Result")
        result = f"<{wrapper}>{_xml_members(shape, value)}</{wrapper}>"
    text = (
        f'<{operation.name}Response xmlns="{namespace}">{result}'
        f"<ResponseMetadata><RequestId>{asked}</RequestId></ResponseMetadata></{operation.name}Response>"
    )
    return Response(200, [("Content-Type", "text/xml"), ("x-amzn-RequestId", asked)], text.encode())


def _xml_members(shape: Any, value: Mapping[str, Any]) -> str:
    assert not set(value) - set(shape.members), f"{shape.name} has no {set(value) - set(shape.members)}"
    return "".join(
        _xml(member, value[name], member.serialization.get("name", name))
        for name, member in shape.members.items()
        if value.get(name) is not None
    )


def _xml(shape: Any, value: Any, name: str) -> str:
    if shape.type_name == "structure":
        inner = _xml_members(shape, value)
    elif shape.type_name == "list":
        inner = "".join(_xml(shape.member, item, _member_name(shape)) for item in value)
    elif isinstance(value, datetime):
        inner = value.strftime("%Y-%m-%dT%H:%M:%SZ")
    elif isinstance(value, bool):
        inner = "true" if value else "false"
    else:
        inner = escape(str(value))
    return f"<{name}>{inner}</{name}>"
