"""The stream that an import comes in."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

from agentmesh.conversation_store.v1 import conversation_store_service_pb2 as pb
from meshkit.errors import MeshError

from agentmesh_conversation_store.codec.resources import conversation_message
from agentmesh_conversation_store.domain.model import ConversationView
from agentmesh_conversation_store.storage.requests import Request

from .intake import next_of
from .repeatable import record_of_body

_PATIENCE_SECONDS = 60.0
_METHOD = pb.ImportConversationResponse.DESCRIPTOR.full_name


class ImportBody:
    """Reads it once. Whether two imports say the same is known when all bytes are here."""

    def __init__(self, requests: AsyncIterator[pb.ImportConversationRequest]) -> None:
        self._requests = requests
        self._request_id = ""
        self._digest = hashlib.sha256()

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes, as they come."""
        first = True
        while (request := await next_of(self._requests, _PATIENCE_SECONDS)) is not None:
            if first and "\0" in request.request_id:
                raise MeshError.invalid("request_id", "must not contain NUL")
            if first:
                self._request_id = request.request_id
            elif request.request_id:
                raise MeshError.invalid("request_id", "belongs into the first request alone")
            first = False
            self._digest.update(request.chunk)
            yield request.chunk

    def request(self, tenant: str) -> Request[ConversationView] | None:
        """What is kept of it, if the caller gave it an id."""
        if not self._request_id:
            return None
        digest = self._digest.digest()
        record = record_of_body(tenant, _METHOD, self._request_id, digest, import_response)
        # Not what the gateway saw of it, which is the beginning at most.
        return replace(record, digest=digest)


def import_response(made: ConversationView | bytes) -> pb.ImportConversationResponse:
    """The answer, or that of the first time."""
    if isinstance(made, bytes):
        return pb.ImportConversationResponse.FromString(made)
    return pb.ImportConversationResponse(conversation=conversation_message(made))
