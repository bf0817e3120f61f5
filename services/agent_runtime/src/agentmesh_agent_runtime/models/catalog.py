"""Which model answers for an agent."""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autogen_core.models import ModelFamily, ModelInfo

from agentmesh_agent_runtime.definitions.specs import LlmSettings
from agentmesh_agent_runtime.models.replies import ReplySource
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.models.scripted.source import MODEL as SCRIPTED
from agentmesh_agent_runtime.models.scripted.source import ScriptedReplySource

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Takes a second or more to import, half the start of this service: `prepare` does it in a thread.
_OPENAI_CLIENT = "agentmesh_agent_runtime.models.openai_stream"

_THINKERS = (ModelFamily.O1, ModelFamily.O3, ModelFamily.O4, ModelFamily.GPT_5)

DEFAULT_CAPABILITIES = ModelInfo(
    vision=False,
    function_calling=True,
    json_output=True,
    family=ModelFamily.UNKNOWN,
    structured_output=False,
    multiple_system_messages=True,
)


@dataclass(frozen=True)
class ModelDefaults:
    """What holds for agents that set nothing else. Times are in seconds.

    `reply_timeout` bounds the wait between two pieces of a reply as well as that for the first.
    """

    api_key: str = ""
    base_url: str = ""
    model: str = "gpt-4"
    temperature: float | None = 0.7
    max_tokens: int | None = 4000
    connect_timeout: float = 10.0
    reply_timeout: float = 120.0
    max_reply_chars: int = 2_000_000


class ModelCatalog:
    """Resolves an agent's settings to a model. Models of one server share one connection."""

    def __init__(
        self, defaults: ModelDefaults, script: Script, *, script_word_delay: float = 0.0
    ) -> None:
        self._defaults = defaults
        self._scripted = ScriptedReplySource(script, word_delay=script_word_delay)
        self._connections: dict[str, AsyncOpenAI] = {}

    @property
    def default_model(self) -> str:
        """The model of agents that name none, as it will really answer."""
        return self._defaults.model if self._defaults.api_key else SCRIPTED

    @property
    def reply_tokens(self) -> int | None:
        """Most tokens of a reply of agents that set nothing."""
        return self._defaults.max_tokens

    def problem(self, llm: LlmSettings) -> str | None:
        """What is wrong with the settings and how to mend it, or None."""
        name = llm.model or self._defaults.model
        if name == SCRIPTED or self._defaults.base_url or _known(name) is not None:
            return None
        return (
            f"unknown model {name!r}; use a model of OpenAI's, {SCRIPTED!r}, or set "
            "OPENAI_BASE_URL to the server that has it"
        )

    def stands_in_for(self, llm: LlmSettings) -> str | None:
        """The model that the scripted one replaces because there is no key, or None."""
        name = llm.model or self._defaults.model
        return name if name != SCRIPTED and not self._defaults.api_key else None

    def resolve(self, llm: LlmSettings) -> ReplySource:
        """The model that answers."""
        name = llm.model or self._defaults.model
        if name == SCRIPTED or not self._defaults.api_key:
            return self._scripted
        from agentmesh_agent_runtime.models.openai_stream import OpenAIReplySource

        return OpenAIReplySource(
            self._connection(name),
            _known(name) or DEFAULT_CAPABILITIES,
            self._parameters(name, llm),
            max_reply_chars=self._defaults.max_reply_chars,
        )

    async def prepare(self) -> None:
        """Loads what `problem` and `resolve` need. Without it they block until it is loaded."""
        await asyncio.to_thread(importlib.import_module, _OPENAI_CLIENT)

    async def close(self) -> None:
        """Closes all connections."""
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()

    def _connection(self, name: str) -> AsyncOpenAI:
        """The one to the model's server, whatever else an agent sets."""
        from openai import AsyncOpenAI

        base_url = self._defaults.base_url or _home(name)
        connection = self._connections.get(base_url)
        if connection is None:
            connection = self._connections[base_url] = AsyncOpenAI(
                api_key=self._defaults.api_key, base_url=base_url or None, max_retries=0
            )
        return connection

    def _parameters(self, name: str, llm: LlmSettings) -> dict[str, Any]:
        """What every request of such an agent says besides its messages."""
        import httpx2

        defaults = self._defaults
        thinks = (_known(name) or DEFAULT_CAPABILITIES)["family"] in _THINKERS
        temperature = llm.temperature if llm.temperature is not None else defaults.temperature
        max_tokens = llm.max_tokens or defaults.max_tokens
        parameters: dict[str, Any] = {
            "model": name,
            "timeout": httpx2.Timeout(
                llm.timeout or defaults.reply_timeout, connect=defaults.connect_timeout
            ),
        }
        if temperature is not None and not thinks:
            parameters["temperature"] = temperature
        if max_tokens is not None:
            parameters["max_completion_tokens" if thinks else "max_tokens"] = max_tokens
        if llm.extra:
            parameters["extra_body"] = llm.extra
        return parameters


def _home(name: str) -> str:
    """The server of a model that AutoGen knows to be somebody else's than OpenAI's, or ""."""
    from autogen_ext.models.openai import _model_info

    homes = {
        "gemini-": _model_info.GEMINI_OPENAI_BASE_URL,
        "claude-": _model_info.ANTHROPIC_OPENAI_BASE_URL,
        "Llama-": _model_info.LLAMA_API_BASE_URL,
    }
    return next((url for prefix, url in homes.items() if name.startswith(prefix)), "")


def _known(name: str) -> ModelInfo | None:
    from autogen_ext.models.openai._model_info import get_info

    try:
        return get_info(name)
    except (KeyError, ValueError):
        return None
