"""AgentService: register agents, read them, change them, and the models they can use."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.gateway.v1 import agent_service_pb2 as pb2

from agentmesh_gateway.definitions.agent_writing import AGENT, AgentWriter
from agentmesh_gateway.definitions.agents import shown
from agentmesh_gateway.definitions.catalog import Catalog, pinned_agent
from agentmesh_gateway.definitions.pinning import tools_of
from agentmesh_gateway.health import Probe, examine
from agentmesh_gateway.idempotency.recalling import Recalls
from agentmesh_gateway.servicers.context import Context, set_http_status
from agentmesh_gateway.upstream import RUNTIME, STORE, TOOL_RUNNER, Upstream


class AgentServicer:
    """All of the contract is served."""

    def __init__(
        self, upstream: Upstream, catalog: Catalog, recalls: Recalls, probes: dict[str, Probe]
    ) -> None:
        self._store = upstream.catalog
        self._runtime = upstream.runtime
        self._writer = AgentWriter(upstream, recalls)
        self._catalog = catalog
        self._probes = probes

    async def list_agents(
        self, request: pb2.ListAgentsRequest, context: Context
    ) -> pb2.ListAgentsResponse:
        """A page of the agents that the tenant can use."""
        page = await self._store.ListDocuments(
            catalog_pb2.ListDocumentsRequest(
                kind=AGENT,
                page_size=request.page_size,
                page_token=request.page_token,
                system=request.built_in if request.HasField("built_in") else None,
            )
        )
        return pb2.ListAgentsResponse(
            agents=await self._shown(page.documents), next_page_token=page.next_page_token
        )

    async def get_agent(
        self, request: pb2.GetAgentRequest, context: Context
    ) -> pb2.GetAgentResponse:
        """One agent, as it is or as it was."""
        found = await self._store.GetDocument(
            catalog_pb2.GetDocumentRequest(
                kind=AGENT, name=request.agent_id, version=request.version
            )
        )
        return pb2.GetAgentResponse(agent=await self._agent(found.document))

    async def list_agent_versions(
        self, request: pb2.ListAgentVersionsRequest, context: Context
    ) -> pb2.ListAgentVersionsResponse:
        """A page of an agent's versions."""
        page = await self._store.ListDocumentVersions(
            catalog_pb2.ListDocumentVersionsRequest(
                kind=AGENT,
                name=request.agent_id,
                page_size=request.page_size,
                page_token=request.page_token,
            )
        )
        return pb2.ListAgentVersionsResponse(
            agents=await self._shown(page.documents), next_page_token=page.next_page_token
        )

    async def register_agent(
        self, request: pb2.RegisterAgentRequest, context: Context
    ) -> pb2.RegisterAgentResponse:
        """Checks a definition with the runtime and writes it to the tenant's catalog."""
        agent = await self._agent(await self._writer.register(request))
        return pb2.RegisterAgentResponse(agent=agent, unresolved_tools=agent.unresolved_tools)

    async def update_agent(
        self, request: pb2.UpdateAgentRequest, context: Context
    ) -> pb2.UpdateAgentResponse:
        """Writes a new version with some fields changed."""
        return pb2.UpdateAgentResponse(agent=await self._agent(await self._writer.update(request)))

    async def clone_agent(
        self, request: pb2.CloneAgentRequest, context: Context
    ) -> pb2.CloneAgentResponse:
        """Writes a copy under another id."""
        return pb2.CloneAgentResponse(agent=await self._agent(await self._writer.clone(request)))

    async def delete_agent(
        self, request: pb2.DeleteAgentRequest, context: Context
    ) -> pb2.DeleteAgentResponse:
        """Hides one of the tenant's own agents."""
        await self._store.DeleteDocument(
            catalog_pb2.DeleteDocumentRequest(
                kind=AGENT,
                name=request.agent_id,
                request_id=request.request_id,
                etag=request.etag,
            )
        )
        return pb2.DeleteAgentResponse()

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

    async def _agent(self, document: catalog_pb2.Document) -> pb2.Agent:
        (agent,) = await self._shown([document])
        return agent

    async def _shown(self, documents: Sequence[catalog_pb2.Document]) -> list[pb2.Agent]:
        agents = [pinned_agent(document) for document in documents]
        wanted = {tool for agent in agents for tool in tools_of(agent)}
        missing = set(await self._catalog.missing_tools(wanted))
        return [
            shown(document, agent, missing)
            for document, agent in zip(documents, agents, strict=True)
        ]
