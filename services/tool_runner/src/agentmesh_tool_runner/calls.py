"""Tool calls of runs: each is one recorded step, carried out at most once at a time.

The order is claim, act, save the workspace, record. A call whose step is recorded already answers
with its record. A call that another attempt claimed and never recorded is joined if it still runs
here, repeated if its tool is safe to repeat, and otherwise recorded as of unknown outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Protocol, TypeAlias

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

_KEEP_UNRECORDED_SECONDS: Final = 600.0
_UNKNOWN_TEXT: Final = (
    "The call was started before and its outcome is not known: the process that ran it died. It is "
    "not repeated, for that could do its work twice. Look at the workspace before you go on."
)


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
    """A call on its way. Output is kept for those who join later."""

    call: ToolCall
    authority: Authority
    output: list[Output] = field(default_factory=list)
    replayed: bool = False
    executions: set[Execution] = field(default_factory=set)
    acting: asyncio.Task[ToolReply] | None = None
    reply: ToolReply | None = None
    recording: asyncio.Task[CallEnd] | None = None
    killed: bool = False
    touched_at: float = field(default_factory=time.monotonic)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    listeners: set[Callable[[], None]] = field(default_factory=set)

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
        self._attempts: dict[Key, str] = {}
        self._attempt_numbers = itertools.count(1)

    def begin(self, authority: Authority, call: ToolCall) -> RunningCall:
        """Starts the call, or joins the same call where it runs already; see `end`.

        Raises SandboxUnavailableError where no code may run, before anything is claimed.
        """
        backend = self._backend()
        self._forget_old()
        key = (authority.tenant, authority.run_id, call.turn, call.tool_call_id)
        running = self._calls.get(key)
        if running is not None and running.call.digest == call.digest and not running.killed:
            self._join(running, authority)
            return running
        running = self._calls[key] = RunningCall(call, authority)
        running.recording = asyncio.create_task(self._carry_out(key, running, backend))
        return running

    def _join(self, running: RunningCall, authority: Authority) -> None:
        running.touched_at = time.monotonic()
        if authority.fence < running.authority.fence:
            return
        raised = authority.fence > running.authority.fence
        running.authority = authority
        if raised or (running.recording is not None and running.recording.done()):
            # Claims anew under the new fence; what ran goes on, or has its result already.
            previous = running.recording
            running.recording = asyncio.create_task(self._record_again(running, previous))

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
        try:
            claim = await self._claim(running, key)
            if claim.reply is not None:
                running.replayed = True
                return CallEnd(claim.reply, 0, replayed=True)
            running.started.set()
            running.tell()
            if claim.state is ClaimState.ORPHANED:
                running.reply = ToolReply(ReplyOutcome.UNKNOWN, _UNKNOWN_TEXT)
            else:
                running.acting = asyncio.create_task(self._act(running, backend))
                running.reply = await self._reply_of(running)
            return await self._record(key, running)
        except BaseException:
            if running.reply is None:
                self._calls.pop(key, None)
            raise
        finally:
            running.started.set()
            running.tell()

    async def _claim(self, running: RunningCall, key: Key) -> Claim:
        """Claims under an attempt of its own, or the last one's whose claim was never answered."""
        attempt = self._attempts.pop(key, None) or self._new_attempt()
        call, authority = running.call, running.authority
        tool = self._tools.get(call.tool)
        repeat = tool is None or tool.safe_to_repeat
        try:
            claim = await self._ledger.claim(authority, call, attempt, take_over=False)
            if claim.state is ClaimState.ORPHANED and repeat:
                claim = await self._ledger.claim(authority, call, attempt, take_over=True)
        except BaseException:
            # Nothing has run: the store may take the same claim again for the same attempt.
            self._attempts[key] = attempt
            raise
        if claim.state is ClaimState.RECORDED:
            self._calls.pop(key, None)
        return claim

    def _new_attempt(self) -> str:
        return f"{self._rules.process_id}:{next(self._attempt_numbers)}"

    async def _record(self, key: Key, running: RunningCall) -> CallEnd:
        if running.reply is None:
            raise RuntimeError("there is nothing to record yet")
        sequence = await self._ledger.record(running.authority, running.call, running.reply)
        self._calls.pop(key, None)
        return CallEnd(running.reply, sequence, replayed=False)

    async def _record_again(
        self, running: RunningCall, previous: asyncio.Task[CallEnd] | None
    ) -> CallEnd:
        """Takes the claim over for a newer fence, waits for the result, records it under that."""
        authority = running.authority
        key = (authority.tenant, authority.run_id, running.call.turn, running.call.tool_call_id)
        attempt = self._new_attempt()
        claim = await self._ledger.claim(authority, running.call, attempt, take_over=True)
        if claim.reply is not None:
            self._calls.pop(key, None)
            return CallEnd(claim.reply, 0, replayed=True)
        if previous is not None:
            with contextlib.suppress(Exception):
                # Refused under its old fence, if the result came before this claim.
                await asyncio.shield(previous)
        return await self._record(key, running)

    async def _reply_of(self, running: RunningCall) -> ToolReply:
        if running.acting is None:
            raise RuntimeError("the call does not run")
        try:
            return await running.acting
        except asyncio.CancelledError:
            if not running.killed:
                raise
            return ToolReply(ReplyOutcome.CANCELLED, "The call was cancelled.")

    async def _act(self, running: RunningCall, backend: SandboxBackend) -> ToolReply:
        call, authority = running.call, running.authority
        tool = self._tools.get(call.tool)
        if tool is None:
            known = ", ".join(sorted(self._tools))
            return ToolReply.error(f"there is no tool {call.tool!r}; there are: {known}")
        key = WorkspaceKey(authority.tenant, authority.conversation_id)
        workspace = await backend.workspace(key)
        context = ToolContext(
            workspace=workspace,
            python=backend.python,
            limits=self._limits(call),
            emit=lambda piece: self._emit(running, piece),
            run=lambda spec: self._run(running, workspace, spec),
        )
        try:
            reply = await tool.call(context, call.arguments_json)
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
                self._kill(key, running)

    def _kill(self, key: Key, running: RunningCall) -> None:
        logger.info("call %s of %s is killed: its fence was raised", key[3], key[1])
        running.kill()
        self._calls.pop(key, None)

    def _forget_old(self) -> None:
        """Unrecorded results are kept for the run's next worker, but not for ever."""
        oldest = time.monotonic() - _KEEP_UNRECORDED_SECONDS
        for key, running in list(self._calls.items()):
            done = running.recording is not None and running.recording.done()
            if done and running.touched_at < oldest:
                del self._calls[key]

    async def close(self) -> None:
        """Kills what runs."""
        for key, running in list(self._calls.items()):
            self._kill(key, running)
            if running.recording is not None:
                running.recording.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await running.recording
