"""Finds network policies that cannot be enforced."""

from __future__ import annotations

from collections.abc import Iterator

from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.network import NetworkMode, NetworkSpec


def check_network(network: NetworkSpec | None, path: str) -> Iterator[Finding]:
    """A policy that sandboxes cannot enforce keeps an agent from running: none is weakened."""
    if network is None:
        return
    if network.mode is not NetworkMode.ALLOW_LIST and network.allow:
        yield Finding(f"{path}.allow", "is for the mode allow_list alone")
    if network.mode is not NetworkMode.NONE:
        yield Finding(
            f"{path}.mode",
            f"{network.mode.value} is not enforced: sandboxes have no network, and no egress proxy "
            "is there that could let a policy's destinations through and nothing else",
        )
