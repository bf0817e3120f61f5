"""Tool calls of runs: each is one recorded step, carried out at most once at a time.

The order is claim, act, save the workspace, record. A call whose step is recorded already answers
with its record. A call that another attempt claimed and never recorded is joined if it still runs
here, repeated if its tool is safe to repeat, and otherwise recorded as of unknown outcome.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from .sandbox.backend import (
    EndReason,
    Execution,
    ExecutionSpec,
    Limits,
    Output,
    SandboxBackend,
    SandboxUnavailableError,
    Workspace,
    WorkspaceFullError,
    WorkspaceKey,
)
from .sandbox.beneath import UnsafePathError
from .tools.tool import ReplyOutcome, Tool, ToolContext, ToolReply

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_KEEP_UNRECORDED_SECONDS: Final = 600.0
_CLOSE_SECONDS: Final = 10.0
_UNKNOWN_TEXT: Final = (
    "The call was started before and its outcome is not known: the process that ran it died. It is "
    "not repeated, for that could do its work twice. Look at the workspace before you go on."
)
_CANCELLED: Final = ToolReply(ReplyOutcome.CANCELLED, "The call was cancelled.")


Key: TypeAlias = tuple[str, str, int, str]
"""Tenant, run, turn, tool-call id."""


@dataclass(frozen=True)
class Authority:
    """The right to act for a run: what its capability says. `token` is its signed form."""

    tenant: str
    conversation_id: str
    run_id: str
    fence: int
    token: str


@dataclass(frozen=True)
class ToolCall:
    """A call that a model asked for. `traceparent` goes into the sandbox."""

    turn: int
    tool_call_id: str
    tool: str
    arguments_json: str
    agent: str
    message_id: str
    timeout_seconds: float | None = None
    traceparent: str = ""

    @property
    def digest(self) -> bytes:
        """SHA-256 over what decides the effect."""
        text = json.dumps([self.tool, self.arguments_json, self.agent])
        return hashlib.sha256(text.encode()).digest()


class ClaimState(Enum):
    """What the store says of a step that is to begin."""

    CLAIMED = "claimed"
    RECORDED = "recorded"
    ORPHANED = "orphaned"


@dataclass(frozen=True)
class Claim:
    """Answer to a claim; `reply` is set if the step is recorded."""

    state: ClaimState
    reply: ToolReply | None = None


class Ledger(Protocol):
    """The store's record of steps. Errors of the store pass through."""

    async def claim(
        self, authority: Authority, call: ToolCall, attempt_id: str, *, take_over: bool
    ) -> Claim: ...

    async def record(self, authority: Authority, call: ToolCall, reply: ToolReply) -> int:
        """Records the result; returns the sequence of its event."""
        ...


class Audience(Protocol):
    """Those who watch a run live."""

    def publish(self, authority: Authority, call: ToolCall, piece: Output) -> None: ...


@dataclass(frozen=True)
class CallEnd:
    """How a call ended. `sequence` is 0 for a record that was made before."""

    reply: ToolReply
    sequence: int
    replayed: bool


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


@dataclass(frozen=True)
class CallRules:
    """What calls get: the interpreter's path comes from the backend."""

    limits: Limits
    process_id: str
    """Unique per start of this service; part of attempt ids."""


class ToolCalls:
    """Carries out the calls of all runs."""

    def __init__(
        self,
        tools: dict[str, Tool[Any]],
        ledger: Ledger,
        audience: Audience,
        backend: Callable[[], SandboxBackend],
        rules: CallRules,
    ) -> None:
        self._tools = tools
        self._ledger = ledger
        self._audience = audience
        self._backend = backend
        self._rules = rules
        self._calls: dict[Key, RunningCall] = {}
        self._attempt_numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def begin(self, authority: Authority, call: ToolCall) -> RunningCall:
        """Starts the call, or joins the same call where it runs already; see `end`.

        Raises SandboxUnavailableError where no code may run, before anything is claimed.
        """
        backend = self._backend()
        if self._closing:
            raise SandboxUnavailableError("the service is being stopped")
        self._forget_old()
        key = (authority.tenant, authority.run_id, call.turn, call.tool_call_id)
        running = self._calls.get(key)
        if running is not None and running.call.digest == call.digest and not running.killed:
            self._join(key, running, authority, backend)
            return running
        attempt = f"{self._rules.process_id}:{next(self._attempt_numbers)}"
        running = self._calls[key] = RunningCall(call, authority, attempt)
        running.recording = self._start(self._carry_out(key, running, backend))
        return running

    def _join(
        self, key: Key, running: RunningCall, authority: Authority, backend: SandboxBackend
    ) -> None:
        running.touched_at = time.monotonic()
        if authority.fence < running.authority.fence:
            return
        raised = authority.fence > running.authority.fence
        running.authority = authority
        if raised or (running.recording is not None and running.recording.done()):
            running.recording = self._start(self._carry_out(key, running, backend))

    def _start(self, work: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def end(self, running: RunningCall) -> CallEnd:
        """Waits until the call is recorded. Leaving does not end the call.

        Raises what the store raised: nothing is answered that is not recorded.
        """
        while True:
            recording = running.recording
            if recording is None:
                raise RuntimeError("the call was not begun")
            try:
                return await asyncio.shield(recording)
            except Exception:
                if running.recording is recording:
                    raise

    async def _carry_out(self, key: Key, running: RunningCall, backend: SandboxBackend) -> CallEnd:
        """Claims the call, starts its effect unless that has begun before, and records its reply.

        Runs once for each worker that wants the call, and fails alone: what acts goes on.
        """
        # One claim at a time: what becomes of an earlier one decides whether to take it over.
        async with running.claiming:
            claim = await self._claim(running)
            if claim.reply is not None:
                running.replayed = not running.begun
            elif not running.begun:
                self._begin_effect(running, claim, backend)
        running.started.set()
        running.tell()
        if claim.reply is not None:
            self._forget(key, running)
            return CallEnd(claim.reply, 0, replayed=True)
        running.reply = await self._reply_of(running)
        sequence = await self._record(running, running.reply)
        self._forget(key, running)
        return CallEnd(running.reply, sequence, replayed=False)

    async def _claim(self, running: RunningCall) -> Claim:
        """An orphan that never ran here is taken over only if its tool is safe to repeat."""
        call, authority, attempt = running.call, running.authority, running.attempt
        tool = self._tools.get(call.tool)
        repeat = tool is None or tool.safe_to_repeat
        claim = await self._ledger.claim(authority, call, attempt, take_over=running.begun)
        if claim.state is ClaimState.ORPHANED and repeat:
            claim = await self._ledger.claim(authority, call, attempt, take_over=True)
        return claim

    def _begin_effect(self, running: RunningCall, claim: Claim, backend: SandboxBackend) -> None:
        if running.killed:
            running.reply = _CANCELLED
        elif claim.state is ClaimState.ORPHANED:
            running.reply = ToolReply(ReplyOutcome.UNKNOWN, _UNKNOWN_TEXT)
        else:
            running.acting = self._start(self._act(running, backend))

    async def _record(self, running: RunningCall, reply: ToolReply) -> int:
        if self._closing:
            raise RuntimeError("nothing is recorded while the service stops")
        return await self._ledger.record(running.authority, running.call, reply)

    async def _reply_of(self, running: RunningCall) -> ToolReply:
        if running.reply is not None:
            return running.reply
        if running.acting is None:
            raise RuntimeError("the call does not run")
        try:
            return await asyncio.shield(running.acting)
        except asyncio.CancelledError:
            if self._closing or not running.killed:
                raise
            return _CANCELLED

    async def _act(self, running: RunningCall, backend: SandboxBackend) -> ToolReply:
        call, authority = running.call, running.authority
        tool = self._tools.get(call.tool)
        if tool is None:
            known = ", ".join(sorted(self._tools))
            return ToolReply.error(f"there is no tool {call.tool!r}; there are: {known}")
        key = WorkspaceKey(authority.tenant, authority.conversation_id)
        try:
            workspace = await backend.workspace(key)
            context = ToolContext(
                workspace=workspace,
                python=backend.python,
                limits=self._limits(call),
                emit=lambda piece: self._emit(running, piece),
                run=lambda spec: self._run(running, workspace, spec),
            )
            reply = await tool.call(context, call.arguments_json)
            if running.killed:
                return _CANCELLED
            await workspace.save()
        except WorkspaceFullError as error:
            reply = ToolReply.error(f"the workspace was not changed: {error}")
        except UnsafePathError as error:
            reply = ToolReply.error(f"path: {error}")
        except OSError as error:
            what = error.strerror or str(error)
            reply = ToolReply.error(f"{error.filename or call.tool}: {what}")
        except SandboxUnavailableError as error:
            reply = ToolReply.error(f"the sandbox died under the call: {error}")
        except Exception:
            # Recorded all the same: a defect here must not keep the run from going on.
            logger.exception("tool %s failed", call.tool)
            reply = ToolReply.error(f"{call.tool} failed for a reason of its own; see the log")
        return reply

    def _limits(self, call: ToolCall) -> Limits:
        limits = self._rules.limits
        if call.timeout_seconds is None:
            return limits
        return replace(limits, wall_seconds=min(limits.wall_seconds, call.timeout_seconds))

    async def _run(
        self, running: RunningCall, workspace: Workspace, spec: ExecutionSpec
    ) -> Execution:
        environment = dict(spec.environment)
        if running.call.traceparent:
            environment["TRACEPARENT"] = running.call.traceparent
        execution = await workspace.execute(replace(spec, environment=environment))
        running.executions.add(execution)
        if running.killed:
            execution.cancel()
        return execution

    def _emit(self, running: RunningCall, piece: Output) -> None:
        running.output.append(piece)
        running.tell()
        self._audience.publish(running.authority, running.call, piece)

    def fence_raised(self, tenant: str, run_id: str, fence: int) -> None:
        """Kills the run's calls under lower fences."""
        for key, running in list(self._calls.items()):
            if key[:2] == (tenant, run_id) and running.authority.fence < fence:
                logger.info("call %s of %s is killed: its fence was raised", key[3], key[1])
                running.kill()
                self._forget(key, running)

    def _forget(self, key: Key, running: RunningCall) -> None:
        if self._calls.get(key) is running:
            del self._calls[key]

    def _forget_old(self) -> None:
        """Unrecorded calls are kept for the run's next worker, but not for ever."""
        oldest = time.monotonic() - _KEEP_UNRECORDED_SECONDS
        for key, running in list(self._calls.items()):
            tasks = (running.recording, running.acting)
            over = all(task is None or task.done() for task in tasks)
            if over and running.touched_at < oldest:
                del self._calls[key]

    async def close(self) -> None:
        """Kills what runs. Nothing of it is recorded: the step stays claimed, as after a crash."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for running in self._calls.values():
            running.kill()
        self._calls.clear()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_CLOSE_SECONDS)
