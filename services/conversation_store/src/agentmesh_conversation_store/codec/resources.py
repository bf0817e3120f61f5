"""Conversations, runs and steps as they travel."""

from __future__ import annotations

from agentmesh.catalog.v1 import team_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2

from agentmesh_conversation_store.domain.model import (
    ConversationView,
    Run,
    Step,
    StepState,
)

from .values import (
    budget_message,
    duration,
    optional_timestamp,
    timestamp,
    usage_message,
)

_RunStatus = conversation_pb2.RunStatus.ValueType
_WaitKind = conversation_pb2.WaitKind.ValueType
_EndReason = conversation_pb2.RunEndReason.ValueType
_Visibility = conversation_pb2.ConversationVisibility.ValueType
_ConversationStatus = conversation_pb2.ConversationStatus.ValueType


def run_message(run: Run) -> conversation_pb2.Run:
    """A run as it is shown."""
    return conversation_pb2.Run(
        run_id=run.run_id,
        conversation_id=run.conversation_id,
        root_run_id=run.root_run_id,
        parent_run_id=run.parent_run_id,
        status=_RunStatus(run.status),
        waiting_for=_WaitKind(run.waiting_for),
        end_reason=_EndReason(run.end_reason),
        detail=run.detail,
        turn=run.turn,
        rounds=run.rounds,
        max_rounds=run.max_rounds,
        started_at=timestamp(run.started_at),
        ended_at=optional_timestamp(run.ended_at),
        deadline=optional_timestamp(run.deadline),
        usage=usage_message(run.usage),
        budget=budget_message(run.budget),
        traceparent=run.traceparent,
        summary=run.summary,
        attempt=run.attempt,
        priority=run.priority,
        timeout=None if run.timeout is None else duration(run.timeout),
        agent_path=run.agent_path,
    )


def pinned_agents(definition: bytes) -> list[conversation_pb2.PinnedAgent]:
    """The agents of a pinned team and of the teams within it, in order."""
    return _members(team_pb2.TeamDefinition.FromString(definition), "")


def _members(team: team_pb2.TeamDefinition, path: str) -> list[conversation_pb2.PinnedAgent]:
    found: list[conversation_pb2.PinnedAgent] = []
    for part in team.participants:
        agent = part.agent
        if part.HasField("team"):
            found += _members(part.team, f"{path}/{part.team.id}" if path else part.team.id)
        elif part.HasField("agent"):
            found.append(
                conversation_pb2.PinnedAgent(agent_id=agent.id, version=agent.version, team=path)
            )
    return found


def conversation_message(view: ConversationView) -> conversation_pb2.Conversation:
    """A conversation as it is shown."""
    conversation, facts = view.conversation, view.facts
    return conversation_pb2.Conversation(
        conversation_id=conversation.conversation_id,
        status=_ConversationStatus(conversation.status),
        agents=facts.agents,
        task=facts.task,
        workflow=facts.workflow,
        started_at=timestamp(conversation.started_at),
        completed_at=optional_timestamp(conversation.completed_at),
        summary=conversation.summary,
        head_sequence=conversation.head_sequence,
        oldest_sequence=conversation.oldest_sequence,
        run=run_message(view.run),
        usage=usage_message(conversation.usage),
        etag=conversation.etag,
        labels=facts.labels,
        tenant=conversation.tenant,
        size_bytes=conversation.kept_bytes,
        forked_from_conversation_id=facts.forked_from,
        forked_at_sequence=facts.forked_at,
        legal_hold=facts.legal_hold,
        retention_age=None if facts.retention_age is None else duration(facts.retention_age),
        retention_events=facts.retention_events,
        owner=conversation.owner,
        visibility=_Visibility(conversation.visibility),
    )


def step_message(step: Step, state: StepState) -> turn_service_pb2.StepRecord:
    """A step as one caller sees it."""
    return turn_service_pb2.StepRecord(
        step_key=step.step_key,
        kind=turn_service_pb2.StepKind.ValueType(step.kind),
        state=turn_service_pb2.StepState.ValueType(state),
        request_digest=step.request_digest,
        result=step.result,
        encoding=step.encoding,
        fence=step.fence,
        attempt_id=step.attempt_id,
        key_id=step.key_id,
    )
