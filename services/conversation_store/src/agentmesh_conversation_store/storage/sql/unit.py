"""One transaction over many operations: load their scopes, decide each, write what they changed.

No two operations of a unit are about the same conversation or request, so that each decides on
what the database says. Rows are locked in one order everywhere, requests, conversations, runs,
definitions, feeds, each sorted by key, so that units of different replicas wait for each other
and never in a circle.
"""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from agentmesh_conversation_store.domain.changes import Changes, Command, Loaded, Scope
from agentmesh_conversation_store.domain.ledger import TenantDay
from agentmesh_conversation_store.domain.model import SECOND, Conversation, Instant, Run
from agentmesh_conversation_store.domain.rejections import Rejection
from agentmesh_conversation_store.storage.changed_by import ChangedBy, changed_by
from agentmesh_conversation_store.storage.encoding import encoded_changes, metered
from agentmesh_conversation_store.storage.interface import (
    Committed,
    EventCodec,
)
from agentmesh_conversation_store.storage.requests import Request

from . import approvals, audited, records, requests, tenants, writing
from .plan import Plan, Session, each, fetch, fetch_each, now
from .tables import CONVERSATIONS, RUNS
from .words import WordIndex, texts

R = TypeVar("R")
Key = tuple[str, str]

RIVAL_PATIENCE = SECOND // 10
_LOCK_CONVERSATION = (
    f"SELECT {CONVERSATIONS.select} FROM conversations"
    " WHERE tenant = ? AND conversation_id = ? FOR UPDATE"
)
_LOCK_RUN = f"SELECT {RUNS.select} FROM runs WHERE tenant = ? AND run_id = ? FOR UPDATE"
_LIVE = "SELECT tenant, run_id FROM runs WHERE tenant = ? AND conversation_id = ? AND status < 5"
_CHILD = (
    "SELECT tenant, conversation_id FROM runs"
    " WHERE tenant = ? AND run_id = ? AND parent_run_id <> ''"
)
_WORDS = (
    "SELECT tenant, conversation_id, sequence, data FROM events"
    " WHERE tenant = ? AND conversation_id = ? AND sequence = ?"
)
_RIVALS = "SELECT run_id FROM overdue_runs(?)"


@dataclass(slots=True)
class Item(Generic[R]):
    """One operation of a unit, and what became of it: a result, a response, or a refusal."""

    command: Command[R]
    request: Request[R] | None = None
    result: R | bytes | None = None
    rejection: Rejection | None = None
    by: ChangedBy | None = field(default_factory=changed_by)
    scope: Scope = field(init=False)

    def __post_init__(self) -> None:
        self.scope = self.command.scope

    @property
    def key(self) -> Key:
        """The conversation that it is about."""
        return self.scope.tenant, self.scope.conversation_id


class Unit:
    """Carries out operations."""

    def __init__(self, codec: EventCodec, words: WordIndex, recorder: audited.Recorder) -> None:
        self.codec = codec
        self._recorder = recorder
        self._words = words

    def carry_out(self, session: Session, items: Sequence[Item[Any]]) -> Plan[None]:
        """Decides on the rows as they are inside the transaction, and writes the outcomes."""
        claims = [item.request for item in items if item.request is not None]
        used = yield from requests.claim(claims)
        fresh = [item for item in items if not _answered(item, used)]
        loaded = yield from self._load([item.scope for item in fresh])
        at = yield from now()
        wanted = [
            (item, decided)
            for item in fresh
            if (decided := _decide(item, loaded[item.key], at)) is not None
        ]
        yield from writing.write_definitions([(i.scope.tenant, c) for i, c in wanted])
        changes, days = yield from _admitted(wanted, loaded, at)
        yield from self._write(session, changes, days)
        yield from requests.answer(
            [
                (requests.key_of(item.request), item.result)
                for item, _ in changes
                if item.request is not None and isinstance(item.result, bytes)
            ]
        )
        yield from self._recorder.add(
            [
                audited.record(item.by, at, f"conversation:{item.key[1]}")
                for item in items
                if item.by is not None and item.rejection is None
            ]
        )
        yield from requests.unclaim(
            [
                requests.key_of(item.request)
                for item in fresh
                if item.request is not None and item.rejection is not None
            ]
        )

    def _write(
        self,
        session: Session,
        changes: Sequence[tuple[Item[Any], Changes]],
        days: Sequence[TenantDay],
    ) -> Plan[None]:
        written = []
        for item, change in changes:
            events, conversation = encoded_changes(change, self.codec)
            scope = item.scope
            written.append(writing.Written(scope, change, conversation, events))
            result = metered(item.result, conversation)
            item.result = item.request.encode(result) if item.request is not None else result
            if conversation is not None or change.runs or change.deleted:
                session.committed.append(
                    Committed(
                        scope.tenant,
                        scope.conversation_id,
                        conversation,
                        tuple(change.runs),
                        events,
                        tuple(change.fences),
                        change.deleted,
                        change.cut,
                    )
                )
        yield from self._index(written)
        yield from writing.write(written)
        yield from tenants.grow(days)
        yield from writing.add_events(written)

    def _index(self, written: Sequence[writing.Written]) -> Plan[None]:
        rows = [
            self._words.row(one.scope.tenant, one.scope.conversation_id, sequence, words)
            for one in written
            for sequence, words in texts(one.changes.events)
        ]
        yield from each(self._words.add, rows)

    # --- loading -----------------------------------------------------------------------------

    def _load(self, scopes: Sequence[Scope]) -> Plan[dict[Key, Loaded]]:
        keys = sorted({(scope.tenant, scope.conversation_id) for scope in scopes})
        rows = yield from fetch_each(_LOCK_CONVERSATION, keys)
        conversations = {(c.tenant, c.conversation_id): c for c in map(CONVERSATIONS.value, rows)}
        runs = yield from _load_runs(scopes, conversations)
        found = yield from records.find(scopes, conversations, runs)
        pending = yield from approvals.pending(scopes, runs)
        words = yield from self._load_words(scopes, runs)
        rivals = yield from _load_rivals(scopes)
        queueing = yield from _load_queueing(scopes)
        return {
            (scope.tenant, scope.conversation_id): Loaded(
                conversation=conversations.get((scope.tenant, scope.conversation_id)),
                runs=runs[scope.tenant, scope.conversation_id],
                last_messages=words[scope.tenant, scope.conversation_id],
                approvals=pending[scope.tenant, scope.conversation_id],
                rivals_waiting=scope.rivals
                and (scope.tenant in queueing or bool(rivals - {scope.run_id})),
                **records.of(scope, conversations, runs, found),
            )
            for scope in scopes
        }

    def _load_words(
        self, scopes: Iterable[Scope], runs: Mapping[Key, Mapping[str, Run]]
    ) -> Plan[dict[Key, dict[str, str]]]:
        wanted = {
            (run.tenant, run.conversation_id, run.last_message): run.run_id
            for scope in scopes
            if scope.last_messages
            for run in runs[scope.tenant, scope.conversation_id].values()
            if run.last_message and not run.status.ended
        }
        rows = yield from fetch_each(_WORDS, list(wanted))
        words: dict[Key, dict[str, str]] = defaultdict(dict)
        for tenant, conversation_id, sequence, data in rows:
            run_id = wanted[tenant, conversation_id, sequence]
            words[tenant, conversation_id][run_id] = self.codec.words(data)
        return words


def _answered(item: Item[Any], used: Mapping[requests.Key, bytes | Rejection]) -> bool:
    if item.request is None:
        return False
    match used.get(requests.key_of(item.request)):
        case None:
            return False
        case Rejection() as reused:
            item.rejection = reused
        case response:
            item.result = response
    return True


def _decide(item: Item[Any], loaded: Loaded, at: Instant) -> Changes | None:
    try:
        decision = item.command.decide(loaded, at)
    except Rejection as rejection:
        item.rejection = rejection
        return None
    item.result = decision.result
    return decision.changes


def _load_runs(
    scopes: Sequence[Scope], conversations: Mapping[Key, Conversation]
) -> Plan[dict[Key, dict[str, Run]]]:
    """The runs of each scope. Which ones are live cannot change once the conversation is locked."""
    named = {(scope.tenant, scope.run_id) for scope in scopes if scope.run_id}
    families = [
        (scope.tenant, scope.conversation_id)
        for scope in scopes
        if scope.live_runs and (scope.tenant, scope.conversation_id) in conversations
    ]
    named.update((key[0], conversations[key].root_run_id) for key in families)
    # Whose child a run is never changes: so all of them can be locked in one sorted pass.
    children = yield from fetch_each(
        _CHILD, [(scope.tenant, scope.run_id) for scope in scopes if scope.lineage]
    )
    families += [(tenant, conversation_id) for tenant, conversation_id in children]
    live = yield from fetch_each(_LIVE, families)
    named.update((tenant, run_id) for tenant, run_id in live)
    runs: dict[Key, dict[str, Run]] = defaultdict(dict)
    for run in map(RUNS.value, (yield from fetch_each(_LOCK_RUN, sorted(named)))):
        runs[run.tenant, run.conversation_id][run.run_id] = run
    return runs


def _load_rivals(scopes: Sequence[Scope]) -> Plan[set[str]]:
    """Runs that have been waiting for a worker for longer than a moment: two of them at most."""
    if not any(scope.rivals for scope in scopes):
        return set()
    at = yield from now()
    rows = yield from fetch(_RIVALS, at - RIVAL_PATIENCE)
    return {run_id for (run_id,) in rows}


def _load_queueing(scopes: Sequence[Scope]) -> Plan[set[str]]:
    """Tenants whose limits send a run back to the queue after each turn."""
    asking = {scope.tenant for scope in scopes if scope.rivals}
    if not asking:
        return set()
    at = yield from now()
    return (yield from tenants.queueing(asking, at))


def _admitted(
    changes: Sequence[tuple[Item[Any], Changes]], loaded: Mapping[Key, Loaded], at: Instant
) -> Plan[tuple[Sequence[tuple[Item[Any], Changes]], Sequence[TenantDay]]]:
    """Those operations that fit into their tenants' days, and by what they make these grow."""
    wishes = [
        tenants.wish(item.scope.tenant, change, loaded[item.key].runs, at)
        for item, change in changes
    ]
    refusals = yield from tenants.admit(wishes, at)
    for (item, _), refusal in zip(changes, refusals, strict=True):
        item.rejection = refusal
    kept = [index for index, refusal in enumerate(refusals) if refusal is None]
    return [changes[index] for index in kept], [wishes[index].growth for index in kept]
