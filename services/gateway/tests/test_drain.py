"""What becomes of those whom a gateway serves when it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc
from httpx_sse import aconnect_sse
from meshkit.testkit import HostFactory, MeshProcess, raises_rich

from .scripted_store import ScriptedStore, start_scripted_store
from .test_streams import PATH, forever

ENOUGH_SECONDS = 60
UPLOAD = (
    b"POST /conversations/conv_1/message HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 18\r\nExpect: 100-continue\r\n\r\n"
)


def gateway_process(folder: Path, store: str, **environment: str) -> MeshProcess:
    settings = {"APP_PORT": "0", "AGENTMESH_STORE_ADDRESS": store}
    return MeshProcess([sys.executable, "-m", "agentmesh_gateway"], folder, settings | environment)


async def test_a_gateway_that_is_told_to_stop(mesh_hosts: HostFactory, tmp_path: Path) -> None:
    store = await start_scripted_store(mesh_hosts, ScriptedStore(forever))
    process = gateway_process(tmp_path, store.grpc_address, AGENTMESH_DRAIN_SECONDS="30")
    async with process, contextlib.AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(process.grpc_address))
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=process.http_address, trust_env=False)
        )
        health: Any = health_pb2_grpc.HealthStub(channel)
        ready = health.Watch(health_pb2.HealthCheckRequest())
        assert (await ready.read()).status == health_pb2.HealthCheckResponse.SERVING
        conversations: Any = ConversationServiceStub(channel)
        stream = conversations.SubscribeConversation(
            pb2.SubscribeConversationRequest(conversation_id="conv_1")
        )
        await stream.read()
        frames = await stack.enter_async_context(aconnect_sse(http, "GET", PATH))
        received = frames.aiter_sse()
        await anext(received)
        url = urlsplit(process.http_address)
        idle_reader, idle = await asyncio.open_connection(url.hostname, url.port)
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        writer.write(UPLOAD)
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")  # the gateway waits for the body

        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(ENOUGH_SECONDS):
            assert (await ready.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING") as caught:
                await stream.read()
            assert caught.error.retry_after is not None  # when to resume, at another replica
            last = await anext(received)
            error = json.loads(last.data)["error"]
            assert (last.event, error["details"][0]["reason"]) == ("error", "DRAINING")
            assert error["details"][1]["retry_delay"]
            # Idle connections are closed, and nobody gets a new one.
            assert await idle_reader.read() == b""
            with contextlib.suppress(ConnectionError):
                while True:
                    _, late = await asyncio.open_connection(url.hostname, url.port)
                    late.close()
            # What was under way is answered, and then its connection ends too.
            writer.write(b'{"content":"more"}')
            answer = await reader.read()
            assert answer.split(b" ")[1] == b"501"  # the store of this test takes no messages
            assert b"connection: close" in answer.lower()
            assert await process.wait() == 0
        idle.close()
        writer.close()


async def test_a_stop_does_not_wait_for_those_who_never_finish(
    mesh_hosts: HostFactory, tmp_path: Path
) -> None:
    store = await start_scripted_store(mesh_hosts, ScriptedStore(forever))
    process = gateway_process(tmp_path, store.grpc_address, AGENTMESH_DRAIN_SECONDS="0.5")
    async with process:
        url = urlsplit(process.http_address)
        reader, half_a_body = await asyncio.open_connection(url.hostname, url.port)
        half_a_body.write(UPLOAD)
        await reader.readuntil(b"\r\n\r\n")
        half_a_body.write(b"{")
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(ENOUGH_SECONDS):
            assert await process.wait() == 0
        half_a_body.close()
