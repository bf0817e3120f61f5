"""What a turn needs from the world. Adapters implement these with gRPC, tests in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from agentmesh_agent_runtime.turns.grant import SavedCheckpoint, StepKind
from agentmesh_agent_runtime.turns.images import StoredImage


@dataclass(frozen=True)
class Consumption:
    """What a step used. Tokens that the model server did not report are estimated.

    `cost_micros` is money in millionths of the currency that prices are given in.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    cost_micros: int = 0
    estimated: bool = False


class PartKind(StrEnum):
    """What a piece of a message is."""

    TEXT = "text"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    DATA = "data"


@dataclass(frozen=True)
class MessagePart:
    """A piece of a message. Calls and results use all fields, texts only `text`, data has it as a
    JSON object; `rejected` is the result of a call that a person refused."""

    kind: PartKind
    text: str
    tool: str = ""
    tool_call_id: str = ""
    failed: bool = False
    rejected: bool = False


class Speaker(StrEnum):
    """Who speaks in a recorded message."""

    AGENT = "agent"
    TOOL = "tool"
    SYSTEM = "system"


@dataclass(frozen=True)
class SaidMessage:
    """A message as it goes into the log."""

    message_id: str
    speaker: Speaker
    agent: str
    parts: tuple[MessagePart, ...]

    @property
    def text(self) -> str:
        """The text parts, joined by newlines."""
        return "\n".join(part.text for part in self.parts if part.kind is PartKind.TEXT)


@dataclass(frozen=True)
class SaidSummary:
    """A summary as it goes into the log, where it stands for a range of sequences."""

    agent: str
    first_sequence: int
    last_sequence: int
    text: str


@dataclass(frozen=True)
class StepClaim:
    """The wish to carry out a step. `attempt_id` is new for each attempt at the effect, and
    `reservation` what it may consume at most."""

    step_key: str
    kind: StepKind
    request_digest: bytes
    attempt_id: str
    reservation: Consumption = Consumption()


@dataclass(frozen=True)
class HandedOverTo:
    """One agent hands the conversation to another, or to a person."""

    agent: str
    target: str
    text: str


@dataclass(frozen=True)
class StepResult:
    """What came of a step, with the messages that tell of it; `model` if one was asked.

    A step that summarises an agent's context has a `summary` in the place of messages.
    """

    step_key: str
    request_digest: bytes
    result: bytes
    encoding: str
    messages: tuple[SaidMessage, ...]
    usage: Consumption = field(default_factory=Consumption)
    model: str = ""
    handoff: HandedOverTo | None = None
    summary: SaidSummary | None = None


class StepLog(Protocol):
    """The record of a turn's effects, bound to one lease."""

    async def begin(self, claim: StepClaim) -> bytes | None:
        """Claims a step, taking over a claim that a lost attempt left behind.

        Returns the recorded result if the step was carried out before, else None: go ahead.
        Raises LeaseLost, ReplayDiverged, BudgetExhausted, StoreUnreachable.
        """
        ...

    async def record(self, result: StepResult) -> None:
        """Records a claimed step. Raises as `begin` does."""
        ...


class DeltaKind(StrEnum):
    """What a delta previews."""

    TEXT = "text"
    REASONING = "reasoning"
    TOOL_ARGUMENTS = "tool_arguments"


class DeltaSink(Protocol):
    """Where pieces of messages go while they are made, bound to one lease. Never blocks."""

    def push(self, message_id: str, agent: str, kind: DeltaKind, text: str) -> None:
        """Adds the next piece of a message."""
        ...

    def flush(self) -> None:
        """Hands over what was pushed without waiting for more, as a message is complete."""
        ...


@dataclass(frozen=True)
class ToolRequest:
    """A call that a model asked for, and what its agent wants of the tool.

    `timeout` is in seconds for one attempt; it and `retries` are None for the tool's own. Neither
    bound nor cache where `concurrency` or `cache_seconds` is None.
    """

    tool_call_id: str
    tool: str
    arguments_json: str
    agent: str
    message_id: str
    timeout: float | None = None
    retries: int | None = None
    concurrency: int | None = None
    cache_seconds: float | None = None


@dataclass(frozen=True)
class ToolOutput:
    """How a tool call ended: what the model is told, and whether that is a failure, or `rejected`
    by a person."""

    text: str
    is_error: bool
    rejected: bool = False


class ToolCaller(Protocol):
    """Carries out tool calls as recorded steps, bound to one lease."""

    async def call(self, request: ToolRequest, alive: Callable[[], None]) -> ToolOutput:
        """Runs the tool or returns its record. Cancelling the call leaves the tool to its fence.

        `alive` is called whenever the tool shows a sign of life. Raises LeaseLost,
        ServiceUnreachable, and ToolRefused if the call can never be carried out.
        """
        ...


class CheckpointReader(Protocol):
    """Reads what a grant left out for its size, bound to one lease."""

    async def read(self, checkpoint_id: str) -> Sequence[SavedCheckpoint]:
        """The chain that ends with this checkpoint, oldest first.

        Raises LeaseLost, ServiceUnreachable, TurnCrashed.
        """
        ...


class ImageReader(Protocol):
    """Reads images of inputs, bound to one lease."""

    async def image(self, stored: StoredImage) -> bytes | None:
        """Its bytes; None if it was removed.

        Raises LeaseLost, ServiceUnreachable, TurnCrashed.
        """
        ...


@dataclass(frozen=True)
class ToolSchema:
    """A tool as a model sees it; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: dict[str, object]
