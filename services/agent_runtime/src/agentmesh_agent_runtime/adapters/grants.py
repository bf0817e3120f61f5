"""Grants and results of turns between their contracts and the domain."""

from __future__ import annotations

import json
from datetime import UTC

from agentmesh.common.v1 import usage_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2, message_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from pydantic import ValidationError

from agentmesh_agent_runtime.adapters.definitions import team_to_spec
from agentmesh_agent_runtime.adapters.input_blobs import stored_image
from agentmesh_agent_runtime.adapters.policies import approver_role
from agentmesh_agent_runtime.turns.failures import EndReason, InvalidDefinition
from agentmesh_agent_runtime.turns.grant import (
    Grant,
    Input,
    KnownStep,
    PersonsWord,
    SavedCheckpoint,
    StartedRun,
    StepKind,
    TurnId,
    Verdict,
)
from agentmesh_agent_runtime.turns.images import StoredImage
from agentmesh_agent_runtime.turns.ports import (
    Consumption,
    MessagePart,
    PartKind,
    SaidMessage,
    SaidSummary,
    Speaker,
    StepResult,
)

_STEP_KINDS = {
    turns_pb2.STEP_KIND_MODEL: StepKind.MODEL,
    turns_pb2.STEP_KIND_TOOL: StepKind.TOOL,
    turns_pb2.STEP_KIND_OTHER: StepKind.OTHER,
}
_VERDICTS = {
    event_pb2.APPROVAL_STATUS_PENDING: Verdict.PENDING,
    event_pb2.APPROVAL_STATUS_APPROVED: Verdict.APPROVED,
    event_pb2.APPROVAL_STATUS_EDITED: Verdict.EDITED,
    event_pb2.APPROVAL_STATUS_REJECTED: Verdict.REJECTED,
    event_pb2.APPROVAL_STATUS_ANSWERED: Verdict.ANSWERED,
    event_pb2.APPROVAL_STATUS_EXPIRED: Verdict.EXPIRED,
    event_pb2.APPROVAL_STATUS_CANCELLED: Verdict.CANCELLED,
}
WORKSPACE = "workspace"
"""Who speaks when files were put back."""
_ENDED = frozenset(
    {
        conversation_pb2.RUN_STATUS_COMPLETED,
        conversation_pb2.RUN_STATUS_FAILED,
        conversation_pb2.RUN_STATUS_CANCELLED,
        conversation_pb2.RUN_STATUS_DEAD_LETTER,
    }
)
_ROLES = {
    Speaker.AGENT: message_pb2.MESSAGE_ROLE_AGENT,
    Speaker.TOOL: message_pb2.MESSAGE_ROLE_TOOL,
    Speaker.SYSTEM: message_pb2.MESSAGE_ROLE_SYSTEM,
}


def turn_id(grant: turns_pb2.TurnGrant) -> TurnId:
    """Which turn is granted; never fails, so that even a broken grant can be ended."""
    run = grant.run
    return TurnId(run.run_id, run.conversation_id, grant.tenant, grant.turn, grant.fence)


def grant_to_domain(grant: turns_pb2.TurnGrant) -> Grant:
    """Raises InvalidDefinition if the pinned definition breaks its rules."""
    try:
        team = team_to_spec(grant.definition)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(step) for step in first["loc"])
        raise InvalidDefinition(f"definition.{path}: {first['msg']}") from error
    run = grant.run
    return Grant(
        id=turn_id(grant),
        capability=grant.capability,
        team=team,
        checkpoint=_newest(grant),
        base_checkpoints=tuple(saved_checkpoint(base) for base in grant.base_checkpoints),
        inputs=tuple(i for event in grant.inputs if (i := _input(event)) is not None),
        steps=tuple(_step(step) for step in grant.steps),
        rounds=run.rounds,
        max_rounds=run.max_rounds,
        human_input=grant.human_input,
        head_sequence=grant.head_sequence,
        attempt=run.attempt,
        deadline=run.deadline.ToDatetime(tzinfo=UTC) if run.HasField("deadline") else None,
        traceparent=run.traceparent,
        heard=tuple(map(_word, grant.approvals)),
        started=tuple(map(_started, grant.children)),
        path=run.agent_path,
        runner_address=grant.runner_address,
    )


def message_to_event(message: SaidMessage) -> event_pb2.Event:
    """The event that tells of a message."""
    return event_pb2.Event(
        agent=message.agent,
        message=message_pb2.Message(
            message_id=message.message_id,
            role=_ROLES[message.speaker],
            agent=message.agent,
            content=message.text or _output(message),
            parts=[_part(part) for part in message.parts],
        ),
    )


def step_events(result: StepResult) -> list[event_pb2.Event]:
    """What is told of a step."""
    events = [message_to_event(message) for message in result.messages]
    if result.summary is not None:
        events.append(_summary_event(result.summary))
    if result.handoff is not None:
        handed = event_pb2.Handoff(
            from_agent=result.handoff.agent,
            to_agent=result.handoff.target,
            content=result.handoff.text,
        )
        events.append(event_pb2.Event(agent=result.handoff.agent, handoff=handed))
    return events


def _summary_event(summary: SaidSummary) -> event_pb2.Event:
    """The event that stands for a range of others."""
    return event_pb2.Event(
        agent=summary.agent,
        context_summary=event_pb2.ContextSummary(
            first_sequence=summary.first_sequence,
            last_sequence=summary.last_sequence,
            text=summary.text,
        ),
    )


def usage_to_proto(usage: Consumption) -> usage_pb2.Usage:
    """What a step used."""
    return usage_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        model_calls=usage.model_calls,
        tool_calls=usage.tool_calls,
        cost_micros=usage.cost_micros,
        estimated=usage.estimated,
    )


def end_reason_to_proto(reason: EndReason) -> conversation_pb2.RunEndReason.ValueType:
    """The contract's value of the same name."""
    return conversation_pb2.RunEndReason.Value(f"RUN_END_REASON_{reason.name}")


def saved_checkpoint(saved: turns_pb2.Checkpoint) -> SavedCheckpoint:
    """A checkpoint, or a piece of one."""
    return SavedCheckpoint(
        saved.checkpoint_id, saved.data, saved.encoding, saved.base_checkpoint_id
    )


def _newest(grant: turns_pb2.TurnGrant) -> SavedCheckpoint | None:
    if not grant.HasField("checkpoint") or not grant.checkpoint.checkpoint_id:
        return None
    return saved_checkpoint(grant.checkpoint)


def _input(event: event_pb2.Event) -> Input | None:
    if event.WhichOneof("kind") == "approval_resolved":
        return Input(event.sequence, "user", event.approval_resolved.comment)
    if event.WhichOneof("kind") == "workspace_restored":
        return Input(event.sequence, WORKSPACE, event.workspace_restored.text)
    if event.WhichOneof("kind") != "message":
        return None
    message = event.message
    return Input(
        event.sequence, message.agent or "user", message.content or _texts(message), _seen(message)
    )


def _seen(message: message_pb2.Message) -> tuple[str | StoredImage, ...]:
    """Texts and images in their order, if there are images; see InputBlobs."""
    if all(stored_image(part) is None for part in message.parts):
        return ()
    parts = [stored_image(part) or part.text.text for part in message.parts]
    return tuple(part for part in parts if part)


def _texts(message: message_pb2.Message) -> str:
    return "\n".join(p.text.text for p in message.parts if p.WhichOneof("kind") == "text")


def _started(child: turns_pb2.TurnChild) -> StartedRun:
    if child.status not in _ENDED:
        return StartedRun(child.agent_path, has_ended=False)
    if child.status == conversation_pb2.RUN_STATUS_COMPLETED:
        return StartedRun(child.agent_path, has_ended=True, answer=child.summary)
    reason = conversation_pb2.RunEndReason.Name(child.end_reason)
    return StartedRun(
        child.agent_path,
        has_ended=True,
        reason=reason.removeprefix("RUN_END_REASON_").lower(),
        detail=child.detail,
    )


def _word(asked: turns_pb2.TurnApproval) -> PersonsWord:
    return PersonsWord(
        asked.approval_id,
        _VERDICTS.get(asked.status, Verdict.PENDING),
        asked.comment,
        asked.edited_arguments_json,
        asked.principal,
        approver_role(asked.role),
    )


def _step(step: turns_pb2.StepRecord) -> KnownStep:
    # One that was left out for its size is asked for like one that is only claimed.
    recorded = step.state == turns_pb2.STEP_STATE_RECORDED and not step.result_omitted
    return KnownStep(
        step_key=step.step_key,
        kind=_STEP_KINDS.get(step.kind, StepKind.TOOL),
        request_digest=step.request_digest,
        attempt_id=step.attempt_id,
        result=step.result if recorded else None,
        encoding=step.encoding,
    )


def _output(message: SaidMessage) -> str:
    return "\n".join(part.text for part in message.parts if part.kind is PartKind.TOOL_RESULT)


def _part(part: MessagePart) -> message_pb2.Part:
    match part.kind:
        case PartKind.TEXT:
            return message_pb2.Part(text=message_pb2.TextPart(text=part.text))
        case PartKind.REASONING:
            return message_pb2.Part(reasoning=message_pb2.ReasoningPart(text=part.text))
        case PartKind.DATA:
            data = message_pb2.DataPart(media_type="application/json")
            data.data.update(json.loads(part.text))
            return message_pb2.Part(data=data)
        case PartKind.TOOL_CALL:
            return message_pb2.Part(
                tool_call=message_pb2.ToolCallPart(
                    tool_call_id=part.tool_call_id, tool=part.tool, arguments_json=part.text
                )
            )
        case PartKind.TOOL_RESULT:
            outcome = message_pb2.TOOL_OUTCOME_ERROR if part.failed else message_pb2.TOOL_OUTCOME_OK
            if part.rejected:
                outcome = message_pb2.TOOL_OUTCOME_REJECTED
            return message_pb2.Part(
                tool_result=message_pb2.ToolResultPart(
                    tool_call_id=part.tool_call_id,
                    tool=part.tool,
                    outcome=outcome,
                    output=part.text,
                )
            )
