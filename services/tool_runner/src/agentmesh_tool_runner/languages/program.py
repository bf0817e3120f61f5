"""A program to run, as callers name it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentmesh_tool_runner.sandbox.model import Limits, TerminalSize

from .catalog import Language


@dataclass(frozen=True)
class Program:
    """Given as `code` or as a workspace file `path`; exactly one of them.

    `files` lie beside the code when it is compiled. The rest is as for an ExecutionSpec; the wall
    and CPU time bound compilation and run together.
    """

    language: Language
    code: str | None = None
    path: str | None = None
    args: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    stdin: bytes = b""
    keep_stdin_open: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    terminal: TerminalSize | None = None
    stateful: bool = False
    """True runs Python in the workspace's interpreter, which keeps its variables."""
    wheels: Mapping[str, bytes] = field(default_factory=dict)
    """Packages by file name, for a program that Python may run."""
