"""Wires the gateway: what serves, what it calls, and how it stops."""

from __future__ import annotations

import logging
from typing import Any

import grpc
from meshkit.active_calls import ActiveCalls
from meshkit.admission import Admission
from meshkit.context import Principal
from meshkit.policy import service_rules
from meshkit.server import ServiceHost
from meshkit.server_calls import MeshServerInterceptor
from meshkit.trace_entry import TRACERESPONSE
from starlette.middleware.cors import CORSMiddleware

from agentmesh_gateway.access import ReadAccess
from agentmesh_gateway.audit.wiring import record_calls
from agentmesh_gateway.definitions.catalog import Catalog
from agentmesh_gateway.documentation.site import Documentation
from agentmesh_gateway.http.frame import HttpFrame
from agentmesh_gateway.http.server import HttpServer
from agentmesh_gateway.idempotency.once import OncePerRequest
from agentmesh_gateway.idempotency.recalling import Recalls
from agentmesh_gateway.identity import peer
from agentmesh_gateway.identity.authenticator import Authenticator
from agentmesh_gateway.identity.http_peers import WithPeer
from agentmesh_gateway.identity.store_keys import StoreKeys
from agentmesh_gateway.identity.ways import authenticator_of
from agentmesh_gateway.limits.assembly import Limits, assemble
from agentmesh_gateway.limits.http2 import http2_options
from agentmesh_gateway.limits.store_policies import StorePolicies
from agentmesh_gateway.limits.streams import StreamLimits
from agentmesh_gateway.local_calls import LocalCalls, LocalContext
from agentmesh_gateway.metrics.calls import CallFigures
from agentmesh_gateway.metrics.endpoint import MetricsEndpoint
from agentmesh_gateway.metrics.gathering import MeshMetrics
from agentmesh_gateway.open_streams import OpenStreams
from agentmesh_gateway.probes import health_probes
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from agentmesh_gateway.registration import adder, handlers_of
from agentmesh_gateway.rest.asgi import by_scope
from agentmesh_gateway.rest.edge import RestEdge
from agentmesh_gateway.rest.request_headers import READ_HEADERS
from agentmesh_gateway.rest.routes import RouteTable, routes_of
from agentmesh_gateway.rest.websocket import ConverseEdge
from agentmesh_gateway.servicers.admin import AdminServicer
from agentmesh_gateway.servicers.agents import AgentServicer
from agentmesh_gateway.servicers.approvals import ApprovalServicer
from agentmesh_gateway.servicers.artifacts import ArtifactServicer
from agentmesh_gateway.servicers.blobs import BlobServicer
from agentmesh_gateway.servicers.chats import Chats
from agentmesh_gateway.servicers.conversations import ConversationServicer
from agentmesh_gateway.servicers.tools import ToolServicer
from agentmesh_gateway.servicers.usage import UsageServicer
from agentmesh_gateway.servicers.workflows import WorkflowServicer
from agentmesh_gateway.settings import GatewaySettings
from agentmesh_gateway.subscriptions.pace import Pace
from agentmesh_gateway.subscriptions.registry import Subscriptions
from agentmesh_gateway.subscriptions.store import StoreSubscriptions
from agentmesh_gateway.subscriptions.tenant import TenantSubscriptions
from agentmesh_gateway.trace_peers import TracePeers
from agentmesh_gateway.traces import TraceCollector
from agentmesh_gateway.upstream import connect

logger = logging.getLogger(__name__)

NAME = "gateway"


def build(settings: GatewaySettings) -> ServiceHost:
    """The gateway, ready to start."""
    host = ServiceHost(NAME, settings)
    if settings.allow_anonymous and not settings.loopback_only:
        logger.warning("AGENTMESH_ALLOW_ANONYMOUS: whoever can connect is an administrator")
    upstream = connect(host.channels, settings)
    limits = assemble(settings, StorePolicies(upstream.ledger))
    host.call_gate = limits.gate
    host.on_start += limits.on_start
    host.on_stop += limits.on_stop
    host.transport_options = http2_options(settings)
    authenticator = authenticator_of(settings, StoreKeys(upstream.keys), limits.guard)

    async def authenticate(context: grpc.aio.ServicerContext[Any, Any]) -> Principal:
        if type(context) is LocalContext:  # which isinstance takes its time to say
            if context.caller is not None:
                return context.caller
        elif settings.looks_at_peers:
            peer.enter_call(peer.grpc_peer(context.peer(), context.auth_context()))
        return await authenticator.authenticate(context.invocation_metadata() or ())

    host.public_authenticator = authenticate
    host.vouches_for_traces = TracePeers(settings.trusted_trace_peers)
    record_calls(host, upstream, settings)
    host.call_listener = CallFigures(host.metrics, host.call_listener)
    access = ReadAccess(upstream.conversations.CheckAccess)
    streams = OpenStreams(authenticator, access, settings.recheck_seconds)
    pace = Pace(settings.heartbeat_seconds, settings.upstream_patience_seconds)
    subscriptions = Subscriptions(
        StoreSubscriptions(upstream.subscribe_bytes, upstream.conversations.GetConversation),
        streams,
        access,
        pace,
    )
    tenants = TenantSubscriptions(upstream.subscribe_tenant_bytes, streams, pace)
    catalog = Catalog(upstream.catalog)
    probes = health_probes(upstream.channels)
    traces = TraceCollector(NAME, host.trace_ring, upstream.channels)
    calls = _local_calls(host)
    chats = Chats(calls, subscriptions, limits.gate.charge)
    once, recalls = OncePerRequest(upstream.requests), Recalls(upstream.requests)
    servicers: dict[str, object] = {
        "ConversationService": ConversationServicer(
            upstream, catalog, recalls, subscriptions, tenants, chats, traces, probes, settings
        ),
        "ApprovalService": ApprovalServicer(upstream, recalls),
        "AgentService": AgentServicer(upstream, catalog, recalls, probes),
        "WorkflowService": WorkflowServicer(upstream, catalog, recalls, settings),
        "ToolService": ToolServicer(upstream, catalog, once),
        "ArtifactService": ArtifactServicer(upstream, once),
        "BlobService": BlobServicer(upstream, once),
        "UsageService": UsageServicer(upstream),
        "AdminService": AdminServicer(upstream, authenticator, limits.tenants, probes),
    }
    held = StreamLimits(settings).hold
    served = [(service, servicers[service.name]) for service in PUBLIC_SERVICES]
    for service, servicer in served:
        host.add(adder(service, held), servicer, service.full_name)
        calls.add(handlers_of(service, servicer, held))
    host.on_drain.append(streams.drain)
    host.on_stop.append(authenticator.close)
    metrics = MeshMetrics(host.metrics, upstream.channels)
    _add_http(host, settings, authenticator, calls, limits, metrics)
    return host


def _local_calls(host: ServiceHost) -> LocalCalls:
    rules = {
        path: rule
        for service in PUBLIC_SERVICES
        for path, rule in service_rules(service.full_name).items()
    }
    admission = Admission(host.identity, host.public_authenticator)
    return LocalCalls(
        MeshServerInterceptor(
            rules,
            admission,
            host.telemetry,
            ActiveCalls(),
            host.call_listener,
            host.call_gate,
            host.vouches_for_traces,
        )
    )


def _add_http(
    host: ServiceHost,
    settings: GatewaySettings,
    authenticator: Authenticator,
    calls: LocalCalls,
    limits: Limits,
    metrics: MeshMetrics,
) -> None:
    routes = routes_of(PUBLIC_SERVICES)
    edge: Any = RestEdge(
        RouteTable(routes),
        calls,
        authenticator,
        bodies=limits.bodies,
        keep_alive_seconds=settings.sse_keep_alive_seconds,
        allowed_origins=settings.cors_allow_origins,
    )
    edge = Documentation(edge, routes, PUBLIC_SERVICES, limits.strangers)
    if settings.cors_allow_origins:
        edge = CORSMiddleware(
            edge,
            allow_origins=settings.cors_allow_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=READ_HEADERS,
            expose_headers=[
                *("etag", "x-request-id", "retry-after", "www-authenticate", TRACERESPONSE),
                *("ratelimit", "ratelimit-policy"),
            ],
        )
    if settings.metrics_enabled:
        edge = MetricsEndpoint(edge, metrics, settings.metrics_token, limits.guard)
    converse = ConverseEdge(
        calls, authenticator, settings.cors_allow_origins, limits.gate.charge, limits.bodies
    )
    app: Any = HttpFrame(by_scope(edge, converse), limits.proxies, settings.hsts_seconds)
    if settings.looks_at_peers:
        app = WithPeer(app)  # around what believes proxies: it is about the connection itself
    http = HttpServer(app, settings, limits.proxies)

    async def start() -> None:
        host.http_address = await http.start()

    host.on_start.append(start)
    host.on_drain.append(http.drain)
    host.on_stop.append(http.stop)
