"""The store as the log of a turn's steps, and as the place where turns end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from google.protobuf.duration_pb2 import Duration

from agentmesh_agent_runtime.adapters.calls import capability_metadata, insist
from agentmesh_agent_runtime.adapters.children import child_runs
from agentmesh_agent_runtime.adapters.grants import (
    end_reason_to_proto,
    saved_checkpoint,
    step_events,
    usage_to_proto,
)
from agentmesh_agent_runtime.adapters.people import request_events
from agentmesh_agent_runtime.turns.driver import TurnResult
from agentmesh_agent_runtime.turns.failures import ReplayDiverged, Suspended, TurnFailure
from agentmesh_agent_runtime.turns.grant import (
    Grant,
    KnownStep,
    SavedCheckpoint,
    StepKind,
    TurnId,
)
from agentmesh_agent_runtime.turns.ports import StepClaim, StepResult

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.conversation_store.v1.turn_service_pb2_grpc import TurnServiceAsyncStub

_KINDS = {
    StepKind.MODEL: turns_pb2.STEP_KIND_MODEL,
    StepKind.TOOL: turns_pb2.STEP_KIND_TOOL,
    StepKind.OTHER: turns_pb2.STEP_KIND_OTHER,
}


@dataclass
class Head:
    """The newest event that a lease's holder knows of; deltas come after it."""

    sequence: int


class StoreStepLog:
    """StepLog over TurnService, for one lease. Steps that came with the grant need no call."""

    def __init__(self, stub: TurnServiceAsyncStub, grant: Grant, head: Head) -> None:
        self._stub = stub
        self._id = grant.id
        self._metadata = capability_metadata(grant.capability)
        self._known = {step.step_key: step for step in grant.steps}
        self._head = head

    async def begin(self, claim: StepClaim) -> bytes | None:
        """See StepLog."""
        known = self._known.get(claim.step_key)
        if known is not None and known.result is not None:
            return _replayed(known, claim)
        step = await self._claim(claim, take_over=known is not None)
        if step.state == turns_pb2.STEP_STATE_ORPHANED:
            step = await self._claim(claim, take_over=True)
        return step.result if step.state == turns_pb2.STEP_STATE_RECORDED else None

    async def record(self, result: StepResult) -> None:
        """See StepLog."""
        request = turns_pb2.RecordStepRequest(
            run_id=self._id.run_id,
            turn=self._id.turn,
            step_key=result.step_key,
            request_digest=result.request_digest,
            result=result.result,
            encoding=result.encoding,
            events=step_events(result),
            usage=usage_to_proto(result.usage),
            model=result.model,
        )
        response = await insist(lambda: self._stub.RecordStep(request, metadata=self._metadata))
        self._head.sequence = max(self._head.sequence, response.last_sequence)

    async def _claim(self, claim: StepClaim, *, take_over: bool) -> turns_pb2.StepRecord:
        request = turns_pb2.BeginStepRequest(
            run_id=self._id.run_id,
            turn=self._id.turn,
            step_key=claim.step_key,
            kind=_KINDS[claim.kind],
            request_digest=claim.request_digest,
            attempt_id=claim.attempt_id,
            take_over=take_over,
            reservation=usage_to_proto(claim.reservation),
        )
        response = await insist(lambda: self._stub.BeginStep(request, metadata=self._metadata))
        return response.step


class StoreCheckpoints:
    """CheckpointReader over TurnService, for one lease."""

    def __init__(self, stub: TurnServiceAsyncStub, grant: Grant) -> None:
        self._stub = stub
        self._run_id = grant.id.run_id
        self._metadata = capability_metadata(grant.capability)

    async def read(self, checkpoint_id: str) -> Sequence[SavedCheckpoint]:
        """See CheckpointReader."""
        return await insist(lambda: self._read(checkpoint_id))

    async def _read(self, checkpoint_id: str) -> Sequence[SavedCheckpoint]:
        request = turns_pb2.ReadCheckpointsRequest(run_id=self._run_id, checkpoint_id=checkpoint_id)
        found: list[turns_pb2.Checkpoint] = []
        data: list[list[bytes]] = []
        async for response in self._stub.ReadCheckpoints(request, metadata=self._metadata):
            for piece in response.pieces:
                if not found or found[-1].checkpoint_id != piece.checkpoint_id:
                    found.append(piece)
                    data.append([])
                data[-1].append(piece.data)
        return [
            replace(saved_checkpoint(checkpoint), data=b"".join(pieces))
            for checkpoint, pieces in zip(found, data, strict=True)
        ]


class StoreTurns:
    """How turns end."""

    def __init__(self, stub: TurnServiceAsyncStub) -> None:
        self._stub = stub

    async def commit(
        self, grant: Grant, result: TurnResult, *, want_next: bool
    ) -> turns_pb2.CommitTurnResponse:
        """Ends a turn that was taken. Raises LeaseLost, ServiceUnreachable, TurnCrashed."""
        request = turns_pb2.CommitTurnRequest(
            run_id=grant.id.run_id,
            turn=grant.id.turn,
            checkpoint=turns_pb2.Checkpoint(
                data=result.checkpoint.data,
                encoding=result.checkpoint.encoding,
                base_checkpoint_id=result.checkpoint.base_checkpoint_id,
            ),
            status=conversation_pb2.RUN_STATUS_RUNNABLE,
            detail=result.detail,
            last_input_sequence=result.last_input_sequence,
            speaker=result.speaker,
            want_next=want_next,
        )
        if result.waits_for_input:
            request.status = conversation_pb2.RUN_STATUS_WAITING
            request.waiting_for = conversation_pb2.WAIT_KIND_INPUT
        elif result.end_reason is not None:
            request.status = conversation_pb2.RUN_STATUS_COMPLETED
            request.end_reason = end_reason_to_proto(result.end_reason)
            request.summary = result.summary
        return await self._commit(grant.capability, request)

    async def fail(self, turn: TurnId, capability: str, failure: TurnFailure) -> None:
        """Ends the run. What the turn said does not count; its checkpoint stays the one before."""
        await self._commit(
            capability,
            turns_pb2.CommitTurnRequest(
                run_id=turn.run_id,
                turn=turn.turn,
                status=conversation_pb2.RUN_STATUS_FAILED,
                end_reason=end_reason_to_proto(failure.reason),
                detail=failure.detail,
                discard=True,
            ),
        )

    async def suspend(self, turn: TurnId, capability: str, suspended: Suspended) -> None:
        """Gives the turn back until people have decided, or runs that it starts have ended. Raises
        as `commit` does."""
        request = turns_pb2.SuspendTurnRequest(
            run_id=turn.run_id,
            turn=turn.turn,
            waiting_for=conversation_pb2.WAIT_KIND_CHILDREN
            if suspended.awaits_runs
            else conversation_pb2.WAIT_KIND_APPROVAL,
            events=request_events(suspended.needed),
            children=child_runs(suspended.runs),
        )
        metadata = capability_metadata(capability)
        await insist(lambda: self._stub.SuspendTurn(request, metadata=metadata))

    async def release(
        self, turn: TurnId, capability: str, failure: TurnFailure | None = None
    ) -> None:
        """Gives the lease back: to others at once, or as a failed attempt."""
        request = turns_pb2.ReleaseTurnRequest(run_id=turn.run_id, turn=turn.turn)
        if failure is not None:
            request.failed = failure.counts
            request.detail = failure.detail
            request.reason = end_reason_to_proto(failure.reason)
            if failure.retry_after is not None:
                wait = Duration()
                wait.FromNanoseconds(round(failure.retry_after * 1e9))
                request.retry_after.CopyFrom(wait)
        metadata = capability_metadata(capability)
        await insist(lambda: self._stub.ReleaseTurn(request, metadata=metadata))

    async def _commit(
        self, capability: str, request: turns_pb2.CommitTurnRequest
    ) -> turns_pb2.CommitTurnResponse:
        metadata = capability_metadata(capability)
        return await insist(lambda: self._stub.CommitTurn(request, metadata=metadata))


def _replayed(known: KnownStep, claim: StepClaim) -> bytes | None:
    if known.request_digest != claim.request_digest:
        raise ReplayDiverged(
            f"step {claim.step_key} asks for something else than its record of an earlier attempt"
        )
    return known.result
