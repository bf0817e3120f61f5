"""A conversation from lines of JSON; see exporting.py for the lines."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from agentmesh.catalog.v1 import team_pb2
from agentmesh.conversation.v1 import conversation_pb2, event_pb2
from meshkit.errors import MeshError
from meshkit.ids import new_id

from agentmesh_conversation_store.blobs.interface import Blobs
from agentmesh_conversation_store.codec.arrivals import arrived_run, arrived_view
from agentmesh_conversation_store.codec.lines import VERSION, Fields
from agentmesh_conversation_store.codec.renaming import Renaming
from agentmesh_conversation_store.domain.events import StoredEvent
from agentmesh_conversation_store.domain.model import (
    BlobReference,
    Checkpoint,
    Conversation,
    ConversationView,
    Instant,
    Run,
)
from agentmesh_conversation_store.domain.rejections import Reason, Rejection
from agentmesh_conversation_store.domain.search import Words, words_of
from agentmesh_conversation_store.storage.interface import Storage
from agentmesh_conversation_store.storage.transfer import Arrivals

from .exporting import blobs_of
from .import_body import ImportBody
from .import_header import check_header
from .intake import MOST_CHECKPOINT_BYTES, TransferLimits

_EVENTS_AT_ONCE = 200
_BYTES_AT_ONCE = 1024 * 1024
_EMPTY_LINES_AT_ONCE = 1000


async def imported(
    storage: Storage,
    blobs: Blobs,
    limits: TransferLimits,
    tenant: str,
    body: ImportBody,
    assign: Callable[[Conversation], Conversation],
) -> ConversationView | bytes:
    """Makes the conversation that a body holds; the answer of the first time if it was sent under
    the same request id before. INVALID_ARGUMENT names line and field of what cannot be read;
    nothing is left behind then.

    Lines are read in threads, one at a time: what is in one may take seconds.
    """
    lines = _lines(body.chunks(), limits.line)
    header = await _next(lines)
    if header.text("agentmesh") != "conversation":
        raise header.wrong("agentmesh", 'must be "conversation": this is no export')
    if header.number("version") != VERSION:
        raise header.wrong("version", f"this store reads version {VERSION} of the format")
    arrival = await asyncio.to_thread(_Arrival, storage, blobs, limits, tenant, header)
    await arrival.begin()
    try:
        view, definition, unread = await arrival.read(lines)
        view = replace(view, conversation=assign(view.conversation))
        return await storage.finish_import(view, definition, unread, body.request(tenant))
    except BaseException:
        # Whatever it was, an hour later it is given up all the same.
        with contextlib.suppress(Rejection):
            await storage.give_up_import(tenant, arrival.conversation_id)
        raise


@dataclass(frozen=True, slots=True)
class _ReadEvent:
    stored: StoredEvent
    words: Words
    blobs: dict[str, int]


class _Arrival:
    """One import."""

    def __init__(
        self, storage: Storage, blobs: Blobs, limits: TransferLimits, tenant: str, header: Fields
    ) -> None:
        self._storage = storage
        self._blobs = blobs
        self._limits = limits
        self._tenant = tenant
        self._header = header
        self._told, _ = header.message("conversation", conversation_pb2.Conversation)
        definition, data = header.message("definition", team_pb2.TeamDefinition)
        check_header(header, self._told, definition)
        self._definition = data or definition.SerializeToString(deterministic=True)
        state = header.inner("state")
        self._unread = state.numbers("unread")
        self._inbox = state.number("inbox_head"), state.number("inbox_read")
        self._human_input = state.flag("human_input")
        self.conversation_id = self._told.conversation_id
        self._run_id = self._told.run.run_id
        for name, value in (("conversation_id", self.conversation_id), ("run", self._run_id)):
            if not 0 < len(value) <= 128:
                raise header.inner("conversation").wrong(name, "must have an id")
        self._renaming: Renaming | None = None
        self._sequence = max(self._told.oldest_sequence, 1) - 1
        self._checkpoints: dict[str, str] = {}
        self._known_blobs: set[str] = set()
        self._part = Arrivals()
        self._part_bytes = self._size = self._messages = 0

    async def begin(self) -> None:
        """Takes ids: those of the export if they are free, else new ones."""
        if not await self._take():
            self._renaming = Renaming(new_id("conv"))
            self.conversation_id = self._renaming.conversation_id
            self._run_id = self._renaming(self._run_id)
            if not await self._take():
                raise Rejection(Reason.ALREADY_EXISTS, f"{self.conversation_id} is in use")

    async def _take(self) -> bool:
        return await self._storage.begin_import(self._tenant, self.conversation_id, self._run_id)

    async def read(
        self, lines: AsyncIterator[Fields]
    ) -> tuple[ConversationView, bytes, Sequence[int]]:
        """Reads the lines after the header up to the last one, and writes all but what makes it
        known: the conversation, its definition, and the inputs that are not read."""
        checkpoint_id = ""
        while True:
            line = await _next(lines)
            match line.names[:1]:
                case ["event"]:
                    await self._event(line)
                case ["blob"]:
                    await self._blob(line.inner("blob"), lines)
                case ["checkpoint"]:
                    checkpoint_id = await self._checkpoint(line.inner("checkpoint"), lines)
                case ["end"]:
                    await asyncio.to_thread(self._require_end, line.inner("end"))
                    break
                case _:
                    raise MeshError.invalid(line.path, "is no event, blob, checkpoint or end")
        if (more := await anext(lines, None)) is not None:
            raise MeshError.invalid(more.path, "comes after the end")
        await self._flush()
        view = self._view(checkpoint_id, await self._storage.now())
        return view, self._definition, self._unread

    def _require_end(self, end: Fields) -> None:
        head = end.number("head_sequence")
        if self._sequence != head or head != self._told.head_sequence:
            raise end.wrong(
                "head_sequence",
                f"the header announced {self._told.head_sequence}, the last event"
                f" was {self._sequence}",
            )
        inner = self._header.inner("state")
        oldest = max(self._told.oldest_sequence, 1)
        if len(self._unread) > head:
            raise inner.wrong("unread", "has more items than there are events")
        for index, sequence in enumerate(self._unread):
            if not oldest <= sequence <= head:
                raise inner.wrong(f"unread[{index}]", "is the sequence of no event")
        if max(self._inbox) > head:
            raise inner.wrong("inbox_head", "is beyond the last event")

    async def _event(self, line: Fields) -> None:
        read = await asyncio.to_thread(self._read_event, line)
        event = read.stored
        self._sequence = event.sequence
        self._part.events.append(event)
        if read.words:
            self._part.words.append((event.sequence, read.words))
        for digest, size in read.blobs.items():
            await self._require_blob(line, digest)
            reference = BlobReference(self.conversation_id, event.sequence, digest, size)
            self._part.references.append(reference)
        self._size += len(event.data)
        self._messages += event.kind == "message"
        self._part_bytes += len(event.data)
        if len(self._part.events) >= _EVENTS_AT_ONCE or self._part_bytes >= _BYTES_AT_ONCE:
            await self._flush()

    def _read_event(self, line: Fields) -> _ReadEvent:
        event, data = line.message("event", event_pb2.Event)
        expected = self._sequence + 1
        if event.sequence != expected:
            raise line.inner("event").wrong("sequence", f"must be {expected}, the next one")
        if event.conversation_id != self._told.conversation_id:
            raise line.inner("event").wrong("conversation_id", "is not that of the header")
        if self._renaming is not None:
            self._renaming.rename(event)
        if self._renaming is not None or data is None:
            data = event.SerializeToString()
        if len(data) > self._limits.event:
            raise line.wrong(
                "event", f"has {len(data)} bytes, must have at most {self._limits.event}"
            )
        kind = event.WhichOneof("kind") or ""
        is_message = kind == "message"
        agent = event.agent or (event.message.agent if is_message else "")
        message_id = event.message.message_id if is_message else ""
        return _ReadEvent(
            StoredEvent(expected, kind, event.run_id, agent, message_id, event.turn, data),
            words_of(event.message.content or event.conversation_started.task),
            blobs_of(event),
        )

    async def _require_blob(self, line: Fields, digest: str) -> None:
        if digest in self._known_blobs:
            return
        try:
            await self._blobs.find(self._tenant, digest)
        except Rejection as rejection:
            if rejection.reason is not Reason.NOT_FOUND:
                raise
            raise line.wrong("event", f"refers to blob {digest}, which did not come") from None
        self._known_blobs.add(digest)

    async def _blob(self, blob: Fields, lines: AsyncIterator[Fields]) -> None:
        digest, size = blob.text("digest"), blob.number("size_bytes")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise blob.wrong("digest", "must be a SHA-256 in hexadecimal")
        if size > self._limits.blob:
            raise blob.wrong("size_bytes", f"must be at most {self._limits.blob}")
        if not blob.flag("missing"):
            kept = await self._blobs.put(self._tenant, _data(blob, size, lines))
            if kept.digest != digest:
                raise blob.wrong("digest", f"is not that of the bytes, which is {kept.digest}")
        self._known_blobs.add(digest)

    async def _checkpoint(self, told: Fields, lines: AsyncIterator[Fields]) -> str:
        """Checkpoints always get new ids: a fork's are those of the conversation it came from."""
        size = told.number("size_bytes")
        if size > MOST_CHECKPOINT_BYTES:
            raise told.wrong("size_bytes", f"must be at most {MOST_CHECKPOINT_BYTES}")
        base = told.text("base_checkpoint_id")
        if base and base not in self._checkpoints:
            raise told.wrong("base_checkpoint_id", "did not come before")
        data = b"".join([part async for part in _data(told, size, lines)])
        checkpoint_id = new_id("ckpt")
        self._checkpoints[told.text("checkpoint_id")] = checkpoint_id
        self._part.checkpoints.append(
            Checkpoint(
                checkpoint_id,
                self._run_id,
                told.number("turn"),
                data,
                told.text("encoding"),
                told.text("key_id"),
                self._checkpoints.get(base, ""),
                self.conversation_id,
                # Such a one is kept as long as the log is.
                max(1, min(told.number("sequence"), self._told.head_sequence)),
            )
        )
        await self._flush()
        return checkpoint_id

    async def _flush(self) -> None:
        part, self._part, self._part_bytes = self._part, Arrivals(), 0
        await self._storage.add_arrivals(self._tenant, self.conversation_id, part)

    def _view(self, checkpoint_id: str, now: Instant) -> ConversationView:
        run = Run(
            self._tenant,
            self._run_id,
            self.conversation_id,
            self._run_id,
            hashlib.sha256(self._definition).hexdigest(),
            started_at=now,
            max_rounds=1,
            checkpoint_id=checkpoint_id,
        )
        run = arrived_run(self._told, run, self._inbox, human_input=self._human_input)
        return arrived_view(
            self._told, run, now=now, size_bytes=self._size, message_count=self._messages
        )


async def _next(lines: AsyncIterator[Fields]) -> Fields:
    line = await anext(lines, None)
    if line is None:
        raise MeshError.malformed("the export is not complete: it has no last line")
    return line


async def _data(told: Fields, size: int, lines: AsyncIterator[Fields]) -> AsyncIterator[bytes]:
    """The bytes in the lines that follow, as many as were announced."""
    came = 0
    while came < size:
        line = await _next(lines)
        data = line.data("data")
        if not data:
            raise MeshError.invalid(line.path, f"{size - came} more bytes were announced")
        came += len(data)
        if came > size:
            raise told.wrong("size_bytes", f"more than the announced {size} bytes came")
        yield data


async def _lines(chunks: AsyncIterator[bytes], most_bytes: int) -> AsyncIterator[Fields]:
    """Empty ones say nothing."""
    text = bytearray()
    number = 1
    async for chunk in chunks:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            text += chunk[start:end]
            start = end + 1
            _require_short(text, number, most_bytes)
            if text.strip():
                yield await asyncio.to_thread(Fields.of_line, number, bytes(text))
            elif number % _EMPTY_LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
            text.clear()
            number += 1
        text += chunk[start:]
        _require_short(text, number, most_bytes)
    if text.strip():
        yield await asyncio.to_thread(Fields.of_line, number, bytes(text))


def _require_short(text: bytearray, number: int, most_bytes: int) -> None:
    if len(text) > most_bytes:
        raise MeshError.invalid(f"lines[{number}]", f"must have at most {most_bytes} bytes")
