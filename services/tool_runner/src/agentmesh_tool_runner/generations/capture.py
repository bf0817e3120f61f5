"""Makes a manifest of an open workspace, and uploads what the store does not have yet."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

from agentmesh_tool_runner.sandbox import trees
from agentmesh_tool_runner.sandbox.mounted import Mounted
from agentmesh_tool_runner.sandbox.snapshot import Entry

from .manifest import NO_FILES, Manifest, Record, encode, finished
from .reading import PIECE
from .shelf import Shelf

LARGE: Final = 1024 * 1024
"""Files of so many bytes are blobs of their own, smaller ones lie beside their manifest."""
_BATCH_BYTES: Final = 4 * 1024 * 1024
_IN_MEMORY: Final = 8 * 1024 * 1024
_MOST_PACKS: Final = 32
_WASTE_ALLOWED: Final = 4 * 1024 * 1024


@dataclass
class Captured:
    """How a workspace looks. `manifest` is that of the files; that of before if nothing changed."""

    manifest: Manifest
    seen: dict[str, Entry]


@dataclass
class _Draft:
    """A manifest that is being made. Small contents gather in `pack`."""

    before: Manifest
    places: Mapping[str, Record]
    pack: IO[bytes]
    records: dict[str, Record] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    packed: int = 0
    fresh: dict[str, Record] = field(default_factory=dict)


async def capture(
    mounted: Mounted,
    shelf: Shelf,
    conversation: str,
    before: Manifest,
    seen: Mapping[str, Entry],
    max_bytes: int,
) -> Captured:
    """The files as they are now; what has not changed since `seen` is not even read.

    Raises WorkspaceFullError.
    """
    entries = await mounted.files.look(trees.look_at_all, max_bytes)
    now = {entry.path: entry for entry in entries}
    repack = _is_scattered(before)
    if not repack and is_kept(now, seen, before):
        return Captured(before, now)
    places = {
        r.sha256: r
        for r in before.records.values()
        if r.kind == "file" and not (repack and r.blob != r.sha256)
    }
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as pack:
        draft = _Draft(before, places, pack)
        draft.sizes.update(before.sizes)
        unread = _sort_out(draft, entries, seen, repack=repack)
        await _read(draft, mounted, shelf, unread)
        records = {e.path: draft.records[e.path] for e in entries if e.path in draft.records}
        if _same(records, before.records):
            return Captured(before, now)
        manifest = await store(shelf, conversation, records, draft.sizes, pack, draft.packed)
    return Captured(manifest, now)


def is_kept(now: Mapping[str, Entry], seen: Mapping[str, Entry], manifest: Manifest) -> bool:
    """True if files that look like this are those of the manifest, which looked as `seen`."""
    return now == seen and now.keys() == manifest.records.keys()


async def store(
    shelf: Shelf,
    conversation: str,
    records: Mapping[str, Record],
    sizes: Mapping[str, int],
    pack: IO[bytes] | None = None,
    packed: int = 0,
) -> Manifest:
    """Uploads a manifest with the contents that come with it."""
    if not records:
        return NO_FILES
    head = encode(conversation, records, sizes)

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(head), PIECE):
            yield head[at : at + PIECE]
        if pack is not None:
            pack.seek(0)
            while piece := pack.read(PIECE):
                yield piece

    digest = await shelf.write(chunks, len(head) + packed)
    return finished(digest, records, sizes, len(head))


def _is_scattered(manifest: Manifest) -> bool:
    """True if its small files lie in too many blobs, or among too much that is gone."""
    packs = {r.blob for r in manifest.records.values() if r.kind == "file" and r.blob != r.sha256}
    live = sum(r.size for r in manifest.records.values() if r.blob in packs)
    total = sum(manifest.sizes.get(blob, 0) for blob in packs)
    return len(packs) > _MOST_PACKS or total > 2 * live + _WASTE_ALLOWED


def _sort_out(
    draft: _Draft, entries: Sequence[Entry], seen: Mapping[str, Entry], *, repack: bool
) -> list[Entry]:
    """Records what need not be read, and returns what must be."""
    first_names: dict[int, str] = {}
    unread = []
    for entry in entries:
        mode = entry.mode & 0o777
        record = draft.before.records.get(entry.path)
        if entry.kind == "directory":
            draft.records[entry.path] = Record(entry.path, "directory", mode, entry.modified_ns)
        elif entry.kind == "link":
            draft.records[entry.path] = Record(
                entry.path, "link", 0o777, entry.modified_ns, target=entry.target
            )
        elif entry.inode in first_names:
            draft.records[entry.path] = Record(
                entry.path, "hard", mode, entry.modified_ns, target=first_names[entry.inode]
            )
        else:
            first_names[entry.inode] = entry.path
            unchanged = seen.get(entry.path) == entry
            if (
                record is not None
                and record.kind == "file"
                and unchanged
                and (not repack or record.blob == record.sha256)
            ):
                draft.records[entry.path] = record
            else:
                unread.append(entry)
    return unread


async def _read(draft: _Draft, mounted: Mounted, shelf: Shelf, unread: Sequence[Entry]) -> None:
    small = [entry for entry in unread if entry.size < LARGE]
    while small:
        paths = [entry.path for entry in small[: _BATCH_BYTES // 1024]]
        found = await mounted.files.call(trees.read_all, paths, _BATCH_BYTES)
        for entry, data in zip(small, found, strict=False):
            if data is not None:
                _put_small(draft, entry, data)
        small = small[len(found) :]
    for entry in unread:
        if entry.size >= LARGE:
            await _put_large(draft, mounted, shelf, entry)


def _put_small(draft: _Draft, entry: Entry, data: bytes) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    known = draft.places.get(sha256) or draft.fresh.get(sha256)
    if known is not None:
        blob, offset = known.blob, known.offset
    else:
        blob, offset = "", draft.packed
        draft.pack.write(data)
        draft.packed += len(data)
    _put(draft, entry, len(data), sha256, blob, offset)


def _put(draft: _Draft, entry: Entry, size: int, sha256: str, blob: str, offset: int) -> None:
    record = Record(
        entry.path, "file", entry.mode & 0o777, entry.modified_ns, size, sha256, blob, offset
    )
    draft.records[entry.path] = draft.fresh[sha256] = record


async def _put_large(draft: _Draft, mounted: Mounted, shelf: Shelf, entry: Entry) -> None:
    """Copies it first: the program may go on writing to it, and the copy has one hash."""
    hasher = hashlib.sha256()
    size = 0
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as copy:
        while piece := await mounted.files.call(trees.read_piece, entry.path, size, PIECE):
            hasher.update(piece)
            copy.write(piece)
            size += len(piece)
            if size >= entry.size:
                break
        sha256 = hasher.hexdigest()
        known = draft.places.get(sha256) or draft.fresh.get(sha256)
        if known is not None:
            _put(draft, entry, size, sha256, known.blob, known.offset)
            return

        async def chunks() -> AsyncIterator[bytes]:
            copy.seek(0)
            while piece := copy.read(PIECE):
                yield piece

        blob = await shelf.write(chunks, size)
    draft.sizes[blob] = size
    _put(draft, entry, size, sha256, blob, 0)


def _same(records: Mapping[str, Record], before: Mapping[str, Record]) -> bool:
    return records.keys() == before.keys() and all(
        record.same_as(before[path]) for path, record in records.items()
    )
