"""Wires the service together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2, agent_runtime_service_pb2_grpc
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from agentmesh.conversation_store.v1.approval_store_service_pb2_grpc import (
    ApprovalStoreServiceStub,
)
from agentmesh.conversation_store.v1.blob_service_pb2_grpc import BlobServiceStub
from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceStub
from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
    ConversationStoreServiceStub,
)
from agentmesh.conversation_store.v1.turn_service_pb2_grpc import TurnServiceStub
from meshkit.ids import new_id
from meshkit.server import ServiceHost
from meshkit.tasks import stop

from agentmesh_agent_runtime.adapters.children import OmittedAnswers
from agentmesh_agent_runtime.adapters.deltas import DeltaStream
from agentmesh_agent_runtime.adapters.input_blobs import InputBlobs
from agentmesh_agent_runtime.adapters.people import OmittedWords
from agentmesh_agent_runtime.adapters.runners import Runners
from agentmesh_agent_runtime.adapters.store_turns import (
    Head,
    StoreCheckpoints,
    StoreStepLog,
    StoreTurns,
)
from agentmesh_agent_runtime.adapters.stored_images import StoredImages
from agentmesh_agent_runtime.adapters.tools import ToolDirectory, ToolRunnerCaller
from agentmesh_agent_runtime.components import Components
from agentmesh_agent_runtime.definitions.profiles import open_profiles
from agentmesh_agent_runtime.definitions.shipped import (
    Definitions,
    check_components,
    load_definitions,
    refused,
)
from agentmesh_agent_runtime.models.catalog import ModelCatalog, ModelDefaults
from agentmesh_agent_runtime.models.component_clients import make_client
from agentmesh_agent_runtime.models.scripted.rules import Script
from agentmesh_agent_runtime.publishing import publish
from agentmesh_agent_runtime.servicer import AgentRuntimeServicer
from agentmesh_agent_runtime.settings import RuntimeSettings
from agentmesh_agent_runtime.turns.driver import TurnDriver, TurnPorts
from agentmesh_agent_runtime.turns.grant import Grant
from agentmesh_agent_runtime.turns.hosting import whose_turn
from agentmesh_agent_runtime.turns.trial import Trial
from agentmesh_agent_runtime.worker.figures import TurnFigures
from agentmesh_agent_runtime.worker.leases import LeaseThread
from agentmesh_agent_runtime.worker.loop_watch import LoopWatch
from agentmesh_agent_runtime.worker.turns import TurnWorker

log = logging.getLogger(__name__)

NAME = "agent_runtime"
PUBLISHING_SECONDS = 10.0
_LOOP_TICK_SECONDS = 1.0


class Runtime:
    """One agent_runtime around its ServiceHost.

    Raises DefinitionError if the operator's files cannot be used.
    """

    def __init__(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._definitions = load_definitions(settings.agents_file)
        self._worker_id = new_id("wrk")
        self._components = Components(_names(settings.component_packages))
        for package in self._components.not_installed():
            log.warning("AGENTMESH_COMPONENT_PACKAGES names %s, which is not installed", package)
        check_components(self._definitions, settings.agents_file, self._components)
        self.models = _open_models(settings, self._components)
        self.host = ServiceHost(NAME, settings)
        self._background: set[asyncio.Task[None]] = set()
        self._connect()
        self._figures = TurnFigures(self.host.metrics)
        self.worker = self._build_worker()
        self._loop_watch = LoopWatch(
            self.host.metrics,
            whose_turn,
            self._leases.set_held_up,
            patience=settings.blocked_loop_seconds,
        )
        self.host.add(
            agent_runtime_service_pb2_grpc.add_AgentRuntimeServiceServicer_to_server,
            AgentRuntimeServicer(
                self.models,
                self._components,
                self.worker,
                worker_id=self._worker_id,
                reachable_models=_named_models(self._definitions, settings),
                base_url=settings.openai_base_url,
                fetch_schemas=self._tool_directory.fetch,
            ),
            agent_runtime_service_pb2.DESCRIPTOR.services_by_name["AgentRuntimeService"].full_name,
        )
        self.host.on_start.append(self._start)
        self.host.on_drain.append(self._drain)
        self.host.on_stop.append(self._stop)

    def _connect(self) -> None:
        store = self.host.channels.channel(self._settings.store_address, "conversation_store")
        self._turns = TurnServiceStub(store)
        self._blobs = BlobServiceStub(store)
        self._images = StoredImages(self._blobs)
        self._inputs = InputBlobs(self._blobs)
        self._words = OmittedWords(ApprovalStoreServiceStub(store))
        self._answers = OmittedAnswers(ConversationStoreServiceStub(store))
        self._catalog = CatalogServiceStub(store)
        self._tool_directory = ToolDirectory(self._catalog)
        self._runners = Runners(self.host.channels, self._settings.tool_runner_address)
        self._deltas = DeltaStream(self._turns)

    def _build_worker(self) -> TurnWorker:
        settings = self._settings
        driver = TurnDriver(
            self.models,
            self._tool_directory.fetch,
            worker_id=self._worker_id,
            stall_seconds=settings.stall_seconds,
            # The rest of a commit has the other half of the message.
            largest_whole=settings.max_message_bytes // 2,
            components=self._components,
        )
        self._leases = LeaseThread(
            settings,
            self.host.identity,
            worker_id=self._worker_id,
            capacity=settings.max_turns,
            on_grant=self._on_grant,
            on_revoked=self._on_revoked,
        )
        return TurnWorker(
            driver,
            StoreTurns(self._turns),
            self._leases,
            self._open_ports,
            self._complete,
            self._figures,
            capacity=settings.max_turns,
        )

    async def _complete(self, grant: turns_pb2.TurnGrant) -> None:
        await self._inputs.complete(grant)
        await self._words.complete(grant)
        await self._answers.complete(grant)

    def _open_ports(self, grant: Grant) -> TurnPorts:
        head = Head(grant.head_sequence)
        ports = TurnPorts(
            steps=StoreStepLog(self._turns, grant, head),
            tools=ToolRunnerCaller(self._runners, grant, head),
            deltas=self._deltas.lease(grant, head),
            checkpoints=StoreCheckpoints(self._turns, grant),
            images=self._images.lease(grant),
        )
        return self._figures.measured(ports)

    def _on_grant(self, grant: turns_pb2.TurnGrant) -> None:
        self._loop.call_soon_threadsafe(self.worker.take, grant)

    def _on_revoked(self, run_id: str, current_fence: int, reason: str) -> None:
        self._loop.call_soon_threadsafe(self.worker.revoke, run_id, current_fence, reason)

    async def _start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._deltas.start()
        await self._try_components()
        published = self._spawn(publish(self._catalog, self._definitions, self.models.profiles))
        self._spawn(self._tick())
        self._loop_watch.start()
        self._leases.start()
        if self._settings.openai_api_key or self.models.profiles:
            self._spawn(self.models.prepare())
        if not self._settings.openai_api_key:
            log.warning(
                "OPENAI_API_KEY is not set: the scripted model answers for agents without a profile"
            )
        # Whoever waits for a mesh to be ready names agents next. A store that is away is no reason
        # to wait for long: what is started meanwhile is found again.
        await asyncio.wait({published}, timeout=PUBLISHING_SECONDS)

    async def _try_components(self) -> None:
        """Raises DefinitionError if what the operator's file names cannot be made."""
        source = self._settings.agents_file
        if source is None:
            return
        trial = Trial(self.models, self._components)
        async for finding in trial.of_all(self._definitions.agents, self._definitions.teams):
            raise refused(source, finding)

    async def _drain(self) -> None:
        await self.worker.drain(self._settings.drain_seconds)

    async def _stop(self) -> None:
        self._loop_watch.stop()
        await self.worker.close()
        await asyncio.to_thread(self._leases.close)
        await stop(*self._background)
        await self._deltas.close()
        await self.models.close()

    async def _tick(self) -> None:
        while True:
            self._leases.loop_is_alive()
            await asyncio.sleep(_LOOP_TICK_SECONDS)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        return task


def _open_models(settings: RuntimeSettings, components: Components) -> ModelCatalog:
    key = settings.openai_api_key
    defaults = ModelDefaults(
        api_key=key.get_secret_value() if key else "",
        base_url=settings.openai_base_url,
        model=settings.default_model,
        temperature=settings.temperature,
        max_tokens=settings.max_tokens,
        reply_timeout=settings.autogen_timeout,
        max_reply_chars=settings.max_reply_chars,
    )
    return ModelCatalog(
        defaults,
        _load_script(settings.script_file),
        open_profiles(settings.models_file, settings.model_key, partial(make_client, components)),
        script_word_delay=settings.script_word_delay_ms / 1000,
    )


def _load_script(source: Path | None) -> Script:
    if source is not None:
        return Script.load(source)
    with as_file(files(f"{__package__}.models.scripted") / "scripts") as folder:
        return Script.load(folder / "software_development.yaml")


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _named_models(definitions: Definitions, settings: RuntimeSettings) -> tuple[str, ...]:
    if not settings.openai_api_key:
        return ()
    return tuple(agent.llm_config.model for agent in definitions.agents if agent.llm_config.model)


async def serve(settings: RuntimeSettings) -> None:
    """Serves until the process is told to stop."""
    await Runtime(settings).host.serve_until_signalled()
