"""AgentRuntimeService: translates, decides nothing."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any, TypeAlias

import grpc
from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2_grpc as runtime_grpc
from agentmesh.catalog.v1 import model_profile_pb2
from meshkit.context import current_principal
from pydantic import ValidationError
from typing_extensions import override

from agentmesh_agent_runtime.adapters.definitions import (
    agent_to_spec,
    component_to_proto,
    model_to_proto,
    profile_to_proto,
    team_to_spec,
)
from agentmesh_agent_runtime.components import Components
from agentmesh_agent_runtime.definitions.check import ToolTokens, check_agent, check_team
from agentmesh_agent_runtime.definitions.check_components import Wanted, components_of, steps
from agentmesh_agent_runtime.definitions.findings import Finding
from agentmesh_agent_runtime.definitions.specs import AgentSpec
from agentmesh_agent_runtime.models.catalog import ModelCatalog
from agentmesh_agent_runtime.models.scripted.source import MODEL as SCRIPTED
from agentmesh_agent_runtime.turns import prompt_size
from agentmesh_agent_runtime.turns.driver import FetchSchemas
from agentmesh_agent_runtime.turns.failures import TurnFailure
from agentmesh_agent_runtime.turns.trial import Trial
from agentmesh_agent_runtime.worker.turns import TurnWorker

log = logging.getLogger(__name__)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AgentRuntimeServicer(runtime_grpc.AgentRuntimeServiceServicer):
    """See the contract."""

    def __init__(
        self,
        models: ModelCatalog,
        components: Components,
        worker: TurnWorker,
        *,
        worker_id: str,
        reachable_models: tuple[str, ...],
        base_url: str,
        fetch_schemas: FetchSchemas,
    ) -> None:
        self._models = models
        self._components = components
        self._worker = worker
        self._worker_id = worker_id
        self._reachable_models = reachable_models
        self._base_url = base_url
        self._fetch_schemas = fetch_schemas

    @override
    async def CheckDefinitions(
        self,
        request: runtime_pb2.CheckDefinitionsRequest,
        context: Context,
    ) -> runtime_pb2.CheckDefinitionsResponse:
        await self._models.prepare()
        await self._components.prepare(_components_of(request))
        sizes = await self._tool_tokens(request)
        return runtime_pb2.CheckDefinitionsResponse(
            findings=[
                runtime_pb2.DefinitionFinding(path=finding.path, description=finding.description)
                async for finding in self._findings(request, sizes)
            ]
        )

    @override
    async def ListModels(
        self, request: runtime_pb2.ListModelsRequest, context: Context
    ) -> runtime_pb2.ListModelsResponse:
        return runtime_pb2.ListModelsResponse(
            models=sorted(self._reachable(), key=lambda model: model.name),
            default_model=self._models.default_model,
        )

    @override
    async def ListComponents(
        self,
        request: runtime_pb2.ListComponentsRequest,
        context: Context,
    ) -> runtime_pb2.ListComponentsResponse:
        await self._components.prepare(self._components.names())
        offered = self._components.offered()
        return runtime_pb2.ListComponentsResponse(components=map(component_to_proto, offered))

    @override
    async def ListActiveTurns(
        self,
        request: runtime_pb2.ListActiveTurnsRequest,
        context: Context,
    ) -> runtime_pb2.ListActiveTurnsResponse:
        response = runtime_pb2.ListActiveTurnsResponse(worker_id=self._worker_id)
        for turn in self._worker.active:
            active = response.turns.add(
                run_id=turn.id.run_id,
                conversation_id=turn.id.conversation_id,
                tenant=turn.id.tenant,
                turn=turn.id.turn,
                fence=turn.id.fence,
                activity=turn.activity,
            )
            active.started_at.FromDatetime(turn.started_at)
        return response

    @override
    async def Drain(
        self, request: runtime_pb2.DrainRequest, context: Context
    ) -> runtime_pb2.DrainResponse:
        self._worker.set_draining(not request.undo)
        return runtime_pb2.DrainResponse(active_turns=len(self._worker.active))

    def _reachable(self) -> Iterator[model_profile_pb2.ModelProfile]:
        """Profiles, and models without one; a profile of the same name hides those."""
        profiles = self._models.profiles
        yield from map(profile_to_proto, profiles)
        names = {*self._reachable_models, self._models.default_model, SCRIPTED}
        for name in names - {profile.id for profile in profiles}:
            yield model_to_proto(name, scripted=name == SCRIPTED, base_url=self._base_url)

    async def _tool_tokens(self, request: runtime_pb2.CheckDefinitionsRequest) -> ToolTokens:
        """Of the tools that count against a limit, as far as the caller's tenant has them."""
        names = {
            tool
            for agent in _agents(request)
            if agent.context.limit is not None
            for tool in agent.usable_tools()
        }
        if not names:
            return {}
        try:
            schemas = await self._fetch_schemas(current_principal().tenant, names)
        except TurnFailure as failure:
            log.warning("definitions are checked without their tools: %s", failure)
            return {}
        return {name: prompt_size.of_tool(schema) for name, schema in schemas.items()}

    async def _findings(
        self, request: runtime_pb2.CheckDefinitionsRequest, sizes: ToolTokens
    ) -> AsyncIterator[Finding]:
        """Components of definitions are made once if nothing else is wrong with them."""
        problem, components = self._models.problem, self._components
        trial = Trial(self._models, components)
        for index, agent in enumerate(request.agents):
            path = f"agents[{index}]"
            try:
                spec = agent_to_spec(agent)
            except ValidationError as error:
                found = list(_broken_rules(error, path))
            else:
                found = list(check_agent(spec, path, problem, sizes, components))
                found = found or list(trial.of_agent(spec, path))
            for finding in found:
                yield finding
        for index, team in enumerate(request.teams):
            path = f"teams[{index}]"
            known = [agent.id for agent in request.agents]
            try:
                whole = team_to_spec(team)
            except ValidationError as error:
                found = list(_broken_rules(error, path))
            else:
                found = list(check_team(whole, path, problem, known, components, sizes))
                found = found or await trial.of_team(whole, path)
            for finding in found:
                yield finding
        for index, _ in enumerate(request.workflows):
            yield Finding(
                f"workflows[{index}]",
                "workflows with stages of their own are not served by this version; write a team "
                "with stages",
            )


def _components_of(request: runtime_pb2.CheckDefinitionsRequest) -> Iterator[Wanted]:
    for agent in _agents(request):
        yield from components_of(agent)
    for team in request.teams:
        with suppress(ValidationError):
            yield from components_of(team_to_spec(team))


def _agents(request: runtime_pb2.CheckDefinitionsRequest) -> Iterator[AgentSpec]:
    """Those that keep the rules of their specs, members of teams among them."""
    for agent in request.agents:
        with suppress(ValidationError):
            yield agent_to_spec(agent)
    for team in request.teams:
        with suppress(ValidationError):
            yield from team_to_spec(team).agents()


def _broken_rules(error: ValidationError, path: str) -> Iterator[Finding]:
    for detail in error.errors():
        yield Finding(f"{path}{steps(detail['loc'])}", detail["msg"])
