"""Publishing of the shipped definitions: it waits for a store, not for a change of its mind."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc as catalog_grpc
from agentmesh_agent_runtime.definitions.shipped import load_definitions
from agentmesh_agent_runtime.publishing import publish


class Catalog(catalog_grpc.CatalogServiceServicer):
    """Fails with the codes given, then takes what comes."""

    def __init__(self, *codes: grpc.StatusCode) -> None:
        self.codes = list(codes)
        self.calls = 0

    async def PublishDocuments(self, request: Any, context: Any) -> Any:  # noqa: N802  the contract's name
        self.calls += 1
        if self.codes:
            await context.abort(self.codes.pop(0), "no")
        return catalog_pb2.PublishDocumentsResponse()


async def _publish_to(catalog: Catalog) -> None:
    server = grpc.aio.server()
    catalog_grpc.add_CatalogServiceServicer_to_server(catalog, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = catalog_grpc.CatalogServiceStub(channel)
            async with asyncio.timeout(20):
                await publish(stub, load_definitions(None))
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    ],
)
async def test_a_refusal_is_final(code: grpc.StatusCode) -> None:
    catalog = Catalog(code)  # type: ignore[abstract]  # the rest is not called
    await _publish_to(catalog)
    assert catalog.calls == 1


async def test_a_store_that_is_coming_up_is_waited_for() -> None:
    codes = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED
    catalog = Catalog(*codes)  # type: ignore[abstract]  # the rest is not called
    await _publish_to(catalog)
    assert catalog.calls == 3
