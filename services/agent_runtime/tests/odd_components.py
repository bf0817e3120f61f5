"""Components that do what components do, and what they must not. A test installs this file."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from agentmesh_agent_runtime.extension import (
    AgentSetup,
    ComponentError,
    MeshGroupChat,
    TeamSetup,
    TerminationSetup,
)
from autogen_agentchat.agents import AssistantAgent, BaseChatAgent
from autogen_agentchat.base import Response, TerminationCondition
from autogen_agentchat.messages import (
    BaseAgentEvent,
    BaseChatMessage,
    HandoffMessage,
    ModelClientStreamingChunkEvent,
    StopMessage,
    StructuredMessage,
    TextMessage,
)
from autogen_agentchat.teams import BaseGroupChat, RoundRobinGroupChat
from autogen_agentchat.teams._group_chat._round_robin_group_chat import RoundRobinGroupChatManager
from autogen_core import CancellationToken
from autogen_core.models import UserMessage
from pydantic import BaseModel

SECRET = "the password is hunter2"


class EchoAgent(BaseChatAgent):
    """Says how much it heard, and needs neither model nor tools."""

    def __init__(self, setup: AgentSetup) -> None:
        super().__init__(setup.id, setup.description)
        self.setup = setup
        self.heard = 0

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        return (TextMessage, HandoffMessage)

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        self.heard += len(messages)
        return Response(chat_message=await self.answer(messages))

    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return self.text(f"I heard {self.heard}")

    def text(self, content: str) -> TextMessage:
        return TextMessage(content=content, source=self.name)

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        self.heard = 0

    async def save_state(self) -> Mapping[str, Any]:
        return {"heard": self.heard}

    async def load_state(self, state: Mapping[str, Any]) -> None:
        self.heard = state["heard"]


class Forgets(EchoAgent):
    """Its answer is another one each time that it is asked for."""

    asked = 0

    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        type(self).asked += 1
        return self.text(f"answer {type(self).asked}")


class Caller(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        first = await self.setup.tools.call_tool("echo", {"n": 1})
        await self.setup.tools.call_tool("echo", {"n": 2})
        return self.text(first.to_text())


class Writes(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        name = await self.setup.once("name", lambda: f"m_{uuid.uuid4().hex}")
        module = {"path": f"{name}.py", "content": "x = 1\n"}
        written = await self.setup.tools.call_tool("code_writer", module)
        listed = await self.setup.tools.call_tool("code_writer", module | {"path": "other.py"})
        return self.text(f"{written.to_text()} {listed.to_text()}")


class Drafter(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        asked = UserMessage(content=f"draft of {self.heard}", source="user")
        draft = await self.setup.private_model.create([asked])
        return self.text(str(draft.content).upper())


def Plain(setup: AgentSetup) -> AssistantAgent:  # noqa: N802  a name like the others'
    return AssistantAgent(
        setup.id,
        setup.model,
        workbench=[setup.tools],
        system_message=setup.system_message,
        description=setup.description,
        reflect_on_tool_use=True,
    )


class Numbers(BaseModel):
    a: int


class Structured(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return StructuredMessage[Numbers](content=Numbers(a=1), source="somebody")


class HandsOver(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return HandoffMessage(content="yours", source=self.name, target="boss")


class Raises(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        raise RuntimeError(SECRET)


class Exits(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        sys.exit(SECRET)


class SaysNothing(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return self.text(" ")


class NeverAnswers(EchoAgent):
    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        return
        yield


class TalksForEver(EchoAgent):
    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        while True:
            yield ModelClientStreamingChunkEvent(content="and", source=self.name)


class WaitsForEver(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        await asyncio.Event().wait()
        return self.text("never")


class AsksAgain(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        while True:
            with suppress(Exception):
                asked = UserMessage(content="well?", source="user")
                return self.text(str((await self.setup.model.create([asked])).content))


class BadState(EchoAgent):
    async def save_state(self) -> Mapping[str, Any]:
        return {"socket": object()}


class SavesForEver(EchoAgent):
    async def save_state(self) -> Mapping[str, Any]:
        await asyncio.Event().wait()
        return {}


class BadKey(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return self.text(await self.setup.once("what time is it", lambda: "now"))


class BadOnce(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return self.text(str(await self.setup.once("thing", object)))


class OnceRaises(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        def leak() -> NoReturn:
            raise RuntimeError(SECRET)

        return self.text(await self.setup.once("thing", leak))


class EndlessOnce(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return self.text(await self.setup.once("thing", lambda: "x" * (2 << 20)))


class EndlessAnswer(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return self.text("x" * (2 << 20))


class EndlessCall(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        await self.setup.tools.call_tool("echo", {"n": "x" * (2 << 20)})
        return self.text("called")


class HalfLetters(EchoAgent):
    async def answer(self, messages: Sequence[BaseChatMessage]) -> BaseChatMessage:
        return self.text("half \ud83d a letter")


class WrongName(EchoAgent):
    def __init__(self, setup: AgentSetup) -> None:
        BaseChatAgent.__init__(self, "other", setup.description)


class NoName(EchoAgent):
    @property
    def name(self) -> str:
        raise RuntimeError(SECRET)


def MakesNothing(setup: AgentSetup) -> None:  # noqa: N802
    """No agent."""


def CannotBeMade(setup: AgentSetup) -> NoReturn:  # noqa: N802
    raise RuntimeError(SECRET)


def SaysWhy(setup: AgentSetup) -> NoReturn:  # noqa: N802
    raise ComponentError("there is no region eu")


class AllAtOnce(MeshGroupChat):
    """The first one comes last, and is heard first all the same."""

    async def next_speakers(
        self, thread: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> Sequence[str]:
        return [member.name for member in self.setup.members]


class AsksAModel(MeshGroupChat):
    async def next_speakers(
        self, thread: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> Sequence[str]:
        question = UserMessage(content=f"who? {len(thread)}", source="user")
        return [str((await self.setup.model.create([question])).content)]


class ChoosesStranger(MeshGroupChat):
    async def next_speakers(
        self, thread: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> Sequence[str]:
        return ["stranger"]


class ChoosesTwice(MeshGroupChat):
    async def next_speakers(
        self, thread: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> Sequence[str]:
        return ["a", "a"]


class ChoiceRaises(MeshGroupChat):
    async def next_speakers(
        self, thread: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> Sequence[str]:
        raise RuntimeError(SECRET)


def EndlessTeam(setup: TeamSetup) -> BaseGroupChat:  # noqa: N802
    return RoundRobinGroupChat(list(setup.members), name=setup.id)


def OtherMembers(setup: TeamSetup) -> BaseGroupChat:  # noqa: N802
    return RoundRobinGroupChat(list(setup.members)[:1], name=setup.id, max_turns=setup.max_turns)


class RaisesWhenAsked(TerminationCondition):
    def __init__(self, setup: TerminationSetup) -> None:
        self._done = False

    @property
    def terminated(self) -> bool:
        return self._done

    async def __call__(
        self, messages: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> StopMessage | None:
        raise RuntimeError(SECRET)

    async def reset(self) -> None:
        self._done = False


class _Forgetful(RoundRobinGroupChatManager):
    async def save_state(self) -> Mapping[str, Any]:
        return {}


class KeepsNothing(RoundRobinGroupChat):
    def __init__(self, setup: TeamSetup) -> None:
        super().__init__(list(setup.members), name=setup.id, max_turns=setup.max_turns)

    def _create_group_chat_manager_factory(self, *_: Any, **settings: Any) -> Any:
        return lambda: _Forgetful(**settings, emit_team_events=False)
