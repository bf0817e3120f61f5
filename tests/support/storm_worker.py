"""A runtime in a storm: it takes turns at one replica until that dies, then at another."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import grpc
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2, stream_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn_pb
from meshkit.channels import call_metadata

if TYPE_CHECKING:
    from tests.support.store_storm import StoreStorm

TURNS_AT_ONCE = 8
RENEW_SECONDS = 0.5
STEP_KEY = "writer/1"
_DONE = conversation_pb2.RUN_STATUS_COMPLETED
_MORE = conversation_pb2.RUN_STATUS_RUNNABLE


class StormWorker:
    """Says hello, renews, works off its grants, and connects again when the stream breaks."""

    def __init__(self, storm: StoreStorm, name: str) -> None:
        self._storm = storm
        self._name = name
        self._held: dict[str, int] = {}
        self._turns: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        """Until it is cancelled."""
        while True:
            with suppress(grpc.aio.AioRpcError):
                await self._lease()
            await asyncio.sleep(self._storm.chance.uniform(0.02, 0.2))

    async def _lease(self) -> None:
        call = self._storm.turns().LeaseTurns(self._requests())
        try:
            async for response in call:
                if response.WhichOneof("kind") == "grant":
                    grant = response.grant
                    self._held[grant.run.run_id] = grant.fence
                    turn = asyncio.create_task(self._take(grant))
                    self._turns.add(turn)
                    turn.add_done_callback(self._turns.discard)
                elif response.WhichOneof("kind") == "revoked":
                    self._held.pop(response.revoked.run_id, None)
        finally:
            call.cancel()

    async def _requests(self) -> AsyncIterator[turn_pb.LeaseTurnsRequest]:
        hello = turn_pb.LeaseHello(worker_id=self._name, max_turns=TURNS_AT_ONCE)
        hello.held.extend(self._fences())
        yield turn_pb.LeaseTurnsRequest(hello=hello)
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            renewal = turn_pb.LeaseRenewal(held=self._fences())
            yield turn_pb.LeaseTurnsRequest(renewal=renewal)

    def _fences(self) -> list[turn_pb.RunFence]:
        return [turn_pb.RunFence(run_id=r, fence=f) for r, f in self._held.items()]

    async def _take(self, grant: turn_pb.TurnGrant) -> None:
        """One turn; what another runtime recorded of it already is not done again."""
        run_id = grant.run.run_id
        try:
            if not any(step.state == turn_pb.STEP_STATE_RECORDED for step in grant.steps):
                await self._step(grant)
            await self._commit(grant)
            self._storm.tally.turns += 1
        except grpc.aio.AioRpcError as error:
            # Another has the run by now, or it ended.
            if error.code() not in {
                grpc.StatusCode.ABORTED,
                grpc.StatusCode.FAILED_PRECONDITION,
            }:
                raise
        finally:
            if self._held.get(run_id) == grant.fence:
                del self._held[run_id]

    async def _step(self, grant: turn_pb.TurnGrant) -> None:
        run_id = grant.run.run_id
        digest = hashlib.sha256(f"{run_id} {grant.turn}".encode()).digest()
        common: dict[str, Any] = {
            "run_id": run_id,
            "turn": grant.turn,
            "step_key": STEP_KEY,
            "request_digest": digest,
        }
        begin = turn_pb.BeginStepRequest(
            kind=turn_pb.STEP_KIND_MODEL,
            attempt_id=f"{self._name} {grant.fence}",
            take_over=True,
            **common,
        )
        begun = await self._storm.insist(lambda: self._storm.turns().BeginStep(begin, **_as(grant)))
        if begun.step.state == turn_pb.STEP_STATE_RECORDED:
            return
        message_id = f"msg_{run_id}_{grant.turn}"
        await self._preview(grant, message_id)
        text = f"turn {grant.turn} of {run_id}"
        message = message_pb2.Message(
            message_id=message_id, role=message_pb2.MESSAGE_ROLE_AGENT, agent="writer", content=text
        )
        record = turn_pb.RecordStepRequest(
            result=text.encode(),
            events=[event_pb2.Event(agent="writer", message=message)],
            **common,
        )
        await self._storm.insist(lambda: self._storm.turns().RecordStep(record, **_as(grant)))

    async def _preview(self, grant: turn_pb.TurnGrant, message_id: str) -> None:
        """Live text: lost with whoever dies, and never in the log."""

        async def deltas() -> AsyncIterator[turn_pb.PublishDeltasRequest]:
            for index in range(3):
                delta = stream_pb2.Delta(
                    message_id=message_id,
                    turn=grant.turn,
                    agent="writer",
                    kind=stream_pb2.DELTA_KIND_TEXT,
                    text=f"piece {index} ",
                    first_index=index,
                    last_index=index,
                    after_sequence=grant.head_sequence,
                )
                yield turn_pb.PublishDeltasRequest(deltas=[delta], capability=grant.capability)

        with suppress(grpc.aio.AioRpcError):
            await self._storm.turns().PublishDeltas(deltas(), timeout=2.0)

    async def _commit(self, grant: turn_pb.TurnGrant) -> None:
        commit = turn_pb.CommitTurnRequest(
            run_id=grant.run.run_id,
            turn=grant.turn,
            # Some runs take several turns: those are taken up by others when this one dies.
            status=_DONE if grant.turn % 3 == 0 else _MORE,
            checkpoint=turn_pb.Checkpoint(data=b"state", encoding="test"),
            last_input_sequence=max((e.sequence for e in grant.inputs), default=0),
            speaker="writer",
        )
        await self._storm.insist(lambda: self._storm.turns().CommitTurn(commit, **_as(grant)))


def _as(grant: turn_pb.TurnGrant) -> dict[str, Any]:
    return {"metadata": call_metadata(capability=grant.capability), "timeout": 10.0}
