"""A model of AutoGen's whose every reply is a recorded step."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

from autogen_core import CancellationToken
from autogen_core.models import (
    ChatCompletionClient,
    CreateResult,
    LLMMessage,
    ModelCapabilities,
    ModelInfo,
    RequestUsage,
    SystemMessage,
)
from autogen_core.tools import Tool, ToolSchema
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode
from pydantic import BaseModel

from agentmesh_agent_runtime.definitions.specs import AgentSpec
from agentmesh_agent_runtime.models.prices import UNBOUND, ReplyBound
from agentmesh_agent_runtime.models.replies import (
    REPLY_ENCODING,
    ModelReply,
    ModelRequest,
    ReplySource,
)
from agentmesh_agent_runtime.turns import answers, digests, images, prompt_size, summaries
from agentmesh_agent_runtime.turns.allowance import Allowance, Meter
from agentmesh_agent_runtime.turns.answers import Verdict
from agentmesh_agent_runtime.turns.failures import (
    InvalidDefinition,
    ModelRefused,
    ReplayDiverged,
    TurnFailure,
    TurnStopped,
)
from agentmesh_agent_runtime.turns.ports import (
    DeltaKind,
    SaidMessage,
    SaidSummary,
    StepResult,
)
from agentmesh_agent_runtime.turns.scope import Seat, TurnScope
from agentmesh_agent_runtime.turns.telling import Telling, messages_of, notice_of

tracer = trace.get_tracer("agentmesh.agent_runtime")


class RecordedModel(ChatCompletionClient):
    """Wraps the model of one agent, or of what chooses between agents.

    `bound` is that of its replies, `path` the agent's, through the teams around it. AutoGen is
    given whole replies only: its team queue would hold the token stream back, so pieces go
    straight to the subscribers.
    """

    component_type = "model"

    def __init__(
        self,
        path: str,
        agent: AgentSpec,
        source: ReplySource,
        seat: Seat,
        telling: Telling = Telling.ALOUD,
        bound: ReplyBound = UNBOUND,
    ) -> None:
        self.telling = telling
        self._bound = bound
        self._path = path
        self._agent = agent
        self._source = source
        self._seat = seat
        self._usage = RequestUsage(0, 0)

    async def create(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: Tool | Literal["auto", "required", "none"] = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> CreateResult:
        """One step. Raises what stopped the turn; cancellation comes with the scope's `stop`."""
        scope = self._seat.scope
        request = ModelRequest(
            agent=self._agent.id,
            role=self._agent.role,
            stage=scope.stage.name if scope.stage else "",
            round=scope.grant.rounds,
            messages=self._with_instructions(messages, scope),
            tools=tools,
            tool_choice=tool_choice,
            json_output=json_output,
            output_schema=self._agent.output_schema or None,
            tenant=scope.grant.id.tenant,
        )
        try:
            reply = await self._fitting(scope, request)
        except Exception as error:
            # AutoGen writes the text of whatever passes through it into its spans. The turn ends
            # with what `stop` is given.
            scope.stop(error)
            raise TurnStopped(type(error).__name__) from None
        scope.expect(reply.calls)
        result = reply.as_create_result()
        self._count(result.usage)
        return result

    async def summarize(self, messages: Sequence[LLMMessage], stands_for: tuple[int, int]) -> str:
        """One step, and the event of a summary for the sequences that it `stands_for`.

        `messages` ask for it. Nobody is shown how it comes. Raises as `create` does.
        """
        scope = self._seat.scope
        request = ModelRequest(
            agent=self._agent.id,
            role=self._agent.role,
            stage=summaries.STAGE,
            round=scope.grant.rounds,
            messages=messages,
            tool_choice="none",
        )
        try:
            reply = await self._summary_step(scope, request, stands_for)
        except Exception as error:
            # As in `create`.
            scope.stop(error)
            raise TurnStopped(type(error).__name__) from None
        self._count(RequestUsage(reply.usage.input_tokens, reply.usage.output_tokens))
        return summaries.text_of(reply)

    async def _summary_step(
        self, scope: TurnScope, request: ModelRequest, stands_for: tuple[int, int]
    ) -> ModelReply:
        key = scope.next_key(f"{self._path}{summaries.KEY_SUFFIX}")
        digest = self._digest(request)
        scope.progress(f"{self._path} has {self._source.model} summarise its context")
        known, allowance = await self._begin(scope, key, digest, request)
        if known is not None:
            return known
        meter = Meter(allowance)
        reply = await self._answer(scope, key, digest, request, meter, Telling.NOT_AT_ALL)
        summary = SaidSummary(self._path, *stands_for, summaries.text_of(reply))
        await self._record(
            scope,
            StepResult(
                key,
                digest,
                reply.encode(),
                REPLY_ENCODING,
                (),
                usage=reply.usage,
                model=self._source.model,
                summary=summary,
            ),
        )
        return reply

    def _with_instructions(
        self, messages: Sequence[LLMMessage], scope: TurnScope
    ) -> Sequence[LLMMessage]:
        """Adds the stage's instructions behind the system message; they are not kept in the state.
        They are for members, not for what chooses between them or sums up."""
        if self.telling is not Telling.ALOUD or not scope.stage or not scope.stage.instructions:
            return messages
        head = next(
            (i for i, m in enumerate(messages) if not isinstance(m, SystemMessage)), len(messages)
        )
        instructions = SystemMessage(content=scope.stage.instructions.strip())
        return [*messages[:head], instructions, *messages[head:]]

    def _count(self, usage: RequestUsage) -> None:
        self._usage = RequestUsage(
            self._usage.prompt_tokens + usage.prompt_tokens,
            self._usage.completion_tokens + usage.completion_tokens,
        )

    def _digest(self, request: ModelRequest) -> bytes:
        return digests.model_request(
            request.messages,
            request.tools,
            request.tool_choice,
            request.json_output,
            self._agent.llm_config,
            request.output_schema,
        )

    async def _fitting(self, scope: TurnScope, request: ModelRequest) -> ModelReply:
        """A reply that fits the agent's output schema if it is an answer; each is a step."""
        for _ in range(answers.ATTEMPTS):
            reply, verdict = await self._step(scope, request)
            flaw = verdict.flaw
            if flaw is None:
                return reply
            if flaw.unchecked:
                raise InvalidDefinition(f"output_schema of {self._path}: {flaw.why}")
            request = answers.again(request, reply, flaw)
        raise ModelRefused(
            f"{answers.ATTEMPTS} answers of {self._path} do not fit its output_schema; the last "
            f"one at {flaw}"
        )

    async def _step(self, scope: TurnScope, request: ModelRequest) -> tuple[ModelReply, Verdict]:
        key = scope.next_key(self._path)
        digest = self._digest(request)
        scope.progress(f"{self._path} asks {self._source.model}")
        known, allowance = await self._begin(scope, key, digest, request)
        if known is not None:
            verdict = await answers.judge(known, request.output_schema)
            scope.remember(self._messages(scope, key, known, verdict))
            # It was said with the first reply of the turn, whichever attempt recorded that.
            scope.notice = ""
            return known, verdict
        fresh = await self._answer(scope, key, digest, request, Meter(allowance), self.telling)
        reply = scope.name_calls(_keep_to(request, fresh))
        verdict = await scope.guarded(answers.judge(reply, request.output_schema))
        messages = self._messages(scope, key, reply, verdict)
        if scope.notice:
            messages.insert(0, notice_of(scope.message_id("notice"), scope.notice))
            scope.notice = ""
        await self._record(
            scope,
            StepResult(
                key,
                digest,
                reply.encode(),
                REPLY_ENCODING,
                tuple(messages),
                usage=reply.usage,
                model=reply.requested_model or self._source.model,
            ),
        )
        return reply, verdict

    def _messages(
        self, scope: TurnScope, key: str, reply: ModelReply, verdict: Verdict
    ) -> list[SaidMessage]:
        return messages_of(scope.message_id(key), self._path, reply, verdict, self.telling)

    async def _begin(
        self, scope: TurnScope, key: str, digest: bytes, request: ModelRequest
    ) -> tuple[ModelReply | None, Allowance]:
        """The reply that was recorded before, or None; and what a new one may consume."""
        wanted = Allowance.of(request.messages, request.tools, self._bound)
        allowance = scope.spending.allow(self._path, self._agent.budget, wanted)
        recorded, allowance = await scope.begin(key, digest, allowance)
        if recorded is None:
            return None, allowance
        reply = _decode(recorded)
        scope.spending.add(self._path, self._agent.budget, reply.usage)
        return reply, allowance

    async def _record(self, scope: TurnScope, result: StepResult) -> None:
        await scope.record(result)
        scope.spending.add(self._path, self._agent.budget, result.usage)

    async def _answer(
        self,
        scope: TurnScope,
        key: str,
        digest: bytes,
        request: ModelRequest,
        meter: Meter,
        telling: Telling,
    ) -> ModelReply:
        """The model's reply to a claimed step; one that fails gives back what it did not use."""
        try:
            return await scope.guarded(self._ask(scope, key, request, meter, telling))
        except TurnFailure:
            await scope.give_back(key, digest, meter.consumed)
            raise

    async def _ask(
        self, scope: TurnScope, key: str, request: ModelRequest, meter: Meter, telling: Telling
    ) -> ModelReply:
        sees = self._source.info["vision"]
        messages = await images.shown(request.messages, sees=sees, read=scope.images.image)
        request = replace(request, messages=messages)
        message_id = scope.message_id(key)
        deltas, agent = scope.deltas, self._path
        with tracer.start_as_current_span(
            f"chat {self._source.model}",
            kind=trace.SpanKind.CLIENT,
            record_exception=False,
            set_status_on_exception=False,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": self._source.provider,
                "gen_ai.request.model": self._source.model,
                "gen_ai.agent.name": agent,
                "gen_ai.conversation.id": scope.grant.id.conversation_id,
                "agentmesh.step_key": key,
            },
        ) as span:
            try:
                async with aclosing(self._source.stream(request)) as pieces:
                    async for piece in pieces:
                        if isinstance(piece, ModelReply):
                            deltas.flush()
                            _describe(span, piece)
                            return piece
                        scope.progress()
                        meter.count(piece.text)
                        if telling is not Telling.NOT_AT_ALL:
                            aloud = telling is Telling.ALOUD
                            heard_as = piece.kind if aloud else DeltaKind.REASONING
                            deltas.push(message_id, agent, heard_as, piece.text)
            except TurnFailure as failure:
                kind = type(failure).__name__
                span.set_attribute("error.type", kind)
                span.set_status(Status(StatusCode.ERROR, kind))
                raise
        raise ModelRefused("the model's reply never ended")

    async def create_stream(
        self,
        messages: Sequence[LLMMessage],
        *,
        tools: Sequence[Tool | ToolSchema] = (),
        tool_choice: Tool | Literal["auto", "required", "none"] = "auto",
        json_output: bool | type[BaseModel] | None = None,
        extra_create_args: Mapping[str, Any] | None = None,
        cancellation_token: CancellationToken | None = None,
    ) -> AsyncGenerator[str | CreateResult, None]:
        """The whole reply only; see the class."""
        yield await self.create(
            messages, tools=tools, tool_choice=tool_choice, json_output=json_output
        )

    async def close(self) -> None:
        """The wrapped model is shared and stays open."""

    def actual_usage(self) -> RequestUsage:
        """What this wrapper's replies used, replayed ones included."""
        return self._usage

    def total_usage(self) -> RequestUsage:
        """As `actual_usage`."""
        return self._usage

    def count_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """An estimate, of the messages alone."""
        return sum(map(prompt_size.of_message, messages))

    def remaining_tokens(
        self, messages: Sequence[LLMMessage], *, tools: Sequence[Tool | ToolSchema] = ()
    ) -> int:
        """Not known; large enough that nothing is cut."""
        return 1 << 30

    @property
    def capabilities(self) -> ModelCapabilities:
        """As `model_info`, under its old name."""
        return self._source.info

    @property
    def model_info(self) -> ModelInfo:
        """That of the wrapped model. Images reach this one either way: it says in words what a
        model that cannot see would have been shown, where AutoGen would say that there was one."""
        return {**self._source.info, "vision": True}


def _keep_to(request: ModelRequest, reply: ModelReply) -> ModelReply:
    """Takes calls away where the request allowed none, as in the last words of a turn."""
    if not reply.calls or (request.tools and request.tool_choice != "none"):
        return reply
    text = reply.text or "I reached the number of tool calls that one turn may make."
    return replace(reply, text=text, calls=(), finish_reason="stop")


def _decode(recorded: bytes) -> ModelReply:
    try:
        return ModelReply.decode(recorded)
    except ValueError as error:
        raise ReplayDiverged(f"a recorded reply cannot be read: {error}") from error


def _describe(span: trace.Span, reply: ModelReply) -> None:
    span.set_attribute("gen_ai.response.model", reply.model)
    span.set_attribute("agentmesh.reply_cached", reply.cached)
    span.set_attribute("gen_ai.response.finish_reasons", (reply.finish_reason,))
    span.set_attribute("gen_ai.usage.input_tokens", reply.usage.input_tokens)
    span.set_attribute("gen_ai.usage.output_tokens", reply.usage.output_tokens)
