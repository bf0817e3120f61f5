"""What a call is, who may make it, and where it is recorded."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Protocol, TypeAlias

from agentmesh_tool_runner.generations.manifest import NO_STATE, Change, State
from agentmesh_tool_runner.sandbox.model import Output
from agentmesh_tool_runner.tools.reply import ToolReply

Key: TypeAlias = tuple[str, str, int, str]
"""Tenant, run, turn, tool-call id."""


@dataclass(frozen=True)
class Authority:
    """The right to act for a run: what its capability says. `token` is its signed form."""

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    token: str


class StaleFenceError(Exception):
    """Somebody was given the run under a higher fence."""

    def __init__(self, run_id: str, fence: int, current_fence: int) -> None:
        super().__init__(f"{run_id}: fence {fence}, now {current_fence}")
        self.run_id = run_id
        self.fence = fence
        self.current_fence = current_fence


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asked for. `traceparent` goes into the sandbox.

    What its agent says of the tool is None, or 0 for no bound, where it says nothing.
    """

    turn: int
    tool_call_id: str
    tool: str
    arguments_json: str
    agent: str
    message_id: str
    timeout_seconds: float | None = None
    retries: int | None = None
    concurrency: int = 0
    cache_seconds: float = 0.0
    traceparent: str = ""

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over what decides the effect."""
        text = json.dumps([self.tool, self.arguments_json, self.agent])
        return hashlib.sha256(text.encode()).digest()


class ClaimState(Enum):
    """What the store says of a step that is to begin."""

    CLAIMED = "claimed"
    RECORDED = "recorded"
    ORPHANED = "orphaned"


@dataclass(frozen=True)
class Claim:
    """Answer to a claim; `reply` is set if the step is recorded. `files` is the state of the
    workspace that the call is to act on."""

    state: ClaimState
    reply: ToolReply | None = None
    files: State = NO_STATE


class Ledger(Protocol):
    """The store's record of steps. Errors of the store pass through."""

    async def claim(
        self, authority: Authority, call: ToolCall, attempt_id: str, *, take_over: bool
    ) -> Claim: ...

    async def is_stale(self, authority: Authority, call: ToolCall, attempt_id: str) -> bool:
        """True if the store says that a higher fence than this claim's was given out."""
        ...

    async def record(
        self, authority: Authority, call: ToolCall, reply: ToolReply, change: Change | None
    ) -> tuple[int, int]:
        """Records the result, and what the call made of the workspace.

        Returns the sequence of its event, and the generation that the files have by it. Raises
        MovedError.
        """
        ...


class Audience(Protocol):
    """Those who watch a run live."""

    def publish(self, authority: Authority, call: ToolCall, piece: Output) -> None: ...


@dataclass(frozen=True)
class CallEnd:
    """How a call ended. `sequence` is 0 for a record that was made before."""

    reply: ToolReply
    sequence: int
    replayed: bool
