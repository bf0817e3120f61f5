"""Further rows that operations ask for: found by their keys, a query for each kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from agentmesh_conversation_store.domain.changes import Lookup, Scope
from agentmesh_conversation_store.domain.model import (
    CommittedTurn,
    Conversation,
    ConversationFacts,
    Run,
    Step,
)

from .plan import Plan, fetch_each
from .tables import TABLES

Key = tuple[str, str]
Found = Mapping[tuple[str, Lookup], Any]


class Extras(TypedDict):
    """What `Loaded` holds beside the conversation and its runs."""

    facts: ConversationFacts | None
    step: Step | None
    committed: CommittedTurn | None
    found: Mapping[Lookup, Any]


def find(
    scopes: Sequence[Scope],
    conversations: Mapping[Key, Conversation],
    runs: Mapping[Key, Mapping[str, Run]],
) -> Plan[Found]:
    """All records of all scopes that exist."""
    wanted: dict[type[Any], set[tuple[Any, ...]]] = defaultdict(set)
    for scope in scopes:
        for lookup in _lookups(scope, conversations, runs):
            wanted[lookup.kind].add((scope.tenant, *lookup.key))
    found: dict[tuple[str, Lookup], Any] = {}
    for kind, keys in wanted.items():
        table = TABLES[kind]
        size = len(table.key)
        for row in (yield from fetch_each(table.get, sorted(keys))):
            found[row[0], Lookup(kind, tuple(row[1:size]))] = table.value(row[size:])
    return found


def of(
    scope: Scope,
    conversations: Mapping[Key, Conversation],
    runs: Mapping[Key, Mapping[str, Run]],
    found: Found,
) -> Extras:
    """What was found for one scope."""
    step, committed = _step(scope), _committed(scope, conversations, runs)
    tenant = scope.tenant
    return Extras(
        facts=found.get((tenant, _facts(scope))),
        step=found.get((tenant, step)) if step else None,
        committed=found.get((tenant, committed)) if committed else None,
        found={
            lookup: found[tenant, lookup] for lookup in scope.lookups if (tenant, lookup) in found
        },
    )


def _lookups(
    scope: Scope,
    conversations: Mapping[Key, Conversation],
    runs: Mapping[Key, Mapping[str, Run]],
) -> Iterator[Lookup]:
    if scope.facts:
        yield _facts(scope)
    if step := _step(scope):
        yield step
    if committed := _committed(scope, conversations, runs):
        yield committed
    yield from scope.lookups


def _facts(scope: Scope) -> Lookup:
    return Lookup(ConversationFacts, (scope.conversation_id,))


def _step(scope: Scope) -> Lookup | None:
    return Lookup(Step, (scope.run_id, *scope.step)) if scope.step else None


def _committed(
    scope: Scope,
    conversations: Mapping[Key, Conversation],
    runs: Mapping[Key, Mapping[str, Run]],
) -> Lookup | None:
    key = (scope.tenant, scope.conversation_id)
    if scope.newest_turn and key in conversations:
        run = runs[key][conversations[key].root_run_id]
        return Lookup(CommittedTurn, (run.run_id, run.turn))
    return Lookup(CommittedTurn, (scope.run_id, scope.turn)) if scope.turn is not None else None
