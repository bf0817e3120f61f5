"""Streams that break off on their way are no defects of the server."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc, turn_service_pb2_grpc
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns
from meshkit.errors import MeshError, from_rpc_error
from meshkit.identity import Principal, principal_scope
from meshkit.testkit import resetting_server

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, STREAM_CLOSED, REFUSED_STREAM, CANCEL = 0, 1, 2, 5, 7, 8
GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")


@pytest.mark.parametrize(
    "code", [NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, STREAM_CLOSED, REFUSED_STREAM, CANCEL]
)
async def test_a_reset_is_unavailable(mesh: Any, code: int) -> None:
    async with resetting_server(code) as address:
        channel = mesh.channels().channel(address, "conversation_store")
        watching = turn_service_pb2_grpc.TurnServiceStub(channel)
        calls = [
            catalog_service_pb2_grpc.CatalogServiceStub(channel).GetDocument(GET),
            watching.WatchFences(turns.WatchFencesRequest(worker_id="w")).read(),
            anext(aiter(watching.WatchFences(turns.WatchFencesRequest(worker_id="w")))),
        ]
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            error = from_rpc_error(caught.value)
            assert error.reason_name == "SERVICE_UNAVAILABLE"
            assert error.metadata["service"] == "conversation_store"
            assert error.retry_after is not None


@pytest.mark.parametrize("rich", [True, False])
async def test_what_a_server_says_stays(mesh: Any, operator: Principal, rich: bool) -> None:
    """Also if the words look like that."""

    async def fails(_: Any, context: Any) -> None:
        if rich:
            raise MeshError.internal("RST_STREAM")
        await context.abort(grpc.StatusCode.INTERNAL, "a stranger's defect")

    host = await mesh.serve(GetDocument=fails)
    with principal_scope(operator), pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.catalog(host).GetDocument(GET)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_a_caller_that_leaves_while_it_is_written_to_is_no_defect(
    mesh: Any, caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[BaseException] = []
    over = asyncio.Event()

    async def watch(request: Any, context: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        await context.write(turns.WatchFencesResponse())
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            # As if the write were under way before the server hears that the caller has left.
            task.uncancel()
        try:
            await context.write(turns.WatchFencesResponse())
        except BaseException as error:
            failed.append(error)
            raise
        finally:
            over.set()

    host = await mesh.serve(WatchFences=watch)
    call = mesh.turns(host).WatchFences(turns.WatchFencesRequest(worker_id="w"))
    await call.read()
    call.cancel()
    await over.wait()
    await host.stop()
    assert isinstance(failed[0], grpc.aio.InternalError)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
