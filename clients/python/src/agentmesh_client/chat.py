"""A conversation on one stream: requests up, events and deltas down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from agentmesh.conversation.v1 import event_pb2
from agentmesh.gateway.v1 import approval_service_pb2 as approvals_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2

from agentmesh_client.converse_stream import ConverseItems, ConverseStream
from agentmesh_client.errors import AgentMeshError, UnavailableError, from_status
from agentmesh_client.inbox import Inbox
from agentmesh_client.models import Delta, Event, status_name

_STATUS = event_pb2.ApprovalStatus


class Chat:
    """`async with mesh.chat(…) as chat:` then `await chat.send(…)` and `async for item in chat`.

    Items are those of a subscription, each event once and in order. Up to 1,000 of them, or 4 MiB,
    wait until they are taken; the rest waits at the server, and nothing is dropped. Requests are
    answered whether items are taken or not.
    A broken connection comes back by itself, at any gateway: what was not answered is asked again,
    and done once. Requests raise what their answer says; the iteration raises what ends the stream.
    """

    def __init__(
        self,
        converse: Callable[..., Any],
        opening: pb2.ConverseOpen,
        metadata: tuple[tuple[str, str], ...],
        reconnect_for: float,
    ) -> None:
        self._converse = converse
        self._opening = pb2.ConverseRequest(request_id=uuid4().hex, open=opening)
        self._unanswered: dict[str, tuple[pb2.ConverseRequest, asyncio.Future[Any]]] = {}
        self._inbox = Inbox()
        self._connection: ConverseStream | None = None
        self._finish: pb2.ConverseRequest | None = None
        self._reading: asyncio.Task[None] | None = None
        wanted = pb2.SubscribeConversationRequest(
            after_sequence=opening.after_sequence,
            resume_token=opening.resume_token,
            until=opening.until,
        )
        self._subscription = ConverseItems(self._connect, wanted, metadata, reconnect_for)
        self.conversation_id = opening.conversation_id
        self.status = ""
        """Of the conversation, when it was opened."""

    async def __aenter__(self) -> Self:
        opened = self._expect(self._opening)
        self._reading = asyncio.create_task(self._read())
        answer = await opened
        self.status = status_name(answer.opened.status)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait({self._reading})

    def __aiter__(self) -> AsyncIterator[Event | Delta]:
        """Every item until the stream ends."""
        return self._inbox.take()

    @property
    def sequence(self) -> int:
        """Of the newest event that has come; where the chat began before the first."""
        return self._subscription.sequence

    @property
    def waiting(self) -> int:
        """How many items have come and were not taken yet."""
        return len(self._inbox)

    async def send(self, content: str, *, agent: str = "user") -> int:
        """Adds a message; returns the event's sequence."""
        message = pb2.SendMessageRequest(content=content, agent=agent)
        return int((await self._ask(send_message=message)).send_message.sequence)

    async def cancel(self, reason: str = "") -> str:
        """Ends the run under way; returns the conversation's status."""
        answer = await self._ask(cancel=pb2.CancelConversationRequest(reason=reason))
        return status_name(answer.cancel.status)

    async def pause(self) -> str:
        """Stops the run after its present turn; returns the conversation's status."""
        return status_name((await self._ask(pause=pb2.PauseConversationRequest())).pause.status)

    async def resume(self) -> str:
        """Lets a paused or failed run go on; returns the conversation's status."""
        return status_name((await self._ask(resume=pb2.ResumeConversationRequest())).resume.status)

    async def approve(self, approval_id: str, *, comment: str = "") -> None:
        """Lets a call be made as it is."""
        await self._resolve(approval_id, _STATUS.APPROVAL_STATUS_APPROVED, comment)

    async def reject(self, approval_id: str, *, reason: str = "") -> None:
        """Keeps a call from being made; the model is told why."""
        await self._resolve(approval_id, _STATUS.APPROVAL_STATUS_REJECTED, reason)

    async def answer(self, approval_id: str, text: str) -> None:
        """Answers a question."""
        await self._resolve(approval_id, _STATUS.APPROVAL_STATUS_ANSWERED, text)

    async def finish(self) -> None:
        """Says that no more requests come: with `until="run_end"` the stream ends with the run."""
        self._finish = pb2.ConverseRequest(request_id=uuid4().hex, finish=pb2.ConverseFinish())
        await self._send(self._finish)

    async def _resolve(
        self, approval_id: str, decision: event_pb2.ApprovalStatus.ValueType, comment: str
    ) -> None:
        await self._ask(
            resolve_approval=approvals_pb2.ResolveApprovalRequest(
                approval_id=approval_id, decision=decision, comment=comment
            )
        )

    async def _ask(self, **command: Any) -> pb2.ConverseAck:
        return await self._send(pb2.ConverseRequest(request_id=uuid4().hex, **command))

    async def _send(self, request: pb2.ConverseRequest) -> pb2.ConverseAck:
        answer = self._expect(request)
        if self._reading is None or self._reading.done():
            raise AgentMeshError("CANCELLED", "the chat is over")
        if self._connection is not None:
            self._connection.send(request)
        acked: pb2.ConverseAck = await answer
        return acked

    def _expect(self, request: pb2.ConverseRequest) -> asyncio.Future[Any]:
        answer = asyncio.get_running_loop().create_future()
        self._unanswered[request.request_id] = (request, answer)
        self._inbox.nudge()
        return answer

    def _connect(
        self, wanted: pb2.SubscribeConversationRequest, metadata: tuple[tuple[str, str], ...]
    ) -> ConverseStream:
        """A new stream that opens where the one before broke, with what was not answered."""
        self._opening.open.resume_token = wanted.resume_token
        asked = [request for request, _ in self._unanswered.values()]
        first = [one for one in asked if one not in (self._opening, self._finish)]
        if self._finish is not None:
            first.append(self._finish)
        self._connection = ConverseStream(
            self._converse,
            metadata,
            [self._opening, *first],
            self._answered,
            lambda: bool(self._unanswered),
            self._inbox,
        )
        return self._connection

    def _answered(self, ack: pb2.ConverseAck) -> None:
        """Raises what keeps the conversation from being opened; the stream ends with it, or is
        opened again if that may help."""
        opening = ack.request_id == self._opening.request_id
        error = from_status(ack.error) if ack.HasField("error") else None
        if opening and isinstance(error, UnavailableError):
            raise error
        _, answer = self._unanswered.pop(ack.request_id, (None, None))
        if answer is not None and not answer.done():
            if error is None:
                answer.set_result(ack)
            else:
                answer.set_exception(error)
        if opening and error is not None:
            raise error
        if opening:
            self._opened(ack.opened.conversation_id)

    def _opened(self, conversation_id: str) -> None:
        """From now on this one is opened, so that a chat of days does not start another."""
        self.conversation_id = conversation_id
        self._opening.open.ClearField("start")
        self._opening.open.conversation_id = conversation_id

    async def _read(self) -> None:
        end: BaseException | None = None
        try:
            async for item in self._subscription:
                self._inbox.put(item)
        except BaseException as error:
            end = error
        self._inbox.end(end)
        lost = end or AgentMeshError("CANCELLED", "the chat is over")
        for _, answer in self._unanswered.values():
            if not answer.done():
                answer.set_exception(lost if isinstance(lost, AgentMeshError) else _over(lost))
        if isinstance(end, asyncio.CancelledError):
            raise end


def _over(error: BaseException) -> AgentMeshError:
    return AgentMeshError("CANCELLED", f"the chat is over: {error}")
