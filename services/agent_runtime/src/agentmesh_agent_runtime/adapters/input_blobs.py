"""What was said to a run and is too large for the log, read from the store's blobs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc
from agentmesh.conversation.v1 import message_pb2
from agentmesh.conversation_store.v1 import blob_service_pb2 as blobs_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2

from agentmesh_agent_runtime.adapters.calls import capability_metadata, insist
from agentmesh_agent_runtime.adapters.structs import plain
from agentmesh_agent_runtime.turns.images import MEDIA_TYPES, StoredImage

if TYPE_CHECKING:
    # The generated stubs for asyncio exist for type checkers only.
    from agentmesh.conversation_store.v1.blob_service_pb2_grpc import BlobServiceAsyncStub

MOST_TEXT = 1024 * 1024
"""Bytes that agents are told of one text: as much as a caller may write into a message."""
_TEXT_TYPES = ("application/json", "application/xml", "application/yaml", "application/x-ndjson")
_TEXT_SUFFIXES = ("+json", "+xml", "+yaml")


class InputBlobs:
    """Makes the inputs of a turn complete: agents read words, are shown images, and hear of other
    files by name."""

    def __init__(self, stub: BlobServiceAsyncStub) -> None:
        self._stub = stub

    async def complete(self, grant: turns_pb2.TurnGrant) -> None:
        """Puts what blobs and data of the inputs say into their content, and in the place of these
        parts, images excepted. Raises what `insist` does."""
        for event in grant.inputs:
            message = event.message
            if all(part.HasField("text") for part in message.parts):
                continue
            pieces = [await self._piece(part, grant.capability) for part in message.parts]
            message.content = "\n".join(piece for piece in pieces if piece)
            for part, piece in zip(message.parts, pieces, strict=True):
                if stored_image(part) is None:
                    part.text.text = piece

    async def _piece(self, part: message_pb2.Part, capability: str) -> str:
        if part.HasField("text"):
            return part.text.text
        if part.HasField("data"):
            return json.dumps(plain(part.data.data), ensure_ascii=False)
        if not part.HasField("blob"):
            return ""
        if image := stored_image(part):
            return image.placeholder
        blob = part.blob
        if not _is_text(blob.media_type):
            kind = blob.media_type or "of an unknown type"
            return f"[{blob.filename or 'a file'}: {kind}, {blob.size_bytes} bytes]"
        text = await insist(lambda: self._read(blob, capability))
        return f"{blob.filename}:\n{text}" if blob.filename else text

    async def _read(self, blob: message_pb2.BlobPart, capability: str) -> str:
        """As much as fits. What retention removed is not there, which agents are told."""
        request = blobs_pb2.ReadBlobRequest(digest=blob.digest)
        call = self._stub.ReadBlob(request, metadata=capability_metadata(capability))
        data = bytearray()
        try:
            async for response in call:
                data += response.chunk
                if len(data) > MOST_TEXT:
                    call.cancel()
                    break
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return "[removed]"
            raise
        if len(data) <= MOST_TEXT:
            return data.decode("utf-8", "replace")
        start = data[:MOST_TEXT].decode("utf-8", "ignore")
        return f"{start}\n[… the first {len(start.encode())} of {blob.size_bytes} bytes]"


def stored_image(part: message_pb2.Part) -> StoredImage | None:
    """The image that a part refers to, if models can be shown it."""
    blob = part.blob
    media_type = blob.media_type.partition(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        return None
    return StoredImage(blob.digest, media_type, blob.size_bytes, blob.filename[:255])


def _is_text(media_type: str) -> bool:
    name = media_type.partition(";")[0].strip().lower()
    return name.startswith("text/") or name in _TEXT_TYPES or name.endswith(_TEXT_SUFFIXES)
