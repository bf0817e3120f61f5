"""The ports of a turn in memory, with the store's rules: fences, claims, digests, one record."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agentmesh_agent_runtime.definitions.specs import AgentSpec, TeamKind, TeamSpec
from agentmesh_agent_runtime.models.catalog import ModelCatalog, ModelDefaults
from agentmesh_agent_runtime.models.scripted.rules import Rule, Script
from agentmesh_agent_runtime.turns.driver import TurnDriver, TurnPorts, TurnResult
from agentmesh_agent_runtime.turns.failures import (
    EndReason,
    LeaseLost,
    ReplayDiverged,
    Suspended,
    TurnFailure,
)
from agentmesh_agent_runtime.turns.grant import (
    Grant,
    Input,
    KnownStep,
    PersonsWord,
    SavedCheckpoint,
    StartedRun,
    StepKind,
    TurnId,
    Verdict,
)
from agentmesh_agent_runtime.turns.images import StoredImage
from agentmesh_agent_runtime.turns.people import PersonNeeded
from agentmesh_agent_runtime.turns.ports import (
    DeltaKind,
    HandedOverTo,
    SaidMessage,
    SaidSummary,
    StepClaim,
    StepResult,
    ToolOutput,
    ToolRequest,
    ToolSchema,
)
from agentmesh_agent_runtime.turns.runs import RunNeeded, rounds_within
from agentmesh_agent_runtime.turns.scope import TurnScope
from agentmesh_agent_runtime.turns.teams import LiveTeam

Tool = Callable[[ToolRequest], Awaitable[ToolOutput]]


@dataclass
class MemoryRun:
    """One run with its log, steps, checkpoint and inbox, and every port that its turns need."""

    team: TeamSpec
    inputs: list[Input] = field(default_factory=list)
    max_rounds: int = 20
    human_input: bool = False
    tools: dict[str, Tool] = field(default_factory=dict)
    fence: int = 0
    turn: int = 1
    rounds: int = 0
    checkpoint: SavedCheckpoint | None = None
    chain: tuple[SavedCheckpoint, ...] = ()
    withhold_chain: bool = False
    said: list[SaidMessage] = field(default_factory=list)
    summaries: list[tuple[str, SaidSummary]] = field(default_factory=list)
    steps: dict[str, KnownStep] = field(default_factory=dict)
    deltas: list[tuple[str, str, DeltaKind, str]] = field(default_factory=list)
    tool_calls: list[ToolRequest] = field(default_factory=list)
    results: list[TurnResult] = field(default_factory=list)
    read_through: int = 0
    die_before: str = ""
    die_after: str = ""
    recorded: list[StepResult] = field(default_factory=list)
    records: int = 0
    die_before_record: int = 0
    die_after_record: int = 0
    handoffs: list[HandedOverTo] = field(default_factory=list)
    words: dict[str, PersonsWord] = field(default_factory=dict)
    asked: list[PersonNeeded] = field(default_factory=list)
    suspensions: int = 0
    run_id: str = "run_1"
    path: str = ""
    started: dict[str, StartedRun] = field(default_factory=dict)
    children: list[tuple[RunNeeded, MemoryRun]] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)

    def grant(self) -> Grant:
        """The next turn, under a new fence."""
        self.fence += 1
        return Grant(
            id=TurnId(self.run_id, "conv_1", "default", self.turn, self.fence),
            capability=f"capability-{self.fence}",
            team=self.team,
            checkpoint=self._bare(self.checkpoint) if self.checkpoint else None,
            base_checkpoints=tuple(map(self._bare, self.chain[:-1])),
            inputs=tuple(i for i in self.inputs if i.sequence > self.read_through),
            steps=tuple(self.steps.values()),
            rounds=self.rounds,
            max_rounds=self.max_rounds,
            human_input=self.human_input,
            head_sequence=len(self.said),
            heard=tuple(self.words.values()),
            started=tuple(self.started.values()),
            path=self.path,
        )

    def _bare(self, saved: SavedCheckpoint) -> SavedCheckpoint:
        return replace(saved, data=b"") if self.withhold_chain else saved

    def suspend(self, suspended: Suspended) -> None:
        """Keeps the turn, and what it asks of people and other runs."""
        for wanted in suspended.runs:
            assert wanted.path not in self.started, "started twice"
            self.started[wanted.path] = StartedRun(wanted.path, has_ended=False)
            child = MemoryRun(
                wanted.team,
                [asked(wanted.task)],
                max_rounds=rounds_within(wanted.team),
                tools=self.tools,
                run_id=f"{self.run_id}/{self.turn}/{wanted.path}",
                path=wanted.path,
            )
            self.children.append((wanted, child))
        self.suspensions += 1
        self.asked += suspended.needed
        for needed in suspended.needed:
            assert needed.approval_id not in self.words, "asked twice"
            self.words[needed.approval_id] = PersonsWord(needed.approval_id, Verdict.PENDING)
        claimed = [step.step_key for step in self.steps.values() if step.result is None]
        assert not claimed, "suspended while a step was under way"

    @property
    def pending(self) -> list[PersonNeeded]:
        """What nobody has decided yet."""
        return [
            needed
            for needed in self.asked
            if needed.approval_id in self.words
            and self.words[needed.approval_id].verdict is Verdict.PENDING
        ]

    def decide(
        self, needed: PersonNeeded, verdict: Verdict, text: str = "", edited: str = ""
    ) -> None:
        """A person does."""
        word = PersonsWord(needed.approval_id, verdict, text, edited, "olga", needed.role)
        self.words[needed.approval_id] = word

    def ports(self, grant: Grant) -> TurnPorts:
        """The world as the holder of `grant` meets it."""
        lease = _Lease(self, grant.id.fence)
        return TurnPorts(steps=lease, tools=lease, deltas=lease, checkpoints=lease, images=lease)

    async def schemas(self, tenant: str, names: Iterable[str]) -> Mapping[str, ToolSchema]:
        """Every tool of the run takes any arguments."""
        return {n: ToolSchema(n, n, {"properties": {}}) for n in names if n in self.tools}

    def commit(self, result: TurnResult) -> None:
        """Ends the turn."""
        self.results.append(result)
        encoded = result.checkpoint
        base = encoded.base_checkpoint_id
        assert base in ("", self.checkpoint.checkpoint_id if self.checkpoint else ""), base
        self.checkpoint = SavedCheckpoint(f"ckpt_{self.turn}", encoded.data, encoded.encoding, base)
        self.chain = (*self.chain, self.checkpoint) if base else (self.checkpoint,)
        self.read_through = max(self.read_through, result.last_input_sequence)
        self.turn += 1
        self.rounds += 1
        self.steps.clear()
        self.words.clear()
        self.started.clear()

    def texts(self) -> list[tuple[str, str]]:
        """What was said aloud, with who said it."""
        return [(m.agent, m.text) for m in self.said if m.text]

    def streamed(self) -> dict[str, str]:
        """The text deltas of each message, joined."""
        joined: dict[str, str] = {}
        for message_id, _, kind, text in self.deltas:
            if kind is DeltaKind.TEXT:
                joined[message_id] = joined.get(message_id, "") + text
        return joined


class _Lease:
    """Step log, tool caller and delta sink under one fence."""

    def __init__(self, run: MemoryRun, fence: int) -> None:
        self._run = run
        self._fence = fence

    def _check(self) -> None:
        if self._fence != self._run.fence:
            raise LeaseLost("fence")

    async def begin(self, claim: StepClaim) -> bytes | None:
        self._check()
        known = self._run.steps.get(claim.step_key)
        if known is not None and known.request_digest != claim.request_digest:
            raise ReplayDiverged(f"step {claim.step_key} asks for something else than its record")
        if known is not None and known.result is not None:
            return known.result
        self._run.steps[claim.step_key] = KnownStep(
            claim.step_key, claim.kind, claim.request_digest, claim.attempt_id, None
        )
        return None

    async def record(self, result: StepResult) -> None:
        self._check()
        self._run.records += 1
        number = self._run.records
        self._die(self._run.die_before, result.step_key)
        self._die_at(self._run.die_before_record, number, result.step_key)
        claimed = self._run.steps[result.step_key]
        assert claimed.result is None, "recorded twice"
        self._run.steps[result.step_key] = replace(
            claimed, result=result.result, encoding=result.encoding
        )
        self._run.said.extend(result.messages)
        if result.handoff is not None:
            self._run.handoffs.append(result.handoff)
        if result.summary is not None:
            self._run.summaries.append((result.step_key, result.summary))
        self._run.recorded.append(result)
        self._die(self._run.die_after, result.step_key)
        self._die_at(self._run.die_after_record, number, result.step_key)

    def _die_at(self, wanted: int, number: int, step_key: str) -> None:
        if wanted == number:
            self._die(step_key, step_key)

    def _die(self, key: str, step_key: str) -> None:
        if key and key == step_key:
            self._run.die_before = self._run.die_after = ""
            # As after a SIGKILL: whatever this attempt still does is under an old fence.
            self._run.fence += 1
            raise LeaseLost(f"killed at {step_key}")

    async def call(self, request: ToolRequest, alive: Callable[[], None]) -> ToolOutput:
        self._check()
        key = request.tool_call_id
        known = self._run.steps.get(key)
        if known is not None and known.result is not None:
            return ToolOutput(**json.loads(known.result))
        self._run.tool_calls.append(request)
        output = await self._run.tools[request.tool](request)
        self._run.steps[key] = KnownStep(
            key, StepKind.TOOL, b"tool", "tool", json.dumps(output.__dict__).encode()
        )
        return output

    async def read(self, checkpoint_id: str) -> Sequence[SavedCheckpoint]:
        self._check()
        assert self._run.chain[-1].checkpoint_id == checkpoint_id
        return self._run.chain

    async def image(self, stored: StoredImage) -> bytes | None:
        self._check()
        return self._run.images.get(stored.digest)

    def push(self, message_id: str, agent: str, kind: DeltaKind, text: str) -> None:
        self._run.deltas.append((message_id, agent, kind, text))

    def flush(self) -> None:
        """Nothing is held back here."""


def agent(agent_id: str = "writer", **fields: Any) -> AgentSpec:
    """An agent of a model that only a server at OPENAI_BASE_URL can have."""
    return AgentSpec(id=agent_id, **({"llm_config": {"model": "test-model"}} | fields))


def team(*agents: AgentSpec | TeamSpec, **fields: Any) -> TeamSpec:
    """A round-robin team."""
    return TeamSpec(
        **({"id": "team", "kind": TeamKind.ROUND_ROBIN, "participants": agents} | fields)
    )


def asked(text: str = "Do it.", sequence: int = 1) -> Input:
    """What a person says."""
    return Input(sequence, "user", text)


def driver(
    run: MemoryRun, base_url: str = "", *, rules: tuple[Rule, ...] = (), **fields: Any
) -> TurnDriver:
    """A driver whose models are at `base_url`; without one, the script answers by `rules`."""
    defaults = ModelDefaults(
        api_key=fields.pop("api_key", "sk-test") if base_url else "",
        base_url=base_url or "",
        reply_timeout=fields.pop("reply_timeout", 5.0),
        max_reply_chars=fields.pop("max_reply_chars", 2_000_000),
    )
    models = ModelCatalog(defaults, Script(rules, Path()), fields.get("profiles", ()))
    return TurnDriver(
        models,
        run.schemas,
        worker_id=fields.get("worker_id", "worker-1"),
        stall_seconds=fields.get("stall_seconds", 30.0),
        components=fields.get("components"),
    )


async def take_turn(
    run: MemoryRun,
    turns: TurnDriver,
    warm: LiveTeam | None = None,
    opened: Callable[[TurnScope], None] = lambda scope: None,
) -> tuple[TurnResult, LiveTeam]:
    """Grants, takes and commits one turn."""
    grant = run.grant()
    scope = turns.open(grant, run.ports(grant))
    opened(scope)
    try:
        result, live = await turns.take(scope, warm)
    except Suspended as suspended:
        run.suspend(suspended)
        raise
    run.commit(result)
    live.checkpoint_id = f"ckpt_{run.turn - 1}"
    return result, live


async def take_all(
    run: MemoryRun,
    turns: TurnDriver,
    *,
    keep_warm: bool = False,
    person: Callable[[MemoryRun, PersonNeeded], None] | None = None,
) -> EndReason:
    """Takes turns until the run ends. The person decides whenever a turn is suspended for that."""
    warm: LiveTeam | None = None
    for _ in range(100):
        try:
            result, warm = await take_turn(run, turns, warm if keep_warm else None)
        except Suspended as suspended:
            if suspended.awaits_runs:
                await end_children(run, turns)
            elif person is None:
                raise AssertionError("nobody is there to decide") from suspended
            if person is not None:
                for needed in run.pending:
                    person(run, needed)
            warm = None
            continue
        if result.end_reason is not None:
            return result.end_reason
        assert not result.waits_for_input, "waits for a person"
    raise AssertionError("the run never ended")


async def end_children(run: MemoryRun, turns: TurnDriver) -> None:
    """Carries out the runs that a turn waits for, the newest first."""
    for wanted, child in reversed(run.children):
        if run.started.get(wanted.path) != StartedRun(wanted.path, has_ended=False):
            continue
        ended = StartedRun(wanted.path, has_ended=True)
        try:
            await take_all(child, turns)
            ended = replace(ended, answer=child.results[-1].summary)
        except TurnFailure as failure:
            ended = replace(ended, reason=failure.reason.value, detail=failure.detail)
        run.started[wanted.path] = ended


def timeless(value: Any) -> Any:
    """A saved state without what differs from run to run: times and AutoGen's own ids."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("created_at", "id")}
    return [timeless(item) for item in value] if isinstance(value, list) else value
