"""Every public method, in every role, about conversations of every kind.

Nothing here is told by the product: who may what stands in this file, and what each method asks in
`authorisation_table`. Only the role that a method requires is read from the contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh.catalog.v1 import agent_pb2, team_pb2
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.conversation_store.v1.conversation_store_service_pb2_grpc import (
    ConversationStoreServiceStub,
)
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.approval_service_pb2 import ListApprovalsRequest
from agentmesh.gateway.v1.approval_service_pb2_grpc import ApprovalServiceStub
from agentmesh.gateway.v1.blob_service_pb2 import UploadBlobRequest
from agentmesh.gateway.v1.blob_service_pb2_grpc import BlobServiceStub
from agentmesh_gateway.public_api import PUBLIC_SERVICES
from meshkit.channels import call_metadata
from meshkit.identity import Principal
from meshkit.policy import MethodRules, method_rules
from meshkit.testkit import HostFactory

from .authorisation_table import TABLE, Asked, Need, Place
from .conftest import Gateways
from .front import Front, stand_before
from .mesh_behind import store_process
from .tenants import Caller, caller, store_stub
from .test_approvals import Worker

Code = grpc.StatusCode
Role = options_pb2.Role

MAY_ACT_AS = {
    "viewer": ("viewer",),
    "user": ("viewer", "user"),
    "service": ("viewer", "user", "service"),
    "operator": ("viewer", "user", "operator"),
    "admin": ("viewer", "user", "service", "operator", "admin"),
}
SEES_ALL = ("operator", "admin")
RELATIONS = {
    "own": Need.SHARE,
    "granted read": Need.READ,
    "granted write": Need.WRITE,
    "foreign": Need.NOTHING,
    "other tenant": None,
}
"""What each kind of conversation allows to those who do not see all."""

RULES = {
    f"{service.name}/{method.name}": method_rules(method)
    for service in PUBLIC_SERVICES
    for method in service.methods
}
PATIENCE = 20.0
CODES = {code.value[0]: code for code in Code}
SHAPES = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
REFUSED_TOO_SOON = "Internal error from Core"
"""What grpc's client says of itself if a call was refused while it still wrote to it."""


def test_every_public_method_is_in_the_table() -> None:
    assert RULES.keys() == TABLE.keys()


@pytest.mark.parametrize("name", RULES)
def test_every_public_method_says_who_may_call_it(name: str) -> None:
    rules = RULES[name]
    if rules.audience == options_pb2.AUDIENCE_PUBLIC:
        assert _role(rules) in MAY_ACT_AS
    else:
        assert rules.audience == options_pb2.AUDIENCE_ANYONE
        assert not rules.required_role


def _role(rules: MethodRules) -> str:
    return Role.Name(rules.required_role).removeprefix("ROLE_").lower()


def expected(rules: MethodRules, asked: Asked, role: str, relation: str) -> grpc.StatusCode:
    """What a caller must be answered."""
    if rules.audience == options_pb2.AUDIENCE_ANYONE:
        return asked.allowed
    if role == "none":
        return Code.UNAUTHENTICATED
    if _role(rules) not in MAY_ACT_AS[role]:
        return Code.PERMISSION_DENIED
    if asked.need is Need.NOTHING:
        return asked.allowed
    allows = RELATIONS[relation]
    if allows is None:
        return Code.NOT_FOUND
    if role in SEES_ALL or allows >= asked.need:
        return asked.allowed
    return Code.NOT_FOUND if allows is Need.NOTHING else Code.PERMISSION_DENIED


@dataclass
class World:
    """A gateway and a store, keys of every role, and conversations of every kind."""

    front: Front
    store: Any
    callers: dict[str, Caller | None]
    approvals: dict[tuple[str, str], Place]
    digest: str

    async def place(self, role: str, relation: str) -> Place:
        """A new conversation that stands so to whoever has the role."""
        key = self.callers[role]
        subject = key.key_id if key else "nobody"
        owner = Principal(
            subject if relation == "own" else "key_of_somebody",
            "elsewhere" if relation == "other tenant" else "acme",
            Role.Value("ROLE_USER"),
        )
        made = await self.store.StartConversation(_conversation(), metadata=call_metadata(owner))
        name = made.conversation.conversation_id
        if relation in ("granted read", "granted write"):
            access = relation.removeprefix("granted ").upper()
            grant = store_pb2.ShareConversationRequest(
                conversation_id=name,
                subject=subject,
                access=conversation_pb2.ConversationAccess.Value(f"CONVERSATION_ACCESS_{access}"),
            )
            await self.store.ShareConversation(grant, metadata=call_metadata(owner))
        return Place(name, digest=self.digest)


def _conversation() -> store_pb2.StartConversationRequest:
    agent = agent_pb2.AgentDefinition(id="developer", role="develops")
    team = team_pb2.TeamDefinition(
        id="solo",
        kind=team_pb2.TEAM_KIND_SINGLE,
        participants=[team_pb2.Participant(agent=agent)],
        max_rounds=3,
    )
    return store_pb2.StartConversationRequest(
        task="do it", definition=team, workflow="building", agents=["developer"], max_rounds=3
    )


@pytest_asyncio.fixture
async def world(
    gateways: Gateways, mesh_hosts: HostFactory, tmp_path: Path
) -> AsyncIterator[World]:
    """With an approval for each caller in each kind of conversation."""
    async with store_process(tmp_path / "store") as store:
        runner = await mesh_hosts.start("tool_runner", [])
        front = await stand_before(
            store,
            gateways,
            mesh_hosts,
            tool_runner_address=runner.grpc_address,
            key_cache_seconds=5.0,
        )
        callers: dict[str, Caller | None] = {"none": None}
        for role in MAY_ACT_AS:
            callers[role] = await caller(front, mesh_hosts, role)
        stub = store_stub(mesh_hosts, front, ConversationStoreServiceStub)
        made = World(front, stub, callers, {}, "")
        blobs: Any = BlobServiceStub(front.gateway.channel)
        administrator = callers["admin"]
        assert administrator is not None
        uploaded = await blobs.UploadBlob(
            iter([UploadBlobRequest(size_bytes=1, chunk=b"x")]), metadata=administrator.metadata
        )
        made.digest = uploaded.digest
        assert made.digest == hashlib.sha256(b"x").hexdigest()
        worker = Worker(mesh_hosts, store)
        for role in callers:
            for relation in RELATIONS:
                place = await made.place(role, relation)
                approval = f"appr_{role}_{relation.replace(' ', '_')}"
                assert await worker.ask(approval) == place.conversation_id
                made.approvals[role, relation] = replace(place, approval_id=approval)
        worker.leave()
        yield made


async def test_every_method_in_every_role_about_every_kind_of_conversation(world: World) -> None:
    wrong: list[str] = []
    for name, rules in RULES.items():
        asked = TABLE[name]
        cells = [
            (role, relation)
            for role in world.callers
            for relation in (RELATIONS if asked.need else ("own",))
        ]
        for role, relation in cells:
            place = world.approvals[role, relation]
            if asked.changes:
                place = await world.place(role, relation)
            key = world.callers[role]
            answered = await _call(world, rules, asked.messages(place), key)
            if answered[0] is not (wanted := expected(rules, asked, role, relation)):
                wrong.append(f"{name} as {role}, {relation}: {answered}, not {wanted}")
    assert not wrong, "\n".join(wrong)


async def test_approvals_and_conversations_are_listed_to_those_who_may_read_them(
    world: World,
) -> None:
    approvals: Any = ApprovalServiceStub(world.front.gateway.channel)
    conversations = world.front.conversations
    for role, key in world.callers.items():
        if key is None:
            continue
        readable = {
            place
            for (whose, relation), place in world.approvals.items()
            if relation != "other tenant"
            and (role in SEES_ALL or (whose == role and relation != "foreign"))
        }
        listed = await approvals.ListApprovals(ListApprovalsRequest(), metadata=key.metadata)
        assert {one.approval_id for one in listed.approvals} == {p.approval_id for p in readable}
        page = await conversations.ListConversations(
            pb2.ListConversationsRequest(page_size=500), metadata=key.metadata
        )
        found = {one.conversation_id for one in page.conversations}
        assert found == {place.conversation_id for place in readable}


async def _call(
    world: World, rules: MethodRules, messages: list[Any], key: Caller | None
) -> tuple[grpc.StatusCode, str]:
    """How one call ends; a stream is left after its first answer."""
    request: Any = rules.request_class
    given = messages or [request()]
    shape = (rules.client_streaming, rules.server_streaming)
    method = getattr(world.front.gateway.channel, SHAPES[shape])(
        rules.path, request_serializer=request.SerializeToString
    )
    while True:
        call = method(
            iter(given) if rules.client_streaming else given[0],
            metadata=key.metadata if key else (),
            timeout=PATIENCE,
        )
        try:
            if rules.server_streaming:
                return await _first(call, rules)
            await call
        except grpc.aio.AioRpcError as error:
            if error.details() == REFUSED_TOO_SOON:
                continue
            return error.code(), error.details() or ""
        return Code.OK, ""


async def _first(call: Any, rules: MethodRules) -> tuple[grpc.StatusCode, str]:
    async for data in call:
        call.cancel()
        if rules.name == "Converse":
            ack = pb2.ConverseResponse.FromString(data).ack
            return CODES[ack.error.code], ack.error.message
        break
    return Code.OK, ""
