"""Network policies: none is enforced but that of no network, so every other one is refused."""

from __future__ import annotations

from typing import Final

from agentmesh.catalog.v1 import network_policy_pb2
from agentmesh.common.v1 import errors_pb2
from meshkit.errors import MeshError

_NONE: Final = (network_policy_pb2.NETWORK_MODE_UNSPECIFIED, network_policy_pb2.NETWORK_MODE_NONE)
_REMEDY: Final = (
    "sandboxes have no interface but their own loopback, and no egress proxy is there that could "
    "let a policy's destinations through and nothing else"
)


def insist_on_none(field: str, policy: network_policy_pb2.NetworkPolicy) -> None:
    """Raises MeshError of a policy that contradicts itself, or that is not enforced here."""
    if policy.allow and policy.mode != network_policy_pb2.NETWORK_MODE_ALLOW_LIST:
        raise MeshError.invalid(f"{field}.allow", "is for the mode NETWORK_MODE_ALLOW_LIST alone")
    if policy.mode == network_policy_pb2.NETWORK_MODE_ALLOW_LIST and not policy.allow:
        raise MeshError.invalid(f"{field}.allow", "names no destination")
    if policy.mode in _NONE:
        return
    mode = network_policy_pb2.NetworkMode.Name(policy.mode)
    raise MeshError.precondition(
        errors_pb2.ERROR_REASON_NETWORK_POLICY_NOT_ENFORCED,
        f"{field}: {mode} is not enforced here: {_REMEDY}",
        mode=mode,
        remedy=_REMEDY,
    )
