"""The client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from uuid import uuid4

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1.conversation_store_service_pb2 import (
    DeliveryStrategy,
    EventFilter,
)
from agentmesh.conversation_store.v1.ledger_service_pb2 import AuditRecord
from agentmesh.gateway.v1 import admin_service_pb2 as admin_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.admin_service_pb2_grpc import AdminServiceStub
from agentmesh.gateway.v1.blob_service_pb2_grpc import BlobServiceStub
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from google.protobuf.field_mask_pb2 import FieldMask

from agentmesh_client.agents import Agents
from agentmesh_client.approvals import Approvals
from agentmesh_client.attachments import Attachment, Upload, described, parts_of
from agentmesh_client.chat import Chat
from agentmesh_client.keys import Keys
from agentmesh_client.limits import Budget
from agentmesh_client.models import Conversation, Delta, Event, Health, status_name
from agentmesh_client.sharing import Sharing
from agentmesh_client.subscription import UNTIL, Subscription, TenantSubscription, Until
from agentmesh_client.transport import Caller, Tls, open_channel

Strategy = Literal["after_turn", "interrupt", "replace_turn", "reject_if_running"]
Visibility = Literal["private", "tenant"]
_AUDIT_PAGE = 500
# The class has methods with the names of types.
_Records = list[AuditRecord]


class AgentMesh:
    """A gateway of agentmesh.

    `address` is "host:port" of its gRPC edge. `tls` is True for TLS with the system's CAs, or `Tls`
    with one's own. Calls take `timeout` seconds at most. A gateway that cannot be reached is tried
    again for `retry_for` seconds, without doing anything twice. All calls raise `AgentMeshError`.
    """

    def __init__(
        self,
        address: str = "localhost:50051",
        *,
        api_key: str | None = None,
        tls: Tls | bool = False,
        timeout: float = 30.0,
        retry_for: float = 10.0,
        max_message_bytes: int = 16 << 20,
    ) -> None:
        used_tls = Tls() if tls is True else tls or None
        self.channel = open_channel(address, used_tls, max_message_bytes)
        self._call = Caller(api_key, timeout, retry_for)
        self._conversations: Any = ConversationServiceStub(self.channel)
        self._blobs: Any = BlobServiceStub(self.channel)
        self._admin: Any = AdminServiceStub(self.channel)
        self.agents = Agents(self.channel, self._call)
        self.approvals = Approvals(self.channel, self._call)
        self.keys = Keys(self.channel, self._call)
        self.sharing = Sharing(self.channel, self._call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; calls and subscriptions under way end."""
        await self.channel.close()

    async def start(
        self,
        task: str,
        *,
        agents: Sequence[str] = (),
        workflow: str = "",
        max_rounds: int | None = None,
        human_input: bool = False,
        time_limit: timedelta | None = None,
        labels: Mapping[str, str] | None = None,
        attachments: Sequence[Attachment] = (),
        owner: str = "",
        visibility: Visibility | None = None,
        request_id: str | None = None,
    ) -> Conversation:
        """Starts a conversation of `agents`, or of the team that `workflow` names.

        It runs whether or not anybody watches, for at most `time_limit`. It belongs to who starts
        it, or to the subject `owner`, which services may name, and without `visibility` is as
        private as the tenant's policy says. The same `request_id` within a day returns the
        conversation that was started with it.
        """
        request = pb2.StartConversationRequest(
            task=task,
            agents=agents,
            workflow=workflow,
            human_input=human_input,
            max_rounds=max_rounds,
            labels=labels,
            parts=parts_of(attachments),
            owner=owner,
            visibility=_visibility(visibility),
            request_id=request_id or uuid4().hex,
        )
        if time_limit is not None:
            request.timeout.FromTimedelta(time_limit)
        return Conversation.started(
            await self._call(self._conversations.StartConversation, request)
        )

    async def get(self, conversation_id: str, *, message_limit: int = 200) -> Conversation:
        """A conversation with its newest messages. Raises NotFoundError."""
        request = pb2.GetConversationRequest(
            conversation_id=conversation_id,
            message_limit=message_limit,
            without_messages=message_limit == 0,
        )
        return Conversation.of(await self._call(self._conversations.GetConversation, request))

    async def list(
        self, *, statuses: Sequence[str] = (), agent: str = "", page_size: int = 50
    ) -> AsyncIterator[Conversation]:
        """Conversations, newest first, without their messages; pages are read as needed."""
        known = conversation_pb2.ConversationStatus
        request = pb2.ListConversationsRequest(
            page_size=page_size,
            agent=agent,
            statuses=[known.Value(f"CONVERSATION_STATUS_{name.upper()}") for name in statuses],
        )
        while True:
            page = await self._call(self._conversations.ListConversations, request)
            for raw in page.conversations:
                yield Conversation.of(raw)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def send(
        self,
        conversation_id: str,
        content: str,
        *,
        agent: str = "user",
        attachments: Sequence[Attachment] = (),
        strategy: Strategy = "after_turn",
        request_id: str | None = None,
    ) -> int:
        """Adds a message, and starts a run if none is under way; returns the event's sequence.

        `strategy` says what becomes of the turn under way: it goes on ("after_turn"), is given up
        ("interrupt"), and the turn before with it ("replace_turn"), or the message is refused with
        a FailedPreconditionError ("reject_if_running").
        """
        request = pb2.SendMessageRequest(
            conversation_id=conversation_id,
            content=content,
            agent=agent,
            parts=parts_of(attachments),
            strategy=DeliveryStrategy.Value(f"DELIVERY_STRATEGY_{strategy.upper()}"),
            request_id=request_id or uuid4().hex,
        )
        sent: pb2.SendMessageResponse = await self._call(self._conversations.SendMessage, request)
        return sent.sequence

    async def attach(
        self, source: Path | bytes, *, media_type: str = "", filename: str = ""
    ) -> Attachment:
        """Uploads a file, or bytes, for `start`, `run` and `send`.

        What it is, for example "image/png", is guessed from its name unless `media_type` says it.
        Raises OSError if the file cannot be read.
        """
        data, media_type, filename = await asyncio.to_thread(
            described, source, media_type, filename
        )
        stored = await self._call(Upload(self._blobs.UploadBlob), data)
        return Attachment(stored.digest, stored.size_bytes, media_type, filename)

    async def cancel(self, conversation_id: str, reason: str = "") -> str:
        """Ends the run under way; returns the conversation's status."""
        request = pb2.CancelConversationRequest(
            conversation_id=conversation_id, reason=reason, request_id=uuid4().hex
        )
        answer = await self._call(self._conversations.CancelConversation, request)
        return status_name(answer.status)

    async def pause(self, conversation_id: str) -> str:
        """Stops the run after its present turn; returns the conversation's status, which is
        "paused" at once if no turn is under way."""
        request = pb2.PauseConversationRequest(
            conversation_id=conversation_id, request_id=uuid4().hex
        )
        answer = await self._call(self._conversations.PauseConversation, request)
        return status_name(answer.status)

    async def resume(self, conversation_id: str) -> str:
        """Lets a paused run go on, or starts one that takes the turn again in which the last one
        failed; returns the conversation's status."""
        request = pb2.ResumeConversationRequest(
            conversation_id=conversation_id, request_id=uuid4().hex
        )
        answer = await self._call(self._conversations.ResumeConversation, request)
        return status_name(answer.status)

    async def update(
        self,
        conversation_id: str,
        *,
        labels: Mapping[str, str] | None = None,
        max_rounds: int | None = None,
        budget: Budget | None = None,
        visibility: Visibility | None = None,
        etag: str = "",
    ) -> Conversation:
        """Changes what is not None, also while a run is under way. A budget replaces the one
        before. With an `etag` nobody else may have changed the conversation since it was read."""
        patch = pb2.ConversationPatch(
            labels=labels, max_rounds=max_rounds or 0, visibility=_visibility(visibility)
        )
        if budget is not None:
            patch.budget.CopyFrom(budget.to_proto())
        given = {
            "labels": labels,
            "max_rounds": max_rounds,
            "budget": budget,
            "visibility": visibility,
        }
        request = pb2.UpdateConversationRequest(
            conversation_id=conversation_id,
            conversation=patch,
            update_mask=FieldMask(
                paths=[name for name, value in given.items() if value is not None]
            ),
            etag=etag,
            request_id=uuid4().hex,
        )
        answer = await self._call(self._conversations.UpdateConversation, request)
        return Conversation.of(answer.conversation)

    async def fork(self, conversation_id: str, *, at_sequence: int = 0) -> Conversation:
        """A new conversation that shares the history up to an event, or all of it. The next message
        starts a run from the newest state at or before that event."""
        request = pb2.ForkConversationRequest(
            conversation_id=conversation_id, at_sequence=at_sequence, request_id=uuid4().hex
        )
        answer = await self._call(self._conversations.ForkConversation, request)
        return Conversation.of(answer.conversation)

    def subscribe(
        self,
        conversation_id: str,
        *,
        after: int = 0,
        resume_token: str = "",
        until: Until = "forever",
        kinds: Sequence[str] = (),
        deltas: bool = True,
        reconnect_for: float = 60.0,
    ) -> Subscription:
        """Each event once and in order, then live, with deltas between them: `async for` over it.

        Begins after the event `after`, or where `resume_token` was. Ends when the log's present end
        was sent ("head"), when no run is under way ("run_end"), or never. Comes back by itself when
        the connection breaks, and gives up after `reconnect_for` seconds without one.
        """
        request = pb2.SubscribeConversationRequest(
            conversation_id=conversation_id,
            after_sequence=after,
            resume_token=resume_token,
            until=UNTIL[until],
            filter=EventFilter(kinds=kinds, without_deltas=not deltas),
        )
        subscribe = self._conversations.SubscribeConversation
        return Subscription(subscribe, request, self._call.metadata, reconnect_for)

    def chat(
        self,
        conversation_id: str = "",
        *,
        task: str = "",
        agents: Sequence[str] = (),
        workflow: str = "",
        human_input: bool = False,
        after: int = 0,
        resume_token: str = "",
        until: Literal["forever", "run_end"] = "forever",
        reconnect_for: float = 60.0,
    ) -> Chat:
        """One stream with a conversation that exists, or with one that `task` starts: messages,
        decisions and cancellation up, events and deltas down. Use it with `async with`.

        Events come after the event `after`, or from where `resume_token` was.
        """
        opening = pb2.ConverseOpen(
            conversation_id=conversation_id,
            after_sequence=after,
            resume_token=resume_token,
            until=UNTIL[until],
        )
        if task:
            opening.start.task = task
            opening.start.workflow = workflow
            opening.start.human_input = human_input
            opening.start.agents.extend(agents)
        converse = self._conversations.Converse
        return Chat(converse, opening, self._call.metadata, reconnect_for)

    def subscribe_tenant(
        self,
        *,
        resume_token: str = "",
        kinds: Sequence[str] = (),
        reconnect_for: float = 60.0,
    ) -> TenantSubscription:
        """Each event of all conversations once, in order within each of them: `async for` over it.

        Begins now, or where `resume_token` was, and never ends. Comes back as `subscribe` does.
        """
        request = pb2.SubscribeTenantRequest(
            resume_token=resume_token, filter=EventFilter(kinds=kinds), single_events=True
        )
        subscribe = self._conversations.SubscribeTenant
        return TenantSubscription(subscribe, request, self._call.metadata, reconnect_for)

    async def run(
        self,
        task: str,
        *,
        agents: Sequence[str] = (),
        workflow: str = "",
        max_rounds: int | None = None,
        attachments: Sequence[Attachment] = (),
        on_item: Callable[[Event | Delta], None] | None = None,
    ) -> Conversation:
        """Starts a conversation, waits for the end of its run, and returns it with its messages.

        `on_item` is given every event and delta on the way.
        """
        started = await self.start(
            task,
            agents=agents,
            workflow=workflow,
            max_rounds=max_rounds,
            attachments=attachments,
        )
        watched = self.subscribe(started.id, until="run_end", deltas=on_item is not None)
        async for item in watched:
            if on_item is not None:
                on_item(item)
        return await self.get(started.id)

    async def audit(
        self,
        *,
        limit: int = 100,
        principal: str = "",
        method: str = "",
        resource: str = "",
        code: str = "",
    ) -> Sequence[AuditRecord]:
        """The tenant's audit records, newest first, for administrators: who did what, on what,
        from where, and what came of it. Each filter counts if it is not empty."""
        request = admin_pb2.ListAuditRequest(
            principal=principal, method=method, resource=resource, code=code
        )
        records = _Records()
        while True:
            request.page_size = min(_AUDIT_PAGE, limit - len(records))
            page = await self._call(self._admin.ListAudit, request)
            records.extend(page.records)
            if len(records) >= limit or not page.next_page_token:
                return records
            request.page_token = page.next_page_token

    async def health(self) -> Health:
        """Whether the mesh serves, service by service."""
        found = await self._call(self._admin.CheckHealth, admin_pb2.CheckHealthRequest())
        return Health(found.status, dict(found.services), found.version)


def _visibility(name: Visibility | None) -> conversation_pb2.ConversationVisibility.ValueType:
    wanted = (name or "unspecified").upper()
    return conversation_pb2.ConversationVisibility.Value(f"CONVERSATION_VISIBILITY_{wanted}")
