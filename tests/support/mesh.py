"""A mesh of real processes on free loopback ports, to be called, killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from meshkit.testkit import MeshProcess

SERVICES = ("conversation_store", "tool_runner", "agent_runtime", "gateway")
SECRET = "a-secret-for-tests-of-the-mesh-0001"
# Variables of the developer's own that would change what a mesh does.
NOT_INHERITED = (
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "DEFAULT_MODEL",
    "AGENTMESH_AGENTS_FILE",
    "AGENTMESH_MODELS_FILE",
)


def runtime_name(number: int) -> str:
    """The name of a replica of the runtime in a mesh, from 0."""
    return f"agent_runtime_{number}" if number else "agent_runtime"


class Mesh:
    """Four services, and more replicas of the runtime and the tool_runner if asked for.
    `environment` is per process, over what all of them are told.

    With `store_address` the workers and the gateway reach the store there, which is how a test
    puts itself between them.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        *,
        store_address: str = "",
        runtimes: int = 1,
        tool_runners: int = 1,
    ) -> None:
        self.folder = folder
        self.runtimes = [runtime_name(number) for number in range(runtimes)]
        self.tool_runners = [
            f"tool_runner_{number}" if number else "tool_runner" for number in range(tool_runners)
        ]
        self.keys: dict[str, str] = {}
        self._environment = environment or {}
        self._store_address = store_address
        self._channels: dict[tuple[str, int], grpc.aio.Channel] = {}
        self._restarts: set[asyncio.Task[None]] = set()
        self.processes: dict[str, MeshProcess] = {}

    async def start(self) -> None:
        """Starts all services; raises with the log of the one that does not come up."""
        await self.start_store()
        await self.start_workers()

    async def start_store(self) -> None:
        """Starts the store alone."""
        for name in NOT_INHERITED:
            os.environ.pop(name, None)
        await self._start("conversation_store")

    async def start_workers(self) -> None:
        """Starts everything but the store."""
        store = self._store_address or self.address("conversation_store")
        for number, name in enumerate(self.tool_runners):
            # Root gives each sandbox a uid of its own: those of two runners must differ.
            first_uid = str(1_879_048_192 + 10_000 * number)
            await self._start(
                "tool_runner",
                name,
                AGENTMESH_STORE_ADDRESS=store,
                AGENTMESH_SANDBOX_FIRST_UID=first_uid,
                AGENTMESH_DATA_DIR=str(self.folder / f"data_{number}" if number else self._data),
            )
        for name in self.runtimes:
            await self._start_runtime(name, store)
        await self._start_gateway("gateway")

    async def start_another_gateway(self) -> str:
        """The name of one replica more of the gateway."""
        name = f"gateway_{sum(name.startswith('gateway') for name in self.processes)}"
        await self._start_gateway(name)
        return name

    async def _start_gateway(self, name: str) -> None:
        await self._start(
            "gateway",
            name,
            APP_PORT="0",
            AGENTMESH_STORE_ADDRESS=self.address("conversation_store"),
            AGENTMESH_RUNTIME_ADDRESS=self.address("agent_runtime"),
            AGENTMESH_TOOL_RUNNER_ADDRESS=self._any_tool_runner,
        )

    async def _start_runtime(self, name: str, store: str) -> None:
        await self._start(
            "agent_runtime",
            name,
            AGENTMESH_STORE_ADDRESS=store,
            AGENTMESH_TOOL_RUNNER_ADDRESS=self._any_tool_runner,
        )

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _any_tool_runner(self) -> str:
        """A target that is balanced over all of them."""
        addresses = [self.address(name) for name in self.tool_runners]
        return addresses[0] if len(addresses) == 1 else f"ipv4:///{','.join(addresses)}"

    @asynccontextmanager
    async def another_runtime(self) -> AsyncIterator[str]:
        """The name of one replica more, which reaches the store without what stands between."""
        name = runtime_name(len(self.runtimes))
        self.runtimes.append(name)
        try:
            await self._start_runtime(name, self.address("conversation_store"))
            yield name
        finally:
            self.runtimes.remove(name)
            await self.processes.pop(name).close()

    async def _start(self, service: str, name: str = "", **environment: str) -> None:
        name = name or service
        process = MeshProcess(
            [sys.executable, "-m", f"agentmesh_{service}"],
            self.folder / name,
            {
                "AGENTMESH_INTERNAL_SECRET": SECRET,
                "AGENTMESH_DATA_DIR": str(self._data),
                "LOG_LEVEL": "INFO",
                **environment,
                **self._environment.get(name, self._environment.get(service, {})),
            },
        )
        self.processes[name] = process
        await process.start()

    def address(self, name: str) -> str:
        return self.processes[name].grpc_address

    @property
    def rest_url(self) -> str:
        return self.rest_url_of("gateway")

    def rest_url_of(self, name: str) -> str:
        """Of one replica of the gateway."""
        address = self.processes[name].http_address
        return address if "://" in address else f"http://{address}"

    # --- killing ---------------------------------------------------------------------------------

    async def kill(self, name: str) -> None:
        """SIGKILL, at once."""
        await self.processes[name].sigkill()

    async def restart(self, name: str) -> None:
        """Starts a killed service again, on its ports and with its data."""
        await self.processes[name].restart()

    async def restart_all(self) -> None:
        """Kills every service and starts it again, the store first."""
        for process in self.processes.values():
            if process.alive:
                await process.sigkill()
        for process in self.processes.values():
            await process.start()

    def restart_soon(self, name: str) -> None:
        """Starts a killed service again without waiting for it."""
        task = asyncio.get_running_loop().create_task(self.restart(name))
        self._restarts.add(task)

    async def heal(self) -> None:
        """Waits for restarts under way, starts what is dead, closes this loop's channels."""
        running = asyncio.get_running_loop()
        ours = [restart for restart in self._restarts if restart.get_loop() is running]
        await asyncio.gather(*ours, return_exceptions=True)
        self._restarts.clear()
        for process in self.processes.values():
            if not process.alive:
                await process.start()
        loop = id(asyncio.get_running_loop())
        for key in [k for k in self._channels if k[1] == loop]:
            await self._channels.pop(key).close()

    def stop(self) -> None:
        """Ends all services; for teardown outside an event loop too."""
        for process in reversed(self.processes.values()):
            with suppress(Exception):
                os.killpg(process.pid, signal.SIGTERM)
        with suppress(Exception):
            psutil.wait_procs([psutil.Process(p.pid) for p in self.processes.values()], timeout=3)
        for process in self.processes.values():
            with suppress(Exception):
                os.killpg(process.pid, signal.SIGKILL)

    # --- calling ---------------------------------------------------------------------------------

    def channel(self, key: str = "") -> grpc.aio.Channel:
        """A channel to the gateway, with the API key of that name."""
        cached = self._channels.get((key, id(asyncio.get_running_loop())))
        if cached is not None:
            return cached
        secret = self.keys.get(key, "")
        interceptors: list[grpc.aio.ClientInterceptor] = (
            [_BearerOnCalls(secret), _BearerOnStreams(secret)] if key else []
        )
        options = [
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        ]
        channel = grpc.aio.insecure_channel(
            self.address("gateway"), options=options, interceptors=interceptors
        )
        self._channels[key, id(asyncio.get_running_loop())] = channel
        return channel

    async def start_conversation(
        self, task: str, agents: Sequence[str] = (), *, key: str = "", **fields: Any
    ) -> conversations.StartConversationResponse:
        """Starts a conversation; calls again while a service is coming back, as clients do."""
        stub = ConversationServiceStub(self.channel(key))
        request = conversations.StartConversationRequest(
            task=task, agents=agents, request_id=uuid.uuid4().hex, **fields
        )
        for patience in range(50, -1, -1):
            try:
                return await stub.StartConversation(request, timeout=20, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or not patience:
                    raise
                await asyncio.sleep(0.1)
        raise AssertionError("unreachable")

    async def start_main_job(self, *, key: str = "") -> str:
        """Starts the software development team on its task; the conversation's id."""
        from tests.support.conversations import MAIN_JOB, TEAM

        response = await self.start_conversation(
            MAIN_JOB, TEAM, key=key, workflow="software_development"
        )
        return response.conversation_id

    def sandboxed_programs(self, marker: str) -> list[psutil.Process]:
        """Processes of any user on this machine whose command line or files carry the marker."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if marker in " ".join(process.cmdline()) or marker in process.name():
                    found.append(process)
        return found

    async def create_key(self, name: str, tenant: str, role: str) -> str:
        """Makes an API key beside the running store; calls name it by `name`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agentmesh_conversation_store", "keys", "create"),
            *("--tenant", tenant, "--role", role, "--name", name),
            env=os.environ | {"AGENTMESH_DATA_DIR": str(self.folder / "data")},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        secret = next(word for word in output.decode().split() if word.startswith("amk_"))
        self.keys[name] = secret
        return secret


class _Bearer:
    """Sends an API key with every call."""

    def __init__(self, secret: str) -> None:
        self._header = ("authorization", f"Bearer {secret}")

    def with_key(self, details: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), self._header)
        return details._replace(metadata=metadata)


class _BearerOnCalls(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self.with_key(details), request)


class _BearerOnStreams(_Bearer, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(self.with_key(details), request)
