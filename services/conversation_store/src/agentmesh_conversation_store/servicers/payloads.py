"""Moves what is large in a message out of the log, before the message is recorded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from agentmesh.conversation.v1 import event_pb2, message_pb2
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from meshkit.errors import MeshError

from agentmesh_conversation_store.blobs.interface import MAX_CHUNK, Blob, Blobs
from agentmesh_conversation_store.codec.events import worker_event
from agentmesh_conversation_store.domain.events import UserMessage, WorkerEvent
from agentmesh_conversation_store.domain.rejections import Reason, Rejection, not_found

MOST_INLINE = 256 * 1024
"""Bytes of one part that stay in the log."""
PREVIEW = 4 * 1024
"""Bytes of the beginning that stay in place of what is larger."""
LARGEST_IMAGE = 20 << 20
"""Bytes of an image that somebody sends: what models can be shown."""
TEXT = "text/plain;charset=utf-8"
JSON = "application/json"
_FRESH = timedelta(minutes=30)
_SPOKEN = frozenset({"text", "blob", "tool_result"})
"""Parts that a message's content is made of."""


@dataclass
class _Uses:
    """What a message refers to: (digest, size)."""

    tenant: str
    found: dict[str, int] = field(default_factory=dict)

    def add(self, blob: Blob) -> None:
        self.found[blob.digest] = blob.size

    @property
    def blobs(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.found.items())


class Payloads:
    """Puts large parts into blobs, and checks what callers refer to.

    Blobs come before the transaction that refers to them. If that is refused, nothing refers to
    them, and a later sweep takes them.
    """

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def worker_events(
        self, tenant: str, events: Iterable[event_pb2.Event]
    ) -> list[WorkerEvent]:
        """What a worker recorded, ready to be written. The given events stay as they are."""
        return [await self._worker_event(tenant, event) for event in events]

    async def user_message(
        self, tenant: str, message: UserMessage, parts: Sequence[message_pb2.Part]
    ) -> UserMessage:
        """A message of a user with its further parts, ready to be written."""
        if not parts and len(message.content) * 4 <= MOST_INLINE:
            return message
        uses = _Uses(tenant)
        kept = await self._parts(uses, parts)
        content, whole = await self._text(uses, message.content)
        if whole is not None:
            kept.insert(0, message_pb2.Part(blob=whole))
        return UserMessage(
            message.message_id,
            message.agent,
            content,
            message.author,
            tuple(kept),
            blobs=uses.blobs,
            abridged=whole is not None,
        )

    async def _worker_event(self, tenant: str, event: event_pb2.Event) -> WorkerEvent:
        if event.WhichOneof("kind") != "message" or not _concerns(event.message):
            return worker_event(event)
        uses = _Uses(tenant)
        kept = event_pb2.Event()
        kept.CopyFrom(event)
        message = kept.message
        parts = await self._parts(uses, message.parts)
        if _bytes(message.content) > MOST_INLINE:
            if any(part.WhichOneof("kind") in _SPOKEN for part in parts):
                message.content = preview(message.content)
            else:
                message.content, whole = await self._text(uses, message.content)
                parts.insert(0, message_pb2.Part(blob=whole))
        del message.parts[:]
        message.parts.extend(parts)
        # Search finds it by all of its words.
        return replace(worker_event(kept, uses.blobs), said=event.message.content)

    async def _parts(
        self, uses: _Uses, parts: Iterable[message_pb2.Part]
    ) -> list[message_pb2.Part]:
        return [await self._part(uses, number, part) for number, part in enumerate(parts)]

    async def _part(self, uses: _Uses, number: int, part: message_pb2.Part) -> message_pb2.Part:
        kept = message_pb2.Part()
        kept.CopyFrom(part)
        match part.WhichOneof("kind"):
            case "text":
                _, whole = await self._text(uses, part.text.text)
                return message_pb2.Part(blob=whole) if whole else kept
            case "data" if part.data.ByteSize() > MOST_INLINE:
                blob = await self._data(uses, part.data)
                return message_pb2.Part(blob=blob)
            case "tool_call":
                call = kept.tool_call
                call.arguments_json, whole = await self._text(uses, call.arguments_json, JSON)
                _set(call, "arguments_blob", whole)
            case "tool_result":
                result = kept.tool_result
                result.output, whole = await self._text(uses, result.output)
                result.truncated = result.truncated or whole is not None
                _set(result, "output_blob", whole)
            case "blob":
                await self._refer(uses, f"parts[{number}].blob", kept.blob)
        return kept

    async def _text(
        self, uses: _Uses, text: str, media_type: str = TEXT
    ) -> tuple[str, message_pb2.BlobPart | None]:
        """The text if it may stay; else its beginning, and the blob of the whole."""
        if len(text) * 4 <= MOST_INLINE or _bytes(text) <= MOST_INLINE:
            return text, None
        part = await self._put(uses, text.encode(), media_type)
        return preview(text), part

    async def _data(self, uses: _Uses, part: message_pb2.DataPart) -> message_pb2.BlobPart:
        data = MessageToDict(part.data)
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        return await self._put(uses, text.encode(), part.media_type or JSON)

    async def _put(self, uses: _Uses, data: bytes, media_type: str) -> message_pb2.BlobPart:
        blob = await self._blobs.put(uses.tenant, _chunks(data))
        uses.add(blob)
        return message_pb2.BlobPart(digest=blob.digest, size_bytes=blob.size, media_type=media_type)

    async def _refer(self, uses: _Uses, path: str, part: message_pb2.BlobPart) -> None:
        """A blob that the caller uploaded before: it must be there, and stay."""
        try:
            blob = await self._blobs.find(uses.tenant, part.digest)
        except Rejection as rejection:
            if rejection.reason is not Reason.NOT_FOUND:
                raise
            raise not_found("blob", part.digest, f"{path}.digest") from rejection
        if part.size_bytes not in {0, blob.size}:
            raise MeshError.invalid(f"{path}.size_bytes", f"the blob has {blob.size} bytes")
        if part.media_type.startswith("image/") and blob.size > LARGEST_IMAGE:
            raise MeshError.invalid(path, f"an image may have at most {LARGEST_IMAGE} bytes")
        part.size_bytes = blob.size
        if datetime.now(UTC) - blob.written_at > _FRESH:
            await self._blobs.renew(blob)
        uses.add(blob)


def preview(text: str) -> str:
    """The first 4 KiB of a text, and how much there is."""
    data = text.encode()
    start = data[:PREVIEW].decode("utf-8", "ignore")
    return f"{start}\n[… the first {len(start.encode())} of {len(data)} bytes]"


def _bytes(text: str) -> int:
    return len(text.encode())


def _concerns(message: message_pb2.Message) -> bool:
    """True if anything of the message may be large, or refers to a blob."""
    return message.ByteSize() > MOST_INLINE or any(
        part.HasField("blob")
        or part.tool_result.HasField("output_blob")
        or part.tool_call.HasField("arguments_blob")
        for part in message.parts
    )


def _set(message: Message, name: str, blob: message_pb2.BlobPart | None) -> None:
    """Only the store says where the whole of something is."""
    message.ClearField(name)
    if blob is not None:
        target: Any = getattr(message, name)
        target.CopyFrom(blob)


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), MAX_CHUNK):
        yield data[at : at + MAX_CHUNK]
