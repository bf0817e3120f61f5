"""Which model answers for an agent."""

from __future__ import annotations

import asyncio
import importlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autogen_core.models import ModelFamily, ModelInfo

from agentmesh_agent_runtime.definitions.specs import LlmSettings
from agentmesh_agent_runtime.models.replies import ReplySource
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.models.scripted.source import MODEL as SCRIPTED
from agentmesh_agent_runtime.models.scripted.source import ScriptedReplySource

if TYPE_CHECKING:
    from autogen_ext.models.openai import OpenAIChatCompletionClient

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
    """Resolves an agent's settings to a model. Equal settings share one client."""

    def __init__(
        self, defaults: ModelDefaults, script: Script, *, script_word_delay: float = 0.0
    ) -> None:
        self._defaults = defaults
        self._scripted = ScriptedReplySource(script, word_delay=script_word_delay)
        self._clients: dict[str, ReplySource] = {}

    @property
    def default_model(self) -> str:
        """The model of agents that name none, as it will really answer."""
        return self._defaults.model if self._defaults.api_key else SCRIPTED

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

        key = json.dumps([name, llm.model_dump(mode="json")], sort_keys=True)
        if key not in self._clients:
            self._clients[key] = OpenAIReplySource(
                self._open(name, llm), name, max_reply_chars=self._defaults.max_reply_chars
            )
        return self._clients[key]

    async def prepare(self) -> None:
        """Loads what `problem` and `resolve` need. Without it they block until it is loaded."""
        await asyncio.to_thread(importlib.import_module, _OPENAI_CLIENT)

    async def close(self) -> None:
        """Closes all clients."""
        clients, self._clients = self._clients, {}
        for client in clients.values():
            await client.close()

    def _open(self, name: str, llm: LlmSettings) -> OpenAIChatCompletionClient:
        import httpx2
        from autogen_ext.models.openai import OpenAIChatCompletionClient

        defaults = self._defaults
        info = _known(name) or DEFAULT_CAPABILITIES
        thinks = info["family"] in _THINKERS
        temperature = llm.temperature if llm.temperature is not None else defaults.temperature
        max_tokens = llm.max_tokens or defaults.max_tokens
        settings: dict[str, Any] = {
            "model": name,
            "api_key": defaults.api_key,
            "model_info": info,
            "max_retries": 0,
            "timeout": httpx2.Timeout(
                llm.timeout or defaults.reply_timeout, connect=defaults.connect_timeout
            ),
        }
        if defaults.base_url:
            settings["base_url"] = defaults.base_url
        if temperature is not None and not thinks:
            settings["temperature"] = temperature
        if max_tokens is not None:
            settings["max_completion_tokens" if thinks else "max_tokens"] = max_tokens
        if llm.extra:
            settings["extra_body"] = llm.extra
        return OpenAIChatCompletionClient(**settings)


def _known(name: str) -> ModelInfo | None:
    from autogen_ext.models.openai._model_info import get_info

    try:
        return get_info(name)
    except (KeyError, ValueError):
        return None
