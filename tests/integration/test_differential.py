"""Every public method, called over gRPC and REST about the same state, answers the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from agentmesh.common.v1 import options_pb2
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from google.api import annotations_pb2
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from tests.support.differential.answers import differences
from tests.support.differential.cases import CASES
from tests.support.differential.chatting import (
    Chat,
    Frames,
    chat_over_grpc,
    chat_over_websocket,
)
from tests.support.differential.over_grpc import call_over_grpc
from tests.support.differential.over_rest import call_over_rest
from tests.support.differential.world import ENVIRONMENT, KEY, TENANT, World
from tests.support.mesh import Mesh

METHODS = [method for service in PUBLIC_SERVICES for method in service.methods]
# A browser has it as a WebSocket: it is compared frame by frame, at the end.
WITHOUT_REST = {"ConversationService.Converse"}
OVER_BOTH = [method for method in METHODS if method.GetOptions().HasExtension(annotations_pb2.http)]


def short_name(method: MethodDescriptor) -> str:
    return f"{method.containing_service.name}.{method.name}"


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(Mesh(tmp_path_factory.mktemp("differential"), ENVIRONMENT))

    async def prepare() -> None:
        await world.mesh.start()
        await world.mesh.create_key(KEY, TENANT, "admin")
        await world.prepare()
        await world.mesh.heal()  # closes the channels of this loop

    asyncio.run(prepare())
    yield world
    world.mesh.stop()


@pytest_asyncio.fixture
async def world(shared_world: World) -> AsyncIterator[World]:
    yield shared_world
    await shared_world.mesh.heal()


@pytest_asyncio.fixture
async def http(shared_world: World) -> AsyncIterator[httpx.AsyncClient]:
    url = shared_world.mesh.rest_url
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        yield client


@pytest_asyncio.fixture
async def channel(shared_world: World) -> AsyncIterator[grpc.aio.Channel]:
    """Without credentials of its own."""
    async with grpc.aio.insecure_channel(shared_world.mesh.address("gateway")) as channel:
        yield channel


def test_every_method_has_a_case() -> None:
    assert {short_name(method) for method in METHODS} == set(CASES) | WITHOUT_REST
    assert {short_name(method) for method in METHODS if method not in OVER_BOTH} == WITHOUT_REST


@pytest.mark.parametrize("method", OVER_BOTH, ids=short_name)
async def test_both_edges_answer_alike(
    world: World, http: httpx.AsyncClient, channel: grpc.aio.Channel, method: MethodDescriptor
) -> None:
    case = CASES[short_name(method)]
    metadata = [("authorization", world.bearer)]
    one, other = await case.make(world), await case.make(world)
    items = case.items
    by_grpc = await call_over_grpc(channel, method, _list(one), metadata, items=items)
    by_rest = await call_over_rest(http, method, _list(other), dict(metadata), items=items)
    assert by_grpc.error is None
    assert not differences(
        by_grpc.plain(same_object=case.reads, without=case.without),
        by_rest.plain(same_object=case.reads, without=case.without),
    )


@pytest.mark.parametrize("method", OVER_BOTH, ids=short_name)
async def test_both_edges_refuse_alike(
    world: World, http: httpx.AsyncClient, channel: grpc.aio.Channel, method: MethodDescriptor
) -> None:
    """About nothing that exists, and without anything that is required; then by a stranger."""
    about_nothing = _about_nothing(method)
    policy = method.GetOptions().Extensions[options_pb2.policy]
    for authorization in (world.bearer, "Bearer amk_0123456789abcdef_0123456789abcdef"):
        metadata = [("authorization", authorization)]
        by_grpc = await call_over_grpc(channel, method, about_nothing, metadata, items=1)
        by_rest = await call_over_rest(http, method, about_nothing, dict(metadata), items=1)
        if authorization != world.bearer and policy.audience != options_pb2.AUDIENCE_ANYONE:
            assert by_grpc.error is not None
            assert by_grpc.error.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
        same = by_grpc.error is not None
        assert not differences(by_grpc.plain(same_object=same), by_rest.plain(same_object=same))


async def _chats(
    world: World, channel: grpc.aio.Channel, one: Frames, other: Frames, bearer: str = ""
) -> tuple[Chat, Chat]:
    bearer = bearer or world.bearer
    return (
        await chat_over_grpc(channel, one, bearer),
        await chat_over_websocket(world.mesh.rest_url, other, bearer),
    )


def _opening(conversation_id: str) -> dict[str, Any]:
    return {"conversation_id": conversation_id, "until": "SUBSCRIBE_UNTIL_RUN_END"}


async def test_a_chat_sees_the_same_over_grpc_and_as_a_websocket(
    world: World, channel: grpc.aio.Channel
) -> None:
    """Of a conversation that is over: answers and events, to the last byte."""
    frames = [
        {"request_id": "a", "open": _opening(world.conversation_id)},
        {"request_id": "b", "ping": {}},
        {"request_id": "c", "open": _opening(world.conversation_id)},
        {"request_id": "d", "pause": {}},
        {"request_id": "e", "finish": {}},
    ]
    by_grpc, by_websocket = await _chats(world, channel, frames, frames)
    assert by_grpc.error is None
    assert by_grpc.outcomes == ["opened", "pong", "error", "error", "finished"]
    assert len(by_grpc.events) > 3
    assert not differences(by_grpc.plain(same_object=True), by_websocket.plain(same_object=True))


@pytest.mark.parametrize("does", ["pauses", "speaks", "answers"])
async def test_a_chat_changes_the_same_over_grpc_and_as_a_websocket(
    world: World, channel: grpc.aio.Channel, does: str
) -> None:
    async def frames() -> Frames:
        conversation_id, approval_id = await world.waiting()
        answer = {"approval_id": approval_id, "decision": "APPROVAL_STATUS_ANSWERED"}
        cancel = {"request_id": world.name(), "cancel": {"reason": "no"}}
        middle: dict[str, list[dict[str, Any]]] = {
            "pauses": [{"pause": {}}, {"resume": {}}],
            "speaks": [{"send_message": {"content": "go on\u2028"}}],
            "answers": [{"request_id": world.name(), "resolve_approval": answer}],
        }
        return [{"open": _opening(conversation_id)}, *middle[does], cancel, {"finish": {}}]

    by_grpc, by_websocket = await _chats(world, channel, await frames(), await frames())
    assert by_grpc.error is None
    assert "error" not in by_grpc.outcomes
    assert not differences(by_grpc.plain(same_object=False), by_websocket.plain(same_object=False))


async def test_a_chat_is_refused_the_same_over_grpc_and_as_a_websocket(
    world: World, channel: grpc.aio.Channel
) -> None:
    """Bad input is answered and ends nothing; a stranger gets nowhere."""
    bad: list[dict[str, Any]] = [
        {"request_id": "a", "send_message": {"content": "before it is open"}},
        {"request_id": "b"},
        {"request_id": "c", "open": {}},
        {"request_id": "d", "open": {"conversation_id": "conv_nothing"}},
        {"request_id": "e", "open": {"start": {"agents": ["a", "a"], "priority": 999}}},
        {"request_id": "f", "open": {"conversation_id": "x" * 200, "after_sequence": -1}},
        {"open": _opening(world.conversation_id)},
        {"request_id": "g", "send_message": {"content": ""}},
        {"request_id": "h", "send_message": {"content": "x", "conversation_id": "y"}},
        {"request_id": "i", "resolve_approval": {"approval_id": "appr_nothing"}},
        {"finish": {}},
    ]
    by_grpc, by_websocket = await _chats(world, channel, bad, bad)
    assert by_grpc.error is None
    assert by_grpc.outcomes == [*["error"] * 6, "opened", *["error"] * 3, "finished"]
    assert not differences(by_grpc.plain(same_object=True), by_websocket.plain(same_object=True))

    stranger = "Bearer amk_0123456789abcdef_0123456789abcdef"
    # Nothing is sent: a write to a call that is being refused can fail in the client before that.
    by_grpc, by_websocket = await _chats(world, channel, [], [], stranger)
    assert by_grpc.error is not None
    assert by_grpc.error.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    assert not differences(by_grpc.plain(same_object=True), by_websocket.plain(same_object=True))


def _list(requests: Message | Sequence[Message]) -> Sequence[Message]:
    return [requests] if isinstance(requests, Message) else requests


def _about_nothing(method: MethodDescriptor) -> Sequence[Message]:
    request = message_factory.GetMessageClass(method.input_type)()
    rule = method.GetOptions().Extensions[annotations_pb2.http]
    path = getattr(rule, rule.WhichOneof("pattern"))
    for field in method.input_type.fields:
        if f"{{{field.name}}}" in path or f"{{{field.name}=" in path:
            setattr(request, field.name, "nothing")
    if "page_size" in method.input_type.fields_by_name:
        setattr(request, "page_size", -1)  # noqa: B010  of a message of any type
    if "size_bytes" in method.input_type.fields_by_name:
        setattr(request, "size_bytes", 0)  # noqa: B010  as an empty body's Content-Length
    return [request]
