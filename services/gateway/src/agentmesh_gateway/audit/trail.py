"""Takes audit records to the store, in batches, without ever holding up the calls they are of."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

import grpc
from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb
from meshkit.ids import new_id
from meshkit.tasks import stop

Append = Callable[[Sequence[pb.AuditRecord]], Awaitable[None]]
"""Keeps records, each once however often it comes. Raises grpc.aio.AioRpcError."""

logger = logging.getLogger(__name__)

GAP = "GAP"
"""The code of a record that stands for others, which were lost."""

_RECORDS = "records:"
_BATCH = 500
_LAST_WORDS_SECONDS = 5.0


class AuditTrail:
    """A bounded queue, taken to the store every second, or earlier if somebody waits for it.

    If the store cannot keep up, the newest records are dropped and counted; a record with the code
    GAP says how many of which tenant.
    """

    def __init__(self, append: Append, *, every: float = 1.0, most: int = 10_000) -> None:
        self._append = append
        self._every = every
        self._most = most
        self._queue: deque[pb.AuditRecord] = deque()
        self._urgent: list[tuple[pb.AuditRecord, asyncio.Future[None]]] = []
        self._lost: Counter[str] = Counter()
        self._gaps: list[pb.AuditRecord] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._run(), name="audit-trail")

    async def stop(self) -> None:
        """Takes what is left to the store, if it answers in time."""
        if self._task is not None:
            await stop(self._task)
        try:
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                while self._queue or self._lost or self._gaps or self._urgent:
                    await self._flush()
        except (TimeoutError, grpc.aio.AioRpcError) as error:
            left = len(self._queue) + self._lost.total() + sum(map(_count, self._gaps))
            why = (
                error.details() if isinstance(error, grpc.aio.AioRpcError) else "no answer in time"
            )
            logger.error("%d audit records were lost: %s", left, why)

    def add(self, record: pb.AuditRecord) -> None:
        """Sooner or later `record` is kept, or counted as lost."""
        if len(self._queue) >= self._most:
            self._lost[record.tenant] += 1
            return
        self._queue.append(record)
        if len(self._queue) >= _BATCH:
            self._wake.set()

    async def put(self, record: pb.AuditRecord) -> None:
        """Returns when `record` is safe. Raises grpc.aio.AioRpcError if it may not be."""
        safe: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._urgent.append((record, safe))
        self._wake.set()
        await safe

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self._flush()
            except grpc.aio.AioRpcError as error:
                logger.warning("audit records wait: %s", error.details())
                await asyncio.sleep(self._every)
            except Exception:
                # Nobody waits for this task: it would end unheard.
                logger.exception("audit records wait")
                await asyncio.sleep(self._every)

    async def _flush(self) -> None:
        urgent, self._urgent = self._urgent, []
        if not self._gaps:
            # Made once: a write of which nobody knows what became is repeated with the same ids.
            lost, self._lost = self._lost, Counter()
            self._gaps = [_gap(tenant, count) for tenant, count in lost.items()]
        gaps = self._gaps[:_BATCH]
        batch = [self._queue.popleft() for _ in range(min(len(self._queue), _BATCH))]
        records = [*(record for record, _ in urgent), *batch, *gaps]
        if not records:
            return
        try:
            await self._append(records)
        except BaseException as error:
            self._queue.extendleft(reversed(batch))
            for _, safe in urgent:
                if not safe.done():
                    safe.set_exception(
                        error if isinstance(error, Exception) else ConnectionError("stopped")
                    )
            raise
        del self._gaps[: len(gaps)]
        for _, safe in urgent:
            if not safe.done():
                safe.set_result(None)
        if len(self._queue) >= _BATCH:
            self._wake.set()


def _gap(tenant: str, count: int) -> pb.AuditRecord:
    record = pb.AuditRecord(
        tenant=tenant, record_id=new_id("call"), code=GAP, resource=f"{_RECORDS}{count}"
    )
    record.time.GetCurrentTime()
    return record


def _count(gap: pb.AuditRecord) -> int:
    return int(gap.resource.removeprefix(_RECORDS))
