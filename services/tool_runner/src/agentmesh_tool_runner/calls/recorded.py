"""Tool calls of runs: each is one recorded step, carried out at most once at a time.

The order is claim, act, upload what the call changed in the workspace, record both. A call whose
step is recorded already answers with its record. A call that another attempt claimed and never
recorded is joined if it still runs here, repeated if its tool is safe to repeat, and otherwise
recorded as of unknown outcome.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from agentmesh_tool_runner.generations.manifest import Change
from agentmesh_tool_runner.sandbox.model import SandboxUnavailableError
from agentmesh_tool_runner.tools.reply import ReplyOutcome, ToolReply

from .effects import CANCELLED, Effects
from .running import RunningCall
from .steps import (
    Authority,
    CallEnd,
    Claim,
    ClaimState,
    Key,
    Ledger,
    StaleFenceError,
    ToolCall,
)

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_KEEP_UNRECORDED_SECONDS: Final = 600.0
_ASK_AGAIN_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 10.0
_UNKNOWN_TEXT: Final = (
    "The call was started before and its outcome is not known: the process that ran it died. It is "
    "not repeated, for that could do its work twice. Look at the workspace before you go on."
)


class ToolCalls:
    """Carries out the calls of all runs."""

    def __init__(self, effects: Effects, ledger: Ledger, process_id: str) -> None:
        """`process_id`, unique per start of this service, is part of the ids of attempts."""
        self._effects = effects
        self._ledger = ledger
        self._process_id = process_id
        self._calls: dict[Key, RunningCall] = {}
        self._attempt_numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def begin(self, authority: Authority, call: ToolCall) -> RunningCall:
        """Starts the call, or joins the same call where it runs already; see `end`.

        Raises SandboxUnavailableError if it needs a sandbox and there is none, before anything is
        claimed, and StaleFenceError if somebody under a higher fence has begun it.
        """
        self._effects.insist_on_sandbox(call)
        if self._closing:
            raise SandboxUnavailableError("the service is being stopped")
        self._forget_old()
        key = (authority.tenant, authority.run_id, call.turn, call.tool_call_id)
        running = self._calls.get(key)
        if running is not None:
            if authority.fence < running.authority.fence:
                raise StaleFenceError(key[1], authority.fence, running.authority.fence)
            if running.call.digest == call.digest and not running.killed:
                self._join(key, running, authority)
                return running
            self._forget(key, running)
        attempt = f"{self._process_id}:{next(self._attempt_numbers)}"
        running = self._calls[key] = RunningCall(call, authority, attempt)
        running.recording = self._start(self._carry_out(key, running))
        return running

    def _join(self, key: Key, running: RunningCall, authority: Authority) -> None:
        running.touched_at = time.monotonic()
        raised = authority.fence > running.authority.fence
        running.authority = authority
        if raised or (running.recording is not None and running.recording.done()):
            running.recording = self._start(self._carry_out(key, running))

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

    async def _carry_out(self, key: Key, running: RunningCall) -> CallEnd:
        """Claims the call, starts its effect unless that has begun before, and records its reply.

        Runs once for each worker that wants the call, and fails alone: what acts goes on.
        """
        # One claim at a time: what becomes of an earlier one decides whether to take it over.
        async with running.claiming:
            claim = await self._claim(running)
            if claim.reply is not None:
                running.replayed = not running.begun
            elif not running.begun:
                self._begin_effect(running, claim)
        running.started.set()
        running.tell()
        if claim.reply is not None:
            self._forget(key, running)
            return CallEnd(claim.reply, 0, replayed=True)
        running.reply = await self._reply_of(running)
        running.touched_at = time.monotonic()
        sequence = await self._record(running)
        self._forget(key, running)
        return CallEnd(running.reply, sequence, replayed=False)

    async def _claim(self, running: RunningCall) -> Claim:
        """An orphan that never ran here is taken over only if its tool is safe to repeat."""
        call, authority, attempt = running.call, running.authority, running.attempt
        repeat = self._effects.is_safe_to_repeat(call)
        claim = await self._ledger.claim(authority, call, attempt, take_over=running.begun)
        if claim.state is ClaimState.ORPHANED and repeat:
            claim = await self._ledger.claim(authority, call, attempt, take_over=True)
        return claim

    def _begin_effect(self, running: RunningCall, claim: Claim) -> None:
        if running.killed:
            running.reply = CANCELLED
        elif claim.state is ClaimState.ORPHANED:
            running.reply = ToolReply(ReplyOutcome.UNKNOWN, _UNKNOWN_TEXT)
        else:
            running.files = claim.files
            running.acting = self._start(self._effects.act(running))

    async def _record(self, running: RunningCall) -> int:
        if self._closing:
            raise RuntimeError("nothing is recorded while the service stops")

        async def write(reply: ToolReply, change: Change | None) -> tuple[int, int]:
            return await self._ledger.record(running.authority, running.call, reply, change)

        return await self._effects.record(running, write)

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
            return CANCELLED

    def fence_raised(self, tenant: str, run_id: str, fence: int) -> None:
        """Kills the run's calls under lower fences."""
        for key, running in list(self._calls.items()):
            if key[:2] == (tenant, run_id) and running.authority.fence < fence:
                logger.info("call %s of %s is killed: its fence was raised", key[3], key[1])
                running.kill()
                self._effects.give_up(running)
                self._forget(key, running)

    async def end_what_is_stale_by_and_by(self) -> None:
        """For ever. The watch of fences tells at once, but only what was raised while it stands or
        within the minute before: this finds what a longer silence hid."""
        while True:
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
            try:
                await self.end_what_is_stale()
            except Exception as error:
                logger.debug("the store did not say what is stale: %s", error)

    async def end_what_is_stale(self) -> None:
        """Asks the store about each call that runs, and forgets those that nobody came to record.

        Errors of the store pass through.
        """
        self._forget_old()
        for running in list(self._calls.values()):
            if not running.begun or running.reply is not None:
                continue
            authority = running.authority
            if await self._ledger.is_stale(authority, running.call, running.attempt):
                self.fence_raised(authority.tenant, authority.run_id, authority.fence + 1)

    def _forget(self, key: Key, running: RunningCall) -> None:
        running.stay.close()
        if self._calls.get(key) is running:
            del self._calls[key]

    def _forget_old(self) -> None:
        """Unrecorded calls are kept for the run's next worker, but not for ever."""
        oldest = time.monotonic() - _KEEP_UNRECORDED_SECONDS
        for key, running in list(self._calls.items()):
            tasks = (running.recording, running.acting)
            over = all(task is None or task.done() for task in tasks)
            if over and running.touched_at < oldest:
                self._forget(key, running)

    async def close(self) -> None:
        """Kills what runs. Nothing of it is recorded: the step stays claimed, as after a crash."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        for key, running in list(self._calls.items()):
            running.kill()
            self._forget(key, running)
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_CLOSE_SECONDS)
