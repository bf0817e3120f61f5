"""One operation inside a transaction: load its scope, decide, write what it changed."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, TypeVar

from agentmesh_conversation_store.domain.changes import Changes, Command, Loaded, Scope
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import SECOND, CommittedTurn, Conversation, Run, Step
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.encoding import encoded_changes, metered
from agentmesh_conversation_store.storage.interface import Committed, EventCodec, Request
from agentmesh_conversation_store.storage.rows import (
    CHECKPOINTS,
    COMMITTED,
    CONVERSATIONS,
    FACTS,
    FENCES,
    RUNS,
    STEPS,
    Table,
)

from .writer import Session

R = TypeVar("R")

RIVAL_PATIENCE = SECOND // 10
REQUEST_LIFETIME = 24 * 3600 * SECOND


def _upsert(table: Table[Any], key: Sequence[str]) -> str:
    columns = table.columns
    changed = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return (
        f"INSERT INTO {table.name} ({', '.join(columns)}) "
        f"VALUES ({', '.join('?' * len(columns))}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
    )


_PUT_CONVERSATION = _upsert(CONVERSATIONS, ("tenant", "conversation_id"))
_PUT_FACTS = _upsert(FACTS, ("tenant", "conversation_id"))
PUT_RUN = _upsert(RUNS, ("tenant", "run_id"))
_PUT_STEP = _upsert(STEPS, ("tenant", "run_id", "turn", "step_key"))
_PUT_COMMITTED = _upsert(COMMITTED, ("tenant", "run_id", "turn"))
_PUT_CHECKPOINT = _upsert(CHECKPOINTS, ("tenant", "checkpoint_id"))
_PUT_FENCE = _upsert(FENCES, ("tenant", "run_id", "fence"))
_ADD_EVENT = (
    "INSERT INTO events (tenant, conversation_id, sequence, kind, run_id, agent, message_id, turn,"
    " data) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_GET_CONVERSATION = (
    f"SELECT {CONVERSATIONS.select} FROM conversations WHERE tenant = ? AND conversation_id = ?"
)
_GET_FACTS = (
    f"SELECT {FACTS.select} FROM conversation_facts WHERE tenant = ? AND conversation_id = ?"
)
_GET_RUN = f"SELECT {RUNS.select} FROM runs WHERE tenant = ? AND run_id = ?"
_GET_LIVE = (
    f"SELECT {RUNS.select} FROM runs WHERE tenant = ? AND conversation_id = ? AND status < 5"
)
_GET_STEP = (
    f"SELECT {STEPS.select} FROM steps"
    " WHERE tenant = ? AND run_id = ? AND turn = ? AND step_key = ?"
)
_GET_COMMITTED = (
    f"SELECT {COMMITTED.select} FROM committed_turns WHERE tenant = ? AND run_id = ? AND turn = ?"
)


class Unit:
    """Carries out commands."""

    def __init__(self, codec: EventCodec) -> None:
        self._codec = codec

    def execute(self, session: Session, command: Command[R]) -> R:
        """Decides on the rows as they are inside the transaction, and writes the outcome."""
        scope = command.scope
        decision = command.decide(self._load(session, scope), session.now)
        conversation = self._apply(session, scope, decision.changes)
        return metered(decision.result, conversation)

    def execute_once(self, session: Session, command: Command[R], request: Request[R]) -> bytes:
        """As `execute`, unless the request was carried out before."""
        kept = kept_response(session, request)
        if kept is not None:
            return kept
        return keep_response(session, request, self.execute(session, command))

    def _load(self, session: Session, scope: Scope) -> Loaded:
        db = session.connection
        key = (scope.tenant, scope.conversation_id)
        row = db.execute(_GET_CONVERSATION, key).fetchone()
        conversation = CONVERSATIONS.value(row) if row else None
        runs = self._load_runs(db, scope, conversation)
        facts_row = db.execute(_GET_FACTS, key).fetchone() if scope.facts else None
        return Loaded(
            conversation=conversation,
            facts=FACTS.value(facts_row) if facts_row else None,
            runs=runs,
            step=self._load_step(db, scope),
            committed=self._load_committed(db, scope, conversation, runs),
            last_messages=self._load_words(db, scope, runs) if scope.last_messages else {},
            rivals_waiting=scope.rivals and self._rivals(session, scope),
        )

    def _load_runs(
        self, db: sqlite3.Connection, scope: Scope, conversation: Conversation | None
    ) -> dict[str, Run]:
        rows: list[Any] = []
        wanted = {scope.run_id} if scope.run_id else set()
        if scope.live_runs and conversation is not None:
            rows += db.execute(_GET_LIVE, (scope.tenant, scope.conversation_id)).fetchall()
            wanted.add(conversation.root_run_id)
        runs = {run.run_id: run for run in map(RUNS.value, rows)}
        for run_id in wanted - runs.keys():
            row = db.execute(_GET_RUN, (scope.tenant, run_id)).fetchone()
            run = RUNS.value(row) if row else None
            if run is not None and run.conversation_id == scope.conversation_id:
                runs[run_id] = run
        return runs

    def _load_step(self, db: sqlite3.Connection, scope: Scope) -> Step | None:
        if scope.step is None:
            return None
        row = db.execute(_GET_STEP, (scope.tenant, scope.run_id, *scope.step)).fetchone()
        return STEPS.value(row) if row else None

    def _load_committed(
        self,
        db: sqlite3.Connection,
        scope: Scope,
        conversation: Conversation | None,
        runs: dict[str, Run],
    ) -> CommittedTurn | None:
        run_id, turn = scope.run_id, scope.turn
        if scope.newest_turn and conversation is not None:
            run_id = conversation.root_run_id
            turn = runs[run_id].turn
        if turn is None:
            return None
        row = db.execute(_GET_COMMITTED, (scope.tenant, run_id, turn)).fetchone()
        return COMMITTED.value(row) if row else None

    def _load_words(
        self, db: sqlite3.Connection, scope: Scope, runs: dict[str, Run]
    ) -> dict[str, str]:
        words = {}
        for run in runs.values():
            if run.last_message and not run.status.ended:
                row = db.execute(
                    "SELECT data FROM events"
                    " WHERE tenant = ? AND conversation_id = ? AND sequence = ?",
                    (scope.tenant, scope.conversation_id, run.last_message),
                ).fetchone()
                words[run.run_id] = self._codec.words(row[0]) if row else ""
        return words

    def _rivals(self, session: Session, scope: Scope) -> bool:
        row = session.connection.execute(
            "SELECT 1 FROM runs WHERE status = 1 AND runnable_at <= ? AND run_id <> ? LIMIT 1",
            (session.now - RIVAL_PATIENCE, scope.run_id),
        ).fetchone()
        return row is not None

    def _apply(self, session: Session, scope: Scope, changes: Changes) -> Conversation | None:
        db, tenant, conversation_id = session.connection, scope.tenant, scope.conversation_id
        events, conversation = encoded_changes(changes, self._codec)
        if conversation is not None:
            db.execute(_PUT_CONVERSATION, CONVERSATIONS.row(conversation))
        if changes.facts is not None:
            db.execute(_PUT_FACTS, (tenant, conversation_id, *FACTS.row(changes.facts)))
        if changes.definition is not None:
            db.execute(
                "INSERT OR IGNORE INTO definitions (tenant, digest, data) VALUES (?, ?, ?)",
                (tenant, *changes.definition),
            )
        if events:
            db.executemany(_ADD_EVENT, [_event_row(tenant, conversation_id, e) for e in events])
        for run in changes.runs:
            db.execute(PUT_RUN, RUNS.row(run))
        for step in changes.steps:
            db.execute(_PUT_STEP, (tenant, *STEPS.row(step)))
        for turn in changes.committed:
            db.execute(_PUT_COMMITTED, (tenant, *COMMITTED.row(turn)))
        for fence in changes.fences:
            db.execute(_PUT_FENCE, FENCES.row(fence))
        self._apply_inputs(db, scope, changes)
        self._apply_turn_state(db, tenant, changes)
        if conversation is not None or changes.runs:
            session.committed.append(
                Committed(
                    tenant,
                    conversation_id,
                    conversation,
                    tuple(changes.runs),
                    events,
                    tuple(changes.fences),
                )
            )
        return conversation

    def _apply_inputs(self, db: sqlite3.Connection, scope: Scope, changes: Changes) -> None:
        for run_id, sequence in changes.inputs:
            db.execute(
                "INSERT INTO inputs (tenant, run_id, sequence, conversation_id)"
                " VALUES (?, ?, ?, ?)",
                (scope.tenant, run_id, sequence, scope.conversation_id),
            )
        for source, target, after in changes.moved_inputs:
            db.execute(
                "INSERT INTO inputs (tenant, run_id, sequence, conversation_id)"
                " SELECT tenant, ?, sequence, conversation_id FROM inputs"
                " WHERE tenant = ? AND run_id = ? AND sequence > ?",
                (target, scope.tenant, source, after),
            )

    def _apply_turn_state(self, db: sqlite3.Connection, tenant: str, changes: Changes) -> None:
        if changes.checkpoint is not None:
            db.execute(_PUT_CHECKPOINT, (tenant, *CHECKPOINTS.row(changes.checkpoint)))
        if changes.pruned_checkpoints is not None:
            run_id, keep = changes.pruned_checkpoints
            self._prune_checkpoints(db, tenant, run_id, keep)
        if changes.pruned_steps is not None:
            run_id, first = changes.pruned_steps
            db.execute(
                "DELETE FROM steps WHERE tenant = ? AND run_id = ? AND turn < ?",
                (tenant, run_id, first),
            )

    def _prune_checkpoints(
        self, db: sqlite3.Connection, tenant: str, run_id: str, keep: Sequence[str]
    ) -> None:
        """Drops what neither a kept checkpoint nor the chain of its bases needs."""
        needed: set[str] = set()
        for checkpoint_id in keep:
            while checkpoint_id and checkpoint_id not in needed:
                needed.add(checkpoint_id)
                row = db.execute(
                    "SELECT base_id FROM checkpoints WHERE tenant = ? AND checkpoint_id = ?",
                    (tenant, checkpoint_id),
                ).fetchone()
                checkpoint_id = row[0] if row else ""
        marks = ", ".join("?" * len(needed))
        db.execute(
            "DELETE FROM checkpoints WHERE tenant = ? AND run_id = ?"
            f" AND checkpoint_id NOT IN ({marks})",
            (tenant, run_id, *needed),
        )


def kept_response(session: Session, request: Request[Any]) -> bytes | None:
    """The response of an earlier request with this id; refused if its body was another."""
    row = session.connection.execute(
        "SELECT digest, response FROM requests"
        " WHERE tenant = ? AND request_id = ? AND expires_at > ?",
        (request.tenant, request.request_id, session.now),
    ).fetchone()
    if row is None:
        return None
    if row[0] != request.digest:
        raise Rejection(
            Reason.REQUEST_ID_REUSED,
            f'request_id "{request.request_id}" was used with another body',
            request_id=request.request_id,
        )
    return bytes(row[1])


def keep_response(session: Session, request: Request[R], result: R) -> bytes:
    """Keeps a response in the mutation's own transaction."""
    response = request.encode(result)
    session.connection.execute(
        "INSERT OR REPLACE INTO requests (tenant, request_id, digest, response, expires_at)"
        " VALUES (?, ?, ?, ?, ?)",
        (
            request.tenant,
            request.request_id,
            request.digest,
            response,
            session.now + REQUEST_LIFETIME,
        ),
    )
    return response


def _event_row(tenant: str, conversation_id: str, event: StoredEvent) -> tuple[object, ...]:
    return (
        tenant,
        conversation_id,
        event.sequence,
        event.kind,
        event.run_id,
        event.agent,
        event.message_id,
        event.turn,
        event.data,
    )
