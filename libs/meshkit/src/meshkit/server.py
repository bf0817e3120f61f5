"""One way to run a service."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
import uvloop
from agentmesh.common.v1 import (
    metrics_service_pb2_grpc,
    options_pb2,
    trace_service_pb2_grpc,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from meshkit import logs, metrics, telemetry, trace_service
from meshkit.active_calls import ActiveCalls
from meshkit.admission import Admission, PublicAuthenticator
from meshkit.call_gate import CallGate
from meshkit.channels import MeshChannels
from meshkit.health import Health
from meshkit.identity import InternalIdentity, use_identity
from meshkit.metrics import Metrics, MetricsServicer
from meshkit.policy import MethodRules, service_rules
from meshkit.process import settle
from meshkit.served_call import CallListener
from meshkit.server_calls import MeshServerInterceptor
from meshkit.settings import ServiceSettings
from meshkit.tasks import ended, stop
from meshkit.trace_entry import Vouches
from meshkit.trace_ring import TraceRing
from meshkit.transport import (
    Options,
    StartupError,
    check_exposure,
    server_credentials,
    server_options,
)
from meshkit.validation import prepare
from meshkit.watches import Watches

__all__ = ["GrpcService", "ServiceHost", "StartupError", "run"]

logger = logging.getLogger(__name__)

Servicer = TypeVar("Servicer", contravariant=True)
Hook: TypeAlias = Callable[[], Awaitable[None]]

_LAST_WORDS_SECONDS = 1.0  # after the drain, for telling calls that it is over
_WATCH_SECONDS = 0.1  # for telling health watches that the service is not serving


class GrpcService(Protocol[Servicer]):
    """What registers a servicer: the generated `add_XServicer_to_server`."""

    def __call__(self, servicer: Servicer, server: grpc.aio.Server) -> None: ...


class ServiceHost:
    """One running service: its gRPC server with everything around the servicers.

    Hooks are async callables that the service appends: `on_start` runs before calls are taken,
    `on_drain` when the service stops taking new work, `on_stop` (last added first) after the last
    call. Streams that last must watch `draining` and end with `MeshError.draining()`.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceSettings,
        *,
        public_authenticator: PublicAuthenticator | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.public_authenticator = public_authenticator
        self.call_listener: CallListener | None = None
        self.call_gate: CallGate | None = None
        self.vouches_for_traces: Vouches | None = None
        """Whose traces are continued; None: everybody's, as between the services of a mesh."""
        self.transport_options: Options = []
        self.grpc_address = ""
        self.http_address: str | None = None
        self.on_start: list[Hook] = []
        self.on_drain: list[Hook] = []
        self.on_stop: list[Hook] = []
        self.draining = asyncio.Event()
        self.identity = InternalIdentity(name, settings)
        self.telemetry = telemetry.configure(name, settings)
        self._registrations: list[Callable[[grpc.aio.Server], None]] = []
        self._rules: dict[str, MethodRules] = {}
        self._serving: dict[str, bool] = {}
        self._health = Health()
        self._calls = ActiveCalls()
        self._server: grpc.aio.Server | None = None
        self._channels: MeshChannels | None = None
        self._stopping: asyncio.Task[None] | None = None
        use_identity(self.identity)
        self.add(
            trace_service_pb2_grpc.add_TraceServiceServicer_to_server,
            trace_service.TraceServicer(self.telemetry),
            trace_service.FULL_NAME,
        )
        self.metrics = Metrics(enabled=settings.metrics_enabled)
        self.add(
            metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server,
            MetricsServicer(self.metrics),
            metrics.FULL_NAME,
        )

    @property
    def trace_ring(self) -> TraceRing:
        """The finished spans that this service remembers."""
        return self.telemetry.ring

    @property
    def channels(self) -> MeshChannels:
        """Channels to other services, closed with this one."""
        if self._channels is None:
            self._channels = MeshChannels(
                self.name, self.settings, identity=self.identity, telemetry=self.telemetry
            )
        return self._channels

    def add(
        self,
        add_to_server: Callable[[Any, grpc.aio.Server], None],
        servicer: object,
        full_name: str,
    ) -> None:
        """Serves `servicer` under `full_name` ("package.Service"). Call it before `start`."""
        self._rules.update(service_rules(full_name))
        self._serving.setdefault(full_name, True)
        self._registrations.append(lambda server: add_to_server(servicer, server))

    def set_serving(self, full_name_or_empty: str, serving: bool) -> None:
        """What health checks hear of one service, or of the whole process if the name is empty."""
        self._serving[full_name_or_empty] = serving
        self._health.set(full_name_or_empty, serving=serving)

    async def start(self) -> None:
        """Listens and serves. Raises StartupError, with one line for the operator."""
        check_exposure(self.settings)
        self._check_policies()
        server = self._build()
        self._bind(server)
        try:
            for hook in self.on_start:
                await hook()
            await server.start()
        except BaseException:
            await server.stop(None)
            await self._clean_up()
            raise
        self._server = server
        for full_name in {"", *self._serving}:
            self._health.set(full_name, serving=self._serving.get(full_name, True))
        self._write_ready_file()
        logger.info("%s serves gRPC on %s", self.name, self.grpc_address)

    async def stop(self) -> None:
        """Drains and stops; returns when all is over, within a little more than `drain_seconds`."""
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def serve_until_signalled(self) -> None:
        """Starts, serves until SIGTERM or SIGINT, and stops. A second signal ends it at once."""
        logs.configure(self.name, self.settings)
        signalled = asyncio.Event()
        loop = asyncio.get_running_loop()

        def on_signal() -> None:
            if signalled.is_set():
                self._calls.end(background_only=False)
            signalled.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        await self.start()
        settle()
        # Never cancelled, which grpc would take for the end of the server.
        serving = asyncio.ensure_future(self._terminated())
        asked = asyncio.ensure_future(signalled.wait())
        await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        ended_by_itself = not signalled.is_set()
        logger.info("%s drains: %d calls in flight", self.name, len(self._calls))
        await self.stop()
        await stop(asked)
        await ended(serving)
        if ended_by_itself:
            # Somebody must start it again: a process that serves nothing any more is no service.
            raise StartupError(f"the gRPC server of {self.name} ended by itself")

    async def _terminated(self) -> None:
        assert self._server is not None  # noqa: S101  it was started
        await self._server.wait_for_termination()

    def _check_policies(self) -> None:
        for rules in self._rules.values():
            if rules.audience == options_pb2.AUDIENCE_UNSPECIFIED:
                raise StartupError(f"{rules.full_name} has no policy, so nobody may call it")
            if rules.audience == options_pb2.AUDIENCE_PUBLIC and not self.public_authenticator:
                raise StartupError(f"{rules.full_name} is public and needs a public_authenticator")
            if (rules.audience == options_pb2.AUDIENCE_PUBLIC) != bool(rules.scope):
                raise StartupError(
                    f"{rules.full_name}: public methods, and no others, have a scope"
                )
            prepare(rules.request_class)

    def _build(self) -> grpc.aio.Server:
        interceptor = MeshServerInterceptor(
            self._rules,
            Admission(self.identity, self.public_authenticator),
            self.telemetry,
            self._calls,
            self.call_listener,
            self.call_gate,
            self.vouches_for_traces,
            Watches(self.settings.max_watches, self.settings.max_watches_per_address),
        )
        options = [*server_options(self.settings), *self.transport_options]
        server = grpc.aio.server(interceptors=[interceptor], options=options)
        for register in self._registrations:
            register(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = [*self._serving, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        names = [name for name in names if name]
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
        return server

    def _bind(self, server: grpc.aio.Server) -> None:
        host = f"[{h}]" if ":" in (h := self.settings.grpc_host.strip("[]")) else h
        wanted = f"{host}:{self.settings.grpc_port}"
        credentials = server_credentials(self.settings)
        try:
            port = (
                server.add_insecure_port(wanted)
                if credentials is None
                else server.add_secure_port(wanted, credentials)
            )
        except RuntimeError:
            raise StartupError(f"cannot listen on {wanted}; is something else using it?") from None
        reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104  compared
        self.grpc_address = f"{reachable}:{port}"

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        grace = self.settings.drain_seconds
        self._health.drain()
        for hook in self.on_drain:
            await _run_hook(hook)
        self.draining.set()
        loop = asyncio.get_running_loop()
        loop.call_later(_WATCH_SECONDS, lambda: self._calls.end(background_only=True))
        last_words = loop.call_later(grace, lambda: self._calls.end(background_only=False))
        try:
            await server.stop(grace + _LAST_WORDS_SECONDS)
        finally:
            last_words.cancel()
        await self._clean_up()
        logger.info("%s stopped", self.name)

    async def _clean_up(self) -> None:
        for hook in reversed(self.on_stop):
            await _run_hook(hook)
        if self._channels is not None:
            await self._channels.close()
        await asyncio.to_thread(self.telemetry.shutdown)
        if self.settings.ready_file is not None:
            self.settings.ready_file.unlink(missing_ok=True)

    def _write_ready_file(self) -> None:
        path = self.settings.ready_file
        if path is None:
            return
        content = {"service": self.name, "grpc_address": self.grpc_address}
        if self.http_address:
            content["http_address"] = self.http_address
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(content) + "\n", encoding="utf-8")
        draft.replace(path)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs the process; a StartupError becomes one line on stderr and exit status 2."""
    try:
        uvloop.run(main())
    except StartupError as error:
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


async def _run_hook(hook: Hook) -> None:
    """A failing hook must not keep the others, or the stop itself, from running."""
    try:
        await hook()
    except Exception:
        logger.exception("a hook failed while stopping")
