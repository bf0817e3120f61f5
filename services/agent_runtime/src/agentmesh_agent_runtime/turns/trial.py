"""Makes the components of a definition once before it is registered, and runs nothing of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

from agentmesh_agent_runtime.components import ComponentError, Components, plain
from agentmesh_agent_runtime.definitions.check_components import components_of
from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.specs import (
    AgentSpec,
    LlmSettings,
    TeamKind,
    TeamSpec,
    TerminationSpec,
)
from agentmesh_agent_runtime.models.catalog import ModelCatalog
from agentmesh_agent_runtime.turns.failures import TurnFailure
from agentmesh_agent_runtime.turns.ports import ToolSchema
from agentmesh_agent_runtime.turns.teams import TeamBuilder


class Trial:
    """Of definitions in which nothing else is wrong."""

    def __init__(self, models: ModelCatalog, components: Components) -> None:
        self._models = models
        self._components = components

    async def of_all(
        self, agents: Iterable[AgentSpec], teams: Iterable[TeamSpec]
    ) -> AsyncIterator[Finding]:
        """Of definitions by their ids. What names a model that is not there cannot be made,
        and says so in its first conversation."""
        definitions: list[AgentSpec | TeamSpec] = [*agents, *teams]
        made = [each for each in definitions if any(components_of(each))]
        if made:
            await self._models.prepare()
        for definition in made:
            if isinstance(definition, TeamSpec):
                if self._has_models(definition.models()):
                    for finding in await self.of_team(definition, definition.id):
                        yield finding
            elif self._has_models([definition.llm_config]):
                for finding in self.of_agent(definition, definition.id):
                    yield finding

    def _has_models(self, settings: Iterable[LlmSettings]) -> bool:
        models = self._models
        return all(models.stands_in_for(each) or models.problem(each) is None for each in settings)

    def of_agent(self, agent: AgentSpec, path: str) -> Iterator[Finding]:
        """Whether its component makes an agent of it."""
        if not agent.component:
            return
        try:
            self._builder(agent).agent(agent)
        except Exception as error:
            yield Finding(f"{path}.component", _words(error))

    async def of_team(self, team: TeamSpec, path: str) -> list[Finding]:
        """Whether its components, and those of its members, make what they are named for."""
        if not any(components_of(team)):
            return []
        found = list(self._of_conditions(team.termination, f"{path}.termination"))
        for index, member in enumerate(team.participants):
            where = f"{path}.participants[{index}]"
            if isinstance(member, AgentSpec):
                found += self.of_agent(member, f"{where}.agent")
            elif isinstance(member, TeamSpec):
                found += await self.of_team(member, f"{where}.team")
        return found or [finding async for finding in self._whole(team, path)]

    async def _whole(self, team: TeamSpec, path: str) -> AsyncIterator[Finding]:
        where = f"{path}.component" if team.kind is TeamKind.COMPONENT else path
        whole = _with_stand_ins(team)
        try:
            live = self._builder(*whole.agents()).build(whole)
            live.thread(await live.group.save_state())
        except (ComponentError, TurnFailure) as error:
            yield Finding(where, str(error))
        except Exception as error:
            yield Finding(
                where,
                f"the state of the team cannot be saved ({plain(error)}); its manager keeps its "
                "messages as AutoGen's do, in message_thread",
            )

    def _of_conditions(self, termination: TerminationSpec, path: str) -> Iterator[Finding]:
        if termination.component:
            try:
                self._builder().host.condition(termination, ())
            except Exception as error:
                yield Finding(f"{path}.component", _words(error))
        for index, part in enumerate(termination.all_of):
            yield from self._of_conditions(part, f"{path}.all_of[{index}]")

    def _builder(self, *agents: AgentSpec) -> TeamBuilder:
        """Whether there are such tools is another question."""
        names = {tool for agent in agents for tool in agent.usable_tools()}
        schemas: Mapping[str, ToolSchema] = {name: ToolSchema(name, "", {}) for name in names}
        return TeamBuilder(
            lambda agent: (
                self._models.resolve(agent.llm_config),
                self._models.bound(agent.llm_config),
            ),
            schemas,
            self._components,
        )


def _words(error: Exception) -> str:
    """Ours, else no more than may be told of an error in a package."""
    return str(error) if isinstance(error, ComponentError | TurnFailure) else plain(error)


def _with_stand_ins(team: TeamSpec) -> TeamSpec:
    """With agents in the place of members that are named by their ids."""
    members = tuple(
        AgentSpec(id=member)
        if isinstance(member, str)
        else _with_stand_ins(member)
        if isinstance(member, TeamSpec)
        else member
        for member in team.participants
    )
    return team.model_copy(update={"participants": members})
