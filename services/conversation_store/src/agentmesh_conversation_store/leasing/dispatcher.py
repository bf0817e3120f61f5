"""Grants turns to connected runtimes and does what time asks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from meshkit.tasks import ended, stop

from agentmesh_conversation_store.domain.attempts import ReleaseTurn, Retries, Tick
from agentmesh_conversation_store.domain.model import SECOND, EndReason, Micros, Origin, Run
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.turns import NextTurn
from agentmesh_conversation_store.fanout.interface import (
    Fanout,
    FencesRaised,
    NoticesMissed,
    RunsChanged,
)
from agentmesh_conversation_store.storage.interface import GrantedTurn, Storage

from .grace import Grace
from .workers import Granted, Renewed, Worker, Workers

_log = logging.getLogger(__name__)

Mint = Callable[[Run], str]
GRANTS_AT_ONCE = 64
TICKS_AT_ONCE = 500
PRUNE_SECONDS = 300.0
SILENT_RENEWALS = 2.5
"""So many renewals that did not come make a worker one that stands still."""
_SLOW_SECONDS = 0.25
_STANDSTILLS = (Reason.DATABASE_UNAVAILABLE, Reason.STORAGE_FULL)
GRANTED_CHAIN_BYTES = 1 << 20
"""A longer chain of checkpoints is left to the worker to read: many grants are made at once."""


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
        self._workers = Workers(SILENT_RENEWALS * times.renew_every / SECOND)
        self._grace = Grace(times.lease / SECOND, times.sweep + _slow(times.lease / SECOND))
        self._owed: dict[str, Run] = {}
        self._work = asyncio.Event()
        self._draining = False
        self._tasks: list[asyncio.Task[None]] = []
        self._farewells: set[asyncio.Task[None]] = set()
        fanout.listen(RunsChanged, self._hear_runs)
        fanout.listen(FencesRaised, self._hear_fences)
        fanout.listen(NoticesMissed, self._hear_of_a_gap)

    async def start(self) -> None:
        """Begins to grant. Leases end only after one lease period, in which workers return."""
        self._grace.start()
        loops = (self._grant_loop, self._sweep_loop, self._prune_loop)
        self._tasks = [asyncio.create_task(loop(), name=loop.__name__) for loop in loops]

    def drain(self) -> None:
        """Grants nothing any more; leases stay with their workers."""
        self._draining = True

    async def stop(self) -> None:
        """Stops."""
        await stop(*self._tasks)
        await ended(*self._farewells)

    async def connect(self, worker: Worker, held: Iterable[tuple[str, int]]) -> None:
        """Takes a runtime in. Leases that it still holds are kept if they are current."""
        # Until the storage has judged them they take up its places.
        worker.held = dict(held)
        self._workers.add(worker)
        await self.renew(worker, list(worker.held.items()))
        self._work.set()

    def resize(self, worker: Worker, max_turns: int) -> None:
        """The runtime can take another number of turns."""
        self._workers.heard(worker)
        worker.max_turns = max_turns
        self._work.set()

    async def renew(self, worker: Worker, held: list[tuple[str, int]]) -> None:
        """Prolongs leases, and tells the worker of those it lost.

        While nobody can write nothing is said: the leases are as they were, nobody can take
        them, and the worker's next renewal finds the grace that follows.
        """
        self._workers.heard(worker)
        worker.renewing()
        try:
            if not worker.announced:
                await self._storage.open_lease_stream(worker.worker_id, worker.stream_id)
                worker.announced = True
            renewal = await self._storage.renew(worker.worker_id, held, self.times.lease)
        except Rejection as rejection:
            if not _stands_still(rejection):
                raise
            self._grace.lost()
            _log.warning("the leases of %s are not renewed: %s", worker.worker_id, rejection)
            return
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
        farewell = asyncio.create_task(self._end_stream(worker))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def _end_stream(self, worker: Worker) -> None:
        try:
            await self._storage.end_lease_stream(
                worker.worker_id, worker.stream_id, self.times.hand_over
            )
        except Rejection as rejection:
            _log.warning("the leases of %s end in their own time: %s", worker.worker_id, rejection)

    def next_turn(self, run_id: str, fence: int) -> NextTurn | None:
        """Whether the worker that commits a turn may go on with the next one."""
        worker = self._workers.holder(run_id, fence)
        if worker is None or self._draining or len(worker.held) > worker.max_turns:
            return None
        return NextTurn(worker.worker_id, self.times.lease)

    async def granted_turn(self, run: Run, *, with_chain: bool) -> Granted | None:
        """What the worker of a leased run needs, perhaps without its checkpoints; None if the run
        is gone."""
        chain_bytes = GRANTED_CHAIN_BYTES if with_chain else 0
        for turn in await self._storage.granted_turns([run], chain_bytes):
            return Granted(turn, self._mint(turn.run))
        return None

    def _hear_runs(self, notice: RunsChanged) -> None:
        if self._workers.hear_runs(notice.runs):
            self._work.set()

    def _hear_fences(self, notice: FencesRaised) -> None:
        self._workers.hear_fences(notice.fences)
        self._work.set()

    def _hear_of_a_gap(self, notice: NoticesMissed) -> None:
        if notice.conversations is None:
            self._work.set()

    async def _grant_loop(self) -> None:
        """Woken by news; the poll finds what others made runnable, and back-offs that ended."""
        while True:
            # Not wait_for: it loses a cancellation that comes together with the news.
            with suppress(TimeoutError):
                async with asyncio.timeout(self.times.poll):
                    await self._work.wait()
            self._work.clear()
            if not self._draining:
                await self._surviving(self._grant())

    async def _grant(self) -> None:
        await self._push_owed()
        demand = self._workers.demand()
        while demand:
            bounded = _bounded(demand, GRANTS_AT_ONCE)
            runs = await self._storage.grant(bounded, self.times.lease)
            self._owed.update((run.run_id, run) for run in runs)
            await self._push_owed()
            if not runs:
                return
            demand = self._workers.demand()

    async def _push_owed(self) -> None:
        """Sends what was granted. A database that goes away between the grant and the reading of
        what the worker needs is asked again; the leases would run out unseen otherwise."""
        runs = list(self._owed.values())
        if not runs:
            return
        try:
            turns = await self._storage.granted_turns(runs, GRANTED_CHAIN_BYTES)
        except Exception as error:
            if not _stands_still(error):
                self._owed.clear()  # what cannot be read must not stand in the way of the others
            raise
        for turn in turns:
            await self._push(turn)
        there = {turn.run.run_id for turn in turns}
        for run in runs:
            self._owed.pop(run.run_id, None)
            worker = self._workers.get(run.lease_worker)
            if run.run_id not in there and worker is not None:
                worker.lets_go(run.run_id)

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
        while True:
            await asyncio.sleep(self.times.sweep)
            if not self._draining:
                await self._surviving(self._sweep())

    async def _sweep(self) -> None:
        expired = self._grace.is_over
        try:
            due = await self._storage.due(expired=expired, limit=TICKS_AT_ONCE)
        except Rejection as rejection:
            if _stands_still(rejection):
                self._grace.lost()
            raise
        self._grace.answered()
        if expired and not self._grace.is_over:
            return  # the answer was long in coming, and the leases in it with it
        ticks = [Tick(run.tenant, run.conversation_id, run.run_id, self._retries) for run in due]
        await asyncio.gather(*(self._surviving(self._storage.execute(tick)) for tick in ticks))

    async def _prune_loop(self) -> None:
        while True:
            await self._surviving(self._prune())
            await asyncio.sleep(PRUNE_SECONDS)

    async def _prune(self) -> None:
        while await self._storage.prune():
            pass

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


def _slow(lease: float) -> float:
    """How long a database may be silent before it counts as away: it must be too short for a
    lease to end that was renewed in time."""
    return max(_SLOW_SECONDS, lease / 4)


def _stands_still(error: Exception) -> bool:
    """True if nobody can write: the database is away or its disk is full."""
    return isinstance(error, Rejection) and error.reason in _STANDSTILLS


def _bounded(demand: dict[str, int], limit: int) -> dict[str, int]:
    """At most `limit` places, at least one for each worker while there are any."""
    share = max(1, limit // len(demand))
    return {worker_id: min(places, share) for worker_id, places in demand.items()}
