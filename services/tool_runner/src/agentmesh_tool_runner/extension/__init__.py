"""What packages that bring tools import: all of it is here, without anything of the service."""

from .context import AsyncContext, AsyncFiles, Context, Files, FileStat
from .declared import ToolFailed, tool

__all__ = [
    "AsyncContext",
    "AsyncFiles",
    "Context",
    "FileStat",
    "Files",
    "ToolFailed",
    "tool",
]
