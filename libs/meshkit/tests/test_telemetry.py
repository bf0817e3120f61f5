"""Traces over several servers, kept in memory."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import trace_service_pb2, trace_service_pb2_grpc
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog
from agentmesh.conversation_store.v1 import turn_service_pb2 as turn
from meshkit import telemetry
from meshkit.errors import MeshError
from meshkit.identity import Principal, RunCapability, capability_scope, principal_scope
from meshkit.tenant_spans import belongs_to
from meshkit.testkit import raises_rich
from meshkit.trace_ring import TraceRing, span_context
from opentelemetry import trace

GET = catalog.GetDocumentRequest(kind=catalog.DOCUMENT_KIND_AGENT, name="developer")
METHOD = "agentmesh.conversation_store.v1.CatalogService/GetDocument"
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def _list(mesh: Any, host: Any, who: Principal, trace_id: str = TRACE) -> list[Any]:
    channel = mesh.channels().channel(host.grpc_address, "conversation_store")
    stub: Any = trace_service_pb2_grpc.TraceServiceStub(channel)
    with principal_scope(who):
        request = trace_service_pb2.ListSpansRequest(trace_id=trace_id)
        return list((await stub.ListSpans(request)).spans)


async def test_one_trace_over_two_servers_is_one_tree(mesh: Any, operator: Principal) -> None:
    async def get_behind(request: Any, context: Any) -> Any:
        with telemetry.tracer().start_as_current_span("read the row"):
            return catalog.GetDocumentResponse()

    behind = await mesh.serve(GetDocument=get_behind, name="behind")

    async def get(request: Any, context: Any) -> Any:
        channel = front.channels.channel(behind.grpc_address, "conversation_store")
        stub: Any = catalog_service_stub(channel)
        return await stub.GetDocument(request)

    front = await mesh.serve(GetDocument=get, name="front")
    with principal_scope(operator):
        await mesh.catalog(front).GetDocument(GET, metadata=(("traceparent", PARENT),))

    at_front = await _list(mesh, front, operator)
    at_behind = await _list(mesh, behind, operator)
    spans = {(s.service, s.name, s.parent_span_id): s for s in [*at_front, *at_behind]}
    server = next(s for s in spans.values() if s.parent_span_id == "b7ad6b7169203331")
    client = next(s for s in spans.values() if s.parent_span_id == server.span_id)
    served = next(s for s in spans.values() if s.parent_span_id == client.span_id)
    inner = next(s for s in spans.values() if s.parent_span_id == served.span_id)
    assert [s.name for s in (server, client, served, inner)] == [METHOD] * 3 + ["read the row"]
    assert [s.service for s in (server, client, served, inner)] == ["front"] * 2 + ["behind"] * 2
    assert len(spans) == 4
    assert not any(s.failed for s in spans.values())
    assert all(s.end_time.ToNanoseconds() >= s.start_time.ToNanoseconds() for s in spans.values())


def catalog_service_stub(channel: Any) -> Any:
    from agentmesh.conversation_store.v1 import catalog_service_pb2_grpc

    return catalog_service_pb2_grpc.CatalogServiceStub(channel)


async def test_failed_calls_leave_failed_spans_without_contents(
    mesh: Any, operator: Principal
) -> None:
    async def get(request: Any, context: Any) -> Any:
        raise MeshError.not_found("agent", "very private name")

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator), raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND"):
        await mesh.catalog(host).GetDocument(GET, metadata=(("traceparent", PARENT),))
    (span,) = await _list(mesh, host, operator)
    assert span.failed
    assert span.status_message == "NOT_FOUND NOT_FOUND"
    assert span.attributes["rpc.grpc.status_code"] == "5"
    assert "private" not in str(span)


async def test_the_trace_of_a_stranger_is_linked_and_not_continued(
    mesh: Any, operator: Principal
) -> None:
    async def get(request: Any, context: Any) -> Any:
        return catalog.GetDocumentResponse()

    host = await mesh.serve(GetDocument=get, vouches=lambda _: False)
    with principal_scope(operator):
        call = mesh.catalog(host).GetDocument(GET, metadata=(("traceparent", PARENT),))
        answer = dict(await call.initial_metadata())["traceresponse"]
        await call
    assert not host.trace_ring.spans(TRACE)
    (span,) = host.trace_ring.spans(answer.split("-")[1])
    assert telemetry.format_traceparent(span_context(span)) == answer
    assert span.parent is None
    (link,) = span.links
    assert telemetry.format_traceparent(link.context) == PARENT
    (shown,) = await _list(mesh, host, operator, answer.split("-")[1])
    assert shown.attributes["agentmesh.client_trace_id"] == TRACE


async def test_spans_of_another_tenant_are_not_shown(mesh: Any, operator: Principal) -> None:
    async def get(request: Any, context: Any) -> Any:
        return catalog.GetDocumentResponse()

    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator):
        await mesh.catalog(host).GetDocument(GET, metadata=(("traceparent", PARENT),))
    assert len(await _list(mesh, host, operator)) == 1
    assert await _list(mesh, host, Principal("spy", "evil", 3)) == []


async def test_spans_of_libraries_and_calls_are_marked_with_the_tenant_in_scope(
    mesh: Any, operator: Principal
) -> None:
    async def get(request: Any, context: Any) -> Any:
        with telemetry.tracer().start_as_current_span("private"):
            pass
        other: Any = catalog_service_stub(
            host.channels.channel(behind.grpc_address, "conversation_store")
        )
        return await other.GetDocument(request)

    async def get_behind(request: Any, context: Any) -> Any:
        return catalog.GetDocumentResponse()

    behind = await mesh.serve(GetDocument=get_behind, name="behind")
    host = await mesh.serve(GetDocument=get, name="front")
    with principal_scope(operator):
        await mesh.catalog(host).GetDocument(GET, metadata=(("traceparent", PARENT),))
    assert len(await _list(mesh, host, operator)) == 3
    assert await _list(mesh, host, Principal("spy", "evil", 3)) == []


async def test_a_run_capability_marks_spans_too(mesh: Any) -> None:
    host = mesh.hosts.build("worker")
    capability = RunCapability("acme", "conv_1", "run_1", 1, "token")
    with capability_scope(capability), host.telemetry.tracer.start_as_current_span("turn"):
        trace_id = telemetry.current_trace_id()
    (span,) = host.trace_ring.spans(trace_id)
    assert belongs_to(span, "acme")
    assert not belongs_to(span, "evil")


async def test_a_span_without_a_tenant_is_nobodys(mesh: Any, operator: Principal) -> None:
    host = await mesh.hosts.start("service")
    with host.telemetry.tracer.start_as_current_span("housekeeping"):
        trace_id = telemetry.current_trace_id()
    (span,) = host.trace_ring.spans(trace_id)
    assert not belongs_to(span, "acme")
    assert not belongs_to(span, "")
    assert await _list(mesh, host, operator, trace_id) == []


async def test_control_streams_and_health_leave_no_spans(mesh: Any) -> None:
    async def watch(request: Any, context: Any) -> Any:
        yield turn.WatchFencesResponse()

    host = await mesh.serve(WatchFences=watch)
    async for _ in mesh.turns(host).WatchFences(turn.WatchFencesRequest(worker_id="w")):
        pass
    assert len(host.trace_ring) == 0


async def test_a_cancelled_client_call_ends_its_span(mesh: Any, operator: Principal) -> None:
    import asyncio

    entered = asyncio.Event()

    async def get(request: Any, context: Any) -> Any:
        entered.set()
        await asyncio.sleep(60)

    host = await mesh.serve(GetDocument=get)
    caller = await mesh.hosts.start("caller")
    stub = catalog_service_stub(caller.channels.channel(host.grpc_address, "conversation_store"))
    with principal_scope(operator):
        call = stub.GetDocument(GET)
        await entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    while not len(caller.trace_ring):
        await asyncio.sleep(0.01)


def test_traceparent_there_and_back() -> None:
    with telemetry.start_as_remote_child(PARENT, "resumed") as span:
        assert telemetry.current_trace_id() == TRACE
        metadata = telemetry.inject([("k", "v")])
        assert metadata[0] == ("k", "v")
        extracted = trace.get_current_span(telemetry.extract(metadata)).get_span_context()
        assert extracted.span_id == span.get_span_context().span_id
        assert extracted.is_remote
    assert telemetry.current_traceparent() == ""
    for broken in ("", "00-zz", f"00-{'0' * 32}-b7ad6b7169203331-01"):
        context = trace.get_current_span(telemetry.remote_context(broken)).get_span_context()
        assert not context.is_valid


async def test_the_ring_forgets_the_trace_idle_longest(mesh: Any) -> None:
    host = mesh.hosts.build("service")
    ring = TraceRing(max_spans=5, max_spans_per_trace=3)
    host.telemetry.provider.add_span_processor(ring)
    traces = []
    for count in (2, 2, 9):
        with host.telemetry.tracer.start_as_current_span("root") as root:
            for _ in range(count):
                host.telemetry.tracer.start_span("child").end()
        traces.append(f"{root.get_span_context().trace_id:032x}")
    assert [len(ring.spans(t)) for t in traces] == [0, 0, 3]
    assert all(span_context(s).is_valid for s in ring.spans(traces[2]))


@pytest.mark.parametrize(("sampler", "kept"), [("always_off", 0), ("always_on", 1)])
async def test_the_standard_sampler_setting_holds(
    mesh: Any, operator: Principal, monkeypatch: pytest.MonkeyPatch, sampler: str, kept: int
) -> None:
    async def get(request: Any, context: Any) -> Any:
        flags = telemetry.current_traceparent()[-2:]
        return catalog.GetDocumentResponse(document=catalog.Document(name=flags))

    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    host = await mesh.serve(GetDocument=get)
    with principal_scope(operator):
        answer = await mesh.catalog(host).GetDocument(GET, metadata=(("traceparent", PARENT),))
    assert answer.document.name == f"0{kept}"
    assert len(host.trace_ring.spans(TRACE)) == kept


async def test_nothing_is_added_to_a_span_after_its_end(mesh: Any) -> None:
    host = mesh.hosts.build("service")
    span = host.telemetry.rpc_spans.start("call", trace.SpanKind.SERVER, None)
    span.set_attribute("before", 1)
    span.end()
    span.set_attribute("after", 1)
    span.set_attributes({"after": 1})
    span.add_event("after")
    span.add_link(span.get_span_context())
    span.set_status(trace.StatusCode.ERROR)
    span.update_name("after")
    span.end()
    (kept,) = host.trace_ring.spans(f"{span.get_span_context().trace_id:032x}")
    assert (kept.name, dict(kept.attributes or {})) == ("call", {"before": 1})
    assert (kept.events, kept.links) == ((), ())
    assert kept.status.status_code is trace.StatusCode.UNSET
    assert not span.is_recording()
