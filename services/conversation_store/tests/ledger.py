"""Steps that cost something, and what the ledger says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.domain.attempts import Retries
from agentmesh_conversation_store.domain.events import WorkerEvent
from agentmesh_conversation_store.domain.ledger import (
    Dimension,
    TenantPolicy,
    UsageQuery,
)
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Checkpoint,
    Origin,
    Run,
    RunStatus,
    StepKind,
)
from agentmesh_conversation_store.domain.steps import BeginStep, RecordStep
from agentmesh_conversation_store.domain.turns import CommitTurn
from agentmesh_conversation_store.domain.usage import NO_USAGE, Budget, Usage
from agentmesh_conversation_store.storage.interface import (
    Storage,
)

from services.conversation_store.tests.support import DIGEST, fresh, start_command

LEASE = 5 * SECOND
RETRIES = Retries(3, 3)
SPENT = Usage(input_tokens=70, output_tokens=30, model_calls=1, cost_micros=5)


async def leased(storage: Storage, worker: str = "w", **changes: Any) -> Run:
    """A run of a new conversation, under a lease."""
    await storage.execute(start_command(**changes))
    (run,) = await storage.grant({worker: 1}, LEASE)
    return run


def begin(run: Run, key: str = "a/1", **changes: Any) -> BeginStep:
    """A claim of a step."""
    step = BeginStep(
        run.tenant,
        run.conversation_id,
        run.run_id,
        run.fence,
        run.turn + 1,
        key,
        StepKind.MODEL,
        DIGEST,
        fresh("attempt"),
    )
    return replace(step, **changes)


def record(run: Run, key: str = "a/1", **changes: Any) -> RecordStep:
    """A record of a step that cost SPENT."""
    record = RecordStep(
        run.tenant,
        run.conversation_id,
        run.run_id,
        run.fence,
        run.turn + 1,
        key,
        DIGEST,
        b"said",
        "",
        "",
        {},
        Origin.RUNTIME,
        events=[WorkerEvent("message", event_pb2.Event(), "writer")],
        usage=SPENT,
        model="m-1",
    )
    return replace(record, **changes)


def commit(run: Run, **changes: Any) -> CommitTurn:
    """A commit of the turn under way."""
    commit = CommitTurn(
        run.tenant,
        run.conversation_id,
        run.run_id,
        run.fence,
        run.turn + 1,
        {},
        RunStatus.RUNNABLE,
        checkpoint=Checkpoint(fresh("ckpt"), run.run_id, run.turn + 1, b""),
    )
    return replace(commit, **changes)


async def sums(storage: Storage, dimension: Dimension, tenant: str = "acme") -> dict[Any, Usage]:
    """What the ledger says, by a dimension."""
    found = await storage.summarize_usage(tenant, UsageQuery(dimension, 1000))
    return {one.key: one.usage for one in found}


async def agrees(storage: Storage, *conversations: str, tenant: str = "acme") -> None:
    """The ledger says of each conversation what the conversation itself says, and of all of them
    the same by every dimension."""
    by_conversation = await sums(storage, Dimension.CONVERSATION, tenant)
    total = NO_USAGE
    for conversation_id in conversations:
        shown = (await storage.conversation(tenant, conversation_id)).conversation.usage
        assert by_conversation.get(conversation_id, NO_USAGE) == shown
        total = total.plus(shown)
    for dimension in Dimension:
        summed = NO_USAGE
        for usage in (await sums(storage, dimension, tenant)).values():
            summed = summed.plus(usage)
        assert summed == total


async def allow(storage: Storage, tenant: str = "acme", **budget: int) -> None:
    await storage.put_tenant_policy(TenantPolicy(tenant, daily_budget=Budget(**budget)), "")
