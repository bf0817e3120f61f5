"""Replies that are given again to equal requests, in this process alone."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from agentmesh_agent_runtime.models.endpoints import Endpoint
from agentmesh_agent_runtime.models.replies import ModelReply, ModelRequest, Piece, ReplySource
from agentmesh_agent_runtime.turns.ports import Consumption, DeltaKind

MOST_ENTRIES = 1000
MOST_BYTES = 32 * 1024 * 1024
_WHOLE = frozenset({"stop", "tool_calls"})


class ReplyCache:
    """The replies used last, of at most `most_entries` requests and `most_bytes` bytes."""

    def __init__(self, *, most_entries: int = MOST_ENTRIES, most_bytes: int = MOST_BYTES) -> None:
        self._most_entries = most_entries
        self._most_bytes = most_bytes
        self._replies: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, digest: bytes) -> ModelReply | None:
        """The reply to that request, or None."""
        kept = self._replies.get(digest)
        if kept is None:
            return None
        self._replies.move_to_end(digest)
        return ModelReply.decode(kept)

    def put(self, digest: bytes, reply: ModelReply) -> None:
        """Keeps a reply; the ones that were not used for longest make room."""
        encoded = reply.encode()
        if len(encoded) > self._most_bytes:
            return
        self._bytes += len(encoded) - len(self._replies.pop(digest, b""))
        self._replies[digest] = encoded
        while len(self._replies) > self._most_entries or self._bytes > self._most_bytes:
            _, dropped = self._replies.popitem(last=False)
            self._bytes -= len(dropped)


class CachedReplySource:
    """A model that is asked only what it was not asked before by the same tenant.

    A reply out of the cache used no tokens, cost nothing and is marked as `cached`.
    """

    def __init__(self, source: ReplySource, endpoint: Endpoint, cache: ReplyCache) -> None:
        self._source = source
        self._cache = cache
        self._settings = _settings(source.provider, endpoint)
        self.provider = source.provider
        self.model = source.model
        self.info = source.info

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | ModelReply, None]:
        """See ReplySource."""
        digest = _digest(self._settings, request)
        kept = self._cache.get(digest)
        if kept is not None:
            reply = replace(kept, usage=Consumption(), cached=True)
            for piece in _pieces(reply):
                yield piece
            yield reply
            return
        async for item in self._source.stream(request):
            if isinstance(item, ModelReply) and item.finish_reason in _WHOLE:
                self._cache.put(digest, item)
            yield item


def _pieces(reply: ModelReply) -> list[Piece]:
    pieces = [
        Piece(DeltaKind.REASONING, reply.reasoning),
        Piece(DeltaKind.TEXT, reply.text),
        *(Piece(DeltaKind.TOOL_ARGUMENTS, call.arguments_json) for call in reply.calls),
    ]
    return [piece for piece in pieces if piece.text]


def _settings(provider: str, endpoint: Endpoint) -> list[Any]:
    return [
        provider,
        endpoint.base_url,
        endpoint.model,
        endpoint.temperature,
        endpoint.max_tokens,
        endpoint.extra,
    ]


def _digest(settings: list[Any], request: ModelRequest) -> bytes:
    """SHA-256 over all that the answer depends on, and whose request it is."""
    choice = request.tool_choice
    whole = [
        request.tenant,
        settings,
        [message.model_dump(mode="json") for message in request.messages],
        [tool if isinstance(tool, dict) else tool.schema for tool in request.tools],
        choice if isinstance(choice, str) else choice.name,
        repr(request.json_output),
        request.output_schema,
    ]
    return hashlib.sha256(json.dumps(whole, sort_keys=True, default=str).encode()).digest()
