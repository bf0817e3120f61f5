"""Definitions may name a network policy for a tool; none but that of no network is let through."""

from __future__ import annotations

import pytest
from agentmesh.catalog.v1 import agent_pb2, network_policy_pb2
from agentmesh_agent_runtime.adapters.definitions import agent_to_proto, agent_to_spec
from agentmesh_agent_runtime.adapters.networks import policy_to_spec, spec_to_policy
from agentmesh_agent_runtime.definitions.check import check_agent
from agentmesh_agent_runtime.definitions.network import NetworkMode, NetworkSpec

POLICY = network_policy_pb2.NetworkPolicy(
    mode=network_policy_pb2.NETWORK_MODE_ALLOW_LIST,
    allow=[network_policy_pb2.NetworkDestination(host="*.example.org", ports=[443, 8443])],
    dns=network_policy_pb2.DnsPolicy(mode=network_policy_pb2.DNS_MODE_ALL_NAMES),
    limits=network_policy_pb2.NetworkLimits(sent_bytes=1 << 40),
)


def definition(policy: network_policy_pb2.NetworkPolicy) -> agent_pb2.AgentDefinition:
    config = agent_pb2.ToolConfig(network=policy)
    return agent_pb2.AgentDefinition(id="a", tools=["t"], tool_config={"t": config})


@pytest.mark.parametrize(
    ("mode", "allow", "paths"),
    [
        ("NETWORK_MODE_UNSPECIFIED", False, []),
        ("NETWORK_MODE_NONE", False, []),
        ("NETWORK_MODE_NONE", True, ["a.tool_config.t.network.allow"]),
        ("NETWORK_MODE_ALLOW_LIST", True, ["a.tool_config.t.network.mode"]),
        ("NETWORK_MODE_OPEN", False, ["a.tool_config.t.network.mode"]),
    ],
)
def test_a_policy_that_is_not_enforced_keeps_an_agent_from_running(
    mode: str, allow: bool, paths: list[str]
) -> None:
    policy = network_policy_pb2.NetworkPolicy(
        mode=network_policy_pb2.NetworkMode.Value(mode),
        allow=POLICY.allow if allow else [],
    )
    spec = agent_to_spec(definition(policy))
    findings = list(check_agent(spec, "a", lambda _: None))
    assert [finding.path for finding in findings] == paths
    assert all("egress proxy" in f.description for f in findings if f.path.endswith("mode"))


def test_a_policy_is_kept_as_it_was_written() -> None:
    assert spec_to_policy(policy_to_spec(POLICY)) == POLICY
    written = agent_to_proto(agent_to_spec(definition(POLICY)))
    assert written.tool_config["t"].network == POLICY
    without = agent_to_proto(agent_to_spec(agent_pb2.AgentDefinition(id="a")))
    assert not without.tool_config


def test_a_policy_as_yaml_has_it() -> None:
    spec = NetworkSpec.model_validate({"mode": "allow_list", "allow": [{"host": "example.org"}]})
    assert spec.mode is NetworkMode.ALLOW_LIST
    assert spec_to_policy(spec).allow[0].host == "example.org"
