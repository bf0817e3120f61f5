"""Full-text search by tsvector and GIN."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from agentmesh_conversation_store.domain.search import Term, TextQuery, Words
from agentmesh_conversation_store.storage.sql.conditions import Condition


class TsvectorWords:
    """See `WordIndex`.

    Vectors and queries are written out as literals of their types: the database's own parser,
    which knows addresses and hyphens, has no part in it. The tenant is a word of every text, so
    that the index itself finds the tenant's texts alone, however common a word is elsewhere.
    """

    add = (
        "INSERT INTO message_words (tenant, conversation_id, sequence, words)"
        " VALUES (?, ?, ?, CAST(CAST(? AS TEXT) AS tsvector))"
    )
    found = (
        "SELECT m.conversation_id, m.sequence FROM message_words m"
        " WHERE m.words @@ CAST(CAST(? AS TEXT) AS tsquery) AND m.tenant = ?"
    )

    def row(self, tenant: str, conversation_id: str, sequence: int, words: Words) -> Sequence[Any]:
        """See `WordIndex`."""
        places: dict[str, list[int]] = defaultdict(list)
        for place, word in enumerate(words.placed, 1):
            if word:
                places[word].append(place)
        parts = [_of_tenant(tenant), *(f"'{word}'" for word in words.further)]
        parts += [f"'{word}':{','.join(map(str, at))}" for word, at in places.items()]
        return tenant, conversation_id, sequence, " ".join(parts)

    def arguments(self, tenant: str, query: TextQuery) -> Sequence[Any]:
        """See `WordIndex`."""
        parts = [_of_tenant(tenant), *map(_phrase, query.wanted)]
        parts += [f"!{_phrase(term)}" for term in query.excluded]
        return " & ".join(parts), tenant

    def fits(self, tenant: str, query: TextQuery) -> Condition:
        """See `WordIndex`. The operator's function, which the index knows nothing of: for each of
        a few rows the index would be asked for those of the whole tenant."""
        text, _ = self.arguments(tenant, query)
        return Condition("ts_match_vq(m.words, CAST(CAST(? AS TEXT) AS tsquery))", (text,))


def _phrase(term: Term) -> str:
    words = [f"'{word}'" for word in term.words]
    if term.prefix:
        words[-1] += ":*"
    return f"({' <-> '.join(words)})"


def _of_tenant(tenant: str) -> str:
    """No word of a text has a sign in it."""
    return f"'~{hashlib.blake2b(tenant.encode(), digest_size=8).hexdigest()}'"
