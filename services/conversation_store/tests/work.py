"""What a worker does to its run, as commands of the domain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agentmesh.conversation.v1 import event_pb2
from agentmesh_conversation_store.domain.attempts import ReleaseTurn, Retries
from agentmesh_conversation_store.domain.events import WorkerEvent
from agentmesh_conversation_store.domain.model import (
    SECOND,
    Checkpoint,
    EndReason,
    Origin,
    Run,
    RunStatus,
    StepKind,
)
from agentmesh_conversation_store.domain.steps import BeginStep, RecordStep
from agentmesh_conversation_store.domain.turns import CommitTurn
from agentmesh_conversation_store.domain.usage import Usage
from agentmesh_conversation_store.storage.interface import Storage

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


def release(run: Run, **changes: Any) -> ReleaseTurn:
    """Gives the lease back, as if the turn had never been begun."""
    release = ReleaseTurn(
        run.tenant,
        run.conversation_id,
        run.run_id,
        run.fence,
        run.turn + 1,
        failed=False,
        detail="",
        reason=EndReason.NONE,
        retry_after=0,
        retries=RETRIES,
    )
    return replace(release, **changes)
