"""Components of installed packages at work: what they are given, and what their failures become."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

from autogen_agentchat.agents import BaseChatAgent
from autogen_agentchat.base import ChatAgent, Response, Team, TerminationCondition
from autogen_agentchat.messages import (
    BaseAgentEvent,
    BaseChatMessage,
    HandoffMessage,
    MessageFactory,
    TextMessage,
    ToolCallSummaryMessage,
)
from autogen_agentchat.teams import BaseGroupChat
from autogen_core import CancellationToken

from agentmesh_agent_runtime.components import ComponentError, ComponentKind, Components, plain
from agentmesh_agent_runtime.definitions.specs import TerminationSpec
from agentmesh_agent_runtime.extension.setups import AgentSetup, TeamSetup, TerminationSetup
from agentmesh_agent_runtime.mends import MendedAssistant
from agentmesh_agent_runtime.turns.effects import told
from agentmesh_agent_runtime.turns.failures import ComponentFailed
from agentmesh_agent_runtime.turns.reporting import STATE_SECONDS, reported
from agentmesh_agent_runtime.turns.scope import Seat

log = logging.getLogger(__name__)

T = TypeVar("T")

_MESSAGES = MessageFactory()
_KEPT_AS_THEY_ARE = (TextMessage, HandoffMessage, ToolCallSummaryMessage)


class HostedAgent(BaseChatAgent):
    """An agent of a package among others: heard in its turn, recorded, stopped, saved.

    `path` is where it appears, `component` the name of its factory.
    """

    def __init__(self, path: str, component: str, agent: ChatAgent, seat: Seat) -> None:
        super().__init__(agent.name, agent.description)
        self._path = path
        self._component = f"agent component {component!r}"
        self._agent = agent
        self._seat = seat

    @property
    def whereabouts(self) -> str:
        """Which one this is, for people."""
        try:
            turn = self._seat.scope.grant.id
        except RuntimeError:
            return f"the {self._component} of {self._path}, between turns"
        return f"the {self._component} of {self._path} in turn {turn.turn} of {turn.run_id}"

    @property
    def produced_message_types(self) -> Sequence[type[BaseChatMessage]]:
        """Those that teams know of; an answer of any other type becomes a text."""
        own = self._agent.produced_message_types
        return [kind for kind in _KEPT_AS_THEY_ARE if kind is TextMessage or kind in own]

    async def on_messages(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        """The answer, when it is this agent's turn to be heard and the log has it."""
        scope = self._seat.scope
        scope.progress(f"{self._path} is at work")
        response = await scope.until_stopped(
            reported(self._component, self._answer(messages, cancellation_token))
        )
        await scope.wait_in_line(self.name)
        answer = self._as_told(response.chat_message)
        if not (isinstance(answer, HandoffMessage) and isinstance(self._agent, MendedAssistant)):
            told_so = told(scope, self._path, messages, answer)
            answer = await scope.until_stopped(reported(self._component, told_so))
        inner = [m for m in response.inner_messages or () if _MESSAGES.is_registered(type(m))]
        return Response(chat_message=answer, inner_messages=inner)

    async def on_messages_stream(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> AsyncGenerator[BaseAgentEvent | BaseChatMessage | Response, None]:
        """The answer alone: what comes before reaches subscribers from its recorded model."""
        yield await self.on_messages(messages, cancellation_token)
        self._seat.scope.line.leave(self.name)

    async def _answer(
        self, messages: Sequence[BaseChatMessage], cancellation_token: CancellationToken
    ) -> Response:
        response: Response | None = None
        async for item in self._agent.on_messages_stream(messages, cancellation_token):
            # What it says on its way is no progress, for it may go on for ever with that; and if it
            # waits for nothing, others are to have their turn.
            await asyncio.sleep(0)
            if isinstance(item, Response):
                response = item
        if response is None:
            raise ComponentError("it ended without an answer")
        if not response.chat_message.to_text().strip():
            raise ComponentError("it answered with nothing")
        return response

    def _as_told(self, answer: BaseChatMessage) -> BaseChatMessage:
        if type(answer) in _KEPT_AS_THEY_ARE:
            return answer.model_copy(update={"source": self.name})
        return TextMessage(
            content=answer.to_text(), source=self.name, models_usage=answer.models_usage
        )

    async def on_reset(self, cancellation_token: CancellationToken) -> None:
        """Begins anew."""
        await self._agent.on_reset(cancellation_token)

    async def save_state(self) -> Mapping[str, Any]:
        """As JSON, copied: what the agent changes later is not in it."""
        state = await reported(self._component, self._agent.save_state(), STATE_SECONDS)
        try:
            copy: Mapping[str, Any] = json.loads(json.dumps(state))
        except (TypeError, ValueError) as error:
            raise ComponentFailed(f"the {self._component} saves a state that is no JSON") from error
        return copy

    async def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes up what `save_state` returned."""
        await reported(self._component, self._agent.load_state(state), STATE_SECONDS)


def whose_turn(frame: FrameType | None) -> str:
    """The agent of a package that called what runs in a frame, for people."""
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, HostedAgent):
            return owner.whereabouts
        frame = frame.f_back
    return "code that belongs to no agent of a package"


class Host:
    """Makes the components of one team. Raises ComponentError."""

    def __init__(self, components: Components, seat: Seat) -> None:
        self._components = components
        self._seat = seat

    def config(self, kind: ComponentKind, name: str, config: Mapping[str, Any]) -> Any:
        """The configuration as the factory takes it."""
        return self._components.configure(kind, name, config)

    def agent(self, path: str, component: str, setup: AgentSetup) -> HostedAgent:
        """The agent that the factory makes of the setup."""
        agent: ChatAgent = self._make(ComponentKind.AGENT, component, setup, ChatAgent)
        if agent.name != setup.id:
            raise ComponentError(
                f"{component!r} made an agent named {agent.name!r}; name it {setup.id!r}, as its"
                " setup's id says"
            )
        return HostedAgent(path, component, agent, self._seat)

    def team(self, component: str, setup: TeamSetup) -> BaseGroupChat:
        """The team that the factory makes of the setup."""
        team: BaseGroupChat = self._make(ComponentKind.TEAM, component, setup, BaseGroupChat)
        if team.name != setup.id:
            raise ComponentError(f"{component!r} made a team named {team.name!r}, not {setup.id!r}")
        if [id(member) for member in team._participants] != [id(each) for each in setup.members]:
            raise ComponentError(f"{component!r} made a team of other members than its setup's")
        if team._max_turns != setup.max_turns:
            raise ComponentError(
                f"{component!r} made a team of max_turns {team._max_turns}; hand it the setup's"
            )
        if team._termination_condition is not setup.termination_condition:
            raise ComponentError(
                f"{component!r} made a team with a termination_condition of its own; hand it the"
                " setup's, conditions belong into the definition"
            )
        return team

    def condition(self, spec: TerminationSpec, agents: Sequence[str]) -> TerminationCondition:
        """A fresh condition of a package."""
        kind = ComponentKind.TERMINATION
        config = self.config(kind, spec.component, spec.component_config)
        setup = TerminationSetup(config, tuple(agents))
        made: TerminationCondition = self._make(kind, spec.component, setup, TerminationCondition)
        return made

    def candidates(self, name: str) -> Any:
        """The candidate function of a package, as AutoGen's selector calls it."""
        function = self._components.load(ComponentKind.CANDIDATE_FUNCTION, name)
        what = f"candidate function {name!r}"

        async def choose(messages: Sequence[BaseAgentEvent | BaseChatMessage]) -> list[str]:
            async def call() -> list[str]:
                chosen = function(messages)
                chosen = await chosen if isinstance(chosen, Awaitable) else chosen
                if isinstance(chosen, str) or not list(chosen):
                    raise ComponentError("it names no members; return a list of their names")
                return list(chosen)

            return await self._seat.scope.guarded(reported(what, call()))

        return choose

    def choosing(self, component: str, members: Sequence[ChatAgent | Team]) -> Any:
        """What a MeshGroupChat passes its choices through."""
        teams = {member.name: isinstance(member, Team) for member in members}

        async def choosing(choice: Awaitable[Sequence[str]]) -> list[str]:
            scope = self._seat.scope

            async def choose() -> list[str]:
                return _speakers(await choice, teams)

            chosen = await scope.guarded(reported(f"team component {component!r}", choose()))
            if len(chosen) > 1:
                scope.line.form(chosen)
            return chosen

        return choosing

    def _make(self, kind: ComponentKind, name: str, setup: Any, wanted: type) -> Any:
        factory = self._components.load(kind, name)
        try:
            made = factory(setup)
        except (Exception, SystemExit) as error:
            log.warning("the %s component %s fails", kind, name, exc_info=error)
            raise ComponentError(f"{name!r} cannot be made: {plain(error)}") from error
        if not isinstance(made, wanted):
            raise ComponentError(
                f"{name!r} makes a {type(made).__name__}, which is no {wanted.__name__}"
            )
        return made


def _speakers(chosen: Sequence[str], teams: Mapping[str, bool]) -> list[str]:
    speakers = [chosen] if isinstance(chosen, str) else list(chosen)
    for name in speakers:
        if name not in teams or speakers.count(name) > 1:
            have = ", ".join(teams)
            raise ComponentError(f"{name!r} is no member that is named once; there are {have}")
    if len(speakers) > 1 and any(teams[name] for name in speakers):
        raise ComponentError("a team within a team speaks alone; name it by itself")
    return speakers
