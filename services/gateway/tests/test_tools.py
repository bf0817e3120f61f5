"""Code and files: streams that end by themselves, over both edges."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from agentmesh.gateway.v1 import tool_service_pb2 as pb2
from agentmesh.gateway.v1.tool_service_pb2_grpc import ToolServiceStub
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as runner_pb2
from agentmesh_gateway.registration import adder
from httpx_sse import aconnect_sse
from meshkit.errors import MeshError
from meshkit.testkit import HostFactory

from .conftest import Gateway, Gateways
from .front import reason
from .scripted_store import ScriptedStore, events, start_scripted_store

PATIENCE = 30.0
CODE = {"language": "python", "code": "print('hi')"}


class ScriptedRunner:
    """Runs nothing, and streams as if it did."""

    def __init__(self) -> None:
        self.endless = False
        self.asked: list[runner_pb2.ExecuteRequest] = []
        self.left = asyncio.Event()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def execute(
        self, request: runner_pb2.ExecuteRequest, context: Any
    ) -> AsyncIterator[runner_pb2.ExecuteResponse]:
        self.asked.append(request)
        items = [
            runner_pb2.ExecutionItem(
                chunk=0, started=runner_pb2.ExecutionStarted(execution_id="exec_1")
            ),
            runner_pb2.ExecutionItem(
                chunk=1,
                output=runner_pb2.OutputChunk(
                    stream=runner_pb2.OUTPUT_STREAM_STDOUT, data=request.code.encode()
                ),
            ),
        ]
        try:
            for item in items:
                yield runner_pb2.ExecuteResponse(item=item)
            await (asyncio.Event() if self.endless else self.go_on).wait()
        except (asyncio.CancelledError, GeneratorExit):  # while it ran, or while it wrote
            self.left.set()
            raise
        finished = runner_pb2.ExecutionFinished(
            reason=runner_pb2.EXECUTION_END_REASON_EXITED, exit_code=0
        )
        yield runner_pb2.ExecuteResponse(item=runner_pb2.ExecutionItem(chunk=2, finished=finished))

    async def list_files(
        self, request: runner_pb2.ListFilesRequest, context: Any
    ) -> runner_pb2.ListFilesResponse:
        return runner_pb2.ListFilesResponse(
            files=[runner_pb2.FileInfo(path="src/main.py", size_bytes=6)]
        )

    async def read_file(
        self, request: runner_pb2.ReadFileRequest, context: Any
    ) -> AsyncIterator[runner_pb2.ReadFileResponse]:
        if not request.path.endswith(".py"):
            raise MeshError.not_found("file", request.path)
        yield runner_pb2.ReadFileResponse(chunk=b"abc")
        if request.path.startswith("broken"):
            raise MeshError.unavailable("disk")
        yield runner_pb2.ReadFileResponse(chunk=b"def")


@pytest_asyncio.fixture
async def runner() -> ScriptedRunner:
    return ScriptedRunner()


@pytest_asyncio.fixture
async def gateway(gateways: Gateways, mesh_hosts: HostFactory, runner: ScriptedRunner) -> Gateway:
    async def nothing(_: Any) -> AsyncIterator[Any]:
        yield events(1)

    service = runner_pb2.DESCRIPTOR.services_by_name["ToolRunnerService"]
    runner_host = await mesh_hosts.start(
        "tool_runner", [(adder(service), runner, service.full_name)]
    )
    store = await start_scripted_store(mesh_hosts, ScriptedStore(nothing))
    return await gateways.start(
        store_address=store.grpc_address, tool_runner_address=runner_host.grpc_address
    )


async def test_code_streams_its_output_as_events(gateway: Gateway) -> None:
    async with aconnect_sse(gateway.http, "POST", "/tools/execute", json=CODE) as source:
        frames = [frame async for frame in source.aiter_sse()]
    assert [frame.event for frame in frames] == ["started", "output", "finished"]
    output = json.loads(frames[1].data)
    assert base64.b64decode(output["output"]["data"]) == b"print('hi')"
    assert output["output"]["stream"] == "stdout"
    assert json.loads(frames[2].data)["finished"]["reason"] == "exited"


async def test_all_that_a_program_needs_is_passed_on(
    gateway: Gateway, runner: ScriptedRunner
) -> None:
    requirement = {"name": "tea", "version": "1.0", "sha256": ["a" * 64]}
    wanted = {
        "language": "c",
        "code": "int main() { }",
        "args": ["a", "b"],
        "files": [{"path": "d/x", "content": base64.b64encode(b"\0x").decode()}],
        "environment": {"COLOUR": "red"},
        "packages": {"index_url": "https://example.org", "requirements": [requirement]},
        "network": {"mode": "allow_list", "allow": [{"host": "example.org", "ports": [443]}]},
    }
    async with aconnect_sse(gateway.http, "POST", "/tools/execute", json=wanted) as source:
        _ = [frame async for frame in source.aiter_sse()]
    (asked,) = runner.asked
    assert asked.language == runner_pb2.EXECUTION_LANGUAGE_C
    assert list(asked.args) == ["a", "b"]
    assert [(file.path, file.content) for file in asked.files] == [("d/x", b"\0x")]
    assert dict(asked.environment) == {"COLOUR": "red"}
    assert asked.packages.requirements[0].name == "tea"
    assert asked.network.allow[0].ports == [443]
    assert not asked.HasField("limits")


@pytest.mark.parametrize("edge", ["http", "grpc"])
async def test_leaving_ends_the_execution(
    gateway: Gateway, runner: ScriptedRunner, edge: str
) -> None:
    runner.endless = True
    if edge == "http":
        async with aconnect_sse(gateway.http, "POST", "/tools/execute", json=CODE) as source:
            await anext(source.aiter_sse())
    else:
        stub: Any = ToolServiceStub(gateway.channel)
        call = stub.ExecuteCode(
            pb2.ExecuteCodeRequest(language=runner_pb2.EXECUTION_LANGUAGE_PYTHON, code="x")
        )
        await call.read()
        call.cancel()
    await asyncio.wait_for(runner.left.wait(), PATIENCE)


async def test_a_drain_lets_an_execution_come_to_its_end(
    gateway: Gateway, runner: ScriptedRunner
) -> None:
    runner.go_on.clear()
    async with aconnect_sse(gateway.http, "POST", "/tools/execute", json=CODE) as source:
        received = source.aiter_sse()
        await anext(received)
        stopping = asyncio.create_task(gateway.host.stop())
        await gateway.host.draining.wait()
        runner.go_on.set()
        kinds = [frame.event async for frame in received]
    assert kinds[-1] == "finished"
    await asyncio.wait_for(stopping, 10)


async def test_files_are_listed_and_downloaded_as_bytes(gateway: Gateway) -> None:
    listed = (await gateway.http.get("/conversations/conv_1/artifacts")).json()
    assert listed["artifacts"][0]["path"] == "src/main.py"
    assert listed["artifacts"][0]["size_bytes"] == 6
    response = await gateway.http.get("/conversations/conv_1/artifacts/src/main.py")
    assert (response.status_code, response.content) == (200, b"abcdef")
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"] == "attachment"


async def test_files_that_are_not_there_are_not_found(gateway: Gateway) -> None:
    for path in ("/conversations/conv_1/artifacts/nothing", "/conversations/conv_2/artifacts"):
        response = await gateway.http.get(path)
        assert response.status_code == 404, path
        assert reason(response) == "NOT_FOUND"


async def test_a_broken_download_is_seen_to_be_broken(gateway: Gateway) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        await gateway.http.get("/conversations/conv_1/artifacts/broken.py")
