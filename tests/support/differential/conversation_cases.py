"""Cases of ConversationService."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh.common.v1 import options_pb2
from agentmesh.conversation.v1.stream_pb2 import SUBSCRIBE_UNTIL_HEAD
from agentmesh.conversation_store.v1.conversation_store_service_pb2 import EventFilter
from agentmesh.gateway.v1 import conversation_service_pb2 as conversations
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from tests.support.differential.registry import changes, reads
from tests.support.differential.world import World


@changes("ConversationService.StartConversation")
async def _start(world: World) -> Message:
    return conversations.StartConversationRequest(
        task="hello", agents=["reviewer"], max_rounds=1, labels={"a": "ö"}, request_id=world.name()
    )


@reads("ConversationService.GetConversation")
async def _get(world: World) -> Message:
    return conversations.GetConversationRequest(conversation_id=world.conversation_id)


@reads("ConversationService.ListConversations")
async def _list(world: World) -> Message:
    return conversations.ListConversationsRequest(page_size=1, agent="reviewer")


@changes("ConversationService.SendMessage")
async def _send(world: World) -> Message:
    conversation_id, _ = await world.waiting()
    return conversations.SendMessageRequest(
        conversation_id=conversation_id, content="go on\u2028", request_id=world.name()
    )


@reads("ConversationService.SubscribeConversation")
async def _subscribe(world: World) -> Message:
    return conversations.SubscribeConversationRequest(
        conversation_id=world.conversation_id, until=SUBSCRIBE_UNTIL_HEAD, after_sequence=1
    )


@reads("ConversationService.ListEvents")
async def _events(world: World) -> Message:
    return conversations.ListEventsRequest(
        conversation_id=world.conversation_id,
        newest_first=True,
        filter=EventFilter(kinds=["message", "run_ended"]),
    )


@changes("ConversationService.CancelConversation")
async def _cancel(world: World) -> Message:
    conversation_id, _ = await world.waiting()
    return conversations.CancelConversationRequest(conversation_id=conversation_id, reason="no")


@changes("ConversationService.PauseConversation")
async def _pause(world: World) -> Message:
    conversation_id, _ = await world.waiting()
    return conversations.PauseConversationRequest(conversation_id=conversation_id)


@changes("ConversationService.ResumeConversation")
async def _resume(world: World) -> Message:
    return conversations.ResumeConversationRequest(conversation_id=await world.paused())


@changes("ConversationService.UpdateConversation", without=["size_bytes"])
async def _update(world: World) -> Message:
    patch = conversations.ConversationPatch(labels={"k": "v"}, max_rounds=3)
    return conversations.UpdateConversationRequest(
        conversation_id=await world.finished(),
        conversation=patch,
        update_mask=FieldMask(paths=["labels", "max_rounds"]),
    )


@changes("ConversationService.ForkConversation")
async def _fork(world: World) -> Message:
    return conversations.ForkConversationRequest(conversation_id=world.conversation_id)


@changes("ConversationService.ShareConversation", without=["granted_at"])
async def _share(world: World) -> Message:
    return conversations.ShareConversationRequest(
        conversation_id=world.conversation_id, role=options_pb2.ROLE_USER
    )


@changes("ConversationService.UnshareConversation")
async def _unshare(world: World) -> Message:
    return conversations.UnshareConversationRequest(
        conversation_id=world.conversation_id, subject="key_of_somebody"
    )


@reads("ConversationService.ListGrants")
async def _list_grants(world: World) -> Message:
    return conversations.ListGrantsRequest(conversation_id=world.conversation_id)


@changes("ConversationService.DeleteConversation")
async def _delete(world: World) -> Message:
    return conversations.DeleteConversationRequest(conversation_id=await world.finished())


@reads("ConversationService.SubscribeTenant", items=1, without=["time"])
async def _subscribe_tenant(world: World) -> Message:
    # At once a heartbeat says where the stream begins.
    return conversations.SubscribeTenantRequest(filter=EventFilter(kinds=["redacted"]))


@reads("ConversationService.ExportConversation")
async def _export(world: World) -> Message:
    return conversations.ExportConversationRequest(conversation_id=world.conversation_id)


@changes("ConversationService.ImportConversation")
async def _import(world: World) -> Sequence[Message]:
    exported = await world.exported()
    half = len(exported) // 2
    return [
        conversations.ImportConversationRequest(chunk=exported[:half], request_id=world.name()),
        conversations.ImportConversationRequest(chunk=exported[half:]),
    ]


@reads("ConversationService.DebugConversation")
async def _debug(world: World) -> Message:
    return conversations.DebugConversationRequest(conversation_id=world.conversation_id)


@reads("ConversationService.GetTrace", without=["spans"])
async def _trace(world: World) -> Message:
    # Looking at a trace makes spans of its own.
    return conversations.GetTraceRequest(conversation_id=world.conversation_id)


@reads("ConversationService.CheckConversationsHealth")
async def _conversations_health(world: World) -> Message:
    return conversations.CheckConversationsHealthRequest()
