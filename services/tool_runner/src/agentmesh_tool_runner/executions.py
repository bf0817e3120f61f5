"""Executions by id: items are numbered and kept for a while, so that readers can come back."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from .sandbox.backend import Execution
from .sandbox.model import MIB, Outcome, Output

_KEEP_SECONDS: Final = 300.0
_ITEM_BYTES: Final = 200  # what an item takes beside its data


@dataclass(frozen=True)
class Started:
    """First item: the execution runs."""

    execution_id: str
    fresh_interpreter: bool | None = None
    """Of a stateful one: True if it began without variables of earlier executions."""


@dataclass(frozen=True)
class Truncated:
    """Output was cut off after so many bytes."""

    kept_bytes: int


@dataclass(frozen=True)
class Finished:
    """Last item."""

    outcome: Outcome


Item: TypeAlias = Started | Output | Truncated | Finished


@dataclass(frozen=True)
class BufferBounds:
    """How many bytes of items are kept: of each execution, and of all that have ended."""

    each: int = 4 * MIB
    ended: int = 64 * MIB


class OutputRemovedError(Exception):
    """The wanted chunk has left the buffer, or lies beyond what there is so far."""

    def __init__(self, wanted: int, oldest: int, head: int) -> None:
        super().__init__(f"chunk {wanted} is not kept; there are {oldest} to {head - 1}")
        self.oldest = oldest
        self.head = head


class UnknownExecutionError(Exception):
    """No execution has this id; it may have ended long ago."""


class ExecutionIdInUseError(Exception):
    """Another program was started under this id."""


class ExecutionLog:
    """The newest items of one execution, for any number of readers.

    A reader that holds the execution back is never left behind: the program waits for it.
    """

    def __init__(
        self,
        execution_id: str,
        fingerprint: bytes = b"",
        bound: int = BufferBounds.each,
        on_end: Callable[[ExecutionLog], None] | None = None,
    ) -> None:
        """`fingerprint` tells its program from others; `on_end` is told of its end, once."""
        self.execution_id = execution_id
        self.fingerprint = fingerprint
        self.execution: Execution | None = None
        self.finished_at: float | None = None
        self.kept_bytes = 0
        self._bound = bound
        self._on_end = on_end
        self._oldest = 0
        self._items: deque[Item] = deque()
        self._holders: dict[int, int] = {}
        self._holder_numbers = itertools.count()
        self._changed = asyncio.Event()
        self._moved = asyncio.Event()
        self._failure: BaseException | None = None

    @property
    def head(self) -> int:
        """The number that the next item will have."""
        return self._oldest + len(self._items)

    def append(self, item: Item) -> None:
        """Adds an item and wakes the readers; a Finished is the last one."""
        self._items.append(item)
        self.kept_bytes += _size(item)
        while self.kept_bytes > self._bound and len(self._items) > 1:
            self.kept_bytes -= _size(self._items.popleft())
            self._oldest += 1
        if isinstance(item, Finished):
            self._end()
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Tells whoever reads that the execution could not be started, or is lost."""
        self._failure = (
            error if isinstance(error, Exception) else UnknownExecutionError(self.execution_id)
        )
        self._end()
        self._wake()

    def _end(self) -> None:
        self.finished_at = time.monotonic()
        told, self._on_end = self._on_end, None
        if told is not None:
            told(self)

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def room(self, item: Item) -> None:
        """Waits until the item can be added without leaving behind whoever holds back."""
        while self._holders and self._needed(item) > min(self._holders.values()):
            self._moved.clear()
            await self._moved.wait()

    def _needed(self, item: Item) -> int:
        """The oldest chunk that is still there when the item has been added."""
        oldest, kept = self._oldest, self.kept_bytes + _size(item)
        for each in self._items:
            if kept <= self._bound:
                break
            kept -= _size(each)
            oldest += 1
        return oldest

    async def read(
        self, first: int, *, patience: float, holds_back: bool = False
    ) -> AsyncGenerator[tuple[int, Item] | None]:
        """Numbered items from `first` on; None whenever `patience` seconds brought none.

        Raises OutputRemovedError if there is no such item, or a reader that does not hold back
        was left behind; and what kept the execution from being started.
        """
        holder = next(self._holder_numbers)
        at = first
        try:
            while True:
                if not self._oldest <= at <= self.head:
                    raise OutputRemovedError(at, self._oldest, self.head)
                while self._oldest <= at < self.head:
                    if holds_back:
                        self._hold(holder, at)
                    yield at, self._items[at - self._oldest]
                    at += 1
                if at < self._oldest:
                    continue
                if self._failure is not None:
                    raise self._failure
                if self.finished_at is not None:
                    return
                if holds_back:
                    self._hold(holder, at)
                changed = self._changed
                try:
                    async with asyncio.timeout(patience):
                        await changed.wait()
                except TimeoutError:
                    yield None
        finally:
            self._holders.pop(holder, None)
            self._moved.set()

    def _hold(self, holder: int, at: int) -> None:
        self._holders[holder] = at
        self._moved.set()


def _size(item: Item) -> int:
    return _ITEM_BYTES + (len(item.data) if isinstance(item, Output) else 0)


class ExecutionRegistry:
    """Logs by tenant and id."""

    def __init__(self, bounds: BufferBounds | None = None) -> None:
        self._bounds = bounds or BufferBounds()
        self._logs: dict[tuple[str, str], ExecutionLog] = {}
        self._ended: OrderedDict[tuple[str, str], ExecutionLog] = OrderedDict()
        self._ended_bytes = 0

    def find(self, tenant: str, execution_id: str) -> ExecutionLog:
        """Raises UnknownExecutionError for another tenant's too."""
        log = self._logs.get((tenant, execution_id))
        if log is None:
            raise UnknownExecutionError(execution_id)
        return log

    def open(self, tenant: str, execution_id: str, fingerprint: bytes) -> ExecutionLog:
        """A new log. The id must not be in use."""
        self._forget_old()
        key = tenant, execution_id
        log = ExecutionLog(execution_id, fingerprint, self._bounds.each, partial(self._keep, key))
        self._logs[key] = log
        return log

    def discard(self, tenant: str, execution_id: str) -> None:
        """Forgets an execution that could not be started."""
        self._logs.pop((tenant, execution_id), None)

    def _keep(self, key: tuple[str, str], log: ExecutionLog) -> None:
        """Those that have ended stand in the order of their ends."""
        if self._logs.get(key) is log:
            self._ended[key] = log
            self._ended_bytes += log.kept_bytes

    def _forget_old(self) -> None:
        """Those that ended long ago; and the ones that ended first, where there is too much."""
        oldest = time.monotonic() - _KEEP_SECONDS
        while self._ended:
            key, log = next(iter(self._ended.items()))
            late = log.finished_at is not None and log.finished_at >= oldest
            if late and self._ended_bytes <= self._bounds.ended:
                return
            del self._ended[key], self._logs[key]
            self._ended_bytes -= log.kept_bytes


async def follow(
    log: ExecutionLog,
    execution: Execution,
    settle: Callable[[Outcome], Awaitable[Outcome]] | None = None,
) -> Outcome:
    """Writes an execution into its log, to its end; returns how it ended.

    What `settle` does comes before the end is told, and it may say something else of it. It does so
    as soon as the execution has ended, however far whoever reads its output is behind.
    """
    log.execution = execution
    log.append(Started(log.execution_id, execution.fresh_interpreter))
    settling = asyncio.create_task(_settled(execution, settle))
    try:
        kept = 0
        async for piece in execution.output():
            kept += len(piece.data)
            await log.room(piece)
            log.append(piece)
        outcome = await settling
    finally:
        settling.cancel()
    if outcome.output_truncated:
        log.append(Truncated(kept))
    log.append(Finished(outcome))
    return outcome


async def _settled(
    execution: Execution, settle: Callable[[Outcome], Awaitable[Outcome]] | None
) -> Outcome:
    outcome = await execution.outcome()
    return outcome if settle is None else await settle(outcome)
