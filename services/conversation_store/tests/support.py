"""What the store's tests share: builders, a clock that stands still, a listener."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import asyncpg
from agentmesh.catalog.v1 import agent_pb2, team_pb2
from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh.conversation_store.v1 import (
    conversation_store_service_pb2,
    turn_service_pb2,
)
from agentmesh_conversation_store.domain.approvals import AskedApproval
from agentmesh_conversation_store.domain.audit_keys import AuditKeys, SealingKey
from agentmesh_conversation_store.domain.conversations import StartConversation
from agentmesh_conversation_store.domain.events import WorkerEvent
from agentmesh_conversation_store.domain.model import SECOND, ConversationFacts, Instant
from agentmesh_conversation_store.domain.usage import Budget
from agentmesh_conversation_store.storage.interface import Committed
from meshkit.channels import call_metadata
from meshkit.identity import Principal
from meshkit.roles import Role

store_pb = conversation_store_service_pb2
turn_pb = turn_service_pb2

ACME = Principal("alice", "acme", 3)
OTHER = Principal("mallory", "other", 3)
DIGEST = hashlib.sha256(b"a request").digest()
PATIENCE = 20.0
AUDIT_KEYS = AuditKeys([SealingKey(b"k" * 32)])
_numbers = itertools.count(1)


def fresh(prefix: str) -> str:
    """An id that no test used before."""
    return f"{prefix}_{next(_numbers):06d}"


class ManualClock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now: Instant = 1_800_000_000 * SECOND

    def __call__(self) -> Instant:
        return self.now

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.now += round(seconds * SECOND)


class Recorder:
    """Hears what a storage commits."""

    def __init__(self) -> None:
        self.committed: list[Committed] = []

    def __call__(self, group: Sequence[Committed]) -> None:
        self.committed.extend(group)


def start_command(tenant: str = "acme", **changes: Any) -> StartConversation:
    """A conversation to start; `changes` replace its fields."""
    values: dict[str, Any] = {
        "tenant": tenant,
        "conversation_id": fresh("conv"),
        "run_id": fresh("run"),
        "message_id": fresh("msg"),
        "facts": ConversationFacts(task="do it", agents=("writer",)),
        "definition": ("digest", b""),
        "max_rounds": 10,
        "principal": "alice",
        "budget": Budget(),
        "timeout": None,
        "priority": 0,
        "human_input": False,
        "traceparent": "",
    }
    return StartConversation(**(values | changes))


def team() -> team_pb2.TeamDefinition:
    """One agent."""
    agent = agent_pb2.AgentDefinition(id="writer", role="writes")
    return team_pb2.TeamDefinition(
        id="solo",
        kind=team_pb2.TEAM_KIND_SINGLE,
        participants=[team_pb2.Participant(agent=agent)],
    )


def message_event(message_id: str, content: str) -> event_pb2.Event:
    """What an agent said."""
    return event_pb2.Event(
        agent="writer",
        message=message_pb2.Message(
            message_id=message_id,
            role=message_pb2.MESSAGE_ROLE_AGENT,
            agent="writer",
            content=content,
        ),
    )


def asks_event(approval_id: str, until: Instant) -> WorkerEvent:
    """An agent asks a person."""
    requested = event_pb2.ApprovalRequested(approval_id=approval_id, prompt="?")
    return WorkerEvent(
        "approval_requested",
        event_pb2.Event(approval_requested=requested),
        approval=AskedApproval(approval_id, "?", b"", until, Role.OPERATOR),
    )


async def emptied(postgres_url: str) -> None:
    """Removes every row of a migrated database."""
    connection = await asyncpg.connect(postgres_url)
    tables = await connection.fetch(
        "SELECT tablename FROM pg_tables"
        " WHERE schemaname = 'public' AND tablename <> 'schema_version'"
    )
    await connection.execute(f"TRUNCATE {', '.join(row['tablename'] for row in tables)}")
    await connection.close()


def acting(principal: Principal) -> Any:
    """Metadata of a call for somebody."""
    return call_metadata(principal)


def dense(events: Sequence[event_pb2.Event]) -> bool:
    """True if the events are the whole log, once and in order."""
    return [event.sequence for event in events] == list(range(1, len(events) + 1))
