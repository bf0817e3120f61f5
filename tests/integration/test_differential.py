"""Every public method, called over gRPC and REST about the same state, answers the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

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
from tests.support.differential.over_grpc import call_over_grpc
from tests.support.differential.over_rest import call_over_rest
from tests.support.differential.world import ENVIRONMENT, KEY, TENANT, World
from tests.support.mesh import Mesh

METHODS = [method for service in PUBLIC_SERVICES for method in service.methods]
# A browser has it as a WebSocket, which has tests of its own.
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
