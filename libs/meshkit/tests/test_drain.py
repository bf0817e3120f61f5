"""What a stopping service does to the calls it has."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn
from grpc_health.v1 import health_pb2, health_pb2_grpc
from meshkit.errors import MeshError
from meshkit.identity import Principal, principal_scope
from meshkit.testkit import raises_rich

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
WATCH = turn.WatchFencesRequest(worker_id="w1")


async def test_drain_finishes_unary_calls_and_ends_streams_that_watch(
    mesh: Any, operator: Principal
) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    order: list[str] = []

    async def get(request: Any, context: Any) -> Any:
        entered.set()
        await release.wait()
        return catalog.GetDocumentResponse()

    async def watch(request: Any, context: Any) -> Any:
        yield turn.WatchFencesResponse()
        await host.draining.wait()
        raise MeshError.draining()

    host = await mesh.serve(GetDocument=get, WatchFences=watch, settings={"drain_seconds": 30})

    async def note(what: str) -> None:
        order.append(what)

    host.on_drain.append(lambda: note("drain"))
    host.on_stop.append(lambda: note("first added"))
    host.on_stop.append(lambda: note("last added"))
    stream = mesh.turns(host).WatchFences(WATCH)
    await anext(stream)
    with principal_scope(operator):
        unary = asyncio.ensure_future(_await(mesh.catalog(host).GetDocument(GET)))
    await entered.wait()

    stopping = asyncio.ensure_future(host.stop())
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING") as expected:
        await anext(stream)
    assert expected.error.retry_after is not None
    assert expected.error.retry_after > 0
    assert not unary.done()
    release.set()
    assert await unary == catalog.GetDocumentResponse()
    await stopping
    assert order == ["drain", "last added", "first added"]


async def test_calls_that_outstay_the_drain_are_told(mesh: Any, operator: Principal) -> None:
    ended = []

    async def watch(request: Any, context: Any) -> Any:
        try:
            yield turn.WatchFencesResponse()
            await asyncio.sleep(60)
        finally:
            ended.append("stream")

    async def get(request: Any, context: Any) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("unary")

    host = await mesh.serve(GetDocument=get, WatchFences=watch, settings={"drain_seconds": 0.3})
    stream = mesh.turns(host).WatchFences(WATCH)
    await anext(stream)
    with principal_scope(operator):
        # GetDocument may be retried, and after the drain there is nobody to retry it at.
        unary = asyncio.ensure_future(_await(mesh.catalog(host).GetDocument(GET)))
    while len(host._calls) < 2:
        await asyncio.sleep(0.01)
    stopping = asyncio.ensure_future(host.stop())
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING"):
        await anext(stream)
    with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
        await unary
    await stopping
    assert sorted(ended) == ["stream", "unary"]


async def test_a_health_watch_hears_of_the_drain_and_does_not_hold_it_up(mesh: Any) -> None:
    host = await mesh.serve(settings={"drain_seconds": 3600})
    async with grpc.aio.insecure_channel(host.grpc_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = aiter(stub.Watch(health_pb2.HealthCheckRequest()))
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.ensure_future(host.stop())
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING"):
            await anext(watch)
        async with asyncio.timeout(30):
            await stopping


async def _await(call: Any) -> Any:
    return await call
