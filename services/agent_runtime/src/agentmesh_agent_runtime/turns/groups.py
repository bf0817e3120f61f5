"""AutoGen's teams with managers of our own: staged, graphs, and MagenticOne."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage
from autogen_agentchat.teams import GraphFlow, MagenticOneGroupChat, RoundRobinGroupChat
from autogen_agentchat.teams._group_chat._round_robin_group_chat import RoundRobinGroupChatManager

from agentmesh_agent_runtime.mends import MeshGraphManager, MeshOrchestrator
from agentmesh_agent_runtime.turns.scope import Seat


class _StagedManager(RoundRobinGroupChatManager):
    """Gives the word to the member whose stage it is."""

    seat: Seat

    async def select_speaker(
        self, thread: Sequence[BaseAgentEvent | BaseChatMessage]
    ) -> list[str] | str:
        stage = self.seat.scope.stage
        if stage is None:
            return await super().select_speaker(thread)
        return stage.agent


class StagedGroupChat(RoundRobinGroupChat):
    """A round-robin team whose stages say who speaks. `seat` is set before its first turn."""

    component_provider_override = "agentmesh_agent_runtime.turns.groups.StagedGroupChat"
    seat: Seat

    def _create_group_chat_manager_factory(
        self, *_: Any, **settings: Any
    ) -> Callable[[], _StagedManager]:
        def create() -> _StagedManager:
            manager = _StagedManager(**settings, emit_team_events=self._emit_team_events)
            manager.seat = self.seat
            return manager

        return create


class MeshGraphFlow(GraphFlow):
    """A graph of members. `seat` and `entry_points` are set before its first turn."""

    component_provider_override = "agentmesh_agent_runtime.turns.groups.MeshGraphFlow"
    seat: Seat
    entry_points: tuple[str, ...] = ()

    def _create_group_chat_manager_factory(
        self, *_: Any, **settings: Any
    ) -> Callable[[], MeshGraphManager]:
        def create() -> MeshGraphManager:
            manager = MeshGraphManager(**settings, graph=self._graph)
            manager.seat = self.seat
            manager.begin_in_order(self.entry_points)
            return manager

        return create


class MeshMagenticOne(MagenticOneGroupChat):
    """A team under an orchestrator. `seat` is set before its first turn."""

    component_provider_override = "agentmesh_agent_runtime.turns.groups.MeshMagenticOne"
    seat: Seat

    def _create_group_chat_manager_factory(
        self, *_: Any, **settings: Any
    ) -> Callable[[], MeshOrchestrator]:
        def create() -> MeshOrchestrator:
            manager = MeshOrchestrator(
                **settings,
                model_client=self._model_client,
                max_stalls=self._max_stalls,
                final_answer_prompt=self._final_answer_prompt,
                emit_team_events=self._emit_team_events,
            )
            manager.seat = self.seat
            return manager

        return create
