"""Taking conversations out and in."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from agentmesh_conversation_store.domain.changes import Changes, Scope
from agentmesh_conversation_store.domain.history import Milestone
from agentmesh_conversation_store.domain.model import SECOND, ConversationView, Instant
from agentmesh_conversation_store.domain.rejections import not_found
from agentmesh_conversation_store.storage.interface import CheckpointLink, Committed
from agentmesh_conversation_store.storage.requests import Request
from agentmesh_conversation_store.storage.transfer import Arrivals, Departing

from . import checkpoints, reads, requests, writing
from .audited import Recorder
from .plan import Plan, Session, each, fetch, fetch_each, first, now
from .tables import BLOB_REFERENCES, CHECKPOINTS
from .words import WordIndex

T = TypeVar("T")

PATIENCE = 3600 * SECOND
"""After it was heard of last, an import is given up."""
_TOLD_AT_ONCE = 500
_TOLD_WITH_IT = 5000
_FOREVER = 2**63 - 1
"""When an import was heard of last that is complete, and not all in the feed yet."""

_IN_USE = (
    "SELECT 1 FROM conversations WHERE tenant = ? AND conversation_id = ?",
    "SELECT 1 FROM events WHERE tenant = ? AND conversation_id = ? LIMIT 1",
    "SELECT 1 FROM shared_history WHERE tenant = ? AND log_id = ? LIMIT 1",
    "SELECT 1 FROM removals WHERE tenant = ? AND log_id = ?",
)
_RUN_IN_USE = "SELECT 1 FROM runs WHERE run_id = ?"
_CLAIM = (
    "INSERT INTO imports (tenant, conversation_id, run_id, place, heard_at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT DO NOTHING RETURNING place"
)
_HEARD = "UPDATE imports SET heard_at = ? WHERE tenant = ? AND conversation_id = ? RETURNING place"
_KNOWN = (
    "UPDATE imports SET heard_at = ? WHERE tenant = ? AND conversation_id = ? AND heard_at < ?"
    " RETURNING place"
)
_NOT_KNOWN = "SELECT 1 FROM imports WHERE tenant = ? AND conversation_id = ? AND heard_at < ?"
_NOT_TOLD = "SELECT 1 FROM imports WHERE tenant = ? AND conversation_id = ? AND heard_at = ?"
_LEAVE = "DELETE FROM imports WHERE tenant = ? AND conversation_id = ?"
_REMOVE = (
    "INSERT INTO removals (tenant, log_id, requested_at) VALUES (?, ?, ?)"
    " ON CONFLICT (tenant, log_id) DO NOTHING"
)
_LEFT_UNTOLD = "SELECT tenant, conversation_id FROM imports WHERE heard_at = ? LIMIT 100"
_STALE = "SELECT tenant, conversation_id FROM imports WHERE heard_at <= ? LIMIT 100"
_UNTOLD = (
    "SELECT sequence FROM events WHERE tenant = ? AND conversation_id = ? AND feed_position < 0"
    " ORDER BY sequence LIMIT ?"
)
_TELL = (
    "UPDATE events SET feed_position = CAST(? AS BIGINT) + sequence"
    " WHERE tenant = ? AND conversation_id = ? AND sequence BETWEEN ? AND ?"
)
_UNREAD = "SELECT sequence FROM inputs WHERE tenant = ? AND run_id = ? AND sequence > ?"


def departing(tenant: str, conversation_id: str) -> Plan[Departing]:
    """What an export begins with."""
    view = yield from reads.conversation(tenant, conversation_id)
    run = view.run
    definition = yield from reads.definition(tenant, run.definition_digest)
    chain: Sequence[CheckpointLink] = ()
    if run.checkpoint_id:
        chain = yield from checkpoints.chain(tenant, run.checkpoint_id)
    unread = yield from fetch(_UNREAD, tenant, run.run_id, run.inbox_read)
    sequences = sorted(sequence for (sequence,) in unread)
    return Departing(view, definition, chain, sequences)


def begin(tenant: str, conversation_id: str, run_id: str) -> Plan[bool]:
    """Takes ids, if they are free."""
    for sql in _IN_USE:
        if (yield from first(sql, tenant, conversation_id)) is not None:
            return False
    if (yield from first(_RUN_IN_USE, run_id)) is not None:
        return False
    at = yield from now()
    # Events of an import stand at places of the tenant's feed that come before its beginning.
    place = -(secrets.randbits(30) + 1 << 32)
    claimed = yield from first(_CLAIM, tenant, conversation_id, run_id, place, at)
    return claimed is not None


def add(tenant: str, conversation_id: str, arrivals: Arrivals, words: WordIndex) -> Plan[None]:
    """Writes a part."""
    at = yield from now()
    row = yield from first(_HEARD, at, tenant, conversation_id)
    if row is None:
        raise not_found("import", conversation_id)
    (place,) = row
    rows = [words.row(tenant, conversation_id, sequence, said) for sequence, said in arrivals.words]
    yield from each(words.add, rows)
    rows = [(tenant, *BLOB_REFERENCES.row(reference)) for reference in arrivals.references]
    yield from each(BLOB_REFERENCES.put, rows)
    rows = [(tenant, *CHECKPOINTS.row(checkpoint)) for checkpoint in arrivals.checkpoints]
    yield from each(CHECKPOINTS.put, rows)
    rows = [
        writing.event_row(tenant, conversation_id, event, place + event.sequence)
        for event in arrivals.events
    ]
    yield from each(writing.ADD_EVENT, rows)


def tell(tenant: str, conversation_id: str, count: int) -> Plan[bool]:
    """Gives the next events of a known import their places in the tenant's feed; false once all
    have theirs. Not before it is known: readers of the feed would pass what they cannot see."""
    rows = yield from fetch(_UNTOLD, tenant, conversation_id, count)
    if len(rows) < count:
        yield from each(_LEAVE, [(tenant, conversation_id)])
    if not rows:
        return False
    begin, end = rows[0][0], rows[-1][0]
    ((_, position),) = yield from fetch_each(writing.ADVANCE_FEED, [(tenant, len(rows))])
    base = position - len(rows) - begin + 1
    yield from each(_TELL, [(base, tenant, conversation_id, begin, end)])
    return len(rows) == count


def finish(
    session: Session,
    view: ConversationView,
    definition: bytes,
    unread: Sequence[int],
    request: Request[ConversationView] | None,
) -> Plan[ConversationView | bytes]:
    """Makes an import known, or gives it up if the same request has brought one already."""
    tenant, name = view.conversation.tenant, view.conversation.conversation_id
    made = yield from requests.once(request, lambda: _finish(session, view, definition, unread))
    if (yield from first(_NOT_KNOWN, tenant, name, _FOREVER)) is not None:
        yield from give_up(tenant, name)
    return made


def _finish(
    session: Session, view: ConversationView, definition: bytes, unread: Sequence[int]
) -> Plan[ConversationView]:
    conversation, run = view.conversation, view.run
    tenant, name = conversation.tenant, conversation.conversation_id
    if (yield from first(_KNOWN, _FOREVER, tenant, name, _FOREVER)) is None:
        raise not_found("import", name)
    changes = Changes(
        conversation=conversation,
        facts=view.facts,
        definitions=[(run.definition_digest, definition)],
        runs=[run],
        inputs=[(run.run_id, sequence) for sequence in unread],
        records=[
            Milestone(
                name,
                conversation.head_sequence,
                conversation.last_event_at,
                run.checkpoint_id,
                run.inbox_read,
                conversation.head_sequence,
                conversation.size_bytes,
                conversation.message_count,
            )
        ],
    )
    yield from writing.write_definitions([(tenant, changes)])
    yield from writing.write([writing.Written(Scope(tenant, name), changes, conversation, ())])
    # With a short one its events are in the feed at once, with a long one soon after.
    yield from tell(tenant, name, _TOLD_WITH_IT)
    session.committed.append(Committed(tenant, name, conversation, (run,)))
    return view


def is_known(tenant: str, conversation_id: str) -> Plan[bool]:
    """Whether an import is complete, though perhaps not all in the feed yet."""
    row = yield from first(_NOT_TOLD, tenant, conversation_id, _FOREVER)
    return row is not None


def give_up(tenant: str, conversation_id: str) -> Plan[None]:
    """Lets an import be removed."""
    at = yield from now()
    yield from each(_REMOVE, [(tenant, conversation_id, at)])
    yield from each(_LEAVE, [(tenant, conversation_id)])


def give_up_stale(at: Instant) -> Plan[None]:
    """Lets those be removed that nobody has gone on with for an hour, and tells the feed of those
    whose importer died before it had."""
    for tenant, conversation_id in (yield from fetch(_STALE, at - PATIENCE)):
        yield from give_up(tenant, conversation_id)
    for tenant, conversation_id in (yield from fetch(_LEFT_UNTOLD, _FOREVER)):
        yield from tell(tenant, conversation_id, _TOLD_AT_ONCE)


class SqlTransfer(ABC):
    """`Transfer` over plans."""

    _words: WordIndex
    _recorder: Recorder

    @abstractmethod
    async def _read(self, tenants: tuple[str, ...], plan: Plan[T], *, snapshot: bool = False) -> T:
        """Runs a plan that only reads; with `snapshot` all of it sees one point in time."""

    @abstractmethod
    async def _write(self, tenants: tuple[str, ...], plan: Callable[[Session], Plan[T]]) -> T:
        """Runs a plan in a transaction of its own."""

    async def departing(self, tenant: str, conversation_id: str) -> Departing:
        """See `Transfer`."""
        return await self._read((tenant,), departing(tenant, conversation_id), snapshot=True)

    async def begin_import(self, tenant: str, conversation_id: str, run_id: str) -> bool:
        """See `Transfer`. Ids of runs are looked for with every tenant."""
        return await self._write(("*",), lambda _: begin(tenant, conversation_id, run_id))

    async def add_arrivals(self, tenant: str, conversation_id: str, arrivals: Arrivals) -> None:
        """See `Transfer`."""
        await self._write((tenant,), lambda _: add(tenant, conversation_id, arrivals, self._words))

    async def finish_import(
        self,
        view: ConversationView,
        definition: bytes,
        unread: Sequence[int],
        request: Request[ConversationView] | None = None,
    ) -> ConversationView | bytes:
        """See `Transfer`. The feed hears of a long one a part at a time: nobody waits long."""
        tenant, name = view.conversation.tenant, view.conversation.conversation_id
        plan = self._recorder.audited(
            lambda session: finish(session, view, definition, unread, request),
            f"conversation:{name}",
        )
        known = await self._write((tenant,), plan)
        if isinstance(known, bytes) and not await self._read((tenant,), is_known(tenant, name)):
            return known
        while await self._write((tenant,), lambda _: tell(tenant, name, _TOLD_AT_ONCE)):
            pass
        return known

    async def give_up_import(self, tenant: str, conversation_id: str) -> None:
        """See `Transfer`."""
        await self._write((tenant,), lambda _: give_up(tenant, conversation_id))
