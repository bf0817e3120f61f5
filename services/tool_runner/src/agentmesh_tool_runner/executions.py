"""Executions by id: items are numbered and kept for a while, so that readers can come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from .sandbox.backend import Execution, Outcome, Output

_KEEP_SECONDS: Final = 300.0
_MAX_FINISHED: Final = 256


@dataclass(frozen=True)
class Started:
    """First item: the execution runs."""

    execution_id: str


@dataclass(frozen=True)
class Truncated:
    """Output was cut off after so many bytes."""

    kept_bytes: int


@dataclass(frozen=True)
class Finished:
    """Last item."""

    outcome: Outcome


Item: TypeAlias = Started | Output | Truncated | Finished


class OutputRemovedError(Exception):
    """The wanted chunk lies beyond what there will ever be."""


class UnknownExecutionError(Exception):
    """No execution has this id; it may have ended long ago."""


@dataclass
class ExecutionLog:
    """All items of one execution, bounded by its output limit, for any number of readers."""

    execution_id: str
    execution: Execution | None = None
    items: list[Item] = field(default_factory=list)
    finished_at: float | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def append(self, item: Item) -> None:
        """Adds an item and wakes the readers; a Finished is the last one."""
        self.items.append(item)
        if isinstance(item, Finished):
            self.finished_at = time.monotonic()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, first: int, *, patience: float) -> AsyncIterator[tuple[int, Item] | None]:
        """Numbered items from `first` on; None whenever `patience` seconds brought none.

        Raises OutputRemovedError if the log ends before `first`.
        """
        at = first
        while True:
            while at < len(self.items):
                yield at, self.items[at]
                at += 1
            if self.finished_at is not None:
                if first > len(self.items):
                    raise OutputRemovedError(f"there are {len(self.items)} chunks")
                return
            changed = self._changed
            try:
                async with asyncio.timeout(patience):
                    await changed.wait()
            except TimeoutError:
                yield None


class ExecutionRegistry:
    """Logs by tenant and id."""

    def __init__(self) -> None:
        self._logs: dict[tuple[str, str], ExecutionLog] = {}

    def find(self, tenant: str, execution_id: str) -> ExecutionLog:
        """Raises UnknownExecutionError for another tenant's too."""
        log = self._logs.get((tenant, execution_id))
        if log is None:
            raise UnknownExecutionError(execution_id)
        return log

    def open(self, tenant: str, execution_id: str) -> ExecutionLog:
        """A new log. The id must not be in use."""
        self._forget_old()
        log = self._logs[tenant, execution_id] = ExecutionLog(execution_id)
        return log

    def discard(self, tenant: str, execution_id: str) -> None:
        """Forgets an execution that could not be started."""
        self._logs.pop((tenant, execution_id), None)

    def _forget_old(self) -> None:
        finished = sorted(
            (log.finished_at, key) for key, log in self._logs.items() if log.finished_at is not None
        )
        oldest = time.monotonic() - _KEEP_SECONDS
        surplus = len(finished) - _MAX_FINISHED
        for position, (finished_at, key) in enumerate(finished):
            if finished_at < oldest or position < surplus:
                del self._logs[key]


async def follow(log: ExecutionLog, execution: Execution) -> Outcome:
    """Writes an execution into its log, to its end; returns how it ended."""
    log.execution = execution
    log.append(Started(log.execution_id))
    kept = 0
    async for piece in execution.output():
        kept += len(piece.data)
        log.append(piece)
    outcome = await execution.outcome()
    if outcome.output_truncated:
        log.append(Truncated(kept))
    log.append(Finished(outcome))
    return outcome
