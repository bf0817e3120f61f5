"""Network policies of the contract and of the domain."""

from __future__ import annotations

from agentmesh.catalog.v1 import network_policy_pb2
from google.protobuf import json_format

from agentmesh_agent_runtime.definitions.network import NetworkMode, NetworkSpec

_PREFIX = "NETWORK_MODE_"


def policy_to_spec(policy: network_policy_pb2.NetworkPolicy) -> NetworkSpec:
    """A policy that says nothing of its mode is that of no network."""
    written = json_format.MessageToDict(policy, preserving_proto_field_name=True)
    mode = written.get("mode", "").removeprefix(_PREFIX).lower()
    return NetworkSpec(**(written | {"mode": mode if mode in list(NetworkMode) else "none"}))


def spec_to_policy(spec: NetworkSpec) -> network_policy_pb2.NetworkPolicy:
    """The other way."""
    written = spec.model_dump(exclude_none=True) | {"mode": _PREFIX + spec.mode.name}
    written["allow"] = [dict(each) for each in spec.allow]
    return json_format.ParseDict(written, network_policy_pb2.NetworkPolicy())
