"""Publishing of the tools: it waits for a store that is away, not for a change of its mind."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc as catalog_grpc
from agentmesh_tool_runner.store_streams import publish_documents


async def _calls(*codes: grpc.StatusCode) -> int:
    """How often a store is asked that fails with these codes, then takes what comes."""
    left, calls = list(codes), 0

    class Catalog(catalog_grpc.CatalogServiceServicer):
        async def PublishDocuments(self, request: Any, context: Any) -> Any:  # noqa: N802  the contract's name
            nonlocal calls
            calls += 1
            if left:
                await context.abort(left.pop(0), "no")
            return catalog_pb2.PublishDocumentsResponse()

    server = grpc.aio.server()
    catalog = Catalog()  # type: ignore[abstract]  # serves what publishing calls
    catalog_grpc.add_CatalogServiceServicer_to_server(catalog, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = catalog_grpc.CatalogServiceStub(channel)
            async with asyncio.timeout(20):
                await publish_documents(stub, [])
    finally:
        await server.stop(None)
    return calls


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
    ],
)
async def test_a_store_that_cannot_now_is_asked_again(code: grpc.StatusCode) -> None:
    assert await _calls(code) == 2


async def test_a_refusal_is_final() -> None:
    assert await _calls(grpc.StatusCode.PERMISSION_DENIED) == 1
