"""One stream for a chat client: requests are answered in order, and the subscription goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from agentmesh.conversation.v1 import conversation_pb2, stream_pb2
from agentmesh.conversation.v1.conversation_pb2 import CONVERSATION_VISIBILITY_TENANT
from agentmesh.conversation.v1.event_pb2 import APPROVAL_STATUS_APPROVED, Event, RunEnded
from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as store_pb2
from agentmesh.gateway.v1 import approval_service_pb2 as approvals_pb2
from agentmesh.gateway.v1 import conversation_service_pb2 as pb2
from agentmesh.gateway.v1.conversation_service_pb2_grpc import ConversationServiceStub
from agentmesh_gateway.servicers import chats
from meshkit.errors import STATUS_DETAILS_KEY, from_rich_status
from meshkit.testkit import HostFactory, raises_rich

from .conftest import Gateways
from .front import Front
from .scripted_store import Keys, ScriptedStore, heartbeat, start_scripted_store
from .scripted_store import events as scripted_events
from .tenants import caller
from .test_streams import forever

PATIENCE = 30.0
UNTIL_RUN_END = stream_pb2.SUBSCRIBE_UNTIL_RUN_END


class Chat:
    """A client of one stream, which keeps what it read of the subscription."""

    def __init__(self, conversations: Any, **call: Any) -> None:
        self.call: Any = conversations.Converse(timeout=PATIENCE, **call)
        self.events: list[Event] = []
        self.token = ""

    async def send(self, request_id: str = "", **command: Any) -> None:
        """One request."""
        await self.call.write(pb2.ConverseRequest(request_id=request_id, **command))

    async def ask(self, request_id: str = "", **command: Any) -> pb2.ConverseAck:
        """One request and its answer."""
        await self.send(request_id, **command)
        return await self.ack()

    async def ack(self) -> pb2.ConverseAck:
        """The next answer."""
        while True:
            response = await self.call.read()
            assert response is not grpc.aio.EOF
            assert isinstance(response, pb2.ConverseResponse)
            if response.HasField("ack"):
                return response.ack
            self._take(response.item)

    async def rest(self) -> list[Event]:
        """Every event until the stream ends."""
        while (response := await self.call.read()) is not grpc.aio.EOF:
            assert not response.HasField("ack")
            self._take(response.item)
        return self.events

    async def until(self, kind: str) -> Event:
        """Reads on until there is an event of that kind."""
        while True:
            for event in self.events:
                if event.WhichOneof("kind") == kind:
                    return event
            response = await self.call.read()
            assert response is not grpc.aio.EOF
            self._take(response.item)

    def _take(self, item: stream_pb2.StreamItem) -> None:
        self.events += item.events.events
        self.token = item.resume_token or self.token


@pytest_asyncio.fixture
async def chat(front: Front) -> AsyncIterator[Chat]:
    chat = Chat(front.conversations)
    yield chat
    chat.call.cancel()


def refused(ack: pb2.ConverseAck, code: grpc.StatusCode) -> str:
    """What an answer says went wrong."""
    assert ack.WhichOneof("outcome") == "error", ack
    error = from_rich_status(ack.error)
    assert error.code is code, ack
    return error.message


async def opened(chat: Chat, request_id: str = "", **fields: Any) -> pb2.ConverseOpened:
    ack = await chat.ask(request_id, open=pb2.ConverseOpen(**fields))
    assert ack.WhichOneof("outcome") == "opened", ack
    return ack.opened


def start(**fields: Any) -> pb2.StartConversationRequest:
    return pb2.StartConversationRequest(task="chat", agents=["developer"], **fields)


async def test_a_conversation_is_started_spoken_to_and_cancelled_on_one_stream(
    front: Front, chat: Chat
) -> None:
    ack = await chat.ask("r1", open=pb2.ConverseOpen(start=start(), until=UNTIL_RUN_END))
    assert ack.request_id == "r1"
    assert ack.opened.status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    assert ack.opened.run_id.startswith("run_")
    said = await chat.ask("r2", send_message=pb2.SendMessageRequest(content="hello"))
    assert said.request_id == "r2"
    assert said.send_message.conversation_id == ack.opened.conversation_id
    pong = await chat.ask("r3", ping=pb2.ConversePing())
    assert pong.pong.time.seconds > 0
    paused = await chat.ask("r4", pause=pb2.PauseConversationRequest())
    assert paused.WhichOneof("outcome") == "pause"
    resumed = await chat.ask("r5", resume=pb2.ResumeConversationRequest())
    assert resumed.resume.status == conversation_pb2.CONVERSATION_STATUS_RUNNING
    cancelled = await chat.ask("r6", cancel=pb2.CancelConversationRequest(reason="enough"))
    assert cancelled.cancel.status == conversation_pb2.CONVERSATION_STATUS_CANCELLED
    await chat.call.done_writing()
    events = await chat.rest()
    assert await chat.call.code() is grpc.StatusCode.OK
    assert events[-1].WhichOneof("kind") == "run_ended"
    page = await front.conversations.ListEvents(
        pb2.ListEventsRequest(conversation_id=ack.opened.conversation_id)
    )
    assert events == list(page.events)


async def test_a_bad_request_is_answered_and_ends_nothing(chat: Chat) -> None:
    early = await chat.ask("r0", send_message=pb2.SendMessageRequest(content="hello"))
    assert "must open" in refused(early, grpc.StatusCode.INVALID_ARGUMENT)
    for opening in (
        pb2.ConverseOpen(),
        pb2.ConverseOpen(conversation_id="conv_1", start=start()),
        pb2.ConverseOpen(conversation_id="conv_1", until=stream_pb2.SUBSCRIBE_UNTIL_HEAD),
        pb2.ConverseOpen(conversation_id="conv_1", after_sequence=-1),
        pb2.ConverseOpen(start=pb2.StartConversationRequest(agents=["developer"])),
        pb2.ConverseOpen(start=start(request_id="another")),
    ):
        ack = await chat.ask("r1", open=opening)
        assert ack.request_id == "r1"
        refused(ack, grpc.StatusCode.INVALID_ARGUMENT)
    unknown = await chat.ask("r2", open=pb2.ConverseOpen(conversation_id="conv_nowhere"))
    refused(unknown, grpc.StatusCode.NOT_FOUND)

    conversation_id = (await opened(chat, start=start())).conversation_id
    bad: tuple[dict[str, Any], ...] = (
        {},
        {"open": pb2.ConverseOpen(conversation_id=conversation_id)},
        {"send_message": pb2.SendMessageRequest(content="")},
        {"send_message": pb2.SendMessageRequest(content="a", conversation_id="conv_other")},
        {"send_message": pb2.SendMessageRequest(content="a", request_id="another")},
        {"resolve_approval": approvals_pb2.ResolveApprovalRequest(approval_id="appr_1")},
    )
    for number, command in enumerate(bad):
        ack = await chat.ask(f"bad{number}", **command)
        assert ack.request_id == f"bad{number}"
        refused(ack, grpc.StatusCode.INVALID_ARGUMENT)
    nowhere = approvals_pb2.ResolveApprovalRequest(
        approval_id="appr_1", decision=APPROVAL_STATUS_APPROVED
    )
    refused(await chat.ask(resolve_approval=nowhere), grpc.StatusCode.NOT_FOUND)
    said = await chat.ask("good", send_message=pb2.SendMessageRequest(content="hello"))
    assert said.send_message.sequence > 0


async def test_requests_sent_at_once_are_answered_in_order(chat: Chat) -> None:
    await opened(chat, start=start())
    for number in range(20):
        content = "" if number % 5 == 4 else f"message {number}"
        await chat.send(f"order{number}", send_message=pb2.SendMessageRequest(content=content))
    answers = [await chat.ack() for _ in range(20)]
    assert [ack.request_id for ack in answers] == [f"order{number}" for number in range(20)]
    sequences = [ack.send_message.sequence for ack in answers if ack.HasField("send_message")]
    assert sequences == sorted(sequences)
    assert len(sequences) == 16


async def test_a_broken_stream_is_opened_again_with_the_same_requests(
    front: Front, gateways: Gateways
) -> None:
    """At another gateway, too."""
    other = await gateways.start(store_address=front.store.grpc_address)
    first = Chat(front.conversations)
    conversation_id = (await opened(first, "again", start=start())).conversation_id
    said = await first.ask("hello", send_message=pb2.SendMessageRequest(content="hello"))
    await first.until("message")
    seen, token = list(first.events), first.token
    first.call.cancel()

    second = Chat(ConversationServiceStub(other.channel))
    again = await opened(second, "again", start=start(), resume_token=token, until=UNTIL_RUN_END)
    assert again.conversation_id == conversation_id
    repeated = await second.ask("hello", send_message=pb2.SendMessageRequest(content="hello"))
    assert repeated.send_message == said.send_message
    await second.ask("enough", cancel=pb2.CancelConversationRequest())
    await second.call.done_writing()
    events = seen + await second.rest()
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    contents = [event.message.content for event in events if event.HasField("message")]
    assert contents.count("hello") == 1


class Restarting(ScriptedStore):
    """A conversation that has ended after its first event, until somebody says something. The
    events of that come only when `news` is set."""

    def __init__(self) -> None:
        super().__init__(self._log)
        self.news = asyncio.Event()
        self.status = conversation_pb2.CONVERSATION_STATUS_COMPLETED
        self.head = 1

    async def _log(
        self, request: store_pb2.SubscribeConversationRequest
    ) -> AsyncIterator[stream_pb2.StreamItem]:
        if request.after_sequence == 0 and not request.resume_token:
            yield scripted_events(1)
        if request.until == stream_pb2.SUBSCRIBE_UNTIL_HEAD:
            yield heartbeat(1)
            return
        await self.news.wait()
        yield scripted_events(2)
        ended = Event(sequence=3, conversation_id="conv_1", run_id="run_2", run_ended=RunEnded())
        yield stream_pb2.StreamItem(
            events=stream_pb2.EventBatch(events=[ended]), resume_token="token-3"
        )
        await asyncio.Event().wait()

    async def get_conversation(
        self, request: store_pb2.GetConversationRequest, context: Any
    ) -> store_pb2.GetConversationResponse:
        found = conversation_pb2.Conversation(
            conversation_id="conv_1", status=self.status, head_sequence=self.head
        )
        return store_pb2.GetConversationResponse(conversation=found)

    async def send_message(
        self, request: store_pb2.SendMessageRequest, context: Any
    ) -> store_pb2.SendMessageResponse:
        self.status, self.head = conversation_pb2.CONVERSATION_STATUS_RUNNING, 2
        return store_pb2.SendMessageResponse(sequence=2, run_id="run_2")


async def test_what_was_answered_counts_for_the_end(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    """A run that a request of this stream has started is followed, whatever was known before."""
    store = Restarting()
    host = await start_scripted_store(mesh_hosts, store)
    gateway = await gateways.start(store_address=host.grpc_address, heartbeat_seconds=0.2)
    stub: Any = ConversationServiceStub(gateway.channel)

    def watch(**fields: Any) -> Any:
        return stub.SubscribeConversation(
            pb2.SubscribeConversationRequest(conversation_id="conv_1", **fields), timeout=PATIENCE
        )

    staying = watch()
    await staying.read()
    # Others have asked how the conversation stands, and it had ended.
    assert [response async for response in watch(until=UNTIL_RUN_END)]
    chat = Chat(stub)
    await opened(chat, conversation_id="conv_1", until=UNTIL_RUN_END)
    await chat.until("message")
    await chat.ask(send_message=pb2.SendMessageRequest(content="go on"))
    await chat.call.done_writing()
    end = asyncio.create_task(chat.rest())
    for _ in range(3):
        await staying.read()  # heartbeats: what could have ended the stream has happened
    store.status, store.head = conversation_pb2.CONVERSATION_STATUS_COMPLETED, 3
    store.news.set()
    assert [event.sequence for event in await end] == [1, 2, 3]
    staying.cancel()


async def test_the_end_of_requests_alone_ends_nothing(chat: Chat) -> None:
    await opened(chat, start=start())
    await chat.call.done_writing()
    event = await chat.until("message")
    assert event.message.content == "chat"
    assert not chat.call.done()


async def test_who_may_only_read_watches(own_front: Front, mesh_hosts: HostFactory) -> None:
    admin = await caller(own_front, mesh_hosts, "admin")
    viewer = await caller(own_front, mesh_hosts, "viewer")
    started = await own_front.conversations.StartConversation(
        pb2.StartConversationRequest(
            task="t", agents=["developer"], visibility=CONVERSATION_VISIBILITY_TENANT
        ),
        metadata=admin.metadata,
    )
    conversation_id = started.conversation_id
    chat = Chat(own_front.conversations, metadata=viewer.metadata)
    refused(
        await chat.ask("r1", open=pb2.ConverseOpen(start=start())),
        grpc.StatusCode.PERMISSION_DENIED,
    )
    await opened(chat, conversation_id=conversation_id)
    refused(
        await chat.ask("r2", send_message=pb2.SendMessageRequest(content="hello")),
        grpc.StatusCode.PERMISSION_DENIED,
    )
    assert (await chat.until("message")).message.content == "t"
    chat.call.cancel()


async def test_nobody_holds_a_stream_without_a_conversation(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chats, "OPEN_SECONDS", 0.2)
    silent = Chat(front.conversations)
    with raises_rich(grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"):
        await silent.call.read()


async def test_a_stream_that_opens_nothing_just_ends(chat: Chat) -> None:
    await chat.call.done_writing()
    assert await chat.rest() == []
    assert await chat.call.code() is grpc.StatusCode.OK


async def test_a_revoked_key_and_a_drain_end_the_stream(
    gateways: Gateways, mesh_hosts: HostFactory
) -> None:
    keys = Keys("amk_1", "amk_2")
    store = await start_scripted_store(mesh_hosts, ScriptedStore(forever), keys)
    gateway = await gateways.start(store_address=store.grpc_address, key_cache_seconds=0.05)
    stub: Any = ConversationServiceStub(gateway.channel)
    revoked = Chat(stub, metadata=[("x-api-key", "amk_1")])
    drained = Chat(stub, metadata=[("x-api-key", "amk_2")])
    for chat in (revoked, drained):
        await opened(chat, conversation_id="conv_1")
    keys.secrets.remove("amk_1")
    with raises_rich(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID"):
        await revoked.rest()
    assert not drained.call.done()
    stopping = asyncio.create_task(gateway.host.stop())
    with raises_rich(grpc.StatusCode.UNAVAILABLE, "DRAINING"):
        await drained.rest()
    await stopping


async def test_bytes_that_are_no_request_end_the_stream(front: Front) -> None:
    send: Any = front.gateway.channel.stream_stream(
        "/agentmesh.gateway.v1.ConversationService/Converse"
    )
    call = send(timeout=PATIENCE)
    await call.write(b"\xff\xff\xff")
    with raises_rich(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_BODY"):
        await call.read()
    assert STATUS_DETAILS_KEY in dict(await call.trailing_metadata())
