"""All conversations that this replica serves to subscribers."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress

from meshkit.tasks import stop

from agentmesh_conversation_store.codec.tokens import resumed_sequence
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.fanout.announcer import ended_turns, finished_messages
from agentmesh_conversation_store.fanout.interface import (
    ConversationDeleted,
    DeltasMade,
    EventsCommitted,
    Fanout,
    FencesRaised,
    NoticesMissed,
    RunsChanged,
    TextWanted,
)
from agentmesh_conversation_store.storage.interface import EventFilter, Head, Storage

from .database import PatientReads
from .hub import ConversationHub
from .subscriber import Subscriber, Until, Wanted, Write, history_removed

_log = logging.getLogger(__name__)

TAIL_EVENTS = 64
REMEMBERED = 16_384
TAILS_AT_ONCE = 8


_Key = tuple[str, str]


class _Recent(OrderedDict[str, int]):
    """The newest entries of a map to numbers that only rise, bounded."""

    def remember(self, key: str, value: int) -> None:
        self[key] = max(value, self.get(key, 0))
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
        self._reads = PatientReads(storage)
        self._fanout = fanout
        self._heartbeat = heartbeat
        self._head_check = head_check
        self._draining = asyncio.Event()
        self._hubs: dict[_Key, ConversationHub] = {}
        self._finished = _Recent()
        self._fences = _Recent()
        self._ended_turns = _Recent()
        self._to_look_at: set[_Key] = set()
        self._look = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        fanout.listen(EventsCommitted, self._hear_events)
        fanout.listen(DeltasMade, self._hear_deltas)
        fanout.listen(RunsChanged, self._hear_runs)
        fanout.listen(FencesRaised, self._hear_fences)
        fanout.listen(NoticesMissed, self._hear_of_a_gap)
        fanout.listen(ConversationDeleted, self._hear_deletion)
        fanout.listen(TextWanted, self._hear_question)

    async def start(self) -> None:
        """Begins to look at the heads of what is served."""
        self._task = asyncio.create_task(self._check_heads(), name="head-check")

    async def stop(self) -> None:
        """Stops looking."""
        await stop(self._task)

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
        write: Write,
        *,
        after_sequence: int = 0,
        resume_token: str = "",
        until: Until = Until.FOREVER,
        accepted: EventFilter | None = None,
        deltas: bool = True,
    ) -> None:
        """Writes serialized responses.

        OUT_OF_RANGE for a position that is removed or beyond the head.
        """
        hub = self._hub(tenant, conversation_id)
        placeholder = _Placeholder()
        hub.subscribers.add(placeholder)
        try:
            head, events = await self._storage.tail(tenant, conversation_id, TAIL_EVENTS)
            self._settle(hub, head, events)
            position = (
                resumed_sequence(resume_token, hub.binding) if resume_token else after_sequence
            )
            _require_in_range(conversation_id, position, hub.head)
            wanted = Wanted(position, until, accepted or EventFilter(), deltas)
            subscriber = Subscriber(
                hub, self._reads, wanted, self._heartbeat, self._draining, write
            )
            hub.subscribers.add(subscriber)
        finally:
            hub.subscribers.discard(placeholder)
            self._forget_if_idle(hub)
        try:
            await subscriber.serve()
        finally:
            hub.subscribers.discard(subscriber)
            self._forget_if_idle(hub)

    def _hub(self, tenant: str, conversation_id: str) -> ConversationHub:
        key = (tenant, conversation_id)
        hub = self._hubs.get(key)
        if hub is None:
            shared = self._fanout.follow(tenant, conversation_id)
            hub = self._hubs[key] = ConversationHub(tenant, conversation_id, shared=shared)
        return hub

    def _forget_if_idle(self, hub: ConversationHub) -> None:
        key = (hub.tenant, hub.conversation_id)
        if hub.idle and self._hubs.get(key) is hub:
            del self._hubs[key]
            self._fanout.unfollow(hub.tenant, hub.conversation_id)

    def _hear_runs(self, notice: RunsChanged) -> None:
        for run in notice.runs:
            self._fences.remember(run.run_id, run.fence)

    def _hear_fences(self, notice: FencesRaised) -> None:
        for raised in notice.fences:
            self._fences.remember(raised.run_id, raised.fence)

    def _hear_question(self, notice: TextWanted) -> None:
        hub = self._hubs.get((notice.tenant, notice.conversation_id))
        if hub is not None:
            self._tell_text(hub, notice.replica)

    def _hear_deletion(self, notice: ConversationDeleted) -> None:
        hub = self._hubs.get((notice.tenant, notice.conversation_id))
        if hub is not None:
            self._remove(hub)

    def _hear_events(self, notice: EventsCommitted) -> None:
        self._remember(notice.message_ids, notice.ended_turns, notice.head)
        key = (notice.tenant, notice.conversation_id)
        hub = self._hubs.get(key)
        if hub is None:
            return
        hub.settle(notice.message_ids, notice.ended_turns)
        hub.accept(notice.head, notice.events)
        if notice.first_sequence <= hub.settled + 1:
            hub.settled = max(hub.settled, notice.head.sequence)
        else:
            self._look_soon([key])
        self._forget_if_idle(hub)

    def _remember(
        self, message_ids: Sequence[str], turns: Sequence[tuple[str, int]], head: Head
    ) -> None:
        for message_id in message_ids:
            self._finished.remember(message_id, head.sequence)
        for run_id, turn in turns:
            self._ended_turns.remember(run_id, turn)

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
            self._forget_if_idle(hub)

    def _hear_of_a_gap(self, notice: NoticesMissed) -> None:
        self._look_soon(
            key
            for key in notice.conversations or ()
            if key in self._hubs and self._hubs[key].subscribers
        )
        if notice.conversations is None:
            # Who asked for text before this replica could hear it gets its answer now.
            for hub in self._hubs.values():
                self._tell_text(hub, None)

    def _tell_text(self, hub: ConversationHub, replica: str | None) -> None:
        """What others get from now on continues this."""
        for pieces in hub.live.portions():
            self._fanout.tell(replica, DeltasMade(hub.tenant, hub.conversation_id, pieces))

    def _look_soon(self, keys: Iterable[_Key]) -> None:
        self._to_look_at.update(keys)
        self._look.set()

    async def _check_heads(self) -> None:
        """The safety net under lost notices: all heads now and then, those of which something may
        have been missed at once."""
        loop = asyncio.get_running_loop()
        next_round = loop.time() + self._head_check
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_round):
                    await self._look.wait()
            keys, self._to_look_at = self._to_look_at, set()
            self._look.clear()
            if loop.time() >= next_round:
                keys = {key for key, hub in self._hubs.items() if hub.watched}
                self._give_up_holes()
                next_round = loop.time() + self._head_check
            try:
                await self._look_at([key for key in keys if key in self._hubs])
            except Exception:
                _log.exception("a look at the heads failed")

    def _give_up_holes(self) -> None:
        for hub in tuple(self._hubs.values()):
            if hub.shared:
                hub.give_up_holes()

    async def _look_at(self, keys: Sequence[_Key]) -> None:
        heads = await self._reads.heads(keys) if keys else None
        if heads is None:
            return
        behind: list[ConversationHub] = []
        for key in keys:
            hub = self._hubs.get(key)
            if hub is None:
                continue
            if key not in heads:
                self._remove(hub)
            elif heads[key].sequence > hub.settled:
                behind.append(hub)
            else:
                hub.accept(heads[key], ())
        for start in range(0, len(behind), TAILS_AT_ONCE):
            await asyncio.gather(*map(self._catch_up, behind[start : start + TAILS_AT_ONCE]))

    async def _catch_up(self, hub: ConversationHub) -> None:
        """Reads once what was missed, for all its subscribers."""
        try:
            tail = await self._reads.tail(hub.tenant, hub.conversation_id, TAIL_EVENTS)
        except Rejection as rejection:
            if rejection.reason is not Reason.NOT_FOUND:
                raise
            self._remove(hub)
            return
        if tail is None:
            return
        head, newest = tail
        self._remember(finished_messages(newest), ended_turns(newest), head)
        self._settle(hub, head, newest)
        self._forget_if_idle(hub)

    def _settle(self, hub: ConversationHub, head: Head, newest: Sequence[StoredEvent]) -> None:
        """A look at the log: where it ends, and its newest events."""
        hub.settle_log(newest)
        hub.settled = max(hub.settled, head.sequence)
        hub.accept(head, newest)

    def _remove(self, hub: ConversationHub) -> None:
        hub.remove()
        self._forget_if_idle(hub)


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
