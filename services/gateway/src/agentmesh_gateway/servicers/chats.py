"""Converse: one stream that carries a subscription down, and calls of other methods up.

Each request becomes a call of the method that it names, with the caller's credentials, through
everything that such a call passes. So nothing is allowed, limited, recorded or deduplicated here.
What becomes no call, such as a ping, costs as much as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from google.protobuf.message import Message
from meshkit.context import current_principal
from meshkit.errors import MeshError, from_rich_status, to_rich_status
from meshkit.tasks import stop
from meshkit.telemetry import TRACEPARENT, TRACESTATE, context_headers
from meshkit.validation import validate
from opentelemetry.trace import get_current_span

from agentmesh_gateway.limits.toll import Toll, hold_back
from agentmesh_gateway.local_calls import CallFailedError, LocalCalls
from agentmesh_gateway.servicers.context import Context
from agentmesh_gateway.subscriptions.registry import Subscriptions
from agentmesh_gateway.subscriptions.subscriber import Subscriber

OPEN_SECONDS = 30.0
"""How long a client may take to open a conversation; it holds a stream meanwhile."""

_CONVERSATIONS = "/agentmesh.gateway.v1.ConversationService"
_METHODS = {
    "send_message": f"{_CONVERSATIONS}/SendMessage",
    "resolve_approval": "/agentmesh.gateway.v1.ApprovalService/ResolveApproval",
    "cancel": f"{_CONVERSATIONS}/CancelConversation",
    "pause": f"{_CONVERSATIONS}/PauseConversation",
    "resume": f"{_CONVERSATIONS}/ResumeConversation",
}
_START = f"{_CONVERSATIONS}/StartConversation"
_GET = f"{_CONVERSATIONS}/GetConversation"


class Chats:
    """Serves streams of ConversationService.Converse."""

    def __init__(self, calls: LocalCalls, subscriptions: Subscriptions, toll: Toll) -> None:
        self._calls = calls
        self._subscriptions = subscriptions
        self._toll = toll

    async def serve(self, requests: AsyncIterator[pb2.ConverseRequest], context: Context) -> None:
        """Serves one stream to its end. Raises MeshError."""
        chat = _Chat(self._calls, self._toll, context)
        opening = await chat.opening(requests)
        if opening is None:
            return
        subscriber = self._subscriptions.subscriber(
            current_principal().tenant, chat.subscription(opening), chat.write
        )
        credentials = tuple(context.invocation_metadata() or ())
        watching = asyncio.create_task(self._subscriptions.run(subscriber, credentials))
        answering = asyncio.create_task(chat.answer_all(requests))
        try:
            await _both(watching, answering, opening.until, subscriber)
        finally:
            await stop(watching, answering, expected=(Exception,))


async def _both(
    watching: asyncio.Task[None],
    answering: asyncio.Task[None],
    until: stream_pb2.SubscribeUntil.ValueType,
    subscriber: Subscriber,
) -> None:
    """Until the subscription ends; the end of requests alone says from when `until` counts."""
    await asyncio.wait({watching, answering}, return_when=asyncio.FIRST_COMPLETED)
    if not watching.done():
        await answering
        if until == stream_pb2.SUBSCRIBE_UNTIL_RUN_END:
            subscriber.end_with_run()
    await watching


@dataclass
class _Chat:
    """One stream. Requests are read when those before them are answered, which bounds them."""

    calls: LocalCalls
    toll: Toll
    context: Context
    conversation_id: str = ""
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def write(self, response: Any) -> None:
        """Sends a response; waits while the reader is slow."""
        async with self._writing:
            await self.context.write(response)

    async def opening(
        self, requests: AsyncIterator[pb2.ConverseRequest]
    ) -> pb2.ConverseOpen | None:
        """The request that opened the conversation; None if the client ended before."""
        deadline = asyncio.get_running_loop().time() + OPEN_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    request = await anext(requests, None)
            except TimeoutError:
                raise _opened_late() from None
            if request is None:
                return None
            await self._answer(request)
            if request.HasField("finish"):
                return None
            if self.conversation_id:
                return request.open

    async def answer_all(self, requests: AsyncIterator[pb2.ConverseRequest]) -> None:
        """Answers every request until there are no more."""
        async for request in requests:
            await self._answer(request)
            if request.HasField("finish"):
                return

    def subscription(self, opening: pb2.ConverseOpen) -> store_pb2.SubscribeConversationRequest:
        """What is sent of the conversation. Its end is decided when no more requests come."""
        wanted = store_pb2.SubscribeConversationRequest(
            conversation_id=self.conversation_id,
            after_sequence=opening.after_sequence,
            resume_token=opening.resume_token,
            until=stream_pb2.SUBSCRIBE_UNTIL_FOREVER,
        )
        if opening.HasField("filter"):
            wanted.filter.CopyFrom(opening.filter)
        return wanted

    async def _answer(self, request: pb2.ConverseRequest) -> None:
        ack = pb2.ConverseAck(request_id=request.request_id)
        refusal: MeshError | None = None
        try:
            await self._carry_out(request, ack)
        except CallFailedError as failed:
            ack.error.CopyFrom(failed.status)
            refusal = from_rich_status(failed.status)
        except MeshError as error:
            refusal = await self._charged(error)
            ack.error.CopyFrom(to_rich_status(refusal))
        await self.write(pb2.ConverseResponse(ack=ack))
        if refusal is not None:
            await hold_back(refusal)

    async def _charged(self, refusal: MeshError) -> MeshError:
        """Of a request that became no call, which would have paid for itself."""
        try:
            await self.toll(current_principal())
        except MeshError as error:
            return error
        return refusal

    async def _carry_out(self, request: pb2.ConverseRequest, ack: pb2.ConverseAck) -> None:
        command = request.WhichOneof("command")
        if command == "ping":
            await self.toll(current_principal())
            ack.pong.time.GetCurrentTime()
        elif command == "finish":
            ack.finished.SetInParent()
        elif command == "open":
            if self.conversation_id:
                raise MeshError.invalid("open", f'"{self.conversation_id}" is open already')
            ack.opened.CopyFrom(await self._open(request))
            self.conversation_id = ack.opened.conversation_id
        elif command is None:
            raise MeshError.invalid("command", "none that this version knows is set")
        elif not self.conversation_id:
            raise MeshError.invalid("open", "the first request must open a conversation")
        else:
            asked = getattr(request, command)
            self._complete(asked, request.request_id)
            getattr(ack, command).CopyFrom(await self._call(_METHODS[command], asked))

    async def _open(self, request: pb2.ConverseRequest) -> pb2.ConverseOpened:
        opening = request.open
        if opening.HasField("start") == bool(opening.conversation_id):
            raise MeshError.invalid("open", "set either start or conversation_id")
        if opening.HasField("start"):
            _take("start.request_id", opening.start, "request_id", request.request_id)
            validate(opening)
            started = await self._call(_START, opening.start)
            return pb2.ConverseOpened(
                conversation_id=started.conversation_id,
                status=started.status,
                run_id=started.run_id,
            )
        validate(opening)
        wanted = pb2.GetConversationRequest(
            conversation_id=opening.conversation_id, without_messages=True
        )
        found = await self._call(_GET, wanted)
        return pb2.ConverseOpened(
            conversation_id=found.conversation_id, status=found.status, run_id=found.run.run_id
        )

    def _complete(self, asked: Message, request_id: str) -> None:
        _take("request_id", asked, "request_id", request_id)
        if "conversation_id" in asked.DESCRIPTOR.fields_by_name:
            _take("conversation_id", asked, "conversation_id", self.conversation_id)

    async def _call(self, rpc: str, request: Message) -> Any:
        """In a task of its own, because a call sets whom and which span its task works for."""
        metadata = (*self._headers(), *context_headers(get_current_span().get_span_context()))
        call = asyncio.create_task(self.calls.unary(rpc, request, metadata, self.context))
        try:
            response, _ = await call
        finally:
            await stop(call, expected=(Exception,))
        return response

    def _headers(self) -> Iterator[tuple[str, str]]:
        for name, value in self.context.invocation_metadata() or ():
            if name not in (TRACEPARENT, TRACESTATE) and isinstance(value, str):
                yield name, value


def _take(path: str, message: Any, name: str, value: str) -> None:
    """Fills a field in from what the stream knows; another value there is refused."""
    given = getattr(message, name)
    if given and value and given != value:
        raise MeshError.invalid(path, f'is not "{value[:128]}", as the stream says')
    setattr(message, name, given or value)


def _opened_late() -> MeshError:
    return MeshError(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        errors_pb2.ERROR_REASON_DEADLINE_EXCEEDED,
        f"no conversation was opened within {OPEN_SECONDS:g} seconds",
    )
