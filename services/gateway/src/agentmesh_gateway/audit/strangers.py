"""Calls of nobody known, which anybody can make any number of: counted, not recorded one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from agentmesh.conversation_store.v1 import ledger_service_pb2 as pb
from meshkit.caller_address import peer_of_address
from meshkit.tasks import stop

Refusal = tuple[str, str, str]
"""The site that calls come from, the method, and the reason why they were refused."""


@dataclass(slots=True)
class _Counted:
    record: pb.AuditRecord
    calls: int = 1


class Strangers:
    """One record a minute for each refusal, with the number of calls. Beyond `most` refusals that
    differ, whatever site and method they were, calls share one record for each code."""

    def __init__(
        self, add: Callable[[pb.AuditRecord], None], *, every: float = 60.0, most: int = 200
    ) -> None:
        self._add = add
        self._every = every
        self._most = most
        self._counted: dict[Refusal, _Counted] = {}
        self._others: dict[str, _Counted] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._run(), name="audit-strangers")

    async def stop(self) -> None:
        """Hands over what was counted until now."""
        if self._task is not None:
            await stop(self._task)
        self.hand_over()

    def refused(self, refusal: Refusal, code: str, record: Callable[[], pb.AuditRecord]) -> None:
        """Counts a call; `record` is how it would stand on record if it were the only one."""
        known = self._counted.get(refusal)
        if known is None and len(self._counted) >= self._most:
            known = self._others.get(code)
            if known is None:
                self._others[code] = _Counted(record())
                return
        if known is None:
            self._counted[refusal] = _Counted(record())
            return
        known.calls += 1

    def hand_over(self) -> None:
        """The records of what was counted; counting begins again."""
        counted, self._counted = self._counted, {}
        others, self._others = self._others, {}
        for (site, method, _), one in counted.items():
            self._add(_summed(one, peer_of_address(site), method))
        for one in others.values():
            self._add(_summed(one, "", ""))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            self.hand_over()


def _summed(one: _Counted, peer: str, method: str) -> pb.AuditRecord:
    """A single call as it is; of several what they have in common, and the first one's trace."""
    record = one.record
    if one.calls > 1:
        record.peer, record.method = peer, method
        record.resource, record.request_id = f"calls:{one.calls}", ""
    return record
