"""The client against a real gateway and a real store, each a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agentmesh.catalog.v1.agent_pb2 import AgentDefinition
from agentmesh.conversation_store.v1 import catalog_service_pb2 as catalog_pb2
from agentmesh.conversation_store.v1.catalog_service_pb2_grpc import CatalogServiceStub
from agentmesh_client import (
    AgentMesh,
    Budget,
    Event,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from meshkit.channels import MeshChannels
from meshkit.testkit import MeshProcess, test_settings

START = "agentmesh.gateway.v1.ConversationService/StartConversation"


@dataclass
class RealMesh:
    """Two processes and a client."""

    store: MeshProcess
    gateway: MeshProcess
    client: AgentMesh


@asynccontextmanager
async def running_mesh(
    folder: Path, gateway_settings: Mapping[str, str] | None = None
) -> AsyncIterator[RealMesh]:
    store = MeshProcess([sys.executable, "-m", "agentmesh_conversation_store"], folder / "store")
    async with store:
        await _publish_agents(folder, store.grpc_address)
        settings = {
            "APP_PORT": "0",
            "AGENTMESH_STORE_ADDRESS": store.grpc_address,
            "AGENTMESH_KEY_CACHE_SECONDS": "0",
            **(gateway_settings or {}),
        }
        command = [sys.executable, "-m", "agentmesh_gateway"]
        gateway = MeshProcess(command, folder / "gateway", settings)
        async with gateway:
            yield RealMesh(store, gateway, AgentMesh(gateway.grpc_address))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def processes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealMesh]:
    async with running_mesh(tmp_path_factory.mktemp("mesh")) as mesh:
        yield mesh


@pytest_asyncio.fixture
async def real(processes: RealMesh) -> AsyncIterator[RealMesh]:
    """Processes that tests share, and a client of the test's own."""
    async with AgentMesh(processes.gateway.grpc_address) as client:
        yield replace(processes, client=client)


@pytest_asyncio.fixture
async def own(tmp_path: Path) -> AsyncIterator[RealMesh]:
    """Processes to kill, and a store to make keys in."""
    async with running_mesh(tmp_path) as mesh:
        yield mesh


async def _publish_agents(folder: Path, store: str) -> None:
    channels = MeshChannels("agent_runtime", test_settings(folder))
    stub: Any = CatalogServiceStub(channels.channel(store, "conversation_store"))
    documents = [
        catalog_pb2.Document(
            kind=catalog_pb2.DOCUMENT_KIND_AGENT,
            name=name,
            agent=AgentDefinition(id=name, name=name.title()),
        )
        for name in ("writer", "critic")
    ]
    await stub.PublishDocuments(catalog_pb2.PublishDocumentsRequest(documents=documents))
    await channels.close()


async def test_a_conversation_from_start_to_cancel(real: RealMesh) -> None:
    mesh = real.client
    started = await mesh.start(
        "Write a haiku", agents=["writer", "critic"], time_limit=timedelta(hours=1)
    )
    assert (started.status, started.agents) == ("running", ("writer", "critic"))
    assert started.running
    assert await mesh.send(started.id, "about leases") > 0
    assert started.id in [found.id async for found in mesh.list(statuses=["running"])]
    assert await mesh.pause(started.id) == "paused"
    assert await mesh.resume(started.id) == "running"
    with pytest.raises(FailedPreconditionError):
        await mesh.send(started.id, "only if it is free", strategy="reject_if_running")
    budget = Budget(max_turns=3, max_tokens=1000, max_wall_time=timedelta(minutes=5))
    changed = await mesh.update(started.id, max_rounds=7, budget=budget, labels={"a": "b"})
    raw: Any = changed.raw
    assert raw.run.max_rounds == 7
    assert raw.run.budget == budget.to_proto()
    forked = await mesh.fork(started.id, at_sequence=3)
    assert forked.id != started.id
    assert await mesh.cancel(started.id) == "cancelled"

    kinds = [
        item.kind
        async for item in mesh.subscribe(started.id, until="run_end")
        if isinstance(item, Event)
    ]
    assert kinds[0] == "conversation_started"
    assert kinds[-1] == "run_ended"
    ended = await mesh.get(started.id)
    assert ended.messages[-1].content == "about leases"
    assert (ended.messages[-1].role, ended.messages[-1].agent) == ("user", "user")
    assert not ended.running
    assert ended.completed_at is not None


async def test_a_chat_outlives_the_gateway_and_says_nothing_twice(own: RealMesh) -> None:
    async with own.client.chat(task="Write a haiku", agents=["writer"], until="run_end") as chat:
        assert (chat.status, chat.conversation_id[:5]) == ("running", "conv_")
        first = await chat.send("about leases")
        with pytest.raises(InvalidArgumentError):
            await chat.send("")
        await own.gateway.sigkill()
        said = asyncio.create_task(chat.send("and about rain"))
        await own.gateway.restart()
        async with asyncio.timeout(60):
            assert await said == first + 1
        assert await chat.pause() == "paused"
        assert await chat.resume() == "running"
        assert await chat.cancel("enough") == "cancelled"
        await chat.finish()
        events = [item async for item in chat if isinstance(item, Event)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].kind == "run_ended"
    contents = [event.raw.message.content for event in events if event.kind == "message"]
    assert contents == ["Write a haiku", "about leases", "and about rain"]
    # A start that is asked again would make a second one once its request id is forgotten.
    assert len(await own.client.audit(method=START)) == 1


async def test_a_chat_with_nobody_raises(real: RealMesh) -> None:
    with pytest.raises(NotFoundError):
        async with real.client.chat("conv_nowhere"):
            pass


async def test_files_come_with_a_task_and_with_a_message(real: RealMesh, tmp_path: Path) -> None:
    mesh = real.client
    file = tmp_path / "cat.png"
    file.write_bytes(b"\x89PNG" + bytes(3 << 20))
    image = await mesh.attach(file)
    assert (image.media_type, image.filename, image.size) == ("image/png", "cat.png", 4 + (3 << 20))
    note = await mesh.attach(b"hello", media_type="text/plain", filename="note.txt")
    started = await mesh.start("Look", agents=["writer"], attachments=[image, note])
    await mesh.send(started.id, "Again", attachments=[image])
    task, again = (await mesh.get(started.id)).messages
    assert [p.blob.filename for p in task.raw.parts[1:]] == ["cat.png", "note.txt"]
    assert [p.blob.digest for p in again.raw.parts[1:]] == [image.digest]
    assert task.data is None
    await mesh.cancel(started.id)
    missing = replace(image, digest="0" * 64)
    with pytest.raises(NotFoundError) as caught:
        await mesh.start("Look", agents=["writer"], attachments=[image, missing])
    assert [v.field for v in caught.value.violations] == ["parts[1].blob.digest"]


async def test_a_run_is_waited_for(real: RealMesh) -> None:
    seen: list[str] = []

    def cancel_when_started(item: Any) -> None:
        seen.append(item.kind)
        if item.kind == "run_started":
            cancelling.append(asyncio.ensure_future(_cancel_newest(real.client)))

    cancelling: list[asyncio.Future[None]] = []
    ended = await real.client.run("x", agents=["writer"], on_item=cancel_when_started)
    assert ended.status == "cancelled"
    assert seen[-1] == "run_ended"


async def _cancel_newest(mesh: AgentMesh) -> None:
    async for found in mesh.list():
        await mesh.cancel(found.id)


async def test_a_subscription_outlives_gateway_and_store(own: RealMesh) -> None:
    mesh = own.client
    started = await mesh.start("x", agents=["writer"])
    subscription = mesh.subscribe(started.id, until="run_end")
    sequences: list[int] = []

    async def watch() -> None:
        async for item in subscription:
            if isinstance(item, Event):
                sequences.append(item.sequence)

    watching = asyncio.ensure_future(watch())
    await mesh.send(started.id, "one")
    await own.gateway.restart()
    await mesh.send(started.id, "two")
    await own.store.restart()
    await mesh.send(started.id, "three")
    await mesh.cancel(started.id)
    await asyncio.wait_for(watching, 30)
    assert sequences == list(range(1, len(sequences) + 1))
    assert subscription.sequence == sequences[-1]
    messages = (await mesh.get(started.id)).messages
    assert [message.content for message in messages][-3:] == ["one", "two", "three"]


async def test_the_feed_of_all_conversations_outlives_gateway_and_store(own: RealMesh) -> None:
    mesh = own.client
    feed = mesh.subscribe_tenant()
    seen: list[Event] = []

    async def watch() -> None:
        async for event in feed:
            seen.append(event)

    watching = asyncio.ensure_future(watch())
    while not feed.resume_token:
        await asyncio.sleep(0.01)
    ids = [(await mesh.start("one", agents=["writer"])).id]
    await own.gateway.restart()
    ids.append((await mesh.start("two", agents=["critic"])).id)
    await own.store.restart()
    await mesh.send(ids[0], "three")
    async with asyncio.timeout(30):
        while len(seen) < 7:
            await asyncio.sleep(0.05)
    watching.cancel()
    logged = [
        item
        for conversation_id in ids
        async for item in mesh.subscribe(conversation_id, until="head")
        if isinstance(item, Event)
    ]
    assert sorted(seen, key=lambda event: (ids.index(event.conversation_id), event.sequence)) == (
        logged
    )


async def test_another_goes_on_behind_the_event_at_which_one_left(real: RealMesh) -> None:
    feed = real.client.subscribe_tenant()
    first = asyncio.ensure_future(anext(aiter(feed)))
    while not feed.resume_token:
        await asyncio.sleep(0.01)
    started = await real.client.start("x", agents=["writer"])
    seen = [await asyncio.wait_for(first, 30)]
    # What follows was committed with it.
    for _ in range(2):
        feed = real.client.subscribe_tenant(resume_token=feed.resume_token)
        seen.append(await asyncio.wait_for(anext(aiter(feed)), 30))
    assert [(event.conversation_id, event.sequence) for event in seen] == [
        (started.id, sequence) for sequence in (1, 2, 3)
    ]


async def test_errors_are_typed_and_say_what_to_do(real: RealMesh) -> None:
    mesh = real.client
    with pytest.raises(InvalidArgumentError) as invalid:
        await mesh.start("x", agents=["writer", "nobody"])
    assert invalid.value.violations[0].field == "agents[1]"
    with pytest.raises(NotFoundError) as missing:
        await mesh.get("conv_nothing")
    assert missing.value.reason == "NOT_FOUND"
    with pytest.raises(UnavailableError) as unavailable:
        async with AgentMesh(real.gateway.grpc_address, retry_for=0) as hasty:
            await hasty.agents.register("poet", system_message="You write.")
    assert unavailable.value.metadata["service"] == "agent_runtime"


async def test_keys_and_agents(own: RealMesh) -> None:
    address = own.gateway.grpc_address
    agents = await own.client.agents.list()
    assert [(agent.id, agent.built_in) for agent in agents] == [("critic", True), ("writer", True)]
    admin = await own.client.keys.create("admin", name="first")
    with pytest.raises(UnauthenticatedError) as refused:
        await own.client.agents.list()
    assert refused.value.reason == "CREDENTIALS_MISSING"
    async with AgentMesh(address, api_key=admin.secret) as boss:
        made = await boss.keys.create("viewer", ttl=timedelta(hours=1))
        async with AgentMesh(address, api_key=made.secret) as viewer:
            assert (await viewer.agents.get("writer")).name == "Writer"
            with pytest.raises(PermissionDeniedError):
                await viewer.start("x", agents=["writer"])
            await boss.keys.revoke(made.id)
            with pytest.raises(UnauthenticatedError):
                await viewer.agents.list()
        narrow = await boss.keys.create("admin", scopes=["agents:read", "keys:write"])
        assert (narrow.scopes, narrow.created_by) == (("agents:read", "keys:write"), admin.id)
        async with AgentMesh(address, api_key=narrow.secret) as limited:
            await limited.agents.list()
            with pytest.raises(PermissionDeniedError) as no_scope:
                await limited.keys.list()
            assert no_scope.value.reason == "SCOPE_MISSING"
            for attempt in (limited.keys.create("viewer"), limited.keys.rotate(admin.id)):
                with pytest.raises(PermissionDeniedError) as too_wide:
                    await attempt
                assert too_wide.value.reason == "GRANT_TOO_WIDE"
        rotated = await boss.keys.rotate(narrow.id)
        ended = await boss.keys.rotate(narrow.id, overlap=timedelta())
        async with AgentMesh(address, api_key=ended.secret) as again:
            await again.agents.list()
        async with AgentMesh(address, api_key=rotated.secret) as late:
            with pytest.raises(UnauthenticatedError):
                await late.agents.list()
        assert {key.id for key in await boss.keys.list()} == {admin.id, made.id, narrow.id}
        assert (await boss.health()).services["conversation_store"] == "serving"


async def _read_to_the_end(items: AsyncIterator[Any]) -> None:
    async for _ in items:
        pass


async def test_a_stopped_gateway_ends_cleanly(own: RealMesh) -> None:
    started = await own.client.start("x", agents=["writer"])
    received = aiter(own.client.subscribe(started.id, reconnect_for=0.2))
    await anext(received)
    assert await own.gateway.sigterm(within=15) == 0
    with pytest.raises(UnavailableError):
        await _read_to_the_end(received)
    assert "Traceback" not in own.gateway.log()


async def test_conversations_are_shared_with_others(own: RealMesh) -> None:
    address = own.gateway.grpc_address
    admin = await own.client.keys.create("admin")
    async with AgentMesh(address, api_key=admin.secret) as boss:
        mine, theirs = [await boss.keys.create("user") for _ in range(2)]
    async with (
        AgentMesh(address, api_key=mine.secret) as owner,
        AgentMesh(address, api_key=theirs.secret) as guest,
    ):
        started = await owner.start("x", agents=["writer"])
        assert (started.owner, started.visibility) == (mine.id, "private")
        with pytest.raises(NotFoundError):
            await guest.get(started.id)
        grant = await owner.sharing.share(started.id, subject=theirs.id)
        assert (grant.subject, grant.role, grant.access) == (theirs.id, "", "read")
        assert (await guest.get(started.id)).owner == mine.id
        with pytest.raises(PermissionDeniedError) as refused:
            await guest.send(started.id, "hello")
        assert refused.value.reason == "ACCESS_TOO_LOW"
        await owner.sharing.share(started.id, role="user", access="write")
        await guest.send(started.id, "hello")
        shared = [(g.subject, g.role, g.access) for g in await owner.sharing.list(started.id)]
        assert shared == [("", "user", "write"), (theirs.id, "", "read")]
        await owner.sharing.unshare(started.id, role="user")
        await owner.sharing.unshare(started.id, subject=theirs.id)
        with pytest.raises(NotFoundError):
            await guest.get(started.id)
        opened = await owner.update(started.id, visibility="tenant")
        assert opened.visibility == "tenant"
        assert (await guest.get(started.id)).visibility == "tenant"
        with pytest.raises(PermissionDeniedError):
            await guest.start("x", agents=["writer"], owner=mine.id)
