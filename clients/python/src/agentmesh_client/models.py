"""What the client returns. Each has `raw`: the message of the contract, with all of its fields."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agentmesh.common.v1.options_pb2 import Role
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2, stream_pb2
from agentmesh.conversation_store.v1 import approval_store_service_pb2, identity_service_pb2
from agentmesh.gateway.v1 import agent_service_pb2, conversation_service_pb2
from google.protobuf.json_format import MessageToDict


def _time(message: Any, name: str) -> datetime | None:
    if not message.HasField(name):
        return None
    stamp = getattr(message, name)
    return datetime.fromtimestamp(stamp.seconds + stamp.nanos / 1e9, UTC)


def _short(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower()


def status_name(status: conversation_pb2.ConversationStatus.ValueType) -> str:
    """ "running", "waiting", "paused", "completed", "failed" or "cancelled"."""
    known = conversation_pb2.ConversationStatus
    name = known.Name(status) if status in known.values() else str(status)
    return _short(name, "CONVERSATION_STATUS_")


@dataclass(frozen=True, slots=True)
class Message:
    """Something said: by a person ("user"), an agent, or a tool of an agent."""

    id: str
    role: str
    agent: str
    content: str
    timestamp: datetime | None
    raw: message_pb2.Message = field(repr=False)

    @property
    def data(self) -> Any:
        """The object that a structured answer is; None if the message has none."""
        data = (part.data.data for part in self.raw.parts if part.HasField("data"))
        return next(map(MessageToDict, data), None)

    @classmethod
    def of(cls, raw: message_pb2.Message) -> Message:
        """From the contract's message."""
        known = message_pb2.MessageRole
        role = known.Name(raw.role) if raw.role in known.values() else str(raw.role)
        return cls(
            id=raw.message_id,
            role=_short(role, "MESSAGE_ROLE_"),
            agent=raw.agent,
            content=raw.content,
            timestamp=_time(raw, "timestamp"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a conversation's log.

    `kind` is the name of the contract's field, such as "message" or "run_ended", and "" for kinds
    that this version does not know. `message` is set for messages.
    """

    sequence: int
    kind: str
    run_id: str
    turn: int
    agent: str
    time: datetime | None
    message: Message | None
    conversation_id: str
    raw: event_pb2.Event = field(repr=False)

    @classmethod
    def of(cls, raw: event_pb2.Event) -> Event:
        """From the contract's event."""
        return cls(
            sequence=raw.sequence,
            kind=raw.WhichOneof("kind") or "",
            run_id=raw.run_id,
            turn=raw.turn,
            agent=raw.agent,
            time=_time(raw, "time"),
            message=Message.of(raw.message) if raw.HasField("message") else None,
            conversation_id=raw.conversation_id,
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a message that is being written: a preview of an event that will come.

    `kind` is "text", "reasoning", "stdout", "stderr" or "tool_arguments". If `replaces` is true,
    `text` takes the place of all earlier pieces of this message.
    """

    message_id: str
    agent: str
    kind: str
    text: str
    replaces: bool
    raw: stream_pb2.Delta = field(repr=False)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation as it stood when it was read. `messages` are its newest ones."""

    id: str
    status: str
    agents: tuple[str, ...]
    task: str
    workflow: str
    run_id: str
    started_at: datetime | None
    completed_at: datetime | None
    summary: str
    messages: tuple[Message, ...]
    raw: (
        conversation_pb2.Conversation
        | conversation_service_pb2.StartConversationResponse
        | conversation_service_pb2.GetConversationResponse
    ) = field(repr=False)

    @property
    def owner(self) -> str:
        """The subject that it belongs to; empty if it is older than owners are."""
        return self.raw.owner

    @property
    def visibility(self) -> str:
        """ "private", or "tenant" if everybody of the tenant may read it."""
        name = conversation_pb2.ConversationVisibility.Name(self.raw.visibility)
        return _short(name, "CONVERSATION_VISIBILITY_")

    @property
    def running(self) -> bool:
        """Whether a run is under way or waits."""
        return self.status in ("running", "waiting", "paused")

    @classmethod
    def started(cls, raw: conversation_service_pb2.StartConversationResponse) -> Conversation:
        """From the answer to a start."""
        return cls(
            id=raw.conversation_id,
            status=status_name(raw.status),
            agents=tuple(raw.agents),
            task=raw.task,
            workflow=raw.workflow,
            run_id=raw.run_id,
            started_at=_time(raw, "started_at"),
            completed_at=None,
            summary="",
            messages=(),
            raw=raw,
        )

    @classmethod
    def of(
        cls,
        raw: conversation_pb2.Conversation | conversation_service_pb2.GetConversationResponse,
    ) -> Conversation:
        """From a conversation that was read; one of a list has no messages."""
        messages: Sequence[message_pb2.Message] = ()
        if isinstance(raw, conversation_service_pb2.GetConversationResponse):
            messages = raw.messages
        return cls(
            id=raw.conversation_id,
            status=status_name(raw.status),
            agents=tuple(raw.agents),
            task=raw.task,
            workflow=raw.workflow,
            run_id=raw.run.run_id,
            started_at=_time(raw, "started_at"),
            completed_at=_time(raw, "completed_at"),
            summary=raw.summary,
            messages=tuple(Message.of(found) for found in messages),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Agent:
    """A version of an agent. One with `unresolved_tools` cannot be started.

    `etag` tells `mesh.agents.update` and `delete` what was read; `created_at` is the version's.
    """

    id: str
    name: str
    role: str
    system_message: str
    tools: tuple[str, ...]
    unresolved_tools: tuple[str, ...]
    built_in: bool
    version: int
    etag: str
    created_at: datetime | None
    raw: agent_service_pb2.Agent = field(repr=False)

    @classmethod
    def of(cls, raw: agent_service_pb2.Agent) -> Agent:
        """From the contract's agent."""
        return cls(
            id=raw.id,
            name=raw.name,
            role=raw.role,
            system_message=raw.system_message,
            tools=tuple(raw.tools),
            unresolved_tools=tuple(raw.unresolved_tools),
            built_in=raw.built_in,
            version=raw.version,
            etag=raw.etag,
            created_at=_time(raw, "created_at"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Approval:
    """Something that waits for a person: a tool call, or a question if `tool` is empty.

    `status` is "pending", "approved", "edited", "rejected", "answered", "expired" or "cancelled";
    `role` says who may decide. `context` holds the messages that led to it, oldest first, where
    they were asked for.
    """

    id: str
    conversation_id: str
    agent: str
    status: str
    prompt: str
    tool: str
    arguments_json: str
    role: str
    principal: str
    comment: str
    edited_arguments_json: str
    requested_at: datetime | None
    expires_at: datetime | None
    resolved_at: datetime | None
    context: tuple[Event, ...]
    raw: approval_store_service_pb2.Approval = field(repr=False)

    @classmethod
    def of(
        cls, raw: approval_store_service_pb2.Approval, context: Iterable[event_pb2.Event] = ()
    ) -> Approval:
        """From the contract's approval."""
        known = event_pb2.ApprovalStatus
        status = known.Name(raw.status) if raw.status in known.values() else str(raw.status)
        return cls(
            id=raw.approval_id,
            conversation_id=raw.conversation_id,
            agent=raw.agent,
            status=_short(status, "APPROVAL_STATUS_"),
            prompt=raw.prompt,
            tool=raw.tool_call.tool,
            arguments_json=raw.tool_call.arguments_json,
            role=_short(_role_name(raw.role), "ROLE_"),
            principal=raw.principal,
            comment=raw.comment,
            edited_arguments_json=raw.edited_arguments_json,
            requested_at=_time(raw, "requested_at"),
            expires_at=_time(raw, "expires_at"),
            resolved_at=_time(raw, "resolved_at"),
            context=tuple(map(Event.of, context)),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key. `secret` is known only of a key that was just made or rotated; without `scopes`
    it may do all that its role may."""

    id: str
    role: str
    name: str
    tenant: str
    created_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    scopes: tuple[str, ...]
    created_by: str
    secret: str = field(repr=False)
    raw: identity_service_pb2.ApiKey = field(repr=False)

    @classmethod
    def of(cls, raw: identity_service_pb2.ApiKey, secret: str = "") -> ApiKey:
        """From the contract's key."""
        return cls(
            id=raw.key_id,
            role=_short(_role_name(raw.role), "ROLE_"),
            name=raw.name,
            tenant=raw.tenant,
            created_at=_time(raw, "created_at"),
            expires_at=_time(raw, "expires_at"),
            revoked_at=_time(raw, "revoked_at"),
            last_used_at=_time(raw, "last_used_at"),
            scopes=tuple(raw.scopes),
            created_by=raw.created_by,
            secret=secret,
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """A conversation shared with a `subject`, or with all whose role includes `role`; the other one
    is empty. `access` is "read" or "write"."""

    subject: str
    role: str
    access: str
    granted_by: str
    granted_at: datetime | None
    raw: conversation_pb2.Grant = field(repr=False)

    @classmethod
    def of(cls, raw: conversation_pb2.Grant) -> Grant:
        """From the contract's grant."""
        access = conversation_pb2.ConversationAccess.Name(raw.access)
        return cls(
            subject=raw.subject,
            role=_short(_role_name(raw.role), "ROLE_") if raw.role else "",
            access=_short(access, "CONVERSATION_ACCESS_"),
            granted_by=raw.granted_by,
            granted_at=_time(raw, "granted_at"),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the mesh serves: "healthy", "degraded" or "unhealthy", and each service's state."""

    status: str
    services: dict[str, str]
    version: str


def _role_name(role: int) -> str:
    return Role.Name(Role.ValueType(role)) if role in Role.values() else str(role)
