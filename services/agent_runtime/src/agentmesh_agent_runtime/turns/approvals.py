"""Which tool calls wait for a person, and what comes of them then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agentmesh_agent_runtime.definitions.approval_policies import ApprovalPolicySpec, ExpiryAction
from agentmesh_agent_runtime.definitions.specs import AgentSpec, TeamSpec
from agentmesh_agent_runtime.models.replies import Call
from agentmesh_agent_runtime.turns.grant import PersonsWord, Verdict
from agentmesh_agent_runtime.turns.people import CallInQuestion, PersonNeeded
from agentmesh_agent_runtime.turns.ports import ToolOutput

LONGEST_ARGUMENTS: Final = 1024 * 1024 - 4096
"""Bytes that a person can be shown: a limit of the store, less what else the call takes."""


def policy_over(team: TeamSpec, prefix: str, path: str, call: Call) -> ApprovalPolicySpec | None:
    """The first policy that a call of the agent at `path` falls under, from the outside inwards.

    `prefix` is where the members of the run appear, if it works for another one.
    """
    return next(
        (
            policy
            for policy in _policies(team, prefix, path)
            if policy.covers_tool(call.tool) and policy.covers_arguments(call.arguments_json)
        ),
        None,
    )


def _policies(team: TeamSpec, prefix: str, path: str) -> Iterator[ApprovalPolicySpec]:
    """Policies of the teams around the run's own bind it too: they know its members by longer
    paths."""
    whole = path.split("/")
    names = ["/".join(whole[depth:]) for depth in range(len(whole))]
    for step in path.removeprefix(f"{prefix}/").split("/"):
        yield from (policy for policy in team.approvals if policy.covers_agent(*names))
        member = next(m for m in team.participants if not isinstance(m, str) and m.id == step)
        if isinstance(member, AgentSpec):
            yield from member.approvals
            return
        team = member


def request_for(
    policy: ApprovalPolicySpec, approval_id: str, agent: str, call: Call
) -> PersonNeeded:
    """What a person is asked about a call that falls under the policy."""
    return PersonNeeded(
        approval_id,
        agent,
        policy.prompt or f"{agent} wants to call {call.tool}.",
        CallInQuestion(call.call_id, call.tool, call.arguments_json),
        policy.role,
        policy.expires_after,
        policy.on_expiry is ExpiryAction.APPROVE,
        policy.escalate_after,
        policy.escalate_to,
    )


def refusal_to_model(word: PersonsWord) -> ToolOutput:
    """What the model is told of a call that is not made."""
    if word.verdict is Verdict.REJECTED:
        reason = f" The reason: {word.text}" if word.text else ""
        text = f"A person refused this call; it was not made.{reason}"
    else:
        text = "This call needs a person's approval, and nobody decided in time; it was not made."
    return ToolOutput(text, is_error=True, rejected=True)


EDIT_GOES_TOO_FAR: Final = ToolOutput(
    "A person changed the arguments of this call to some that only an admin may approve; it was not"
    " made.",
    is_error=True,
    rejected=True,
)


def goes_too_far(asked: ApprovalPolicySpec | None, word: PersonsWord) -> bool:
    """True if the policy that an edited call falls under takes a higher role than the edit did."""
    return asked is not None and not word.role.includes(asked.role)


def remark_to_model(word: PersonsWord) -> str:
    """What the model is told before the result of a call that a person let pass; often nothing."""
    if word.verdict is Verdict.EDITED:
        said = f" and says: {word.text}" if word.text else ""
        return (
            f"A person changed the arguments of this call to {word.edited_arguments_json}{said}\n"
            "With these it was made; its result:\n"
        )
    if word.text and word.person:
        return f"A person approved this call and says: {word.text}\nIts result:\n"
    return ""
