"""Tool calls of agents as recorded steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autogen_core import CancellationToken
from autogen_core.tools import (
    ParametersSchema,
    StaticStreamWorkbench,
    TextResultContent,
    ToolResult,
)
from autogen_core.tools import ToolSchema as AutogenToolSchema
from meshkit.builtin_tools import ASK_HUMAN

from agentmesh_agent_runtime.definitions.approval_policies import DEFAULT_WAIT, ApprovalPolicySpec
from agentmesh_agent_runtime.definitions.specs import AgentSpec, ToolSettings
from agentmesh_agent_runtime.models.replies import Call
from agentmesh_agent_runtime.turns import approvals, digests, questions
from agentmesh_agent_runtime.turns.failures import ToolRefused
from agentmesh_agent_runtime.turns.grant import Verdict
from agentmesh_agent_runtime.turns.people import PersonNeeded
from agentmesh_agent_runtime.turns.ports import (
    HandedOverTo,
    MessagePart,
    PartKind,
    SaidMessage,
    Speaker,
    StepResult,
    ToolOutput,
    ToolRequest,
    ToolSchema,
)
from agentmesh_agent_runtime.turns.scope import Seat, TurnScope

ANSWER_ENCODING = "text/plain; charset=utf-8"
_HANDOFF_PREFIX = "transfer_to_"  # AutoGen's


class RecordedTools(StaticStreamWorkbench):
    """The tools of one agent.

    It never raises: AutoGen would wait for the missing result for ever. What goes wrong becomes a
    failed result, and what stopped the turn meets the agent at its next request to the model.
    """

    def __init__(
        self, path: str, agent: AgentSpec, schemas: Sequence[ToolSchema], seat: Seat
    ) -> None:
        super().__init__(tools=[])
        self._path = path
        self._agent = agent
        self._names = frozenset(schema.name for schema in schemas)
        self._schemas = [_as_autogen(schema) for schema in schemas]
        self._seat = seat

    async def list_tools(self) -> list[AutogenToolSchema]:
        """What the model is told of."""
        return self._schemas

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> ToolResult:
        """Carries out the call that the model wrote under `call_id`."""
        output = await self.carry_out(name, call_id or "")
        return ToolResult(
            name=name,
            result=[TextResultContent(content=output.text)],
            is_error=output.is_error,
        )

    async def call_tool_stream(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
        call_id: str | None = None,
    ) -> AsyncGenerator[Any | ToolResult, None]:
        """As `call_tool`; output on the way goes from the tool_runner to the subscribers."""
        yield await self.call_tool(name, arguments, cancellation_token, call_id)

    async def carry_out(self, name: str, call_id: str) -> ToolOutput:
        """Runs the tool, or records why it is not run. Never raises."""
        scope = self._seat.scope
        try:
            return await self._decide(scope, name, scope.call(call_id))
        except asyncio.CancelledError:
            return ToolOutput("The call was cancelled.", is_error=True)
        except Exception as error:
            # The turn is over; see the class.
            scope.stop(error)
            return ToolOutput("The call could not be carried out.", is_error=True)
        finally:
            scope.answered(call_id)

    async def _decide(self, scope: TurnScope, name: str, call: Call) -> ToolOutput:
        """Runs the tool if the agent has it and nobody has to approve the call, or somebody did."""
        if name not in self._names or call.tool != name:
            have = ", ".join(sorted(self._names)) or "none"
            why = f"You have no tool {call.tool!r}. Your tools: {have}."
            return await self._refuse(scope, call, why)
        if name == ASK_HUMAN:
            return await self._ask(scope, call)
        policy = self._policy(scope, call)
        if policy is None:
            return await self._run(scope, call)
        if len(call.arguments_json.encode("utf-8", "replace")) > approvals.LONGEST_ARGUMENTS:
            why = "The arguments are too long to be shown to the person who must approve this call."
            return await self._refuse(scope, call, why)
        approval_id = scope.approval_id(call.call_id)
        needed = approvals.request_for(policy, approval_id, self._path, call)
        word = await scope.hear(call.call_id, needed)
        if word.verdict not in (Verdict.APPROVED, Verdict.EDITED):
            return await self._answer(scope, call, approvals.refusal_to_model(word))
        approved = call
        if word.verdict is Verdict.EDITED:
            approved = replace(call, arguments_json=word.edited_arguments_json)
            if approvals.goes_too_far(self._policy(scope, approved), word):
                return await self._answer(scope, call, approvals.EDIT_GOES_TOO_FAR)
        return await self._run(scope, approved, approvals.remark_to_model(word))

    def _policy(self, scope: TurnScope, call: Call) -> ApprovalPolicySpec | None:
        return approvals.policy_over(scope.grant.team, scope.grant.path, self._path, call)

    async def _run(self, scope: TurnScope, call: Call, remark: str = "") -> ToolOutput:
        """Carries out the call. The model reads the remark before what came of it."""
        scope.progress(f"{self._path} calls {call.tool}")
        settings = self._agent.tool_config.get(call.tool, ToolSettings())
        request = ToolRequest(
            tool_call_id=call.call_id,
            tool=call.tool,
            arguments_json=call.arguments_json,
            agent=self._path,
            message_id=scope.message_id(call.call_id),
            timeout=settings.timeout,
            retries=settings.retries,
            concurrency=settings.concurrency,
            cache_seconds=settings.cache_seconds,
        )
        refused, output = await scope.guarded(_call(scope, request))
        if refused:
            return await self._refuse(scope, call, remark + output.text)
        scope.remember([_tool_message(scope, self._path, call, output)])
        scope.progress()
        return replace(output, text=remark + output.text)

    async def _ask(self, scope: TurnScope, call: Call) -> ToolOutput:
        """Asks a person; what they say is the result."""
        question = questions.question_of(call.arguments_json)
        if question is None:
            why = 'Ask with {"question": "…"}, in words and not too many of them.'
            return await self._refuse(scope, call, why)
        settings = self._agent.tool_config.get(ASK_HUMAN, ToolSettings())
        needed = PersonNeeded(
            scope.approval_id(call.call_id),
            self._path,
            question,
            expires_after=settings.timeout or DEFAULT_WAIT,
        )
        word = await scope.hear(call.call_id, needed)
        return await self._answer(scope, call, questions.answer_to_model(word))

    async def hand_over(self, call_id: str, name: str, text: str) -> ToolOutput:
        """Records that the agent hands the conversation over by the call. Never raises."""
        scope = self._seat.scope
        handed = HandedOverTo(self._path, name.removeprefix(_HANDOFF_PREFIX), text)
        output = ToolOutput(text, is_error=False)
        try:
            return await self._answer(scope, scope.call(call_id), output, handed)
        except Exception as error:
            scope.stop(error)
            return ToolOutput("The call could not be carried out.", is_error=True)
        finally:
            scope.answered(call_id)

    async def _refuse(self, scope: TurnScope, call: Call, why: str) -> ToolOutput:
        return await self._answer(scope, call, ToolOutput(why, is_error=True))

    async def _answer(
        self,
        scope: TurnScope,
        call: Call,
        output: ToolOutput,
        handoff: HandedOverTo | None = None,
    ) -> ToolOutput:
        """A call that is answered here is recorded like any other."""
        digest = digests.own_answer(call.tool, call.arguments_json)
        message = _tool_message(scope, self._path, call, output)
        recorded = await scope.begin_answer(call.call_id, digest)
        if recorded is not None:
            scope.remember([message])
            return ToolOutput(recorded.decode(), is_error=output.is_error)
        await scope.record(
            StepResult(
                call.call_id,
                digest,
                output.text.encode(),
                ANSWER_ENCODING,
                (message,),
                handoff=handoff,
            )
        )
        return output


async def _call(scope: TurnScope, request: ToolRequest) -> tuple[bool, ToolOutput]:
    """Whether the call was refused, and what came of it."""
    try:
        return False, await scope.tools.call(request, scope.progress)
    except ToolRefused as refusal:
        return True, ToolOutput(str(refusal), is_error=True)


def _tool_message(scope: TurnScope, agent: str, call: Call, output: ToolOutput) -> SaidMessage:
    part = MessagePart(
        PartKind.TOOL_RESULT,
        output.text,
        call.tool,
        call.call_id,
        failed=output.is_error,
        rejected=output.rejected,
    )
    return SaidMessage(scope.message_id(call.call_id), Speaker.TOOL, agent, (part,))


def _as_autogen(schema: ToolSchema) -> AutogenToolSchema:
    parameters = schema.parameters
    properties = parameters.get("properties")
    required = parameters.get("required")
    return AutogenToolSchema(
        name=schema.name,
        description=schema.description,
        parameters=ParametersSchema(
            type="object",
            properties=properties if isinstance(properties, dict) else {},
            required=list(required) if isinstance(required, (list, tuple)) else [],
            additionalProperties=bool(parameters.get("additionalProperties", False)),
        ),
    )
