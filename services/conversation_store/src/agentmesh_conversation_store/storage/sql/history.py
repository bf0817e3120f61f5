"""The storage interface's part for whole histories, over plans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from agentmesh_conversation_store.domain.forks import Fork
from agentmesh_conversation_store.domain.model import ConversationView
from agentmesh_conversation_store.storage.history import Outdated, Removed
from agentmesh_conversation_store.storage.requests import Request

from . import forks, removal, retention
from .audited import Recorder
from .plan import Plan, Session
from .requests import once
from .unit import Unit

T = TypeVar("T")


class SqlHistory(ABC):
    """`History` over plans."""

    _unit: Unit
    _recorder: Recorder

    @abstractmethod
    async def _read(self, tenants: tuple[str, ...], plan: Plan[T], *, snapshot: bool = False) -> T:
        """Runs a plan that only reads; with `snapshot` all of it sees one point in time."""

    @abstractmethod
    async def _write(self, tenants: tuple[str, ...], plan: Callable[[Session], Plan[T]]) -> T:
        """Runs a plan in a transaction of its own."""

    async def fork(
        self, fork: Fork, request: Request[ConversationView] | None = None
    ) -> ConversationView | bytes:
        """See `History`."""

        def plan(session: Session) -> Plan[ConversationView | bytes]:
            return once(request, lambda: forks.fork(session, self._unit, fork))

        return await self._write((fork.tenant,), self._recorder.audited(plan))

    async def tenants_to_keep_short(self) -> Sequence[str]:
        """See `History`."""
        return await self._read(("*",), retention.tenants())

    async def outdated(self, tenant: str, after: str, limit: int) -> Sequence[Outdated]:
        """See `History`."""
        return await self._read((tenant,), retention.outdated(tenant, after, limit))

    async def cut_history(self, tenant: str, conversation_id: str) -> bool:
        """See `History`."""

        def plan(session: Session) -> Plan[bool]:
            return retention.cut(session, self._unit, tenant, conversation_id)

        return await self._write((tenant,), plan)

    async def remove_some(self, limit: int) -> Removed | None:
        """See `History`."""
        return await self._write(("*",), lambda _: removal.step(limit))
