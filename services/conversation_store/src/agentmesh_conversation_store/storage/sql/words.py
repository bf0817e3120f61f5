"""The index for full-text search: a row for each text that was said, kept by its database's own
means. What words are and what a query means is decided in domain/search.py, for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from agentmesh_conversation_store.domain.events import NewEvent
from agentmesh_conversation_store.domain.search import TextQuery, Words, words_of

from .conditions import Condition


class WordIndex(Protocol):
    """How one database indexes words.

    The two have no full-text search in common: SQLite has virtual tables and MATCH, Postgres a type
    and an operator.
    """

    @property
    def add(self) -> str:
        """A statement that adds one row."""
        ...

    def row(self, tenant: str, conversation_id: str, sequence: int, words: Words) -> Sequence[Any]:
        """The arguments of `add`."""
        ...

    @property
    def found(self) -> str:
        """A query for the id of the log and the sequence of each text that fits."""
        ...

    def arguments(self, tenant: str, query: TextQuery) -> Sequence[Any]:
        """The arguments of `found`; the query wants something."""
        ...

    def fits(self, tenant: str, query: TextQuery) -> Condition:
        """True of those rows `m` that `found` finds, without a look at the index."""
        ...


def texts(events: Sequence[NewEvent]) -> Iterator[tuple[int, Words]]:
    """What new events say, by their sequences. A text that one of them repeats, as the first
    message repeats the task, is indexed once."""
    said: set[str] = set()
    for event in events:
        text = event.said
        if text and text not in said:
            said.add(text)
            words = words_of(text)
            if words:
                yield event.sequence, words
