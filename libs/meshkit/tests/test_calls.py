"""The four call shapes through a real server and a real channel."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import errors_pb2
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as tool
from meshkit.errors import MeshError, from_rpc_error
from meshkit.identity import Principal, current_principal, principal_scope
from meshkit.testkit import raises_rich

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
READ = tool.ReadFileRequest(conversation_id="conv_1", path="a.txt")


async def test_unary_answers_under_the_callers_identity(mesh: Any, operator: Principal) -> None:
    async def get(request: Any, context: Any) -> Any:
        who = current_principal()
        name = f"{who.subject}/{who.tenant}/{who.role}/{who.service}"
        return catalog.GetDocumentResponse(document=catalog.Document(name=name))

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator):
        answer = await mesh.catalog(host).GetDocument(GET)
    assert answer.document.name == "key_1/acme/2/test"


async def test_server_stream_from_generator_and_from_writes(mesh: Any, operator: Principal) -> None:
    async def read(request: Any, context: Any) -> Any:
        for number in range(3):
            yield tool.ReadFileResponse(chunk=bytes([number]))

    async def execute(request: Any, context: Any) -> None:
        await context.write(tool.ExecuteResponse(item=tool.ExecutionItem(chunk=7)))

    host = await mesh.serve(ReadFile=read, Execute=execute)
    stub = mesh.tools(host)
    with principal_scope(operator):
        assert [m.chunk async for m in stub.ReadFile(READ)] == [b"\0", b"\1", b"\2"]
        request = tool.ExecuteRequest(language=tool.EXECUTION_LANGUAGE_PYTHON)
        assert [m.item.chunk async for m in stub.Execute(request)] == [7]
        call = stub.ReadFile(READ)
        assert (await call.read()).chunk == b"\0"
        call.cancel()


async def test_client_stream(mesh: Any, operator: Principal) -> None:
    async def write(requests: Any, context: Any) -> Any:
        size = sum([len(request.chunk) async for request in requests])
        return tool.WriteFileResponse(file=tool.FileInfo(size_bytes=size))

    host = await mesh.serve(WriteFile=write)
    with principal_scope(operator):
        chunks = [tool.WriteFileRequest(chunk=b"abc")] * 3
        assert (await mesh.tools(host).WriteFile(iter(chunks))).file.size_bytes == 9
        call = mesh.tools(host).WriteFile()
        await call.write(chunks[0])
        await call.done_writing()
        assert (await call).file.size_bytes == 3


async def test_both_stream_and_every_message_is_validated(mesh: Any) -> None:
    async def lease(requests: Any, context: Any) -> Any:
        async for request in requests:
            yield turn.LeaseTurnsResponse(revoked=turn.LeaseRevoked(run_id=request.hello.worker_id))

    host = await mesh.serve(LeaseTurns=lease)
    call = mesh.turns(host).LeaseTurns()
    await call.write(turn.LeaseTurnsRequest(hello=turn.LeaseHello(worker_id="w1")))
    assert (await call.read()).revoked.run_id == "w1"
    await call.write(turn.LeaseTurnsRequest(hello=turn.LeaseHello(worker_id="")))
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="hello.worker_id"):
        await call.read()


async def test_messages_read_by_hand_are_validated_too(mesh: Any) -> None:
    async def lease(requests: Any, context: Any) -> None:
        while (await context.read()) is not grpc.aio.EOF:
            await context.write(turn.LeaseTurnsResponse())

    host = await mesh.serve(LeaseTurns=lease)
    call = mesh.turns(host).LeaseTurns()
    await call.write(turn.LeaseTurnsRequest(hello=turn.LeaseHello(worker_id="")))
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="hello.worker_id"):
        await call.read()


async def test_invalid_request_never_reaches_the_servicer(mesh: Any, operator: Principal) -> None:
    reached = []

    async def put(request: Any, context: Any) -> Any:
        reached.append(request)

    host = await mesh.serve(PutDocument=put)
    with (
        principal_scope(operator),
        raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="document"),
    ):
        await mesh.catalog(host).PutDocument(catalog.PutDocumentRequest())
    assert reached == []


async def test_an_invalid_request_for_a_stream_never_reaches_the_servicer(
    mesh: Any, operator: Principal
) -> None:
    reached = []

    async def read(request: Any, context: Any) -> Any:
        reached.append(request)
        yield tool.ReadFileResponse()

    host = await mesh.serve(ReadFile=read)
    with (
        principal_scope(operator),
        raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD", field="path"),
    ):
        await mesh.tools(host).ReadFile(tool.ReadFileRequest(conversation_id="conv_1")).read()
    assert reached == []


@pytest.mark.parametrize("data", [b"garbage", b"\x0a\x02\xff\xfe"])
async def test_bytes_that_are_no_request_are_the_callers_fault(
    mesh: Any, operator: Principal, data: bytes
) -> None:
    """The second is a field of text that is no UTF-8. Neither reaches a servicer."""

    async def lease(requests: Any, context: Any) -> Any:
        async for _ in requests:
            yield turn.LeaseTurnsResponse()

    host = await mesh.serve(LeaseTurns=lease)
    channel = mesh.channels().channel(host.grpc_address, "conversation_store")
    runner, turns = (f"/{each.full_name}" for each in (_service(tool), _service(turn)))
    malformed = (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY")
    with principal_scope(operator), raises_rich(*malformed):
        await channel.unary_unary(f"{runner}/ListFiles")(data)
    with principal_scope(operator), raises_rich(*malformed):
        await channel.unary_stream(f"{runner}/Execute")(data).read()
    with raises_rich(*malformed):
        call = channel.stream_stream(f"{turns}/LeaseTurns")()
        await call.write(data)
        await call.read()


def _service(module: Any) -> Any:
    return next(iter(module.DESCRIPTOR.services_by_name.values()))


@pytest.mark.parametrize("shape", ["unary", "server_stream", "client_stream", "both"])
async def test_missing_methods_say_so(mesh: Any, operator: Principal, shape: str) -> None:
    host = await mesh.serve()
    with (
        principal_scope(operator),
        raises_rich(grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED") as expected,
    ):
        if shape == "unary":
            await mesh.catalog(host).GetDocument(GET)
        elif shape == "server_stream":
            await anext(mesh.tools(host).ReadFile(READ))
        elif shape == "client_stream":
            await mesh.tools(host).WriteFile()
        else:
            # Nothing is sent: grpc says INTERNAL of what is written after the answer has come.
            await mesh.turns(host).LeaseTurns().read()
    assert expected.error.metadata["method"].startswith("agentmesh.")


async def test_unknown_method_says_so(mesh: Any) -> None:
    host = await mesh.serve()
    channel = mesh.channels().channel(host.grpc_address, "conversation_store")
    with raises_rich(grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED") as expected:
        await channel.unary_unary("/agentmesh.nowhere.v1.NoService/NoMethod")(b"x")
    assert expected.error.metadata["method"] == "agentmesh.nowhere.v1.NoService/NoMethod"


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_cancellation_reaches_the_handler(mesh: Any, operator: Principal, kind: str) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    async def get(request: Any, context: Any) -> Any:
        await wait()

    async def read(request: Any, context: Any) -> Any:
        yield tool.ReadFileResponse()
        await wait()

    host = await mesh.serve(GetDocument=get, ReadFile=read)
    with principal_scope(operator):
        if kind == "unary":
            call = asyncio.ensure_future(_await(mesh.catalog(host).GetDocument(GET)))
            await entered.wait()
            call.cancel()
        else:
            stream = mesh.tools(host).ReadFile(READ)
            await anext(stream)
            await entered.wait()
            stream.cancel()
    async with asyncio.timeout(10):
        await cancelled.wait()


async def _await(call: Any) -> Any:
    return await call


async def test_deadline_ends_the_handler_and_is_told(mesh: Any, operator: Principal) -> None:
    ended = asyncio.Event()

    async def get(request: Any, context: Any) -> Any:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator), pytest.raises(grpc.aio.AioRpcError) as caught:
        await mesh.catalog(host).GetDocument(GET, timeout=0.2)
    error = from_rpc_error(caught.value)
    assert (error.code, error.reason_name) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_EXCEEDED",
    )
    async with asyncio.timeout(10):
        await ended.wait()


async def test_unary_calls_have_a_deadline_by_default(mesh: Any, operator: Principal) -> None:
    async def get(request: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        return catalog.GetDocumentResponse(document=catalog.Document(version=int(remaining)))

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator):
        answer = await mesh.catalog(host).GetDocument(GET)
    assert 0 < answer.document.version <= 30


async def test_a_defect_is_internal_with_a_reference_and_one_log_line(
    mesh: Any, operator: Principal, caplog: pytest.LogCaptureFixture
) -> None:
    async def get(request: Any, context: Any) -> Any:
        raise RuntimeError("secret detail")

    host = await mesh.serve(GetDocument=get)
    with (
        caplog.at_level(logging.DEBUG),
        principal_scope(operator),
        raises_rich(grpc.StatusCode.INTERNAL, "INTERNAL") as expected,
    ):
        await mesh.catalog(host).GetDocument(GET)
    assert "secret detail" not in expected.error.message
    lines = [r for r in caplog.records if r.name.startswith("meshkit") and r.levelno >= 40]
    assert len(lines) == 1
    assert expected.error.metadata["reference"] in lines[0].getMessage()
    assert lines[0].exc_info is not None


@pytest.mark.parametrize(
    ("reason", "level"),
    [
        (errors_pb2.ERROR_REASON_STORAGE_FULL, logging.ERROR),
        (errors_pb2.ERROR_REASON_BUDGET_EXHAUSTED, logging.INFO),
    ],
)
async def test_what_only_an_operator_can_mend_is_logged_as_such(
    mesh: Any,
    operator: Principal,
    caplog: pytest.LogCaptureFixture,
    reason: errors_pb2.ErrorReason.ValueType,
    level: int,
) -> None:
    async def get(request: Any, context: Any) -> Any:
        raise MeshError(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, "no more")

    host = await mesh.serve(GetDocument=get)
    with (
        caplog.at_level(logging.DEBUG),
        principal_scope(operator),
        pytest.raises(grpc.aio.AioRpcError),
    ):
        await mesh.catalog(host).GetDocument(GET)
    lines = [r for r in caplog.records if r.name == "meshkit.call_failures"]
    assert [(r.levelno, r.exc_info) for r in lines] == [(level, None)]


async def test_an_error_from_downstream_passes_unchanged(mesh: Any, operator: Principal) -> None:
    async def get_behind(request: Any, context: Any) -> Any:
        raise MeshError.stale_fence("run_1", 3, 4)

    behind = await mesh.serve(GetDocument=get_behind, name="behind")
    stub = mesh.catalog(behind)

    async def get(request: Any, context: Any) -> Any:
        return await stub.GetDocument(request)

    front = await mesh.serve(GetDocument=get, name="front")
    with (
        principal_scope(operator),
        raises_rich(grpc.StatusCode.ABORTED, "STALE_FENCE") as expected,
    ):
        await mesh.catalog(front).GetDocument(GET)
    assert expected.error.metadata == {"fence": "3", "current_fence": "4"}
    assert expected.error.resource == ("run", "run_1")


async def test_a_service_that_is_down_is_named_through_a_relay(
    mesh: Any, operator: Principal
) -> None:
    gone = await mesh.serve(name="gone")
    stub = mesh.tools(gone)
    await gone.stop()

    async def get(request: Any, context: Any) -> Any:
        await stub.WriteInput(tool.WriteInputRequest(execution_id="e"))

    front = await mesh.serve(GetDocument=get, name="front")
    with (
        principal_scope(operator),
        raises_rich(grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE") as expected,
    ):
        await mesh.catalog(front).GetDocument(GET)
    assert expected.error.metadata == {"service": "tool_runner"}


async def test_cancelled_inner_work_still_answers(mesh: Any, operator: Principal) -> None:
    async def get(request: Any, context: Any) -> Any:
        inner = asyncio.ensure_future(asyncio.sleep(60))
        inner.cancel()
        await inner

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator), raises_rich(grpc.StatusCode.INTERNAL, "INTERNAL"):
        await mesh.catalog(host).GetDocument(GET, timeout=10)
