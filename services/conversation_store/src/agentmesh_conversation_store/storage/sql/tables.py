"""Values as rows of plain columns, and back."""

# ruff: noqa: S608 - SQL is put together from names of our own, never from values

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cached_property
from operator import attrgetter
from typing import Any, Generic, TypeVar

from meshkit.roles import Role

from agentmesh_conversation_store.domain.access import Access, Grant
from agentmesh_conversation_store.domain.approvals import Approval, ApprovalStatus
from agentmesh_conversation_store.domain.audit_chain import Cut, Seal
from agentmesh_conversation_store.domain.audit_keys import CutOver
from agentmesh_conversation_store.domain.history import (
    Milestone,
    Removal,
    SharedHistory,
    SharedInput,
)
from agentmesh_conversation_store.domain.keys import ApiKey
from agentmesh_conversation_store.domain.ledger import AuditRecord, TenantDay, TenantPolicy
from agentmesh_conversation_store.domain.model import (
    BlobReference,
    Checkpoint,
    CommittedTurn,
    Conversation,
    ConversationFacts,
    ConversationStatus,
    EndReason,
    RaisedFence,
    Run,
    RunStatus,
    Step,
    StepKind,
    Visibility,
    WaitKind,
    WorkspaceBlob,
)
from agentmesh_conversation_store.domain.usage import ADDITIVE, NO_USAGE, Budget, Usage

T = TypeVar("T")
Column = int | str | bytes | None


def _pack_usage(usage: Usage) -> str:
    if usage is NO_USAGE or usage == NO_USAGE:
        return ""
    return ",".join(str(int(getattr(usage, f.name))) for f in fields(Usage))


def _unpack_usage(text: str) -> Usage:
    if not text:
        return NO_USAGE
    numbers = [int(number) for number in text.split(",")]
    return replace(
        NO_USAGE, **dict(zip(ADDITIVE, numbers, strict=False)), estimated=bool(numbers[-1])
    )


_BOUNDS = tuple(field.name for field in fields(Budget))


def _pack_budget(budget: Budget) -> str:
    bounds = (getattr(budget, name) for name in _BOUNDS)
    return ",".join("" if bound is None else str(bound) for bound in bounds)


def _unpack_budget(text: str) -> Budget:
    return Budget(*(int(bound) if bound else None for bound in text.split(",")))


def _pack_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _unpack_tuple(text: str) -> tuple[Any, ...]:
    return () if text == "[]" else tuple(json.loads(text))


def _pack_map(value: Any) -> str:
    return _pack_json(dict(value))


class Table(Generic[T]):
    """How one kind of value is kept.

    `key` names the primary key, `converters` the fields that are no plain column, each with its
    way out and back; `extra` are columns that the value itself does not have.
    """

    def __init__(
        self,
        kind: type[T],
        name: str,
        key: Sequence[str],
        converters: dict[str, tuple[Callable[[Any], Column], Callable[[Any], Any]]] | None = None,
        *,
        extra: Sequence[str] = (),
    ) -> None:
        ways = converters or {}
        names = [f.name for f in fields(kind)]  # type: ignore[arg-type]  # always a dataclass
        self.kind = kind
        self.name = name
        self.key = tuple(key)
        self.fields = tuple(names)
        self.extra = tuple(extra)
        self.columns = (*extra, *names)
        self._read = attrgetter(*names)
        self._out = [(i, ways[n][0]) for i, n in enumerate(names) if n in ways]
        self._back = [(i, ways[n][1]) for i, n in enumerate(names) if n in ways]

    def row(self, value: T) -> tuple[Column, ...]:
        """The columns of a value, in the order of `fields`."""
        columns = list(self._read(value))
        for index, out in self._out:
            columns[index] = out(columns[index])
        return tuple(columns)

    def value(self, row: Sequence[Any]) -> T:
        """The value of a row whose columns are in the order of `fields`."""
        columns = list(row)
        for index, back in self._back:
            columns[index] = back(columns[index])
        return self.kind(*columns)

    @cached_property
    def select(self) -> str:
        """The fields as a select list."""
        return ", ".join(self.fields)

    def qualified(self, alias: str) -> str:
        """The fields as a select list of a joined table."""
        return ", ".join(f"{alias}.{name}" for name in self.fields)

    @cached_property
    def get(self) -> str:
        """Selects the key and the fields of one row by its key."""
        return f"SELECT {', '.join(self.key)}, {self.select} FROM {self.name} WHERE {self._by_key}"

    @cached_property
    def put(self) -> str:
        """Writes a row, whether it is there already or not."""
        changed = ", ".join(
            f"{name} = excluded.{name}" for name in self.columns if name not in self.key
        )
        return (
            f"INSERT INTO {self.name} ({', '.join(self.columns)})"
            f" VALUES ({', '.join('?' * len(self.columns))})"
            f" ON CONFLICT ({', '.join(self.key)}) DO UPDATE SET {changed}"
        )

    @cached_property
    def add(self) -> str:
        """Writes a row that is not there yet."""
        places = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({places})"

    @cached_property
    def remove(self) -> str:
        """Deletes one row by its key."""
        return f"DELETE FROM {self.name} WHERE {self._by_key}"

    @property
    def _by_key(self) -> str:
        return " AND ".join(f"{name} = ?" for name in self.key)


_usage = (_pack_usage, _unpack_usage)
_flag = (int, bool)
_texts = (_pack_json, _unpack_tuple)
_map = (_pack_map, json.loads)

RUNS = Table(
    Run,
    "runs",
    ("tenant", "run_id"),
    {
        "status": (int, RunStatus),
        "waiting_for": (int, WaitKind),
        "end_reason": (int, EndReason),
        "usage": _usage,
        "turn_usage": _usage,
        "reserved": _usage,
        "budget": (_pack_budget, _unpack_budget),
        "pause_requested": _flag,
        "human_input": _flag,
        "turn_messages": _texts,
    },
)
CONVERSATIONS = Table(
    Conversation,
    "conversations",
    ("tenant", "conversation_id"),
    {"status": (int, ConversationStatus), "usage": _usage, "visibility": (int, Visibility)},
)
FACTS = Table(
    ConversationFacts,
    "conversation_facts",
    ("tenant", "conversation_id"),
    {"agents": _texts, "labels": _map, "legal_hold": _flag},
    extra=("tenant", "conversation_id"),
)
GRANTS = Table(
    Grant,
    "conversation_grants",
    ("tenant", "conversation_id", "grantee"),
    {"access": (int, Access)},
    extra=("tenant",),
)
SHARED = Table(
    SharedHistory,
    "shared_history",
    ("tenant", "conversation_id", "last_sequence"),
    extra=("tenant",),
)
INPUTS = Table(SharedInput, "inputs", ("tenant", "run_id", "sequence"), extra=("tenant",))
MILESTONES = Table(
    Milestone, "milestones", ("tenant", "conversation_id", "sequence"), extra=("tenant",)
)
REMOVALS = Table(Removal, "removals", ("tenant", "log_id"), extra=("tenant",))
STEPS = Table(
    Step,
    "steps",
    ("tenant", "run_id", "turn", "step_key"),
    {"kind": (int, StepKind), "recorded": _flag, "reservation": _usage, "record": _map},
    extra=("tenant",),
)
COMMITTED = Table(
    CommittedTurn,
    "committed_turns",
    ("tenant", "run_id", "turn"),
    {"status": (int, RunStatus), "content": _map, "message_ids": _texts, "discarded": _flag},
    extra=("tenant",),
)
BLOB_REFERENCES = Table(
    BlobReference,
    "blob_references",
    ("tenant", "conversation_id", "sequence", "digest"),
    extra=("tenant",),
)
WORKSPACE_BLOBS = Table(
    WorkspaceBlob, "workspace_blobs", ("tenant", "manifest", "digest"), extra=("tenant",)
)
CHECKPOINTS = Table(Checkpoint, "checkpoints", ("tenant", "checkpoint_id"), extra=("tenant",))
FENCES = Table(RaisedFence, "raised_fences", ("tenant", "run_id", "fence"), {"rests": _flag})
APPROVALS = Table(
    Approval,
    "approvals",
    ("tenant", "approval_id"),
    {
        "role": (int, Role),
        "status": (int, ApprovalStatus),
        "within_turn": _flag,
        "approve_on_expiry": _flag,
        "escalate_to": (
            lambda role: int(role or 0),
            lambda number: Role(number) if number else None,
        ),
    },
)
POLICIES = Table(
    TenantPolicy,
    "tenant_policies",
    ("tenant",),
    {
        "daily_budget": (_pack_budget, _unpack_budget),
        "default_visibility": (int, Visibility),
    },
)
DAYS = Table(TenantDay, "tenant_days", ("tenant",))
AUDIT = Table(AuditRecord, "audit_records", ("tenant", "record_id"))
SEALS = Table(Seal, "audit_seals", ("tenant", "number"))
CUTS = Table(Cut, "audit_cuts", ("tenant", "through_sequence"))
CUT_OVERS = Table(CutOver, "audit_cut_overs", ("tenant", "through"))
KEYS = Table(
    ApiKey,
    "api_keys",
    ("tenant", "key_id"),
    {"role": (int, Role), "scopes": _texts},
)

TABLES: dict[type[Any], Table[Any]] = {
    table.kind: table
    for table in (
        CONVERSATIONS,
        RUNS,
        FACTS,
        STEPS,
        COMMITTED,
        CHECKPOINTS,
        FENCES,
        BLOB_REFERENCES,
        WORKSPACE_BLOBS,
        APPROVALS,
        GRANTS,
        SHARED,
        INPUTS,
        MILESTONES,
        REMOVALS,
    )
}
