"""Unary calls that the awaiting task makes itself: what they keep of grpc.aio's behaviour."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from meshkit import direct_calls
from meshkit.direct_calls import DirectCalls
from meshkit.identity import Principal, principal_scope
from meshkit.telemetry import STATUS_ATTRIBUTE

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
ANSWER = catalog.GetDocumentResponse(document=catalog.Document(name="developer"))


async def answer(request: Any, context: Any) -> Any:
    context.set_trailing_metadata((("x-said", "so"),))
    return ANSWER


@pytest.fixture
def natively(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grpc that has nothing below its public interface."""
    monkeypatch.setattr(DirectCalls, "of", classmethod(lambda *_: None))


async def test_this_grpc_has_what_direct_calls_need(mesh: Any) -> None:
    assert DirectCalls.of(grpc.aio.insecure_channel("127.0.0.1:1")) is not None


async def test_a_grpc_that_lacks_it_is_called_the_public_way() -> None:
    class Other:
        class _channel:  # noqa: N801  grpc's name
            @staticmethod
            def call(method: bytes) -> None:
                """Takes other arguments."""

    others: list[Any] = [Other(), object()]
    assert [DirectCalls.of(other) for other in others] == [None, None]


@pytest.mark.usefixtures("natively")
async def test_the_public_way_answers_too(mesh: Any, operator: Principal) -> None:
    host = await mesh.serve(GetDocument=answer)
    with principal_scope(operator):
        assert await mesh.catalog(host).GetDocument(GET) == ANSWER


async def test_no_task_is_made_for_a_call(
    mesh: Any, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await mesh.serve(GetDocument=answer)
    stub = mesh.catalog(host)
    used: list[Any] = []
    run = direct_calls.DirectCall.run

    async def noted(self: Any, *arguments: Any) -> Any:
        used.append(asyncio.current_task())
        return await run(self, *arguments)

    monkeypatch.setattr(direct_calls.DirectCall, "run", noted)
    with principal_scope(operator):
        await stub.GetDocument(GET)
    assert used == [asyncio.current_task()]


async def test_a_call_is_asked_for_more_than_its_answer(mesh: Any, operator: Principal) -> None:
    host = await mesh.serve(GetDocument=answer)
    stub = mesh.catalog(host)
    with principal_scope(operator):
        awaited = stub.GetDocument(GET)
        assert await awaited == ANSWER
        assert await awaited == ANSWER
        native = stub.GetDocument(GET)
        assert await native.code() is grpc.StatusCode.OK
    for call in (awaited, native):
        assert (await call.trailing_metadata())["x-said"] == "so"
        assert await call.code() is grpc.StatusCode.OK
        assert await call.details() == ""
        assert call.done()
        assert not call.cancelled()
        assert not call.cancel()


async def test_a_call_begins_before_it_is_awaited(mesh: Any, operator: Principal) -> None:
    came = asyncio.Event()

    async def get(request: Any, context: Any) -> Any:
        came.set()
        return ANSWER

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator):
        call = mesh.catalog(host).GetDocument(GET)
        async with asyncio.timeout(10):
            await came.wait()
        assert await call == ANSWER


async def test_closing_the_channels_ends_a_call(mesh: Any, operator: Principal) -> None:
    came, left = asyncio.Event(), asyncio.Event()

    async def get(request: Any, context: Any) -> Any:
        came.set()
        try:
            await asyncio.sleep(60)
        finally:
            left.set()

    host = await mesh.serve(GetDocument=get)
    channel = mesh.channels().channel(host.grpc_address, "conversation_store")
    method = channel.unary_unary(
        "/agentmesh.conversation_store.v1.CatalogService/GetDocument",
        catalog.GetDocumentRequest.SerializeToString,
        catalog.GetDocumentResponse.FromString,
    )

    async def call() -> Any:
        with principal_scope(operator):
            return await method(GET)

    calling = asyncio.create_task(call())
    async with asyncio.timeout(10):
        await came.wait()
        await channel.close()
        await asyncio.wait({calling}, timeout=5)
        assert calling.done()
        assert calling.cancelled()
        await left.wait()


async def test_closing_with_grace_waits_for_a_call(mesh: Any, operator: Principal) -> None:
    came, go = asyncio.Event(), asyncio.Event()

    async def get(request: Any, context: Any) -> Any:
        came.set()
        await go.wait()
        return ANSWER

    host = await mesh.serve(GetDocument=get)
    channel = mesh.channels().channel(host.grpc_address, "conversation_store")
    method = channel.unary_unary(
        "/agentmesh.conversation_store.v1.CatalogService/GetDocument",
        catalog.GetDocumentRequest.SerializeToString,
        catalog.GetDocumentResponse.FromString,
    )

    async def call() -> Any:
        with principal_scope(operator):
            return await method(GET)

    calling = asyncio.create_task(call())
    async with asyncio.timeout(20):
        await came.wait()
        closing = asyncio.create_task(channel.close(60))
        await asyncio.sleep(0)
        go.set()
        assert await calling == ANSWER
        await closing


async def test_a_second_await_tells_the_same_error(mesh: Any, operator: Principal) -> None:
    async def get(request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator):
        call = mesh.catalog(host).GetDocument(GET)
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            assert caught.value.details() == "gone"


async def test_a_cancelled_caller_ends_the_call_and_its_span(
    mesh: Any, operator: Principal, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[direct_calls.DirectCall] = []
    begin = direct_calls.DirectMethod.begin

    def noted(self: Any, timeout: float | None) -> direct_calls.DirectCall:
        made.append(begin(self, timeout))  # held, for nobody else would end it then
        return made[-1]

    monkeypatch.setattr(direct_calls.DirectMethod, "begin", noted)
    came, left = asyncio.Event(), asyncio.Event()

    async def get(request: Any, context: Any) -> Any:
        came.set()
        try:
            await asyncio.sleep(60)
        finally:
            left.set()

    host = await mesh.serve(GetDocument=get)
    caller = await mesh.hosts.start("caller")
    channel = caller.channels.channel(host.grpc_address, "conversation_store")
    method = channel.unary_unary(
        "/agentmesh.conversation_store.v1.CatalogService/GetDocument",
        catalog.GetDocumentRequest.SerializeToString,
        catalog.GetDocumentResponse.FromString,
    )

    async def call() -> Any:
        with principal_scope(operator):
            return await method(GET)

    calling = asyncio.create_task(call())
    async with asyncio.timeout(10):
        await came.wait()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert [call.cancelled() for call in made] == [True]
        await left.wait()
    (trace_id,) = caller.trace_ring._traces
    (span,) = caller.trace_ring.spans(f"{trace_id:032x}")
    assert span.status.status_code.name == "ERROR"
    assert span.attributes is not None
    assert span.attributes[STATUS_ATTRIBUTE] == grpc.StatusCode.CANCELLED.value[0]


async def test_a_request_that_cannot_be_written_harms_nothing(
    mesh: Any, operator: Principal
) -> None:
    host = await mesh.serve(GetDocument=answer)
    stub = mesh.catalog(host)
    with principal_scope(operator):
        with pytest.raises(TypeError):
            await stub.GetDocument("no message")
        assert await stub.GetDocument(GET) == ANSWER
