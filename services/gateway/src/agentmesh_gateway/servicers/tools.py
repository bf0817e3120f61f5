"""ToolService: the tools of the catalog, and code without a conversation."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.gateway.v1 import tool_service_pb2 as pb2
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as runner_pb2

from agentmesh_gateway.definitions.catalog import Catalog
from agentmesh_gateway.idempotency.once import OncePerRequest
from agentmesh_gateway.relay import forward
from agentmesh_gateway.servicers.context import Context
from agentmesh_gateway.upstream import Upstream


class ToolServicer:
    """All of the contract is served."""

    def __init__(self, upstream: Upstream, catalog: Catalog, once: OncePerRequest) -> None:
        self._runner = upstream.tools
        self._execute = upstream.execute_bytes
        self._catalog = catalog
        self._once = once

    async def list_tools(
        self, request: pb2.ListToolsRequest, context: Context
    ) -> pb2.ListToolsResponse:
        """The tools of the catalog, whether or not their provider is up."""
        documents = await self._catalog.documents(catalog_pb2.DOCUMENT_KIND_TOOL)
        response = pb2.ListToolsResponse()
        for name in sorted(documents):
            tool = response.tools.add()
            tool.CopyFrom(documents[name].tool)
            tool.name, tool.version = name, documents[name].version
        return response

    def execute_code(
        self, request: pb2.ExecuteCodeRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """Runs code; the runner ends it when this stream is left."""
        wanted = runner_pb2.ExecuteRequest(
            language=request.language,
            code=request.code,
            stdin=request.stdin,
            args=request.args,
            files=request.files,
            environment=request.environment,
            # What is not set stays so.
            limits=request.limits if request.HasField("limits") else None,
            packages=request.packages if request.HasField("packages") else None,
            network=request.network if request.HasField("network") else None,
        )

        def execute() -> AsyncGenerator[bytes, None]:
            return forward(self._execute(wanted, timeout=context.time_remaining()))

        return self._once.recorded(request, execute)

    async def get_sandbox_capabilities(
        self, request: pb2.GetSandboxCapabilitiesRequest, context: Context
    ) -> pb2.GetSandboxCapabilitiesResponse:
        """What the runner's self-test proved."""
        found = await self._runner.GetCapabilities(runner_pb2.GetCapabilitiesRequest())
        return pb2.GetSandboxCapabilitiesResponse(capabilities=found)
