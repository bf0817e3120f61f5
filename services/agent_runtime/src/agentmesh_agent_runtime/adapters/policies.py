"""Approval policies between their contract and the runtime's specs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from agentmesh.catalog.v1 import approval_policy_pb2 as pb
from agentmesh.common.v1 import options_pb2
from google.protobuf.duration_pb2 import Duration

from agentmesh_agent_runtime.definitions.approval_policies import (
    DEFAULT_WAIT,
    ApprovalPolicySpec,
    ApproverRole,
    ExpiryAction,
)

_ROLES: Final = {
    ApproverRole.USER: options_pb2.ROLE_USER,
    ApproverRole.OPERATOR: options_pb2.ROLE_OPERATOR,
    ApproverRole.ADMIN: options_pb2.ROLE_ADMIN,
}
_ROLES_BACK: Final = {number: role for role, number in _ROLES.items()}
_ACTIONS: Final = {
    ExpiryAction.REJECT: pb.EXPIRY_ACTION_REJECT,
    ExpiryAction.APPROVE: pb.EXPIRY_ACTION_APPROVE,
}


def approver_role(role: options_pb2.Role.ValueType) -> ApproverRole:
    """Users, if the contract names nobody."""
    return _ROLES_BACK.get(role, ApproverRole.USER)


def policies_to_specs(policies: Iterable[pb.ApprovalPolicy]) -> tuple[ApprovalPolicySpec, ...]:
    """Raises pydantic.ValidationError if one of them breaks a rule of the spec."""
    return tuple(map(_policy_to_spec, policies))


def specs_to_policies(policies: Iterable[ApprovalPolicySpec]) -> Sequence[pb.ApprovalPolicy]:
    """As the catalog keeps them."""
    return [_spec_to_policy(policy) for policy in policies]


def _policy_to_spec(policy: pb.ApprovalPolicy) -> ApprovalPolicySpec:
    approves = policy.on_expiry == pb.EXPIRY_ACTION_APPROVE
    return ApprovalPolicySpec(
        tools=tuple(policy.tools),
        agents=tuple(policy.agents),
        arguments=dict(policy.arguments),
        unless=dict(policy.unless),
        role=approver_role(policy.role),
        expires_after=_seconds(policy.expires_after)
        if policy.HasField("expires_after")
        else DEFAULT_WAIT,
        on_expiry=ExpiryAction.APPROVE if approves else ExpiryAction.REJECT,
        escalate_after=_seconds(policy.escalate_after)
        if policy.HasField("escalate_after")
        else None,
        escalate_to=_ROLES_BACK.get(policy.escalate_to),
        prompt=policy.prompt,
    )


def _spec_to_policy(policy: ApprovalPolicySpec) -> pb.ApprovalPolicy:
    made = pb.ApprovalPolicy(
        tools=policy.tools,
        agents=policy.agents,
        arguments=policy.arguments,
        unless=policy.unless,
        role=_ROLES[policy.role],
        expires_after=_duration(policy.expires_after),
        on_expiry=_ACTIONS[policy.on_expiry],
        prompt=policy.prompt,
    )
    if policy.escalate_after is not None:
        made.escalate_after.CopyFrom(_duration(policy.escalate_after))
    if policy.escalate_to is not None:
        made.escalate_to = _ROLES[policy.escalate_to]
    return made


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
