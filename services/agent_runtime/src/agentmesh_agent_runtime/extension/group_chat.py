"""A base of teams of one's own: it says who speaks, the mesh does the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, StopMessage
from autogen_agentchat.teams import BaseGroupChat
from autogen_agentchat.teams._group_chat._base_group_chat_manager import BaseGroupChatManager

from agentmesh_agent_runtime.extension.setups import TeamSetup

_MANAGER = "MeshGroupChatManager"


class MeshGroupChat(BaseGroupChat):
    """A team that is asked after each answer who speaks next."""

    component_provider_override = "agentmesh_agent_runtime.extension.group_chat.MeshGroupChat"

    def __init__(self, setup: TeamSetup) -> None:
        super().__init__(
            name=setup.id,
            description=setup.description,
            participants=list(setup.members),
            group_chat_manager_name=_MANAGER,
            group_chat_manager_class=_Manager,
            termination_condition=setup.termination_condition,
            max_turns=setup.max_turns,
        )
        self.setup = setup

    @abstractmethod
    async def next_speakers(
        self, thread: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> Sequence[str]:
        """Names of the members that speak next, after all that was said; none ends the run.

        Several speak at the same time and are heard in this order. It is asked again on each
        attempt at its turn, so it must choose the same: use `setup.model` or `setup.once` for what
        may come out otherwise.
        """
        ...

    def save_choices(self) -> Mapping[str, Any]:
        """What it has to remember for its next choice, as JSON."""
        return {}

    def load_choices(self, state: Mapping[str, Any]) -> None:
        """Takes up what `save_choices` returned."""

    def _create_group_chat_manager_factory(
        self,
        name: str,
        group_topic_type: str,
        output_topic_type: str,
        participant_topic_types: list[str],
        participant_names: list[str],
        participant_descriptions: list[str],
        output_message_queue: Any,
        termination_condition: Any,
        max_turns: int | None,
        message_factory: Any,
    ) -> Callable[[], _Manager]:
        def create() -> _Manager:
            manager = _Manager(
                name,
                group_topic_type,
                output_topic_type,
                participant_topic_types,
                participant_names,
                participant_descriptions,
                output_message_queue,
                termination_condition,
                max_turns,
                message_factory,
                self._emit_team_events,
            )
            manager.team = self
            return manager

        return create


class _Manager(BaseGroupChatManager):
    """Asks its team, which is set before its first turn."""

    team: MeshGroupChat

    async def select_speaker(self, thread: Sequence[BaseAgentEvent | BaseChatMessage]) -> list[str]:
        speakers = await self.team.setup.choosing(self.team.next_speakers(tuple(thread)))
        if not speakers:
            await self._signal_termination(
                StopMessage(content="nobody is to speak", source=self._name)
            )
        return speakers

    async def save_state(self) -> Mapping[str, Any]:
        return {
            "message_thread": [message.dump() for message in self._message_thread],
            "current_turn": self._current_turn,
            "choices": dict(self.team.save_choices()),
        }

    async def load_state(self, state: Mapping[str, Any]) -> None:
        self._message_thread = [self._message_factory.create(m) for m in state["message_thread"]]
        self._current_turn = state["current_turn"]
        self.team.load_choices(state["choices"])

    async def validate_group_state(self, messages: list[BaseChatMessage] | None) -> None:
        """Any message may come at any time."""

    async def reset(self) -> None:
        self._current_turn = 0
        self._message_thread.clear()
        self.team.load_choices({})
