"""An exported conversation as one that lies here now."""

from __future__ import annotations

from agentmesh.conversation.v1 import conversation_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from agentmesh_conversation_store.domain import runs
from agentmesh_conversation_store.domain.model import (
    Conversation,
    ConversationFacts,
    ConversationView,
    EndReason,
    Instant,
    Run,
    RunStatus,
)

from . import values

_LAST_INSTANT = 253_402_300_799_999_999  # the end of the year 9999
_ENDED = {int(status) for status in RunStatus if status.ended}
_REASONS = {int(reason) for reason in EndReason}


def arrived_run(
    told: conversation_pb2.Conversation, run: Run, inbox: tuple[int, int], *, human_input: bool
) -> Run:
    """The newest root run of an export, ended. `run` has what does not come from there."""
    message = told.run
    ended = int(message.status) in _ENDED
    status = RunStatus(message.status) if ended else RunStatus.CANCELLED
    reason = message.end_reason if message.end_reason in _REASONS else EndReason.INTERNAL
    return Run(
        tenant=run.tenant,
        run_id=run.run_id,
        conversation_id=run.conversation_id,
        root_run_id=run.run_id,
        definition_digest=run.definition_digest,
        checkpoint_id=run.checkpoint_id,
        started_at=_instant(message.started_at),
        ended_at=_instant(message.ended_at) if ended else run.started_at,
        status=status,
        end_reason=EndReason(reason) if ended else EndReason.CANCELLED,
        detail=message.detail if ended else "it was under way when it was exported",
        turn=max(0, message.turn),
        rounds=max(0, message.rounds),
        max_rounds=max(1, message.max_rounds),
        timeout=max(0, values.micros(message.timeout)) if message.HasField("timeout") else None,
        usage=values.usage(message.usage),
        budget=values.budget(message.budget),
        traceparent=message.traceparent,
        summary=message.summary,
        priority=message.priority,
        human_input=human_input,
        inbox_head=inbox[0],
        inbox_read=inbox[1],
    )


def arrived_view(
    told: conversation_pb2.Conversation,
    run: Run,
    *,
    now: Instant,
    size_bytes: int,
    message_count: int,
) -> ConversationView:
    """What is shown of it. It counts as having been touched now: retention begins anew."""
    conversation = Conversation(
        tenant=run.tenant,
        conversation_id=run.conversation_id,
        started_at=_instant(told.started_at),
        root_run_id=run.run_id,
        status=runs.shown_status(run),
        completed_at=run.ended_at,
        summary=told.summary,
        head_sequence=told.head_sequence,
        oldest_sequence=max(1, told.oldest_sequence),
        usage=values.usage(told.usage),
        size_bytes=size_bytes,
        message_count=message_count,
        version=1,
        last_event_at=now,
    )
    facts = ConversationFacts(
        task=told.task,
        agents=tuple(told.agents),
        workflow=told.workflow,
        labels=dict(told.labels),
        forked_from=told.forked_from_conversation_id,
        forked_at=told.forked_at_sequence,
    )
    return ConversationView(conversation, facts, run)


def _instant(value: Timestamp) -> Instant:
    return min(max(0, values.instant(value)), _LAST_INSTANT)
