"""A model client that needs no server: it says again what it hears."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Literal

from agentmesh_agent_runtime.extension import ComponentConfig, ModelClientSetup, takes
from autogen_core import CancellationToken
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelFamily,
    ModelInfo,
    RequestUsage,
    SystemMessage,
)
from autogen_core.tools import Tool, ToolSchema
from pydantic import BaseModel, Field

CONTEXT_TOKENS = 100_000


class ParrotConfig(ComponentConfig):
    """What it says before it repeats, and how long it takes for a word, in seconds."""

    greeting: str = "I heard:"
    word_seconds: float = Field(default=0.0, ge=0, le=1)


@takes(ParrotConfig)
class Parrot(ChatCompletionClient):
    """Repeats the newest message word by word. One token is one word."""

    component_type = "model"

    def __init__(self, setup: ModelClientSetup) -> None:
        self._config: ParrotConfig = setup.config
        self._used = RequestUsage(0, 0)

    async def create(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: Tool | Literal["auto", "required", "none"] = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> CreateResult:
        """The whole reply."""
        said = [message for message in messages if not isinstance(message, SystemMessage)]
        heard = _text(said[-1]) if said else ""
        limit = (extra_create_args or {}).get("max_tokens")
        words = f"{self._config.greeting} {heard}".split()
        usage = RequestUsage(self.count_tokens(messages), len(words[:limit]))
        self._used.prompt_tokens += usage.prompt_tokens
        self._used.completion_tokens += usage.completion_tokens
        return CreateResult(
            finish_reason="stop" if limit is None or len(words) <= limit else "length",
            content=" ".join(words[:limit]),
            usage=usage,
            cached=False,
        )

    async def create_stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: Tool | Literal["auto", "required", "none"] = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[str | CreateResult, None]:
        """The mesh asks in this way: pieces as they come, then the whole."""
        whole = await self.create(messages, extra_create_args=extra_create_args)
        for index, word in enumerate(str(whole.content).split()):
            await asyncio.sleep(self._config.word_seconds)
            yield word if index == 0 else f" {word}"
        yield whole

    async def close(self) -> None:
        """There is nothing to close."""

    def actual_usage(self) -> RequestUsage:
        """All that was used."""
        return self._used

    def total_usage(self) -> RequestUsage:
        """All that was used."""
        return self._used

    def count_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Words."""
        return sum(len(_text(message).split()) for message in messages)

    def remaining_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Of a made-up window."""
        return CONTEXT_TOKENS - self.count_tokens(messages)

    @property
    def capabilities(self) -> ModelInfo:
        """As `model_info`, under its old name."""
        return self.model_info

    @property
    def model_info(self) -> ModelInfo:
        """What it can do: little."""
        return ModelInfo(
            vision=False,
            function_calling=False,
            json_output=False,
            family=ModelFamily.UNKNOWN,
            structured_output=False,
            multiple_system_messages=True,
        )


def _text(message: LLMMessage) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    return " ".join(part for part in content if isinstance(part, str))
