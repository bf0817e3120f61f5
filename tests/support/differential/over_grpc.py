"""Any public method over gRPC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from agentmesh.conversation.v1.stream_pb2 import StreamItem
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from tests.support.differential.answers import Answer
from tests.support.errors import rich_status

_TIMEOUT = 60


async def call_over_grpc(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    requests: Sequence[Message],
    metadata: Sequence[tuple[str, str]],
    *,
    items: int = 0,
) -> Answer:
    """The answer to `requests`; of a stream without an end, the first `items`."""
    answer = Answer()
    try:
        if method.server_streaming:
            await _read(_streaming(channel, method)(requests[0], metadata, _TIMEOUT), answer, items)
        elif method.client_streaming:
            call: Any = channel.stream_unary(*_shape(method))
            answer.messages = [await call(iter(requests), metadata=metadata, timeout=_TIMEOUT)]
        else:
            call = channel.unary_unary(*_shape(method))
            answer.messages = [await call(requests[0], metadata=metadata, timeout=_TIMEOUT)]
    except grpc.aio.AioRpcError as error:
        answer.error = rich_status(error)
    return answer


def _streaming(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    call: Any = channel.unary_stream(*_shape(method))
    return lambda request, metadata, timeout: call(request, metadata=metadata, timeout=timeout)


def _shape(method: MethodDescriptor) -> tuple[str, Any, Any]:
    response = message_factory.GetMessageClass(method.output_type)
    path = f"/{method.containing_service.full_name}/{method.name}"
    return path, lambda message: message.SerializeToString(), response.FromString


async def _read(call: Any, answer: Answer, items: int) -> None:
    taken = 0
    async for response in call:
        (only, *_) = response.DESCRIPTOR.fields
        if only.type == FieldDescriptor.TYPE_BYTES:
            answer.data += getattr(response, only.name)
        else:
            answer.messages += unwrapped(getattr(response, only.name))
        taken += 1
        if taken == items:
            call.cancel()
            return


def unwrapped(item: Any) -> list[Message]:
    """What an item of a subscription carries, one by one; any other message as it is."""
    if not isinstance(item, StreamItem):
        return [item]
    kind = item.WhichOneof("item")
    if kind is None:
        return []
    return list(item.events.events) if kind == "events" else [getattr(item, kind)]
