"""One conversation on a stream of Converse, over gRPC and as a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from agentmesh.gateway.v1.conversation_service_pb2 import ConverseRequest, ConverseResponse
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from google.protobuf import json_format
from google.protobuf.message import Message
from google.rpc.status_pb2 import Status
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.differential.answers import Answer
from tests.support.differential.over_grpc import unwrapped
from tests.support.differential.over_rest import read_message, read_status
from tests.support.errors import rich_status

Frames = Sequence[dict[str, Any]]
"""Requests as JSON, with the enums of protobuf's own JSON, so that both edges can be sent them."""

_SECONDS = 60.0
_FINISHED = 1000
_PASSING = ("heartbeat", "delta")


@dataclass
class Chat:
    """What came down: the answers to the requests, the events, and how it ended."""

    acks: list[Message] = field(default_factory=list)
    events: list[Message] = field(default_factory=list)
    error: Status | None = None

    def take(self, response: Any) -> bool:
        """Keeps a response; whether it was an answer."""
        if response.HasField("ack"):
            if response.ack.HasField("pong"):
                assert response.ack.pong.HasField("time")
                response.ack.pong.ClearField("time")
            self.acks.append(response.ack)
            return True
        if response.item.WhichOneof("item") not in _PASSING:
            self.events += unwrapped(response.item)
        return False

    @property
    def outcomes(self) -> list[str]:
        """What each answer says: the name of what it has."""
        return [str(ack.WhichOneof("outcome")) for ack in self.acks]

    def plain(self, *, same_object: bool) -> Any:
        """As plain values; see Answer. Events only where both were about the same."""
        seen = [*self.acks, *(self.events if same_object else ())]
        return Answer(seen, error=self.error).plain(same_object=same_object)


async def chat_over_grpc(channel: grpc.aio.Channel, frames: Frames, bearer: str) -> Chat:
    """Sends each frame as a message when the one before is answered; reads to the end."""
    chat = Chat()
    metadata = (("authorization", bearer),)
    call: Any = ConversationServiceStub(channel).Converse(metadata=metadata, timeout=_SECONDS)
    try:
        for frame in frames:
            await call.write(json_format.ParseDict(frame, ConverseRequest()))
            while (response := await call.read()) is not grpc.aio.EOF:
                if chat.take(response):
                    break
        while (response := await call.read()) is not grpc.aio.EOF:
            chat.take(response)
        if await call.code() is not grpc.StatusCode.OK:
            await call
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        chat.error = await _status(call)
    return chat


async def _status(call: Any) -> Status:
    return rich_status(
        grpc.aio.AioRpcError(
            await call.code(),
            await call.initial_metadata(),
            await call.trailing_metadata(),
            await call.details(),
        )
    )


async def chat_over_websocket(rest_url: str, frames: Frames, bearer: str) -> Chat:
    """As `chat_over_grpc`, each frame as it is."""
    chat = Chat()
    url = rest_url.replace("http", "ws", 1) + "/conversations/converse"
    try:
        async with (
            asyncio.timeout(_SECONDS),
            connect(url, proxy=None, additional_headers={"authorization": bearer}) as socket,
        ):
            for frame in frames:
                await socket.send(json.dumps(frame))
                while not _take_frame(chat, await socket.recv()):
                    pass
            while True:
                _take_frame(chat, await socket.recv())
    except InvalidStatus as refusal:
        body = json.loads(refusal.response.body or b"{}")
        chat.error = read_status(body["error"], refusal.response.status_code)
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd is not None else 0
        if (code == _FINISHED) == (chat.error is not None):
            raise
    return chat


def _take_frame(chat: Chat, frame: str | bytes) -> bool:
    """Keeps what a frame says; whether no more is to be expected for the request."""
    document = json.loads(frame)
    if "error" in document:
        chat.error = read_status(document["error"], document["error"]["code"])
        return True
    return chat.take(read_message(document, ConverseResponse.DESCRIPTOR))
