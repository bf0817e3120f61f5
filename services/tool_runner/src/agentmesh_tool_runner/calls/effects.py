"""What a call does: finds its tool, keeps the rules that hold for it, and calls it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import stamina

from agentmesh_tool_runner.generations.manifest import BrokenManifestError, Change
from agentmesh_tool_runner.generations.rest import StoreRest
from agentmesh_tool_runner.generations.shelf import ShelfUnavailableError
from agentmesh_tool_runner.languages import Program, Programs
from agentmesh_tool_runner.rooms import Rooms
from agentmesh_tool_runner.sandbox.backend import Execution, SandboxBackend, Workspace
from agentmesh_tool_runner.sandbox.beneath import UnsafePathError
from agentmesh_tool_runner.sandbox.model import (
    ExecutionSpec,
    Limits,
    Output,
    SandboxUnavailableError,
    WorkspaceFullError,
    WorkspaceKey,
)
from agentmesh_tool_runner.tools.output import OutputCheck
from agentmesh_tool_runner.tools.provider import ProvidedTool, Toolbox
from agentmesh_tool_runner.tools.reply import Failure, ReplyOutcome, ToolReply
from agentmesh_tool_runner.tools.spec import ToolSpec
from agentmesh_tool_runner.tools.tool import ToolContext

from .kept import KeptResults
from .running import RunningCall
from .steps import Audience, ToolCall

logger = logging.getLogger(__name__)

CANCELLED: Final = ToolReply(ReplyOutcome.CANCELLED, "The call was cancelled.")
_LOST_TEXT: Final = (
    "The call ended well, but the sandbox died before its files could be kept: what it changed in "
    "the workspace is lost."
)
_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0
_KILLED_SECONDS: Final = 5.0

Write = Callable[[ToolReply, Change | None], Awaitable[tuple[int, int]]]
"""Records a reply with a change of the workspace; the event's sequence, the new generation."""


@dataclass(frozen=True)
class EffectRules:
    """What holds for all calls: the limits of one, and how much the kept results may take."""

    limits: Limits
    kept_bytes: int = 0


class _AgainError(Exception):
    """The tool failed in a way that may pass."""

    def __init__(self, reply: ToolReply) -> None:
        super().__init__(reply.output)
        self.reply = reply


class Effects:
    """Carries out what calls ask for."""

    def __init__(
        self,
        toolbox: Toolbox,
        audience: Audience,
        backend: Callable[[], SandboxBackend],
        programs: Programs,
        rest: StoreRest,
        rules: EffectRules,
    ) -> None:
        self._toolbox = toolbox
        self._audience = audience
        self._backend = backend
        self._programs = programs
        self._rest = rest
        self._rules = rules
        self._rooms = Rooms()
        self._kept = KeptResults(rules.kept_bytes)
        self._check = OutputCheck()

    def insist_on_sandbox(self, call: ToolCall) -> None:
        """Raises SandboxUnavailableError if the call needs a sandbox and there is none."""
        tool = self._toolbox.find(call.tool)
        if tool is not None and tool.spec.uses_workspace:
            self._backend()

    def is_safe_to_repeat(self, call: ToolCall) -> bool:
        """True if a call whose outcome is not known may be made again. Not if its tool is gone."""
        tool = self._toolbox.find(call.tool)
        return tool is not None and tool.spec.safe_to_repeat

    async def act(self, running: RunningCall) -> ToolReply:
        """Never raises but when it is cancelled: what goes wrong is a reply, too."""
        call, tenant = running.call, running.authority.tenant
        tool = self._toolbox.find(call.tool)
        if tool is None:
            known = ", ".join(spec.name for spec in self._toolbox.specs())
            text = f"there is no tool {call.tool!r}; there are: {known}"
            return ToolReply.failed(Failure.UNKNOWN_TOOL, text)
        spec = tool.spec
        of_the_agent = (tenant, running.authority.run_id, call.agent, spec.name)
        async with (
            self._rooms.place(of_the_agent, tenant, call.concurrency),
            self._rooms.place(spec.name, tenant, spec.concurrency),
        ):
            kept = self._kept.find(tenant, spec, call)
            if kept is not None:
                return kept
            reply = await self._insist(running, tool)
        self._kept.keep(tenant, spec, call, reply)
        return reply

    async def _insist(self, running: RunningCall, tool: ProvidedTool) -> ToolReply:
        """Calls the tool again after failures that may pass, with growing pauses."""
        wanted = running.call.retries
        retries = tool.spec.retries if wanted is None else wanted
        attempts = 0
        try:
            async for attempt in stamina.retry_context(
                on=_AgainError,
                attempts=retries + 1,
                timeout=None,
                wait_initial=_FIRST_PAUSE_SECONDS,
                wait_max=_LONGEST_PAUSE_SECONDS,
            ):
                with attempt:
                    attempts += 1
                    reply = await self._attempt(running, tool)
                    if attempts <= retries and _may_be_repeated(tool.spec, reply):
                        raise _AgainError(reply)
        except _AgainError as error:
            reply = error.reply
        return replace(reply, attempts=attempts)

    async def _attempt(self, running: RunningCall, tool: ProvidedTool) -> ToolReply:
        call = running.call
        try:
            workspace = await self._workspace(running) if tool.spec.uses_workspace else None
            context = self._context(running, tool.spec, workspace)
            reply = await tool.call(context, call.arguments_json)
            if running.killed:
                return CANCELLED
            reply = await self._check.checked(tool.spec, reply)
        except WorkspaceFullError as error:
            reply = ToolReply.error(f"the workspace was not changed: {error}")
        except UnsafePathError as error:
            reply = ToolReply.error(f"path: {error}")
        except OSError as error:
            what = error.strerror or str(error)
            reply = ToolReply.error(f"{error.filename or call.tool}: {what}")
        except SandboxUnavailableError as error:
            text = f"the sandbox died under the call: {error}"
            reply = ToolReply.failed(Failure.CRASHED, text)
        except Exception:
            # Recorded all the same: a defect here must not keep the run from going on.
            logger.exception("tool %s failed", call.tool)
            text = f"{call.tool} failed for a reason of its own; see the log"
            reply = ToolReply.failed(Failure.RAISED, text)
        return reply.shortened()

    async def _workspace(self, running: RunningCall) -> Workspace:
        authority = running.authority
        key = WorkspaceKey(authority.tenant, authority.conversation_id)
        backend = self._backend()
        if running.workspace is None:
            # What a call wrote that was killed is no part of the files.
            await backend.workspaces.clean(key, _KILLED_SECONDS)
            self._rest.expect(key, running.files)
        running.workspace = key
        try:
            workspace = await backend.workspace(key)
        except (ShelfUnavailableError, BrokenManifestError) as error:
            raise SandboxUnavailableError(f"its files could not be fetched: {error}") from error
        if running.mounted is None or running.mounted.dropped:
            running.mounted = backend.workspaces.stay(key, running.stay)
        return workspace

    async def record(self, running: RunningCall, write: Write) -> int:
        """Records the reply with what the call changed in its workspace; the event's sequence."""
        reply, key = running.reply, running.workspace
        if reply is None:
            raise RuntimeError("the call has no reply")
        if key is None or running.killed:
            return (await write(reply, None))[0]
        workspaces = self._backend().workspaces
        try:
            async with workspaces.use(key) as mounted, workspaces.within_bounds(key, mounted):
                if reply.outcome is ReplyOutcome.OK and mounted is not running.mounted:
                    reply = running.reply = ToolReply.failed(Failure.CRASHED, _LOST_TEXT)
                return await self._rest.record(key, mounted, partial(write, reply))
        except WorkspaceFullError as error:
            running.reply = ToolReply.error(f"the workspace was not changed: {error}")
        return (await write(running.reply, None))[0]

    def give_up(self, running: RunningCall) -> None:
        """The call was killed: what it wrote does not count."""
        if running.workspace is not None:
            self._backend().workspaces.taint(running.workspace)

    def _context(
        self, running: RunningCall, spec: ToolSpec, workspace: Workspace | None
    ) -> ToolContext:
        async def run(wanted: ExecutionSpec | Program) -> Execution:
            return await self._run(running, context.workspace, wanted)

        context = ToolContext(
            opened=workspace,
            python=self._backend().python if workspace is not None else "",
            limits=self._limits(running.call, spec),
            emit=lambda piece: self._emit(running, piece),
            run=run,
            tenant=running.authority.tenant,
            agent=running.call.agent,
            tool_call_id=running.call.tool_call_id,
            traceparent=running.call.traceparent,
        )
        return context

    def _limits(self, call: ToolCall, spec: ToolSpec) -> Limits:
        limits = self._rules.limits
        wanted = call.timeout_seconds or spec.timeout_seconds
        if wanted is None:
            return limits
        return replace(limits, wall_seconds=min(limits.wall_seconds, wanted))

    async def _run(
        self, running: RunningCall, workspace: Workspace, wanted: ExecutionSpec | Program
    ) -> Execution:
        environment = dict(wanted.environment)
        if running.call.traceparent:
            environment.setdefault("TRACEPARENT", running.call.traceparent)
        if isinstance(wanted, Program):
            program = replace(wanted, environment=environment)
            execution = await self._programs.start(workspace, program)
        else:
            execution = await workspace.execute(replace(wanted, environment=environment))
        running.executions.add(execution)
        if running.killed:
            execution.cancel()
        return execution

    def _emit(self, running: RunningCall, piece: Output) -> None:
        running.output.append(piece)
        running.tell()
        self._audience.publish(running.authority, running.call, piece)


def _may_be_repeated(spec: ToolSpec, reply: ToolReply) -> bool:
    passing = reply.failure is not None and reply.failure.may_pass
    return reply.nothing_done or (passing and spec.safe_to_repeat)
