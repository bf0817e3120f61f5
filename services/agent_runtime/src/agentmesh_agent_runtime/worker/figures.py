"""What monitoring wants to know of turns: replies of models, calls of tools, stages of teams."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from meshkit.metrics import Metrics

from agentmesh_agent_runtime.turns.driver import TurnPorts
from agentmesh_agent_runtime.turns.grant import Grant, StepKind
from agentmesh_agent_runtime.turns.ports import (
    StepClaim,
    StepLog,
    StepResult,
    ToolCaller,
    ToolOutput,
    ToolRequest,
)

OK, FAILED, REJECTED = "ok", "failed", "rejected"


class TurnFigures:
    """Counts what goes through the ports of turns."""

    def __init__(self, metrics: Metrics) -> None:
        self._replies = metrics.counter(
            "agentmesh_agent_replies", "Replies that agents asked models for.", "agent", "outcome"
        )
        self._reply_seconds = metrics.seconds(
            "agentmesh_agent_reply_seconds", "From asking a model to its reply on record.", "agent"
        )
        self._calls = metrics.counter(
            "agentmesh_tool_calls", "Calls of tools, as agents see them.", "tool", "outcome"
        )
        self._call_seconds = metrics.seconds(
            "agentmesh_tool_call_seconds", "From the call of a tool to its result.", "tool"
        )
        self._turns = metrics.counter(
            "agentmesh_team_turns", "Turns of teams, by how they ended.", "team", "outcome"
        )
        self._stage_seconds = metrics.seconds(
            "agentmesh_workflow_stage_seconds",
            "How long turns take, by team and stage; without stages the stage is empty.",
            "team",
            "stage",
        )

    def measured(self, ports: TurnPorts) -> TurnPorts:
        """Ports that do the same and are counted."""
        return replace(
            ports, steps=_MeasuredSteps(ports.steps, self), tools=_MeasuredTools(ports.tools, self)
        )

    def replied(self, agent: str, outcome: str, seconds: float) -> None:
        """A model answered an agent, or failed to."""
        self._replies.add(agent, outcome)
        if outcome == OK:
            self._reply_seconds.add(agent, value=seconds)

    def called(self, tool: str, outcome: str, seconds: float) -> None:
        """A tool came to an end."""
        self._calls.add(tool, outcome)
        self._call_seconds.add(tool, value=seconds)

    def turn_taken(self, grant: Grant, seconds: float) -> None:
        """A turn was committed."""
        stages = grant.team.stages
        stage = stages[grant.rounds % len(stages)].name if stages else ""
        self._turns.add(grant.team.id, OK)
        self._stage_seconds.add(grant.team.id, stage, value=seconds)

    def turn_failed(self, team: str) -> None:
        """A turn was given up."""
        self._turns.add(team, FAILED)


class _MeasuredSteps:
    """A model is at work between the claim of a step and its record. Claiming it once more tells
    the store what was consumed in vain."""

    def __init__(self, steps: StepLog, figures: TurnFigures) -> None:
        self._steps = steps
        self._figures = figures
        self._asked: dict[str, float] = {}

    async def begin(self, claim: StepClaim) -> bytes | None:
        recorded = await self._steps.begin(claim)
        if claim.kind is not StepKind.MODEL or recorded is not None:
            return recorded
        asked = self._asked.pop(claim.step_key, None)
        if asked is None:
            self._asked[claim.step_key] = time.monotonic()
        else:
            agent = claim.step_key.rpartition("#")[0]
            self._figures.replied(agent, FAILED, time.monotonic() - asked)
        return recorded

    async def record(self, result: StepResult) -> None:
        await self._steps.record(result)
        asked = self._asked.pop(result.step_key, None)
        if asked is not None:
            agent = result.step_key.rpartition("#")[0]
            self._figures.replied(agent, OK, time.monotonic() - asked)


class _MeasuredTools:
    def __init__(self, tools: ToolCaller, figures: TurnFigures) -> None:
        self._tools = tools
        self._figures = figures

    async def call(self, request: ToolRequest, alive: Callable[[], None]) -> ToolOutput:
        began = time.monotonic()
        output = await self._tools.call(request, alive)
        outcome = REJECTED if output.rejected else FAILED if output.is_error else OK
        self._figures.called(request.tool, outcome, time.monotonic() - began)
        return output
