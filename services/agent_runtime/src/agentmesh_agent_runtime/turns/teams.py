"""Builds AutoGen teams from definitions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autogen_agentchat.base import ChatAgent, Team, TerminationCondition
from autogen_agentchat.messages import BaseAgentEvent, BaseChatMessage, MessageFactory
from autogen_agentchat.teams import BaseGroupChat, RoundRobinGroupChat
from autogen_agentchat.teams._group_chat._events import GroupChatTermination
from autogen_agentchat.teams._group_chat._round_robin_group_chat import RoundRobinGroupChatManager

from agentmesh_agent_runtime.definitions.specs import AgentSpec, TeamKind, TeamSpec
from agentmesh_agent_runtime.mends import MeshAgent
from agentmesh_agent_runtime.models.replies import ReplySource
from agentmesh_agent_runtime.turns.checkpoints import Chain
from agentmesh_agent_runtime.turns.contexts import build_context
from agentmesh_agent_runtime.turns.failures import InvalidDefinition
from agentmesh_agent_runtime.turns.model_step import RecordedModel
from agentmesh_agent_runtime.turns.ports import ToolSchema
from agentmesh_agent_runtime.turns.scope import Seat
from agentmesh_agent_runtime.turns.tool_step import RecordedTools

DEFAULT_TOOL_ITERATIONS = 16

ResolveModel = Callable[[AgentSpec], ReplySource]


class LiveTeam:
    """A team in memory, and the seat through which its agents find the turn they take.

    Kept between turns under the id of the checkpoint that it stands at, with what the next one
    needs of the chain that ends there.
    """

    def __init__(self, group: BaseGroupChat, seat: Seat) -> None:
        self.group = group
        self.seat = seat
        self.checkpoint_id = ""
        self.chain: Chain | None = None
        self.run_id = ""
        self.run_from = 0

    def thread(self, state: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The messages that the team's manager keeps, within a saved state."""
        manager = state["agent_states"][self.group._group_chat_manager_name]
        thread: Sequence[Mapping[str, Any]] = manager["message_thread"]
        return thread


def build_team(
    spec: TeamSpec, resolve: ResolveModel, schemas: Mapping[str, ToolSchema]
) -> LiveTeam:
    """A fresh team that takes one turn at a time.

    `schemas` holds every tool that its agents may use. Raises InvalidDefinition.
    """
    seat = Seat()
    members: list[ChatAgent | Team] = [
        _build_agent(agent, resolve(agent), schemas, seat) for agent in spec.agents()
    ]
    if spec.kind not in (TeamKind.ROUND_ROBIN, TeamKind.SINGLE):
        raise InvalidDefinition(f"teams of kind {spec.kind} are not served by this version")
    kind = StagedGroupChat if spec.stages else RoundRobinGroupChat
    try:
        group = kind(members, name=spec.id, max_turns=1)
    except ValueError as error:
        raise InvalidDefinition(f"team {spec.id}: {error}") from error
    if isinstance(group, StagedGroupChat):
        group.seat = seat
    return LiveTeam(group, seat)


def _build_agent(
    spec: AgentSpec, source: ReplySource, schemas: Mapping[str, ToolSchema], seat: Seat
) -> MeshAgent:
    usable = [schemas[name] for name in spec.usable_tools()]
    model = RecordedModel(spec.id, spec, source, seat)
    return MeshAgent(
        spec.id,
        model,
        workbench=[RecordedTools(spec, usable, seat)],
        description=spec.role or spec.name or spec.id,
        system_message=spec.system_message or None,
        # Replies reach subscribers from RecordedModel, whole ones the team.
        model_client_stream=False,
        # So that each turn's last message is a model step's own.
        reflect_on_tool_use=True,
        max_tool_iterations=spec.max_tool_iterations or DEFAULT_TOOL_ITERATIONS,
        model_context=build_context(spec, usable, model, seat),
    )


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

    component_provider_override = "agentmesh_agent_runtime.turns.teams.StagedGroupChat"
    seat: Seat

    def _create_group_chat_manager_factory(
        self,
        name: str,
        group_topic_type: str,
        output_topic_type: str,
        participant_topic_types: list[str],
        participant_names: list[str],
        participant_descriptions: list[str],
        output_message_queue: asyncio.Queue[
            BaseAgentEvent | BaseChatMessage | GroupChatTermination
        ],
        termination_condition: TerminationCondition | None,
        max_turns: int | None,
        message_factory: MessageFactory,
    ) -> Callable[[], _StagedManager]:
        def create() -> _StagedManager:
            manager = _StagedManager(
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
            manager.seat = self.seat
            return manager

        return create
