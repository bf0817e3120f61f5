"""Takes one turn: feeds the team what was said, lets it act once, and says what to commit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from autogen_agentchat.base import TaskResult
from autogen_agentchat.messages import BaseChatMessage
from autogen_core import CancellationToken
from meshkit.builtin_tools import ASK_HUMAN, BUILTIN_TOOLS

from agentmesh_agent_runtime.components import Components
from agentmesh_agent_runtime.definitions.check import check_team
from agentmesh_agent_runtime.definitions.check_components import components_of
from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.specs import (
    LlmSettings,
    TeamSpec,
)
from agentmesh_agent_runtime.models.catalog import ModelCatalog
from agentmesh_agent_runtime.turns import checkpoints
from agentmesh_agent_runtime.turns.failures import (
    DeadlinePassed,
    EndReason,
    InvalidDefinition,
    TurnCrashed,
    TurnFailure,
    TurnStalled,
)
from agentmesh_agent_runtime.turns.grant import Grant, Input, SavedCheckpoint
from agentmesh_agent_runtime.turns.hosting import Host
from agentmesh_agent_runtime.turns.ids import inputs_through
from agentmesh_agent_runtime.turns.inputs import said_by_people
from agentmesh_agent_runtime.turns.model_step import RecordedModel
from agentmesh_agent_runtime.turns.outcome import finished as team_finished
from agentmesh_agent_runtime.turns.outcome import says_goodbye, utterances, what_next
from agentmesh_agent_runtime.turns.ports import (
    CheckpointReader,
    DeltaSink,
    ImageReader,
    StepLog,
    ToolCaller,
    ToolSchema,
)
from agentmesh_agent_runtime.turns.questions import QUESTION_SCHEMA
from agentmesh_agent_runtime.turns.run_summary import summary_of
from agentmesh_agent_runtime.turns.scope import TurnScope
from agentmesh_agent_runtime.turns.spending import Spending
from agentmesh_agent_runtime.turns.teams import LiveTeam, TeamBuilder
from agentmesh_agent_runtime.turns.termination import Utterance, why_done
from agentmesh_agent_runtime.turns.verdicts import verdicts

log = logging.getLogger(__name__)

UNWIND_SECONDS = 5.0

FetchSchemas = Callable[[str, Iterable[str]], Awaitable[Mapping[str, ToolSchema]]]
"""The tools of a tenant by name; names that do not exist are left out."""


@dataclass(frozen=True)
class TurnPorts:
    """The world of one turn."""

    steps: StepLog
    tools: ToolCaller
    deltas: DeltaSink
    checkpoints: CheckpointReader
    images: ImageReader


@dataclass(frozen=True)
class TurnResult:
    """What to commit. Without `end_reason` the run goes on, or waits for a person."""

    checkpoint: checkpoints.EncodedCheckpoint
    last_input_sequence: int
    speaker: str
    summary: str
    end_reason: EndReason | None = None
    waits_for_input: bool = False
    detail: str = ""


class TurnDriver:
    """Takes turns, one call each.

    `stall_seconds` bounds how long a turn may make no progress, `largest_whole` the bytes of a
    checkpoint that is no difference to another.
    """

    def __init__(
        self,
        models: ModelCatalog,
        fetch_schemas: FetchSchemas,
        *,
        worker_id: str,
        stall_seconds: float,
        largest_whole: int = checkpoints.LARGEST_WHOLE,
        components: Components | None = None,
    ) -> None:
        self._models = models
        self._fetch_schemas = fetch_schemas
        self._worker_id = worker_id
        self._stall_seconds = stall_seconds
        self._largest_whole = largest_whole
        self._components = components or Components()

    def open(self, grant: Grant, ports: TurnPorts) -> TurnScope:
        """The scope of a turn; `stop` on it ends `take`."""
        stages = grant.team.stages
        return TurnScope(
            grant,
            ports.steps,
            ports.tools,
            ports.deltas,
            ports.checkpoints,
            ports.images,
            worker_id=self._worker_id,
            inputs_through=_readable_through(grant),
            stage=stages[grant.rounds % len(stages)] if stages else None,
            notice=self._notice(grant),
        )

    async def take(self, scope: TurnScope, warm: LiveTeam | None) -> tuple[TurnResult, LiveTeam]:
        """Takes the turn and returns what to commit with the team as it stands then.

        A team that failed is thrown away. Raises TurnFailure, LeaseLost, HandedOver.
        """
        grant = scope.grant
        if any(not self._models.stands_in_for(model) for model in grant.team.models()):
            await scope.guarded(self._models.prepare())
        await self._import(scope)
        self._check(grant.team)
        inputs = [i for i in grant.inputs if i.sequence <= _readable_through(grant)]
        team = await self._team(scope, warm)
        if team.run_id != grant.id.run_id:
            team.run_id = grant.id.run_id
            team.run_from = len(team.thread(await team.group.save_state()))
            team.spending = Spending()
        scope.spending = team.spending
        team.seat.take(scope)
        try:
            if says_goodbye(grant, inputs):
                return await self._result(scope, team, inputs, said_goodbye=True), team
            stopped_by = await self._run(scope, team, inputs)
            finished = team_finished(grant.team, stopped_by)
            return await self._result(scope, team, inputs, finished=finished), team
        finally:
            team.seat.leave()

    async def _import(self, scope: TurnScope) -> None:
        """Imports the components of the team that this process has not met yet."""
        wanted = components_of(scope.grant.team)
        fresh = [each for each in wanted if not self._components.knows(*each)]
        if not fresh:
            return
        try:
            async with asyncio.timeout(self._stall_seconds):
                await scope.guarded(self._components.prepare(fresh))
        except TimeoutError as error:
            names = ", ".join(name for _, name in fresh)
            raise TurnStalled(f"the import of {names} does not come to an end") from error

    def _notice(self, grant: Grant) -> str:
        """Said once, at the beginning of a run that the scripted model plays."""
        if grant.rounds > 0 or grant.id.turn > 1:
            return ""
        replaced = {
            name for model in grant.team.models() if (name := self._models.stands_in_for(model))
        }
        if not replaced:
            return ""
        return (
            "OPENAI_API_KEY is not set: the scripted model answers in place of "
            f"{', '.join(sorted(replaced))}."
        )

    def _check(self, team: TeamSpec) -> None:
        findings = check_team(
            team, "definition", self._problem, components=self._components, pinned=True
        )
        for finding in findings:
            raise InvalidDefinition(f"{finding.path}: {finding.description}")

    def _problem(self, llm: LlmSettings) -> Finding | None:
        """A model that the scripted one stands in for need not be known."""
        return None if self._models.stands_in_for(llm) else self._models.problem(llm)

    async def _team(self, scope: TurnScope, warm: LiveTeam | None) -> LiveTeam:
        grant = scope.grant
        saved = grant.checkpoint
        if warm is not None and saved is not None and warm.checkpoint_id == saved.checkpoint_id:
            return warm
        team = await self._build(scope)
        if saved is None:
            return team
        chain = (*grant.base_checkpoints, saved)
        if not saved.data:
            scope.progress("reading the checkpoint")
            chain = tuple(await scope.guarded(_read(scope.checkpoints, saved.checkpoint_id)))
        try:
            checkpoint, team.chain = checkpoints.decode(chain)
            await team.group.load_state(checkpoint.state)
        except (ValueError, KeyError, RecursionError, MemoryError) as error:
            raise InvalidDefinition(
                f"checkpoint {saved.checkpoint_id} does not fit the definition: {error}"
            ) from error
        team.run_id, team.run_from = checkpoint.run_id, checkpoint.run_from
        team.spending = Spending(checkpoint.spent)
        return team

    async def _build(self, scope: TurnScope) -> LiveTeam:
        grant = scope.grant
        wanted = {name for agent in grant.team.agents_in_run() for name in agent.usable_tools()}
        names = wanted - BUILTIN_TOOLS
        found = await scope.guarded(_fetch(self._fetch_schemas, grant.id.tenant, names))
        schemas = dict(found)
        if grant.human_input and ASK_HUMAN in wanted:
            schemas[ASK_HUMAN] = QUESTION_SCHEMA
        if missing := names - schemas.keys():
            raise InvalidDefinition(
                f"there is no tool {', '.join(sorted(missing))}; start a tool_runner that has it "
                "or take it from the agent"
            )
        builder = TeamBuilder(
            lambda agent: (
                self._models.resolve(agent.llm_config),
                self._models.bound(agent.llm_config),
            ),
            schemas,
            self._components,
        )
        return builder.build(grant.team, f"{grant.path}/" if grant.path else "")

    async def _run(self, scope: TurnScope, team: LiveTeam, inputs: list[Input]) -> str:
        """Lets the team act once; why AutoGen says that it stopped."""
        messages = await said_by_people(scope.grant.team, team, inputs)
        token = CancellationToken()
        running = asyncio.create_task(_drain(team, messages, token))
        try:
            await self._watch(scope, running)
        finally:
            if not running.done():
                # AutoGen did not let go: leave it behind and never wait for it.
                token.cancel()
                running.cancel()
                running.add_done_callback(_forget)
        if scope.stopped is not None:
            _forget(running)
            raise _as_failure(scope.stopped)
        error = running.exception()
        if error is not None:
            log.error("a turn of %s failed in AutoGen", scope.grant.id.run_id, exc_info=error)
            raise TurnCrashed(f"AutoGen failed: {_first_line(error)}")
        return running.result()

    async def _summary(
        self, scope: TurnScope, writer: RecordedModel, said: Sequence[Utterance]
    ) -> str:
        """Its model is watched like those of the members."""
        writing = asyncio.create_task(summary_of(scope, writer, said))
        try:
            await self._watch(scope, writing)
        finally:
            writing.cancel()
            writing.add_done_callback(_forget)
        if not writing.done():
            raise _as_failure(scope.stopped or TurnCrashed("the summary does not come to an end"))
        return writing.result()

    async def _watch(self, scope: TurnScope, running: asyncio.Task[str]) -> None:
        """Waits for the end, and stops a turn that stalls or outlives its run's deadline."""
        stopped_at: float | None = None
        while not running.done():
            await asyncio.wait({running}, timeout=0.2 if stopped_at else self._patience(scope))
            if running.done():
                return
            if scope.stopped is not None:
                stopped_at = stopped_at or time.monotonic()
                if time.monotonic() - stopped_at > UNWIND_SECONDS:
                    return
            elif _overdue(scope.grant):
                scope.stop(DeadlinePassed("the run's deadline passed"))
            elif time.monotonic() - scope.last_progress > self._stall_seconds:
                scope.stop(
                    TurnStalled(f"no progress for {self._stall_seconds:g} s while {scope.activity}")
                )

    def _patience(self, scope: TurnScope) -> float:
        left = scope.last_progress + self._stall_seconds - time.monotonic()
        if scope.grant.deadline is not None:
            left = min(left, (scope.grant.deadline - datetime.now(UTC)).total_seconds())
        return min(1.0, max(0.01, left))

    async def _result(
        self,
        scope: TurnScope,
        team: LiveTeam,
        inputs: list[Input],
        *,
        said_goodbye: bool = False,
        finished: str | None = None,
    ) -> TurnResult:
        grant = scope.grant
        state = await team.group.save_state()
        thread = team.thread(state)
        said = utterances(thread[team.run_from :])
        speaker = said[-1].source if said and not said_goodbye else ""
        verdict = await verdicts(
            grant.team, thread[team.run_from :], Host(self._components, team.seat)
        )
        done = finished or why_done(grant.team, said, verdict)
        end, waits, detail = what_next(grant, said, speaker, done, said_goodbye=said_goodbye)
        if waits or end is not None:
            # Should the run go on, by an answer or a late message, this ends nothing after it.
            team.run_from = len(thread)
        encoded = checkpoints.encode(
            checkpoints.Checkpoint(team.run_id, team.run_from, state, team.spending.kept()),
            team.chain,
            grant.checkpoint.checkpoint_id if grant.checkpoint else "",
            largest_whole=self._largest_whole,
        )
        team.chain = encoded.chain
        summary = said[-1].text if said else ""
        if end is not None and team.summarizer is not None:
            summary = await self._summary(scope, team.summarizer, said)
        return TurnResult(
            checkpoint=encoded,
            last_input_sequence=max((i.sequence for i in inputs), default=0),
            speaker=speaker,
            summary=summary,
            end_reason=end,
            waits_for_input=waits,
            detail=detail,
        )


async def _fetch(
    fetch: FetchSchemas, tenant: str, names: Collection[str]
) -> Mapping[str, ToolSchema]:
    return await fetch(tenant, names) if names else {}


async def _read(reader: CheckpointReader, checkpoint_id: str) -> Sequence[SavedCheckpoint]:
    return await reader.read(checkpoint_id)


async def _drain(team: LiveTeam, messages: list[BaseChatMessage], token: CancellationToken) -> str:
    stopped_by = ""
    async for item in team.group.run_stream(task=messages or None, cancellation_token=token):
        if isinstance(item, TaskResult):
            stopped_by = item.stop_reason or ""
    return stopped_by


def _readable_through(grant: Grant) -> int:
    """The newest input that this turn reads: what an earlier attempt read, if there was one.

    Without inputs the log as it stands, for what is said from now on comes after it.
    """
    earlier = [
        through for step in grant.steps if (through := inputs_through(step.attempt_id)) is not None
    ]
    return (
        min(earlier)
        if earlier
        else max((i.sequence for i in grant.inputs), default=grant.head_sequence)
    )


def _overdue(grant: Grant) -> bool:
    return grant.deadline is not None and datetime.now(UTC) >= grant.deadline


def _as_failure(why: Exception) -> Exception:
    if isinstance(why, TurnFailure) or type(why).__module__ == TurnFailure.__module__:
        return why
    log.error("a turn failed", exc_info=why)
    return TurnCrashed(f"the turn failed: {_first_line(why)}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def _forget(task: asyncio.Task[str]) -> None:
    """Reads the result, so that asyncio does not complain about it."""
    if task.done() and not task.cancelled():
        task.exception()
