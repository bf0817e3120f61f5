"""Any public method over REST, made of its `google.api.http` option alone."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote

import grpc
import httpx
from agentmesh.conversation.v1.event_pb2 import Event
from agentmesh.conversation.v1.stream_pb2 import StreamItem
from google.api import annotations_pb2
from google.protobuf import any_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from httpx_sse import EventSource, ServerSentEvent

from tests.support.differential.answers import Answer

_VARIABLE = re.compile(r"\{([a-z_]+)(=\*\*)?\}")
_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_CODES = {code.name: code.value[0] for code in grpc.StatusCode}


async def call_over_rest(
    http: httpx.AsyncClient,
    method: MethodDescriptor,
    requests: Sequence[Message],
    headers: dict[str, str],
    *,
    items: int = 0,
) -> Answer:
    """The answer to `requests`; of a stream without an end, the first `items`."""
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    values = _request_values(requests[0])
    path = _VARIABLE.sub(lambda found: _segment(found, values), getattr(rule, verb))
    content: dict[str, Any] = {}
    if method.client_streaming:
        data = b"".join(getattr(request, rule.body) for request in requests)
        is_file = "size_bytes" in method.input_type.fields_by_name
        media_type = "application/octet-stream" if is_file else "application/jsonl"
        content = {"content": data, "headers": {**headers, "content-type": media_type}}
        values = {k: v for k, v in values.items() if k not in (rule.body, "size_bytes")}
    elif rule.body == "*":
        content, values = {"json": values}, {}
    elif rule.body and rule.body in values:
        content = {"json": values.pop(rule.body)}
    request = {"params": _pairs(values), "headers": headers, **content}
    async with http.stream(verb.upper(), path, **request) as response:
        return await _answer(response, method, items)


def _segment(found: re.Match[str], values: dict[str, Any]) -> str:
    return quote(str(values.pop(found[1], "")), safe="/" if found[2] else "")


def _request_values(message: Message) -> dict[str, Any]:
    """A request as the edge takes it."""
    values: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    mask = getattr(message, "update_mask", None)
    if isinstance(mask, FieldMask) and mask.paths:
        values["update_mask"] = ",".join(mask.paths)  # protobuf's JSON would use camelCase
    return values


def _pairs(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += _pairs(value, f"{prefix}{name}.")
        else:
            all_values = value if isinstance(value, list) else [value]
            pairs += [(prefix + name, _text(one)) for one in all_values]
    return pairs


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def _answer(response: httpx.Response, method: MethodDescriptor, items: int) -> Answer:
    answer = Answer()
    media_type = response.headers["content-type"].partition(";")[0]
    if media_type == "text/event-stream":
        await _read_events(EventSource(response).aiter_sse(), method.output_type, answer, items)
        return answer
    body = await response.aread()
    if response.status_code >= 400 and b'"error"' in body[:10]:
        answer.error = read_status(json.loads(body)["error"], response.status_code)
    elif method.server_streaming:
        answer.data = body
    else:
        answer.messages = [read_message(json.loads(body), method.output_type)]
    return answer


async def _read_events(
    frames: AsyncIterator[ServerSentEvent], response: Descriptor, answer: Answer, items: int
) -> None:
    item: Any = response.fields_by_name["item"].message_type
    taken = 0
    async for frame in frames:
        document = json.loads(frame.data)
        if frame.event == "error":
            answer.error = read_status(document["error"], document["error"]["code"])
            return
        message = item
        if item.full_name == StreamItem.DESCRIPTOR.full_name:
            is_event = frame.event in Event.DESCRIPTOR.fields_by_name
            message = (
                Event.DESCRIPTOR if is_event else item.fields_by_name[frame.event].message_type
            )
        answer.messages.append(read_message(document, message))
        taken += 1
        if taken == items:
            return


def read_status(error: dict[str, Any], http_code: int) -> Status:
    """The status in an error body, which must name the HTTP status that it came with."""
    assert error["code"] == http_code
    status = Status(code=_CODES[error["status"]], message=error["message"])
    for detail in error["details"]:
        name = detail["@type"].rpartition("/")[2]
        content = {key: value for key, value in detail.items() if key != "@type"}
        packed = any_pb2.Any()
        packed.Pack(read_message(content, descriptor_pool.Default().FindMessageTypeByName(name)))
        status.details.append(packed)
    return status


def read_message(document: Any, descriptor: Descriptor) -> Message:
    """A message as the edge writes it."""
    message: Message = message_factory.GetMessageClass(descriptor)()
    return json_format.ParseDict(_with_full_names(document, descriptor), message)


def _with_full_names(document: Any, descriptor: Descriptor) -> Any:
    """The document with enums as protobuf's own JSON writes them."""
    if not isinstance(document, dict) or descriptor.full_name.startswith("google.protobuf."):
        return document
    return {
        name: _full_value(value, descriptor.fields_by_name[name])
        for name, value in document.items()
    }


def _full_value(value: Any, field: FieldDescriptor) -> Any:
    if isinstance(value, list):
        return [_full_value(one, field) for one in value]
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            inner = field.message_type.fields_by_name["value"]
            return {key: _full_value(one, inner) for key, one in value.items()}
        return _with_full_names(value, field.message_type)
    if field.enum_type is not None and isinstance(value, str):
        prefix = _BOUNDARY.sub("_", field.enum_type.name).upper()
        return f"{prefix}_{value.upper()}"
    return value
