"""The tools of the service itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .code import CodeExecutor, CodeWriter
from .files import FileManager
from .planning import ProgressTracker, TaskPlanner
from .provider import ProvidedTool
from .review import CodeAnalyzer, SecurityScanner
from .testing.runner import TestRunner
from .tool import Tool

_ALL: Final = (
    TaskPlanner(),
    ProgressTracker(),
    CodeWriter(),
    CodeExecutor(),
    FileManager(),
    CodeAnalyzer(),
    SecurityScanner(),
    TestRunner(),
)
TOOLS: Final[Mapping[str, Tool[Any]]] = {tool.name: tool for tool in _ALL}
"""By name."""


class BuiltInTools:
    """The provider of them."""

    async def start(self) -> None:
        """They are there."""

    def tools(self) -> Sequence[ProvidedTool]:
        """All of them."""
        return _ALL

    async def close(self) -> None:
        """Nothing of them runs by itself."""
