"""Events as bytes: serialized once, when they get their place in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2

from agentmesh_conversation_store.domain import events as domain

from .approvals import asked_approval
from .values import duration, timestamp, usage_message

_Event = event_pb2.Event
_RunStatus = conversation_pb2.RunStatus.ValueType
_WaitKind = conversation_pb2.WaitKind.ValueType
_EndReason = conversation_pb2.RunEndReason.ValueType


def _started(body: domain.ConversationStarted) -> dict[str, Any]:
    return {
        "conversation_started": event_pb2.ConversationStarted(
            task=body.task, agents=body.agents, workflow=body.workflow, principal=body.principal
        )
    }


def _run_started(body: domain.RunStarted) -> dict[str, Any]:
    return {
        "agent": body.agent,
        "run_started": event_pb2.RunStarted(
            root_run_id=body.root_run_id,
            parent_run_id=body.parent_run_id,
            max_rounds=body.max_rounds,
            traceparent=body.traceparent,
        ),
    }


def _user_message(body: domain.UserMessage) -> dict[str, Any]:
    text = message_pb2.Part(text=message_pb2.TextPart(text=body.content))
    first = [] if body.abridged else [text]
    return {
        "agent": body.agent,
        "message": message_pb2.Message(
            message_id=body.message_id,
            role=message_pb2.MESSAGE_ROLE_USER,
            agent=body.agent,
            content=body.content,
            parts=[*first, *body.parts],  # type: ignore[list-item]  # opaque to the domain
            author=body.author,
        ),
    }


def _turn_committed(body: domain.TurnCommitted) -> dict[str, Any]:
    return {
        "agent": body.speaker,
        "turn_committed": event_pb2.TurnCommitted(
            usage=usage_message(body.usage),
            steps=body.steps,
            speaker=body.speaker,
            workspace_generation=body.workspace_generation,
        ),
    }


def _turn_discarded(body: domain.TurnDiscarded) -> dict[str, Any]:
    return {
        "turn_discarded": event_pb2.TurnDiscarded(reason=body.reason, message_ids=body.message_ids)
    }


def _status_changed(body: domain.RunStatusChanged) -> dict[str, Any]:
    return {
        "run_status_changed": event_pb2.RunStatusChanged(
            status=_RunStatus(body.status),
            waiting_for=_WaitKind(body.waiting_for),
            detail=body.detail,
        )
    }


def _run_ended(body: domain.RunEnded) -> dict[str, Any]:
    return {
        "agent": body.agent,
        "run_ended": event_pb2.RunEnded(
            status=_RunStatus(body.status),
            reason=_EndReason(body.reason),
            detail=body.detail,
            summary=body.summary,
            usage=usage_message(body.usage),
        ),
    }


def _attempt_failed(body: domain.AttemptFailed) -> dict[str, Any]:
    return {
        "attempt_failed": event_pb2.AttemptFailed(
            attempt=body.attempt,
            detail=body.detail,
            retry_after=duration(body.retry_after),
            reason=_EndReason(body.reason),
        )
    }


def _approval_resolved(body: domain.ApprovalResolved) -> dict[str, Any]:
    return {
        "agent": body.agent,
        "approval_resolved": event_pb2.ApprovalResolved(
            approval_id=body.approval_id,
            status=event_pb2.ApprovalStatus.ValueType(body.status),
            principal=body.principal,
            comment=body.comment,
            edited_arguments_json=body.edited_arguments_json,
        ),
    }


def _approval_escalated(body: domain.ApprovalEscalated) -> dict[str, Any]:
    return {
        "agent": body.agent,
        "approval_escalated": event_pb2.ApprovalEscalated(
            approval_id=body.approval_id,
            role=body.role.name.lower(),
            previous_role=body.previous_role.name.lower(),
        ),
    }


def _updated(body: domain.ConversationUpdated) -> dict[str, Any]:
    return {"conversation_updated": event_pb2.ConversationUpdated(labels=body.labels)}


def _forked(body: domain.ConversationForked) -> dict[str, Any]:
    return {
        "conversation_forked": event_pb2.ConversationForked(
            conversation_id=body.source_id, sequence=body.sequence, principal=body.principal
        )
    }


def _workspace_restored(body: domain.WorkspaceRestored) -> dict[str, Any]:
    return {
        "workspace_restored": event_pb2.WorkspaceRestored(
            generation=body.generation,
            restored_generation=body.restored_generation,
            previous_generation=body.previous_generation,
            text=body.text,
        )
    }


_KINDS: dict[type, Callable[[Any], dict[str, Any]]] = {
    domain.ConversationStarted: _started,
    domain.RunStarted: _run_started,
    domain.UserMessage: _user_message,
    domain.TurnCommitted: _turn_committed,
    domain.TurnDiscarded: _turn_discarded,
    domain.RunStatusChanged: _status_changed,
    domain.RunEnded: _run_ended,
    domain.AttemptFailed: _attempt_failed,
    domain.ConversationUpdated: _updated,
    domain.ConversationForked: _forked,
    domain.ApprovalResolved: _approval_resolved,
    domain.ApprovalEscalated: _approval_escalated,
    domain.WorkspaceRestored: _workspace_restored,
}


class ProtobufEvents:
    """The contracts' form of events."""

    def encode(self, event: domain.NewEvent) -> bytes:
        """The serialized event, complete with its place, time and origin."""
        message = self._message(event.body)
        message.sequence = event.sequence
        message.conversation_id = event.conversation_id
        message.run_id = event.run_id
        message.turn = event.turn
        message.origin = event_pb2.EventOrigin.ValueType(event.origin)
        time = timestamp(event.time)
        message.time.CopyFrom(time)
        if message.WhichOneof("kind") == "message":
            message.message.timestamp.CopyFrom(time)
        return message.SerializeToString()

    def belonging_to(self, data: bytes, conversation_id: str) -> bytes:
        """The same event as one of another conversation: of a field that comes twice the last
        counts, so that nothing needs to be read."""
        return data + _Event(conversation_id=conversation_id).SerializeToString()

    def words(self, data: bytes) -> str:
        """What was said, if the event is a message; the task, if it says that one began."""
        event = _Event.FromString(data)
        return event.message.content or event.conversation_started.task

    def _message(self, body: domain.EventBody) -> event_pb2.Event:
        if isinstance(body, domain.WorkerEvent):
            assert isinstance(body.payload, event_pb2.Event)  # noqa: S101 - see worker_event
            return body.payload
        return _Event(**_KINDS[type(body)](body))


def worker_event(
    event: event_pb2.Event, blobs: tuple[tuple[str, int], ...] = ()
) -> domain.WorkerEvent:
    """An event that a worker recorded, and the (digest, size) of the blobs it refers to. A kind
    this version does not know is kept as it is."""
    kind = event.WhichOneof("kind") or ""
    message = event.message if kind == "message" else None
    return domain.WorkerEvent(
        kind=kind,
        payload=event,
        agent=event.agent or (message.agent if message else ""),
        message_id=message.message_id if message else "",
        speaks=message is not None
        and message.role == message_pb2.MESSAGE_ROLE_AGENT
        and bool(message.content),
        blobs=blobs,
        said=message.content if message else "",
        stands_for=(event.context_summary.first_sequence, event.context_summary.last_sequence)
        if kind == "context_summary"
        else None,
        approval=asked_approval(event.approval_requested) if kind == "approval_requested" else None,
    )
