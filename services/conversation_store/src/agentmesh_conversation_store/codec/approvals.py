"""Approvals as they travel."""

from __future__ import annotations

import json

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh.conversation_store.v1 import approval_store_service_pb2 as pb
from meshkit.errors import MeshError
from meshkit.roles import Role

from agentmesh_conversation_store.domain.approvals import Approval, ApprovalStatus, AskedApproval
from agentmesh_conversation_store.domain.model import Instant

from .values import instant, optional_timestamp, timestamp

MAX_ID_BYTES = 128
MAX_PROMPT_BYTES = 64 * 1024
MAX_CALL_BYTES = 1024 * 1024
_ID_PREFIX = "appr_"
_ROLES = {
    "": Role.USER,
    "user": Role.USER,
    "operator": Role.OPERATOR,
    "admin": Role.ADMIN,
}


def approval_message(approval: Approval) -> pb.Approval:
    """An approval as it is shown."""
    return pb.Approval(
        approval_id=approval.approval_id,
        conversation_id=approval.conversation_id,
        run_id=approval.run_id,
        agent=approval.agent,
        prompt=approval.prompt,
        tool_call=message_pb2.ToolCallPart.FromString(approval.tool_call)
        if approval.tool_call
        else None,
        status=event_pb2.ApprovalStatus.ValueType(approval.status),
        requested_at=timestamp(approval.requested_at),
        expires_at=timestamp(approval.expires_at),
        role=options_pb2.Role.ValueType(approval.role),
        principal=approval.principal,
        comment=approval.comment,
        edited_arguments_json=approval.edited_arguments_json,
        requested_sequence=approval.requested_sequence,
        resolved_at=optional_timestamp(approval.resolved_at),
        escalate_at=optional_timestamp(approval.escalate_at),
        escalate_to=options_pb2.Role.ValueType(approval.escalate_to or 0),
        escalated_at=optional_timestamp(approval.escalated_at),
        approve_on_expiry=approval.approve_on_expiry,
        turn=approval.turn,
    )


def asked_approval(asked: event_pb2.ApprovalRequested) -> AskedApproval:
    """What a worker asks for. INVALID_ARGUMENT if it cannot be asked like that."""
    approval_id = asked.approval_id
    _require(
        approval_id.startswith(_ID_PREFIX) and len(_ID_PREFIX) < len(approval_id.encode()),
        "approval_id",
        f'must be "{_ID_PREFIX}" and more',
    )
    _require(
        len(approval_id.encode()) <= MAX_ID_BYTES,
        "approval_id",
        f"may be {MAX_ID_BYTES} bytes long",
    )
    _require(
        len(asked.prompt.encode()) <= MAX_PROMPT_BYTES,
        "prompt",
        f"may be {MAX_PROMPT_BYTES} bytes long",
    )
    _require(asked.HasField("expires_at"), "expires_at", "must be set")
    _require(asked.role in _ROLES, "role", 'must be "user", "operator" or "admin"')
    call = asked.tool_call.SerializeToString() if asked.HasField("tool_call") else b""
    _require(len(call) <= MAX_CALL_BYTES, "tool_call", f"may be {MAX_CALL_BYTES} bytes long")
    if asked.HasField("tool_call"):
        _require(bool(asked.tool_call.tool), "tool_call.tool", "must name the tool")
    else:
        _require(bool(asked.prompt), "prompt", "must say what is asked")
    role = _ROLES[asked.role]
    escalate_at, escalate_to = _escalation(asked, role)
    return AskedApproval(
        approval_id,
        asked.prompt,
        call,
        instant(asked.expires_at),
        role,
        escalate_at,
        escalate_to,
        asked.approve_on_expiry,
    )


def _escalation(
    asked: event_pb2.ApprovalRequested, role: Role
) -> tuple[Instant, Role] | tuple[None, None]:
    if not asked.HasField("escalate_at"):
        _require(not asked.escalate_to, "escalate_at", "must be set with escalate_to")
        return None, None
    _require(asked.escalate_to in _ROLES, "escalate_to", 'must be "operator" or "admin"')
    higher = _ROLES[asked.escalate_to]
    _require(
        not role.includes(higher),
        "escalate_to",
        "must be a higher role than the one that is asked",
    )
    return instant(asked.escalate_at), higher


def edited_arguments(status: ApprovalStatus, text: str) -> str:
    """Arguments in place of those of a call: a JSON object, and only with EDITED."""
    field = "edited_arguments_json"
    if status is not ApprovalStatus.EDITED:
        if text:
            raise MeshError.invalid(field, "is for EDITED")
        return ""
    try:
        edited = json.loads(text)
    except ValueError:
        raise MeshError.invalid(field, "is no JSON") from None
    if not isinstance(edited, dict):
        raise MeshError.invalid(field, "must be a JSON object")
    return text


def _require(holds: bool, field: str, description: str) -> None:
    if not holds:
        raise MeshError.invalid(f"events.approval_requested.{field}", description)
