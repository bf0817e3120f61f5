"""A conversation as lines of JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

from agentmesh.catalog.v1 import team_pb2
from agentmesh.conversation.v1 import event_pb2, message_pb2

from agentmesh_conversation_store.blobs.interface import Blobs
from agentmesh_conversation_store.codec.lines import (
    BYTES_A_LINE,
    VERSION,
    data_line,
    fields_of,
    line,
    message_line,
)
from agentmesh_conversation_store.codec.resources import conversation_message
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.transfer import Departing

from .intake import TransferLimits

_CHUNK = 128 * 1024
_EVENTS_AT_ONCE = 200
_EVENT_BYTES_AT_ONCE = 1024 * 1024


async def exported(
    storage: Storage, blobs: Blobs, limits: TransferLimits, tenant: str, conversation_id: str
) -> AsyncIterator[bytes]:
    """Whole lines, in chunks. Holds a page of events, one checkpoint or a part of a blob."""
    chunk = bytearray()
    async for one in _lines(storage, blobs, limits, tenant, conversation_id):
        chunk += one
        if len(chunk) >= _CHUNK:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


async def _lines(
    storage: Storage, blobs: Blobs, limits: TransferLimits, tenant: str, conversation_id: str
) -> AsyncIterator[bytes]:
    departing = await storage.departing(tenant, conversation_id)
    yield await asyncio.to_thread(_header, departing)
    for link in departing.chain:
        for checkpoint in await storage.checkpoints(tenant, [link.checkpoint_id]):
            yield line(
                checkpoint={
                    "checkpoint_id": checkpoint.checkpoint_id,
                    "base_checkpoint_id": checkpoint.base_id,
                    "turn": checkpoint.turn,
                    "sequence": checkpoint.sequence,
                    "encoding": checkpoint.encoding,
                    "key_id": checkpoint.key_id,
                    "size_bytes": len(checkpoint.data),
                }
            )
            for part in _parts(checkpoint.data):
                yield data_line(part)
    head = departing.view.conversation.head_sequence
    position = departing.view.conversation.oldest_sequence - 1
    written: set[str] = set()
    while position < head:
        limit = min(_EVENTS_AT_ONCE, head - position)
        events = await storage.events(
            tenant, conversation_id, position, limit, _EVENT_BYTES_AT_ONCE
        )
        if not events or events[0].sequence != position + 1:
            raise Rejection(
                Reason.HISTORY_REMOVED,
                f"events of {conversation_id} were removed while it was exported",
            )
        # JSON of a page takes longer than leases of others should wait for their renewal.
        for digests, event_line in await asyncio.to_thread(_event_lines, events, limits.line):
            for digest in digests:
                if digest not in written:
                    written.add(digest)
                    async for one in _blob_lines(blobs, tenant, digest):
                        yield one
            yield event_line
        position = events[-1].sequence
    yield line(end={"head_sequence": head})


def _event_lines(events: Sequence[StoredEvent], most_bytes: int) -> list[tuple[list[str], bytes]]:
    """The line of each, with the blobs that come before it."""
    lines = []
    for stored in events:
        event = event_pb2.Event.FromString(stored.data)
        data = _bytes_of(event, stored)
        lines.append((list(blobs_of(event)), message_line("event", event, data, most_bytes)))
    return lines


def _header(departing: Departing) -> bytes:
    view = departing.view
    conversation = conversation_message(view)
    for field in ("tenant", "owner", "visibility"):
        conversation.ClearField(field)
    definition = team_pb2.TeamDefinition.FromString(departing.definition)
    return line(
        agentmesh="conversation",
        version=VERSION,
        **fields_of("conversation", conversation, conversation.SerializeToString()),
        **fields_of("definition", definition, definition.SerializeToString()),
        state={
            "human_input": view.run.human_input,
            "inbox_head": view.run.inbox_head,
            "inbox_read": view.run.inbox_read,
            "unread": list(departing.unread),
        },
    )


def _bytes_of(event: event_pb2.Event, stored: StoredEvent) -> bytes:
    """Those of an event of a shared log have its conversation twice; see belonging_to."""
    suffix = event_pb2.Event(conversation_id=event.conversation_id).SerializeToString()
    return event.SerializeToString() if stored.data.endswith(suffix) else stored.data


def blobs_of(event: event_pb2.Event) -> dict[str, int]:
    """The blobs that an event refers to, with their sizes."""
    return {
        blob.digest: blob.size_bytes
        for part in event.message.parts
        for blob in _blobs_of_part(part)
    }


def _blobs_of_part(part: message_pb2.Part) -> Iterator[message_pb2.BlobPart]:
    if part.HasField("blob"):
        yield part.blob
    if part.tool_result.HasField("output_blob"):
        yield part.tool_result.output_blob
    if part.tool_call.HasField("arguments_blob"):
        yield part.tool_call.arguments_blob


async def _blob_lines(blobs: Blobs, tenant: str, digest: str) -> AsyncIterator[bytes]:
    try:
        blob = await blobs.find(tenant, digest)
    except Rejection as rejection:
        if rejection.reason is not Reason.NOT_FOUND:
            raise
        yield line(blob={"digest": digest, "missing": True})
        return
    yield line(blob={"digest": digest, "size_bytes": blob.size})
    async for chunk in blobs.read(blob):
        for part in _parts(chunk):
            yield data_line(part)


def _parts(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), BYTES_A_LINE):
        yield data[at : at + BYTES_A_LINE]
