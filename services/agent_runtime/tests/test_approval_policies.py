"""Which calls an approval policy means, and what definitions may say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agentmesh_agent_runtime.adapters.definitions import (
    agent_to_proto,
    agent_to_spec,
    team_to_proto,
    team_to_spec,
)
from agentmesh_agent_runtime.definitions.approval_policies import (
    ApprovalPolicySpec,
    ApproverRole,
    ExpiryAction,
)
from agentmesh_agent_runtime.definitions.check import check_agent, check_team
from agentmesh_agent_runtime.definitions.yaml_source import DefinitionError, load_agents_and_teams

from services.agent_runtime.tests.memory_world import agent, team

CASES: list[tuple[dict[str, Any], str, bool]] = [
    ({}, "{}", True),
    ({"arguments": {"path": "/etc/*"}}, '{"path": "/etc/passwd"}', True),
    ({"arguments": {"path": "/etc/*"}}, '{"path": "/tmp"}', False),
    ({"arguments": {"path": "/etc/*"}}, "{}", False),
    ({"arguments": {"path": "/etc/*"}}, "[]", True),
    ({"arguments": {"path": "*x*"}}, '{"path": "a\\nx\\nb"}', True),
    ({"arguments": {"a.b": "1"}}, '{"a": {"b": 1}}', True),
    ({"arguments": {"a.b": "1"}}, '{"a": {"b": "1"}}', True),
    ({"arguments": {"a.b": "true"}}, '{"a": {"b": true}}', True),
    ({"arguments": {"a.b": "1"}}, '{"a": 1}', False),
    ({"arguments": {"a": '{"b":*'}}, '{"a": {"b": 1}}', True),
    (
        {"arguments": {"files.*.path": "/etc/*"}},
        '{"files": [{"path": "a"}, {"path": "/etc/b"}]}',
        True,
    ),
    ({"arguments": {"files.1": "b"}}, '{"files": ["a", "b"]}', True),
    ({"arguments": {"files.2": "b"}}, '{"files": ["a", "b"]}', False),
    ({"arguments": {"x": "1", "y": "2"}}, '{"x": 1, "y": 3}', False),
    ({"unless": {"path": "ok/*"}}, '{"path": "ok/a"}', False),
    ({"unless": {"path": "ok/*"}}, '{"path": "a"}', True),
    ({"unless": {"path": "ok/*"}}, '{"Path": "ok/a"}', True),
    ({"unless": {"paths.*": "ok/*"}}, '{"paths": ["ok/a", "b"]}', True),
    ({"unless": {"paths.*": "ok/*"}}, '{"paths": ["ok/a", "ok/b"]}', False),
    ({"unless": {"paths.*": "ok/*"}}, '{"paths": []}', True),
    ({"unless": {"path": "*"}}, '{"path": ', True),
    ({"unless": {"path": "*"}}, '{"path": 1, "path": 2}', True),
    ({"unless": {"path": "*"}}, '{"a": {"x": 1, "x": 2}, "path": 1}', True),
    ({"unless": {"path": "*"}}, "[" * 100_000, True),
    ({"arguments": {"path": "/*"}, "unless": {"path": "/ok/*"}}, '{"path": "/ok/a"}', False),
    ({"arguments": {"path": "/*"}, "unless": {"path": "/ok/*"}}, '{"path": "/a"}', True),
]


@pytest.mark.parametrize(("policy", "arguments", "covered"), CASES)
def test_arguments_that_fall_under_a_policy(
    policy: dict[str, Any], arguments: str, covered: bool
) -> None:
    assert ApprovalPolicySpec(**policy).covers_arguments(arguments) is covered


def test_tools_and_agents_are_named_by_patterns() -> None:
    policy = ApprovalPolicySpec(tools=("code_*", "rm"), agents=("b?b", "cellar/*"))
    assert [policy.covers_tool(t) for t in ("code_x", "rm", "rmdir", "CODE_X")] == [
        True,
        True,
        False,
        False,
    ]
    assert policy.covers_agent("bob")
    assert policy.covers_agent("eve", "cellar/eve")
    assert not policy.covers_agent("alice", "house/alice")
    assert ApprovalPolicySpec().covers_tool("anything")
    assert ApprovalPolicySpec().covers_agent("anybody")


def findings_of_team(**policy: Any) -> list[str]:
    inner = team(agent("bob", tools=("look",)), id="cellar")
    outer = team(
        inner, agent("alice", tools=("remove",)), approvals=(ApprovalPolicySpec(**policy),)
    )
    return [finding.path for finding in check_team(outer, "teams[0]", lambda _: None)]


def test_policies_of_teams_are_about_their_members_and_their_tools() -> None:
    assert findings_of_team(tools=("look", "rem*"), agents=("bob", "cellar/bob", "al*")) == []
    assert findings_of_team(tools=("jump",)) == ["teams[0].approvals[0].tools[0]"]
    assert findings_of_team(agents=("bob", "carol")) == ["teams[0].approvals[0].agents[1]"]
    assert findings_of_team(tools=("ask_human",)) == ["teams[0].approvals[0].tools[0]"]


def test_of_members_that_are_not_known_here_nothing_is_said() -> None:
    unknown = team(approvals=(ApprovalPolicySpec(tools=("jump",), agents=("carol",)),))
    unresolved = unknown.model_copy(update={"participants": ("somebody",)})
    assert not list(check_team(unresolved, "t", lambda _: None))


def test_a_part_of_a_team_may_run_under_the_policies_of_the_whole() -> None:
    part = team(agent("alice"), approvals=(ApprovalPolicySpec(tools=("jump",), agents=("bob",)),))
    assert not list(check_team(part, "definition", lambda _: None, pinned=True))


def test_a_policy_survives_the_contract() -> None:
    policy = ApprovalPolicySpec(
        tools=("a*",),
        arguments={"x": "1"},
        unless={"y.*": "2"},
        role=ApproverRole.OPERATOR,
        expires_after=90.5,
        on_expiry=ExpiryAction.APPROVE,
        escalate_after=30,
        escalate_to=ApproverRole.ADMIN,
        prompt="May it?",
    )
    plain = ApprovalPolicySpec()
    member = agent("alice", approvals=(policy, plain))
    assert agent_to_spec(agent_to_proto(member)).approvals == (policy, plain)
    of_team = policy.model_copy(update={"agents": ("alice",)})
    whole = team(member, approvals=(of_team,))
    assert team_to_spec(team_to_proto(whole)).approvals == (of_team,)


GUARDED = """
tidy:
  tools: [code_writer, ask_human]
  approvals:
    - tools: [code_writer]
      unless: {path: "drafts/*"}
      role: admin
      expires_after: 3600
both:
  kind: round_robin
  participants: [tidy]
  approvals:
    - agents: [tidy]
      on_expiry: reject
"""


def test_policies_are_written_in_yaml(tmp_path: Path) -> None:
    source = tmp_path / "agents.yaml"
    source.write_text(GUARDED)
    (tidy,), (both,) = load_agents_and_teams(source)
    assert tidy.approvals[0].unless == {"path": "drafts/*"}
    assert tidy.approvals[0].role == "admin"
    assert both.approvals[0].agents == ("tidy",)
    assert not list(check_agent(tidy, "tidy", lambda _: None))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("expires_after: 0", "tidy.approvals.0.expires_after"),
        ("role: viewer", "tidy.approvals.0.role"),
        ("on_expiry: ask", "tidy.approvals.0.on_expiry"),
        ("argument: {}", "did you mean 'arguments'?"),
    ],
)
def test_bad_policies_in_yaml_are_named_with_their_line(
    tmp_path: Path, line: str, said: str
) -> None:
    source = tmp_path / "agents.yaml"
    source.write_text(f"tidy:\n  approvals:\n    - {line}\n")
    with pytest.raises(DefinitionError) as refused:
        load_agents_and_teams(source)
    assert "agents.yaml:3:" in str(refused.value)
    assert said in str(refused.value)
