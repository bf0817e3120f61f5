"""What is asked of a model, and what it answers piece by piece."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from autogen_core import FunctionCall
from autogen_core.models import CreateResult, LLMMessage, ModelInfo, RequestUsage
from autogen_core.tools import Tool
from autogen_core.tools import ToolSchema as AutogenToolSchema

from agentmesh_agent_runtime.turns.ports import Consumption, DeltaKind

REPLY_ENCODING = "agentmesh-model-reply+json/1"


@dataclass(frozen=True)
class ModelRequest:
    """One request. `agent`, `role`, `stage` and `round` say who asks and when, for the script.

    Whose request it is, `tenant` says; no reply is kept for another's. An answer is to be valid
    under `output_schema`, a JSON Schema; whether it is, is not the model server's to say.
    """

    agent: str
    role: str
    stage: str
    round: int
    messages: Sequence[LLMMessage]
    tools: Sequence[Tool | AutogenToolSchema] = ()
    tool_choice: Tool | Literal["auto", "required", "none"] = "auto"
    json_output: Any = None
    output_schema: Mapping[str, Any] | None = None
    tenant: str = ""


@dataclass(frozen=True)
class Piece:
    """Something of a reply, as it comes."""

    kind: DeltaKind
    text: str


@dataclass(frozen=True)
class Call:
    """A tool call that the model wants; the arguments as it wrote them."""

    call_id: str
    tool: str
    arguments_json: str


@dataclass(frozen=True)
class ModelReply:
    """A whole reply: text, tool calls, or both, and what the model thought before.

    `model` is what the server calls itself, `requested_model` what was asked where that is not the
    agent's own model. A `cached` reply was given before and used nothing this time.
    """

    text: str = ""
    calls: tuple[Call, ...] = ()
    reasoning: str = ""
    finish_reason: str = "stop"
    usage: Consumption = field(default_factory=Consumption)
    model: str = ""
    cached: bool = False
    requested_model: str = ""

    def encode(self) -> bytes:
        """As `decode` reads it, of this version and, where nothing new is said, of older ones."""
        fields = asdict(self)
        for place, name in (
            (fields["usage"], "cost_micros"),
            (fields, "cached"),
            (fields, "requested_model"),
        ):
            if not place[name]:
                del place[name]
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def decode(cls, data: bytes) -> ModelReply:
        """Reads what `encode` wrote. Raises ValueError."""
        try:
            fields = json.loads(data)
            fields["calls"] = tuple(Call(**call) for call in fields["calls"])
            fields["usage"] = Consumption(**fields["usage"])
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise ValueError(f"no recorded model reply: {error}") from error

    def as_create_result(self) -> CreateResult:
        """As AutoGen takes it; text beside tool calls becomes the thought, as its clients do."""
        usage = RequestUsage(self.usage.input_tokens, self.usage.output_tokens)
        if self.calls:
            calls = [
                FunctionCall(id=c.call_id, name=c.tool, arguments=c.arguments_json)
                for c in self.calls
            ]
            return CreateResult(
                finish_reason="function_calls",
                content=calls,
                usage=usage,
                cached=self.cached,
                thought=self.text or None,
            )
        return CreateResult(
            finish_reason="length" if self.finish_reason == "length" else "stop",
            content=self.text,
            usage=usage,
            cached=self.cached,
            thought=self.reasoning or None,
        )


class ReplySource(Protocol):
    """A model with its settings."""

    provider: str
    model: str
    info: ModelInfo

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """Pieces as they come, and the whole reply last.

        Raises ModelFailed, ModelRefused, ModelCredentialsRefused.
        """
        ...
