"""What the agents of a team share while they take one turn."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

from agentmesh_agent_runtime.definitions.specs import StageSpec, TeamSpec
from agentmesh_agent_runtime.models.replies import Call, ModelReply
from agentmesh_agent_runtime.turns import digests
from agentmesh_agent_runtime.turns.allowance import Allowance
from agentmesh_agent_runtime.turns.failures import (
    BudgetExhausted,
    EndReason,
    HandedOver,
    LeaseLost,
    RunFailed,
    Suspended,
    TurnFailure,
)
from agentmesh_agent_runtime.turns.grant import Grant, PersonsWord, StartedRun, StepKind, Verdict
from agentmesh_agent_runtime.turns.ids import AttemptId, approval_id, message_id
from agentmesh_agent_runtime.turns.line import Line
from agentmesh_agent_runtime.turns.people import PersonNeeded, Standstill
from agentmesh_agent_runtime.turns.ports import (
    CheckpointReader,
    Consumption,
    DeltaSink,
    ImageReader,
    SaidMessage,
    StepClaim,
    StepLog,
    StepResult,
    ToolCaller,
)
from agentmesh_agent_runtime.turns.runs import RunNeeded
from agentmesh_agent_runtime.turns.spending import Spending

T = TypeVar("T")

Stop = Exception
"""What ends a turn early: a TurnFailure, LeaseLost, HandedOver or Suspended."""


class TurnScope:
    """One turn at work.

    `inputs_through` is a sequence of the log: what a later turn reads or says is after it, and so
    is what this one says.

    Every wait of the turn goes through `guarded`, so that `stop` ends it at once and everything
    that comes after fails with the same reason.
    """

    def __init__(
        self,
        grant: Grant,
        steps: StepLog,
        tools: ToolCaller,
        deltas: DeltaSink,
        checkpoints: CheckpointReader,
        images: ImageReader,
        *,
        worker_id: str,
        inputs_through: int,
        stage: StageSpec | None,
        notice: str = "",
    ) -> None:
        self.grant = grant
        self.tools = tools
        self.deltas = deltas
        self.checkpoints = checkpoints
        self.images = images
        self.stage = stage
        self.said: list[SaidMessage] = []
        self.last_progress = time.monotonic()
        self.activity = "rebuilding the team"
        self.notice = notice
        self.line = Line()
        self.spending = Spending()
        self.inputs_through = inputs_through
        self._steps = steps
        self._attempt = str(AttemptId(worker_id, grant.id.fence, inputs_through))
        self._ordinals: Counter[str] = Counter()
        self._calls: dict[str, Call] = {}
        self._stop: Stop | None = None
        self._hand_over = False
        self._waits: set[asyncio.Task[Any]] = set()
        self._standstill = Standstill()
        self._heard = {word.approval_id: word for word in grant.heard}
        self._started = {run.path: run for run in grant.started}
        self._taken_ids = _recorded_ids(grant)

    @property
    def stopped(self) -> Stop | None:
        """Why the turn was stopped, or None."""
        return self._stop

    def stop(self, why: Stop) -> None:
        """Ends every wait of the turn now. The first reason stands."""
        if self._stop is None:
            self._stop = why
        for wait in tuple(self._waits):
            wait.cancel()

    def hand_over(self) -> None:
        """Ends the turn before its next step."""
        self._hand_over = True

    def progress(self, activity: str | None = None) -> None:
        """Notes that something happened; the watchdog looks at it."""
        self.last_progress = time.monotonic()
        if activity is not None:
            self.activity = activity

    async def guarded(self, work: Coroutine[Any, Any, T]) -> T:
        """Awaits `work` unless the turn is stopped meanwhile; raises why it was."""
        self._standstill.begin()
        try:
            return await self._guarded(work)
        finally:
            self._standstill.end()

    async def until_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """As `guarded`, for work that may itself wait for people: it does not keep the turn from
        being suspended."""
        return await self._guarded(work)

    async def _guarded(self, work: Coroutine[Any, Any, T]) -> T:
        if self._stop is not None:
            work.close()
            # Who catches it and asks again and again must let others run, and can be cancelled.
            await asyncio.sleep(0)
            raise self._stop
        task = asyncio.ensure_future(work)
        self._waits.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if self._stop is not None:
                raise self._stop from None
            task.cancel()
            raise
        except Exception as error:
            # AutoGen turns it into text on its way up; here it keeps its type.
            self.stop(error)
            raise
        finally:
            self._waits.discard(task)

    async def wait_in_line(self, name: str) -> None:
        """Returns when the members that began with `name` and come before it have been heard."""
        await self._guarded(self.line.wait_for(name))

    def approval_id(self, call_id: str) -> str:
        """The id of the request to a person about a call of this turn."""
        return approval_id(self.grant.id.run_id, self.grant.id.turn, call_id)

    async def hear(self, call_id: str, needed: PersonNeeded) -> PersonsWord:
        """What a person says of a call. Where nobody has decided yet, the turn is suspended as soon
        as nothing else of it is at work."""
        word = self._heard.get(needed.approval_id)
        if word is not None and word.verdict is not Verdict.PENDING:
            return word
        self._standstill.need(call_id, needed if word is None else None)
        self.progress(f"{needed.agent} waits for a person")
        await self._guarded(self._stand_by())
        raise AssertionError("unreachable")  # pragma: no cover

    async def delegate(self, path: str, team: TeamSpec, task: str) -> str:
        """What a team answers from a run of its own. Where that has not ended yet, the turn is
        suspended as soon as nothing else of it is at work. Raises RunFailed."""
        self._ordinals[f"{path}/"] += 1
        nth = self._ordinals[f"{path}/"]
        name = path if nth == 1 else f"{path}~{nth}"
        # A step, so that every attempt reads the same inputs and asks for the same run.
        key, digest = f"{name}~run", digests.run_request(team.id, task)
        if await self.begin_other(key, digest) is None:
            await self.record(StepResult(key, digest, b"", "", ()))
        started = self._started.get(name)
        if started is not None and started.has_ended:
            return await self._guarded(_answer_of(started))
        self._standstill.need_run(RunNeeded(name, team, task) if started is None else None)
        self.progress(f"{path} works in a run of its own")
        await self._guarded(self._stand_by())
        raise AssertionError("unreachable")  # pragma: no cover

    async def _stand_by(self) -> None:
        still = self._standstill
        await still.reached()
        self.stop(Suspended(still.needed, still.runs, awaits_runs=still.awaits_runs))
        await asyncio.sleep(0)

    def next_key(self, path: str) -> str:
        """The key of the next model step of the agent at `path`, counted from 1 in each turn."""
        self._ordinals[path] += 1
        return f"{path}#{self._ordinals[path]}"

    def message_id(self, step_key: str) -> str:
        """The id of the message that a step makes, the same on every attempt."""
        return message_id(self.grant.id.run_id, self.grant.id.turn, step_key)

    async def begin(
        self, step_key: str, digest: bytes, allowance: Allowance
    ) -> tuple[bytes | None, Allowance]:
        """Claims a model step; see StepLog.begin. With its record or None comes what its reply may
        consume: all that was asked for, or what the run has left."""
        if self._hand_over:
            self.stop(HandedOver())
        claim = StepClaim(step_key, StepKind.MODEL, digest, self._attempt, allowance.reservation)
        return await self.guarded(self._begin_within_budget(claim, allowance))

    async def _begin_within_budget(
        self, claim: StepClaim, allowance: Allowance
    ) -> tuple[bytes | None, Allowance]:
        try:
            return await self._steps.begin(claim), allowance
        except BudgetExhausted as exhausted:
            less = allowance.within(exhausted.remaining_tokens)
            if less is None:
                raise
        return await self._steps.begin(replace(claim, reservation=less.reservation)), less

    async def give_back(self, step_key: str, digest: bytes, consumed: Consumption) -> None:
        """Says what a claimed model step has consumed that failed. Otherwise all that it reserved
        would be charged; that is also what comes of it where nobody can be told."""
        claim = StepClaim(step_key, StepKind.MODEL, digest, self._attempt, consumed)
        with suppress(TurnFailure, LeaseLost):
            await self._steps.begin(claim)

    async def begin_answer(self, call_id: str, digest: bytes) -> bytes | None:
        """Claims the step of a tool call that is answered here and not carried out anywhere."""
        claim = StepClaim(call_id, StepKind.TOOL, digest, self._attempt)
        return await self.guarded(self._steps.begin(claim))

    async def begin_other(self, step_key: str, digest: bytes) -> bytes | None:
        """Claims a step that is neither a model's nor a tool's; its record, or None."""
        if self._hand_over:
            self.stop(HandedOver())
        claim = StepClaim(step_key, StepKind.OTHER, digest, self._attempt)
        return await self.guarded(self._steps.begin(claim))

    async def record(self, result: StepResult) -> None:
        """Records a step and remembers what it said."""
        await self.guarded(self._steps.record(result))
        self.remember(result.messages)
        self.progress()

    def remember(self, messages: Iterable[SaidMessage]) -> None:
        """Counts messages as said in this turn."""
        self.said.extend(messages)

    def name_calls(self, reply: ModelReply) -> ModelReply:
        """Gives each call of a fresh reply an id that no other step of the turn has."""
        named = []
        for index, call in enumerate(reply.calls):
            base = call.call_id.replace("#", "_")[:200] or f"call_{len(self._taken_ids)}_{index}"
            unique, copy = base, 1
            while unique in self._taken_ids:
                copy += 1
                unique = f"{base}~{copy}"
            self._taken_ids.add(unique)
            named.append(Call(unique, call.tool, call.arguments_json))
        return replace(reply, calls=tuple(named))

    def expect(self, calls: Iterable[Call]) -> None:
        """Remembers calls as the model wrote them; AutoGen hands on parsed ones only."""
        fresh = {call.call_id: call for call in calls}
        self._calls |= fresh
        self._standstill.expect(fresh)

    def answered(self, call_id: str) -> None:
        """Notes that a call is carried out, or never will be."""
        self._standstill.close(call_id)

    def has_call(self, call_id: str) -> bool:
        """True if a call of that id is expected."""
        return call_id in self._calls

    def call(self, call_id: str) -> Call:
        """The call of that id as the model wrote it. Raises KeyError."""
        return self._calls[call_id]


class Seat:
    """Where the agents of a kept team find the turn that they are taking."""

    def __init__(self) -> None:
        self._scope: TurnScope | None = None

    @property
    def scope(self) -> TurnScope:
        """The present turn's. Raises RuntimeError between turns."""
        if self._scope is None:
            raise RuntimeError("an agent acts outside of a turn")
        return self._scope

    def take(self, scope: TurnScope) -> None:
        """Begins a turn."""
        self._scope = scope

    def leave(self) -> None:
        """Ends the turn."""
        self._scope = None


async def _answer_of(run: StartedRun) -> str:
    if not run.reason:
        return run.answer
    known = {reason.value for reason in EndReason}
    reason = EndReason(run.reason) if run.reason in known else EndReason.INTERNAL
    raise RunFailed(f"{run.path}: {run.detail or run.reason}", reason)


def _recorded_ids(grant: Grant) -> set[str]:
    """Step keys and tool-call ids that earlier attempts at this turn gave away."""
    taken = {step.step_key for step in grant.steps}
    for step in grant.steps:
        if step.kind is StepKind.MODEL and step.result is not None:
            taken |= {call.call_id for call in ModelReply.decode(step.result).calls}
    return taken
