"""Full-text search by FTS5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agentmesh_conversation_store.domain.search import Term, TextQuery, Words
from agentmesh_conversation_store.storage.sql.conditions import Condition, in_turn

_NO_WORD = "\N{MIDDLE DOT}"  # a token to the tokenizer, and never one of our words


class Fts5Words:
    """See `WordIndex`. Words are ours already: the tokenizer has only to cut at spaces."""

    add = "INSERT INTO message_words (tenant, conversation_id, sequence, words) VALUES (?, ?, ?, ?)"
    found = (
        "SELECT m.conversation_id, m.sequence FROM message_words_index i JOIN message_words m ON"
        " m.rowid = i.rowid WHERE i.words MATCH ? AND m.tenant = ?"
    )

    def row(self, tenant: str, conversation_id: str, sequence: int, words: Words) -> Sequence[Any]:
        """See `WordIndex`."""
        return tenant, conversation_id, sequence, self.text(words)

    def text(self, words: Words) -> str:
        """Words as they are indexed."""
        placed = " ".join(word or _NO_WORD for word in words.placed)
        return placed + "".join(f" {_NO_WORD} {word}" for word in words.further)

    def arguments(self, tenant: str, query: TextQuery) -> Sequence[Any]:
        """See `WordIndex`."""
        wanted = " AND ".join(map(_phrase, query.wanted))
        excluded = " OR ".join(map(_phrase, query.excluded))
        return (f"({wanted}) NOT ({excluded})" if excluded else wanted), tenant

    def fits(self, tenant: str, query: TextQuery) -> Condition:
        """See `WordIndex`."""
        return in_turn(
            *(_stands(term, "> 0") for term in query.wanted),
            *(_stands(term, "= 0") for term in query.excluded),
        )


def _stands(term: Term, how_often: str) -> Condition:
    """There is a space before and after every word."""
    phrase = f" {' '.join(term.words)}" + ("" if term.prefix else " ")
    return Condition(f"instr(' ' || m.words || ' ', ?) {how_often}", (phrase,))


def _phrase(term: Term) -> str:
    return f'"{" ".join(term.words)}"' + ("*" if term.prefix else "")
