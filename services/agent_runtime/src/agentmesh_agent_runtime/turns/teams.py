"""Builds AutoGen teams from definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from autogen_agentchat.base import ChatAgent, Team
from autogen_agentchat.teams import BaseGroupChat, RoundRobinGroupChat, SelectorGroupChat, Swarm

from agentmesh_agent_runtime.components import ComponentKind, Components
from agentmesh_agent_runtime.definitions.graphs import digraph
from agentmesh_agent_runtime.definitions.specs import AgentSpec, TeamKind, TeamSpec
from agentmesh_agent_runtime.extension.assistant import assistant_arguments
from agentmesh_agent_runtime.extension.setups import AgentSetup, TeamSetup
from agentmesh_agent_runtime.mends import MeshAgent
from agentmesh_agent_runtime.models.prices import ReplyBound
from agentmesh_agent_runtime.models.replies import ReplySource
from agentmesh_agent_runtime.turns.checkpoints import Chain
from agentmesh_agent_runtime.turns.conditions import OneAnswer, conditions_of
from agentmesh_agent_runtime.turns.contexts import build_context
from agentmesh_agent_runtime.turns.delegation import DelegatedTeam
from agentmesh_agent_runtime.turns.effects import CallableTools, CurrentTurnOf, RecordedOnce
from agentmesh_agent_runtime.turns.failures import InvalidDefinition
from agentmesh_agent_runtime.turns.groups import MeshGraphFlow, MeshMagenticOne, StagedGroupChat
from agentmesh_agent_runtime.turns.hosting import Host
from agentmesh_agent_runtime.turns.model_step import RecordedModel
from agentmesh_agent_runtime.turns.ports import ToolSchema
from agentmesh_agent_runtime.turns.runs import rounds_within
from agentmesh_agent_runtime.turns.scope import Seat
from agentmesh_agent_runtime.turns.spending import Spending
from agentmesh_agent_runtime.turns.telling import Telling
from agentmesh_agent_runtime.turns.tool_step import RecordedTools

DEFAULT_TOOL_ITERATIONS = 16

ResolveModel = Callable[[AgentSpec], tuple[ReplySource, ReplyBound]]


class LiveTeam:
    """A team in memory, and the seat through which its agents find the turn they take.

    Kept between turns under the id of the checkpoint that it stands at, with what the next one
    needs of the chain that ends there.
    """

    def __init__(
        self, group: BaseGroupChat, seat: Seat, summarizer: RecordedModel | None = None
    ) -> None:
        self.group = group
        self.seat = seat
        self.summarizer = summarizer
        self.checkpoint_id = ""
        self.chain: Chain | None = None
        self.run_id = ""
        self.run_from = 0
        self.spending = Spending()

    def thread(self, state: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The messages that the team's manager keeps, within a saved state."""
        manager = state["agent_states"][self.group._group_chat_manager_name]
        thread: Sequence[Mapping[str, Any]] = manager["message_thread"]
        return thread


class TeamBuilder:
    """Makes AutoGen's teams of one definition. Raises InvalidDefinition."""

    def __init__(
        self,
        resolve: ResolveModel,
        schemas: Mapping[str, ToolSchema],
        components: Components,
    ) -> None:
        """`schemas` holds every tool that the agents may use; one that is not offered to this run
        is left out."""
        self._resolve = resolve
        self._schemas = schemas
        self._seat = Seat()
        self.host = Host(components, self._seat)

    def build(self, spec: TeamSpec, path: str = "") -> LiveTeam:
        """A fresh team that takes one turn at a time. Its members appear at `path`, which ends with
        a slash unless it is empty."""
        try:
            return LiveTeam(self._group(spec, path), self._seat, self._summarizer(spec, path))
        except ValueError as error:
            raise InvalidDefinition(f"team {spec.id}: {error}") from error

    def agent(self, spec: AgentSpec) -> ChatAgent:
        """An agent by itself. Raises ComponentError."""
        return self._agent(spec, (), "")

    def _summarizer(self, spec: TeamSpec, path: str) -> RecordedModel | None:
        if spec.summarizer is None:
            return None
        writer = AgentSpec(id="summarizer", llm_config=spec.summarizer)
        return self._model(f"{path}:summarizer", writer, Telling.NOT_AT_ALL)

    def _group(self, spec: TeamSpec, path: str, *, inner: bool = False) -> BaseGroupChat:
        """`path` is where its members appear. An `inner` team runs until it is done."""
        members = [self._member(member, spec, path) for member in spec.participants]
        limits: dict[str, Any] = {"max_turns": 1}
        if inner:
            conditions = conditions_of(spec, self.host.condition)
            limits = {"max_turns": rounds_within(spec), "termination_condition": conditions}
        return self._of_kind(spec, path, members, {"name": spec.id, **limits})

    def _of_kind(
        self, spec: TeamSpec, path: str, members: list[Any], common: dict[str, Any]
    ) -> BaseGroupChat:
        match spec.kind:
            case TeamKind.SELECTOR:
                return self._selector(spec, path, members, common)
            case TeamKind.SWARM:
                return Swarm(members, **common)
            case TeamKind.GRAPH:
                graph = digraph(spec.graph, [member.name for member in members])
                flow = MeshGraphFlow(members, graph, **common)
                flow.seat, flow.entry_points = self._seat, spec.graph.entry_points
                return flow
            case TeamKind.MAGENTIC_ONE:
                return self._magentic_one(spec, path, members, common)
            case TeamKind.COMPONENT:
                return self._component(spec, path, members, common)
            case _ if spec.stages:
                staged = StagedGroupChat(members, **common)
                staged.seat = self._seat
                return staged
            case _:
                return RoundRobinGroupChat(members, **common)

    def _selector(
        self, spec: TeamSpec, path: str, members: list[Any], common: dict[str, Any]
    ) -> BaseGroupChat:
        chooser = AgentSpec(id="selector", llm_config=spec.selector.llm_config)
        name = spec.selector.candidate_function
        if spec.selector.prompt:
            common = common | {"selector_prompt": spec.selector.prompt}
        return SelectorGroupChat(
            members,
            self._model(f"{path}:selector", chooser, Telling.NOT_AT_ALL),
            allow_repeated_speaker=spec.selector.allow_repeated_speaker,
            candidate_func=self.host.candidates(name) if name else None,
            **common,
        )

    def _magentic_one(
        self, spec: TeamSpec, path: str, members: list[Any], common: dict[str, Any]
    ) -> BaseGroupChat:
        chooser = AgentSpec(id="orchestrator", llm_config=spec.orchestrator)
        if "termination_condition" not in common:
            # Its own count is of rounds after which it gives its final answer.
            common = common | {"max_turns": None, "termination_condition": OneAnswer()}
        team = MeshMagenticOne(
            members, self._model(f"{path}:orchestrator", chooser, Telling.AS_THOUGHT), **common
        )
        team.seat = self._seat
        return team

    def _component(
        self, spec: TeamSpec, path: str, members: list[Any], common: dict[str, Any]
    ) -> BaseGroupChat:
        chooser = AgentSpec(id="team", llm_config=spec.orchestrator)
        where = f"{path}:team"
        setup = TeamSetup(
            id=spec.id,
            description=spec.description or spec.name or spec.id,
            config=self.host.config(ComponentKind.TEAM, spec.component, spec.component_config),
            members=tuple(members),
            max_turns=common["max_turns"],
            termination_condition=common.get("termination_condition"),
            model=self._model(where, chooser, Telling.NOT_AT_ALL),
            once=RecordedOnce(where, self._seat),
            turn=CurrentTurnOf(self._seat),
            choosing=self.host.choosing(spec.component, members),
        )
        return self.host.team(spec.component, setup)

    def _member(
        self, member: AgentSpec | TeamSpec | str, team: TeamSpec, path: str
    ) -> ChatAgent | Team:
        if isinstance(member, AgentSpec):
            handoffs = member.handoffs if team.kind is TeamKind.SWARM else ()
            return self._agent(member, handoffs, path)
        if isinstance(member, TeamSpec):
            # The policies of the team around it bind it too.
            bound = member.model_copy(update={"approvals": team.approvals + member.approvals})
            if member.own_run:
                return DelegatedTeam(bound, f"{path}{member.id}", self._seat)
            return self._group(bound, f"{path}{member.id}/", inner=True)
        raise InvalidDefinition(f"{path}{member} is not resolved")

    def _model(self, path: str, spec: AgentSpec, telling: Telling) -> RecordedModel:
        source, bound = self._resolve(spec)
        return RecordedModel(path, spec, source, self._seat, telling, bound)

    def _agent(self, spec: AgentSpec, handoffs: Sequence[str], path: str) -> ChatAgent:
        usable = [self._schemas[name] for name in spec.usable_tools() if name in self._schemas]
        where = f"{path}{spec.id}"
        model = self._model(where, spec, Telling.ALOUD)
        tools = CallableTools if spec.component else RecordedTools
        setup = AgentSetup(
            id=spec.id,
            name=spec.name or spec.id,
            role=spec.role,
            system_message=spec.system_message,
            description=spec.role or spec.name or spec.id,
            config=None,
            model=model,
            private_model=model,
            tools=tools(where, spec, usable, self._seat),
            handoffs=tuple(handoffs),
            model_context=build_context(spec, usable, model, self._seat),
            max_tool_iterations=spec.max_tool_iterations or DEFAULT_TOOL_ITERATIONS,
            once=RecordedOnce(where, self._seat),
            turn=CurrentTurnOf(self._seat),
        )
        if spec.component:
            return self._hosted(spec, where, setup)
        if (usable or handoffs) and not model.model_info["function_calling"]:
            raise InvalidDefinition(
                f"{where} has tools or handoffs, and its model cannot call tools; give it another"
            )
        agent = MeshAgent(**assistant_arguments(setup))
        agent.seat = self._seat
        return agent

    def _hosted(self, spec: AgentSpec, where: str, setup: AgentSetup) -> ChatAgent:
        config = self.host.config(ComponentKind.AGENT, spec.component, spec.component_config)
        private = self._model(where, spec, Telling.AS_THOUGHT)
        return self.host.agent(
            where, spec.component, replace(setup, config=config, private_model=private)
        )
