"""A store that keeps steps in memory, behind a real gRPC server: what tool_runner needs of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation.v1 import stream_pb2
from agentmesh.conversation_store.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    turn_service_pb2,
    turn_service_pb2_grpc,
)
from meshkit.context import current_capability
from meshkit.errors import MeshError

from .memory_files import MemoryFiles


def _open_gate() -> asyncio.Event:
    gate = asyncio.Event()
    gate.set()
    return gate


@dataclass
class Step:
    """A claimed or recorded step."""

    fence: int
    attempt: str
    digest: bytes
    result: bytes | None = None
    sequence: int = 0


@dataclass
class Hold:
    """A record that the store keeps waiting."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class MemoryStore(
    turn_service_pb2_grpc.TurnServiceServicer, catalog_service_pb2_grpc.CatalogServiceServicer
):
    """Fences, steps, events, deltas and documents."""

    fence: int = 1
    files: MemoryFiles = field(default_factory=MemoryFiles)
    steps: dict[tuple[int, str], Step] = field(default_factory=dict)
    recorded: list[turn_service_pb2.RecordStepRequest] = field(default_factory=list)
    deltas: list[stream_pb2.Delta] = field(default_factory=list)
    documents: list[catalog_service_pb2.Document] = field(default_factory=list)
    raised: asyncio.Queue[turn_service_pb2.RaisedFence] = field(default_factory=asyncio.Queue)
    watched: asyncio.Event = field(default_factory=asyncio.Event)
    down_for_records: int = 0
    lost_claim_answers: int = 0
    claims: int = 0
    """How many have arrived."""
    addresses: list[str] = field(default_factory=list)
    """Of the runners that claimed."""
    holds: dict[str, Hold] = field(default_factory=dict)
    before_claims: asyncio.Event = field(default_factory=_open_gate)
    after_claims: asyncio.Event = field(default_factory=_open_gate)

    def raise_fence(self, run_id: str, tenant: str) -> None:
        """As a cancel does."""
        self.fence += 1
        self.raised.put_nowait(
            turn_service_pb2.RaisedFence(run_id=run_id, current_fence=self.fence, tenant=tenant)
        )

    def hold_record(self, step_key: str) -> Hold:
        """Keeps the first record of a step waiting."""
        hold = self.holds[step_key] = Hold()
        return hold

    def _check_fence(self) -> int:
        capability = current_capability()
        if capability.fence < self.fence:
            raise MeshError.stale_fence(capability.run_id, capability.fence, self.fence)
        return capability.fence

    async def BeginStep(  # noqa: N802 - as the contract names it
        self, request: turn_service_pb2.BeginStepRequest, context: Any
    ) -> turn_service_pb2.BeginStepResponse:
        self.claims += 1
        self.addresses.append(request.runner_address)
        await self.before_claims.wait()
        answer = self._begin(request, self._check_fence())
        files = self.files.of(current_capability().conversation_id)
        await self.after_claims.wait()
        if self.lost_claim_answers:
            self.lost_claim_answers -= 1
            raise MeshError.unavailable("conversation_store", "its connection broke")
        return turn_service_pb2.BeginStepResponse(step=answer, workspace=files.now)

    def _begin(
        self, request: turn_service_pb2.BeginStepRequest, fence: int
    ) -> turn_service_pb2.StepRecord:
        key = (request.turn, request.step_key)
        step = self.steps.get(key)
        if step is not None and step.digest != request.request_digest:
            reason = errors_pb2.ERROR_REASON_REPLAY_DIVERGED
            raise MeshError.precondition(reason, "another request")
        answer = turn_service_pb2.StepRecord(step_key=request.step_key)
        if step is not None and step.result is not None:
            answer.state = turn_service_pb2.STEP_STATE_RECORDED
            answer.result = step.result
        elif step is None or request.take_over:
            self.steps[key] = Step(fence, request.attempt_id, request.request_digest)
            answer.state = turn_service_pb2.STEP_STATE_CLAIMED
        elif (step.fence, step.attempt) == (fence, request.attempt_id):
            answer.state = turn_service_pb2.STEP_STATE_CLAIMED
        else:
            answer.state = turn_service_pb2.STEP_STATE_ORPHANED
        return answer

    async def RecordStep(  # noqa: N802 - as the contract names it
        self, request: turn_service_pb2.RecordStepRequest, context: Any
    ) -> turn_service_pb2.RecordStepResponse:
        self._check_fence()
        if hold := self.holds.pop(request.step_key, None):
            hold.reached.set()
            await hold.go_on.wait()
        if self.down_for_records:
            self.down_for_records -= 1
            raise MeshError.unavailable("conversation_store", "its database is away")
        step = self.steps[request.turn, request.step_key]
        if step.result is not None and step.result != request.result:
            reason = errors_pb2.ERROR_REASON_STEP_CONFLICT
            raise MeshError.already_exists("step", request.step_key, reason)
        generation = 0
        if step.result is None:
            if request.HasField("workspace"):
                name = current_capability().conversation_id
                generation = self.files.move(name, request.workspace).generation
            self.recorded.append(request)
            step.result, step.sequence = request.result, len(self.recorded)
        return turn_service_pb2.RecordStepResponse(
            first_sequence=step.sequence,
            last_sequence=len(self.recorded),
            workspace_generation=generation,
        )

    async def PublishDeltas(  # noqa: N802 - as the contract names it
        self, request_iterator: Any, context: Any
    ) -> turn_service_pb2.PublishDeltasResponse:
        async for request in request_iterator:
            self.deltas.extend(request.deltas)
        return turn_service_pb2.PublishDeltasResponse()

    async def WatchFences(  # noqa: N802 - as the contract names it
        self, request: turn_service_pb2.WatchFencesRequest, context: Any
    ) -> AsyncIterator[turn_service_pb2.WatchFencesResponse]:
        self.watched.set()
        while True:
            yield turn_service_pb2.WatchFencesResponse(raised=[await self.raised.get()])

    async def PublishDocuments(  # noqa: N802 - as the contract names it
        self, request: catalog_service_pb2.PublishDocumentsRequest, context: Any
    ) -> catalog_service_pb2.PublishDocumentsResponse:
        self.documents = list(request.documents)
        return catalog_service_pb2.PublishDocumentsResponse(documents=self.documents)
