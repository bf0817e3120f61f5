"""Unary calls by several callers at once: how many a second, and how long each one takes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc
import psutil
from meshkit.direct_calls import DirectCalls

from bench.harness.latencies import Latencies

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]
Call = Callable[[], Awaitable[object]]
ByteMethod = Callable[[bytes, Metadata], Awaitable[bytes]]


def byte_method(channel: grpc.aio.Channel, path: str) -> ByteMethod:
    """A unary method whose messages stay bytes, without a task for each call."""
    calls = DirectCalls.of(channel)
    if calls is None:
        public: Any = channel.unary_unary(path)
        return lambda request, metadata: public(request, metadata=metadata)
    method = calls.method(path, None, None)
    return lambda request, metadata: method.begin(None).run(request, metadata)


@dataclass(frozen=True)
class Load:
    """What one round of calls took."""

    rate: float
    """Calls a second."""
    latencies: Latencies


async def load(callers: Sequence[Call], calls: int) -> Load:
    """So many calls, shared by callers that each wait for one before the next."""
    numbers = itertools.count()
    taken: list[float] = []

    async def keep_calling(call: Call) -> None:
        while next(numbers) < calls:
            began = time.perf_counter()
            await call()
            taken.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*map(keep_calling, callers))
    return Load(len(taken) / (time.perf_counter() - began), Latencies.of(taken))


class Processor:
    """Microseconds of processor time that some processes took per call, as far as one was in the
    rounds that were watched: what a busy machine does not change."""

    def __init__(self, **pids: int) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in pids.items()}
        self._taken = dict.fromkeys(pids, 0.0)
        self._calls = 0

    async def watch(self, callers: Sequence[Call], calls: int) -> Load:
        """A round like `load`."""
        before = self._seconds()
        taken = await load(callers, calls)
        for name, seconds in self._seconds().items():
            self._taken[name] += seconds - before[name]
        self._calls += calls
        return taken

    def per_call(self) -> dict[str, int]:
        """By process."""
        return {name: round(seconds / self._calls * 1e6) for name, seconds in self._taken.items()}

    def _seconds(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self._processes.items()}
        return {name: spent.user + spent.system for name, spent in times.items()}


@dataclass(frozen=True)
class Sides:
    """Rounds of both sides, taken in turns."""

    ours: Sequence[Load]
    reference: Sequence[Load]
    processor: dict[str, dict[str, int]]
    """Microseconds per call of each side, by process."""

    def rates(self, loads: Sequence[Load]) -> list[float]:
        """Calls a second of each round."""
        return [load.rate for load in loads]

    @property
    def latencies(self) -> dict[str, dict[str, float]]:
        """Milliseconds of the median round of each side."""
        sides = {"ours": self.ours, "reference": self.reference}
        return {
            name: Latencies.median([load.latencies for load in loads]).rounded()
            for name, loads in sides.items()
        }

    @property
    def p99_ratio(self) -> float:
        """Ours over the reference's."""
        latencies = self.latencies
        return round(latencies["ours"]["p99"] / latencies["reference"]["p99"], 3)


async def take_turns(
    ours: Sequence[Call],
    reference: Sequence[Call],
    *,
    rounds: int,
    calls: int,
    pids: Mapping[str, int],
) -> Sides:
    """Rounds of either side after one of each that does not count."""
    sides = Sides([], [], {})
    for number in range(rounds + 1):
        if number <= 1:  # what is known of the first round is forgotten
            ours_spent, their_spent = Processor(**pids), Processor(**pids)
        theirs = await their_spent.watch(reference, calls)
        mine = await ours_spent.watch(ours, calls)
        print(
            f"round {number}: ours {mine.rate:.0f}/s {mine.latencies.rounded()}, "
            f"reference {theirs.rate:.0f}/s {theirs.latencies.rounded()}",
            flush=True,
        )
        if number:
            sides.ours.append(mine)  # type: ignore[attr-defined]  # built as lists above
            sides.reference.append(theirs)  # type: ignore[attr-defined]  # built as lists above
    sides.processor.update(ours=ours_spent.per_call(), reference=their_spent.per_call())
    return sides
