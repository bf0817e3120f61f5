"""Members that are teams with runs of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Final

from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import Response
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, TextMessage
from autogen_core import CancellationToken

from agentmesh_agent_runtime.definitions.specs import TeamSpec
from agentmesh_agent_runtime.turns.scope import Seat

LARGEST_TASK: Final = 256 << 10
"""Bytes of a task that a run may be given."""

_LEFT_OUT = "[what was said before is left out]\n"
_GO_ON = "Go on."


class DelegatedTeam(BaseChatAgent):
    """Hands what it hears to a run of its own and says what that run answers.

    The run begins afresh: it is told what was said since this member spoke last, with its own last
    answer. Whoever carries the run out says the messages in between; the others hear the answer.
    """

    component_provider_override = "agentmesh_agent_runtime.turns.delegation.DelegatedTeam"

    def __init__(self, spec: TeamSpec, path: str, seat: Seat) -> None:
        super().__init__(spec.id, description=spec.description or spec.name or spec.id)
        self._spec = spec
        self._path = path
        self._seat = seat
        self._last_answer = ""

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        """Answers are text."""
        return (TextMessage,)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        """The answer of the run."""
        task = _task(self.name, self._last_answer, messages)
        self._last_answer = await self._seat.scope.delegate(self._path, self._spec, task)
        return Response(chat_message=TextMessage(content=self._last_answer, source=self.name))

    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        """Yields the answer when it is this member's turn to be heard."""
        response = await self.on_messages(messages, cancellation_token)
        await self._seat.scope.wait_in_line(self.name)
        yield response
        self._seat.scope.line.leave(self.name)

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        """Forgets its last answer."""
        self._last_answer = ""

    async def save_state(self) -> Mapping[str, Any]:
        """Its last answer."""
        return {"type": "DelegatedTeamState", "last_answer": self._last_answer}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """As it was saved."""
        self._last_answer = str(state.get("last_answer", ""))


def _task(name: str, last_answer: str, messages: Sequence[BaseChatMessage]) -> str:
    """What the run is told. One message alone is told as it stands."""
    if len(messages) == 1 and not last_answer:
        task = messages[0].to_model_text()
    else:
        lines = [f"{name}: {last_answer}"] if last_answer else []
        lines += [f"{message.source}: {message.to_model_text()}" for message in messages]
        task = "\n\n".join(lines)
    return _newest(task) if task.strip() else _GO_ON


def _newest(task: str) -> str:
    """As much of the end as a run may be given."""
    encoded = task.encode()
    if len(encoded) <= LARGEST_TASK:
        return task
    room = LARGEST_TASK - len(_LEFT_OUT.encode())
    return _LEFT_OUT + encoded[-room:].decode(errors="ignore")
