"""All conversations that this replica serves to subscribers."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import suppress

from agentmesh_conversation_store.codec.tokens import resumed_sequence
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.fanout.interface import (
    DeltasMade,
    EventsCommitted,
    Fanout,
    Notice,
    RunsChanged,
)
from agentmesh_conversation_store.storage.interface import EventFilter, Head, Storage

from .hub import ConversationHub
from .subscriber import Subscriber, Until, Wanted, history_removed

_log = logging.getLogger(__name__)

TAIL_EVENTS = 64
REMEMBERED = 16_384


class _Recent(OrderedDict[str, int]):
    """The newest entries of a map, bounded."""

    def remember(self, key: str, value: int) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > REMEMBERED:
            self.popitem(last=False)


class Subscriptions:
    """Hands news to the hubs of the conversations they are about."""

    def __init__(
        self,
        storage: Storage,
        fanout: Fanout,
        *,
        heartbeat: float,
        head_check: float,
    ) -> None:
        self._storage = storage
        self._heartbeat = heartbeat
        self._head_check = head_check
        self._draining = asyncio.Event()
        self._hubs: dict[tuple[str, str], ConversationHub] = {}
        self._finished = _Recent()
        self._fences = _Recent()
        self._ended_turns = _Recent()
        self._task: asyncio.Task[None] | None = None
        fanout.listen(self._hear)

    async def start(self) -> None:
        """Begins to look at the heads of what is served."""
        self._task = asyncio.create_task(self._check_heads(), name="head-check")

    async def stop(self) -> None:
        """Stops looking."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def drain(self) -> None:
        """Ends every subscription with DRAINING; their clients go on elsewhere."""
        self._draining.set()
        for hub in self._hubs.values():
            for subscriber in hub.subscribers:
                subscriber.wake()

    async def subscribe(
        self,
        tenant: str,
        conversation_id: str,
        *,
        after_sequence: int = 0,
        resume_token: str = "",
        until: Until = Until.FOREVER,
        accepted: EventFilter | None = None,
        deltas: bool = True,
    ) -> AsyncIterator[bytes]:
        """Serialized responses. OUT_OF_RANGE for a position that is removed or beyond the head."""
        hub = self._hub(tenant, conversation_id)
        placeholder = _Placeholder()
        hub.subscribers.add(placeholder)
        try:
            head, events = await self._storage.tail(tenant, conversation_id, TAIL_EVENTS)
            hub.accept(head, events)
            position = (
                resumed_sequence(resume_token, hub.binding) if resume_token else after_sequence
            )
            _require_in_range(conversation_id, position, hub.head)
            wanted = Wanted(position, until, accepted or EventFilter(), deltas)
            subscriber = Subscriber(hub, self._storage, wanted, self._heartbeat, self._draining)
            hub.subscribers.add(subscriber)
        finally:
            hub.subscribers.discard(placeholder)
            self._forget_if_idle(hub)
        try:
            async for response in subscriber.responses():
                yield response
        finally:
            hub.subscribers.discard(subscriber)
            self._forget_if_idle(hub)

    def _hub(self, tenant: str, conversation_id: str) -> ConversationHub:
        key = (tenant, conversation_id)
        hub = self._hubs.get(key)
        if hub is None:
            hub = self._hubs[key] = ConversationHub(tenant, conversation_id)
        return hub

    def _forget_if_idle(self, hub: ConversationHub) -> None:
        if hub.idle:
            self._hubs.pop((hub.tenant, hub.conversation_id), None)

    def _hear(self, notice: Notice) -> None:
        if isinstance(notice, EventsCommitted):
            for message_id in notice.message_ids:
                self._finished.remember(message_id, notice.head.sequence)
            for run_id, turn in notice.ended_turns:
                self._ended_turns.remember(run_id, max(turn, self._ended_turns.get(run_id, 0)))
            hub = self._hubs.get((notice.tenant, notice.conversation_id))
            if hub is not None:
                hub.settle(notice.message_ids, notice.ended_turns)
                hub.accept(notice.head, notice.events)
                self._forget_if_idle(hub)
        elif isinstance(notice, DeltasMade):
            self._hear_deltas(notice)
        elif isinstance(notice, RunsChanged):
            for run in notice.runs:
                self._fences.remember(run.run_id, run.fence)

    def _hear_deltas(self, notice: DeltasMade) -> None:
        """Pieces of finished messages, turns that are over and voided leases come too late."""
        deltas = [
            delta
            for delta in notice.deltas
            if delta.message_id not in self._finished
            and delta.turn > self._ended_turns.get(delta.run_id, 0)
            and delta.fence >= self._fences.get(delta.run_id, 0)
        ]
        if deltas:
            hub = self._hub(notice.tenant, notice.conversation_id)
            hub.accept_deltas(deltas)

    async def _check_heads(self) -> None:
        """The safety net under lost notices."""
        while True:
            await asyncio.sleep(self._head_check)
            served = [key for key, hub in self._hubs.items() if hub.subscribers]
            if not served:
                continue
            try:
                heads = await self._storage.heads(served)
            except Rejection as rejection:
                _log.warning("the heads could not be read: %s", rejection)
                continue
            for key in served:
                hub = self._hubs.get(key)
                if hub is None:
                    continue
                if key in heads:
                    hub.accept(heads[key], ())
                else:
                    hub.remove()


class _Placeholder:
    """Keeps a hub while its first subscriber is still reading."""

    def wake(self) -> None:
        """Nobody waits yet."""


def _require_in_range(conversation_id: str, position: int, head: Head) -> None:
    if position > head.sequence:
        raise Rejection(
            Reason.BEYOND_HEAD,
            f"{conversation_id} has no event {position} yet; the newest is {head.sequence}",
            head_sequence=str(head.sequence),
        )
    if position < head.oldest - 1:
        raise history_removed(conversation_id, head.oldest)
