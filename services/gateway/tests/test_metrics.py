"""`GET /metrics`: who may read it, what it counts, and what it adds up."""

from __future__ import annotations

import pytest
from agentmesh_gateway.limits.credential_guard import CredentialGuard
from agentmesh_gateway.metrics.endpoint import MetricsEndpoint
from agentmesh_gateway.metrics.gathering import MeshMetrics, added_up
from agentmesh_gateway.rest.asgi import Message, Scope
from meshkit.metrics import Metrics
from meshkit.testkit import HostFactory
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from .conftest import Gateways

TOKEN = "a-token-for-whoever-watches"


def figures(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_calls_are_counted_by_method_and_outcome(gateways: Gateways) -> None:
    gateway = await gateways.start(allow_anonymous=True)
    await gateway.http.get("/agents")
    found = figures((await gateway.http.get("/metrics")).text)
    assert found["agentmesh_gateway_calls_total", "UNAVAILABLE", "AgentService/ListAgents"] == 1
    assert found["agentmesh_gateway_call_seconds_count", "AgentService/ListAgents"] == 1
    assert found["agentmesh_up", "conversation_store"] == 0


async def test_figures_of_other_services_are_gathered(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    store = await mesh_hosts.start("conversation_store", [])
    store.metrics.counter("agentmesh_things", "Things.", "kind").add("round", value=3)
    gateway = await gateways.start(store_address=store.grpc_address)
    for _ in range(2):
        found = figures((await gateway.http.get("/metrics")).text)
        assert found["agentmesh_things_total", "round"] == 3
        assert found["agentmesh_up", "conversation_store"] == 1
        assert found["agentmesh_up", "agent_runtime"] == 0


def test_replicas_are_added_up() -> None:
    replicas = [Metrics(), Metrics()]
    for number, metrics in enumerate(replicas, start=1):
        metrics.counter("things", "Things.", "kind").add("round", value=number)
        metrics.seconds("work_seconds", "Work.").add(value=0.03 * number)
    families = [list(text_string_to_metric_families(m.exposition())) for m in replicas]
    (things, work) = added_up(families)
    assert (things.name, things.type, things.samples[0].value) == ("things", "counter", 3)
    samples = {(s.name, s.labels.get("le")): s.value for s in work.samples}
    assert samples["work_seconds_count", None] == 2
    assert samples["work_seconds_bucket", "0.05"] == 1
    assert samples["work_seconds_bucket", "+Inf"] == 2


def test_a_time_that_is_a_bound_lies_below_it() -> None:
    work = (metrics := Metrics()).seconds("work_seconds", "Work.")
    for seconds in (0.05, 0.051, 5000.0):
        work.add(value=seconds)
    found = figures(metrics.exposition())
    buckets = {key[1]: value for key, value in found.items() if key[0] == "work_seconds_bucket"}
    assert (buckets["0.02"], buckets["0.05"], buckets["0.1"]) == (0, 1, 2)
    assert (buckets["1800.0"], buckets["+Inf"]) == (2, 3)
    assert found["work_seconds_sum",] == pytest.approx(5000.101)


def test_labels_that_users_choose_do_not_add_up_without_end() -> None:
    counted = (metrics := Metrics()).counter("things", "Things.", "kind")
    for number in range(1000):
        counted.add(f"kind {number}" * 50)
    found = figures(metrics.exposition())
    assert len(found) == 301
    assert found["things_total", "other"] == 700
    assert max(len(kind) for _, kind in found) <= 64


def test_nothing_is_counted_where_metrics_are_off() -> None:
    metrics = Metrics(enabled=False)
    metrics.counter("things", "Things.").add()
    assert metrics.exposition() == ""


async def test_without_metrics_there_is_no_such_path(gateways: Gateways) -> None:
    gateway = await gateways.start(metrics_enabled=False)
    assert (await gateway.http.get("/metrics")).status_code == 404


async def test_a_token_opens_it_and_nothing_else_does(gateways: Gateways) -> None:
    gateway = await gateways.start(metrics_token=SecretStr(TOKEN), allow_anonymous=True)
    good = await gateway.http.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert good.status_code == 200
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {TOKEN}"},
        {"x-api-key": TOKEN},
    ):
        refused = await gateway.http.get("/metrics", headers=headers)
        assert refused.status_code == 401, headers
        assert "agentmesh_" not in refused.text


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        (("192.0.2.7", 1), []),
        (None, []),
        (("127.0.0.1", 1), [(b"x-forwarded-for", b"192.0.2.7")]),
        (("127.0.0.1", 1), [(b"forwarded", b"for=192.0.2.7")]),
        (("127.0.0.1", 1), [(b"origin", b"https://evil.example")]),
        (("127.0.0.1", 1), [(b"host", b"evil.example")]),
    ],
)
async def test_without_a_token_only_this_machine_reads(
    client: tuple[str, int] | None, headers: list[tuple[bytes, bytes]]
) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        pytest.fail("the figures need no body")

    async def inner(*_: object) -> None:
        pytest.fail("the path is that of the figures")

    guard = CredentialGuard(0, 0)
    endpoint = MetricsEndpoint(inner, MeshMetrics(Metrics(), {}), None, guard)
    host = [] if any(name == b"host" for name, _ in headers) else [(b"host", b"localhost")]
    scope: Scope = {
        "path": "/metrics",
        "method": "GET",
        "headers": [*host, *headers],
        "client": client,
    }
    await endpoint(scope, receive, send)
    assert sent[0]["status"] == 401
