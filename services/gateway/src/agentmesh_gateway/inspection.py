"""What operators want to know of a conversation, without its contents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentmesh.conversation.v1.conversation_pb2 import Conversation, Run
from google.protobuf.struct_pb2 import Struct

from agentmesh_gateway.transcript import read_events

if TYPE_CHECKING:
    # Only the stubs' type information has these names.
    from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
        ConversationStoreServiceAsyncStub,
    )

_KINDS = ("run_started", "run_ended", "turn_committed", "turn_discarded", "attempt_failed")


async def runs_of(
    store: ConversationStoreServiceAsyncStub, conversation: Conversation
) -> list[Run]:
    """All runs that the log still knows, oldest first; the newest root run as the store has it."""
    runs: dict[str, Run] = {}
    async for event in read_events(store, conversation.conversation_id, _KINDS):
        run = runs.setdefault(event.run_id, Run(run_id=event.run_id))
        match event.WhichOneof("kind"):
            case "run_started":
                run.conversation_id = conversation.conversation_id
                run.root_run_id = event.run_started.root_run_id
                run.parent_run_id = event.run_started.parent_run_id
                run.max_rounds = event.run_started.max_rounds
                run.traceparent = event.run_started.traceparent
                run.started_at.CopyFrom(event.time)
            case "run_ended":
                run.status = event.run_ended.status
                run.end_reason = event.run_ended.reason
                run.detail = event.run_ended.detail
                run.usage.CopyFrom(event.run_ended.usage)
                run.ended_at.CopyFrom(event.time)
            case "turn_committed":
                run.turn = event.turn
                run.rounds += 1
            case "turn_discarded":
                run.turn = event.turn
            case "attempt_failed":
                run.attempt = event.attempt_failed.attempt
    newest = conversation.run
    if newest.run_id:
        runs[newest.run_id] = Run()
        runs[newest.run_id].CopyFrom(newest)
        runs[newest.run_id].summary = ""
    return list(runs.values())


def debug_detail(conversation: Conversation) -> Struct:
    """Figures that no field of the contract has."""
    detail = Struct()
    detail.update(
        {
            "events": conversation.head_sequence - max(conversation.oldest_sequence, 1) + 1,
            "event_bytes": conversation.size_bytes,
            "task_bytes": len(conversation.task.encode()),
            "summary_bytes": len(conversation.summary.encode()),
        }
    )
    return detail
