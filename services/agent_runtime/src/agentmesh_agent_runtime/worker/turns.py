"""The turns that this replica holds, each a task of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from meshkit import telemetry
from meshkit.identity import RunCapability, capability_scope
from meshkit.tasks import stop
from opentelemetry.trace import Span, Status, StatusCode

from agentmesh_agent_runtime.adapters.grants import grant_to_domain, turn_id
from agentmesh_agent_runtime.adapters.store_turns import StoreTurns
from agentmesh_agent_runtime.turns.driver import TurnDriver, TurnPorts
from agentmesh_agent_runtime.turns.failures import (
    HandedOver,
    LeaseLost,
    Suspended,
    TurnCrashed,
    TurnFailure,
)
from agentmesh_agent_runtime.turns.grant import Grant, TurnId
from agentmesh_agent_runtime.turns.scope import TurnScope
from agentmesh_agent_runtime.turns.teams import LiveTeam
from agentmesh_agent_runtime.worker.figures import TurnFigures

log = logging.getLogger(__name__)

WARM_TEAMS = 128

OpenPorts = Callable[[Grant], TurnPorts]
CompleteInputs = Callable[[turns_pb2.TurnGrant], Awaitable[None]]


class Leases(Protocol):
    """What keeps leases alive."""

    def hold(self, run_id: str, fence: int) -> None:
        """Renews a lease."""
        ...

    def let_go(self, run_id: str, fence: int) -> None:
        """Renews it no longer."""
        ...

    def set_capacity(self, max_turns: int) -> None:
        """Tells the store how many turns are taken at once."""
        ...


@dataclass
class ActiveTurn:
    """A turn at work."""

    id: TurnId
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    scope: TurnScope | None = None
    revoked: str | None = None

    @property
    def activity(self) -> str:
        """What it is doing, for people."""
        return self.scope.activity if self.scope else "being taken up"


class TurnWorker:
    """Takes granted turns until it drains."""

    def __init__(
        self,
        driver: TurnDriver,
        store: StoreTurns,
        leases: Leases,
        open_ports: OpenPorts,
        complete_inputs: CompleteInputs,
        figures: TurnFigures,
        *,
        capacity: int,
    ) -> None:
        self._driver = driver
        self._store = store
        self._leases = leases
        self._open_ports = open_ports
        self._complete_inputs = complete_inputs
        self._figures = figures
        self._capacity = capacity
        self._active: dict[str, ActiveTurn] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._warm: OrderedDict[str, LiveTeam] = OrderedDict()
        self._draining = False

    @property
    def active(self) -> list[ActiveTurn]:
        """Turns held now, oldest first."""
        return sorted(self._active.values(), key=lambda turn: turn.started_at)

    @property
    def draining(self) -> bool:
        """True while no turns are taken."""
        return self._draining

    def take(self, grant: turns_pb2.TurnGrant) -> None:
        """Begins a granted turn."""
        task = asyncio.create_task(self._work(grant))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def revoke(self, run_id: str, current_fence: int, reason: str) -> None:
        """Stops work on a run under a lower fence than `current_fence` at once."""
        turn = self._active.get(run_id)
        if turn is None or turn.id.fence >= current_fence:
            return
        log.info("the lease on %s is gone: %s", run_id, reason)
        turn.revoked = reason or "revoked"
        if reason != "superseded":
            self._warm.pop(run_id, None)
        if turn.scope is not None:
            turn.scope.stop(LeaseLost(turn.revoked))

    def set_draining(self, draining: bool) -> None:
        """Takes no more turns and hands over those held after their present step, or undoes it."""
        self._draining = draining
        self._leases.set_capacity(0 if draining else self._capacity)
        if draining:
            for turn in self._active.values():
                if turn.scope is not None:
                    turn.scope.hand_over()

    async def drain(self, within: float) -> None:
        """Hands everything over; what is not done `within` seconds is stopped and given back."""
        self.set_draining(True)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=within)
        for turn in self._active.values():
            if turn.scope is not None:
                turn.scope.stop(HandedOver())
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=1.0)

    async def close(self) -> None:
        """Stops what is left, without a word to the store."""
        await stop(*self._tasks)

    async def _work(self, granted: turns_pb2.TurnGrant) -> None:
        """Takes this turn, and the next ones of the run that come with each commit."""
        following: turns_pb2.TurnGrant | None = granted
        while following is not None:
            current, following = following, None
            turn = ActiveTurn(turn_id(current))
            # The run may come back under a new lease while its old turn has not noticed yet.
            self.revoke(turn.id.run_id, turn.id.fence, "superseded")
            self._active[turn.id.run_id] = turn
            try:
                following = await self._one(turn, current)
            except LeaseLost as lost:
                log.info("turn %d of %s ends: %s", turn.id.turn, turn.id.run_id, lost)
            except TurnFailure as failure:
                # The store cannot be told; the lease runs out and another worker takes over.
                log.warning("turn %d of %s: %s", turn.id.turn, turn.id.run_id, failure.detail)
            finally:
                if following is not None:
                    self._leases.hold(following.run.run_id, following.fence)
                self._leases.let_go(turn.id.run_id, turn.id.fence)
                if self._active.get(turn.id.run_id) is turn:
                    del self._active[turn.id.run_id]

    async def _one(
        self, turn: ActiveTurn, granted: turns_pb2.TurnGrant
    ) -> turns_pb2.TurnGrant | None:
        with (
            capability_scope(_capability(turn.id, granted.capability)),
            telemetry.start_as_remote_child(
                granted.run.traceparent,
                "agentmesh.turn",
                attributes={
                    "gen_ai.conversation.id": turn.id.conversation_id,
                    "agentmesh.run": turn.id.run_id,
                    "agentmesh.turn": turn.id.turn,
                    "agentmesh.fence": turn.id.fence,
                },
            ) as span,
        ):
            try:
                return await self._take_and_commit(turn, granted, span)
            except HandedOver:
                await self._store.release(turn.id, granted.capability)
            except Suspended as suspended:
                await self._suspend(turn, granted.capability, suspended)
            except TurnFailure as failure:
                # The detail may quote what was said; it is for the run's log, not for traces.
                span.set_status(Status(StatusCode.ERROR, type(failure).__name__))
                await self._give_up(turn, granted.capability, failure)
            except LeaseLost:
                raise
            except Exception as error:
                log.exception("turn %d of %s failed", turn.id.turn, turn.id.run_id)
                crash = TurnCrashed(f"a defect of the runtime: {type(error).__name__}")
                await self._give_up(turn, granted.capability, crash)
        return None

    async def _take_and_commit(
        self, turn: ActiveTurn, granted: turns_pb2.TurnGrant, span: Span
    ) -> turns_pb2.TurnGrant | None:
        await self._complete_inputs(granted)
        grant = grant_to_domain(granted)
        scope = turn.scope = self._driver.open(grant, self._open_ports(grant))
        if turn.revoked is not None:
            raise LeaseLost(turn.revoked)
        if self._draining:
            raise HandedOver
        began = time.monotonic()
        result, team = await self._driver.take(scope, self._warm.pop(grant.id.run_id, None))
        taken = time.monotonic()
        scope.activity = "committing"
        committed = await self._store.commit(grant, result, want_next=not self._draining)
        self._figures.turn_taken(grant, time.monotonic() - began)
        span.set_attribute("agentmesh.speaker", result.speaker)
        log.debug(
            "turn %d of %s: taken in %.1f ms, committed in %.1f ms",
            grant.id.turn,
            grant.id.run_id,
            1000 * (taken - began),
            1000 * (time.monotonic() - taken),
        )
        # Whoever waits for a person may wait for days: its team is built again when it goes on.
        goes_on = result.end_reason is None and not result.waits_for_input
        if goes_on or committed.HasField("next"):
            team.checkpoint_id = committed.checkpoint_id
            self._keep(grant.id.run_id, team)
        return committed.next if committed.HasField("next") else None

    def _keep(self, run_id: str, team: LiveTeam) -> None:
        self._warm[run_id] = team
        while len(self._warm) > WARM_TEAMS:
            self._warm.popitem(last=False)

    async def _suspend(self, turn: ActiveTurn, capability: str, suspended: Suspended) -> None:
        try:
            await self._store.suspend(turn.id, capability, suspended)
        except TurnFailure as failure:
            # Nobody would know why, did the lease just run out.
            await self._give_up(turn, capability, failure)

    async def _give_up(self, turn: ActiveTurn, capability: str, failure: TurnFailure) -> None:
        if turn.revoked is not None:
            raise LeaseLost(turn.revoked)
        if turn.scope is not None:
            self._figures.turn_failed(turn.scope.grant.team.id)
        log.warning(
            "turn %d of %s: %s (%s)", turn.id.turn, turn.id.run_id, failure.detail, failure.reason
        )
        with contextlib.suppress(HandedOver):
            if failure.retryable:
                await self._store.release(turn.id, capability, failure)
            else:
                await self._store.fail(turn.id, capability, failure)


def _capability(turn: TurnId, token: str) -> RunCapability:
    return RunCapability(turn.tenant, turn.conversation_id, turn.run_id, turn.fence, token)
