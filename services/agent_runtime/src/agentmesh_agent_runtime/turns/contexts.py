"""Which of its messages an agent's model is given.

Contexts keep every message and choose when the model is asked, so that what is saved of them only
grows at its end and a turn in a fresh process chooses as the one before it did. None of them
separates a tool call from its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from autogen_core.model_context import ChatCompletionContext
from autogen_core.models import FunctionExecutionResultMessage, LLMMessage, UserMessage
from pydantic import BaseModel, Field, model_validator

from agentmesh_agent_runtime.definitions import tokens
from agentmesh_agent_runtime.definitions.specs import AgentSpec
from agentmesh_agent_runtime.turns import prompt_size, summaries
from agentmesh_agent_runtime.turns.failures import InvalidDefinition, TurnStopped
from agentmesh_agent_runtime.turns.grant import TurnId
from agentmesh_agent_runtime.turns.model_step import RecordedModel
from agentmesh_agent_runtime.turns.ports import ToolSchema
from agentmesh_agent_runtime.turns.scope import Seat, TurnScope

LEAST_TO_SUMMARIZE: Final = 2000
"""Tokens that a request for a summary may have even where the limit is lower."""


def build_context(
    agent: AgentSpec, tools: Sequence[ToolSchema], model: RecordedModel, seat: Seat
) -> ChatCompletionContext | None:
    """The context that the agent's definition asks for; None for all messages.

    `tools` are those that its model is told of, `model` writes the summaries.
    """
    context = agent.context
    if context.buffered is not None:
        return HeadAndTailContext(0, context.buffered)
    if context.tail is not None:
        return HeadAndTailContext(context.head or 0, context.tail)
    if context.token_limited is not None:
        return TokenLimitedContext(_Room(agent, tools, seat, context.token_limited.max_tokens))
    if context.summarizing is not None:
        room = _Room(agent, tools, seat, context.summarizing.max_tokens)
        return SummarizingContext(agent.id, context.summarizing.keep, room, model, seat)
    return None


class HeadAndTailContext(ChatCompletionContext):
    """The first `head` and the newest `tail` messages, with a word about those between.

    Without a head the newest alone. A result at the edge brings its call along: AutoGen's contexts
    of this kind drop it, even if it is what the model has to answer.
    """

    component_provider_override = "agentmesh_agent_runtime.turns.contexts.HeadAndTailContext"

    def __init__(self, head: int, tail: int) -> None:
        super().__init__()
        self._head = head
        self._tail = tail

    async def get_messages(self) -> list[LLMMessage]:
        """See the class."""
        messages = self._messages
        newest = _start_of_newest(messages, self._tail)
        if not self._head:
            return messages[newest:]
        first = max((start for start in _starts(messages) if start <= self._head), default=0)
        if first >= newest:
            return messages[:]
        skipped = UserMessage(content=f"Skipped {newest - first} messages.", source="System")
        return [*messages[:first], skipped, *messages[newest:]]


class _Room:
    """What a limit leaves for messages, beside the system message, the tools, and instructions."""

    def __init__(
        self, agent: AgentSpec, tools: Sequence[ToolSchema], seat: Seat, max_tokens: int
    ) -> None:
        self.max_tokens = max_tokens
        self._agent = agent.id
        self._seat = seat
        self._taken = tokens.of_message(agent.system_message) + sum(map(prompt_size.of_tool, tools))

    def left(self) -> int:
        """Tokens, at least one. Ends the turn and raises TurnStopped if there is none."""
        scope = self._seat.scope
        instructions = scope.stage.instructions.strip() if scope.stage else ""
        taken = self._taken + tokens.of_message(instructions)
        if taken < self.max_tokens:
            return self.max_tokens - taken
        scope.stop(
            InvalidDefinition(
                f"the context of {self._agent} holds no message: its system message, tools and "
                f"stage instructions take {taken} of {self.max_tokens} tokens; raise max_tokens "
                "or shorten them"
            )
        )
        raise TurnStopped(InvalidDefinition.__name__)


class _MeasuredContext(ChatCompletionContext):
    """Counts the tokens of each message once: a long one stays for many requests."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes: dict[int, int] = {}

    def _size(self, begin: int, end: int) -> int:
        """Tokens of the messages from `begin` to before `end`."""
        for index in range(begin, end):
            if index not in self._sizes:
                self._sizes[index] = prompt_size.of_message(self._messages[index])
        return sum(self._sizes[index] for index in range(begin, end))

    async def clear(self) -> None:
        """Forgets everything."""
        await super().clear()
        self._sizes = {}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes the state of any context. Raises ValueError."""
        await super().load_state(state)
        self._sizes = {}


class TokenLimitedContext(_MeasuredContext):
    """As many of the newest messages as fit; the newest one always."""

    component_provider_override = "agentmesh_agent_runtime.turns.contexts.TokenLimitedContext"

    def __init__(self, room: _Room) -> None:
        super().__init__()
        self._room = room

    async def get_messages(self) -> list[LLMMessage]:
        """See the class. Raises TurnStopped."""
        room = self._room.left()
        begin = len(self._messages)
        for start in reversed(_starts(self._messages)):
            room -= self._size(start, begin)
            if room < 0 and begin < len(self._messages):
                break
            begin = start
        return self._messages[begin:]


class _Summary(BaseModel):
    """Stands in for the first `through` messages."""

    through: int = Field(gt=0)
    text: str


class _Mark(BaseModel):
    """Messages from `index` on are of events after the sequence `after`."""

    index: int = Field(ge=0)
    after: int = Field(ge=0)


class _Told(BaseModel):
    """What a summarising context saves beside its messages."""

    summaries: list[_Summary] = Field(default_factory=list)
    marks: list[_Mark] = Field(default_factory=list)

    @model_validator(mode="after")
    def _in_order(self) -> _Told:
        ends = [summary.through for summary in self.summaries]
        if ends != sorted(set(ends)):
            raise ValueError("summaries are out of order")
        return self


class SummarizingContext(_MeasuredContext):
    """All messages while they fit, else a summary in the place of the older ones.

    The newest `keep` messages stay, and at least the newest one, even if they do not fit. Each
    summary is made by the agent's model as a step of its own, tells of the one before, and is an
    event of the log.
    """

    component_provider_override = "agentmesh_agent_runtime.turns.contexts.SummarizingContext"

    def __init__(
        self, agent: str, keep: int, room: _Room, model: RecordedModel, seat: Seat
    ) -> None:
        super().__init__()
        self._agent = agent
        self._keep = max(1, keep)
        self._room = room
        self._model = model
        self._seat = seat
        self._told = _Told()
        self._marked: TurnId | None = None

    async def get_messages(self) -> list[LLMMessage]:
        """See the class. Raises TurnStopped."""
        self._mark(self._seat.scope)
        room = self._room.left()
        while self._given_size() > room:
            through = self._next_end()
            if through <= self._through:
                break
            await self._summarize(through)
        return self._given()

    @property
    def _through(self) -> int:
        return self._told.summaries[-1].through if self._told.summaries else 0

    @property
    def _earlier(self) -> str:
        return self._told.summaries[-1].text if self._told.summaries else ""

    def _given(self) -> list[LLMMessage]:
        summary = [summaries.standing_in(self._earlier)] if self._told.summaries else []
        return [*summary, *self._messages[self._through :]]

    def _given_size(self) -> int:
        summary = summaries.standing_in(self._earlier) if self._told.summaries else None
        taken = prompt_size.of_message(summary) if summary else 0
        return taken + self._size(self._through, len(self._messages))

    def _next_end(self) -> int:
        """Where the messages end that the next summary tells of; not before the present one's end.

        A request for a summary is itself to fit, so that many messages at once take several.
        """
        starts = _starts(self._messages)
        kept = _start_of_newest(self._messages, self._keep)
        asking = summaries.request(self._agent, self._earlier, (), self._room.max_tokens)
        most = max(self._room.max_tokens, LEAST_TO_SUMMARIZE)
        room = most - sum(map(prompt_size.of_message, asking))
        end = self._through
        for start in (*(s for s in starts if end < s < kept), kept):
            room -= self._size(end, start)
            if start <= end or (room < 0 and end > self._through):
                break
            end = start
        return end

    async def _summarize(self, through: int) -> None:
        older = self._messages[self._through : through]
        asking = summaries.request(self._agent, self._earlier, older, self._room.max_tokens)
        text = await self._model.summarize(asking, self._stands_for(through))
        self._told.summaries.append(_Summary(through=through, text=text))

    def _stands_for(self, through: int) -> tuple[int, int]:
        """The events that a summary stands for: no later ones than before all messages that stay.

        The conversation's first event is no message, so that there is always one to stand for.
        """
        before = [mark.after for mark in self._told.marks if mark.index <= through]
        return 1, max([1, *before])

    def _mark(self, scope: TurnScope) -> None:
        """Notes, once a turn, that what comes now was said after what the turn began with."""
        if self._marked != scope.grant.id:
            self._marked = scope.grant.id
            mark = _Mark(index=len(self._messages), after=scope.inputs_through)
            self._told.marks.append(mark)

    async def clear(self) -> None:
        """Forgets everything."""
        await super().clear()
        self._told = _Told()

    async def save_state(self) -> Mapping[str, Any]:
        """The messages, the summaries, and where they stand in the log."""
        return {**await super().save_state(), **self._told.model_dump()}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes the state of any context. Raises ValueError."""
        told = _Told.model_validate(state)
        await super().load_state(state)
        if told.summaries and told.summaries[-1].through >= len(self._messages):
            raise ValueError("a summary stands in for messages that are not there")
        self._told = told
        self._marked = None


def _starts(messages: Sequence[LLMMessage]) -> list[int]:
    """Where messages may be parted: before each but a tool's result. 0 is always the first."""
    return [
        index
        for index, message in enumerate(messages)
        if index == 0 or not isinstance(message, FunctionExecutionResultMessage)
    ]


def _start_of_newest(messages: Sequence[LLMMessage], count: int) -> int:
    """Where the `count` newest messages begin, and what belongs to the first of them."""
    newest = max(0, len(messages) - count)
    return max((start for start in _starts(messages) if start <= newest), default=0)
