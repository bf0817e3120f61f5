"""The store's side of a tool call: claims and records of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from agentmesh.common.v1 import errors_pb2, usage_pb2
from agentmesh.conversation.v1 import event_pb2, message_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2, turn_service_pb2_grpc
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict
from meshkit.channels import call_metadata
from meshkit.errors import from_rpc_error
from meshkit.identity import SYSTEM

from .calls import Authority, Claim, ClaimState, ToolCall
from .generations.manifest import Change
from .generations.store_shelf import change_message, raise_if_moved, state_of
from .tools.reply import Failure, ReplyOutcome, ToolReply

ENCODING = "agentmesh.conversation.v1.ToolResultPart"
OUTCOMES = {
    ReplyOutcome.OK: message_pb2.TOOL_OUTCOME_OK,
    ReplyOutcome.ERROR: message_pb2.TOOL_OUTCOME_ERROR,
    ReplyOutcome.UNKNOWN: message_pb2.TOOL_OUTCOME_UNKNOWN,
    ReplyOutcome.CANCELLED: message_pb2.TOOL_OUTCOME_CANCELLED,
}
_FAILURES = {
    failure: message_pb2.ToolFailure.Value(f"TOOL_FAILURE_{failure.name}") for failure in Failure
}
_REPLY_FAILURES = {number: failure for failure, number in _FAILURES.items()}
_REPLY_OUTCOMES = {number: outcome for outcome, number in OUTCOMES.items()}
_STATES = {
    turn_service_pb2.STEP_STATE_CLAIMED: ClaimState.CLAIMED,
    turn_service_pb2.STEP_STATE_RECORDED: ClaimState.RECORDED,
    turn_service_pb2.STEP_STATE_ORPHANED: ClaimState.ORPHANED,
}


class StoreLedger:
    """Steps over the store's TurnService. Raises what the call raises."""

    def __init__(
        self, turns: turn_service_pb2_grpc.TurnServiceAsyncStub, address: Callable[[], str]
    ) -> None:
        """`address` is where this runner can be reached itself."""
        self._turns = turns
        self._address = address

    async def claim(
        self, authority: Authority, call: ToolCall, attempt_id: str, *, take_over: bool
    ) -> Claim:
        """BeginStep; a recorded step comes with its reply."""
        request = turn_service_pb2.BeginStepRequest(
            run_id=authority.run_id,
            turn=call.turn,
            step_key=call.tool_call_id,
            kind=turn_service_pb2.STEP_KIND_TOOL,
            request_digest=call.digest,
            attempt_id=attempt_id,
            take_over=take_over,
            runner_address=self._address(),
        )
        metadata = call_metadata(SYSTEM, authority.token)
        answer = await self._turns.BeginStep(request, metadata=metadata)
        state = _STATES[answer.step.state]
        if state is ClaimState.RECORDED:
            part = message_pb2.ToolResultPart.FromString(answer.step.result)
            return Claim(state, reply_of(part))
        return Claim(state, files=state_of(answer.workspace))

    async def is_stale(self, authority: Authority, call: ToolCall, attempt_id: str) -> bool:
        """BeginStep again: the same claim changes nothing."""
        try:
            await self.claim(authority, call, attempt_id, take_over=False)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason == errors_pb2.ERROR_REASON_STALE_FENCE
        return False

    async def record(
        self, authority: Authority, call: ToolCall, reply: ToolReply, change: Change | None
    ) -> tuple[int, int]:
        """RecordStep with the message event."""
        part = result_part(call.tool_call_id, call.tool, reply)
        message = message_pb2.Message(
            message_id=call.message_id,
            role=message_pb2.MESSAGE_ROLE_TOOL,
            agent=call.agent,
            content=part.output,
            parts=[message_pb2.Part(tool_result=part)],
        )
        event = event_pb2.Event(
            turn=call.turn,
            agent=call.agent,
            origin=event_pb2.EVENT_ORIGIN_TOOL_RUNNER,
            message=message,
        )
        request = turn_service_pb2.RecordStepRequest(
            run_id=authority.run_id,
            turn=call.turn,
            step_key=call.tool_call_id,
            request_digest=call.digest,
            result=part.SerializeToString(deterministic=True),
            encoding=ENCODING,
            events=[event],
            usage=usage_pb2.Usage(tool_calls=1, sandbox_cpu_ms=round(reply.cpu_seconds * 1000)),
            workspace=None if change is None else change_message(change),
        )
        metadata = call_metadata(SYSTEM, authority.token)
        try:
            answer = await self._turns.RecordStep(request, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise_if_moved(error)
            raise
        return answer.first_sequence, answer.workspace_generation


def result_part(tool_call_id: str, tool: str, reply: ToolReply) -> message_pb2.ToolResultPart:
    """A reply as part of a message."""
    detail = struct_pb2.Struct()
    detail.update({_valid_text(key): _valid(value) for key, value in reply.detail.items()})
    return message_pb2.ToolResultPart(
        tool_call_id=tool_call_id,
        tool=tool,
        outcome=OUTCOMES[reply.outcome],
        output=_valid_text(reply.output),
        detail=detail if reply.detail else None,
        truncated=reply.truncated,
        failure=_FAILURES[reply.failure] if reply.failure else message_pb2.TOOL_FAILURE_UNSPECIFIED,
        attempts=reply.attempts,
        cached=reply.cached,
    )


def reply_of(part: message_pb2.ToolResultPart) -> ToolReply:
    """The reply that a part was made of."""
    detail = MessageToDict(part.detail)
    outcome = _REPLY_OUTCOMES.get(part.outcome, ReplyOutcome.ERROR)
    return ToolReply(
        outcome,
        part.output,
        detail,
        part.truncated,
        failure=_REPLY_FAILURES.get(part.failure),
        attempts=part.attempts,
        cached=part.cached,
    )


def _valid(value: Any) -> Any:
    """JSON of valid texts only, keys included."""
    if isinstance(value, str):
        return _valid_text(value)
    if isinstance(value, dict):
        return {_valid_text(str(key)): _valid(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_valid(each) for each in value]
    return value


def _valid_text(text: str) -> str:
    """Protobuf strings hold valid UTF-8 only; lone surrogates are not."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
