"""One table of handlers for all services of a server."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import trace_service_pb2, trace_service_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from meshkit.handlers import HandlerTable


class Traces(trace_service_pb2_grpc.TraceServiceServicer):
    """Answers with nothing."""

    async def ListSpans(self, request: Any, context: Any) -> Any:  # noqa: N802  the contract
        return trace_service_pb2.ListSpansResponse()


class Older(grpc.GenericRpcHandler):
    """Knows one method, and registers nothing."""

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method != "/older.Service/Call":
            return None

        async def call(request: bytes, context: Any) -> bytes:
            return request[::-1]

        return grpc.unary_unary_rpc_method_handler(call)


async def test_every_service_is_found_and_waited_for_once() -> None:
    server = grpc.aio.server()
    table: Any = HandlerTable()
    health = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, table)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), table)
    table.add_generic_rpc_handlers((Older(),))
    table.serve_from(server)
    port = server.add_insecure_port("127.0.0.1:0")
    before = len(asyncio.all_tasks())
    await server.start()
    await asyncio.sleep(0.05)
    # The server's loop and one wait for the next call; one more for each method if registered.
    assert len(asyncio.all_tasks()) - before == 2
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == 1
            traces: Any = trace_service_pb2_grpc.TraceServiceStub(channel)
            assert await traces.ListSpans(trace_service_pb2.ListSpansRequest()) is not None
            older: Any = channel.unary_unary("/older.Service/Call")
            assert await older(b"abc") == b"cba"
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/no.Service/Call")(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await server.stop(None)
