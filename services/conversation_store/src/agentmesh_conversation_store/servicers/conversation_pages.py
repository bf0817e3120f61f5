"""Lists of conversations, page by page."""

from __future__ import annotations

from collections.abc import Sequence

from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as pb
from meshkit.context import current_principal

from agentmesh_conversation_store.codec import tokens, values
from agentmesh_conversation_store.codec.resources import conversation_message
from agentmesh_conversation_store.domain.model import (
    ConversationStatus,
    ConversationView,
)
from agentmesh_conversation_store.domain.search import parse_query
from agentmesh_conversation_store.storage.interface import ConversationQuery, Storage

from .admittance import caller

_CONVERSATIONS_A_PAGE = 50


async def conversations_page(
    storage: Storage, request: pb.ListConversationsRequest
) -> pb.ListConversationsResponse:
    """What the caller may read of what matches, newest first. Raises Rejection, MeshError."""
    size = request.page_size or _CONVERSATIONS_A_PAGE
    query = ConversationQuery(
        limit=size + 1,
        before=_conversation_position(request.page_token),
        statuses=[ConversationStatus(status) for status in request.statuses if status],
        agent=request.agent,
        started_after=values.instant(request.started_after)
        if request.HasField("started_after")
        else None,
        started_before=values.instant(request.started_before)
        if request.HasField("started_before")
        else None,
        text=parse_query(request.text) if request.text else None,
        owner=request.owner,
        caller=caller(),
    )
    views = await storage.conversations(current_principal().tenant, query)
    return _conversation_page(views, size)


def _conversation_position(token: str) -> tuple[int, str] | None:
    if not token:
        return None
    started_at, conversation_id = tokens.page_position(token, "conversations", int, str)
    return started_at, conversation_id


def _conversation_page(
    views: Sequence[ConversationView], size: int
) -> pb.ListConversationsResponse:
    """`views` may hold one more than fits: then there is another page."""
    page = views[:size]
    token = ""
    if len(views) > size:
        last = page[-1].conversation
        token = tokens.page_token("conversations", last.started_at, last.conversation_id)
    return pb.ListConversationsResponse(
        conversations=[conversation_message(view) for view in page], next_page_token=token
    )
