"""Whose conversations are, and who else may read them or take part, over gRPC and in SQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc
import pytest
from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1 import conversation_pb2
from agentmesh.conversation_store.v1 import (
    ledger_service_pb2,
    workspace_service_pb2,
)
from agentmesh.conversation_store.v1.ledger_service_pb2_grpc import LedgerServiceStub
from agentmesh.conversation_store.v1.workspace_service_pb2_grpc import WorkspaceServiceStub
from agentmesh_conversation_store.domain.access import Access, Caller, Grantee
from agentmesh_conversation_store.domain.model import Visibility
from agentmesh_conversation_store.domain.sharing import ShareConversation
from agentmesh_conversation_store.storage.interface import Storage
from meshkit.identity import Principal
from meshkit.policy import rules_of_component
from meshkit.roles import Role, includes
from meshkit.testkit import raises_rich

from services.conversation_store.tests.driver import Reader, RunningStore
from services.conversation_store.tests.histories import World
from services.conversation_store.tests.support import acting, start_command, store_pb

ALICE = Principal("key:alice", "acme", Role.USER)
BOB = Principal("key:bob", "acme", Role.USER)
VERA = Principal("key:vera", "acme", Role.VIEWER)
BOT = Principal("key:bot", "acme", Role.SERVICE)
OPERATOR = Principal("key:olga", "acme", Role.OPERATOR)
READ = conversation_pb2.CONVERSATION_ACCESS_READ
WRITE = conversation_pb2.CONVERSATION_ACCESS_WRITE
SHARE = conversation_pb2.CONVERSATION_ACCESS_SHARE
PRIVATE = conversation_pb2.CONVERSATION_VISIBILITY_PRIVATE
TENANT = conversation_pb2.CONVERSATION_VISIBILITY_TENANT

Ask = Callable[..., Awaitable[Any]]


def hidden() -> AbstractContextManager[Any]:
    """For this caller there is no such conversation."""
    return raises_rich(grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


def refused() -> AbstractContextManager[Any]:
    """It may be read only."""
    return raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ACCESS_TOO_LOW")


def asking(store: RunningStore, method: str) -> Ask:
    """A method of the store, called for somebody."""

    async def ask(principal: Principal, **fields: Any) -> Any:
        request = getattr(store_pb, f"{method}Request")(**fields)
        return await getattr(store.conversations, method)(request, metadata=acting(principal))

    return ask


async def listed(store: RunningStore, principal: Principal, **fields: Any) -> list[str]:
    """The ids of a page."""
    page = await asking(store, "ListConversations")(principal, **fields)
    return [one.conversation_id for one in page.conversations]


async def test_a_conversation_is_its_owners_until_it_is_shared(store: RunningStore) -> None:
    made = await store.start_conversation(ALICE)
    assert (made.owner, made.visibility) == (ALICE.subject, PRIVATE)
    name = made.conversation_id
    send, share = asking(store, "SendMessage"), asking(store, "ShareConversation")
    for stranger in (BOB, VERA, BOT):
        with hidden():
            await store.get(name, stranger)
        with hidden():
            await asking(store, "ShareConversation")(
                BOB, conversation_id=name, subject=BOB.subject, access=WRITE
            )
    with hidden():
        await send(BOB, conversation_id=name, content="let me in")
    await share(ALICE, conversation_id=name, subject=BOB.subject)
    assert (await store.get(name, BOB)).conversation_id == name
    with refused():
        await send(BOB, conversation_id=name, content="let me speak")
    with refused():
        await asking(store, "ListGrants")(BOB, conversation_id=name)
    await share(ALICE, conversation_id=name, subject=BOB.subject, access=WRITE)
    await send(BOB, conversation_id=name, content="at last")
    with refused():
        await share(BOB, conversation_id=name, subject=VERA.subject)
    await asking(store, "UnshareConversation")(ALICE, conversation_id=name, subject=BOB.subject)
    with hidden():
        await store.get(name, BOB)
    with hidden():
        await send(BOB, conversation_id=name, content="still here")


async def test_what_is_foreign_is_told_like_what_does_not_exist(store: RunningStore) -> None:
    foreign = (await store.start_conversation(ALICE)).conversation_id
    none = "conv_" + "0" * (len(foreign) - len("conv_"))
    told: dict[str, list[tuple[str, bytes]]] = {foreign: [], none: []}
    for name, answers in told.items():
        for method, fields in (
            ("GetConversation", {}),
            ("SendMessage", {"content": "x"}),
            ("CheckAccess", {}),
            ("UnshareConversation", {"subject": "somebody"}),
            ("ForkConversation", {}),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await asking(store, method)(BOB, conversation_id=name, **fields)
            details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
            answers.append((str(caught.value.details()), bytes(details)))
    assert told[none] == [
        (text.replace(foreign, none), details.replace(foreign.encode(), none.encode()))
        for text, details in told[foreign]
    ]


async def test_roles_get_what_is_shared_with_roles(store: RunningStore) -> None:
    name = (await store.start_conversation(ALICE)).conversation_id
    share, check = asking(store, "ShareConversation"), asking(store, "CheckAccess")
    await share(ALICE, conversation_id=name, role=options_pb2.ROLE_USER)
    for caller in (BOB, BOT):
        assert (await check(caller, conversation_id=name)).access == READ
    with hidden():
        await check(VERA, conversation_id=name)
    await share(OPERATOR, conversation_id=name, role=options_pb2.ROLE_SERVICE, access=WRITE)
    assert (await check(BOT, conversation_id=name)).access == WRITE
    assert (await check(BOB, conversation_id=name)).access == READ
    with refused():
        await check(BOB, conversation_id=name, needed=WRITE)
    for caller in (ALICE, OPERATOR):
        assert (await check(caller, conversation_id=name)).access == SHARE
    grants = (await asking(store, "ListGrants")(ALICE, conversation_id=name)).grants
    assert [(g.role, g.access, g.granted_by) for g in grants] == [
        (options_pb2.ROLE_SERVICE, WRITE, OPERATOR.subject),
        (options_pb2.ROLE_USER, READ, ALICE.subject),
    ]


async def test_grants_come_in_pages(store: RunningStore) -> None:
    name = (await store.start_conversation(ALICE)).conversation_id
    for number in range(3):
        await asking(store, "ShareConversation")(
            ALICE, conversation_id=name, subject=f"key:{number}"
        )
    seen: list[str] = []
    token = ""
    while True:
        page = await asking(store, "ListGrants")(
            ALICE, conversation_id=name, page_size=2, page_token=token
        )
        seen += [grant.subject for grant in page.grants]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["key:0", "key:1", "key:2"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"subject": "key:x", "role": options_pb2.ROLE_USER},
        {"role": options_pb2.ROLE_ADMIN},
        {"subject": " key:x"},
        {"subject": "key:\x00"},
        {"subject": "x" * 513},
        {"subject": "key:x", "access": SHARE},
    ],
)
async def test_bad_grants_are_refused(store: RunningStore, fields: dict[str, Any]) -> None:
    name = (await store.start_conversation(ALICE)).conversation_id
    for method in ("ShareConversation", "UnshareConversation"):
        if method == "UnshareConversation" and "access" in fields:
            continue
        with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            await asking(store, method)(ALICE, conversation_id=name, **fields)


async def test_visibility_is_the_owners_to_change(store: RunningStore) -> None:
    made = await store.start_conversation(ALICE, visibility=TENANT)
    name = made.conversation_id
    assert made.visibility == TENANT
    assert (await store.get(name, VERA)).visibility == TENANT
    with refused():
        await asking(store, "SendMessage")(BOB, conversation_id=name, content="x")
    update = asking(store, "UpdateConversation")
    await asking(store, "ShareConversation")(
        ALICE, conversation_id=name, subject=BOB.subject, access=WRITE
    )
    await update(BOB, conversation_id=name, labels={"a": "b"}, set_labels=True)
    with refused():
        await update(BOB, conversation_id=name, visibility=PRIVATE)
    changed = await update(ALICE, conversation_id=name, visibility=PRIVATE)
    assert changed.conversation.visibility == PRIVATE
    assert changed.conversation.owner == ALICE.subject
    with hidden():
        await store.get(name, VERA)


async def test_the_policy_says_what_is_meant_by_default(store: RunningStore) -> None:
    admin = Principal("key:admin", "acme", Role.ADMIN)
    ledger: Any = LedgerServiceStub(store.channel)
    policy = ledger_service_pb2.TenantPolicy(default_visibility=TENANT)
    request = ledger_service_pb2.PutTenantPolicyRequest(policy=policy)
    await ledger.PutTenantPolicy(request, metadata=acting(admin))
    assert (await store.start_conversation(ALICE)).visibility == TENANT
    assert (await store.start_conversation(ALICE, visibility=PRIVATE)).visibility == PRIVATE


async def test_services_start_for_others_and_keep_access(store: RunningStore) -> None:
    with raises_rich(grpc.StatusCode.PERMISSION_DENIED, "ROLE_TOO_LOW"):
        await store.start_conversation(BOB, owner=ALICE.subject)
    made = await store.start_conversation(BOT, owner=ALICE.subject)
    assert made.owner == ALICE.subject
    check = asking(store, "CheckAccess")
    name = made.conversation_id
    assert (await check(ALICE, conversation_id=name)).access == SHARE
    assert (await check(BOT, conversation_id=name)).access == WRITE
    with hidden():
        await check(BOB, conversation_id=name)
    assert await listed(store, BOT) == [name]


async def test_a_fork_belongs_to_who_forks(store: RunningStore) -> None:
    name = (await store.start_conversation(ALICE)).conversation_id
    fork = asking(store, "ForkConversation")
    with hidden():
        await fork(BOB, conversation_id=name)
    await asking(store, "ShareConversation")(ALICE, conversation_id=name, subject=BOB.subject)
    made = (await fork(BOB, conversation_id=name)).conversation
    assert (made.owner, made.visibility) == (BOB.subject, PRIVATE)
    with hidden():
        await store.get(made.conversation_id, ALICE)


async def test_request_ids_of_different_users_have_nothing_to_do_with_each_other(
    store: RunningStore,
) -> None:
    mine = await store.start_conversation(ALICE, request_id="r")
    theirs = await store.start_conversation(BOB, request_id="r")
    assert mine.conversation_id != theirs.conversation_id
    assert await store.start_conversation(ALICE, request_id="r") == mine


async def test_lists_sums_and_feeds_hold_what_may_be_read(store: RunningStore) -> None:
    mine = (await store.start_conversation(ALICE, task="common mine")).conversation_id
    theirs = (await store.start_conversation(BOB, task="common theirs")).conversation_id
    opened = (await store.start_conversation(BOB, task="common", visibility=TENANT)).conversation_id
    assert await listed(store, ALICE) == [opened, mine]
    assert await listed(store, ALICE, text="common") == [opened, mine]
    assert await listed(store, ALICE, owner=BOB.subject) == [opened]
    assert await listed(store, OPERATOR, owner=BOB.subject) == [opened, theirs]
    await asking(store, "ShareConversation")(BOB, conversation_id=theirs, subject=ALICE.subject)
    assert await listed(store, ALICE) == [opened, theirs, mine]
    assert await listed(store, ALICE, page_size=1) == [opened]
    await asking(store, "UnshareConversation")(BOB, conversation_id=theirs, subject=ALICE.subject)
    request = store_pb.SubscribeTenantRequest()
    call = store.conversations.SubscribeTenant(request, metadata=acting(ALICE))
    reader = Reader(call)
    await reader.until(lambda r: bool(r.items))
    await asking(store, "SendMessage")(BOB, conversation_id=theirs, content="secret")
    await asking(store, "SendMessage")(ALICE, conversation_id=mine, content="own")
    await reader.until(lambda r: any(e.message.content == "own" for e in r.events))
    assert {event.conversation_id for event in reader.events} == {mine}
    reader.stop()


async def test_logs_streams_and_files_are_closed_to_others(store: RunningStore) -> None:
    name = (await store.start_conversation(ALICE)).conversation_id
    with hidden():
        await asking(store, "ListEvents")(BOB, conversation_id=name)
    for method in ("SubscribeConversation", "ExportConversation"):
        request = getattr(store_pb, f"{method}Request")(conversation_id=name)
        with hidden():
            async for _ in getattr(store.conversations, method)(request, metadata=acting(BOB)):
                break
    files: Any = WorkspaceServiceStub(store.channel)
    with hidden():
        await files.GetWorkspace(
            workspace_service_pb2.GetWorkspaceRequest(conversation_id=name), metadata=acting(BOB)
        )
    with hidden():
        await files.SaveWorkspace(
            workspace_service_pb2.SaveWorkspaceRequest(
                conversation_id=name,
                change=workspace_service_pb2.WorkspaceChange(
                    manifest=workspace_service_pb2.WorkspaceManifest()
                ),
            ),
            metadata=acting(BOB),
        )


async def test_grants_go_with_their_conversation(world: World) -> None:
    name = await world.start(owner="key:alice")
    storage = world.storage
    await storage.execute(ShareConversation("acme", name, Grantee("key:bob"), Access.READ, "a"))
    bob = Caller("key:bob", Role.USER)
    assert await storage.access("acme", name, bob) is Access.READ
    assert (await world.rows())["conversation_grants"] == 1
    await world.delete(name)
    assert await storage.access("acme", name, bob) is None
    await world.keep()
    assert (await world.rows())["conversation_grants"] == 0


async def test_what_is_older_than_owners_is_read_by_all_and_owned_by_nobody(
    storage: Storage,
) -> None:
    command = start_command(owner="", visibility=Visibility.TENANT)
    await storage.execute(command)
    for caller in (Caller("", Role.USER), Caller("key:bob", Role.VIEWER)):
        assert await storage.access("acme", command.conversation_id, caller) is Access.READ


FURTHER_FIELDS: dict[str, dict[str, Any]] = {
    "SendMessage": {"content": "x"},
    "ShareConversation": {"subject": "key:x"},
    "UnshareConversation": {"subject": "key:x"},
    "SaveWorkspace": {
        "change": workspace_service_pb2.WorkspaceChange(
            manifest=workspace_service_pb2.WorkspaceManifest()
        )
    },
}
"""What requests need beside a conversation."""
OF_ALL = {"ListApprovals"}
"""They filter by a conversation, and answer with what there is for the caller: nothing."""


async def test_no_method_of_the_store_tells_users_of_foreign_conversations(
    store: RunningStore,
) -> None:
    name = (await store.start_conversation(ALICE)).conversation_id
    for rules in rules_of_component("conversation_store"):
        request_class = rules.request_class
        if (
            rules.audience != options_pb2.AUDIENCE_INTERNAL
            or "conversation_id" not in request_class.DESCRIPTOR.fields_by_name
            or not includes(BOB.role, rules.required_role)
            or rules.name in OF_ALL
        ):
            continue
        request: Any = request_class
        message = request(conversation_id=name, **FURTHER_FIELDS.get(rules.name, {}))
        shape = "unary_stream" if rules.server_streaming else "unary_unary"
        call = getattr(store.channel, shape)(
            rules.path, request_serializer=request.SerializeToString
        )(message, metadata=acting(BOB))
        with hidden():
            if rules.server_streaming:
                async for _ in call:
                    raise AssertionError(f"{rules.name} answers")
            else:
                await call
