"""A call on its way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agentmesh_tool_runner.generations.manifest import NO_STATE, State
from agentmesh_tool_runner.sandbox.backend import Execution
from agentmesh_tool_runner.sandbox.model import EndReason, Output, WorkspaceKey
from agentmesh_tool_runner.sandbox.mounted import Mounted, Stay
from agentmesh_tool_runner.tools.reply import ToolReply

from .steps import Authority, CallEnd, ToolCall


@dataclass
class RunningCall:
    """A call on its way. Output is kept for those who join later.

    It acts once at most, under one attempt id, however often it is claimed and recorded anew.
    """

    call: ToolCall
    authority: Authority
    attempt: str
    output: list[Output] = field(default_factory=list)
    replayed: bool = False
    files: State = NO_STATE
    workspace: WorkspaceKey | None = None
    """What it acts on, from when it first does."""
    mounted: Mounted | None = None
    """Where the files are that it last acted on."""
    stay: Stay = field(default_factory=Stay)
    """Keeps them open until they are recorded: nobody else has what it did to them."""
    executions: set[Execution] = field(default_factory=set)
    acting: asyncio.Task[ToolReply] | None = None
    reply: ToolReply | None = None
    recording: asyncio.Task[CallEnd] | None = None
    claiming: asyncio.Lock = field(default_factory=asyncio.Lock)
    killed: bool = False
    touched_at: float = field(default_factory=time.monotonic)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    listeners: set[Callable[[], None]] = field(default_factory=set)

    @property
    def begun(self) -> bool:
        """True if its effect must not be started any more."""
        return self.acting is not None or self.reply is not None

    def tell(self) -> None:
        """Wakes those who stream this call."""
        for listener in list(self.listeners):
            listener()

    def kill(self) -> None:
        """Ends its processes at once; what it would have answered is lost."""
        self.killed = True
        for execution in list(self.executions):
            execution.cancel(EndReason.CANCELLED, "the run was taken away")
        if self.acting is not None:
            self.acting.cancel()
