"""Each provider with a real server of its wire format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from agentmesh_agent_runtime.definitions.profiles import Profile
from agentmesh_agent_runtime.turns.driver import TurnDriver

from services.agent_runtime.tests.memory_world import MemoryRun, driver
from services.agent_runtime.tests.test_profiles import profile
from tests.support.anthropic_server import AnthropicServer
from tests.support.model_server import ModelServer
from tests.support.ollama_server import OllamaServer

KEY = "gsk_hidden1"
SERVERS: dict[str, Callable[[], ModelServer]] = {
    "openai": ModelServer,
    "azure_openai": ModelServer,
    "anthropic": AnthropicServer,
    "ollama": OllamaServer,
}


@dataclass
class Wire:
    """A provider with its server; `settings` are those of the profile."""

    provider: str
    server: ModelServer
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def profile(self) -> Profile:
        """The profile `fast` of agents that are asked over this wire."""
        base_url = self.server.base_url
        if self.provider == "azure_openai":
            base_url = base_url.removesuffix("/v1")
        return profile(
            "fast",
            key=KEY,
            provider=self.provider,
            model="claude-x",
            base_url=base_url,
            **self.settings,
        )

    def turns(self, run: MemoryRun, **fields: Any) -> TurnDriver:
        """What takes turns with that profile."""
        return driver(run, profiles=[self.profile], **fields)
