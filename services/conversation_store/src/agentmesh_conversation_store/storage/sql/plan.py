"""Plans: what to ask of a database, apart from how to talk to it.

A plan is a generator. It yields operations, is sent the rows of each, and returns its result. So
every query stands here once, and a database needs no more than a driver: SQLite drives a plan on
a thread, Postgres on the event loop, where `FetchEach` and `Each` go over the wire as one
pipelined round trip however many argument lists they have.

The SQL is what SQLite and Postgres have in common, with `?` for arguments. Row locks (`FOR
UPDATE`, `SKIP LOCKED`) are written out; SQLite, where a writer is alone, leaves them away.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentmesh_conversation_store.domain.model import Instant
from agentmesh_conversation_store.storage.interface import Committed

T = TypeVar("T")

Row = Sequence[Any]
Rows = Sequence[Row]
Arguments = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Fetch:
    """One statement; its rows."""

    sql: str
    arguments: Arguments = ()


@dataclass(frozen=True, slots=True)
class FetchEach:
    """One statement with each of many arguments; all their rows, in that order."""

    sql: str
    arguments: Sequence[Arguments]


@dataclass(frozen=True, slots=True)
class Each:
    """One statement with each of many arguments; no rows."""

    sql: str
    arguments: Sequence[Arguments]


@dataclass(frozen=True, slots=True)
class Now:
    """The database's clock: one row with an `Instant`."""


@dataclass(frozen=True, slots=True)
class Alone:
    """Waits until no other transaction of any replica is in the section of this name."""

    section: str


@dataclass(frozen=True, slots=True)
class Unhurried:
    """The transaction need not be on disk when it ends: what it does is done again if it is lost.
    So nobody waits for the disk because of it, where the database can do that."""


Operation = Fetch | FetchEach | Each | Now | Alone | Unhurried
Plan = Generator[Operation, Rows, T]


@dataclass(slots=True)
class Session:
    """What a writing plan leaves for others to hear, in order."""

    committed: list[Committed] = field(default_factory=list)


def fetch(sql: str, *arguments: Any) -> Plan[Rows]:
    """The rows of one statement."""
    return (yield Fetch(sql, arguments))


def first(sql: str, *arguments: Any) -> Plan[Row | None]:
    """The first row of one statement, if there is one."""
    rows = yield Fetch(sql, arguments)
    return rows[0] if rows else None


def fetch_each(sql: str, arguments: Sequence[Arguments]) -> Plan[Rows]:
    """The rows of one statement with each of many arguments."""
    if not arguments:
        return ()
    return (yield FetchEach(sql, arguments))


def each(sql: str, arguments: Sequence[Arguments]) -> Plan[None]:
    """Carries out one statement with each of many arguments."""
    if arguments:
        yield Each(sql, arguments)


def now() -> Plan[Instant]:
    """The database's clock."""
    ((instant,),) = yield Now()
    return int(instant)
