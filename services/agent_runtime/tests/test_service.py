"""What can be asked of the service, and the spans that it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from agentmesh.agent_runtime.v1 import agent_runtime_service_pb2 as runtime_pb2
from agentmesh.agent_runtime.v1.agent_runtime_service_pb2_grpc import AgentRuntimeServiceStub
from agentmesh.catalog.v1 import agent_pb2, team_pb2, tool_pb2
from agentmesh.common.v1 import options_pb2, trace_service_pb2
from agentmesh.common.v1.trace_service_pb2_grpc import TraceServiceStub
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceStub
from meshkit.channels import MeshChannels
from meshkit.identity import Principal, principal_scope
from meshkit.testkit import test_settings

from services.agent_runtime.tests.memory_world import agent, team
from services.agent_runtime.tests.real_mesh import RealMesh
from tests.support.model_server import Fault, ModelServer, Reply

ADMIN = Principal("root", "acme", options_pb2.ROLE_ADMIN, "gateway")


@pytest_asyncio.fixture
async def mesh(tmp_path: Path, model_server: ModelServer) -> AsyncIterator[RealMesh]:
    mesh = RealMesh(tmp_path, OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=model_server.base_url)
    await mesh.start()
    yield mesh
    await mesh.close()


@pytest_asyncio.fixture
async def channels(tmp_path: Path) -> AsyncIterator[MeshChannels]:
    channels = MeshChannels("gateway", test_settings(tmp_path / "caller"))
    with principal_scope(ADMIN):
        yield channels
    await channels.close()


async def test_the_service_answers_for_itself(
    mesh: RealMesh, channels: MeshChannels, model_server: ModelServer
) -> None:
    channel = channels.channel(mesh.runtimes[0].grpc_address, "agent_runtime")
    runtime = AgentRuntimeServiceStub(channel)
    with principal_scope(ADMIN):
        models = await runtime.ListModels(runtime_pb2.ListModelsRequest())
        assert models.default_model == "gpt-4"
        assert {m.name for m in models.models} >= {"gpt-4", "scripted"}
        catalog = CatalogServiceStub(
            channels.channel(mesh.store.grpc_address, "conversation_store")
        )
        await _check_definitions(runtime, catalog)
        published = await _published(catalog)
        assert published == ["developer", "project_manager", "reviewer"]
        await _drain_and_undo(mesh, runtime, model_server)


async def _check_definitions(runtime: Any, catalog: Any) -> None:
    wordy = tool_pb2.ToolDefinition(name="wordy", description="word " * 60)
    await catalog.PutDocument(
        catalog_pb2.PutDocumentRequest(
            document=catalog_pb2.Document(
                kind=catalog_pb2.DOCUMENT_KIND_TOOL, name="wordy", tool=wordy
            )
        )
    )
    narrow = agent_pb2.ContextPolicy(token_limited=agent_pb2.TokenLimitedContext(max_tokens=50))
    request = runtime_pb2.CheckDefinitionsRequest(
        agents=[
            agent_pb2.AgentDefinition(id="a", component="x"),
            agent_pb2.AgentDefinition(id="fine"),
            agent_pb2.AgentDefinition(id="c", tools=["wordy"], context=narrow),
            agent_pb2.AgentDefinition(id="d", tools=["not_there"], context=narrow),
        ],
        teams=[
            team_pb2.TeamDefinition(
                id="t",
                kind=team_pb2.TEAM_KIND_SWARM,
                participants=[team_pb2.Participant(agent_id="who")],
            )
        ],
    )
    response = await runtime.CheckDefinitions(request)
    assert [finding.path for finding in response.findings] == [
        "agents[0].component",
        "agents[2].context.token_limited.max_tokens",
        "teams[0].participants[0]",
    ]


async def _published(catalog: Any) -> list[str]:
    request = catalog_pb2.ListDocumentsRequest(kind=catalog_pb2.DOCUMENT_KIND_AGENT)
    async with asyncio.timeout(20):
        while not (documents := (await catalog.ListDocuments(request)).documents):
            await asyncio.sleep(0.05)
    return sorted(document.name for document in documents)


async def _drain_and_undo(mesh: RealMesh, runtime: Any, model_server: ModelServer) -> None:
    model_server.delay = 1.0
    conversation = await mesh.begin(team(agent("alice")), "begin", max_rounds=3)
    async with asyncio.timeout(20):
        while not model_server.requests:
            await asyncio.sleep(0.01)
    (turn,) = (await runtime.ListActiveTurns(runtime_pb2.ListActiveTurnsRequest())).turns
    assert turn.conversation_id == conversation
    assert turn.tenant == "acme"
    assert turn.activity == "alice asks test-model"
    assert (await runtime.Drain(runtime_pb2.DrainRequest())).active_turns == 1
    async with asyncio.timeout(20):
        while (await runtime.ListActiveTurns(runtime_pb2.ListActiveTurnsRequest())).turns:
            await asyncio.sleep(0.02)
    assert len(model_server.requests) == 1, "it took another turn while it drained"
    model_server.delay = 0
    await runtime.Drain(runtime_pb2.DrainRequest(undo=True))
    await mesh.settled(conversation)
    assert len(model_server.requests) == 3


async def test_spans_of_turns_and_models_belong_to_the_run(
    mesh: RealMesh, channels: MeshChannels, model_server: ModelServer
) -> None:
    model_server.reply_with(Reply("a secret word"))
    conversation = await mesh.begin(team(agent("alice")), "the task", max_rounds=2)
    ended = await mesh.settled(conversation)
    trace_id = ended.run.traceparent.split("-")[1]
    channel = channels.channel(mesh.runtimes[0].grpc_address, "agent_runtime")
    with principal_scope(ADMIN):
        response = await TraceServiceStub(channel).ListSpans(
            trace_service_pb2.ListSpansRequest(trace_id=trace_id)
        )
    spans = {span.span_id: span for span in response.spans}
    chats = [span for span in response.spans if span.name == "chat test-model"]
    assert len(chats) == 2
    assert chats[0].attributes["gen_ai.usage.output_tokens"] == "3"
    assert chats[0].attributes["gen_ai.request.model"] == "test-model"
    assert len([span for span in response.spans if span.name == "agentmesh.turn"]) == 2
    for chat in chats:
        above = []
        while chat.parent_span_id in spans:
            chat = spans[chat.parent_span_id]
            above.append(chat.name)
        assert "agentmesh.turn" in above, above
    assert "secret" not in str(response)
    assert "the task" not in str(response)


async def test_spans_of_a_failed_turn_quote_nothing_and_are_the_tenants_alone(
    mesh: RealMesh, channels: MeshChannels, model_server: ModelServer
) -> None:
    model_server.fail_next(Fault(status=400, message="cannot answer 'the secret word'"))
    conversation = await mesh.begin(team(agent("alice")), "the task", max_rounds=2)
    ended = await mesh.settled(conversation)
    request = trace_service_pb2.ListSpansRequest(trace_id=ended.run.traceparent.split("-")[1])
    stub = TraceServiceStub(channels.channel(mesh.runtimes[0].grpc_address, "agent_runtime"))
    with principal_scope(ADMIN):
        response = await stub.ListSpans(request)
    failed = {s.name: s.status_message for s in response.spans if s.failed}
    assert failed["chat test-model"] == failed["agentmesh.turn"] == "ModelRefused"
    assert any(s.name.startswith("invoke_agent") for s in response.spans)
    assert any(
        s.name.endswith("/RecordStep") or s.name.endswith("/BeginStep") for s in response.spans
    )
    assert "secret" not in str(response)
    with principal_scope(Principal("spy", "evil", options_pb2.ROLE_ADMIN, "gateway")):
        assert not (await stub.ListSpans(request)).spans
