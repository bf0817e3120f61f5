"""Grants turns to connected runtimes and does what time asks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from agentmesh_conversation_store.domain.model import SECOND, EndReason, Micros, Origin, Run
from agentmesh_conversation_store.domain.rejections import Rejection
from agentmesh_conversation_store.domain.turns import NextTurn, ReleaseTurn, Retries, Tick
from agentmesh_conversation_store.fanout.interface import Fanout, FencesRaised, Notice, RunsChanged
from agentmesh_conversation_store.storage.interface import GrantedTurn, Storage

from .workers import Granted, Renewed, Worker, Workers

_log = logging.getLogger(__name__)

Mint = Callable[[Run], str]
GRANTS_AT_ONCE = 64
TICKS_AT_ONCE = 500
PRUNE_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How leases work. `hand_over` is what a broken stream leaves of them."""

    lease: Micros
    renew_every: Micros
    hand_over: Micros
    poll: float
    sweep: float


class Dispatcher:
    """One per replica. The queue itself lies in the storage, so that any replica may grant."""

    def __init__(
        self,
        storage: Storage,
        fanout: Fanout,
        mint: Mint,
        times: LeaseTimes,
        retries: Retries,
    ) -> None:
        self.times = times
        self._storage = storage
        self._mint = mint
        self._retries = retries
        self._workers = Workers()
        self._work = asyncio.Event()
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._farewells: set[asyncio.Task[None]] = set()
        fanout.listen(self._hear)

    async def start(self) -> None:
        """Begins to grant. Leases end only after one lease period, in which workers return."""
        loops = (self._grant_loop, self._sweep_loop, self._prune_loop)
        self._tasks = [asyncio.create_task(loop(), name=loop.__name__) for loop in loops]

    def drain(self) -> None:
        """Grants nothing any more; leases stay with their workers."""
        self._draining = True

    async def stop(self) -> None:
        """Stops."""
        for task in self._tasks:
            task.cancel()
        for task in [*self._tasks, *self._farewells]:
            with suppress(asyncio.CancelledError):
                await task

    async def connect(self, worker: Worker, held: Iterable[tuple[str, int]]) -> None:
        """Takes a runtime in. Leases that it still holds are kept if they are current."""
        self._workers.add(worker)
        await self.renew(worker, list(held))
        self._work.set()

    def resize(self, worker: Worker, max_turns: int) -> None:
        """The runtime can take another number of turns."""
        worker.max_turns = max_turns
        self._work.set()

    async def renew(self, worker: Worker, held: list[tuple[str, int]]) -> None:
        """Prolongs leases, and tells the worker of those it lost."""
        worker.renewing()
        renewal = await self._storage.renew(worker.worker_id, held, self.times.lease)
        worker.holds(renewal.kept)
        worker.push(Renewed(renewal.until))
        for lease in renewal.lost:
            worker.push(lease)
        if worker.free:
            self._work.set()

    def disconnect(self, worker: Worker) -> None:
        """The stream broke: its turns go to others soon, unless the worker is back by then."""
        if not self._workers.remove(worker) or self._draining:
            return
        farewell = asyncio.create_task(self._shorten(worker.worker_id))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def _shorten(self, worker_id: str) -> None:
        try:
            await self._storage.shorten(worker_id, self.times.hand_over)
        except Rejection as rejection:
            _log.warning("the leases of %s end in their own time: %s", worker_id, rejection)

    def next_turn(self, run_id: str, fence: int) -> NextTurn | None:
        """Whether the worker that commits a turn may go on with the next one."""
        worker = self._workers.holder(run_id, fence)
        if worker is None or self._draining or len(worker.held) > worker.max_turns:
            return None
        return NextTurn(worker.worker_id, self.times.lease)

    async def granted_turn(self, run: Run) -> Granted:
        """What the worker of a leased run needs."""
        (turn,) = await self._storage.granted_turns([run])
        return Granted(turn, self._mint(turn.run))

    def _hear(self, notice: Notice) -> None:
        if isinstance(notice, RunsChanged):
            if self._workers.hear_runs(notice.runs):
                self._work.set()
        elif isinstance(notice, FencesRaised):
            self._workers.hear_fences(notice.fences)
            self._work.set()

    async def _grant_loop(self) -> None:
        """Woken by news; the poll finds what others made runnable, and back-offs that ended."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._work.wait(), self.times.poll)
            self._work.clear()
            if not self._draining:
                await self._surviving(self._grant())

    async def _grant(self) -> None:
        demand = self._workers.demand()
        while demand:
            bounded = _bounded(demand, GRANTS_AT_ONCE)
            runs = await self._storage.grant(bounded, self.times.lease)
            if not runs:
                return
            turns = await self._storage.granted_turns(runs)
            for turn in turns:
                await self._push(turn)
            demand = self._workers.demand()

    async def _push(self, turn: GrantedTurn) -> None:
        run = turn.run
        worker = self._workers.get(run.lease_worker)
        if worker is not None:
            worker.push(Granted(turn, self._mint(run)))
            return
        release = ReleaseTurn(
            run.tenant,
            run.conversation_id,
            run.run_id,
            run.fence,
            run.turn + 1,
            failed=False,
            detail="the worker left",
            reason=EndReason.NONE,
            retry_after=0,
            retries=self._retries,
            origin=Origin.STORE,
        )
        with suppress(Rejection):
            await self._storage.execute(release)

    async def _sweep_loop(self) -> None:
        loop = asyncio.get_running_loop()
        grace_ends = loop.time() + self.times.lease / SECOND
        while True:
            await asyncio.sleep(self.times.sweep)
            if not self._draining:
                await self._surviving(self._sweep(expired=loop.time() >= grace_ends))

    async def _sweep(self, *, expired: bool) -> None:
        due = await self._storage.due(expired=expired, limit=TICKS_AT_ONCE)
        ticks = [Tick(run.tenant, run.conversation_id, run.run_id, self._retries) for run in due]
        await asyncio.gather(*(self._surviving(self._storage.execute(tick)) for tick in ticks))

    async def _prune_loop(self) -> None:
        while True:
            await self._surviving(self._storage.prune())
            await asyncio.sleep(PRUNE_SECONDS)

    async def _surviving(self, work: Awaitable[object]) -> None:
        """The queue must go on whatever one round of it ran into."""
        try:
            await work
        except Rejection as rejection:
            _log.warning("the queue waits: %s", rejection)
            await asyncio.sleep(self.times.poll)
        except Exception:
            _log.exception("a round of the queue failed")
            await asyncio.sleep(self.times.poll)


def _bounded(demand: dict[str, int], limit: int) -> dict[str, int]:
    """At most `limit` places, at least one for each worker while there are any."""
    share = max(1, limit // len(demand))
    return {worker_id: min(places, share) for worker_id, places in demand.items()}
