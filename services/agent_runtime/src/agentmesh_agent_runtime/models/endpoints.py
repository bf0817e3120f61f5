"""Models at their servers, and the module that speaks each protocol."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from autogen_core.models import ModelFamily, ModelInfo
from pydantic import SecretStr

from agentmesh_agent_runtime.definitions.specs import Provider
from agentmesh_agent_runtime.models.errors import ServerFailures
from agentmesh_agent_runtime.models.replies import ReplySource

# Each takes up to a second to import: `load` does it in a thread, and only for what is used.
_SPEAKERS = {
    Provider.OPENAI: "agentmesh_agent_runtime.models.openai_servers",
    Provider.AZURE_OPENAI: "agentmesh_agent_runtime.models.azure_servers",
    Provider.ANTHROPIC: "agentmesh_agent_runtime.models.anthropic_servers",
    Provider.OLLAMA: "agentmesh_agent_runtime.models.ollama_servers",
}

DEFAULT_CAPABILITIES = ModelInfo(
    vision=False,
    function_calling=True,
    json_output=True,
    family=ModelFamily.UNKNOWN,
    structured_output=False,
    multiple_system_messages=True,
)


NO_KEY = SecretStr("")


@dataclass(frozen=True)
class Endpoint:
    """A model at a server, and how it is asked. Times are in seconds.

    `reply_timeout` bounds the wait between two pieces of a reply as well as that for the first.
    `extra` goes to the server as it stands. `remedy` is what to check if the key is refused. What
    the model can do is known by its name where nothing is said here.
    """

    model: str
    base_url: str = ""
    api_key: SecretStr = NO_KEY
    remedy: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    connect_timeout: float = 10.0
    reply_timeout: float = 120.0
    extra: Mapping[str, Any] = field(default_factory=dict)
    max_reply_chars: int = 2_000_000
    vision: bool | None = None
    function_calling: bool | None = None
    structured_output: bool | None = None

    def info(self, known: ModelInfo) -> ModelInfo:
        """What the model can do: as it is said here, else as it is `known`."""
        said = {
            "vision": self.vision,
            "function_calling": self.function_calling,
            "structured_output": self.structured_output,
        }
        found: dict[str, Any] = {**known, **{k: v for k, v in said.items() if v is not None}}
        return cast("ModelInfo", found)

    @property
    def failures(self) -> ServerFailures:
        """Sorts what goes wrong at this server."""
        return ServerFailures(self.api_key.get_secret_value(), self.remedy)


class ModelServers(Protocol):
    """The servers of one protocol. Models of one server share its connections."""

    def known(self, model: str) -> ModelInfo | None:
        """What a model of that name can do, or None if it is not known."""
        ...

    def source(self, endpoint: Endpoint) -> ReplySource:
        """The model at that endpoint."""
        ...

    async def close(self) -> None:
        """Closes all connections."""
        ...


def load(provider: Provider) -> ModelServers:
    """The servers of that protocol, with no connection yet. Slow the first time."""
    servers: ModelServers = importlib.import_module(_SPEAKERS[provider]).Servers()
    return servers
