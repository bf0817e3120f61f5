"""TurnService."""

# ruff: noqa: N802 - methods are named as in the contracts

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from agentmesh.conversation.v1 import conversation_pb2, stream_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as pb
from agentmesh.conversation_store.v1 import turn_service_pb2_grpc as pb_grpc
from meshkit.admission import ServicerContext
from meshkit.context import RunCapability, current_capability, current_principal
from meshkit.errors import MeshError
from meshkit.identity import InternalIdentity
from meshkit.ids import new_id

from agentmesh_conversation_store.codec import values
from agentmesh_conversation_store.codec.digests import short_digest, short_digest_of
from agentmesh_conversation_store.codec.grants import grant_message
from agentmesh_conversation_store.codec.resources import step_message
from agentmesh_conversation_store.codec.waiting import (
    child_runs,
    require_a_wait_that_ends,
    suspended_for,
)
from agentmesh_conversation_store.codec.workspaces import workspace_change, workspace_message
from agentmesh_conversation_store.domain import attempts, steps, suspending, turns
from agentmesh_conversation_store.domain.events import WorkerEvent
from agentmesh_conversation_store.domain.model import (
    Checkpoint,
    EndReason,
    Origin,
    RunStatus,
    StepKind,
    WaitKind,
)
from agentmesh_conversation_store.domain.usage import NO_USAGE
from agentmesh_conversation_store.fanout.interface import DeltasMade, Fanout, LiveDelta
from agentmesh_conversation_store.leasing.dispatcher import Dispatcher
from agentmesh_conversation_store.leasing.fence_watch import FenceWatch
from agentmesh_conversation_store.storage.interface import Storage

from .checkpoints import read_checkpoints
from .kept_files import KeptFiles
from .lease_stream import LeaseStream
from .payloads import Payloads
from .rejections import answers_rejections, streams_rejections

FULL_NAME = "agentmesh.conversation_store.v1.TurnService"
_TOOL_RUNNER = "tool_runner"


class TurnServicer(pb_grpc.TurnServiceServicer):
    """Leases, steps and commits, judged by the caller's run capability."""

    def __init__(
        self,
        storage: Storage,
        dispatcher: Dispatcher,
        fences: FenceWatch,
        fanout: Fanout,
        identity: InternalIdentity,
        retries: attempts.Retries,
        draining: asyncio.Event,
        most_grant_bytes: int,
        payloads: Payloads,
        kept_files: KeptFiles,
    ) -> None:
        self._storage = storage
        self._dispatcher = dispatcher
        self._fences = fences
        self._fanout = fanout
        self._identity = identity
        self._retries = retries
        self._draining = draining
        self._most_grant_bytes = most_grant_bytes
        self._payloads = payloads
        self._kept_files = kept_files

    @streams_rejections
    async def LeaseTurns(
        self,
        requests: AsyncIterator[pb.LeaseTurnsRequest],
        _: ServicerContext,
    ) -> AsyncIterator[pb.LeaseTurnsResponse]:
        stream = LeaseStream(self._dispatcher, self._draining, self._most_grant_bytes)
        async for response in stream.responses(requests):
            yield response

    @answers_rejections
    async def BeginStep(
        self, request: pb.BeginStepRequest, _: ServicerContext
    ) -> pb.BeginStepResponse:
        capability = _capability_for(request.run_id)
        claim = await self._storage.execute(
            steps.BeginStep(
                capability.tenant,
                capability.conversation_id,
                capability.run_id,
                capability.fence,
                request.turn,
                request.step_key,
                StepKind(request.kind),
                request.request_digest,
                request.attempt_id,
                take_over=request.take_over,
                reservation=values.usage(request.reservation)
                if request.HasField("reservation")
                else NO_USAGE,
                origin=_origin(),
                runner_address=request.runner_address,
            )
        )
        return pb.BeginStepResponse(
            step=step_message(claim.step, claim.state),
            remaining_tokens=claim.remaining_tokens,
            workspace=workspace_message(claim.workspace) if claim.workspace.generation else None,
        )

    @answers_rejections
    async def RecordStep(
        self, request: pb.RecordStepRequest, _: ServicerContext
    ) -> pb.RecordStepResponse:
        capability = _capability_for(request.run_id)
        events = await self._payloads.worker_events(capability.tenant, request.events)
        changed = lacking = None
        if request.HasField("workspace"):
            lacking = await self._kept_files.lacking(capability, "workspace", request.workspace)
            changed = workspace_change(request.workspace)
        recorded = await self._storage.execute(
            steps.RecordStep(
                capability.tenant,
                capability.conversation_id,
                capability.run_id,
                capability.fence,
                request.turn,
                request.step_key,
                request.request_digest,
                result=request.result,
                encoding=request.encoding,
                key_id=request.key_id,
                record={
                    "result": short_digest(request.result),
                    "encoding": request.encoding,
                    "key_id": request.key_id,
                    "events": short_digest_of(request.events),
                    "usage": short_digest_of([request.usage]),
                    **({"model": request.model} if request.model else {}),
                    **({"workspace": changed.manifest.digest} if changed else {}),
                },
                origin=_origin(),
                events=events,
                usage=values.usage(request.usage),
                model=request.model,
                workspace=changed,
                lacking=lacking,
            )
        )
        return pb.RecordStepResponse(
            first_sequence=recorded.first_sequence,
            last_sequence=recorded.last_sequence,
            workspace_generation=recorded.workspace_generation,
        )

    @answers_rejections
    async def CommitTurn(
        self, request: pb.CommitTurnRequest, _: ServicerContext
    ) -> pb.CommitTurnResponse:
        capability = _capability_for(request.run_id)
        events = await self._payloads.worker_events(capability.tenant, request.events)
        outcome = await self._storage.execute(self._commit(request, capability, events))
        response = pb.CommitTurnResponse(
            status=conversation_pb2.RunStatus.ValueType(outcome.status),
            last_sequence=outcome.last_sequence,
            checkpoint_id=outcome.checkpoint_id,
            child_run_ids=outcome.child_run_ids,
        )
        if outcome.next is not None:
            # Who committed a checkpoint just now has it at hand.
            fresh = request.HasField("checkpoint") and not request.discard
            granted = await self._dispatcher.granted_turn(outcome.next, with_chain=not fresh)
            if granted is not None:
                grant = grant_message(granted.turn, granted.capability, self._most_grant_bytes)
                response.next.CopyFrom(grant)
        return response

    def _commit(
        self,
        request: pb.CommitTurnRequest,
        capability: RunCapability,
        events: Sequence[WorkerEvent],
    ) -> turns.CommitTurn:
        require_a_wait_that_ends(request)
        return turns.CommitTurn(
            capability.tenant,
            capability.conversation_id,
            capability.run_id,
            capability.fence,
            request.turn,
            content=_content(request),
            status=RunStatus(request.status),
            origin=_origin(),
            checkpoint=_checkpoint(request),
            waiting_for=WaitKind(request.waiting_for),
            end_reason=EndReason(request.end_reason),
            detail=request.detail,
            last_input_sequence=request.last_input_sequence,
            events=events,
            speaker=request.speaker,
            summary=request.summary,
            discard=request.discard,
            discarded_message_ids=tuple(request.discarded_message_ids),
            wake_at=values.instant(request.wake_at) if request.HasField("wake_at") else None,
            next_turn=self._dispatcher.next_turn(capability.run_id, capability.fence)
            if request.want_next
            else None,
            successor_run_id=new_id("run"),
            children=child_runs(request),
        )

    @answers_rejections
    async def SuspendTurn(
        self, request: pb.SuspendTurnRequest, _: ServicerContext
    ) -> pb.SuspendTurnResponse:
        capability = _capability_for(request.run_id)
        children = suspended_for(request)
        events = await self._payloads.worker_events(capability.tenant, request.events)
        suspended = await self._storage.execute(
            suspending.SuspendTurn(
                capability.tenant,
                capability.conversation_id,
                capability.run_id,
                capability.fence,
                request.turn,
                digest=short_digest_of([request]),
                waiting_for=WaitKind(request.waiting_for),
                detail=request.detail,
                origin=_origin(),
                events=events,
                children=children,
            )
        )
        return pb.SuspendTurnResponse(
            status=conversation_pb2.RunStatus.ValueType(suspended.status),
            last_sequence=suspended.last_sequence,
            child_run_ids=suspended.child_run_ids,
        )

    @answers_rejections
    async def ReleaseTurn(
        self, request: pb.ReleaseTurnRequest, _: ServicerContext
    ) -> pb.ReleaseTurnResponse:
        capability = _capability_for(request.run_id)
        status = await self._storage.execute(
            attempts.ReleaseTurn(
                capability.tenant,
                capability.conversation_id,
                capability.run_id,
                capability.fence,
                request.turn,
                failed=request.failed,
                detail=request.detail,
                reason=EndReason(request.reason),
                retry_after=max(0, values.micros(request.retry_after)),
                retries=self._retries,
                origin=_origin(),
            )
        )
        return pb.ReleaseTurnResponse(status=conversation_pb2.RunStatus.ValueType(status))

    @streams_rejections
    async def ReadCheckpoints(
        self, request: pb.ReadCheckpointsRequest, _: ServicerContext
    ) -> AsyncIterator[pb.ReadCheckpointsResponse]:
        capability = _capability_for(request.run_id)
        most_bytes = self._most_grant_bytes // 8
        async for response in read_checkpoints(
            self._storage, capability, request.checkpoint_id, most_bytes
        ):
            yield response

    @answers_rejections
    async def PublishDeltas(
        self,
        requests: AsyncIterator[pb.PublishDeltasRequest],
        _: ServicerContext,
    ) -> pb.PublishDeltasResponse:
        async for request in requests:
            if request.deltas:
                capability = self._identity.verify_capability(request.capability)
                self._fanout.publish(
                    DeltasMade(
                        capability.tenant,
                        capability.conversation_id,
                        [_live_delta(delta, capability) for delta in request.deltas],
                    )
                )
        return pb.PublishDeltasResponse()

    @streams_rejections
    async def WatchFences(
        self, _request: pb.WatchFencesRequest, _: ServicerContext
    ) -> AsyncIterator[pb.WatchFencesResponse]:
        async for fences in self._fences.watch():
            yield pb.WatchFencesResponse(
                raised=[
                    pb.RaisedFence(
                        run_id=raised.run_id,
                        current_fence=raised.fence,
                        tenant=raised.tenant,
                        conversation_id=raised.conversation_id,
                        reason=raised.reason,
                        rests=raised.rests,
                    )
                    for raised in fences
                ]
            )


def _capability_for(run_id: str) -> RunCapability:
    capability = current_capability()
    if capability.run_id != run_id:
        raise MeshError.capability_required(f"the run capability is not for {run_id}")
    return capability


def _origin() -> Origin:
    """Which service writes: meshkit names it after its internal token."""
    return Origin.TOOL_RUNNER if _TOOL_RUNNER in current_principal().service else Origin.RUNTIME


def _checkpoint(request: pb.CommitTurnRequest) -> Checkpoint | None:
    if not request.HasField("checkpoint") or request.discard:
        return None
    message = request.checkpoint
    return Checkpoint(
        new_id("ckpt"),
        request.run_id,
        request.turn,
        message.data,
        message.encoding,
        message.key_id,
        message.base_checkpoint_id,
    )


def _content(request: pb.CommitTurnRequest) -> dict[str, str]:
    """A digest of each field that says what was committed."""
    wake_at = values.instant(request.wake_at) if request.HasField("wake_at") else 0
    return {
        "checkpoint": short_digest_of([request.checkpoint]),
        "status": str(request.status),
        "waiting_for": str(request.waiting_for),
        "end_reason": str(request.end_reason),
        "detail": short_digest(request.detail),
        "last_input_sequence": str(request.last_input_sequence),
        "events": short_digest_of(request.events),
        "speaker": request.speaker,
        "summary": short_digest(request.summary),
        "discard": str(request.discard),
        "discarded_message_ids": short_digest(*request.discarded_message_ids),
        "wake_at": str(wake_at),
        **({"children": short_digest_of(request.children)} if request.children else {}),
    }


def _live_delta(delta: stream_pb2.Delta, capability: RunCapability) -> LiveDelta:
    """What a delta says of its run and fence counts for nothing: the capability does."""
    return LiveDelta(
        run_id=capability.run_id,
        turn=delta.turn,
        message_id=delta.message_id,
        agent=delta.agent,
        kind=delta.kind,
        text=delta.text,
        fence=capability.fence,
        first_index=delta.first_index,
        last_index=delta.last_index,
        after_sequence=delta.after_sequence,
        tool=delta.tool,
    )
