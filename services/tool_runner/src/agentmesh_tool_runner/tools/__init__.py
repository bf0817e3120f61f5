"""The tools that agents can call."""

from collections.abc import Mapping
from typing import Any, Final

from .code import CodeExecutor, CodeWriter
from .files import FileManager
from .planning import ProgressTracker, TaskPlanner
from .review import CodeAnalyzer, SecurityScanner
from .tool import Tool

_ALL: Final = (
    TaskPlanner(),
    ProgressTracker(),
    CodeWriter(),
    CodeExecutor(),
    FileManager(),
    CodeAnalyzer(),
    SecurityScanner(),
)
TOOLS: Final[Mapping[str, Tool[Any]]] = {tool.name: tool for tool in _ALL}
"""By name."""
