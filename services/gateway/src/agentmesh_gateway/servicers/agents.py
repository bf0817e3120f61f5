"""AgentService: list agents, register them, and the models they can use."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as pb2
from meshkit.errors import FieldViolation, MeshError

from agentmesh_gateway.catalog import Catalog, pinned_agent
from agentmesh_gateway.health import Probe, examine
from agentmesh_gateway.pinning import tools_of
from agentmesh_gateway.servicers.context import Context, set_http_status
from agentmesh_gateway.upstream import RUNTIME, STORE, TOOL_RUNNER, Upstream

_CHECKED = "agents[0]"
_AGENT = catalog_pb2.DOCUMENT_KIND_AGENT


class AgentServicer:
    """Changing, cloning and deleting agents are not served yet."""

    def __init__(self, upstream: Upstream, catalog: Catalog, probes: dict[str, Probe]) -> None:
        self._store = upstream.catalog
        self._runtime = upstream.runtime
        self._catalog = catalog
        self._probes = probes

    async def list_agents(
        self, request: pb2.ListAgentsRequest, context: Context
    ) -> pb2.ListAgentsResponse:
        """A page of the agents that the tenant can use."""
        page = await self._store.ListDocuments(
            catalog_pb2.ListDocumentsRequest(
                kind=_AGENT, page_size=request.page_size, page_token=request.page_token
            )
        )
        return pb2.ListAgentsResponse(
            agents=await self._shown(page.documents), next_page_token=page.next_page_token
        )

    async def get_agent(
        self, request: pb2.GetAgentRequest, context: Context
    ) -> pb2.GetAgentResponse:
        """One agent."""
        found = await self._store.GetDocument(
            catalog_pb2.GetDocumentRequest(
                kind=_AGENT, name=request.agent_id, version=request.version
            )
        )
        (agent,) = await self._shown([found.document])
        return pb2.GetAgentResponse(agent=agent)

    async def register_agent(
        self, request: pb2.RegisterAgentRequest, context: Context
    ) -> pb2.RegisterAgentResponse:
        """Checks a definition with the runtime and writes it to the tenant's catalog."""
        definition = definition_of(request.name, request.config)
        await self._check(definition)
        written = await self._store.PutDocument(
            catalog_pb2.PutDocumentRequest(
                request_id=request.request_id,
                document=catalog_pb2.Document(kind=_AGENT, name=request.name, agent=definition),
                must_be_new=True,
            )
        )
        (agent,) = await self._shown([written.document])
        return pb2.RegisterAgentResponse(agent=agent, unresolved_tools=agent.unresolved_tools)

    async def check_agents_health(
        self, request: pb2.CheckAgentsHealthRequest, context: Context
    ) -> pb2.CheckAgentsHealthResponse:
        """Agents run where store and runtime serve; without the tool runner they lack tools."""
        report = await examine(self._probes, vital=[STORE, RUNTIME], helpful=[TOOL_RUNNER])
        if report.status == "unhealthy":
            set_http_status(context, 503)
        return pb2.CheckAgentsHealthResponse(status=report.status, services=report.services)

    async def list_models(
        self, request: pb2.ListModelsRequest, context: Context
    ) -> pb2.ListModelsResponse:
        """The models of the runtime."""
        found = await self._runtime.ListModels(runtime_pb2.ListModelsRequest())
        return pb2.ListModelsResponse(models=found.models, default_model=found.default_model)

    async def _check(self, definition: AgentDefinition) -> None:
        answer = await self._runtime.CheckDefinitions(
            runtime_pb2.CheckDefinitionsRequest(agents=[definition])
        )
        if answer.findings:
            raise MeshError.invalid_fields(
                [
                    FieldViolation(_request_path(finding.path), finding.description)
                    for finding in answer.findings
                ]
            )

    async def _shown(self, documents: Sequence[catalog_pb2.Document]) -> list[pb2.Agent]:
        agents = [pinned_agent(document) for document in documents]
        wanted = {tool for agent in agents for tool in tools_of(agent)}
        missing = set(await self._catalog.missing_tools(wanted))
        return [
            _agent(document, agent, missing)
            for document, agent in zip(documents, agents, strict=True)
        ]


def definition_of(agent_id: str, config: pb2.AgentConfig) -> AgentDefinition:
    """The definition that a user's configuration makes of an agent."""
    definition = AgentDefinition(
        id=agent_id,
        name=config.name or agent_id,
        role=config.role,
        system_message=config.system_message,
        tools=config.tools,
        human_input_mode=config.human_input_mode,
        handoffs=config.handoffs,
        component=config.component,
    )
    for name, tool_config in config.tool_config.items():
        definition.tool_config[name].CopyFrom(tool_config)
    if config.HasField("llm_config"):
        definition.llm_config.CopyFrom(config.llm_config)
    if config.HasField("context"):
        definition.context.CopyFrom(config.context)
    if config.HasField("component_config"):
        definition.component_config.CopyFrom(config.component_config)
    if config.HasField("max_tool_iterations"):
        definition.max_tool_iterations = config.max_tool_iterations
    return definition


def _request_path(path: str) -> str:
    """Where the request has what the runtime found at `path` of the checked document."""
    within = path.removeprefix(_CHECKED).removeprefix(".")
    return "name" if within == "id" else f"config.{within}" if within else "config"


def _agent(
    document: catalog_pb2.Document, definition: AgentDefinition, missing: set[str]
) -> pb2.Agent:
    agent = pb2.Agent(
        id=definition.id,
        name=definition.name or definition.id,
        role=definition.role,
        system_message=definition.system_message,
        tools=definition.tools,
        human_input_mode=definition.human_input_mode,
        version=document.version,
        built_in=document.system,
        unresolved_tools=[name for name in tools_of(definition) if name in missing],
        created_at=document.created_at,
        etag=document.etag,
    )
    if definition.HasField("llm_config"):
        agent.llm_config.CopyFrom(definition.llm_config)
    return agent
