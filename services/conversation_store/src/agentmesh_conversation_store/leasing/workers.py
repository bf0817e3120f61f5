"""The runtimes that are connected, and the leases they hold as far as this replica knows."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from meshkit.ids import new_id

from agentmesh_conversation_store.domain.model import Instant, RaisedFence, RunStatus
from agentmesh_conversation_store.fanout.interface import ChangedRun
from agentmesh_conversation_store.storage.interface import GrantedTurn, LostLease


@dataclass(frozen=True, slots=True)
class Granted:
    """A turn to take, with the capability to take it."""

    turn: GrantedTurn
    capability: str


@dataclass(frozen=True, slots=True)
class Renewed:
    """Leases live until then."""

    until: Instant


@dataclass(frozen=True, slots=True)
class Replaced:
    """The same worker opened another stream: this one is over."""


Message = Granted | Renewed | LostLease | Replaced


@dataclass(eq=False)
class Worker:
    """One runtime on its stream. `held` maps runs to the fences of their leases; `announced` says
    whether the storage knows of the stream, `heard_at` when it last said anything."""

    worker_id: str
    max_turns: int
    stream_id: str = field(default_factory=lambda: new_id("stream"))
    announced: bool = False
    heard_at: float = field(default_factory=time.monotonic)
    held: dict[str, int] = field(default_factory=dict)
    outbox: asyncio.Queue[Message] = field(default_factory=asyncio.Queue)
    _fresh: set[str] = field(default_factory=set)
    _gone: set[str] = field(default_factory=set)

    @property
    def free(self) -> int:
        """How many more turns it can take."""
        return max(0, self.max_turns - len(self.held))

    def push(self, message: Message) -> None:
        """Sends it as soon as the stream can."""
        self.outbox.put_nowait(message)

    def granted(self, run_id: str, fence: int) -> None:
        """It holds a lease that it may not know of yet."""
        self.held[run_id] = fence
        self._fresh.add(run_id)
        self._gone.discard(run_id)

    def renewing(self) -> None:
        """A renewal is on its way to the storage; what ends meanwhile it cannot know."""
        self._gone.clear()

    def holds(self, renewed: Iterable[tuple[str, int]]) -> None:
        """What it says it holds is true, but for grants that are on their way."""
        fresh = {run_id: self.held[run_id] for run_id in self._fresh if run_id in self.held}
        self._fresh.clear()
        kept = {run_id: fence for run_id, fence in renewed if run_id not in self._gone}
        self.held = {**kept, **fresh}

    def lets_go(self, run_id: str) -> None:
        """It holds the lease no more."""
        self.held.pop(run_id, None)
        self._fresh.discard(run_id)
        self._gone.add(run_id)


class Workers:
    """Runtimes by their id. One that says nothing for `silence` seconds, or that let a lease run
    out, gets no more turns until it speaks: it may stand still while its stream is open."""

    def __init__(
        self, silence: float = math.inf, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._silence = silence
        self._clock = clock
        self._by_id: dict[str, Worker] = {}

    def add(self, worker: Worker) -> None:
        """Connects; an older stream of the same worker is told to end."""
        older = self._by_id.get(worker.worker_id)
        if older is not None:
            older.push(Replaced())
        self._by_id[worker.worker_id] = worker

    def remove(self, worker: Worker) -> bool:
        """Disconnects; False if the worker is back on another stream already."""
        if self._by_id.get(worker.worker_id) is not worker:
            return False
        del self._by_id[worker.worker_id]
        return True

    def get(self, worker_id: str) -> Worker | None:
        """The worker, if it is connected here."""
        return self._by_id.get(worker_id)

    def holder(self, run_id: str, fence: int) -> Worker | None:
        """Who holds this lease, if it is connected here."""
        for worker in self._by_id.values():
            if worker.held.get(run_id) == fence:
                return worker
        return None

    def heard(self, worker: Worker) -> None:
        """It said something."""
        worker.heard_at = self._clock()

    def demand(self) -> dict[str, int]:
        """Free places by worker."""
        since = self._clock() - self._silence
        return {
            worker.worker_id: worker.free
            for worker in self._by_id.values()
            if worker.free and worker.heard_at > since
        }

    def hear_runs(self, runs: Sequence[ChangedRun]) -> bool:
        """Keeps up with what was committed; true if there may be something to grant."""
        work = False
        for run in runs:
            work = self._hear_run(run) or work
        return work

    def _hear_run(self, run: ChangedRun) -> bool:
        if run.status is RunStatus.LEASED:
            worker = self._by_id.get(run.lease_worker)
            # What another replica granted may be heard after what this one granted later.
            if worker is not None and worker.held.get(run.run_id, 0) < run.fence:
                worker.granted(run.run_id, run.fence)
            return False
        freed = False
        for worker in self._by_id.values():
            fence = worker.held.get(run.run_id)
            if fence is None or fence > run.fence:
                continue
            worker.lets_go(run.run_id)
            freed = True
            if run.lease_worker == worker.worker_id and fence == run.fence:
                worker.push(LostLease(run.run_id, fence + 1, "expired"))
                worker.heard_at = -math.inf
        return freed or run.status is RunStatus.RUNNABLE

    def hear_fences(self, fences: Sequence[RaisedFence]) -> None:
        """Tells workers at once of leases that were taken from them."""
        for raised in fences:
            worker = self._by_id.get(raised.worker_id)
            if worker is not None and worker.held.get(raised.run_id, 0) < raised.fence:
                worker.lets_go(raised.run_id)
                worker.push(LostLease(raised.run_id, raised.fence, raised.reason))
