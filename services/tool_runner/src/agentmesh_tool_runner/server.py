"""Wires the service together."""

from __future__ import annotations

import asyncio

from agentmesh.conversation_store.v1 import (
    catalog_service_pb2,
    catalog_service_pb2_grpc,
    turn_service_pb2_grpc,
)
from agentmesh.tool_runner.v1 import tool_runner_service_pb2_grpc
from meshkit.ids import new_id
from meshkit.server import ServiceHost
from meshkit.settings import is_loopback
from meshkit.tasks import stop

from . import translate
from .calls import EffectRules, Effects, ToolCalls
from .generations.rest import StoreRest
from .generations.store_shelf import StoreShelf
from .languages import CompileCache, Programs, Toolchains
from .packages import Packages
from .runs import CodeRuns
from .sandbox.backend import SandboxBackend
from .sandbox.model import MIB
from .sandboxes import Sandboxes
from .servicers.capabilities import CapabilityMethods
from .servicers.composed import FULL_NAME, ToolRunnerServicer
from .servicers.executions import ExecutionMethods
from .servicers.files import FileMethods
from .servicers.sessions import SessionMethods
from .servicers.tool_calls import ToolCallMethods
from .servicers.transfers import TransferMethods
from .settings import ToolRunnerSettings
from .store import StoreLedger
from .store_streams import DeltaPublisher, publish_documents, watch_fences
from .tools.builtin import BuiltInTools
from .tools.packages.provider import PackageTools
from .tools.provider import Toolbox

NAME = "tool_runner"


class ToolRunner:
    """The service: `host` runs it, hooks start and stop its parts."""

    def __init__(self, settings: ToolRunnerSettings) -> None:
        self.settings = settings
        self.host = ServiceHost(NAME, settings)
        channel = self.host.channels.channel(settings.store_address, "conversation_store")
        turns = turn_service_pb2_grpc.TurnServiceStub(channel)
        self._turns = turns
        self._catalog = catalog_service_pb2_grpc.CatalogServiceStub(channel)
        self._process_id = new_id("runner")
        self._deltas = DeltaPublisher(turns)
        rest = StoreRest(StoreShelf(channel), settings.maximum_limits.workspace_bytes)
        self.sandboxes = Sandboxes(settings, rest)
        self._toolbox = Toolbox(
            [BuiltInTools(), PackageTools(settings.packages, settings.data_dir / NAME)]
        )
        self._toolchains = Toolchains(self._backend)
        cache = CompileCache(
            settings.data_dir / "tool_runner/compiled", settings.compile_cache_mib * MIB
        )
        limits = settings.default_limits
        programs = Programs(self._backend, self._toolchains, cache, compile_limits=limits)
        packages = Packages(self._backend, settings.indexes, cache)
        rules = EffectRules(settings.default_limits, settings.tool_cache_mib * MIB)
        effects = Effects(self._toolbox, self._deltas, self._backend, programs, rest, rules)
        ledger = StoreLedger(turns, self._address)
        self.calls = ToolCalls(effects, ledger, self._process_id)
        self.runs = CodeRuns(self._backend, programs, packages, settings.buffer_bounds)
        self._background: list[asyncio.Task[None]] = []
        self.host.add(
            tool_runner_service_pb2_grpc.add_ToolRunnerServiceServicer_to_server,
            self._servicer(),
            FULL_NAME,
        )
        self.host.on_start.append(self._start)
        self.host.on_stop.append(self._stop)

    def _backend(self) -> SandboxBackend:
        return self.sandboxes.backend

    def _servicer(self) -> ToolRunnerServicer:
        defaults, maximum = self.settings.default_limits, self.settings.maximum_limits
        return ToolRunnerServicer(
            ToolCallMethods(self.calls, self._toolbox, self._address, default_limits=defaults),
            ExecutionMethods(self.runs, default_limits=defaults, maximum_limits=maximum),
            CapabilityMethods(
                self.sandboxes, self._toolchains, default_limits=defaults, maximum_limits=maximum
            ),
            FileMethods(self.sandboxes),
            SessionMethods(self.sandboxes),
            TransferMethods(
                self.sandboxes,
                maximum_bytes=maximum.workspace_bytes,
                stall_seconds=self.settings.upload_stall_seconds,
            ),
        )

    async def _start(self) -> None:
        await asyncio.gather(self.sandboxes.start(), self._toolbox.start())
        self._background = [
            asyncio.create_task(
                watch_fences(
                    self._turns,
                    self._process_id,
                    self.calls.fence_raised,
                    self.sandboxes.release,
                )
            ),
            asyncio.create_task(self.calls.end_what_is_stale_by_and_by()),
            asyncio.create_task(self._deltas.run()),
            asyncio.create_task(publish_documents(self._catalog, self._documents())),
        ]

    def _address(self) -> str:
        """Where workers that have a workspace open here can reach this very runner."""
        if self.settings.advertised_address:
            return self.settings.advertised_address
        return self.host.grpc_address if is_loopback(self.settings.grpc_host) else ""

    def _documents(self) -> list[catalog_service_pb2.Document]:
        timeout = self.settings.default_limits.wall_seconds
        return [
            catalog_service_pb2.Document(
                kind=catalog_service_pb2.DOCUMENT_KIND_TOOL,
                name=spec.name,
                tool=translate.tool_definition(spec, timeout),
            )
            for spec in self._toolbox.specs()
        ]

    async def _stop(self) -> None:
        await self.calls.close()
        await stop(*self._background)
        await self._toolbox.close()
        await self.sandboxes.close()
        await self.runs.close()
