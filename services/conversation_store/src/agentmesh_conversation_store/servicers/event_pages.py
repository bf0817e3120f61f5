"""Pages of a log: forwards, backwards, and as context."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agentmesh.conversation.v1 import event_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as pb
from meshkit.errors import MeshError

from agentmesh_conversation_store.codec import tokens
from agentmesh_conversation_store.domain.context import Stretch, Summary, standing, stretches
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.storage.interface import EventFilter, Storage

MAX_PAGE_BYTES = 3 * 1024 * 1024
_EVENTS_A_PAGE = 200
_AT_ONCE = 200
_SUMMARY = "context_summary"
_MESSAGE = "message"
_DISCARDED = "turn_discarded"
_CONTEXT_BYTES = 1024 * 1024


@dataclass
class _Page:
    """What was found so far, within a number of events and of bytes."""

    accepted: EventFilter
    size: int
    room: int = MAX_PAGE_BYTES
    found: list[bytes] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.found) >= self.size or self.room <= 0

    def add(self, event: StoredEvent) -> None:
        if self.accepted.passes(event):
            self.found.append(event.data)
            self.room -= len(event.data)

    def response(self, next_page_token: str) -> pb.ListEventsResponse:
        return pb.ListEventsResponse(
            events=[event_pb2.Event.FromString(data) for data in self.found],
            next_page_token=next_page_token,
        )


class EventPages:
    """Answers ListEvents."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def page(
        self, tenant: str, request: pb.ListEventsRequest, accepted: EventFilter
    ) -> pb.ListEventsResponse:
        """One page. Reads no more than it shows, but for what the filter drops."""
        page = _Page(accepted, request.page_size or _EVENTS_A_PAGE)
        as_context = request.view == pb.EVENT_VIEW_CONTEXT
        if as_context and (request.newest_first or request.before_sequence):
            raise MeshError.invalid("view", "context is read forwards and to its end")
        view = await self._storage.conversation(tenant, request.conversation_id)
        head = view.conversation.head_sequence
        if as_context:
            return await self._context(tenant, request, head, page)
        end = min(request.before_sequence or head + 1, head + 1)
        if request.newest_first:
            oldest = max(request.after_sequence + 1, view.conversation.oldest_sequence)
            return await self._backwards(tenant, request, oldest, end, page)
        return await self._forwards(tenant, request, end, page)

    async def led_to(
        self, tenant: str, conversation_id: str, sequence: int, count: int
    ) -> Sequence[event_pb2.Event]:
        """The newest messages before a sequence that still count, oldest first: at most so many,
        and fewer if they are long or were removed."""
        view = await self._storage.conversation(tenant, conversation_id)
        # What was said in turns that were given up is told of after it.
        accepted = EventFilter(kinds=frozenset({_MESSAGE, _DISCARDED}))
        page = _Page(accepted, 2 * count, _CONTEXT_BYTES)
        request = pb.ListEventsRequest(conversation_id=conversation_id)
        oldest = view.conversation.oldest_sequence
        found = await self._backwards(tenant, request, oldest, sequence, page)
        discarded: set[str] = set()
        messages: list[event_pb2.Event] = []
        for event in found.events:
            discarded.update(event.turn_discarded.message_ids)
            if event.HasField("message") and event.message.message_id not in discarded:
                messages.append(event)
        return messages[:count][::-1]

    async def _forwards(
        self, tenant: str, request: pb.ListEventsRequest, end: int, page: _Page
    ) -> pb.ListEventsResponse:
        position = request.after_sequence
        if request.page_token:
            (position,) = tokens.page_position(request.page_token, "events", int)
        stretch = Stretch(position, end - 1)
        position = await self._read(tenant, request.conversation_id, stretch, page)
        more = position < end - 1
        return page.response(tokens.page_token("events", position) if more else "")

    async def _read(
        self,
        tenant: str,
        conversation_id: str,
        stretch: Stretch,
        page: _Page,
        skip: str | None = None,
    ) -> int:
        """Adds events to the page until it is full. Returns the sequence of the last one seen."""
        position = stretch.after
        while not page.full and position < stretch.through:
            limit = min(page.size, stretch.through - position)
            events = await self._storage.events(tenant, conversation_id, position, limit, page.room)
            for event in events:
                if event.sequence > stretch.through:
                    return stretch.through
                if len(page.found) >= page.size:
                    return position
                position = event.sequence
                if event.kind != skip:
                    page.add(event)
            if not events:
                return stretch.through
        return position

    async def _backwards(
        self, tenant: str, request: pb.ListEventsRequest, oldest: int, end: int, page: _Page
    ) -> pb.ListEventsResponse:
        if request.page_token:
            (position,) = tokens.page_position(request.page_token, "events-back", int)
            end = min(end, position)
        width = min(page.size, _AT_ONCE)
        while not page.full and end > oldest:
            start = max(oldest, end - width)
            events = await self._storage.events(
                tenant, request.conversation_id, start - 1, end - start, MAX_PAGE_BYTES
            )
            if width > 1 and events and events[-1].sequence < end - 1:
                width = max(1, width // 2)  # its newest events did not fit
                continue
            for event in reversed(events):
                if page.full:
                    break
                end = event.sequence
                page.add(event)
            else:
                end = start
        return page.response(tokens.page_token("events-back", end) if end > oldest else "")

    async def _context(
        self, tenant: str, request: pb.ListEventsRequest, head: int, page: _Page
    ) -> pb.ListEventsResponse:
        position, as_of = request.after_sequence, head
        if request.page_token:
            position, as_of = tokens.page_position(request.page_token, "context", int, int)
        marks = await self._storage.context_marks(tenant, request.conversation_id, as_of)
        events = {mark.sequence: mark for mark in marks}
        for stretch in stretches(_standing(marks), position, as_of):
            if page.full:
                break
            if stretch.summary is not None:
                page.add(events[stretch.summary.sequence])
                position = stretch.through
                continue
            position = await self._read(tenant, request.conversation_id, stretch, page, _SUMMARY)
            if position < stretch.through:
                break
        more = position < as_of
        return page.response(tokens.page_token("context", position, as_of) if more else "")


def _standing(marks: Iterable[StoredEvent]) -> Sequence[Summary]:
    summaries: list[Summary] = []
    discarded: set[tuple[str, int]] = set()
    for mark in marks:
        turn = (mark.run_id, mark.turn)
        if mark.kind == _SUMMARY:
            summary = event_pb2.Event.FromString(mark.data).context_summary
            stands_for = summary.first_sequence, summary.last_sequence
            summaries.append(Summary(mark.sequence, *stands_for, turn))
        else:
            discarded.add(turn)
    return standing(summaries, discarded)
