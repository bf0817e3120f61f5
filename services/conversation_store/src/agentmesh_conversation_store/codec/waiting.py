"""What a turn says of the wait that it begins: runs to start, people to ask, a time to wake at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as pb
from meshkit.errors import MeshError
from meshkit.ids import new_id

from agentmesh_conversation_store.domain.approvals import approval_id_of
from agentmesh_conversation_store.domain.children import ChildRun
from agentmesh_conversation_store.domain.usage import Budget

from . import values


def require_a_wait_that_ends(request: pb.CommitTurnRequest) -> None:
    """Refuses a wait that nothing could end."""
    timer = request.waiting_for == conversation_pb2.WAIT_KIND_TIMER
    if _waits(request) and timer and not request.HasField("wake_at"):
        raise MeshError.invalid("wake_at", "must be set for a run that waits for a timer")


def child_runs(request: pb.CommitTurnRequest) -> Sequence[ChildRun]:
    """The runs to start. INVALID_ARGUMENT unless the commit waits for them."""
    if not request.children:
        return ()
    waits = _waits(request) and request.waiting_for == conversation_pb2.WAIT_KIND_CHILDREN
    if not waits or request.discard:
        raise MeshError.invalid("children", "go with WAITING for CHILDREN")
    return _different(request.children)


def suspended_for(request: pb.SuspendTurnRequest) -> Sequence[ChildRun]:
    """The runs that a suspended turn starts. INVALID_ARGUMENT unless requests about tool calls have
    the ids by which BeginStep knows them."""
    for index, event in enumerate(request.events):
        asked = event.approval_requested
        if not asked.HasField("tool_call"):
            continue
        wanted = approval_id_of(request.run_id, request.turn, asked.tool_call.tool_call_id)
        if asked.approval_id != wanted:
            raise MeshError.invalid(
                f"events[{index}].approval_requested.approval_id",
                f"must be {wanted}, made of the run, the turn and the tool call",
            )
    return _different(request.children)


def _different(children: Sequence[pb.ChildRun]) -> Sequence[ChildRun]:
    seen: set[str] = set()
    for index, child in enumerate(children):
        if child.agent_path in seen:
            raise MeshError.invalid(
                f"children[{index}].agent_path", f'"{child.agent_path}" is there twice'
            )
        seen.add(child.agent_path)
    return [_child_run(child) for child in children]


def _waits(request: pb.CommitTurnRequest) -> bool:
    return request.status == conversation_pb2.RUN_STATUS_WAITING


def _child_run(child: pb.ChildRun) -> ChildRun:
    definition = child.definition.SerializeToString(deterministic=True)
    return ChildRun(
        child.agent_path,
        (hashlib.sha256(definition).hexdigest(), definition),
        child.task,
        new_id("msg"),
        child.max_rounds,
        values.budget(child.budget) if child.HasField("budget") else Budget(),
        values.micros(child.timeout) if child.HasField("timeout") else None,
    )
