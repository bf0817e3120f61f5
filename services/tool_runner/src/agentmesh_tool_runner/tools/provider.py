"""Where tools come from: the port that every kind of tool stands behind."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from meshkit.builtin_tools import BUILTIN_TOOLS

from .reply import ToolReply
from .spec import ToolSpec
from .tool import ToolContext

logger = logging.getLogger(__name__)

_HANDOFFS: Final = "transfer_to_"
"""How the names of tools begin by which agents hand over; they are the runtime's."""


class ProvidedTool(Protocol):
    """A tool, whoever provides it."""

    @property
    def spec(self) -> ToolSpec: ...

    async def call(self, context: ToolContext, arguments_json: str) -> ToolReply:
        """Checks the arguments and acts, within `context.limits.wall_seconds`.

        Leaves nothing running when it is cancelled. What it raises is taken for its own defect.
        """
        ...


class ToolProvider(Protocol):
    """A source of tools: the service itself, packages, later other servers."""

    async def start(self) -> None:
        """Gets ready; tools that cannot be had are told in the log."""
        ...

    def tools(self) -> Sequence[ProvidedTool]:
        """What there is now."""
        ...

    async def close(self) -> None:
        """Leaves nothing running."""
        ...


@dataclass
class Toolbox:
    """The tools of all providers, by name. What an earlier provider has no later one replaces."""

    providers: Sequence[ToolProvider]
    _tools: dict[str, ProvidedTool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gather()

    def gather(self) -> None:
        """Looks again at what the providers have."""
        self._tools = {}
        for provider in self.providers:
            for tool in provider.tools():
                name = tool.spec.name
                is_reserved = name in BUILTIN_TOOLS or name.startswith(_HANDOFFS)
                if is_reserved or self._tools.setdefault(name, tool) is not tool:
                    why = "the name means another tool; mend the entry point"
                    logger.error("%s of %s is not offered: %s", name, tool.spec.origin, why)

    def find(self, name: str) -> ProvidedTool | None:
        """The tool of that name."""
        return self._tools.get(name)

    def specs(self) -> list[ToolSpec]:
        """Of all tools, by name."""
        return [self._tools[name].spec for name in sorted(self._tools)]

    async def start(self) -> None:
        """Starts the providers."""
        for provider in self.providers:
            await provider.start()
        self.gather()

    async def close(self) -> None:
        """Closes the providers."""
        for provider in self.providers:
            await provider.close()
