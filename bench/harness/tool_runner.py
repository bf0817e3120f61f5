"""A tool runner to measure, as a process of its own, and programs for it."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2_grpc
from agentmesh.tool_runner.v1 import tool_runner_service_pb2 as pb
from agentmesh.tool_runner.v1 import tool_runner_service_pb2_grpc
from meshkit.channels import MeshChannels
from meshkit.identity import Principal, principal_scope
from meshkit.settings import ServiceSettings
from meshkit.testkit import MeshProcess
from pydantic import SecretStr

from bench.harness.store_and_gateway import SINGLE_WRITER

PROGRAM = "print('started')"
_WHERE = "import os, sys; print(os.path.realpath(sys.executable))"
_CALLER = Principal(subject="bench", tenant="bench", role=3)
_START_SECONDS = 60.0

# Known to type checkers alone.
Stub: TypeAlias = "tool_runner_service_pb2_grpc.ToolRunnerServiceAsyncStub"
StoreStub: TypeAlias = "conversation_store_service_pb2_grpc.ConversationStoreServiceAsyncStub"


@dataclass(frozen=True)
class Runner:
    """Calls to a tool runner, and to the store that keeps its workspaces."""

    stub: Stub
    store: StoreStub

    async def conversation(self) -> str:
        """The id of a new one, which has no session yet."""
        started = await self.store.StartConversation(
            store_pb2.StartConversationRequest(
                task="bench", definition=SINGLE_WRITER, max_rounds=10
            )
        )
        conversation_id: str = started.conversation.conversation_id
        return conversation_id


@asynccontextmanager
async def tool_runner(**settings: str) -> AsyncIterator[Runner]:
    """Both as processes of their own. `settings` are the tool runner's environment variables."""
    secret = secrets.token_urlsafe(32)
    common = {"AGENTMESH_INTERNAL_SECRET": secret, "LOG_LEVEL": "WARNING"}
    with tempfile.TemporaryDirectory(prefix="agentmesh-bench-") as name:
        async with _process("agentmesh_conversation_store", Path(name), common) as store:
            own = {"AGENTMESH_STORE_ADDRESS": store.grpc_address, "AGENTMESH_DRAIN_SECONDS": "1"}
            runner = _process("agentmesh_tool_runner", Path(name), common | own | settings)
            async with runner:
                own_secret = ServiceSettings(internal_secret=SecretStr(secret))
                channels = MeshChannels("gateway", own_secret)
                to_runner = channels.channel(runner.grpc_address, "tool_runner")
                to_store = channels.channel(store.grpc_address, "conversation_store")
                with principal_scope(_CALLER):
                    yield Runner(
                        tool_runner_service_pb2_grpc.ToolRunnerServiceStub(to_runner),
                        conversation_store_service_pb2_grpc.ConversationStoreServiceStub(to_store),
                    )
                await channels.close()


def _process(module: str, folder: Path, environment: dict[str, str]) -> MeshProcess:
    return MeshProcess([sys.executable, "-m", module], folder / module, environment)


def request(code: str, conversation: str = "", **fields: object) -> pb.ExecuteRequest:
    """Python to execute; in a fresh workspace without a conversation."""
    return pb.ExecuteRequest(
        language=pb.EXECUTION_LANGUAGE_PYTHON,
        code=code,
        conversation_id=conversation,
        **fields,  # type: ignore[arg-type]  # fields of the message
    )


async def execute(runner: Runner, code: str, conversation: str = "") -> str:
    """What a program prints; fails unless it exits with 0."""
    output = b""
    async for response in runner.stub.Execute(request(code, conversation)):
        output += response.item.output.data
        if response.item.HasField("finished"):
            finished = response.item.finished
            assert finished.exit_code == 0, (finished, output)
    return output.decode()


async def timed(runner: Runner, conversation: str = "") -> float:
    """Milliseconds of one execution, from the request to the item that says how it ended."""
    began = time.perf_counter()
    printed = await execute(runner, PROGRAM, conversation)
    took = (time.perf_counter() - began) * 1000
    assert printed == "started\n", printed
    return took


async def interpreter_of(runner: Runner) -> str:
    """The real path of the interpreter that sandboxes have."""
    path = (await execute(runner, _WHERE)).strip()
    assert os.access(path, os.X_OK), f"{path} is not on this machine"
    return path


async def until_warm(runner: Runner, count: int) -> None:
    """Waits until so many sandboxes are ready."""
    async with asyncio.timeout(_START_SECONDS):
        while True:
            told = await runner.stub.GetCapabilities(pb.GetCapabilitiesRequest())
            if told.warm_sandboxes >= count:
                return
            await asyncio.sleep(0.005)


async def bare(interpreter: str) -> float:
    """Milliseconds of the same program as a child process."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        interpreter, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    took = (time.perf_counter() - began) * 1000
    assert printed == b"started\n", printed
    return took
