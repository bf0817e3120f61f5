"""Grants that fit into a message, and chains of checkpoints in pieces that do.

A grant's size is bounded by leaving away what its worker can do without: later inputs come with a
later turn, results of steps with BeginStep, checkpoints with ReadCheckpoints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agentmesh.catalog.v1 import team_pb2
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1 import event_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as pb

from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import Checkpoint, Run, Step, StepKind
from agentmesh_conversation_store.domain.workspaces import UNNAMED
from agentmesh_conversation_store.storage.interface import LINK_BYTES, GrantedTurn

from .resources import run_message, step_message
from .values import optional_timestamp
from .workspaces import workspace_message

_ITEM_BYTES = 16  # tag and length of an item of a list


def grant_message(granted: GrantedTurn, capability: str, most_bytes: int) -> pb.TurnGrant:
    """What the worker of a leased turn needs, in at most that many bytes.

    A definition and a first input that are larger by themselves make the grant larger.
    """
    run = granted.run
    grant = pb.TurnGrant(
        run=run_message(run),
        tenant=run.tenant,
        fence=run.fence,
        turn=run.turn + 1,
        capability=capability,
        definition=team_pb2.TeamDefinition.FromString(granted.definition),
        # The same inputs for each attempt at a turn, whatever else the grant holds then.
        inputs=_inputs(granted.inputs, most_bytes // 2),
        lease_until=optional_timestamp(run.lease_until),
        head_sequence=granted.head_sequence,
        human_input=run.human_input,
        message_count=granted.message_count,
    )
    if granted.workspace.generation:
        grant.workspace.CopyFrom(workspace_message(granted.workspace))
    if granted.runner_address != UNNAMED:
        grant.runner_address = granted.runner_address
    if run.checkpoint_id:
        grant.checkpoint.checkpoint_id = run.checkpoint_id
    _add_asked(grant, granted, most_bytes // 8)
    left = most_bytes - grant.ByteSize()
    grant.steps.extend(_steps(granted.steps, run, left))
    _add_chain(grant, granted.chain, most_bytes - grant.ByteSize())
    return grant


def _add_asked(grant: pb.TurnGrant, granted: GrantedTurn, left: int) -> None:
    """What the turn was suspended for, without the texts that do not fit."""
    for approval in granted.approvals:
        message = pb.TurnApproval(
            approval_id=approval.approval_id,
            status=event_pb2.ApprovalStatus.ValueType(approval.status),
            principal=approval.principal,
            role=options_pb2.Role.ValueType(approval.role),
        )
        size = len(approval.comment.encode()) + len(approval.edited_arguments_json.encode())
        if size <= left:
            left -= size
            message.comment = approval.comment
            message.edited_arguments_json = approval.edited_arguments_json
        else:
            message.text_omitted = True
        grant.approvals.append(message)
    for child in granted.children:
        shown = run_message(child)
        message_of = pb.TurnChild(
            run_id=shown.run_id,
            agent_path=shown.agent_path,
            status=shown.status,
            end_reason=shown.end_reason,
            detail=shown.detail,
        )
        size = len(shown.summary.encode())
        if size <= left:
            left -= size
            message_of.summary = shown.summary
        else:
            message_of.summary_omitted = True
        grant.children.append(message_of)


def _inputs(events: Iterable[StoredEvent], left: int) -> Iterator[event_pb2.Event]:
    for number, event in enumerate(events):
        left -= len(event.data) + _ITEM_BYTES
        if number and left < 0:
            return
        yield event_pb2.Event.FromString(event.data)


def _steps(steps: Sequence[Step], run: Run, left: int) -> Iterator[pb.StepRecord]:
    """Results of models first, for they say what the next ones may be called."""
    whole = set()
    for step in sorted(steps, key=lambda step: step.kind is not StepKind.MODEL):
        left -= len(step.result) + LINK_BYTES + len(step.step_key) + len(step.attempt_id)
        if left >= 0:
            whole.add(step.step_key)
        else:
            left += len(step.result)
    for step in steps:
        message = step_message(step, step.state_for(run.fence))
        if step.step_key not in whole and message.result:
            message.ClearField("result")
            message.result_omitted = True
        yield message


def _add_chain(grant: pb.TurnGrant, chain: Sequence[Checkpoint], left: int) -> None:
    if not chain or sum(len(link.data) + LINK_BYTES for link in chain) > left:
        return
    *bases, newest = chain
    grant.checkpoint.CopyFrom(_checkpoint(newest, newest.data))
    grant.base_checkpoints.extend(_checkpoint(base, base.data) for base in bases)


def checkpoint_pieces(checkpoint: Checkpoint, most_bytes: int) -> Iterator[pb.Checkpoint]:
    """A checkpoint as one piece, or several if it is large."""
    for start in range(0, max(1, len(checkpoint.data)), most_bytes):
        yield _checkpoint(checkpoint, checkpoint.data[start : start + most_bytes])


def _checkpoint(checkpoint: Checkpoint, data: bytes) -> pb.Checkpoint:
    return pb.Checkpoint(
        checkpoint_id=checkpoint.checkpoint_id,
        data=data,
        encoding=checkpoint.encoding,
        key_id=checkpoint.key_id,
        base_checkpoint_id=checkpoint.base_id,
        workspace_generation=checkpoint.workspace_generation,
    )
